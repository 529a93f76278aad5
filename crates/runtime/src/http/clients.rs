//! Whose connections and requests they are: which peers are proxies, and what is believed of whom.
//!
//! Goes in: the address at the other end of a connection, and the headers of a request. Comes out: the client's address, where it
//! is known to be the client's. It is not known of a peer on this machine that is not named as a proxy: it may be one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::{Extensions, HeaderMap, HeaderName, header};
use bugfeed_core::client_address::forwarded::{self, Found, Trusted};
use bugfeed_core::network::Network;
use bugfeed_protocol::log_event::LogEvent;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// How a listener learns whose connections they are.
#[derive(Clone, Debug, Default)]
pub struct ClientRules {
    /// The proxies that are believed.
    pub proxies: Vec<Network>,
    /// Whether they begin each connection with a PROXY header, and nobody else does.
    pub proxy_protocol: bool,
    /// Which header they write.
    pub trusted: Trusted,
    /// Whether to say so, once, when a client's address is not known.
    pub warns: bool,
}

/// The client of a request, as far as it is known: in each request's extensions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientAddress(pub Option<IpAddr>);

impl ClientAddress {
    /// The one that a request carries in its extensions.
    pub fn of(extensions: &Extensions) -> Option<IpAddr> {
        extensions.get::<ClientAddress>().and_then(|client| client.0)
    }
}

/// What a connection tells of its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It is this one's.
    Client(IpAddr),
    /// A PROXY header comes first.
    Wrapped,
    /// Each request says it in its headers. The proxy has this address.
    Forwarded(IpAddr),
    /// Nobody says it.
    Unknown,
}

/// The rules of a listener, and what was said of them already.
#[derive(Debug)]
pub(crate) struct Clients {
    rules: ClientRules,
    said: [AtomicBool; 4],
}

/// What is said once.
#[derive(Clone, Copy)]
enum Remark {
    Loopback = 0,
    Silent = 1,
    NotNamed = 2,
    Unclear = 3,
}

impl Clients {
    pub(crate) fn new(rules: ClientRules) -> Arc<Clients> {
        Arc::new(Clients { rules, said: Default::default() })
    }

    /// What a new connection tells.
    pub(crate) fn origin(&self, peer: SocketAddr) -> Origin {
        let address = peer.ip().to_canonical();
        if self.is_proxy(address) {
            return if self.rules.proxy_protocol { Origin::Wrapped } else { Origin::Forwarded(address) };
        }
        if address.is_loopback() {
            self.say(Remark::Loopback, address);
            return Origin::Unknown;
        }
        Origin::Client(address)
    }

    /// The same, where a PROXY header has named this source.
    pub(super) fn behind(&self, source: SocketAddr) -> Origin {
        let address = source.ip().to_canonical();
        if self.is_proxy(address) { Origin::Forwarded(address) } else { Origin::Client(address) }
    }

    /// The client of a request. A request that contradicts itself is the proxy's own: all of that kind share the bounds of one
    /// client, so that forging gains nothing.
    pub(super) fn of_request(&self, origin: Origin, headers: &HeaderMap) -> Option<IpAddr> {
        let address = match origin {
            Origin::Unknown | Origin::Wrapped => return None,
            Origin::Client(address) => {
                if headers.contains_key(X_FORWARDED_FOR) || headers.contains_key(header::FORWARDED) {
                    self.say(Remark::NotNamed, address);
                }
                return Some(address);
            }
            Origin::Forwarded(proxy) => proxy,
        };
        let lines = |name: HeaderName| headers.get_all(name).iter().map(|line| line.as_bytes());
        let is_proxy = |address: IpAddr| self.is_proxy(address);
        match forwarded::client(lines(X_FORWARDED_FOR), lines(header::FORWARDED), self.rules.trusted, is_proxy) {
            Found::Client(client) => Some(client),
            Found::Hidden | Found::Nothing => {
                self.say(Remark::Silent, address);
                None
            }
            Found::Unclear => {
                self.say(Remark::Unclear, address);
                Some(address)
            }
        }
    }

    fn is_proxy(&self, address: IpAddr) -> bool {
        self.rules.proxies.iter().any(|network| network.contains(address))
    }

