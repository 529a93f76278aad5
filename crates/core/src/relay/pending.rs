//! Pending deletes: which rows of the change table are recorded and not yet known to be deleted, and how the ledger
//! writes that down.
//!
//! Goes in: keys of recorded rows, keys of deleted rows, the texts that the ledger keeps. Comes out: texts to insert
//! and to delete. Pure. One text is a *mark*: it stands for one row, or for several recorded rows with consecutive ids
//! and the same date. So rows that were written in one go cost one mark.

use std::collections::{BTreeSet, HashMap};

use super::RowKey;

/// The most rows that one mark stands for. This program never writes a longer one.
const LONGEST: i64 = 100_000;

/// One mark: the rows with the ids `first..=last`, all with the same date.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    first: i64,
    last: i64,
    when: Option<String>,
}

impl Mark {
    fn text(&self) -> String {
        let Mark { first, last, when } = self;
        let last_key = RowKey { id: *last, when: when.clone() }.text();
        if first == last { last_key } else { format!("{first}-{last_key}") }
    }

    fn parse(text: &str) -> Option<Mark> {
        // A date may contain any character, but an id only digits and a sign in front of them.
        let ids = text.split('/').next()?;
        let dash = ids.char_indices().skip(1).find(|(_, c)| *c == '-').map(|(at, _)| at);
        let (first, rest) = dash.map_or((None, text), |at| (Some(&text[..at]), &text[at + 1..]));
        let RowKey { id: last, when } = RowKey::from_text(rest)?;
        let first = first.map_or(Ok(last), str::parse).ok()?;
        let rows = last.checked_sub(first)?;
        (0..LONGEST).contains(&rows).then_some(Mark { first, last, when })
    }

    fn keys(&self) -> impl Iterator<Item = RowKey> {
        (self.first..=self.last).map(|id| RowKey { id, when: self.when.clone() })
    }
}

/// The fewest marks that stand for exactly these rows.
fn marks_for<'a>(keys: impl IntoIterator<Item = &'a RowKey>) -> Vec<Mark> {
    let mut marks: Vec<Mark> = Vec::new();
    for key in keys {
        match marks.last_mut() {
            Some(mark)
                if mark.last.checked_add(1) == Some(key.id)
                    && mark.when == key.when
                    && key.id.abs_diff(mark.first) < LONGEST.unsigned_abs() =>
            {
                mark.last = key.id;
            }
            _ => marks.push(Mark { first: key.id, last: key.id, when: key.when.clone() }),
        }
    }
    marks
}

/// What to change in the ledger's table of marks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// Texts to add.
    pub insert: Vec<String>,
    /// Texts to remove.
    pub delete: Vec<String>,
}

/// Every row whose deletion is pending.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    /// The number of the mark that stands for each row.
    rows: HashMap<RowKey, u64>,
    marks: HashMap<u64, Mark>,
    last_number: u64,
}

impl Pending {
    /// Reads the texts of the ledger's table. A text that this program never writes is skipped.
    pub fn read(texts: impl IntoIterator<Item = String>) -> Pending {
        let mut all = Pending::default();
        texts.into_iter().filter_map(|text| Mark::parse(&text)).for_each(|mark| all.add(mark));
        all
    }

    fn add(&mut self, mark: Mark) {
        self.last_number += 1;
        self.rows.extend(mark.keys().map(|key| (key, self.last_number)));
        self.marks.insert(self.last_number, mark);
    }

    /// Whether this row is recorded and not known to be deleted.
    pub fn contains(&self, key: &RowKey) -> bool {
        self.rows.contains_key(key)
    }

