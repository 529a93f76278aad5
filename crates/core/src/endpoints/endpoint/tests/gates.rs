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
