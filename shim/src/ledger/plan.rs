//! The numbering decision: which of the rows just read are new, and which number each gets.
//!
//! Goes in: rows, the marks of rows already recorded, the last number given. Comes out: a plan to be written in one
//! transaction. Pure: knows no database and no clock.

use std::collections::HashSet;

use bugfeed_protocol::Change;

use crate::source::{BadRow, Row, RowKey};

/// What one transaction records.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan<'a> {
    /// New changes with their numbers, contiguous, in the order of their rows' ids.
    pub(crate) changes: Vec<(u64, Change)>,
    /// New rows that say nothing publishable.
    pub(crate) bad: Vec<(&'a Row, &'a BadRow)>,
    /// The keys of both: these rows are recorded from now on.
    pub(crate) marks: Vec<&'a RowKey>,
    /// How many rows were recorded before.
    pub(crate) known: usize,
}

/// Numbers the rows that carry no mark. Equal (bug, when) in different rows are different changes.
pub(crate) fn plan<'a>(rows: &'a [Row], marked: impl Fn(&RowKey) -> bool, last_seq: u64) -> Plan<'a> {
    let mut plan = Plan::default();
    let mut fresh: HashSet<&RowKey> = HashSet::with_capacity(rows.len());
    for row in rows {
        if marked(&row.key) || !fresh.insert(&row.key) {
            plan.known += 1;
            continue;
        }
        plan.marks.push(&row.key);
        match &row.change {
            Ok(change) => plan.changes.push((last_seq + plan.changes.len() as u64 + 1, *change)),
            Err(bad) => plan.bad.push((row, bad)),
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use bugfeed_protocol::{BugId, When};

    use super::*;

    fn row(id: i64, when: &str, bug: Option<u64>) -> Row {
        let change = match bug.and_then(BugId::new) {
            Some(bug) => Ok(Change { bug, when: When::parse_utc(when).unwrap() }),
            None => Err(BadRow::NoWhen),
        };
        Row { key: RowKey { id, when: Some(when.to_owned()) }, bug: bug.map(|b| b.to_string()), change }
    }

    const T1: &str = "2014-04-03 21:13:45";
    const T2: &str = "2014-04-03 21:13:46";

    #[test]
    fn numbering() {
        type Rows<'a> = &'a [(i64, &'a str, Option<u64>)];
        let check = |marked: &[(i64, &str)], rows: Rows<'_>, seqs: &[(u64, u64)], bad: usize, known: usize| {
            let key = |(id, when): &(i64, &str)| RowKey { id: *id, when: Some((*when).to_owned()) };
            let marks: HashSet<RowKey> = marked.iter().map(key).collect();
            let rows: Vec<Row> = rows.iter().map(|(id, when, bug)| row(*id, when, *bug)).collect();
            let plan = plan(&rows, |key| marks.contains(key), 10);
            let got: Vec<_> = plan.changes.iter().map(|(seq, change)| (*seq, change.bug.get())).collect();
            assert_eq!((got.as_slice(), plan.bad.len(), plan.known), (seqs, bad, known), "{marked:?} {rows:?}");
            assert_eq!(plan.marks.len(), seqs.len() + bad);
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
}
