//! Small cases of the reconciler: one rule each.

use super::*;

const MINUTE: i64 = 60;
/// The tracker's clock is so far ahead of ours, in seconds.
const AHEAD: i64 = 7 * 3600;
/// When the tests begin, by our clock, in seconds.
const T0: i64 = 1_700_000_000;

fn us(second: i64) -> i64 {
    (T0 + second) * SECOND_US
}

/// The tracker's time, so many seconds after the beginning.
fn at(second: i64) -> When {
    When::from_micros((T0 + AHEAD + second) * SECOND_US).unwrap()
}

fn bug(number: u64) -> BugId {
    BugId::new(number).unwrap()
}

fn seen(number: u64, second: i64) -> Seen {
    Seen { feed: "default".into(), bug: bug(number), changed: at(second), private: false }
}

/// A page that the tracker sends at this second.
fn page(clock: i64, bugs: &[Seen], more: bool) -> Page {
    let last = bugs.last().map(|last| (last.bug, last.changed));
    Page { seen: bugs.to_vec(), last, more, clock: Some(at(clock)) }
}

fn nothing(_: &Seen) -> Known {
    Known::default()
}

fn newest(second: i64) -> impl Fn(&Seen) -> Known {
    move |_| Known { newest: Some(at(second)), by_webhook: None }
}

fn reconciler(paging: Paging) -> Reconciler {
    let mut reconciler = Reconciler::new(Settings::new(paging), None, us(0));
    assert_eq!(reconciler.next(us(0)), Next::Ask(Question { since: None, after: None, page: 1 }));
    reconciler.answered(us(0), &page(0, &[], false), &nothing).unwrap();
    let (mark, _) = reconciler.stored(us(0), &[]);
    assert_eq!(mark, Some(Mark { since: at(-300), asked_us: us(0), first: at(0) }));
    reconciler
}

/// A round with one page. Returns what was missing.
fn round(reconciler: &mut Reconciler, second: i64, bugs: &[Seen], known: &dyn Fn(&Seen) -> Known) -> Vec<Missing> {
    let mut next = reconciler.next(us(second));
    if let Next::Judge(judged) = &next {
        reconciler.judged(judged, &nothing);
        next = reconciler.next(us(second));
    }
    assert!(matches!(next, Next::Ask(_)), "at {second}: {next:?}");
    let missing = reconciler.answered(us(second), &page(second, bugs, false), known).unwrap();
    reconciler.stored(us(second), &missing);
    missing
}

fn since(next: &Next) -> i64 {
    let Next::Ask(question) = next else { panic!("{next:?}") };
    question.since.unwrap().as_micros() / SECOND_US - T0 - AHEAD
}

#[test]
fn a_round_begins_where_the_last_one_began_less_the_overlap() {
    let mut reconciler = reconciler(Paging::ByTime);
    assert_eq!(reconciler.next(us(1)), Next::Wait { until_us: us(5 * MINUTE) });
    assert_eq!(since(&reconciler.next(us(5 * MINUTE))), -300);
    reconciler.answered(us(5 * MINUTE), &page(5 * MINUTE, &[], false), &nothing).unwrap();
    assert!(reconciler.stored(us(6 * MINUTE), &[]).0.is_some());
    assert_eq!(reconciler.next(us(6 * MINUTE)), Next::Wait { until_us: us(10 * MINUTE) });
    assert_eq!(since(&reconciler.next(us(10 * MINUTE))), 0);
    reconciler.answered(us(10 * MINUTE), &page(10 * MINUTE, &[], false), &nothing).unwrap();
    reconciler.stored(us(10 * MINUTE), &[]);
    assert_eq!(since(&reconciler.next(us(15 * MINUTE))), 5 * MINUTE);
}

#[test]
fn a_restart_goes_on_from_the_mark() {
    let mut reconciler = reconciler(Paging::ByTime);
    round(&mut reconciler, 10 * MINUTE, &[], &nothing);
    let mut again = Reconciler::new(reconciler.settings, reconciler.mark(), us(1000 * MINUTE));
    assert_eq!(since(&again.next(us(1000 * MINUTE))), 5 * MINUTE);
    let much_later = 60 * 24 * 60 * MINUTE;
    let mut again = Reconciler::new(reconciler.settings, reconciler.mark(), us(much_later));
    assert_eq!(since(&again.next(us(much_later))), 30 * 24 * 60 * MINUTE - 5 * MINUTE, "30 days at most");
}

#[test]
fn what_is_newer_than_all_that_is_known_is_missing() {
    let mut reconciler = reconciler(Paging::ByNumber);
    let bugs = [seen(1, 100), seen(2, 101)];
    assert_eq!(round(&mut reconciler, 300, &bugs, &newest(100)), [seen(2, 101)]);
    assert_eq!(round(&mut reconciler, 600, &bugs, &nothing), bugs);
    let private = [Seen { private: true, ..seen(3, 102) }];
    assert_eq!(round(&mut reconciler, 900, &private, &nothing), [], "a private bug");
    reconciler.settings.private = true;
    assert_eq!(round(&mut reconciler, 1200, &private, &nothing), private);
}