    /// All rows whose deletion is pending, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &RowKey> {
        self.rows.keys()
    }

    /// Marks rows that are not marked yet; returns the texts to insert.
    pub fn mark(&mut self, keys: &[&RowKey]) -> Vec<String> {
        let marks = marks_for(keys.iter().copied());
        let texts = marks.iter().map(Mark::text).collect();
        marks.into_iter().for_each(|mark| self.add(mark));
        texts
    }

    /// Forgets these rows. If a mark also stands for other rows, it is replaced by marks for those others alone.
    pub fn forget(&mut self, keys: &[RowKey]) -> Edit {
        let touched: BTreeSet<u64> = keys.iter().filter_map(|key| self.rows.remove(key)).collect();
        let mut edit = Edit::default();
        for number in touched {
            let Some(mark) = self.marks.remove(&number) else { continue };
            edit.delete.push(mark.text());
            let left: Vec<RowKey> = mark.keys().filter(|key| self.rows.get(key) == Some(&number)).collect();
            let left: Vec<&RowKey> = left.iter().collect();
            edit.insert.extend(self.mark(&left));
        }
        edit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(ids: impl IntoIterator<Item = i64>, when: Option<&str>) -> Vec<RowKey> {
        ids.into_iter().map(|id| RowKey { id, when: when.map(str::to_owned) }).collect()
    }

    #[test]
    fn texts() {
        let check = |keys: &[RowKey], want: &[&str]| {
            let mut marks = Pending::default();
            assert_eq!(marks.mark(&keys.iter().collect::<Vec<_>>()), want);
            let again = Pending::read(want.iter().map(|text| (*text).to_owned()));
            let mut back: Vec<RowKey> = again.keys().cloned().collect();
            back.sort();
            let mut keys = keys.to_vec();
            keys.sort();
            assert_eq!(back, keys, "read back");
        };
        check(&[], &[]);
        check(&keys([7], Some("2014-04-03 21:13:45")), &["7/t2014-04-03 21:13:45"]);
        check(&keys(7..=9, Some("2014-04-03")), &["7-9/t2014-04-03"]);
        check(&keys([7, 8, 10, 11, 13], Some("a")), &["7-8/ta", "10-11/ta", "13/ta"]);
        check(&keys(-3..=1, None), &["-3-1/n"]);
        check(&keys(-3..=-2, Some("n/-1")), &["-3--2/tn/-1"]);
        check(&keys([i64::MIN, i64::MAX], Some("")), &["-9223372036854775808/t", "9223372036854775807/t"]);
        let two_dates = [keys(1..=2, Some("a")), keys(3..=4, Some("b"))].concat();
        check(&two_dates, &["1-2/ta", "3-4/tb"]);
    }

    #[test]
    fn what_is_no_mark_marks_nothing() {
        for text in ["", "7", "7/", "7/x", "/ta", "7-/ta", "9-7/ta", "1-200000/ta", "-/n", "a-b/n"] {
            assert_eq!(Pending::read([text.to_owned()]).keys().count(), 0, "{text}");
        }
    }

    #[test]
    fn a_row_is_forgotten_alone() {
        let mut marks = Pending::default();
        let all = keys(1..=5, Some("a"));
        marks.mark(&all.iter().collect::<Vec<_>>());
        let edit = |insert: &[&str], delete: &[&str]| Edit {
            insert: insert.iter().map(|text| (*text).to_owned()).collect(),
            delete: delete.iter().map(|text| (*text).to_owned()).collect(),
        };
        assert_eq!(marks.forget(&keys([9], Some("a"))), edit(&[], &[]));
        assert_eq!(marks.forget(&keys([1], Some("b"))), edit(&[], &[]), "another date, another row");
        assert_eq!(marks.forget(&keys([1, 3], Some("a"))), edit(&["2/ta", "4-5/ta"], &["1-5/ta"]));
        assert!(!marks.contains(&all[2]) && marks.contains(&all[3]));
        // The id is used again while its neighbours are still marked.
        assert_eq!(marks.mark(&[&all[2]]), ["3/ta"]);
        assert_eq!(marks.forget(&keys([4, 5, 2], Some("a"))), edit(&[], &["2/ta", "4-5/ta"]));
        assert_eq!(marks.forget(&keys([3], Some("a"))), edit(&[], &["3/ta"]));
        assert_eq!(marks.keys().count(), 0);
    }
}
