//! A pod's side of the broker: hands what the simulated broker does to the real planner of the bus, and carries out what that
//! says, as `bus/carry.rs` does over AMQP.
//!
//! Goes in: deliveries, and the end of connections. Comes out: entries in the cache, inputs in the shards' queues. Decides
//! nothing. What became of each message is compared with the [`Shadow`](crate::shadow::Shadow), in `bus_check.rs`.

use std::collections::VecDeque;

use bugfeed_core::bus::{self as core, Action, Arrival, Ask, Event, Now, Queue, Setup, Tell};
use bugfeed_core::sequencer::Sequencer;
use bugfeed_protocol::{Cursor, When};
use rand::RngExt as _;
use rand::rngs::SmallRng;

use crate::broker::{Broker, Item, bus_message};
use crate::pod::Life;
use crate::shadow::Truth;
use crate::swarm::Swarm;

/// How often the planner is told that time passes.
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
    pub trace: bool,
}

impl Around<'_> {
    fn now(&self) -> Now {
        Now { ms: self.now_ms, wall: self.now }
    }
}

pub type Checked<T = ()> = Result<T, String>;

/// The stream is marked, and perhaps read.
#[derive(Clone, Copy)]
struct Reader {
    marker: u64,
    /// Where the next message lies; none before it was asked for.
    at: Option<u64>,
    /// Another stream delivers nothing to it.
    stream: u64,
}

/// The planner, and the connection.
pub struct Bus {
    pub planner: core::Bus,
    connected: bool,
    reader: Option<Reader>,
    /// Deliveries that are to be acknowledged, and how many were.
    delivered: u64,
    acknowledged: u64,
    tick_ms: u64,
    /// The changes of the message in hand, and whether they came from the queue.
    pub subjects: VecDeque<(Item, bool)>,
    /// The first of them is still to come.
    pub first: bool,
    /// It lies before all that is known.
    pub older: bool,
    /// The change whose hole is looked into, and what follows it in its message.
    pub held: Option<Item>,
    pub held_rest: VecDeque<(Item, bool)>,
    /// Up to where history was read last on this connection, and the newest number known when that began.
    pub read_to: Option<u64>,
    pub read_from: Option<Cursor>,
    /// What was said of the update that comes next.
    pub said: Said,
    pub current: bool,
    /// It was current on this connection.
    pub through: bool,
    /// Resumes wait.
    pub hold: bool,
    /// What clients were told last.
    pub paused: bool,
    /// Since when nothing has come, for want of a connection.
    down_ms: u64,
    /// How often each of these happened: a head showed a loss, continuity was not proven.
    pub head_gaps: u64,
    pub loses: u64,
    pub rebinds: u64,
    pub pauses: u64,
    /// When a head was heard last.
    pub heard_ms: Option<u64>,
    /// Readings that were begun.
    pub marks: u64,
}

/// What the planner said of an update before it.
#[derive(Default)]
pub struct Said {
    pub late: bool,
    pub forked: bool,
    pub gap: Option<Cursor>,
}

impl Bus {
    pub fn new(sequencer: Sequencer, swarm: &Swarm, now_ms: u64) -> Bus {
        let mut planner = core::Bus::new(sequencer);
        let prefetch = u16::try_from(swarm.prefetch).unwrap();
        planner.set_up(now_ms, Setup { history: swarm.asks_history, prefetch, ..Setup::default() });
        Bus {
            planner,
            connected: false,
            reader: None,
            delivered: 0,
            acknowledged: 0,
            tick_ms: now_ms,
            subjects: VecDeque::new(),
            first: false,
            older: false,
            held: None,
            held_rest: VecDeque::new(),
            read_to: None,
            read_from: None,
            said: Said::default(),
            current: false,
            through: false,
            hold: false,
            paused: false,
            down_ms: now_ms,
            head_gaps: 0,
            loses: 0,
            rebinds: 0,
            pauses: 0,
            heard_ms: None,
            marks: 0,
        }
    }

