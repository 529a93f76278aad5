//! The book: what the holder of the lease knows of its ledger, and what each transaction writes into it.
//!
//! Goes in: what the ledger says when a tenure begins; then the rows that were read, and the keys of rows that were
//! deleted. Comes out: [`Entry`]s. Each entry is written in one transaction, which must be committed before anything
//! that follows from the entry is done. The book treats an entry as written at once. So if an entry could not be
//! written, or if it is unknown whether it was, the book is dropped and the ledger is read again. Pure: knows no
//! database, no clock and no randomness.
//!
//! The book decides which rows get numbers: rows without a mark are new, and get the next numbers in the order of their
//! ids. It also keeps what is *owed*. Why: a row that cannot be deleted yet is published while it is still in the
//! table. The tracker may then edit it once more with the same date, and nothing in the table would show that.
//! Therefore its change is written down as owed before it is published, and gets a second number in the transaction
//! that forgets the row.

use std::collections::{HashMap, HashSet};

use bugfeed_protocol::{Change, Cursor, Numbered, Tag, When};

use super::pending::{Edit, Pending};
use super::{BadRow, Row, RowKey};

/// What the ledger holds. It stays true because only the holder of the lease writes to the ledger.
#[derive(Clone, Debug)]
pub struct Book {
    /// The last number given, with its tag.
    last: Cursor,
    /// The tag of the numbers that this book gives.
    tag: Tag,
    pending: Pending,
    /// The changes that are owed, by the row that each came from.
    owed: HashMap<RowKey, Change>,
}

/// What one transaction writes.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry<'a> {
    /// The last number before the transaction. If the ledger has another one, somebody else has written to it.
    pub before: Cursor,
    /// The last number after the transaction. If its tag differs from that of `before`, a run of the new tag begins.
    pub after: Cursor,
    /// New changes, contiguous, in the order of their rows' ids.
    pub changes: Vec<Numbered>,
    /// New rows that cannot be published, each with the reason.
    pub bad: Vec<(&'a Row, &'a BadRow)>,
    /// What to change in the marks of pending deletes.
    pub marks: Edit,
    /// Changes that are owed from now on, with their rows.
    pub owe: Vec<(RowKey, Change)>,
    /// Rows for which nothing is owed any more.
    pub paid: Vec<RowKey>,
    /// How many of the rows were recorded before.
    pub known: usize,
}

impl Entry<'_> {
    /// Whether the transaction would write nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.bad.is_empty() && self.marks == Edit::default() && !self.moves_debts()
    }

    /// Whether the transaction records rows or gives numbers. If so, it must find the ledger's last number to be
    /// `before`.
    pub fn records(&self) -> bool {
        !self.changes.is_empty() || !self.bad.is_empty()
    }

    /// Whether the transaction changes what is owed.
    pub fn moves_debts(&self) -> bool {
        !self.owe.is_empty() || !self.paid.is_empty()
    }
}

impl Book {
    /// A book that begins with what the ledger says. `last` is the last number given. `tag` was never used before; the
    /// numbers to come get it.
    pub fn new(last: Cursor, tag: Tag, pending: Pending, owed: HashMap<RowKey, Change>) -> Book {
        Book { last, tag, pending, owed }
    }

    /// The last number given.
    pub fn head(&self) -> u64 {
        self.last.seq
    }

    /// The rows that are recorded and not known to be deleted, in order.
    pub fn pending(&self) -> Vec<RowKey> {
        let mut keys: Vec<RowKey> = self.pending.keys().cloned().collect();
        keys.sort_unstable();
        keys
    }

    /// The rows for which something is owed, in order.
    pub fn owed(&self) -> Vec<RowKey> {
        let mut keys: Vec<RowKey> = self.owed.keys().cloned().collect();
        keys.sort_unstable();
        keys
    }

