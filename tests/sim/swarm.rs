//! What one seed is made of: sizes, bounds, and which kinds of faults it has ("swarm testing": a run with few kinds, often,
//! finds what a run with all kinds, rarely, does not).
//!
//! Goes in: randomness. Comes out: the plan of one run. Never looks at the world.

use bugfeed_core::input::SessionLimits;
use bugfeed_core::replay::{Replay, ReplayLimits};
use rand::RngExt as _;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;

/// Something that happens in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Commit,
    Shim,
    Pod,
    Shard,
    Read,
    Conn,
    Time,
    Visit,
    // What follows are faults.
    ShimCrash,
    ShimPause,
    ShimFailsCommit,
    Refuse,
    PublishLost,
    BrokerRestart,
    StreamAway,
    Retention,
    NewEpoch,
    Backup,
    SetBack,
    PodCrash,
    PodLink,
    Drain,
    ClientDrop,
    ClientStall,
    Phantom,
    Wipe,
    Unbind,
    Second,
    Copy,
    TableAway,
}

const WORK: [Act; 8] = [Act::Commit, Act::Shim, Act::Pod, Act::Shard, Act::Read, Act::Conn, Act::Time, Act::Visit];
const FAULTS: [Act; 22] = [
    Act::ShimCrash,
    Act::ShimPause,
    Act::ShimFailsCommit,
    Act::Refuse,
    Act::PublishLost,
    Act::BrokerRestart,
    Act::StreamAway,
    Act::Retention,
    Act::NewEpoch,
    Act::Backup,
    Act::SetBack,
    Act::PodCrash,
    Act::PodLink,
    Act::Drain,
    Act::ClientDrop,
    Act::ClientStall,
    Act::Phantom,
    Act::Wipe,
    Act::Unbind,
    Act::Second,
    Act::Copy,
    Act::TableAway,
];

/// Whether some clients watch all bugs. The other draws of a seed do not depend on `BUGFEED_SIM_ALL`.
fn with_all(random: &mut SmallRng) -> bool {
    let drawn = random.random_bool(0.5);
    match std::env::var("BUGFEED_SIM_ALL").as_deref() {
        Err(_) => drawn,
        Ok(text) => text != "0",
    }
}

/// The plan of one run.
#[derive(Clone, Debug)]
pub struct Swarm {
    pub pods: usize,
    pub shards: usize,
    pub clients: usize,
    /// Whether some of them watch all bugs as one subscription.
    pub with_all: bool,
    pub bugs: u64,
    pub changes: usize,
    pub steps: usize,
    pub ring: ReplayLimits,
    pub limits: SessionLimits,
    pub queue_max: usize,
    pub prefetch: usize,
    pub batch: usize,
    /// Most changes in one message.
    pub together: usize,
    /// Whether the broker has streams at all.
    pub history: bool,
    /// Whether pods ask for history.
    pub asks_history: bool,
    /// Whether publishers say heads.
    pub heads: bool,
    /// Whether pods may bind to the exchange of heads.
    pub hears_heads: bool,
    /// How many of the changes are of a producer that gives no numbers.
    pub foreign: f64,
    /// Whether pods have durable queues of their own.
    pub durable: bool,
    /// The tracker keeps one row for each bug, and updates it in place.
    pub one_row: bool,
    /// How many transactions are open at a time; they commit in any order, with the dates of their beginnings.
    pub late_commits: usize,
    /// How often a message is refused, where that happens at all.
    pub refusals: f64,
    /// How likely an attempt to connect to the broker succeeds.
    pub connects: f64,
    /// How many bytes sockets hold.
    pub room: usize,
    /// What may happen, and how often.
    weights: Vec<(Act, u32)>,
    total: u32,
}

