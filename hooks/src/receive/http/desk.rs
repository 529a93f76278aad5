//! Where a request goes: to the store, or to the spool while the store is away.
//!
//! Goes in: a request. Comes out: who has it now, durably. While the store is away, nothing waits for it: one task tries
//! it with the oldest request of the spool (`replay.rs`), and requests go past the spool again once that one was taken. So requests may reach the store in another order than they came; events are ordered by their times.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bugfeed_protocol::backoff::Backoff;
use tokio::time::timeout;

use super::events::ReceiverEvents;
use super::intake::{Intake, StoreAway};
use super::keys::KeyTable;
use super::limits::ReceiverLimits;
use crate::config::HooksConfig;
use crate::receive::received::{Accepted, Proof, Quarantined, QuarantinedRequest, ReceivedRequest};
use crate::receive::spool::{Record, Room, Spool, SpoolError};

/// Who has a request now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Taken<T> {
    /// The store, which says what became of it.
    Stored(T),
    /// The spool.
    Spooled,
    /// Nobody.
    Lost,
}

pub(super) struct Desk {
    pub(super) intake: Arc<dyn Intake>,
    pub(super) spool: Spool,
    pub(super) keys: KeyTable,
    pub(super) config: RwLock<Arc<HooksConfig>>,
    pub(super) events: Arc<ReceiverEvents>,
    pub(super) store_wait: Duration,
    /// When a store that is away is tried again.
    pub(super) backoff: Backoff,
    is_away: AtomicBool,
    /// Requests that the store took.
    stored: AtomicU64,
    /// One request may ask the store although it seems to be away.
    may_probe: AtomicBool,
}

impl Desk {
    pub(super) fn new(
        intake: Arc<dyn Intake>,
        spool: Spool,
        keys: KeyTable,
        config: Arc<HooksConfig>,
        events: Arc<ReceiverEvents>,
        limits: &ReceiverLimits,
    ) -> Desk {
        let config = RwLock::new(config);
        events.spool_is(&spool);
        Desk {
            intake,
            spool,
            keys,
            config,
            events,
            store_wait: limits.store_wait,
            backoff: Backoff::new(limits.retry_first, limits.retry_longest),
            is_away: AtomicBool::new(false),
            stored: AtomicU64::new(0),
            may_probe: AtomicBool::new(false),
        }
    }

    pub(super) fn config(&self) -> Arc<HooksConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a request from somebody who may send.
    pub(super) async fn accept(&self, request: &Arc<ReceivedRequest>) -> Taken<Accepted> {
        let record = || Record::Received { request: (**request).clone() };
        self.take(|| self.store(self.intake.accept(Arc::clone(request))), record, Room::All).await
    }

    /// Takes a request for quarantine.
    pub(super) async fn quarantine(&self, request: &Arc<QuarantinedRequest>) -> Taken<Quarantined> {
        let record = || Record::Quarantined { request: (**request).clone() };
        self.take(|| self.store(self.intake.quarantine(Arc::clone(request))), record, Room::Quarter).await
    }

    /// Takes a request whose key can only be checked later.
    pub(super) async fn unchecked(&self, request: &Arc<ReceivedRequest>, proof: Proof) -> Taken<Accepted> {
        let record = Record::Unchecked { request: (**request).clone(), proof };
        match self.append(&record, Room::Half).await {
            Ok(()) => Taken::Spooled,
            Err(error) => self.lose(&record, "keys were not read yet", &error),
        }
    }

    async fn take<T, S: Future<Output = Result<T, StoreAway>>>(
        &self,
        store: impl Fn() -> S,
        record: impl Fn() -> Record,
        room: Room,
    ) -> Taken<T> {
        let mut why = None;
        if !self.is_away() || self.may_probe.swap(false, Ordering::Relaxed) {
            match store().await {
                Ok(taken) => return Taken::Stored(taken),
                Err(away) => why = Some(away.0),
            }
        }
        let record = record();
        let spooled = self.append(&record, room).await;
        let error = match (spooled, &why) {
            (Ok(()), Some(why)) => {
                self.is_away_now(why);
                return Taken::Spooled;
            }
            (Ok(()), None) => return Taken::Spooled,
            (Err(error), _) => error,
        };
        // The spool does not take it. If the store was only thought to be away, it is asked after all.
        let why = match why {
            Some(why) => why,
            None => match store().await {
                Ok(taken) => return Taken::Stored(taken),
                Err(away) => away.0,
            },
        };
        self.lose(&record, &why, &error)
    }

    fn lose<T>(&self, record: &Record, store: &str, error: &SpoolError) -> Taken<T> {
        self.events.lost(&record.envelope().source, store, &error.to_string());
        Taken::Lost
    }

    async fn append(&self, record: &Record, room: Room) -> Result<(), SpoolError> {
        let appended = self.spool.append(record, room).await;
        match &appended {
            Ok(()) => self.events.spooled(&self.spool),
            Err(_) => self.events.spool_is(&self.spool),
        }
        appended
    }

    /// The store's answer, within bounds.
    pub(super) async fn store<T>(&self, answering: impl Future<Output = Result<T, StoreAway>>) -> Result<T, StoreAway> {
        let late = || StoreAway(format!("no answer within {} s", self.store_wait.as_secs_f32()));
        let answer = timeout(self.store_wait, answering).await.unwrap_or_else(|_| Err(late()));
        if answer.is_ok() {
            self.stored.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }

    /// How many requests the store took.
    pub(super) fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }

    /// Lets one request ask the store, although it seems to be away.
    pub(super) fn probe(&self) {
        self.may_probe.store(true, Ordering::Relaxed);
    }

    /// Whether requests go to the spool without asking the store. The task that replays asks it for all of them.
    fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Relaxed) && !self.spool.is_empty()
    }

    /// It took a request, or nothing waits for it.
    pub(super) fn is_back(&self) {
        self.is_away.store(false, Ordering::Relaxed);
    }

    pub(super) fn is_away_now(&self, why: &str) {
        if !self.is_away.swap(true, Ordering::Relaxed) {
            self.events.store_away(why);
        }
    }
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Desk")
    }
}
