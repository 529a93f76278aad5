//! The bytes of one connection: plain TCP, or TLS over it.
//!
//! Both are used in the same two ways. The HTTP server reads and writes them as a stream. After its answer, a session's task
//! waits for the socket, and another task (the shard) writes frames with [`Wire::try_write`], which never waits.
//!
//! A TLS session has one state for both directions, so a lock guards it. It is held for one call and never across an await,
//! and two tasks of one connection are all that can meet there. The lock costs plain connections nothing.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use rustls::ServerConnection;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The most bytes of plain text that one [`Wire::try_write`] encrypts: what fits into one TLS record (RFC 8446 §5.1). A
/// connection whose peer reads nothing keeps no more than that.
const RECORD: usize = 16 * 1024;

/// How many reads of the socket one [`Wire::try_read`] does at most, so that a peer that sends records without content does not
/// hold its thread.
const ROUNDS: usize = 4;

/// One connection of a client.
#[derive(Debug)]
pub enum Wire {
    /// Bytes as they are.
    Plain(TcpStream),
    /// Encrypted bytes.
    Tls(Box<TlsWire>),
}

/// A connection after its TLS handshake.
#[derive(Debug)]
pub struct TlsWire {
    tcp: TcpStream,
    session: Mutex<ServerConnection>,
}

impl From<TcpStream> for Wire {
    fn from(tcp: TcpStream) -> Wire {
        Wire::Plain(tcp)
    }
}

impl From<(TcpStream, ServerConnection)> for Wire {
    /// A connection whose TLS handshake is complete.
    fn from((tcp, session): (TcpStream, ServerConnection)) -> Wire {
        Wire::Tls(Box::new(TlsWire { tcp, session: Mutex::new(session) }))
    }
}

impl Wire {
    /// The socket below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Wire::Plain(tcp) => tcp,
            Wire::Tls(tls) => &tls.tcp,
        }
    }

    /// Whether the bytes are encrypted.
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Wire::Tls(_))
    }

    /// Reads what is there; 0 is the end of the peer's bytes.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there; another error if the connection, or its encryption, is broken.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(tcp) => tcp.try_read(buf),
            Wire::Tls(tls) => tls.try_read(buf),
        }
    }

    /// Writes as much as the socket takes now, and says how much that was. Of an encrypted connection, the last record may
    /// wait here until the socket takes it: then [`Wire::wants_flush`] says so, and nothing more is taken.
    ///
    /// # Errors
    /// `WouldBlock` if the socket takes nothing; another error if the connection is broken.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            // The socket is asked itself, because what the runtime knows of it lies elsewhere in memory, which for one of
            // many sockets means that it has to be fetched first.
            Wire::Plain(tcp) => match SockRef::from(tcp).send(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => tcp.try_write(bytes),
                done => done,
            },
            Wire::Tls(tls) => tls.try_write(bytes),
        }
    }

    /// Whether encrypted bytes wait for the socket: whoever waits for the socket then has to call [`Wire::poll_flush`].
    pub fn wants_flush(&self) -> bool {
        match self {
            Wire::Plain(_) => false,
            Wire::Tls(tls) => tls.session().wants_write(),
        }
    }

    /// Waits until no encrypted bytes wait any more.
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Wire::Tls(tls) = self else { return Poll::Ready(Ok(())) };
        loop {
            match tls.flush(&mut tls.session()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(tls.tcp.poll_write_ready(cx))?,
                done => return Poll::Ready(done),
            }
        }
    }

    /// Waits until there may be something to read. May be wrong: then [`Wire::try_read`] answers `WouldBlock`.
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Wire::Plain(tcp) => tcp.poll_read_ready(cx),
            Wire::Tls(tls) if tls.has_read(&mut tls.session()) => Poll::Ready(Ok(())),
            Wire::Tls(tls) => tls.tcp.poll_read_ready(cx),
        }
    }

    /// Waits until something may be written. May be wrong: then [`Wire::try_write`] answers `WouldBlock`.
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        self.tcp().poll_write_ready(cx)
    }

    /// [`Wire::poll_read_ready`] as a future.
    ///
    /// # Errors
    /// If the connection is broken.
    pub async fn readable(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_read_ready(cx)).await
    }

    /// Says to the peer that nothing more is written. Bytes that wait for the socket are sent as far as it takes them.
    ///
    /// # Errors
    /// If the peer has gone.
    pub fn close_write(&self) -> io::Result<()> {
        if let Wire::Tls(tls) = self {
            let mut session = tls.session();
            session.send_close_notify();
            // What the socket does not take now is lost, as with a socket that is closed while it is full.
            let _ = tls.flush(&mut session);
        }
        SockRef::from(self.tcp()).shutdown(Shutdown::Write)
    }
}

impl TlsWire {
    fn session(&self) -> MutexGuard<'_, ServerConnection> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether decrypted bytes, or the end of them, can be read without the socket.
    fn has_read(&self, session: &mut ServerConnection) -> bool {
        match session.process_new_packets() {
            Ok(state) => state.plaintext_bytes_to_read() > 0 || state.peer_has_closed(),
            Err(_) => true,
        }
    }

    fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let mut session = self.session();
        for _ in 0..ROUNDS {
            match session.reader().read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The peer closed without saying so within TLS (RFC 8446 §6.1). What it has sent stands for itself: each
                // message says its own length.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                done => return done,
            }
            session.read_tls(&mut TcpSide(&self.tcp))?;
            let processed = session.process_new_packets();
            // The peer is told what was wrong, and of new keys.
            let _ = self.flush(&mut session);
            processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        match session.reader().read(buf) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            done => done,
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut session = self.session();
        self.flush(&mut session)?;
        let taken = session.writer().write(&bytes[..bytes.len().min(RECORD)])?;
        match self.flush(&mut session) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    /// Writes the encrypted bytes that wait.
    fn flush(&self, session: &mut ServerConnection) -> io::Result<()> {
        while session.wants_write() {
            session.write_tls(&mut TcpSide(&self.tcp))?;
        }
        Ok(())
    }
}

/// The socket as rustls sees it.
struct TcpSide<'a>(&'a TcpStream);

impl io::Read for TcpSide<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buf)
    }
}

impl io::Write for TcpSide<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        if let Wire::Plain(tcp) = wire {
            return Pin::new(tcp).poll_read(cx, buf);
        }
        loop {
            match wire.try_read(buf.initialize_unfilled()) {
                Ok(read) => {
                    buf.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(wire.poll_read_ready(cx))?,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        if let Wire::Plain(tcp) = wire {
            return Pin::new(tcp).poll_write(cx, bytes);
        }
        loop {
            match wire.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(wire.poll_write_ready(cx))?,
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            wire @ Wire::Tls(_) => {
                let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| &buf[..]);
                Pin::new(wire).poll_write(cx, first)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self, Wire::Plain(_))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Wire::poll_flush(&self, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Wire::poll_flush(&self, cx))?;
        Poll::Ready(self.close_write())
    }
}
