//! The log of attempts: what was sent, and what came of it.
//!
//! Goes in: attempts, with the saves of their endpoints. Comes out: pages, newest first. Bounded by time
//! ([`Keep::attempts_us`](crate::store::retention::Keep::attempts_us)) and by size
//! ([`Bounds::attempt_bytes`](crate::store::Bounds::attempt_bytes)); the oldest go, in small steps.

use std::sync::atomic::Ordering;

use bugfeed_core::hooks::event::{EventId, Trigger};
use bugfeed_protocol::feed_name::LONGEST;
use bugfeed_sql::{Dialect, Tx, Value};

use super::EndpointId;
use crate::store::cells::{Columns, Rows, only_number, text_value};
use crate::store::codes::{Code, event_id};
use crate::store::events::page_size;
use crate::store::{Store, StoreError};

/// The columns. The long texts come last, so that the others are read without them.
const COLUMNS: &str = "id, bytes, endpoint, feed, cause, begun_us, took_us, status, fault, error, webhook_id, counts, \
                       content_type, response, request";
/// So many bytes go into one statement, unless one attempt has more. Every database takes that.
const STATEMENT_BYTES: i64 = 1 << 20;
/// What an attempt takes beside its texts, with its indexes.
const ROW_BYTES: i64 = 300;
/// The most rows that go at a time.
const STEP: usize = 500;

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRow {
    /// Its identifier, a UUID of version 7, which begins with the time.
    pub id: u128,
    /// Whose.
    pub endpoint: EndpointId,
    /// The feed, a name as [`feed_name::check`](bugfeed_protocol::feed_name::check) allows it; none for a test of an
    /// endpoint without feeds.
    pub feed: Option<String>,
    /// Why it was sent.
    pub trigger: Trigger,
    /// When it was sent, in microseconds since 1970.
    pub begun_us: i64,
    /// How long it took, in microseconds.
    pub took_us: i64,
    /// The status; none if there was no response.
    pub status: Option<u16>,
    /// Why there was no response: the word of its class, at most 32 characters.
    pub fault: Option<String>,
    /// The same for people, at most 1,000 characters.
    pub error: Option<String>,
    /// The beginning of the response.
    pub response: String,
    /// The `webhook-id`, at most 200 characters.
    pub webhook_id: String,
    /// Whether it counted for the policy.
    pub counts: bool,
    /// The body that was sent, byte for byte: it is UTF-8.
    pub request: String,
    /// Its type, at most 100 characters.
    pub content_type: String,
}

impl AttemptRow {
    fn bytes(&self) -> i64 {
        let texts = self.request.len() + self.response.len() + self.error.as_ref().map_or(0, String::len);
        i64::try_from(texts).unwrap_or(i64::MAX / 2) + ROW_BYTES
    }
}

/// An identifier as it is stored.
fn id_value(id: u128) -> Value {
    Value::Text(EventId(id).to_string())
}

/// Writes attempts; returns how many bytes they take. One that is there already is passed over.
pub(super) async fn insert<'a>(
    tx: &mut Tx,
    dialect: &dyn Dialect,
    attempts: impl Iterator<Item = &'a AttemptRow>,
) -> Result<i64, StoreError> {
    let (mut rows, mut bytes, mut all) = (Rows::again(dialect), 0, 0);
    for attempt in attempts {
        if bytes + attempt.bytes() > STATEMENT_BYTES && !rows.is_empty() {
            insert_rows(tx, dialect, &rows.take()).await?;
            bytes = 0;
        }
        bytes += attempt.bytes();
        all += attempt.bytes();
        add(&mut rows, attempt);
    }
    insert_rows(tx, dialect, &rows).await?;
    Ok(all)
}

fn add(rows: &mut Rows, attempt: &AttemptRow) {
    let short = |text: &Option<String>, max| text.as_ref().map(|text| text.chars().take(max).collect::<String>());
    let mut row = rows.row();
    row.value(id_value(attempt.id)).int(attempt.bytes()).text(attempt.endpoint.as_str());
    row.maybe_text(short(&attempt.feed, LONGEST).as_deref())
        .int(attempt.trigger.code())
        .int(attempt.begun_us)
        .int(attempt.took_us);
    row.maybe_int(attempt.status.map(i64::from)).maybe_text(short(&attempt.fault, 32).as_deref());
    row.maybe_text(short(&attempt.error, 1000).as_deref()).short(&attempt.webhook_id, 200).flag(attempt.counts);
    row.short(&attempt.content_type, 100).text(&attempt.response).text(&attempt.request);
}

async fn insert_rows(tx: &mut Tx, dialect: &dyn Dialect, rows: &Rows) -> Result<(), StoreError> {
    for piece in rows.pieces().into_iter().filter(|piece| !piece.rows.is_empty()) {
        let into = format!("hooks_attempts ({COLUMNS}) VALUES ({})", piece.rows.join("),("));
        rows.execute(tx, &dialect.insert_or_ignore(&into), piece.args).await?;
    }
    Ok(())
}

