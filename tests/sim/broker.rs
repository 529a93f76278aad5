//! The broker: two exchanges, a queue for each pod, and a stream with a beginning that moves.
//!
//! Goes in: publications and consumers. Comes out: deliveries in order, each at least once, until something is lost in
//! one of the ways in which RabbitMQ loses things.

use std::collections::VecDeque;
use std::rc::Rc;

use bugfeed_core::bus::Queue as Kind;
use bugfeed_protocol::bus::{BusMessage, Head};
use bugfeed_protocol::{Change, Cursor, Numbered, When};
use rand::RngExt as _;
use rand::rngs::SmallRng;

/// One change, or several that follow one another.
pub type Message = Rc<[Numbered]>;

/// How many heads wait beside a durable queue.
const HEADS: usize = 10;

/// What lies in queues and in the stream.
#[derive(Clone, Debug)]
pub enum Item {
    Change(Message),
    /// A change of a producer that gives no number.
    Foreign(Change),
    Head(Rc<Head>),
    /// Where a reading of the stream ends.
    Marker(u64),
}

impl Item {
    /// The numbers of its changes.
    pub fn cursors(&self) -> impl DoubleEndedIterator<Item = &Cursor> {
        let changes: &[Numbered] = match self {
            Item::Change(message) => message,
            _ => &[],
        };
        changes.iter().map(|numbered| &numbered.cursor)
    }

    /// Its changes, each as an item of its own.
    pub fn singles(&self) -> Vec<Item> {
        match self {
            Item::Change(message) => message.iter().map(|numbered| Item::Change([numbered.clone()].into())).collect(),
            other => vec![other.clone()],
        }
    }
}

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
    pub ready: VecDeque<Item>,
    /// Delivered, not yet acknowledged.
    pub unacked: VecDeque<Item>,
    /// Bound to the exchange of changes.
    bound: bool,
    /// Bound to that of heads.
    heads: bool,
}

/// What a pod's connection has beside a durable queue.
#[derive(Debug, Default)]
struct Beside {
    heads: VecDeque<Item>,
    bound: bool,
}

#[derive(Debug)]
pub struct Broker {
    pub up: bool,
    pub queues: Vec<Option<Queue>>,
    beside: Vec<Option<Beside>>,
    queue_max: usize,
    prefetch: usize,
    /// Whether the exchanges of changes and of heads are there.
    exchange: bool,
    head_exchange: bool,
    /// Whether there are streams at all.
    pub streams: bool,
    /// Whether the stream answers just now.
    pub stream_up: bool,
    stream_bound: bool,
    pub stream: VecDeque<Item>,
    /// The offset of the stream's first message.
    pub first: u64,
    /// How often the stream was made.
    pub stream_made: u64,
    markers: u64,
    /// Messages that a full queue dropped.
    pub dropped: u64,
}

impl Broker {
    pub fn new(pods: usize, queue_max: usize, prefetch: usize, streams: bool) -> Broker {
        Broker {
            up: true,
            queues: (0..pods).map(|_| None).collect(),
            beside: (0..pods).map(|_| None).collect(),
            queue_max,
            prefetch,
            exchange: false,
            head_exchange: false,
            streams,
            stream_up: streams,
            stream_bound: false,
            stream: VecDeque::new(),
            first: 0,
            stream_made: 0,
            markers: 0,
            dropped: 0,
        }
    }

    /// A shim connects: it makes what is missing, and binds the stream.
    pub fn connect_shim(&mut self) {
        (self.exchange, self.head_exchange) = (true, true);
        self.stream_bound = self.streams;
    }

    /// A pod connects.
    pub fn connect_pod(&mut self, pod: usize, durable: bool, heads: bool) -> Kind {
        let kind = if durable { Kind::Durable { kept: self.queues[pod].is_some() } } else { Kind::New };
        self.queues[pod].get_or_insert_default();
        if durable {
            self.beside[pod].get_or_insert_default();
        }
        self.rebind(pod, heads);
        kind
    }

