//! Binding a port and serving HTTP/1.1 on it, within bounds.
//!
//! Goes in: an address. Comes out: requests for a router. A peer's use of resources is bounded: the number of
//! connections, the time to send a request's head, the size of the head. Requests that no path may see are refused here:
//! those that name no host or one that is not served, and those whose end another program may see elsewhere.

mod accept;
pub mod body;
pub mod certificates;
mod connection;
mod framing;
mod hijack;
mod hosts;
mod parting;
mod rules;
pub mod tls;
mod wire;

use axum::http::HeaderName;

pub use self::accept::{BindError, ConnectionEvents, Front, ListenLimits, bind, serve, serve_behind};
pub use self::hijack::{Hijack, Hijacked, Peer};
pub use self::hosts::{HostName, Hosts};
pub use self::wire::Wire;

/// A header of every answer. By it, clients tell an answer of the gateway itself from one of a proxy.
pub const VERSION_HEADER: HeaderName = HeaderName::from_static("bugfeed-version");
