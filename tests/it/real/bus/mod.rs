//! What a gateway does about its bus: a publisher that is made by hand here says heads, falls silent, or is another one;
//! connections are cut, exchanges and streams deleted.

mod chaos;
mod continuity;
mod feeds;
mod publisher;
mod start;
