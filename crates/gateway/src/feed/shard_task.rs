//! One shard and its queue, and who works on it: its task, or the ingest in place.
//!
//! Goes in: the inputs of the shard's queue, in order. Comes out: what the shard writes. A shard is worked on by one thread
//! at a time, under its lock; nobody waits for that lock but the shard's own task.
//!
//! **In place.** An update that a few sessions watch is written by whoever brings it, if the shard has nothing else to do:
//! waking the shard's task on another thread costs more than the writes. Everything else goes through the queue and to the
//! shard's task, so that shards work side by side where there is much to do.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::gate::Gate;
use super::{ClientPeer, Clock, ShardInput};
use crate::events::Events;
use crate::gauges::FeedView;
use crate::timing::Timing;
use bugfeed_core::input::{Input, Update, Work as Asked};
use bugfeed_core::replay::Pos;
use bugfeed_core::shard::Shard;
use bugfeed_protocol::client::Command;

/// How many sessions a shard writes to before it lets the other tasks of its thread run.
const TURN: usize = 256;
/// How many inputs it takes before that.
const INPUTS: usize = 256;
/// How many sessions are written to in place at most. More are worth waking a task for.
const IN_PLACE: usize = 16;
/// Changes that may wait in a shard's queue as parts of inputs with several. Beyond that the ingest waits, and the broker with
/// it.
const ROOM: usize = 65_536;

/// How often a shard checks its timers while it closes its sessions.
const DRAIN_TICK: Duration = Duration::from_millis(20);

/// A shard's state, shared by its task and the ingest. Empty once the task has ended.
#[derive(Debug)]
pub(super) struct Bench(Mutex<Option<Work>>);

/// One shard and its queue.
#[derive(Debug)]
pub struct ShardTask {
    bench: Arc<Bench>,
    tick: Duration,
    clock: Clock,
}

/// The ingest's way to a shard.
#[derive(Debug)]
pub(super) struct Door {
    queue: mpsc::Sender<ShardInput>,
    room: Arc<Semaphore>,
    bench: Arc<Bench>,
}

/// A shard, its queue, and what was taken from it and is not done.
#[derive(Debug)]
struct Work {
    shard: Shard<ClientPeer>,
    inputs: mpsc::Receiver<ShardInput>,
    /// The next input, where it was taken from the queue and had to wait.
    next: Option<ShardInput>,
    /// Updates of one input, and how many of them were staged.
    updates: Option<(Arc<Vec<Update>>, usize)>,
    /// What is staged is being written.
    writes: bool,
    /// The order to drain has come.
    drains: bool,
    room: Arc<Semaphore>,
    /// Wakes the task, which waits for inputs.
    task: Option<Waker>,
    told: Told,
    /// The last sample that the shard was done with.
    timed: Pos,
    /// Updates were written since then.
    wrote: bool,
    /// How many writes there were, modulo 2^32: one of several is measured.
    writes_begun: u32,
    /// Told when this shard is current for the first time; `None` afterwards.
    gate: Option<Arc<Gate>>,
}

/// What is told of a shard's work.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) events: Arc<Events>,
    pub(super) timing: Arc<Timing>,
    pub(super) view: Arc<FeedView>,
    /// The shard's number.
    pub(super) number: usize,
}

/// What the task has to do after a piece of work.
enum Step {
    /// Let other tasks run, then go on.
    Yield,
    /// Look at the timers more often.
    Drain,
    /// Nobody can send inputs any more.
    End,
}

/// A shard's task, and the ends of its queue: for the ingest, and for connections.
pub(super) fn shard_task(
    shard: Shard<ClientPeer>,
    (queue, inputs): (mpsc::Sender<ShardInput>, mpsc::Receiver<ShardInput>),
    tick: Duration,
    clock: Clock,
    told: Told,
    gate: Arc<Gate>,
) -> (ShardTask, Door) {
    let (next, updates, task) = (None, None, None);
    let (timed, wrote, writes_begun) = (0, false, 0);
    let gate = Some(gate);
    let room = Arc::new(Semaphore::new(ROOM));
    let has_room = Arc::clone(&room);
    let (writes, drains) = (false, false);
    let work =
        Work { shard, inputs, next, updates, writes, drains, room, task, told, timed, wrote, writes_begun, gate };
    let bench = Arc::new(Bench(Mutex::new(Some(work))));
    (ShardTask { bench: Arc::clone(&bench), tick, clock }, Door { queue, room: has_room, bench })
}