    /// A pod makes exchanges and bindings, should they be gone. `heads`: it may bind to that of heads.
    pub fn rebind(&mut self, pod: usize, heads: bool) {
        self.exchange = true;
        self.head_exchange |= heads;
        let Some(queue) = &mut self.queues[pod] else { return };
        queue.bound = true;
        if !heads {
            return;
        }
        match &mut self.beside[pod] {
            Some(beside) => beside.bound = true,
            None => queue.heads = true,
        }
    }

    /// Routes a message. A refused one may have reached some queues; one whose connection is lost all, or none.
    pub fn publish(&mut self, item: &Item, refused: bool, lost: bool, random: &mut SmallRng) -> Confirm {
        if !self.up || !self.exchange || lost && random.random_bool(0.5) {
            return Confirm::Lost;
        }
        let mut reached = false;
        for at in 0..self.queues.len() {
            if refused && random.random_bool(0.6) {
                continue;
            }
            if self.queues[at].as_ref().is_some_and(|queue| queue.bound) {
                self.enqueue(at, item.clone());
                reached = true;
            }
        }
        if self.stream_bound && !(refused && random.random_bool(0.6)) {
            self.stream.push_back(item.clone());
            reached = true;
        }
        match (lost, refused, reached) {
            (true, _, _) => Confirm::Lost,
            (_, true, _) => Confirm::Nack,
            (_, _, true) => Confirm::Ack,
            _ => Confirm::Returned,
        }
    }

    fn enqueue(&mut self, pod: usize, item: Item) {
        let Some(queue) = &mut self.queues[pod] else { return };
        queue.ready.push_back(item);
        // Only what is ready counts.
        if queue.ready.len() > self.queue_max {
            let head = matches!(queue.ready.pop_front(), Some(Item::Head(_)));
            self.dropped += u64::from(!head);
        }
    }

    /// A publisher says where it is. Where its exchange is gone, the next one finds it made anew.
    pub fn say(&mut self, head: &Rc<Head>) {
        if !self.up || !std::mem::replace(&mut self.head_exchange, true) {
            return;
        }
        for at in 0..self.queues.len() {
            if self.queues[at].as_ref().is_some_and(|queue| queue.heads) {
                self.enqueue(at, Item::Head(Rc::clone(head)));
            }
            if let Some(beside) = self.beside[at].as_mut().filter(|beside| beside.bound) {
                beside.heads.push_back(Item::Head(Rc::clone(head)));
                beside.heads.drain(..beside.heads.len().saturating_sub(HEADS));
            }
        }
    }

    /// The next delivery to a pod, and whether it came beside its queue.
    pub fn deliver(&mut self, pod: usize, random: &mut SmallRng) -> Option<(Item, bool)> {
        if !self.up {
            return None;
        }
        let queue = self.queues[pod].as_mut()?;
        let waits = !queue.ready.is_empty() && queue.unacked.len() < self.prefetch;
        if let Some(beside) = &mut self.beside[pod]
            && (!waits || random.random_bool(0.5))
            && let Some(head) = beside.heads.pop_front()
        {
            return Some((head, true));
        }
        let item = if waits { queue.ready.pop_front()? } else { return None };
        queue.unacked.push_back(item.clone());
        Some((item, false))
    }

    /// Acknowledges the first `count` deliveries.
    pub fn ack(&mut self, pod: usize, count: usize) {
        if let Some(queue) = &mut self.queues[pod] {
            queue.unacked.drain(..count.min(queue.unacked.len()));
        }
    }

    /// A consumer's connection is gone: its queue goes with it, or takes back what was not acknowledged.
    pub fn disconnect(&mut self, pod: usize, durable: bool) {
        self.beside[pod] = None;
        if !durable {
            self.queues[pod] = None;
        } else if let Some(queue) = &mut self.queues[pod] {
            while let Some(item) = queue.unacked.pop_back() {
                queue.ready.push_front(item);
            }
        }
    }

