//! Whole bodies of requests, where they are kept at all: in parts, as Base64, within a bound of bytes.
//!
//! Goes in: a body, in the transaction of its request. Comes out: the body again. When the bound is reached, the oldest
//! bodies go. Age is the business of [`super::retention`].

use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bugfeed_sql::{Tx, Value};

use super::cells::{Columns, Rows, only_number};
use super::{Store, StoreError};
use crate::receive::received::RequestId;

/// The size of a part, in bytes. In Base64 it has 256 KiB, which every database takes in one statement.
const PART: usize = 192 * 1024;

/// Writes a body, and makes room for it if there is none. An empty body is a body.
pub(super) async fn insert(store: &Store, tx: &mut Tx, request: RequestId, body: &[u8]) -> Result<(), StoreError> {
    let size = i64::try_from(body.len()).unwrap_or(i64::MAX);
    let bound = store.shared.bounds.body_bytes;
    if size > bound {
        return Ok(());
    }
    make_room(store, tx, bound - size).await?;
    let parts: Vec<&[u8]> = if body.is_empty() { vec![&[]] } else { body.chunks(PART).collect() };
    for (part, bytes) in (0..).zip(parts) {
        let mut rows = Rows::default();
        let size = i64::try_from(bytes.len()).unwrap_or(0);
        rows.row().text(&request.to_string()).int(part).int(size).text(&STANDARD.encode(bytes));
        tx.execute(&rows.insert("hooks_bodies (request, part, bytes, body)"), &rows.args).await?;
    }
    store.shared.body_bytes.fetch_add(size, Ordering::Relaxed);
    Ok(())
}

/// Removes the oldest bodies until at most so many bytes are left.
pub(super) async fn make_room(store: &Store, tx: &mut Tx, bound: i64) -> Result<u64, StoreError> {
    let mut removed = 0;
    while store.shared.body_bytes.load(Ordering::Relaxed) > bound {
        let oldest = "SELECT request, bytes FROM hooks_bodies ORDER BY request LIMIT 1";
        let Some(row) = tx.fetch(oldest, &[]).await?.pop() else {
            store.shared.body_bytes.store(0, Ordering::Relaxed);
            break;
        };
        let id = Value::Text(Columns::of(row).text()?);
        let sum = "SELECT SUM(bytes) FROM hooks_bodies WHERE request = ?";
        let bytes = only_number(tx.fetch(sum, std::slice::from_ref(&id)).await?)?;
        tx.execute("DELETE FROM hooks_bodies WHERE request = ?", &[id]).await?;
        store.shared.body_bytes.fetch_sub(bytes, Ordering::Relaxed);
        removed += 1;
    }
    Ok(removed)
}

impl Store {
    /// Counts the bytes of all bodies. Other processes write bodies too, and a transaction that was rolled back was
    /// counted.
    pub(super) async fn count_bodies(&self) -> Result<i64, StoreError> {
        let bytes = only_number(self.reader.fetch("SELECT SUM(bytes) FROM hooks_bodies", &[]).await?)?;
        self.shared.body_bytes.store(bytes, Ordering::Relaxed);
        Ok(bytes)
    }

    /// How many bytes of bodies are kept, as far as this process knows.
    pub fn body_bytes(&self) -> i64 {
        self.shared.body_bytes.load(Ordering::Relaxed)
    }

    /// Whether the whole body of a request is kept.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn has_body(&self, request: RequestId) -> Result<bool, StoreError> {
        let sql = "SELECT part FROM hooks_bodies WHERE request = ? LIMIT 1";
        Ok(!self.reader.fetch(sql, &[Value::Text(request.to_string())]).await?.is_empty())
    }

    /// The whole body of a request; `None` if it is not kept. It is shown only with the scope `raw`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn body(&self, request: RequestId) -> Result<Option<Vec<u8>>, StoreError> {
        let sql = "SELECT body FROM hooks_bodies WHERE request = ? ORDER BY part";
        let rows = self.reader.fetch(sql, &[Value::Text(request.to_string())]).await?;
        let mut body = (!rows.is_empty()).then(Vec::new);
        for row in rows {
            let part = STANDARD.decode(Columns::of(row).text()?);
            let part = part.map_err(|_| StoreError::Broken("a body is no Base64"))?;
            body.get_or_insert_default().extend(part);
        }
        Ok(body)
    }
}
