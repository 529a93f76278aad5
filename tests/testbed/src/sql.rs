//! A database server that is known by its URL, and queries to it through its own command-line client. In: a URL, SQL
//! text. Out: the client's plain output. It never goes through the drivers that the tests are about.

use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::find::tool_of;

/// Which kind of database server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SqlKind {
    /// MariaDB or MySQL.
    MySql,
    /// PostgreSQL.
    Postgres,
}

/// Where a database server is and how to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlServer {
    kind: SqlKind,
    host: String,
    port: u16,
    user: String,
    password: String,
}

impl SqlServer {
    pub(crate) fn new(kind: SqlKind, port: u16, user: &str, password: &str) -> Self {
        Self { kind, host: "127.0.0.1".to_owned(), port, user: user.to_owned(), password: password.to_owned() }
    }

    /// Reads a URL such as `mysql://user:password@host:3306` or `postgres://user@host`. A database in it is ignored:
    /// each test makes its own.
    ///
    /// # Errors
    /// When the URL is of another kind, or incomplete.
    pub fn parse(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once("://").with_context(|| format!("{url} is no URL"))?;
        let (kind, default_port) = match scheme {
            "mysql" | "mariadb" => (SqlKind::MySql, 3306),
            "postgres" | "postgresql" => (SqlKind::Postgres, 5432),
            other => bail!("{other}:// is no database this knows; it may be mysql:// or postgres://"),
        };
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let (login, place) = authority.rsplit_once('@').with_context(|| format!("{url} names no user"))?;
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().with_context(|| format!("{port} is no port"))?),
            None => (place, default_port),
        };
        Ok(Self { kind, host: host.to_owned(), port, user: decode(user)?, password: decode(password)? })
    }

    /// Host, port, user and password.
    pub(crate) fn parts(&self) -> (&str, u16, &str, &str) {
        (&self.host, self.port, &self.user, &self.password)
    }

    /// The same server, reached through another port of this machine (something that forwards to it).
    #[must_use]
    pub fn at(&self, port: u16) -> Self {
        Self { host: "127.0.0.1".to_owned(), port, ..self.clone() }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// The kind of the server.
    #[must_use]
    pub fn kind(&self) -> SqlKind {
        self.kind
    }

    /// The URL of one of its databases, for a driver.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let scheme = match self.kind {
            SqlKind::MySql => "mysql",
            SqlKind::Postgres => "postgres",
        };
        let password = if self.password.is_empty() { String::new() } else { format!(":{}", encode(&self.password)) };
        format!("{scheme}://{}{password}@{}:{}/{database}", encode(&self.user), self.host, self.port)
    }

    /// Makes an empty database with a name that no other test has, and returns the name. On a server that tests/run
    /// started it goes away with the server; on one that you supplied, call [`SqlServer::drop_database`].
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn create_database(&self) -> Result<String> {
        let name = unique("bugfeed");
        let options = match self.kind {
            SqlKind::MySql => " CHARACTER SET utf8mb4",
            SqlKind::Postgres => "",
        };
        self.admin(&format!("CREATE DATABASE {name}{options}")).await?;
        Ok(name)
    }

    /// Removes a database, even while clients are connected to it.
    ///
    /// # Errors
    /// When the server does not answer or refuses.
    pub async fn drop_database(&self, name: &str) -> Result<()> {
        let force = match self.kind {
            SqlKind::MySql => "",
            SqlKind::Postgres => " WITH (FORCE)",
        };
        self.admin(&format!("DROP DATABASE IF EXISTS {name}{force}")).await
    }

    async fn admin(&self, sql: &str) -> Result<()> {
        let database = match self.kind {
            SqlKind::MySql => "",
            SqlKind::Postgres => "postgres",
        };
        self.sql(database, sql).await.map(drop)
    }

    /// Runs SQL statements in a database (or, with an empty name on MariaDB, in none) and returns what the client
    /// prints: one line per row, columns parted by a tab (MariaDB) or `|` (PostgreSQL), no header, no last newline.
    ///
    /// # Errors
    /// When a statement fails, or the client is not installed, or nothing is answered within a minute.
    pub async fn sql(&self, database: &str, sql: &str) -> Result<String> {
        let mut command = self.client(database)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("cannot start the database's client")?;
        let mut stdin = child.stdin.take().context("the client has no input")?;
        let talk = async {
            // A client that cannot connect closes its input at once. Its own message says more than the error of this
            // write.
            let _told_below = stdin.write_all(sql.as_bytes()).await;
            drop(stdin);
            child.wait_with_output().await
        };
        let output =
            timeout(Duration::from_secs(60), talk).await.with_context(|| format!("a minute went by: {sql}"))??;
        if !output.status.success() {
            bail!("{}\n{sql}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned())
    }

    fn client(&self, database: &str) -> Result<Command> {
        let port = self.port.to_string();
        let mut command;
        match self.kind {
            SqlKind::MySql => {
                command = Command::new(tool_of(&["mariadb", "mysql"])?);
                command.args(["--no-defaults", "-N", "-B", "--protocol=tcp", "--default-character-set=utf8mb4"]);
                command.args(["-h", &self.host, "-P", &port, "-u", &self.user]).env("MYSQL_PWD", &self.password);
                if !database.is_empty() {
                    command.arg(database);
                }
            }
            SqlKind::Postgres => {
                command = Command::new(tool_of(&["psql"])?);
                command.args(["-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1", "-f", "-"]);
                command.args(["-h", &self.host, "-p", &port, "-U", &self.user, "-d", database]);
                command.env("PGPASSWORD", &self.password).env("PGOPTIONS", "-c client_min_messages=warning");
            }
        }
        Ok(command)
    }
}

/// A name that no other test has, in any process: for databases, exchanges, queues. Lower-case letters, digits and `_`.
#[must_use]
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}_{now:x}_{}_{count}", std::process::id())
}

fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

fn decode(text: &str) -> Result<String> {
    let mut bytes = Vec::new();
    let mut parts = text.split('%');
    bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        let code = part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(code.with_context(|| format!("bad %-escape in {text}"))?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    Ok(String::from_utf8(bytes)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn urls_are_read_and_written() {
        for (given, expected) in [
            ("mysql://root@127.0.0.1:13306", "mysql://root@127.0.0.1:13306/d"),
            ("mariadb://u:p%40%3a@db.test/other", "mysql://u:p%40%3A@db.test:3306/d"),
            ("postgres://postgres@[::1]:5/x?y=z", "postgres://postgres@[::1]:5/d"),
            ("postgresql://a:b@h", "postgres://a:b@h:5432/d"),
        ] {
            assert_eq!(SqlServer::parse(given).unwrap().url("d"), expected, "{given}");
        }
        for bad in ["127.0.0.1", "amqp://a@b", "mysql://nobody", "mysql://u@h:port", "mysql://%4@h"] {
            assert!(SqlServer::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_unique() {
        assert_ne!(unique("x"), unique("x"));
    }
}
