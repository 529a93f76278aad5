//! The policy of the bus: when history is read, when resumes wait, when continuity is broken, and when clients are told
//! that nothing can arrive.
//!
//! Goes in: what happened ([`Happened`]), and the time in milliseconds. Comes out: what is to be done about it, in order
//! ([`Step`]), and what people should know ([`BusPlan::stopped`], [`BusPlan::notes`]). Never touches a message, history or a
//! broker: that is for the other parts of [`Bus`](super::Bus), which hands in what became of each step.
//!
//! The rule behind it: continuity is proven or broken. After a reconnect it is proven by history in which the newest number
//! known here was met, by a publisher's head that equals it, or by the next number. Until then resumes wait, for two heads
//! at most; a publisher that says no heads is not waited for.

use bugfeed_protocol::bus::Head;
use bugfeed_protocol::{Cursor, Epoch};

use super::publishers::Publishers;
use super::steps::{Happened, Step};
use super::words::{Note, Queue, Stopped, Why};
use crate::sequencer::HeadStands;

/// How long a connection to a broker may be lost before clients are told: what is back at once is no news.
pub const GRACE_MS: u64 = 2_000;
/// What a head may be late, beside its interval.
const SLACK_MS: u64 = 1_000;
/// So many intervals without a head are silence.
const SILENT_INTERVALS: u64 = 3;
/// How long history may take to answer when a connection begins: right after a broker's start a stream can be away.
const BEGIN_PATIENCE_MS: u64 = 20_000;
/// How long it may take while changes wait behind a hole.
const HOLE_PATIENCE_MS: u64 = 4_000;
/// How long history that did not answer is not asked again.
const REST_MS: u64 = 60_000;
/// The same of a broker that has none, or refuses it.
const LONG_REST_MS: u64 = 300_000;
/// How often the bindings are made anew while no change comes, also while heads do: where only the way of changes is gone,
/// the publisher's changes are returned to it, and its head stays where it is.
const REBIND_MS: u64 = 10_000;
/// The same while changes come: it is the stream that may be gone.
const UPKEEP_MS: u64 = 30_000;
/// How long nothing may come of what waited in a durable queue, before the feed is taken for current at its start.
const BACKLOG_PATIENCE_MS: u64 = 2_000;
/// How often history is read while no change comes, where heads cannot be heard: nothing else would show that changes were
/// missed before the next one comes.
const LOOK_MS: u64 = 30_000;
/// From when on it is worth a word that no publisher was heard.
const LISTEN_MS: u64 = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Down {
        since_ms: u64,
    },
    /// Connected; since when nothing could arrive.
    Reading {
        since_ms: u64,
    },
    Live {
        since_ms: u64,
    },
}

/// What history is read for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Job {
    Begin,
    Hole,
    Head(Cursor),
    /// Nothing came for long, and heads cannot be heard.
    Look,
}

/// What is known of the publisher's heads.
#[derive(Clone, Debug, Default)]
struct Heads {
    /// One was heard, and the publisher has not shown since that it says none.
    expected: bool,
    last_ms: u64,
    interval_ms: u64,
    /// What the publisher waits for, and since when.
    paused: Option<(String, u64)>,
    /// When the bindings were first made anew in this silence.
    rebound_ms: Option<u64>,
}

/// The plan of one feed's bus.
#[derive(Debug)]
pub struct BusPlan {
    history: bool,
    grace_ms: u64,
    link: Link,
    queue: Queue,
    live_once: bool,
    job: Option<Job>,
    hold_until_ms: Option<u64>,
    /// History is not asked from the first to the second.
    rests: Option<(u64, u64)>,
    heads: Heads,
    /// Whether heads can come on this connection.
    hears_heads: bool,
    /// When history was read last, or the feed became current.
    looked_ms: u64,
    /// Deliveries with changes taken so far, and when the last one was.
    taken: u64,
    taken_ms: u64,
    /// So many will have been taken when what waited in the queue is through.
    backlog_ends: u64,
    /// At the start: the feed is current when what waited is through, and whether continuity is proven.
    settling: Option<bool>,
    /// When the last numbered one was.
    numbered_ms: u64,
    /// When the bindings were made last.
    bound_ms: u64,
    /// A head beyond what is here was heard when so many had been taken.
    suspect: Option<u64>,
    heard: bool,
    publishers: Publishers,
    paused: bool,
}

