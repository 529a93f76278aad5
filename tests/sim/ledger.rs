//! What shims work on: the tracker's change table, and the ledger's tables.
//!
//! Goes in: statements and transactions, each as a whole. Comes out: rows, and what the ledger holds. Decides nothing: what
//! is written is an entry of the real book.

use std::collections::{BTreeMap, BTreeSet};

use bugfeed_core::relay::book::{Book, Entry};
use bugfeed_core::relay::outlet::Holds;
use bugfeed_core::relay::pending::Pending;
use bugfeed_core::relay::{Row, RowKey};
use bugfeed_protocol::{Change, Cursor, Epoch, Numbered, Tag, When};

/// The change table, with rows that are not committed yet.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub rows: BTreeMap<i64, Change>,
    /// One row for each bug, and the shim knows: what is in a row is published once the row is gone.
    pub in_place: bool,
    next: i64,
}

impl Table {
    pub fn new(in_place: bool) -> Table {
        Table { in_place, ..Table::default() }
    }

    /// Takes the next id, as a transaction does when it begins.
    pub fn id(&mut self) -> i64 {
        self.next += 1;
        self.next
    }

    fn row(&self, id: i64) -> Option<Row> {
        let change = *self.rows.get(&id)?;
        let key = RowKey { id, when: Some(change.when.to_string()) };
        Some(Row { key, bug: Some(change.bug.to_string()), change: Ok(change) })
    }

    pub fn read(&self, limit: usize) -> Vec<Row> {
        self.rows.keys().take(limit).filter_map(|id| self.row(*id)).collect()
    }

    /// Those rows that are what they were.
    pub fn find(&self, keys: &[RowKey]) -> Vec<Row> {
        keys.iter().filter_map(|key| self.row(key.id).filter(|row| row.key == *key)).collect()
    }

    pub fn delete(&mut self, key: &RowKey) {
        if self.row(key.id).is_some_and(|row| row.key == *key) {
            self.rows.remove(&key.id);
        }
    }
}

/// The ledger's database.
#[derive(Clone, Debug)]
pub struct Ledger {
    pub epoch: Epoch,
    /// The marks of pending deletes.
    pub marks: BTreeSet<String>,
    /// Published before their rows were gone, and to be numbered once more.
    pub owed: BTreeMap<RowKey, Change>,
    /// Those that were.
    pub paid: Vec<When>,
    pub changes: Vec<Numbered>,
    pub published: u64,
    pub term: u64,
}

impl Ledger {
    pub fn new(epoch: Epoch) -> Ledger {
        let (marks, owed, paid) = (BTreeSet::new(), BTreeMap::new(), Vec::new());
        Ledger { epoch, marks, owed, paid, changes: Vec::new(), published: 0, term: 0 }
    }

    pub fn head(&self) -> u64 {
        self.changes.len() as u64
    }

    /// The tag under which a number was given.
    pub fn tag_of(&self, seq: u64) -> Option<Tag> {
        let at = usize::try_from(seq).unwrap().checked_sub(1)?;
        self.changes.get(at)?.cursor.tag
    }

    pub fn cursor(&self, seq: u64) -> Cursor {
        Cursor::new(self.epoch.clone(), seq).tagged(self.tag_of(seq))
    }

    /// What the holder of the lease reads when it begins.
    pub fn book(&self, tag: Tag) -> Book {
        let owed = self.owed.iter().map(|(key, change)| (key.clone(), *change)).collect();
        Book::new(self.cursor(self.head()), tag, Pending::read(self.marks.iter().cloned()), owed)
    }

    /// The transaction that writes an entry.
    pub fn write(&mut self, entry: &Entry<'_>) {
        assert_eq!(entry.before, self.cursor(self.head()), "the fence keeps out whoever has an old head");
        for mark in &entry.marks.delete {
            assert!(self.marks.remove(mark), "{mark} is not in the table");
        }
        for mark in &entry.marks.insert {
            assert!(self.marks.insert(mark.clone()), "{mark} is in the table already");
        }
        for (key, change) in &entry.owe {
            assert!(self.owed.insert(key.clone(), *change).is_none(), "{key:?} is owed already");
        }
        let mut numbers = entry.changes.iter().map(|numbered| numbered.change.when);
        for key in &entry.paid {
            self.owed.remove(key).expect("owed");
            // Where the row has become another one, that one tells of it.
            self.paid.extend(numbers.next());
        }
        self.changes.extend(entry.changes.iter().cloned());
        assert_eq!(entry.after, self.cursor(self.head()));
        for (at, numbered) in self.changes.iter().enumerate().skip(self.changes.len().saturating_sub(8)) {
            assert_eq!(numbered.cursor.seq, at as u64 + 1, "contiguous");
        }
    }

    /// What the ledger says about a number.
    pub fn holds(&self, found: &Cursor) -> Holds {
        if found.epoch != self.epoch {
            Holds::OtherLedger
        } else if found.seq > self.head() {
            Holds::Beyond(self.cursor(self.head()))
        } else if found.seq > 0 && self.tag_of(found.seq) != found.tag {
            Holds::OtherTag(self.tag_of(found.seq))
        } else {
            Holds::Same
        }
    }

    /// Numbers what is unpublished anew, under a new epoch.
    pub fn renumber(&mut self, fresh: Epoch, tag: Tag) {
        let published = usize::try_from(self.published).unwrap();
        let number = |(at, numbered): (usize, &Numbered)| Numbered {
            cursor: Cursor::new(fresh.clone(), at as u64 + 1).tagged(Some(tag)),
            after: None,
            ..numbered.clone()
        };
        self.changes = self.changes[published..].iter().enumerate().map(number).collect();
        (self.epoch, self.published) = (fresh, 0);
    }
}
