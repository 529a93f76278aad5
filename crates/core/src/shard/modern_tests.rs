//! The modern protocol: cursors that are always safe to store, and an honest word on every resume.

use std::rc::Rc;

use bugfeed_protocol::Epoch;

use super::tests::{Bed, Wire, bed, change};
use super::*;
use crate::position_map::Continuity;
use crate::replay::ReplayLimits;

fn cursor(text: &str) -> Cursor {
    Cursor::parse(text).unwrap()
}

/// Connects and says hello. Returns the wire, and the reply, which is taken from it.
fn hello(bed: &mut Bed) -> (Rc<Wire>, String) {
    let wire = bed.connect(usize::MAX / 2);
    bed.send(&wire, r#"{"command":"hello","heartbeat":10}"#);
    let reply = wire.take().remove(0);
    (wire, reply)
}

fn update(bug: u64, second: u64, seq: u64) -> String {
    format!(
        r#"{{"command":"update","bug":{bug},"when":"1970-01-01T00:{:02}:{:02}","cursor":"E.{seq}"}}"#,
        second / 60,
        second % 60
    )
}

/// Publishes numbers 1 to `count`: changes of bugs 1, 2 and 3 in turn, a second apart.
fn fill(bed: &mut Bed, count: i64) {
    for second in 1..=count {
        bed.publish(change(u64::try_from((second - 1) % 3).unwrap() + 1, second));
    }
}

#[test]
fn hello_subscribe_update_and_heartbeat() {
    let mut bed = bed();
    let (wire, reply) = hello(&mut bed);
    let (idle, _) = hello(&mut bed);
    assert_eq!(
        reply,
        r#"{"command":"hello","result":"ok","version":"9.9.9","feed":"default","heartbeat":10,"cursor":null,"limits":{"subscriptions":10000,"message_bytes":262144}}"#
    );
    fill(&mut bed, 3);
    bed.send(&wire, r#"{"command":"subscribe","bugs":[1,2]}"#);
    assert_eq!(wire.take(), [r#"{"command":"subscribe","result":"ok","count":2,"cursor":"E.3"}"#]);
    bed.publish(change(3, 4));
    bed.publish(change(2, 5));
    assert_eq!(wire.take(), [update(2, 5, 5)]);
    for second in 0..=20 {
        bed.publish(change(3, 6));
        wire.heard_ms.set(second * 1000);
        idle.heard_ms.set(second * 1000);
        bed.shard.tick(second * 1000);
    }
    let beats = [r#"{"command":"heartbeat","cursor":"E.16"}"#, r#"{"command":"heartbeat","cursor":"E.26"}"#];
    let mut texts = wire.take();
    texts.retain(|text| text != "ping");
    assert_eq!(texts, beats, "of bugs it does not watch too: it has been sent everything up to there");
    let texts = idle.take();
    let beats = texts.iter().filter(|text| *text == r#"{"command":"heartbeat","cursor":null}"#).count();
    assert_eq!(beats, 2, "one that may be about to resume is told no cursor: {texts:?}");
    bed.send(&wire, r#"{"command":"unsubscribe","bugs":[1]}"#);
    bed.send(&wire, r#"{"command":"subscriptions"}"#);
    assert_eq!(
        wire.take(),
        [
            r#"{"command":"unsubscribe","result":"ok","count":1,"cursor":"E.26"}"#,
            r#"{"command":"subscriptions","result":"ok","bugs":[2]}"#,
        ]
    );
}

#[test]
fn verdicts() {
    let limits = ReplayLimits { max: 4, ..ReplayLimits::default() };
    let mut bed = Bed::new(SessionLimits::default(), limits);
    fill(&mut bed, 9); // the ring holds 6 to 9
    let reply = |verdict: &str, cursor: &str| {
        format!(r#"{{"command":"subscribe","result":"ok","count":2,"replay":"{verdict}","cursor":"{cursor}"}}"#)
    };
    for (from, want) in [
        ("E.9", vec![reply("complete", "E.9")]),
        ("E.7", vec![reply("complete", "E.7"), update(2, 8, 8)]),
        ("E.5", vec![reply("complete", "E.5"), update(1, 7, 7), update(2, 8, 8)]),
        ("E.4", vec![reply("latest", "E.4"), update(1, 7, 7), update(2, 8, 8)]),
        ("E.0", vec![reply("latest", "E.0"), update(1, 7, 7), update(2, 8, 8)]),
        ("F.5", vec![reply("gap", "E.9")]),
        ("damaged", vec![reply("gap", "E.9")]),
    ] {
        let (wire, _) = hello(&mut bed);
        bed.send(&wire, &format!(r#"{{"command":"subscribe","bugs":[1,2],"cursor":"{from}"}}"#));
        assert_eq!(wire.take(), want, "from {from}");
        bed.shard.handle(Input::Detach(wire.slot.get()));
    }
    let Tally { complete, latest, gaps, .. } = bed.shard.take_tally();
    assert_eq!((complete, latest, gaps), (3, 2, 2));
    // For a client that never said hello, `cursor` is an unknown member.
    let classic = bed.connect(usize::MAX / 2);
    bed.send(&classic, r#"{"command":"subscribe","bugs":[1,2],"cursor":"E.5"}"#);
    assert_eq!(classic.take(), [r#"{"command":"subscribe","result":"ok","bugs":[1,2]}"#]);
}

#[test]
fn a_catch_up_over_the_limit_is_latest_not_complete() {
    let limits = SessionLimits { catch_up: 2, ..SessionLimits::default() };
    let mut bed = Bed::new(limits, ReplayLimits::default());
    fill(&mut bed, 9);
    let (wire, _) = hello(&mut bed);
    bed.send(&wire, r#"{"command":"subscribe","bugs":[1,2],"cursor":"E.4"}"#);
    assert!(wire.take()[0].contains(r#""replay":"latest""#));
}

#[test]
fn a_client_that_is_ahead_of_this_gateway_gets_nothing_twice_and_misses_nothing() {
    let mut bed = bed();
    fill(&mut bed, 3);
    let (wire, _) = hello(&mut bed);
    bed.send(&wire, r#"{"command":"subscribe","bugs":[1,2,3],"cursor":"E.5"}"#);
    assert_eq!(wire.take(), [r#"{"command":"subscribe","result":"ok","count":3,"replay":"complete","cursor":"E.5"}"#]);
    for second in 4..=6 {
        bed.publish(change(1, second));
    }
    assert_eq!(wire.take(), [update(1, 6, 6)]);
    // Found by the model check: the watermark has no effect any more.
    bed.send(&wire, r#"{"command":"subscribe","bugs":[4]}"#);
    assert_eq!(wire.take(), [r#"{"command":"subscribe","result":"ok","count":4,"cursor":"E.6"}"#]);
    bed.send(&wire, r#"{"command":"unsubscribe","bugs":[4]}"#);
    wire.take();
    bed.shard.tick(1000);
    // The same holds for a change that is recorded, but not yet processed by this shard.
    let queued = bed.record(change(2, 7));
    bed.send(&wire, r#"{"command":"subscribe","bugs":[1,2,3],"cursor":"E.7"}"#);
    bed.shard.handle(Input::Update(queued));
    bed.publish(change(2, 8));
    assert_eq!(wire.take()[1..], [update(2, 8, 8)]);
    // A late change has no number that the client could have seen. Found by the simulation: it was told with the
    // gateway's own cursor. If the ledger was set back, the client then resumed from that cursor as if it had
    // everything before it.
    let late = bed.record_as(change(3, 9), &cursor("E.2"), Continuity::Late);
    bed.send(&wire, r#"{"command":"subscribe","bugs":[1],"cursor":"E.12"}"#);
    bed.shard.handle(Input::Update(late));
    bed.read(&wire, usize::MAX / 4);
    assert_eq!(wire.take()[1..], [update(3, 9, 12)]);
    // If the number never comes, the client is told a gap, but only after five seconds of a feed that is current.
    let heard = |bed: &mut Bed, now_ms: u64| {
        wire.heard_ms.set(now_ms);
        bed.shard.tick(now_ms);
        let mut texts = wire.take();
        texts.retain(|text| text != "ping");
        texts
    };
    let heartbeat = r#"{"command":"heartbeat","cursor":"E.12"}"#;
    assert_eq!(heard(&mut bed, 600_000), [heartbeat]);
    bed.shard.handle(Input::Current(true));
    assert!(heard(&mut bed, 604_900).is_empty());
    bed.shard.handle(Input::Current(false));
    assert_eq!(heard(&mut bed, 900_000), [heartbeat]);
    bed.shard.handle(Input::Current(true));
    assert!(heard(&mut bed, 904_900).is_empty());
    assert_eq!(heard(&mut bed, 905_000), [r#"{"command":"gap","cursor":"E.8"}"#]);
    // For a client that comes while the feed is current, the five seconds begin when it comes.
    bed.send(&wire, r#"{"command":"subscribe","bugs":[1],"cursor":"E.12"}"#);
    wire.take();
    assert_eq!(heard(&mut bed, 909_900), Vec::<String>::new());
    assert_eq!(heard(&mut bed, 910_000), [r#"{"command":"gap","cursor":"E.8"}"#]);
}

#[test]
fn lost_continuity_is_told_to_modern_sessions_also_to_lagging_ones() {
    let mut bed = bed();
    fill(&mut bed, 3);
    let (open, _) = hello(&mut bed);
    let (lagging, _) = hello(&mut bed);
    let classic = bed.connect(usize::MAX / 2);
    for wire in [&open, &lagging, &classic] {
        bed.send(wire, r#"{"command":"subscribe","bugs":[1,2,3]}"#);
        wire.take();
    }
    lagging.room.set(0);
    bed.publish(change(1, 4));
    let update = bed.record_as(change(2, 9), &cursor("E.9"), Continuity::Broken);
    bed.shard.handle(Input::Gap(bed.shard.replay.cursor_before(update.pos)));
    bed.shard.handle(Input::Update(update));
    assert_eq!(
        open.take()[1..],
        [r#"{"command":"gap","cursor":"E.8"}"#.to_owned(), super::modern_tests::update(2, 9, 9)]
    );
    bed.read(&lagging, usize::MAX / 4);
    assert_eq!(lagging.take(), [r#"{"command":"gap","cursor":"E.9"}"#]);
    assert_eq!(classic.take().len(), 2, "which it has no word for");
    let (wire, _) = hello(&mut bed);
    bed.send(&wire, r#"{"command":"subscribe","bugs":[1],"cursor":"E.4"}"#);
    assert!(wire.take()[0].contains(r#""replay":"gap""#), "from before the hole");
}

/// Found by the simulation: a heartbeat between the gap and the change told a cursor from before the break, which was
/// smaller than that of the gap.
#[test]
fn between_a_gap_and_the_change_after_it_cursors_do_not_fall_back() {
    let mut bed = bed();
    fill(&mut bed, 3);
    let (open, _) = hello(&mut bed);
    bed.send(&open, r#"{"command":"subscribe","bugs":[1]}"#);
    open.take();
    let update = bed.record_as(change(2, 9), &cursor("E.9"), Continuity::Broken);
    bed.shard.handle(Input::Gap(bed.shard.replay.cursor_before(update.pos)));
    open.heard_ms.set(10_000);
    bed.shard.tick(10_000);
    bed.send(&open, r#"{"command":"subscribe","bugs":[2]}"#);
    bed.shard.handle(Input::Update(update));
    assert_eq!(
        open.take(),
        [
            r#"{"command":"gap","cursor":"E.8"}"#.to_owned(),
            r#"{"command":"heartbeat","cursor":"E.8"}"#.to_owned(),
            r#"{"command":"subscribe","result":"ok","count":2,"cursor":"E.8"}"#.to_owned(),
            super::modern_tests::update(2, 9, 9),
        ]
    );
}

/// Found by the simulation: a late change that was recorded, but not processed yet, replaced a change of its bug with a
/// higher number. The cursors that were told before the late change claimed that other change.
#[test]
fn a_change_that_is_on_its_way_stands_for_none_before_it() {
    let limits = SessionLimits { catch_up: 1, ..SessionLimits::default() };
    let mut bed = Bed::new(limits, ReplayLimits::default());
    fill(&mut bed, 5); // bugs 1 2 3 1 2
    let late = bed.record_as(change(1, 9), &cursor("E.0"), Continuity::Late);
    let (wire, _) = hello(&mut bed);
    bed.send(&wire, r#"{"command":"subscribe","bugs":[1,2],"cursor":"E.2"}"#);
    bed.shard.handle(Input::Update(late));
    assert_eq!(wire.take()[1..], [update(1, 4, 4), update(2, 5, 5), update(1, 9, 5)]);
    wire.room.set(0);
    bed.publish(change(1, 10));
    bed.publish(change(2, 11));
    let late = bed.record_as(change(1, 12), &cursor("E.0"), Continuity::Late);
    bed.read(&wire, usize::MAX / 4);
    bed.shard.handle(Input::Update(late));
    assert_eq!(wire.take(), [update(1, 10, 6), update(2, 11, 7), update(1, 12, 7)]);
}

/// Found by the simulation: as above, but the replaced change has left the ring.
#[test]
fn where_a_late_change_hides_what_is_not_known_any_more_a_gap_is_told() {
    let bed = || {
        let mut bed = Bed::new(SessionLimits::default(), ReplayLimits { max: 3, ..ReplayLimits::default() });
        fill(&mut bed, 4); // bugs 1 2 3 1
        bed
    };
    let late = |bed: &mut Bed| {
        (0..3).for_each(|number| bed.publish(change(7, 10 + number)));
        bed.record_as(change(1, 20), &cursor("E.0"), Continuity::Late)
    };
    let mut resuming = bed();
    late(&mut resuming);
    let (wire, _) = hello(&mut resuming);
    resuming.send(&wire, r#"{"command":"subscribe","bugs":[1,2],"cursor":"E.1"}"#);
    assert_eq!(wire.take()[1..], [r#"{"command":"gap","cursor":"E.7"}"#]);

    let mut lagging = bed();
    let (wire, _) = hello(&mut lagging);
    lagging.send(&wire, r#"{"command":"subscribe","bugs":[1,2]}"#);
    wire.take();
    wire.room.set(0);
    lagging.publish(change(1, 9));
    late(&mut lagging);
    lagging.read(&wire, usize::MAX / 4);
    assert_eq!(wire.take(), [r#"{"command":"gap","cursor":"E.8"}"#]);
}

#[test]
fn a_late_change_comes_after_what_was_staged_before_it() {
    let mut bed = bed();
    fill(&mut bed, 3);
    let (wire, _) = hello(&mut bed);
    bed.send(&wire, r#"{"command":"subscribe","bugs":[1],"cursor":"E.4"}"#);
    wire.take();
    for second in 4..=5 {
        let update = bed.record(change(1, second));
        bed.shard.take(Input::Update(update));
    }
    let late = bed.record_as(change(1, 9), &cursor("E.0"), Continuity::Late);
    bed.shard.take(Input::Update(late));
    bed.shard.flush(usize::MAX);
    bed.read(&wire, 0);
    assert_eq!(wire.take(), [update(1, 5, 5), update(1, 9, 5)]);
}

/// Found by the simulation: a client resumed from the cursor of a break that was still in the shard's queue, and was
/// told the cursor from before the break.
#[test]
fn a_resume_from_after_a_break_that_is_still_queued_keeps_its_cursor() {
    for (first, from) in [("E.9", "E.8"), ("F.3", "F.2")] {
        let mut bed = bed();
        fill(&mut bed, 3);
        let update = bed.record_as(change(1, 9), &cursor(first), Continuity::Broken);
        let (wire, _) = hello(&mut bed);
        bed.send(&wire, r#"{"command":"hello","heartbeat":1}"#);
        wire.take();
        bed.send(&wire, &format!(r#"{{"command":"subscribe","bugs":[1],"cursor":"{from}"}}"#));
        assert!(wire.take()[0].ends_with(&format!(r#""replay":"complete","cursor":"{from}"}}"#)));
        bed.shard.tick(1000);
        assert_eq!(wire.take(), [format!(r#"{{"command":"heartbeat","cursor":"{from}"}}"#)]);
        bed.shard.handle(Input::Gap(bed.shard.replay.cursor_before(update.pos)));
        bed.shard.handle(Input::Update(update));
        let texts = wire.take();
        assert_eq!(texts[0], format!(r#"{{"command":"gap","cursor":"{from}"}}"#));
        assert!(texts[1].ends_with(&format!(r#""cursor":"{first}"}}"#)), "{texts:?}");
    }
}

/// Found by the simulation: a gateway without history had no connection while changes of its feed were published.
#[test]
fn who_came_before_the_first_change_is_told_gap_unless_it_is_the_first_of_all() {
    for (first, gaps) in [("E.7", 1), ("E.1", 0)] {
        let mut bed = bed();
        let (early, _) = hello(&mut bed);
        let (idle, _) = hello(&mut bed);
        bed.send(&early, r#"{"command":"subscribe","bugs":[1]}"#);
        assert_eq!(early.take(), [r#"{"command":"subscribe","result":"ok","count":1,"cursor":null}"#]);
        let update = bed.record_as(change(1, 1), &cursor(first), Continuity::Next);
        // The change is recorded, but not processed here, so there is still no cursor that a client could store.
        early.heard_ms.set(10_000);
        bed.shard.tick(10_000);
        assert_eq!(early.take(), [r#"{"command":"heartbeat","cursor":null}"#]);
        idle.take();
        bed.shard.handle(Input::Update(update));
        let texts = early.take();
        let gap = format!(r#"{{"command":"gap","cursor":"{}"}}"#, bed.shard.replay.cursor_before(1).unwrap());
        assert_eq!(texts.iter().filter(|text| **text == gap).count(), gaps, "{texts:?}");
        assert_eq!(texts.len(), gaps + 1);
        assert!(idle.take().is_empty(), "it watches nothing");
    }
}

/// Number 4 is of bug 2 and 5 of bug 1. Then number 2 comes, late, of bug 2: it replaces 4, and is sent last.
#[test]
fn a_late_change_that_stands_for_a_newer_number_holds_back_the_cursor() {
    for room in [0, 120, 200] {
        let mut bed = bed();
        fill(&mut bed, 1);
        let (wire, _) = hello(&mut bed);
        bed.send(&wire, r#"{"command":"subscribe","bugs":[1,2,4]}"#);
        let broken = bed.record_as(change(3, 3), &cursor("E.3"), Continuity::Broken);
        bed.shard.handle(Input::Gap(bed.shard.replay.cursor_before(broken.pos)));
        bed.shard.handle(Input::Update(broken));
        wire.take();
        wire.room.set(0);
        for (bug, seq) in [(2, 4), (1, 5), (4, 6)] {
            let update =
                bed.record_as(change(bug, 10 + i64::from(seq)), &cursor(&format!("E.{seq}")), Continuity::Next);
            bed.shard.handle(Input::Update(update));
        }
        let late = bed.record_as(change(2, 2), &cursor("E.2"), Continuity::Late);
        bed.shard.handle(Input::Update(late));
        bed.read(&wire, room);
        bed.read(&wire, usize::MAX / 4);
        assert_eq!(wire.take(), [update(1, 15, 3), update(4, 16, 3), update(2, 2, 6)], "room {room}");
    }
}

/// Found by the simulation: the cursor fell back to where it had been held for an earlier late change, which was sent
/// by then.
#[test]
fn a_second_late_change_holds_the_cursor_where_it_is_by_then() {
    let mut bed = bed();
    fill(&mut bed, 3);
    let (wire, _) = hello(&mut bed);
    bed.send(&wire, r#"{"command":"subscribe","bugs":[1,2]}"#);
    wire.take();
    wire.room.set(0);
    let two = |bed: &mut Bed, seq: u32, late: &str| {
        bed.publish(change(1, seq.into()));
        let late = bed.record_as(change(2, 2), &cursor(late), Continuity::Late);
        bed.shard.handle(Input::Update(late));
    };
    two(&mut bed, 4, "E.0");
    bed.read(&wire, 20); // all is on its way
    two(&mut bed, 5, "E.0");
    bed.read(&wire, usize::MAX / 4);
    assert_eq!(wire.take(), [update(1, 4, 3), update(2, 2, 4), update(1, 5, 4), update(2, 2, 5)]);
}

#[test]
fn a_cursor_of_another_epoch_is_a_gap_and_the_new_one_is_told() {
    let mut bed = bed();
    fill(&mut bed, 3);
    let (wire, _) = hello(&mut bed);
    bed.send(&wire, r#"{"command":"subscribe","bugs":[1]}"#);
    wire.take();
    let epoch = Epoch::parse("F").unwrap();
    let update = bed.record_as(change(1, 1), &Cursor::new(epoch, 1), Continuity::Broken);
    bed.shard.handle(Input::Gap(bed.shard.replay.cursor_before(update.pos)));
    bed.shard.handle(Input::Update(update));
    assert_eq!(
        wire.take(),
        [
            r#"{"command":"gap","cursor":"F.0"}"#,
            r#"{"command":"update","bug":1,"when":"1970-01-01T00:00:01","cursor":"F.1"}"#,
        ]
    );
}

#[test]
fn a_lagging_session_whose_bugs_were_forgotten_is_told_gap() {
    let limits = ReplayLimits { bugs: 100, ..ReplayLimits::default() };
    let mut bed = Bed::new(SessionLimits::default(), limits);
    let (wire, _) = hello(&mut bed);
    bed.publish(change(1, 1));
    // The gap ends the watermark too. Found by the simulation.
    bed.send(&wire, r#"{"command":"subscribe","bugs":[1,2,3],"cursor":"E.5000"}"#);
    wire.take();
    wire.room.set(0);
    let late = bed.record_as(change(1, 1), &cursor("E.0"), Continuity::Late);
    bed.shard.handle(Input::Update(late));
    for number in 2..=1000 {
        bed.publish(change(number, 1));
    }
    bed.read(&wire, usize::MAX / 4);
    assert_eq!(wire.take(), [r#"{"command":"gap","cursor":"E.1000"}"#]);
    bed.publish(change(1, 1));
    assert_eq!(wire.take(), [update(1, 1, 1001)]);
}

#[test]
fn drain_spreads_goaway_over_the_window() {
    let mut bed = bed();
    fill(&mut bed, 3);
    let wires: Vec<_> = (0..100).map(|_| hello(&mut bed).0).collect();
    for wire in &wires {
        bed.send(wire, r#"{"command":"subscribe","bugs":[1]}"#);
        wire.take();
    }
    let lagging = hello(&mut bed).0;
    lagging.room.set(0);
    bed.send(&lagging, r#"{"command":"version"}"#);
    bed.shard.handle(Input::Drain { window_ms: 1000 });
    let mut closed = 0;
    for now_ms in (100..=1000).step_by(100) {
        bed.shard.tick(now_ms);
        let now_closed = wires.iter().filter(|wire| wire.ended.get()).count();
        assert!((5..=15).contains(&(now_closed - closed)), "{} in one tenth", now_closed - closed);
        closed = now_closed;
    }
    assert_eq!(closed, 100);
    assert!(lagging.ended.get());
    let mut delays: Vec<u64> = wires
        .iter()
        .map(|wire| {
            let texts = wire.take();
            assert!(texts[0].ends_with(r#","cursor":"E.3"}"#) && texts[1] == "close 1012", "{texts:?}");
            let delay = texts[0].strip_prefix(r#"{"command":"goaway","retry_after_ms":"#).unwrap();
            delay.split(',').next().unwrap().parse().unwrap()
        })
        .collect();
    delays.sort_unstable();
    delays.dedup();
    assert!(delays.len() > 90 && delays.last() < Some(&1000), "each another: {delays:?}");
}
