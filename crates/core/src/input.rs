//! The inputs of a shard, the limits of its sessions, and what it counts.

use std::sync::Arc;

use bugfeed_protocol::client::{Command, Refusal};
use bugfeed_protocol::close::Close;
use bugfeed_protocol::{Change, Cursor, When};

use super::access::{Pass, Tokens};
use super::replay::Pos;
use super::subscriptions::Slot;

/// What arrives in a shard's queue.
#[derive(Debug)]
pub enum Input<P> {
    /// A new connection. Nobody asks for its token.
    Attach(P),
    /// A new connection on a gateway that wants tokens, and what its client has shown so far.
    Enter(P, Pass),
    /// The file with tokens was read again; these stand in it.
    Tokens(Arc<Tokens>),
    /// Work that a connection has read. The connection hands in the next piece only after
    /// [`Peer::ready`](super::session::Peer::ready) was called.
    Work(Slot, Work),
    /// The connection's socket can take more bytes.
    Writable(Slot),
    /// The connection is over. Its slot may be given to another one.
    Detach(Slot),
    /// A change, already in the replay cache.
    Update(Update),
    /// Several changes, in order, all in the replay cache.
    Updates(Arc<Vec<Update>>),
    /// Continuity was lost. The next change follows this cursor; `None` if no cursor is known.
    Gap(Option<Cursor>),
    /// Whether the feed is current: its bus is connected, and history was read. At first it is not.
    Current(bool),
    /// Whether the feed is just finding out if changes were missed. If so, resumes from a cursor wait for the answer.
    /// The sender limits how long that lasts.
    Hold(bool),
    /// Whether changes can arrive; sent when that has changed. Modern sessions are told.
    Feed {
        /// Whether nothing can arrive.
        paused: bool,
        /// Since when this is so, by the gateway's clock.
        since: When,
    },
    /// Close every session, spread over this many milliseconds.
    Drain {
        /// The length of the window, which begins now.
        window_ms: u64,
    },
}

/// What a connection asks for.
#[derive(Debug)]
pub enum Work {
    /// A command, or why a message was refused.
    Command(Result<Command, Refusal>),
    /// A `hello` with a token that is valid: from now on, the session's rights are those of this pass.
    Renew {
        /// How often the client wants a heartbeat, in seconds.
        heartbeat_s: u64,
        /// What the token allows.
        pass: Pass,
    },
    /// A command that is refused because of its token, and what the client is told.
    Denied {
        /// The command.
        command: &'static str,
        /// Why it is refused.
        error: String,
    },
    /// Frames to write as they are (a pong).
    Write(Vec<u8>),
    /// Write a close frame and end.
    Close(Close),
}

/// One change on its way to the sessions that watch it.
#[derive(Clone, Debug)]
pub struct Update {
    /// Its position in the replay cache.
    pub pos: Pos,
    /// The change itself.
    pub change: Change,
    /// Its number; `None` if it came late. A client may lack a late change whatever its cursor is. (A change without a
    /// number that comes between numbered ones counts as late.)
    pub number: Option<Cursor>,
    /// The cursor that a client may store once it was sent this change.
    pub cursor: Cursor,
}

/// How long a gateway believes a client that has seen a higher number than the gateway, in milliseconds. Only time in
/// which the feed is current counts: then another gateway can be ahead only by the travel time of a message. If the
/// number does not come within that time, the client is told a gap: the ledger may have been set back, and may never
/// reach that number.
pub const AHEAD_MS: u64 = 5_000;

/// Bounds on one session.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// Bugs one session may watch.
    pub subscriptions: usize,
    /// Whether a session may watch all bugs of its feed.
    pub all: bool,
    /// Changes that one catch-up sends one by one. If it finds more, it sends only the newest of each bug.
    pub catch_up: usize,
    /// Changes that are looked up at a time for a session that watches all bugs.
    pub page: usize,
    /// How often a ping is sent, in milliseconds.
    pub ping_interval_ms: u64,
    /// How long a peer may stay silent although it is sent pings, in milliseconds.
    pub idle_timeout_ms: u64,
    /// How long a socket may take none of the bytes that wait for it, in milliseconds.
    pub write_timeout_ms: u64,
    /// The largest message a client may send, in bytes. The shard only tells clients this limit; the connection
    /// enforces it.
    pub message_bytes: usize,
    /// How long a message may take from its first byte to its last, in milliseconds.
    pub message_timeout_ms: u64,
}

impl Default for SessionLimits {
    fn default() -> Self {
        SessionLimits {
            subscriptions: 10_000,
            all: false,
            catch_up: 20_000,
            page: 8192,
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
    /// Sessions that began to watch all bugs, less those that stopped.
    pub all: i64,
    /// Updates that were written live.
    pub live: u64,
    /// Updates that were written by a catch-up.
    pub caught_up: u64,
    /// Sessions that began to lag.
    pub lagged: u64,
    /// Catch-ups that were conflated because they were too long.
    pub conflated: u64,
    /// Commands refused.
    pub refused: u64,
    /// Of them, those that a token did not allow, or that came without one.
    pub denied: u64,
    /// Sessions ended because their token had expired.
    pub token_expired: u64,
    /// Sessions ended because no token came in time.
    pub token_needed: u64,
    /// Sessions ended because their token was taken away, or allows less now.
    pub token_revoked: u64,
    /// Sessions ended because their peer was silent.
    pub silent: u64,
    /// Sessions ended because their socket took nothing.
    pub stalled: u64,
    /// Sessions ended because a message of theirs was not completed in time.
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

/// A drain: sessions are closed over a window of time, not all at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    pub(super) begin_ms: u64,
    pub(super) window_ms: u64,
}

impl Drain {
    /// When the session in this slot is closed. The times are spread evenly, whichever slots are in use.
    pub(super) fn due_ms(self, slot: usize) -> u64 {
        self.begin_ms + spread(slot, self.window_ms)
    }
}

/// A time between 0 and `window`, another one for each slot. It grows in golden-ratio steps, so the times of any run of
/// slots are spread evenly over the window.
pub(super) fn spread(slot: usize, window: u64) -> u64 {
    let step = u32::try_from(slot & 0xFFFF_FFFF).unwrap_or(0).wrapping_mul(0x9E37_79B9);
    u64::from(step) * window / (1 << 32)
}
