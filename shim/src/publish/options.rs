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
    /// Whether the broker keeps history, so that nothing is unroutable, and the bounds it is made with.
    pub history: Option<HistoryBounds>,
}

/// A text without line breaks, as a log line needs it.
pub(super) fn one_line(text: impl fmt::Display) -> String {
    text.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
