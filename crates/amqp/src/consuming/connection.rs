//! A connection: the bytes between [`State`] and the socket, heartbeats, the handshake.
//!
//! Goes in: a byte stream, and calls. Comes out: answers and deliveries. It has no task of its own: it reads and writes
//! while somebody waits for something of it, so that a delivery wakes one task only, which already has it when it runs.
//! Dropping a wait loses nothing: what has come stays in the connection.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use amq_protocol::auth::Credentials;
use amq_protocol::frame::{AMQPFrame, ProtocolVersion};
use amq_protocol::protocol::{AMQPClass, connection};
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::AMQPUri;
use lapin::{Error, ErrorKind};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::delivery::Delivery;
use super::state::{Ended, State};
use super::wire::{FRAME_BYTES, broken, first_frame};
use crate::transport::Duplex;

/// The smallest and the largest size of frames that is agreed on, in bytes, and what this side proposes. The header of a
/// batch comes in one frame, and may be nearly as large as the publisher's frames.
const FRAME_MAX: std::ops::RangeInclusive<usize> = 4096..=(1 << 20);
const FRAME_WANTED: u32 = 128 << 10;
/// The largest frame that is taken, in bytes, whatever was agreed on: a broker sends a header as large as it was published.
const FRAME_TAKEN: usize = (1 << 20) + (64 << 10);
/// Bytes that are read at once, unless a frame is larger.
const INPUT: usize = 64 << 10;
/// So many halves of a heartbeat interval without a byte, and the broker counts as dead.
const SILENT: u32 = 4;

/// The place of a channel among those that were asked for, and its delivery, or why it has no more.
pub type Came = (usize, Result<Delivery, Ended>);

/// A connection for consuming.
pub struct Connection {
    stream: Box<dyn Duplex>,
    pub(super) state: State,
    /// Bytes that were read; those from `begin` to `end` are yet to be looked at. It grows only for a frame that is larger.
    input: Vec<u8>,
    begin: usize,
    end: usize,
    /// So many bytes of what is to be sent have been written.
    written: usize,
    /// Twice for each heartbeat interval; none where there are no heartbeats.
    beats: Option<Interval>,
    /// Whether something was read, and written, since the last beat.
    heard: bool,
    spoken: bool,
    silent: u32,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("ended", &self.state.ended).finish_non_exhaustive()
    }
}

impl Connection {
    /// Logs in over a stream that is connected.
    ///
    /// # Errors
    /// If the broker refuses, or does not speak AMQP 0-9-1. Waits as long as the broker takes: bound it.
    pub(crate) async fn log_in(stream: Box<dyn Duplex>, uri: &AMQPUri, name: &str) -> Result<Connection, Error> {
        let wanted = usize::try_from(uri.query.frame_max.unwrap_or(FRAME_WANTED)).unwrap_or(usize::MAX);
        let frame_max = wanted.clamp(*FRAME_MAX.start(), *FRAME_MAX.end());
        let mut connection = Connection {
            stream,
            state: State::new(frame_max),
            input: vec![0; INPUT],
            begin: 0,
            end: 0,
            written: 0,
            beats: None,
            heard: false,
            spoken: false,
            silent: 0,
        };
        connection.state.send(&AMQPFrame::ProtocolHeader(ProtocolVersion::amqp_0_9_1()));
        connection.shake_hands(uri, name).await?;
        Ok(connection)
    }

