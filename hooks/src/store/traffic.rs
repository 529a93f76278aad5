//! When a source was last heard of, and how: a bounded look at its newest requests, and at the quarantine.
//!
//! Goes in: a source. Comes out: times, and how many of its requests were refused. That something arrives does not mean that
//! anything is taken, so the two are told apart.

use std::collections::BTreeMap;

use bugfeed_core::hooks::event::State;
use bugfeed_sql::Value;

use super::cells::{Columns, only_number, text_value};
use super::codes::Code as _;
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

/// So many of a source's newest requests show whether its mapping fails for everything.
const NEWEST: usize = 10;
/// Dead letters of a source are counted up to here.
pub const MOST_DEAD: u64 = 10_000;

/// What fails of what a source sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failing {
    /// How many of its newest requests that had items had nothing but errored ones, without a good one in between.
    pub in_a_row: usize,
    /// Requests with errored items since the time that was asked for, as far as the newest ones tell.
    pub lately: u64,
    /// Its dead letters, up to [`MOST_DEAD`].
    pub dead: u64,
}

impl Store {
    /// What fails of what a source sends. `since_us`: from when on a request counts as received lately.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn failing(&self, source: &str, since_us: i64) -> Result<Failing, StoreError> {
        let codes = [RequestState::Error, RequestState::Partly, RequestState::Quarantined].map(RequestState::code);
        let [error, partly, quarantined] = codes.map(Value::Int);
        let of_sender = "source = ? AND path <> ? AND replays IS NULL AND state <> ? AND items > 0";
        let args = [text_value(source), text_value(RECONCILED), quarantined];
        let sql = format!("SELECT state FROM hooks_requests WHERE {of_sender} ORDER BY id DESC LIMIT {NEWEST}");
        let mut in_a_row = 0;
        for row in self.reader.fetch(&sql, &args).await? {
            if Columns::of(row).int()? != RequestState::Error.code() {
                break;
            }
            in_a_row += 1;
        }
        let sql = format!(
            "SELECT COUNT(*) FROM (SELECT state, received_us FROM hooks_requests WHERE {of_sender} ORDER BY id DESC LIMIT \
             {SCAN}) r WHERE (state = ? OR state = ?) AND received_us >= ?"
        );
        let args = [&args[..], &[error, partly, Value::Int(since_us)]].concat();
        let lately = only_number(self.reader.fetch(&sql, &args).await?)?.max(0).unsigned_abs();
        let sql = format!(
            "SELECT COUNT(*) FROM (SELECT 1 AS one FROM hooks_events WHERE shelf = ? AND source = ? LIMIT {MOST_DEAD}) dead"
        );
        let args = [Value::Int(State::Errored.code()), text_value(source)];
        let dead = only_number(self.reader.fetch(&sql, &args).await?)?.max(0).unsigned_abs();
        Ok(Failing { in_a_row, lately, dead })
    }

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
