//! The feeds of a process, as the desk asks them: who has news.
//!
//! Goes in: taps. Comes out: answers, and the endpoints that a change concerns. An endpoint that got no answer, because its
//! feed is not there or not current, hears of it as soon as there is one.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bugfeed_core::endpoints::endpoint::Feeds;
use bugfeed_core::endpoints::interest::Interest;
use bugfeed_core::endpoints::question::{Answer, Ask, Bound, Since, Told, Watch};
use bugfeed_core::endpoints::row::Row;
use bugfeed_core::subscriptions::Slot;
use bugfeed_protocol::{BugId, Cursor, When};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::FeedTap;
use crate::deliver::template::Link;

/// A feed.
struct Tapped {
    tap: Arc<dyn FeedTap>,
    /// Changes up to here were announced.
    pos: u64,
    interest: Interest,
    /// Something has happened since the last look.
    moved: Arc<AtomicBool>,
    _watching: AbortOnDropHandle<()>,
}

/// Whose news an endpoint hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interested {
    watch: Watch,
    feeds: Vec<Arc<str>>,
}

impl Interested {
    /// Whether this is one of its feeds.
    pub(super) fn has(&self, feed: &str) -> bool {
        self.feeds.iter().any(|own| &**own == feed)
    }

    pub(super) fn of(row: &Row) -> Interested {
        Interested { watch: row.watch.clone(), feeds: row.lines.iter().map(|line| Arc::clone(&line.feed)).collect() }
    }
}

/// All feeds.
#[derive(Default)]
pub(super) struct AllFeeds {
    taps: BTreeMap<Arc<str>, Tapped>,
    /// Who got no answer from a feed, which may be one that is not there.
    unanswered: RefCell<BTreeMap<Arc<str>, HashSet<Slot>>>,
    /// Something has happened in one of them.
    pub(super) moved: Arc<Notify>,
}

/// One endpoint's questions.
pub(super) struct Asking<'a> {
    pub(super) feeds: &'a AllFeeds,
    pub(super) slot: Slot,
}

impl Feeds for Asking<'_> {
    fn ask(&self, feed: &str, ask: &Ask<'_>) -> Answer {
        let (name, answer) = match self.feeds.taps.get_key_value(feed) {
            Some((name, tapped)) => (Arc::clone(name), tapped.tap.ask(ask)),
            None => (Arc::from(feed), Answer::NotYet(None)),
        };
        if matches!(answer, Answer::NotYet(_)) {
            self.feeds.unanswered.borrow_mut().entry(name).or_default().insert(self.slot);
        }
        answer
    }
}

impl AllFeeds {
    /// Other feeds. Returns the names of those that are new; their endpoints are to be [`AllFeeds::join`]ed.
    pub(super) fn replace(&mut self, taps: &[Arc<dyn FeedTap>]) -> Vec<Arc<str>> {
        let mut before = std::mem::take(&mut self.taps);
        let mut new = Vec::new();
        for tap in taps {
            let name = tap.name();
            let kept = before.remove(name).filter(|kept| Arc::ptr_eq(&kept.tap, tap));
            let tapped = kept.unwrap_or_else(|| {
                new.push(Arc::clone(name));
                self.tapped(tap)
            });
            self.taps.insert(Arc::clone(name), tapped);
        }
        new
    }

    fn tapped(&self, tap: &Arc<dyn FeedTap>) -> Tapped {
        let (moved, notify, mut seen) = (Arc::new(AtomicBool::new(false)), Arc::clone(&self.moved), tap.seen());
        let flag = Arc::clone(&moved);
        let watching = tokio::spawn(async move {
            while seen.changed().await.is_ok() {
                flag.store(true, Ordering::Release);
                notify.notify_one();
            }
        });
        let _watching = AbortOnDropHandle::new(watching);
        Tapped { tap: Arc::clone(tap), pos: tap.head(), interest: Interest::default(), moved, _watching }
    }

