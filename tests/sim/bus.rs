//! A pod's side of the broker: carries out what the real plan says, over the simulated broker, one step at a time, as
//! `bus/carry.rs` does over AMQP.
//!
//! Goes in: deliveries, and the end of connections. Comes out: entries in the cache, inputs in the shards' queues.
//! Beside each taken message it keeps the [`Shadow`](crate::shadow::Shadow), and compares.

use std::collections::VecDeque;

use bugfeed_core::bus_plan::{Action, BusPlan, Event, Queue, Why};
use bugfeed_core::input::Input;
use bugfeed_core::intake::{HeadStands, New, Taken};
use bugfeed_core::places::{Met, Places, Reading, Start};
use bugfeed_protocol::bus::Head;
use bugfeed_protocol::{Cursor, When};
use rand::RngExt as _;
use rand::rngs::SmallRng;

use crate::broker::{Broker, Item, bus_message};
use crate::pod::Life;
use crate::shadow::{Judged, Truth};
use crate::swarm::Swarm;

/// How often the plan is told that time passes.
const TICK_MS: u64 = 1000;

/// What a step of a pod may touch.
pub struct Around<'a> {
    pub pod: usize,
    pub broker: &'a mut Broker,
    pub truth: &'a Truth,
    pub swarm: &'a Swarm,
    pub random: &'a mut SmallRng,
    pub now: When,
    pub now_ms: u64,
}

type Checked<T = ()> = Result<T, String>;

/// History is being read.
struct Job {
    deadline_ms: u64,
    open: Option<Open>,
}

/// The stream is open.
struct Open {
    reading: Reading,
    at: u64,
    /// Where the marker lies, and which it is.
    end: u64,
    marker: u64,
}

/// The plan, and what it needs to be carried out.
pub struct Bus {
    plan: BusPlan,
    connected: bool,
    job: Option<Job>,
    todo: VecDeque<Action>,
    places: Places,
    /// The message whose hole is looked into.
    hole: Option<Item>,
    /// The head that is looked into.
    head: Option<Cursor>,
    /// Up to where history was read last on this connection, and the newest number known when that began.
    pub read_to: Option<u64>,
    read_from: Option<Cursor>,
    /// Taken in, not yet acknowledged.
    taken: usize,
    tick_ms: u64,
    current: bool,
    /// It was current on this connection.
    through: bool,
    /// Resumes wait.
    pub held: bool,
    /// What clients were told last.
    pub paused: bool,
    /// Since when nothing has come, for want of a connection.
    down_ms: u64,
    /// How often each of these happened: a head showed a loss, continuity was not proven.
    pub head_gaps: u64,
    pub loses: u64,
    pub rebinds: u64,
    pub pauses: u64,
}

impl Bus {
    pub fn new(swarm: &Swarm, now_ms: u64) -> Bus {
        Bus {
            plan: BusPlan::new(now_ms, swarm.asks_history),
            connected: false,
            job: None,
            todo: VecDeque::new(),
            places: Places::default(),
            hole: None,
            head: None,
            read_to: None,
            read_from: None,
            taken: 0,
            tick_ms: now_ms,
            current: false,
            through: false,
            held: false,
            paused: false,
            down_ms: now_ms,
            head_gaps: 0,
            loses: 0,
            rebinds: 0,
            pauses: 0,
        }
    }

    /// It is connected, and nothing is under way.
    pub fn is_live(&self) -> bool {
        self.connected && self.job.is_none() && self.taken == 0 && !self.held && self.current
    }

    /// It is current, on a connection that lives.
    pub fn is_current(&self) -> bool {
        self.connected && self.current
    }
}

impl Life {
    /// One step of the task that listens to the bus.
    pub fn bus_step(&mut self, around: &mut Around<'_>) -> Checked {
        if !self.bus.connected {
            return self.connect_bus(around);
        }
        if self.bus.job.is_some() {
            return self.read_step(around);
        }
        if self.bus.taken > 0 && (around.random.random_bool(0.3) || self.bus.taken >= 3) {
            around.broker.ack(around.pod, self.bus.taken);
            self.bus.taken = 0;
            return Ok(());
        }
        match around.broker.deliver(around.pod, around.random) {
            Some((Item::Head(head), beside)) => {
                self.bus.taken += usize::from(!beside);
                self.take_head(&head, around)
            }
            Some((item, _)) => self.take(item, around),
            None => Ok(()),
        }
    }

    fn connect_bus(&mut self, around: &mut Around<'_>) -> Checked {
        if !around.broker.up || !around.random.random_bool(around.swarm.connects) {
            return self.lost(around);
        }
        let queue = around.broker.connect_pod(around.pod, around.swarm.durable);
        if queue != (Queue::Durable { kept: true }) {
            self.expects = None;
        }
        self.bus.connected = true;
        let waiting = around.broker.queues[around.pod].as_ref().map_or(0, |queue| queue.ready.len() as u64);
        self.drive(Event::Connected { queue, waiting }, around)
    }

