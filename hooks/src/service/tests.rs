//! The whole service: a real store, real HTTP, trackers in the test process.

mod alerts;
mod begin;
mod crash;
mod ordinary;
mod outage;
mod privacy;
mod replicas;
mod rig;
mod trackers;
mod turmoil;
mod upkeep;
