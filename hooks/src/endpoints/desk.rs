//! The desk: one task that owns the planners of all endpoints that this process serves.
//!
//! Goes in: rows, leases, news of feeds, ends of requests and of writes, the time. Comes out: requests, writes, what people are
//! told. It never waits for any of them, and does nothing that takes long: a planner's step is a look at the replay cache.

mod carrying;
mod partitions;
mod rows;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bugfeed_core::endpoints::SECOND_US;
use bugfeed_core::endpoints::endpoint::{Action, Endpoint, Input, View};
use bugfeed_core::endpoints::policy::State;
use bugfeed_core::endpoints::question::{Since, Told};
use bugfeed_core::endpoints::schedule::Schedule;
use bugfeed_core::subscriptions::Slot;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use self::partitions::Partition;
use super::events::{EndpointEvents, Figures};
use super::feeds::{AllFeeds, Asking, Interested};
use super::request::{Courier, Ended};
use super::target::Target;
use super::{EndpointsParts, FeedTap, Taps};
use crate::store::endpoints::leases::Round;
use crate::store::endpoints::{AttemptRow, EndpointId, SaveQueue, Saved, Stored};
use crate::store::{Store, StoreError};

/// So many places are given before the desk looks at what else has happened.
const PERMITS: usize = 256;
/// So many ends of requests or of writes are processed together.
const TOGETHER: usize = 256;
/// The clock is looked at so often, in case it was set.
const LOOK: Duration = Duration::from_secs(1);
/// Who wants to look again at once does so after this time, so that no mistake is a loop without end.
const AGAIN_US: i64 = 1000;
/// A process that has no feed after this time gets none.
const SETTLED: Duration = Duration::from_secs(10);
/// A clock that is so much behind what it should say was set back.
const JUMP_US: i64 = SECOND_US;
/// After the last request has ended, writing may take so long at an orderly stop.
const WRITING: Duration = Duration::from_secs(3);

/// What the desk is told.
#[derive(Debug)]
pub(super) enum News {
    /// A round of the leases.
    Leases(Round),
    /// Rows of partitions that were taken over under these terms, and whether these are the last ones.
    Taken(Arc<BTreeMap<u16, u64>>, Vec<Stored>, bool),
    /// Rows that people have changed, wherever.
    Changed(Vec<Stored>),
}

/// What the desk tells those around it.
#[derive(Debug)]
pub(super) enum Word {
    /// Nothing of these partitions is in flight any more: give them back.
    Release(Vec<u16>),
    /// These rows are deleted, and nobody serves them any more.
    Remove(EndpointId),
    /// These endpoints want all feeds, and lack some: here are all, and where each is begun.
    Feeds(Vec<EndpointId>, Vec<(Arc<str>, Since)>),
    /// A row was found changed, so its settings may have changed, too.
    Look,
}

/// An endpoint that is served.
struct Served {
    id: EndpointId,
    /// Tells it from others that had its slot.
    serial: u64,
    partition: u16,
    term: u64,
    planner: Endpoint,
    target: Arc<Target>,
    /// The row's version that came with the settings.
    settings_version: u64,
    wants_all: bool,
    interested: Interested,
    flight: Option<AbortHandle>,
    /// What was sent, until the planner has said whether it counts.
    ended: Vec<AttemptRow>,
    /// What the log lacks.
    attempts: Vec<AttemptRow>,
    /// What it took of a batch as messages of their own, while others are left; with which generation, at which URL.
    told: ((u32, u32), Vec<Told>),
    owed: Owed,
}

/// Since when an endpoint is owed something, in microseconds since 1970.
#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    /// What has come since it was sent something last.
    new_us: Option<i64>,
    /// What it was sent, and has not accepted yet.
    sent_us: Option<i64>,
}

impl Owed {
    fn since_us(self) -> Option<i64> {
        self.sent_us.or(self.new_us)
    }
}

/// A write that has ended.
struct Written {
    slot: Slot,
    serial: u64,
    partition: u16,
    term: u64,
    /// So many attempts were in it.
    attempts: usize,
    version: u64,
    saved: Result<Saved, StoreError>,
}

/// A request that is under way.
struct Flying {
    slot: Slot,
    serial: u64,
    partition: u16,
    term: u64,
    /// It brings what is owed. A test and a redelivery bring something else.
    is_batch: bool,
}

/// The planners, and what is under way.
pub(super) struct Desk {
    parts: EndpointsParts,
    courier: Courier,
    saves: SaveQueue,
    words: mpsc::UnboundedSender<Word>,
    schedule: Schedule,
    endpoints: Vec<Option<Box<Served>>>,
    by_id: HashMap<EndpointId, Slot>,
    feeds: AllFeeds,
    partitions: BTreeMap<u16, Partition>,
    /// When this process was shown to live last.
    shown: Option<Instant>,
    requests: JoinSet<Ended>,
    flying: HashMap<tokio::task::Id, Flying>,
    writes: FuturesUnordered<BoxFuture<'static, Written>>,
    serials: u64,
    counted: Option<Instant>,
    /// Feeds of endpoints that are not here, as they were told.
    unserved: BTreeSet<Arc<str>>,
    /// When this began.
    begun: Instant,
    /// What the clock said, and when.
    clock: (i64, Instant),
    /// The process ends: nothing is begun any more; requests are given up then.
    ending: Option<Instant>,
}

