//! Requests as they came: written with their events, read by people.
//!
//! Goes in: requests that are accepted; filters. Comes out: rows; pages of what was received, newest first. What became
//! of a request's items is in [`super::events`].

use std::net::IpAddr;

use bugfeed_core::hooks::arrival::Mapping;
use bugfeed_sql::{Dialect, Tx, Value};

use super::cells::{CHUNK, Columns, Row, Rows, text_value};
use super::events::{Range, page_size};
use super::known::RECONCILED;
use super::row::needed_id;
use super::{Store, StoreError};
use crate::receive::received::{Envelope, Failure, ReceivedRequest, RequestId};

/// What became of a request as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestState {
    /// Nothing is wrong with it.
    Ok,
    /// Some of its items are errored.
    Partly,
    /// All of its items are errored, or nothing was taken.
    Error,
    /// Nobody vouches for it.
    Quarantined,
}

impl RequestState {
    /// All of them, at the place of their number in the table.
    pub const ALL: [RequestState; 4] =
        [RequestState::Ok, RequestState::Partly, RequestState::Error, RequestState::Quarantined];

    /// The text that the API uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            RequestState::Ok => "ok",
            RequestState::Partly => "partly",
            RequestState::Error => "error",
            RequestState::Quarantined => "quarantined",
        }
    }

    /// Reads that text.
    pub fn parse(text: &str) -> Option<RequestState> {
        RequestState::ALL.into_iter().find(|state| state.as_str() == text)
    }

    pub(super) const fn code(self) -> i64 {
        self as i64
    }

    fn of(request: &ReceivedRequest) -> RequestState {
        // A good item may have a remark there.
        let errored = request.items.iter().filter(|item| item.mapping == Mapping::Failed).count();
        match errored {
            0 if request.failure.is_none() => RequestState::Ok,
            _ if request.failure.is_some() || errored == request.items.len() => RequestState::Error,
            _ => RequestState::Partly,
        }
    }
}

/// A request, as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRequest {
    /// What is known of it; the body is not read ([`Store::body`]).
    pub envelope: Envelope,
    /// What became of it.
    pub state: RequestState,
    /// How many events it has.
    pub items: u32,
    /// How many of its items were pings or tests.
    pub connected: u32,
    /// How many of its items were no change of a bug.
    pub ignored: u32,
    /// The request that a person received again.
    pub replays: Option<RequestId>,
    /// The version of the program that received it.
    pub program: String,
}

/// Which requests are wanted. All that is said must fit.
#[derive(Clone, Debug, Default)]
pub struct RequestFilter {
    /// Of this source.
    pub source: Option<String>,
    /// In this state.
    pub state: Option<RequestState>,
    /// With this key.
    pub key_id: Option<String>,
    /// Received in this time.
    pub range: Range,
}

/// The columns, in the order of `read`.
const COLUMNS: &str = "id, source, received_us, address, key_id, path, headers, size, body_hash, status, items, \
                       connected, ignored, state, replays, program";
/// How many rows of an index are looked at for one page.
const SCAN: usize = 5000;

/// Writes requests that are accepted.
pub(super) async fn insert(tx: &mut Tx, dialect: &dyn Dialect, new: &[&ReceivedRequest]) -> Result<(), StoreError> {
    for chunk in new.chunks(CHUNK) {
        let mut rows = Rows::again(dialect);
        for request in chunk {
            let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
            let connected = request.answered.iter().filter(|item| item.is_connected).count();
            let ignored = request.answered.len() - connected;
            let mut row = rows.row();
            write_envelope(&mut row, &request.envelope);
            row.int(count(request.items.len())).int(count(connected)).int(count(ignored));
            let state = RequestState::of(request);
            row.int(state.code()).maybe_text(request.replays.map(|id| id.to_string()).as_deref());
            row.text(env!("CARGO_PKG_VERSION")).maybe_int((state != RequestState::Ok).then(|| state.code()));
        }
        rows.insert_into(tx, &format!("hooks_requests ({COLUMNS}, shelf)")).await?;
    }
    Ok(())
}

/// Writes a request that goes to the quarantine.
pub(super) async fn insert_quarantined(tx: &mut Tx, envelope: &Envelope) -> Result<(), StoreError> {
    let mut rows = Rows::default();
    let mut row = rows.row();
    write_envelope(&mut row, envelope);
    let state = RequestState::Quarantined.code();
    row.int(0).int(0).int(0).int(state).maybe_text(None).text(env!("CARGO_PKG_VERSION")).int(state);
    tx.execute(&rows.insert(&format!("hooks_requests ({COLUMNS}, shelf)")), &rows.args).await?;
    Ok(())
}

fn write_envelope(row: &mut Row<'_>, envelope: &Envelope) {
    let headers = serde_json::to_string(&envelope.headers).unwrap_or_default();
    row.text(&envelope.id.to_string()).short(&envelope.source, 64).int(envelope.received_us);
    row.text(&envelope.address.to_string()).maybe_text(envelope.key_id.as_deref()).short(&envelope.path, 300);
    row.text(&headers).int(i64::try_from(envelope.size).unwrap_or(i64::MAX));
    row.maybe_text(envelope.body_hash.map(|hash| hash.to_string()).as_deref()).int(envelope.status.into());
}

