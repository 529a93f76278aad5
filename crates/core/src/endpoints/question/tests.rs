//! Questions about all bugs, against the same questions about each bug by its number.

use std::collections::BTreeMap;

use bugfeed_protocol::Epoch;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::position_map::Continuity;
use crate::replay::{Recorder, ReplayLimits, replay};

fn at(second: i64) -> When {
    When::from_micros(second * 1_000_000).unwrap()
}

fn cursor(seq: u64) -> Cursor {
    Cursor::new(Epoch::parse("E").unwrap(), seq)
}

/// A feed whose changes come in any order, with breaks, in a cache that forgets soon.
struct World {
    recorder: Recorder,
    seq: u64,
    second: i64,
    bugs: u64,
}

impl World {
    fn change(&mut self, random: &mut SmallRng) {
        self.second += random.random_range(0..3);
        let (continuity, seq) = match random.random_range(0..40) {
            0..4 if self.seq > 1 => (Continuity::Late, random.random_range(1..self.seq)),
            4 => (Continuity::Broken, self.seq + random.random_range(2..5)),
            _ => (Continuity::Next, self.seq + 1),
        };
        self.seq = self.seq.max(seq);
        let bug = BugId::new(random.random_range(1..=self.bugs)).unwrap();
        // Some transactions commit late.
        let when = at(self.second - if random.random_bool(0.2) { random.random_range(0..20) } else { 0 });
        self.recorder.record(Change { bug, when }, at(self.second), &cursor(seq), None, continuity);
    }

    fn since(&self, random: &mut SmallRng) -> Since {
        match random.random_range(0..12) {
            0 => Since::Head,
            1 => Since::Unknown,
            2..6 => Since::Time(at(random.random_range(990..=self.second + 2))),
            _ => Since::Cursor(cursor(random.random_range(self.seq.saturating_sub(60)..self.seq + 3))),
        }
    }
}

fn bound(random: &mut SmallRng) -> Bound {
    let entries = [1, 2, 3, 10, 10_000][random.random_range(0..5)];
    Bound { entries, bytes: [60, 200, 19_700, usize::MAX][random.random_range(0..4)] }
}

/// What an answer is, for counting.
fn kind(answer: &Answer) -> String {
    match answer {
        Answer::NotYet(_) => "not yet".to_owned(),
        Answer::Ahead(_) => "ahead".to_owned(),
        Answer::Gap(..) => "gap".to_owned(),
        Answer::Changes(Batch { changes, more, left_out, place, .. }) => {
            let is_held = place.hold.is_some();
            format!("changes {}, more {more}, left out {left_out}, held {is_held}", !changes.is_empty())
        }
    }
}

#[test]
fn all_bugs_are_answered_as_each_bug_by_its_number() {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for seed in 0..600 {
        let random = &mut SmallRng::seed_from_u64(seed);
        let max = random.random_range(1..120);
        let limits = ReplayLimits { max, bugs: [10, 1_000][random.random_range(0..2)], ..ReplayLimits::default() };
        let (mut recorder, cache) = replay(limits);
        recorder.go_on_after(&cursor(0), false);
        let mut world = World { recorder, seq: 0, second: 1_000, bugs: random.random_range(1..60) };
        let each = Watch::Bugs((1..=world.bugs).filter_map(BugId::new).collect());
        for _ in 0..8 {
            for _ in 0..random.random_range(0..40) {
                world.change(random);
            }
            let (mut since, mut place) = (world.since(random), None);
            // As a receiver that takes what it is sent, while changes come.
            for _ in 0..random.random_range(1..12) {
                let bound = bound(random);
                let ask = |watch| Ask { watch, since: &since, place, bound };
                let (one, other) = (answer(&cache, &ask(&Watch::All)), answer(&cache, &ask(&each)));
                assert_eq!(one, other, "seed {seed}, since {since:?} {place:?}");
                *kinds.entry(kind(&one)).or_default() += 1;
                let keeps_place = random.random_bool(0.7);
                match one {
                    Answer::Changes(Batch { cursor, place: next, .. }) | Answer::Gap(cursor, next) => {
                        (since, place) = (Since::Cursor(cursor), keeps_place.then_some(next));
                    }
                    Answer::Ahead(next) => place = Some(next),
                    Answer::NotYet(_) => {}
                }
                for _ in 0..random.random_range(0..3) {
                    world.change(random);
                }
            }
        }
    }
    // The worlds have what matters.
    for (word, least) in [("gap", 1_000), ("ahead", 50), ("more true", 1_000), ("held true", 50)] {
        let seen: usize = kinds.iter().filter(|(kind, _)| kind.contains(word)).map(|(_, count)| count).sum();
        assert!(seen >= least, "{word}: {kinds:?}");
    }
    assert!(kinds.len() >= 9, "{kinds:?}");
}
