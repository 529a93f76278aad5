//! Whether every essential part of the process lives: what `/livez` answers.
//!
//! Goes in: the beats of each part ([`Pulse`]). Comes out: the parts that are dead or stuck, with a log line when one
//! becomes so and when it beats again. A loop that waits for a database or a broker beats meanwhile, because it is not
//! stuck: what it waits for is told by readiness. A loop is stuck when its thread is blocked, or when it waits for another
//! part of this process that never answers.
//!
//! A thread of its own looks, which needs neither runtime nor port. It never ends the process: that is for whoever asks
//! `/livez`.

mod judge;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bugfeed_protocol::log_event::LogEvent;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use self::judge::{Judge, Sign, Wrong};
use crate::metrics::Register;

/// A part without a sign of life for longer than this is stuck, if nothing else is said.
pub const STUCK_AFTER: Duration = Duration::from_secs(10);
/// How often [`Pulse::keep`] beats.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// How often the thread looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A part that is dead or stuck.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The part's name.
    pub part: String,
    /// What is wrong with it, for people.
    pub reason: String,
}

/// The parts of the process, and how they are. A clone shares them.
#[derive(Clone, Debug)]
pub struct Watchdog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    begun: Instant,
    parts: Mutex<Parts>,
    /// The process is ending, so parts end, too.
    leaving: AtomicBool,
    alarms: Counter,
}

#[derive(Debug)]
struct Parts {
    next: u64,
    all: BTreeMap<u64, Arc<Part>>,
    judge: Judge,
}

#[derive(Debug)]
struct Part {
    name: String,
    beats: AtomicU64,
    has_ended: AtomicBool,
}

impl Default for Watchdog {
    fn default() -> Watchdog {
        Watchdog::new(STUCK_AFTER)
    }
}

impl Watchdog {
    /// A part is stuck when it gave no sign of life for this long.
    pub fn new(stuck_after: Duration) -> Watchdog {
        let bound_ms = u64::try_from(stuck_after.as_millis()).unwrap_or(u64::MAX);
        let parts = Parts { next: 0, all: BTreeMap::new(), judge: Judge::new(bound_ms) };
        Watchdog(Arc::new(Shared {
            begun: Instant::now(),
            parts: Mutex::new(parts),
            leaving: AtomicBool::new(false),
            alarms: Counter::default(),
        }))
    }

    /// A part that the process cannot do without. It is waited for until its first beat.
    pub fn pulse(&self, part: impl Into<String>) -> Pulse {
        let part = Part { name: part.into(), beats: AtomicU64::new(0), has_ended: AtomicBool::new(false) };
        let part = Arc::new(part);
        let mut parts = self.parts();
        let id = parts.next;
        parts.next += 1;
        parts.all.insert(id, Arc::clone(&part));
        Pulse { watchdog: self.clone(), id, part }
    }

    /// The process ends from now on: nothing is missed any more.
    pub fn leave(&self) {
        self.0.leaving.store(true, Ordering::Relaxed);
    }

    /// The parts that are dead or stuck now.
    pub fn look(&self) -> Vec<Trouble> {
        if self.0.leaving.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let now_ms = u64::try_from(self.0.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut parts = self.parts();
        let Parts { all, judge, .. } = &mut *parts;
        let wrong = judge.look(now_ms, all.iter().map(|(id, part)| (*id, part.sign())));
        let named = wrong.into_iter().filter_map(|(id, wrong)| Some((all.get(&id)?, wrong)));
        let named = named.map(|(part, wrong)| Trouble { part: part.name.clone(), reason: reason(wrong) });
        named.collect()
    }

    /// Starts the thread that looks, and tells the log. It ends when the result is dropped.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn watch(&self) -> std::io::Result<Watch> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let (watchdog, stopped) = (self.clone(), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name("watchdog".to_owned());
        let thread = thread.spawn(move || watchdog.run(&stopped))?;
        Ok(Watch { stop, thread: Some(thread) })
    }

