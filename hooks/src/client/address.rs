//! The address of a request: an `http` or `https` URL, in the parts that a client needs.
//!
//! Goes in: a text. Comes out: scheme, host, port, and path with query; or why it is no such URL. A name and password in
//! it are refused. Never looks a host up.

use std::fmt;

use hyper::Uri;
use hyper::header::HeaderValue;

/// What connections are made to: scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// `https`, not `http`.
    pub is_https: bool,
    /// A name, or an IP address without brackets; in lower case.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Origin {
    /// What stands in the header `Host`.
    pub(super) fn host_header(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let usual = if self.is_https { 443 } else { 80 };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.is_https { "https" } else { "http" }, self.host_header())
    }
}

/// Where a request goes. `Debug` shows the origin only, because paths and queries may hold secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    origin: Origin,
    /// Path and query, as HTTP/1.1 sends them.
    target: Uri,
    /// The whole, as HTTP/2 sends it.
    whole: Uri,
    /// The header `Host`.
    host: HeaderValue,
}

/// A text that is no address of a web server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadAddress(&'static str);

impl Address {
    /// Reads a URL. A fragment is left out.
    ///
    /// # Errors
    /// If it is none of `http` and `https`, has no host, or holds a name or password.
    pub fn parse(text: &str) -> Result<Address, BadAddress> {
        let uri: Uri = text.split('#').next().unwrap_or_default().parse().map_err(|_| BadAddress("this is no URL"))?;
        let is_https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(BadAddress("a URL begins with https:// or http://")),
        };
        let authority = uri.authority().ok_or(BadAddress("the URL has no host"))?;
        if authority.as_str().contains('@') {
            return Err(BadAddress("the URL holds a name or password"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if host.is_empty() {
            return Err(BadAddress("the URL has no host"));
        }
        let has_port = authority.as_str().len() > authority.host().len();
        let port = match authority.port_u16() {
            Some(0) => return Err(BadAddress("port 0 cannot be connected to")),
            Some(port) => port,
            None if has_port => return Err(BadAddress("the port is no number up to 65535")),
            None if is_https => 443,
            None => 80,
        };
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        Address::of(Origin { is_https, host, port }, target).ok_or(BadAddress("this is no URL"))
    }

    fn of(origin: Origin, target: &str) -> Option<Address> {
        let host = origin.host_header();
        let scheme = if origin.is_https { "https" } else { "http" };
        let whole = Uri::builder().scheme(scheme).authority(host.as_str()).path_and_query(target).build().ok()?;
        let host = HeaderValue::from_str(&host).ok()?;
        Some(Address { origin, target: target.parse().ok()?, whole, host })
    }

    /// The server.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Path and query.
    pub(crate) fn target(&self) -> &Uri {
        &self.target
    }

    /// Scheme, host, port, path and query.
    pub(crate) fn whole(&self) -> &Uri {
        &self.whole
    }

    /// The header `Host`.
    pub(super) fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// The address that a `Location` header means. `None`: it is none, or of another scheme.
    pub(super) fn join(&self, location: &str) -> Option<Address> {
        if location.starts_with("http://") || location.starts_with("https://") {
            return Address::parse(location).ok();
        }
        let path = match location {
            location if location.starts_with("//") => return None,
            location if location.starts_with('/') => location.to_owned(),
            location if location.starts_with('?') => format!("{}{location}", self.target.path()),
            location => {
                let folder = self.target.path().rsplit_once('/').map_or("", |(folder, _)| folder);
                format!("{folder}/{location}")
            }
        };
        Address::parse(&format!("{}{path}", self.origin)).ok()
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({}/…)", self.origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_url() {
        for (text, origin, target) in [
            ("https://Example.org", "https://example.org", "/"),
            ("http://example.org:80/a?b=c#d", "http://example.org", "/a?b=c"),
            ("http://127.0.0.1:8080/a%20b", "http://127.0.0.1:8080", "/a%20b"),
            ("https://[::1]:8443/", "https://[::1]:8443", "/"),
            ("https://[2001:db8::1]", "https://[2001:db8::1]", "/"),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(
                (address.origin().to_string().as_str(), address.target().to_string().as_str()),
                (origin, target)
            );
        }
    }

    #[test]
    fn what_is_no_address() {
        for text in [
            "",
            "example.org",
            "/path",
            "ftp://example.org/",
            "https://",
            "https://:80/",
            "http://a:b@example.org/",
            "http://example.org@evil.example/",
            "http://example.org:0/",
            "http://example.org:70000/",
            "http://example.org:x/",
            "http://exa mple.org/",
            "http://example.org/a b",
            "http://example.org/\r\nX: y",
        ] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn locations() {
        let from = Address::parse("https://example.org/a/b?c").unwrap();
        let join = |location: &str| from.join(location).map(|to| format!("{}{}", to.origin(), to.target()));
        assert_eq!(join("/x?y").as_deref(), Some("https://example.org/x?y"));
        assert_eq!(join("x").as_deref(), Some("https://example.org/a/x"));
        assert_eq!(join("?x").as_deref(), Some("https://example.org/a/b?x"));
        assert_eq!(join("http://other.example/x").as_deref(), Some("http://other.example/x"));
        assert_eq!(join("//other.example/x"), None);
    }

    #[test]
    fn debug_shows_no_secret() {
        let address = Address::parse("https://example.org/hook/SECRET?key=SECRET").unwrap();
        assert_eq!(format!("{address:?}"), "Address(https://example.org/…)");
    }
}
