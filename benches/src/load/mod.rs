//! The load generator: a process with many clients, controlled by orders.
//!
//! Goes in: [`Order`]s, one JSON line each, on standard input. Comes out: one [`Answer`] for each, on standard output.
//! It has one thread and one epoll, and calls read(2) once for each time a socket has something, because it must cost
//! far less than the server that it measures.

pub mod conn;
pub mod engine;
pub mod tally;
pub mod worker;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::attack::Strength;
use crate::dialect::Dialect;
use crate::plan::{Phase, Watch};
use tally::Tally;

/// The clients of one worker, and the server that they connect to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Clients {
    /// The server.
    pub server: SocketAddr,
    /// The path of its WebSocket.
    pub path: String,
    /// The server's protocol.
    pub dialect: Dialect,
    /// The clients' source address. Each source address has its own ports, enough for so many connections.
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

/// An order to a load process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Connect these clients; existing ones are closed.
    Connect(Clients),
    /// Subscribe all clients.
    Subscribe,
    /// From now on, every n-th client reads only so many bytes a second.
    Slow {
        /// The clients whose number is divisible by this.
        every: u32,
        /// How fast they read.
        bytes_per_s: u32,
    },
    /// Set the counters to zero: this phase's updates will be sent now.
    Begin {
        /// The updates.
        phase: Phase,
        /// The file that says when each was sent.
        stamps: PathBuf,
        /// A frame counts as late if it arrives more than this after it was sent, in milliseconds.
        late_ms: u64,
    },
    /// All updates were sent. Answer when the newest update of each bug has reached each of its watchers, or after this
    /// time.
    Finish {
        /// Milliseconds.
        timeout_ms: u64,
    },
    /// Close all connections.
    Close,
}

/// The answer of a load process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Done.
    Done {
        /// How long it took, in seconds.
        seconds: f64,
    },
    /// What was counted since the phase began.
    Counted(Box<Tally>),
    /// What an attacker did (see [`crate::attack`]).
    Attacked(Strength),
    /// The load process cannot go on, for this reason.
    Failed(String),
}

/// Sends an answer to the parent process, as one line of JSON.
pub(crate) fn say(answer: &impl Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, answer)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}
