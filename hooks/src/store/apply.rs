//! Plans as transactions.
//!
//! Goes in: plans of the core. Comes out: whether each was carried out, or somebody else was quicker. A plan is carried
//! out as a whole or not at all. Many plans go together in one transaction, as long as all of them hold; otherwise each
//! gets a transaction of its own.

use std::collections::BTreeSet;

use bugfeed_core::hooks::action::Action;
use bugfeed_core::hooks::event::EventId;

use bugfeed_protocol::log_event::LogEvent;

use super::changes::Changes;
use super::{Store, StoreError};
use crate::receive::received::Failure;

/// The actions of one plan.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The time for which it was made.
    pub now_us: i64,
    /// What is to be done. Questions, alerts and waits are not the store's, and are passed over.
    pub actions: Vec<Action>,
    /// Why events of this plan failed, for people.
    pub reasons: Vec<(EventId, Failure)>,
}

/// What became of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was carried out, and is durable.
    Done,
    /// Somebody else was quicker. Nothing was done: read the rows again, and plan anew.
    Stale,
    /// The change table of its feed cannot be written. Nothing was done: what else is for this feed will fail, too.
    Refused,
}

impl Store {
    /// Carries out one plan.
    ///
    /// # Errors
    /// When the database cannot be written. It is then unknown whether the plan was carried out; a plan that is made
    /// anew from the rows is right in both cases.
    pub async fn apply(&self, plan: &Plan) -> Result<Applied, StoreError> {
        match self.try_apply(std::slice::from_ref(plan)).await {
            Ok(true) => Ok(Applied::Done),
            Ok(false) => Ok(Applied::Stale),
            Err(error) if error.is_conflict() => Ok(Applied::Stale),
            Err(error) => Err(error),
        }
    }

    /// Carries out many plans of different lanes, together if that works.
    ///
    /// # Errors
    /// When the database cannot be written. It is then unknown which plans were carried out.
    pub async fn apply_many(&self, plans: &[Plan]) -> Result<Vec<Applied>, StoreError> {
        match self.try_apply(plans).await {
            Ok(true) => return Ok(vec![Applied::Done; plans.len()]),
            Ok(false) => {}
            Err(error) if error.is_conflict() || error.may_be_of_a_feed() => {}
            Err(error) => return Err(error),
        }
        let mut applied = Vec::with_capacity(plans.len());
        let mut refused = BTreeSet::new();
        for plan in plans {
            let feed = feed_of(plan);
            if feed.is_some_and(|feed| refused.contains(feed)) {
                applied.push(Applied::Refused);
                continue;
            }
            applied.push(match self.apply(plan).await {
                // One feed whose table is missing, or cannot be written, must not hold up the others.
                Err(reason) if reason.may_be_of_a_feed() && feed.is_some() => {
                    if !self.shared.feed_lines.is_quiet() {
                        tracing::error!(feed, %reason, event = %LogEvent::FeedWithoutTable, "a change cannot be written to the table of its feed; it is tried again");
                    }
                    refused.extend(feed);
                    Applied::Refused
                }
                other => other?,
            });
        }
        Ok(applied)
    }

    async fn try_apply(&self, plans: &[Plan]) -> Result<bool, StoreError> {
        let is_ours = |action: &Action| !matches!(action, Action::Ask { .. } | Action::Alert(_) | Action::Wait { .. });
        if !plans.iter().any(|plan| plan.actions.iter().any(is_ours)) {
            return Ok(true);
        }
        let mut tx = self.db.begin().await?;
        let mut changes = Changes::new(self, &mut tx, plans.first().map_or(0, |plan| plan.now_us));
        for plan in plans {
            for action in &plan.actions {
                changes.action(action, plan.now_us).await?;
            }
            changes.reasons(&plan.reasons, plan.now_us).await?;
        }
        if !changes.finish().await? {
            return Ok(false);
        }
        tx.commit().await?;
        Ok(true)
    }
}

/// The feed for which the plan has a row.
fn feed_of(plan: &Plan) -> Option<&str> {
    plan.actions.iter().find_map(|action| match action {
        Action::Step(step) => step.row.as_ref().map(|row| &*row.feed),
        _ => None,
    })
}
