//! Requests that were accepted before and are received once more from their bodies.
//!
//! Goes in: a request of which the whole body is kept, by the order of a person or after a reload. Comes out: the same
//! request, mapped by the configuration of now, as a replay. Of a request that nothing could be read of, only the body is
//! kept, not its items; so a reload tries it in this way, and stores it only if it can be read now. If nothing of it concerns a
//! bug now, its dead letter ends as `ignored`. Nobody's key is checked again, but items that the key may not send are not
//! announced.

use std::sync::Arc;

use bugfeed_core::hooks::arrival::Mapping;
use bugfeed_core::hooks::event::{ErrorClass, State, Trigger};
use bugfeed_core::hooks::orders::{Order, stands_for_a_request};
use futures::future::BoxFuture;
use rand::random;

use super::Shared;
use crate::config::{HooksConfig, Source};
use crate::receive::http::{KeyRow, KeyTable, Trust, recheck};
use crate::receive::received::{Failure, Proof, QuarantinedRequest, ReceivedRequest, RequestId, Share};
use crate::store::events::Detail;
use crate::store::requests::StoredRequest;
use crate::store::{Store, StoreError};

/// So many dead letters are looked at in one step.
const AT_ONCE: usize = 250;
/// So many requests are tried after a reload. The bound of all bodies (64 MiB) comes first, unless they are small.
const MOST: usize = 10_000;

/// An identifier for a request that is made now.
pub(crate) fn fresh(now_us: i64) -> RequestId {
    RequestId::new(now_us, random::<[u8; 10]>())
}

/// The request as it would be received now; `None`: its body is not kept. Nothing is stored.
///
/// # Errors
/// When the store cannot be read.
pub(crate) async fn once_more(
    store: &Store,
    source: &Source,
    request: &StoredRequest,
    now_us: i64,
) -> Result<Option<ReceivedRequest>, StoreError> {
    let id = request.envelope.id;
    let Some(body) = store.body(id).await? else { return Ok(None) };
    let mut envelope = request.envelope.clone();
    envelope.body = Some(body.into());
    let failure = Failure { error: String::new(), fix: String::new() };
    // It was let in before, so nothing is checked but what its key may do.
    let as_before = QuarantinedRequest { envelope, share: Share::KnownSender, failure, proof: Proof::default() };
    let source = source.clone();
    let mapping = move || recheck(&source, &KeyTable::new(), &as_before, fresh(now_us), now_us, Trust::Person);
    // A large body takes up to a second.
    let Ok(Ok(mut again)) = tokio::task::spawn_blocking(mapping).await else { return Ok(None) };
    again.replays = Some(id);
    if let Some(key_id) = &request.envelope.key_id
        && let Some(key) = store.key(key_id).await?
    {
        let row = KeyRow::from(key);
        for item in again.items.iter_mut().filter(|item| item.mapping == Mapping::Fits && !row.may_feed(&item.feed)) {
            item.mapping = Mapping::ProjectMismatch;
        }
    }
    Ok(Some(again))
}

/// After a start or a reload: receives the requests once more that nothing could be read of, and that can be read now.
/// What the store does not do now, the next reload does.
pub(crate) async fn unread_requests(shared: &Arc<Shared>) {
    match try_unread(shared).await {
        Ok(0) => {}
        Ok(count) => shared.events.hastened(ErrorClass::Mapping, None, count),
        Err(error) => shared.events.store_failed(&error),
    }
}

async fn try_unread(shared: &Arc<Shared>) -> Result<usize, StoreError> {
    let (store, config) = (&shared.store, shared.sources.config());
    let (mut after, mut tried, mut count) = (None, 0, 0);
    loop {
        let ids = store.in_state(State::Errored, None, None, after, AT_ONCE).await?;
        let Some(last) = ids.last().copied() else { return Ok(count) };
        for id in ids {
            let stands = |detail: &Detail| detail.stored.item == 0 && stands_for_a_request(&detail.stored.event);
            let Some(detail) = store.detail(id).await?.filter(stands) else { continue };
            if tried >= MOST {
                return Ok(count);
            }
            tried += 1;
            count += usize::from(try_one(shared, &config, detail.stored.request()).await?);
        }
        after = Some(last);
    }
}

/// Boxed, because the compiler cannot prove that so deep a future may change threads.
fn try_one<'a>(
    shared: &'a Arc<Shared>,
    config: &'a HooksConfig,
    id: RequestId,
) -> BoxFuture<'a, Result<bool, StoreError>> {
    Box::pin(async move {
        let store = &shared.store;
        let Some(request) = store.request(id).await? else { return Ok(false) };
        let Some(source) = config.source(&request.envelope.source) else { return Ok(false) };
        let Some(mut again) = once_more(store, source, &request, shared.now_us()).await? else { return Ok(false) };
        again.trigger = Trigger::Drain;
        if again.failure.is_none() && again.items.is_empty() {
            // Nothing of it concerns a bug, so there is nothing to store, and nothing to wait for.
            return Ok(store.order_all(&[id.event(0)], Order::Ignored, shared.now_us()).await? > 0);
        }
        if again.failure.is_some() || again.items.iter().all(|item| item.mapping == Mapping::Failed) {
            return Ok(false);
        }
        // Where another reload or process was quicker, nothing is stored.
        let accepted = store.accept(&[&again]).await?;
        shared.wake.notify_one();
        Ok(accepted.iter().any(|accepted| !accepted.items.is_empty()))
    })
}
