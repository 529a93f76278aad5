//! The receiver's bounds.

use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The receiver's bounds. The listener bounds the head of a request and the number of connections.
#[derive(Clone, Copy, Debug)]
pub struct ReceiverLimits {
    /// A body has at most this many bytes, also after decompression.
    pub body_bytes: usize,
    /// A body of more bytes goes through a file while it arrives.
    pub file_from_bytes: usize,
    /// The memory for all bodies together, in bytes.
    pub memory_bytes: usize,
    /// The memory, within the same sense, for bodies that are already known to go to quarantine, in bytes.
    pub quarantine_memory_bytes: usize,
    /// The space for all files of bodies that are arriving, in bytes.
    pub file_bytes: usize,
    /// How long a sender waits for a place for its body.
    pub place_wait: Duration,
    /// How long a body may take to arrive.
    pub body_time: Duration,
    /// Of a body that is too large, at most this much is read and thrown away, so that the answer arrives.
    pub discard_bytes: usize,
    /// For at most this time.
    pub discard_time: Duration,
    /// How long the store may take, before the spool takes the request. Some senders give up after 5 s.
    pub store_wait: Duration,
    /// A store that is away is tried again after this time, which doubles with each failure.
    pub retry_first: Duration,
    /// The longest time between two tries.
    pub retry_longest: Duration,
    /// After the process was asked to stop: how long bodies that are arriving are waited for. The listener's
    /// [`grace`](bugfeed_runtime::http::ListenLimits::grace) must be longer.
    pub stop_grace: Duration,
    /// Requests a minute that go to quarantine from one address to one source; further ones are not kept.
    pub quarantine_per_minute: u32,
    /// Bytes of their bodies a minute.
    pub quarantine_bytes_per_minute: u32,
}

impl Default for ReceiverLimits {
    fn default() -> ReceiverLimits {
        ReceiverLimits {
            body_bytes: 25 * MIB,
            file_from_bytes: 256 * KIB,
            memory_bytes: 64 * MIB,
            quarantine_memory_bytes: 4 * MIB,
            file_bytes: 512 * MIB,
            place_wait: Duration::from_secs(2),
            body_time: Duration::from_secs(30),
            discard_bytes: 100 * MIB,
            discard_time: Duration::from_secs(10),
            store_wait: Duration::from_secs(2),
            retry_first: Duration::from_millis(100),
            retry_longest: Duration::from_secs(5),
            stop_grace: Duration::from_secs(3),
            quarantine_per_minute: 60,
            quarantine_bytes_per_minute: 4 * 1024 * 1024,
        }
    }
}
