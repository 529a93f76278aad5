//! What a shard tells of itself, for metrics.

use super::Shard;
use crate::replay::Pos;
use crate::session::State;

impl<P> Shard<P> {
    /// The position of the last update processed.
    pub fn processed(&self) -> Pos {
        self.processed
    }

    /// How many sessions it has.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// How many of them lag. Looks at all of them.
    pub fn lagging(&self) -> usize {
        self.sessions.iter().filter(|(_, session)| matches!(session.state, State::Lagging(_))).count()
    }
}
