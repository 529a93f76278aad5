//! One WebSocket connection: its task reads what the client sends and hands it to the shard. Only the shard writes to
//! the socket.
//!
//! Goes in: an upgraded TCP stream. Comes out: [`Input`]s for the connection's shard, one command at a time. The next
//! command is read only when the shard has finished the last one, so a client that sends faster than it reads is held
//! back (backpressure).
//!
//! Memory is saved here, because most connections are idle most of the time. An idle one keeps only its [`Connection`]
//! and a task of a few words; a [`Reader`] exists only while a message is being read.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bugfeed_protocol::When;
use bugfeed_protocol::client::{self, Command, Refusal, errors};
use bugfeed_protocol::close::{self, Close};
use bugfeed_protocol::token::Token;
use futures::task::AtomicWaker;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::read::{Fault, READS, Reader};
use super::{ClientPeer, Clock, ShardInput};
use crate::access::Gatekeeper;
use crate::events::Events;
use bugfeed_core::access::{Grant, Pass, Refused};
use bugfeed_core::budget::Budgets;
use bugfeed_core::frame;
use bugfeed_core::input::{Input, Work};
use bugfeed_core::shard::Peer;
use bugfeed_core::subscriptions::Slot;
use bugfeed_runtime::http::{Hijacked, Place, Wire};

/// After the close frame, the connection is read from for at most this long, so that the peer receives the frame and
/// not a reset (RFC 6455 §7.1.1 wants the peer's side closed first).
const LINGER: Duration = Duration::from_secs(2);

/// What all connections of a feed share.
#[derive(Debug)]
pub(super) struct Common {
    /// Bugs a session may watch.
    pub(super) max_bugs: usize,
    /// Whether a session may watch all bugs.
    pub(super) allows_all: bool,
    /// The largest message a client may send, in bytes.
    pub(super) message_bytes: usize,
    /// How long a message may take from its first byte to its last.
    pub(super) message_timeout: Duration,
    pub(super) budgets: Budgets,
    /// Checks the tokens of clients; `None` lets everybody in.
    pub(super) access: Option<Arc<Gatekeeper>>,
    pub(super) clock: Clock,
    pub(super) events: Arc<Events>,
}

impl Common {
    /// The pass of a session with this grant.
    pub(super) fn pass(&self, grant: Arc<Grant>) -> Pass {
        Pass::granted(grant, self.clock.now_ms(), When::from_system_time(SystemTime::now()))
    }
}

/// What a shard and a connection's task share.
#[derive(Debug)]
pub struct Connection {
    stream: Wire,
    shard: mpsc::Sender<ShardInput>,
    common: Arc<Common>,
    slot: AtomicU32,
    flags: AtomicU8,
    /// Wakes the connection's task.
    waker: AtomicWaker,
    heard_ms: AtomicU64,
    /// When the wait for the rest of an unfinished message began, in milliseconds; 0 when no message is unfinished.
    unfinished_since_ms: AtomicU64,
    /// Its place among the listener's connections.
    place: Place,
}

const WANT_WRITABLE: u8 = 1;
const READY: u8 = 2;
const END: u8 = 4;

impl Connection {
    fn signal(&self, flag: u8) {
        self.flags.fetch_or(flag, Ordering::AcqRel);
        self.waker.wake();
    }

    fn slot(&self) -> Slot {
        self.slot.load(Ordering::Acquire)
    }

    /// A reader for the next message; `rest` holds those of its bytes that were read already.
    fn reader(&self, rest: &[u8]) -> Reader {
        Reader::new(rest, self.common.message_bytes, &self.common.budgets.message_bytes)
    }

    /// Notes that the peer is alive: bytes were just read from it.
    fn heard(&self) {
        self.heard_ms.store(self.common.clock.now_ms(), Ordering::Relaxed);
    }

    /// Notes that a message has begun and is not complete, unless this was noted before.
    fn note_unfinished(&self) {
        if self.unfinished_since_ms.load(Ordering::Relaxed) == 0 {
            self.unfinished_since_ms.store(self.common.clock.now_ms().max(1), Ordering::Relaxed);
        }
    }

    /// Notes that no message is unfinished any more.
    fn note_finished(&self) {
        self.unfinished_since_ms.store(0, Ordering::Relaxed);
    }

