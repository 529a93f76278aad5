//! Rows of the change table as data: what identifies a row, and which change it describes.
//!
//! Goes in: the values that were read. Comes out: keys, also as text. Knows no SQL.

use std::fmt;

use bugfeed_protocol::Change;
use bugfeed_protocol::change::BadWhen;

/// What identifies a row of the change table: its id, and its date as the database writes it. A row that the tracker
/// updates in place has another key afterwards, and counts as another change.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowKey {
    /// The primary key.
    pub id: i64,
    /// The date's text; `None` for NULL.
    pub when: Option<String>,
}

impl RowKey {
    /// The key as one text: the id, then `/t` and the date, or `/n` if the date is NULL. So no date can be confused
    /// with NULL.
    pub fn text(&self) -> String {
        match &self.when {
            Some(when) => format!("{}/t{when}", self.id),
            None => format!("{}/n", self.id),
        }
    }

    /// Reads [`RowKey::text`] back.
    pub fn from_text(text: &str) -> Option<RowKey> {
        let (id, when) = text.split_once('/')?;
        let when = if when == "n" { None } else { Some(when.strip_prefix('t')?.to_owned()) };
        Some(RowKey { id: id.parse().ok()?, when })
    }
}

/// One row as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What identifies it.
    pub key: RowKey,
    /// The bug's number as text; `None` for NULL.
    pub bug: Option<String>,
    /// The change that it describes, or why it describes none.
    pub change: Result<Change, BadRow>,
}

/// Why a row cannot be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadRow {
    /// The bug number, which is not a number from 1 to 2^63 − 1.
    Bug(String),
    /// The date cannot be read, or lies outside 1970 to 2199.
    When(BadWhen),
    /// The date is NULL.
    NoWhen,
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadRow::Bug(bug) => write!(f, "bug number {bug} is not a whole number from 1 to 9223372036854775807"),
            BadRow::When(bad) => write!(f, "date {bad}"),
            BadRow::NoWhen => write!(f, "the date is NULL"),
        }
    }
}

impl std::error::Error for BadRow {}

impl From<BadWhen> for BadRow {
    fn from(bad: BadWhen) -> BadRow {
        BadRow::When(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_text_tells_null_from_text() {
        let key = |when: Option<&str>| RowKey { id: 3, when: when.map(str::to_owned) }.text();
        assert_eq!([key(None), key(Some("")), key(Some("n"))], ["3/n", "3/t", "3/tn"]);
        for when in [None, Some(""), Some("n"), Some("2014-04-03 21:13:45/x")] {
            let key = RowKey { id: -3, when: when.map(str::to_owned) };
            assert_eq!(RowKey::from_text(&key.text()), Some(key));
        }
    }
}
