//! Faults of a broker, of two kinds: those that pass with time, and those that a person must mend.

use std::io;
use std::sync::Arc;

use bugfeed_trust::{Cause, Refused, refused};
use lapin::ErrorKind;
use lapin::protocol::AMQPError;

use crate::BrokerUrl;

/// What went wrong with a broker.
#[derive(Debug, thiserror::Error)]
pub enum AmqpError {
    /// The broker did not answer in time.
    #[error("broker {0} does not answer; is it running there?")]
    Timeout(BrokerUrl),
    /// The broker, or the network to it, failed.
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
    /// The other end cannot prove that it is the broker, or does not take this side's certificate.
    #[error("broker {url}: {what}; {advice}")]
    Tls {
        /// Which broker.
        url: BrokerUrl,
        /// What happened.
        what: String,
        /// What to do.
        advice: &'static str,
    },
    /// The exchange exists already, with other properties.
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
    /// The queue exists already, with other properties.
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
    /// Another consumer uses the queue, or did until just now.
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
    /// Whether only a person can mend this, so that a program that starts should fail instead of waiting.
    pub fn needs_a_person(&self) -> bool {
        use AmqpError::{Exchange, Login, Permission, Queue, Tls};
        matches!(self, Login { .. } | Tls { .. } | Exchange { .. } | Queue { .. } | Permission(_))
    }

    /// Whether trying again is of no use: the broker would refuse the request again, or does not know what is asked for
    /// (AMQP codes 503 and 540). False if the fault may pass.
    pub fn is_permanent(&self) -> bool {
        let unknown = |source| protocol_error(source).is_some_and(|(code, _)| matches!(code, 503 | 540));
        self.needs_a_person() || matches!(self, AmqpError::Broker { source, .. } if unknown(source))
    }

    /// Wraps an error of an exchange's declaration.
    pub fn exchange(url: &BrokerUrl, exchange: &str, source: lapin::Error) -> AmqpError {
        match protocol_error(&source) {
            Some((406, reason)) => AmqpError::Exchange { exchange: exchange.to_owned(), reason },
            _ => AmqpError::broker(url, source),
        }
    }

    /// Wraps an error of a queue's declaration.
    pub fn queue(url: &BrokerUrl, queue: &str, source: lapin::Error) -> AmqpError {
        match protocol_error(&source) {
            Some((406, reason)) => AmqpError::Queue { queue: queue.to_owned(), reason },
            _ => AmqpError::broker(url, source),
        }
    }

    /// Wraps an error of consuming a queue.
    pub fn consume(url: &BrokerUrl, queue: &str, source: lapin::Error) -> AmqpError {
        match protocol_error(&source) {
            Some((403, reason)) if reason.contains("exclusive use") => AmqpError::InUse(queue.to_owned()),
            _ => AmqpError::broker(url, source),
        }
    }

    /// Wraps an error of the stream before anybody has logged in.
    pub(crate) fn of_stream(url: &BrokerUrl, error: &Arc<io::Error>) -> AmqpError {
        match refused(error) {
            Some(Refused { cause, what }) => AmqpError::Tls { url: url.clone(), what, advice: advice(cause) },
            None => AmqpError::Broker { url: url.clone(), source: ErrorKind::IOError(Arc::clone(error)).into() },
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

/// What to do about a refusal of TLS.
fn advice(cause: Cause) -> &'static str {
    match cause {
        Cause::Authority => {
            "name the certificate of its authority: ?cacertfile=FILE in the URL, or SSL_CERT_FILE for the whole process"
        }
        Cause::Name => {
            "write a name that is in the certificate as the host, or ?server_name_indication=NAME in the URL"
        }
        Cause::Time => "renew it at the broker; is the clock right, here and there?",
        Cause::Certificate => {
            "let an authority sign a certificate for the broker (extendedKeyUsage serverAuth, no CA:TRUE), and name that \
             authority: ?cacertfile=FILE in the URL"
        }
        Cause::Server => "name this side's certificate and its key: ?certfile=FILE&keyfile=FILE in the URL",
        Cause::NoTls => "is this the port for TLS (5671)? amqp:// goes without TLS",
    }
}

/// The AMQP reply code and text behind an error.
pub(crate) fn protocol_error(error: &lapin::Error) -> Option<(u16, String)> {
    let error: &AMQPError = match error.kind() {
        ErrorKind::ProtocolError(error) => error,
        _ => return None,
    };
    Some((error.get_id(), error.get_message().to_string()))
}
