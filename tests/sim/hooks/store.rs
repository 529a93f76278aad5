//! The model of the hooks' store: rows with compare-and-set, transactions, the change table.
//!
//! Goes in: the actions of one plan. Comes out: whether the transaction was committed, or the promise that it breaks.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

use bugfeed_core::hooks::SECOND_US;
use bugfeed_core::hooks::action::{Action, Step, unblock};
use bugfeed_core::hooks::arrival::{DedupKey, Known};
use bugfeed_core::hooks::event::{ErrorClass, Event, EventId, Link, State, WhenOrigin};
use bugfeed_core::hooks::lane::{DeadLetters, Lane, LaneKey, Settings, is_newer, order};
use bugfeed_core::hooks::states::{Cause, is_allowed};

type Checked<T = ()> = Result<T, String>;

/// How long a claim holds.
pub const LEASE_US: i64 = 60 * SECOND_US;
/// The most rows of a kind that a lane is given with.
const LANE_ROWS: usize = 4;

#[derive(Clone, Default)]
pub struct Store {
    pub events: BTreeMap<EventId, Rc<Event>>,
    pub generations: BTreeMap<(Arc<str>, DedupKey), u32>,
    /// The change table, as (event, bug, time).
    pub rows: Vec<(EventId, u64, i64)>,
    pub links: Vec<(EventId, Link)>,
    /// How many transactions changed something. Not a part of the state.
    pub commits: u64,
    /// Which transaction inserted or announced an event. Not a part of the state.
    pub inserted: BTreeMap<EventId, u64>,
    pub announced: BTreeMap<EventId, u64>,
    /// Transitions that happened. Not a part of the state.
    pub happened: Vec<(Option<State>, Cause)>,
}

impl Hash for Store {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.events.hash(state);
        self.rows.hash(state);
    }
}

impl Store {
    /// The events of a lane, as a store would read them: no more than it must.
    pub fn lane(&self, key: &LaneKey, now_us: i64) -> Lane {
        let of_lane = || self.events.values().map(Rc::as_ref).filter(|event| LaneKey::of(event) == *key);
        let mut open: Vec<Event> =
            of_lane().filter(|event| event.progress.state == State::Processing).cloned().collect();
        for state in [State::Queued, State::Errored] {
            let mut rows: Vec<Event> = of_lane()
                .filter(|event| event.progress.state == state && event.progress.blocked_by.is_none())
                .cloned()
                .collect();
            rows.sort_by(order);
            // The first ones, and the first ones that are due.
            let due =
                |(at, row): (usize, &Event)| (at >= LANE_ROWS && row.is_due(now_us, LEASE_US)).then(|| row.clone());
            let more: Vec<Event> = rows.iter().enumerate().filter_map(due).take(LANE_ROWS).collect();
            rows.truncate(LANE_ROWS);
            rows.extend(more);
            open.extend(rows);
        }
        let done = of_lane().filter(|event| event.progress.state == State::Completed).cloned().collect();
        let has_family =
            |row: &Event| row.repeat_of.is_some() || row.progress.class.is_some() || row.progress.attempts > 0;
        let is_related = |event: &&Event| {
            let of = |row: &Event| has_family(row) && row.id != event.id && row.family() == event.family();
            open.iter().any(of)
        };
        let related = self.events.values().map(Rc::as_ref).filter(is_related).cloned().collect();
        Lane { open, done, related }
    }

    /// What is known of an arriving event.
    pub fn known(&self, event: &Event) -> Known {
        let of_source = || self.events.values().rev().map(Rc::as_ref).filter(|other| other.source == event.source);
        let key = DedupKey::of(event);
        let same_time = |other: &&Event| {
            let dated = event.origin == WhenOrigin::Tracker && other.origin == WhenOrigin::Tracker;
            dated && other.feed == event.feed && other.bug == event.bug && other.when == event.when
        };
        Known {
            same_key: of_source().filter(|other| DedupKey::of(other) == key).cloned().collect(),
            generation: self.generations.get(&(Arc::clone(&event.source), key.clone())).map_or(0, |last| last + 1),
            same_time: of_source().filter(|other| event.bug.is_some() && same_time(other)).cloned().collect(),
        }
    }

    /// Lanes that must be looked at now. One in which an event is processed is due when that event's lease ends.
    pub fn due(&self, now_us: i64) -> Vec<LaneKey> {
        let is_due = |event: &Rc<Event>| event.is_due(now_us, LEASE_US);
        let is_busy = |key: &LaneKey| {
            let processed =
                |event: &&Rc<Event>| event.progress.state == State::Processing && LaneKey::of(event) == *key;
            self.events.values().find(processed).is_some_and(|event| !is_due(event))
        };
        let mut keys: Vec<LaneKey> =
            self.events.values().filter(|event| is_due(event)).map(|event| LaneKey::of(event)).collect();
        keys.retain(|key| !is_busy(key));
        keys.sort();
        keys.dedup();
        keys
    }

    /// When something will be due next.
    pub fn next_due(&self, now_us: i64) -> Option<i64> {
        self.events.values().filter_map(|event| event.progress.due_us).filter(|due_us| *due_us > now_us).min()
    }

