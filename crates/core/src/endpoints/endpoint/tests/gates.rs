//! When nothing is sent: before the outcome of the last request is stored, and by who knows that it was not stored.

use super::*;

/// A bed in which a change was accepted, and the store has not answered yet; another change waits.
fn unsaved() -> (Bed, u64) {
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    bed.change(1);
    bed.news();
    bed.slow = true;
    bed.change(2);
    bed.news();
    bed.sent();
    bed.end(Outcome::Success);
    let stores: Vec<u64> = bed.out.iter().filter_map(stored).collect();
    assert_eq!(stores.len(), 1);
    bed.out.clear();
    (bed, stores[0])
}

fn stored(action: &Action) -> Option<u64> {
    if let Action::Store(row, _) = action { Some(row.version) } else { None }
}

#[test]
fn nothing_is_wanted_before_the_outcome_is_stored() {
    let (mut bed, version) = unsaved();
    bed.news();
    bed.step(Input::Tick);
    assert_eq!(bed.out, []);
    bed.step(Input::Stored(version));
    assert_eq!(bed.out, [Action::Want(Class::First)]);
}

/// A place that was wanted before comes too early.
#[test]
fn a_place_is_given_back_before_the_outcome_is_stored() {
    let (mut bed, version) = unsaved();
    bed.step(Input::Permit);
    assert_eq!(bed.out, [Action::Release]);
    bed.out.clear();
    bed.slow = false;
    bed.step(Input::Stored(version));
    assert_eq!(bed.sent(), ["update 2@2"]);
}

/// A write of which nothing is known may have succeeded; its effects are not applied again.
#[test]
fn what_the_store_has_is_not_counted_again() {
    for succeeded in [false, true] {
        let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
        bed.change(1);
        bed.news();
        let before = bed.endpoint.row().clone();
        bed.slow = true;
        bed.out.clear();
        bed.end(Outcome::Fault);
        let written = bed.out.iter().find_map(|action| match action {
            Action::Store(row, _) => Some((**row).clone()),
            _ => None,
        });
        let mut read = if succeeded { written.unwrap() } else { before };
        // A person has written after it.
        carry_out(&mut read, &Order::Rate(Some(7))).unwrap();
        bed.out.clear();
        bed.step(Input::NotStored(Some(Box::new(read.clone()))));
        let row = bed.endpoint.row();
        assert_eq!((row.health.backoff_count, row.rate), (1, Some(7)), "succeeded: {succeeded}");
        let writes: Vec<u64> = bed.out.iter().filter_map(stored).collect();
        assert_eq!(writes.len(), usize::from(!succeeded), "what it lacks is written");
        assert!(writes.iter().all(|version| *version == read.version + 1));
    }
}

/// Another URL was ordered before it was stored that the old one had accepted a change: the new one is sent it, too.
#[test]
fn what_another_url_accepted_is_sent_to_the_new_one() {
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    bed.change(1);
    bed.news();
    let mut read = bed.endpoint.row().clone();
    carry_out(&mut read, &Order::Url).unwrap();
    bed.slow = true;
    bed.end(Outcome::Success);
    bed.slow = false;
    bed.change(2);
    bed.sent();
    bed.step(Input::NotStored(Some(Box::new(read))));
    assert_eq!(bed.sent(), ["complete 1@1 2@2"]);
}

/// The store fails: it is tried again a second later, with what has come together until then.
#[test]
fn a_write_is_tried_again_after_a_second() {
    let (mut bed, version) = unsaved();
    bed.step(Input::NotStored(None));
    assert_eq!((bed.out.len(), bed.endpoint.wake_us(bed.now_us)), (0, Some(SECOND_US)));
    bed.now_us = SECOND_US;
    bed.step(Input::Tick);
    assert_eq!(bed.out.iter().filter_map(stored).collect::<Vec<_>>(), [version]);
}

/// What changed while a write was under way is written after it.
#[test]
fn what_changes_during_a_write_is_written_after_it() {
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    bed.order(&Order::Watch(Watch::Bugs([BugId::new(1).unwrap()].into())));
    bed.change(1);
    bed.news();
    bed.slow = true;
    bed.out.clear();
    bed.end(Outcome::Success);
    let version = bed.out.iter().find_map(stored).unwrap();
    bed.change(2);
    bed.now_us = 60 * SECOND_US;
    bed.step(Input::Tick);
    bed.out.clear();
    bed.step(Input::Stored(version));
    let cursors: Vec<u64> = bed.out.iter().filter_map(stored_cursor).collect();
    assert_eq!(cursors, [2], "the cursor of a quiet feed has moved meanwhile");
}