    /// Sends an input to the shard, and waits while the shard's queue is full. Returns whether the shard still takes
    /// inputs.
    async fn send(&self, input: ShardInput) -> bool {
        match self.shard.try_send(input) {
            Ok(()) => true,
            // Boxed, so that an idle task does not reserve memory for this future.
            Err(TrySendError::Full(input)) => Box::pin(self.shard.send(input)).await.is_ok(),
            Err(TrySendError::Closed(_)) => false,
        }
    }
}

impl Peer for Connection {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.stream.try_write(bytes);
        if self.stream.wants_flush() {
            self.waker.wake();
        }
        written
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

    fn begun_ms(&self) -> Option<u64> {
        Some(self.unfinished_since_ms.load(Ordering::Relaxed)).filter(|&since_ms| since_ms > 0)
    }
}

/// What a message of the peer means for its connection.
enum Heard {
    /// The shard has to do something about it.
    Work(Work),
    /// Nothing follows from it.
    Nothing,
    /// The connection has ended.
    Gone,
}

/// Sets up the state that a shard and the connection's task share, and a reader for bytes that came with the handshake.
pub(super) fn take_over(
    hijacked: Hijacked,
    shard: mpsc::Sender<ShardInput>,
    common: Arc<Common>,
) -> (Arc<Connection>, Option<Box<Reader>>) {
    let Hijacked { stream, rest, permit } = hijacked;
    let heard_ms = AtomicU64::new(common.clock.now_ms());
    let conn = Arc::new(Connection {
        stream,
        shard,
        common,
        slot: AtomicU32::new(0),
        flags: AtomicU8::new(0),
        waker: AtomicWaker::new(),
        heard_ms,
        unfinished_since_ms: AtomicU64::new(0),
        place: permit,
    });
    // `rest` keeps the whole buffer alive that the handshake was read into, so it must not outlive this function.
    let reader = (!rest.is_empty()).then(|| Box::new(conn.reader(&rest)));
    (conn, reader)
}

/// Serves one connection until it ends.
pub(super) async fn serve(conn: Arc<Connection>, reader: Option<Box<Reader>>, pass: Option<Box<Pass>>) {
    conn.common.events.connected();
    let peer = ClientPeer::Socket(Arc::clone(&conn));
    let enters = match pass {
        Some(pass) => Input::Enter(peer, *pass),
        None => Input::Attach(peer),
    };
    // A shard that is gone means that the process shuts down.
    if conn.send(enters).await {
        talk(&conn, reader).await;
        Box::pin(linger(&conn)).await;
        conn.send(Input::Detach(conn.slot())).await;
    }
    conn.common.events.disconnected();
}

async fn talk(conn: &Arc<Connection>, mut reader: Option<Box<Reader>>) {
    // Busy until the shard has attached the connection, and again while the shard works on a command.
    let mut busy = true;
    let mut want_writable = false;
    loop {
        let input = poll_fn(|cx| next(conn, &mut reader, &mut busy, &mut want_writable, cx)).await;
        let Some(mut input) = input else { return };
        if let Input::Work(_, Work::Command(Ok(Command::Hello { heartbeat_s, token: Some(token) }))) = &input
            && let Some(keeper) = &conn.common.access
        {
            // Boxed, so that an idle task does not reserve memory for this future.
            let work = Box::pin(admit(conn, keeper, *heartbeat_s, token)).await;
            input = Input::Work(conn.slot(), work);
        }
        if !conn.send(input).await {
            return;
        }
    }
}

/// What follows from a `hello` with a token. Meanwhile nothing else is read from this client.
async fn admit(conn: &Connection, keeper: &Gatekeeper, heartbeat_s: u64, token: &Token) -> Work {
    let refused = match keeper.check(token).await {
        Ok(grant) => return Work::Renew { heartbeat_s, pass: conn.common.pass(grant) },
        Err(refused) => refused,
    };
    conn.common.events.access_refused(refused.kind(), conn.place.address());
    match refused {
        // This is no fault of the token, and passes.
        Refused::KeysAway => Work::Close(Close::NoRoom),
        _ => Work::Denied { command: "hello", error: format!("invalid token: {}", refused.text()) },
    }
}

