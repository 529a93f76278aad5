//! What the publisher and the gateway's bus share: the broker's address, connecting, declaring a feed's exchange, and
//! telling faults that time heals from those that a person must.
//!
//! Goes in: a URL. Comes out: a connection, or an error that says what to do. Never retries by itself, so that whoever
//! calls sees the moment of loss.

mod transport;

use std::fmt;
use std::time::Duration;

use bugfeed_protocol::redact::unescaped;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::AMQPError;
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind, ExchangeKind};

/// How long a connection attempt may take, the AMQP handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest AMQP frame where the URL does not say, in bytes. lapin keeps two buffers of 32 frames for a connection:
/// with RabbitMQ's own 128 KiB that is 8 MiB, for messages of a hundred bytes.
const FRAME_MAX: u32 = 16 * 1024;
/// Seconds between heartbeats where the URL does not say: a dead broker is noticed after two.
const HEARTBEAT_S: u16 = 10;

/// A broker's address; shown without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl(AMQPUri);

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AMQPUri { scheme, authority, vhost, .. } = &self.0;
        let vhost = if vhost == "/" { "%2f" } else { vhost };
        let host = &authority.host;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        write!(f, "{scheme}://{}@{host}:{}/{vhost}", authority.userinfo.username, authority.port)
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokerUrl({self})")
    }
}

/// Reads `amqp://user:password@host:port/vhost` (`amqps://` for TLS). Without a virtual host, or with an empty one, it
/// is the default one, `/`.
///
/// # Errors
/// Says what a URL looks like; never repeats the text, which may hold a password.
pub fn parse_url(text: &str) -> Result<BrokerUrl, String> {
    if let Some(hint) = unescaped(text) {
        return Err(format!("not a broker's address: {hint}"));
    }
    let bad = "not a broker's address; write amqp://user:password@host:5672/%2f, or amqps:// for TLS";
    if !text.contains("://") {
        // The parser would take what follows `amqp:/` for a virtual host, which is no secret.
        return Err(bad.to_owned());
    }
    let mut uri: AMQPUri = text.trim().parse().map_err(|_| bad.to_owned())?;
    let bracketed = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    if let Some((address, _)) = bracketed {
        // The parser takes an IPv6 address for no host at all, and would go to localhost.
        address.parse::<std::net::Ipv6Addr>().map_err(|_| "the address in [brackets] is no IPv6 address".to_owned())?;
        address.clone_into(&mut uri.authority.host);
    }
    if uri.vhost.is_empty() {
        "/".clone_into(&mut uri.vhost);
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
    uri.query.frame_max.get_or_insert(FRAME_MAX);
    Ok(BrokerUrl(uri))
}

/// What went wrong with a broker.
#[derive(Debug, thiserror::Error)]
pub enum AmqpError {
    /// No answer in time.
    #[error("broker {0} does not answer; is it running there?")]
    Timeout(BrokerUrl),
    /// The broker, or the way to it, failed.
    #[error("broker {url}: {source}")]
    Broker {
        /// Which broker.
        url: BrokerUrl,
        /// What happened.
        source: lapin::Error,
    },
    /// The broker ended the consumer.
    #[error("broker {0} ended the consumer; was the queue deleted?")]
    Cancelled(BrokerUrl),
    /// User, password or virtual host are not accepted.
    #[error("broker {url} refuses the login: {reason}; check user, password and virtual host in the URL")]
    Login {
        /// Which broker.
        url: BrokerUrl,
        /// The broker's words.
        reason: String,
    },
    /// The exchange is there already, with other properties.
    #[error(
        "exchange '{exchange}' exists with another type or other properties: {reason}; bugfeed needs a durable topic \
         exchange (fanout where its name ends in .head): delete it, or choose another name"
    )]
    Exchange {
        /// Which exchange.
        exchange: String,
        /// The broker's words.
        reason: String,
    },
    /// The queue is there already, with other properties.
    #[error(
        "queue '{queue}' exists with other properties: {reason}; delete it once what it holds may go, or choose another \
         name"
    )]
    Queue {
        /// Which queue.
        queue: String,
        /// The broker's words.
        reason: String,
    },
    /// Somebody else consumes the queue, or did until just now.
    #[error(
        "queue '{0}' has another consumer: each gateway needs a --queue-name of its own; where that one has died, the \
         broker lets go of it within a minute"
    )]
    InUse(String),
    /// The user may not do what is needed.
    #[error("not permitted: {0}; deploy/README.md has the permissions that each role needs")]
    Permission(String),
}

