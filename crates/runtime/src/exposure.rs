//! Whether a port may be bound where others reach it.
//!
//! Goes in: where a port is to listen, and what the operator has said about who reaches it. Comes out: nothing, or an explanation.
//! Only loopback is free: on any other address, strangers can connect, and read in clear what is sent. The operator has to
//! say that this is meant.

use std::net::SocketAddr;

/// What makes a port safe to bind, or is said to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cover {
    /// The port speaks TLS.
    pub has_tls: bool,
    /// Proxies in front of it are named (`--behind-proxy`).
    pub behind_proxy: bool,
    /// The operator says that it is meant (`--open`).
    pub open: bool,
}

/// Looks at one port. `option` is the one that says where it listens, without its dashes; `ways` are those of the command to
/// make it safe, besides loopback and `--open`.
///
/// # Errors
/// An explanation for the operator, that says what to do.
pub fn check(option: &str, listen: SocketAddr, cover: Cover, ways: &str) -> Result<(), String> {
    if listen.ip().to_canonical().is_loopback() || cover.has_tls || cover.behind_proxy || cover.open {
        return Ok(());
    }
    let where_to =
        if listen.ip().is_unspecified() { "on all addresses of this machine" } else { "beyond this machine" };
    Err(format!(
        "--{option} {listen} listens {where_to}, without TLS: anybody who reaches it can connect, and what is sent can be read on \
         the way. Listen on 127.0.0.1{ways}; or, if only those reach it who may (a private network, a pod, a firewall), say so \
         with --open"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_free() {
        let (none, tls) = (Cover::default(), Cover { has_tls: true, ..Cover::default() });
        let (proxy, open) = (Cover { behind_proxy: true, ..none }, Cover { open: true, ..none });
        for (listen, free) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("[::ffff:0.0.0.0]:1", false),
            ("10.0.0.1:1", false),
            ("192.0.2.1:1", false),
            ("[fe80::1]:1", false),
        ] {
            let listen = listen.parse().unwrap();
            let refused = check("listen", listen, none, "");
            assert_eq!(refused.is_ok(), free, "{listen}");
            for cover in [tls, proxy, open] {
                assert_eq!(check("listen", listen, cover, ""), Ok(()), "{listen} {cover:?}");
            }
        }
    }

    #[test]
    fn the_explanation_says_what_to_do() {
        let text = check("admin-listen", "0.0.0.0:8845".parse().unwrap(), Cover::default(), ", or use x").unwrap_err();
        for part in ["--admin-listen 0.0.0.0:8845", "all addresses", "127.0.0.1, or use x;", "--open"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
