//! Group commit: saves that wait are written together.
//!
//! Goes in: saves, one at a time for each endpoint. Comes out: what became of each. One task writes; while it does, others
//! queue up, and go together into the next transaction. So the more there is to write, the less each costs. The task also
//! keeps the log of attempts within its bound.

use std::collections::HashSet;
use std::future::Future;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::save::MOST;
use super::{Save, Saved};
use crate::store::{Store, StoreError};

type Outcome = Result<Saved, StoreError>;

/// A save, and who waits for it.
#[derive(Debug)]
struct Waiting {
    save: Save,
    tell: oneshot::Sender<Outcome>,
}

/// A queue of saves. Clones share it. When all clones are gone, the task writes what waits, and ends.
#[derive(Clone, Debug)]
pub struct SaveQueue {
    /// It holds at most one save of each endpoint, because a planner waits for one before the next.
    queue: UnboundedSender<Waiting>,
}

impl SaveQueue {
    /// Starts the task that writes.
    pub fn start(store: Store) -> SaveQueue {
        let (queue, waiting) = unbounded_channel();
        tokio::spawn(write(store, waiting));
        SaveQueue { queue }
    }

    /// Puts a save into the queue, at once; the future says what became of it. If the future is dropped, it is written all
    /// the same.
    ///
    /// # Errors
    /// When the database cannot be written: it is not known whether the row was written. Or the store is being closed.
    pub fn save(&self, save: Save) -> impl Future<Output = Result<Saved, StoreError>> + Send + use<> {
        let (tell, told) = oneshot::channel();
        // If the task is gone, so is `tell`.
        let _ = self.queue.send(Waiting { save, tell });
        async move { told.await.unwrap_or(Err(StoreError::Closed)) }
    }
}

async fn write(store: Store, mut waiting: UnboundedReceiver<Waiting>) {
    // If this fails, retention counts them, at the latest.
    let _ = store.count_attempts().await;
    let (mut taken, mut rest) = (Vec::new(), Vec::new());
    loop {
        taken.append(&mut rest);
        if taken.is_empty() && waiting.recv_many(&mut taken, MOST).await == 0 {
            return;
        }
        rest = of_other_turns(&mut taken);
        let (saves, tells): (Vec<Save>, Vec<_>) = taken.drain(..).map(|one| (one.save, one.tell)).unzip();
        for (tell, outcome) in tells.into_iter().zip(save_all(&store, &saves).await) {
            // Whoever does not wait any more need not be told.
            let _ = tell.send(outcome);
        }
        // What fails here is tried again after the next transaction.
        let _ = store.bound_attempts().await;
    }
}

/// Takes out the second save of an endpoint: one transaction writes an endpoint once.
fn of_other_turns(taken: &mut Vec<Waiting>) -> Vec<Waiting> {
    let mut seen = HashSet::with_capacity(taken.len());
    taken.extract_if(.., |one| !seen.insert(one.save.id.clone())).collect()
}

async fn save_all(store: &Store, saves: &[Save]) -> Vec<Outcome> {
    match store.save_endpoints(saves).await {
        Ok(saved) => saved.into_iter().map(Ok).collect(),
        // One row that the database refuses must not hold up the others.
        Err(error) if !error.may_heal() && saves.len() > 1 => {
            let mut all = Vec::with_capacity(saves.len());
            for save in saves {
                let one = store.save_endpoints(std::slice::from_ref(save)).await;
                all.push(one.and_then(|mut saved| saved.pop().ok_or(StoreError::Closed)));
            }
            all
        }
        Err(error) => vec![Err(error); saves.len()],
    }
}
