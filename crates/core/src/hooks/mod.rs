//! The decisions about received webhook events, without database, tracker and clock.
//!
//! Goes in: rows of the store (a bounded number for each bug), the settings of their sources, the outcome of a question
//! to the tracker, and the time. Comes out: [`Action`](action::Action)s, which a store and an executor carry out. Each
//! change of a row is a compare-and-set on its state and version, so that several workers and several processes may
//! plan the same bug at once: the first one wins, and the others plan anew. It never sleeps, asks or writes by itself.
//!
//! The words ([`event`]), the allowed transitions ([`states`]), what an arriving item becomes ([`arrival`]), what is done
//! next for a bug ([`processor`]) and after a question was answered ([`outcome`]), what is ordered from outside ([`orders`]), when a
//! dead letter is tried again ([`schedule`]), when a tracker may be asked ([`breaker`]), what it is asked to find lost
//! webhooks ([`reconcile`]), and how fast a backlog is worked off ([`pace`]). Times are microseconds since 1970 by the clock of the process, unless a name says otherwise.

pub mod action;
pub mod arrival;
pub mod breaker;

pub mod event;
pub mod lane;
pub mod orders;
pub mod outcome;
pub mod pace;
pub mod processor;
pub mod reconcile;
mod rules;
pub mod schedule;
pub mod states;

/// Microseconds in a second.
pub const SECOND_US: i64 = 1_000_000;
