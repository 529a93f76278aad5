//! Sources and feeds: the configuration as it was read, silence, switches, and questions to trackers.

use std::collections::BTreeMap;

use bugfeed_core::hooks::event::State;
use bugfeed_core::hooks::orders::Order;
use serde_json::{Value, json};

use super::call::{Call, Name, answer, begun};
use super::config_view;
use super::error::{Answer, ApiError};
use super::service::Check;
use super::shapes::{at, maybe_at};
use crate::config::Source;
use crate::store::notes::{Switch, SwitchedOff};
use crate::store::tokens::Scope;
use crate::store::traffic::Refused;
use crate::store::{Store, StoreError};

const DAY_US: i64 = 86_400_000_000;
/// How many events are switched on in one transaction.
const STEP: usize = 500;

/// Queues the events again that waited because this source or feed was switched off, in small steps; returns how many. For
/// [`super::Service::switched`], in a task of its own: there may be many.
///
/// # Errors
/// When the store cannot be used. What is done is done; call it again.
pub async fn switch_on(store: &Store, what: Switch, name: &str, now_us: i64) -> Result<u64, StoreError> {
    let (source, feed) = match what {
        Switch::Source => (Some(name), None),
        Switch::Feed => (None, Some(name)),
    };
    let (mut after, mut count) = (None, 0);
    loop {
        let ids = store.in_state(State::Disabled, source, feed, after, STEP).await?;
        count += store.order_all(&ids, Order::SwitchOn, now_us).await? as u64;
        after = ids.last().copied();
        if ids.len() < STEP {
            return Ok(count);
        }
    }
}

pub(super) async fn list(call: Call) -> Answer {
    call.params(&[])?;
    let config = call.api.service().config();
    let off = call.store().switched_off().await?;
    let mut sources = Vec::with_capacity(config.sources.len());
    let mut refused = call.store().refused(call.now_us - DAY_US).await?;
    for source in &config.sources {
        let mut shape = config_view::source(source);
        let traffic = call.store().traffic(&source.name).await?;
        shape["last_request"] = maybe_at(traffic.last_us);
        shape["last_taken"] = maybe_at(traffic.taken_us);
        shape["connected"] = maybe_at(traffic.connected_us);
        let failing = call.store().failing(&source.name, call.now_us - DAY_US).await?;
        shape["errored"] = json!({ "day": failing.lately, "dead_letters": failing.dead, "in_a_row": failing.in_a_row });
        shape["refused"] = counts(refused.remove(&source.name).unwrap_or_default());
        shape["silent_seconds"] = json!(silence(traffic.taken_us, call.now_us));
        shape["off_since"] = maybe_at(off_since(&off, Switch::Source, &source.name));
        shape["sender"] = call.api.service().sender(&source.name);
        sources.push(shape);
    }
    let feed = |name: &&str| json!({ "name": name, "off_since": maybe_at(off_since(&off, Switch::Feed, name)) });
    let is_raw = call.caller.has(Scope::Raw);
    let notify: Vec<Value> = config.notify.iter().map(|notify| config_view::notify(notify, is_raw)).collect();
    // What is left was sent to sources that the configuration does not name.
    let unknown = refused.into_values().fold(Refused::default(), Refused::and);
    answer(json!({
        "sources": sources,
        "unknown_sources": { "refused": counts(unknown) },
        "feeds": config.feeds().iter().map(feed).collect::<Value>(),
        "notify": notify,
    }))
}

fn counts(refused: Refused) -> Value {
    json!({ "day": refused.lately, "kept": refused.kept })
}

/// Whole seconds since a source was last heard of.
pub(super) fn silence(last_us: Option<i64>, now_us: i64) -> Option<i64> {
    last_us.map(|last_us| now_us.saturating_sub(last_us).max(0) / 1_000_000)
}

pub(super) fn off_since(off: &[SwitchedOff], what: Switch, name: &str) -> Option<i64> {
    off.iter().find(|one| one.what == what && one.name == name).map(|one| one.since_us)
}

