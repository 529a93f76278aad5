//! What dies beside the broker and the gateway: hooks with their shims, and the store. Each lane leaves everything running.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::SmallRng;

use super::store::Database;
use crate::real::soak::faults::{Counts, Lane, Period, millis};
use crate::real::soak::pause;
use crate::real::soak::pods::Program;

const KILLED: &str = "hooks killed";
const ALL_KILLED: &str = "all hooks killed";
const STOPPED: &str = "hooks stopped";
const FROZEN: &str = "hooks frozen";

/// Kills, stops and freezes replicas, one at a time, and sometimes all at once.
pub async fn hooks(mut replicas: Vec<Program>, period: Period, random: SmallRng) -> (Counts, Vec<Program>) {
    let mut lane = Lane::new(period, random, &[KILLED, STOPPED, ALL_KILLED, FROZEN, KILLED]);
    while let Some(kind) = lane.next("hooks").await {
        let chosen = lane.random.random_range(0..replicas.len());
        match kind {
            FROZEN => {
                // Longer than their leases, now and then.
                let length = millis(&mut lane.random, 3000..8500);
                replicas[chosen].freeze(length).await;
                continue;
            }
            ALL_KILLED => replicas.iter_mut().for_each(Program::kill9),
            KILLED => replicas[chosen].kill9(),
            _ => replicas[chosen].terminate().await,
        }
        let away = millis(&mut lane.random, 0..3000);
        pause(away).await;
        if kind == ALL_KILLED {
            replicas.iter_mut().for_each(Program::start);
        } else {
            replicas[chosen].start();
        }
    }
    for replica in &mut replicas {
        replica.proc();
    }
    (lane.counts, replicas)
}

const STORE_KILLED: &str = "store killed";
const STORE_STOPPED: &str = "store stopped";
const STORE_FROZEN: &str = "store frozen";

/// Kills, stops and freezes the store.
pub async fn store(mut database: Database, period: Period, random: SmallRng) -> (Counts, Database) {
    let mut lane = Lane::new(period, random, &[STORE_KILLED, STORE_FROZEN, STORE_STOPPED]);
    while let Some(kind) = lane.next("store").await {
        let away = millis(&mut lane.random, 0..4000);
        match kind {
            // Longer than the receiver waits for it.
            STORE_FROZEN => database.freeze(away + Duration::from_millis(2500)).await,
            STORE_KILLED => database.kill9(away).await,
            _ => database.restart(away).await,
        }
    }
    (lane.counts, database)
}