impl Bench {
    fn lock(&self) -> MutexGuard<'_, Option<Work>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on what is there, and waits for more.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Step> {
        let mut bench = self.lock();
        let Some(work) = &mut *bench else { return Poll::Ready(Step::End) };
        loop {
            let done = work.advance();
            if std::mem::take(&mut work.drains) {
                return Poll::Ready(Step::Drain);
            }
            if !done {
                return Poll::Ready(Step::Yield);
            }
            if !work.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
                work.task = Some(cx.waker().clone());
            }
            match ready!(work.inputs.poll_recv(cx)) {
                Some(input) => work.next = Some(input),
                None => return Poll::Ready(Step::End),
            }
        }
    }

    fn tick(&self, now_ms: u64) {
        if let Some(work) = &mut *self.lock() {
            work.shard.tick(now_ms);
            work.count();
            work.told.view.sessions(work.told.number, work.shard.sessions(), work.shard.lagging());
        }
    }
}

impl ShardTask {
    /// Processes inputs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(self.tick);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            let step = tokio::select! {
                step = poll_fn(|cx| self.bench.poll(cx)) => step,
                _ = ticks.tick() => {
                    self.bench.tick(self.clock.now_ms());
                    continue;
                }
                () = stop.cancelled() => return,
            };
            match step {
                Step::Yield => tokio::task::yield_now().await,
                Step::Drain => ticks = tokio::time::interval(DRAIN_TICK),
                Step::End => return,
            }
        }
    }
}

impl Drop for ShardTask {
    /// Lets go of the sessions, and of the queue: whoever sends to it is told.
    fn drop(&mut self) {
        if let Some(work) = self.bench.lock().take() {
            work.room.close();
        }
    }
}

impl Door {
    /// Writes an update in place, if that is little to do. Whether it was done; otherwise it belongs into the queue.
    pub(super) fn try_now(&self, update: &Update) -> bool {
        let Ok(mut bench) = self.bench.0.try_lock() else { return false };
        let Some(work) = &mut *bench else { return false };
        if !work.is_idle() {
            return false;
        }
        work.shard.stage(update);
        if work.shard.staged() <= IN_PLACE {
            work.flush(usize::MAX);
            work.count();
        } else {
            work.writes = true;
            if let Some(task) = &work.task {
                task.wake_by_ref();
            }
        }
        true
    }

    /// Puts an input into the queue. It is dropped where the shard has ended, which it only does when the process shuts
    /// down; its clients then reconnect to another gateway.
    pub(super) async fn send(&self, input: ShardInput) {
        if let Input::Updates(updates) = &input {
            let count = u32::try_from(updates.len().min(ROOM)).unwrap_or(u32::MAX);
            // Given back once they are staged. It is closed when the shard ends.
            if let Ok(room) = self.room.acquire_many(count).await {
                room.forget();
            }
        }
        let _ = self.queue.send(input).await;
    }
}

impl Work {
    /// Whether everything that was sent to the shard is done.
    fn is_idle(&self) -> bool {
        self.next.is_none() && self.updates.is_none() && !self.writes && self.inputs.is_empty()
    }