    async fn shake_hands(&mut self, uri: &AMQPUri, name: &str) -> Result<(), Error> {
        use connection::AMQPMethod as Con;
        let AMQPClass::Connection(Con::Start(start)) = self.answer(0).await? else { return Err(broken("no greeting")) };
        if (start.version_major, start.version_minor) != (0, 9) {
            return Err(broken("another version"));
        }
        let mechanism = uri.query.auth_mechanism.unwrap_or_default();
        let credentials = Credentials::from(uri.authority.userinfo.clone());
        let start_ok = connection::StartOk {
            client_properties: about_this_client(name),
            mechanism: mechanism.name().into(),
            response: credentials.sasl_auth_string(mechanism),
            locale: "en_US".into(),
        };
        let AMQPClass::Connection(Con::Tune(tune)) =
            self.call(0, AMQPClass::Connection(Con::StartOk(start_ok))).await?
        else {
            return Err(broken("an answer to the login that is not known"));
        };
        // 0 stands for no limit, and then the other side's is kept to.
        if tune.frame_max > 0 {
            let theirs = usize::try_from(tune.frame_max).unwrap_or(usize::MAX);
            self.state.frame_max = self.state.frame_max.min(theirs.max(*FRAME_MAX.start()));
        }
        let heartbeat = [uri.query.heartbeat.unwrap_or(0), tune.heartbeat].into_iter().filter(|&s| s > 0).min();
        let channels = [uri.query.channel_max.unwrap_or(0), tune.channel_max].into_iter().filter(|&n| n > 0).min();
        self.state.channel_max = channels.unwrap_or(u16::MAX);
        let tune_ok = connection::TuneOk {
            channel_max: self.state.channel_max,
            frame_max: u32::try_from(self.state.frame_max).unwrap_or(u32::MAX),
            heartbeat: heartbeat.unwrap_or(0),
        };
        self.state.send_method(0, AMQPClass::Connection(Con::TuneOk(tune_ok)));
        self.beats = heartbeat.map(|seconds| {
            let half = Duration::from_millis(u64::from(seconds) * 500);
            let mut beats = interval_at(Instant::now() + half, half);
            // Whoever could not look for a long time has not been silent for as long.
            beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
            beats
        });
        let open = connection::Open { virtual_host: uri.vhost.as_str().into() };
        match self.call(0, AMQPClass::Connection(Con::Open(open))).await? {
            AMQPClass::Connection(Con::OpenOk(_)) => Ok(()),
            _ => Err(broken("an answer to the opening that is not known")),
        }
    }

    /// Whether nothing has ended it, as far as is known.
    pub fn is_connected(&self) -> bool {
        self.state.ended.is_none()
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn call(&mut self, channel: u16, method: AMQPClass) -> Result<AMQPClass, Error> {
        self.state.ask(channel, method);
        self.answer(channel).await
    }

    async fn answer(&mut self, channel: u16) -> Result<AMQPClass, Error> {
        self.until(|state| state.answer(channel)).await?
    }

    /// What comes next on one of these channels, which are looked at in this order, and its place among them. A channel that
    /// is left out keeps what comes for it until it is asked for. It may be dropped at any time: nothing is lost by that.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn next(&mut self, channels: &[u16]) -> Result<Came, Error> {
        self.until(|state| came(state, channels)).await
    }

