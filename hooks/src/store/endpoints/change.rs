//! What people change: each change with its line in the audit log, in one transaction.
//!
//! A change takes the counter's row first, and holds it until the commit. So changes come one after the other, and whoever
//! has read a number of the counter also finds the rows of all numbers up to it.

use bugfeed_core::endpoints::question::Watch;
use bugfeed_core::endpoints::row::Row;
use bugfeed_sql::{Tx, Value};

use super::columns::{self, COLUMNS, FIXED, cells, settings_cells, signed};
use super::read::{COUNTER, select};
use super::{EndpointId, MAX_BUGS, MAX_ENDPOINTS, Settings, Stored};
use crate::store::audit::{self, Deed};
use crate::store::cells::{marks, only_number, text_value};
use crate::store::{Store, StoreError};

/// How often a change is tried before others that are always quicker.
const TRIES: u32 = 16;

/// Why an endpoint was not made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CreateError {
    /// There are too many.
    #[error("there are {MAX_ENDPOINTS} endpoints already; delete those that are not used")]
    TooMany,
    /// It names too many bugs.
    #[error("an endpoint may name {MAX_BUGS} bugs; watch all of them, or make several endpoints")]
    TooManyBugs,
    /// The store failed. It is not known whether the endpoint was made.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an endpoint was not changed.
#[derive(Clone, Debug)]
pub enum ChangeError<E> {
    /// There is none, or it was deleted.
    Missing,
    /// The change refused.
    Refused(E),
    /// It would name more than [`MAX_BUGS`] bugs.
    TooManyBugs,
    /// The store failed. If a commit failed, it is not known whether the change was made.
    Store(StoreError),
}

impl<E> From<StoreError> for ChangeError<E> {
    fn from(error: StoreError) -> ChangeError<E> {
        ChangeError::Store(error)
    }
}

fn names_too_many(row: &Row) -> bool {
    matches!(&row.watch, Watch::Bugs(bugs) if bugs.len() > MAX_BUGS)
}

/// Counts the counter up; returns what it says then.
async fn count_up(tx: &mut Tx) -> Result<u64, StoreError> {
    tx.execute("UPDATE hooks_counters SET value = value + 1 WHERE name = 'endpoints'", &[]).await?;
    match only_number(tx.fetch(COUNTER, &[]).await?)? {
        0 => Err(StoreError::Broken("the counter of the endpoints is missing")),
        mark => Ok(mark.unsigned_abs()),
    }
}

impl Store {
    /// Makes an endpoint.
    ///
    /// # Errors
    /// If there are too many, or the database cannot be written.
    pub async fn create_endpoint(
        &self,
        id: &EndpointId,
        settings: &Settings,
        row: &Row,
        deed: Option<&Deed>,
    ) -> Result<Stored, CreateError> {
        self.create_below(MAX_ENDPOINTS, id, settings, row, deed).await
    }

    /// The same with another bound.
    pub(in crate::store) async fn create_below(
        &self,
        bound: u64,
        id: &EndpointId,
        settings: &Settings,
        row: &Row,
        deed: Option<&Deed>,
    ) -> Result<Stored, CreateError> {
        if names_too_many(row) {
            return Err(CreateError::TooManyBugs);
        }
        let mut tx = self.db.begin().await.map_err(StoreError::from)?;
        let mark = count_up(&mut tx).await?;
        let count = tx.fetch("SELECT COUNT(*) FROM hooks_endpoints", &[]).await.map_err(StoreError::from)?;
        if only_number(count)?.unsigned_abs() >= bound {
            return Err(CreateError::TooMany);
        }
        let sql = format!("INSERT INTO hooks_endpoints ({}) VALUES ({})", COLUMNS.join(", "), marks(COLUMNS.len()));
        tx.execute(&sql, &cells(id, settings, row, mark)).await.map_err(StoreError::from)?;
        if let Some(deed) = deed {
            audit::insert(&mut tx, deed).await?;
        }
        tx.commit().await.map_err(StoreError::from)?;
        Ok(Stored { id: id.clone(), settings: settings.clone(), row: row.clone(), mark })
    }

    /// Reads an endpoint, changes it and writes it, again if somebody else was quicker. So `change` may be called several
    /// times; the last call counts. It need not count the version up, and may (as
    /// [`carry_out`](bugfeed_core::endpoints::orders::carry_out) does). Where nothing else changed, nothing is written, and no
    /// deed. Returns the endpoint as it is now, and what the change said.
    ///
    /// # Errors
    /// If there is none, the change refuses, or the database cannot be read or written.
    pub async fn change_endpoint<T, E>(
        &self,
        id: &EndpointId,
        deed: Option<&Deed>,
        mut change: impl FnMut(&mut Settings, &mut Row) -> Result<T, E> + Send,
    ) -> Result<(Stored, T), ChangeError<E>> {
        for _ in 0..TRIES {
            let sql = format!("{} WHERE id = ? AND deleted = 0", select());
            let found = self.lanes.fetch(&sql, &[text_value(id.as_str())]).await.map_err(StoreError::from)?.pop();
            let before = columns::read(found.ok_or(ChangeError::Missing)?)?;
            let mut after = before.clone();
            let said = change(&mut after.settings, &mut after.row).map_err(ChangeError::Refused)?;
            after.row.version = before.row.version;
            after.settings.created_us = before.settings.created_us;
            if after.row == before.row && settings_cells(&after.settings) == settings_cells(&before.settings) {
                return Ok((before, said));
            }
            if names_too_many(&after.row) {
                return Err(ChangeError::TooManyBugs);
            }
            after.row.version += 1;
            match self.write_change(&mut after, deed).await {
                Ok(true) => return Ok((after, said)),
                Ok(false) => {}
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Contended.into())
    }

    /// Writes what people changed, where the version is one less; returns whether it was.
    async fn write_change(&self, after: &mut Stored, deed: Option<&Deed>) -> Result<bool, StoreError> {
        let mut tx = self.db.begin().await?;
        after.mark = count_up(&mut tx).await?;
        let set: Vec<String> = COLUMNS[FIXED..].iter().map(|column| format!("{column} = ?")).collect();
        let sql = format!("UPDATE hooks_endpoints SET {} WHERE id = ? AND version = ?", set.join(", "));
        let mut args = cells(&after.id, &after.settings, &after.row, after.mark);
        args.drain(..FIXED);
        args.extend([text_value(after.id.as_str()), Value::Int(signed(after.row.version - 1))]);
        if tx.execute(&sql, &args).await? != 1 {
            return Ok(false);
        }
        if let Some(deed) = deed {
            audit::insert(&mut tx, deed).await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Removes the rows of deleted endpoints, once they are served no more. Their attempts stay until their time is over.
    /// Endpoints that were not deleted stay. Returns how many went.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn remove_endpoints(&self, ids: &[EndpointId]) -> Result<u64, StoreError> {
        let mut removed = 0;
        for chunk in ids.chunks(500) {
            let args: Vec<Value> = chunk.iter().map(|id| text_value(id.as_str())).collect();
            let sql = format!("DELETE FROM hooks_endpoints WHERE id IN ({}) AND deleted = 1", marks(args.len()));
            removed += self.db.execute(&sql, &args).await?;
        }
        Ok(removed)
    }
}
