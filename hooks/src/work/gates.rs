//! The sources as the planner sees them: settings, switches, and what may be done for each just now.
//!
//! Goes in: a configuration, what is switched off, and which questions begin and end. Comes out: [`Settings`] and [`Gate`]
//! of an event's source. Nothing of it is stored. Tells the planner to put a question off rather than to wait, so that a
//! slow tracker delays only its own source: each lane that is put off gets a time of its own, one after another at the
//! tracker's rate, so that it is written once and not again and again.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bugfeed_core::hooks::SECOND_US;
use bugfeed_core::hooks::arrival::Duplicates;
use bugfeed_core::hooks::event::Event;
use bugfeed_core::hooks::lane::{DeadLetters, Gate, Older, Private, Settings};
use bugfeed_core::hooks::pace::Bucket;
use bugfeed_core::hooks::schedule::Schedule;
use tokio::sync::watch;

use super::WorkOptions;
use crate::client::Client;
use crate::config::{HooksConfig, Source, source as words};
use crate::store::Rule;
use crate::tracker::{Asker, CannotAsk, Clock, Tracker};

/// So many questions of a source are under way at once, those that wait for the tracker's rate included.
const LOOKS: u32 = 8;

/// Names of sources and feeds that are switched off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SwitchNames {
    /// Sources.
    pub sources: BTreeSet<String>,
    /// Feeds.
    pub feeds: BTreeSet<String>,
}

/// All sources of the configuration of now.
pub struct Sources {
    table: RwLock<Arc<Table>>,
    off: RwLock<Arc<SwitchNames>>,
    changes: watch::Sender<u64>,
    client: Client,
    clock: Clock,
    pace: (u32, u32),
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.table().sources.keys()).finish()
    }
}

/// The sources of one configuration.
pub(crate) struct Table {
    pub(crate) config: Arc<HooksConfig>,
    pub(crate) sources: HashMap<String, Arc<SourceState>>,
    /// Some source drops what is older than the newest completed event.
    pub(crate) needs_done: bool,
}

/// A source, and what is known of it in this process.
pub(crate) struct SourceState {
    pub(crate) config: Source,
    settings: Settings,
    duplicates: Duplicates,
    pub(crate) asker: Option<Arc<Asker>>,
    pace: Mutex<Bucket>,
    looks: Mutex<Looks>,
    /// A probe of the tracker is under way.
    pub(super) is_probing: AtomicBool,
    /// No probe before this time.
    pub(super) probe_from_us: AtomicI64,
}

/// The questions of a source.
struct Looks {
    rate: Bucket,
    interval_us: i64,
    under_way: u32,
    /// When the next lane that is put off may ask.
    next_us: i64,
}

/// A place among the questions of a source. It is free again when this is dropped.
pub(super) struct Place(Arc<SourceState>);

impl Sources {
    /// The sources of a configuration.
    ///
    /// # Errors
    /// If a source wants its tracker to be asked, and it cannot be.
    pub(crate) fn new(
        config: Arc<HooksConfig>,
        client: Client,
        clock: Clock,
        options: &WorkOptions,
    ) -> Result<Sources, CannotAsk> {
        let pace = (options.pace_per_second, options.pace_burst);
        let table = Table::new(config, &client, &clock, pace, None)?;
        Ok(Sources {
            table: RwLock::new(Arc::new(table)),
            off: RwLock::default(),
            changes: watch::Sender::new(0),
            client,
            clock,
            pace,
        })
    }

