//! What follows from the answer to a question: [`conclude`].
//!
//! Goes in: the lane as the store has it now, the claim (id and version), and what was found out. Comes out: the actions,
//! in one transaction as those of a plan. Where the claim does not hold any more (the lease ran out and somebody else went
//! on), nothing comes out: the answer is thrown away.

use super::SECOND_US;
use super::action::{Action, Mapped, Step};
use super::event::{AT_ONCE, DropReason, ErrorClass, EventId, State};
use super::lane::{Lane, Private, World};
use super::processor::Draft;
use super::states::Cause;

/// "Unknown or not visible" counts when a second look, so many microseconds after the first one, agrees: a tracker's
/// replica may be behind the webhook.
pub const SECOND_LOOK_US: i64 = 60 * SECOND_US;

/// What was found out about a claimed event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The tracker shows the bug to anybody.
    Visible,
    /// The tracker says that the bug is private.
    Private,
    /// The tracker says that there is no such bug, or that it is not visible: it does not tell which.
    NotVisible,
    /// The mapping succeeded.
    Mapped(Mapped),
    /// No rule of the mapping applies.
    NotMapped,
    /// The key is not allowed for the project.
    ProjectMismatch,
    /// The mapping says that the item concerns no bug.
    Ignored,
    /// Nothing was found out, or the mapping failed.
    Failed(ErrorClass),
    /// The process ends in order and has no answer yet. The next one begins the event again at once, and nothing counts: a
    /// lost lease is the sign of an event that ends its workers, and this is none.
    GivenBack,
}

/// What to do with the outcome of [`Action::Ask`]. If the transaction fails, read the lane again and call it again.
pub fn conclude(lane: &Lane, id: EventId, version: u32, outcome: &Outcome, world: &World<'_>) -> Vec<Action> {
    let mut draft = Draft::new(lane, world);
    let claimed = |row: &super::event::Event| {
        row.id == id && row.progress.version == version && row.progress.state == State::Processing
    };
    let Some(at) = draft.find(claimed) else { return Vec::new() };
    match outcome {
        Outcome::Visible => draft.announce_claimed(at),
        Outcome::Private => draft.private(at),
        Outcome::NotVisible => draft.not_visible(at),
        Outcome::Mapped(mapped) => draft.mapped(at, mapped),
        Outcome::NotMapped => draft.drop_claimed(at, Cause::NotMapped, DropReason::NotMapped),
        Outcome::ProjectMismatch => draft.drop_claimed(at, Cause::ProjectMismatch, DropReason::ProjectMismatch),
        Outcome::Ignored => draft.drop_claimed(at, Cause::Ignored, DropReason::Ignored),
        Outcome::Failed(class) => draft.fail(at, *class, Cause::Failed, None),
        Outcome::GivenBack => draft.give_back(at),
    }
    draft.out
}

impl Draft<'_> {
    fn announce_claimed(&mut self, at: usize) {
        if !self.drop_if_pointless(at) {
            self.announce(at);
        }
        self.drain_rest();
    }

    fn give_back(&mut self, at: usize) {
        let step = Step::new(&self.rows[at], Cause::GivenBack, State::Queued, |after| after.due_us = Some(AT_ONCE));
        self.step(at, step);
    }

    fn drop_claimed(&mut self, at: usize, cause: Cause, reason: DropReason) {
        let step = Action::drop(&self.rows[at], cause, reason, self.world.now_us);
        self.settle(at, step);
    }

    fn private(&mut self, at: usize) {
        match self.world.settings(&self.rows[at]).private {
            Private::Drop => self.drop_claimed(at, Cause::Private, DropReason::Private),
            Private::Announce => self.announce_claimed(at),
        }
    }

    fn not_visible(&mut self, at: usize) {
        let now_us = self.world.now_us;
        // A first look in the future was made by a clock that was wrong.
        let first_us = self.rows[at].progress.unseen_us.map_or(now_us, |first_us| first_us.min(now_us));
        if now_us - first_us >= SECOND_LOOK_US {
            return self.drop_claimed(at, Cause::Unknown, DropReason::Unknown);
        }
        self.rows[at].progress.unseen_us = Some(first_us);
        self.fail(at, ErrorClass::Tracker, Cause::Failed, Some(first_us + SECOND_LOOK_US));
    }

    /// The event goes to the lane of its bug, which may be another one.
    fn mapped(&mut self, at: usize, mapped: &Mapped) {
        let mut step = Step::new(&self.rows[at], Cause::Mapped, State::Queued, |after| {
            (after.class, after.due_us, after.leases_lost) = (None, Some(AT_ONCE), 0);
        });
        step.mapped = Some(mapped.clone());
        self.step(at, step);
        self.unblock(at);
    }
}