    fn run(&self, (stopped, told): &(Mutex<bool>, Condvar)) {
        let mut before = Vec::new();
        let mut stopped = stopped.lock().unwrap_or_else(PoisonError::into_inner);
        while !*stopped {
            let now = self.look();
            self.tell(&before, &now);
            before = now;
            (stopped, _) = told.wait_timeout(stopped, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Logs what has changed.
    fn tell(&self, before: &[Trouble], now: &[Trouble]) {
        let is_in = |troubles: &[Trouble], trouble: &Trouble| troubles.iter().any(|one| one.part == trouble.part);
        for Trouble { part, reason } in now.iter().filter(|trouble| !is_in(before, trouble)) {
            self.0.alarms.inc();
            tracing::error!(part, reason, event = %LogEvent::PartStuck, "an essential part of this process is stuck or dead; /livez says no until it gives a sign of life");
        }
        if self.0.leaving.load(Ordering::Relaxed) {
            return;
        }
        for Trouble { part, .. } in before.iter().filter(|trouble| !is_in(now, trouble)) {
            tracing::warn!(part, event = %LogEvent::PartLives, "the part gives signs of life again");
        }
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.0.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reason(wrong: Wrong) -> String {
    match wrong {
        Wrong::Silent(ms) => format!("stuck: no sign of life for {} s", ms / 1000),
        Wrong::Ended => "dead: it has ended".to_owned(),
    }
}

impl Part {
    fn sign(&self) -> Sign {
        if self.has_ended.load(Ordering::Relaxed) {
            return Sign::Ended;
        }
        match self.beats.load(Ordering::Relaxed) {
            0 => Sign::NotBegun,
            beats => Sign::Beats(beats),
        }
    }
}

impl Register for Watchdog {
    fn register(&self, registry: &mut Registry) {
        registry.register("watchdog_alarms", "Times an essential part was found stuck or dead", self.0.alarms.clone());
        registry.register_collector(Box::new(self.clone()));
    }
}

impl Collector for Watchdog {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let stuck = ConstGauge::new(i64::try_from(self.look().len()).unwrap_or(i64::MAX));
        let help = "Essential parts of the process that are stuck or dead now; /livez names them";
        stuck.encode(encoder.encode_descriptor("watchdog_stuck", help, None, stuck.metric_type())?)
    }
}

/// Where a part gives signs of life. Dropping it means that the part is dead, unless the process ends.
#[derive(Debug)]
pub struct Pulse {
    watchdog: Watchdog,
    id: u64,
    part: Arc<Part>,
}

impl Pulse {
    /// Gives a sign of life.
    pub fn beat(&self) {
        self.part.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for something outside of this process, and gives signs of life meanwhile.
    pub async fn alive_while<T>(&self, work: impl Future<Output = T>) -> T {
        self.beat();
        let mut work = std::pin::pin!(work);
        let mut beats = tokio::time::interval(BEAT_EVERY);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = beats.tick() => {
                    self.beat();
                    wedge::maybe(&self.part.name);
                }
            }
        }
    }

    /// Does the part's work in this task: it is alive as long as the task has its turns. When the work ends, the part is dead.
    pub fn keep<T>(self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        // Boxed, because whoever waits for it would otherwise hold it twice.
        let work = Box::pin(work);
        async move { self.alive_while(work).await }
    }

    /// The part is not needed any more.
    pub fn retire(self) {
        self.watchdog.parts().all.remove(&self.id);
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.part.has_ended.store(true, Ordering::Relaxed);
    }
}

/// The running thread of a [`Watchdog`].
#[derive(Debug)]
pub struct Watch {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let (stopped, told) = &*self.stop;
        *stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        told.notify_all();
        if let Some(thread) = self.thread.take() {
            // It panics nowhere, and a panic has been told already.
            let _ = thread.join();
        }
    }
}

/// Wedges a part on purpose, so that tests of the whole program see what happens then: the variable
/// `BUGFEED_TEST_WEDGE=PART=MILLISECONDS` blocks the thread of that part once, a second after its beginning. Only in debug
/// builds.
mod wedge {
    #[cfg(debug_assertions)]
    pub(super) fn maybe(part: &str) {
        use std::sync::atomic::{AtomicU64, Ordering};
        static BEATS: AtomicU64 = AtomicU64::new(0);
        let Ok(order) = std::env::var("BUGFEED_TEST_WEDGE") else { return };
        let Some((name, ms)) = order.rsplit_once('=') else { return };
        if let Some(ms) = ms.parse().ok().filter(|_| name == part)
            && BEATS.fetch_add(1, Ordering::Relaxed) == 1
        {
            std::thread::sleep(std::time::Duration::from_millis(ms));
        }
    }

    #[cfg(not(debug_assertions))]
    pub(super) fn maybe(_part: &str) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(troubles: &[Trouble]) -> Vec<&str> {
        troubles.iter().map(|trouble| trouble.part.as_str()).collect()
    }

    #[test]
    fn a_part_that_is_dropped_is_dead_and_one_that_retires_is_not() {
        let watchdog = Watchdog::default();
        let (one, two) = (watchdog.pulse("one"), watchdog.pulse("two"));
        one.beat();
        two.beat();
        assert_eq!(watchdog.look(), []);
        one.retire();
        drop(two);
        assert_eq!(parts(&watchdog.look()), ["two"]);
        watchdog.leave();
        assert_eq!(watchdog.look(), [], "the process ends");
    }

    /// A task blocks its thread; another one only waits, for something that never comes.
    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn a_task_that_blocks_its_thread_is_stuck_and_one_that_waits_is_not() {
        let watchdog = Watchdog::new(Duration::from_millis(1500));
        let _watch = watchdog.watch().unwrap();
        let (block, blocked) = std::sync::mpsc::channel::<()>();
        tokio::spawn(watchdog.pulse("waits").keep(std::future::pending::<()>()));
        tokio::spawn(watchdog.pulse("wedged").keep(async move {
            let _ = blocked.recv();
            std::future::pending::<()>().await;
        }));
        let until = async |wanted: &[&str]| {
            while parts(&watchdog.look()) != wanted {
                tokio::task::yield_now().await;
            }
        };
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, until(&["wedged"])).await.unwrap();
        let mut page = String::new();
        let mut registry = Registry::default();
        watchdog.register(&mut registry);
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        assert!(page.contains("watchdog_stuck 1\n"), "{page}");
        block.send(()).unwrap();
        tokio::time::timeout(limit, until(&[])).await.unwrap();
    }
}