impl Swarm {
    pub fn new(random: &mut SmallRng) -> Swarm {
        let mut weights: Vec<(Act, u32)> = WORK.iter().map(|&act| (act, random.random_range(15..100))).collect();
        // Without these nothing gets anywhere; connections and shards are many.
        for (act, weight) in &mut weights {
            match act {
                Act::Conn | Act::Shard | Act::Pod | Act::Shim => *weight *= 4,
                Act::Time => *weight /= 3,
                _ => {}
            }
        }
        let often = *[1, 2, 4].choose(random).unwrap();
        let kinds = random.random_range(0.0..0.8);
        for &fault in &FAULTS {
            if random.random_bool(kinds) {
                let rare = matches!(
                    fault,
                    Act::NewEpoch
                        | Act::SetBack
                        | Act::BrokerRestart
                        | Act::Wipe
                        | Act::Unbind
                        | Act::Second
                        | Act::Copy
                        | Act::TableAway
                );
                weights.push((fault, if rare { 1 } else { often * random.random_range(1..4) }));
            }
        }
        let long = random.random_bool(0.01);
        let changes = if long { 1400 } else { random.random_range(10..90) };
        // Now and then so many that the newest of each is more than is written at a time.
        let bugs = if long && random.random_bool(0.5) { 120 } else { random.random_range(1..8) };
        let max = if random.random_bool(0.5) { random.random_range(2..12) } else { 10_000 };
        let table = if random.random_bool(0.2) { random.random_range(2..6) } else { 10_000 };
        let ring = ReplayLimits { max, age_s: if random.random_bool(0.2) { 20 } else { 86_400 }, bugs: table };
        let catch_up = if random.random_bool(0.2) { random.random_range(1..6) } else { 20_000 };
        let page = *[1, 2, 7, 8192].choose(random).unwrap();
        let limits = SessionLimits { catch_up, all: true, page, ..SessionLimits::default() };
        Swarm {
            pods: random.random_range(1..4),
            shards: random.random_range(1..3),
            clients: random.random_range(1..7),
            with_all: with_all(random),
            // So many that the table of the newest changes overflows.
            bugs: if table < 10 { bugs + 8 } else { bugs },
            changes: if table < 10 { changes + 130 } else { changes },
            steps: if long { 22_000 } else { random.random_range(800..3000) },
            ring,
            limits,
            queue_max: *[3, 12, 100_000, 100_000, 100_000].choose(random).unwrap(),
            prefetch: random.random_range(1..6),
            batch: random.random_range(1..8),
            history: random.random_bool(0.7),
            asks_history: random.random_bool(0.9),
            heads: random.random_bool(0.75),
            foreign: if long { 0.5 } else { *[0.0, 0.0, 0.0, 0.3].choose(random).unwrap() },
            durable: random.random_bool(0.3),
            one_row: random.random_bool(0.15),
            late_commits: if random.random_bool(0.4) { random.random_range(1..12) } else { 0 },
            refusals: *[0.03, 0.3].choose(random).unwrap(),
            connects: *[1.0, 1.0, 0.03].choose(random).unwrap(),
            room: *[130, 400, 5000, 1_000_000].choose(random).unwrap(),
            hears_heads: random.random_bool(0.85),
            together: *[1, 2, 3, 8].choose(random).unwrap(),
            total: weights.iter().map(|(_, weight)| weight).sum(),
            weights,
        }
    }

    /// What happens next.
    pub fn next(&self, random: &mut SmallRng) -> Act {
        let mut at = random.random_range(0..self.total);
        for &(act, weight) in &self.weights {
            match at.checked_sub(weight) {
                Some(rest) => at = rest,
                None => return act,
            }
        }
        Act::Time
    }

    /// Whether a pod's cache keeps to its limits.
    pub fn check_bounds(&self, cache: &Replay, pod: usize) -> Result<(), String> {
        // The table is looked at every 64 changes.
        if cache.head() + 1 - cache.start() > self.ring.max || cache.bugs() > self.ring.bugs + 64 {
            return Err(format!("pod {pod}: the cache holds more than {:?}", self.ring));
        }
        Ok(())
    }

    /// Whether heads come to pods.
    pub fn has_heads(&self) -> bool {
        self.heads && self.hears_heads
    }

    /// Whether pods without heads find what they missed in history.
    pub fn looks(&self) -> bool {
        !self.hears_heads && self.history && self.asks_history
    }

    /// Whether this kind of fault happens in this run.
    pub fn has(&self, act: Act) -> bool {
        self.weights.iter().any(|(other, _)| *other == act)
    }
}
