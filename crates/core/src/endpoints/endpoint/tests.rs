//! Single steps of the planner; what it promises over time is in `tests/sim/endpoints.rs`.

use std::sync::Arc;

use bugfeed_protocol::bus::BusMessage;
use bugfeed_protocol::{BugId, Change, Cursor, Epoch, When};

use super::*;
use crate::endpoints::batch::Kind;
use crate::endpoints::orders::{Order, Recovery, carry_out};
use crate::endpoints::policy::{Outcome, Policy};
use crate::endpoints::question::{Answer, Ask, Watch, answer};
use crate::replay::{Replay, ReplayLimits, replay};
use crate::sequencer::Sequencer;

struct Cache(Arc<Replay>);

impl Feeds for Cache {
    fn ask(&self, _: &str, ask: &Ask<'_>) -> Answer {
        answer(&self.0, ask)
    }
}

/// One endpoint of one feed, with a store that always works, and answers at once unless it is told to be slow.
struct Bed {
    sequencer: Sequencer,
    feeds: Cache,
    epoch: Epoch,
    head: u64,
    now_us: i64,
    endpoint: Endpoint,
    out: Vec<Action>,
    /// The store does not answer, and the schedule does not give a place.
    slow: bool,
}

impl Bed {
    fn new(policy: Policy, limits: ReplayLimits) -> Bed {
        let (recorder, cache) = replay(limits);
        let mut sequencer = Sequencer::new(recorder, Epoch::parse("own").unwrap());
        let epoch = Epoch::parse("E").unwrap();
        sequencer.begin(epoch.clone());
        let row = Row::new(policy, Watch::All, ["f".into()]);
        let fence = Fence { term: 1, from_us: 0, until_us: i64::MAX };
        let endpoint = Endpoint::new(row, fence, Bound::default(), 0, 0);
        let mut bed =
            Bed { sequencer, feeds: Cache(cache), epoch, head: 0, now_us: 0, endpoint, out: Vec::new(), slow: false };
        bed.step(Input::Tick);
        bed
    }

    fn change(&mut self, bug: u64) {
        self.head += 1;
        self.record(bug, Some(Cursor::new(self.epoch.clone(), self.head)));
    }

    /// A change that moves no cursor, as one that came late.
    fn late_change(&mut self, bug: u64) {
        self.record(bug, None);
    }

    fn record(&mut self, bug: u64, cursor: Option<Cursor>) {
        let position = self.feeds.0.head() + 1;
        let micros = 1_700_000_000 * SECOND_US + i64::try_from(position).unwrap() * SECOND_US;
        let change = Change { bug: BugId::new(bug).unwrap(), when: When::from_micros(micros).unwrap() };
        self.sequencer.accept_gap(&BusMessage { change, cursor, after: None }, None, When::MIN);
    }

    /// The process dies, and another one takes over what the store has.
    fn take_over(&mut self) {
        let Fence { term, .. } = self.endpoint.fence;
        let fence = Fence { term: term + 1, from_us: 0, until_us: i64::MAX };
        self.endpoint = Endpoint::new(self.endpoint.row().clone(), fence, self.endpoint.bound, 0, self.now_us);
        self.step(Input::Tick);
    }

    /// Processes an input, and carries out what follows of it, up to a request.
    fn step(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let from = self.out.len();
            let view = View { now_us: self.now_us, feeds: &self.feeds };
            self.endpoint.step(input, &view, &mut self.out);
            for action in self.out[from..].iter().rev() {
                match action {
                    _ if self.slow => {}
                    Action::Store(row, _) => inputs.push(Input::Stored(row.version)),
                    Action::Want(_) => inputs.push(Input::Permit),
                    _ => {}
                }
            }
        }
    }

    fn news(&mut self) {
        self.step(Input::News("f".into()));
    }

    /// What is sent, as the kind and `bug@number` of its changes, since this was last called.
    fn sent(&mut self) -> Vec<String> {
        let told = |batch: &Batch| {
            let changes = batch.changes.iter().map(|told| format!(" {}@{}", told.change.bug, told.cursor.seq));
            let kind = match batch.kind {
                Kind::Update => "update",
                Kind::Updates { complete: true } => "complete",
                Kind::Updates { complete: false } => "latest",
                Kind::Gap => "gap",
            };
            format!("{kind}{}", changes.collect::<String>())
        };
        let sent = std::mem::take(&mut self.out).into_iter().filter_map(|action| match action {
            Action::Send(Send { what: What::Batch(batch), .. }) => Some(told(&batch)),
            Action::Send(Send { what, .. }) => Some(format!("{what:?}")),
            _ => None,
        });
        sent.collect()
    }

    fn end(&mut self, outcome: Outcome) {
        self.step(Input::Ended(outcome));
    }

    fn order(&mut self, order: &Order) {
        let mut row = self.endpoint.row().clone();
        carry_out(&mut row, order).unwrap();
        self.step(Input::Changed(Box::new(row)));
    }
}

