//! The ring of recent changes: written by one, read by many, without a lock that a writer or a reader waits for.
//!
//! Goes in: changes, from the one [`Tail`]. Comes out: the entries between [`Ring::start`] and [`Ring::head`]. An entry
//! is written once and then published by storing the head with release order. A reader that loads the head with acquire
//! order sees all entries up to it. The list of blocks has a lock, which the writer takes once for each block.
//!
//! Every interleaving of a writer and a reader is tried by loom (`cargo test` with `--cfg bugfeed_loom`, see the tests below).

use std::collections::VecDeque;

use bugfeed_protocol::{BugId, Change, When};

#[cfg(bugfeed_loom)]
use loom::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
#[cfg(bugfeed_loom)]
use loom::sync::{Arc, RwLock, RwLockWriteGuard};
#[cfg(not(bugfeed_loom))]
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
#[cfg(not(bugfeed_loom))]
use std::sync::{Arc, RwLock, RwLockWriteGuard};

/// A change's place in the ring, dense from 1; 0 is before the first. It means nothing outside the process.
pub type Pos = u64;

/// Entries of a block. Loom tries every interleaving, so there it must be small.
const BLOCK: usize = if cfg!(bugfeed_loom) { 2 } else { 1024 };

/// What is kept of one change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) change: Change,
    /// How many positions back the same bug's previous change lies; 0 is "none, or too far".
    pub(crate) back: u32,
    /// When the change was recorded, in seconds since 1970, rounded up; never falls from one entry to the next.
    pub(crate) arrived_s: u32,
}

/// Consecutive entries, written once each, in order.
#[derive(Debug)]
pub(crate) struct Block {
    bug: Box<[AtomicU64]>,
    when: Box<[AtomicI64]>,
    back: Box<[AtomicU32]>,
    arrived_s: Box<[AtomicU32]>,
    /// The largest `when` in the block.
    max_when: AtomicI64,
}

impl Block {
    fn new() -> Block {
        Block {
            bug: (0..BLOCK).map(|_| AtomicU64::new(0)).collect(),
            when: (0..BLOCK).map(|_| AtomicI64::new(0)).collect(),
            back: (0..BLOCK).map(|_| AtomicU32::new(0)).collect(),
            arrived_s: (0..BLOCK).map(|_| AtomicU32::new(0)).collect(),
            max_when: AtomicI64::new(i64::MIN),
        }
    }

    /// The change at a position of this block, which must be published.
    pub(crate) fn change(&self, pos: Pos) -> Change {
        let at = slot(pos);
        let bug = BugId::new(self.bug[at].load(Ordering::Relaxed));
        let when = When::from_micros(self.when[at].load(Ordering::Relaxed));
        Change {
            bug: bug.expect("only valid changes are recorded, and read after they are published"),
            when: when.expect("only valid changes are recorded, and read after they are published"),
        }
    }

    /// How many positions back the same bug's previous change lies; 0 is "none, or too far".
    pub(crate) fn back(&self, pos: Pos) -> u32 {
        self.back[slot(pos)].load(Ordering::Relaxed)
    }

    /// When the change was recorded, in seconds since 1970, rounded up.
    pub(crate) fn arrived_s(&self, pos: Pos) -> u32 {
        self.arrived_s[slot(pos)].load(Ordering::Relaxed)
    }

    /// Whether the change has a date from `since` on, or was recorded from `since` on.
    pub(crate) fn reaches(&self, pos: Pos, since: When) -> bool {
        self.when[slot(pos)].load(Ordering::Relaxed) >= since.as_micros() || recorded_from(self.arrived_s(pos), since)
    }

    /// Whether some change of the block has a date from `since` on.
    pub(crate) fn max_when_reaches(&self, since: When) -> bool {
        self.max_when.load(Ordering::Relaxed) >= since.as_micros()
    }
}

/// Whether a change that was recorded at `arrived_s` was recorded at or after `since`.
pub(crate) fn recorded_from(arrived_s: u32, since: When) -> bool {
    i64::from(arrived_s) * 1_000_000 >= since.as_micros()
}

/// The shared, readable side.
#[derive(Debug)]
pub(crate) struct Ring {
    blocks: RwLock<Blocks>,
    /// The last position that may be read; stored after the entry is written.
    head: AtomicU64,
    /// The first position that is still in the ring.
    start: AtomicU64,
}

#[derive(Debug)]
struct Blocks {
    /// The number of the first block kept: position p lies in block (p - 1) / BLOCK.
    first: u64,
    list: VecDeque<Arc<Block>>,
}

/// The end of the ring at which its one writer writes.
#[derive(Debug)]
pub(crate) struct Tail {
    block: Arc<Block>,
    /// The position of the next change.
    pub(crate) next: Pos,
}

fn slot(pos: Pos) -> usize {
    usize::try_from((pos - 1) % BLOCK as u64).expect("less than BLOCK")
}

impl Ring {
    /// An empty ring, and the end for its writer.
    pub(crate) fn new() -> (Tail, Ring) {
        let block = Arc::new(Block::new());
        let ring = Ring {
            blocks: RwLock::new(Blocks { first: 0, list: VecDeque::from([Arc::clone(&block)]) }),
            head: AtomicU64::new(0),
            start: AtomicU64::new(1),
        };
        (Tail { block, next: 1 }, ring)
    }

