//! What the receiver is yet to be sent. In: changes with their cursors, gaps, and how each request ended. Out: one request
//! at a time, with the body and the id that an endpoint's would have.
//!
//! Of each bug only the newest change is kept (conflation), and of more bugs than [`MOST`] a gap. A request that failed is
//! sent again as it was, unless a newer change of its bugs came: then it is made anew. Pure: no socket, no clock.

use std::collections::{BTreeMap, HashMap};

use bugfeed_hooks::deliver::body::{Batch, Content, Item, Replay, fits};
use bugfeed_protocol::server::Verdict;
use bugfeed_protocol::{BugId, Cursor};

/// What stands for an endpoint's name in the ids of requests.
const ENDPOINT: &str = "listen";

/// Changes of at most so many bugs wait.
const MOST: usize = 100_000;
/// No body has room for more changes than this.
const MOST_IN_BODY: usize = 500;

/// A request that is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// `webhook-id`.
    pub(super) id: String,
    pub(super) body: Vec<u8>,
    /// What it says, for people.
    pub(super) about: String,
}

#[derive(Debug)]
struct Sent {
    request: Request,
    cursor: Cursor,
    /// The changes in it, by arrival; none for a gap.
    arrivals: Vec<u64>,
    /// A newer change of its bugs has come.
    is_stale: bool,
}

/// All that waits.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// The newest change of each bug, in order of arrival, which is the order of cursors.
    items: BTreeMap<u64, Item>,
    arrival_of: HashMap<BugId, u64>,
    arrivals: u64,
    /// A gap is to be told before the changes.
    gap: bool,
    /// Where the gap ends, if that is known.
    gap_end: Option<Cursor>,
    /// The newest cursor that is known.
    cursor: Option<Cursor>,
    sent: Option<Sent>,
    /// The changes are a backlog, until all are taken.
    in_backlog: bool,
    /// Of the backlog, older changes were left out, or may have been.
    left_out: bool,
    /// Where the feed was at the resume: before that, the backlog is not over.
    until: Option<Cursor>,
}

impl Pending {
    /// A change came.
    pub(super) fn add(&mut self, item: Item) {
        self.cursor = Some(item.cursor.clone());
        self.arrivals += 1;
        if let Some(before) = self.arrival_of.insert(item.change.bug, self.arrivals) {
            self.items.remove(&before);
            match &mut self.sent {
                // Whether it is left out shows when the request ends.
                Some(sent) if sent.arrivals.contains(&before) => sent.is_stale = true,
                _ => self.leave_out(),
            }
        }
        self.items.insert(self.arrivals, item);
        if self.items.len() > MOST {
            self.gap(self.cursor.clone());
        }
    }

    /// Changes up to here may be missing. What waits is one of them.
    pub(super) fn gap(&mut self, cursor: Option<Cursor>) {
        self.gap = true;
        self.cursor = cursor.or(self.cursor.take());
        self.gap_end.clone_from(&self.cursor);
        self.items.clear();
        self.arrival_of.clear();
        self.sent = None;
        (self.in_backlog, self.left_out, self.until) = (false, false, None);
    }

    /// A resume was answered: what follows is a backlog, up to the feed's newest cursor.
    pub(super) fn resumed(&mut self, verdict: Verdict, head: Option<Cursor>) {
        if verdict != Verdict::Gap {
            self.in_backlog = true;
            self.left_out |= verdict == Verdict::Latest;
            self.until = head;
            // Where the receiver was at the head already, nothing follows.
            if self.until.is_some() {
                self.end_backlog();
            }
        }
    }

    /// Everything up to here was taken out of the feed.
    pub(super) fn known(&mut self, cursor: Cursor) {
        self.cursor = Some(cursor);
        self.end_backlog();
    }

