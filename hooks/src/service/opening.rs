//! Opens the store, now or when it is there, and runs the executor on it.

use std::sync::Arc;

use bugfeed_core::hooks::event::ErrorClass;
use bugfeed_protocol::backoff::Backoff;
use bugfeed_sql::DbUrl;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::intake::{self, Intake};
use crate::store::{self, Opened, Store, StoreError};
use crate::work::{self, MatcherTask, Parts, Shared};

/// An open store, and the executor on it.
pub(super) struct Running {
    pub(super) shared: Arc<Shared>,
    pub(super) intake: Intake,
    pub(super) is_new: bool,
}

/// What is needed to open the store.
pub(super) struct Opening {
    pub(super) url: DbUrl,
    pub(super) store: store::Options,
    pub(super) parts: Parts,
    pub(super) running: watch::Sender<Option<Arc<Running>>>,
    pub(super) intake_stop: CancellationToken,
    pub(super) matcher: MatcherTask,
}

impl Opening {
    /// Opens the store, unless it is open already, and works until the process ends.
    pub(super) async fn run(self, first: Option<Opened>) {
        let stop = self.parts.stop.clone();
        let Some(opened) = stop.run_until_cancelled(self.open(first)).await else { return };
        let Opened { store, is_new } = opened;
        let sources = Arc::clone(&self.parts.sources);
        store.set_rules(Arc::new(move |event| sources.rule(event)));
        let shared = Arc::new(Shared::new(store.clone(), &self.parts));
        if stop.run_until_cancelled(prepare(&shared)).await.is_none() {
            store.close().await;
            return;
        }
        let (intake, intake_task) = intake::intake(&store);
        self.running.send_replace(Some(Arc::new(Running { shared: Arc::clone(&shared), intake, is_new })));
        let retry = stop.run_until_cancelled(try_again(&shared));
        let matching = self.matcher.run(store, stop.clone());
        tokio::join!(work::run(Arc::clone(&shared)), intake_task.run(self.intake_stop), matching, retry);
    }

    async fn open(&self, first: Option<Opened>) -> Opened {
        if let Some(opened) = first {
            return opened;
        }
        let mut backoff = Backoff::SERVER;
        loop {
            match Store::open(&self.url, self.store.clone()).await {
                Ok(opened) => return opened,
                Err(error) => self.parts.events.store_failed(&error),
            }
            tokio::time::sleep(backoff.next(rand::random())).await;
        }
    }
}

/// What must be done before anything is received: tables of feeds, keys, switches.
async fn prepare(shared: &Arc<Shared>) {
    let mut backoff = Backoff::SERVER;
    loop {
        let prepared: Result<(), StoreError> = async {
            work::serve_all_feeds(shared).await?;
            work::refresh_once(shared).await
        }
        .await;
        match prepared {
            Ok(()) => return,
            Err(error) => shared.events.store_failed(&error),
        }
        tokio::time::sleep(backoff.next(rand::random())).await;
    }
}

/// After a start or a reload: the configuration may have mended what failed, and switched on what was not.
pub(super) async fn try_again(shared: &Arc<Shared>) {
    if let Err(error) = work::refresh_once(shared).await {
        shared.events.store_failed(&error);
    }
    work::mended(shared, ErrorClass::Mapping, None).await;
    work::unread_requests(shared).await;
    work::switched_on(shared, None, None).await;
}
