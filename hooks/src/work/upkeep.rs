//! What each process does besides: keys and switches are read anew, uses of keys are noted, feeds get their tables,
//! trackers are probed, figures and alerts are counted.
//!
//! Goes in: the store, the configuration. Comes out: what the receiver and the worker hold in memory. Never ends because
//! the store is away: what is in memory holds until it is back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bugfeed_core::hooks::SECOND_US;
use bugfeed_protocol::backoff::Backoff;

use super::gates::SwitchNames;
use super::{Shared, digest, recovery};
use crate::receive::http::KeyRow;
use crate::store::StoreError;
use crate::store::notes::Switch;

/// Uses of keys are noted so often.
const USES_EVERY: Duration = Duration::from_secs(60);
/// Figures are counted so often.
const FIGURES_EVERY: Duration = Duration::from_secs(10);
/// Alerts are counted so often.
const ALERTS_EVERY: Duration = Duration::from_secs(60);
/// Sources are looked at so often whether nothing but errors comes of them.
const FAILING_EVERY: Duration = Duration::from_secs(30);
/// So many requests in a row must have failed. One may be a mistake of its sender.
const FAILING_FROM: usize = 3;
/// Trackers that failed are probed about so often.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Works until the process ends.
pub(super) async fn run(shared: &Arc<Shared>) {
    tokio::join!(
        refresh(shared),
        uses(shared),
        figures(shared),
        failing(shared),
        alerts(shared),
        probes(shared),
        recovery::recoveries(shared)
    );
}

async fn refresh(shared: &Arc<Shared>) {
    let mut backoff = Backoff::SERVER;
    loop {
        let pause = match refresh_once(shared).await {
            Ok(()) => {
                backoff.reset();
                shared.options.refresh
            }
            Err(error) => {
                shared.events.store_failed(&error);
                backoff.next(rand::random())
            }
        };
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = shared.refresh.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Reads keys and switches, and makes tables that feeds lack.
pub(crate) async fn refresh_once(shared: &Arc<Shared>) -> Result<(), StoreError> {
    shared.keys.replace(shared.store.keys().await?.into_iter().map(KeyRow::from).collect());
    let mut off = SwitchNames::default();
    for switched in shared.store.switched_off().await? {
        match switched.what {
            Switch::Source => off.sources.insert(switched.name),
            Switch::Feed => off.feeds.insert(switched.name),
        };
    }
    let before = shared.sources.set_off(off.clone());
    for source in before.sources.difference(&off.sources) {
        recovery::switched_on(shared, Some(source), None).await;
    }
    for feed in before.feeds.difference(&off.feeds) {
        recovery::switched_on(shared, None, Some(feed)).await;
    }
    if *before != off {
        shared.wake.notify_one();
    }
    serve_feeds(shared).await
}

/// Makes the tables of feeds that the configuration names and the store does not know.
async fn serve_feeds(shared: &Arc<Shared>) -> Result<(), StoreError> {
    let known = shared.store.feeds();
    serve(shared, |feed| !known.iter().any(|known| known == feed)).await
}

/// Makes the tables of all feeds that the configuration names, if they are missing.
pub(crate) async fn serve_all_feeds(shared: &Arc<Shared>) -> Result<(), StoreError> {
    serve(shared, |_| true).await
}

async fn serve(shared: &Arc<Shared>, is_wanted: impl Fn(&str) -> bool) -> Result<(), StoreError> {
    let config = shared.sources.config();
    for feed in config.feeds().into_iter().filter(|feed| is_wanted(feed)) {
        match shared.store.serve_feed(feed, shared.tables.get(feed).map(String::as_str)).await {
            Ok(_) => {
                shared.events.feed(feed, None);
                shared.wake.notify_one();
            }
            Err(error) if error.may_heal() => return Err(error),
            // A person must mend it. The other feeds do not wait for that.
            Err(error) => shared.events.feed(feed, Some(&error)),
        }
    }
    Ok(())
}

async fn uses(shared: &Arc<Shared>) {
    loop {
        let goes_on = shared.sleep(USES_EVERY).await;
        let used = shared.keys.take_used();
        // A use that cannot be noted is not worth another try.
        if let Err(error) = shared.store.note_key_uses(&used).await {
            shared.events.store_failed(&error);
        }
        if !goes_on {
            return;
        }
    }
}

/// Sources of which nothing but errors came lately, and still waits: a warning.
async fn failing(shared: &Arc<Shared>) {
    while shared.sleep(FAILING_EVERY).await {
        if let Err(error) = look_for_failing(shared).await {
            shared.events.store_failed(&error);
        }
    }
}

/// Looks once.
pub(crate) async fn look_for_failing(shared: &Arc<Shared>) -> Result<(), StoreError> {
    let config = shared.sources.config();
    let mut failing = Vec::new();
    for source in &config.sources {
        let found = shared.store.failing(&source.name, i64::MAX).await?;
        if found.in_a_row >= FAILING_FROM && found.dead > 0 {
            failing.push(source.name.as_str());
        }
    }
    shared.events.failing(&failing);
    Ok(())
}

async fn figures(shared: &Arc<Shared>) {
    loop {
        let now_us = shared.now_us();
        let counted = tokio::join!(shared.store.backlog(now_us), shared.store.count_dead_letters());
        if let (Ok(backlog), Ok(dead_letters)) = counted {
            shared.events.figures(backlog, dead_letters);
        }
        if !shared.sleep(FIGURES_EVERY).await {
            return;
        }
    }
}

/// What was counted within the hour is told, and what was counted for the digest is handed over: in each process, because
/// each raises alerts of what it works on.
async fn alerts(shared: &Arc<Shared>) {
    loop {
        let goes_on = shared.sleep(ALERTS_EVERY).await;
        shared.alerts.tick();
        if let Err(error) = digest::count(shared).await {
            shared.events.store_failed(&error);
        }
        if !goes_on {
            return;
        }
    }
}

async fn probes(shared: &Arc<Shared>) {
    while shared.sleep(PROBE_EVERY).await {
        recovery::probe(shared);
    }
}

/// Keys that are about to expire within a week: an alert for each, once a day.
#[derive(Default)]
pub(super) struct ExpiringKeys {
    /// How many days each had left when it was told last.
    told: HashMap<String, i64>,
}

impl ExpiringKeys {
    /// Looks at all keys.
    pub(super) async fn look(&mut self, shared: &Shared) -> Result<(), StoreError> {
        const DAY_US: i64 = 86_400 * SECOND_US;
        let now_us = shared.now_us();
        let mut left = HashMap::new();
        for key in shared.store.keys().await? {
            let expires = key.expires_us.filter(|expires_us| (now_us..now_us + 7 * DAY_US).contains(expires_us));
            let Some(expires_us) = expires.filter(|_| key.revoked_us.is_none()) else { continue };
            let days = (expires_us - now_us) / DAY_US;
            if self.told.get(&key.id) != Some(&days) {
                let hours = (expires_us - now_us) / (3600 * SECOND_US);
                let text = format!("key {} ({}) of {} expires in {hours} hours", key.id, key.name, key.owner);
                shared.alerts.raise("key-expiring", None, &key.id, text);
            }
            left.insert(key.id, days);
        }
        self.told = left;
        Ok(())
    }
}
