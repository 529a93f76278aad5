//! Which sessions of a shard watch a bug.
//!
//! Goes in: a session's slot and a bug. Comes out: the slots to send a bug's update to, in one contiguous list. Most
//! bugs have one or two watchers (kept inline), some have thousands (removal from those must not scan the list).

use std::collections::HashMap;

use bugfeed_protocol::BugId;
use smallvec::SmallVec;

/// A session's place in its shard.
pub type Slot = u32;

/// From this many watchers on, a bug's list is accompanied by a map of places. A scan of fewer costs less than the map.
const MANY: usize = 512;

/// The index of one shard.
#[derive(Debug, Default)]
pub struct Subscriptions {
    bugs: HashMap<BugId, Watchers, foldhash::fast::FixedState>,
}

#[derive(Debug)]
enum Watchers {
    Few(SmallVec<[Slot; 4]>),
    Many(Box<Many>),
}

#[derive(Debug, Default)]
struct Many {
    list: Vec<Slot>,
    place: HashMap<Slot, usize, foldhash::fast::FixedState>,
}

impl Subscriptions {
    /// Adds a watcher that is not yet one.
    pub fn add(&mut self, bug: BugId, slot: Slot) {
        let watchers = self.bugs.entry(bug).or_insert_with(|| Watchers::Few(SmallVec::new()));
        match watchers {
            Watchers::Few(few) => {
                debug_assert!(!few.contains(&slot), "the session knows what it watches");
                few.push(slot);
                if few.len() >= MANY {
                    let place = few.iter().enumerate().map(|(place, &slot)| (slot, place)).collect();
                    *watchers = Watchers::Many(Box::new(Many { list: few.to_vec(), place }));
                }
            }
            Watchers::Many(many) => {
                many.place.insert(slot, many.list.len());
                many.list.push(slot);
            }
        }
    }

    /// Removes a watcher; nothing happens where it is none.
    pub fn remove(&mut self, bug: BugId, slot: Slot) {
        let Some(watchers) = self.bugs.get_mut(&bug) else { return };
        match watchers {
            Watchers::Few(few) => {
                if let Some(place) = few.iter().position(|&watcher| watcher == slot) {
                    few.swap_remove(place);
                }
            }
            Watchers::Many(many) => {
                if let Some(place) = many.place.remove(&slot) {
                    many.list.swap_remove(place);
                    if let Some(&moved) = many.list.get(place) {
                        many.place.insert(moved, place);
                    }
                    if many.list.len() < MANY / 2 {
                        *watchers = Watchers::Few(SmallVec::from_slice(&many.list));
                    }
                }
            }
        }
        if self.watchers(bug).is_empty() {
            self.bugs.remove(&bug);
        }
    }

    /// The slots that watch a bug.
    pub fn watchers(&self, bug: BugId) -> &[Slot] {
        match self.bugs.get(&bug) {
            None => &[],
            Some(Watchers::Few(few)) => few,
            Some(Watchers::Many(many)) => &many.list,
        }
    }

    /// How many bugs have a watcher.
    pub fn bugs(&self) -> usize {
        self.bugs.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    #[test]
    fn against_a_plain_set() {
        for seed in 0..20 {
            let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
            let (mut index, mut model) = (Subscriptions::default(), BTreeSet::new());
            // Grows over the border between few and many, and shrinks back.
            for step in 0..20_000 {
                let bug = BugId::new(random.random_range(1..4)).unwrap();
                let slot = random.random_range(0..1500);
                let growing = if step < 10_000 { 0.8 } else { 0.1 };
                if random.random_bool(growing) {
                    if model.insert((bug, slot)) {
                        index.add(bug, slot);
                    }
                } else {
                    model.remove(&(bug, slot));
                    index.remove(bug, slot);
                }
            }
            for bug in (1..4).map(|number| BugId::new(number).unwrap()) {
                let mut watchers = index.watchers(bug).to_vec();
                watchers.sort_unstable();
                let want: Vec<Slot> = model.iter().filter(|(b, _)| *b == bug).map(|(_, slot)| *slot).collect();
                assert_eq!(watchers, want, "seed {seed}");
                for slot in want {
                    index.remove(bug, slot);
                }
            }
            assert_eq!(index.bugs(), 0, "bugs that nobody watches cost nothing");
        }
    }
}
