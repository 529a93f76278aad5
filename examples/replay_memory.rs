//! What a replay cache costs: bytes for each bug of the newest-change table, and for each change of the ring.
//!
//! ```sh
//! cargo run --profile dist --example replay_memory
//! ```

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use bugfeed_core::position_map::Continuity;
use bugfeed_core::replay::{ReplayLimits, replay};
use bugfeed_protocol::{BugId, Change, Cursor, Epoch, When};

/// This process's resident memory, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}

fn main() {
    let mut cursor = Cursor::new(Epoch::from_random(1), 0);
    for (what, changes, bugs, ring) in [
        ("2,000,000 bugs, no ring", 2_000_000, 2_000_000, 1),
        ("1,000,000 changes of 1,000 bugs in the ring", 1_000_000, 1000, 1_000_000),
        ("the defaults, full: 2,000,000 bugs and 1,000,000 changes", 2_000_000, 2_000_000, 1_000_000),
    ] {
        let before = resident();
        let (mut recorder, shared) = replay(ReplayLimits { max: ring, ..ReplayLimits::default() });
        let begin = std::time::Instant::now();
        for number in 0..changes {
            cursor.seq += 1;
            let when = When::from_micros(1_400_000_000_000_000 + i64::try_from(number).unwrap()).unwrap();
            let change = Change { bug: BugId::new(number % bugs + 1).unwrap(), when };
            recorder.record(change, when, &cursor, None, Continuity::Next);
        }
        let nanos = begin.elapsed().as_nanos() / u128::from(changes);
        let bytes = resident() - before;
        println!(
            "{what}: {:.1} MiB, {:.1} bytes a change, {nanos} ns to record one",
            bytes as f64 / f64::from(1 << 20),
            bytes as f64 / changes as f64
        );
        assert!(shared.bugs() > 0);
    }
}
