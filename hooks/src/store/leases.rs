//! Leases: work that only one of several processes does, for example reconciling a source.
//!
//! Goes in: a name. Comes out: a lease, once it is this process's turn. The holder counts a number up; whoever saw it
//! stand still for 6 s by his own monotonic clock takes over. No wall clock is compared. The term counts the holders:
//! it is the fencing token of what is done under the lease.

use std::time::{Duration, Instant};

use bugfeed_sql::Value;

use super::cells::{Columns, text_value};
use super::{Store, StoreError, lock};

/// How often a holder shows that it lives.
pub const BEAT: Duration = Duration::from_secs(2);
/// How long the beat must stand still before another one takes over.
pub const SILENCE: Duration = Duration::from_secs(6);

/// The right to do the work of this name. Dropping it does not release it: others then wait for [`SILENCE`].
#[derive(Debug)]
pub struct Lease {
    store: Store,
    name: String,
    term: i64,
}

/// What a process that waits has seen of the holder.
#[derive(Debug, Default)]
pub struct Watch {
    seen: Option<((i64, i64), Instant)>,
}

impl Watch {
    /// Whether to try to take over, given what the row says at this moment.
    fn may_take(&mut self, now: Instant, is_held: bool, term: i64, beat: i64) -> bool {
        if !is_held {
            return true;
        }
        match self.seen {
            Some((same, since)) if same == (term, beat) => now.duration_since(since) >= SILENCE,
            _ => {
                self.seen = Some(((term, beat), now));
                false
            }
        }
    }
}

impl Store {
    /// Tries to take a lease; to be called again and again with the same watch, for example every 300 ms.
    ///
    /// # Errors
    /// When the database cannot be read or written.
    pub async fn try_lease(&self, name: &str, watch: &mut Watch) -> Result<Option<Lease>, StoreError> {
        let sql = "SELECT term, beat, holder FROM hooks_leases WHERE name = ?";
        let Some(row) = self.db.fetch(sql, &[text_value(name)]).await?.pop() else {
            let into = "hooks_leases (name, term, beat, holder) VALUES (?, 0, 0, NULL)";
            self.db.execute(&self.db.dialect().insert_or_ignore(into), &[text_value(name)]).await?;
            return Ok(None);
        };
        let mut row = Columns::of(row);
        let (term, beat, holder) = (row.int()?, row.int()?, row.maybe_text()?);
        if !watch.may_take(Instant::now(), holder.is_some(), term, beat) {
            return Ok(None);
        }
        let sql = "UPDATE hooks_leases SET term = term + 1, beat = beat + 1, holder = ? WHERE name = ? AND term = ? \
                   AND beat = ?";
        let args = [Value::Text(lock::holder()), text_value(name), Value::Int(term), Value::Int(beat)];
        let taken = self.db.execute(sql, &args).await? == 1;
        Ok(taken.then(|| Lease { store: self.clone(), name: name.to_owned(), term: term + 1 }))
    }
}

impl Lease {
    /// The fencing token: higher than that of all holders before.
    pub fn term(&self) -> i64 {
        self.term
    }

    /// Shows that this holder lives; returns whether it still holds the lease. Call it every [`BEAT`].
    ///
    /// # Errors
    /// When the database cannot be written. Whether the lease is held is then unknown: stop working under it in time.
    pub async fn beat(&self) -> Result<bool, StoreError> {
        let sql = "UPDATE hooks_leases SET beat = beat + 1 WHERE name = ? AND term = ?";
        Ok(self.store.db.execute(sql, &[text_value(&self.name), Value::Int(self.term)]).await? == 1)
    }

    /// Lets the next one in at once.
    ///
    /// # Errors
    /// When the database cannot be written; the next one then waits a few seconds.
    pub async fn release(self) -> Result<(), StoreError> {
        let sql = "UPDATE hooks_leases SET holder = NULL WHERE name = ? AND term = ?";
        self.store.db.execute(sql, &[text_value(&self.name), Value::Int(self.term)]).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_over_from_one_who_lives() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut watch = Watch::default();
        assert!(watch.may_take(at(0), false, 0, 0), "free");
        assert!(!watch.may_take(at(0), true, 1, 1));
        assert!(!watch.may_take(at(5), true, 1, 2), "it has beaten");
        assert!(!watch.may_take(at(10), true, 1, 2));
        assert!(watch.may_take(at(11), true, 1, 2), "six seconds of silence");
        assert!(!watch.may_take(at(12), true, 2, 3), "somebody else has taken it");
    }
}
