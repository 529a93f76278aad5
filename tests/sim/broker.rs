//! The broker: an exchange, a queue for each pod, and a stream with a beginning that moves.
//!
//! Goes in: publications and consumers. Comes out: deliveries in order, each at least once, until something is lost in
//! one of the ways in which RabbitMQ loses things.

use std::collections::VecDeque;
use std::rc::Rc;

use bugfeed_protocol::bus::BusMessage;
use bugfeed_protocol::{Cursor, Numbered, When};
use rand::Rng as _;
use rand::rngs::SmallRng;

pub type Message = Rc<Numbered>;

/// What a publisher is told of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm {
    Ack,
    Nack,
    Returned,
    /// The connection is gone; what became of the message cannot be told.
    Lost,
}

#[derive(Debug, Default)]
pub struct Queue {
    pub ready: VecDeque<Message>,
    /// Delivered, not yet acknowledged.
    pub unacked: VecDeque<Message>,
}

#[derive(Debug)]
pub struct Broker {
    pub up: bool,
    pub queues: Vec<Option<Queue>>,
    queue_max: usize,
    prefetch: usize,
    /// Whether there is a stream.
    pub streams: bool,
    /// Whether it answers just now.
    pub stream_up: bool,
    pub stream: VecDeque<Message>,
    /// The offset of the stream's first message.
    pub first: u64,
    /// Messages that a full queue dropped.
    pub dropped: u64,
}

impl Broker {
    pub fn new(pods: usize, queue_max: usize, prefetch: usize, streams: bool) -> Broker {
        Broker {
            up: true,
            queues: (0..pods).map(|_| None).collect(),
            queue_max,
            prefetch,
            streams,
            stream_up: streams,
            stream: VecDeque::new(),
            first: 0,
            dropped: 0,
        }
    }

    /// Routes a message. A refused one may have reached some queues; one whose connection is lost all, or none.
    pub fn publish(&mut self, message: &Message, refused: bool, lost: bool, random: &mut SmallRng) -> Confirm {
        if !self.up || lost && random.random_bool(0.5) {
            return Confirm::Lost;
        }
        let mut reached = false;
        for at in 0..self.queues.len() {
            if refused && random.random_bool(0.6) {
                continue;
            }
            if let Some(queue) = &mut self.queues[at] {
                queue.ready.push_back(Rc::clone(message));
                reached = true;
                // Only what is ready counts.
                if queue.ready.len() > self.queue_max {
                    queue.ready.pop_front();
                    self.dropped += 1;
                }
            }
        }
        if self.streams && !(refused && random.random_bool(0.6)) {
            self.stream.push_back(Rc::clone(message));
            reached = true;
        }
        match (lost, refused, reached) {
            (true, _, _) => Confirm::Lost,
            (_, true, _) => Confirm::Nack,
            (_, _, true) => Confirm::Ack,
            _ => Confirm::Returned,
        }
    }

    /// The next delivery to a consumer.
    pub fn deliver(&mut self, pod: usize) -> Option<Message> {
        let queue = self.queues[pod].as_mut().filter(|_| self.up)?;
        if queue.unacked.len() >= self.prefetch {
            return None;
        }
        let message = queue.ready.pop_front()?;
        queue.unacked.push_back(Rc::clone(&message));
        Some(message)
    }

    /// Acknowledges the first `count` deliveries.
    pub fn ack(&mut self, pod: usize, count: usize) {
        if let Some(queue) = &mut self.queues[pod] {
            queue.unacked.drain(..count.min(queue.unacked.len()));
        }
    }

    /// A consumer's connection is gone: its queue goes with it, or takes back what was not acknowledged.
    pub fn disconnect(&mut self, pod: usize, durable: bool) {
        if !durable {
            self.queues[pod] = None;
        } else if let Some(queue) = &mut self.queues[pod] {
            while let Some(message) = queue.unacked.pop_back() {
                queue.ready.push_front(message);
            }
        }
    }

    /// The offset after the stream's last message.
    pub fn end(&self) -> u64 {
        self.first + self.stream.len() as u64
    }

    pub fn at(&self, offset: u64) -> Option<&Message> {
        self.stream.get(usize::try_from(offset.checked_sub(self.first)?).ok()?)
    }

    /// The number that the stream ends with.
    pub fn last(&self) -> Option<&Cursor> {
        self.stream.back().map(|message| &message.cursor)
    }

    /// Whether the stream holds, before `end` and in order, everything between two numbers.
    pub fn in_stream(&self, end: u64, head: Option<&Cursor>, number: &Cursor) -> bool {
        let Some(head) = head.filter(|head| head.epoch == number.epoch) else { return false };
        let mut next = head.seq + 1;
        let before = usize::try_from(end.saturating_sub(self.first)).unwrap();
        for message in self.stream.iter().take(before) {
            if message.cursor.epoch == number.epoch {
                if message.cursor.seq > next {
                    return false;
                }
                next += u64::from(message.cursor.seq == next);
            }
        }
        next >= number.seq
    }

    /// The stream's beginning is cut off.
    pub fn cut(&mut self, count: usize) {
        let count = count.min(self.stream.len());
        self.stream.drain(..count);
        self.first += count as u64;
    }
}

/// What a gateway reads of a message, and when its producer had it.
pub fn bus_message(message: &Message) -> (BusMessage, Option<When>) {
    // In whole seconds, rounded up, as the message property is.
    let seconds = (message.recorded.as_micros() + 999_999) / 1_000_000;
    let bus = BusMessage { change: message.change, cursor: Some(message.cursor.clone()), after: message.after };
    (bus, When::from_micros(seconds * 1_000_000))
}
