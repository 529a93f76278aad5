//! Pages of all bugs, against plain lists.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::position_map::Continuity;
use crate::replay::{Recorder, ReplayLimits, replay};
use bugfeed_protocol::Cursor;

fn at(seconds: i64) -> When {
    When::from_micros(seconds * 1_000_000).unwrap()
}

fn record(recorder: &mut Recorder, bug: u64, second: i64) {
    let number = Cursor::new(bugfeed_protocol::Epoch::parse("E").unwrap(), recorder.tail.next);
    let change = Change { bug: BugId::new(bug).unwrap(), when: at(second) };
    recorder.record(change, at(second), &number, None, Continuity::Next);
}

/// All pages of a question, joined.
fn pages(replay: &Replay, mut wanted: WantedOfAll, size: PageSize) -> Vec<(Pos, u64)> {
    let mut all = Vec::new();
    loop {
        let mut found = Vec::new();
        let searched = replay.page(&wanted, size, &mut found);
        assert!(found.len() <= size.found && found.is_sorted_by(|one, next| one.pos < next.pos));
        assert!(searched > wanted.after_old || searched == wanted.upto, "no page without progress");
        assert!(found.iter().all(|found| found.pos > wanted.after_old && found.pos <= searched));
        all.extend(found.iter().map(|found| (found.pos, found.change.bug.get())));
        if searched >= wanted.upto {
            return all;
        }
        (wanted.after, wanted.after_old) = (wanted.after.max(searched), searched);
    }
}

/// Pages of any size, before the ring and in it, against a plain list of all changes.
#[test]
fn pages_together_are_what_was_asked_for() {
    for seed in 0..300 {
        let random = &mut SmallRng::seed_from_u64(seed);
        let limits = ReplayLimits { max: random.random_range(1..60), ..ReplayLimits::default() };
        let (mut recorder, replay) = replay(limits);
        let mut changes = Vec::new();
        let bugs = random.random_range(1..30);
        for pos in 1..=random.random_range(1..120_u64) {
            let bug = random.random_range(1..=bugs);
            record(&mut recorder, bug, i64::try_from(pos).unwrap());
            changes.push((pos, bug));
        }
        let head = replay.head();
        let after = random.random_range(0..=head);
        let upto = random.random_range(after..=head);
        let newest_only = random.random_bool(0.5);
        let mut newest = BTreeMap::new();
        let mut newest_of_all = BTreeMap::new();
        for &(pos, bug) in &changes {
            if pos <= upto {
                newest.insert(bug, pos);
            }
            newest_of_all.insert(bug, pos);
        }
        let want: Vec<(Pos, u64)> = changes
            .iter()
            .copied()
            .filter(|&(pos, bug)| {
                let asked = pos > after && pos <= upto;
                let old = pos < replay.start();
                // Of what has left the ring, only a bug's very newest change is known.
                asked && if old { newest_of_all[&bug] == pos } else { !newest_only || newest[&bug] == pos }
            })
            .collect();
        let wanted = WantedOfAll { after, after_old: after, upto, since: None, newest_only };
        let size = PageSize { found: random.random_range(1..20), seen: random.random_range(1..40) };
        assert_eq!(pages(&replay, wanted, size), want, "seed {seed}");
    }
}

#[test]
fn a_time_before_the_ring_finds_the_newest_of_bugs_that_have_left_it() {
    let (mut recorder, replay) = replay(ReplayLimits { max: 2, ..ReplayLimits::default() });
    for (bug, second) in [(1, 10), (2, 20), (3, 30), (1, 40), (4, 50)] {
        record(&mut recorder, bug, second);
    }
    let ask = |second| {
        let after = replay.before(at(second));
        let wanted = WantedOfAll { after, after_old: 0, upto: 5, since: Some(at(second)), newest_only: false };
        pages(&replay, wanted, PageSize { found: 1, seen: 1 })
    };
    assert_eq!(ask(0), [(2, 2), (3, 3), (4, 1), (5, 4)]);
    assert_eq!(ask(25), [(3, 3), (4, 1), (5, 4)]);
    assert_eq!(ask(45), [(5, 4)]);
    assert_eq!(ask(60), []);
}