    /// Numbers the rows that carry no mark, and marks them. Equal (bug, when) in different rows are different changes.
    pub fn record<'a>(&mut self, rows: &'a [Row], now: When) -> Entry<'a> {
        let mut entry = self.entry();
        let mut fresh: HashSet<&RowKey> = HashSet::with_capacity(rows.len());
        let (mut keys, mut new) = (Vec::new(), Vec::new());
        for row in rows {
            if self.pending.contains(&row.key) || !fresh.insert(&row.key) {
                entry.known += 1;
                continue;
            }
            keys.push(&row.key);
            match &row.change {
                Ok(change) => new.push(*change),
                Err(bad) => entry.bad.push((row, bad)),
            }
        }
        entry.marks.insert = self.pending.mark(&keys);
        self.number(&mut entry, &new, now);
        entry
    }

    /// Notes that these rows are still in the table although their changes are about to be published. So each change is
    /// owed: it is published again when its row is gone. If a change is owed for a row already, that one stays.
    pub fn owe(&mut self, rows: &[(RowKey, Change)]) -> Entry<'static> {
        let mut entry = self.entry();
        entry.owe = rows.iter().filter(|(key, _)| !self.owed.contains_key(key)).cloned().collect();
        self.owed.extend(entry.owe.iter().cloned());
        entry
    }

    /// Notes that these rows are gone: forgets their marks, and gives the changes that are owed for them a second
    /// number.
    pub fn settle(&mut self, gone: &[RowKey], now: When) -> Entry<'static> {
        let mut entry = self.entry();
        entry.paid = gone.iter().filter(|key| self.owed.contains_key(key)).cloned().collect();
        entry.paid.sort_unstable();
        entry.paid.dedup();
        let again: Vec<Change> = entry.paid.iter().filter_map(|key| self.owed.remove(key)).collect();
        entry.marks = self.pending.forget(gone);
        self.number(&mut entry, &again, now);
        entry
    }

    /// Forgets the marks of these rows and what is owed for them, and gives no numbers.
    pub fn forget(&mut self, gone: &[RowKey]) -> Entry<'static> {
        let mut entry = self.entry();
        entry.marks = self.pending.forget(gone);
        entry.paid = gone.iter().filter(|key| self.owed.remove(*key).is_some()).cloned().collect();
        entry
    }

    fn entry<'a>(&self) -> Entry<'a> {
        Entry {
            before: self.last.clone(),
            after: self.last.clone(),
            changes: Vec::new(),
            bad: Vec::new(),
            marks: Edit::default(),
            owe: Vec::new(),
            paid: Vec::new(),
            known: 0,
        }
    }

    /// Gives these changes the next numbers.
    fn number(&mut self, entry: &mut Entry<'_>, changes: &[Change], now: When) {
        let first = self.last.seq + 1;
        let other = self.last.tag.filter(|before| self.last.seq > 0 && *before != self.tag);
        let one = |(seq, change): (u64, &Change)| Numbered {
            change: *change,
            cursor: Cursor::new(self.last.epoch.clone(), seq).tagged(Some(self.tag)),
            after: other.filter(|_| seq == first),
            recorded: now,
        };
        entry.changes = (first..).zip(changes).map(one).collect();
        if let Some(last) = entry.changes.last() {
            self.last = last.cursor.clone();
        }
        entry.after = self.last.clone();
    }
}

#[cfg(test)]
mod tests {
    use bugfeed_protocol::{BugId, Epoch};

    use super::*;

    fn key(id: i64, when: &str) -> RowKey {
        RowKey { id, when: Some(when.to_owned()) }
    }

    fn change(bug: u64, when: &str) -> Change {
        Change { bug: BugId::new(bug).unwrap(), when: When::parse_utc(when).unwrap() }
    }

    fn row(id: i64, when: &str, bug: Option<u64>) -> Row {
        let said = bug.map(|bug| change(bug, when)).ok_or(BadRow::NoWhen);
        Row { key: key(id, when), bug: bug.map(|b| b.to_string()), change: said }
    }

    /// A book of a ledger that has given 10 numbers under tag 1; new ones have tag 2.
    fn book(marked: &[(i64, &str)]) -> Book {
        let last = Cursor::new(Epoch::from_random(1), 10).tagged(Some(Tag::from_random(1)));
        let texts = marked.iter().map(|(id, when)| key(*id, when).text());
        Book::new(last, Tag::from_random(2), Pending::read(texts), HashMap::new())
    }

    fn given(entry: &Entry<'_>) -> Vec<(u64, u64)> {
        entry.changes.iter().map(|numbered| (numbered.cursor.seq, numbered.change.bug.get())).collect()
    }

    const T1: &str = "2014-04-03 21:13:45";
    const T2: &str = "2014-04-03 21:13:46";

