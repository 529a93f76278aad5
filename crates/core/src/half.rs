//! 64 bits in two halves.

use bugfeed_protocol::BugId;

/// 64 bits that need no more than 32-bit alignment: an entry of a table that holds one beside 32-bit values wastes no
/// four bytes on padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Half([u32; 2]);

impl Half {
    pub(super) fn new(bits: u64) -> Half {
        let (high, low) = (bits >> 32, bits & u64::from(u32::MAX));
        Half([high, low].map(|half| u32::try_from(half).expect("32 bits")))
    }

    pub(super) fn get(self) -> u64 {
        u64::from(self.0[0]) << 32 | u64::from(self.0[1])
    }
}

impl From<BugId> for Half {
    fn from(bug: BugId) -> Half {
        Half::new(bug.get())
    }
}

impl std::hash::Hash for Half {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.get());
    }
}