#[test]
fn changes_one_after_another_are_single_messages_and_what_comes_meanwhile_is_a_backlog() {
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    for bug in [1, 2] {
        bed.change(bug);
        bed.news();
        bed.end(Outcome::Success);
    }
    assert_eq!(bed.sent(), ["update 1@1", "update 2@2"]);
    bed.change(3);
    bed.news();
    for bug in [4, 5] {
        bed.change(bug);
        bed.news();
    }
    assert_eq!(bed.sent(), ["update 3@3"], "one request in flight");
    bed.end(Outcome::Success);
    bed.change(6);
    bed.change(6);
    bed.news();
    bed.end(Outcome::Success);
    bed.end(Outcome::Success);
    assert_eq!(bed.sent(), ["complete 4@4 5@5", "latest 6@7"]);
    assert_eq!(bed.endpoint.row().cursor("f"), Cursor::parse("E.7").as_ref());
}

#[test]
fn a_sent_batch_is_retried_alone_unless_something_newer_of_its_bugs_has_come() {
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    bed.change(1);
    bed.news();
    bed.end(Outcome::Refused);
    assert_eq!(bed.sent(), ["update 1@1"]);
    // A change of another bug triggers the retry, and follows.
    bed.change(2);
    bed.news();
    assert_eq!(bed.sent(), ["update 1@1"]);
    bed.end(Outcome::Success);
    bed.end(Outcome::Refused);
    assert_eq!(bed.sent(), ["complete 2@2"]);
    // A newer change of its bug dissolves it.
    bed.change(2);
    bed.news();
    assert_eq!(bed.sent(), ["latest 2@3"]);
    bed.end(Outcome::Refused);
    // Without news it is tried again after an hour.
    assert_eq!(bed.endpoint.wake_us(bed.now_us), Some(50 * SECOND_US), "only the cursor of a quiet feed is looked at");
    bed.now_us = 3600 * SECOND_US;
    bed.step(Input::Tick);
    assert_eq!(bed.sent(), ["latest 2@3"]);
}

#[test]
fn after_a_cool_down_a_probe_and_then_the_rest_ever_faster() {
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    bed.endpoint.bound.entries = 10;
    bed.change(1);
    bed.news();
    bed.end(Outcome::Fault);
    bed.sent();
    for bug in 1..=100 {
        bed.change(bug);
        bed.news();
    }
    bed.now_us = 600 * SECOND_US;
    bed.step(Input::Tick);
    assert_eq!(bed.sent().len(), 0, "strictly after the cool-down");
    bed.now_us += 1;
    bed.step(Input::Tick);
    assert_eq!(bed.sent().len(), 1, "a probe");
    let (mut seconds, begun_us) = (Vec::new(), bed.now_us);
    bed.end(Outcome::Success);
    for _ in 0..9 {
        if bed.sent().is_empty() {
            bed.now_us = bed.endpoint.wake_us(bed.now_us).unwrap();
            bed.step(Input::Tick);
            assert_eq!(bed.sent().len(), 1);
        }
        seconds.push((bed.now_us - begun_us) / SECOND_US);
        bed.end(Outcome::Success);
    }
    assert_eq!(seconds, [0, 1, 1, 2, 2, 2, 2, 3, 3]);
}

#[test]
fn a_day_away_and_a_million_changes_are_five_requests() {
    let mut bed = Bed::new(Policy::Off, ReplayLimits::default());
    bed.change(1);
    bed.news();
    bed.end(Outcome::Fault);
    bed.sent();
    for number in 0..1_000_000 {
        bed.change(1 + number % 1000);
    }
    let mut requests = 0;
    bed.now_us = 86_400 * SECOND_US;
    bed.news();
    while !bed.sent().is_empty() {
        requests += 1;
        bed.end(Outcome::Success);
        bed.now_us += SECOND_US;
        bed.step(Input::Tick);
    }
    assert!(requests <= 5, "{requests}");
    assert_eq!(bed.endpoint.row().cursor("f").unwrap().seq, 1_000_001);
}

#[test]
fn what_a_person_orders_while_a_request_is_in_flight_holds() {
    let cursor = |number: u64| Cursor::parse(&format!("E.{number}")).unwrap();
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    for bug in 1..=3 {
        bed.change(bug);
        bed.news();
        bed.end(Outcome::Success);
    }
    bed.change(4);
    bed.news();
    bed.sent();
    bed.order(&Order::Recover { feed: None, to: Recovery::Cursor(cursor(1)) });
    bed.end(Outcome::Success);
    assert_eq!(bed.sent(), ["complete 2@2 3@3 4@4"], "the cursor that was ordered stands");
    // What another URL answers counts nothing, and moves no cursor.
    bed.order(&Order::Url);
    bed.end(Outcome::Gone);
    assert_eq!(bed.sent(), ["complete 2@2 3@3 4@4"]);
    assert!(bed.endpoint.row().health.is_clean());
    bed.order(&Order::Pause);
    bed.end(Outcome::Success);
    bed.change(5);
    bed.news();
    assert_eq!(bed.sent(), [""; 0]);
    // A paused endpoint is tested, and nothing else.
    bed.order(&Order::Test);
    assert_eq!(bed.sent().len(), 1);
    bed.end(Outcome::Fault);
    assert!(bed.endpoint.row().health.is_clean(), "a test that fails counts nothing");
    bed.order(&Order::Resume);
    assert_eq!(bed.sent(), ["complete 5@5"], "a backlog, so that the verdict is there");
    bed.order(&Order::Delete);
    assert!(bed.out.contains(&Action::Gone));
}