    /// The names of the feeds.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.taps.keys()
    }

    /// All feeds, and where an endpoint begins in each that gets it now.
    pub(super) fn begins(&self, now: When) -> Vec<(Arc<str>, Since)> {
        self.taps.iter().map(|(name, tapped)| (Arc::clone(name), begin(&*tapped.tap, now))).collect()
    }

    /// A tap.
    pub(super) fn tap(&self, feed: &str) -> Option<&Arc<dyn FeedTap>> {
        self.taps.get(feed).map(|tapped| &tapped.tap)
    }

    /// Where people read about a bug of a feed.
    pub(super) fn link(&self, feed: &str) -> Option<&Link> {
        self.tap(feed).and_then(|tap| tap.link())
    }

    /// Where the head of a feed is, if that is known.
    pub(super) fn head(&self, feed: &str) -> Option<Cursor> {
        head(&**self.tap(feed)?)
    }

    /// An endpoint hears of what concerns it, in all its feeds or in this one.
    pub(super) fn join(&mut self, slot: Slot, interested: &Interested, only: Option<&str>) {
        for feed in interested.feeds.iter().filter(|feed| only.is_none_or(|only| only == &***feed)) {
            if let Some(tapped) = self.taps.get_mut(feed) {
                tapped.interest.add(slot, &interested.watch);
            }
        }
    }

    /// An endpoint hears nothing more.
    pub(super) fn leave(&mut self, slot: Slot, interested: &Interested) {
        for feed in &interested.feeds {
            if let Some(tapped) = self.taps.get_mut(feed) {
                tapped.interest.remove(slot, &interested.watch);
            }
        }
        for slots in self.unanswered.get_mut().values_mut() {
            slots.remove(&slot);
        }
    }

    /// Who has news, feed by feed. `None` for the slots: everybody who has this feed.
    pub(super) fn news(&mut self) -> Vec<(Arc<str>, Option<Vec<Slot>>)> {
        let unanswered = self.unanswered.get_mut();
        let mut news = Vec::new();
        for (name, tapped) in &mut self.taps {
            if !tapped.moved.swap(false, Ordering::AcqRel) {
                continue;
            }
            let head = tapped.tap.head();
            let Some((bugs, upto)) = tapped.tap.bugs_since(tapped.pos) else {
                tapped.pos = head;
                unanswered.remove(name);
                news.push((Arc::clone(name), None));
                continue;
            };
            tapped.pos = upto;
            let mut slots: Vec<Slot> = bugs.iter().flat_map(|&bug| tapped.interest.concerned(bug)).collect();
            let waiting = unanswered.get(name).is_some_and(|slots| !slots.is_empty());
            if waiting && answers(&*tapped.tap) {
                slots.extend(unanswered.remove(name).unwrap_or_default());
            }
            slots.sort_unstable();
            slots.dedup();
            news.push((Arc::clone(name), Some(slots)));
        }
        news
    }
}

/// A question whose answer costs nothing.
fn cheap(tap: &dyn FeedTap) -> Answer {
    let nobody = Watch::Bugs([].into());
    tap.ask(&Ask { watch: &nobody, since: &Since::Head, place: None, bound: Bound { entries: 1, bytes: 1 } })
}

/// Where an endpoint begins that gets this feed now: what changes from now on concerns it, also while the feed is away, and
/// also if the process dies before the planner has stored anything. (`Since::Head` would begin anew then.)
pub(crate) fn begin(tap: &dyn FeedTap, now: When) -> Since {
    match cheap(tap) {
        Answer::Changes(batch) => Since::Cursor(batch.cursor),
        // Where its head is cannot be told just now.
        _ => Since::Time(now),
    }
}

/// Whether a feed has changes of this bug after a place; `None` where it cannot tell.
pub(crate) fn has_after(tap: &dyn FeedTap, bug: BugId, since: &Since) -> Option<bool> {
    let watch = Watch::Bugs([bug].into());
    match tap.ask(&Ask { watch: &watch, since, place: None, bound: Bound { entries: 1, bytes: 1 } }) {
        Answer::Changes(batch) => Some(!batch.changes.is_empty()),
        Answer::NotYet(_) | Answer::Ahead(_) | Answer::Gap(..) => None,
    }
}

/// The newest change of a bug that a feed knows, with its cursor. `None`: it knows of none, or cannot tell.
pub(crate) fn newest(tap: &dyn FeedTap, bug: BugId) -> Option<Told> {
    let watch = Watch::Bugs([bug].into());
    // All that this ledger has numbered.
    let since = Since::Cursor(Cursor::new(head(tap)?.epoch, 0));
    match tap.ask(&Ask { watch: &watch, since: &since, place: None, bound: Bound { entries: 1, bytes: 1 } }) {
        Answer::Changes(batch) => batch.changes.into_iter().next_back(),
        Answer::NotYet(_) | Answer::Ahead(_) | Answer::Gap(..) => None,
    }
}

/// Whether a feed can go on from a cursor; `None` while it cannot tell.
pub(crate) fn knows(tap: &dyn FeedTap, cursor: &Cursor) -> Option<bool> {
    let (watch, since) = (Watch::Bugs([].into()), Since::Cursor(cursor.clone()));
    match tap.ask(&Ask { watch: &watch, since: &since, place: None, bound: Bound { entries: 1, bytes: 1 } }) {
        Answer::Changes(_) => Some(true),
        Answer::Gap(..) | Answer::Ahead(_) => Some(false),
        Answer::NotYet(_) => None,
    }
}

fn answers(tap: &dyn FeedTap) -> bool {
    !matches!(cheap(tap), Answer::NotYet(_))
}

/// The cursor of who has everything.
pub(super) fn head(tap: &dyn FeedTap) -> Option<Cursor> {
    match cheap(tap) {
        Answer::Changes(batch) => Some(batch.cursor),
        _ => None,
    }
}
