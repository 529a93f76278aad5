//! A tap of a feed: how endpoints, which are POSTed to, are told what sessions are told.
//!
//! Goes in: what every shard is told ([`Tell`]). Comes out: the word that there is news, which bugs it is about, and the
//! answers to an endpoint's questions, read from the replay cache. It says nothing while the feed is not current, or while
//! it is being found out whether changes were missed, as sessions that resume wait then. It never holds the ingest back,
//! and where nobody waits for news, a change costs one look at a number.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bugfeed_core::bus::Tell;
use bugfeed_core::endpoints::question::{self, Answer, Ask};
use bugfeed_core::replay::{Pos, Replay};
use bugfeed_protocol::{BugId, Cursor};
use tokio::sync::watch;

/// More changes than this at a time are news for everybody: to look each of them up would take longer.
const MANY: u64 = 10_000;

/// A mark holds a position of the replay cache in these bits, and above them how often continuity had been lost.
const POS_BITS: u32 = 48;
const POS_MASK: Pos = (1 << POS_BITS) - 1;

/// What the ingest says, and a tap reads.
#[derive(Debug, Default)]
pub(super) struct Signal {
    /// The feed is current.
    current: AtomicBool,
    /// It is being found out whether changes were missed.
    held: AtomicBool,
    /// Counts how often there was news.
    seen: watch::Sender<u64>,
}

impl Signal {
    /// Hears what every shard is told, before they are. A change is in the replay cache already.
    pub(super) fn hear(&self, tell: &Tell) {
        match tell {
            Tell::Update(_) | Tell::Updates(_) => {
                if self.seen.receiver_count() > 0 {
                    self.raise();
                }
            }
            Tell::Current(current) => {
                self.current.store(*current, Ordering::Release);
                self.raise();
            }
            Tell::Hold(held) => {
                self.held.store(*held, Ordering::Release);
                self.raise();
            }
            Tell::Gap(..) => self.raise(),
            Tell::Feed { .. } => {}
        }
    }

    fn raise(&self) {
        self.seen.send_modify(|seen| *seen = seen.wrapping_add(1));
    }
}

/// What endpoints see of a feed. A clone is another one of the same feed.
#[derive(Clone, Debug)]
pub struct Tap {
    name: Arc<str>,
    replay: Arc<Replay>,
    signal: Arc<Signal>,
}

impl Tap {
    pub(super) fn new(name: &str, replay: &Arc<Replay>, signal: &Arc<Signal>) -> Tap {
        Tap { name: name.into(), replay: Arc::clone(replay), signal: Arc::clone(signal) }
    }

    /// The feed's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The newest number that was taken in; `None` before the first.
    pub fn head(&self) -> Option<Cursor> {
        let pos = self.replay.head();
        (pos > 0).then(|| self.replay.cursor_at(pos)).flatten()
    }

    /// Whether questions are answered: the feed is current, and nothing is in doubt.
    pub fn is_sure(&self) -> bool {
        self.signal.current.load(Ordering::Acquire) && !self.signal.held.load(Ordering::Acquire)
    }

    /// Answers an endpoint's question, from memory. [`Answer::NotYet`] while [`Tap::is_sure`] is false.
    pub fn ask(&self, ask: &Ask<'_>) -> Answer {
        match self.is_sure() {
            true => question::answer(&self.replay, ask),
            false => Answer::NotYet(None),
        }
    }

    /// Changes whenever there is news: changes were recorded, the feed has become current or is not any more, or
    /// continuity was lost.
    pub fn seen(&self) -> watch::Receiver<u64> {
        self.signal.seen.subscribe()
    }

    /// A mark for [`Tap::bugs_since`]: what is recorded from now on lies after it.
    pub fn mark(&self) -> u64 {
        // A break that falls between the two is seen the next time.
        let breaks = self.replay.breaks();
        breaks << POS_BITS | self.replay.head() & POS_MASK
    }

    /// The bugs of the changes that were recorded after this mark, each once, ascending, and the mark after them. It may
    /// also name bugs of changes that have just come. `None`: continuity was lost since then, or there is too much; so
    /// there is news for everybody, and one goes on from [`Tap::mark`].
    pub fn bugs_since(&self, mark: u64) -> Option<(Vec<BugId>, u64)> {
        let now = self.mark();
        let (after, head) = (mark & POS_MASK, now & POS_MASK);
        let new = head.checked_sub(after)?;
        let known = now >> POS_BITS == mark >> POS_BITS && new <= MANY && after + 1 >= self.replay.start();
        let bugs = || if new == 0 { Vec::new() } else { self.replay.bugs_after(after) };
        known.then(|| (bugs(), now))
    }
}

#[cfg(test)]
mod tests {
    use bugfeed_core::bus::{Arrival, Event, Queue};
    use bugfeed_core::endpoints::question::{Bound, Since, Watch};
    use bugfeed_protocol::bus::{BusMessage, Head};
    use bugfeed_protocol::{Change, Cursor, When};

    use super::*;
    use crate::feed::{Ingest, current_feed};

    fn bug(number: u64) -> BugId {
        BugId::new(number).unwrap()
    }

