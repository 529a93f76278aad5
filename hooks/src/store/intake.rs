//! Group commit: what arrives while the last transaction is committed goes into the next one together.
//!
//! Goes in: single requests, from many tasks. Comes out: for each, what became of it, once it is durable; or the error
//! of its transaction. Holds no request back to wait for others. Bounded: those who hand over more than it takes, wait.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Store, StoreError};
use crate::receive::http::{self as receiver, Answering, StoreAway};
use crate::receive::received::{Accepted, Quarantined, QuarantinedRequest, ReceivedRequest};

/// The most requests of one transaction.
pub const MOST_REQUESTS: usize = 500;
/// The most items of one transaction, unless one request has more.
pub const MOST_ITEMS: usize = 5000;

type Answer = Result<Accepted, StoreError>;

#[derive(Debug)]
struct Arriving {
    request: Arc<ReceivedRequest>,
    answer: oneshot::Sender<Answer>,
}

/// Where requests are handed over. Clones go to the same task.
#[derive(Clone, Debug)]
pub struct Intake(mpsc::Sender<Arriving>);

/// The store as the receiver sees it: group commit, and the quarantine.
#[derive(Clone, Debug)]
pub struct Desk {
    /// Where requests are handed over.
    pub intake: Intake,
    /// Where the quarantine is.
    pub store: Store,
}

impl receiver::Intake for Desk {
    fn accept(&self, request: Arc<ReceivedRequest>) -> Answering<'_, Accepted> {
        Box::pin(async move { self.intake.accept(request).await.map_err(|error| StoreAway(error.to_string())) })
    }

    fn quarantine(&self, request: Arc<QuarantinedRequest>) -> Answering<'_, Quarantined> {
        Box::pin(async move { self.store.quarantine(&request).await.map_err(|error| StoreAway(error.to_string())) })
    }
}

/// The task that commits them.
#[derive(Debug)]
pub struct IntakeTask {
    store: Store,
    arriving: mpsc::Receiver<Arriving>,
    /// One that did not fit into the last transaction.
    next: Option<Arriving>,
}

/// Makes the two ends. Whoever composes the process spawns [`IntakeTask::run`].
pub fn intake(store: &Store) -> (Intake, IntakeTask) {
    let (sender, arriving) = mpsc::channel(MOST_REQUESTS);
    (Intake(sender), IntakeTask { store: store.clone(), arriving, next: None })
}

impl Intake {
    /// Stores a request. It is durable when this returns without an error.
    ///
    /// # Errors
    /// When the database cannot be written, or the task has ended. It is then unknown whether the request is stored; it
    /// may be handed over again with the same identifier.
    pub async fn accept(&self, request: Arc<ReceivedRequest>) -> Answer {
        let (answer, told) = oneshot::channel();
        self.0.send(Arriving { request, answer }).await.map_err(|_| StoreError::Closed)?;
        told.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl IntakeTask {
    /// Works until `stop`, and then until everything is committed that was handed over before.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let first = match self.next.take() {
                Some(first) => first,
                None => {
                    tokio::select! {
                        biased;
                        first = self.arriving.recv() => match first {
                            Some(first) => first,
                            None => return,
                        },
                        () = stop.cancelled(), if !self.arriving.is_closed() => {
                            self.arriving.close();
                            continue;
                        }
                    }
                }
            };
            let group = self.group(first);
            self.commit(group).await;
        }
    }

    /// What is there already, up to the bounds.
    fn group(&mut self, first: Arriving) -> Vec<Arriving> {
        let mut items = first.request.items.len();
        let mut group = vec![first];
        while group.len() < MOST_REQUESTS {
            let Ok(one) = self.arriving.try_recv() else { break };
            items += one.request.items.len();
            if items > MOST_ITEMS {
                self.next = Some(one);
                break;
            }
            group.push(one);
        }
        group
    }

    async fn commit(&self, group: Vec<Arriving>) {
        let (requests, answers): (Vec<_>, Vec<_>) = group.into_iter().map(|one| (one.request, one.answer)).unzip();
        let requests: Vec<&ReceivedRequest> = requests.iter().map(Arc::as_ref).collect();
        let accepted: Vec<Answer> = match self.store.accept(&requests).await {
            Ok(accepted) => accepted.into_iter().map(Ok).collect(),
            // One request that the database refuses must not take the others with it.
            Err(error) if !error.may_heal() && requests.len() > 1 => self.one_by_one(&requests).await,
            Err(error) => answers.iter().map(|_| Err(error.clone())).collect(),
        };
        for (answer, accepted) in answers.into_iter().zip(accepted) {
            // Whoever asked may have gone; the request is stored nevertheless.
            let _ = answer.send(accepted);
        }
    }

    async fn one_by_one(&self, requests: &[&ReceivedRequest]) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            let accepted = self.store.accept(std::slice::from_ref(request)).await;
            answers.push(accepted.and_then(|mut accepted| accepted.pop().ok_or(StoreError::Closed)));
        }
        answers
    }
}