fn stored_cursor(action: &Action) -> Option<u64> {
    if let Action::Store(row, _) = action { row.cursor("f").map(|cursor| cursor.seq) } else { None }
}

#[test]
fn the_cursor_of_a_quiet_feed_is_stored_every_minute() {
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    bed.order(&Order::Watch(Watch::Bugs([BugId::new(1).unwrap()].into())));
    bed.news();
    bed.change(2);
    bed.out.clear();
    let wake_us = bed.endpoint.wake_us(0).unwrap();
    assert!(wake_us <= 60 * SECOND_US);
    bed.now_us = wake_us;
    bed.step(Input::Tick);
    assert_eq!(bed.out.iter().filter_map(stored_cursor).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_row_that_is_older_than_what_is_known_changes_nothing() {
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    let old = bed.endpoint.row().clone();
    bed.order(&Order::Pause);
    bed.step(Input::Changed(Box::new(old)));
    assert!(bed.endpoint.row().paused);
}

#[test]
fn who_lost_its_lease_forgets_the_endpoint() {
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    bed.change(1);
    bed.out.clear();
    bed.step(Input::Lost);
    bed.news();
    assert_eq!((&bed.out[..], bed.endpoint.wake_us(0)), (&[Action::Gone][..], None));
}

#[test]
fn a_clock_that_was_set_back_does_not_keep_an_endpoint_cooling() {
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    bed.now_us = 100 * 86_400 * SECOND_US;
    bed.change(1);
    bed.news();
    bed.end(Outcome::Fault);
    bed.now_us = 0;
    bed.step(Input::Tick);
    assert_eq!(bed.endpoint.row().health.disabled_until_us, Some(86_400 * SECOND_US));
}

#[test]
fn slow_and_failing_receivers_are_told_apart_from_others() {
    let mut bed = Bed::new(Policy::Current, ReplayLimits::default());
    bed.change(1);
    bed.news();
    bed.now_us = 2 * SECOND_US;
    bed.end(Outcome::Success);
    bed.out.clear();
    bed.change(2);
    bed.news();
    assert_eq!(bed.out[0], Action::Want(Class::Slow));
    bed.end(Outcome::Fault);
    bed.out.clear();
    bed.change(3);
    bed.news();
    assert_eq!(bed.out[0], Action::Want(Class::Again));
}

/// A receiver is new until it has taken something, in this process and at this URL.
#[test]
fn a_receiver_is_known_to_be_well_once_it_has_taken_something() {
    let mut bed = Bed::new(Policy::Current, ReplayLimits::default());
    let wants = |bed: &mut Bed, bug| {
        bed.out.clear();
        bed.change(bug);
        bed.news();
        let class =
            bed.out.iter().find_map(|action| if let Action::Want(class) = action { Some(*class) } else { None });
        bed.end(Outcome::Success);
        class
    };
    assert_eq!((wants(&mut bed, 1), wants(&mut bed, 2)), (Some(Class::New), Some(Class::First)));
    bed.order(&Order::Url);
    assert_eq!((wants(&mut bed, 3), wants(&mut bed, 4)), (Some(Class::New), Some(Class::First)));
    bed.take_over();
    assert_eq!(wants(&mut bed, 5), Some(Class::New));
}

/// One request is bounded in bytes, and one change is always taken.
#[test]
fn a_request_is_bounded_in_bytes() {
    let mut bed = Bed::new(Policy::Classic, ReplayLimits::default());
    for (bytes, want) in
        [(150, &["complete 1@1 2@2", "complete 3@3"][..]), (1, &["complete 1@4", "complete 2@5", "complete 3@6"])]
    {
        bed.endpoint.bound.bytes = bytes;
        for bug in [1, 2, 3] {
            bed.change(bug);
        }
        bed.news();
        for _ in want {
            bed.end(Outcome::Success);
        }
        assert_eq!(bed.sent(), want);
    }
}
