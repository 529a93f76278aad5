//! What a connection knows: its channels, what each waits for, and what has come for it.
//!
//! Goes in: frames of the broker, and requests. Comes out: bytes for the broker, answers and deliveries. Touches no socket
//! and no clock, so that every sequence of frames can be tried without a broker.

use std::collections::{BTreeMap, VecDeque};

use amq_protocol::frame::AMQPFrame;
use amq_protocol::protocol::{AMQPClass, basic, channel, connection, parse_class};
use lapin::protocol::AMQPError;
use lapin::{Error, ErrorKind};

use super::delivery::{Arriving, Delivery};
use super::wire::{Fields, Frame, Kind, broken, write_frame};

/// Bytes for the broker that may wait at most. A connection has acknowledgements and small requests to send.
const OUT_MAX: usize = 1 << 20;
/// The largest prefetch count of a queue whose deliveries may have to be held.
pub const PREFETCH_MAX: u16 = 500;
/// Bytes of deliveries that may be held at most, while they are not asked for. As many as may be on their way, of the
/// largest size, fit into it twice: no broker that keeps to the prefetch count is cut off.
const HELD_MAX: usize = 256 << 20;
/// Channels that may be open at a time.
const CHANNELS_MAX: usize = 256;

/// Why a channel delivers no more.
#[derive(Clone, Debug)]
pub enum Ended {
    /// The broker has cancelled the consumer: the queue is gone.
    Cancelled,
    /// The broker has closed the channel, or the connection is lost.
    Lost(Error),
}

/// One channel. It has one consumer at most.
#[derive(Debug, Default)]
struct Channel {
    /// A request waits for its answer.
    calls: bool,
    /// Answers that are on their way to requests which nobody waits for any more.
    stale: u32,
    answer: Option<AMQPClass>,
    /// Whether the message published last was taken.
    confirmed: Option<bool>,
    arriving: Option<Arriving>,
    held: VecDeque<Delivery>,
    ended: Option<Ended>,
    /// This side has closed it: whatever comes is dropped, up to the broker's answer.
    closing: bool,
}

/// The state of a connection.
#[derive(Debug)]
pub(super) struct State {
    pub(super) out: Vec<u8>,
    /// What both sides have agreed on.
    pub(super) frame_max: usize,
    pub(super) channel_max: u16,
    /// Why the connection is over.
    pub(super) ended: Option<Error>,
    channels: BTreeMap<u16, Channel>,
    last_channel: u16,
    held_bytes: usize,
}

impl State {
    /// Before the handshake.
    pub(super) fn new(frame_max: usize) -> State {
        let channels = BTreeMap::from([(0, Channel::default())]);
        State { out: Vec::new(), frame_max, channel_max: 0, ended: None, channels, last_channel: 0, held_bytes: 0 }
    }

    /// Ends the connection for this reason, unless it has ended before.
    pub(super) fn end(&mut self, reason: Error) -> Error {
        self.ended.get_or_insert(reason).clone()
    }

    /// Puts a frame behind what waits to be written.
    pub(super) fn send(&mut self, frame: &AMQPFrame) {
        let written = write_frame(&mut self.out, frame);
        let full = self.out.len() > OUT_MAX;
        if let Err(error) = written {
            self.end(error);
        } else if full {
            self.end(std::io::Error::other("the broker takes nothing any more").into());
        }
    }

    pub(super) fn send_method(&mut self, channel: u16, method: AMQPClass) {
        self.send(&AMQPFrame::Method(channel, method));
    }

    /// The number of a new channel.
    pub(super) fn new_channel(&mut self) -> Result<u16, Error> {
        let max = if self.channel_max == 0 { u16::MAX } else { self.channel_max };
        if self.channels.len() > CHANNELS_MAX.min(max.into()) {
            return Err(ErrorKind::ChannelsLimitReached.into());
        }
        // A number is used again late, so that nobody mistakes a channel for the one before it.
        while {
            self.last_channel = if self.last_channel >= max { 1 } else { self.last_channel + 1 };
            self.channels.contains_key(&self.last_channel)
        } {}
        self.channels.insert(self.last_channel, Channel::default());
        Ok(self.last_channel)
    }

    /// Sends a request whose answer is waited for with [`State::answer`].
    pub(super) fn ask(&mut self, channel: u16, method: AMQPClass) {
        let Some(known) = self.channels.get_mut(&channel).filter(|known| !matches!(known.ended, Some(Ended::Lost(_))))
        else {
            return;
        };
        // Whoever asked before has stopped waiting, and the answer is still to come.
        known.stale += u32::from(std::mem::replace(&mut known.calls, true));
        known.answer = None;
        self.send_method(channel, method);
    }

