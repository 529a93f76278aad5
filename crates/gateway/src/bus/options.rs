//! Where a feed comes from, over AMQP.

use bugfeed_amqp::{BrokerUrl, HistoryBounds};

/// Where a feed comes from.
#[derive(Clone, Debug)]
pub struct AmqpOptions {
    /// The broker.
    pub url: BrokerUrl,
    /// The feed's exchange.
    pub exchange: String,
    /// A durable queue's name; without it the broker names one that goes with the connection.
    pub queue: Option<String>,
    /// Messages the queue holds before the oldest are dropped. One may hold several changes.
    pub queue_max: u32,
    /// Bytes of messages the queue holds before the oldest are dropped.
    pub queue_max_bytes: u64,
    /// Whether the broker keeps history, and the bounds it is made with.
    pub history: Option<HistoryBounds>,
    /// Messages on their way at a time. Without a bound the queue would never fill, and its limit never work.
    pub prefetch: u16,
    /// It is the only feed: what a person must mend ends the start.
    pub alone: bool,
    /// Nothing ends it: also what a person must mend is tried again from time to time.
    pub patient: bool,
}
