//! When a source was last heard of, and how: a bounded look at its newest requests, and at the quarantine.
//!
//! Goes in: a source. Comes out: times, and how many of its requests were refused. That something arrives does not mean that
//! anything is taken, so the two are told apart.

use std::collections::BTreeMap;

use bugfeed_sql::Value;

use super::cells::{Columns, text_value};
use super::known::RECONCILED;
use super::requests::RequestState;
use super::{Store, StoreError};

/// How many of a source's newest requests are looked at: more than the quarantine keeps of a known source, so that no flood
/// of refused ones hides the last that was taken.
const SCAN: usize = 3000;

/// When a source was last heard of, as far as its newest requests tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// A request came, whatever became of it.
    pub last_us: Option<i64>,
    /// A request was taken: its sender proved who it is.
    pub taken_us: Option<i64>,
    /// A ping or a test was taken: the sender is connected.
    pub connected_us: Option<i64>,
}

/// What the quarantine keeps of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// All of it.
    pub kept: u64,
    /// How much of that was received since the time that was asked for.
    pub lately: u64,
}

impl Refused {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Refused) -> Refused {
        Refused { kept: self.kept + other.kept, lately: self.lately + other.lately }
    }
}

impl Store {
    /// When a source was last heard of. What a reconciler found, or a person received again, was not sent and does not count.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn traffic(&self, source: &str) -> Result<Traffic, StoreError> {
        let sql = format!(
            "SELECT MAX(received_us), MAX(CASE WHEN state <> ? THEN received_us END), MAX(CASE WHEN connected > 0 THEN \
             received_us END) FROM (SELECT received_us, state, connected FROM hooks_requests WHERE source = ? AND path <> ? \
             AND replays IS NULL ORDER BY id DESC LIMIT {SCAN}) r"
        );
        let args = [Value::Int(RequestState::Quarantined.code()), text_value(source), text_value(RECONCILED)];
        let Some(row) = self.reader.fetch(&sql, &args).await?.pop() else { return Ok(Traffic::default()) };
        let mut row = Columns::of(row);
        Ok(Traffic { last_us: row.maybe_int()?, taken_us: row.maybe_int()?, connected_us: row.maybe_int()? })
    }

    /// What the quarantine keeps, by the name of the source to which it was sent; such a name may be a sender's invention.
    /// `since_us`: from when on a request counts as received lately.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn refused(&self, since_us: i64) -> Result<BTreeMap<String, Refused>, StoreError> {
        let sql = "SELECT source, COUNT(*), SUM(CASE WHEN received_us >= ? THEN 1 ELSE 0 END) FROM hooks_quarantine \
                   GROUP BY source";
        let mut refused = BTreeMap::new();
        for row in self.reader.fetch(sql, &[Value::Int(since_us)]).await? {
            let mut row = Columns::of(row);
            refused.insert(row.text()?, Refused { kept: row.count()?, lately: row.count()? });
        }
        Ok(refused)
    }
}
