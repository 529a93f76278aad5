//! A lane and the time become a plan for the store, and what follows once it is carried out.
//!
//! Goes in: a lane as it was read. Comes out: the plan of the core with the questions, alerts and waits in it. Notes at the
//! gates of the sources what the plan takes of them; a plan that does not hold gives its places back.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use bugfeed_core::hooks::action::{Action, Alert, Question, Step};
use bugfeed_core::hooks::event::{Event, EventId, State};
use bugfeed_core::hooks::lane::{Gate, Lane, LaneKey, World};
use bugfeed_core::hooks::outcome::{Outcome, conclude};
use bugfeed_core::hooks::processor::plan_lane;
use bugfeed_core::hooks::schedule::LONGEST_US;
use bugfeed_core::hooks::states::Cause;

use super::Shared;
use super::gates::{Place, SourceState, Table};
use super::questions::{self, Asked};
use crate::receive::received::Failure;
use crate::store::apply::Plan;

/// The most events that the plan of one lane completes.
const BATCH: usize = 32;

/// A plan, and what follows it.
pub(super) struct Planned {
    pub(super) key: LaneKey,
    pub(super) plan: Plan,
    asks: Vec<Asked>,
    alerts: Vec<(Alert, Option<Event>)>,
    announced: Vec<Arc<str>>,
    /// Nothing more can be done in this lane before then.
    pub(super) wait_us: Option<i64>,
}

impl Planned {
    /// Whether it changes anything.
    pub(super) fn does_something(&self) -> bool {
        let is_nothing =
            |action: &Action| matches!(action, Action::Wait { .. } | Action::Alert(_) | Action::Ask { .. });
        !self.plan.actions.iter().all(is_nothing)
    }

    /// It was carried out: asks, tells people, counts.
    pub(super) fn follow(self, shared: &Arc<Shared>) {
        for source in &self.announced {
            shared.events.announced(source);
        }
        for (alert, event) in &self.alerts {
            let reason = self.plan.reasons.iter().find(|(id, _)| event.as_ref().is_some_and(|event| event.id == *id));
            shared.alerts.of_event(*alert, event.as_ref(), reason.map(|(_, failure)| failure), &shared.events);
        }
        for asked in self.asks {
            questions::ask(shared, asked);
        }
    }
}

/// What is to be done in a lane now.
pub(super) fn next(shared: &Shared, key: LaneKey, lane: &Lane, now_us: i64) -> Planned {
    with_world(shared, now_us, |world| plan_lane(lane, world)).finish(key, lane)
}

/// What follows from an answer. Empty if the claim does not hold any more. `failure` is why, if the answer is none.
pub(super) fn after(
    shared: &Shared,
    asked: &Asked,
    lane: &Lane,
    outcome: &Outcome,
    failure: Option<&Failure>,
    now_us: i64,
) -> Planned {
    let draft = with_world(shared, now_us, |world| conclude(lane, asked.event.id, asked.version, outcome, world));
    let mut planned = draft.finish(asked.key.clone(), lane);
    let is_errored = |action: &Action| match action {
        Action::Step(step) => step.id == asked.event.id && step.after.state == State::Errored,
        _ => false,
    };
    if let Some(failure) = failure.filter(|_| planned.plan.actions.iter().any(is_errored)) {
        planned.plan.reasons.push((asked.event.id, failure.clone()));
    }
    planned
}

/// A plan, and the gates that it saw.
struct Draft {
    actions: Vec<Action>,
    now_us: i64,
    table: Arc<Table>,
    gates: HashMap<Arc<str>, Gate>,
}

fn with_world(shared: &Shared, now_us: i64, plan: impl FnOnce(&World<'_>) -> Vec<Action>) -> Draft {
    let (table, off) = (shared.sources.table(), shared.sources.off());
    let gates: RefCell<HashMap<Arc<str>, Gate>> = RefCell::default();
    let source = |event: &Event| {
        let settings = table.settings(&off, event);
        let Some(state) = table.sources.get(&*event.source) else { return (settings, Gate::OPEN) };
        let mut gates = gates.borrow_mut();
        let gate = *gates.entry(Arc::clone(&event.source)).or_insert_with(|| state.gate(now_us));
        (settings, gate)
    };
    let world = World { now_us, lease_us: shared.lease_us(), batch: BATCH, source: &source };
    let actions = plan(&world);
    let gates = gates.into_inner();
    Draft { actions, now_us, table, gates }
}

impl Draft {
    fn finish(self, key: LaneKey, lane: &Lane) -> Planned {
        let find = |id: EventId| lane.open.iter().chain(&lane.related).find(|event| event.id == id);
        let (mut asks, mut alerts, mut announced, mut wait_us) = (Vec::new(), Vec::new(), Vec::new(), None::<i64>);
        let mut taken: HashMap<&str, u32> = HashMap::new();
        for action in &self.actions {
            match action {
                Action::Step(step) => {
                    let Some(event) = find(step.id) else { continue };
                    if step.cause == Cause::Announced {
                        announced.push(Arc::clone(&event.source));
                    }
                    if takes_token(step, event) {
                        *taken.entry(&*event.source).or_default() += 1;
                    }
                    self.note_put_off(step, event);
                }
                Action::Ask { id, version, what, lease_until_us } => {
                    let Some(event) = find(*id) else { continue };
                    let place = self.place(event, *what);
                    asks.push(Asked {
                        key: key.clone(),
                        event: event.clone(),
                        version: *version,
                        what: *what,
                        claimed_us: self.now_us,
                        lease_until_us: *lease_until_us,
                        place,
                    });
                }
                Action::Alert(alert) => alerts.push((*alert, find(id_of(*alert)).cloned())),
                Action::Wait { until_us } => wait_us = Some(wait_us.map_or(*until_us, |old| old.min(*until_us))),
                Action::Insert { .. } | Action::Link { .. } | Action::Guard { .. } | Action::Unblock { .. } => {}
            }
        }
        for (source, count) in taken {
            if let Some(state) = self.table.sources.get(source) {
                state.take_tokens(self.now_us, count);
            }
        }
        let plan = Plan { now_us: self.now_us, actions: self.actions, reasons: Vec::new() };
        Planned { key, plan, asks, alerts, announced, wait_us }
    }

    fn state(&self, event: &Event) -> Option<&Arc<SourceState>> {
        self.table.sources.get(&*event.source)
    }

    fn place(&self, event: &Event, what: Question) -> Option<Place> {
        (what == Question::Look).then(|| self.state(event).map(|state| state.take_place(self.now_us))).flatten()
    }

    /// The next lane that is put off comes after this one.
    fn note_put_off(&self, step: &Step, event: &Event) {
        let Some(gate) = self.gates.get(&event.source).filter(|gate| gate.ask_from_us > self.now_us) else { return };
        let until_us = gate.ask_from_us.min(self.now_us + LONGEST_US);
        let is_put_off =
            matches!(step.cause, Cause::Postponed | Cause::Hastened) && step.after.due_us == Some(until_us);
        if let Some(state) = self.state(event).filter(|_| is_put_off) {
            state.put_off(until_us);
        }
    }
}

/// Whether the planner counted a token of the pace for this step.
fn takes_token(step: &Step, event: &Event) -> bool {
    let begins = step.cause == Cause::Claimed || step.cause == Cause::Announced && step.from != State::Processing;
    begins && event.is_paced()
}

fn id_of(alert: Alert) -> EventId {
    match alert {
        Alert::Errored { id, .. } | Alert::Poison(id) | Alert::Expired(id) | Alert::NotRetryable(id) => id,
    }
}
