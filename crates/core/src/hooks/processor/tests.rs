use std::sync::Arc;

use bugfeed_protocol::{BugId, When};

use super::*;
use crate::hooks::event::{ContentHash, Progress, WhenOrigin};
use crate::hooks::lane::Settings;
use crate::hooks::outcome::{Outcome, SECOND_LOOK_US, conclude};
use crate::hooks::schedule::LIFETIME_US;
use crate::hooks::states::is_allowed;

const NOW_US: i64 = 1_700_000_000 * SECOND_US;

fn event(id: u128, age_s: i64) -> Event {
    let when_us = NOW_US - age_s * SECOND_US;
    Event {
        id: EventId(id),
        source: Arc::from("s"),
        feed: Arc::from("f"),
        bug: BugId::new(7),
        when: When::from_micros(when_us).unwrap(),
        origin: WhenOrigin::Tracker,
        received_us: NOW_US,
        kind: Arc::from("k"),
        delivery: None,
        hash: ContentHash([0; 32]),
        private: false,
        retryable: true,
        expires_us: when_us + LIFETIME_US,
        repeat_of: None,
        progress: Progress { due_us: Some(AT_ONCE), ..Progress::new(State::Queued, Trigger::Live) },
    }
}

/// A dead letter that failed `failed` times, and is due in so many seconds.
fn dead(id: u128, age_s: i64, failed: u32, due_s: i64) -> Event {
    let mut event = event(id, age_s);
    event.progress.state = State::Errored;
    event.progress.class = Some(ErrorClass::Tracker);
    (event.progress.attempts, event.progress.step) = (failed, failed);
    event.progress.trigger = Trigger::Retry;
    event.progress.due_us = Some(NOW_US + due_s * SECOND_US);
    event
}

/// A lane that is planned again and again by one worker.
struct Bench {
    rows: Vec<Event>,
    settings: Settings,
    gate: Gate,
    now_us: i64,
    announced: Vec<u128>,
    last: Vec<Action>,
}

impl Bench {
    fn new(rows: Vec<Event>, settings: Settings) -> Bench {
        Bench { rows, settings, gate: Gate::OPEN, now_us: NOW_US, announced: Vec::new(), last: Vec::new() }
    }

    fn lane(&self) -> Lane {
        let waits = |row: &&Event| !row.progress.state.is_terminal() && row.progress.blocked_by.is_none();
        let done = self.rows.iter().filter(|row| row.progress.state == State::Completed).cloned().collect();
        Lane { open: self.rows.iter().filter(waits).cloned().collect(), done, related: self.rows.clone() }
    }

