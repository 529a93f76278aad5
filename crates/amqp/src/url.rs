//! The broker's address, and the names of exchanges, as people write them.
//!
//! Goes in: a text. Comes out: a checked address whose `Display` never shows the password, or an error that says what
//! may be written.

use std::fmt;
use std::sync::Arc;

use bugfeed_protocol::redact::unescaped;
use lapin::uri::{AMQPScheme, AMQPUri};

use crate::tls::{self, Tls};

/// Seconds between heartbeats unless the URL says otherwise. A dead broker is noticed after two missed heartbeats.
const HEARTBEAT_S: u16 = 10;

/// A broker's address. It is shown without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl(pub(crate) Arc<Broker>);

/// What a broker's address says.
#[derive(PartialEq, Eq)]
pub(crate) struct Broker {
    pub(crate) uri: AMQPUri,
    /// Whom to trust; `None` for a connection without TLS.
    pub(crate) tls: Option<Tls>,
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AMQPUri { scheme, authority, vhost, .. } = &self.0.uri;
        let vhost = if vhost == "/" { "%2f" } else { vhost };
        let host = &authority.host;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        write!(f, "{scheme}://{}@{host}:{}/{vhost}", authority.userinfo.username, authority.port)
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokerUrl({self})")
    }
}

/// Reads `amqp://user:password@host:port/vhost` (`amqps://` for TLS). If the virtual host is absent or empty, the
/// default one, `/`, is used. The parameters behind `?` are those of RabbitMQ's own URLs; files that they name are read once
/// now, to see whether they can be used.
///
/// # Errors
/// Says what a URL looks like, or which parameter is wrong; never repeats the text, which may hold a password.
pub fn parse_url(text: &str) -> Result<BrokerUrl, String> {
    if let Some(hint) = unescaped(text) {
        return Err(format!("not a broker's address: {hint}"));
    }
    let bad = "not a broker's address; write amqp://user:password@host:5672/%2f, or amqps:// for TLS";
    if !text.contains("://") {
        // The parser would take the text after `amqp:/` for a virtual host, which is not kept secret.
        return Err(bad.to_owned());
    }
    let parameters = tls::Parameters::of(text)?;
    let mut uri: AMQPUri = text.trim().parse().map_err(|_| bad.to_owned())?;
    let bracketed = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    if let Some((address, _)) = bracketed {
        // The parser does not see an IPv6 address as a host, and would connect to localhost.
        address.parse::<std::net::Ipv6Addr>().map_err(|_| "the address in [brackets] is no IPv6 address".to_owned())?;
        address.clone_into(&mut uri.authority.host);
    }
    if uri.vhost.is_empty() {
        "/".clone_into(&mut uri.vhost);
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
    let tls = parameters.tls(uri.scheme == AMQPScheme::AMQPS)?;
    Ok(BrokerUrl(Arc::new(Broker { uri, tls })))
}

/// Reads the name of an exchange that bugfeed may make.
///
/// # Errors
/// Says what is allowed.
pub fn exchange_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 200 || text.starts_with("amq.") || text.chars().any(char::is_control) {
        return Err("an exchange name has 1 to 200 bytes and does not begin with amq.".to_owned());
    }
    if text.contains("://") {
        return Err("this is an address, not the name of an exchange".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (text, want) in [
            ("amqp://127.0.0.1", "amqp://guest@127.0.0.1:5672/%2f"),
            ("amqp://127.0.0.1/", "amqp://guest@127.0.0.1:5672/%2f"),
            ("amqp://127.0.0.1:1234/%2f", "amqp://guest@127.0.0.1:1234/%2f"),
            ("amqp://[::1]:1234", "amqp://guest@[::1]:1234/%2f"),
            (" amqps://me:secret@rabbit/bugs ", "amqps://me@rabbit:5671/bugs"),
        ] {
            assert_eq!(parse_url(text).unwrap().to_string(), want);
        }
        for text in [
            "",
            "rabbit",
            "amqp:/me:secret@rabbit/",
            "me:secret@rabbit",
            "http://me:secret@rabbit/",
            "amqp://me:secret@rabbit:port/",
        ] {
            let error = parse_url(text).unwrap_err();
            assert!(error.contains("amqp://user:password@") && !error.contains("secret"), "{error}");
        }
        let error = parse_url("amqp://me:sec#ret@rabbit/").unwrap_err();
        assert!(error.contains("write %23 for '#'") && !error.contains("ret"), "{error}");
        let error = parse_url("amqp://me:12/ret@rabbit/").unwrap_err();
        assert!(error.contains("write %2F for '/'"), "{error}");
    }
}