    /// The connection to the broker is lost.
    pub fn lose_link(&mut self, around: &mut Around<'_>) -> Checked {
        if self.bus.connected {
            around.broker.disconnect(around.pod, around.swarm.durable);
            self.bus.down_ms = around.now_ms;
        }
        self.lost(around)
    }

    fn lost(&mut self, around: &mut Around<'_>) -> Checked {
        let bus = &mut self.bus;
        (bus.connected, bus.through) = (false, false);
        (bus.job, bus.hole, bus.head, bus.taken, bus.read_to) = (None, None, None, 0, None);
        bus.todo.clear();
        let actions = bus.plan.on(around.now_ms, Event::Lost);
        actions.into_iter().try_for_each(|action| self.tell(action, around))
    }

    /// About a second has passed.
    pub fn bus_tick(&mut self, around: &mut Around<'_>) -> Checked {
        if around.now_ms < self.bus.tick_ms {
            return Ok(());
        }
        self.bus.tick_ms = around.now_ms + TICK_MS;
        if self.bus.connected && self.bus.job.is_none() {
            self.drive(Event::Tick, around)?;
        } else {
            // What needs the connection is not due now.
            let actions = self.bus.plan.on(around.now_ms, Event::Tick);
            actions.into_iter().try_for_each(|action| self.tell(action, around))?;
        }
        if !self.bus.connected && around.now_ms > self.bus.down_ms + 2000 && !self.bus.paused {
            return Err(format!("pod {}: not connected for long, and nobody is told", around.pod));
        }
        Ok(())
    }

    fn take_head(&mut self, head: &Head, around: &mut Around<'_>) -> Checked {
        let stands = self.intake.judge_head(&head.cursor);
        (self.bus.head, self.bus.read_to) = (Some(head.cursor.clone()), None);
        self.drive(Event::Head { head, stands }, around)
    }

    /// A change came from the queue.
    fn take(&mut self, item: Item, around: &mut Around<'_>) -> Checked {
        self.bus.taken += 1;
        let cursor = item.cursor().cloned();
        if let Some(cursor) = &cursor {
            let first = !std::mem::replace(&mut self.delivered, true);
            if let Some(expects) = self.expects.as_ref().filter(|_| first)
                && around.broker.dropped == 0
                && expects.epoch == cursor.epoch
                && cursor.seq > expects.seq + 1
            {
                return Err(format!("pod {}: its queue had all since {expects}, but gives {cursor}", around.pod));
            }
        }
        let taken = self.offer(&item, around)?;
        let next = cursor.is_some() && matches!(&taken, Taken::New(New { gap: None, late: false, .. }));
        self.drive(Event::Taken { epoch: cursor.as_ref().map(|cursor| &cursor.epoch), next }, around)?;
        if let Taken::Hole { .. } = taken {
            (self.bus.hole, self.bus.read_to) = (Some(item), None);
            self.drive(Event::Hole, around)?;
        }
        Ok(())
    }

    /// Hands an event to the plan, and carries out what comes of it.
    fn drive(&mut self, event: Event<'_>, around: &mut Around<'_>) -> Checked {
        let actions = self.bus.plan.on(around.now_ms, event);
        self.bus.todo.extend(actions);
        while let Some(action) = self.bus.todo.pop_front() {
            match action {
                Action::ReadHistory { patience_ms } => {
                    self.bus.job = Some(Job { deadline_ms: around.now_ms + patience_ms, open: None });
                    return Ok(());
                }
                Action::Judge => {
                    let stands = self.bus.head.as_ref().map(|head| self.intake.judge_head(head));
                    let stands = stands.unwrap_or(HeadStands::Even);
                    let actions = self.bus.plan.on(around.now_ms, Event::Judged(stands));
                    self.bus.todo.extend(actions);
                }
                Action::Rebind => {
                    self.bus.rebinds += 1;
                    around.broker.rebind(around.pod);
                }
                other => self.tell(other, around)?,
            }
        }
        Ok(())
    }

