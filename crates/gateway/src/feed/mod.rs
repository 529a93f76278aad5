//! One feed of a gateway: the replay cache, the one ingest that fills it, and the shards that own its sessions.
//!
//! Goes in: messages from the bus (through [`Ingest`]) and connections (through [`Feed::attach`]). Subscribing and
//! publishing cannot race, because of one order: a change is first recorded in the replay cache, then put into every
//! shard's queue, and the commands of clients go through the same queue.

mod boundary;
mod buffered_peer;
mod client_peer;
mod connection;
mod gate;
mod ingest;
mod read;
mod shard_task;
mod tap;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

pub use buffered_peer::{BufferedPeer, Messages};
use bugfeed_protocol::client::Command;
pub use client_peer::ClientPeer;
use connection::Common;
pub use connection::Connection;
use gate::Gate;
pub use ingest::{Ingest, ticks};
pub use shard_task::ShardTask;
use shard_task::{Told, shard_task};
use tap::Signal;
pub use tap::Tap;

use crate::access::Gatekeeper;
use crate::access::file::Table;
use crate::events::Events;
use crate::gauges::FeedView;
use bugfeed_core::access::{Grant, Pass, Refused, Tokens};
use bugfeed_core::budget::{Budgets, Share};
use bugfeed_core::input::{About, Input, SessionLimits};
use bugfeed_core::replay::{ReplayLimits, replay};
use bugfeed_core::shard::Shard;
use bugfeed_runtime::http::{ConnectionEvents as _, Hijacked};

type ShardInput = Input<ClientPeer>;

/// How many inputs a shard's queue holds. A full queue holds back the bus (the broker then keeps the messages), and
/// also the commands of clients (backpressure).
const SHARD_QUEUE: usize = 4096;