    /// Works on inputs in order. Whether there was nothing left to do; otherwise it is the others' turn.
    fn advance(&mut self) -> bool {
        for _ in 0..INPUTS {
            // Updates that wait together are written together, so nothing is written while there are more of them.
            if self.writes {
                self.writes = !self.flush(TURN);
                if self.writes || self.count() >= TURN as u64 {
                    return false;
                }
            }
            if let Some((updates, staged)) = self.updates.take() {
                self.stage(&updates, staged);
                continue;
            }
            match self.next.take().or_else(|| self.inputs.try_recv().ok()) {
                Some(Input::Update(update)) => {
                    if self.shard.stage_is_full() {
                        (self.next, self.writes) = (Some(Input::Update(update)), true);
                    } else {
                        self.shard.stage(&update);
                    }
                }
                Some(Input::Updates(updates)) => self.updates = Some((updates, 0)),
                Some(input) if self.shard.staged() > 0 => (self.next, self.writes) = (Some(input), true),
                Some(input) => {
                    self.take(input);
                    if self.count() >= TURN as u64 {
                        return false;
                    }
                }
                None if self.shard.staged() > 0 => self.writes = true,
                None => {
                    self.count();
                    return true;
                }
            }
        }
        self.count();
        false
    }

    /// Stages updates, from this one on, as far as there is room.
    fn stage(&mut self, updates: &Arc<Vec<Update>>, staged: usize) {
        for (update, place) in updates[staged..].iter().zip(staged..) {
            if self.shard.stage_is_full() {
                (self.updates, self.writes) = (Some((Arc::clone(updates), place)), true);
                return;
            }
            self.shard.stage(update);
        }
        self.room.add_permits(updates.len().min(ROOM));
    }

    fn take(&mut self, input: ShardInput) {
        self.drains |= matches!(input, Input::Drain { .. });
        let current = matches!(input, Input::Current(true));
        if asks_for_earlier(&input) {
            self.told.timing.replay(|| self.shard.take(input));
        } else {
            self.shard.take(input);
        }
        if let Some(gate) = self.gate.take_if(|_| current) {
            gate.shard_is_current();
        }
    }

    /// Writes what is staged, to so many sessions at most. Whether it was all.
    fn flush(&mut self, most: usize) -> bool {
        self.told.timing.write(&mut self.writes_begun, || self.shard.flush(most))
    }

    /// Adds the work since the last call to the counters. Returns how many updates were written.
    fn count(&mut self) -> u64 {
        let tally = self.shard.take_tally();
        self.told.events.tally(&tally);
        self.wrote |= tally.live > 0;
        if !self.writes && self.shard.staged() == 0 {
            self.told.timing.done(self.shard.processed(), std::mem::take(&mut self.wrote), &mut self.timed);
        }
        tally.live + tally.caught_up
    }
}

/// Whether it is a command that asks for earlier changes.
fn asks_for_earlier(input: &ShardInput) -> bool {
    let Input::Work(_, Asked::Command(Ok(Command::Subscribe { since, resume, .. }))) = input else { return false };
    since.is_some() || resume.is_some()
}

#[cfg(test)]
mod tests {
    use bugfeed_protocol::bus::BusMessage;
    use bugfeed_protocol::client::Command;
    use bugfeed_protocol::{BugId, Change, Cursor, When};
    use futures::FutureExt as _;
    use rand::rngs::SmallRng;
    use rand::{RngExt as _, SeedableRng as _};
    use tokio_util::task::TaskTracker;

    use bugfeed_core::bus::{Arrival, Event};

    use crate::feed::{Feed, FeedOptions, FeedParts, Ingest, Messages, current_feed, feed};

    use super::*;

    /// So many clients that watch one bug; each has been told that it does.
    async fn watchers(feed: &Feed, bug: &str, count: usize, tracker: &TaskTracker) -> Vec<Messages> {
        let mut clients = Vec::new();
        for _ in 0..count {
            let bugs = vec![BugId::parse(bug).unwrap()];
            let mut client = feed.open([Command::Subscribe { bugs: bugs.into(), since: None, resume: None }], tracker);
            assert!(client.next().await.is_some());
            clients.push(client);
        }
        clients
    }

    async fn change(ingest: &mut Ingest, bug: &str, seq: i64, is_alone: bool) {
        let change = Change { bug: BugId::parse(bug).unwrap(), when: When::from_micros(seq * 1_000_000).unwrap() };
        ingest.is_alone = is_alone;
        let cursor = Cursor::parse(&format!("E.{seq}"));
        ingest.take_change(BusMessage { change, cursor, after: None }, None).await;
    }

