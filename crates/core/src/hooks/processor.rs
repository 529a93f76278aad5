//! What is done next for a bug: [`plan_lane`].
//!
//! Goes in: a lane as the store gave it, and the time. Comes out: the actions. It keeps nothing between two calls: all it
//! knows is in the rows, so that any worker of any process can go on where another one stopped.
//!
//! - An event about which nothing is to be asked goes from queued to completed in the plan's transaction, and the ones
//!   behind it as well, up to `batch`. Any other is claimed under a lease, asked about, and concluded ([`super::outcome`]).
//! - **A dead letter holds the later events of its bug** (unless it is released, or its source supersedes): they are
//!   blocked by it. A queued event behind it that is *not* blocked has just arrived: it drains the chain, that is, the
//!   dead letter is tried at once, but at most every [`DRAIN_EVERY_US`]; and then it is blocked, too. So a drain is not
//!   lost in a crash, and happens once.
//! - **What is older is dropped by cause, not by clock.** When an event is announced, the older ones that the plan sees
//!   were in the store before its row is written, so whoever hears of the row asks the tracker after all of them. They are
//!   dropped in that transaction. One that the plan does not see is announced. No two clocks are compared.

use bugfeed_protocol::Change;

use super::SECOND_US;
use super::action::{Action, Alert, Question, Row, Step, unblock};
use super::event::{AT_ONCE, DropReason, ErrorClass, Event, EventId, Link, LinkKind, Progress, State, Trigger};
use super::lane::{DeadLetters, Gate, Lane, Older, Private, World, is_newer, is_older, newer_done, order};
use super::rules::{can_be_tried, canceled, is_other_of_family, pointless, question};
use super::schedule::{LONGEST_US, OURS_RETRY_US};
use super::states::Cause;

/// A new event tries the chain of its bug at most so often, in microseconds.
pub const DRAIN_EVERY_US: i64 = 30 * SECOND_US;
/// After so many leases in a row that ran out, an event is put aside: it may be what ends the workers.
pub const LEASES: u8 = 3;

/// What to do in this lane now.
pub fn plan_lane(lane: &Lane, world: &World<'_>) -> Vec<Action> {
    let mut draft = Draft::new(lane, world);
    match draft.find(|row| row.progress.state == State::Processing) {
        Some(at) => draft.look_at_lease(at),
        None => draft.go_on(),
    }
    draft.out
}

/// A plan being made: the rows as they will be after the actions so far.
pub(super) struct Draft<'a> {
    pub(super) world: &'a World<'a>,
    lane: &'a Lane,
    /// The open rows, in order.
    pub(super) rows: Vec<Event>,
    /// Those of their families that are not among them.
    related: Vec<Event>,
    pub(super) out: Vec<Action>,
    /// A new event was announced, so the chain behind it is tried.
    fresh: bool,
    paced: u32,
}

enum Next {
    /// Look at the lane again: something was settled.
    Again,
    /// Look at the next row.
    Pass,
    /// Nothing more is to be done.
    Stop,
}

