//! What the store knows of bugs that a tracker says have changed: for the reconciler.
//!
//! Goes in: a source and bugs. Comes out: for each, the newest times of its events.

use std::collections::HashMap;
use std::sync::Arc;

use bugfeed_core::hooks::event::State;
use bugfeed_core::hooks::lane::LaneKey;
use bugfeed_core::hooks::reconcile::{Known, Seen};
use bugfeed_protocol::When;

use super::cells::{Columns, text_value};
use super::codes::{self, Code};
use super::row::bug_number;
use super::{Store, StoreError};

/// The kind of the events that the reconciler inserts. No sender's event has it.
pub const RECONCILED: &str = "bugfeed.reconcile";

impl Store {
    /// What is known of each of these bugs from events of this source, in their order.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn known(&self, source: &str, bugs: &[Seen]) -> Result<Vec<Known>, StoreError> {
        let alive = [State::Completed, State::Queued, State::Processing, State::Errored, State::Disabled];
        let alive = alive.map(|state| state.code().to_string()).join(",");
        let mut found: HashMap<(String, i64), Known> = HashMap::new();
        for chunk in bugs.chunks(500) {
            let lane = |seen: &Seen| codes::lane(&LaneKey::Bug(Arc::clone(&seen.feed), seen.bug)).to_string();
            let lanes = chunk.iter().map(lane).collect::<Vec<_>>().join(",");
            let sql = format!(
                "SELECT feed, bug, MAX(CASE WHEN state IN ({alive}) THEN when_us END), MAX(CASE WHEN kind <> ? THEN when_us \
                 END) FROM hooks_events WHERE lane IN ({lanes}) AND source = ? AND origin = 0 GROUP BY feed, bug"
            );
            for row in self.lanes.fetch(&sql, &[text_value(RECONCILED), text_value(source)]).await? {
                let mut row = Columns::of(row);
                let (feed, bug) = (row.text()?, row.maybe_int()?.unwrap_or(0));
                let mut when = || Ok::<_, StoreError>(row.maybe_int()?.and_then(When::from_micros));
                let known = Known { newest: when()?, by_webhook: when()? };
                found.insert((feed, bug), known);
            }
        }
        let of = |seen: &Seen| found.get(&(seen.feed.to_string(), bug_number(seen.bug))).copied().unwrap_or_default();
        Ok(bugs.iter().map(of).collect())
    }
}
