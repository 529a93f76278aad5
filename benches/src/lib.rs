//! Benchmarks of bugfeed: a load generator that can drive any server of the classic protocol, the floor that servers
//! are compared with, and the scenarios. README.md in this folder explains the figures.

pub mod attack;
pub mod chain;
pub mod cli;
pub mod clock;
pub mod common;
pub mod compare;
pub mod dialect;
pub mod feed_server;
pub mod figures;
pub mod floor;
pub mod hooks_deliver;
pub mod hooks_store;
pub mod load;
pub mod measure;
pub mod plan;
pub mod plot;
pub mod procfs;
pub mod publish;
pub mod report;
pub mod scenario;
pub mod target;
pub mod ws;
