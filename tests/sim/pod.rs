//! One pod: the real sequencer and the real shards, one step at a time. Its side of the broker is in `bus.rs`.
//!
//! Goes in: connections, and what they say. Comes out: what the shards write. Notes beside it what each answer must be.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use bugfeed_core::input::{AHEAD_MS, About, Input, Work};
use bugfeed_core::replay::{Pos, Replay, replay};
use bugfeed_core::sequencer::Sequencer;
use bugfeed_core::shard::Shard;
use bugfeed_protocol::{Cursor, Epoch, client};
use rand::RngExt as _;
use rand::rngs::SmallRng;

use crate::bus::Bus;
use crate::shadow::Shadow;
use crate::swarm::Swarm;
use crate::wire::{Asked, End, Wire};

/// One shard and its queue.
pub struct Lane {
    pub shard: Shard<End>,
    pub inputs: VecDeque<Input<End>>,
    /// The position of the last update processed.
    processed: Pos,
    /// Updates are staged, and to be flushed before the next input.
    staged: bool,
    /// Since when it knows the feed to be current, and whether it ever did.
    current_ms: Option<u64>,
    begun: bool,
}

/// The gateway's side of a connection.
struct Conn {
    wire: Rc<Wire>,
    lane: usize,
    busy: bool,
}

/// From start to death.
pub struct Life {
    pub bus: Bus,
    pub cache: Arc<Replay>,
    pub lanes: Vec<Lane>,
    conns: Vec<Conn>,
    pub shadow: Rc<RefCell<Shadow>>,
    now_ms: u64,
    /// The numbers that were recorded, or known, as long as it has this queue, and how many of them in the lives before.
    pub recorded: Vec<Cursor>,
    pub inherited: usize,
    pub delivered: bool,
    /// It takes no new connections, and dies then.
    pub drains_until_ms: Option<u64>,
}

impl Life {
    pub fn new(swarm: &Swarm, random: &mut SmallRng, now_ms: u64) -> Life {
        let own = Epoch::from_random(random.random());
        let (recorder, cache) = replay(swarm.ring);
        let about = || About { version: "1".into(), feed: "default".into() };
        let lane = || Lane {
            shard: Shard::new(Arc::clone(&cache), swarm.limits, about()),
            inputs: VecDeque::new(),
            processed: 0,
            staged: false,
            current_ms: None,
            begun: false,
        };
        Life {
            lanes: (0..swarm.shards).map(|_| lane()).collect(),
            bus: Bus::new(Sequencer::new(recorder, own.clone()), swarm, now_ms),
            cache,
            conns: Vec::new(),
            shadow: Rc::new(RefCell::new(Shadow::new(own))),
            now_ms: 0,
            recorded: Vec::new(),
            inherited: 0,
            delivered: false,
            drains_until_ms: None,
        }
    }

    /// Whether clients may come in, as `hub/gate.rs` has it: every shard is through with what came before.
    pub fn is_open(&self) -> bool {
        self.lanes.iter().all(|lane| lane.begun)
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
                Some(input @ (Input::Update(_) | Input::Updates(_))) => self.process(lane, input),
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
        let mut served = None;
        if let Input::Work(slot, _) | Input::Writable(slot) = &input
            && let Some(conn) = self.conns.iter().find(|c| c.lane == lane && c.wire.slot.get() == Some(*slot))
        {
            if let Input::Work(_, Work::Command(Ok(client::Command::Subscribe { bugs, resume, since }))) = &input {
                self.asks(conn, resume.as_ref(), since.is_some());
                conn.wire.all.set(bugs.is_all() || conn.wire.all.get());
            }
            // What came late, and waits in the queue, may stand for something that is not known any more. Of all bugs, pages
            // are looked up one after the other, up to where the shard was at first: so that may have come since then.
            let from = conn.wire.behind.get().unwrap_or(self.lanes[lane].processed);
            let hidden = self.shadow.borrow().has_late_after(from);
            conn.wire.may_gap.set(hidden || conn.wire.may_gap.get());
            served = Some((Rc::clone(&conn.wire), from, matches!(input, Input::Writable(_))));
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
            Input::Updates(updates) => {
                self.lanes[lane].processed = updates.last().map_or(self.lanes[lane].processed, |update| update.pos);
            }
            Input::Current(current) => {
                self.lanes[lane].current_ms = current.then_some(self.now_ms);
                self.lanes[lane].begun |= current;
            }
            _ => {}
        }
        self.lanes[lane].shard.take(input);
        match served {
            Some((wire, from, _)) if wire.wants.get() => wire.behind.set(wire.all.get().then_some(from)),
            Some((wire, _, true)) => wire.behind.set(None),
            _ => {}
        }
    }

    /// Notes what the answer to a subscribe must be.
    fn asks(&self, conn: &Conn, resume: Option<&client::Resume>, since: bool) {
        let processed = self.lanes[conn.lane].processed;
        let (mut can_tell, mut sent) = (false, if since { 0 } else { processed });
        if let Some(client::Resume::From(cursor)) = resume
            && let Some(pos) = self.shadow.borrow().position(cursor)
        {
            // Its shard may not be through with the history in which it was as far: it cannot be compared with either.
            let ended = pos == Pos::MAX && self.shadow.borrow().has_from(cursor);
            can_tell = pos >= self.cache.floor() && !ended;
            sent = pos.min(processed);
            // Also where the break before it waits in the queue.
            if pos > processed || pos == processed && self.shadow.borrow().begins_after(pos) {
                *conn.wire.ahead.borrow_mut() = Some((cursor.clone(), self.now_ms));
            }
        }
        // While nothing can be compared it cannot be told either whether it is ahead; it may turn out so before the answer.
        if let Some(client::Resume::From(_)) = resume
            && self.shadow.borrow().is_lost()
        {
            conn.wire.may_gap.set(true);
        }
        let loses = self.shadow.borrow().loses;
        conn.wire.asked.borrow_mut().push_back(Asked { can_tell, sent, loses });
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

    pub fn tick(&mut self, now_ms: u64) {
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
}
