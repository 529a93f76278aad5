//! An event as a row of its table.
//!
//! Goes in: an event of the core, or the columns of a row. Comes out: the other one. [`super::schema::EVENT`] has the
//! order of the columns.

use std::sync::Arc;
use std::time::Duration;

use bugfeed_core::hooks::event::{Delivery, Event, EventId, Progress, State, WhenOrigin};
use bugfeed_core::hooks::lane::LaneKey;
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_protocol::{BugId, Epoch, When};
use bugfeed_runtime::throttle::Throttle;
use bugfeed_sql::Value;

use super::StoreError;
use super::cells::{Columns, Rows};
use super::codes::{self, Code};
use super::schema::EVENT;
use crate::receive::received::RequestId;

/// An event with what only the store knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// The event.
    pub event: Event,
    /// The index of the item in its request.
    pub item: u32,
    /// The time of arrival was taken because the tracker's time was too far ahead: one of the clocks is wrong.
    pub has_wrong_clock: bool,
    /// The id of its row in the change table, once it is completed.
    pub row: Option<i64>,
    /// Its number on the bus, once it is known.
    pub cursor: Option<(Epoch, u64)>,
}

impl StoredEvent {
    /// The request that it came with.
    pub fn request(&self) -> RequestId {
        codes::request_of(self.event.id, self.item)
    }
}

/// What only an arriving event's item knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) item: u32,
    pub(super) has_wrong_clock: bool,
    pub(super) dedup: Option<i64>,
    pub(super) generation: u32,
}

/// The columns that follow from an event's state.
pub(super) struct Derived {
    /// Whether `open_lane` is the lane.
    pub(super) is_open: bool,
    /// Whether `busy` is the lane.
    pub(super) is_busy: bool,
    pub(super) paced: bool,
    pub(super) shelf: Option<i64>,
}

impl Derived {
    pub(super) fn of(progress: &Progress) -> Derived {
        let state = progress.state;
        Derived {
            is_open: matches!(state, State::Queued | State::Errored) && progress.blocked_by.is_none(),
            is_busy: state == State::Processing,
            paced: progress.is_paced(),
            shelf: (state != State::Completed).then(|| state.code()),
        }
    }
}

/// The columns that [`write`] writes.
pub(super) fn all_columns() -> String {
    EVENT.join(", ")
}

/// The columns that are read, each with this prefix.
pub(super) fn columns(prefix: &str) -> String {
    first_columns(prefix, "seq")
}

/// The same, and what [`key_of`] needs.
pub(super) fn key_columns() -> String {
    first_columns("", "generation")
}

/// The first columns of the table, up to this one. Each column that is read costs time.
fn first_columns(prefix: &str, last: &str) -> String {
    let end = EVENT.iter().position(|column| *column == last).map_or(EVENT.len(), |at| at + 1);
    EVENT[..end].iter().map(|column| format!("{prefix}{column}")).collect::<Vec<_>>().join(", ")
}

/// Adds a new event.
pub(super) fn write(rows: &mut Rows, event: &Event, arrival: &Arrival) {
    let progress = &event.progress;
    let lane = codes::lane(&LaneKey::of(event));
    let derived = Derived::of(progress);
    let origin = match (event.origin, arrival.has_wrong_clock) {
        (WhenOrigin::Tracker, _) => 0,
        (WhenOrigin::Arrival, false) => 1,
        (WhenOrigin::Arrival, true) => 2,
    };
    let id = |id: &EventId| id.to_string();
    let mut row = rows.row();
    row.text(&id(&event.id)).int(arrival.item.into()).text(&event.source).text(&event.feed);
    row.maybe_int(event.bug.map(bug_number)).int(event.when.as_micros()).int(origin).int(event.received_us);
    row.short(&event.kind, 200).maybe_text(event.delivery.as_ref().map(|delivery| &*delivery.id));
    row.maybe_int(event.delivery.as_ref().map(|delivery| delivery.item.into()));
    row.text(&codes::hash_text(&event.hash)).flag(event.private).flag(event.retryable).int(event.expires_us);
    row.maybe_text(event.repeat_of.as_ref().map(id).as_deref());
    row.int(progress.state.code()).int(progress.version.into());
    row.maybe_int(progress.class.map(Code::code)).maybe_int(progress.drop.map(Code::code));
    row.int(progress.attempts.into()).int(progress.step.into()).int(progress.leases_lost.into());
    row.int(progress.trigger.code()).maybe_int(progress.due_us);
    row.maybe_text(progress.blocked_by.as_ref().map(id).as_deref()).flag(progress.released);
    row.maybe_int(progress.unseen_us).maybe_int(progress.drained_us);
    row.maybe_int(progress.began_us).maybe_int(progress.ended_us);
    row.maybe_int(None).maybe_text(None).maybe_int(None);
    row.maybe_int(arrival.dedup).int(arrival.generation.into()).int(lane);
    row.maybe_int(derived.is_open.then_some(lane)).maybe_int(derived.is_busy.then_some(lane));
    row.flag(derived.paced).maybe_int(derived.shelf);
}

/// The number of a bug as a column.
pub(super) fn bug_number(bug: BugId) -> i64 {
    bug.get().cast_signed()
}

