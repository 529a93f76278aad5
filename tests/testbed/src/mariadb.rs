//! A MariaDB server of its own. In: Debian's mariadb-server. Out: URLs of databases, SQL through the client, and the
//! server's life in the test's hand. It never reads a configuration file of the machine.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::find::{is_root, tool};
use crate::sql::{SqlKind, SqlServer};
use crate::{Proc, Run, eventually, free_port, skip};

const START_LIMIT: Duration = Duration::from_secs(120);

/// A private MariaDB server; killed and removed when dropped.
#[derive(Debug)]
pub struct MariaDb {
    // Dropped in this order.
    server: Option<Proc>,
    dir: TempDir,
    client: SqlServer,
    port: u16,
    more: Vec<String>,
}

impl MariaDb {
    /// Whether the Debian package is there.
    #[must_use]
    pub fn installed() -> bool {
        tool("mariadbd").is_ok() && tool("mariadb-install-db").is_ok() && tool("mariadb").is_ok()
    }

    /// Starts a server, or skips the test when the package is missing.
    ///
    /// # Panics
    /// When the server does not start, or nothing may be skipped.
    pub async fn start_or_skip() -> Option<Self> {
        if !skip::need(Self::installed(), "mariadb-server") {
            return None;
        }
        Some(skip::must(Self::start().await))
    }

    /// Starts a server with more options, or skips the test when the package is missing.
    ///
    /// # Panics
    /// When the server does not start, or nothing may be skipped.
    pub async fn start_with_or_skip(options: &[&str]) -> Option<Self> {
        if !skip::need(Self::installed(), "mariadb-server") {
            return None;
        }
        Some(skip::must(Self::start_with(options).await))
    }

    /// Makes and starts a new server with no databases and one user, `bugfeed` with the password `bugfeed`.
    ///
    /// # Errors
    /// When it is not installed or does not start; the message has its output.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    async fn start_with(options: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("bugfeed-mariadb-").tempdir()?;
        let port = free_port()?;
        // One statement a line: that is all an init file may hold.
        let users = "CREATE USER IF NOT EXISTS bugfeed@'%' IDENTIFIED BY 'bugfeed';\n\
             GRANT ALL ON *.* TO bugfeed@'%' WITH GRANT OPTION;\n";
        std::fs::write(dir.path().join("init.sql"), users)?;
        let mut install = Run::new("mariadb-install-db")
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
            .args(["--innodb-log-file-size=8M", "--innodb-buffer-pool-size=16M"])
            .arg(format!("--datadir={}", dir.path().join("data").display()))
            // Each removes at its start what others have there.
            .env("TMPDIR", dir.path())
            .dir(dir.path());
        if is_root() {
            install = install.arg("--user=root");
        }
        let mut install = install.spawn()?;
        if !install.wait(START_LIMIT).await?.success() {
            bail!("mariadb-install-db failed\n{}", install.output());
        }
        let client = SqlServer::new(SqlKind::MySql, port, "bugfeed", "bugfeed");
        let more = options.iter().map(|option| (*option).to_owned()).collect();
        let mut server = Self { server: None, dir, client, port, more };
        server.start_again().await?;
        Ok(server)
    }

    /// Starts it again after [`MariaDb::kill9`] or [`MariaDb::stop`], with the same data and the same port.
    ///
    /// # Errors
    /// When it is running, or does not start; the message has its output.
    pub async fn start_again(&mut self) -> Result<()> {
        if self.server.is_some() {
            bail!("the server is running: stop it first");
        }
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let mut run = Run::new("mariadbd").arg("--no-defaults").args([
            format!("--datadir={}", path("data")),
            format!("--socket={}", path("socket")),
            format!("--pid-file={}", path("pid")),
            format!("--tmpdir={}", path("")),
            format!("--init-file={}", path("init.sql")),
            format!("--port={}", self.port),
        ]);
        run = run.args([
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--performance-schema=OFF",
            "--innodb-buffer-pool-size=16M",
            "--innodb-log-file-size=8M",
            "--innodb-flush-log-at-trx-commit=2",
            "--key-buffer-size=1M",
            "--aria-pagecache-buffer-size=1M",
            "--thread-cache-size=4",
        ]);
        run = if self.more.is_empty() { run.arg("--skip-log-bin") } else { run.args(&self.more) };
        if is_root() {
            run = run.arg("--user=root");
        }
        let server = self.server.insert(run.dir(self.dir.path()).spawn()?);
        let client = &self.client;
        let answers = async || {
            if let Some(status) = server.exited()? {
                return Ok(Some(status));
            }
            client.sql("", "SELECT 1").await?;
            Ok::<_, anyhow::Error>(None)
        };
        let outcome = eventually(START_LIMIT, "MariaDB", answers).await;
        match outcome {
            Ok(None) => Ok(()),
            Ok(Some(status)) => bail!("MariaDB ended with {status}\n{}", self.end_of_output()),
            Err(error) => Err(error.context(self.end_of_output())),
        }
    }

    fn end_of_output(&mut self) -> String {
        self.server.take().map(|server| server.output()).unwrap_or_default()
    }

    /// The server as a client sees it: a value to keep and to copy.
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

    /// The folder with the server's data.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The process id of the server, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Proc::pid)
    }

    /// The process itself while it runs: to freeze it, or to read its log.
    pub fn process(&mut self) -> Option<&mut Proc> {
        self.server.as_mut()
    }

    /// Kills the server at once (SIGKILL).
    pub async fn kill9(&mut self) {
        drop(self.server.take());
    }

    /// Stops the server as an administrator would.
    ///
    /// # Errors
    /// When it does not end; it is killed then.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        server.sigterm();
        server.wait(START_LIMIT).await.context("MariaDB does not stop").map(drop)
    }
}
