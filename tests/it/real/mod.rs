//! Against a real RabbitMQ, MariaDB and PostgreSQL.

mod amqps;
mod bus;
mod chaos;
mod check;
mod compose;
mod deploy;
mod end_to_end;
mod endpoints;
mod gateway;
mod history;
mod hooks;
mod network;
mod nginx;
mod proxies;
mod rolling;
mod soak;
mod split;
mod webhooks;
