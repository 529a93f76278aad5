//! The byte stream to the broker: TCP, and TLS over it for `amqps://`.
//!
//! Goes in: the broker's URL. Comes out: a byte stream, for lapin or for a consuming connection. Trusts the authorities that the
//! URL names (`cacertfile`), or those that this machine trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` replace them). Shows the
//! certificate that the URL names (`certfile`, `keyfile`). Never retries, and never goes on with a broker whose certificate or
//! name is not the right one.
//!
//! lapin has TLS of its own, but that also reads PKCS#12 files, which bugfeed does not need: 46 more units to compile.
//! Therefore lapin is built without TLS, and this module gives it the encrypted stream. Without this module, lapin
//! would connect to an `amqps://` address in clear text.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_rs::Runtime;
use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::Task;
use futures::{AsyncRead, AsyncWrite, Stream};
use lapin::AsyncTcpStream;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

use crate::BrokerUrl;
use crate::tls::Tls;

/// The stream that lapin reads and writes, plain or encrypted.
type Socket = Compat<Box<dyn Duplex>>;

/// Both directions of a connection.
pub(super) trait Duplex: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Duplex for T {}

/// The caller's tokio runtime, in the form that lapin needs.
///
/// # Panics
/// Outside a tokio runtime.
pub(super) fn runtime() -> Runtime<Kit> {
    Runtime::new(Kit(async_rs::Tokio::current()))
}

/// Opens the stream for lapin.
///
/// # Errors
/// As [`stream`].
pub(super) async fn open(url: BrokerUrl) -> lapin::Result<AsyncTcpStream<Socket>> {
    Ok(AsyncTcpStream::Plain(stream(&url).await?.compat()))
}

/// Opens the stream that the URL asks for.
///
/// # Errors
/// If nobody listens there, or the other end cannot prove (TLS) that it is the host of the URL.
pub(super) async fn stream(url: &BrokerUrl) -> io::Result<Box<dyn Duplex>> {
    let host = url.0.uri.authority.host.as_str();
    let stream = TcpStream::connect((host, url.0.uri.authority.port)).await?;
    stream.set_nodelay(true)?;
    match &url.0.tls {
        None => Ok(Box::new(stream)),
        Some(tls) => {
            let name = match &tls.name {
                Some(name) => name.clone(),
                None => ServerName::try_from(host.to_owned()).map_err(io::Error::other)?,
            };
            Ok(Box::new(TlsConnector::from(Arc::new(config(tls).await?)).connect(name, stream).await?))
        }
    }
}

/// Reads the certificates again for each connection, because they may have changed.
async fn config(tls: &Tls) -> io::Result<rustls::ClientConfig> {
    let tls = tls.clone();
    tokio::task::spawn_blocking(move || tls.config()).await?.map_err(io::Error::other)
}

/// lapin's interface to tokio, with sockets that may be encrypted.
#[derive(Clone, Debug)]
pub(super) struct Kit(async_rs::Tokio);

impl RuntimeKit for Kit {}

impl Executor for Kit {
    type Task<T: Send + 'static> = <async_rs::Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.0.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(&self, future: F) -> Task<Self::Task<T>> {
        self.0.spawn(future)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(&self, work: F) -> Task<Self::Task<T>> {
        self.0.spawn_blocking(work)
    }
}

impl Reactor for Kit {
    type TcpStream = Socket;
    type Sleep = <async_rs::Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(&self, address: SocketAddr) -> impl Future<Output = io::Result<Socket>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async move {
            let socket: Box<dyn Duplex> = Box::new(connecting.await?.into_inner());
            Ok(socket.compat())
        }
    }
}