    /// The answer to a request, or why there is none.
    pub(super) fn answer(&mut self, channel: u16) -> Option<Result<AMQPClass, Error>> {
        if let Some(ended) = self.ended_of(channel) {
            return Some(Err(ended));
        }
        let known = self.channels.get_mut(&channel)?;
        let answer = known.answer.take()?;
        known.calls = false;
        Some(Ok(answer))
    }

    /// Why a channel takes no request: it is closed. It is forgotten, once that has been told.
    fn ended_of(&mut self, channel: u16) -> Option<Error> {
        if let Some(error) = &self.ended {
            return Some(error.clone());
        }
        match self.channels.get(&channel) {
            None => Some(ErrorKind::InvalidChannel(channel).into()),
            Some(Channel { ended: Some(Ended::Lost(error)), .. }) => {
                let error = error.clone();
                self.forget(channel);
                Some(error)
            }
            Some(_) => None,
        }
    }

    /// Whether the message published last was taken.
    pub(super) fn confirmed(&mut self, channel: u16) -> Option<Result<bool, Error>> {
        if let Some(ended) = self.ended_of(channel) {
            return Some(Err(ended));
        }
        self.channels.get_mut(&channel)?.confirmed.take().map(Ok)
    }

    /// The next delivery that has come on a channel, or why no more will.
    pub(super) fn delivered(&mut self, channel: u16) -> Option<Result<Delivery, Ended>> {
        let known = self.channels.get_mut(&channel)?;
        if let Some(delivery) = known.held.pop_front() {
            self.held_bytes = self.held_bytes.saturating_sub(delivery.bytes());
            return Some(Ok(delivery));
        }
        known.ended.clone().map(Err)
    }

    /// Closes a channel without waiting for the broker's answer.
    pub(super) fn abandon(&mut self, channel: u16) {
        let Some(known) = self.channels.get_mut(&channel) else { return };
        if matches!(known.ended, Some(Ended::Lost(_))) {
            return self.forget(channel);
        }
        if !std::mem::replace(&mut known.closing, true) {
            known.arriving = None;
            let freed: usize = known.held.drain(..).map(|delivery| delivery.bytes()).sum();
            self.held_bytes = self.held_bytes.saturating_sub(freed);
            let close = channel::Close { reply_code: 200, reply_text: "done".into(), class_id: 0, method_id: 0 };
            self.send_method(channel, AMQPClass::Channel(channel::AMQPMethod::Close(close)));
        }
    }

    /// Whether a channel is no more.
    pub(super) fn is_closed(&self, channel: u16) -> bool {
        !self.channels.contains_key(&channel)
    }

    fn forget(&mut self, channel: u16) {
        if let Some(Channel { held, .. }) = self.channels.remove(&channel) {
            let freed: usize = held.iter().map(Delivery::bytes).sum();
            self.held_bytes = self.held_bytes.saturating_sub(freed);
        }
    }

    /// Takes in a frame of the broker.
    ///
    /// # Errors
    /// If no broker that speaks AMQP sends it here: the connection is of no use any more.
    pub(super) fn take(&mut self, frame: Frame<'_>) -> Result<(), Error> {
        let Frame { kind, channel, payload } = frame;
        let complete = match kind {
            Kind::Heartbeat if channel == 0 => return Ok(()),
            Kind::Heartbeat => return Err(broken("a heartbeat of a channel")),
            Kind::Method => return self.method(channel, payload),
            Kind::Header => self.arriving(channel)?.map_or(Ok(false), |arriving| arriving.header(payload))?,
            Kind::Body => self.arriving(channel)?.map_or(Ok(false), |arriving| arriving.body(payload))?,
        };
        if complete { self.hold(channel) } else { Ok(()) }
    }

    /// The delivery that a header or a body belongs to; none on a channel that is being closed.
    fn arriving(&mut self, channel: u16) -> Result<Option<&mut Arriving>, Error> {
        match self.channels.get_mut(&channel) {
            Some(Channel { closing: true, .. }) => Ok(None),
            Some(Channel { arriving: Some(arriving), .. }) => Ok(Some(arriving)),
            _ => Err(broken("a piece of a message where none belongs")),
        }
    }

    /// Keeps a whole delivery until it is asked for.
    fn hold(&mut self, channel: u16) -> Result<(), Error> {
        let Some(known) = self.channels.get_mut(&channel) else { return Ok(()) };
        if let Some(delivery) = known.arriving.take().map(Arriving::end) {
            self.held_bytes += delivery.bytes();
            known.held.push_back(delivery);
        }
        if self.held_bytes > HELD_MAX {
            return Err(broken("more deliveries than the prefetch count allows, or far larger ones"));
        }
        Ok(())
    }