    /// Whether everything was taken by the receiver.
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty() && !self.gap
    }

    /// Whether nothing can be sent, unless something new is told to this.
    pub(super) fn is_settled(&self) -> bool {
        self.is_empty() || self.gap && self.cursor.is_none()
    }

    /// What is to be sent now: what failed before, or what is next. `None`: nothing, or a gap of which no cursor is known
    /// yet.
    pub(super) fn request(&mut self, feed: &str) -> Option<Request> {
        if self.sent.is_none() {
            self.sent = self.next(feed);
        }
        self.sent.as_ref().map(|sent| sent.request.clone())
    }

    /// The receiver took the request. Returns the cursor up to which it has everything.
    pub(super) fn taken(&mut self) -> Option<Cursor> {
        let sent = self.sent.take()?;
        if sent.arrivals.is_empty() {
            self.gap = false;
        }
        for arrival in sent.arrivals {
            if let Some(item) = self.items.remove(&arrival) {
                self.arrival_of.remove(&item.change.bug);
            }
        }
        self.end_backlog();
        Some(sent.cursor)
    }

    /// The receiver did not take it, or nobody knows.
    pub(super) fn failed(&mut self) {
        if self.sent.take_if(|sent| sent.is_stale).is_some() {
            self.leave_out();
        }
    }

    /// The backlog is over when all of it came, and was taken.
    fn end_backlog(&mut self) {
        let reached = |until: &Cursor| {
            self.cursor.as_ref().is_some_and(|cursor| cursor.epoch != until.epoch || cursor.seq >= until.seq)
        };
        if self.is_empty() && self.until.as_ref().is_none_or(reached) {
            (self.in_backlog, self.left_out, self.until) = (false, false, None);
        }
    }

    fn leave_out(&mut self) {
        (self.in_backlog, self.left_out) = (true, true);
    }

    fn next(&mut self, feed: &str) -> Option<Sent> {
        if self.gap {
            let cursor = self.gap_end.as_ref().or(self.cursor.as_ref())?.clone();
            let request = request(feed, Content::Gap, &cursor, "a gap: treat all bugs as changed".to_owned());
            return Some(Sent { request, cursor, arrivals: Vec::new(), is_stale: false });
        }
        self.in_backlog |= self.items.len() > 1;
        let (mut arrivals, items): (Vec<u64>, Vec<Item>) =
            self.items.iter().take(MOST_IN_BODY).map(|(arrival, item)| (*arrival, item.clone())).unzip();
        let items = &items[..fits(feed, &items)];
        let last = items.last()?;
        arrivals.truncate(items.len());
        let cursor = last.cursor.clone();
        let request = if self.in_backlog {
            let replay = if self.left_out { Replay::Latest } else { Replay::Complete };
            let about = match items.len() {
                1 => format!("1 change, {}", replay.word()),
                number => format!("{number} changes, {}", replay.word()),
            };
            request(feed, Content::Updates { replay, items }, &cursor, about)
        } else {
            request(feed, Content::Update(last), &cursor, format!("bug {} changed", last.change.bug))
        };
        Some(Sent { request, cursor, arrivals, is_stale: false })
    }
}

fn request(feed: &str, content: Content<'_>, cursor: &Cursor, about: String) -> Request {
    let batch = Batch { feed, content, cursor, generation: 0 };
    let body = batch.body();
    Request { id: batch.id(ENDPOINT, &body), body, about }
}

#[cfg(test)]
mod tests {
    use bugfeed_protocol::{Change, Epoch};
    use serde_json::Value;

    use super::*;

    fn cursor(seq: u64) -> Cursor {
        Cursor::new(Epoch::from_random(1), seq)
    }

    fn item(bug: u64, seq: u64) -> Item {
        let when = "2026-11-26T12:00:00".parse().unwrap();
        Item { change: Change { bug: BugId::new(bug).unwrap(), when }, cursor: cursor(seq) }
    }

    /// The command, the verdict, and the numbers (bug, seq) of changes.
    type Said = (String, String, Vec<(u64, u64)>);

    /// What is sent next.
    fn next(pending: &mut Pending) -> Option<Said> {
        let request = pending.request("kde")?;
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(body["feed"], "kde");
        let number = |change: &Value| {
            let seq = Cursor::parse(change["cursor"].as_str().unwrap()).unwrap().seq;
            (change["bug"].as_u64().unwrap_or_default(), seq)
        };
        let changes =
            body["changes"].as_array().map_or_else(|| vec![number(&body)], |all| all.iter().map(number).collect());
        let word = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        Some((word("command"), word("replay"), changes))
    }

    fn said(command: &str, replay: &str, changes: &[(u64, u64)]) -> Option<Said> {
        Some((command.to_owned(), replay.to_owned(), changes.to_vec()))
    }

    #[test]
    fn one_after_the_other_and_several_at_once() {
        let mut pending = Pending::default();
        assert_eq!(next(&mut pending), None);
        pending.add(item(1, 5));
        assert_eq!(next(&mut pending), said("update", "", &[(1, 5)]));
        assert_eq!(pending.taken(), Some(cursor(5)));
        assert!(pending.is_empty());
        for (bug, seq) in [(1, 6), (2, 7)] {
            pending.add(item(bug, seq));
        }
        assert_eq!(next(&mut pending), said("updates", "complete", &[(1, 6), (2, 7)]));
        pending.add(item(3, 8));
        assert_eq!(pending.taken(), Some(cursor(7)));
        assert_eq!(next(&mut pending), said("updates", "complete", &[(3, 8)]), "of the same backlog");
        pending.taken();
        pending.add(item(3, 9));
        assert_eq!(next(&mut pending), said("update", "", &[(3, 9)]), "the backlog is over");
    }

