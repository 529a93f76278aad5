//! Rolling restarts: all gateways are replaced one after the other, as a deployment does it, while changes flow. Nothing is
//! lost, nobody is told of a gap, and the clients come back over the whole window instead of at once.

mod chaos;
pub mod service;
mod spread;
