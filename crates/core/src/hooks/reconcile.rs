//! When a tracker is asked what changed, from which time on, and what of its answer no webhook has brought.
//!
//! Goes in: the time, pages of a tracker's answers, what is known of the bugs on them, and hints that webhooks may have
//! been lost. Comes out, when [`Reconciler::next`] is asked: a [`Question`], or what is to be judged, or how long nothing
//! is to be done; of each page, the [`Missing`] changes; after each round, the [`Mark`] that the store keeps. Never asks or
//! stores anything by itself, and compares no clock of the tracker with one of ours.
//!
//! A **round** asks page after page for all bugs that changed since the mark. It begins when the last one is `every` ago,
//! and at once (but not within `least`) after a start, after a long silence, and when told to. When all pages are stored,
//! the mark moves to the tracker's own time at the beginning of the round, less an overlap: a change becomes visible some
//! time after the moment that it is dated with. A round that fails moves nothing.
//!
//! One reconciler asks about one scope: a source, or one project of it where the tracker has a list for each project.

mod paging;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use bugfeed_protocol::{BugId, When};

pub use self::paging::{Paging, Stuck};
use super::SECOND_US;

/// Times of a tracker are the same if they differ by so little, in microseconds: a comment and its bug are not written at
/// once, and fractions are cut.
const SLACK_US: i64 = 2 * SECOND_US;
/// A tracker's clock that differs by more from what the last round makes us expect was set.
const DRIFT_US: i64 = 60 * SECOND_US;
/// Without a clock of the tracker, the first mark lies so far back by ours.
const CLOCKLESS_BACK_US: i64 = 3600 * SECOND_US;
/// A failed round is tried again after so long; then it doubles.
const AGAIN_US: i64 = 60 * SECOND_US;
/// Nothing is put off for longer than this, or `every`: otherwise a clock that was wrong would silence the reconciler.
const LONGEST_WAIT_US: i64 = 3600 * SECOND_US;
/// So many changes wait for a verdict at most. Further ones count as missed at once.
const MOST_PENDING: usize = 50_000;

/// How a scope is asked. Times are in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A round begins so long after the last one began.
    pub every_us: i64,
    /// Never sooner than this, whatever happens.
    pub least_us: i64,
    /// The mark lies so far before the round's beginning, by the tracker's clock.
    pub overlap_us: i64,
    /// A change is missed if no webhook has brought it so long after it was found.
    pub latency_us: i64,
    /// A webhook that ends a silence of this length begins a round.
    pub silence_us: i64,
    /// Nothing older than this is asked for.
    pub longest_back_us: i64,
    /// So many pages a round at most.
    pub pages: u32,
    /// How the tracker is paged.
    pub paging: Paging,
    /// Whether private bugs are announced. Otherwise they are passed over.
    pub private: bool,
}

impl Settings {
    /// Every 5 minutes, with an overlap of 5 minutes and a usual latency of 2 minutes.
    pub const fn new(paging: Paging) -> Settings {
        Settings {
            every_us: 300 * SECOND_US,
            least_us: 30 * SECOND_US,
            overlap_us: 300 * SECOND_US,
            latency_us: 120 * SECOND_US,
            silence_us: 1800 * SECOND_US,
            longest_back_us: 30 * 86_400 * SECOND_US,
            pages: 200,
            paging,
            private: false,
        }
    }
}

/// How far a scope has been asked. The store keeps it, so that a restart goes on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// By the tracker's clock: the next round asks for changes from this time on.
    pub since: When,
    /// By our clock: when the round began that set it.
    pub asked_us: i64,
    /// By the tracker's clock: when the scope was first asked. Older changes are never counted as missed, because the
    /// tracker may not have had our address then.
    pub first: When,
}

/// What to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// Changes from this time on, by the tracker's clock. `None`: ask for the tracker's time only.
    pub since: Option<When>,
    /// Only bugs with greater numbers ([`Paging::ByNumber`]).
    pub after: Option<BugId>,
    /// The page, from 1.
    pub page: u32,
}

