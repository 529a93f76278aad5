//! Where an endpoint stands, where a cursor alone does not say it.

use super::*;

fn at(text: &str) -> Order {
    Order::Recover { feed: None, to: Recovery::Cursor(Cursor::parse(text).unwrap()) }
}

/// A change that came late moves no cursor, and is sent once all the same.
#[test]
fn a_late_change_is_sent_once() {
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    bed.change(1);
    bed.news();
    bed.end(Outcome::Success);
    bed.late_change(2);
    bed.news();
    bed.end(Outcome::Success);
    assert_eq!(bed.sent(), ["update 1@1", "update 2@1"]);
    bed.news();
    bed.now_us = 100 * SECOND_US;
    bed.step(Input::Tick);
    assert_eq!(bed.sent(), [""; 0]);
    // The same bug again: equal in bug and cursor, so receivers tell them apart by the time of the change.
    bed.late_change(2);
    bed.news();
    assert_eq!(bed.sent(), ["update 2@1"]);
    bed.end(Outcome::Success);
    // Who knows the cursor only must send it again.
    bed.sent();
    bed.take_over();
    assert_eq!(bed.sent(), ["latest 2@1"]);
}

/// A place says that nothing is owed up to there of the bugs that were watched. Of others, the cursor says it, so that a
/// verdict does not depend on which process sends.
#[test]
fn other_bugs_are_owed_what_comes_after_the_cursor() {
    let bugs = |numbers: &[u64]| Watch::Bugs(numbers.iter().map(|&number| BugId::new(number).unwrap()).collect());
    for in_flight in [false, true] {
        let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
        bed.order(&Order::Watch(bugs(&[1, 2])));
        for bug in [1, 3] {
            bed.change(bug);
        }
        bed.news();
        if !in_flight {
            bed.end(Outcome::Success);
        }
        bed.order(&Order::Watch(bugs(&[1, 3])));
        if in_flight {
            bed.end(Outcome::Success);
        }
        assert_eq!(bed.sent(), ["update 1@1", "update 3@2"], "in flight: {in_flight}");
    }
}

/// A process without history does not know what came before its first change.
#[test]
fn who_has_a_cursor_is_told_a_gap_by_a_feed_that_begins_later() {
    let (recorder, cache) = replay(ReplayLimits::default());
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    bed.change(1);
    bed.news();
    bed.end(Outcome::Success);
    bed.sent();
    bed.feeds = Cache(cache);
    bed.sequencer = Sequencer::new(recorder, Epoch::parse("own").unwrap());
    bed.take_over();
    bed.head = 4;
    bed.change(3);
    bed.news();
    assert_eq!(bed.sent(), ["gap"]);
}

/// What was recorded before a process began is known to it only if it has everything from the first number on.
#[test]
fn a_recovery_from_a_time_before_the_feed_began_is_a_gap() {
    let time = |second: i64| When::from_micros(second * SECOND_US).unwrap();
    let since = |second| Order::Recover { feed: None, to: Recovery::Since(time(second)) };
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    let (recorder, cache) = replay(ReplayLimits::default());
    bed.feeds = Cache(cache);
    bed.sequencer = Sequencer::new(recorder, Epoch::parse("own").unwrap());
    bed.sequencer.go_on_after(&Cursor::parse("E.4").unwrap());
    bed.take_over();
    bed.head = 4;
    let message = |second: i64| BusMessage {
        change: Change { bug: BugId::new(7).unwrap(), when: time(second) },
        cursor: Cursor::parse(&format!("E.{}", second - 95)),
        after: None,
    };
    for second in [100, 101, 102] {
        bed.sequencer.accept_gap(&message(second), None, time(second));
    }
    bed.news();
    bed.end(Outcome::Success);
    bed.end(Outcome::Success);
    bed.sent();
    bed.order(&since(100));
    assert_eq!(bed.sent(), ["gap"], "what was recorded just before the first change is not known");
    bed.end(Outcome::Success);
    bed.order(&since(101));
    assert_eq!(bed.sent(), ["latest 7@7"]);
}

/// Another replica had more. What it has sent is not sent again when it comes here.
#[test]
fn who_is_ahead_is_sent_what_it_does_not_have() {
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    for bug in 1..=3 {
        bed.change(bug);
    }
    bed.order(&at("E.5"));
    bed.news();
    assert_eq!(bed.sent(), [""; 0]);
    for bug in [4, 5, 6] {
        bed.change(bug);
        bed.news();
    }
    assert_eq!(bed.sent(), ["update 6@6"]);
    bed.end(Outcome::Success);
    bed.change(7);
    bed.news();
    assert_eq!(bed.sent(), ["update 7@7"]);
}

/// A late change is sent to who is ahead, and its cursor does not take back what its receiver has.
#[test]
fn a_late_change_does_not_take_back_the_cursor_of_who_is_ahead() {
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    for bug in 1..=3 {
        bed.change(bug);
    }
    bed.order(&at("E.5"));
    bed.news();
    bed.late_change(9);
    bed.news();
    assert_eq!(bed.sent(), ["complete 9@5"]);
    bed.end(Outcome::Success);
    for bug in [4, 5, 6] {
        bed.change(bug);
        bed.news();
    }
    assert_eq!(bed.sent(), ["update 6@6"]);
}

/// The number that it has may never come.
#[test]
fn who_stays_ahead_is_told_a_gap() {
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    bed.change(1);
    bed.order(&at("E.5"));
    bed.news();
    let wake_us = bed.endpoint.wake_us(0).unwrap();
    assert_eq!(wake_us, 5 * SECOND_US);
    bed.now_us = wake_us;
    bed.step(Input::Tick);
    assert_eq!(bed.sent(), ["gap"]);
    bed.end(Outcome::Success);
    assert_eq!(bed.endpoint.row().cursor("f").unwrap().seq, 1);
}

/// The number came, but nobody looked at it before the time was over.
#[test]
fn who_is_ahead_no_longer_is_told_no_gap() {
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    bed.change(1);
    bed.order(&at("E.3"));
    bed.news();
    for bug in [2, 3, 4] {
        bed.change(bug);
    }
    bed.now_us = 100 * SECOND_US;
    bed.step(Input::Tick);
    assert_eq!(bed.sent(), ["complete 4@4"]);
}