    /// Carries out what needs no connection.
    fn tell(&mut self, action: Action, around: &mut Around<'_>) -> Checked {
        match action {
            Action::TakeAnyway => {
                if let Some(hole) = self.bus.hole.take() {
                    self.anyway(&hole, self.bus.read_to, around)?;
                }
            }
            Action::Hold(held) => {
                self.bus.held = held;
                let mut shadow = self.shadow.borrow_mut();
                shadow.holds += u32::from(held);
                shadow.held = held;
                drop(shadow);
                self.tell_lanes(|| Input::Hold(held));
            }
            Action::Lose => {
                if let (Some(end), Some(head)) = (self.bus.read_to, &self.bus.read_from)
                    && around.broker.meets(end, head)
                {
                    return Err(format!("pod {}: continuity given up, but history has {head}", around.pod));
                }
                self.bus.loses += 1;
                let cursor = self.intake.lose();
                self.shadow.borrow_mut().lose();
                self.tell_lanes(|| Input::Gap(cursor.clone()));
            }
            Action::GoOnAfter(cursor, why) => self.go_on_after(&cursor, why, around)?,
            Action::Current(current) => {
                self.bus.through |= current;
                if std::mem::replace(&mut self.bus.current, current) != current {
                    self.shadow.borrow_mut().current(current);
                    self.tell_lanes(|| Input::Current(current));
                }
            }
            Action::Feed { paused, .. } => {
                if !(paused || self.bus.connected && self.bus.through) {
                    return Err(format!("pod {}: live, without a connection or history", around.pod));
                }
                self.bus.pauses += u64::from(paused);
                self.bus.paused = paused;
                let since = around.now;
                self.tell_lanes(|| Input::Feed { paused, since });
            }
            Action::ReadHistory { .. } | Action::Judge | Action::Rebind => {
                return Err(format!("pod {}: {action:?} is not due without a connection", around.pod));
            }
        }
        Ok(())
    }

    fn go_on_after(&mut self, cursor: &Cursor, why: Why, around: &Around<'_>) -> Checked {
        let head = self.intake.head();
        if let Some(end) = self.bus.read_to.filter(|_| why == Why::Missing)
            && head.as_ref().is_some_and(|head| around.truth.is_one_history(head, cursor))
            // What was taken for another history once is not taken in again.
            && self.shadow.borrow().forks == 0
            && around.broker.in_stream(end, head.as_ref(), &cursor.epoch, cursor.seq + 1)
        {
            return Err(format!("pod {}: gap up to {cursor} after {head:?}, but history has it", around.pod));
        }
        self.bus.head_gaps += 1;
        let told = self.intake.go_on_after(cursor);
        self.shadow.borrow_mut().go_on_after(cursor);
        self.tell_lanes(|| Input::Gap(Some(told.clone())));
        Ok(())
    }

    /// Reads a little of history.
    fn read_step(&mut self, around: &mut Around<'_>) -> Checked {
        let Some(mut job) = self.bus.job.take() else { return Ok(()) };
        if job.open.is_none() {
            let head = self.intake.head();
            self.bus.read_from.clone_from(&head);
            let start = self.bus.places.start(head.as_ref());
            job.open = open(Reading::new(start, head), around);
        }
        let Some(open) = job.open.take().filter(|_| around.broker.stream_up) else {
            let for_good = !around.broker.streams;
            if for_good || around.now_ms >= job.deadline_ms {
                return self.drive(Event::HistoryFailed { for_good }, around);
            }
            self.bus.job = Some(job);
            return Ok(());
        };
        job.open = Some(open);
        self.bus.job = Some(job);
        for _ in 0..around.random.random_range(1..8) {
            if self.bus.job.is_none() || !self.read_one(around)? {
                break;
            }
        }
        Ok(())
    }

    /// Meets the next thing in the stream. Whether reading goes on.
    fn read_one(&mut self, around: &mut Around<'_>) -> Checked<bool> {
        let Some(Job { open: Some(open), .. }) = &mut self.bus.job else { return Ok(false) };
        // An offset before the beginning is clamped silently; beyond the end nothing comes.
        open.at = open.at.max(around.broker.first);
        let offset = i64::try_from(open.at).unwrap();
        let item = around.broker.at(open.at).filter(|_| open.at <= open.end).cloned();
        open.at += 1;
        let met = match &item {
            None if *open.reading.start() == Start::First => {
                // It was cut off, or is gone: it is asked again.
                if let Some(job) = &mut self.bus.job {
                    job.open = None;
                }
                return Ok(false);
            }
            None => Met::Useless,
            Some(Item::Marker(marker)) if *marker == open.marker => {
                let end = open.reading.end(&marker.to_string(), offset, &mut self.bus.places);
                if end != Met::Useless {
                    return self.done_reading(around).map(|()| false);
                }
                end
            }
            Some(Item::Marker(marker)) => open.reading.marker(&marker.to_string()),
            Some(item) => open.reading.message(&bus_message(item).0, offset, &mut self.bus.places),
        };
        match (met, item) {
            (Met::Useless, _) => {
                self.bus.places.forget();
                self.begin_anew(around);
            }
            (Met::New, Some(item)) => {
                let taken = self.offer(&item, around)?;
                let hole = matches!(taken, Taken::Hole { .. });
                if let Some(Job { open: Some(open), .. }) = &mut self.bus.job
                    && (hole || matches!(taken, Taken::New(New { gap: Some(_), .. })))
                {
                    open.reading.gave_up();
                }
                if hole {
                    self.anyway(&item, None, around)?;
                }
            }
            _ => {}
        }
        Ok(true)
    }

