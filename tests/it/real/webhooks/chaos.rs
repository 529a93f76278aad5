//! The test itself: set everything up, let it die at random, let it catch up, check, report.

use std::sync::Arc;
use std::time::Duration;

use bugfeed_protocol::Numbered;
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::eventually;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tokio::time::Instant;

use super::bugzilla::{self, Bugzilla, Pace};
use super::check::{self, Stored};
use super::faults;
use super::github::{self, GitHub};
use super::listener::Listeners;
use super::receivers::Receivers;
use super::site::{self, Around, FEEDS, Parts, SOURCES};
use super::store::Kind;
use crate::real::soak::chaos::{CATCH_UP, from_env};
use crate::real::soak::faults::{Counts, Period};
use crate::real::soak::pods::logged;
use crate::real::soak::{self, pause};

/// From this length on, faults are rarer, so that something may become of what they interrupt.
const LONG: u64 = 120;
/// How long it takes until what was missed is counted.
const VERDICT: Duration = Duration::from_secs(150);
/// The longest time between two questions to a tracker, and a little.
const ROUND: Duration = Duration::from_secs(330);
/// How long an event is left to a process that has it, and is gone.
const LEASE: Duration = Duration::from_secs(70);

/// What is to be done.
struct Plan {
    seed: u64,
    seconds: u64,
    store: Kind,
    replicas: usize,
    /// The reconciler asks when it is its turn, instead of because hooks are started again.
    is_patient: bool,
    /// Bugzilla is asked before a bug is announced.
    verify: bool,
}

impl Plan {
    fn from_env(seconds: u64) -> Plan {
        let seed = from_env("BUGFEED_TEST_WEBHOOKS_SEED", u64::from(rand::random::<u32>()));
        let seconds = from_env("BUGFEED_TEST_WEBHOOKS_SECONDS", seconds);
        let by_seed = Kind::ALL[usize::try_from(seed % 3).unwrap()];
        let store = std::env::var("BUGFEED_TEST_WEBHOOKS_STORE").map_or(by_seed, |text| Kind::parse(&text));
        let replicas = usize::try_from(from_env("BUGFEED_TEST_WEBHOOKS_REPLICAS", 2)).unwrap();
        let replicas = if store.is_shared() { replicas } else { 1 };
        let is_patient = from_env("BUGFEED_TEST_WEBHOOKS_PATIENT", 0) > 0;
        let verify = from_env("BUGFEED_TEST_WEBHOOKS_VERIFY", 0) > 0;
        let name = store.name();
        println!(
            "seed {seed}; the same schedule again: BUGFEED_TEST_WEBHOOKS_SEED={seed} BUGFEED_TEST_WEBHOOKS_SECONDS={seconds} \
             BUGFEED_TEST_WEBHOOKS_STORE={name} BUGFEED_TEST_WEBHOOKS_REPLICAS={replicas}"
        );
        Plan { seed, seconds, store, replicas, is_patient, verify }
    }

    fn is_long(&self) -> bool {
        self.seconds >= LONG
    }

    fn random(&self, lane: u64) -> SmallRng {
        SmallRng::seed_from_u64(self.seed + lane)
    }
}

/// Everything that sends and listens.
struct People {
    bugzilla: Bugzilla,
    github: GitHub,
    listeners: [Listeners; 2],
}

impl People {
    async fn start(around: &Around, plan: &Plan) -> People {
        let (gateway, folder, seed) = (around.pods.0[0].clients, around.folder.path(), plan.seed);
        let listeners = [
            Listeners::start(gateway, FEEDS[0], bugzilla::BUGS, seed + 20, folder).await,
            Listeners::start(gateway, FEEDS[1], github::ISSUES, seed + 21, folder).await,
        ];
        let to = around.service.address;
        let pace = Pace {
            seed: seed + 30,
            speed: if plan.is_long() { 20.0 } else { 100.0 },
            // It is asked twice a second at most.
            edits: Duration::from_millis(if plan.verify { 2000 } else { 600 }),
            on: Duration::from_secs(plan.seconds) / if plan.is_long() { 8 } else { 2 },
        };
        let [first, second] = around.trackers.each_ref().map(Arc::clone);
        let bugzilla = Bugzilla::start(first, to, around.key.expose(), pace);
        let github = GitHub::start(second, to, seed + 40, Duration::from_millis(250));
        // Before that a client has no place to which it could come back.
        for listeners in &listeners {
            listeners.hear().await;
        }
        let heard = async || around.receivers.have_heard();
        eventually(CATCH_UP, "every receiver has taken something", heard).await.unwrap();
        People { bugzilla, github, listeners }
    }

    /// Nothing changes any more, and what is to be sent is sent.
    async fn calm(&self) -> Vec<String> {
        self.listeners.iter().for_each(Listeners::calm);
        tokio::join!(self.bugzilla.calm(), self.github.calm());
        self.bugzilla.drained(CATCH_UP).await.err().into_iter().collect()
    }

    /// What clients and receivers were not told of.
    fn missing(&self, receivers: &Receivers, [kde, octo]: &[Vec<Numbered>; 2]) -> Vec<String> {
        let [one, other] = &self.listeners;
        let (bugzilla, github) = (self.bugzilla.tracker.edits(), self.github.tracker.edits());
        let told = [one.missing(&bugzilla), other.missing(&github)];
        let taken = [receivers.missing(FEEDS[0], kde), receivers.missing(FEEDS[1], octo)];
        [told, taken].concat().concat()
    }
}

