//! Connecting: from a host to a byte stream, plain or encrypted.
//!
//! Goes in: scheme, host and port. Comes out: a stream to one of the host's addresses, of those that the rule permits, in
//! the order in which the system gives them. Never connects to an address that the rule did not see.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::tls::{Tls, Trust};
use super::{Fault, Origin};

/// Which addresses may be connected to.
pub trait AddressRule: fmt::Debug + Send + Sync {
    /// Whether this address of this host may be connected to. It is asked about every address, just before it is
    /// connected to: a name may get another address at any time.
    ///
    /// # Errors
    /// Why not, and what to do about it, in a sentence.
    fn permits(&self, host: &str, address: IpAddr) -> Result<(), String>;
}

/// Permits all.
#[derive(Clone, Copy, Debug)]
pub struct Anywhere;

impl AddressRule for Anywhere {
    fn permits(&self, _: &str, _: IpAddr) -> Result<(), String> {
        Ok(())
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
}

impl Dialer {
    pub(super) fn new(within: Duration, trust: Trust, rule: Arc<dyn AddressRule>) -> Dialer {
        Dialer { within, tls: Tls::new(trust), rule }
    }

    /// Connects for HTTP, with TLS for `https`.
    pub(super) async fn connect(&self, origin: &Origin) -> Result<Stream, Fault> {
        self.connect_for(Protocol::Http, origin).await
    }

    /// Connects for another protocol, with TLS where the origin is said to be `https`.
    pub(crate) async fn connect_other(&self, origin: &Origin) -> Result<Stream, Fault> {
        self.connect_for(Protocol::Other, origin).await
    }

    /// Begins TLS in the middle of another protocol.
    pub(crate) async fn encrypt_other(&self, origin: &Origin, stream: Stream) -> Result<Stream, Fault> {
        self.encrypt(Protocol::Other, origin, stream).await
    }

    async fn connect_for(&self, protocol: Protocol, origin: &Origin) -> Result<Stream, Fault> {
        let connecting = async {
            let stream: Stream = Box::new(self.tcp(origin).await?);
            if origin.is_https { self.encrypt(protocol, origin, stream).await } else { Ok(stream) }
        };
        let too_slow = || Fault::ConnectTooSlow { server: origin.to_string(), within: self.within };
        timeout(self.within, connecting).await.unwrap_or_else(|_| Err(too_slow()))
    }

    /// Begins TLS, and makes sure that the other end is the host.
    async fn encrypt(&self, protocol: Protocol, origin: &Origin, stream: Stream) -> Result<Stream, Fault> {
        let fault = |why: String| Fault::Tls { server: origin.to_string(), why };
        let name = ServerName::try_from(origin.host.clone()).map_err(|error| fault(error.to_string()))?;
        let connector = TlsConnector::from(self.tls.config(protocol == Protocol::Http).await?);
        let encrypted = connector.connect(name, stream).await.map_err(|error| fault(error.to_string()))?;
        Ok(Box::new(encrypted))
    }

    async fn tcp(&self, origin: &Origin) -> Result<TcpStream, Fault> {
        let begin = Instant::now();
        let addresses = self.addresses(origin).await?;
        let mut last = Fault::Name { host: origin.host.clone(), why: "it has no address".to_owned() };
        for (index, address) in addresses.iter().enumerate() {
            // Those that come after this one get their share of what is left.
            let others = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
            let share = self.within.saturating_sub(begin.elapsed()) / others;
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => last = Fault::Connect { server: origin.to_string(), why: error.to_string() },
                Err(_) => last = Fault::ConnectTooSlow { server: origin.to_string(), within: self.within },
            }
        }
        Err(last)
    }

    /// The host's addresses that the rule permits.
    async fn addresses(&self, origin: &Origin) -> Result<Vec<SocketAddr>, Fault> {
        let literal: Option<IpAddr> = origin.host.parse().ok();
        let all: Vec<SocketAddr> = match literal {
            Some(address) => vec![SocketAddr::new(address, origin.port)],
            None => {
                let fault = |error: std::io::Error| Fault::Name { host: origin.host.clone(), why: error.to_string() };
                lookup_host((origin.host.as_str(), origin.port)).await.map_err(fault)?.collect()
            }
        };
        let mut refusal = None;
        let mut permitted = Vec::with_capacity(all.len());
        for address in all {
            match self.rule.permits(&origin.host, address.ip()) {
                Ok(()) => permitted.push(address),
                Err(why) => refusal = refusal.or(Some(why)),
            }
        }
        match refusal {
            Some(why) if permitted.is_empty() => Err(Fault::Forbidden { why, is_final: literal.is_some() }),
            _ => Ok(permitted),
        }
    }
}