    /// Carries out the transaction of a plan. `false`: a compare-and-set did not hold, and nothing was done.
    pub fn commit(&mut self, actions: &[Action]) -> Checked<bool> {
        let changes = |action: &Action| !matches!(action, Action::Ask { .. } | Action::Alert(_) | Action::Wait { .. });
        if !actions.iter().any(changes) {
            return Ok(true);
        }
        let before = self.clone();
        for action in actions {
            let held = match action {
                Action::Step(step) => self.step(step)?,
                Action::Guard { id, version } => self.events[id].progress.version == *version,
                Action::Insert { event, key, generation, cause } => self.insert(event, key, *generation, *cause)?,
                Action::Link { of, link } => {
                    self.links.push((*of, *link));
                    true
                }
                Action::Unblock { by } => {
                    for event in self.events.values_mut().filter(|event| event.progress.blocked_by == Some(*by)) {
                        self.happened.push((Some(event.progress.state), Cause::Unblocked));
                        unblock(Rc::make_mut(event), *by);
                    }
                    true
                }
                Action::Ask { .. } | Action::Alert(_) | Action::Wait { .. } => true,
            };
            if !held {
                *self = before;
                return Ok(false);
            }
        }
        self.commits += 1;
        self.check(&before)?;
        Ok(true)
    }

    fn insert(&mut self, event: &Event, key: &DedupKey, generation: u32, cause: Cause) -> Checked<bool> {
        let of = (Arc::clone(&event.source), key.clone());
        if self.generations.get(&of).is_some_and(|last| *last >= generation) {
            return Ok(false);
        }
        if !is_allowed(None, cause, event.progress.state) {
            return Err(format!("a new event {} by {cause}", event.progress.state));
        }
        self.happened.push((None, cause));
        self.generations.insert(of, generation);
        self.inserted.insert(event.id, self.commits);
        self.events.insert(event.id, Rc::new(event.clone()));
        Ok(true)
    }

    fn step(&mut self, step: &Step) -> Checked<bool> {
        let lane = LaneKey::of(&self.events[&step.id]);
        let to = step.after.state;
        let busy = |event: &Rc<Event>| event.progress.state == State::Processing && event.id != step.id;
        if to == State::Processing && self.events.values().any(|event| busy(event) && LaneKey::of(event) == lane) {
            return Ok(false);
        }
        let Some(event) = self.events.get_mut(&step.id) else { return Err("a step of no event".to_owned()) };
        let event = Rc::make_mut(event);
        if !step.apply(event) {
            return Ok(false);
        }
        if step.from.is_terminal() || !is_allowed(Some(step.from), step.cause, to) {
            return Err(format!("{} {} {to} is not in the table", step.from, step.cause));
        }
        if step.after.version != step.version.wrapping_add(1) {
            return Err("a step does not count the version".to_owned());
        }
        if step.row.is_some() != (to == State::Completed) {
            return Err(format!("{to} with the row {:?}", step.row));
        }
        self.happened.push((Some(step.from), step.cause));
        self.links.extend(step.link.map(|link| (step.id, link)));
        if let Some(row) = &step.row {
            let change = (event.bug, event.when);
            if change != (Some(row.change.bug), row.change.when) || row.feed != event.feed {
                return Err("the row is of another change".to_owned());
            }
            if self.rows.iter().any(|(id, ..)| *id == step.id) {
                return Err(format!("{} was announced twice", step.id));
            }
            self.announced.insert(step.id, self.commits);
            self.rows.push((step.id, row.change.bug.get(), row.change.when.as_micros()));
        }
        Ok(true)
    }

    /// What holds after each transaction.
    fn check(&self, before: &Store) -> Checked {
        for (id, event) in &self.events {
            let progress = &event.progress;
            let ended = before.events.get(id).filter(|old| old.progress.state.is_terminal());
            if let Some(old) = ended.filter(|old| *old != event) {
                return Err(format!("{id} was {} and changed", old.progress.state));
            }
            let waits = matches!(progress.state, State::Queued | State::Errored);
            if waits && progress.due_us.is_none() && progress.blocked_by.is_none() {
                return Err(format!("{id} is {} and never due", progress.state));
            }
            let Some(by) = progress.blocked_by else { continue };
            let head = &self.events[&by];
            if head.progress.state.is_terminal() || head.progress.state == State::Disabled {
                return Err(format!("{id} is blocked by {by}, which is {}", head.progress.state));
            }
            if LaneKey::of(head) != LaneKey::of(event) || !waits || progress.due_us.is_some() {
                return Err(format!("{id} is {} and blocked by {by}", progress.state));
            }
        }
        Ok(())
    }

    /// The events that this transaction announced before an older one that its plan saw and that still holds them up.
    pub fn check_order(&self, seen: &Lane, actions: &[Action], settings: &dyn Fn(&Event) -> Settings) -> Checked {
        for action in actions {
            let Action::Step(step) = action else { continue };
            if let (Cause::Superseded, Some(link)) = (step.cause, step.link) {
                let (old, newer) = (&self.events[&step.id], &self.events[&link.to]);
                if !is_newer(newer, old) && newer.family() != old.family() {
                    return Err(format!("{} was canceled by {}, which is not newer", step.id, link.to));
                }
            }
            if step.after.state != State::Completed {
                continue;
            }
            let announced = &self.events[&step.id];
            for old in &seen.open {
                let now = &self.events[&old.id];
                let holds = match now.progress.state {
                    // Nobody waits for one that was released, also while it is tried again.
                    State::Queued | State::Processing => !old.progress.released,
                    State::Errored => settings(now).dead_letters == DeadLetters::Hold && !old.progress.released,
                    _ => false,
                };
                let mapped = now.bug.is_some() && now.progress.class != Some(ErrorClass::Mapping);
                let can_be_tried = now.retryable || mapped;
                let same_lane = LaneKey::of(now) == LaneKey::of(announced);
                if holds
                    && can_be_tried
                    && same_lane
                    && order(now, announced).is_lt()
                    && old.progress.blocked_by.is_none()
                {
                    return Err(format!(
                        "{} was announced before {}, which is {}",
                        step.id, old.id, now.progress.state
                    ));
                }
            }
        }
        Ok(())
    }
}