/// A bug on a page.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    /// The feed that its project goes to.
    pub feed: Arc<str>,
    /// The bug.
    pub bug: BugId,
    /// When it last changed, as the tracker says.
    pub changed: When,
    /// Whether not everybody may see it.
    pub private: bool,
}

/// A tracker's answer to a question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The bugs that go to a feed.
    pub seen: Vec<Seen>,
    /// The last one, whether it goes to a feed or not.
    pub last: Option<(BugId, When)>,
    /// There may be further pages.
    pub more: bool,
    /// The tracker's time when it answered, or shortly before.
    pub clock: Option<When>,
}

/// What is known of a bug, from the events of this source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The newest time (of the tracker) of an event that was announced or will be: completed, queued, processing, errored
    /// or disabled. Not of one that was dropped or canceled.
    pub newest: Option<When>,
    /// The newest time of an event that a webhook brought, in any state.
    pub by_webhook: Option<When>,
}

/// A change to insert, with the trigger `reconcile`. It is also what is judged later.
pub type Missing = Seen;

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask, then call [`Reconciler::answered`] or [`Reconciler::failed`].
    Ask(Question),
    /// Look up what is known now of these, then call [`Reconciler::judged`].
    Judge(Vec<Missing>),
    /// Nothing until then.
    Wait {
        /// When to call [`Reconciler::next`] again at the latest.
        until_us: i64,
    },
}

#[derive(Clone, Debug)]
struct Round {
    began_us: i64,
    question: Question,
    pages: u32,
    /// The tracker's time at the beginning.
    clock: Option<When>,
    /// The newest change that was seen.
    newest: Option<When>,
    /// What comes when the page is stored.
    then: Then,
}

#[derive(Clone, Copy, Debug)]
enum Then {
    /// The question was not answered yet.
    Answer,
    /// The page is thrown away, because the tracker's clock was set: ask from this time on.
    Again(When),
    Next(Question),
    /// Enough for one round; the next one goes on from this mark, soon.
    Part(Mark),
    End(Option<Mark>),
}

#[derive(Clone, Debug)]
struct Pending {
    change: Missing,
    judge_us: i64,
}

/// Asks about one scope.
#[derive(Clone, Debug)]
pub struct Reconciler {
    settings: Settings,
    mark: Option<Mark>,
    /// When the next round is to begin.
    due_us: i64,
    /// When the last one began.
    began_us: Option<i64>,
    /// Rounds that failed in a row.
    failures: u32,
    heard_us: i64,
    round: Option<Round>,
    pending: VecDeque<Pending>,
}

impl Reconciler {
    /// Begins, with what the store has kept. The first round is due at once.
    pub fn new(settings: Settings, mark: Option<Mark>, now_us: i64) -> Reconciler {
        Reconciler {
            settings,
            mark,
            due_us: now_us,
            began_us: None,
            failures: 0,
            heard_us: now_us,
            round: None,
            pending: VecDeque::new(),
        }
    }

    /// A webhook of the scope's source came.
    pub fn heard(&mut self, now_us: i64) {
        if now_us - self.heard_us >= self.settings.silence_us {
            self.hurry(now_us);
        }
        self.heard_us = now_us;
    }

    /// Webhooks may have been lost (the spool was in use, the source is silent for longer than usual), or a person wants to
    /// know: the next round begins at once, but not within `least` of the last one.
    pub fn hurry(&mut self, now_us: i64) {
        let earliest_us = self.began_us.map_or(now_us, |began_us| began_us.min(now_us) + self.settings.least_us);
        self.due_us = self.due_us.min(earliest_us.max(now_us));
    }

    /// How far it has asked.
    pub fn mark(&self) -> Option<Mark> {
        self.mark
    }

    /// What to do now.
    pub fn next(&mut self, now_us: i64) -> Next {
        if let Some(round) = &self.round {
            return Next::Ask(round.question);
        }
        let due = self.pending.iter().take_while(|pending| pending.judge_us <= now_us);
        let due: Vec<Missing> = due.take(1000).map(|pending| pending.change.clone()).collect();
        if !due.is_empty() {
            return Next::Judge(due);
        }
        self.due_us = self.due_us.min(now_us.saturating_add(self.settings.every_us.max(LONGEST_WAIT_US)));
        if self.due_us <= now_us {
            return Next::Ask(self.begin(now_us));
        }
        let judge_us = self.pending.front().map_or(i64::MAX, |pending| pending.judge_us);
        Next::Wait { until_us: self.due_us.min(judge_us) }
    }