    fn world(&self, then: impl FnOnce(&World<'_>) -> Vec<Action>) -> Vec<Action> {
        let (settings, gate) = (self.settings, self.gate);
        then(&World { now_us: self.now_us, lease_us: 60 * SECOND_US, batch: 8, source: &move |_| (settings, gate) })
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in &actions {
            match action {
                Action::Step(step) => {
                    assert!(is_allowed(Some(step.from), step.cause, step.after.state));
                    assert!(self.rows.iter_mut().any(|row| step.apply(row)), "{step:?}");
                    self.announced.extend(step.row.as_ref().map(|_| step.id.0));
                }
                Action::Unblock { by } => self.rows.iter_mut().for_each(|row| {
                    unblock(row, *by);
                }),
                _ => {}
            }
        }
        self.last = actions;
    }

    fn plan(&mut self) -> &mut Bench {
        let actions = self.world(|world| plan_lane(&self.lane(), world));
        self.carry_out(actions);
        self
    }

    /// Answers the question of the last plan.
    fn answer(&mut self, outcome: &Outcome) -> &mut Bench {
        let asked = self.last.iter().find_map(|action| match action {
            Action::Ask { id, version, .. } => Some((*id, *version)),
            _ => None,
        });
        let (id, version) = asked.expect("a question");
        let actions = self.world(|world| conclude(&self.lane(), id, version, outcome, world));
        self.carry_out(actions);
        self
    }

    fn state(&self, id: u128) -> State {
        self.row(id).progress.state
    }

    fn row(&self, id: u128) -> &Event {
        self.rows.iter().find(|row| row.id.0 == id).unwrap()
    }

    fn asks(&self) -> Option<u128> {
        self.last.iter().find_map(|action| match action {
            Action::Ask { id, .. } => Some(id.0),
            _ => None,
        })
    }
}

const VERIFY: Settings = Settings { verify: true, ..Settings::DEFAULT };
const SUPERSEDE: Settings = Settings { dead_letters: DeadLetters::Supersede, ..VERIFY };
const FAILED: Outcome = Outcome::Failed(ErrorClass::Tracker);

#[test]
fn what_needs_no_question_is_announced_in_order_in_one_transaction() {
    let mut bench = Bench::new(vec![event(1, 10), event(2, 30), event(3, 20)], Settings::DEFAULT);
    bench.plan();
    assert_eq!(bench.announced, [2, 3, 1]);
    assert_eq!(bench.last.len(), 3);
    let progress = &bench.row(1).progress;
    assert_eq!((progress.began_us, progress.ended_us, progress.due_us), (Some(NOW_US), Some(NOW_US), None));
}

#[test]
fn a_new_event_tries_the_chain_at_once_and_then_waits_for_thirty_seconds() {
    let mut bench = Bench::new(vec![dead(1, 100, 5, 40_000), event(2, 10)], VERIFY);
    bench.plan();
    assert_eq!(bench.asks(), Some(1));
    assert_eq!(bench.row(2).progress.blocked_by, Some(EventId(1)));
    bench.answer(&FAILED);
    assert_eq!(bench.row(1).progress.step, 5, "a drain is no try of the schedule");
    assert_eq!(bench.plan().asks(), None);
    // Another one 10 s later: at the end of the 30 s.
    bench.now_us += 10 * SECOND_US;
    bench.rows.push(event(3, 5));
    bench.plan();
    assert_eq!((bench.asks(), bench.row(1).progress.due_us), (None, Some(NOW_US + DRAIN_EVERY_US)));
    bench.now_us = NOW_US + DRAIN_EVERY_US;
    bench.plan().answer(&Outcome::Visible);
    for _ in 0..2 {
        bench.plan().answer(&Outcome::Visible);
    }
    assert_eq!(bench.announced, [1, 2, 3], "success releases the chain in order");
}

#[test]
fn a_drain_waits_for_the_breaker() {
    let mut bench = Bench::new(vec![dead(1, 100, 1, 500), event(2, 10)], VERIFY);
    bench.gate.ask_from_us = NOW_US + 20 * SECOND_US;
    bench.plan();
    assert_eq!((bench.asks(), bench.row(1).progress.due_us), (None, Some(NOW_US + 20 * SECOND_US)));
    assert_eq!(bench.row(2).progress.blocked_by, Some(EventId(1)));
}

#[test]
fn failures_follow_the_schedule_exactly_until_the_event_expires() {
    let mut bench = Bench::new(vec![event(1, 0), event(2, -1)], VERIFY);
    let mut tries = Vec::new();
    while bench.state(1) != State::Dropped {
        bench.plan();
        if bench.asks() == Some(1) {
            tries.push((bench.now_us - NOW_US) / SECOND_US);
            bench.answer(&FAILED);
        }
        bench.now_us = bench.row(1).progress.due_us.unwrap_or(bench.now_us);
    }
    assert_eq!(tries[..6], [0, 60, 360, 2160, 9360, 52_560]);
    assert!(tries[5..].windows(2).all(|pair| pair[1] - pair[0] == 43_200));
    assert_eq!(tries.len(), 5 + 13);
    assert_eq!(bench.now_us - NOW_US, LIFETIME_US);
    assert_eq!(bench.row(1).progress.drop, Some(DropReason::Expired));
    assert!(bench.last.contains(&Action::Alert(Alert::Expired(EventId(1)))));
    // It was blocked, so it was not among the rows of that plan.
    assert_eq!(bench.plan().asks(), Some(2), "the next of the chain is the head, and is tried");
}

#[test]
fn a_failure_of_ours_uses_up_no_attempt() {
    let mut bench = Bench::new(vec![event(1, 0)], VERIFY);
    for _ in 0..100 {
        bench.plan().answer(&Outcome::Failed(ErrorClass::Ours));
        let progress = &bench.row(1).progress;
        assert_eq!((progress.attempts, progress.step, progress.due_us), (0, 0, Some(bench.now_us + OURS_RETRY_US)));
        bench.now_us += OURS_RETRY_US;
    }
}

#[test]
fn not_visible_counts_when_a_second_look_agrees() {
    let mut bench = Bench::new(vec![event(1, 0)], VERIFY);
    bench.plan().answer(&Outcome::NotVisible);
    let progress = &bench.row(1).progress;
    assert_eq!((progress.state, progress.class), (State::Errored, Some(ErrorClass::Tracker)));
    assert_eq!(progress.due_us, Some(NOW_US + SECOND_LOOK_US));
    // A drain looks too early, so a third look decides.
    bench.now_us += 10 * SECOND_US;
    bench.rows.push(event(2, 0));
    bench.plan().answer(&Outcome::NotVisible);
    assert_eq!(bench.row(1).progress.due_us, Some(NOW_US + SECOND_LOOK_US));
    bench.now_us = NOW_US + SECOND_LOOK_US;
    bench.plan().answer(&Outcome::NotVisible);
    assert_eq!((bench.state(1), bench.row(1).progress.drop), (State::Dropped, Some(DropReason::Unknown)));
}

#[test]
fn under_supersede_a_newer_event_goes_on_and_cancels() {
    let mut bench = Bench::new(vec![dead(1, 100, 1, 500), event(2, 10)], SUPERSEDE);
    bench.plan();
    assert_eq!(bench.asks(), Some(2));
    bench.answer(&Outcome::Visible);
    assert_eq!((bench.state(1), bench.announced.clone()), (State::Canceled, vec![2]));
}

#[test]
fn an_older_event_that_came_before_the_newer_ones_row_is_dropped_for_it() {
    let mut bench = Bench::new(vec![event(1, 10)], VERIFY);
    bench.plan();
    bench.rows.push(event(2, 20));
    let mut undated = event(3, 30);
    undated.origin = WhenOrigin::Arrival;
    bench.rows.push(undated);
    bench.answer(&Outcome::Visible);
    assert_eq!((bench.state(2), bench.state(3)), (State::Dropped, State::Queued));
    // One that comes later is announced whatever its date, unless its source wants it dropped.
    for (older, state) in [(Older::Announce, State::Completed), (Older::Drop, State::Dropped)] {
        let mut rows = vec![event(1, 10), event(2, 20)];
        (rows[0].progress.state, rows[0].progress.due_us) = (State::Completed, None);
        let mut bench = Bench::new(rows, Settings { older, ..Settings::DEFAULT });
        bench.plan();
        assert_eq!(bench.state(2), state, "{older}");
    }
}

#[test]
fn a_lease_brings_back_what_a_dead_worker_had_and_a_late_answer_is_thrown_away() {
    let mut bench = Bench::new(vec![event(1, 0)], VERIFY);
    for lost in 1..=LEASES {
        let asked = bench.plan().last.clone();
        bench.now_us += 60 * SECOND_US;
        bench.plan();
        let state = if lost < LEASES { State::Queued } else { State::Errored };
        assert_eq!(bench.state(1), state, "{lost}");
        bench.last = asked;
        bench.answer(&Outcome::Visible);
        assert!(bench.announced.is_empty());
    }
    assert_eq!(bench.row(1).progress.class, Some(ErrorClass::Ours));
}

#[test]
fn a_late_answer_is_thrown_away_though_another_worker_asks_about_the_same_event() {
    let mut bench = Bench::new(vec![event(1, 0)], VERIFY);
    let first = bench.plan().last.clone();
    bench.now_us += 60 * SECOND_US;
    bench.plan().plan();
    assert_eq!(bench.asks(), Some(1));
    bench.last = first;
    bench.answer(&FAILED);
    assert_eq!(bench.state(1), State::Processing);
}

#[test]
fn under_supersede_an_older_event_cancels_nothing_newer() {
    let mut bench = Bench::new(vec![dead(1, 10, 1, 500), event(2, 100)], SUPERSEDE);
    bench.plan().answer(&Outcome::Visible);
    assert_eq!((bench.state(1), bench.announced.clone()), (State::Errored, vec![2]));
}

#[test]
fn a_dead_letter_that_waits_for_a_token_blocks_under_guard() {
    let mut bench = Bench::new(vec![dead(1, 100, 1, 0), event(2, 10)], VERIFY);
    bench.gate = Gate { tokens: 0, next_token_us: NOW_US + 5, ..Gate::OPEN };
    bench.plan();
    assert_eq!(bench.last.first(), Some(&Action::Guard { id: EventId(1), version: 0 }));
    assert_eq!(bench.row(2).progress.blocked_by, Some(EventId(1)));
}

#[test]
fn what_must_be_mapped_is_not_announced_after_a_failure_of_ours() {
    let mut unmapped = dead(1, 10, 1, 0);
    unmapped.progress.class = Some(ErrorClass::Mapping);
    let mut bench = Bench::new(vec![unmapped], Settings::DEFAULT);
    bench.plan().answer(&Outcome::Failed(ErrorClass::Ours));
    bench.now_us += OURS_RETRY_US;
    assert_eq!(bench.plan().asks(), Some(1));
    assert_eq!(bench.row(1).progress.step, 1);
}

#[test]
fn pace_limits_retries_but_never_live_events() {
    let mut bench = Bench::new(vec![dead(1, 100, 1, 0)], Settings::DEFAULT);
    bench.gate = Gate { tokens: 0, next_token_us: NOW_US + 5, ..Gate::OPEN };
    assert_eq!(bench.plan().last, [Action::Wait { until_us: NOW_US + 5 }]);
    let mut bench = Bench { gate: bench.gate, ..Bench::new(vec![event(1, 0)], Settings::DEFAULT) };
    assert_eq!(bench.plan().announced, [1]);
    // A live event pulls a reconciled one along that is before it.
    let mut rows = vec![event(1, 10), event(2, 0)];
    rows[0].progress.trigger = Trigger::Reconcile;
    let mut bench = Bench { gate: bench.gate, ..Bench::new(rows, Settings::DEFAULT) };
    assert_eq!(bench.plan().announced, [1, 2]);
}

#[test]
fn a_dead_letter_without_a_token_lets_a_live_event_pass_under_supersede() {
    let settings = Settings { verify: false, ..SUPERSEDE };
    let mut bench = Bench::new(vec![dead(1, 100, 1, 0), event(2, 10)], settings);
    bench.gate = Gate { tokens: 0, next_token_us: NOW_US + 5, ..Gate::OPEN };
    assert_eq!(bench.plan().announced, [2]);
    assert_eq!(bench.state(1), State::Canceled);
}

#[test]
fn settings_that_changed_hold_when_processing_begins() {
    let mut private = event(1, 0);
    private.private = true;
    let mut bench = Bench::new(vec![private], Settings::DEFAULT);
    assert_eq!((bench.plan().state(1), bench.announced.len()), (State::Dropped, 0));
    let off = Settings { on: false, ..Settings::DEFAULT };
    let mut bench = Bench::new(vec![event(1, 0)], off);
    assert_eq!((bench.plan().state(1), bench.row(1).progress.due_us), (State::Disabled, None));
    // Not asked any more: the dead letter is announced at once.
    let mut bench = Bench::new(vec![dead(1, 10, 3, 0)], Settings::DEFAULT);
    assert_eq!(bench.plan().announced, [1]);
}

#[test]
fn what_cannot_succeed_holds_nobody_up() {
    let mut lost = dead(1, 100, 1, 0);
    (lost.progress.class, lost.retryable) = (Some(ErrorClass::Mapping), false);
    let mut bench = Bench::new(vec![lost, event(2, 200)], Settings::DEFAULT);
    bench.plan();
    assert_eq!((bench.announced.clone(), bench.state(1)), (vec![2], State::Errored));
    let mut released = dead(1, 100, 1, 500);
    released.progress.released = true;
    let mut bench = Bench::new(vec![released, event(2, 10)], VERIFY);
    assert_eq!(bench.plan().asks(), Some(2));
}

/// A family of two in two lanes, both being processed: a reload has given the feed another name in between.
fn of_two_feeds() -> (Event, Event) {
    let (mut first, mut repeat) = (dead(1, 10, 1, 0), event(2, 10));
    repeat.repeat_of = Some(first.id);
    repeat.feed = Arc::from("other");
    for row in [&mut first, &mut repeat] {
        (row.progress.state, row.progress.due_us) = (State::Processing, Some(NOW_US + 60 * SECOND_US));
    }
    (first, repeat)
}

#[test]
fn of_two_of_a_family_in_two_lanes_one_is_announced() {
    let source = |_: &Event| (VERIFY, Gate::OPEN);
    let world = World { now_us: NOW_US, lease_us: 60 * SECOND_US, batch: 8, source: &source };
    let visible = |row: &Event, other: &Event| {
        let lane = Lane { open: vec![row.clone()], related: vec![other.clone()], ..Lane::default() };
        conclude(&lane, row.id, row.progress.version, &Outcome::Visible, &world)
    };
    let step = |actions: &[Action]| match &actions[actions.len() - 1] {
        Action::Step(step) => (step.cause, step.after.state),
        Action::Unblock { .. } => match &actions[actions.len() - 2] {
            Action::Step(step) => (step.cause, step.after.state),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    let (first, repeat) = of_two_feeds();
    for (winner, loser, want) in [
        (&first, &repeat, (Cause::Repeated, State::Duplicate)),
        (&repeat, &first, (Cause::Superseded, State::Canceled)),
    ] {
        let actions = visible(winner, loser);
        // Were both concluded at once, this fails for one of them.
        let guard = Action::Guard { id: loser.id, version: loser.progress.version };
        assert!(actions.contains(&guard), "{actions:?}");
        assert_eq!(step(&actions), (Cause::Announced, State::Completed));
        let mut winner = winner.clone();
        assert!(actions.iter().any(|action| matches!(action, Action::Step(step) if step.apply(&mut winner))));
        assert_eq!(step(&visible(loser, &winner)), want);
    }
}

#[test]
fn a_claim_that_is_given_back_counts_as_nothing() {
    for failed in [0, 3] {
        let row = if failed > 0 { dead(1, 10, failed, -1) } else { event(1, 10) };
        let mut bench = Bench::new(vec![row], VERIFY);
        for _ in 0..5 {
            bench.plan().answer(&Outcome::GivenBack);
            let progress = &bench.row(1).progress;
            assert_eq!((progress.state, progress.due_us), (State::Queued, Some(AT_ONCE)));
            assert_eq!((progress.attempts, progress.step, progress.leases_lost), (failed, failed, 0));
        }
        bench.plan().answer(&Outcome::Visible);
        assert_eq!(bench.announced, [1]);
    }
}
