//! The one way into a feed: hands events to the plan of its bus, and tells every shard what follows from them.
//!
//! Goes in: the events of a transport ([`Event`]). Comes out: inputs in the queue of every shard, lines in the log, and
//! the questions that the transport must ask its broker ([`Ask`]). Decides nothing: [`core::bus`](bugfeed_core::bus)
//! does. When a shard is told of an update, the change is in the replay cache already.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bugfeed_protocol::bus::{self, BadMessage, BusMessage, Element, Message};
use bugfeed_protocol::{Cursor, Epoch, When};
use prometheus_client::metrics::counter::Counter;

use super::Breaks;
use super::gate::Gate;
use super::shard_task::Door;
use super::tap::Signal;
use crate::events::Events;
use crate::gauges::FeedView;
use crate::timing::{Stamps, Timing};
use bugfeed_core::bus::{Action, Arrival, Ask, Bus, Event, Now, Say, Setup, Tell};
use bugfeed_core::replay::Recorder;
use bugfeed_core::sequencer::Sequencer;
use bugfeed_runtime::throttle::Throttle;

/// The writing side of a feed, owned by the task that listens to its bus.
#[derive(Debug)]
pub struct Ingest {
    /// The feed's name, for logs and metrics.
    pub feed: String,
    /// The plan of the bus: decides what follows from each event.
    pub bus: Bus,
    shards: Vec<Door>,
    /// The bus of this feed logs and counts with these, too.
    pub events: Arc<Events>,
    changes: Counter,
    begun: Instant,
    /// When the feed was made, by the wall clock.
    begun_at: When,
    /// Nothing else waits to be taken in. An update that few watch is then written in place, without waking the tasks of
    /// the shards.
    pub is_alone: bool,
    /// When the change that is handed in, or the last one of its message, was recorded and published, where the message says so.
    pub stamps: Stamps,
    /// When the last event was handed in.
    heard_ms: u64,
    timing: Arc<Timing>,
    view: Arc<FeedView>,
    /// Why history could not be read the last time, in the words of the transport.
    pub refusal: String,
    poison_lines: Throttle,
    fork_lines: Throttle,
    gap_lines: Throttle,
    breaks: Breaks,
    signal: Arc<Signal>,
    gate: Arc<Gate>,
}

impl Ingest {
    pub(super) fn new(
        feed: String,
        recorder: Recorder,
        shards: Vec<Door>,
        events: Arc<Events>,
        (breaks, signal): (Breaks, Arc<Signal>),
        gate: Arc<Gate>,
        (timing, view): (Arc<Timing>, Arc<FeedView>),
    ) -> Ingest {
        let changes = events.changes(&feed);
        Ingest {
            feed,
            bus: Bus::new(Sequencer::new(recorder, Epoch::from_random(rand::random()))),
            shards,
            events,
            changes,
            begun: Instant::now(),
            begun_at: now(),
            is_alone: false,
            stamps: Stamps::default(),
            heard_ms: 0,
            timing,
            view,
            refusal: String::new(),
            poison_lines: Throttle::once_a_minute(),
            fork_lines: Throttle::once_a_minute(),
            gap_lines: Throttle::once_a_minute(),
            breaks,
            signal,
            gate,
        }
    }

    /// Whether clients are let in: every shard has heard that the feed is current, or the gateway stops.
    pub fn is_open(&self) -> bool {
        !self.gate.is_shut()
    }

    /// Waits until clients are let in, for 2 s at most. To be called after a feed has become current, before people are told
    /// that it is: whoever is told that a gateway is ready may be sent to it at once.
    pub async fn opened(&self) {
        let _ = tokio::time::timeout(Duration::from_secs(2), self.gate.opened()).await;
    }

    /// Says which kind of transport feeds it. Call it before the first event.
    pub fn set_up(&mut self, setup: Setup) {
        self.bus.set_up(self.now_ms(), setup);
    }

    /// Milliseconds since the feed was made.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The moment at this many milliseconds of [`Ingest::now_ms`].
    pub fn instant(&self, at_ms: u64) -> Instant {
        self.begun + Duration::from_millis(at_ms)
    }

    /// A moment of [`Ingest::now_ms`], by the wall clock.
    pub fn when(&self, at_ms: u64) -> When {
        // The time is counted from the feed's beginning, so that one moment always becomes the same second. Otherwise a
        // repeated message with another second would look like news.
        let at_us = i64::try_from(at_ms).unwrap_or(0).saturating_mul(1000).saturating_add(self.begun_at.as_micros());
        When::from_micros(at_us / 1_000_000 * 1_000_000).unwrap_or(self.begun_at)
    }

    /// Hands an event to the plan. Its actions are carried out by [`Ingest::next_ask`].
    pub fn hear(&mut self, event: Event<'_>) {
        let now = Now { ms: self.now_ms(), wall: now() };
        self.heard_ms = now.ms;
        self.bus.on(now, event);
    }