    /// The newest position; everything up to it can be read.
    pub(crate) fn head(&self) -> Pos {
        self.head.load(Ordering::Acquire)
    }

    /// The first position still in the ring (head + 1 where the ring is empty).
    pub(crate) fn start(&self) -> Pos {
        self.start.load(Ordering::Acquire)
    }

    fn blocks_mut(&self) -> RwLockWriteGuard<'_, Blocks> {
        self.blocks.write().expect("nobody panics holding it")
    }

    /// The block that holds a position; `None` if it was trimmed, or is not written yet.
    pub(crate) fn block(&self, pos: Pos) -> Option<Arc<Block>> {
        let blocks = self.blocks.read().expect("nobody panics holding it");
        let index = ((pos - 1) / BLOCK as u64).checked_sub(blocks.first)?;
        blocks.list.get(usize::try_from(index).ok()?).cloned()
    }

    /// How many blocks there are.
    #[cfg(test)]
    pub(crate) fn blocks_kept(&self) -> usize {
        self.blocks.read().unwrap().list.len()
    }

    /// The last position of the block that holds this one.
    pub(crate) fn end_of_block(pos: Pos) -> Pos {
        (pos - 1) / BLOCK as u64 * BLOCK as u64 + BLOCK as u64
    }

    /// Trims the ring, which then begins at `start`: frees the blocks before it. Only the writer may call this.
    pub(crate) fn trim_to(&self, start: Pos) {
        self.start.store(start, Ordering::Release);
        let first = (start - 1) / BLOCK as u64;
        if first > self.blocks.read().expect("no reader panics holding it").first {
            let mut blocks = self.blocks_mut();
            while blocks.first < first && blocks.list.len() > 1 {
                blocks.list.pop_front();
                blocks.first += 1;
            }
        }
    }
}

impl Tail {
    /// Writes the next entry and publishes it.
    #[inline]
    pub(crate) fn push(&mut self, ring: &Ring, entry: Entry) {
        let pos = self.next;
        if pos > 1 && slot(pos) == 0 {
            self.block = Arc::new(Block::new());
            ring.blocks_mut().list.push_back(Arc::clone(&self.block));
        }
        let (at, when) = (slot(pos), entry.change.when.as_micros());
        self.block.bug[at].store(entry.change.bug.get(), Ordering::Relaxed);
        self.block.when[at].store(when, Ordering::Relaxed);
        self.block.back[at].store(entry.back, Ordering::Relaxed);
        self.block.arrived_s[at].store(entry.arrived_s, Ordering::Relaxed);
        self.block.max_when.fetch_max(when, Ordering::Relaxed);
        ring.head.store(pos, Ordering::Release);
        self.next = pos + 1;
    }
}

/// Run by tests/run as `RUSTFLAGS="--cfg bugfeed_loom" cargo test -p bugfeed-core --lib ring::interleavings`.
#[cfg(all(test, bugfeed_loom))]
mod interleavings {
    use super::*;

    fn entry(number: u64) -> Entry {
        let change = Change {
            bug: BugId::new(number).unwrap(),
            when: When::from_micros(i64::try_from(number).unwrap() * 1_000_000).unwrap(),
        };
        let number = u32::try_from(number).unwrap();
        Entry { change, back: number + 10, arrived_s: number + 20 }
    }

    /// Checks that the entry at a position is complete, never half-written.
    fn is_whole(block: &Block, pos: Pos) {
        let want = entry(pos);
        assert_eq!(
            (block.change(pos), block.back(pos), block.arrived_s(pos)),
            (want.change, want.back, want.arrived_s)
        );
        assert!(block.max_when_reaches(want.change.when) && block.reaches(pos, want.change.when));
    }

    /// A reader that loads the head can read every entry up to it, unless the entry was trimmed meanwhile.
    #[test]
    fn everything_up_to_the_head_is_written() {
        loom::model(|| {
            let (mut tail, ring) = Ring::new();
            let ring = Arc::new(ring);
            let shared = Arc::clone(&ring);
            let reader = loom::thread::spawn(move || {
                let head = shared.head();
                for pos in shared.start()..=head {
                    match shared.block(pos) {
                        Some(block) => is_whole(&block, pos),
                        None => assert!(pos < shared.start(), "{pos} of {head} is gone, and was not trimmed"),
                    }
                }
            });
            // These go over the end of a block.
            for number in 1..=3 {
                tail.push(&ring, entry(number));
            }
            ring.trim_to(3);
            reader.join().unwrap();
            assert_eq!((ring.head(), ring.start()), (3, 3));
        });
    }

    /// The writer puts a position into the table of newest changes after it has published the entry. So a reader that
    /// finds the position there can read the entry.
    #[test]
    fn what_the_table_names_is_written() {
        loom::model(|| {
            let (mut tail, ring) = Ring::new();
            let (ring, newest) = (Arc::new(ring), Arc::new(RwLock::new(0)));
            let (shared, table) = (Arc::clone(&ring), Arc::clone(&newest));
            let reader = loom::thread::spawn(move || {
                let pos = *table.read().unwrap();
                if pos > 0 {
                    assert!(pos <= shared.head());
                    is_whole(&shared.block(pos).expect("nothing is trimmed"), pos);
                }
            });
            for number in 1..=3 {
                tail.push(&ring, entry(number));
                *newest.write().unwrap() = number;
            }
            reader.join().unwrap();
        });
    }
}