    /// Another configuration. What is known of a tracker stays known where the source asks it as before.
    ///
    /// # Errors
    /// If a tracker cannot be asked; then everything is as before.
    pub(crate) fn replace(&self, config: Arc<HooksConfig>) -> Result<(), CannotAsk> {
        let table = Table::new(config, &self.client, &self.clock, self.pace, Some(&self.table()))?;
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        self.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts the configurations.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The configuration of now.
    pub fn config(&self) -> Arc<HooksConfig> {
        Arc::clone(&self.table().config)
    }

    /// What asks the tracker of a source; `None` if it has none that can be asked.
    pub fn asker(&self, source: &str) -> Option<Arc<Asker>> {
        self.table().sources.get(source).and_then(|state| state.asker.clone())
    }

    pub(crate) fn state(&self, source: &str) -> Option<Arc<SourceState>> {
        self.table().sources.get(source).cloned()
    }

    /// What is switched off.
    pub fn off(&self) -> Arc<SwitchNames> {
        Arc::clone(&self.off.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes what is switched off now; returns what it was before.
    pub(crate) fn set_off(&self, off: SwitchNames) -> Arc<SwitchNames> {
        std::mem::replace(&mut *self.off.write().unwrap_or_else(PoisonError::into_inner), Arc::new(off))
    }

    /// The settings of an arriving event's source.
    pub(crate) fn rule(&self, event: &Event) -> Rule {
        let (table, off) = (self.table(), self.off());
        let duplicates = table.sources.get(&*event.source).map_or(Duplicates::ByContent, |state| state.duplicates);
        Rule { settings: table.settings(&off, event), duplicates }
    }
}

impl Table {
    fn new(
        config: Arc<HooksConfig>,
        client: &Client,
        clock: &Clock,
        pace: (u32, u32),
        before: Option<&Table>,
    ) -> Result<Table, CannotAsk> {
        let mut sources = HashMap::new();
        for source in &config.sources {
            let old = before.and_then(|table| table.sources.get(&source.name));
            let state = SourceState::new(source, client, clock, pace, old)?;
            sources.insert(source.name.clone(), Arc::new(state));
        }
        let needs_done = config.sources.iter().any(|source| source.older == words::Older::Drop);
        Ok(Table { config, sources, needs_done })
    }

    /// The settings of an event's source. One that is not configured any more is switched off.
    pub(crate) fn settings(&self, off: &SwitchNames, event: &Event) -> Settings {
        match self.sources.get(&*event.source) {
            Some(state) => {
                let on = !off.sources.contains(&*event.source) && !off.feeds.contains(&*event.feed);
                Settings { on, ..state.settings }
            }
            None => Settings { on: false, ..Settings::DEFAULT },
        }
    }
}

impl SourceState {
    fn new(
        source: &Source,
        client: &Client,
        clock: &Clock,
        pace: (u32, u32),
        old: Option<&Arc<SourceState>>,
    ) -> Result<SourceState, CannotAsk> {
        let asker = match old.filter(|old| asks_alike(&old.config, source)) {
            Some(old) => old.asker.clone(),
            None if source.verify || source.reconcile.is_some() => {
                Some(asker(Tracker::of(source)?, source, client, clock))
            }
            // Nothing has to be asked, so a tracker that cannot be asked is no mistake.
            None => Tracker::of(source).ok().map(|tracker| asker(tracker, source, client, clock)),
        };
        let limits = asker.as_ref().map(|asker| asker.tracker().limits()).unwrap_or_default();
        let looks = Looks {
            rate: Bucket::new(limits.per_second, limits.burst),
            interval_us: SECOND_US / i64::from(limits.per_second.max(1)),
            under_way: 0,
            next_us: i64::MIN,
        };
        Ok(SourceState {
            config: source.clone(),
            settings: settings(source),
            duplicates: match source.duplicates {
                words::Duplicates::ByContent => Duplicates::ByContent,
                words::Duplicates::ByTime => Duplicates::ByTime,
            },
            asker,
            pace: Mutex::new(Bucket::new(pace.0, pace.1)),
            looks: Mutex::new(looks),
            is_probing: AtomicBool::new(false),
            probe_from_us: AtomicI64::new(i64::MIN),
        })
    }

    /// What may be done now.
    pub(super) fn gate(&self, now_us: i64) -> Gate {
        let (tokens, next_token_us) = self.tokens(now_us);
        let ask_from_us = match &self.asker {
            Some(asker) => {
                let breaker_us = asker.breaker().ask_from(now_us);
                self.looks().ask_from(breaker_us, now_us)
            }
            None => i64::MIN,
        };
        Gate { ask_from_us, tokens, next_token_us }
    }

    /// How many paced events may be begun, and when there will be a token if there is none.
    pub(super) fn tokens(&self, now_us: i64) -> (u32, i64) {
        let pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        (pace.tokens(now_us), pace.next_us(now_us))
    }

    /// So many paced events were begun.
    pub(super) fn take_tokens(&self, now_us: i64, count: u32) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..count {
            pace.take(now_us);
        }
    }

    /// A plan asks the tracker.
    pub(super) fn take_place(self: &Arc<SourceState>, now_us: i64) -> Place {
        let mut looks = self.looks();
        looks.rate.take(now_us);
        looks.under_way += 1;
        drop(looks);
        Place(Arc::clone(self))
    }

    /// A plan has put a lane off until then.
    pub(super) fn put_off(&self, until_us: i64) {
        let mut looks = self.looks();
        looks.next_us = until_us.saturating_add(looks.interval_us);
    }

    fn looks(&self) -> MutexGuard<'_, Looks> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Looks {
    /// When a lane may ask, given what the breaker says.
    fn ask_from(&self, breaker_us: i64, now_us: i64) -> i64 {
        if breaker_us <= now_us && self.under_way < LOOKS && self.rate.tokens(now_us) > 0 {
            return now_us;
        }
        // A clock that was set back does not put anything off for long.
        let next_us = if self.next_us > now_us + 12 * 3600 * SECOND_US { now_us } else { self.next_us };
        breaker_us.max(next_us).max(now_us + self.interval_us)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut looks = self.0.looks();
        looks.under_way = looks.under_way.saturating_sub(1);
    }
}

fn asker(tracker: Tracker, source: &Source, client: &Client, clock: &Clock) -> Arc<Asker> {
    Arc::new(Asker::new(tracker, client.clone(), source.tracker_key_file.clone(), Arc::clone(clock)))
}

/// Whether the tracker of both is the same, and asked the same.
fn asks_alike(one: &Source, other: &Source) -> bool {
    one.tracker == other.tracker
        && one.preset == other.preset
        && one.tracker_key_file == other.tracker_key_file
        && one.reconcile_as_key == other.reconcile_as_key
        && one.reconcile == other.reconcile
        && one.verify == other.verify
        && one.private == other.private
        // Which feed a project goes to is said by rules.
        && format!("{:?}", one.mapping) == format!("{:?}", other.mapping)
}

fn settings(source: &Source) -> Settings {
    Settings {
        on: true,
        verify: source.verify,
        private: match source.private {
            words::Private::Drop => Private::Drop,
            words::Private::Announce => Private::Announce,
        },
        older: match source.older {
            words::Older::Announce => Older::Announce,
            words::Older::Drop => Older::Drop,
        },
        dead_letters: match source.dead_letters {
            words::DeadLetters::Hold => DeadLetters::Hold,
            words::DeadLetters::Supersede => DeadLetters::Supersede,
        },
        retry: match source.retry {
            words::Retry::Current => Schedule::Current,
            words::Retry::Classic => Schedule::Classic,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_that_are_put_off_ask_one_after_another() {
        let mut looks =
            Looks { rate: Bucket::new(10, 2), interval_us: SECOND_US / 10, under_way: 0, next_us: i64::MIN };
        let now_us = 1000 * SECOND_US;
        let mut times = Vec::new();
        for _ in 0..5 {
            let from_us = looks.ask_from(now_us, now_us);
            if from_us <= now_us {
                looks.rate.take(now_us);
                looks.under_way += 1;
            } else {
                looks.next_us = from_us + looks.interval_us;
            }
            times.push((from_us - now_us) / 1000);
        }
        assert_eq!(times, [0, 0, 100, 200, 300]);
        looks.under_way = LOOKS;
        assert_eq!(looks.ask_from(0, now_us + SECOND_US), now_us + SECOND_US + SECOND_US / 10, "no place");
        looks.under_way = 0;
        let open_us = now_us + 60 * SECOND_US;
        assert_eq!(looks.ask_from(open_us, now_us), open_us, "the breaker is open");
        looks.next_us = now_us * 2000;
        assert!(looks.ask_from(open_us, now_us) <= open_us, "a clock was set back");
    }
}
