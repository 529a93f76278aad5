//! A tracker that loses webhooks: whatever is lost, the reconciler finds it, and counts nothing that was only late.
//!
//! The tracker has a clock of its own, which is set now and then. A change becomes visible up to four minutes after the
//! moment it is dated with. Webhooks come late, out of order or never; pages are short; questions and inserts fail; the
//! process restarts and goes on from the stored mark. `BUGFEED_SIM_SEEDS` says how many seeds are tried.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

const PAGE: usize = 3;

/// A change on its way: to the tracker's list, or with a webhook to us.
#[derive(Clone, Copy)]
struct Coming {
    at_us: i64,
    bug: BugId,
    changed: When,
}

struct Sim {
    random: StdRng,
    now_us: i64,
    /// The tracker's clock is so far ahead of ours.
    ahead_us: i64,
    committing: Vec<Coming>,
    list: BTreeMap<BugId, When>,
    webhooks: Vec<Coming>,
    lost: BTreeSet<(BugId, When)>,
    known: BTreeMap<BugId, Known>,
    settings: Settings,
    reconciler: Reconciler,
    /// What the store has.
    mark: Option<Mark>,
    missed: Vec<Missing>,
    found: usize,
    /// A round has ended since the tracker's clock was last set.
    may_set_clock: bool,
    /// Nothing changes and nothing fails any more.
    calm: bool,
}

impl Sim {
    fn new(seed: u64, paging: Paging) -> Sim {
        let mut random = StdRng::seed_from_u64(seed);
        let now_us = 1_700_000_000 * SECOND_US;
        let settings = Settings { pages: 50, ..Settings::new(paging) };
        Sim {
            ahead_us: random.random_range(-90_000..90_000) * SECOND_US,
            random,
            now_us,
            committing: Vec::new(),
            list: BTreeMap::new(),
            webhooks: Vec::new(),
            lost: BTreeSet::new(),
            known: BTreeMap::new(),
            settings,
            reconciler: Reconciler::new(settings, None, now_us),
            mark: None,
            missed: Vec::new(),
            found: 0,
            may_set_clock: false,
            calm: false,
        }
    }

    fn chance(&mut self, probability: f64) -> bool {
        !self.calm && self.random.random_bool(probability)
    }

    fn tracker_us(&self) -> i64 {
        self.now_us + self.ahead_us
    }

    fn change(&mut self) {
        let bug = BugId::new(self.random.random_range(1..40)).unwrap();
        if self.committing.iter().any(|coming| coming.bug == bug) {
            return;
        }
        // A tracker never dates a bug's change before its last one.
        let least = self.list.get(&bug).map_or(0, |last| last.as_micros() + SECOND_US);
        let changed = When::from_micros((self.tracker_us() / SECOND_US * SECOND_US).max(least)).unwrap();
        let at_us = self.now_us + self.random.random_range(0..240) * SECOND_US;
        self.committing.push(Coming { at_us, bug, changed });
    }

    /// What happens by itself: commits, and webhooks that arrive.
    fn world(&mut self) {
        let now_us = self.now_us;
        for coming in self.committing.extract_if(.., |coming| coming.at_us <= now_us).collect::<Vec<_>>() {
            self.list.insert(coming.bug, coming.changed);
            if self.random.random_bool(0.3) {
                self.lost.insert((coming.bug, coming.changed));
            } else {
                let at_us = now_us + self.random.random_range(0..90) * SECOND_US;
                self.webhooks.push(Coming { at_us, ..coming });
            }
        }
        for coming in self.webhooks.extract_if(.., |coming| coming.at_us <= now_us).collect::<Vec<_>>() {
            self.reconciler.heard(now_us);
            let known = self.known.entry(coming.bug).or_default();
            known.newest = known.newest.max(Some(coming.changed));
            known.by_webhook = known.by_webhook.max(Some(coming.changed));
        }
    }

