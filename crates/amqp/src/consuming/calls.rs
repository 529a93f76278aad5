//! What a gateway asks of a broker, one function for each method of AMQP that it needs.
//!
//! Goes in: names and settings. Comes out: the broker's answer, or its refusal, which closes the channel. Each function
//! waits as long as the broker takes: bound it with [`crate::within`].

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame};
use amq_protocol::protocol::{AMQPClass, basic, channel, confirm, exchange, queue};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Error, ErrorKind};

use super::connection::Connection;
use super::wire::{FRAME_BYTES, broken};

/// The id of the AMQP class "basic".
const BASIC: u16 = 60;

/// What a queue is declared with.
#[derive(Clone, Debug, Default)]
pub struct QueueSettings {
    /// Only look whether it is there.
    pub passive: bool,
    /// It outlives the broker's restart.
    pub durable: bool,
    /// It belongs to this connection.
    pub exclusive: bool,
    /// It goes with its last consumer.
    pub auto_delete: bool,
    /// Further arguments (`x-…`).
    pub arguments: FieldTable,
}

/// A queue that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Its name.
    pub name: String,
    /// Messages that wait in it.
    pub messages: u32,
}

impl Connection {
    /// Opens a channel. It has one consumer at most.
    ///
    /// # Errors
    /// When the connection is lost, or too many are open.
    pub async fn open_channel(&mut self) -> Result<u16, Error> {
        let id = self.state.new_channel()?;
        let open = AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}));
        match self.call(id, open).await? {
            AMQPClass::Channel(channel::AMQPMethod::OpenOk(_)) => Ok(id),
            _ => Err(unexpected()),
        }
    }

    /// Closes a channel, and waits until the broker has done so.
    ///
    /// # Errors
    /// When the connection is lost before that.
    pub async fn close_channel(&mut self, id: u16) -> Result<(), Error> {
        self.abandon_channel(id);
        self.until(|state| state.is_closed(id).then_some(())).await
    }

    /// Closes a channel without waiting for the broker's answer.
    pub fn abandon_channel(&mut self, id: u16) {
        self.state.abandon(id);
    }

    /// Makes a durable exchange of this type ("topic", "fanout"), if it is not there.
    ///
    /// # Errors
    /// If it is there with another type or other properties, or may not be made.
    pub async fn declare_exchange(&mut self, id: u16, name: &str, kind: &str) -> Result<(), Error> {
        let declare = exchange::Declare {
            exchange: name.into(),
            kind: kind.into(),
            durable: true,
            ..exchange::Declare::default()
        };
        match self.call(id, AMQPClass::Exchange(exchange::AMQPMethod::Declare(declare))).await? {
            AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(_)) => Ok(()),
            _ => Err(unexpected()),
        }
    }

    /// Makes a queue, or looks whether it is there. Without a name the broker gives it one.
    ///
    /// # Errors
    /// If it is there with other properties, or is not there (`passive`), or may not be made.
    pub async fn declare_queue(&mut self, id: u16, name: &str, settings: QueueSettings) -> Result<Declared, Error> {
        let QueueSettings { passive, durable, exclusive, auto_delete, arguments } = settings;
        let queue = name.into();
        let declare = queue::Declare { queue, passive, durable, exclusive, auto_delete, nowait: false, arguments };
        match self.call(id, AMQPClass::Queue(queue::AMQPMethod::Declare(declare))).await? {
            AMQPClass::Queue(queue::AMQPMethod::DeclareOk(queue::DeclareOk { queue, message_count, .. })) => {
                Ok(Declared { name: queue.to_string(), messages: message_count })
            }
            _ => Err(unexpected()),
        }
    }

    /// Binds a queue to an exchange, for every routing key.
    ///
    /// # Errors
    /// If one of them is not there, or it is not permitted.
    pub async fn bind_queue(&mut self, id: u16, queue: &str, exchange: &str) -> Result<(), Error> {
        let bind = queue::Bind {
            queue: queue.into(),
            exchange: exchange.into(),
            routing_key: "#".into(),
            nowait: false,
            arguments: FieldTable::default(),
        };
        match self.call(id, AMQPClass::Queue(queue::AMQPMethod::Bind(bind))).await? {
            AMQPClass::Queue(queue::AMQPMethod::BindOk(_)) => Ok(()),
            _ => Err(unexpected()),
        }
    }

    /// Says how many deliveries of the channel's consumer may be on their way without an acknowledgement.
    ///
    /// # Errors
    /// When the connection or the channel is lost.
    pub async fn prefetch(&mut self, id: u16, count: u16) -> Result<(), Error> {
        let qos = basic::Qos { prefetch_count: count, global: false };
        match self.call(id, AMQPClass::Basic(basic::AMQPMethod::Qos(qos))).await? {
            AMQPClass::Basic(basic::AMQPMethod::QosOk(_)) => Ok(()),
            _ => Err(unexpected()),
        }
    }

    /// Begins to consume. Deliveries come out of [`Connection::next`].
    ///
    /// # Errors
    /// If the queue is not there, has another consumer (`exclusive`), or may not be read.
    pub async fn consume(&mut self, id: u16, queue: &str, exclusive: bool, arguments: FieldTable) -> Result<(), Error> {
        let consume = basic::Consume {
            queue: queue.into(),
            consumer_tag: "".into(),
            no_local: false,
            no_ack: false,
            exclusive,
            nowait: false,
            arguments,
        };
        match self.call(id, AMQPClass::Basic(basic::AMQPMethod::Consume(consume))).await? {
            AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(_)) => Ok(()),
            _ => Err(unexpected()),
        }
    }

    /// Acknowledges all deliveries of a channel up to this one. It is written with what else is to be written, at the next
    /// wait.
    pub fn acknowledge(&mut self, id: u16, tag: u64) {
        let ack = basic::Ack { delivery_tag: tag, multiple: true };
        self.state.send_method(id, AMQPClass::Basic(basic::AMQPMethod::Ack(ack)));
    }

    /// Asks the broker to confirm what is published on this channel.
    ///
    /// # Errors
    /// When the connection or the channel is lost.
    pub async fn confirm_select(&mut self, id: u16) -> Result<(), Error> {
        let select = confirm::Select { nowait: false };
        match self.call(id, AMQPClass::Confirm(confirm::AMQPMethod::Select(select))).await? {
            AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(_)) => Ok(()),
            _ => Err(unexpected()),
        }
    }

    /// Publishes one message to a queue, past all exchanges, and waits until the broker has confirmed it. The channel is one
    /// with [`Connection::confirm_select`], and nothing else is being published on it.
    ///
    /// # Errors
    /// If the broker does not take it, or it is not permitted.
    pub async fn publish_to_queue(
        &mut self,
        id: u16,
        queue: &str,
        properties: BasicProperties,
        body: &[u8],
    ) -> Result<(), Error> {
        if self.state.is_closed(id) {
            return Err(ErrorKind::InvalidChannel(id).into());
        }
        let publish = basic::Publish { routing_key: queue.into(), ..basic::Publish::default() };
        self.state.send_method(id, AMQPClass::Basic(basic::AMQPMethod::Publish(publish)));
        let header = AMQPContentHeader { class_id: BASIC, body_size: body.len() as u64, properties };
        self.state.send(&AMQPFrame::Header(id, header));
        for piece in body.chunks(self.state.frame_max - FRAME_BYTES) {
            self.state.send(&AMQPFrame::Body(id, piece.to_vec()));
        }
        match self.until(|state| state.confirmed(id)).await?? {
            true => Ok(()),
            false => Err(std::io::Error::other("the broker did not take the message").into()),
        }
    }
}

fn unexpected() -> Error {
    broken("an answer to another question")
}