    #[test]
    fn what_failed_is_sent_again_as_it_was_unless_something_newer_came() {
        let mut pending = Pending::default();
        pending.add(item(1, 5));
        let first = pending.request("kde").unwrap();
        pending.failed();
        pending.add(item(2, 6));
        assert_eq!(pending.request("kde").unwrap(), first, "alone, with the same id");
        pending.add(item(1, 7));
        assert_eq!(pending.request("kde").unwrap(), first, "it is on its way");
        pending.failed();
        assert_eq!(next(&mut pending), said("updates", "latest", &[(2, 6), (1, 7)]), "5 was left out");
        assert_eq!(pending.taken(), Some(cursor(7)));
        // The same, but the receiver took it: nothing is left out.
        pending.add(item(1, 8));
        pending.request("kde").unwrap();
        pending.add(item(1, 9));
        assert_eq!(pending.taken(), Some(cursor(8)));
        assert_eq!(next(&mut pending), said("update", "", &[(1, 9)]));
    }

    #[test]
    fn a_backlog_says_what_is_known_of_it() {
        for (verdict, replay) in [(Verdict::Complete, "complete"), (Verdict::Latest, "latest")] {
            let mut pending = Pending::default();
            pending.resumed(verdict, Some(cursor(9)));
            pending.known(cursor(3));
            for seq in [5, 9] {
                pending.add(item(1, seq));
                let want = said("updates", replay, &[(1, seq)]);
                assert_eq!(next(&mut pending), want, "of one, so that the verdict is there");
                pending.taken();
            }
            pending.add(item(1, 10));
            assert_eq!(next(&mut pending), said("update", "", &[(1, 10)]), "it was over");
            // Nothing was missed, which shows before the resume or after it.
            for is_before in [true, false] {
                let mut pending = Pending::default();
                if is_before {
                    pending.known(cursor(9));
                }
                pending.resumed(verdict, Some(cursor(9)));
                if !is_before {
                    pending.known(cursor(9));
                }
                pending.add(item(1, 10));
                assert_eq!(next(&mut pending), said("update", "", &[(1, 10)]));
            }
        }
        // While nothing is sent, of each bug the newest is left.
        let mut pending = Pending::default();
        for seq in 1..=1_000 {
            pending.add(item(1 + seq % 3, seq));
        }
        assert_eq!(next(&mut pending), said("updates", "latest", &[(3, 998), (1, 999), (2, 1_000)]));
        assert_eq!(pending.taken(), Some(cursor(1_000)));
        assert!(pending.is_empty());
    }

    #[test]
    fn a_body_has_its_bound_and_the_rest_follows() {
        let mut pending = Pending::default();
        for seq in 1..=1_000 {
            pending.add(item(seq, seq));
        }
        let mut told = Vec::new();
        while let Some((command, replay, changes)) = next(&mut pending) {
            assert_eq!((&*command, &*replay), ("updates", "complete"));
            assert!(pending.request("kde").unwrap().body.len() <= 20_000);
            assert_eq!(pending.taken().map(|cursor| cursor.seq), changes.last().map(|(_, seq)| *seq));
            told.extend(changes);
        }
        assert_eq!(told, (1..=1_000).map(|seq| (seq, seq)).collect::<Vec<_>>());
    }

    #[test]
    fn changes_of_too_many_bugs_are_a_gap() {
        let mut pending = Pending::default();
        let most = MOST as u64;
        (1..=most).for_each(|seq| pending.add(item(seq, seq)));
        assert_eq!(pending.items.len(), MOST);
        pending.add(item(most + 1, most + 1));
        pending.add(item(7, most + 2));
        assert_eq!(next(&mut pending), said("gap", "", &[(0, most + 1)]));
        pending.taken();
        assert_eq!(next(&mut pending), said("update", "", &[(7, most + 2)]));
    }

    #[test]
    fn a_gap_takes_the_place_of_what_waits_and_comes_first() {
        let mut pending = Pending::default();
        pending.gap(None);
        assert_eq!((next(&mut pending), pending.is_empty()), (None, false), "no cursor is known yet");
        pending.known(cursor(3));
        assert_eq!(next(&mut pending), said("gap", "", &[(0, 3)]));
        pending.add(item(1, 5));
        pending.failed();
        assert_eq!(next(&mut pending), said("gap", "", &[(0, 3)]), "the same again");
        pending.gap(Some(cursor(9)));
        pending.add(item(2, 10));
        assert_eq!(next(&mut pending), said("gap", "", &[(0, 9)]), "bug 1 is in it");
        assert_eq!(pending.taken(), Some(cursor(9)));
        assert_eq!(next(&mut pending), said("update", "", &[(2, 10)]));
        let shown = pending.request("kde").unwrap();
        assert_eq!((&*shown.about, shown.id.starts_with("listen-")), ("bug 2 changed", true));
    }
}
