//! What was sent is sent again as it was, also by the next holder of the lease.

use super::*;

fn batch(bed: &Bed) -> Arc<Batch> {
    let batch = bed.out.iter().rev().find_map(|action| match action {
        Action::Send(Send { what: What::Batch(batch), .. }) => Some(Arc::clone(batch)),
        _ => None,
    });
    batch.expect("a batch was sent")
}

/// What the body and the identifier are made from.
fn content(batch: &Batch) -> (Kind, Vec<crate::endpoints::question::Told>, Cursor, u32) {
    (batch.kind, batch.changes.clone(), batch.cursor.clone(), batch.generation)
}

#[test]
fn the_next_holder_sends_it_again_alone_and_then_the_rest() {
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    bed.change(1);
    bed.news();
    let before = content(&batch(&bed));
    bed.end(Outcome::Refused);
    bed.change(2);
    // A test has another generation, which concerns no batch.
    bed.order(&Order::Pause);
    bed.order(&Order::Test);
    bed.end(Outcome::Fault);
    bed.order(&Order::Resume);
    bed.sent();
    bed.take_over();
    bed.news();
    assert_eq!(content(&batch(&bed)), before);
    assert_eq!(bed.sent(), ["update 1@1"]);
    bed.end(Outcome::Success);
    assert_eq!(bed.sent(), ["complete 2@2"]);
    assert_eq!(bed.endpoint.row().lines[0].sent, None);
    bed.end(Outcome::Success);
    bed.take_over();
    assert_eq!(bed.sent(), [""; 0]);
}

#[test]
fn a_newer_change_dissolves_it_for_the_next_holder_too() {
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    for bug in [1, 2] {
        bed.change(bug);
    }
    bed.news();
    bed.end(Outcome::Refused);
    assert_eq!(bed.sent(), ["complete 1@1 2@2"]);
    bed.change(2);
    bed.change(3);
    bed.take_over();
    bed.news();
    assert_eq!(bed.sent(), ["latest 1@1 2@3 3@4"]);
    // What failed now is what counts from now on.
    bed.end(Outcome::Refused);
    bed.sent();
    bed.change(4);
    bed.take_over();
    bed.news();
    assert_eq!(bed.sent(), ["latest 1@1 2@3 3@4"]);
    bed.end(Outcome::Success);
    assert_eq!(bed.sent(), ["latest 4@5"], "what is left of a backlog in which something was left out");
}

#[test]
fn a_gap_stands_as_long_as_the_feed_can_go_on_from_it() {
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    bed.change(1);
    bed.order(&Order::Recover { feed: None, to: Recovery::Cursor(Cursor::parse("F.7").unwrap()) });
    bed.news();
    let before = content(&batch(&bed));
    assert_eq!((before.0, before.2.seq), (Kind::Gap, 1));
    bed.end(Outcome::Refused);
    bed.change(2);
    bed.take_over();
    bed.news();
    assert_eq!(content(&batch(&bed)), before);
    bed.sent();
    bed.end(Outcome::Success);
    assert_eq!(bed.sent(), ["complete 2@2"]);
}

#[test]
fn a_recovery_forgets_what_was_sent_before_it() {
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    for bug in [1, 2] {
        bed.change(bug);
        bed.news();
        bed.end(Outcome::Success);
    }
    bed.change(3);
    bed.news();
    bed.end(Outcome::Refused);
    bed.sent();
    bed.order(&Order::Recover { feed: None, to: Recovery::Cursor(Cursor::parse("E.1").unwrap()) });
    assert_eq!(bed.endpoint.row().lines[0].sent, None);
    bed.news();
    assert_eq!(batch(&bed).generation, 1);
    assert_eq!(bed.sent(), ["complete 2@2 3@3"]);
}

/// Nothing was sent to another URL yet.
#[test]
fn another_url_forgets_what_was_sent_before_it() {
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    bed.change(1);
    bed.news();
    bed.end(Outcome::Refused);
    bed.sent();
    bed.change(2);
    bed.order(&Order::Url);
    assert_eq!(bed.endpoint.row().lines[0].sent, None);
    assert_eq!(bed.sent(), ["complete 1@1 2@2"]);
}

/// The verdict is that of the whole backlog, whoever sends its parts.
#[test]
fn what_was_left_out_once_is_said_to_the_end_of_the_backlog() {
    for dies in [false, true] {
        let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
        bed.endpoint.bound.entries = 1;
        bed.change(1);
        bed.news();
        for bug in [2, 2, 3, 4] {
            bed.change(bug);
            bed.news();
        }
        bed.end(Outcome::Success);
        assert_eq!(bed.sent(), ["update 1@1", "latest 2@3"]);
        bed.end(Outcome::Success);
        if dies {
            bed.sent();
            bed.take_over();
        }
        assert_eq!(bed.sent(), ["latest 3@4"]);
        bed.end(Outcome::Success);
        bed.end(Outcome::Success);
        bed.change(5);
        bed.news();
        assert_eq!(bed.sent(), ["latest 4@5", "update 5@6"]);
    }
}