/// The next input of the connection for its shard; `None` when the connection has ended.
fn next(
    conn: &Arc<Connection>,
    reader: &mut Option<Box<Reader>>,
    busy: &mut bool,
    want_writable: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<Option<ShardInput>> {
    conn.waker.register(cx.waker());
    let flags = conn.flags.swap(0, Ordering::AcqRel);
    if flags & END != 0 {
        return Poll::Ready(None);
    }
    *busy &= flags & READY == 0;
    *want_writable |= flags & WANT_WRITABLE != 0;
    if conn.stream.wants_flush() {
        // As below.
        let _ = conn.stream.poll_flush(cx);
    }
    // A socket error is noticed by the shard, at its next write.
    if *want_writable && conn.stream.poll_write_ready(cx).is_ready() {
        *want_writable = false;
        return Poll::Ready(Some(Input::Writable(conn.slot())));
    }
    let mut reads = READS;
    while !*busy {
        if reader.is_none() && conn.stream.poll_read_ready(cx).is_pending() {
            break;
        }
        let reading = reader.get_or_insert_with(|| Box::new(conn.reader(&[])));
        match reading.poll(&conn.stream, &|| conn.heard(), &mut reads, cx) {
            Poll::Ready(message) => {
                // A control frame between two frames of a message does not complete that message.
                if matches!(message, Ok(Message::Text(_) | Message::Binary(_))) || !reading.is_within_fragments() {
                    conn.note_finished();
                }
                match heard(message, reading.close_code(), &conn.common) {
                    Heard::Work(work) => {
                        *busy = true;
                        return Poll::Ready(Some(Input::Work(conn.slot(), work)));
                    }
                    // A flood of such messages must not starve the other tasks of this thread.
                    Heard::Nothing => ready!(tokio::task::coop::poll_proceed(cx)).made_progress(),
                    Heard::Gone => return Poll::Ready(None),
                }
            }
            Poll::Pending => {
                let idle = reading.is_idle();
                if idle {
                    conn.note_finished();
                    *reader = None;
                } else {
                    conn.note_unfinished();
                }
                if reads == 0 {
                    // The other tasks of this thread run first.
                    cx.waker().wake_by_ref();
                    break;
                }
                if !idle {
                    break;
                }
                // The loop goes round once more, to wait for the socket.
            }
        }
    }
    Poll::Pending
}

/// Parses a command. A command with more bugs than a session may have is refused here already, because it may have to
/// wait in memory.
fn command(text: &str, max_bugs: usize) -> Result<Command, Refusal> {
    let command = client::parse(text)?;
    match &command {
        Command::Subscribe { bugs, .. } | Command::Unsubscribe { bugs } if bugs.count() > max_bugs => {
            Err(Refusal { command: Some(command.name().to_owned()), error: errors::TOO_MANY })
        }
        _ => Ok(command),
    }
}

/// What a message means. `close_code` is the code in the close frame, if the message is one.
fn heard(message: Result<Message, Fault>, close_code: Option<u16>, common: &Common) -> Heard {
    let events = &common.events;
    let close = match message {
        Ok(Message::Text(text)) => return Heard::Work(Work::Command(command(&text, common.max_bugs))),
        Ok(Message::Ping(payload)) => return Heard::Work(Work::Write(frame::pong(&payload))),
        Ok(Message::Pong(_) | Message::Frame(_)) => return Heard::Nothing,
        Ok(Message::Close(_)) => match close_code.filter(|&code| !close::may_be_sent(code)) {
            Some(code) => {
                events.peer_fault("protocol", &format_args!("a close frame with the code {code}"));
                Close::Protocol
            }
            None => Close::Normal,
        },
        Ok(Message::Binary(_)) => {
            events.peer_fault("binary", &"a binary message");
            Close::Unsupported
        }
        Err(Fault::Frame(breach)) => {
            events.peer_fault("protocol", &breach);
            Close::Protocol
        }
        Err(Fault::Fragments) => {
            events.peer_fault("fragments", &"a message in too many pieces");
            Close::Fragments
        }
        Err(Fault::NoRoom) => {
            events.peer_fault("no_room", &"unfinished messages take all that they may");
            Close::NoRoom
        }
        Err(Fault::Error(error)) => match fault(&error) {
            Some((kind, close)) => {
                events.peer_fault(kind, &error);
                close
            }
            None => return Heard::Gone,
        },
    };
    Heard::Work(Work::Close(close))
}

/// The name that a fault of the peer has in logs and metrics, and the close frame that answers it. `None` if the
/// connection has simply ended.
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

/// Sends FIN, then reads on for at most [`LINGER`]: a reset, which unread bytes would cause, could overtake what was
/// written.
async fn linger(conn: &Connection) {
    if conn.stream.close_write().is_err() {
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
    // It makes no difference whether the peer closed or the time ran out.
    let _ = tokio::time::timeout(LINGER, drain).await;
}

#[cfg(test)]
mod tests;
