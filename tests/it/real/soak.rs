//! Everything dies at random, on the real parts: RabbitMQ, MariaDB, two shims on one ledger, three gateways, some
//! hundreds of clients, and writers that never stop.
//!
//! Goes in: a seed and a duration (`BUGFEED_SOAK_SEED`, `BUGFEED_SOAK_SECONDS`, `BUGFEED_SOAK_CLIENTS`). Comes out: one
//! line that counts faults, changes, updates, verdicts, gaps and losses, or a list of what is wrong, with the logs of
//! every process. The schedule of faults, the writers and the clients each draw from the seed; what the machine makes of
//! it is not repeated exactly, but the same things die in the same order after the same pauses.

pub mod chaos;
pub mod check;
pub mod client;
pub mod crowd;
pub mod faults;
pub mod pods;
pub mod tracker;

use std::time::Duration;

/// Lets time pass: here time itself is what is random. Nothing is waited for this way.
pub async fn pause(length: Duration) {
    let _elapsed = tokio::time::timeout(length, std::future::pending::<()>()).await;
}
