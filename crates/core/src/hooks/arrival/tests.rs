use bugfeed_protocol::{BugId, When};

use super::*;

const NOW_US: i64 = 1_700_000_000 * SECOND_US;

fn event(id: u128, delivery: Option<&str>, hash: u8) -> Event {
    Event {
        id: EventId(id),
        source: Arc::from("s"),
        feed: Arc::from("f"),
        bug: BugId::new(7),
        when: When::from_micros(NOW_US - 5 * SECOND_US).unwrap(),
        origin: WhenOrigin::Tracker,
        received_us: NOW_US,
        kind: Arc::from("k"),
        delivery: delivery.map(|id| Delivery { id: Arc::from(id), item: 0 }),
        hash: ContentHash([hash; 32]),
        private: false,
        retryable: true,
        expires_us: 0,
        repeat_of: None,
        progress: Progress::new(State::Queued, Trigger::Live),
    }
}

fn stored(mut event: Event, state: State) -> Event {
    event.progress.state = state;
    event
}

/// The inserted event and its links.
fn decide(new: Event, known: &Known, settings: &Settings, duplicates: Duplicates) -> (Event, Vec<Link>) {
    let actions = receive(new, Mapping::Fits, known, settings, duplicates, None);
    let Some(Action::Insert { event, .. }) = actions.first() else { panic!("no insert: {actions:?}") };
    let links = actions.iter().filter_map(|action| match action {
        Action::Link { link, .. } => Some(*link),
        _ => None,
    });
    (Event::clone(event), links.collect())
}

fn by_key(known: Event) -> Known {
    Known { generation: 1, same_key: vec![known], same_time: Vec::new() }
}

#[test]
fn only_what_may_still_be_announced_or_was_has_duplicates() {
    for state in State::ALL {
        let (event, links) = decide(
            event(2, Some("d"), 1),
            &by_key(stored(event(1, Some("d"), 1), *state)),
            &Settings::DEFAULT,
            Duplicates::ByContent,
        );
        let duplicate = state.has_duplicates();
        assert_eq!(event.progress.state == State::Duplicate, duplicate, "{state}");
        assert_eq!(event.repeat_of.is_some(), *state == State::Errored, "{state}");
        let kind = if duplicate { LinkKind::DuplicateOf } else { LinkKind::SameDeliveryAs };
        if *state != State::Duplicate {
            assert_eq!(links, [Link { kind, to: EventId(1) }], "{state}");
        }
    }
}

#[test]
fn the_same_id_with_another_content_is_another_event() {
    let known = by_key(stored(event(1, Some("d"), 1), State::Completed));
    let (event, links) = decide(event(2, Some("d"), 2), &known, &Settings::DEFAULT, Duplicates::ByContent);
    assert_eq!((event.progress.state, event.progress.due_us), (State::Queued, Some(AT_ONCE)));
    assert_eq!(links, [Link { kind: LinkKind::SameDeliveryAs, to: EventId(1) }]);
}

#[test]
fn an_equal_hash_is_a_repeat_for_ten_minutes_and_never_if_dated_by_arrival() {
    for (age_us, origin, want) in [
        (SAME_CONTENT_US, WhenOrigin::Tracker, State::Duplicate),
        (-SAME_CONTENT_US, WhenOrigin::Tracker, State::Duplicate),
        (SAME_CONTENT_US + 1, WhenOrigin::Tracker, State::Queued),
        (0, WhenOrigin::Arrival, State::Queued),
    ] {
        let mut old = stored(event(1, None, 1), State::Completed);
        (old.received_us, old.origin) = (NOW_US - age_us, origin);
        let new = Event { origin, ..event(2, None, 1) };
        let (event, _) = decide(new, &by_key(old), &Settings::DEFAULT, Duplicates::ByContent);
        assert_eq!(event.progress.state, want, "{age_us} {origin}");
    }
}

#[test]
fn an_equal_time_is_another_event_or_a_repeat() {
    for (duplicates, state, kind) in [
        (Duplicates::ByContent, State::Queued, LinkKind::SameTimeAs),
        (Duplicates::ByTime, State::Duplicate, LinkKind::DuplicateOf),
    ] {
        let known = Known { same_time: vec![stored(event(1, Some("a"), 1), State::Completed)], ..Known::default() };
        let (event, links) = decide(event(2, Some("b"), 2), &known, &Settings::DEFAULT, duplicates);
        assert_eq!(event.progress.state, state);
        assert_eq!(links, [Link { kind, to: EventId(1) }]);
    }
}

#[test]
fn first_states() {
    let settings = Settings::DEFAULT;
    let off = Settings { on: false, ..settings };
    let tell = Settings { private: Private::Announce, ..settings };
    let first = |mapping, private, settings: &Settings| {
        let new = Event { private, ..event(1, None, 1) };
        let actions = receive(new, mapping, &Known::default(), settings, Duplicates::ByContent, None);
        let Some(Action::Insert { event, .. }) = actions.first() else { panic!("no insert") };
        (event.progress.state, event.progress.drop)
    };
    assert_eq!(first(Mapping::Fits, false, &settings), (State::Queued, None));
    assert_eq!(first(Mapping::Fits, true, &settings), (State::Dropped, Some(DropReason::Private)));
    assert_eq!(first(Mapping::Fits, true, &tell), (State::Queued, None));
    assert_eq!(first(Mapping::Fits, false, &off), (State::Disabled, None));
    assert_eq!(first(Mapping::NotMapped, false, &settings), (State::Dropped, Some(DropReason::NotMapped)));
    assert_eq!(first(Mapping::Failed, true, &settings), (State::Errored, None));
    let nameless = Event { private: true, bug: None, ..event(1, None, 1) };
    let (dropped, _) = decide(nameless, &Known::default(), &settings, Duplicates::ByContent);
    assert_eq!(dropped.progress.drop, Some(DropReason::Private), "a private item is no error, whatever it lacks");
}

#[test]
fn a_repeat_of_an_errored_event_without_a_bug_has_that_one_tried() {
    let mut old = stored(event(1, Some("d"), 1), State::Errored);
    (old.bug, old.progress.class) = (None, Some(ErrorClass::Mapping));
    old.progress.due_us = Some(NOW_US + 1000);
    let new = event(2, Some("d"), 1);
    let actions = receive(new, Mapping::Fits, &by_key(old), &Settings::DEFAULT, Duplicates::ByContent, None);
    let hastened = |action: &Action| match action {
        Action::Step(step) => step.id == EventId(1) && step.after.due_us == Some(AT_ONCE),
        _ => false,
    };
    assert!(actions.iter().any(hastened), "{actions:?}");
}

#[test]
fn a_dead_letter_whose_request_came_through_again_is_canceled_by_it() {
    let mut old = event(1, None, 0);
    old.progress = Progress { due_us: Some(9), blocked_by: None, ..Progress::new(State::Errored, Trigger::Retry) };
    let actions = replayed(&old, EventId(7), 5);
    let [Action::Step(step), Action::Unblock { by }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((step.after.state, step.cause, *by), (State::Canceled, Cause::Superseded, old.id));
    assert_eq!(
        (step.link.map(|link| link.to), step.after.ended_us, step.after.due_us),
        (Some(EventId(7)), Some(5), None)
    );
    for state in State::ALL.iter().filter(|state| **state != State::Errored) {
        old.progress.state = *state;
        assert_eq!(replayed(&old, EventId(7), 5), [], "{state}");
    }
}
