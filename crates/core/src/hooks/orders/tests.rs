use std::sync::Arc;

use bugfeed_protocol::{BugId, When};

use super::*;
use crate::hooks::event::{ContentHash, Progress, WhenOrigin};
use crate::hooks::states::is_allowed;

fn event(state: State) -> Event {
    Event {
        id: EventId(1),
        source: Arc::from("s"),
        feed: Arc::from("f"),
        bug: BugId::new(7),
        when: When::MIN,
        origin: WhenOrigin::Tracker,
        received_us: 0,
        kind: Arc::from("k"),
        delivery: None,
        hash: ContentHash([0; 32]),
        private: false,
        retryable: true,
        expires_us: 100,
        repeat_of: None,
        progress: Progress {
            class: Some(ErrorClass::Tracker),
            due_us: Some(50),
            ..Progress::new(state, Trigger::Retry)
        },
    }
}

#[test]
fn every_order_for_every_state_is_a_line_of_the_table_or_refused() {
    let orders = [
        (Order::Retry, "errored"),
        (Order::Drop, "queued errored disabled"),
        (Order::Release, "errored"),
        (Order::Prune, "queued errored disabled"),
        (Order::SwitchOn, "disabled"),
        (Order::Mended(ErrorClass::Tracker), "errored"),
    ];
    for (order, wanted) in orders {
        for state in State::ALL {
            let done = carry_out(order, &event(*state), 10);
            assert_eq!(done.is_ok(), wanted.contains(state.as_str()), "{order:?} {state}");
            let Ok(actions) = done else { continue };
            let Action::Step(step) = &actions[0] else { panic!("{actions:?}") };
            assert!(is_allowed(Some(*state), step.cause, step.after.state), "{order:?} {state}");
        }
    }
}

#[test]
fn what_is_blocked_or_not_kept_is_not_tried() {
    let mut blocked = event(State::Errored);
    blocked.progress.blocked_by = Some(EventId(9));
    assert_eq!(carry_out(Order::Retry, &blocked, 10), Err(Refusal::BlockedBy(EventId(9))));
    let mut lost = event(State::Errored);
    (lost.retryable, lost.progress.class) = (false, Some(ErrorClass::Mapping));
    assert_eq!(carry_out(Order::Retry, &lost, 10), Err(Refusal::NotRetryable));
    assert_eq!(carry_out(Order::Mended(ErrorClass::Mapping), &lost, 10), Err(Refusal::NotRetryable));
    assert_eq!(carry_out(Order::Mended(ErrorClass::Mapping), &event(State::Errored), 10), Err(Refusal::NotConcerned));
}

#[test]
fn what_stands_for_a_request_ends_when_the_request_concerns_no_bug() {
    let mut request = event(State::Errored);
    (request.bug, request.retryable, request.progress.class) = (None, false, Some(ErrorClass::Mapping));
    for state in State::ALL {
        request.progress.state = *state;
        let done = carry_out(Order::Ignored, &request, 10);
        assert_eq!(done.is_ok(), *state == State::Errored, "{state}");
        let Ok(actions) = done else { continue };
        let Action::Step(step) = &actions[0] else { panic!("{actions:?}") };
        assert!(is_allowed(Some(*state), step.cause, step.after.state));
        assert_eq!((step.after.drop, step.after.ended_us), (Some(DropReason::Ignored), Some(10)));
    }
    request.progress.state = State::Errored;
    let one = |change: fn(&mut Event)| {
        let mut event = request.clone();
        change(&mut event);
        event
    };
    for other in [
        one(|event| event.bug = BugId::new(7)),
        one(|event| event.retryable = true),
        one(|event| event.progress.class = Some(ErrorClass::Tracker)),
    ] {
        assert_eq!(carry_out(Order::Ignored, &other, 10), Err(Refusal::NotConcerned), "{other:?}");
    }
}
