//! The executor with a real store, real sockets and feeds of the real replay cache.

mod calling;
mod chats;
mod desk;
mod later;
mod odd;
mod ordinary;
mod outages;
mod people;
mod replicas;
pub(crate) mod rig;
mod slow;