    fn message(number: u64, cursor: &str) -> BusMessage {
        let change = Change { bug: bug(number), when: When::from_micros(7).unwrap() };
        BusMessage { change, cursor: Cursor::parse(cursor), after: None }
    }

    async fn change(ingest: &mut Ingest, number: u64, cursor: &str) {
        ingest.take_change(message(number, cursor), None).await;
    }

    fn ask(tap: &Tap, bugs: &[u64], since: &Since) -> Answer {
        let watch = Watch::Bugs(bugs.iter().copied().map(bug).collect());
        tap.ask(&Ask { watch: &watch, since, place: None, bound: Bound::default() })
    }

    fn since(cursor: &str) -> Since {
        Since::Cursor(Cursor::parse(cursor).unwrap())
    }

    /// The bugs that an answer tells of.
    fn told(answer: Answer) -> Vec<u64> {
        let Answer::Changes(batch) = answer else { panic!("{answer:?}") };
        batch.changes.iter().map(|told| told.change.bug.get()).collect()
    }

    #[tokio::test]
    async fn a_change_is_news_and_is_answered() {
        let (feed, mut ingest) = current_feed(2).await;
        let tap = feed.tap();
        let mut seen = tap.seen();
        change(&mut ingest, 5, "E.1").await;
        assert!(seen.has_changed().unwrap());
        seen.mark_unchanged();
        let mark = tap.mark();
        assert_eq!(tap.bugs_since(mark), Some((vec![], mark)));
        let several = [(7, "E.2"), (5, "E.3"), (7, "E.4")];
        let several = several.map(|(number, cursor)| Arrival { message: message(number, cursor), recorded: None });
        ingest.take(Event::Batch(several.into(), None)).await;
        assert!(seen.has_changed().unwrap(), "several changes in one message are news, too");
        let (bugs, mark) = tap.bugs_since(mark).unwrap();
        assert_eq!(bugs, [bug(5), bug(7)]);
        assert_eq!(tap.bugs_since(mark), Some((vec![], mark)));
        assert_eq!(told(ask(&tap, &[5, 6], &since("E.1"))), [5]);
        assert_eq!(told(ask(&tap, &[5, 7], &since("E.4"))), [0; 0]);
    }

    #[tokio::test]
    async fn a_feed_that_is_not_current_answers_nothing() {
        let (feed, mut ingest) = current_feed(1).await;
        let tap = feed.tap();
        change(&mut ingest, 5, "E.1").await;
        let mut seen = tap.seen();
        ingest.take(Event::Lost).await;
        assert_eq!(ask(&tap, &[5], &since("E.1")), Answer::NotYet(None));
        seen.mark_unchanged();
        let mark = tap.mark();
        ingest.connect().await;
        // Nothing proves that nothing was missed, so there is news for everybody.
        assert!(seen.has_changed().unwrap());
        assert_eq!(tap.bugs_since(mark), None);
        let mark = tap.mark();
        assert_eq!(tap.bugs_since(mark), Some((vec![], mark)), "and once only");
        change(&mut ingest, 6, "E.3").await;
        assert!(matches!(ask(&tap, &[6], &since("E.1")), Answer::Gap(..)));
    }

    /// A publisher that says heads is waited for after a reconnect: its head shows whether changes were missed.
    #[tokio::test]
    async fn while_continuity_is_in_doubt_nothing_is_answered() {
        let (feed, mut ingest) = current_feed(1).await;
        let tap = feed.tap();
        change(&mut ingest, 5, "E.1").await;
        let cursor = Cursor::parse("E.1").unwrap();
        let head = Head { cursor, interval_ms: 2000, paused: None, sent: None };
        ingest.take(Event::Head(&head, None)).await;
        assert_eq!(told(ask(&tap, &[5], &since("E.1"))), [0; 0]);
        ingest.take(Event::Lost).await;
        ingest.take(Event::Connected { queue: Queue::New, waiting: 0 }).await;
        assert!(!tap.is_sure());
        assert_eq!(ask(&tap, &[5], &since("E.1")), Answer::NotYet(None));
        let (mut seen, mark) = (tap.seen(), tap.mark());
        ingest.take(Event::Head(&head, None)).await;
        assert!(seen.has_changed().unwrap() && tap.is_sure());
        seen.mark_unchanged();
        assert_eq!(tap.bugs_since(mark), Some((vec![], mark)), "the head has proven that nothing was missed");
        assert_eq!(told(ask(&tap, &[5], &since("E.1"))), [0; 0]);
    }

    #[tokio::test]
    async fn more_than_is_worth_looking_up_is_news_for_everybody() {
        let (feed, mut ingest) = current_feed(1).await;
        let (tap, many) = (feed.tap(), MANY + 1);
        change(&mut ingest, 1, "E.1").await;
        let mark = tap.mark();
        let changes = (2..many + 2).map(|seq| Arrival { message: message(9, &format!("E.{seq}")), recorded: None });
        ingest.take(Event::Batch(changes.collect(), None)).await;
        assert_eq!(tap.bugs_since(mark), None);
    }
}