impl AmqpError {
    /// Whether only a person can mend it, so that a start-up should fail instead of waiting.
    pub fn needs_a_person(&self) -> bool {
        use AmqpError::{Exchange, Login, Permission, Queue};
        matches!(self, Login { .. } | Exchange { .. } | Queue { .. } | Permission(_))
    }

    /// Whether the broker would say the same the next time: it refuses, or does not know what is asked for, as opposed
    /// to not having it just now.
    pub fn will_be_the_same(&self) -> bool {
        let unknown = |source| protocol_error(source).is_some_and(|(code, _)| matches!(code, 503 | 540));
        self.needs_a_person() || matches!(self, AmqpError::Broker { source, .. } if unknown(source))
    }

    /// Wraps what an exchange's declaration failed with.
    pub fn exchange(url: &BrokerUrl, exchange: &str, source: lapin::Error) -> AmqpError {
        match protocol_error(&source) {
            Some((406, reason)) => AmqpError::Exchange { exchange: exchange.to_owned(), reason },
            _ => AmqpError::broker(url, source),
        }
    }

    /// Wraps what a queue's declaration failed with.
    pub fn queue(url: &BrokerUrl, queue: &str, source: lapin::Error) -> AmqpError {
        match protocol_error(&source) {
            Some((406, reason)) => AmqpError::Queue { queue: queue.to_owned(), reason },
            _ => AmqpError::broker(url, source),
        }
    }

    /// Wraps what consuming a queue failed with.
    pub fn consume(url: &BrokerUrl, queue: &str, source: lapin::Error) -> AmqpError {
        match protocol_error(&source) {
            Some((403, reason)) if reason.contains("exclusive use") => AmqpError::InUse(queue.to_owned()),
            _ => AmqpError::broker(url, source),
        }
    }

    /// Wraps an error of an established connection.
    pub fn broker(url: &BrokerUrl, source: lapin::Error) -> AmqpError {
        match protocol_error(&source) {
            Some((403, reason)) => AmqpError::Permission(reason),
            _ => AmqpError::Broker { url: url.clone(), source },
        }
    }
}

/// The AMQP reply code and text behind an error.
fn protocol_error(error: &lapin::Error) -> Option<(u16, String)> {
    let error: &AMQPError = match error.kind() {
        ErrorKind::ProtocolError(error) => error,
        _ => return None,
    };
    Some((error.get_id(), error.get_message().to_string()))
}

/// One call to the broker, which may take so long: a broker that has stopped answering looks like one that thinks.
///
/// # Errors
/// Also when the time is over.
pub async fn within<T, E>(
    limit: Duration,
    url: &BrokerUrl,
    call: impl Future<Output = Result<T, E>>,
    wrap: impl FnOnce(E) -> AmqpError,
) -> Result<T, AmqpError> {
    match tokio::time::timeout(limit, call).await {
        Err(_) => Err(AmqpError::Timeout(url.clone())),
        Ok(answer) => answer.map_err(wrap),
    }
}

/// Connects. `name` is what the broker's list of connections shows.
///
/// # Errors
/// [`AmqpError::Login`] needs a person; the others may pass.
pub async fn connect(url: &BrokerUrl, name: &str) -> Result<Connection, AmqpError> {
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let connecting = Connection::connector(url.0.clone(), transport::runtime(), transport::open, properties);
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Err(_) => Err(AmqpError::Timeout(url.clone())),
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => match protocol_error(&error) {
            // ACCESS_REFUSED: user or password. NOT_ALLOWED: the virtual host.
            Some((403 | 530, reason)) => Err(AmqpError::Login { url: url.clone(), reason }),
            _ => Err(AmqpError::Broker { url: url.clone(), source: error }),
        },
    }
}

/// Makes sure that a feed's durable topic exchange exists.
///
/// # Errors
/// [`AmqpError::Exchange`] and [`AmqpError::Permission`] need a person.
pub async fn declare_exchange(url: &BrokerUrl, channel: &Channel, exchange: &str) -> Result<(), AmqpError> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let declared = channel.exchange_declare(exchange.into(), ExchangeKind::Topic, options, FieldTable::default()).await;
    declared.map_err(|error| AmqpError::exchange(url, exchange, error))
}