#[test]
fn nobody_sends_before_and_after_its_lease() {
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    bed.endpoint.fence = Fence { term: 1, from_us: 100, until_us: 200 };
    bed.change(1);
    bed.news();
    assert_eq!((bed.sent(), bed.endpoint.wake_us(0)), (vec![], Some(100)));
    bed.now_us = 200;
    bed.step(Input::Tick);
    assert_eq!(bed.sent(), [""; 0]);
    bed.step(Input::Renewed(300));
    assert_eq!(bed.sent(), ["update 1@1"]);
}

/// Memory of one that watches ten bugs of one feed and has nothing to send, without what the allocator adds.
#[test]
fn an_idle_endpoint_is_small() {
    use std::mem::size_of;
    let (endpoint, line, live) = (size_of::<Endpoint>(), size_of::<crate::endpoints::row::Line>(), size_of::<Live>());
    let bugs = 10 * size_of::<BugId>() + 2 * size_of::<usize>();
    let bytes = endpoint + line + live + bugs;
    println!("an endpoint takes {endpoint} bytes, a line {line} and {live}, ten bugs {bugs}: {bytes}");
    assert!(bytes <= 1024, "{bytes}");
}

/// What a step costs, for people who read the output.
#[test]
fn a_single_change_costs_little() {
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    let count = 2000;
    let mut spent = std::time::Duration::ZERO;
    for bug in 1..=count {
        bed.change(bug);
        let begun = std::time::Instant::now();
        bed.news();
        bed.end(Outcome::Success);
        spent += begun.elapsed();
    }
    assert_eq!(bed.sent().len(), usize::try_from(count).unwrap());
    println!(
        "{:?} for a single change, from the news to the stored row: five steps",
        spent / u32::try_from(count).unwrap()
    );
}

mod frozen;

mod gates;

mod places;

/// A batch that is several messages is sent as far as the rate allows; the rest follows, and that is no failure.
#[test]
fn a_part_of_a_batch_that_was_taken_is_a_success_and_moves_no_cursor() {
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    bed.order(&Order::Rate(Some(2)));
    bed.slow = true;
    for bug in 1..=3 {
        bed.change(bug);
        bed.news();
    }
    bed.slow = false;
    bed.step(Input::Permit);
    let sends = |bed: &mut Bed| {
        let sent = std::mem::take(&mut bed.out).into_iter().filter_map(|action| match action {
            Action::Send(send) => Some((send.trigger, send.most)),
            _ => None,
        });
        sent.collect::<Vec<_>>()
    };
    let first = sends(&mut bed);
    assert_eq!(first.iter().map(|(_, most)| *most).collect::<Vec<_>>(), [2]);
    bed.step(Input::Posted { sent: 2, taken: 2 });
    bed.end(Outcome::Partly);
    assert_eq!(sends(&mut bed), [], "the rate is used up");
    assert_eq!(bed.endpoint.row().cursor("f").map_or(0, |cursor| cursor.seq), 0);
    bed.now_us += 500_000;
    bed.step(Input::Tick);
    assert_eq!(sends(&mut bed), [(crate::hooks::event::Trigger::Drain, 1)], "it goes on, and is no retry");
    // One that fails after some messages begins to fail then, whatever was before.
    bed.step(Input::Posted { sent: 2, taken: 1 });
    bed.end(Outcome::Server { retry_after_us: None });
    assert_eq!(bed.endpoint.row().health.backoff_count, 1);
    bed.now_us += 700_000_000;
    bed.step(Input::Tick);
    bed.step(Input::Posted { sent: 2, taken: 1 });
    bed.end(Outcome::Server { retry_after_us: None });
    assert_eq!(bed.endpoint.row().health.backoff_count, 1);
    bed.now_us += 700_000_000;
    bed.step(Input::Tick);
    bed.step(Input::Posted { sent: 1, taken: 0 });
    bed.end(Outcome::Server { retry_after_us: None });
    assert_eq!(bed.endpoint.row().health.backoff_count, 2);
    bed.now_us += 1_300_000_000;
    bed.step(Input::Tick);
    bed.end(Outcome::Success);
    assert!(bed.endpoint.row().health.is_clean());
    assert_eq!(bed.endpoint.row().cursor("f"), Cursor::parse("E.3").as_ref());
}
