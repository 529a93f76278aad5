//! One pod: the real intake and the real shards, and the decisions of `bus/amqp.rs` and `bus/history.rs` around them,
//! one step at a time.
//!
//! Goes in: what the broker delivers, and connections. Comes out: entries in the cache, inputs in the shards' queues.
//! Beside each taken message it keeps the [`Shadow`], and compares.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use bugfeed::core::input::{About, Input, Work};
use bugfeed::core::intake::{Intake, New, Taken};
use bugfeed::core::replay::{Pos, Replay, replay};
use bugfeed::core::shard::Shard;
use bugfeed_protocol::{Cursor, Epoch, When, client};
use rand::Rng as _;
use rand::rngs::SmallRng;

use crate::broker::{Broker, Message, bus_message};
use crate::shadow::{Judged, Shadow, Truth};
use crate::swarm::Swarm;
use crate::wire::{End, Wire};

/// How often reading history is tried.
const ATTEMPTS: u32 = 3;
/// How long the shard of a feed that is current believes a client that is ahead.
const AHEAD_MS: u64 = 5000;

/// One shard and its queue.
pub struct Lane {
    pub shard: Shard<End>,
    pub inputs: VecDeque<Input<End>>,
    /// The position of the last update processed.
    processed: Pos,
    /// Updates are staged, and to be flushed before the next input.
    staged: bool,
    /// Since when it knows the feed to be current.
    current_ms: Option<u64>,
}

/// The gateway's side of a connection.
struct Conn {
    wire: Rc<Wire>,
    lane: usize,
    busy: bool,
}

/// Where the pod stands with the broker.
enum Link {
    Down,
    CatchUp { hole: Option<Message>, failures: u32 },
    Reading(Reading),
    Live,
}

/// Reading history, up to where the marker lies.
struct Reading {
    at: u64,
    end: u64,
    first: bool,
    after: Option<Cursor>,
    from_first: bool,
    /// The message that showed a hole; none at the beginning of a connection.
    hole: Option<Message>,
    failures: u32,
}

/// From start to death.
pub struct Life {
    intake: Intake,
    pub cache: Arc<Replay>,
    pub lanes: Vec<Lane>,
    conns: Vec<Conn>,
    pub shadow: Rc<RefCell<Shadow>>,
    link: Link,
    known: Option<(Cursor, u64)>,
    /// Taken in, not yet acknowledged.
    taken: usize,
    /// What the shards were told last.
    current: bool,
    now_ms: u64,
    /// Where earlier lives with the same queue stood.
    pub expects: Option<Cursor>,
    delivered: bool,
    /// It takes no new connections, and dies then.
    pub drains_until_ms: Option<u64>,
}

/// What a step of a pod may touch.
pub struct Around<'a> {
    pub pod: usize,
    pub broker: &'a mut Broker,
    pub truth: &'a Truth,
    pub swarm: &'a Swarm,
    pub random: &'a mut SmallRng,
    pub now: When,
}

type Checked<T = ()> = Result<T, String>;

impl Life {
    pub fn new(swarm: &Swarm, random: &mut SmallRng) -> Life {
        let (recorder, cache) = replay(swarm.ring);
        let about = || About { version: "1".into(), feed: "default".into() };
        let lane = || Lane {
            shard: Shard::new(Arc::clone(&cache), swarm.limits, about()),
            inputs: VecDeque::new(),
            processed: 0,
            staged: false,
            current_ms: None,
        };
        Life {
            lanes: (0..swarm.shards).map(|_| lane()).collect(),
            intake: Intake::new(recorder, Epoch::from_random(random.random())),
            cache,
            conns: Vec::new(),
            shadow: Rc::default(),
            link: Link::Down,
            known: None,
            taken: 0,
            current: false,
            now_ms: 0,
            expects: None,
            delivered: false,
            drains_until_ms: None,
        }
    }

    pub fn connect(&mut self, wire: &Rc<Wire>, lane: usize) {
        let lane = lane % self.lanes.len();
        self.lanes[lane].inputs.push_back(Input::Attach(End(Rc::clone(wire))));
        self.conns.push(Conn { wire: Rc::clone(wire), lane, busy: true });
    }

    /// The process dies: every connection with it.
    pub fn die(&self) {
        for conn in &self.conns {
            conn.wire.cut.set(true);
        }
    }

