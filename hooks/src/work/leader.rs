//! What one of all processes does: it removes what is old, notices silence, asks trackers what changed, sends the digest.
//!
//! Goes in: a lease of the store. Comes out: work that ends as soon as the lease may be lost. All of it may be done twice, so
//! a process that is slow to notice does no harm.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bugfeed_protocol::backoff::Backoff;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::reconcile::StoreDesk;
use super::silences::Silences;
use super::upkeep::ExpiringKeys;
use super::{Shared, digest};
use crate::store::StoreError;
use crate::store::leases::{BEAT, Lease, SILENCE, Watch};
use crate::tracker::{SenderHook, complaints, reconcile};

/// The name of the lease.
const LEASE: &str = "upkeep";
/// A process that waits for the lease tries it so often.
const TRY_EVERY: Duration = Duration::from_millis(300);
/// Between two steps of retention, others work.
const STEP_PAUSE: Duration = Duration::from_millis(20);
/// Silence, keys and the time of the digest are looked at so often.
const MINUTE: Duration = Duration::from_secs(60);
/// Senders are asked for their own list of webhooks so often.
const SENDERS_EVERY: Duration = Duration::from_secs(900);
/// How the names of notes begin by which another process wishes that a source is reconciled; the source follows.
const WISH: &str = "reconcile soon ";
/// They are looked for so often.
const WISHES_EVERY: Duration = Duration::from_secs(2);
/// Hints that wait for a reconciler.
const HINTS: usize = 16;

/// Works until the process ends, whenever it has the lease.
pub(super) async fn run(shared: &Arc<Shared>) {
    let mut watch = Watch::default();
    let mut backoff = Backoff::SERVER;
    while !shared.stop.is_cancelled() {
        let pause = match shared.store.try_lease(LEASE, &mut watch).await {
            Ok(Some(lease)) => {
                lead(shared, lease).await;
                (watch, backoff) = (Watch::default(), Backoff::SERVER);
                continue;
            }
            Ok(None) => TRY_EVERY,
            Err(_) => backoff.next(rand::random()),
        };
        shared.sleep(pause).await;
    }
}

async fn lead(shared: &Arc<Shared>, lease: Lease) {
    let work = async {
        tokio::join!(retention(shared), minutes(shared), senders(shared), wishes(shared), reconcilers(shared));
    };
    let is_held = tokio::select! {
        () = work => true,
        () = hold(&lease) => false,
        () = shared.stop.cancelled() => true,
    };
    shared.set_hints(HashMap::new());
    if is_held {
        // If this fails, the next one waits a few seconds.
        let _ = lease.release().await;
    }
}

/// Shows that this process lives, until the lease is lost or may be.
async fn hold(lease: &Lease) {
    let mut shown = Instant::now();
    loop {
        tokio::time::sleep(BEAT).await;
        match tokio::time::timeout(BEAT, lease.beat()).await {
            Ok(Ok(true)) => shown = Instant::now(),
            Ok(Ok(false)) => return,
            Ok(Err(_)) | Err(_) if shown.elapsed() + BEAT >= SILENCE => return,
            Ok(Err(_)) | Err(_) => {}
        }
    }
}

/// Removes what is old, in small steps.
async fn retention(shared: &Arc<Shared>) {
    loop {
        if let Err(error) = retain_once(shared).await {
            shared.events.store_failed(&error);
        }
        tokio::time::sleep(shared.options.retain_every).await;
    }
}

async fn retain_once(shared: &Shared) -> Result<(), StoreError> {
    let mut run = shared.store.begin_retention(shared.options.keep, shared.now_us()).await?;
    loop {
        let removed = shared.store.retain(&mut run).await?;
        shared.events.retained(removed.rows);
        if removed.is_done {
            return Ok(());
        }
        tokio::time::sleep(STEP_PAUSE).await;
    }
}

