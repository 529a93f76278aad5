//! What becomes of a received request, as far as it can be said without a socket, a clock or a store.
//!
//! One request goes this way:
//!
//! 1. [`signature::verify`] or [`key::find`]: who sent it.
//! 2. [`mapping::map`]: `body` takes the items out of the body; of each item the source's rules ([`crate::config`])
//!    say which bug changed, and when.
//! 3. The caller stores what came out, and answers.
//!
//! [`explain::explain`] does the same and tells each step, for people.

pub(crate) mod body;
pub mod capture;
mod date;
pub mod explain;
pub mod identity;
pub mod key;
pub mod lookup;
pub mod mapped;
pub mod mapping;
pub mod received;
pub mod signature;
pub mod trace;
