//! What a replay cache tells of itself, for metrics.

use super::Replay;

impl Replay {
    /// How many changes are in the ring.
    pub fn changes(&self) -> u64 {
        (self.head() + 1).saturating_sub(self.start())
    }

    /// When the oldest change in the ring was recorded, in seconds since 1970; `None` if there is none.
    pub fn oldest_s(&self) -> Option<u32> {
        let start = self.start();
        let block = (start <= self.head()).then(|| self.ring.block(start))??;
        Some(block.arrived_s(start))
    }
}
