//! Connecting: from a host to a byte stream, plain or encrypted.
//!
//! Goes in: scheme, host and port. Comes out: a stream to one of the host's addresses, of those that the rule permits, in
//! the order in which the resolver gives them, at most [`MOST_DIALLED`]. Never connects to an address that the rule did
//! not see.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use super::resolve::{AddressRule, Resolver};
use super::tls::{HTTP_2, Tls};
use super::{Fault, Origin};

/// Of a host's addresses at most so many are connected to, one after another.
const MOST_DIALLED: usize = 8;

/// Why there is no TLS.
fn of_tls(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        // This is what a server says that expects HTTP or another protocol without TLS.
        Some(rustls::Error::InvalidMessage(_)) => {
            "what answers there does not speak TLS; if that is meant, write http:// instead of https://".to_owned()
        }
        _ => error.to_string(),
    }
}

/// Both directions of a connection.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection, plain or encrypted.
pub(crate) type Stream = Box<dyn Duplex>;

/// What is spoken over a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http,
    Other,
}

/// Makes connections.
#[derive(Debug)]
pub(crate) struct Dialer {
    within: Duration,
    tls: Tls,
    rule: Arc<dyn AddressRule>,
    resolver: Arc<dyn Resolver>,
}

impl Dialer {
    pub(super) fn new(within: Duration, tls: Tls, rule: Arc<dyn AddressRule>, resolver: Arc<dyn Resolver>) -> Dialer {
        Dialer { within, tls, rule, resolver }
    }

    /// Connects for HTTP, with TLS for `https`. `true`: it will be HTTP/2.
    pub(super) async fn connect(&self, origin: &Origin) -> Result<(Stream, bool), Fault> {
        self.connect_for(Protocol::Http, origin).await
    }

    /// Connects for another protocol, with TLS where the origin is said to be `https`.
    pub(crate) async fn connect_other(&self, origin: &Origin) -> Result<Stream, Fault> {
        Ok(self.connect_for(Protocol::Other, origin).await?.0)
    }

    /// Begins TLS in the middle of another protocol.
    pub(crate) async fn encrypt_other(&self, origin: &Origin, stream: Stream) -> Result<Stream, Fault> {
        Ok(self.encrypt(Protocol::Other, origin, stream).await?.0)
    }

    async fn connect_for(&self, protocol: Protocol, origin: &Origin) -> Result<(Stream, bool), Fault> {
        let until = Instant::now() + self.within;
        let stream: Stream = Box::new(self.tcp(origin, until).await?);
        if !origin.is_https {
            return Ok((stream, false));
        }
        let encrypting = self.encrypt(protocol, origin, stream);
        timeout_at(until, encrypting).await.unwrap_or_else(|_| Err(self.too_slow(origin)))
    }

    fn too_slow(&self, origin: &Origin) -> Fault {
        Fault::ConnectTooSlow { server: origin.to_string(), within: self.within }
    }

    /// Begins TLS, and makes sure that the other end is the host.
    async fn encrypt(&self, protocol: Protocol, origin: &Origin, stream: Stream) -> Result<(Stream, bool), Fault> {
        let fault = |why: String| Fault::Tls { server: origin.to_string(), why };
        // A dot at the end tells the resolver that the name is whole; it is no part of the name in a certificate.
        let host = origin.host.strip_suffix('.').unwrap_or(&origin.host).to_owned();
        let name = ServerName::try_from(host).map_err(|error| fault(error.to_string()))?;
        let connector = TlsConnector::from(self.tls.config(protocol == Protocol::Http).await?);
        let encrypted = connector.connect(name, stream).await.map_err(|error| fault(of_tls(&error)))?;
        let is_http2 = encrypted.get_ref().1.alpn_protocol() == Some(HTTP_2);
        Ok((Box::new(encrypted), is_http2))
    }

    async fn tcp(&self, origin: &Origin, until: Instant) -> Result<TcpStream, Fault> {
        let addresses = self.addresses(origin, until).await?;
        let mut last = Fault::Name { host: origin.host.clone(), why: "it has no address".to_owned() };
        for (index, address) in addresses.iter().enumerate() {
            // Those that come after this one get their share of what is left.
            let others = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
            let share = until.saturating_duration_since(Instant::now()) / others;
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => last = Fault::Connect { server: origin.to_string(), why: error.to_string() },
                Err(_) => last = self.too_slow(origin),
            }
        }
        Err(last)
    }

    /// The host's addresses that the rule permits, as far as they are connected to.
    async fn addresses(&self, origin: &Origin, until: Instant) -> Result<Vec<SocketAddr>, Fault> {
        let literal: Option<IpAddr> = origin.host.parse().ok();
        let all = match literal {
            Some(address) => vec![address],
            None => self.look_up(&origin.host, until).await?,
        };
        let mut refusal = None;
        let mut permitted = Vec::new();
        for address in all {
            match self.rule.permits(&origin.host, address) {
                Ok(()) if permitted.len() == MOST_DIALLED => break,
                Ok(()) => permitted.push(SocketAddr::new(address, origin.port)),
                Err(why) => refusal = refusal.or(Some(why)),
            }
        }
        match refusal {
            Some(why) if permitted.is_empty() => Err(Fault::Forbidden { why, is_final: literal.is_some() }),
            _ => Ok(permitted),
        }
    }

    async fn look_up(&self, host: &str, until: Instant) -> Result<Vec<IpAddr>, Fault> {
        let fault = |why: String| Fault::Name { host: host.to_owned(), why };
        match timeout_at(until, self.resolver.addresses(host)).await {
            Ok(found) => found.map_err(|error| fault(error.to_string())),
            Err(_) => Err(fault(format!("this took longer than {} s", self.within.as_secs_f32()))),
        }
    }
}
