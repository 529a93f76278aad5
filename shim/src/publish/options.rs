//! Where and how to publish over AMQP.

use std::fmt;

use bugfeed_amqp::{BrokerUrl, HistoryBounds};
use bugfeed_protocol::bus::Format;

/// Where and how to publish.
#[derive(Clone, Debug)]
pub struct AmqpOptions {
    /// The broker.
    pub url: BrokerUrl,
    /// The topic exchange; created when missing.
    pub exchange: String,
    /// How messages are written.
    pub format: Format,
    /// How changes are put together.
    pub batch: BatchOptions,
    /// Whether the broker keeps history, so that nothing is unroutable, and the bounds it is made with.
    pub history: Option<HistoryBounds>,
}

/// How changes that wait together are put into messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    /// Most changes in one message; 1: each change alone.
    pub max: usize,
    /// Whether a batch is routed by the numbers of its bugs, too (the header `CC`), so that queues bound to single bugs get
    /// it. Without, only queues bound with `#` get it, and the broker has far less to do.
    pub keys: bool,
}

impl Default for BatchOptions {
    fn default() -> BatchOptions {
        BatchOptions { max: 500, keys: true }
    }
}

/// A text without line breaks, as a log line needs it.
pub(super) fn one_line(text: impl fmt::Display) -> String {
    text.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
