//! One connection: reads what its peer sends and hands it to the shard; the shard alone writes.
//!
//! Goes in: an upgraded TCP stream. Comes out: [`Input`]s for the connection's shard, one piece of work at a time: the
//! next is read when the shard is done with the last, so a client that sends faster than it reads only waits.
//! tokio-tungstenite reads (frames, masks, fragments, UTF-8, limits); what it would write is thrown away, since the
//! shard answers pings and closes itself.

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bugfeed_protocol::client::{self, Command, Refusal, errors};
use bugfeed_protocol::close::Close;
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::{Clock, ShardInput};
use crate::core::frame;
use crate::core::input::{Input, SessionLimits, Work};
use crate::core::shard::Peer;
use crate::core::subscriptions::Slot;
use crate::events::Events;

/// After its close frame a connection is read from for at most this long, so that the peer gets to see the frame
/// before a reset (RFC 6455 §7.1.1 wants the peer's side closed first).
const LINGER: Duration = Duration::from_secs(2);

/// A connection that has just been upgraded to WebSocket.
#[derive(Debug)]
pub struct Handover {
    /// The socket.
    pub stream: TcpStream,
    /// What was read behind the handshake.
    pub rest: Bytes,
    /// Counts the connection until it ends.
    pub permit: OwnedSemaphorePermit,
}

/// What a shard and a connection's task share.
#[derive(Debug)]
pub struct Conn {
    stream: TcpStream,
    slot: AtomicU32,
    flags: AtomicU8,
    notify: Notify,
    heard_ms: AtomicU64,
    clock: Clock,
}

const WANT_WRITABLE: u8 = 1;
const READY: u8 = 2;
const END: u8 = 4;

impl Conn {
    fn signal(&self, flag: u8) {
        self.flags.fetch_or(flag, Ordering::AcqRel);
        self.notify.notify_one();
    }

    async fn signalled(&self) -> u8 {
        loop {
            match self.flags.swap(0, Ordering::AcqRel) {
                0 => self.notify.notified().await,
                flags => return flags,
            }
        }
    }

    fn slot(&self) -> Slot {
        self.slot.load(Ordering::Acquire)
    }
}

impl Peer for Arc<Conn> {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.try_write(bytes)
    }

    fn attached(&self, slot: Slot) {
        self.slot.store(slot, Ordering::Release);
        self.signal(READY);
    }

    fn want_writable(&self) {
        self.signal(WANT_WRITABLE);
    }

    fn ready(&self) {
        self.signal(READY);
    }

    fn end(&self) {
        self.signal(END);
    }

    fn heard_ms(&self) -> u64 {
        self.heard_ms.load(Ordering::Relaxed)
    }
}

/// The reading side for tungstenite.
struct ReadSide(Arc<Conn>);