    fn say(&self, remark: Remark, address: IpAddr) {
        if !self.rules.warns || self.said[remark as usize].swap(true, Ordering::Relaxed) {
            return;
        }
        match remark {
            Remark::Loopback => {
                tracing::warn!(%address, event = %LogEvent::ClientAddressUnknown, "a connection came from this machine itself, so the limits for each address are off for those; if a proxy runs here, name it: --behind-proxy {address}");
            }
            Remark::Silent => {
                tracing::warn!(%address, event = %LogEvent::ClientAddressUnknown, "this proxy does not tell who its clients are, so the limits for each address are off for those: have it write X-Forwarded-For or Forwarded, or a PROXY header (--proxy-protocol)");
            }
            Remark::NotNamed => {
                tracing::warn!(%address, event = %LogEvent::ProxyNotNamed, "a request with forwarding headers came from an address that --behind-proxy does not name, and they are not believed: if it is a proxy, all its clients share the limits of one");
            }
            Remark::Unclear => {
                tracing::warn!(%address, event = %LogEvent::ClientAddressUnclear, "a request's X-Forwarded-For and Forwarded contradict each other, or cannot be read; those requests share the limits of one client. If the proxy writes only one of the two, name it: --forwarded-header");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(proxies: &[&str], proxy_protocol: bool) -> Arc<Clients> {
        let proxies = proxies.iter().map(|network| network.parse().unwrap()).collect();
        Clients::new(ClientRules { proxies, proxy_protocol, ..ClientRules::default() })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_a_connection_tells() {
        let headers = clients(&["10.0.0.0/8", "127.0.0.1"], false);
        let wrapped = clients(&["10.0.0.0/8", "127.0.0.1"], true);
        for (peer, by_headers, by_protocol) in [
            ("192.0.2.1:5", Origin::Client(ip("192.0.2.1")), Origin::Client(ip("192.0.2.1"))),
            ("[::ffff:192.0.2.1]:5", Origin::Client(ip("192.0.2.1")), Origin::Client(ip("192.0.2.1"))),
            ("10.1.2.3:5", Origin::Forwarded(ip("10.1.2.3")), Origin::Wrapped),
            ("[::ffff:10.1.2.3]:5", Origin::Forwarded(ip("10.1.2.3")), Origin::Wrapped),
            ("127.0.0.1:5", Origin::Forwarded(ip("127.0.0.1")), Origin::Wrapped),
            ("127.0.0.2:5", Origin::Unknown, Origin::Unknown),
            ("[::1]:5", Origin::Unknown, Origin::Unknown),
        ] {
            let peer = peer.parse().unwrap();
            assert_eq!((headers.origin(peer), wrapped.origin(peer)), (by_headers, by_protocol), "{peer}");
        }
        // A header is believed of any address, and leads on to headers if it names a proxy.
        assert_eq!(wrapped.behind("127.0.0.2:5".parse().unwrap()), Origin::Client(ip("127.0.0.2")));
        assert_eq!(wrapped.behind("10.0.0.9:5".parse().unwrap()), Origin::Forwarded(ip("10.0.0.9")));
    }

    #[test]
    fn headers_are_believed_of_proxies_only() {
        let clients = clients(&["10.0.0.0/8"], false);
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", "203.0.113.9".parse().unwrap());
        headers.append("x-forwarded-for", "192.0.2.7, 10.0.0.2".parse().unwrap());
        let proxy = Origin::Forwarded(ip("10.0.0.1"));
        assert_eq!(clients.of_request(proxy, &headers), Some(ip("192.0.2.7")));
        assert_eq!(clients.of_request(Origin::Client(ip("192.0.2.1")), &headers), Some(ip("192.0.2.1")));
        assert_eq!(clients.of_request(Origin::Unknown, &headers), None);
        headers.append("forwarded", "for=198.51.100.1".parse().unwrap());
        assert_eq!(clients.of_request(proxy, &headers), Some(ip("10.0.0.1")), "the two contradict each other");
        assert_eq!(clients.of_request(proxy, &HeaderMap::new()), None);
    }
}
