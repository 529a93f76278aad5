//! Which sessions of a shard watch a bug.
//!
//! Goes in: a session's slot and a bug. Comes out: the slots to send a bug's update to, in one contiguous list. Most
//! bugs have one or two watchers, which are kept inline. Some bugs have thousands, and removing one of those must not
//! scan the list.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bugfeed_protocol::BugId;
use slab::Slab;
use smallvec::SmallVec;

use super::packed_u64::PackedU64;

/// A session's place in its shard.
pub type Slot = u32;

/// From this many watchers on, a map says where each slot is in a bug's list. For fewer watchers, a scan of the list
/// costs less than the map.
const MANY: usize = 512;

/// The index of one shard. Most bugs that are watched have one watcher, who is kept in the map itself: 12 bytes.
#[derive(Debug, Default)]
pub struct Subscriptions {
    bugs: HashMap<PackedU64, Watchers, foldhash::fast::FixedState>,
    lists: Slab<List>,
}

/// The slot of the only watcher. If the highest bit is set: the place of a list of watchers.
#[derive(Clone, Copy, Debug)]
struct Watchers(u32);

const IS_LIST: u32 = 1 << 31;

impl Watchers {
    fn one(slot: Slot) -> Watchers {
        debug_assert!(slot & IS_LIST == 0, "sessions are bounded far below 2^31");
        Watchers(slot)
    }

    fn list(place: usize) -> Watchers {
        Watchers(u32::try_from(place).expect("lists are fewer than sessions times their bound") | IS_LIST)
    }

    /// The place of the list, unless there is only one watcher.
    fn place(self) -> Option<usize> {
        (self.0 & IS_LIST != 0).then_some((self.0 & !IS_LIST) as usize)
    }
}

#[derive(Debug)]
enum List {
    /// Two or more.
    Few(SmallVec<[Slot; 4]>),
    Many(Box<Many>),
}

#[derive(Debug, Default)]
struct Many {
    list: Vec<Slot>,
    place: HashMap<Slot, u32, foldhash::fast::FixedState>,
}

impl List {
    fn slots(&self) -> &[Slot] {
        match self {
            List::Few(few) => few,
            List::Many(many) => &many.list,
        }
    }

    fn add(&mut self, slot: Slot) {
        match self {
            List::Few(few) => {
                debug_assert!(!few.contains(&slot), "the session knows what it watches");
                few.push(slot);
                if few.len() >= MANY {
                    let place = (0..).zip(&**few).map(|(place, &slot)| (slot, place)).collect();
                    *self = List::Many(Box::new(Many { list: few.to_vec(), place }));
                }
            }
            List::Many(many) => {
                many.place.insert(slot, u32::try_from(many.list.len()).expect("no more watchers than slots"));
                many.list.push(slot);
            }
        }
    }

    fn remove(&mut self, slot: Slot) {
        match self {
            List::Few(few) => {
                if let Some(place) = few.iter().position(|&watcher| watcher == slot) {
                    few.swap_remove(place);
                }
                if few.spilled() && few.len() <= few.inline_size() {
                    few.shrink_to_fit();
                }
            }
            List::Many(many) => {
                if let Some(place) = many.place.remove(&slot) {
                    many.list.swap_remove(place as usize);
                    if let Some(&moved) = many.list.get(place as usize) {
                        many.place.insert(moved, place);
                    }
                    if many.list.len() < MANY / 2 {
                        *self = List::Few(SmallVec::from_slice(&many.list));
                    }
                }
            }
        }
    }
}

impl Subscriptions {
    /// Adds a watcher, which must not be one already.
    pub fn add(&mut self, bug: BugId, slot: Slot) {
        match self.bugs.entry(PackedU64::from(bug)) {
            Entry::Vacant(vacant) => {
                vacant.insert(Watchers::one(slot));
            }
            Entry::Occupied(mut occupied) => match occupied.get().place() {
                Some(place) => self.lists[place].add(slot),
                None => {
                    let two = SmallVec::from_slice(&[occupied.get().0, slot]);
                    occupied.insert(Watchers::list(self.lists.insert(List::Few(two))));
                }
            },
        }
    }

    /// Removes a watcher, if it is one.
    pub fn remove(&mut self, bug: BugId, slot: Slot) {
        let Entry::Occupied(mut occupied) = self.bugs.entry(PackedU64::from(bug)) else { return };
        match occupied.get().place() {
            Some(place) => {
                let list = &mut self.lists[place];
                list.remove(slot);
                if let &[last] = list.slots() {
                    self.lists.remove(place);
                    occupied.insert(Watchers::one(last));
                }
            }
            None if occupied.get().0 == slot => {
                occupied.remove();
            }
            None => {}
        }
        self.shrink();
    }

    /// Gives memory back once most of it is unused.
    fn shrink(&mut self) {
        if self.bugs.capacity() > 1024 && self.bugs.len() < self.bugs.capacity() / 8 {
            self.bugs.shrink_to(self.bugs.len() * 2);
        }
        if self.lists.is_empty() && self.lists.capacity() > 1024 {
            self.lists.shrink_to_fit();
        }
    }

    /// The slots that watch a bug.
    pub fn watchers(&self, bug: BugId) -> &[Slot] {
        match self.bugs.get(&PackedU64::from(bug)) {
            None => &[],
            Some(watchers) => match watchers.place() {
                Some(place) => self.lists[place].slots(),
                None => std::slice::from_ref(&watchers.0),
            },
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

    use rand::{RngExt as _, SeedableRng as _};

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
            assert!(index.lists.is_empty());
        }
    }
}