    /// Nothing waits for a pod.
    pub fn is_drained(&self, pod: usize) -> bool {
        let empty = |queue: &Queue| queue.ready.is_empty() && queue.unacked.is_empty();
        let beside = self.beside[pod].as_ref().is_none_or(|beside| beside.heads.is_empty());
        beside && self.queues[pod].as_ref().is_some_and(empty)
    }

    /// Everything is gone, as from a broker whose disk was replaced. Connections are not looked at here.
    pub fn wipe(&mut self) {
        self.queues.iter_mut().for_each(|queue| *queue = None);
        self.unbind(true);
        self.delete_stream();
    }

    /// The stream is deleted, and its readers with it: it is made anew, from offset 0.
    pub fn delete_stream(&mut self) {
        (self.stream, self.first, self.stream_bound) = (VecDeque::new(), 0, false);
        self.stream_made += 1;
    }

    /// The exchange is deleted, and perhaps that of heads, too: nothing is bound to it any more.
    pub fn unbind(&mut self, heads: bool) {
        self.exchange = false;
        self.stream_bound = false;
        self.head_exchange &= !heads;
        for queue in self.queues.iter_mut().flatten() {
            (queue.bound, queue.heads) = (false, queue.heads && !heads);
        }
        self.beside.iter_mut().flatten().for_each(|beside| beside.bound &= !heads);
    }

    /// A reading begins: the stream is made and bound, and its end is marked. The marker; none where that fails.
    pub fn mark(&mut self) -> Option<u64> {
        if !self.up || !self.stream_up || !self.exchange {
            return None;
        }
        self.stream_bound = true;
        self.markers += 1;
        self.stream.push_back(Item::Marker(self.markers));
        Some(self.markers)
    }

    pub fn at(&self, offset: u64) -> Option<&Item> {
        self.stream.get(usize::try_from(offset.checked_sub(self.first)?).ok()?)
    }

    /// The number that the stream ends with.
    pub fn last(&self) -> Option<&Cursor> {
        self.stream.iter().rev().flat_map(|item| item.cursors().rev()).next()
    }

    fn before(&self, end: u64) -> impl Iterator<Item = &Cursor> {
        let count = usize::try_from(end.saturating_sub(self.first)).unwrap();
        self.stream.iter().take(count).flat_map(Item::cursors)
    }

    /// Whether the stream holds, before `end` and in order, everything between a number and one that follows it. `of`: whether
    /// a number is of their history.
    pub fn in_stream(&self, end: u64, head: Option<&Cursor>, seq: u64, of: impl Fn(&Cursor) -> bool) -> bool {
        let Some(head) = head else { return false };
        let mut next = head.seq + 1;
        for cursor in self.before(end).filter(|cursor| of(cursor)) {
            if cursor.seq > next {
                return false;
            }
            next += u64::from(cursor.seq == next);
        }
        next >= seq
    }

    /// Whether the stream holds, before `end`, a number or the one after it.
    pub fn meets(&self, end: u64, head: &Cursor) -> bool {
        let meets = |cursor: &Cursor| *cursor == *head || cursor.epoch == head.epoch && cursor.seq == head.seq + 1;
        self.before(end).any(meets)
    }

    /// The stream's beginning is cut off.
    pub fn cut(&mut self, count: usize) {
        let count = count.min(self.stream.len());
        self.stream.drain(..count);
        self.first += count as u64;
    }
}

/// What a gateway reads of a single change, and when its producer had it.
pub fn bus_message(item: &Item) -> (BusMessage, Option<When>) {
    match item {
        Item::Change(message) => {
            let [message] = &**message else { unreachable!("several changes") };
            // In whole seconds, rounded up, as the message property is.
            let seconds = (message.recorded.as_micros() + 999_999) / 1_000_000;
            let bus = BusMessage { change: message.change, cursor: Some(message.cursor.clone()), after: message.after };
            (bus, When::from_micros(seconds * 1_000_000))
        }
        Item::Foreign(change) => (BusMessage { change: *change, cursor: None, after: None }, None),
        Item::Head(_) | Item::Marker(_) => unreachable!("not a change"),
    }
}