    fn begin(&mut self, now_us: i64) -> Question {
        let since = self.mark.map(|mark| {
            let too_far_us = now_us - mark.asked_us - self.settings.longest_back_us;
            When::from_micros(mark.since.as_micros() + too_far_us.max(0)).unwrap_or(mark.since)
        });
        let question = Question { since, after: None, page: 1 };
        self.began_us = Some(now_us);
        self.due_us = now_us + self.settings.every_us;
        self.round =
            Some(Round { began_us: now_us, question, pages: 0, clock: None, newest: None, then: Then::Answer });
        question
    }

    /// The tracker answered. Returns what is missing: insert it, then call [`Reconciler::stored`], or
    /// [`Reconciler::failed`] if that failed. `known` says what is known of a bug.
    ///
    /// # Errors
    /// If the pages cannot be right: call [`Reconciler::failed`].
    pub fn answered(
        &mut self,
        now_us: i64,
        page: &Page,
        known: &dyn Fn(&Seen) -> Known,
    ) -> Result<Vec<Missing>, Stuck> {
        let (settings, mark) = (self.settings, self.mark);
        let Some(round) = &mut self.round else { return Ok(Vec::new()) };
        let then = round.turn(now_us, &settings, mark, page)?;
        if let Then::Again(since) = then {
            round.then = Then::Next(Question { since: Some(since), after: None, page: 1 });
            return Ok(Vec::new());
        }
        round.then = then;
        if matches!(round.then, Then::Part(_)) {
            self.due_us = now_us + settings.least_us;
        }
        let wanted = page.seen.iter().filter(|seen| settings.private || !seen.private);
        Ok(wanted.filter(|seen| is_missing(seen, known(seen))).cloned().collect())
    }

    /// What was missing is stored. Returns the new mark at the end of a round: keep it. `inserted` is what was stored.
    /// Also returns how many of them count as missed at once, because too many wait for a verdict.
    pub fn stored(&mut self, now_us: i64, inserted: &[Missing]) -> (Option<Mark>, u64) {
        let first = self.mark.map(|mark| mark.first);
        let mut at_once = 0;
        for change in inserted.iter().filter(|change| first.is_some_and(|first| change.changed >= first)) {
            if self.pending.len() >= MOST_PENDING {
                at_once += 1;
                continue;
            }
            self.pending.push_back(Pending { change: change.clone(), judge_us: now_us + self.settings.latency_us });
        }
        let Some(round) = &mut self.round else { return (None, at_once) };
        match round.then {
            Then::Answer | Then::Again(_) => (None, at_once),
            Then::Next(question) => {
                (round.question, round.then) = (question, Then::Answer);
                (None, at_once)
            }
            Then::Part(mark) => self.end(Some(mark), at_once),
            Then::End(mark) => self.end(mark, at_once),
        }
    }

    fn end(&mut self, mark: Option<Mark>, at_once: u64) -> (Option<Mark>, u64) {
        (self.round, self.failures) = (None, 0);
        self.mark = mark.or(self.mark);
        (mark, at_once)
    }

    /// The question was not answered, or what was missing could not be stored. Tried again after 1, 2, 4 … minutes, but at
    /// least as often as otherwise, and not before `again_us` if the tracker wishes that.
    pub fn failed(&mut self, now_us: i64, again_us: Option<i64>) {
        self.round = None;
        let pause_us = AGAIN_US.saturating_mul(1 << self.failures.min(10)).min(self.settings.every_us.max(AGAIN_US));
        self.failures = self.failures.saturating_add(1);
        self.due_us = (now_us + pause_us).max(again_us.unwrap_or(i64::MIN));
    }

