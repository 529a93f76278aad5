//! Who publishes on a feed's exchange: one ledger, or two that should not.
//!
//! Goes in: the epoch of each head and each change that came live. Comes out: whether two of them take turns. A ledger that
//! replaces another does not: the old one is not heard again.

use bugfeed_protocol::Epoch;

/// How long it is remembered that somebody was heard, and that two were.
const MEMORY_MS: u64 = 60_000;
/// How many are remembered.
const MAX: usize = 8;

/// The ledgers heard lately.
#[derive(Clone, Debug, Default)]
pub struct Publishers {
    /// With the time they were last heard; the last one is last.
    heard: Vec<(Epoch, u64)>,
    /// Two that took turns, and when they last did.
    two: Option<(Epoch, Epoch, u64)>,
}

impl Publishers {
    /// A ledger's publisher was heard.
    pub fn heard(&mut self, epoch: &Epoch, now_ms: u64) {
        if let Some((last, at_ms)) = self.heard.last_mut()
            && last == epoch
        {
            *at_ms = now_ms;
            return;
        }
        if let Some(at) = self.heard.iter().position(|(heard, _)| heard == epoch) {
            let (epoch, at_ms) = self.heard.remove(at);
            if let Some((between, _)) = self.heard.last().filter(|_| now_ms <= at_ms + MEMORY_MS) {
                let (one, two) = if between.as_str() < epoch.as_str() { (between, &epoch) } else { (&epoch, between) };
                self.two = Some((one.clone(), two.clone(), now_ms));
            }
        } else if self.heard.len() == MAX {
            self.heard.remove(0);
        }
        self.heard.push((epoch.clone(), now_ms));
    }

    /// Two ledgers that took turns within the last minute.
    pub fn two(&self, now_ms: u64) -> Option<(Epoch, Epoch)> {
        let (one, two, at_ms) = self.two.as_ref()?;
        (now_ms <= at_ms + MEMORY_MS).then(|| (one.clone(), two.clone()))
    }

    /// Whether another ledger than this one is alive: heard within so many milliseconds, or taking turns with it.
    pub fn others(&self, epoch: &Epoch, now_ms: u64, within_ms: u64) -> bool {
        let alive = |(heard, at_ms): &(Epoch, u64)| heard != epoch && now_ms <= at_ms + within_ms;
        self.heard.iter().any(alive) || self.two(now_ms).is_some()
    }
}