pub(super) async fn disable_source(name: Name, call: Call) -> Answer {
    switch(&call, Switch::Source, &name.0, false).await
}

pub(super) async fn enable_source(name: Name, call: Call) -> Answer {
    switch(&call, Switch::Source, &name.0, true).await
}

pub(super) async fn disable_feed(name: Name, call: Call) -> Answer {
    switch(&call, Switch::Feed, &name.0, false).await
}

pub(super) async fn enable_feed(name: Name, call: Call) -> Answer {
    switch(&call, Switch::Feed, &name.0, true).await
}

async fn switch(call: &Call, what: Switch, name: &str, is_on: bool) -> Answer {
    call.nothing()?;
    let off = call.store().switched_off().await?;
    let since_us = off_since(&off, what, name);
    let config = call.api.service().config();
    let is_known = match what {
        Switch::Source => config.source(name).is_some(),
        Switch::Feed => config.feeds().contains(name),
    };
    // One that left the configuration while it was off can be switched on still.
    if !is_known && since_us.is_none() {
        return Err(unknown(what, name, &known(call, what)));
    }
    let word = if what == Switch::Source { "source" } else { "feed" };
    let since_us = match (is_on, since_us) {
        (true, None) => None,
        (false, Some(since_us)) => Some(since_us),
        _ => {
            let deed = format!("{word}s.{}", if is_on { "enable" } else { "disable" });
            call.audit(&deed, name, &Value::Null).await?;
            let since_us = (!is_on).then_some(call.now_us);
            call.store().set_switch(what, name, since_us).await?;
            call.api.service().switched(what, name, is_on);
            since_us
        }
    };
    let members = BTreeMap::from([(word, json!(name)), ("off_since", maybe_at(since_us))]);
    answer(json!(members))
}

fn known(call: &Call, what: Switch) -> Vec<String> {
    let config = call.api.service().config();
    match what {
        Switch::Source => config.sources.iter().map(|source| source.name.clone()).collect(),
        Switch::Feed => config.feeds().into_iter().map(str::to_owned).collect(),
    }
}

fn unknown(what: Switch, name: &str, known: &[String]) -> ApiError {
    let word = if what == Switch::Source { "source" } else { "feed" };
    let name: String = name.chars().take(60).collect();
    ApiError::missing(format!("there is no {word} '{name}'"), format!("the configuration has: {}", known.join(", ")))
}

pub(super) async fn reconcile(Name(name): Name, call: Call) -> Answer {
    call.nothing()?;
    let config = call.api.service().config();
    let source = config.source(&name).ok_or_else(|| unknown(Switch::Source, &name, &known(&call, Switch::Source)))?;
    if source.reconcile.is_none() {
        return Err(ApiError::conflict(
            format!("the source '{name}' is not reconciled"),
            "add tracker = \"https://…\" and reconcile = \"5m\" to it in the configuration",
        ));
    }
    call.audit("sources.reconcile", &name, &Value::Null).await?;
    call.api.service().reconcile(&name).await?;
    begun(json!({ "source": name, "begun": at(call.now_us) }))
}

pub(super) async fn test(Name(name): Name, call: Call) -> Answer {
    call.nothing()?;
    let config = call.api.service().config();
    let source = config.source(&name).ok_or_else(|| unknown(Switch::Source, &name, &known(&call, Switch::Source)))?;
    let mut checks = vec![switches(&call, source).await?, access(&call, source).await?, requests(&call, source).await?];
    checks.push(mapping(&call, source).await?);
    checks.extend(call.api.service().test(&name).await);
    let is_good = checks.iter().all(|check| check.is_good);
    let check = |check: &Check| json!({ "what": check.what, "good": check.is_good, "says": check.says });
    answer(json!({ "source": name, "good": is_good, "checks": checks.iter().map(check).collect::<Value>() }))
}

