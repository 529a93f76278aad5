//! Options of `bugfeed gateway`.

use std::collections::BTreeMap;
use std::time::Duration;

use bugfeed_amqp::{HistoryBounds, exchange_name};
use bugfeed_gateway::bus::amqp::AmqpOptions;
use bugfeed_protocol::feed_name;
use bugfeed_runtime::values::age;
use clap::Args;

use super::broker::BrokerArgs;
use super::serving::{ListenArgs, LogArgs};
use crate::compose::gateway::GatewayOptions;

/// Options of `gateway`.
#[derive(Clone, Debug, Args)]
pub struct GatewayArgs {
    /// Ports and limits.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// Which broker.
    #[command(flatten)]
    pub broker: BrokerArgs,
    /// A feed and the exchange it comes from; repeat for more. The feed "default" is served at /, any other at /NAME/
    #[arg(long = "feed", env = "BUGFEED_FEED", default_value = "default=bugfeed.default", value_name = "NAME=EXCHANGE", value_delimiter = ',', value_parser = feed)]
    pub feeds: Vec<FeedArg>,
    /// Use durable queues named NAME.FEED instead of queues that go with the connection: nothing is lost while this
    /// gateway or the broker is away, but each gateway needs a NAME of its own, and its queues must be deleted by hand
    #[arg(long, env = "BUGFEED_QUEUE_NAME", value_name = "NAME")]
    pub queue_name: Option<String>,
    /// Whether the broker keeps the feed's history (a RabbitMQ stream), from which a gateway learns what it missed
    #[arg(long, env = "BUGFEED_HISTORY", default_value_t = true, action = clap::ArgAction::Set, value_name = "true|false", value_parser = clap::builder::BoolishValueParser::new())]
    pub history: bool,
    /// How long the broker keeps history, if this gateway creates the stream
    #[arg(long, alias = "stream-age", env = "BUGFEED_STREAM_MAX_AGE", default_value = "7d", value_name = "AGE", value_parser = age, hide_short_help = true)]
    pub stream_max_age: Duration,
    /// How large the stream may become, in bytes, if this gateway creates it
    #[arg(long, alias = "stream-bytes", env = "BUGFEED_STREAM_MAX_BYTES", default_value_t = 1 << 30, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1_000_000..), hide_short_help = true)]
    pub stream_max_bytes: u64,
    /// Messages a queue holds before the oldest are dropped
    #[arg(long, env = "BUGFEED_QUEUE_MAX", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000), hide_short_help = true)]
    pub queue_max: u32,
    /// Bytes of messages a queue holds before the oldest are dropped: a message may hold 500 changes
    #[arg(long, env = "BUGFEED_QUEUE_MAX_BYTES", default_value_t = 256 << 20, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1_000..=1 << 40), hide_short_help = true)]
    pub queue_max_bytes: u64,
    /// Messages on their way from the broker at a time. They are kept in memory while history is read: a message of many
    /// changes has some 30 KB. More than 500 count as 500
    #[arg(long, env = "BUGFEED_PREFETCH", default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=65535), hide_short_help = true)]
    pub prefetch: u16,
    /// Log lines.
    #[command(flatten)]
    pub log: LogArgs,
}

impl GatewayArgs {
    /// The options of the composition.
    ///
    /// # Errors
    /// If options contradict each other; the error names them.
    pub fn options(&self) -> Result<GatewayOptions, String> {
        let exchanges = feeds(&self.feeds)?;
        let alone = exchanges.len() == 1;
        let bounds = HistoryBounds { age_s: self.stream_max_age.as_secs(), bytes: self.stream_max_bytes };
        let feeds = exchanges.into_iter().map(|(name, exchange)| {
            let options = AmqpOptions {
                url: self.broker.url(),
                exchange,
                queue: self.queue_name.as_ref().map(|queue| format!("{queue}.{name}")),
                queue_max: self.queue_max,
                queue_max_bytes: self.queue_max_bytes,
                prefetch: self.prefetch,
                alone,
                patient: false,
                history: self.history.then(|| bounds.clone()),
            };
            (name, options)
        });
        Ok(GatewayOptions { serving: self.listen.serving()?, feeds: feeds.collect() })
    }
}

/// One `--feed NAME=EXCHANGE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedArg {
    /// The name in the path.
    pub name: String,
    /// The exchange to which its changes are published.
    pub exchange: String,
}

pub(super) fn feed(text: &str) -> Result<FeedArg, String> {
    let (name, exchange) = text.split_once('=').ok_or("write NAME=EXCHANGE, such as default=bugfeed.default")?;
    feed_name::check(name).map_err(|error| format!("'{name}': {error}"))?;
    Ok(FeedArg { name: name.to_owned(), exchange: exchange_name(exchange)? })
}

/// The feeds by name, each once.
///
/// # Errors
/// Names the feed that was given twice.
pub(super) fn feeds(args: &[FeedArg]) -> Result<BTreeMap<String, String>, String> {
    let mut feeds = BTreeMap::new();
    for FeedArg { name, exchange } in args {
        if feeds.insert(name.clone(), exchange.clone()).is_some() {
            return Err(format!("--feed names '{name}' twice; give each feed a name of its own"));
        }
    }
    Ok(feeds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feed_has_a_name_of_its_own() {
        let twice = [feed("a=x").unwrap(), feed("a=y").unwrap()];
        assert!(feeds(&twice).unwrap_err().contains("'a' twice"));
    }
}
