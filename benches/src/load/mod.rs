//! The load generator: a process with many clients, which does as it is told.
//!
//! Goes in: [`Order`]s, one JSON line each, on standard input. Comes out: one [`Answer`] for each, on standard output.
//! One thread, one epoll, one read(2) for each time a socket has something: it must cost far less than what it measures.

pub mod conn;
pub mod engine;
pub mod tally;
pub mod worker;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::dialect::Dialect;
use crate::plan::{Phase, Watch};
use tally::Tally;

/// Who a worker's clients are, and where they go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Clients {
    /// The server.
    pub server: SocketAddr,
    /// The path of its WebSocket.
    pub path: String,
    /// How it is spoken to.
    pub dialect: Dialect,
    /// The address they come from: each has ports of its own for so many connections.
    pub source: Ipv4Addr,
    /// The number of the first client.
    pub first: u32,
    /// How many there are.
    pub count: u32,
    /// How many may be connecting or subscribing at a time.
    pub window: u32,
    /// What they watch.
    pub watch: Watch,
}

/// What a load process is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Connect all clients, replacing those there are.
    Connect(Clients),
    /// Subscribe all clients.
    Subscribe,
    /// From now on, every n-th client reads only so many bytes a second.
    Slow {
        /// Which clients: those whose number is divisible by it.
        every: u32,
        /// How fast they read.
        bytes_per_s: u32,
    },
    /// Count from zero: this phase's updates are coming.
    Begin {
        /// The updates.
        phase: Phase,
        /// The file that says when each was sent.
        stamps: PathBuf,
        /// A frame that comes later than this after it was sent is counted as late, in milliseconds.
        late_ms: u64,
    },
    /// All was sent: answer when the newest update of each bug has reached each of its watchers, or after this time.
    Finish {
        /// Milliseconds.
        timeout_ms: u64,
    },
    /// Close all connections.
    Close,
}

/// What it answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Done.
    Done {
        /// How long it took, in seconds.
        seconds: f64,
    },
    /// What was counted since the phase began.
    Counted(Box<Tally>),
    /// It cannot go on.
    Failed(String),
}

/// Tells the parent process something: a line of JSON.
pub(crate) fn say(answer: &impl Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, answer)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}
