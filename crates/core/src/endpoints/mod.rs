//! Endpoints of webhooks: what is POSTed to whom, when it is tried again, and when no more. Without a socket, a database
//! and a clock.
//!
//! **An endpoint is a long-poll whose answer is POSTed.** It has a cursor for each of its feeds. The feed's replay cache
//! answers what changed since then and with which verdict ([`question`]), with the same code that answers sessions. What a
//! receiver took (2xx) moves the cursor, which is stored before the next request. So an endpoint that is paused, cools
//! down or is disabled owes at most one change of each bug, and is told `gap` exactly where that is the truth.
//!
//! The rules by which a failing endpoint is tried again ([`policy`]); what the store has of an endpoint, and what people
//! order ([`row`], [`orders`]); the planner of one endpoint ([`endpoint`]); who may send next of all endpoints
//! ([`schedule`]); whose bugs a change concerns ([`interest`]); which process serves which endpoints ([`partitions`]). Times
//! are microseconds since 1970 by the clock of the process, unless a name says otherwise.

pub mod batch;
pub mod endpoint;
pub mod interest;
pub mod orders;
mod pacing;
pub mod partitions;
pub mod policy;
pub mod question;
pub mod row;
pub mod schedule;
pub mod sent;

pub use crate::hooks::SECOND_US;