/// How long and how large a feed's history is kept by the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryBounds {
    /// Seconds.
    pub age_s: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

impl Default for HistoryBounds {
    fn default() -> HistoryBounds {
        HistoryBounds { age_s: 7 * 24 * 3600, bytes: 1 << 30 }
    }
}

/// The type, as a message property, of a marker: what is published into a history to know where it ends. Readers pass over
/// it.
pub const MARKER: &str = "bugfeed.marker";

/// The name of a feed's history.
pub fn history_name(exchange: &str) -> String {
    format!("{exchange}.history")
}

/// Makes sure that a feed's history exists: a RabbitMQ stream bound to its exchange. One that is there is taken as it
/// is, whatever its bounds.
///
/// # Errors
/// Also when the broker knows no streams (RabbitMQ before 3.9, or another broker).
pub async fn declare_history(
    url: &BrokerUrl,
    connection: &Connection,
    exchange: &str,
    bounds: &HistoryBounds,
) -> Result<(), AmqpError> {
    let failed = |error| AmqpError::broker(url, error);
    let name = history_name(exchange);
    // A refusal ends the channel, so each attempt has one of its own.
    let channel = connection.create_channel().await.map_err(failed)?;
    let look = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
    let channel = match channel.queue_declare(name.as_str().into(), look, FieldTable::default()).await {
        Ok(_) => channel,
        Err(error) if protocol_error(&error).is_some_and(|(code, _)| code == 404) => {
            let channel = connection.create_channel().await.map_err(failed)?;
            let declare = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            let mut arguments = FieldTable::default();
            arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
            arguments.insert("x-max-age".into(), AMQPValue::LongString(format!("{}s", bounds.age_s).into()));
            let bytes = i64::try_from(bounds.bytes).unwrap_or(i64::MAX);
            arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(bytes));
            // Age and size are kept by whole segments: small ones, or the bounds would mean little.
            let segment = (bytes / 10).clamp(1_000_000, 100_000_000);
            arguments.insert("x-stream-max-segment-size-bytes".into(), AMQPValue::LongLongInt(segment));
            let declared = channel.queue_declare(name.as_str().into(), declare, arguments).await;
            declared.map_err(|error| AmqpError::queue(url, &name, error))?;
            channel
        }
        Err(error) => return Err(failed(error)),
    };
    let everything = QueueBindOptions::default();
    channel
        .queue_bind(name.as_str().into(), exchange.into(), "#".into(), everything, FieldTable::default())
        .await
        .map_err(failed)?;
    channel.close(200, "done".into()).await.map_err(failed)
}

/// Reads the name of an exchange that bugfeed may make.
///
/// # Errors
/// Says what is allowed.
pub fn exchange_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 200 || text.starts_with("amq.") || text.chars().any(char::is_control) {
        return Err("an exchange name has 1 to 200 bytes and does not begin with amq.".to_owned());
    }
    if text.contains("://") {
        return Err("this is an address, not the name of an exchange".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for (text, want) in [
            ("amqp://127.0.0.1", "amqp://guest@127.0.0.1:5672/%2f"),
            ("amqp://127.0.0.1/", "amqp://guest@127.0.0.1:5672/%2f"),
            ("amqp://127.0.0.1:1234/%2f", "amqp://guest@127.0.0.1:1234/%2f"),
            ("amqp://[::1]:1234", "amqp://guest@[::1]:1234/%2f"),
            (" amqps://me:secret@rabbit/bugs ", "amqps://me@rabbit:5671/bugs"),
        ] {
            assert_eq!(parse_url(text).unwrap().to_string(), want);
        }
        for text in [
            "",
            "rabbit",
            "amqp:/me:secret@rabbit/",
            "me:secret@rabbit",
            "http://me:secret@rabbit/",
            "amqp://me:secret@rabbit:port/",
        ] {
            let error = parse_url(text).unwrap_err();
            assert!(error.contains("amqp://user:password@") && !error.contains("secret"), "{error}");
        }
        let error = parse_url("amqp://me:sec#ret@rabbit/").unwrap_err();
        assert!(error.contains("write %23 for '#'") && !error.contains("ret"), "{error}");
        let error = parse_url("amqp://me:12/ret@rabbit/").unwrap_err();
        assert!(error.contains("write %2F for '/'"), "{error}");
    }
}
