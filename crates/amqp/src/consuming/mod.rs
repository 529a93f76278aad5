//! A consuming connection of AMQP 0-9-1, on the codec that lapin is built on.
//!
//! Goes in: a broker's address, and what is asked of it. Comes out: its answers and deliveries. Never reconnects, has no
//! task and no thread of its own, and buffers no more than: what is read at once (64 KiB, or one frame), and the deliveries
//! that nobody has asked for yet, which the prefetch count and [`BODY_MAX`] bound.
//!
//! Why beside lapin: lapin reads its socket on a thread of its own, which wakes the task that consumes. Here the task that
//! consumes reads the socket itself. docs/decisions/0026-consuming-connection.md has the figures.
//!
//! | file | what |
//! |---|---|
//! | `wire.rs` | bytes to frames and back |
//! | `delivery.rs` | frames to a message |
//! | `state.rs` | what the frames mean: answers, deliveries, closed channels |
//! | `connection.rs` | socket, heartbeats, handshake |
//! | `calls.rs` | a function for each method |

mod calls;
mod connection;
mod delivery;
mod state;
mod wire;

pub use calls::{Declared, QueueSettings};
pub use connection::{Came, Connection};
pub use delivery::{BODY_MAX, Delivery, RECORDED_US, SENT_US};
pub use state::Ended;
pub use state::PREFETCH_MAX;
