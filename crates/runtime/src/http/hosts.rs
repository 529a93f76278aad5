//! Which names a listener is asked by (`--host`).
//!
//! Goes in: the names that the operator allows, and the host of a request. Comes out: whether it is served. Why: a page of
//! a hostile site can have its own name resolve to the address of this machine, and its browser then takes the answers for
//! that site's (DNS rebinding). Such a request still says the hostile name in `Host`.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

/// One value of `--host`: a name or an address, without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName(String);

impl std::fmt::Display for HostName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostName {
    type Err = String;

    fn from_str(text: &str) -> Result<HostName, String> {
        let text = text.trim();
        if text == "*" {
            return Err("leave the option out to serve every name".to_owned());
        }
        if text.contains('*') {
            return Err("'*' stands for no part of a name; name each host, and repeat the option".to_owned());
        }
        let bracketed = match text.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => text.to_owned(),
        };
        match split(&bracketed) {
            Some((host, None)) if !host.is_empty() => Ok(HostName(normal(host))),
            _ => Err("write a name or an address without a port, such as feeds.example.org or 192.0.2.7".to_owned()),
        }
    }
}

/// The hosts that a listener serves.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    /// `None` serves every host.
    names: Option<Arc<[HostName]>>,
    /// Whether addresses and `localhost` are served in any case.
    addresses: bool,
}

impl Hosts {
    /// Only these; all hosts if there are none.
    pub fn new(names: &[HostName]) -> Hosts {
        Hosts { names: (!names.is_empty()).then(|| names.into()), addresses: false }
    }

    /// The same, but addresses, `localhost`, and requests that name no host are served too: for the admin port, which
    /// probes ask by its address. Rebinding needs a name.
    #[must_use]
    pub fn with_addresses(self) -> Hosts {
        Hosts { addresses: true, ..self }
    }

    /// Whether a request is served that names this host (without the port), or none.
    pub(super) fn serve(&self, host: Option<&str>) -> bool {
        let Some(names) = &self.names else { return true };
        let Some(host) = host.map(normal) else { return self.addresses };
        names.iter().any(|name| name.0 == host) || (self.addresses && (host == "localhost" || is_address(&host)))
    }
}

fn is_address(host: &str) -> bool {
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

/// One spelling for all spellings of a host.
fn normal(host: &str) -> String {
    let inside = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(address) = inside.and_then(|text| text.parse::<Ipv6Addr>().ok()) {
        return format!("[{address}]");
    }
    // A name with the dot of the root at its end is the same name.
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// Splits what the header `Host` may hold (RFC 9110 §7.2, RFC 3986 §3.2.2) into host and port. `None` if it is no such
/// thing. The host may be empty.
pub(super) fn split(text: &str) -> Option<(&str, Option<&str>)> {
    let (host, port) = if text.starts_with('[') {
        let (address, port) = text.split_at(text.find(']')? + 1);
        address[1..address.len() - 1].parse::<Ipv6Addr>().ok()?;
        let port = if port.is_empty() { None } else { Some(port.strip_prefix(':')?) };
        (address, port)
    } else {
        let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
        is_name(host.as_bytes()).then_some((host, port))?
    };
    // The grammar lets the digits be missing.
    let is_port =
        |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && (port.is_empty() || port.parse::<u16>().is_ok());
    port.is_none_or(is_port).then_some((host, port))
}

/// Whether these bytes may stand for a host (`reg-name`): unreserved characters, sub-delims, and percent-encoded ones.
fn is_name(mut bytes: &[u8]) -> bool {
    loop {
        bytes = match bytes {
            [] => return true,
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest,
            [byte, rest @ ..] if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(byte) => rest,
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(names: &[&str]) -> Hosts {
        Hosts::new(&names.iter().map(|name| name.parse().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn what_a_host_header_may_hold() {
        for (text, want) in [
            ("feeds.example.org", Some(("feeds.example.org", None))),
            ("feeds.example.org:8844", Some(("feeds.example.org", Some("8844")))),
            ("127.0.0.1:1", Some(("127.0.0.1", Some("1")))),
            ("[::1]", Some(("[::1]", None))),
            ("[::1]:8844", Some(("[::1]", Some("8844")))),
            ("my_host", Some(("my_host", None))),
            ("x%20y", Some(("x%20y", None))),
            ("x:", Some(("x", Some("")))),
            ("", Some(("", None))),
            ("a b", None),
            ("a@b", None),
            ("a/b", None),
            ("a:b", None),
            ("a:1:2", None),
            ("a:99999", None),
            ("::1", None),
            ("[::1", None),
            ("[x]", None),
            ("[::1]x", None),
            ("x%2", None),
            ("ä", None),
            ("a\"b", None),
        ] {
            assert_eq!(split(text), want, "{text:?}");
        }
    }

    #[test]
    fn who_is_served() {
        let open = Hosts::new(&[]);
        let named = hosts(&["Feeds.Example.org.", "192.0.2.7", "::1"]);
        let admin = named.clone().with_addresses();
        for (host, by_name, by_admin) in [
            (Some("feeds.example.org"), true, true),
            (Some("FEEDS.example.ORG."), true, true),
            (Some("192.0.2.7"), true, true),
            (Some("[0:0::1]"), true, true),
            (Some("192.0.2.8"), false, true),
            (Some("[::2]"), false, true),
            (Some("localhost"), false, true),
            (Some("evil.example"), false, false),
            (Some("feeds.example.org.evil.example"), false, false),
            (Some("192.0.2.7.evil.example"), false, false),
            (Some(""), false, false),
            (None, false, true),
        ] {
            assert!(open.serve(host), "{host:?}");
            assert_eq!((named.serve(host), admin.serve(host)), (by_name, by_admin), "{host:?}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for (text, says) in [
            ("*", "leave the option out"),
            ("*.example.org", "name each host"),
            ("", "without a port"),
            ("x:8844", "without a port"),
            ("[::1]:8844", "without a port"),
            ("http://x", "without a port"),
            ("x/y", "without a port"),
            ("a b", "without a port"),
        ] {
            assert!(text.parse::<HostName>().is_err_and(|error| error.contains(says)), "{text}");
        }
    }
}
