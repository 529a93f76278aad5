//! The system at a glance.

use serde_json::{Value, json};

use super::call::{Call, answer};
use super::error::Answer;
use super::shapes::{at, maybe_at};
use super::sources::{off_since, silence};
use crate::store::notes::Switch;

/// A key that expires within this time is named.
const SOON_US: i64 = 14 * 86_400_000_000;

pub(super) async fn overview(call: Call) -> Answer {
    call.params(&[])?;
    let (store, config, now_us) = (call.store(), call.api.service().config(), call.now_us);
    let off = store.switched_off().await?;
    let mut sources = Vec::with_capacity(config.sources.len());
    for source in &config.sources {
        let last_us = store.last_request(&source.name).await?;
        let taken_us = store.last_taken(&source.name).await?;
        sources.push(json!({
            "name": source.name,
            "last_request": maybe_at(last_us),
            "last_taken": maybe_at(taken_us),
            "silent_seconds": silence(taken_us, now_us),
            "off_since": maybe_at(off_since(&off, Switch::Source, &source.name)),
        }));
    }
    let mut feeds = Vec::new();
    for feed in config.feeds() {
        let matched = store.matched_to(feed).await?.map(|cursor| cursor.to_string());
        feeds.push(json!({
            "name": feed, "matched_to": matched, "off_since": maybe_at(off_since(&off, Switch::Feed, feed)),
        }));
    }
    let held = store.quarantine_held().await?;
    let held =
        held.iter().map(|held| json!({ "share": held.share.as_str(), "requests": held.requests, "bytes": held.bytes }));
    answer(json!({
        "program": env!("CARGO_PKG_VERSION"),
        "store": store.place(),
        "now": at(now_us),
        "backlog": store.backlog(now_us).await?,
        "dead_letters": store.count_dead_letters().await?,
        "quarantine": held.collect::<Value>(),
        "body_bytes": store.body_bytes(),
        "endpoints": endpoints(&call).await?,
        "keys": keys(&call).await?,
        "sources": sources,
        "feeds": feeds,
        "warnings": call.api.service().warnings(),
    }))
}

async fn endpoints(call: &Call) -> Result<Value, super::error::ApiError> {
    let count = call.store().count_endpoints(call.now_us).await?;
    Ok(json!({
        "active": count.active, "cooling": count.cooling, "disabled": count.disabled, "paused": count.paused,
    }))
}

async fn keys(call: &Call) -> Result<Value, super::error::ApiError> {
    let (mut active, mut expired, mut revoked, mut expiring) = (0, 0, 0, Vec::new());
    for key in call.store().keys().await? {
        match key.expires_us {
            _ if key.revoked_us.is_some() => revoked += 1,
            Some(expires_us) if expires_us <= call.now_us => expired += 1,
            expires_us => {
                active += 1;
                if let Some(expires_us) = expires_us.filter(|at_us| at_us - call.now_us < SOON_US) {
                    expiring.push(json!({ "id": key.id, "name": key.name, "expires": at(expires_us) }));
                }
            }
        }
    }
    expiring.truncate(100);
    Ok(json!({ "active": active, "expired": expired, "revoked": revoked, "expiring": expiring }))
}