/// Runs every lane of faults to its end.
async fn die_at_random(parts: Parts, around: &Around, plan: &Plan) -> (Parts, Counts) {
    let rest_ms = if plan.is_long() { (2000, 12_000) } else { (300, 2500) };
    let period = Period { rest_ms, ..Period::new(Duration::from_secs(plan.seconds)) };
    let Parts { database, rabbit, gateway, hooks } = parts;
    let ((mut counts, rabbit), (of_gateway, gateway), (of_hooks, hooks), (of_store, database)) = tokio::join!(
        Box::pin(soak::faults::broker(rabbit, false, period, plan.random(1))),
        Box::pin(soak::faults::gateway(gateway, 0, Arc::clone(&around.pods), period, plan.random(2))),
        Box::pin(faults::hooks(hooks, period, plan.random(3))),
        Box::pin(faults::store(database, period, plan.random(4))),
    );
    for others in [of_gateway, of_hooks, of_store] {
        others.into_iter().for_each(|(kind, count)| *counts.entry(kind).or_default() += count);
    }
    (Parts { database, rabbit, gateway, hooks }, counts)
}

/// Waits until everything is known everywhere. Returns what is wrong then.
async fn settle(parts: &Parts, around: &Around, people: &People, limit: Duration) -> Vec<String> {
    let store = parts.database.open().await;
    let look = async || {
        check::open(&store).await?;
        let spooled = around.spooled();
        let ledgers = parts.database.ledgers().await.map_err(|error| error.to_string())?;
        let missing = people.missing(&around.receivers, &ledgers);
        match (&spooled[..], &missing[..]) {
            ([], []) => Ok(()),
            (spooled, missing) => Err(format!("spools: {spooled:?}; missing: {} {:?}", missing.len(), missing.first())),
        }
    };
    let settled = eventually(limit, "everything is known everywhere", look).await;
    let mut wrong: Vec<String> = settled.err().map(|error| error.to_string()).into_iter().collect();
    match parts.database.ledgers().await {
        Ok(ledgers) => wrong.extend(people.missing(&around.receivers, &ledgers)),
        Err(error) => wrong.push(format!("the ledgers cannot be read: {error}")),
    }
    match Stored::read(&store).await {
        Ok(stored) => wrong.extend(report(&stored, around, people)),
        Err(error) => wrong.push(format!("the store cannot be read: {error}")),
    }
    store.close().await;
    wrong
}

/// Prints the figures, and returns what is wrong.
fn report(stored: &Stored, around: &Around, people: &People) -> Vec<String> {
    let journals = [&people.bugzilla.journal, &people.github.journal];
    let (off, given_up) = people.bugzilla.off();
    println!("webhooks: bugzilla's was switched off {off} times by its owner, {given_up} times by the daemon");
    let mut wrong = Vec::new();
    for (index, source) in SOURCES.into_iter().enumerate() {
        let (edits, journal) = (around.trackers[index].edits(), journals[index]);
        println!("webhooks: {source}: {}", journal.line());
        println!("webhooks: {source}: {}; asked {} times", stored.line(source, &edits), around.trackers[index].asked());
        println!("{}", check::announced(&people.listeners[index], &edits, journal));
        wrong.extend(stored.judge(source, &edits, journal));
        wrong.extend(people.listeners[index].wrong());
    }
    println!("{}", around.receivers.lines());
    wrong.extend(around.receivers.wrong());
    wrong
}

async fn survive(plan: Plan) {
    let Some((parts, around)) = site::start(plan.store, plan.replicas, plan.verify, plan.seed).await else { return };
    let people = People::start(&around, &plan).await;
    let (mut parts, faults) = die_at_random(parts, &around, &plan).await;
    let faults: Vec<String> = faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    println!("webhooks: {} s with {} x {}: {}", plan.seconds, plan.replicas, plan.store.name(), faults.join(", "));
    let calm = Instant::now();
    parts.ready(&around).await;
    let mut wrong = people.calm().await;
    let store = parts.database.open().await;
    around.receivers.calm(&store).await;
    store.close().await;
    let begin = Instant::now();
    if !plan.is_patient {
        // Reconcilers ask at once when they are started; otherwise a tracker is asked every few minutes only.
        parts.restart_hooks().await;
    }
    let (round, lease) = (ROUND * u32::from(plan.is_patient), LEASE * u32::from(plan.verify));
    wrong.extend(settle(&parts, &around, &people, CATCH_UP + round + lease).await);
    println!("webhooks: all known everywhere {:.1} s after the last fault", calm.elapsed().as_secs_f32());
    if plan.is_long() {
        // What was found last is counted as missed once the usual latency has passed.
        pause((begin + VERDICT).saturating_duration_since(Instant::now())).await;
    }
    let missed = SOURCES.map(|source| format!("{source} {}", around.missed.of(source)));
    parts.keep_logs();
    around.receivers.keep_journals(&around.logs);
    let events = [LogEvent::SpoolBegun, LogEvent::HooksWait, LogEvent::HookTryFailed, LogEvent::SpoolSetAside];
    let [spooled, waits, failed, aside] = events.map(|what| logged(&around.logs, what));
    println!(
        "webhooks: counted as missed by the processes that lived long enough: {}; the spool was used {spooled} times, the store said to be away {waits} times, {failed} tries of events failed, {aside} set aside; wrong: {}",
        missed.join(", "),
        wrong.len(),
    );
    let logs = around.logs.clone();
    drop((people, parts, around));
    wrong.truncate(30);
    assert!(wrong.is_empty(), "{}\nlogs of all processes: {}", wrong.join("\n"), logs.display());
    std::fs::remove_dir_all(logs).unwrap();
}

/// Nothing that a tracker changed stays unknown, and nothing that a sender was told is untrue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_outlive_everything() {
    survive(Plan::from_env(10)).await;
}