    /// One turn of the task of some connection (`pick`).
    pub fn conn_step(&mut self, pick: usize) {
        if self.conns.is_empty() {
            return;
        }
        let at = pick % self.conns.len();
        let conn = &mut self.conns[at];
        let wire = &conn.wire;
        conn.busy &= !wire.ready.take();
        let Some(slot) = wire.slot.get() else { return };
        let inputs = &mut self.lanes[conn.lane].inputs;
        if wire.ended.get() || wire.gone.get() && !conn.busy {
            inputs.push_back(Input::Detach(slot));
            wire.cut.set(true);
            self.conns.swap_remove(at);
        } else if wire.wants.get() && (wire.room.get() > 0 || wire.broken.get()) {
            wire.wants.set(false);
            inputs.push_back(Input::Writable(slot));
        } else if wire.gone.get() && wire.wants.get() {
            // The peer's reset makes the socket writable, with an error.
            wire.broken.set(true);
        } else if !conn.busy
            && let Some(text) = wire.commands.borrow_mut().pop_front()
        {
            conn.busy = true;
            inputs.push_back(Input::Work(slot, Work::Command(client::parse(&text))));
        }
    }

    /// A shard processes its next inputs, of which up to `batch` are updates, and writes to as many sessions.
    pub fn shard_step(&mut self, lane: usize, batch: usize) {
        let lane = lane % self.lanes.len();
        if self.lanes[lane].staged {
            self.flush(lane, batch);
            return;
        }
        for _ in 0..batch {
            match self.lanes[lane].inputs.pop_front() {
                Some(input @ Input::Update(_)) => self.process(lane, input),
                Some(input) => {
                    self.process(lane, input);
                    break;
                }
                None => break,
            }
        }
        self.flush(lane, batch);
    }

    fn flush(&mut self, lane: usize, at_most: usize) {
        let lane = &mut self.lanes[lane];
        lane.staged = !lane.shard.flush(at_most);
    }

    fn process(&mut self, lane: usize, input: Input<End>) {
        if let Input::Work(slot, _) | Input::Writable(slot) = &input
            && let Some(conn) = self.conns.iter().find(|c| c.lane == lane && c.wire.slot.get() == Some(*slot))
        {
            if let Input::Work(_, Work::Command(Ok(client::Command::Subscribe { resume, since, .. }))) = &input {
                self.asks(conn, resume.as_ref(), since.is_some());
            }
            // What came late, and waits in the queue, may stand for something that is not known any more.
            let hidden = self.shadow.borrow().has_late_after(self.lanes[lane].processed);
            conn.wire.may_gap.set(hidden || conn.wire.may_gap.get());
        }
        for conn in self.conns.iter().filter(|conn| conn.lane == lane) {
            // What it has seen elsewhere came here with another content.
            let ahead = conn.wire.ahead.borrow();
            if ahead.as_ref().is_some_and(|(cursor, _)| self.shadow.borrow().position(cursor).is_none()) {
                conn.wire.may_gap.set(true);
            }
        }
        match &input {
            Input::Update(update) => self.lanes[lane].processed = update.pos,
            Input::Current(current) => self.lanes[lane].current_ms = current.then_some(self.now_ms),
            _ => {}
        }
        self.lanes[lane].shard.take(input);
    }

    /// Notes what the answer to a subscribe must be.
    fn asks(&self, conn: &Conn, resume: Option<&client::Resume>, since: bool) {
        let processed = self.lanes[conn.lane].processed;
        let (mut can_tell, mut sent) = (false, if since { 0 } else { processed });
        if let Some(client::Resume::From(cursor)) = resume
            && let Some(pos) = self.shadow.borrow().position(cursor)
        {
            can_tell = pos >= self.cache.floor();
            sent = pos.min(processed);
            // Also where the break before it waits in the queue.
            if pos > processed || pos == processed && self.shadow.borrow().begins_after(pos) {
                *conn.wire.ahead.borrow_mut() = Some((cursor.clone(), self.now_ms));
            }
        }
        conn.wire.asked.borrow_mut().push_back((can_tell, sent));
    }

    pub fn idle(&self) -> bool {
        self.lanes.iter().all(|lane| lane.inputs.is_empty() && !lane.staged)
            && self.conns.iter().all(|conn| {
                let wire = &conn.wire;
                !wire.ready.get()
                    && !wire.ended.get()
                    && !wire.gone.get()
                    && (!wire.wants.get() || wire.room.get() == 0)
                    && (conn.busy || wire.commands.borrow().is_empty())
            })
    }

    pub fn tick(&mut self, now_ms: u64, now: When) {
        self.now_ms = now_ms;
        for conn in &self.conns {
            let mut ahead = conn.wire.ahead.borrow_mut();
            if let Some((cursor, since_ms)) = &*ahead {
                let current_ms = self.lanes[conn.lane].current_ms;
                let over = current_ms.is_some_and(|current_ms| now_ms >= current_ms.max(*since_ms) + AHEAD_MS);
                let pos = self.shadow.borrow().position(cursor);
                if pos.is_some_and(|pos| pos <= self.lanes[conn.lane].processed) {
                    *ahead = None;
                } else if over {
                    conn.wire.may_gap.set(true);
                }
            }
        }
        self.intake.tick(now);
        for lane in &mut self.lanes {
            lane.shard.tick(now_ms);
        }
    }

