//! The loop of a process: what is due, planned and carried out.
//!
//! Live lanes come first, as many as fit in one transaction; then of each source as many paced ones as it has tokens. Looks
//! again at once while there is something to do, when something was accepted, and when the next event is due. An error of
//! the store ends a round; it begins again with a back-off, and nothing is lost by that.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bugfeed_core::hooks::event::{Event, State};
use bugfeed_core::hooks::lane::{Lane, LaneKey};
use bugfeed_protocol::backoff::Backoff;

use super::batch::{self, Planned};
use super::rests::Rests;
use super::{Shared, micros, until};
use crate::store::apply::Applied;
use crate::store::{Look, StoreError};

/// Paced lanes of sources that are not configured any more, of one look.
const ORPHANS: usize = 100;
/// Orphans are looked for at most so often, in microseconds.
const ORPHANS_EVERY_US: i64 = 5_000_000;

/// Works until the process ends.
pub(super) async fn run(shared: &Arc<Shared>) {
    let mut worker = Worker { shared, rests: Rests::default(), orphans_us: AtomicI64::new(i64::MIN) };
    let mut backoff = Backoff::SERVER;
    while !shared.stop.is_cancelled() {
        let pause = match worker.round().await {
            Ok(Round { did_something: true, .. }) => {
                backoff.reset();
                shared.events.store_works();
                tokio::task::yield_now().await;
                continue;
            }
            Ok(round) => {
                backoff.reset();
                shared.events.store_works();
                round.pause
            }
            Err(error) => {
                shared.events.store_failed(&error);
                backoff.next(rand::random())
            }
        };
        let is_error = backoff.failures() > 0;
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = shared.wake.notified(), if !is_error => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

struct Worker<'a> {
    shared: &'a Arc<Shared>,
    rests: Rests,
    /// When lanes of sources that are not configured were last looked for.
    orphans_us: AtomicI64,
}

struct Round {
    did_something: bool,
    pause: Duration,
}

impl Worker<'_> {
    /// One look at everything that is due.
    async fn round(&mut self) -> Result<Round, StoreError> {
        let look = self.shared.look();
        let (now_us, lanes) = (look.now_us, self.shared.options.lanes);
        let without = self.rests.feeds(now_us);
        let due = self.shared.store.due_lanes_but(&look, false, lanes + self.rests.len(), &without).await?;
        let keys = due.into_iter().map(|due| due.key).filter(|key| !self.rests.is_resting(key, now_us));
        let live: Vec<LaneKey> = keys.take(lanes).collect();
        let mut did_something = self.work(live).await?;
        let (paced, token_us) = self.paced(&look).await?;
        did_something |= self.work(paced).await?;
        let next_us = self.shared.store.next_due(now_us).await?;
        let next_us = [next_us, token_us, self.rests.next_us(now_us)].into_iter().flatten().min();
        let pause = next_us.map_or(self.shared.options.poll, |next_us| until(self.shared.now_us(), next_us));
        Ok(Round { did_something, pause: pause.clamp(Duration::from_millis(1), self.shared.options.poll) })
    }

    /// The paced lanes that may be begun, and when there are tokens for those that may not.
    async fn paced(&self, look: &Look) -> Result<(Vec<LaneKey>, Option<i64>), StoreError> {
        let (table, now_us) = (self.shared.sources.table(), look.now_us);
        let (mut keys, mut token_us) = (Vec::new(), None::<i64>);
        for (name, state) in &table.sources {
            let (tokens, next_us) = state.tokens(now_us);
            let room = self.shared.options.lanes.min(usize::try_from(tokens).unwrap_or(usize::MAX));
            let limit = room.max(1) + self.rests.len();
            let found = self.shared.store.due_paced(name, look, limit).await?;
            let may = found.into_iter().filter(|key| !self.rests.is_resting(key, now_us));
            let found: Vec<LaneKey> = may.collect();
            if found.len() > room || (room == 0 && !found.is_empty()) {
                token_us = Some(token_us.map_or(next_us, |old| old.min(next_us)));
            }
            keys.extend(found.into_iter().take(room));
        }
        if now_us.saturating_sub(self.orphans_us.load(Ordering::Relaxed)) >= ORPHANS_EVERY_US {
            self.orphans_us.store(now_us, Ordering::Relaxed);
            for name in self.shared.store.paced_sources().await? {
                if !table.sources.contains_key(&name) {
                    keys.extend(self.shared.store.due_paced(&name, look, ORPHANS).await?);
                }
            }
        }
        Ok((keys, token_us))
    }

    /// Plans these lanes and carries the plans out. Returns whether anything was changed.
    async fn work(&mut self, keys: Vec<LaneKey>) -> Result<bool, StoreError> {
        if keys.is_empty() {
            return Ok(false);
        }
        let shared = self.shared;
        let lanes = shared.store.lanes(&keys, &shared.look()).await?;
        let now_us = shared.now_us();
        let mut planned: Vec<Planned> = Vec::with_capacity(keys.len());
        for (key, lane) in keys.into_iter().zip(&lanes) {
            if let Some(until_us) = self.is_anothers(lane, now_us) {
                self.rests.leave(&key, now_us, until_us);
                continue;
            }
            let plan = batch::next(shared, key, lane, now_us);
            if plan.does_something() {
                planned.push(plan);
            } else {
                // It is due, and there is nothing to do: an out of date row, or something that waits for a token.
                match plan.wait_us.filter(|wait_us| *wait_us > now_us) {
                    Some(wait_us) => self.rests.leave(&plan.key, now_us, wait_us),
                    None => self.rests.fail(&plan.key, now_us, rand::random()),
                }
            }
        }
        self.carry_out(planned, now_us).await
    }

    async fn carry_out(&mut self, mut planned: Vec<Planned>, now_us: i64) -> Result<bool, StoreError> {
        let plans: Vec<_> = planned.iter_mut().map(|planned| std::mem::take(&mut planned.plan)).collect();
        let applied = self.shared.store.apply_many(&plans).await?;
        let mut did_something = false;
        for ((mut planned, plan), applied) in planned.into_iter().zip(plans).zip(applied) {
            match applied {
                Applied::Done => {
                    did_something = true;
                    self.rests.forget(&planned.key);
                    planned.plan = plan;
                    planned.follow(self.shared);
                }
                Applied::Refused => self.rests.refuse(&planned.key, now_us),
                Applied::Stale => {
                    self.shared.events.stale();
                    self.rests.fail(&planned.key, now_us, rand::random());
                }
            }
        }
        Ok(did_something)
    }

    /// Until when a lane is left to the process that received its new events, so that two do not do the same work.
    fn is_anothers(&self, lane: &Lane, now_us: i64) -> Option<i64> {
        let grace_us = micros(self.shared.options.grace);
        let is_fresh = |event: &&Event| {
            let is_new = event.progress.state == State::Queued && !event.is_paced();
            is_new && (0..grace_us).contains(&(now_us - event.received_us))
        };
        let mut fresh = lane.open.iter().filter(is_fresh);
        let first = fresh.next()?;
        let is_own = self.shared.has_received(first.id) || fresh.any(|event| self.shared.has_received(event.id));
        (!is_own).then_some(first.received_us + grace_us)
    }
}