    fn page(&self, question: &Question) -> Page {
        let clock = When::from_micros(self.tracker_us());
        let Some(since) = question.since else { return Page { clock, ..Page::default() } };
        let all = self.list.iter().filter(|(_, changed)| **changed >= since);
        let mut all: Vec<(BugId, When)> = all.map(|(bug, changed)| (*bug, *changed)).collect();
        let mut skip = PAGE * (question.page as usize - 1);
        match self.settings.paging {
            Paging::ByNumber => {
                all.retain(|(bug, _)| Some(*bug) > question.after);
                skip = 0;
            }
            Paging::ByTime => all.sort_by_key(|(bug, changed)| (*changed, *bug)),
            Paging::ByPage => {}
        }
        let page: Vec<_> = all.iter().skip(skip).take(PAGE).copied().collect();
        let seen = page.iter().map(|(bug, changed)| Seen {
            feed: "default".into(),
            bug: *bug,
            changed: *changed,
            private: false,
        });
        Page { seen: seen.collect(), last: page.last().copied(), more: page.len() == PAGE, clock }
    }

    fn reconcile(&mut self) {
        for _ in 0..200 {
            match self.reconciler.next(self.now_us) {
                Next::Wait { .. } => return,
                Next::Judge(judged) => {
                    let known = &self.known;
                    let missed =
                        self.reconciler.judged(&judged, &|seen| known.get(&seen.bug).copied().unwrap_or_default());
                    self.missed.extend(missed);
                }
                Next::Ask(question) => self.ask(&question),
            }
        }
        panic!("the reconciler never waits");
    }

    fn ask(&mut self, question: &Question) {
        if self.chance(0.1) {
            return self.reconciler.failed(self.now_us, None);
        }
        let page = self.page(question);
        // The answer takes some time, in which the tracker goes on.
        if !self.calm {
            self.now_us += self.random.random_range(0..3) * SECOND_US;
            self.world();
        }
        let known = &self.known;
        let answered =
            self.reconciler.answered(self.now_us, &page, &|seen| known.get(&seen.bug).copied().unwrap_or_default());
        let missing = answered.expect("the tracker does what it is asked");
        if self.chance(0.1) {
            return self.reconciler.failed(self.now_us, None);
        }
        for seen in &missing {
            let known = self.known.entry(seen.bug).or_default();
            known.newest = known.newest.max(Some(seen.changed));
        }
        self.found += missing.len();
        let (mark, at_once) = self.reconciler.stored(self.now_us, &missing);
        assert_eq!(at_once, 0);
        self.may_set_clock |= mark.is_some();
        self.mark = mark.or(self.mark);
    }

    fn step(&mut self) {
        self.now_us += self.random.random_range(1..20) * SECOND_US;
        if self.chance(0.2) {
            self.change();
        }
        // What was dated by the old clock must not come when the new one has gone further than the overlap; and a clock
        // that is set twice between two rounds leaves no trace.
        if self.may_set_clock && self.committing.is_empty() && self.chance(0.02) {
            self.may_set_clock = false;
            self.ahead_us += self.random.random_range(-7200..7200) * SECOND_US;
        }
        if self.chance(0.003) {
            // Away for a while. The mark is all that is left.
            self.now_us += self.random.random_range(0..7200) * SECOND_US;
            self.reconciler = Reconciler::new(self.settings, self.mark, self.now_us);
        }
        self.world();
        self.reconcile();
    }
}

fn run(seed: u64, paging: Paging) -> (usize, usize) {
    let mut sim = Sim::new(seed, paging);
    // The first round: from here on, nothing may be lost.
    while sim.mark.is_none() {
        sim.reconcile();
        sim.now_us += 60 * SECOND_US;
    }
    for _ in 0..1500 {
        sim.step();
    }
    sim.calm = true;
    for _ in 0..200 {
        sim.step();
    }
    for (bug, changed) in &sim.list {
        let newest = sim.known.get(bug).and_then(|known| known.newest);
        assert!(newest >= Some(*changed), "seed {seed}, {paging:?}: bug {bug} of {changed} was never announced");
    }
    for missed in &sim.missed {
        let was_lost = sim.lost.contains(&(missed.bug, missed.changed));
        assert!(was_lost, "seed {seed}, {paging:?}: {missed:?} was only late");
    }
    (sim.found, sim.missed.len())
}

#[test]
fn nothing_stays_lost_and_nothing_late_is_counted() {
    let seeds = std::env::var("BUGFEED_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    for paging in [Paging::ByNumber, Paging::ByTime, Paging::ByPage] {
        let (mut found, mut missed) = (0, 0);
        for seed in 0..seeds {
            let run = run(seed, paging);
            (found, missed) = (found + run.0, missed + run.1);
        }
        assert!(
            missed > 15 * usize::try_from(seeds).unwrap() && found > missed,
            "{paging:?}: {found} found, {missed} missed"
        );
    }
}
