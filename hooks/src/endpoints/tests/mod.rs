//! The executor with a real store, real sockets and feeds of the real replay cache.

mod calling;
mod chats;
mod odd;
mod ordinary;
mod outages;
mod people;
mod replicas;
mod rig;
mod slow;
