//! One connection to the broker, set up: the exchange, its history, a channel with confirms.
//!
//! Goes in: where to publish. Comes out: a connection of which everything is there that a batch needs, or an error. Every
//! step is bounded in time.

use std::fmt;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{FutureExt as _, Stream, StreamExt as _};
use lapin::options::ConfirmSelectOptions;
use lapin::{Channel, Connection, Event};

use super::message::Room;
use super::options::{AmqpOptions, one_line};
use bugfeed_amqp::AmqpError;
use bugfeed_protocol::log_event::LogEvent;

/// The longest wait for a channel and the exchange on a new connection.
pub(super) const SETUP_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is looked whether the history is still there.
const HISTORY_LOOK: Duration = Duration::from_secs(10);

/// The largest frame: a message of 500 changes fits, whatever their numbers and dates.
const FRAMES: u32 = 64 * 1024;

pub(super) struct PublisherConnection {
    pub(super) connection: Connection,
    pub(super) channel: Channel,
    /// Whether the history is there.
    pub(super) history: bool,
    /// When it was seen last.
    history_at: Instant,
    blocked: Mutex<Blocked>,
}

/// Why the broker blocks publishers, in its own words.
struct Blocked {
    events: Pin<Box<dyn Stream<Item = Event> + Send>>,
    reason: String,
}

impl fmt::Debug for PublisherConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublisherConnection")
            .field("channel", &self.channel.id())
            .field("history", &self.history)
            .finish()
    }
}

impl PublisherConnection {
    pub(super) async fn open(options: &AmqpOptions) -> Result<PublisherConnection, AmqpError> {
        let url = &options.url;
        let connection = bugfeed_amqp::connect(url, "bugfeed-shim", FRAMES).await?;
        let events = Box::pin(connection.events_listener());
        let setting_up = async {
            let channel = connection.create_channel().await.map_err(|e| AmqpError::broker(url, e))?;
            let confirm = channel.confirm_select(ConfirmSelectOptions::default());
            confirm.await.map_err(|e| AmqpError::broker(url, e))?;
            bugfeed_amqp::declare_exchange(url, &channel, &options.exchange).await?;
            Ok(channel)
        };
        let set_up = tokio::time::timeout(SETUP_TIMEOUT, setting_up).await;
        let channel = set_up.map_err(|_| AmqpError::Timeout(url.clone()))??;
        let history = PublisherConnection::declare_history(options, &connection).await?.is_some();
        let blocked = Mutex::new(Blocked { events, reason: String::new() });
        Ok(PublisherConnection { connection, channel, history, history_at: Instant::now(), blocked })
    }

    /// Looks, from time to time, whether the history is still there, and makes it anew where it is not. Returns whether it did.
    /// Without the history, a message of several changes is confirmed when one of its keys leads to a queue.
    pub(super) async fn keep_history(&mut self, options: &AmqpOptions) -> Result<bool, AmqpError> {
        if !self.history || self.history_at.elapsed() < HISTORY_LOOK {
            return Ok(false);
        }
        let made = PublisherConnection::declare_history(options, &self.connection).await?;
        self.history = made.is_some();
        self.history_at = Instant::now();
        Ok(made == Some(true))
    }

    /// Whether the history was made now; none where there is no history.
    async fn declare_history(options: &AmqpOptions, connection: &Connection) -> Result<Option<bool>, AmqpError> {
        let (url, Some(bounds)) = (&options.url, &options.history) else { return Ok(None) };
        let declaring = bugfeed_amqp::declare_history(url, connection, &options.exchange, bounds);
        match tokio::time::timeout(SETUP_TIMEOUT, declaring).await {
            Ok(Ok(made)) => Ok(Some(made)),
            // A broker without streams still carries changes to whoever is there.
            Ok(Err(error)) if error.is_permanent() => {
                let (exchange, reason) = (&options.exchange, one_line(error));
                tracing::warn!(exchange, event = %LogEvent::HistoryRefused, "no history: {reason}; going on without (--history false says so)");
                Ok(None)
            }
            // Right after a broker's restart a stream can be away for a moment. What gateways took meanwhile would be
            // confirmed, and be missing in the history for ever.
            Ok(Err(error)) => Err(error),
            Err(_) => Err(AmqpError::Timeout(url.clone())),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }

    /// How changes may be put together here.
    pub(super) fn room(&self, options: &AmqpOptions) -> Room {
        let frame_max = self.connection.configuration().frame_max();
        Room::of(options, self.history, usize::try_from(frame_max).unwrap_or(usize::MAX))
    }

    /// Why the broker blocks publishers just now, if it does.
    pub(super) fn blocked(&self) -> Option<String> {
        if !self.connection.status().blocked() {
            return None;
        }
        let mut blocked = self.blocked.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(Some(event)) = blocked.events.next().now_or_never() {
            if let Event::ConnectionBlocked(reason) = event {
                blocked.reason = reason;
            }
        }
        Some(blocked_because(&blocked.reason))
    }
}

/// What to do about it. RabbitMQ says "low on memory" or "low on disk".
fn blocked_because(reason: &str) -> String {
    let advice = if reason.contains("disk") {
        "free disk space there, or lower its disk_free_limit"
    } else if reason.contains("memory") {
        "let consumers take what is queued there, or raise its vm_memory_high_watermark"
    } else {
        "see its log: a memory or disk alarm"
    };
    let reason = if reason.is_empty() { "it gives no reason" } else { reason };
    format!("the broker takes no messages now ({reason}): {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_is_named() {
        for (reason, part) in [("low on disk", "disk_free_limit"), ("low on memory", "watermark"), ("", "see its log")]
        {
            let text = blocked_because(reason);
            assert!(text.contains(reason) && text.contains(part), "{text}");
        }
    }
}
