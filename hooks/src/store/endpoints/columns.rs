//! How an endpoint stands in the table, and how it is read back.

use std::sync::Arc;
use std::time::Duration;

use bugfeed_core::endpoints::policy::{Bar, Health, Policy};
use bugfeed_core::endpoints::question::{Since, Watch};
use bugfeed_core::endpoints::row::{Applied, Asked, Line, Row, Wish};
use bugfeed_core::endpoints::sent::Sent;
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_protocol::{BugId, Cursor, When};
use bugfeed_runtime::throttle::Throttle;
use bugfeed_sql::{CellKind, Value};
use serde::{Deserialize, Serialize};

use super::{EndpointId, FeedChoice, Settings, Stored};
use crate::deliver::headers::UserHeaders;
use crate::deliver::sign::SigningSecret;
use crate::store::StoreError;
use crate::store::cells::{Columns, text_value};
use crate::store::codes::Code;
use crate::store::row::read_or_tell;

/// The columns, in the order in which they are written and read.
pub(in crate::store) const COLUMNS: [&str; 26] = [
    "id",
    "part",
    "created_us",
    "mark",
    "version",
    "disabled",
    "recent_failures",
    "backoff_count",
    "disabled_until_us",
    "bar",
    "nameless_us",
    "again_us",
    "term",
    "effect",
    "progress",
    "policy",
    "rate",
    "paused",
    "deleted",
    "bugs",
    "url",
    "description",
    "feeds",
    "secrets",
    "headers",
    "template",
];
/// Which of them never change.
pub(super) const FIXED: usize = 3;
/// Which of them planners change. People change these too, and those after them.
pub(super) const MOVED: std::ops::Range<usize> = 4..15;
/// Where the counter's mark stands.
pub(super) const MARK: usize = 3;

/// The form of the JSON in a row, so that a later version knows what it reads.
const FORM: u8 = 1;

impl Code for Policy {
    const WORDS: &'static [Policy] = &[Policy::Classic, Policy::Current, Policy::Off];
}

impl Code for Bar {
    const WORDS: &'static [Bar] = &[Bar::Gone, Bar::Forbidden, Bar::Nameless, Bar::Failures];
}

/// Lines, wishes and generations.
#[derive(Serialize, Deserialize)]
struct Progress {
    v: u8,
    lines: Vec<LineText>,
    #[serde(default, skip_serializing_if = "is_zero")]
    generation: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    turn: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    wishes: Vec<WishText>,
    #[serde(default, skip_serializing_if = "is_zero")]
    next_wish: u32,
}

