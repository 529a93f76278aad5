//! Heads: every two seconds, where the feed is and whether anything can come.
//!
//! Goes in: how far everything is confirmed, and what does not work. Comes out: heads, as long as the lease is held and the
//! way to the bus was looked at. A gateway learns from them that it hears, that it has everything, and who publishes.

use std::time::Duration;

use bugfeed_protocol::bus::Head;

use super::way::Confirmed;
use crate::events::Telemetry;
use crate::publish::Heads;

/// How often a head is said.
const INTERVAL: Duration = Duration::from_secs(2);

/// Never ends.
pub(super) async fn say(heads: Option<Heads>, confirmed: &Confirmed, telemetry: &Telemetry) {
    let Some(heads) = heads else { return std::future::pending().await };
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = confirmed.news.notified() => {}
        }
        let Some(cursor) = confirmed.get() else { continue };
        let interval_ms = u64::try_from(INTERVAL.as_millis()).unwrap_or(u64::MAX);
        heads.say(&Head { cursor, interval_ms, paused: telemetry.paused().map(str::to_owned) }).await;
    }
}