impl BusPlan {
    /// The plan of a feed that has no connection yet. `history`: whether the broker is to keep any. `grace_ms`: how long the
    /// feed may not be current before clients are told.
    pub fn new(now_ms: u64, history: bool, grace_ms: u64) -> BusPlan {
        BusPlan {
            history,
            grace_ms,
            link: Link::Down { since_ms: now_ms },
            queue: Queue::New,
            live_once: false,
            job: None,
            hold_until_ms: None,
            rests: None,
            heads: Heads::default(),
            hears_heads: true,
            looked_ms: 0,
            taken: 0,
            taken_ms: 0,
            backlog_ends: 0,
            settling: None,
            numbered_ms: 0,
            bound_ms: 0,
            suspect: None,
            heard: false,
            publishers: Publishers::default(),
            paused: false,
        }
    }

    /// What to do about what happened. `now_ms` never falls.
    pub fn on(&mut self, now_ms: u64, happened: Happened<'_>) -> Vec<Step> {
        let mut out = Vec::new();
        match happened {
            Happened::HeadsBound(bound) => self.heads_bound(bound),
            Happened::Waits(reason) => self.waits(now_ms, reason),
            Happened::Connected { queue, waiting } => self.connected(now_ms, queue, waiting, &mut out),
            Happened::Lost => self.lost(now_ms, &mut out),
            Happened::HistoryRead { proven } => self.history_over(now_ms, proven, &mut out),
            Happened::HistoryFailed { for_good } => {
                self.rests = Some((now_ms, now_ms + if for_good { LONG_REST_MS } else { REST_MS }));
                self.history_over(now_ms, false, &mut out);
            }
            // Two ledgers that take turns are a hole each time, and no history fills it.
            Happened::Hole => match self.has_history(now_ms) && self.publishers.two(now_ms).is_none() {
                true => {
                    self.job = Some(Job::Hole);
                    out.push(Step::Current(false));
                    out.push(Step::ReadHistory { patience_ms: HOLE_PATIENCE_MS, from_mark: false });
                }
                false => self.go_on(&mut out),
            },
            Happened::Taken { epoch, next, last } => self.change(now_ms, epoch, next, last, &mut out),
            Happened::Head { head, stands } => self.head(now_ms, head, stands, &mut out),
            Happened::Judged(stands) => self.judged(now_ms, stands, &mut out),
            Happened::Tick => self.tick(now_ms, &mut out),
        }
        self.tell_flow(now_ms, &mut out);
        out
    }

    /// Whether the feed was current once.
    pub fn was_live(&self) -> bool {
        self.live_once
    }

    /// The head that is looked into.
    pub fn head_in_question(&self) -> Option<&Cursor> {
        match &self.job {
            Some(Job::Head(cursor)) => Some(cursor),
            _ => None,
        }
    }

    /// Why nothing can arrive just now, and since when.
    pub fn stopped(&self, now_ms: u64) -> Option<(Stopped, u64)> {
        match self.link {
            Link::Down { since_ms } => return Some((Stopped::NotConnected, since_ms)),
            Link::Reading { since_ms } => return Some((Stopped::ReadingHistory, since_ms)),
            Link::Live { .. } => {}
        }
        // Changes that come without heads come all the same.
        let heard_ms = self.heads.last_ms.max(self.numbered_ms);
        if self.heads_are_silent(now_ms) && now_ms > heard_ms + self.silence_ms() {
            return Some((Stopped::Silent, heard_ms));
        }
        let (reason, since_ms) = self.heads.paused.clone()?;
        Some((Stopped::Publisher(reason), since_ms))
    }