#[derive(Serialize, Deserialize)]
struct LineText {
    feed: String,
    since: SinceText,
    #[serde(default, skip_serializing_if = "is_false")]
    left_out: bool,
    #[serde(default, skip_serializing_if = "is_zero")]
    turn: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sent: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SinceText {
    Head,
    Unknown,
    Cursor(String),
    TimeUs(i64),
}

#[derive(Serialize, Deserialize)]
struct WishText {
    id: u32,
    what: AskedText,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AskedText {
    Test(u32),
    Redeliver(String),
    Ready,
}

/// Secrets.
#[derive(Serialize, Deserialize)]
struct SecretsText {
    v: u8,
    secret: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<(String, i64)>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// A number that only grows, as a column has it.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// All columns of an endpoint.
pub(in crate::store) fn cells(id: &EndpointId, settings: &Settings, row: &Row, mark: u64) -> Vec<Value> {
    let mut cells = vec![
        text_value(id.as_str()),
        Value::Int(i64::from(id.partition())),
        Value::Int(settings.created_us),
        Value::Int(signed(mark)),
    ];
    cells.extend(moved(row));
    let bugs = match &row.watch {
        Watch::All => Value::Null,
        Watch::Bugs(bugs) => Value::Text(bugs_text(bugs)),
    };
    cells.extend([
        Value::Int(row.policy.code()),
        row.rate.map_or(Value::Null, |rate| Value::Int(i64::from(rate))),
        Value::Int(i64::from(row.paused)),
        Value::Int(i64::from(row.deleted)),
        bugs,
    ]);
    cells.extend(settings_cells(settings));
    cells
}

/// The columns [`MOVED`].
pub(super) fn moved(row: &Row) -> [Value; 11] {
    let health = &row.health;
    let maybe = |at_us: Option<i64>| at_us.map_or(Value::Null, Value::Int);
    [
        Value::Int(signed(row.version)),
        Value::Int(i64::from(health.disabled(row.policy).is_some())),
        Value::Int(i64::from(health.recent_failures)),
        Value::Int(i64::from(health.backoff_count)),
        maybe(health.disabled_until_us),
        health.bar.map_or(Value::Null, |bar| Value::Int(bar.code())),
        maybe(health.nameless_since_us),
        maybe(health.again_us),
        Value::Int(signed(row.applied.term)),
        Value::Int(signed(row.applied.effect)),
        text_value(&progress(row)),
    ]
}

/// What [`moved`] gives.
pub(super) const MOVED_KINDS: [CellKind; 11] = {
    let mut kinds = [CellKind::Int; 11];
    kinds[10] = CellKind::Text;
    kinds
};

fn json<T: Serialize>(of: &T) -> String {
    // Numbers, texts and lists of them cannot fail.
    serde_json::to_string(of).unwrap_or_default()
}

fn progress(row: &Row) -> String {
    let line = |line: &Line| LineText {
        feed: line.feed.to_string(),
        since: match &line.since {
            Since::Head => SinceText::Head,
            Since::Unknown => SinceText::Unknown,
            Since::Cursor(cursor) => SinceText::Cursor(cursor.to_string()),
            Since::Time(when) => SinceText::TimeUs(when.as_micros()),
        },
        left_out: line.left_out,
        turn: line.turn,
        sent: line.sent.as_ref().map(Sent::to_string),
    };
    let wish = |wish: &Wish| WishText {
        id: wish.id,
        what: match wish.what {
            Asked::Test { generation } => AskedText::Test(generation),
            Asked::Redeliver { attempt } => AskedText::Redeliver(format!("{attempt:032x}")),
            Asked::Ready => AskedText::Ready,
        },
    };
    json(&Progress {
        v: FORM,
        lines: row.lines.iter().map(line).collect(),
        generation: row.generation,
        turn: row.turn,
        wishes: row.wishes.iter().map(wish).collect(),
        next_wish: row.next_wish,
    })
}

fn bugs_text(bugs: &[BugId]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(1 + 8 * bugs.len());
    text.push(',');
    for bug in bugs {
        // Writing to a String cannot fail.
        let _ = write!(text, "{},", bug.get());
    }
    text
}

/// The columns of the settings.
pub(super) fn settings_cells(settings: &Settings) -> [Value; 6] {
    let previous = settings.previous.as_ref().map(|(secret, until_us)| (secret.expose().to_owned(), *until_us));
    let secrets = SecretsText { v: FORM, secret: settings.secret.expose().to_owned(), previous };
    let headers: Vec<(&str, &str)> = settings.headers.expose().collect();
    let feeds = match &settings.feeds {
        FeedChoice::All => Value::Null,
        FeedChoice::Named(feeds) => text_value(&json(&feeds.iter().map(|feed| &**feed).collect::<Vec<&str>>())),
    };
    [
        text_value(&settings.url),
        text_value(&settings.description),
        feeds,
        text_value(&json(&secrets)),
        text_value(&json(&headers)),
        settings.template.as_deref().map_or(Value::Null, text_value),
    ]
}

/// Reads rows of all columns. Those that cannot be read are passed over, and people are told: a damaged row stops its own
/// endpoint, and no other.
pub(super) fn readable(rows: Vec<Vec<Value>>) -> Vec<Stored> {
    static TOLD: Throttle = Throttle::new(5, Duration::from_secs(60));
    let tell = |id: String, error: StoreError| {
        tracing::error!(endpoint_id = id, %error, event = %LogEvent::HookUnreadable, "a row of the endpoints cannot be read; nothing is sent to this endpoint, the others go on");
    };
    rows.into_iter().filter_map(|row| read_or_tell(row, read, &TOLD, tell)).collect()
}

/// Reads a row of all columns.
pub(super) fn read(row: Vec<Value>) -> Result<Stored, StoreError> {
    let mut cells = Columns::of(row);
    let unknown = StoreError::Broken("an endpoint has a code that this program does not know");
    let id = EndpointId::parse(&cells.text()?).ok_or(StoreError::Broken("an endpoint has no identifier"))?;
    let (_, created_us, mark) = (cells.int()?, cells.int()?, cells.count()?);
    let version = cells.count()?;
    let _ = cells.flag()?;
    let (recent_failures, backoff_count) = (cells.number32()?, cells.number32()?);
    let disabled_until_us = cells.maybe_int()?;
    let bar = cells.maybe_int()?.map(|code| Bar::of(code).ok_or_else(|| unknown.clone())).transpose()?;
    let (nameless_since_us, again_us) = (cells.maybe_int()?, cells.maybe_int()?);
    let applied = Applied { term: cells.count()?, effect: cells.count()? };
    let progress: Progress = parsed(&cells.text()?)?;
    let policy = Policy::of(cells.int()?).ok_or(unknown)?;
    let rate = cells.maybe_int()?.and_then(|rate| u32::try_from(rate).ok());
    let (paused, deleted) = (cells.flag()?, cells.flag()?);
    let watch = watch(cells.maybe_text()?)?;
    let settings = read_settings(&mut cells, created_us)?;
    let health = Health { recent_failures, backoff_count, disabled_until_us, bar, nameless_since_us, again_us };
    let Progress { generation, turn, next_wish, .. } = progress;
    let lines = progress.lines.into_iter().map(line).collect::<Option<_>>();
    let lines = lines.ok_or(StoreError::Broken("an endpoint has a cursor that is none"))?;
    let wishes = progress.wishes.iter().map(wish).collect::<Option<_>>();
    let wishes = wishes.ok_or(StoreError::Broken("an endpoint has a wish that is none"))?;
    let row = Row {
        version,
        policy,
        rate,
        watch,
        lines,
        paused,
        deleted,
        health,
        generation,
        turn,
        wishes,
        next_wish,
        applied,
    };
    Ok(Stored { id, settings, row, mark })
}

fn parsed<T: for<'t> Deserialize<'t>>(text: &str) -> Result<T, StoreError> {
    // The error of serde may hold a part of the text, which may be a secret.
    serde_json::from_str(text).map_err(|_| StoreError::Broken("an endpoint has a text that cannot be read"))
}

fn watch(text: Option<String>) -> Result<Watch, StoreError> {
    let Some(text) = text else { return Ok(Watch::All) };
    let bugs = text.split(',').filter(|bug| !bug.is_empty());
    let bugs: Option<Arc<[BugId]>> = bugs.map(|bug| bug.parse().ok().and_then(BugId::new)).collect();
    bugs.map(Watch::Bugs).ok_or(StoreError::Broken("an endpoint has a bug that is none"))
}

fn line(text: LineText) -> Option<Line> {
    let since = match text.since {
        SinceText::Head => Since::Head,
        SinceText::Unknown => Since::Unknown,
        SinceText::Cursor(cursor) => Since::Cursor(Cursor::parse(&cursor)?),
        SinceText::TimeUs(at_us) => Since::Time(When::from_micros(at_us)?),
    };
    let sent = match text.sent {
        Some(sent) => Some(Sent::parse(&sent)?),
        None => None,
    };
    Some(Line { feed: text.feed.into(), since, left_out: text.left_out, turn: text.turn, sent })
}

fn wish(text: &WishText) -> Option<Wish> {
    let what = match &text.what {
        AskedText::Test(generation) => Asked::Test { generation: *generation },
        AskedText::Redeliver(attempt) => Asked::Redeliver { attempt: u128::from_str_radix(attempt, 16).ok()? },
        AskedText::Ready => Asked::Ready,
    };
    Some(Wish { id: text.id, what })
}

fn read_settings(cells: &mut Columns, created_us: i64) -> Result<Settings, StoreError> {
    let (url, description) = (cells.text()?, cells.text()?);
    let feeds = match cells.maybe_text()? {
        None => FeedChoice::All,
        Some(text) => FeedChoice::Named(parsed::<Vec<String>>(&text)?.into_iter().map(Arc::from).collect()),
    };
    let secrets: SecretsText = parsed(&cells.text()?)?;
    let secret = |text: &str| SigningSecret::parse(text).map_err(|_| StoreError::Broken("an endpoint has no secret"));
    let previous =
        secrets.previous.map(|(text, until_us)| Ok::<_, StoreError>((secret(&text)?, until_us))).transpose()?;
    let headers: Vec<(String, String)> = parsed(&cells.text()?)?;
    let headers = UserHeaders::read(headers.iter().map(|(name, value)| (&**name, &**value)));
    let headers = headers.map_err(|_| StoreError::Broken("an endpoint has a header that cannot be sent"))?;
    let (secret, template) = (secret(&secrets.secret)?, cells.maybe_text()?);
    Ok(Settings { url, secret, previous, headers, description, feeds, template, created_us })
}

#[cfg(test)]
mod tests;