/// Reads [`columns`].
fn read(row: Vec<Value>) -> Result<StoredEvent, StoreError> {
    let mut row = Columns::of(row);
    let id = needed_id(&mut row)?;
    let item = row.number32()?;
    let (source, feed) = (Arc::from(row.text()?), Arc::from(row.text()?));
    let bug = row.maybe_int()?.and_then(|bug| BugId::new(bug.unsigned_abs()));
    let when = When::from_micros(row.int()?).ok_or(StoreError::Broken("an event has no date"))?;
    let origin = row.int()?;
    let (received_us, kind) = (row.int()?, Arc::from(row.text()?));
    let (delivery, delivery_item) = (row.maybe_text()?, row.maybe_int()?);
    let delivery = delivery.map(|id| Delivery {
        id: Arc::from(id),
        item: delivery_item.and_then(|item| u32::try_from(item).ok()).unwrap_or(0),
    });
    let hash = codes::hash_of(&row.text()?).ok_or(StoreError::Broken("an event has no hash"))?;
    let (private, retryable, expires_us) = (row.flag()?, row.flag()?, row.int()?);
    let repeat_of = maybe_id(&mut row)?;
    let progress = read_progress(&mut row)?;
    let (row_id, epoch, seq) = (row.maybe_int()?, row.maybe_text()?, row.maybe_int()?);
    let origin_word = if origin == 0 { WhenOrigin::Tracker } else { WhenOrigin::Arrival };
    let event = Event {
        id,
        source,
        feed,
        bug,
        when,
        origin: origin_word,
        received_us,
        kind,
        delivery,
        hash,
        private,
        retryable,
        expires_us,
        repeat_of,
        progress,
    };
    let cursor = epoch.as_deref().and_then(Epoch::parse).zip(seq.map(i64::unsigned_abs));
    Ok(StoredEvent { event, item, has_wrong_clock: origin == 2, row: row_id, cursor })
}

/// Reads rows of all columns.
pub(super) fn read_all(rows: Vec<Vec<Value>>) -> Result<Vec<StoredEvent>, StoreError> {
    rows.into_iter().map(read).collect()
}

/// Reads rows of all columns. Those that cannot be read are passed over, and people are told: one damaged row holds up its
/// own event, and nothing else.
pub(super) fn readable(rows: Vec<Vec<Value>>) -> Vec<StoredEvent> {
    rows.into_iter().filter_map(readable_row).collect()
}

/// The same, without what only the store knows.
pub(super) fn readable_events(rows: Vec<Vec<Value>>) -> Vec<Event> {
    rows.into_iter().filter_map(readable_row).map(|stored| stored.event).collect()
}

/// Reads a row, or tells people that it cannot be read.
pub(super) fn readable_row(row: Vec<Value>) -> Option<StoredEvent> {
    static TOLD: Throttle = Throttle::new(5, Duration::from_secs(60));
    read_or_tell(row, read, &TOLD, |id, error| {
        tracing::error!(event_id = id, %error, event = %LogEvent::HookUnreadable, "a row of the events cannot be read; its event waits, the others go on");
    })
}

/// Reads a row whose first column is its identifier. One that cannot be read is passed over, so that a damaged row holds up
/// nothing but itself, and people are told of it as often as the throttle lets them.
pub(super) fn read_or_tell<T>(
    row: Vec<Value>,
    read: impl FnOnce(Vec<Value>) -> Result<T, StoreError>,
    told: &Throttle,
    tell: impl FnOnce(String, StoreError),
) -> Option<T> {
    let id = row.first().cloned();
    let error = match read(row) {
        Ok(found) => return Some(found),
        Err(error) => error,
    };
    if !told.is_quiet() {
        tell(id.and_then(Value::into_text).unwrap_or_default(), error);
    }
    None
}

/// The number of the dedup key and the generation of a row that cannot be read otherwise.
pub(super) fn key_of(row: &[Value]) -> Option<(i64, u32)> {
    let int = |name| EVENT.iter().position(|column| *column == name).and_then(|at| row.get(at)).and_then(Value::int);
    Some((int("dedup")?, int("generation").and_then(|generation| u32::try_from(generation).ok())?))
}

fn read_progress(row: &mut Columns) -> Result<Progress, StoreError> {
    let unknown = StoreError::Broken("an event has a code that this program does not know");
    let state = State::of(row.int()?).ok_or_else(|| unknown.clone())?;
    let version = row.number32()?;
    let class = row.maybe_int()?.and_then(Code::of);
    let drop = row.maybe_int()?.and_then(Code::of);
    let (attempts, step) = (row.number32()?, row.number32()?);
    let leases_lost = u8::try_from(row.int()?).unwrap_or(u8::MAX);
    let trigger = Code::of(row.int()?).ok_or(unknown)?;
    let due_us = row.maybe_int()?;
    let blocked_by = maybe_id(row)?;
    let released = row.flag()?;
    let (unseen_us, drained_us) = (row.maybe_int()?, row.maybe_int()?);
    let (began_us, ended_us) = (row.maybe_int()?, row.maybe_int()?);
    Ok(Progress {
        state,
        version,
        class,
        drop,
        attempts,
        step,
        leases_lost,
        trigger,
        due_us,
        blocked_by,
        released,
        unseen_us,
        drained_us,
        began_us,
        ended_us,
    })
}

/// A column with an identifier.
pub(super) fn needed_id(row: &mut Columns) -> Result<EventId, StoreError> {
    maybe_id(row)?.ok_or(StoreError::Broken("an identifier is missing"))
}

fn maybe_id(row: &mut Columns) -> Result<Option<EventId>, StoreError> {
    match row.maybe_text()? {
        None => Ok(None),
        Some(text) => codes::event_id(&text).map(Some).ok_or(StoreError::Broken("an identifier is none")),
    }
}