    /// What people should know all the same.
    pub fn notes(&self, now_ms: u64) -> Vec<Note> {
        let mut notes = Vec::new();
        match self.link {
            Link::Live { since_ms } if !self.heard && now_ms >= since_ms + LISTEN_MS => {
                notes.push(Note::NoPublisher { since_ms });
            }
            _ => {}
        }
        notes.extend(self.publishers.two(now_ms).map(|(one, two)| Note::TwoPublishers(one, two)));
        let rests = self.rests.filter(|&(_, until_ms)| now_ms < until_ms);
        notes.extend(rests.map(|(since_ms, _)| Note::HistoryAway { since_ms }));
        notes
    }

    /// Whether there is history, and it is not left alone for a while.
    pub fn has_history(&self, now_ms: u64) -> bool {
        self.history && self.rests.is_none_or(|(_, until_ms)| now_ms >= until_ms)
    }

    /// Where heads cannot be heard, their silence means nothing.
    fn heads_bound(&mut self, bound: bool) {
        self.hears_heads = bound;
        if !bound {
            self.heads = Heads::default();
        }
    }

    /// A publisher in this process has no need of heads to say what it waits for.
    fn waits(&mut self, now_ms: u64, reason: Option<&str>) {
        let since_ms = self.heads.paused.as_ref().map_or(now_ms, |(_, since_ms)| *since_ms);
        self.heads.paused = reason.map(|reason| (reason.to_owned(), since_ms));
    }

    fn silence_ms(&self) -> u64 {
        self.heads.interval_ms * SILENT_INTERVALS + SLACK_MS
    }

    fn heads_are_silent(&self, now_ms: u64) -> bool {
        let live = matches!(self.link, Link::Live { .. });
        live && self.heads.expected && now_ms > self.heads.last_ms + self.silence_ms()
    }

    fn connected(&mut self, now_ms: u64, queue: Queue, waiting: u64, out: &mut Vec<Step>) {
        let (Link::Down { since_ms } | Link::Reading { since_ms }) = self.link else { return };
        (self.queue, self.bound_ms) = (queue, now_ms);
        (self.backlog_ends, self.settling) = (self.taken + waiting, None);
        self.link = Link::Reading { since_ms };
        (self.rests, self.suspect, self.heard) = (None, None, false);
        // From here on heads can come.
        self.heads = Heads { last_ms: now_ms, rebound_ms: None, paused: None, ..self.heads.clone() };
        if self.history {
            self.job = Some(Job::Begin);
            out.push(Step::ReadHistory { patience_ms: BEGIN_PATIENCE_MS, from_mark: false });
        } else {
            self.settle(now_ms, false, out);
        }
    }

    /// What came before the connection is through.
    fn settle(&mut self, now_ms: u64, proven: bool, out: &mut Vec<Step>) {
        if !self.live_once && self.taken < self.backlog_ends {
            // Clients that came in now would be sent what waited in a durable queue as if it had just happened.
            self.settling = Some(proven);
            return;
        }
        self.settling = None;
        self.link = Link::Live { since_ms: now_ms };
        (self.bound_ms, self.looked_ms) = (now_ms, now_ms);
        // At first nobody was told anything. A durable queue that was there has missed nothing, unless a head says so.
        let kept = match self.queue {
            Queue::Ledger => true,
            Queue::Durable { kept } => kept && !self.heads.expected,
            Queue::New => false,
        };
        let sure = proven || kept || !self.live_once;
        self.live_once = true;
        if !sure && self.heads.expected {
            self.hold_until_ms = Some(now_ms + 2 * self.heads.interval_ms + SLACK_MS);
            out.push(Step::Hold(true));
        } else if !sure {
            out.push(Step::Lose);
        }
        out.push(Step::Current(true));
    }