async fn switches(call: &Call, source: &Source) -> Result<Check, ApiError> {
    let off = call.store().switched_off().await?;
    let feeds = source.feeds();
    let mut found = Vec::new();
    for one in &off {
        match one.what {
            Switch::Source if one.name == source.name => found.push("the source is switched off".to_owned()),
            Switch::Feed if feeds.contains(&one.name.as_str()) => {
                found.push(format!("feed {} is switched off", one.name));
            }
            _ => {}
        }
    }
    let says = if found.is_empty() { format!("on; feeds: {}", feeds.join(", ")) } else { found.join("; ") };
    Ok(Check { what: "switches".to_owned(), is_good: found.is_empty(), says })
}

/// Whether somebody could send.
async fn access(call: &Call, source: &Source) -> Result<Check, ApiError> {
    let what = "access".to_owned();
    if !source.secrets.is_empty() {
        let says = "only requests whose signature fits the secret are accepted".to_owned();
        return Ok(Check { what, is_good: true, says });
    }
    if source.lacks_secret() {
        let says = format!("its sender can only sign, and the source has no secret: {}", source.secret_advice());
        return Ok(Check { what, is_good: false, says });
    }
    let may = |sources: &Option<Vec<String>>| sources.as_ref().is_none_or(|names| names.contains(&source.name));
    let keys = call.store().keys().await?;
    let good = keys.iter().filter(|key| {
        let is_over = key.expires_us.is_some_and(|expires_us| expires_us <= call.now_us);
        key.revoked_us.is_none() && !is_over && may(&key.scopes.sources)
    });
    let count = good.count();
    let says = match count {
        0 => format!("no key may send; make one: bugfeed keys create --name NAME --source {}", source.name),
        1 => "one key may send".to_owned(),
        count => format!("{count} keys may send"),
    };
    Ok(Check { what, is_good: count > 0, says })
}

/// Whether changes come of what is sent.
async fn mapping(call: &Call, source: &Source) -> Result<Check, ApiError> {
    let failing = call.store().failing(&source.name, call.now_us - DAY_US).await?;
    let name = &source.name;
    let look = format!("bugfeed dead-letters --source {name}, bugfeed requests list --state error --source {name}");
    let says = match (failing.in_a_row, failing.lately, failing.dead) {
        (0, 0, 0) => "nothing that came in the last 24 h was errored".to_owned(),
        (0, lately, dead) => format!("{lately} requests of the last 24 h had errors, {dead} dead letters wait: {look}"),
        (row, _, dead) => format!("the last {row} requests brought errors only, {dead} dead letters wait: {look}"),
    };
    // Of a mapping that was mended, no dead letter is left.
    Ok(Check { what: "mapping".to_owned(), is_good: failing.in_a_row == 0 || failing.dead == 0, says })
}

async fn requests(call: &Call, source: &Source) -> Result<Check, ApiError> {
    let traffic = call.store().traffic(&source.name).await?;
    let refused = call.store().refused(call.now_us - DAY_US).await?.remove(&source.name).unwrap_or_default();
    let seconds = |last_us: Option<i64>| silence(last_us, call.now_us).unwrap_or(0);
    // What comes is no good sign while it is refused.
    let is_good = traffic.last_us.is_some() && traffic.taken_us == traffic.last_us;
    let mut says = match (traffic.last_us, traffic.taken_us) {
        (None, _) => format!("no request has come yet; the sender POSTs to /hooks/{}", source.name),
        (last_us, None) => format!("the last request came {} s ago and was refused; none was taken", seconds(last_us)),
        (last_us, taken_us) if taken_us == last_us => format!("the last request came {} s ago", seconds(last_us)),
        (last_us, taken_us) => {
            let (last, taken) = (seconds(last_us), seconds(taken_us));
            format!("the last request came {last} s ago and was refused; the last that was taken came {taken} s ago")
        }
    };
    if refused.lately > 0 {
        let why = format!("bugfeed requests list --state quarantined --source {}", source.name);
        says.push_str(&format!("; {} were refused in the last 24 h: {why}", refused.lately));
    }
    Ok(Check { what: "requests".to_owned(), is_good, says })
}
