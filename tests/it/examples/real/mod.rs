//! With a real RabbitMQ.

mod indexer;
