//! What dies: one lane of faults for each gateway, one for the shims, one for the broker, side by side. Each draws its
//! faults like cards from a deck, so that every kind comes up, and leaves everything running in the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::{RabbitMq, eventually};
use rand::RngExt as _;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use tokio::time::Instant;

use super::chaos::CATCH_UP;
use super::pause;
use super::pods::{Pods, Program};
use super::tracker::Tracker;
use crate::real::chaos::deleted::{Deleter, Thing};

/// How often each kind of fault came.
pub type Counts = BTreeMap<&'static str, u32>;

/// When it began, and when faults end.
#[derive(Clone, Copy)]
pub struct Period {
    pub begin: Instant,
    pub end: Instant,
    /// The shortest and the longest pause between two faults of a lane, in ms.
    pub rest_ms: (u64, u64),
}

impl Period {
    /// From now on, for so long.
    pub fn new(length: Duration) -> Period {
        let begin = Instant::now();
        Period { begin, end: begin + length, rest_ms: (500, 4000) }
    }
}

/// The faults of one lane.
pub struct Lane {
    period: Period,
    pub random: SmallRng,
    kinds: &'static [&'static str],
    deck: Vec<&'static str>,
    pub counts: Counts,
}

pub fn millis(random: &mut SmallRng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(random.random_range(range))
}

impl Lane {
    pub fn new(period: Period, random: SmallRng, kinds: &'static [&'static str]) -> Lane {
        Lane { period, random, kinds, deck: Vec::new(), counts: Counts::new() }
    }

    /// The next fault, after a pause; none when it is over.
    pub async fn next(&mut self, who: &str) -> Option<&'static str> {
        let (shortest, longest) = self.period.rest_ms;
        pause(millis(&mut self.random, shortest..longest)).await;
        if Instant::now() >= self.period.end {
            return None;
        }
        if self.deck.is_empty() {
            self.deck.extend(self.kinds);
            self.deck.shuffle(&mut self.random);
        }
        let kind = self.deck.pop()?;
        *self.counts.entry(kind).or_default() += 1;
        println!("{:6.1} s  {who}: {kind}", self.period.begin.elapsed().as_secs_f32());
        Some(kind)
    }
}

const KILLED: &str = "gateway killed";
const DRAINED: &str = "gateway drained";
const FROZEN: &str = "gateway frozen";
const PAUSED: &str = "gateway paused";

/// Kills, drains and freezes one gateway, and starts it again on the same port.
pub async fn gateway(
    mut gateway: Program,
    index: usize,
    pods: Arc<Pods>,
    period: Period,
    random: SmallRng,
) -> (Counts, Program) {
    let mut lane = Lane::new(period, random, &[KILLED, PAUSED, DRAINED, PAUSED, FROZEN]);
    while let Some(kind) = lane.next(&gateway.name).await {
        match kind {
            FROZEN => {
                // Longer than its heartbeat to the broker, and than its clients wait.
                let length = millis(&mut lane.random, 5000..6500);
                gateway.freeze(length).await;
                continue;
            }
            PAUSED => {
                // So short that its connections last, long enough for a small queue to overflow.
                let length = millis(&mut lane.random, 1000..3000);
                gateway.freeze(length).await;
                continue;
            }
            KILLED => gateway.kill9(),
            _ => gateway.terminate().await,
        }
        let away = millis(&mut lane.random, 0..1500);
        let may_warm_up = lane.random.random_ratio(2, 3);
        pods.reborn(index);
        pause(away).await;
        gateway.start();
        if may_warm_up {
            // The longer it all runs, the longer history takes to read, and one that never serves proves nothing.
            pods.ready(index, period.end).await;
        }
    }
    gateway.proc();
    (lane.counts, gateway)
}

const SHIM_KILLED: &str = "shim killed";
const SHIM_STOPPED: &str = "shim stopped";
const SHIM_FROZEN: &str = "shim frozen";
const LEDGER_RESTORED: &str = "ledger restored";

