//! What planners change: many rows in one transaction.
//!
//! Goes in: rows, each with the term under which it is served, and attempts. Comes out: what became of each row. A row is
//! written where its version is one less and the lease of its partition has this term. Attempts are written in any case; one
//! that is there already is passed over, so that a save may be repeated whose outcome is not known.
//!
//! The leases are locked against a takeover until the commit, where the database has several writers. So no row is written
//! under a term after another process has taken the lease.

use std::collections::{BTreeMap, BTreeSet};

use bugfeed_core::endpoints::row::Row;
use bugfeed_sql::{CellKind, Tx};

use super::columns::{COLUMNS, MOVED, MOVED_KINDS, moved};
use super::{AttemptRow, EndpointId, attempts, leases};
use crate::store::cells::Rows;
use crate::store::{Store, StoreError};

/// The most rows of one transaction.
pub const MOST: usize = 500;
/// How often a transaction is tried that others were in the way of.
const TRIES: u32 = 4;

/// One row to be written.
#[derive(Clone, Debug)]
pub struct Save {
    /// Whose.
    pub id: EndpointId,
    /// The row, with the version that it is to have. `None`: attempts only.
    pub row: Option<Row>,
    /// The partition.
    pub partition: u16,
    /// The term of the partition's lease.
    pub term: u64,
    /// What was tried.
    pub attempts: Vec<AttemptRow>,
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saved {
    /// The store has it.
    Stored,
    /// Somebody else has changed it, and it is this now; `None`: it is gone.
    Conflict(Option<Box<Row>>),
    /// The lease is another's.
    Lost,
}

/// What a transaction did.
struct Written {
    /// The term of each lease.
    terms: BTreeMap<u16, u64>,
    /// All rows were written that could be.
    is_complete: bool,
}

impl Store {
    /// Writes rows of different endpoints, at most [`MOST`], in one transaction. Answers in their order. What is written
    /// survives the end of this process; where that is quicker, it is not yet on the disk of the database.
    ///
    /// # Errors
    /// When the database cannot be written. It is then not known which rows were written; they may be saved again as they
    /// are.
    pub async fn save_endpoints(&self, saves: &[Save]) -> Result<Vec<Saved>, StoreError> {
        for _ in 0..TRIES {
            match self.write_saves(saves).await {
                Ok(written) => return self.saved(saves, &written).await,
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Contended)
    }

    async fn write_saves(&self, saves: &[Save]) -> Result<Written, StoreError> {
        let mut tx = self.db.begin().await?;
        if let Some(sql) = self.db.dialect().commit_without_waiting() {
            tx.execute(sql, &[]).await?;
        }
        let partitions: BTreeSet<u16> =
            saves.iter().filter(|save| save.row.is_some()).map(|save| save.partition).collect();
        let terms = leases::terms(&mut tx, self.db.dialect(), &partitions).await?;
        let is_complete = self.write_rows(&mut tx, saves, &terms).await?;
        let bytes = attempts::insert(&mut tx, self.db.dialect(), saves.iter().flat_map(|save| &save.attempts)).await?;
        tx.commit().await?;
        self.add_attempt_bytes(bytes);
        Ok(Written { terms, is_complete })
    }

    /// Writes the rows whose lease has their term; returns whether each was written.
    async fn write_rows(&self, tx: &mut Tx, saves: &[Save], terms: &BTreeMap<u16, u64>) -> Result<bool, StoreError> {
        let dialect = self.db.dialect();
        let mut rows = Rows::again(dialect);
        for save in saves.iter().filter(|save| terms.get(&save.partition) == Some(&save.term)) {
            if let Some(row) = &save.row {
                rows.row().text(save.id.as_str()).values(moved(row));
            }
        }
        let mut kinds = vec![CellKind::Text];
        kinds.extend(MOVED_KINDS);
        let set: Vec<(&str, String)> =
            COLUMNS[MOVED].iter().zip(2..).map(|(column, place)| (*column, format!("v.column{place}"))).collect();
        let mut written = 0;
        for piece in rows.pieces().into_iter().filter(|piece| !piece.rows.is_empty()) {
            let values = dialect.rows_as_table(&kinds, piece.rows);
            let on = "e.id = v.column1 AND e.version = v.column2 - 1";
            let sql = dialect.update_from("hooks_endpoints", &values, on, &set);
            written += rows.execute(tx, &sql, piece.args).await?;
        }
        Ok(written == rows.len() as u64)
    }

    /// What became of each. Where not all rows were written, they are read again: a row that includes the effects of this
    /// save was written, now or by a save whose outcome was not known.
    async fn saved(&self, saves: &[Save], written: &Written) -> Result<Vec<Saved>, StoreError> {
        let holds = |save: &Save| save.row.is_none() || written.terms.get(&save.partition) == Some(&save.term);
        let mut rows: BTreeMap<EndpointId, Row> = BTreeMap::new();
        if !written.is_complete {
            let ids: Vec<EndpointId> =
                saves.iter().filter(|save| save.row.is_some() && holds(save)).map(|save| save.id.clone()).collect();
            rows.extend(self.endpoint_rows(&ids).await?);
        }
        let became = |save: &Save| match &save.row {
            _ if !holds(save) => Saved::Lost,
            Some(row) if !written.is_complete => match rows.get(&save.id) {
                Some(now) if (now.version, now.applied) == (row.version, row.applied) => Saved::Stored,
                now => Saved::Conflict(now.cloned().map(Box::new)),
            },
            _ => Saved::Stored,
        };
        Ok(saves.iter().map(became).collect())
    }
}