    fn has_come(client: &mut Messages) -> bool {
        client.next().now_or_never().is_some()
    }

    #[tokio::test]
    async fn what_is_alone_and_for_few_is_written_in_place() {
        let (feed, mut ingest) = current_feed(2).await;
        let tracker = TaskTracker::new();
        let mut few = watchers(&feed, "1", 3, &tracker).await;
        let mut many = watchers(&feed, "2", 2 * IN_PLACE + 2, &tracker).await;
        change(&mut ingest, "1", 1, true).await;
        assert!(few.iter_mut().all(has_come), "no task has run meanwhile");
        change(&mut ingest, "1", 2, false).await;
        assert!(!few.iter_mut().any(has_come), "others wait to be taken in");
        for client in &mut few {
            assert!(client.next().await.is_some());
        }
        change(&mut ingest, "2", 3, true).await;
        assert!(!many.iter_mut().any(has_come), "many are the work of the task");
        // What comes behind it waits for it.
        change(&mut ingest, "1", 4, true).await;
        assert!(!few.iter_mut().any(has_come));
        for client in many.iter_mut().chain(&mut few) {
            assert!(client.next().await.is_some());
        }
    }

    /// Alone or not, for few or for many, with and without a turn of the tasks in between: everything comes once, in order.
    #[tokio::test]
    async fn the_order_is_that_of_the_changes() {
        for seed in 0..40 {
            let random = &mut SmallRng::seed_from_u64(seed);
            let (feed, mut ingest) = current_feed(random.random_range(1..4)).await;
            let tracker = TaskTracker::new();
            let watched = [("1", 2), ("2", 3 * IN_PLACE + 7)];
            let mut clients = Vec::new();
            for (bug, count) in watched {
                clients.push(watchers(&feed, bug, count, &tracker).await);
            }
            let mut want: [Vec<i64>; 2] = Default::default();
            for seq in 1..=60 {
                let place = random.random_range(0..2);
                change(&mut ingest, watched[place].0, seq, random.random_bool(0.6)).await;
                want[place].push(seq);
                if random.random_bool(0.3) {
                    tokio::task::yield_now().await;
                }
            }
            for (clients, want) in clients.iter_mut().zip(want) {
                for client in clients {
                    for &seq in &want {
                        let text = String::from_utf8(client.next().await.unwrap()).unwrap();
                        let when = When::from_micros(seq * 1_000_000).unwrap().to_string();
                        assert!(text.contains(&when), "seed {seed}: {text} instead of {when}");
                    }
                }
            }
        }
    }

    /// Changes are counted, not inputs: one input may hold thousands.
    #[tokio::test]
    async fn a_shard_that_does_not_keep_up_holds_the_ingest_back() {
        let options = FeedOptions::with_shards(1);
        let FeedParts { feed: _feed, mut ingest, shards } =
            feed("default", &options, Clock::start(), &Arc::new(Events::new()));
        ingest.connect().await;
        let mut seq = 0;
        let mut batch = || {
            let arrival = |_| {
                seq += 1;
                let change = Change { bug: BugId::new(7).unwrap(), when: When::from_micros(seq).unwrap() };
                let message = BusMessage { change, cursor: Cursor::parse(&format!("E.{seq}")), after: None };
                Arrival { message, recorded: None }
            };
            (0..10_000).map(arrival).collect()
        };
        let mut taken = 0;
        while ingest.take(Event::Batch(batch(), None)).now_or_never().is_some() {
            taken += 1;
            assert!(taken < 10, "nothing holds it back");
        }
        assert_eq!(taken, ROOM / 10_000);
        for shard in shards {
            tokio::spawn(shard.run(CancellationToken::new()));
        }
        for _ in 0..10 {
            ingest.take(Event::Batch(batch(), None)).await;
        }
    }
}
