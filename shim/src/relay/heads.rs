//! Carries out what the plan of the heads says (`bugfeed_core::relay::heads`).
//!
//! Goes in: how far everything is confirmed, and what does not work. Comes out: heads that are published.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bugfeed_core::relay::heads::{Event, Heads as Plan};
use bugfeed_protocol::Cursor;
use tokio::sync::Notify;

use super::Clock;
use crate::events::Telemetry;
use crate::publish::Heads;

/// The plan of the heads. The outlet tells it what is confirmed; [`say`] publishes the heads that it asks for.
#[derive(Debug, Default)]
pub(super) struct Speaker {
    plan: Mutex<Plan>,
    /// Wakes [`say`]: a head is due now.
    news: Notify,
}

impl Speaker {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn confirmed(&self, now_ms: u64, confirmed: Option<Cursor>) {
        self.hear(now_ms, Event::Confirmed(confirmed));
    }

    pub(super) fn works(&self, now_ms: u64) {
        self.hear(now_ms, Event::Works);
    }

    fn hear(&self, now_ms: u64, event: Event) {
        let mut plan = self.plan();
        plan.on(now_ms, event);
        if plan.due_ms() <= now_ms {
            self.news.notify_one();
        }
    }
}

/// Publishes heads whenever they are due. Never ends.
pub(super) async fn say(heads: Option<Heads>, speaker: &Speaker, clock: Clock, telemetry: &Telemetry) {
    let Some(heads) = heads else { return std::future::pending().await };
    loop {
        let wait_ms = speaker.plan().due_ms().saturating_sub(clock.ms());
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
            () = speaker.news.notified() => {}
        }
        let paused = telemetry.paused().map(str::to_owned);
        let head = speaker.plan().on(clock.ms(), Event::Tick { paused });
        if let Some(mut head) = head {
            head.sent = Some(super::now());
            heads.say(&head).await;
        }
    }
}