    fn method(&mut self, channel: u16, payload: &[u8]) -> Result<(), Error> {
        let mut fields = Fields(payload);
        let (Some(class), Some(method)) = (fields.u16(), fields.u16()) else { return Err(broken("half a method")) };
        let Some(known) = self.channels.get_mut(&channel) else {
            // Both sides have closed the channel at the same time: this is the answer to the one that came second.
            return if (class, method) == (20, 41) {
                Ok(())
            } else {
                Err(broken("a method of a channel that is not open"))
            };
        };
        if channel > 0 && known.closing && !matches!((class, method), (20, 40 | 41)) {
            return Ok(());
        }
        if known.arriving.is_some() && (class, method) != (20, 40) && channel > 0 {
            return Err(broken("a method within a message"));
        }
        match (channel, class, method) {
            (1.., 60, 60) => known.arriving = Some(Arriving::begin(fields)?),
            // Start: read by the handshake; all that it holds is texts and a table that nobody looks at.
            (0, 10, 10) => {
                let start = start(fields).ok_or_else(|| broken("half a greeting"))?;
                known.answer = Some(AMQPClass::Connection(connection::AMQPMethod::Start(start)));
            }
            // connection.blocked and unblocked are for those who publish.
            (0, 10, 60 | 61) => {}
            // Of these, none holds a table: parsing them needs no depth, and no more memory than they have.
            (0, 10, 20 | 30 | 41 | 50 | 51)
            | (1.., 20, 11 | 20 | 40 | 41)
            | (1.., 40, 11)
            | (1.., 50, 11 | 21)
            | (1.., 60, 11 | 21 | 30 | 80 | 120)
            | (1.., 85, 11) => {
                let parsed = parse_class(payload);
                let (rest, parsed) = parsed.map_err(|_| broken("a method that cannot be read"))?;
                if !rest.is_empty() {
                    return Err(broken("a method that is too long"));
                }
                self.parsed(channel, parsed);
            }
            _ => return Err(broken("a method that no broker sends here")),
        }
        Ok(())
    }

    fn parsed(&mut self, id: u16, method: AMQPClass) {
        use channel::AMQPMethod as Ch;
        use connection::AMQPMethod as Con;
        let Some(known) = self.channels.get_mut(&id) else { return };
        match method {
            AMQPClass::Connection(Con::Close(close)) => {
                let reason = refusal(close.reply_code, close.reply_text.as_str());
                self.send_method(0, AMQPClass::Connection(Con::CloseOk(connection::CloseOk {})));
                self.end(reason);
            }
            AMQPClass::Connection(Con::CloseOk(_)) => {
                self.end(std::io::Error::from(std::io::ErrorKind::NotConnected).into());
            }
            AMQPClass::Channel(Ch::Close(close)) => {
                let reason = refusal(close.reply_code, close.reply_text.as_str());
                let closing = known.closing;
                (known.ended, known.arriving) = (Some(Ended::Lost(reason)), None);
                self.send_method(id, AMQPClass::Channel(Ch::CloseOk(channel::CloseOk {})));
                if closing {
                    self.forget(id);
                }
            }
            AMQPClass::Channel(Ch::CloseOk(_)) if known.closing => self.forget(id),
            AMQPClass::Channel(Ch::Flow(channel::Flow { active })) => {
                self.send_method(id, AMQPClass::Channel(Ch::FlowOk(channel::FlowOk { active })));
            }
            AMQPClass::Basic(basic::AMQPMethod::Cancel(basic::Cancel { consumer_tag, nowait })) => {
                known.ended.get_or_insert(Ended::Cancelled);
                if !nowait {
                    let told = basic::AMQPMethod::CancelOk(basic::CancelOk { consumer_tag });
                    self.send_method(id, AMQPClass::Basic(told));
                }
            }
            AMQPClass::Basic(basic::AMQPMethod::Ack(_)) => known.confirmed = Some(true),
            AMQPClass::Basic(basic::AMQPMethod::Nack(_)) => known.confirmed = Some(false),
            answer if known.stale > 0 => {
                known.stale -= 1;
                drop(answer);
            }
            answer => known.answer = Some(answer),
        }
    }
}

/// The broker's reason for closing a channel or the connection.
fn refusal(code: u16, text: &str) -> Error {
    match AMQPError::from_id(code, text.into()) {
        Some(error) => ErrorKind::ProtocolError(error).into(),
        None => std::io::Error::other(format!("the broker closes, code {code}: {text}")).into(),
    }
}

/// What is needed of the broker's greeting. Its table of properties is passed over: it could be nested without end.
fn start(mut fields: Fields<'_>) -> Option<connection::Start> {
    let (version_major, version_minor) = (fields.u8()?, fields.u8()?);
    fields.long()?;
    let (mechanisms, locales) = (fields.long()?.into(), fields.long()?.into());
    Some(connection::Start { version_major, version_minor, server_properties: Default::default(), mechanisms, locales })
}

#[cfg(test)]
mod tests;