    fn lost(&mut self, now_ms: u64, out: &mut Vec<Step>) {
        if let Link::Live { .. } = self.link {
            self.link = Link::Down { since_ms: now_ms };
        } else if let Link::Reading { since_ms } = self.link {
            self.link = Link::Down { since_ms };
        }
        (self.job, self.settling, self.hears_heads) = (None, None, true);
        if self.hold_until_ms.is_some() {
            // It was not proven, and now cannot be for a while.
            out.push(Step::Lose);
            self.release(out);
        }
        out.push(Step::Current(false));
    }

    fn release(&mut self, out: &mut Vec<Step>) {
        if self.hold_until_ms.take().is_some() {
            out.push(Step::Hold(false));
        }
    }

    /// A hole is given up, or was filled: from here on continuity is proven, or was said to be broken.
    fn go_on(&mut self, out: &mut Vec<Step>) {
        out.push(Step::TakeWithGap);
        self.release(out);
    }

    fn history_over(&mut self, now_ms: u64, proven: bool, out: &mut Vec<Step>) {
        match self.job.take() {
            Some(Job::Begin) => self.settle(now_ms, proven, out),
            Some(Job::Hole) => {
                self.go_on(out);
                // While a gateway that starts is not through, it is not current.
                out.extend(self.settling.is_none().then_some(Step::Current(true)));
            }
            // What was missed came, or was told as a gap, as it was read.
            Some(Job::Look) => self.looked_ms = now_ms,
            Some(Job::Head(cursor)) => {
                self.job = Some(Job::Head(cursor));
                out.push(Step::Judge);
            }
            None => {}
        }
    }

    fn change(&mut self, now_ms: u64, epoch: Option<&Epoch>, next: bool, last: bool, out: &mut Vec<Step>) {
        (self.taken, self.taken_ms, self.heard) = (self.taken + u64::from(last), now_ms, true);
        if let Some(proven) = self.settling {
            self.settle(now_ms, proven, out);
        }
        // Changes without a number are another producer's: they say nothing of the one that says heads.
        let Some(epoch) = epoch else { return };
        self.numbered_ms = now_ms;
        self.publishers.heard(epoch, now_ms);
        if next {
            self.release(out);
        }
        // The way is open, and still only changes come through it.
        if self.heads.rebound_ms.is_some_and(|at_ms| now_ms > at_ms + self.silence_ms()) {
            (self.heads.expected, self.heads.rebound_ms) = (false, None);
        }
    }

    fn head(&mut self, now_ms: u64, head: &Head, stands: HeadStands, out: &mut Vec<Step>) {
        self.heard = true;
        self.publishers.heard_head(&head.cursor, now_ms);
        let since_ms = self.heads.paused.as_ref().map_or(now_ms, |(_, since_ms)| *since_ms);
        self.heads = Heads {
            expected: true,
            last_ms: now_ms,
            interval_ms: head.interval_ms,
            paused: head.paused.clone().map(|reason| (reason, since_ms)),
            rebound_ms: None,
        };
        if !matches!(self.link, Link::Live { .. }) || self.job.is_some() {
            return;
        }
        match stands {
            HeadStands::Even => {
                self.suspect = None;
                self.release(out);
            }
            // What came after it may have been published while this gateway was away, and not been confirmed yet.
            HeadStands::Within => self.suspect = None,
            HeadStands::Behind { .. } if !self.is_sure() => {}
            HeadStands::Behind { .. } => self.look_into(now_ms, &head.cursor, out),
            HeadStands::Forked => {
                out.push(Step::GoOnAfter(head.cursor.clone(), Why::Forked));
                self.release(out);
            }
            // While the other ledger lives, going over to this one would only be the beginning of going to and fro.
            HeadStands::OtherEpoch if self.publishers.others(&head.cursor.epoch, now_ms, self.silence_ms()) => {}
            HeadStands::OtherEpoch => self.look_into(now_ms, &head.cursor, out),
        }
    }

    /// Whether what a head has more will not come by itself. Beside a durable queue it may still wait in that: it is missing
    /// if nothing came from one head to the next.
    fn is_sure(&mut self) -> bool {
        self.queue == Queue::New || self.suspect.replace(self.taken) == Some(self.taken)
    }

