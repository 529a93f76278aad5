//! The replay cache, question by question.

use super::*;

fn bug(number: u64) -> BugId {
    BugId::new(number).unwrap()
}

fn at(seconds: i64) -> When {
    When::from_micros(seconds * 1_000_000).unwrap()
}

/// Records a change under the next number.
fn number(recorder: &mut Recorder, change: Change, recorded: When) {
    let cursor = Cursor::new(bugfeed_protocol::Epoch::parse("E").unwrap(), recorder.tail.next);
    recorder.record(change, recorded, &cursor, None, Continuity::Next);
}

/// Records (bug, when, recorded) triples.
fn filled(limits: ReplayLimits, changes: &[(u64, i64, i64)]) -> (Recorder, Arc<Replay>) {
    let (mut recorder, replay) = replay(limits);
    for &(number_of, when, recorded) in changes {
        number(&mut recorder, Change { bug: bug(number_of), when: at(when) }, at(recorded));
    }
    (recorder, replay)
}

fn since(replay: &Replay, bugs: &[u64], since: i64) -> Vec<(u64, i64)> {
    let bugs: Vec<BugId> = bugs.iter().map(|&number| bug(number)).collect();
    let wanted = Wanted {
        bugs: &bugs,
        after: replay.before(at(since)),
        after_old: 0,
        upto: replay.head(),
        since: Some(at(since)),
        limit: 100,
    };
    let mut found = Vec::new();
    replay.every(&wanted, &mut found);
    assert!(found.is_sorted_by_key(|found| found.pos));
    found.iter().map(|found| (found.change.bug.get(), found.change.when.as_micros() / 1_000_000)).collect()
}

#[test]
fn since_is_inclusive_and_only_for_the_bugs_asked_for() {
    let (_recorder, replay) =
        filled(ReplayLimits::default(), &[(1, 100, 100), (2, 101, 101), (1, 102, 102), (3, 103, 103), (1, 103, 104)]);
    for (bugs, from, want) in [
        (&[1][..], 0, &[(1, 100), (1, 102), (1, 103)][..]),
        (&[1], 100, &[(1, 100), (1, 102), (1, 103)]),
        (&[1], 101, &[(1, 102), (1, 103)]),
        (&[1], 103, &[(1, 103)]),
        (&[1], 104, &[(1, 103)]), // recorded at 104
        (&[1], 105, &[]),
        (&[3, 2], 0, &[(2, 101), (3, 103)]),
        (&[9], 0, &[]),
        (&[], 0, &[]),
    ] {
        assert_eq!(since(&replay, bugs, from), want, "{bugs:?} since {from}");
    }
}

#[test]
fn a_late_commit_is_not_missed_whatever_the_clocks_say() {
    // Bug 2's older date comes after bug 1's newer one; the recording clock is an hour behind the tracker's.
    let (_recorder, replay) = filled(ReplayLimits::default(), &[(1, 5000, 1400), (2, 4999, 1401)]);
    assert_eq!(since(&replay, &[1, 2], 5000), [(1, 5000), (2, 4999)]);
    assert_eq!(since(&replay, &[1, 2], 5001), []);
    // A client that asks by its own clock: no change has a date that late, but one was recorded later.
    let (_recorder, replay) = filled(ReplayLimits::default(), &[(1, 100, 100), (2, 90, 130)]);
    assert_eq!(since(&replay, &[1, 2], 120), [(2, 90)]);
}

#[test]
fn beyond_the_ring_the_newest_of_each_bug_is_left() {
    let limits = ReplayLimits { max: 3, ..ReplayLimits::default() };
    let changes: Vec<_> = (1..=6).flat_map(|i| [(1, i * 10, i * 10), (2, i * 10 + 1, i * 10 + 1)]).collect();
    let (mut recorder, replay) = filled(limits, &[&[(7, 5, 5), (7, 6, 6)], &changes[..]].concat());
    assert_eq!(since(&replay, &[1, 2, 7], 0), [(7, 6), (2, 51), (1, 60), (2, 61)]);
    assert_eq!(since(&replay, &[7], 6), [(7, 6)]);
    assert_eq!(since(&replay, &[7], 7), []);
    recorder.tick(at(61 + 24 * 3600));
    assert_eq!(since(&replay, &[1, 2], 0), [(1, 60), (2, 61)], "not yet older than the limit");
    recorder.tick(at(62 + 24 * 3600));
    assert_eq!(replay.start(), replay.head() + 1);
    assert_eq!(since(&replay, &[1, 2], 0), [(1, 60), (2, 61)], "the newest of each remains");
}