fn read(row: Vec<Value>) -> Result<StoredRequest, StoreError> {
    let mut row = Columns::of(row);
    let envelope = Envelope {
        id: RequestId(needed_id(&mut row)?.0),
        source: row.text()?,
        received_us: row.int()?,
        address: row.text()?.parse::<IpAddr>().map_err(|_| StoreError::Broken("an address is none"))?,
        key_id: row.maybe_text()?,
        path: row.text()?,
        headers: serde_json::from_str(&row.text()?).unwrap_or_default(),
        size: row.count()?,
        body_hash: row.maybe_text()?.as_deref().and_then(crate::receive::identity::Sha256::parse),
        body: None,
        status: u16::try_from(row.int()?).unwrap_or(0),
    };
    let (items, connected, ignored) = (row.number32()?, row.number32()?, row.number32()?);
    let state = usize::try_from(row.int()?).ok().and_then(|code| RequestState::ALL.get(code)).copied();
    Ok(StoredRequest {
        envelope,
        state: state.ok_or(StoreError::Broken("a request has a state that this program does not know"))?,
        items,
        connected,
        ignored,
        replays: row.maybe_text()?.as_deref().and_then(RequestId::parse),
        program: row.text()?,
    })
}

/// A page, newest first, and where the next one begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestPage {
    /// The requests.
    pub requests: Vec<StoredRequest>,
    /// What to give as `after` for what follows; `None` at the end. A page may be short and still not be the last one.
    pub next: Option<RequestId>,
}

impl Store {
    /// A page of requests, at most 1,000, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn requests(
        &self,
        filter: &RequestFilter,
        after: Option<RequestId>,
        limit: usize,
    ) -> Result<RequestPage, StoreError> {
        let limit = page_size(limit);
        let (mut by, mut args) = (Vec::new(), Vec::new());
        // The index decides which rows are looked at, and the rest is filtered.
        let is_shelved = filter.state.filter(|state| *state != RequestState::Ok);
        if let Some(state) = is_shelved {
            by.push("shelf = ?");
            args.push(Value::Int(state.code()));
        } else if let Some(source) = &filter.source {
            by.push("source = ?");
            args.push(text_value(source));
        }
        filter.range.conditions(&mut by, &mut args);
        if let Some(after) = after {
            by.push("id < ?");
            args.push(Value::Text(after.to_string()));
        }
        let by = if by.is_empty() { String::new() } else { format!(" WHERE {}", by.join(" AND ")) };
        let mut rest = vec!["1 = 1"];
        if let Some(source) = filter.source.as_ref().filter(|_| is_shelved.is_some()) {
            rest.push("source = ?");
            args.push(text_value(source));
        }
        if filter.state == Some(RequestState::Ok) {
            rest.push("shelf IS NULL");
        }
        if let Some(key_id) = &filter.key_id {
            rest.push("key_id = ?");
            args.push(text_value(key_id));
        }
        let is_filtered = rest.len() > 1;
        let scan = if is_filtered { SCAN } else { limit };
        let sql = format!(
            "SELECT {COLUMNS} FROM (SELECT {COLUMNS}, shelf FROM hooks_requests{by} ORDER BY id DESC LIMIT {scan}) r \
             WHERE {} ORDER BY id DESC LIMIT {limit}",
            rest.join(" AND ")
        );
        let rows = self.reader.fetch(&sql, &args).await?;
        let requests: Vec<StoredRequest> = rows.into_iter().map(read).collect::<Result<_, _>>()?;
        let mut next = (requests.len() == limit).then(|| requests.last().map(|last| last.envelope.id)).flatten();
        if next.is_none() && is_filtered {
            let bound = args.len() - rest.iter().filter(|one| one.contains('?')).count();
            next = self.end_of_scan("hooks_requests", &by, &args[..bound], scan).await?;
        }
        Ok(RequestPage { requests, next })
    }

    /// The identifier at which a bounded look at an index stopped; `None` if it came to the end.
    pub(super) async fn end_of_scan(
        &self,
        table: &str,
        by: &str,
        args: &[Value],
        scan: usize,
    ) -> Result<Option<RequestId>, StoreError> {
        let sql = format!("SELECT id FROM {table}{by} ORDER BY id DESC LIMIT 1 OFFSET {}", scan - 1);
        let row = self.reader.fetch(&sql, args).await?.pop();
        row.map(|row| Ok(RequestId(needed_id(&mut Columns::of(row))?.0))).transpose()
    }

    /// A request; `None` if there is none of this identifier.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn request(&self, id: RequestId) -> Result<Option<StoredRequest>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM hooks_requests WHERE id = ?");
        self.reader.fetch(&sql, &[Value::Text(id.to_string())]).await?.pop().map(read).transpose()
    }

    /// When a source's sender last sent something; `None`: never, as far as requests are kept. What a reconciler found or
    /// a person received again was not sent, and must not hide that the sender is silent.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn last_request(&self, source: &str) -> Result<Option<i64>, StoreError> {
        let sql = "SELECT received_us FROM hooks_requests WHERE source = ? AND path <> ? AND replays IS NULL ORDER BY \
                   id DESC LIMIT 1";
        let row = self.reader.fetch(sql, &[text_value(source), text_value(RECONCILED)]).await?.pop();
        row.map(|row| Columns::of(row).int()).transpose()
    }

    /// The same of what was taken: a sender whose key or signature is refused is as silent as one that sends nothing.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn last_taken(&self, source: &str) -> Result<Option<i64>, StoreError> {
        let sql = "SELECT received_us FROM hooks_requests WHERE source = ? AND path <> ? AND replays IS NULL AND state <> ? \
                   ORDER BY id DESC LIMIT 1";
        let args = [text_value(source), text_value(RECONCILED), Value::Int(RequestState::Quarantined.code())];
        let row = self.reader.fetch(sql, &args).await?.pop();
        row.map(|row| Columns::of(row).int()).transpose()
    }
}

/// Why an errored event, or a request in quarantine, is there.
pub(super) fn failure(row: &mut Columns) -> Result<Failure, StoreError> {
    Ok(Failure { error: row.text()?, fix: row.text()? })
}