/// A monotonic clock: milliseconds since the process began to serve.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that starts at 0.
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// The time since the clock's start, in milliseconds.
    pub fn now_ms(self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// How feeds are set up.
#[derive(Clone, Debug)]
pub struct FeedOptions {
    /// Shards of each feed; each is one task that owns a part of the sessions.
    pub shards: usize,
    /// What the replay cache keeps.
    pub replay: ReplayLimits,
    /// Bounds on one session.
    pub session: SessionLimits,
    /// Bounds on all sessions together, shared by the feeds of a process.
    pub budgets: Budgets,
    /// Checks the tokens of clients; `None` lets everybody in.
    pub access: Option<Arc<Gatekeeper>>,
}

#[cfg(test)]
impl FeedOptions {
    /// The default limits, with this many shards.
    pub(crate) fn with_shards(shards: usize) -> FeedOptions {
        FeedOptions {
            shards,
            replay: ReplayLimits::default(),
            session: SessionLimits::default(),
            budgets: Budgets::default(),
            access: None,
        }
    }
}

/// A feed that is current, and whose shards run until the test ends.
#[cfg(test)]
pub(crate) async fn current_feed(shards: usize) -> (Arc<Feed>, Ingest) {
    current_feed_of(&FeedOptions::with_shards(shards)).await
}

/// The same, with other options.
#[cfg(test)]
pub(crate) async fn current_feed_of(options: &FeedOptions) -> (Arc<Feed>, Ingest) {
    let FeedParts { feed, mut ingest, shards } = feed("default", options, Clock::start(), &Arc::new(Events::new()));
    for shard in shards {
        tokio::spawn(shard.run(tokio_util::sync::CancellationToken::new()));
    }
    ingest.connect().await;
    assert!(feed.opened().await);
    (feed, ingest)
}

/// What one feed needs to serve connections.
#[derive(Debug)]
pub struct Feed {
    /// The name in the path, `default` for `/`.
    pub name: String,
    shards: Vec<mpsc::Sender<ShardInput>>,
    next: AtomicUsize,
    common: Arc<Common>,
    /// A random number of this feed in this process; part of [`Feed::mark`].
    born: u32,
    breaks: Breaks,
    tap: Tap,
    gate: Arc<Gate>,
}

/// What a feed runs on: spawn [`ShardTask::run`] for each, and give the ingest to the bus.
#[derive(Debug)]
pub struct FeedParts {
    /// Takes connections.
    pub feed: Arc<Feed>,
    /// Takes changes.
    pub ingest: Ingest,
    /// The shards, yet to be spawned.
    pub shards: Vec<ShardTask>,
}

/// Sets up a feed; nothing runs yet.
pub fn feed(name: &str, options: &FeedOptions, clock: Clock, events: &Arc<Events>) -> FeedParts {
    let (recorder, cache) = replay(options.replay);
    let about = About { version: bugfeed_runtime::VERSION.into(), feed: name.into() };
    let gate = Arc::new(Gate::new(options.shards.max(1)));
    let view = Arc::new(FeedView::new(&cache, options.shards.max(1)));
    let timing = events.timings.of(name);
    events.gauges.show(name, Arc::clone(&view), &options.budgets);
    let (mut senders, mut shards, mut doors) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..options.shards.max(1) {
        let queue = mpsc::channel(SHARD_QUEUE);
        senders.push(queue.0.clone());
        let shard = Shard::new(Arc::clone(&cache), options.session, about.clone()).within(&options.budgets);
        let tick = tick_of(&options.session);
        let told = Told { events: Arc::clone(events), timing: Arc::clone(&timing), view: Arc::clone(&view), number };
        let (task, door) = shard_task(shard, queue, tick, clock, told, Arc::clone(&gate));
        shards.push(task);
        doors.push(door);
    }
    let (breaks, signal) = (Breaks::default(), Arc::new(Signal::default()));
    let tap = Tap::new(name, &cache, &signal);
    let heard = (breaks.clone(), signal);
    let measured = (timing, view);
    let ingest = Ingest::new(name.to_owned(), recorder, doors, Arc::clone(events), heard, Arc::clone(&gate), measured);
    let feed = Feed {
        name: name.to_owned(),
        shards: senders,
        next: AtomicUsize::new(0),
        born: rand::random(),
        breaks,
        tap,
        common: Arc::new(Common {
            max_bugs: options.session.subscriptions,
            allows_all: options.session.all,
            message_bytes: options.session.message_bytes,
            message_timeout: Duration::from_millis(options.session.message_timeout_ms),
            budgets: options.budgets.clone(),
            access: options.access.clone(),
            clock,
            events: Arc::clone(events),
        }),
        gate,
    };
    FeedParts { feed: Arc::new(feed), ingest, shards }
}

/// Counts the breaks in a feed's continuity, for [`Feed::mark`].
#[derive(Clone, Debug, Default)]
struct Breaks(Arc<AtomicU64>);

impl Breaks {
    /// Called twice for each break: before the first session is told of it, and once it is in the queue of every shard,
    /// so that every session that begins later begins after it. A mark that is taken in between therefore equals
    /// neither the mark before the break nor the one after it.
    fn step(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// How often a shard checks its timers: a quarter of the shortest time limit that it enforces, but 10 ms to 500 ms. Each check
/// looks at all sessions.
fn tick_of(limits: &SessionLimits) -> Duration {
    let shortest = limits.ping_interval_ms.min(limits.idle_timeout_ms).min(limits.write_timeout_ms);
    let shortest = shortest.min(limits.message_timeout_ms);
    Duration::from_millis((shortest / 4).clamp(10, 500))
}

impl Feed {
    /// The shard that gets the next session (round robin).
    fn next_shard(&self) -> mpsc::Sender<ShardInput> {
        self.shards[self.next.fetch_add(1, Ordering::Relaxed) % self.shards.len()].clone()
    }

    /// Serves one connection until it ends, in a task of `tracker`. `pass`: what its client has shown so far, where it must.
    pub fn attach(&self, hijacked: Hijacked, pass: Option<Pass>, tracker: &TaskTracker) {
        let (conn, reader) = connection::take_over(hijacked, self.next_shard(), Arc::clone(&self.common));
        tracker.spawn(connection::serve(conn, reader, pass.map(Box::new)));
    }

    /// Begins a session of the HTTP fallback, and sends it these commands. Its messages are taken from the returned
    /// [`Messages`]; its task is one of `tracker`.
    pub fn open(&self, commands: impl IntoIterator<Item = Command>, tracker: &TaskTracker) -> Messages {
        self.open_with(None, commands, tracker)
    }

    /// The same. `pass`: what its client has shown, where it must.
    pub fn open_with(
        &self,
        pass: Option<Pass>,
        commands: impl IntoIterator<Item = Command>,
        tracker: &TaskTracker,
    ) -> Messages {
        let peer = Arc::new(BufferedPeer::default());
        let messages = Messages::new(&peer);
        commands.into_iter().for_each(|command| messages.ask(command));
        tracker.spawn(buffered_peer::serve(peer, pass, self.next_shard(), Arc::clone(&self.common)));
        messages
    }

    /// Whether it is too early for clients: the feed has never been current yet, and clients would be sent old changes
    /// as if they were new.
    pub fn is_shut(&self) -> bool {
        self.gate.is_shut()
    }

    /// Waits until clients may come; false if the gateway stops before that.
    pub async fn opened(&self) -> bool {
        self.gate.opened().await
    }

    /// Bugs a session may watch.
    pub fn max_bugs(&self) -> usize {
        self.common.max_bugs
    }

    /// Whether a session may watch all bugs.
    pub fn allows_all(&self) -> bool {
        self.common.allows_all
    }

    /// The largest message a client may send, in bytes.
    pub fn message_bytes(&self) -> usize {
        self.common.message_bytes
    }

    /// A text that stays the same as long as continuity did not break on this gateway. It replaces a cursor while the
    /// gateway knows no number: a client that polls again sends the mark back, and is not told the same gap again.
    pub fn mark(&self) -> String {
        format!("{:x}-{}", self.born, self.breaks.0.load(Ordering::Acquire))
    }

    /// What endpoints ask, and hear from.
    pub fn tap(&self) -> Tap {
        self.tap.clone()
    }

    /// How long a message may take from its first byte to its last.
    pub fn message_timeout(&self) -> Duration {
        self.common.message_timeout
    }

    /// A share of the memory budget for unfinished messages, for a request body, which arrives by HTTP.
    pub fn share(&self) -> Share {
        Share::of(&self.common.budgets.message_bytes)
    }

    /// Counts a request of this client that is refused for want of room.
    pub fn turned_away(&self, kind: &'static str, from: Option<IpAddr>) {
        self.common.events.turned_away(kind, from);
    }

    /// Who checks the tokens of clients, where they need some.
    pub fn gatekeeper(&self) -> Option<&Arc<Gatekeeper>> {
        self.common.access.as_ref()
    }

    /// The pass of a session with this grant.
    pub fn pass(&self, grant: Arc<Grant>) -> Pass {
        self.common.pass(grant)
    }

    /// The pass of a session that has shown nothing yet; `None` where nobody is asked.
    pub fn awaited_pass(&self) -> Option<Pass> {
        let wait = self.gatekeeper()?.wait();
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Some(Pass::awaited(self.common.clock.now_ms().saturating_add(wait_ms)))
    }

    /// Counts somebody who is not let in, or not to this.
    pub fn refused(&self, refused: Refused, from: Option<IpAddr>) {
        self.common.events.access_refused(refused.kind(), from);
    }

    /// Counts somebody who has sent a token in a URL.
    pub fn refused_url(&self, from: Option<IpAddr>) {
        self.common.events.access_refused("in_url", from);
    }

    /// The file of tokens was read again: running sessions are compared with it.
    pub async fn tokens_changed(&self, table: &Table) {
        let tokens: Tokens = table.iter().map(|(id, grant)| (*id, self.pass(Arc::clone(grant)))).collect();
        let tokens = Arc::new(tokens);
        for shard in &self.shards {
            // A shard that is gone has no sessions.
            let _ = shard.send(Input::Tokens(Arc::clone(&tokens))).await;
        }
    }

    /// Closes every session with "gateway restarts", spread over this window of time, so that not all clients reconnect
    /// at once (thundering herd).
    pub async fn drain(&self, window: Duration) {
        self.gate.leave();
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        for shard in &self.shards {
            // A shard that is gone has no sessions.
            let _ = shard.send(Input::Drain { window_ms }).await;
        }
    }
}