    pub fn drain(&mut self, now_ms: u64, window_ms: u64) {
        self.drains_until_ms = Some(now_ms + window_ms + 500);
        for lane in &mut self.lanes {
            lane.inputs.push_back(Input::Drain { window_ms });
        }
    }

    /// The connection to the broker is lost.
    pub fn lose_link(&mut self, around: &mut Around<'_>) {
        if !matches!(self.link, Link::Down) {
            around.broker.disconnect(around.pod, around.swarm.durable);
        }
        self.link = Link::Down;
        self.taken = 0;
        self.tell_current(false);
    }

    /// Tells the shards whether the bus is connected and history read.
    fn tell_current(&mut self, current: bool) {
        if std::mem::replace(&mut self.current, current) != current {
            for lane in &mut self.lanes {
                lane.inputs.push_back(Input::Current(current));
            }
        }
    }

    pub fn is_live(&self) -> bool {
        matches!(self.link, Link::Live) && self.taken == 0
    }

    /// One step of the task that listens to the bus.
    pub fn bus_step(&mut self, around: &mut Around<'_>) -> Checked {
        match std::mem::replace(&mut self.link, Link::Down) {
            Link::Down if around.broker.up && around.random.random_bool(around.swarm.connects) => {
                let queue = &mut around.broker.queues[around.pod];
                queue.get_or_insert_default();
                self.taken = 0;
                self.link = Link::CatchUp { hole: None, failures: 0 };
                if !around.broker.streams {
                    self.link = Link::Live;
                    self.tell_current(true);
                }
            }
            Link::Down => {}
            Link::CatchUp { hole, failures } => self.begin_reading(hole, failures, around)?,
            Link::Reading(reading) => self.read(reading, around)?,
            Link::Live => {
                self.link = Link::Live;
                if self.taken > 0 && (around.random.random_bool(0.3) || self.taken >= 3) {
                    around.broker.ack(around.pod, self.taken);
                    self.taken = 0;
                } else if let Some(message) = around.broker.deliver(around.pod) {
                    self.take(message, around)?;
                }
            }
        }
        Ok(())
    }

    /// Publishes the marker and finds out where to begin.
    fn begin_reading(&mut self, hole: Option<Message>, failures: u32, around: &mut Around<'_>) -> Checked {
        if !around.broker.stream_up {
            return self.unreadable(hole, failures, around);
        }
        let head = self.intake.head();
        let offset = head.as_ref().and_then(|head| {
            let (known, offset) = self.known.as_ref()?;
            let ahead = head.seq.checked_sub(known.seq).filter(|_| known.epoch == head.epoch)?;
            Some(offset + ahead)
        });
        let end = around.broker.end();
        let reading = match (offset, head) {
            (Some(at), Some(head)) => {
                Reading { at, end, first: true, after: Some(head), from_first: false, hole, failures }
            }
            _ => Reading { at: 0, end, first: true, after: None, from_first: true, hole, failures },
        };
        if reading.from_first {
            self.known = None;
        }
        self.link = Link::Reading(reading);
        Ok(())
    }

    /// Takes in a few messages of history.
    fn read(&mut self, mut reading: Reading, around: &mut Around<'_>) -> Checked {
        if !around.broker.stream_up {
            return self.unreadable(reading.hole, reading.failures, around);
        }
        // An offset before the beginning, or beyond the end, is clamped silently.
        reading.at = reading.at.max(around.broker.first);
        for _ in 0..around.random.random_range(1..8) {
            if reading.at >= reading.end {
                let filled = |hole: &Message| self.intake.continues(&bus_message(hole).0);
                if reading.from_first || reading.hole.as_ref().is_none_or(filled) {
                    return self.done_reading(reading.hole, Some(reading.end), around);
                }
                // It may lie before what is first read there: from the beginning.
                self.known = None;
                let (at, end) = (around.broker.first, around.broker.end());
                reading = Reading { at, end, after: None, from_first: true, ..reading };
                continue;
            }
            let Some(message) = around.broker.at(reading.at).cloned() else {
                return Err("the stream has no such offset".to_owned());
            };
            let cursor = &message.cursor;
            let beyond =
                reading.after.as_ref().is_some_and(|after| cursor.epoch != after.epoch || cursor.seq > after.seq + 1);
            if reading.first && beyond {
                // The offset was of no use: from the beginning.
                self.known = None;
                reading = Reading { at: 0, after: None, from_first: true, ..reading };
                reading.at = around.broker.first;
                continue;
            }
            reading.first = false;
            // Of a number that is in the stream more than once, because it was published again, only the first place says
            // where the next ones are.
            let newer = |(known, _): &(Cursor, u64)| known.epoch != cursor.epoch || known.seq < cursor.seq;
            if self.known.as_ref().is_none_or(newer) {
                self.known = Some((message.cursor.clone(), reading.at));
            }
            reading.at += 1;
            if let Taken::Hole { .. } = self.offer(&message, around)? {
                self.anyway(&message, None, around)?;
            }
        }
        self.link = Link::Reading(reading);
        Ok(())
    }