    /// What was to be judged, is: returns those that no webhook has brought. Call it with what [`Next::Judge`] said.
    pub fn judged(&mut self, judged: &[Missing], known: &dyn Fn(&Seen) -> Known) -> Vec<Missing> {
        self.pending.drain(..judged.len().min(self.pending.len()));
        let brought = |change: &Missing| {
            let by_webhook = known(change).by_webhook.and_then(|when| When::from_micros(when.as_micros() + SLACK_US));
            by_webhook.is_some_and(|by_webhook| by_webhook >= change.changed)
        };
        judged.iter().filter(|change| !brought(change)).cloned().collect()
    }
}

impl Round {
    /// What comes after this page.
    fn turn(&mut self, now_us: i64, settings: &Settings, mark: Option<Mark>, page: &Page) -> Result<Then, Stuck> {
        self.pages += 1;
        if self.pages == 1 {
            self.clock = page.clock;
        }
        if let Some(since) = mark.and_then(|mark| self.clock_was_set(settings, mark)) {
            return Ok(Then::Again(since));
        }
        let seen = page.seen.iter().map(|seen| seen.changed).chain(page.last.map(|(_, changed)| changed));
        // A date in the future is wrong, and says nothing about how far the answer goes.
        let plausible = |changed: &When| changed.as_micros() <= now_us + settings.overlap_us;
        self.newest = seen.filter(plausible).chain(self.newest).max();
        match settings.paging.next(&self.question, page)? {
            None => Ok(Then::End(self.mark(settings, mark))),
            Some(next) if self.pages < settings.pages => Ok(Then::Next(next)),
            Some(next) => {
                let part = mark.and_then(|mark| self.part(settings, mark, next.since));
                part.map(Then::Part).ok_or(Stuck::TooManyPages)
            }
        }
    }

    /// The mark after some of the pages, where that is possible: where they are in order of time.
    fn part(&self, settings: &Settings, mark: Mark, reached: Option<When>) -> Option<Mark> {
        let end_us = self.clock.or(self.newest)?.as_micros() - settings.overlap_us;
        let since = When::from_micros(reached?.as_micros().min(end_us))?;
        let moved_us = since.as_micros() - mark.since.as_micros();
        // Both clocks move by the same, so that the tracker's is not thought to have been set.
        let asked_us = mark.asked_us + moved_us;
        (settings.paging == Paging::ByTime && moved_us > 0).then_some(Mark { since, asked_us, ..mark })
    }

    /// Where the tracker's clock is not where the last round makes us expect it, the time to ask from instead. Found out
    /// at the first page, once a round.
    fn clock_was_set(&self, settings: &Settings, mark: Mark) -> Option<When> {
        let (clock, since) = (self.clock?, self.question.since?);
        if self.pages != 1 {
            return None;
        }
        let elapsed_us = (self.began_us - mark.asked_us).max(0);
        let expected_us = clock.as_micros() - elapsed_us - settings.overlap_us;
        (since.as_micros() > expected_us + DRIFT_US).then(|| When::from_micros(expected_us)).flatten()
    }

    /// The mark after all pages.
    fn mark(&self, settings: &Settings, mark: Option<Mark>) -> Option<Mark> {
        let before = |when: When, us: i64| When::from_micros(when.as_micros() - us);
        let asked_us = self.began_us;
        let Some(old) = mark else {
            let clock = self.clock.or_else(|| When::from_micros(self.began_us - CLOCKLESS_BACK_US))?;
            return Some(Mark { since: before(clock, settings.overlap_us)?, asked_us, first: clock });
        };
        let end = self.clock.or(self.newest).and_then(|when| before(when, settings.overlap_us));
        // Without a clock, the end is the newest change, which may be older than what was asked for.
        let since = if self.clock.is_some() { end } else { end.max(Some(old.since)) };
        Some(Mark { since: since.unwrap_or(old.since), asked_us, first: old.first })
    }
}

/// Whether nothing that was or will be announced is as new as this.
fn is_missing(seen: &Seen, known: Known) -> bool {
    let Some(newest) = known.newest else { return true };
    // Some trackers' webhooks have whole seconds, and their lists fractions.
    let fraction_us = if newest.as_micros() % SECOND_US == 0 { seen.changed.as_micros() % SECOND_US } else { 0 };
    seen.changed.as_micros() - fraction_us > newest.as_micros()
}