#[test]
fn a_fraction_counts_only_where_webhooks_have_one() {
    let half = |second| When::from_micros(at(second).as_micros() + SECOND_US / 2).unwrap();
    let bug = Seen { changed: half(100), ..seen(1, 100) };
    let known = |newest| Known { newest: Some(newest), by_webhook: None };
    assert!(!is_missing(&bug, known(at(100))));
    assert!(is_missing(&bug, known(at(99))));
    assert!(is_missing(&bug, known(half(99))));
    assert!(!is_missing(&bug, known(half(100))));
}

#[test]
fn missed_is_what_no_webhook_brings_within_the_usual_time() {
    let mut reconciler = reconciler(Paging::ByNumber);
    let bugs = [seen(1, 290), seen(2, 290), seen(3, -10)];
    assert_eq!(round(&mut reconciler, 300, &bugs, &nothing).len(), 3);
    assert_eq!(reconciler.next(us(419)), Next::Wait { until_us: us(420) });
    let Next::Judge(judged) = reconciler.next(us(420)) else { panic!() };
    assert_eq!(judged, &bugs[..2], "the third changed before the tracker was first asked");
    let by_webhook = |second| Known { newest: None, by_webhook: Some(at(second)) };
    let known = |seen: &Seen| if seen.bug == bug(1) { by_webhook(288) } else { by_webhook(287) };
    assert_eq!(reconciler.judged(&judged, &known), [seen(2, 290)], "2 s are no difference");
    assert_eq!(reconciler.next(us(421)), Next::Wait { until_us: us(600) });
}

#[test]
fn a_failed_round_moves_nothing_and_is_tried_again() {
    let mut reconciler = reconciler(Paging::ByTime);
    let (mut now, mut waited) = (5 * MINUTE, Vec::new());
    for _ in 0..5 {
        assert_eq!(since(&reconciler.next(us(now))), -300);
        reconciler.failed(us(now), None);
        let Next::Wait { until_us } = reconciler.next(us(now)) else { panic!() };
        waited.push((until_us - us(now)) / SECOND_US / MINUTE);
        now += waited.last().unwrap() * MINUTE;
    }
    assert_eq!(waited, [1, 2, 4, 5, 5]);
    assert_eq!(since(&reconciler.next(us(now))), -300);
    reconciler.failed(us(now), Some(us(now + 1000)));
    assert_eq!(reconciler.next(us(now)), Next::Wait { until_us: us(now + 1000) }, "the tracker's wish");
    round(&mut reconciler, now + 1000, &[], &nothing);
    assert_eq!(reconciler.failures, 0);
}

#[test]
fn the_end_of_a_silence_begins_a_round_but_not_within_the_least_pause() {
    let mut reconciler = reconciler(Paging::ByTime);
    reconciler.settings.every_us = 86_400 * SECOND_US;
    round(&mut reconciler, 5 * MINUTE, &[], &nothing);
    reconciler.heard(us(20 * MINUTE));
    reconciler.heard(us(49 * MINUTE));
    assert!(matches!(reconciler.next(us(49 * MINUTE)), Next::Wait { .. }));
    reconciler.heard(us(79 * MINUTE));
    round(&mut reconciler, 79 * MINUTE, &[], &nothing);
    reconciler.hurry(us(79 * MINUTE + 1));
    assert_eq!(reconciler.next(us(79 * MINUTE + 1)), Next::Wait { until_us: us(79 * MINUTE + 30) });
}

#[test]
fn a_clock_that_was_set_back_at_the_tracker_skips_nothing() {
    let mut reconciler = reconciler(Paging::ByTime);
    round(&mut reconciler, 5 * MINUTE, &[], &nothing);
    // Two hours back: the mark lies in the tracker's future.
    let clock = 10 * MINUTE - 7200;
    assert_eq!(since(&reconciler.next(us(10 * MINUTE))), 0);
    assert_eq!(reconciler.answered(us(10 * MINUTE), &page(clock, &[], false), &nothing), Ok(vec![]));
    assert_eq!(reconciler.stored(us(10 * MINUTE), &[]), (None, 0));
    let again = reconciler.next(us(10 * MINUTE));
    assert_eq!(since(&again), clock - 10 * MINUTE, "what passed since the last round, and the overlap");
    let bugs = [seen(1, clock - 1)];
    assert_eq!(reconciler.answered(us(10 * MINUTE), &page(clock, &bugs, false), &nothing).unwrap(), bugs);
    let (mark, _) = reconciler.stored(us(10 * MINUTE), &bugs);
    assert_eq!(mark.unwrap().since, at(clock - 5 * MINUTE));
}

