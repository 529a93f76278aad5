//! The guarantees, proven: a seeded simulation of tracker, shims, broker, pods and clients around the real pure core,
//! and exhaustive checks of small models.
//!
//! Goes in: one number. Comes out: nothing, or the first promise that was broken, with the command that replays it.
//! Every run is a function of its seed alone: no clock, no thread, no map whose order is random.
//!
//! - `BUGFEED_SIM_SEED=7 cargo test --test sim -- seeds --nocapture` replays one seed and tells what happens in it.
//! - Some clients watch all bugs as one subscription, in half of the worlds; with `BUGFEED_SIM_ALL=1` in every world, with
//!   `BUGFEED_SIM_ALL=0` in none.
//! - `BUGFEED_SIM_SEEDS=100000` runs that many, `BUGFEED_SIM_SEEDS=endless` goes on until a promise is broken.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs, unreachable_pub)]

mod broker;
mod bus;
mod bus_check;
mod check;
mod client;
mod endpoints;
mod faults;
mod hooks;
mod hooks_model;
mod ledger;
mod model;
mod model_ledger;
mod pod;
mod publishers;
mod quiet;
mod shadow;
mod shim;
mod stats;
mod swarm;
mod wire;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use stats::Stats;
use world::World;

/// How many seeds the normal run takes: ten to twenty seconds of two cores, unoptimised.
const SEEDS: u64 = 5000;

fn run(seed: u64, trace: bool) -> Result<Stats, String> {
    match catch_unwind(AssertUnwindSafe(|| World::new(seed, trace).run())) {
        Ok(outcome) => outcome,
        Err(panic) => Err(panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "panic".to_owned())),
    }
}

#[test]
fn seeds() {
    let number = |name| std::env::var(name).ok();
    if let Some(seed) = number("BUGFEED_SIM_SEED") {
        let seed = seed.parse().expect("BUGFEED_SIM_SEED is a number");
        match run(seed, true) {
            Ok(stats) => println!("seed {seed}: {stats:?}"),
            Err(broken) => panic!("seed {seed}: {broken}"),
        }
        return;
    }
    let end = match number("BUGFEED_SIM_SEEDS").as_deref() {
        None => SEEDS,
        Some("endless") => u64::MAX,
        Some(count) => count.parse().expect("BUGFEED_SIM_SEEDS is a number, or 'endless'"),
    };
    many(end);
}

/// Runs seeds 0 to `end` on all cores, until one breaks a promise.
fn many(end: u64) {
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let began = Instant::now();
    let work = || {
        let mut total = Stats::default();
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                break;
            }
            match run(seed, false) {
                Ok(stats) => total.add(&stats),
                Err(broken) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(format!(
                        "seed {seed}: {broken}\nreplay: BUGFEED_SIM_SEED={seed} cargo test --test sim -- seeds --nocapture"
                    ));
                }
            }
            if seed % 10_000 == 9_999 {
                println!("{} seeds, {:.0} s", seed + 1, began.elapsed().as_secs_f64());
            }
        }
        Ok(total)
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut total = Stats::default();
    let mut broken = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(stats) => total.add(&stats),
            Err(text) => broken.push(text),
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    let seconds = began.elapsed().as_secs_f64();
    println!("{end} seeds in {seconds:.1} s: {total:?}");
    // A simulation in which nothing happens proves nothing.
    if end >= 1000 {
        total.assert_all_happened();
    }
}

#[test]
fn a_seed_is_all_there_is_to_a_run() {
    for seed in 0..20 {
        assert_eq!(run(seed, false), run(seed, false), "seed {seed}");
    }
}
