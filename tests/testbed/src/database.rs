//! A private database server. In: its kind ([`crate::MariaDb`], [`crate::Postgres`]). Out: URLs of databases, SQL
//! through the server's own client, and functions to stop, kill and start the server.

use std::path::Path;

use anyhow::Result;

use crate::server::{Server, server_access};
use crate::signal::Signal;
use crate::sql::{SqlKind, SqlServer};
use crate::{Run, free_port, skip};

/// What differs between the kinds of database server.
pub trait Engine {
    /// The kind, as its clients know it.
    const KIND: SqlKind;
    /// Its name.
    const NAME: &'static str;
    /// The Debian package.
    const PACKAGE: &'static str;
    /// A user who may do everything, and the password.
    const USER: (&'static str, &'static str);
    /// A database that exists from the beginning; it is used to ask whether the server answers.
    const FIRST: &'static str;
    /// The signal that stops the server in good order.
    const STOP: Signal;

    /// Whether the Debian package is installed.
    fn installed() -> bool;

    /// The program that makes the data files in an empty folder.
    ///
    /// # Errors
    /// When the folder cannot be prepared for it.
    fn install(dir: &Path) -> Result<Run>;

    /// Puts a certificate and its key into the server's folder, and returns the options by which it offers TLS with them.
    ///
    /// # Errors
    /// When the files cannot be copied.
    fn with_certificate(dir: &Path, certificate: &Path, key: &Path) -> Result<Vec<String>>;

    /// The program that runs the server on that data.
    ///
    /// # Errors
    /// When it is not installed.
    fn run(dir: &Path, port: u16, options: &[String]) -> Result<Run>;
}

/// A private database server; killed and removed when dropped.
#[derive(Debug)]
pub struct Database<E> {
    server: Server,
    client: SqlServer,
    port: u16,
    options: Vec<String>,
    engine: std::marker::PhantomData<E>,
}

impl<E: Engine> Database<E> {
    /// Whether the Debian package is installed.
    #[must_use]
    pub fn installed() -> bool {
        E::installed()
    }

    /// Starts a server, or skips the test when the package is missing.
    ///
    /// # Panics
    /// When the server does not start, or nothing may be skipped.
    pub async fn start_or_skip() -> Option<Self> {
        Self::start_with_or_skip(&[]).await
    }

    /// Starts a server with more options, or skips the test when the package is missing.
    ///
    /// # Panics
    /// When the server does not start, or nothing may be skipped.
    pub async fn start_with_or_skip(options: &[&str]) -> Option<Self> {
        skip::unless(E::installed(), E::PACKAGE, Self::start_with(options)).await
    }

    /// Makes and starts a new server without databases for tests. Its user is `bugfeed` with the password `bugfeed` in
    /// MariaDB, and `postgres` without a password in PostgreSQL.
    ///
    /// # Errors
    /// When it is not installed or does not start; the message has its output.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// Starts a server that offers TLS with this certificate and its key, both in PEM; or skips the test when the package is
    /// missing.
    ///
    /// # Panics
    /// When the server does not start, or nothing may be skipped.
    pub async fn start_with_certificate_or_skip(certificate: &Path, key: &Path) -> Option<Self> {
        let options = |dir: &Path| E::with_certificate(dir, certificate, key);
        skip::unless(E::installed(), E::PACKAGE, Self::start_prepared(options)).await
    }

    async fn start_with(options: &[&str]) -> Result<Self> {
        Self::start_prepared(|_| Ok(options.iter().map(|option| (*option).to_owned()).collect())).await
    }

    async fn start_prepared(options: impl FnOnce(&Path) -> Result<Vec<String>>) -> Result<Self> {
        let (server, port) = (Server::new(E::NAME)?, free_port()?);
        server.prepare(E::install(server.dir())?).await?;
        let client = SqlServer::new(E::KIND, port, E::USER.0, E::USER.1);
        let options = options(server.dir())?;
        let mut database = Self { server, client, port, options, engine: std::marker::PhantomData };
        database.start_again().await?;
        Ok(database)
    }

    /// Starts it again after [`Database::kill9`] or [`Database::stop`], with the same data and the same port.
    ///
    /// # Errors
    /// When it is running, or does not start; the message has its output.
    pub async fn start_again(&mut self) -> Result<()> {
        let run = E::run(self.server.dir(), self.port, &self.options)?;
        let client = &self.client;
        self.server.start(run, async || client.sql(E::FIRST, "SELECT 1").await.map(drop)).await
    }

    /// The server's address and login: a value to keep and to copy.
    #[must_use]
    pub fn client(&self) -> &SqlServer {
        &self.client
    }

    /// The URL of one of its databases.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.client.url(database)
    }

    /// Makes an empty database and returns its name.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn create_database(&self) -> Result<String> {
        self.client.create_database().await
    }

    /// Runs SQL in a database: see [`SqlServer::sql`].
    ///
    /// # Errors
    /// When a statement fails.
    pub async fn sql(&self, database: &str, sql: &str) -> Result<String> {
        self.client.sql(database, sql).await
    }

    server_access!();

    /// Stops the server as an administrator would: clients are cut off, data is written.
    ///
    /// # Errors
    /// When it does not end; it is killed then.
    pub async fn stop(&mut self) -> Result<()> {
        self.server.stop(E::STOP).await
    }
}