    /// Carries out the actions of the plan (to shards and log) up to the next question to the broker, and returns that
    /// question. `None` when no action is left.
    pub async fn next_ask(&mut self) -> Option<Ask> {
        while let Some(action) = self.bus.next_action() {
            match action {
                Action::Tell(tell) => self.tell(tell).await,
                Action::Say(say) => self.say(say),
                Action::Ask(ask) => return Some(ask),
            }
        }
        None
    }

    /// Carries out the actions that need no broker, while the broker is busy with a question. The next question stays
    /// for later.
    pub async fn tell_aside(&mut self) {
        while let Some(action) = self.bus.next_aside() {
            match action {
                Action::Tell(tell) => self.tell(tell).await,
                Action::Say(say) => self.say(say),
                Action::Ask(_) => {}
            }
        }
    }

    /// Hands an event to the plan and carries out its actions; only for a transport without a broker that could be
    /// asked.
    pub async fn take(&mut self, event: Event<'_>) {
        self.hear(event);
        while self.next_ask().await.is_some() {}
    }

    /// Takes a change in, even if changes before it are missing; only for a transport without a broker that could be
    /// asked for history.
    pub async fn take_change(&mut self, message: BusMessage, recorded: Option<When>) {
        self.take(Event::Change(Arrival { message, recorded }, None)).await;
    }

    /// A head was delivered; `sent`: when, by its publisher's clock.
    pub fn head_came(&self, sent: Option<When>) {
        self.view.head();
        if let Some(sent) = sent {
            self.timing.head(sent);
        }
    }

    /// Reads a message: its property `type`, if it has one, and its body. One that cannot be read is logged and counted.
    pub fn read(&mut self, kind: Option<&str>, body: &[u8]) -> Option<Message> {
        match bus::read(kind, body) {
            Ok(message) => Some(message),
            Err(reason) => {
                self.poison(body, &reason);
                None
            }
        }
    }

    /// The changes of a batch that can be read; the others are logged and counted.
    pub fn changes(&mut self, elements: Vec<Element>, recorded: Option<When>, body: &[u8]) -> Vec<Arrival> {
        let mut changes = Vec::with_capacity(elements.len());
        for element in elements {
            match element {
                Ok(message) => changes.push(Arrival { message, recorded }),
                Err(reason) => self.poison(body, &reason),
            }
        }
        changes
    }

    /// Logs and counts a poison message: one that cannot be read as a change.
    pub fn poison(&mut self, body: &[u8], reason: &BadMessage) {
        let quiet = self.poison_lines.is_quiet();
        self.events.poison(&self.feed, body, reason, quiet);
    }

    async fn tell(&mut self, tell: Tell) {
        let breaks = matches!(tell, Tell::Gap(..));
        match &tell {
            Tell::Update(update) => {
                self.changes.inc();
                self.timing.goes(self.heard_ms, update.pos, self.stamps);
            }
            Tell::Updates(updates) => {
                self.changes.inc_by(updates.len() as u64);
                if let Some(last) = updates.last() {
                    self.timing.goes(self.heard_ms, last.pos, self.stamps);
                }
            }
            _ => {}
        }
        if breaks {
            self.breaks.step();
        }
        self.signal.hear(&tell);
        for shard in &self.shards {
            if let Tell::Update(update) = &tell
                && self.is_alone
                && shard.try_now(update)
            {
                continue;
            }
            shard.send(tell.input(|at_ms| self.when(at_ms))).await;
        }
        if breaks {
            self.breaks.step();
        }
    }

    fn say(&mut self, say: Say) {
        let (events, feed) = (&self.events, &self.feed);
        match say {
            Say::Repeated => events.repeated(feed),
            Say::Late => events.late(feed),
            Say::Forked(number, news) => events.forked(feed, &number, !news || self.fork_lines.is_quiet()),
            Say::Gap(cursor) => events.gap(feed, cursor.as_ref(), self.gap_lines.is_quiet()),
            Say::Hole(missing, before) => events.hole(feed, missing, &before),
            Say::HeadHeard => events.head_heard(feed),
            Say::HeadDiffers(head) => events.head_differs(feed, &head),
            Say::HistoryRead(messages) => events.history_read(feed, messages),
            Say::NoHistory { silent: true } => events.no_history(feed, &"it does not answer; it may be recovering"),
            Say::NoHistory { silent: false } => events.no_history(feed, &self.refusal),
        }
    }

    /// The newest number that was taken in; `None` before the first.
    pub fn head(&self) -> Option<Cursor> {
        self.bus.head()
    }

    /// Makes the feed current, as a connected transport does.
    #[cfg(test)]
    pub(crate) async fn connect(&mut self) {
        self.take(Event::Connected { queue: bugfeed_core::bus::Queue::New, waiting: 0 }).await;
    }

    /// Loses the connection and connects again. Nothing then proves that no change was missed.
    #[cfg(test)]
    pub(crate) async fn reconnect(&mut self) {
        self.take(Event::Lost).await;
        self.connect().await;
    }
}

fn now() -> When {
    When::from_system_time(SystemTime::now())
}

/// A timer for [`Event::Tick`]: once a second; missed ticks are not made up for.
pub fn ticks() -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    ticks
}