    /// A head says that something was published and did not come. The binding may be gone: it is made before history is
    /// read, so that nothing falls in between.
    fn look_into(&mut self, now_ms: u64, head: &Cursor, out: &mut Vec<Step>) {
        self.suspect = None;
        self.bound_ms = now_ms;
        self.job = Some(Job::Head(head.clone()));
        out.push(Step::Current(false));
        out.push(Step::Rebind);
        out.push(match self.has_history(now_ms) {
            true => Step::ReadHistory { patience_ms: HOLE_PATIENCE_MS, from_mark: false },
            false => Step::Judge,
        });
    }

    fn judged(&mut self, now_ms: u64, stands: HeadStands, out: &mut Vec<Step>) {
        let Some(Job::Head(head)) = self.job.take() else { return };
        let why = match stands {
            HeadStands::Even | HeadStands::Within => None,
            HeadStands::Behind { .. } => Some(Why::Missing),
            HeadStands::Forked => Some(Why::Forked),
            HeadStands::OtherEpoch => Some(Why::OtherLedger),
        };
        out.extend(why.map(|why| Step::GoOnAfter(head, why)));
        self.release(out);
        out.push(Step::Current(true));
        // Reading may have taken longer than a head's interval, and no head was looked at meanwhile.
        self.heads.last_ms = now_ms;
    }

    fn tick(&mut self, now_ms: u64, out: &mut Vec<Step>) {
        if self.hold_until_ms.is_some_and(|until_ms| now_ms >= until_ms) {
            out.push(Step::Lose);
            self.release(out);
        }
        // The queue has given up some of what waited in it, or holds it back.
        if let Some(proven) = self.settling
            && now_ms >= self.taken_ms.max(self.bound_ms) + BACKLOG_PATIENCE_MS
        {
            self.backlog_ends = self.taken;
            self.settle(now_ms, proven, out);
        }
        let Link::Live { .. } = self.link else { return };
        let silent = self.heads_are_silent(now_ms);
        let due = now_ms >= self.taken_ms.max(self.bound_ms) + REBIND_MS || now_ms >= self.bound_ms + UPKEEP_MS;
        let due = due && self.queue != Queue::Ledger;
        if self.job.is_none() && (due || silent && self.heads.rebound_ms.is_none()) {
            self.bound_ms = now_ms;
            if silent {
                self.heads.rebound_ms.get_or_insert(now_ms);
            }
            out.push(Step::Rebind);
        }
        self.look(now_ms, out);
    }

    /// Where heads cannot be heard, changes that were missed show with the next one only, which may be hours away: so history
    /// is read while none comes. The feed stays current meanwhile: nothing says that something is missing.
    fn look(&mut self, now_ms: u64, out: &mut Vec<Step>) {
        let due = now_ms >= self.taken_ms.max(self.looked_ms) + LOOK_MS;
        if due && self.job.is_none() && !self.hears_heads && self.has_history(now_ms) {
            self.job = Some(Job::Look);
            out.push(Step::ReadHistory { patience_ms: HOLE_PATIENCE_MS, from_mark: true });
        }
    }

    fn tell_flow(&mut self, now_ms: u64, out: &mut Vec<Step>) {
        let feed = match (self.paused, self.stopped(now_ms)) {
            (true, None) => Step::Feed { paused: false, since_ms: now_ms },
            (false, Some((reason, since_ms))) => {
                let short = matches!(reason, Stopped::NotConnected | Stopped::ReadingHistory);
                if short && now_ms < since_ms + self.grace_ms {
                    return;
                }
                Step::Feed { paused: true, since_ms }
            }
            (true, Some(_)) | (false, None) => return,
        };
        self.paused = !self.paused;
        // Before what takes its time, and is not gone on with when the connection is lost meanwhile.
        let slow = |step: &Step| matches!(step, Step::ReadHistory { .. } | Step::Rebind);
        out.insert(out.iter().position(slow).unwrap_or(out.len()), feed);
    }
}

#[cfg(test)]
mod tests;