    /// The same, without waiting and without looking at the socket: only what has been read already.
    pub fn next_read(&mut self, channels: &[u16]) -> Option<Result<Came, Error>> {
        loop {
            if let Some(came) = came(&mut self.state, channels) {
                return Some(Ok(came));
            }
            match self.take_frame() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(lost) => return Some(Err(lost)),
            }
        }
    }

    /// Whether something that was read has not been looked at. It may be less than a delivery.
    pub fn has_read_more(&self) -> bool {
        self.begin < self.end
    }

    /// Reads and writes until something is there.
    pub(super) async fn until<T>(&mut self, mut ready: impl FnMut(&mut State) -> Option<T>) -> Result<T, Error> {
        poll_fn(|cx| self.poll_until(&mut ready, cx)).await
    }

    fn poll_until<T>(
        &mut self,
        ready: &mut impl FnMut(&mut State) -> Option<T>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, Error>> {
        loop {
            if let Some(found) = ready(&mut self.state) {
                return Poll::Ready(Ok(found));
            }
            if let Some(ended) = &self.state.ended {
                let ended = ended.clone();
                // The answer to the broker's closing, as far as the socket takes it.
                let _ = self.poll_write(cx);
                return Poll::Ready(Err(ended));
            }
            if self.take_frame()? {
                continue;
            }
            let written = self.poll_write(cx);
            self.checked(written)?;
            if let Poll::Ready(read) = self.poll_read(cx) {
                read.map_err(|error| self.state.end(error.into()))?;
                continue;
            }
            if !self.poll_beat(true, cx)? {
                return Poll::Pending;
            }
        }
    }

    /// Sends heartbeats, and reads nothing, for as long as it is waited for. For somebody who is held up by something else,
    /// and must not take in more meanwhile.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn keep_alive(&mut self) -> Result<Infallible, Error> {
        poll_fn(|cx| {
            loop {
                let written = self.poll_write(cx);
                self.checked(written)?;
                if !self.poll_beat(false, cx)? {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Takes in the next frame of what was read. Whether there was one.
    fn take_frame(&mut self) -> Result<bool, Error> {
        let unread = &self.input[self.begin..self.end];
        let taken = match first_frame(unread, FRAME_TAKEN) {
            Ok(None) => return Ok(false),
            Ok(Some((frame, size))) => self.state.take(frame).map(|()| size),
            Err(error) => Err(error),
        };
        match taken {
            Ok(size) => {
                self.begin += size;
                Ok(true)
            }
            Err(error) => Err(self.state.end(error)),
        }
    }

    /// Reads what the socket has, once.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.begin > 0 {
            // What is left is less than a frame.
            self.input.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
        if self.end == self.input.len() {
            // The frame's size was looked at before: it is within `FRAME_TAKEN`.
            self.input.resize(2 * self.end, 0);
        }
        let mut buffer = ReadBuf::new(&mut self.input[self.end..]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        let read = buffer.filled().len();
        if read == 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the broker hung up")));
        }
        self.end += read;
        self.heard = true;
        Poll::Ready(Ok(()))
    }

    /// Writes what waits, as far as the socket takes it.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state.out.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.written < self.state.out.len() {
            let rest = &self.state.out[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
            // A heartbeat alone says nothing that the next could rely on.
            self.spoken |= self.state.out.len() > FRAME_BYTES;
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.state.out.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Ends the connection where a write failed. What the broker said before it hung up is its reason, and is read first.
    fn checked(&mut self, written: Poll<io::Result<()>>) -> Result<(), Error> {
        match written {
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.state.out.clear();
                self.written = 0;
                Ok(())
            }
            Poll::Ready(Err(error)) => Err(self.state.end(error.into())),
            _ => Ok(()),
        }
    }

    /// Does what is due for the heartbeat. Whether something was. `listens`: what the broker sends is being read.
    fn poll_beat(&mut self, listens: bool, cx: &mut Context<'_>) -> Result<bool, Error> {
        let Some(beats) = &mut self.beats else { return Ok(false) };
        if beats.poll_tick(cx).is_pending() {
            return Ok(false);
        }
        if !std::mem::take(&mut self.spoken) {
            self.state.send(&AMQPFrame::Heartbeat);
        }
        match std::mem::take(&mut self.heard) || !listens {
            true => self.silent = 0,
            false => self.silent += 1,
        }
        if self.silent >= SILENT {
            return Err(self.state.end(ErrorKind::MissingHeartbeatError.into()));
        }
        Ok(true)
    }

    /// Says goodbye, and waits until the broker has heard it.
    ///
    /// # Errors
    /// When the connection is lost before that.
    pub async fn close(&mut self, reason: &str) -> Result<(), Error> {
        let close = connection::Close { reply_code: 200, reply_text: reason.into(), class_id: 0, method_id: 0 };
        self.state.send_method(0, AMQPClass::Connection(connection::AMQPMethod::Close(close)));
        match self.until(|_| None::<Infallible>).await {
            Ok(never) => match never {},
            Err(ended) => match ended.kind() {
                ErrorKind::IOError(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
                _ => Err(ended),
            },
        }
    }
}

fn came(state: &mut State, channels: &[u16]) -> Option<Came> {
    channels.iter().enumerate().find_map(|(place, &channel)| Some((place, state.delivered(channel)?)))
}

/// What the broker shows of this client, and what it may rely on.
fn about_this_client(name: &str) -> FieldTable {
    let mut capabilities = FieldTable::default();
    // Without the last one, a refused login would only be a connection that ends.
    for can in ["publisher_confirms", "basic.nack", "consumer_cancel_notify", "authentication_failure_close"] {
        capabilities.insert(can.into(), AMQPValue::Boolean(true));
    }
    let mut about = FieldTable::default();
    for (key, value) in [
        ("connection_name", name),
        ("product", "bugfeed"),
        ("version", env!("CARGO_PKG_VERSION")),
        ("platform", "Rust"),
    ] {
        about.insert(key.into(), AMQPValue::LongString(value.into()));
    }
    about.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
    about
}

#[cfg(test)]
mod tests;