    /// It is connected, and nothing is under way.
    pub fn is_live(&self) -> bool {
        let rests = self.planner.takes_deliveries() && self.delivered == self.acknowledged;
        self.is_current() && rests && !self.hold
    }

    /// It is current, on a connection that lives.
    pub fn is_current(&self) -> bool {
        self.connected && self.current
    }

    pub fn is_connected(&self) -> bool {
        self.connected
    }
}

impl Life {
    /// One step of the task that listens to the bus.
    pub fn bus_step(&mut self, around: &mut Around<'_>) -> Checked {
        if !self.bus.connected {
            return self.connect_bus(around);
        }
        if self.bus.planner.due_ms().is_some_and(|due_ms| around.now_ms >= due_ms) {
            self.hear(Event::Due, around)?;
        }
        if !self.bus.planner.takes_deliveries() {
            return self.read_step(around);
        }
        let Some((item, beside)) = around.broker.deliver(around.pod, around.random) else { return Ok(()) };
        self.bus.delivered += u64::from(!beside);
        let tag = (!beside).then_some(self.bus.delivered);
        match item {
            Item::Head(head) => {
                self.bus.read_to = None;
                self.hear(Event::Head(&head, tag), around)
            }
            item => {
                self.check_queue(&item, around)?;
                let mut changes = arrivals(&item);
                self.bus.subjects = item.singles().into_iter().map(|item| (item, true)).collect();
                let event = match changes.len() {
                    1 => Event::Change(changes.remove(0), tag),
                    _ => Event::Batch(changes, tag),
                };
                self.hear(event, around)?;
                if !self.bus.subjects.is_empty() {
                    return Err(format!("pod {}: {item:?} was not taken in to its end", around.pod));
                }
                Ok(())
            }
        }
    }

    fn connect_bus(&mut self, around: &mut Around<'_>) -> Checked {
        if !around.broker.up || !around.random.random_bool(around.swarm.connects) {
            return self.lost(around);
        }
        let hears = around.swarm.hears_heads;
        let queue = around.broker.connect_pod(around.pod, around.swarm.durable, hears);
        if queue != (Queue::Durable { kept: true }) {
            (self.recorded, self.inherited) = (Vec::new(), 0);
        }
        self.bus.connected = true;
        let waiting = around.broker.queues[around.pod].as_ref().map_or(0, |queue| queue.ready.len() as u64);
        self.hear(Event::HeadsBound(hears), around)?;
        self.hear(Event::Connected { queue, waiting }, around)
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
        (bus.connected, bus.through, bus.reader, bus.held, bus.read_to) = (false, false, None, None, None);
        (bus.delivered, bus.acknowledged) = (0, 0);
        bus.subjects.clear();
        bus.held_rest.clear();
        self.hear(Event::Lost, around)
    }

    /// About a second has passed.
    pub fn bus_tick(&mut self, around: &mut Around<'_>) -> Checked {
        if around.now_ms < self.bus.tick_ms {
            return Ok(());
        }
        self.bus.tick_ms = around.now_ms + TICK_MS;
        self.hear(Event::Tick, around)?;
        if !self.bus.connected && around.now_ms > self.bus.down_ms + core::GRACE_MS && !self.bus.paused {
            return Err(format!("pod {}: not connected for long, and nobody is told", around.pod));
        }
        Ok(())
    }

    /// Reads a little of history.
    fn read_step(&mut self, around: &mut Around<'_>) -> Checked {
        for _ in 0..around.random.random_range(1..8) {
            let Some(Reader { marker, at: Some(at), stream }) = self.bus.reader else { return Ok(()) };
            let gone = stream != around.broker.stream_made;
            if gone || !around.broker.stream_up && around.random.random_bool(0.1) {
                return self.reading_fails(around);
            }
            // An offset before the beginning is clamped silently; beyond the end nothing comes, and from one that is away.
            let at = at.max(around.broker.first);
            let Some(item) = around.broker.at(at).filter(|_| around.broker.stream_up).cloned() else { return Ok(()) };
            self.bus.reader = Some(Reader { marker, at: Some(at + 1), stream });
            self.read_one(&item, at, marker, around)?;
        }
        Ok(())
    }

