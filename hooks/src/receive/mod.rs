//! What becomes of a received request.
//!
//! One request goes this way:
//!
//! 1. [`signature::verify`] or [`key::find`]: who sent it.
//! 2. [`mapping::map`]: `body` takes the items out of the body; of each item the source's rules ([`crate::config`])
//!    say which bug changed, and when.
//! 3. [`received`]: what comes out is stored, and the sender is answered.
//!
//! [`explain::explain`] does the first two and tells each step, for people. [`http`] does all of it with sockets, clock
//! and store, and with the [`spool`] where the store is away; everything else here is pure.

mod advice;
pub(crate) mod body;
pub mod capture;
pub(crate) mod date;
pub mod explain;
pub mod http;
pub mod identity;
pub mod key;
pub mod lookup;
pub mod mapped;
pub mod mapping;
pub mod received;
pub mod signature;
pub mod spool;
pub mod trace;
pub(crate) mod written;
