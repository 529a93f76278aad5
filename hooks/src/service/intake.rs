//! The store, as the receiver sees it.
//!
//! Goes in: requests. Comes out: what became of each, once it is durable; or that the store is away, also while it could
//! not be opened yet.

use std::sync::Arc;

use tokio::sync::watch;

use super::Running;
use crate::receive::http::{Answering, Intake, StoreAway};
use crate::receive::received::{Accepted, Quarantined, QuarantinedRequest, ReceivedRequest, Share};
use crate::store::StoreError;

/// The store of a service, once it is open.
pub(super) struct StoreIntake(pub(super) watch::Receiver<Option<Arc<Running>>>);

impl StoreIntake {
    fn running(&self) -> Result<Arc<Running>, StoreAway> {
        self.0.borrow().clone().ok_or_else(|| StoreAway("the store is not open".to_owned()))
    }
}

fn away(error: &StoreError) -> StoreAway {
    StoreAway(error.to_string())
}

impl Intake for StoreIntake {
    fn accept(&self, request: Arc<ReceivedRequest>) -> Answering<'_, Accepted> {
        Box::pin(async move {
            let running = self.running()?;
            running.shared.receives(&request);
            let accepted = running.intake.accept(Arc::clone(&request)).await.map_err(|error| away(&error))?;
            running.shared.accepted(&request);
            running.shared.alerts.arrived(&request, &accepted);
            Ok(accepted)
        })
    }

    fn quarantine(&self, request: Arc<QuarantinedRequest>) -> Answering<'_, Quarantined> {
        Box::pin(async move {
            let running = self.running()?;
            let kept = running.shared.store.quarantine(&request).await.map_err(|error| away(&error))?;
            if kept == Quarantined::Full && request.share != Share::UnknownSource {
                running.shared.alerts.not_quarantined(&request);
            }
            Ok(kept)
        })
    }
}