/// Kills, stops and freezes one of the shims at a time; where things may be lost, it restores an old copy of their ledger.
pub async fn shims(
    mut shims: [Program; 2],
    losses: Option<&Tracker>,
    period: Period,
    random: SmallRng,
) -> (Counts, [Program; 2]) {
    let (harmless, with_losses) = (
        &[SHIM_KILLED, SHIM_KILLED, SHIM_FROZEN, SHIM_STOPPED][..],
        &[SHIM_KILLED, LEDGER_RESTORED, SHIM_FROZEN, SHIM_STOPPED][..],
    );
    let mut lane = Lane::new(period, random, if losses.is_some() { with_losses } else { harmless });
    loop {
        let Some(kind) = lane.next("shims").await else { break };
        if let (LEDGER_RESTORED, Some(tracker)) = (kind, losses) {
            restore(&mut shims, tracker, &mut lane).await;
            continue;
        }
        // The one that works is more worth it.
        let works = |shim: &Program| {
            let count = |event| shim.proc.as_ref().map_or(0, |proc| proc.events(event));
            count(LogEvent::LeaseTaken) > count(LogEvent::LeaseLost)
        };
        let worker = shims.iter().position(works).unwrap_or(0);
        let shim = &mut shims[if lane.random.random_ratio(4, 5) { worker } else { 1 - worker }];
        match kind {
            SHIM_FROZEN => {
                // Longer than the lease.
                let length = millis(&mut lane.random, 6500..8500);
                shim.freeze(length).await;
                continue;
            }
            SHIM_KILLED => shim.kill9(),
            _ => shim.terminate().await,
        }
        let away = millis(&mut lane.random, 0..2500);
        pause(away).await;
        shim.start();
    }
    for shim in &mut shims {
        shim.proc();
    }
    (lane.counts, shims)
}

/// Takes a copy of the ledger, lets them go on for a while, and puts the copy back.
async fn restore(shims: &mut [Program; 2], tracker: &Tracker, lane: &mut Lane) {
    for shim in &mut *shims {
        shim.terminate().await;
    }
    tracker.copy_ledger().await;
    let copied = tracker.published().await;
    shims.iter_mut().for_each(Program::start);
    let length = millis(&mut lane.random, 1000..4000);
    pause(length).await;
    // Without a future that is lost it would be no fault.
    let lost = async || tracker.published().await > copied;
    eventually(CATCH_UP, "changes that the copy does not have", lost).await.unwrap();
    shims.iter_mut().for_each(Program::kill9);
    tracker.put_back_ledger().await;
    shims.iter_mut().for_each(Program::start);
}

const BROKER_KILLED: &str = "broker killed";
const BROKER_FROZEN: &str = "broker frozen";
const CONNECTIONS_CLOSED: &str = "connections closed by the broker";
const BROKER_WIPED: &str = "broker wiped";
const EXCHANGE_DELETED: &str = "exchange deleted";
const STREAM_DELETED: &str = "stream deleted";

/// What must have come at least once in a run in which things may be lost.
pub const LOSSES: [&str; 4] = [LEDGER_RESTORED, BROKER_WIPED, EXCHANGE_DELETED, STREAM_DELETED];

/// Kills and freezes the broker, and makes it close all connections; where things may be lost, it empties it, and deletes
/// what the feed goes through.
pub async fn broker(mut rabbit: RabbitMq, losses: bool, period: Period, random: SmallRng) -> (Counts, RabbitMq) {
    let (harmless, with_losses) = (
        &[BROKER_KILLED, CONNECTIONS_CLOSED, CONNECTIONS_CLOSED, BROKER_FROZEN][..],
        &[BROKER_KILLED, EXCHANGE_DELETED, CONNECTIONS_CLOSED, STREAM_DELETED, BROKER_FROZEN, BROKER_WIPED][..],
    );
    let mut lane = Lane::new(period, random, if losses { with_losses } else { harmless });
    while let Some(kind) = lane.next("broker").await {
        match kind {
            BROKER_KILLED => {
                let away = millis(&mut lane.random, 0..2000);
                rabbit.kill9().await;
                pause(away).await;
                rabbit.start_again().await.unwrap();
            }
            BROKER_FROZEN => {
                let length = millis(&mut lane.random, 4500..6500);
                rabbit.process().expect("it runs").sigstop();
                pause(length).await;
                rabbit.process().expect("it runs").sigcont();
            }
            BROKER_WIPED => {
                rabbit.stop().await.unwrap();
                std::fs::remove_dir_all(rabbit.dir().join("mnesia")).unwrap();
                rabbit.start_again().await.unwrap();
            }
            EXCHANGE_DELETED => delete(&rabbit, &[Thing::Exchange, Thing::HeadExchange]).await,
            STREAM_DELETED => delete(&rabbit, &[Thing::Stream]).await,
            _ => drop(rabbit.ctl(&["close_all_connections", "chaos"]).await.unwrap()),
        }
    }
    (lane.counts, rabbit)
}

async fn delete(rabbit: &RabbitMq, things: &[Thing]) {
    let mut deleter = Deleter::connect(&rabbit.url(), "bugfeed.default").await;
    for thing in things {
        deleter.delete(*thing).await;
    }
}