    /// Reads again, everything.
    fn begin_anew(&mut self, around: &mut Around<'_>) {
        let Some(job) = &mut self.bus.job else { return };
        job.open = job.open.as_ref().and_then(|last| open(last.reading.from_first(), around));
    }

    fn done_reading(&mut self, around: &mut Around<'_>) -> Checked {
        let Some(Job { open: Some(open), .. }) = &self.bus.job else { return Ok(()) };
        let head = |head: &Cursor| matches!(self.intake.judge_head(head), HeadStands::Even | HeadStands::Within);
        let found = match (&self.bus.hole, &self.bus.head) {
            (Some(hole), _) => self.intake.continues(&bus_message(hole).0),
            (None, Some(cursor)) => head(cursor),
            (None, None) => true,
        };
        if !found && *open.reading.start() != Start::First {
            // It may lie before what was read first.
            self.begin_anew(around);
            return Ok(());
        }
        self.bus.read_to = Some(open.end);
        let proven = open.reading.proven;
        self.bus.job = None;
        self.drive(Event::HistoryRead { proven }, around)
    }

    fn offer(&mut self, item: &Item, around: &Around<'_>) -> Checked<Taken> {
        let (bus, recorded) = bus_message(item);
        let taken = self.intake.offer(&bus, recorded, around.now);
        if let Taken::New(New { gap: Some(_), .. }) = &taken
            && item.cursor().is_some_and(|number| number.seq > 1)
        {
            return Err(format!("pod {}: a gap before {item:?}, and history was not asked", around.pod));
        }
        self.taken_in(item, taken, None, around)
    }

    fn anyway(&mut self, item: &Item, filled: Option<u64>, around: &Around<'_>) -> Checked {
        let (bus, recorded) = bus_message(item);
        let taken = self.intake.anyway(&bus, recorded, around.now);
        self.taken_in(item, taken, filled, around).map(|_| ())
    }

    fn tell_lanes(&mut self, input: impl Fn() -> Input<crate::wire::End>) {
        for lane in &mut self.lanes {
            lane.inputs.push_back(input());
        }
    }

    /// Hands what is new to the shards, and compares with the shadow. `filled`: history was read up to this offset.
    fn taken_in(&mut self, item: &Item, taken: Taken, filled: Option<u64>, around: &Around<'_>) -> Checked<Taken> {
        let pod = around.pod;
        let (bus, _) = bus_message(item);
        let mut shadow = self.shadow.borrow_mut();
        let before = bus.tag_before();
        let (number, judged) = shadow.judge_message(bus.cursor.as_ref(), before);
        match &taken {
            Taken::Known if judged == Judged::Known => {}
            Taken::Known => return Err(format!("pod {pod}: {number} was never seen, but dropped")),
            Taken::Hole { .. } if judged.breaks() => {}
            Taken::Hole { .. } => return Err(format!("pod {pod}: no hole before {number}")),
            Taken::New(_) if judged == Judged::Known => return Err(format!("pod {pod}: {number} taken in twice")),
            Taken::New(New { update, gap, late, forked }) => {
                let broken = judged.breaks();
                let fits = *late == (judged == Judged::Late) && gap.is_some() == broken;
                if !fits || *forked != (judged == Judged::Forked) {
                    return Err(format!(
                        "pod {pod}: {number} after {:?}: late {late}, gap {gap:?}, forked {forked}; should be {judged:?}",
                        shadow.head
                    ));
                }
                let same = shadow.head.as_ref().is_some_and(|head| around.truth.is_one_history(head, &number));
                let has = |end| same && around.broker.in_stream(end, shadow.head.as_ref(), &number.epoch, number.seq);
                if judged == Judged::Broken && filled.is_some_and(has) {
                    return Err(format!("pod {pod}: gap before {number}, but history has what is missing"));
                }
                let fact = around.truth.of(bus.change.when).ok_or("a change that never was")?;
                let pos = shadow.record(fact, &number, before, judged);
                if update.pos != pos {
                    return Err(format!("pod {pod}: {number} at position {}, not {pos}", update.pos));
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
        around.swarm.check_bounds(&self.cache, pod)?;
        Ok(taken)
    }
}

/// Marks the end of the stream, and opens it; none where it does not answer.
fn open(reading: Reading, around: &mut Around<'_>) -> Option<Open> {
    let marker = around.broker.mark()?;
    let at = reading.start().offset().map_or(around.broker.first, |offset| u64::try_from(offset).unwrap());
    Some(Open { reading, at, end: around.broker.end() - 1, marker })
}