impl AsyncRead for ReadSide {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let conn = &self.0;
        loop {
            ready!(conn.stream.poll_read_ready(cx))?;
            match conn.stream.try_read(buf.initialize_unfilled()) {
                Ok(read) => {
                    buf.advance(read);
                    conn.heard_ms.store(conn.clock.now_ms(), Ordering::Relaxed);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for ReadSide {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What a peer did.
enum Heard {
    Work(Work),
    Nothing,
    Gone,
}

/// Serves one connection until it ends.
pub(super) async fn serve(
    handover: Handover,
    shard: mpsc::Sender<ShardInput>,
    limits: SessionLimits,
    clock: Clock,
    events: Arc<Events>,
) {
    events.connected();
    let conn = Arc::new(Conn {
        stream: handover.stream,
        slot: AtomicU32::new(0),
        flags: AtomicU8::new(0),
        notify: Notify::new(),
        heard_ms: AtomicU64::new(clock.now_ms()),
        clock,
    });
    let config = WebSocketConfig::default()
        .read_buffer_size(1024)
        .max_message_size(Some(limits.message_bytes))
        .max_frame_size(Some(limits.message_bytes));
    let side = ReadSide(Arc::clone(&conn));
    let socket = WebSocketStream::from_partially_read(side, handover.rest.to_vec(), Role::Server, Some(config)).await;
    // A shard that is gone means that the process shuts down.
    if shard.send(Input::Attach(Arc::clone(&conn))).await.is_ok() {
        talk(&conn, socket, &shard, limits.subscriptions, &events).await;
        linger(&conn).await;
        let _ = shard.send(Input::Detach(conn.slot())).await;
    }
    events.disconnected();
    drop(handover.permit);
}

async fn talk(
    conn: &Arc<Conn>,
    mut socket: WebSocketStream<ReadSide>,
    shard: &mpsc::Sender<ShardInput>,
    max_bugs: usize,
    events: &Events,
) {
    // Busy until the shard has attached the connection, and again with each piece of work.
    let mut busy = true;
    let mut want_writable = false;
    loop {
        let input = tokio::select! {
            flags = conn.signalled() => {
                if flags & END != 0 {
                    return;
                }
                busy &= flags & READY == 0;
                want_writable |= flags & WANT_WRITABLE != 0;
                continue;
            }
            // An error shows at the next write.
            _ = conn.stream.writable(), if want_writable => {
                want_writable = false;
                Input::Writable(conn.slot())
            }
            message = socket.next(), if !busy => match heard(message, max_bugs, events) {
                Heard::Work(work) => {
                    busy = true;
                    Input::Work(conn.slot(), work)
                }
                Heard::Nothing => continue,
                Heard::Gone => return,
            },
        };
        if shard.send(input).await.is_err() {
            return;
        }
    }
}

/// Reads a command. More bugs than a session may have are refused here: a command may have to wait in memory.
fn command(text: &str, max_bugs: usize) -> Result<Command, Refusal> {
    let command = client::parse(text)?;
    match &command {
        Command::Subscribe { bugs, .. } | Command::Unsubscribe { bugs } if bugs.len() > max_bugs => {
            Err(Refusal { command: Some(command.name().to_owned()), error: errors::TOO_MANY })
        }
        _ => Ok(command),
    }
}

fn heard(message: Option<Result<Message, Error>>, max_bugs: usize, events: &Events) -> Heard {
    let close = match message {
        Some(Ok(Message::Text(text))) => return Heard::Work(Work::Command(command(&text, max_bugs))),
        Some(Ok(Message::Ping(payload))) => return Heard::Work(Work::Write(frame::pong(&payload))),
        Some(Ok(Message::Pong(_) | Message::Frame(_))) => return Heard::Nothing,
        Some(Ok(Message::Close(_))) => Close::Normal,
        Some(Ok(Message::Binary(_))) => {
            events.peer_fault("binary", &"a binary message");
            Close::Unsupported
        }
        Some(Err(error)) => match fault(&error) {
            Some((kind, close)) => {
                events.peer_fault(kind, &error);
                close
            }
            None => return Heard::Gone,
        },
        None => return Heard::Gone,
    };
    Heard::Work(Work::Close(close))
}

/// What a fault of the peer is called and answered with; none where the connection is just gone.
fn fault(error: &Error) -> Option<(&'static str, Close)> {
    use tokio_tungstenite::tungstenite::error::ProtocolError;
    match error {
        Error::Capacity(_) => Some(("too_big", Close::TooBig)),
        Error::Utf8(_) => Some(("not_utf8", Close::InvalidText)),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(_) => Some(("protocol", Close::Protocol)),
        _ => None,
    }
}

/// Says that nothing more will be written, and reads on for a moment, so that what was written arrives.
async fn linger(conn: &Conn) {
    if socket2::SockRef::from(&conn.stream).shutdown(Shutdown::Write).is_err() {
        return;
    }
    let drain = async {
        let mut scratch = [0; 4096];
        while conn.stream.readable().await.is_ok() {
            match conn.stream.try_read(&mut scratch) {
                Ok(0) => return,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
                _ => tokio::task::consume_budget().await,
            }
        }
    };
    // Whether it ended by itself or by the clock makes no difference.
    let _ = tokio::time::timeout(LINGER, Box::pin(drain)).await;
}
