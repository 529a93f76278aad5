//! What every role does with the broker: reads its address, connects, waits for it within a time limit ([`within`]),
//! declares what a feed has there, and tells faults that pass with time from those that a person must mend.
//!
//! Goes in: a URL. Comes out: a connection, or an error that says what to do. Never retries or reconnects by itself, so
//! that the caller sees the moment at which a connection is lost.

pub mod consuming;
mod declare;
mod error;
pub mod survey;
mod transport;
mod url;

use std::time::Duration;

use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};

pub use declare::{
    HistoryBounds, declare_exchange, declare_exchange_on, declare_history, declare_history_on, history_name,
};
pub use error::AmqpError;
use error::protocol_error;
pub use url::{BrokerUrl, exchange_name, parse_url};

/// How long a connection attempt may take, the AMQP handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes one call to the broker and waits at most `limit` for it. The limit is needed because a broker that has died
/// silently cannot be told from a slow one.
///
/// # Errors
/// The call's error, or [`AmqpError::Timeout`] after `limit`.
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

/// The largest AMQP frame of a connection that sends little, in bytes. lapin keeps two buffers of 32 frames for a
/// connection: with RabbitMQ's own 128 KiB that would be 8 MiB.
pub const SMALL_FRAMES: u32 = 16 * 1024;

/// Connects with lapin, within 10 s: to publish. `name` is shown in the broker's list of connections. `frame_max` is the largest frame, in bytes,
/// unless the URL says another (`?frame_max=`); the broker may ask for smaller ones.
///
/// # Errors
/// [`AmqpError::Login`] can only be mended by a person; the other errors may pass.
pub async fn connect(url: &BrokerUrl, name: &str, frame_max: u32) -> Result<Connection, AmqpError> {
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let mut uri = AMQPUri::clone(&url.0);
    uri.query.frame_max.get_or_insert(frame_max);
    let connecting = Connection::connector(uri, transport::runtime(), transport::open, properties);
    logged_in(url, connecting).await
}

/// Connects to consume, within 10 s. `name` is shown in the broker's list of connections.
///
/// # Errors
/// [`AmqpError::Login`] can only be mended by a person; the other errors may pass.
pub async fn connect_consuming(url: &BrokerUrl, name: &str) -> Result<consuming::Connection, AmqpError> {
    let connecting = async {
        let stream = transport::stream(&url.0).await?;
        consuming::Connection::log_in(stream, &url.0, name).await
    };
    logged_in(url, connecting).await
}

async fn logged_in<T>(
    url: &BrokerUrl,
    connecting: impl Future<Output = Result<T, lapin::Error>>,
) -> Result<T, AmqpError> {
    within(CONNECT_TIMEOUT, url, connecting, |error| match protocol_error(&error) {
        // ACCESS_REFUSED: user or password. NOT_ALLOWED: the virtual host.
        Some((403 | 530, reason)) => AmqpError::Login { url: url.clone(), reason },
        _ => AmqpError::Broker { url: url.clone(), source: error },
    })
    .await
}
