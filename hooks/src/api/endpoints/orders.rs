//! What a person orders of an endpoint: test, enable, reset, pause, resume, rotate, recover.

use std::sync::Arc;
use std::time::Duration;

use bugfeed_core::endpoints::orders::{Order, Recovery, carry_out};
use bugfeed_core::endpoints::row::Row;
use bugfeed_core::hooks::event::Trigger;
use bugfeed_protocol::{Cursor, When};
use rand::random;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{body, order, refused, shapes, view, with_secret};
use crate::api::call::{Call, Name, answer};
use crate::api::error::{Answer, ApiError};
use crate::api::params::{time, wrong};
use crate::api::shapes::at;
use crate::deliver::sign::{RANDOM_BYTES, SigningSecret};
use crate::endpoints::cause::{Hidden, cause};
use crate::store::endpoints::{AttemptRow, EndpointId, Settings, Stored};
use crate::store::tokens::Scope;

const HOUR_US: i64 = 3_600_000_000;
/// For how many hours a rotated secret may go on.
const LONGEST_OVERLAP: u64 = 168;
/// An answer waits so many seconds at most for what comes of a request, and so many where nothing is said.
const LONGEST_WAIT: u64 = 20;
const USUAL_WAIT: u64 = 10;
/// How often the store is asked meanwhile.
const LOOK: Duration = Duration::from_millis(100);
/// How many of the newest attempts are looked through.
const NEWEST: usize = 20;

pub(in crate::api) async fn enable(name: Name, call: Call) -> Answer {
    simple(name, call, Order::Enable, "endpoints.enable").await
}

pub(in crate::api) async fn reset(name: Name, call: Call) -> Answer {
    simple(name, call, Order::Reset, "endpoints.reset").await
}

pub(in crate::api) async fn pause(name: Name, call: Call) -> Answer {
    simple(name, call, Order::Pause, "endpoints.pause").await
}

pub(in crate::api) async fn resume(name: Name, call: Call) -> Answer {
    simple(name, call, Order::Resume, "endpoints.resume").await
}

