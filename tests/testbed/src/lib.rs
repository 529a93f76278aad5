//! Real, throwaway servers and processes for bugfeed's tests.
//!
//! In: Debian's packages of RabbitMQ, MariaDB, PostgreSQL, PgBouncer, nginx, Chromium and Redmine, and the binaries under test. Out: each
//! of them running on free loopback ports in a temporary folder, and gone when its value is dropped, even when
//! the test panics or is killed. It never touches a system instance, and never retries what a test asked for.
//!
//! Most tests use a server that is running already, because starting one takes seconds: see [`shared`]. A test that
//! kills or restarts its server starts its own: [`RabbitMq`], [`MariaDb`], [`Postgres`]. So does a test that needs a
//! pooler in between: [`PgBouncer`].

mod chrome;
mod database;
mod event;
mod find;
mod http;
mod mariadb;
mod nginx;
mod pgbouncer;
mod ports;
mod postgres;
mod proc;
mod rabbitmq;
mod redmine;
mod run;
mod server;
pub mod shared;
pub mod signal;
mod skip;
mod sql;
mod wait;

pub use chrome::{ChromeDriver, chromedriver};
pub use database::{Database, Engine};
pub use event::{Event, event};
pub use find::{bin, tool};
pub use http::get;
pub use mariadb::MariaDb;
pub use nginx::Nginx;
pub use pgbouncer::PgBouncer;
pub use ports::free_port;
pub use postgres::Postgres;
pub use proc::{LinePattern, Proc};
pub use rabbitmq::RabbitMq;
pub use redmine::Redmine;
pub use run::Run;
pub use skip::skipped;
pub use sql::{SqlKind, SqlServer, unique};
pub use wait::{Outcome, eventually};
