//! What is tried again because its cause may be mended, and the questions that find out whether it is.
//!
//! Goes in: a reload, a tracker's first success, a switch. Comes out: orders of the core for each event that is concerned,
//! in transactions of a bounded number of rows. What is ordered here and not carried out, because the store is away or the
//! process dies, comes with the schedule of each event.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bugfeed_core::hooks::SECOND_US;
use bugfeed_core::hooks::event::{ErrorClass, EventId, State};
use bugfeed_core::hooks::orders::Order;
use bugfeed_protocol::backoff::Backoff;
use tokio::task::JoinSet;

use super::Shared;
use super::gates::SourceState;
use crate::store::StoreError;
use crate::tracker::Asker;

/// So many events are ordered in one transaction.
const AT_ONCE: usize = 250;
/// If there is no dead letter to ask for, it is looked again after so long.
const PROBE_AGAIN_US: i64 = 5 * SECOND_US;

/// Dead letters of this class, of one source or of all, are tried at once, at the pace of their sources.
pub(crate) async fn mended(shared: &Arc<Shared>, class: ErrorClass, source: Option<&str>) {
    let count = persist(shared, State::Errored, source, None, Order::Mended(class)).await;
    if count > 0 {
        shared.events.hastened(class, source, count);
    }
}

/// Events of a source or a feed that is switched on again go on. Those that another task, or another process, was just
/// about to store as switched off go on a little later.
pub(crate) async fn switched_on(shared: &Arc<Shared>, source: Option<&str>, feed: Option<&str>) {
    persist(shared, State::Disabled, source, feed, Order::SwitchOn).await;
    let (source, feed) = (source.map(str::to_owned), feed.map(str::to_owned));
    let shared = Arc::clone(shared);
    shared.questions.clone().spawn(async move {
        if shared.sleep(shared.options.switch_again).await {
            let again = persist(&shared, State::Disabled, source.as_deref(), feed.as_deref(), Order::SwitchOn);
            shared.stop.run_until_cancelled(again).await;
        }
    });
}

/// Hears when trackers work again, and has the dead letters of their sources tried.
pub(super) async fn recoveries(shared: &Arc<Shared>) {
    let mut changes = shared.sources.changes();
    while !shared.stop.is_cancelled() {
        changes.borrow_and_update();
        let mut tasks = JoinSet::new();
        for (name, state) in &shared.sources.table().sources {
            if let Some(asker) = state.asker.clone() {
                tasks.spawn(recover(Arc::clone(shared), name.clone(), asker));
            }
        }
        tokio::select! {
            () = shared.stop.cancelled() => {}
            _ = changes.changed() => {}
        }
    }
}

async fn recover(shared: Arc<Shared>, source: String, asker: Arc<Asker>) {
    loop {
        asker.recovered().await;
        shared.events.tracker_back(&source);
        // A task of its own: a reload ends this one, and the breaker says only once that the tracker is back.
        let (all, source) = (Arc::clone(&shared), source.clone());
        shared.questions.spawn(async move {
            let stop = all.stop.clone();
            stop.run_until_cancelled(mended(&all, ErrorClass::Tracker, Some(&source))).await;
        });
    }
}

/// Gives the order until the store has taken it. It may be given twice.
async fn persist(shared: &Arc<Shared>, state: State, source: Option<&str>, feed: Option<&str>, order: Order) -> usize {
    let mut backoff = Backoff::SERVER;
    loop {
        match order_all(shared, state, source, feed, order).await {
            Ok(count) => return count,
            Err(error) => shared.events.store_failed(&error),
        }
        if !shared.sleep(backoff.next(rand::random())).await {
            return 0;
        }
    }
}

async fn order_all(
    shared: &Arc<Shared>,
    state: State,
    source: Option<&str>,
    feed: Option<&str>,
    order: Order,
) -> Result<usize, StoreError> {
    let (mut after, mut count) = (None::<EventId>, 0);
    loop {
        let mut ids = shared.store.in_state(state, source, feed, after, AT_ONCE).await?;
        let Some(last) = ids.last().copied() else { return Ok(count) };
        if order == Order::SwitchOn {
            ids = wanted(shared, ids).await?;
        }
        count += shared.store.order_all(&ids, order, shared.now_us()).await?;
        shared.wake.notify_one();
        after = Some(last);
    }
}

/// Those of the events that are not switched off for another reason.
async fn wanted(shared: &Shared, ids: Vec<EventId>) -> Result<Vec<EventId>, StoreError> {
    let (table, off) = (shared.sources.table(), shared.sources.off());
    let mut wanted = Vec::with_capacity(ids.len());
    for id in ids {
        let event = shared.store.event(id).await?;
        wanted.extend(event.filter(|event| table.settings(&off, event).on).map(|event| event.id));
    }
    Ok(wanted)
}

/// Asks trackers that have failed whether they work again, where nothing else does. To be called every second or so.
pub(super) fn probe(shared: &Arc<Shared>) {
    for state in shared.sources.table().sources.values() {
        let Some(asker) = &state.asker else { continue };
        let now_us = shared.now_us();
        let probe_from_us = asker.breaker().probe_from(now_us);
        let is_owed = probe_from_us.is_some_and(|from_us| from_us <= now_us);
        let again_us = state.probe_from_us.load(Ordering::Relaxed);
        let is_soon = again_us > now_us && again_us <= now_us + PROBE_AGAIN_US;
        if !is_owed || is_soon || state.is_probing.swap(true, Ordering::Relaxed) {
            continue;
        }
        state.probe_from_us.store(now_us + PROBE_AGAIN_US, Ordering::Relaxed);
        let (shared, state) = (Arc::clone(shared), Arc::clone(state));
        shared.questions.clone().spawn(async move {
            if let Some(Err(error)) = shared.give_up.run_until_cancelled(probe_one(&shared, &state)).await {
                shared.events.store_failed(&error);
            }
            state.is_probing.store(false, Ordering::Relaxed);
        });
    }
}

async fn probe_one(shared: &Arc<Shared>, state: &SourceState) -> Result<(), StoreError> {
    let (Some(asker), Some(event)) = (&state.asker, shared.store.to_probe(&state.config.name).await?) else {
        return Ok(());
    };
    let Some(bug) = event.bug else { return Ok(()) };
    // What is found out about the event itself counts for nothing. Of a success, `recoveries` hears.
    asker.look(&event.feed, bug, shared.now_us(), shared.options.look_within).await;
    Ok(())
}