    fn unreadable(&mut self, hole: Option<Message>, failures: u32, around: &mut Around<'_>) -> Checked {
        if failures + 1 < ATTEMPTS {
            self.link = Link::CatchUp { hole, failures: failures + 1 };
            return Ok(());
        }
        self.done_reading(hole, None, around)
    }

    /// `read`: history was read up to this offset.
    fn done_reading(&mut self, hole: Option<Message>, read: Option<u64>, around: &mut Around<'_>) -> Checked {
        self.link = Link::Live;
        if let Some(message) = hole {
            self.anyway(&message, read, around)?;
            self.taken += 1;
        }
        self.tell_current(true);
        Ok(())
    }

    /// A delivery of the queue.
    fn take(&mut self, message: Message, around: &mut Around<'_>) -> Checked {
        let first = !std::mem::replace(&mut self.delivered, true);
        if let Some(expects) = self.expects.as_ref().filter(|_| first)
            && around.broker.dropped == 0
            && expects.epoch == message.cursor.epoch
            && message.cursor.seq > expects.seq + 1
        {
            return Err(format!("pod {}: its queue had all since {expects}, but gives {}", around.pod, message.cursor));
        }
        if let Taken::Hole { .. } = self.offer(&message, around)? {
            if around.broker.streams {
                self.tell_current(false);
                return self.begin_reading(Some(message), 0, around);
            }
            self.anyway(&message, None, around)?;
        }
        self.taken += 1;
        Ok(())
    }

    fn offer(&mut self, message: &Message, around: &Around<'_>) -> Checked<Taken> {
        let (bus, recorded) = bus_message(message);
        let taken = self.intake.offer(&bus, recorded, around.now);
        if let Taken::New(New { gap: Some(gap), .. }) = &taken
            && gap.seq > 0
        {
            return Err(format!("pod {}: a gap before {}, and history was not asked", around.pod, message.cursor));
        }
        self.taken_in(message, taken, None, around)
    }

    fn anyway(&mut self, message: &Message, filled: Option<u64>, around: &Around<'_>) -> Checked {
        let (bus, recorded) = bus_message(message);
        let taken = self.intake.anyway(&bus, recorded, around.now);
        self.taken_in(message, taken, filled, around).map(|_| ())
    }

    /// Hands what is new to the shards, and compares with the shadow.
    fn taken_in(
        &mut self,
        message: &Message,
        taken: Taken,
        filled: Option<u64>,
        around: &Around<'_>,
    ) -> Checked<Taken> {
        let number = &message.cursor;
        let before = message.after.or(number.tag);
        let mut shadow = self.shadow.borrow_mut();
        let judged = shadow.judge(number, before);
        let known = judged == Judged::Known;
        let broken = judged.breaks();
        match &taken {
            Taken::Known if known => {}
            Taken::Known => return Err(format!("pod {}: {number} was never seen, but dropped", around.pod)),
            Taken::Hole { .. } if broken && !known => {}
            Taken::Hole { .. } => return Err(format!("pod {}: no hole before {number}", around.pod)),
            Taken::New(_) if known => return Err(format!("pod {}: {number} taken in twice", around.pod)),
            Taken::New(New { update, gap, late, forked }) => {
                let fits = *late == (judged == Judged::Late) && gap.is_some() == broken;
                if !fits || *forked != (judged == Judged::Forked) {
                    return Err(format!(
                        "pod {}: {number} after {:?}: late {late}, gap {gap:?}, forked {forked}; should be {judged:?}",
                        around.pod, shadow.head
                    ));
                }
                if judged == Judged::Broken
                    && filled.is_some_and(|end| around.broker.in_stream(end, shadow.head.as_ref(), number))
                {
                    return Err(format!("pod {}: gap before {number}, but history has what is missing", around.pod));
                }
                let fact = around.truth.of(message.change.when).ok_or("a change that never was")?;
                let pos = shadow.record(fact, number, before, judged);
                if update.pos != pos {
                    return Err(format!("pod {}: {number} at position {}, not {pos}", around.pod, update.pos));
                }
                for lane in &mut self.lanes {
                    if let Some(cursor) = gap {
                        lane.inputs.push_back(Input::Gap(Some(cursor.clone())));
                    }
                    lane.inputs.push_back(Input::Update(update.clone()));
                }
            }
        }
        drop(shadow);
        around.swarm.check_bounds(&self.cache, around.pod)?;
        Ok(taken)
    }
}
