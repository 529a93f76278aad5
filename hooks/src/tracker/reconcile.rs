//! Carries out what [`bugfeed_core::hooks::reconcile`] plans for one scope of a tracker.
//!
//! Goes in: the tracker's answers, what the [`Desk`] knows, and hints of the receiver. Comes out, at the desk: changes to
//! insert, the mark to keep, and how many webhooks were missed. Ends when all senders of hints are gone. A desk or a tracker
//! that is away ends a round, which is then tried again from the same mark.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bugfeed_core::hooks::breaker::Answer;
use bugfeed_core::hooks::reconcile::{Known, Mark, Missing, Next, Page, Question, Reconciler, Seen};
use tokio::sync::mpsc;

use super::ask::Asker;
use super::kind::Scope;
use super::trouble::Trouble;

/// Why the desk did not do something: the store is away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Away(pub String);

/// What the reconciler needs of the store.
pub trait Desk: Send + Sync {
    /// The mark of a scope: (source, project).
    fn mark(&self, source: &str, project: &str) -> impl Future<Output = Result<Option<Mark>, Away>> + Send;

    /// Keeps it.
    fn keep_mark(&self, source: &str, project: &str, mark: Mark) -> impl Future<Output = Result<(), Away>> + Send;

    /// What is known of each of these bugs, in their order.
    fn known(&self, source: &str, bugs: &[Seen]) -> impl Future<Output = Result<Vec<Known>, Away>> + Send;

    /// Stores these as events of trigger `reconcile`, durably. It may be called again with the same ones, after a failure
    /// of which it is not known what became of it.
    fn insert(&self, source: &str, missing: &[Missing]) -> impl Future<Output = Result<(), Away>> + Send;

    /// No webhook brought these within the usual time (`bugfeed_hooks_missed_total`). Of `more`, nobody looked.
    fn missed(&self, source: &str, missed: &[Missing], more: u64);

    /// A round failed; `None`: one succeeded. For the log, once for each cause, and the page of sources.
    fn troubled(&self, source: &str, project: &str, trouble: Option<&Trouble>);
}

/// What may make a round due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// A webhook of the source came.
    Heard,
    /// Webhooks may have been lost, or a person asked for it.
    Hurry,
}

/// Reconciles one scope until `hints` is closed.
pub async fn run<D: Desk>(asker: Arc<Asker>, scope: Scope, desk: Arc<D>, mut hints: mpsc::Receiver<Hint>) {
    let source = Arc::clone(&asker.tracker().source);
    let mark = loop {
        match desk.mark(&source, &scope.project).await {
            Ok(mark) => break mark,
            Err(away) => {
                desk.troubled(&source, &scope.project, Some(&Trouble::ours(away.to_string())));
                if pause(Duration::from_secs(5), &mut hints).await.is_none() {
                    return;
                }
            }
        }
    };
    let planner = Reconciler::new(asker.tracker().reconciling(), mark, asker.now_us());
    let mut work = Work { asker, scope, desk, source, planner };
    loop {
        let now_us = work.asker.now_us();
        match work.planner.next(now_us) {
            Next::Wait { until_us } => {
                let wait = Duration::from_micros(u64::try_from(until_us - now_us).unwrap_or(0));
                match pause(wait, &mut hints).await {
                    None => return,
                    Some(Some(Hint::Heard)) => work.planner.heard(work.asker.now_us()),
                    Some(Some(Hint::Hurry)) => work.planner.hurry(work.asker.now_us()),
                    Some(None) => {}
                }
            }
            Next::Judge(judged) => {
                if work.judge(&judged).await.is_err() && pause(Duration::from_secs(5), &mut hints).await.is_none() {
                    return;
                }
            }
            Next::Ask(question) => {
                // A sender of hints that is gone ends it, but not in the middle of a page.
                if hints.is_closed() && hints.is_empty() {
                    return;
                }
                work.ask(&question).await;
            }
        }
    }
}

/// Waits for a hint, at most so long. `None`: there will be no more hints.
async fn pause(longest: Duration, hints: &mut mpsc::Receiver<Hint>) -> Option<Option<Hint>> {
    match tokio::time::timeout(longest, hints.recv()).await {
        Ok(Some(hint)) => Some(Some(hint)),
        Ok(None) => None,
        Err(_) => Some(None),
    }
}

struct Work<D> {
    asker: Arc<Asker>,
    scope: Scope,
    desk: Arc<D>,
    source: Arc<str>,
    planner: Reconciler,
}

impl<D: Desk> Work<D> {
    async fn ask(&mut self, question: &Question) {
        let result = match self.asker.changed(&self.scope, question).await {
            Ok(page) => self.take(&page).await,
            Err(trouble) => Err(trouble),
        };
        match result {
            Ok(true) => self.desk.troubled(&self.source, &self.scope.project, None),
            Ok(false) => {}
            Err(trouble) => {
                let now_us = self.asker.now_us();
                let again_us = match trouble.answer {
                    Answer::Later(wish_us) => Some(now_us + wish_us),
                    Answer::Fine | Answer::Fault => None,
                };
                self.planner.failed(now_us, again_us);
                self.desk.troubled(&self.source, &self.scope.project, Some(&trouble));
            }
        }
    }

    /// Takes a page. Returns whether it ended a round.
    async fn take(&mut self, page: &Page) -> Result<bool, Trouble> {
        let ours = |away: Away| Trouble::ours(away.to_string());
        let known = self.known(&page.seen).await.map_err(ours)?;
        let lookup = lookup(&page.seen, &known);
        let answered = self.planner.answered(self.asker.now_us(), page, &lookup);
        let missing = answered.map_err(|stuck| Trouble::fault(stuck.to_string()))?;
        if !missing.is_empty() {
            self.desk.insert(&self.source, &missing).await.map_err(ours)?;
        }
        let (mark, more) = self.planner.stored(self.asker.now_us(), &missing);
        if more > 0 {
            self.desk.missed(&self.source, &[], more);
        }
        let Some(mark) = mark else { return Ok(false) };
        self.desk.keep_mark(&self.source, &self.scope.project, mark).await.map_err(ours)?;
        Ok(true)
    }

    async fn judge(&mut self, judged: &[Missing]) -> Result<(), Away> {
        let known = self.known(judged).await?;
        let missed = self.planner.judged(judged, &lookup(judged, &known));
        if !missed.is_empty() {
            self.desk.missed(&self.source, &missed, 0);
        }
        Ok(())
    }

    async fn known(&self, bugs: &[Seen]) -> Result<Vec<Known>, Away> {
        if bugs.is_empty() {
            return Ok(Vec::new());
        }
        let known = self.desk.known(&self.source, bugs).await?;
        if known.len() != bugs.len() {
            return Err(Away(format!("the store was asked about {} bugs and knew {}", bugs.len(), known.len())));
        }
        Ok(known)
    }
}

/// What is known, by bug.
fn lookup(bugs: &[Seen], known: &[Known]) -> impl Fn(&Seen) -> Known {
    let by_bug: std::collections::HashMap<_, _> =
        bugs.iter().zip(known).map(|(seen, known)| ((Arc::clone(&seen.feed), seen.bug), *known)).collect();
    move |seen| by_bug.get(&(Arc::clone(&seen.feed), seen.bug)).copied().unwrap_or_default()
}