#[test]
fn the_ring_is_exact_across_blocks() {
    let limits = ReplayLimits { max: 2500, ..ReplayLimits::default() };
    let (mut recorder, replay) = replay(limits);
    for i in 0..10_000 {
        number(&mut recorder, Change { bug: bug(i % 5 + 1), when: at(i.cast_signed()) }, at(i.cast_signed()));
    }
    let mut found = Vec::new();
    let bugs = [bug(3)];
    let wanted = Wanted { bugs: &bugs, after: 0, after_old: 0, upto: 9_000, since: None, limit: 1000 };
    assert!(!replay.every(&wanted, &mut found));
    assert_eq!(found.len(), 300);
    assert_eq!(found.first().map(|f| f.pos), Some(7503));
    assert_eq!(found.last().map(|f| f.pos), Some(8998));
    assert!(replay.ring.blocks_kept() <= 4);

    found.clear();
    assert!(replay.every(&Wanted { upto: 10_000, limit: 299, ..wanted }, &mut found), "conflated");
    assert_eq!(found.iter().map(|f| f.pos).collect::<Vec<_>>(), [9998]);
    found.clear();
    replay.newest(&[bug(1), bug(2)], 9_995, 9_996, &mut found);
    assert_eq!(found.iter().map(|f| f.pos).collect::<Vec<_>>(), [9996]);
}

#[test]
fn where_a_resuming_client_stands() {
    let limits = ReplayLimits { max: 3, bugs: 800, ..ReplayLimits::default() };
    let (mut recorder, replay) = replay(limits);
    let cursor = |text: &str| Cursor::parse(text).unwrap();
    assert_eq!(replay.place_of(&cursor("E.0")), CursorPlace::Unknown, "nothing is known yet");
    for i in 1..=10 {
        number(&mut recorder, Change { bug: bug(i), when: at(100) }, at(100));
    }
    for (text, want) in [
        ("E.10", CursorPlace::InRing(10)),
        ("E.7", CursorPlace::InRing(7)),
        ("E.6", CursorPlace::BeforeRing(6)),
        ("E.0", CursorPlace::BeforeRing(0)),
        ("E.11", CursorPlace::Ahead),
        ("F.10", CursorPlace::Unknown),
    ] {
        assert_eq!(replay.place_of(&cursor(text)), want, "{text}");
    }
    for i in 11..=1024 {
        number(&mut recorder, Change { bug: bug(i), when: at(100) }, at(100));
    }
    let floor = replay.floor();
    assert_eq!(replay.place_of(&Cursor { seq: floor, ..cursor("E.0") }), CursorPlace::BeforeRing(floor));
    assert_eq!(replay.place_of(&Cursor { seq: floor - 1, ..cursor("E.0") }), CursorPlace::Unknown, "forgotten");
}

#[test]
fn more_bugs_than_allowed_forget_the_oldest_and_raise_the_floor() {
    let limits = ReplayLimits { bugs: 800, ..ReplayLimits::default() };
    let (mut recorder, replay) = replay(limits);
    for i in 1..=1024 {
        number(&mut recorder, Change { bug: bug(i), when: at(100) }, at(100));
        assert!(replay.bugs() <= 800 + 64);
    }
    let kept = (1..=1024).filter(|&i| replay.newest_of(bug(i)).is_some()).collect::<Vec<_>>();
    assert_eq!(kept.first().copied(), Some(replay.floor() + 1), "nothing above the floor is missing");
    assert_eq!(kept.last().copied(), Some(1024));
}