    #[test]
    fn numbering() {
        type Rows<'a> = &'a [(i64, &'a str, Option<u64>)];
        let check = |marked: &[(i64, &str)], rows: Rows<'_>, seqs: &[(u64, u64)], bad: usize, known: usize| {
            let mut book = book(marked);
            let rows: Vec<Row> = rows.iter().map(|(id, when, bug)| row(*id, when, *bug)).collect();
            let entry = book.record(&rows, When::MIN);
            let got = (given(&entry), entry.bad.len(), entry.known);
            assert_eq!((got.0.as_slice(), got.1, got.2), (seqs, bad, known), "{marked:?} {rows:?}");
            assert_eq!(book.pending().len(), marked.len() + seqs.len() + bad, "each of them is marked");
            assert_eq!((entry.before.seq, entry.after.seq), (10, 10 + seqs.len() as u64));
            assert_eq!(book.head(), entry.after.seq);
        };
        check(&[], &[], &[], 0, 0);
        check(&[], &[(1, T1, Some(7)), (2, T1, Some(8))], &[(11, 7), (12, 8)], 0, 0);
        // Two edits in one second are two changes.
        check(&[], &[(1, T1, Some(7)), (2, T1, Some(7))], &[(11, 7), (12, 7)], 0, 0);
        // The same row read twice is one.
        check(&[(1, T1)], &[(1, T1, Some(7)), (2, T1, Some(7))], &[(11, 7)], 0, 1);
        check(&[], &[(1, T1, Some(7)), (1, T1, Some(7))], &[(11, 7)], 0, 1);
        // A row updated in place is a new change.
        check(&[(1, T1)], &[(1, T2, Some(7))], &[(11, 7)], 0, 0);
        // A bad row takes no number and leaves no hole.
        check(&[], &[(1, T1, Some(7)), (2, T1, None), (3, T1, Some(8))], &[(11, 7), (12, 8)], 1, 0);
        check(&[(2, T1)], &[(2, T1, None)], &[], 0, 1);
    }

    #[test]
    fn the_first_number_under_a_new_tag_says_which_one_was_before() {
        let mut book = book(&[]);
        let rows = [row(1, T1, Some(7)), row(2, T1, Some(8))];
        let (one, two) = (Some(Tag::from_random(1)), Some(Tag::from_random(2)));
        let entry = book.record(&rows, When::MIN);
        assert_eq!((entry.before.tag, entry.after.tag), (one, two), "a run begins");
        assert_eq!(entry.changes.iter().map(|numbered| numbered.after).collect::<Vec<_>>(), [one, None]);
        let rows = [row(3, T1, Some(7))];
        let entry = book.record(&rows, When::MIN);
        assert_eq!((entry.before.tag, entry.after.tag, entry.changes[0].after), (two, two, None));
        let bad = [row(4, T1, None)];
        let entry = book.record(&bad, When::MIN);
        assert_eq!(entry.before, entry.after, "a bad row begins no run");
        // The very first number has none before it.
        let last = Cursor::new(Epoch::from_random(1), 0);
        let mut book = Book::new(last, Tag::from_random(2), Pending::default(), HashMap::new());
        assert_eq!(book.record(&rows, When::MIN).changes[0].after, None);
    }

    #[test]
    fn what_is_owed_is_numbered_once_more_when_its_row_is_gone() {
        let mut book = book(&[(1, T1), (2, T1), (3, T1)]);
        let debts = [(key(2, T1), change(8, T1)), (key(1, T1), change(7, T1))];
        assert_eq!(book.owe(&debts).owe, debts);
        assert!(book.owe(&debts).is_empty(), "owed once");
        assert_eq!(book.owed(), [key(1, T1), key(2, T1)]);
        let entry = book.settle(&[key(3, T1), key(2, T1), key(1, T1)], When::MIN);
        assert_eq!(given(&entry), [(11, 7), (12, 8)]);
        assert_eq!(entry.paid, [key(1, T1), key(2, T1)], "in the same transaction");
        assert_eq!((book.owed(), book.pending()), (vec![], vec![]));
        assert!(book.settle(&[key(1, T1)], When::MIN).is_empty(), "paid once");
        // A row that was updated meanwhile is recorded again with what it says now, so the old change is not published
        // again.
        book.owe(&debts);
        let entry = book.forget(&[key(1, T1)]);
        assert_eq!((given(&entry), entry.paid, book.owed()), (vec![], vec![key(1, T1)], vec![key(2, T1)]));
    }
}
