//! What a shard is told, what bounds it, and what it counts.

use std::sync::Arc;

use bugfeed_protocol::client::{Command, Refusal};
use bugfeed_protocol::close::Close;
use bugfeed_protocol::{Change, Cursor, When};

use super::replay::Pos;
use super::subscriptions::Slot;

/// What arrives in a shard's queue.
#[derive(Debug)]
pub enum Input<P> {
    /// A new connection.
    Attach(P),
    /// Something a connection read. It hands in the next only when [`Peer::ready`](super::session::Peer::ready) was called.
    Work(Slot, Work),
    /// The connection's socket takes more.
    Writable(Slot),
    /// The connection is over. Its slot may be given to another.
    Detach(Slot),
    /// A change, already in the replay cache.
    Update(Update),
    /// Several changes, in order, all in the replay cache.
    Updates(Arc<Vec<Update>>),
    /// Continuity was lost; what comes next follows this cursor.
    Gap(Option<Cursor>),
    /// Whether the feed is current: its bus is connected, and history was read. Not so at first.
    Current(bool),
    /// Whether it is being found out if changes were missed: resumes from a cursor wait for the answer meanwhile. Bounded in
    /// time by whoever says so.
    Hold(bool),
    /// Whether changes can arrive has changed: modern sessions are told.
    Feed {
        /// They cannot.
        paused: bool,
        /// Since when, by the gateway's clock.
        since: When,
    },
    /// Close every session, spread over this many milliseconds.
    Drain {
        /// From now.
        window_ms: u64,
    },
}

/// What a connection asks for.
#[derive(Debug)]
pub enum Work {
    /// A command, or why it was none.
    Command(Result<Command, Refusal>),
    /// Frames to write as they are (a pong).
    Write(Vec<u8>),
    /// Write a close frame and end.
    Close(Close),
}

/// One change on its way to the sessions that watch it.
#[derive(Clone, Debug)]
pub struct Update {
    /// Where it lies in the replay cache.
    pub pos: Pos,
    /// What it says.
    pub change: Change,
    /// Its number; none of one that came late, which a client may lack whatever its cursor.
    pub number: Option<Cursor>,
    /// The cursor of a client that has been sent it.
    pub cursor: Cursor,
}

/// How long a client's word that it has seen more than this gateway is believed, in milliseconds, while the feed is
/// current. A gateway is then behind another by the time a message takes; a ledger that was set back never catches up.
pub const AHEAD_MS: u64 = 5_000;

/// Bounds on one session.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// Bugs one session may watch.
    pub subscriptions: usize,
    /// Changes one catch-up sends one by one; beyond it the newest of each bug.
    pub catch_up: usize,
    /// How often a ping is sent, in milliseconds.
    pub ping_interval_ms: u64,
    /// How long a peer may stay silent, pings notwithstanding, in milliseconds.
    pub idle_timeout_ms: u64,
    /// How long a socket may take nothing at all, in milliseconds.
    pub write_timeout_ms: u64,
    /// The largest message a client may send, in bytes; told to clients, kept by whoever reads.
    pub message_bytes: usize,
    /// How long a message may take from its first byte to its last, in milliseconds.
    pub message_timeout_ms: u64,
}

impl Default for SessionLimits {
    fn default() -> Self {
        SessionLimits {
            subscriptions: 10_000,
            catch_up: 20_000,
            ping_interval_ms: 30_000,
            idle_timeout_ms: 75_000,
            write_timeout_ms: 30_000,
            message_bytes: 262_144,
            message_timeout_ms: 30_000,
        }
    }
}

/// What happened, counted since the last [`Shard::take_tally`](super::shard::Shard::take_tally).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Updates written as they came.
    pub live: u64,
    /// Updates written by a catch-up.
    pub caught_up: u64,
    /// Sessions that began to lag.
    pub lagged: u64,
    /// Catch-ups that were conflated because they were too long.
    pub conflated: u64,
    /// Commands refused.
    pub refused: u64,
    /// Sessions ended because their peer was silent.
    pub silent: u64,
    /// Sessions ended because their socket took nothing.
    pub stalled: u64,
    /// Sessions ended because a message of theirs did not come to its end.
    pub unfinished: u64,
    /// Sessions ended because the process has no room for what they asked.
    pub no_room: u64,
    /// Resumes answered with `complete`.
    pub complete: u64,
    /// Resumes answered with `latest`.
    pub latest: u64,
    /// Resumes answered with `gap`, and `gap` notices.
    pub gaps: u64,
}

/// What clients are told of the gateway.
#[derive(Clone, Debug)]
pub struct About {
    /// The gateway's version.
    pub version: Arc<str>,
    /// The feed's name.
    pub feed: Arc<str>,
}

/// Sessions are closed over a window, not all at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    pub(super) begin_ms: u64,
    pub(super) window_ms: u64,
}

impl Drain {
    /// When a session is closed: evenly spread, whatever the slots.
    pub(super) fn due_ms(self, slot: usize) -> u64 {
        self.begin_ms + spread(slot, self.window_ms)
    }
}

/// A share of `window` that is another one for each slot, in golden-ratio steps: even for any run of slots.
pub(super) fn spread(slot: usize, window: u64) -> u64 {
    let step = u32::try_from(slot & 0xFFFF_FFFF).unwrap_or(0).wrapping_mul(0x9E37_79B9);
    u64::from(step) * window / (1 << 32)
}