    /// Hands in what the stream holds next.
    fn read_one(&mut self, item: &Item, at: u64, own: u64, around: &mut Around<'_>) -> Checked {
        let offset = i64::try_from(at).unwrap();
        let Item::Marker(marker) = *item else {
            self.bus.subjects = item.singles().into_iter().map(|item| (item, false)).collect();
            self.hear(Event::Read(core::Item::Changes(arrivals(item)), offset), around)?;
            // What is read anew is not taken in now.
            self.bus.subjects.clear();
            return Ok(());
        };
        let since = self.bus.planner.reading_since().cloned();
        self.bus.planner.on(around.now(), Event::Read(core::Item::Marker(marker.to_string()), offset));
        if marker == own && self.bus.planner.takes_deliveries() {
            (self.bus.read_to, self.bus.read_from) = (Some(at), since);
        }
        self.carry_out(around)
    }

    fn reading_fails(&mut self, around: &mut Around<'_>) -> Checked {
        self.bus.reader = None;
        let for_good = !around.broker.streams;
        let random = around.random.random();
        self.hear(Event::ReadingFailed { for_good, random }, around)
    }

    /// Hands an event in, and carries out what comes of it.
    fn hear(&mut self, event: Event<'_>, around: &mut Around<'_>) -> Checked {
        (self.bus.older, self.bus.first) = (self.bus.planner.is_before(), true);
        self.bus.planner.on(around.now(), event);
        self.carry_out(around)
    }

    fn carry_out(&mut self, around: &mut Around<'_>) -> Checked {
        while let Some(action) = self.bus.planner.next_action() {
            if around.trace
                && !matches!(
                    action,
                    Action::Tell(Tell::Update(_) | Tell::Updates(_)) | Action::Ask(Ask::Acknowledge(_))
                )
            {
                println!("{:>17} ms  pod {}: {action:?}", around.now_ms, around.pod);
            }
            match action {
                Action::Tell(tell) => self.told(&tell, around)?,
                Action::Say(say) => self.said(say, around)?,
                Action::Ask(ask) if self.bus.connected => self.asked(&ask, around)?,
                Action::Ask(ask) => {
                    return Err(format!("pod {}: {ask:?} is not due without a connection", around.pod));
                }
            }
        }
        Ok(())
    }

    fn asked(&mut self, ask: &Ask, around: &mut Around<'_>) -> Checked {
        match *ask {
            Ask::Acknowledge(tag) => {
                let count = tag - std::mem::replace(&mut self.bus.acknowledged, tag);
                around.broker.ack(around.pod, usize::try_from(count).unwrap());
            }
            Ask::Rebind => {
                self.bus.rebinds += 1;
                around.broker.rebind(around.pod, around.swarm.hears_heads);
                self.bus.planner.on(around.now(), Event::HeadsBound(around.swarm.hears_heads));
            }
            Ask::Mark => {
                self.bus.marks += 1;
                self.bus.subjects.retain(|(_, live)| *live);
                let Some(marker) = around.broker.mark() else { return self.reading_fails(around) };
                self.bus.reader = Some(Reader { marker, at: None, stream: around.broker.stream_made });
                self.bus.planner.on(around.now(), Event::Marked(marker.to_string()));
            }
            Ask::Consume(from) => {
                let at = from.map_or(around.broker.first, |offset| u64::try_from(offset).unwrap());
                self.bus.reader = self.bus.reader.map(|reader| Reader { at: Some(at), ..reader });
            }
            // The model of the stream sends without end.
            Ask::AcknowledgeRead => {}
            Ask::Cancel => {
                self.bus.reader = None;
                // What is left of a message of the queue is taken in after the reading.
                self.bus.subjects.retain(|(_, live)| *live);
            }
        }
        Ok(())
    }
}

fn arrivals(item: &Item) -> Vec<Arrival> {
    let arrival = |item: &Item| {
        let (message, recorded) = bus_message(item);
        Arrival { message, recorded }
    };
    item.singles().iter().map(arrival).collect()
}