/// What is looked at every minute.
async fn minutes(shared: &Arc<Shared>) {
    let mut silences = Silences::default();
    let mut keys = ExpiringKeys::default();
    loop {
        let looked = async {
            digest::send(shared).await?;
            silences.tick(shared).await?;
            keys.look(shared).await
        };
        if let Err(error) = looked.await {
            shared.events.store_failed(&error);
        }
        tokio::time::sleep(MINUTE).await;
    }
}

/// Has a source's tracker asked what changed: by this process if it leads, otherwise by the one that finds the note.
///
/// # Errors
/// When the note cannot be written.
pub(crate) async fn reconcile_soon(shared: &Shared, source: &str) -> Result<(), StoreError> {
    if !shared.hint(source, reconcile::Hint::Hurry) {
        // If there is one already, it was not seen yet.
        shared.store.change_note(&format!("{WISH}{source}"), None, Some("1")).await?;
    }
    Ok(())
}

/// Looks for what other processes were asked to have reconciled.
async fn wishes(shared: &Arc<Shared>) {
    loop {
        match shared.store.notes_like(WISH).await {
            Ok(notes) => {
                for (name, value) in notes {
                    let source = name.strip_prefix(WISH).unwrap_or_default();
                    let is_taken = shared.store.change_note(&name, Some(&value), None).await;
                    if is_taken.is_ok_and(|is_taken| is_taken) {
                        shared.hint(source, reconcile::Hint::Hurry);
                    }
                }
            }
            Err(error) => shared.events.store_failed(&error),
        }
        tokio::time::sleep(WISHES_EVERY).await;
    }
}

/// Asks senders for their own lists of webhooks.
async fn senders(shared: &Arc<Shared>) {
    let mut before: HashMap<String, Vec<SenderHook>> = HashMap::new();
    loop {
        for (name, state) in &shared.sources.table().sources {
            let can_tell = state.config.tracker_key_file.is_some() && state.config.preset == Some("bugzilla");
            let Some(asker) = state.asker.as_ref().filter(|_| can_tell) else { continue };
            let asked = asker.sender_hooks().await;
            shared.events.sender_said(name, &asked);
            let hooks = match asked {
                Ok(hooks) => hooks,
                Err(trouble) => {
                    shared.events.sender(name, Some(&format!("its list of webhooks cannot be read: {trouble}")));
                    continue;
                }
            };
            let alerts = complaints(name, before.get(name).map_or(&[], Vec::as_slice), &hooks);
            let texts: Vec<&str> = alerts.iter().map(|alert| alert.text.as_str()).collect();
            shared.events.sender(name, (!texts.is_empty()).then(|| texts.join("; ")).as_deref());
            if !alerts.is_empty() {
                shared.hint(name, reconcile::Hint::Hurry);
            }
            for alert in alerts {
                shared.alerts.raise(alert.subject, Some(name), &alert.cause, alert.text);
            }
            before.insert(name.clone(), hooks);
        }
        tokio::time::sleep(SENDERS_EVERY).await;
    }
}

/// Runs the reconcilers of the configuration of now.
async fn reconcilers(shared: &Arc<Shared>) {
    let mut changes = shared.sources.changes();
    loop {
        changes.borrow_and_update();
        let mut tasks = JoinSet::new();
        let mut hints: HashMap<String, Vec<mpsc::Sender<reconcile::Hint>>> = HashMap::new();
        for (name, state) in &shared.sources.table().sources {
            let Some(asker) = state.asker.as_ref().filter(|_| state.config.reconcile.is_some()) else { continue };
            for scope in asker.tracker().scopes() {
                let (sender, receiver) = mpsc::channel(HINTS);
                hints.entry(name.clone()).or_default().push(sender);
                let desk = Arc::new(StoreDesk(Arc::clone(shared)));
                tasks.spawn(reconcile::run(Arc::clone(asker), scope.clone(), desk, receiver));
            }
        }
        shared.set_hints(hints);
        // Ends the tasks when this is dropped: the store has all that they need to go on.
        if changes.changed().await.is_err() {
            return;
        }
        drop(tasks);
    }
}