impl<'a> Draft<'a> {
    pub(super) fn new(lane: &'a Lane, world: &'a World<'a>) -> Draft<'a> {
        let mut rows = lane.open.clone();
        rows.sort_by(order);
        let elsewhere = |event: &&Event| lane.open.iter().all(|row| row.id != event.id);
        let related = lane.related.iter().filter(elsewhere).cloned().collect();
        Draft { world, lane, rows, related, out: Vec::new(), fresh: false, paced: 0 }
    }

    pub(super) fn find(&self, wanted: impl Fn(&Event) -> bool) -> Option<usize> {
        self.rows.iter().position(wanted)
    }

    /// Adds a step, and does it to the draft's row.
    pub(super) fn step(&mut self, at: usize, step: Step) {
        let held = step.apply(&mut self.rows[at]);
        debug_assert!(held, "a step of the draft's own row");
        self.out.push(Action::Step(Box::new(step)));
    }

    /// Whoever waits behind this row waits no more.
    pub(super) fn unblock(&mut self, at: usize) {
        self.unblock_behind(self.rows[at].id);
    }

    fn unblock_behind(&mut self, by: EventId) {
        for row in self.rows.iter_mut().chain(&mut self.related) {
            unblock(row, by);
        }
        self.out.push(Action::Unblock { by });
    }

    pub(super) fn wait(&mut self, until_us: i64) {
        self.out.push(Action::Wait { until_us });
    }

    fn look_at_lease(&mut self, at: usize) {
        let row = &self.rows[at];
        let progress = &row.progress;
        if !row.is_due(self.world.now_us, self.world.lease_us) {
            return self.wait(progress.due_us.unwrap_or(i64::MAX));
        }
        if progress.leases_lost + 1 >= LEASES {
            let id = self.rows[at].id;
            self.fail(at, ErrorClass::Ours, Cause::LeasesLost, None);
            self.out.push(Action::Alert(Alert::Poison(id)));
            return;
        }
        let step = Step::new(&self.rows[at], Cause::LeaseRanOut, State::Queued, |after| {
            after.leases_lost += 1;
            after.due_us = Some(AT_ONCE);
        });
        self.step(at, step);
    }

    fn go_on(&mut self) {
        let mut at = 0;
        let mut settled = 0;
        while at < self.rows.len() {
            match self.look_at(at) {
                Next::Pass => at += 1,
                Next::Stop => return,
                Next::Again => {
                    settled += 1;
                    if settled >= self.world.batch {
                        return;
                    }
                    at = 0;
                }
            }
        }
    }

    fn look_at(&mut self, at: usize) -> Next {
        let row = &self.rows[at];
        let (now_us, progress) = (self.world.now_us, &row.progress);
        let settings = self.world.settings(row);
        let waits = !matches!(progress.state, State::Queued | State::Errored);
        if waits || progress.blocked_by.is_some() {
            return Next::Pass;
        }
        if !settings.on && can_be_tried(row) {
            let step = Step::new(row, Cause::SwitchedOff, State::Disabled, |_| ());
            self.step(at, step);
            self.unblock(at);
            return Next::Again;
        }
        let due_us = progress.due_us.unwrap_or(AT_ONCE);
        let is_due = row.is_due(now_us, self.world.lease_us);
        if progress.state == State::Queued {
            return if is_due { self.act(at) } else { self.postpone(at, due_us) };
        }
        if now_us >= row.expires_us && due_us >= row.expires_us {
            return self.expire(at);
        }
        if is_due && can_be_tried(row) {
            return self.act(at);
        }
        if is_due {
            // It waits for its expiry, in pieces, as every time further ahead counts as wrong.
            let until_us = row.expires_us.min(now_us + LONGEST_US);
            let step = Step::new(row, Cause::Postponed, State::Errored, |after| after.due_us = Some(until_us));
            self.step(at, step);
            return Next::Again;
        }
        if !self.holds(at) {
            return Next::Pass;
        }
        self.hold(at)
    }

    /// Whether later events wait behind this dead letter. One that can never succeed holds nothing.
    pub(super) fn holds(&self, at: usize) -> bool {
        let row = &self.rows[at];
        let hold = self.world.settings(row).dead_letters == DeadLetters::Hold;
        hold && !row.progress.released && can_be_tried(row)
    }

    /// The dead letter at the head is not due. Blocks what is behind it; a new event there has it tried.
    fn hold(&mut self, at: usize) -> Next {
        let is_new = |row: &Event| row.progress.state == State::Queued && row.progress.blocked_by.is_none();
        let drains = self.rows[at + 1..].iter().any(is_new) || std::mem::take(&mut self.fresh);
        if drains {
            self.hasten(at);
        }
        self.block_behind(at);
        let due_us = self.rows[at].progress.due_us.unwrap_or(AT_ONCE);
        if drains && due_us <= self.world.now_us {
            return self.act(at);
        }
        self.wait(due_us);
        Next::Stop
    }

    /// Has the dead letter tried now, or as soon as a drain may be.
    fn hasten(&mut self, at: usize) {
        let (row, now_us) = (&self.rows[at], self.world.now_us);
        let mut from_us = row.progress.drained_us.map_or(now_us, |last| now_us.max(last.min(now_us) + DRAIN_EVERY_US));
        let (settings, gate) = (self.world.source)(row);
        if question(row, settings.verify) == Some(Question::Look) {
            from_us = from_us.max(gate.ask_from_us);
        }
        let from_us = if from_us <= now_us { AT_ONCE } else { from_us };
        let due_us = row.progress.due_us.unwrap_or(from_us).min(from_us);
        let step = Step::new(row, Cause::Hastened, State::Errored, |after| {
            (after.due_us, after.trigger) = (Some(due_us), Trigger::Drain);
        });
        self.step(at, step);
    }

    /// Blocks everything behind this row that does not wait behind another one. This is true only while the row is what it
    /// is: its own step in the same transaction, or a guard, makes sure of that.
    pub(super) fn block_behind(&mut self, at: usize) {
        let (by, version) = (self.rows[at].id, self.rows[at].progress.version);
        let mut guarded = self.out.iter().any(|action| matches!(action, Action::Step(step) if step.id == by));
        for behind in at + 1..self.rows.len() {
            let row = &self.rows[behind];
            let (state, blocked) = (row.progress.state, row.progress.blocked_by.is_some());
            if blocked || !matches!(state, State::Queued | State::Errored) {
                continue;
            }
            let step = Step::new(row, Cause::Blocked, state, |after| {
                (after.blocked_by, after.due_us) = (Some(by), None);
            });
            if !std::mem::replace(&mut guarded, true) {
                self.out.push(Action::Guard { id: by, version });
            }
            self.step(behind, step);
        }
    }

    /// The row waits until then, and what is behind it as well, unless that may overtake the row.
    fn postpone(&mut self, at: usize, until_us: i64) -> Next {
        let row = &self.rows[at];
        if row.progress.state == State::Errored {
            let due_us = until_us.min(row.expires_us);
            let step = Step::new(row, Cause::Postponed, State::Errored, |after| after.due_us = Some(due_us));
            self.step(at, step);
            if !self.holds(at) {
                return Next::Again;
            }
        }
        for behind in at..self.rows.len() {
            let row = &self.rows[behind];
            let state = row.progress.state;
            let waits = matches!(state, State::Queued | State::Errored) && row.progress.blocked_by.is_none();
            let due_us = if state == State::Errored { until_us.min(row.expires_us) } else { until_us };
            if waits && row.progress.due_us.is_none_or(|old_us| old_us < due_us) {
                let step = Step::new(row, Cause::Postponed, state, |after| after.due_us = Some(due_us));
                self.step(behind, step);
            }
        }
        self.wait(until_us);
        Next::Stop
    }

    /// Takes a token of the source's pace. If there is none, the lane waits; but a live event that has come behind a
    /// queued one does not wait for tokens, and pulls that one along.
    fn takes_token(&mut self, at: usize, gate: Gate) -> bool {
        let is_live =
            |row: &Event| row.progress.state == State::Queued && row.progress.blocked_by.is_none() && !row.is_paced();
        if self.paced < gate.tokens {
            self.paced += 1;
            return true;
        }
        if self.rows[at].progress.state == State::Queued && self.rows[at + 1..].iter().any(is_live) {
            return true;
        }
        if self.rows[at].progress.state == State::Errored && self.holds(at) {
            self.block_behind(at);
        }
        self.wait(gate.next_token_us);
        false
    }

    fn expire(&mut self, at: usize) -> Next {
        let step = Action::drop(&self.rows[at], Cause::Expired, DropReason::Expired, self.world.now_us);
        self.settle(at, step);
        self.out.push(Action::Alert(Alert::Expired(self.rows[at].id)));
        Next::Again
    }

    /// The row ends with this step; whoever waited behind it goes on.
    pub(super) fn settle(&mut self, at: usize, step: Step) {
        let followed = self.rows[at].progress.class.is_some();
        self.step(at, step);
        if followed {
            self.unblock(at);
        }
    }

    /// The row is the first one that may be tried.
    fn act(&mut self, at: usize) -> Next {
        if self.drop_if_pointless(at) {
            return Next::Again;
        }
        let row = &self.rows[at];
        let (settings, gate) = (self.world.source)(row);
        if row.is_paced() && !self.takes_token(at, gate) {
            let may_be_overtaken = self.rows[at].progress.state == State::Errored && !self.holds(at);
            return if may_be_overtaken { Next::Pass } else { Next::Stop };
        }
        let row = &self.rows[at];
        match question(row, settings.verify) {
            None => {
                self.announce(at);
                Next::Again
            }
            Some(Question::Look) if gate.ask_from_us > self.world.now_us => {
                self.postpone(at, gate.ask_from_us.min(self.world.now_us + LONGEST_US))
            }
            Some(what) => {
                self.claim(at, what);
                Next::Stop
            }
        }
    }

    /// What was true on arrival is looked at again, before a claim and before an announcement.
    pub(super) fn drop_if_pointless(&mut self, at: usize) -> bool {
        let (row, now_us) = (&self.rows[at], self.world.now_us);
        let settings = self.world.settings(row);
        let mut known = self.rows.iter().chain(&self.related);
        let announced = known.find(|event| is_other_of_family(event, row) && event.progress.state == State::Completed);
        if let Some(announced) = announced {
            let step = pointless(row, announced.id, now_us);
            self.settle(at, step);
            return true;
        }
        if question(row, false).is_some() {
            // Nothing is known of it before it is mapped.
            return false;
        }
        if row.private && settings.private == Private::Drop {
            let step = Action::drop(row, Cause::Private, DropReason::Private, now_us);
            self.settle(at, step);
            return true;
        }
        self.drop_if_older(at)
    }

    /// Where its source says so, the row is dropped if a newer one was announced.
    fn drop_if_older(&mut self, at: usize) -> bool {
        let row = &self.rows[at];
        if self.world.settings(row).older != Older::Drop {
            return false;
        }
        let Some(newer) = newer_done(row, self.lane.done.iter().chain(&self.rows)) else { return false };
        self.drop_older(at, newer);
        true
    }

    fn drop_older(&mut self, at: usize, newer: EventId) {
        let mut step = Action::drop(&self.rows[at], Cause::Older, DropReason::Older, self.world.now_us);
        step.link = Some(Link { kind: LinkKind::DroppedFor, to: newer });
        self.settle(at, step);
    }

    fn claim(&mut self, at: usize, what: Question) {
        let now_us = self.world.now_us;
        let lease_until_us = now_us + self.world.lease_us;
        let step = Step::new(&self.rows[at], Cause::Claimed, State::Processing, |after| {
            (after.due_us, after.began_us) = (Some(lease_until_us), Some(now_us));
            if after.trigger == Trigger::Drain {
                after.drained_us = Some(now_us);
            }
        });
        let (id, version) = (step.id, step.after.version);
        let holds = self.rows[at].progress.state == State::Errored && self.holds(at);
        self.step(at, step);
        if holds {
            self.block_behind(at);
        }
        self.out.push(Action::Ask { id, version, what, lease_until_us });
    }

    /// Writes the row, and settles the older events for which it speaks.
    pub(super) fn announce(&mut self, at: usize) {
        let now_us = self.world.now_us;
        let row = &self.rows[at];
        let Some(bug) = row.bug else { return };
        let mut step = Step::new(row, Cause::Announced, State::Completed, |after| {
            after.ended_us = Some(now_us);
            after.began_us = after.began_us.filter(|_| row.progress.state == State::Processing).or(Some(now_us));
        });
        step.row = Some(Row { feed: row.feed.clone(), change: Change { bug, when: row.when } });
        self.fresh |= matches!(row.progress.trigger, Trigger::Live | Trigger::Reconcile | Trigger::Replay);
        self.guard_family(at);
        self.settle(at, step);
        for other in 0..self.rows.len() {
            self.cover(at, other);
        }
        self.cancel_family(at);
    }

    /// Another one of the family may be processed in another lane, where a reload has given its feed another name. Only one of
    /// both transactions holds.
    fn guard_family(&mut self, at: usize) {
        let row = &self.rows[at];
        let is_processed = |event: &&Event| event.progress.state == State::Processing && is_other_of_family(event, row);
        for event in self.related.iter().filter(is_processed) {
            self.out.push(Action::Guard { id: event.id, version: event.progress.version });
        }
    }

    /// `at` was announced: is `other` pointless now?
    fn cover(&mut self, at: usize, other: usize) {
        let (row, old) = (&self.rows[at], &self.rows[other]);
        let state = old.progress.state;
        if !matches!(state, State::Queued | State::Errored) {
            return;
        }
        let is_dead_letter = state == State::Errored || old.progress.class.is_some();
        let supersede = is_dead_letter && self.world.settings(old).dead_letters == DeadLetters::Supersede;
        if is_other_of_family(old, row) {
            let step = pointless(old, row.id, self.world.now_us);
            self.settle(other, step);
        } else if supersede && is_newer(row, old) {
            let step = canceled(old, row.id, self.world.now_us);
            self.settle(other, step);
        } else if is_older(old, row) && old.progress.blocked_by.is_none() {
            self.drop_older(other, row.id);
        }
    }

    /// The row was announced. Others of its family that wait elsewhere are pointless: they have no bug, are switched off, or
    /// are blocked.
    fn cancel_family(&mut self, at: usize) {
        let (row, now_us) = (self.rows[at].clone(), self.world.now_us);
        for other in 0..self.related.len() {
            let event = &self.related[other];
            let waits = matches!(event.progress.state, State::Queued | State::Errored | State::Disabled);
            if !waits || !is_other_of_family(event, &row) {
                continue;
            }
            let (by, step) = (event.id, pointless(event, row.id, now_us));
            step.apply(&mut self.related[other]);
            self.out.push(Action::Step(Box::new(step)));
            self.unblock_behind(by);
        }
    }

    /// The row failed. `due_us` replaces the schedule.
    pub(super) fn fail(&mut self, at: usize, class: ErrorClass, cause: Cause, due_us: Option<i64>) {
        let (row, now_us) = (&self.rows[at], self.world.now_us);
        let schedule = self.world.settings(row).retry;
        let counts = class != ErrorClass::Ours;
        let scheduled = !matches!(row.progress.trigger, Trigger::Drain | Trigger::Manual);
        let (expires_us, retryable) = (row.expires_us, row.retryable);
        // What must still be mapped keeps that class, whatever kept it from being mapped.
        let kept = if question(row, false).is_some() { ErrorClass::Mapping } else { class };
        let step = Step::new(row, cause, State::Errored, |after: &mut Progress| {
            after.attempts += u32::from(counts);
            after.step += u32::from(counts && (scheduled || after.step == 0) || cause == Cause::LeasesLost);
            let ours = !counts && cause != Cause::LeasesLost;
            let delay_us = if ours { OURS_RETRY_US } else { schedule.delay_us(after.step) };
            let next_us = due_us.unwrap_or(now_us + delay_us).min(expires_us);
            let never = class == ErrorClass::Mapping && !retryable;
            after.due_us = Some(if never { expires_us.min(now_us + LONGEST_US) } else { next_us });
            (after.class, after.trigger, after.leases_lost) = (Some(kept), Trigger::Retry, 0);
        });
        let id = row.id;
        self.step(at, step);
        if self.holds(at) {
            self.block_behind(at);
        }
        self.out.push(Action::Alert(Alert::Errored { id, class }));
        if class == ErrorClass::Mapping && !retryable {
            self.out.push(Action::Alert(Alert::NotRetryable(id)));
        }
    }

    /// After an announcement outside [`plan_lane`]: a dead letter at the head is tried at once.
    pub(super) fn drain_rest(&mut self) {
        if !std::mem::take(&mut self.fresh) {
            return;
        }
        let is_head = |row: &Event| row.progress.state == State::Errored && row.progress.blocked_by.is_none();
        let head = self.find(is_head).filter(|at| self.holds(*at));
        if let Some(at) = head.filter(|at| self.rows[..*at].iter().all(|row| row.progress.state != State::Queued)) {
            self.hasten(at);
        }
    }
}

#[cfg(test)]
mod tests;