#[test]
fn our_clock_may_be_set_too() {
    let mut reconciler = reconciler(Paging::ByTime);
    assert!(matches!(reconciler.next(us(-100_000)), Next::Wait { until_us } if until_us <= us(-100_000 + 3600)));
    assert_eq!(since(&reconciler.next(us(-100_000 + 3600))), -300);
}

#[test]
fn without_a_clock_the_newest_change_is_the_end() {
    let mut reconciler = Reconciler::new(Settings::new(Paging::ByTime), None, us(0));
    reconciler.next(us(0));
    reconciler.answered(us(0), &Page::default(), &nothing).unwrap();
    let (mark, _) = reconciler.stored(us(0), &[]);
    assert_eq!(mark.unwrap().since.as_micros(), us(-3900));
    let bug = |second| Seen { changed: When::from_micros(us(second)).unwrap(), ..seen(1, 0) };
    let clockless = |bugs: &[Seen]| Page { clock: None, ..page(0, bugs, false) };
    reconciler.next(us(300));
    reconciler.answered(us(300), &clockless(&[bug(290), bug(1_000_000)]), &nothing).unwrap();
    assert_eq!(reconciler.stored(us(300), &[]).0.unwrap().since.as_micros(), us(-10), "the last one is absurd");
    reconciler.next(us(600));
    reconciler.answered(us(600), &clockless(&[]), &nothing).unwrap();
    assert_eq!(reconciler.stored(us(600), &[]).0.unwrap().since.as_micros(), us(-10), "nothing seen, nothing moved");
}

#[test]
fn pages_by_number() {
    let question = Question { since: Some(at(0)), after: None, page: 1 };
    let next = |question: &Question, bugs: &[Seen], more| Paging::ByNumber.next(question, &page(0, bugs, more));
    let second = next(&question, &[seen(1, 5), seen(9, 1)], true).unwrap().unwrap();
    assert_eq!(second, Question { after: Some(bug(9)), ..question });
    assert_eq!(next(&second, &[seen(8, 1), seen(9, 1)], true), Err(Stuck::SamePage));
    assert_eq!(next(&second, &[seen(10, 1)], false), Ok(None));
    assert_eq!(next(&second, &[], true), Ok(None));
}

#[test]
fn pages_by_time() {
    let question = Question { since: Some(at(0)), after: None, page: 1 };
    let next = |question: &Question, bugs: &[Seen]| Paging::ByTime.next(question, &page(0, bugs, true));
    let second = next(&question, &[seen(1, 5), seen(2, 7)]).unwrap().unwrap();
    assert_eq!(second, Question { since: Some(at(7)), after: None, page: 1 });
    let third = next(&second, &[seen(2, 7), seen(3, 7)]).unwrap().unwrap();
    assert_eq!(third, Question { page: 2, ..second }, "a whole page of one time");
    let fourth = next(&third, &[seen(4, 7), seen(5, 8)]).unwrap().unwrap();
    assert_eq!(fourth, Question { since: Some(at(8)), after: None, page: 1 });
    let fifth = next(&fourth, &[seen(6, 7), seen(7, 7)]).unwrap().unwrap();
    assert_eq!(fifth, Question { page: 2, ..fourth }, "a whole page that is a second too old");
    assert_eq!(next(&fifth, &[seen(8, 5)]), Err(Stuck::NotSorted));
}

#[test]
fn more_pages_than_a_round_may_have() {
    let mut by_time = reconciler(Paging::ByTime);
    by_time.settings.pages = 2;
    // A day later: 100 s on each page.
    let begin = 86_400;
    by_time.next(us(begin));
    for second in [100, 200] {
        by_time.answered(us(begin), &page(begin, &[seen(1, second)], true), &nothing).unwrap();
        let (mark, _) = by_time.stored(us(begin), &[]);
        assert_eq!(mark.map(|mark| mark.since), (second == 200).then(|| at(200)));
    }
    assert_eq!(by_time.next(us(begin)), Next::Wait { until_us: us(begin + 30) }, "soon");
    assert_eq!(since(&by_time.next(us(begin + 30))), 200);
    by_time.answered(us(begin + 30), &page(begin + 30, &[seen(1, 250)], false), &nothing).unwrap();
    assert_eq!(by_time.stored(us(begin + 30), &[]).0.unwrap().since, at(begin + 30 - 300));

    let mut by_number = reconciler(Paging::ByNumber);
    by_number.settings.pages = 1;
    by_number.next(us(300));
    let result = by_number.answered(us(300), &page(300, &[seen(1, 1)], true), &nothing);
    assert_eq!(result, Err(Stuck::TooManyPages));
    by_number.failed(us(300), None);
    assert_eq!(by_number.next(us(300)), Next::Wait { until_us: us(360) }, "the round has failed");
}