#[test]
fn a_late_change_that_hides_another_is_noticed() {
    let (mut recorder, replay) = replay(ReplayLimits { max: 2, ..ReplayLimits::default() });
    let number = |seq: &str| Cursor::parse(seq).unwrap();
    let mut record = |bug: u64, seq: &str, continuity| {
        let change = Change { bug: BugId::new(bug).unwrap(), when: at(1) };
        recorder.record(change, at(1), &number(seq), None, continuity);
    };
    record(1, "E.8", Continuity::Next);
    record(2, "E.10", Continuity::Broken);
    assert!(!replay.newest_of_any_is_lost(2));
    record(1, "E.9", Continuity::Late);
    assert!(replay.newest_of_any_is_lost(2), "bug 1 has position 1, which has left the ring");
    assert_eq!([(0, 3), (0, 2), (3, 3)].map(|(after, upto)| replay.last_late_in(after, upto)), [Some(3), None, None]);
    record(3, "E.11", Continuity::Next);
    record(3, "E.12", Continuity::Next);
    assert!(replay.newest_of_any_is_lost(2), "the late one has left it too");
    assert!(!replay.newest_of_any_is_lost(3));
}

/// The oldest of the newest changes, a few at a time, against the newest change of each bug by its number; and what is said
/// of them all.
#[test]
fn pages_of_the_newest_together_are_the_newest_of_each_bug() {
    let (mut from_table, mut late, mut repeated) = (0, 0, 0);
    for seed in 0..1_000 {
        let random = &mut SmallRng::seed_from_u64(seed);
        let limits = ReplayLimits { max: random.random_range(1..80), ..ReplayLimits::default() };
        let (mut recorder, replay) = replay(limits);
        let bugs = random.random_range(1..40);
        let all: Vec<BugId> = (1..=bugs).filter_map(BugId::new).collect();
        let mut seq = 0;
        for second in 1..=random.random_range(1..120) {
            let change = Change { bug: all[random.random_range(0..all.len())], when: at(second) };
            let is_late = seq > 0 && random.random_bool(0.1);
            seq += u64::from(!is_late);
            let number = Cursor::new(bugfeed_protocol::Epoch::parse("E").unwrap(), seq);
            let continuity = if is_late { Continuity::Late } else { Continuity::Next };
            recorder.record(change, at(second), &number, None, continuity);
        }
        let after = random.random_range(0..=replay.head());
        let upto = random.random_range(after..=replay.head());
        let size = PageSize { found: random.random_range(1..12), seen: random.random_range(1..30) };
        let mut want = Vec::new();
        replay.newest(&all, after, upto, &mut want);

        let mut wanted = WantedOfAll { after, after_old: after, upto, since: None, newest_only: true };
        assert_eq!(replay.last_late_newest(&wanted), replay.last_late(&want), "seed {seed}");
        let left_out = replay.is_any_left_out(after, upto);
        assert_eq!(
            left_out && !want.is_empty(),
            !replay.are_all_after(&want, after) && !want.is_empty(),
            "seed {seed}"
        );
        let mut joined = Vec::new();
        while wanted.after_old < upto {
            let mut page = Vec::new();
            let searched = replay.newest_page(&wanted, size, &mut page);
            assert!(page.len() <= size.found && searched > wanted.after_old && searched <= upto, "seed {seed}");
            from_table += usize::from(searched > wanted.after_old + size.seen);
            joined.extend(page);
            (wanted.after, wanted.after_old) = (searched, searched);
        }
        assert_eq!(joined, want, "seed {seed}");
        late += usize::from(replay.last_late(&want).is_some());
        repeated += usize::from(left_out);
    }
    assert!([from_table, late, repeated].iter().all(|count| *count > 50), "{from_table} {late} {repeated}");
}