impl Desk {
    pub(super) fn new(store: Store, parts: EndpointsParts, words: mpsc::UnboundedSender<Word>) -> Desk {
        let options = &parts.options;
        let sender = super::sender(options);
        let clock = ((options.clock)(), Instant::now());
        Desk {
            courier: Courier { sender, store: store.clone(), clock: Arc::clone(&options.clock) },
            saves: SaveQueue::start(store),
            words,
            schedule: Schedule::new(options.limits),
            endpoints: Vec::new(),
            by_id: HashMap::new(),
            feeds: AllFeeds::default(),
            partitions: BTreeMap::new(),
            shown: None,
            requests: JoinSet::new(),
            flying: HashMap::new(),
            writes: FuturesUnordered::new(),
            serials: 0,
            counted: None,
            unserved: BTreeSet::new(),
            begun: Instant::now(),
            clock,
            ending: None,
            parts,
        }
    }

    /// Works until the process ends in order.
    pub(super) async fn run(mut self, mut news: mpsc::Receiver<News>, mut taps: Taps, stop: CancellationToken) {
        let moved = Arc::clone(&self.feeds.moved);
        let first = taps.borrow_and_update().clone();
        self.replace_taps(&first);
        let mut has_taps = true;
        while !self.has_ended() {
            let has_more = self.give_places();
            self.events().in_flight(self.flying.len());
            let pause = self.pause();
            tokio::select! {
                () = tokio::task::yield_now(), if has_more => {}
                () = stop.cancelled(), if self.ending.is_none() => self.end(),
                Some(ended) = self.requests.join_next_with_id() => self.ended(ended),
                Some(written) = self.writes.next() => self.written(written),
                Some(news) = news.recv() => self.hear(news),
                () = moved.notified() => self.announce(),
                changed = taps.changed(), if has_taps => {
                    has_taps = changed.is_ok();
                    let now = taps.borrow_and_update().clone();
                    self.replace_taps(&now);
                }
                () = tokio::time::sleep(pause) => self.time_passes(),
            }
        }
        self.requests.shutdown().await;
        let all: Vec<u16> = self.partitions.keys().copied().collect();
        self.say(Word::Release(all));
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Leases(round) => self.round(round),
            News::Taken(terms, rows, is_last) => {
                rows.into_iter().for_each(|row| self.taken(&terms, row));
                if is_last {
                    self.all_taken(&terms);
                }
            }
            News::Changed(rows) => rows.into_iter().for_each(|row| self.found(row)),
        }
    }

    fn say(&self, word: Word) {
        // Whoever listens ends after the desk.
        let _ = self.words.send(word);
    }

    fn events(&self) -> &EndpointEvents {
        &self.parts.events
    }

    /// The time by the clock.
    fn now_us(&self) -> i64 {
        (self.parts.options.clock)()
    }

    fn served(&mut self, slot: Slot) -> Option<&mut Served> {
        self.endpoints.get_mut(slot as usize)?.as_deref_mut()
    }

    /// The endpoint of this slot, if it is still the one that is meant.
    fn same(&mut self, slot: Slot, serial: u64) -> Option<&mut Served> {
        self.served(slot).filter(|served| served.serial == serial)
    }

    fn slots(&self) -> Vec<Slot> {
        let all = self.endpoints.iter().enumerate().filter(|(_, served)| served.is_some());
        all.filter_map(|(slot, _)| Slot::try_from(slot).ok()).collect()
    }

    fn slots_of(&self, partition: u16) -> Vec<Slot> {
        let is_of = |slot: &Slot| self.endpoints[*slot as usize].as_ref().is_some_and(|it| it.partition == partition);
        self.slots().into_iter().filter(is_of).collect()
    }

    /// Hands a planner one input, and carries out what it says.
    fn step(&mut self, slot: Slot, input: Input) {
        let now_us = self.now_us();
        let may_rewatch = matches!(input, Input::Changed(_) | Input::NotStored(Some(_)));
        let Some(served) = self.endpoints.get_mut(slot as usize).and_then(Option::as_deref_mut) else { return };
        let mut out: Vec<Action> = Vec::new();
        let asking = Asking { feeds: &self.feeds, slot };
        served.planner.step(input, &View { now_us, feeds: &asking }, &mut out);
        let wake_us = served.planner.wake_us(now_us).map(|us| if us > now_us { us } else { now_us + AGAIN_US });
        self.schedule.wake(slot, wake_us);
        if may_rewatch {
            self.rewatch(slot);
        }
        for action in out {
            self.carry_out(slot, action);
        }
    }

    /// Hears another set of bugs or feeds.
    fn rewatch(&mut self, slot: Slot) {
        let Some(served) = self.endpoints.get_mut(slot as usize).and_then(Option::as_deref_mut) else { return };
        let now = Interested::of(served.planner.row());
        if now != served.interested {
            self.feeds.leave(slot, &served.interested);
            self.feeds.join(slot, &now, None);
            served.interested = now;
        }
    }

    /// Gives places to those who may send. Returns whether there may be more.
    fn give_places(&mut self) -> bool {
        for _ in 0..PERMITS {
            if self.ending.is_some() {
                return false;
            }
            let Some(slot) = self.schedule.next(self.now_us()) else { return false };
            if !self.may_send(slot) {
                // The planner gives the place back, and asks for one again once the lease is renewed.
                self.step(slot, Input::Renewed(i64::MIN));
            }
            self.step(slot, Input::Permit);
        }
        true
    }

    /// Changes came.
    fn announce(&mut self) {
        for (feed, slots) in self.feeds.news() {
            let slots = slots.unwrap_or_else(|| self.slots());
            let now_us = self.now_us();
            for slot in slots {
                let Some(served) = self.served(slot).filter(|served| served.interested.has(&feed)) else { continue };
                served.owed.new_us.get_or_insert(now_us);
                self.step(slot, Input::News(Arc::clone(&feed)));
            }
        }
    }

    fn replace_taps(&mut self, taps: &[Arc<dyn FeedTap>]) {
        let new = self.feeds.replace(taps);
        for slot in self.slots() {
            for feed in &new {
                let Some(served) = self.endpoints[slot as usize].as_deref() else { continue };
                self.feeds.join(slot, &served.interested, Some(feed));
                self.step(slot, Input::News(Arc::clone(feed)));
            }
        }
        if !new.is_empty() {
            let slots = self.slots();
            self.complete_feeds(&slots);
        }
    }

    /// How long nothing needs to be done by itself.
    fn pause(&self) -> Duration {
        let wait_us = self.schedule.next_us().map_or(i64::MAX, |next_us| next_us.saturating_sub(self.now_us()));
        let look = self.ending.unwrap_or(self.clock.1 + LOOK).min(self.clock.1 + LOOK);
        Duration::from_micros(wait_us.max(0).unsigned_abs()).min(look.saturating_duration_since(Instant::now()))
    }

    fn time_passes(&mut self) {
        let (now_us, now) = (self.now_us(), Instant::now());
        let (before_us, before) = std::mem::replace(&mut self.clock, (now_us, now));
        let passed_us = i64::try_from(now.duration_since(before).as_micros()).unwrap_or(i64::MAX);
        let was_set_back = now_us < before_us.saturating_add(passed_us) - JUMP_US;
        let mut due = Vec::new();
        if was_set_back {
            // What was to be looked at soon may be hours ahead.
            due = self.slots();
        }
        while let Some(slot) = self.schedule.due(now_us) {
            due.push(slot);
        }
        for slot in due {
            self.step(slot, Input::Tick);
        }
        self.count_all();
        if self.ending.is_some_and(|until| until <= now) {
            self.give_up();
        }
    }

    /// Nothing is begun any more.
    fn end(&mut self) {
        self.ending = Some(Instant::now() + self.parts.options.stop_grace);
    }

    /// Requests that are still in flight are given up, and then writes.
    fn give_up(&mut self) {
        if self.requests.is_empty() {
            self.writes = FuturesUnordered::new();
        }
        self.requests.abort_all();
        self.ending = Some(Instant::now() + WRITING);
    }

    fn has_ended(&self) -> bool {
        self.ending.is_some() && self.requests.is_empty() && self.writes.is_empty()
    }

    /// Counts what is known of all endpoints; at most once in [`LOOK`].
    fn count_all(&mut self) {
        if self.counted.is_some_and(|at| at.elapsed() < LOOK) {
            return;
        }
        self.counted = Some(Instant::now());
        let now_us = self.now_us();
        let mut figures = Figures::default();
        for served in self.endpoints.iter().flatten() {
            let state = served.planner.row().state(now_us);
            *figures.states.entry(state.as_str()).or_default() += 1;
            if state == State::Active
                && let Some(since_us) = served.owed.since_us()
            {
                figures.waiting += usize::from(served.flight.is_none());
                figures.lag_us = figures.lag_us.max(now_us - since_us);
            }
        }
        self.events().set(&figures);
        self.count_feeds();
    }

    /// Tells which feeds of endpoints are not here, when that changes.
    fn count_feeds(&mut self) {
        if self.feeds.names().next().is_none() && self.begun.elapsed() < SETTLED {
            return;
        }
        let rows = self.endpoints.iter().flatten().map(|served| served.planner.row());
        let lines = rows.flat_map(|row| &row.lines).filter(|line| self.feeds.tap(&line.feed).is_none());
        let unserved: BTreeSet<Arc<str>> = lines.map(|line| Arc::clone(&line.feed)).collect();
        if unserved != self.unserved {
            self.events().unserved(&unserved);
            self.unserved = unserved;
        }
    }
}
