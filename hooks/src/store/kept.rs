//! Items that are kept for another try, within bounds for each source.
//!
//! Goes in: items of errored events, and of events that were dropped as not mapped. Comes out: the item again. It goes
//! when its event ends (`changes`) or expires ([`super::retention`]).

use std::collections::{BTreeMap, BTreeSet};

use bugfeed_core::hooks::event::EventId;
use bugfeed_sql::{Tx, Value};

use super::cells::{CHUNK, Columns, Rows, text_value};
use super::{Bounds, Store, StoreError};
use crate::receive::mapped::Kept;
use crate::receive::received::ReceivedRequest;

/// How many items, and how many bytes, each source may still keep.
#[derive(Default)]
pub(super) struct Room {
    left: BTreeMap<String, (i64, i64)>,
}

impl Room {
    /// Looks how much the sources of these requests keep; asks nothing if none of them has an item to be kept.
    pub(super) async fn look(tx: &mut Tx, bounds: &Bounds, new: &[&ReceivedRequest]) -> Result<Room, StoreError> {
        let wants = |request: &&&ReceivedRequest| request.items.iter().any(|item| item.kept.is_some());
        let sources: BTreeSet<&str> = new.iter().filter(wants).map(|request| &*request.envelope.source).collect();
        let mut room = Room::default();
        for source in sources {
            let sql = "SELECT COUNT(*), SUM(bytes) FROM hooks_kept WHERE source = ?";
            let row = tx.fetch(sql, &[text_value(source)]).await?.pop().unwrap_or_default();
            let mut row = Columns::of(row);
            let (items, bytes) = (row.maybe_int()?.unwrap_or(0), row.maybe_int()?.unwrap_or(0));
            room.left.insert(source.to_owned(), (bounds.kept_items - items, bounds.kept_bytes - bytes));
        }
        Ok(room)
    }

    /// Takes room for an item of so many bytes, if there is any.
    pub(super) fn take(&mut self, source: &str, bytes: i64) -> bool {
        let Some((items, left)) = self.left.get_mut(source).filter(|(items, left)| *items > 0 && *left >= bytes) else {
            return false;
        };
        (*items, *left) = (*items - 1, *left - bytes);
        true
    }
}

/// How many bytes an item takes.
pub(super) fn size(kept: &Kept) -> i64 {
    let headers: usize = kept.headers.iter().map(|(name, value)| name.len() + value.len() + 6).sum();
    i64::try_from(kept.item.len() + headers).unwrap_or(i64::MAX)
}

/// An item to be kept.
pub(super) struct KeptItem<'a> {
    pub(super) event: EventId,
    pub(super) source: &'a str,
    pub(super) until_us: i64,
    pub(super) kept: &'a Kept,
}

/// The most bytes of items in one statement, unless one alone has more. MariaDB takes statements of at most 16 MiB, in
/// which a byte of an item may be two characters.
const STATEMENT_BYTES: i64 = 1 << 20;

/// Writes items.
pub(super) async fn insert(tx: &mut Tx, items: &[KeptItem<'_>]) -> Result<(), StoreError> {
    let (mut rows, mut bytes) = (Rows::default(), 0);
    for KeptItem { event, source, until_us, kept } in items {
        let size = size(kept);
        if bytes + size > STATEMENT_BYTES || rows.len() >= CHUNK {
            write(tx, std::mem::take(&mut rows)).await?;
            bytes = 0;
        }
        let headers = serde_json::to_string(&kept.headers).unwrap_or_default();
        let mut row = rows.row();
        row.text(&event.to_string()).text(source).int(*until_us).int(size).text(&kept.item).text(&headers);
        bytes += size;
    }
    write(tx, rows).await
}

async fn write(tx: &mut Tx, rows: Rows) -> Result<(), StoreError> {
    if !rows.is_empty() {
        let into = "hooks_kept (event, source, until_us, bytes, item, headers)";
        tx.execute(&rows.insert(into), &rows.args).await?;
    }
    Ok(())
}

impl Store {
    /// The kept item of an event, to be mapped once more; `None` if it is not kept.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn kept(&self, event: EventId) -> Result<Option<Kept>, StoreError> {
        let sql = "SELECT item, headers FROM hooks_kept WHERE event = ?";
        let Some(row) = self.lanes.fetch(sql, &[Value::Text(event.to_string())]).await?.pop() else { return Ok(None) };
        let mut row = Columns::of(row);
        let (item, headers) = (row.text()?, row.text()?);
        Ok(Some(Kept { item, headers: serde_json::from_str(&headers).unwrap_or_default() }))
    }

    /// How many items each source keeps, and how many bytes: for metrics.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn kept_held(&self) -> Result<Vec<(String, u64, u64)>, StoreError> {
        let sql = "SELECT source, COUNT(*), SUM(bytes) FROM hooks_kept GROUP BY source ORDER BY source";
        let read = |row| {
            let mut row = Columns::of(row);
            Ok((row.text()?, row.count()?, row.count()?))
        };
        self.reader.fetch(sql, &[]).await?.into_iter().map(read).collect()
    }
}