async fn simple(Name(text): Name, call: Call, what: Order, deed: &str) -> Answer {
    call.nothing()?;
    let change = |_: &mut Settings, row: &mut Row| carry_out(row, &what).map_err(|why| refused(why, row));
    let (stored, ()) = order(&call, &text, deed, Value::Null, change).await?;
    answer(view::shown(&call, &stored).await?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RotateBody {
    overlap_hours: u64,
    secret: Option<String>,
}

impl Default for RotateBody {
    fn default() -> RotateBody {
        RotateBody { overlap_hours: 24, secret: None }
    }
}

pub(in crate::api) async fn rotate(Name(text): Name, call: Call) -> Answer {
    let said: RotateBody = call.json()?;
    if said.overlap_hours > LONGEST_OVERLAP {
        let error = format!("overlap_hours: {} is too much", said.overlap_hours);
        return Err(ApiError::bad(error, "the old secret may go on for 0 to 168 hours"));
    }
    let fresh = match &said.secret {
        Some(text) => body::secret(text)?,
        None => SigningSecret::generate(&random::<[u8; RANDOM_BYTES]>()),
    };
    let hours = i64::try_from(said.overlap_hours).unwrap_or(0);
    let until_us = call.now_us.saturating_add(hours * HOUR_US);
    let change = |settings: &mut Settings, _: &mut Row| {
        let old = std::mem::replace(&mut settings.secret, fresh.clone());
        settings.previous = (hours > 0).then_some((old, until_us));
        Ok(())
    };
    let detail = json!({ "old_until": at(until_us), "given": said.secret.is_some() });
    let stored = order(&call, &text, "endpoints.rotate", detail, change).await?.0;
    answer(with_secret(&call, &stored).await?)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RecoverBody {
    cursor: Option<String>,
    since: Option<String>,
    feed: Option<String>,
}

pub(in crate::api) async fn recover(Name(text): Name, call: Call) -> Answer {
    let said: RecoverBody = call.json()?;
    let to = recovery(&said, call.now_us)?;
    let what = Order::Recover { feed: said.feed.as_deref().map(Arc::from), to };
    let change = |_: &mut Settings, row: &mut Row| carry_out(row, &what).map_err(|why| refused(why, row));
    let detail = json!({ "cursor": said.cursor, "since": said.since, "feed": said.feed });
    let stored = order(&call, &text, "endpoints.recover", detail, change).await?.0;
    let mut shape = view::shown(&call, &stored).await?;
    shape["warnings"] = json!(recover_warnings(&call, &stored, &said));
    answer(shape)
}

/// What the person may not expect.
fn recover_warnings(call: &Call, stored: &Stored, said: &RecoverBody) -> Vec<String> {
    let feed = said.feed.as_deref().or_else(|| stored.row.lines.first().map(|line| &*line.feed)).unwrap_or_default();
    let mut warnings = Vec::new();
    let cursor = said.cursor.as_deref().and_then(Cursor::parse);
    if cursor.and_then(|cursor| call.api.service().knows(feed, &cursor)) == Some(false) {
        warnings.push(format!(
            "the feed {feed} does not know this cursor (it is of another ledger, or ahead), so its receiver is told that \
             changes may be missing; --since TIME sends changes again"
        ));
    }
    let unserved: Vec<String> = view::unserved(call, stored).into_iter().filter(|name| name == feed).collect();
    if !unserved.is_empty() {
        warnings.push(view::not_served(&unserved));
    }
    if stored.row.paused {
        warnings.push("it is paused: nothing is sent before `bugfeed endpoints resume`".to_owned());
    } else if stored.row.health.disabled(stored.row.policy).is_some() {
        warnings.push("it is disabled: nothing is sent before `bugfeed endpoints enable`".to_owned());
    }
    warnings
}

fn recovery(said: &RecoverBody, now_us: i64) -> Result<Recovery, ApiError> {
    match (&said.cursor, &said.since) {
        (Some(cursor), None) => {
            let fix = "write one as bugfeed gave it, such as 9f86d081884c7d65.42.5e3c9a01";
            Cursor::parse(cursor).map(Recovery::Cursor).ok_or_else(|| wrong("cursor", cursor, fix))
        }
        (None, Some(since)) => {
            let since_us = time("since", since)?;
            if since_us > now_us {
                return Err(wrong("since", since, "that is yet to come; name a time in the past"));
            }
            let when = When::from_micros(since_us).ok_or_else(|| wrong("since", since, "name a time from 1970 on"))?;
            Ok(Recovery::Since(when))
        }
        _ => Err(ApiError::bad(
            "nothing is said of where to begin, or it is said twice",
            "give exactly one of \"cursor\" and \"since\" (a date in UTC)",
        )),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WaitBody {
    wait: u64,
}

impl Default for WaitBody {
    fn default() -> WaitBody {
        WaitBody { wait: USUAL_WAIT }
    }
}

impl WaitBody {
    pub(super) fn check(&self) -> Result<Duration, ApiError> {
        if self.wait > LONGEST_WAIT {
            return Err(wrong("wait", &self.wait.to_string(), "the answer may wait for 0 to 20 seconds"));
        }
        Ok(Duration::from_secs(self.wait))
    }
}

pub(in crate::api) async fn test(Name(text): Name, call: Call) -> Answer {
    let wait = call.json::<WaitBody>()?.check()?;
    let change = |_: &mut Settings, row: &mut Row| {
        carry_out(row, &Order::Test).map_err(|why| refused(why, row))?;
        Ok(row.generation)
    };
    let (stored, generation) = order(&call, &text, "endpoints.test", Value::Null, change).await?;
    // The identifier of a test ends with its generation.
    let end = format!("-g{generation}");
    let is_it = |row: &AttemptRow| row.trigger == Trigger::Manual && row.webhook_id.ends_with(&end);
    let found = wait_for(&call, &stored.id, wait, None, is_it).await?;
    answer(sent(&call, &stored, "test", wait, found.as_ref()))
}

/// Waits until an attempt is in the log that was not there before.
pub(super) async fn wait_for(
    call: &Call,
    id: &EndpointId,
    wait: Duration,
    newest: Option<u128>,
    is_it: impl Fn(&AttemptRow) -> bool + Send,
) -> Result<Option<AttemptRow>, ApiError> {
    let end = Instant::now() + wait;
    loop {
        let attempts = call.store().attempts(id, None, NEWEST).await?;
        let mut fresh = attempts.into_iter().take_while(|row| Some(row.id) != newest);
        if let Some(found) = fresh.find(|row| is_it(row)) {
            return Ok(Some(found));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        tokio::time::sleep_until(end.min(Instant::now() + LOOK)).await;
    }
}

/// What came of a request that a person asked for.
pub(super) fn sent(call: &Call, stored: &Stored, what: &str, wait: Duration, found: Option<&AttemptRow>) -> Value {
    let (id, hidden) = (&stored.id, Hidden::of(&stored.settings));
    let ms = found.map_or(0, |row| row.took_us / 1000);
    let says = match found {
        None => format!(
            "the {what} waits for its turn; nothing has come of it within {} s: bugfeed endpoints attempts {id} shows it \
             afterwards",
            wait.as_secs()
        ),
        Some(row) => match (row.status, &row.error) {
            (Some(status), _) if shapes::is_success(row) => format!("the receiver took it: {status} in {ms} ms"),
            (Some(_), _) => {
                let cause = cause(row, &hidden).unwrap_or_default();
                format!("the receiver did not take it ({cause}) in {ms} ms; a failed {what} counts nothing")
            }
            (None, error) => {
                let error = error.as_deref().or(row.fault.as_deref()).unwrap_or("unknown");
                format!("no answer: {error}; a failed {what} counts nothing")
            }
        },
    };
    let unserved = view::unserved(call, stored);
    let says = if unserved.is_empty() { says } else { format!("{says}; {}", view::not_served(&unserved)) };
    let is_raw = call.caller.has(Scope::Raw);
    let attempt = found.map(|row| shapes::attempt(row, is_raw, Some(&hidden)));
    json!({ "endpoint": id.as_str(), "attempt": attempt, "says": says })
}
