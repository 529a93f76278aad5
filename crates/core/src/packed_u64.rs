//! 64 bits in two halves.

use bugfeed_protocol::BugId;

/// A `u64` that is stored as two `u32`s, so that it needs only 32-bit alignment. A table entry that holds one beside
/// another 32-bit value then has no four bytes of padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PackedU64([u32; 2]);

impl PackedU64 {
    pub(super) fn new(bits: u64) -> PackedU64 {
        let (high, low) = (bits >> 32, bits & u64::from(u32::MAX));
        PackedU64([high, low].map(|half| u32::try_from(half).expect("32 bits")))
    }

    pub(super) fn get(self) -> u64 {
        u64::from(self.0[0]) << 32 | u64::from(self.0[1])
    }
}

impl From<BugId> for PackedU64 {
    fn from(bug: BugId) -> PackedU64 {
        PackedU64::new(bug.get())
    }
}

impl std::hash::Hash for PackedU64 {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.get());
    }
}
