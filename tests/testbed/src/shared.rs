//! Servers that all tests of a run share. In: `BUGFEED_TEST_AMQP`, `BUGFEED_TEST_MYSQL` and `BUGFEED_TEST_POSTGRES`, set
//! by tests/run (through `testbed run`) or by you. Out: handles, or a skipped test where the variable is missing.
//! It never starts or stops a server: tests on a shared one use [`crate::unique`] names and must not break it.

use crate::skip::{must, skipped};
use crate::sql::{SqlKind, SqlServer};

/// The variable with the AMQP URL of a RabbitMQ.
pub const AMQP: &str = "BUGFEED_TEST_AMQP";
/// The variable with the URL of a MariaDB.
pub const MYSQL: &str = "BUGFEED_TEST_MYSQL";
/// The variable with the URL of a PostgreSQL.
pub const POSTGRES: &str = "BUGFEED_TEST_POSTGRES";

/// A shared RabbitMQ.
#[derive(Clone, Debug)]
pub struct Handle {
    /// Its AMQP URL, with the virtual host.
    pub url: String,
}

/// The shared RabbitMQ.
///
/// # Panics
/// When there is none and nothing may be skipped.
pub async fn rabbitmq() -> Option<Handle> {
    variable(AMQP, "amqp://USER:PASSWORD@HOST:PORT/%2f").map(|url| Handle { url })
}

/// The shared MariaDB.
///
/// # Panics
/// When there is none and nothing may be skipped, or the variable holds no URL of a MariaDB.
pub async fn mariadb() -> Option<SqlServer> {
    server(MYSQL, "mysql://USER:PASSWORD@HOST:PORT", SqlKind::MySql)
}

/// The shared PostgreSQL.
///
/// # Panics
/// When there is none and nothing may be skipped, or the variable holds no URL of a PostgreSQL.
pub async fn postgres() -> Option<SqlServer> {
    server(POSTGRES, "postgres://USER:PASSWORD@HOST:PORT", SqlKind::Postgres)
}

fn server(name: &str, form: &str, kind: SqlKind) -> Option<SqlServer> {
    let url = variable(name, form)?;
    let server = must(SqlServer::parse(&url).map_err(|error| error.context(format!("{name} must be {form}"))));
    if server.kind() != kind {
        must::<()>(Err(anyhow::anyhow!("{name} must be {form}")));
    }
    Some(server)
}

fn variable(name: &str, form: &str) -> Option<String> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty());
    if value.is_none() {
        skipped(&format!("{name} not set; run tests/run, or set it to {form}"));
    }
    value
}