#[test]
fn a_ring_that_is_trimmed_under_a_reader_hides_nothing() {
    let limits = ReplayLimits { max: 1500, ..ReplayLimits::default() };
    let (mut recorder, replay) = replay(limits);
    number(&mut recorder, Change { bug: bug(1), when: at(5000) }, at(5000));
    for i in 0..4000 {
        number(&mut recorder, Change { bug: bug(2), when: at(i) }, at(i));
    }
    // A reader that read the ring's start before most of the ring was trimmed.
    assert_eq!(replay.before_from(1, at(6000)), replay.head(), "nothing is dated or recorded that late");
    assert_eq!(replay.before_from(1, at(4000)), replay.start() - 1, "recorded later: all that is left");
    let bugs = [bug(1), bug(2)];
    let wanted = Wanted { bugs: &bugs, after: 0, after_old: 0, upto: replay.head(), since: None, limit: 10_000 };
    let mut found = Vec::new();
    assert!(!replay.chain(1, &wanted, 1, &mut found), "its block is gone");
    replay.every(&wanted, &mut found);
    assert_eq!(found.first().map(|found| found.pos), Some(1), "the newest of a bug remains");
    // A late commit that left the ring after the reader's position was determined is found by its position, whatever
    // its date is.
    let late = Wanted { since: Some(at(100_000)), ..wanted };
    found.clear();
    replay.every(&late, &mut found);
    assert_eq!(found.first().map(|found| found.pos), Some(1));
}

#[test]
fn a_ring_with_more_bugs_than_the_table_is_cut_rather_than_holed() {
    let limits = ReplayLimits { bugs: 800, ..ReplayLimits::default() };
    let (mut recorder, replay) = replay(limits);
    for i in 1..=1024 {
        number(&mut recorder, Change { bug: bug(i), when: at(100) }, at(100));
    }
    assert!(replay.floor() > 0 && replay.start() == replay.floor() + 1);
    let cursor = |seq| Cursor::new(bugfeed_protocol::Epoch::parse("E").unwrap(), seq);
    assert_eq!(replay.place_of(&cursor(replay.floor() - 1)), CursorPlace::Unknown);
    assert_eq!(replay.place_of(&cursor(replay.floor())), CursorPlace::InRing(replay.floor()));
}

#[test]
fn an_entry_of_the_table_takes_28_bytes() {
    assert_eq!(size_of::<(PackedU64, PackedNewest)>(), 28);
    for bits in [0, 1, u64::from(u32::MAX), u64::MAX, 0x0123_4567_89AB_CDEF] {
        assert_eq!(PackedU64::new(bits).get(), bits);
    }
}

/// Numbered changes alternate with ones that have no number, or came late: each needs a run of its own.
#[test]
fn the_ring_holds_nothing_whose_number_was_forgotten() {
    let (mut recorder, replay) = replay(ReplayLimits::default());
    let cursor = |seq| Cursor::new(bugfeed_protocol::Epoch::parse("E").unwrap(), seq);
    for seq in 1..=40_000 {
        let change = Change { bug: bug(seq % 7 + 1), when: at(100) };
        recorder.record(change, at(100), &cursor(seq), None, Continuity::Next);
        recorder.record(change, at(100), &cursor(seq), None, Continuity::Late);
    }
    let start = replay.start();
    assert!(start > 1, "so many runs are not kept");
    assert_eq!(replay.cursor_at(replay.head()), Some(cursor(40_000)));
    let (first, last) = (replay.number_of(start), replay.number_of(start + 1));
    assert!(first.or(last).is_some(), "the first of the ring, or the one after it, has a number");
    assert_eq!(replay.cursor_at(start - 2), Some(cursor(0)), "who is sent what lies before may claim nothing");
    assert_eq!(replay.last_late(&[Found { pos: start - 2, change: Change { bug: bug(1), when: at(1) } }]), None);
    assert_eq!(replay.place_of(&cursor(10)), CursorPlace::Unknown);
    assert!(matches!(replay.place_of(&cursor(39_999)), CursorPlace::InRing(_)));
}