fn read(row: Vec<Value>) -> Result<AttemptRow, StoreError> {
    let mut row = Columns::of(row);
    let id = event_id(&row.text()?).ok_or(StoreError::Broken("an attempt has no identifier"))?.0;
    let _ = row.int()?;
    let endpoint = EndpointId::parse(&row.text()?).ok_or(StoreError::Broken("an attempt has no endpoint"))?;
    let feed = row.maybe_text()?;
    let trigger = Trigger::of(row.int()?).ok_or(StoreError::Broken("an attempt has no known trigger"))?;
    let (begun_us, took_us) = (row.int()?, row.int()?);
    let status = row.maybe_int()?.and_then(|status| u16::try_from(status).ok());
    let (fault, error, webhook_id) = (row.maybe_text()?, row.maybe_text()?, row.text()?);
    let (counts, content_type) = (row.flag()?, row.text()?);
    let (response, request) = (row.text()?, row.text()?);
    Ok(AttemptRow {
        id,
        endpoint,
        feed,
        trigger,
        begun_us,
        took_us,
        status,
        fault,
        error,
        response,
        webhook_id,
        counts,
        request,
        content_type,
    })
}

impl Store {
    /// A page of an endpoint's attempts, at most 1,000, newest first, also of one that was deleted. Bodies and responses
    /// are included.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn attempts(
        &self,
        endpoint: &EndpointId,
        after: Option<u128>,
        limit: usize,
    ) -> Result<Vec<AttemptRow>, StoreError> {
        let mut args = vec![text_value(endpoint.as_str())];
        args.extend(after.map(id_value));
        let rest = if after.is_some() { " AND id < ?" } else { "" };
        let end = format!("ORDER BY id DESC LIMIT {}", page_size(limit));
        let sql = format!("SELECT {COLUMNS} FROM hooks_attempts WHERE endpoint = ?{rest} {end}");
        self.reader.fetch(&sql, &args).await?.into_iter().map(read).collect()
    }

    /// An attempt; `None` if there is none (any more).
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn attempt(&self, id: u128) -> Result<Option<AttemptRow>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM hooks_attempts WHERE id = ?");
        self.reader.fetch(&sql, &[id_value(id)]).await?.pop().map(read).transpose()
    }

    /// How many bytes of attempts are kept, as far as this process knows.
    pub fn attempt_bytes(&self) -> i64 {
        self.shared.attempt_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn add_attempt_bytes(&self, bytes: i64) {
        self.shared.attempt_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts the bytes of all attempts. Other processes write and remove attempts, too.
    pub(in crate::store) async fn count_attempts(&self) -> Result<i64, StoreError> {
        let bytes = only_number(self.reader.fetch("SELECT SUM(bytes) FROM hooks_attempts", &[]).await?)?;
        self.shared.attempt_bytes.store(bytes, Ordering::Relaxed);
        Ok(bytes)
    }

    /// Where there are more bytes of attempts than the bound: removes the oldest, step by step, down to seven eighths of it.
    /// [`SaveQueue`](super::SaveQueue) calls it. Returns how many went.
    ///
    /// # Errors
    /// When the database cannot be read or written.
    pub async fn bound_attempts(&self) -> Result<u64, StoreError> {
        let bound = self.shared.bounds.attempt_bytes;
        if self.attempt_bytes() <= bound || self.count_attempts().await? <= bound {
            return Ok(0);
        }
        let mut removed = 0;
        while self.attempt_bytes() > bound / 8 * 7 {
            match self.remove_oldest_attempts().await? {
                0 => break,
                rows => removed += rows,
            }
        }
        Ok(removed)
    }

    /// One step of it.
    pub(in crate::store) async fn remove_oldest_attempts(&self) -> Result<u64, StoreError> {
        let surplus = self.attempt_bytes() - self.shared.bounds.attempt_bytes / 8 * 7;
        if surplus <= 0 {
            return Ok(0);
        }
        let sql = format!("SELECT id, bytes FROM hooks_attempts ORDER BY id LIMIT {STEP}");
        let (mut bytes, mut last) = (0, None);
        for row in self.lanes.fetch(&sql, &[]).await? {
            let mut row = Columns::of(row);
            last = Some(row.text()?);
            bytes += row.int()?;
            if bytes >= surplus {
                break;
            }
        }
        let Some(last) = last else {
            self.shared.attempt_bytes.store(0, Ordering::Relaxed);
            return Ok(0);
        };
        let removed = self.db.execute("DELETE FROM hooks_attempts WHERE id <= ?", &[Value::Text(last)]).await?;
        self.add_attempt_bytes(-bytes);
        Ok(removed)
    }
}
