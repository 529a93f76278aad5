//! A PostgreSQL server of its own. In: Debian's postgresql. Out: URLs of databases, SQL through psql, and the server's
//! life in the test's hand. It never runs as root, which PostgreSQL refuses, nor touches a cluster of the machine.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::find::{User, is_root, tool, user, versioned};
use crate::signal::Signal;
use crate::sql::{SqlKind, SqlServer};
use crate::{Proc, Run, eventually, free_port, skip};

const START_LIMIT: Duration = Duration::from_secs(120);

/// A private PostgreSQL server; killed and removed when dropped.
#[derive(Debug)]
pub struct Postgres {
    // Dropped in this order.
    server: Option<Proc>,
    dir: TempDir,
    client: SqlServer,
    port: u16,
}

impl Postgres {
    /// Whether the Debian package is there.
    #[must_use]
    pub fn installed() -> bool {
        programs().is_ok() && tool("psql").is_ok()
    }

    /// Starts a server, or skips the test when the package is missing.
    ///
    /// # Panics
    /// When the server does not start, or nothing may be skipped.
    pub async fn start_or_skip() -> Option<Self> {
        if !skip::need(Self::installed(), "postgresql") {
            return None;
        }
        Some(skip::must(Self::start().await))
    }

    /// Makes and starts a new server. Its user is `postgres`, without a password.
    ///
    /// # Errors
    /// When it is not installed or does not start; the message has its output.
    pub async fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("bugfeed-postgres-").tempdir()?;
        if let Some(user) = unprivileged()? {
            chown(dir.path(), Some(user.uid), Some(user.gid))?;
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700))?;
        }
        let port = free_port()?;
        let mut initdb = Run::new(programs()?.join("initdb"))
            .args(["-U", "postgres", "-A", "trust", "-N", "--no-instructions", "-E", "UTF8", "--locale=C", "-D"])
            .arg(dir.path().join("data"))
            .dir(dir.path())
            .user(unprivileged()?)
            .spawn()?;
        if !initdb.wait(START_LIMIT).await?.success() {
            bail!("initdb failed (can its user reach {}?)\n{}", dir.path().display(), initdb.output());
        }
        let client = SqlServer::new(SqlKind::Postgres, port, "postgres", "");
        let mut server = Self { server: None, dir, client, port };
        server.start_again().await?;
        Ok(server)
    }

    /// Starts it again after [`Postgres::kill9`] or [`Postgres::stop`], with the same data and the same port.
    ///
    /// # Errors
    /// When it is running, or does not start; the message has its output.
    pub async fn start_again(&mut self) -> Result<()> {
        if self.server.is_some() {
            bail!("the server is running: stop it first");
        }
        let run = Run::new(programs()?.join("postgres"))
            .arg("-D")
            .arg(self.dir.path().join("data"))
            .args(["-p", &self.port.to_string(), "-k", ""])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "shared_buffers=16MB"])
            .args(["-c", "max_connections=200", "-c", "timezone=UTC", "-c", "log_timezone=UTC"])
            .dir(self.dir.path())
            .user(unprivileged()?);
        let server = self.server.insert(run.spawn()?);
        let client = &self.client;
        let answers = async || {
            if let Some(status) = server.exited()? {
                return Ok(Some(status));
            }
            client.sql("postgres", "SELECT 1").await?;
            Ok::<_, anyhow::Error>(None)
        };
        let outcome = eventually(START_LIMIT, "PostgreSQL", answers).await;
        match outcome {
            Ok(None) => Ok(()),
            Ok(Some(status)) => bail!("PostgreSQL ended with {status}\n{}", self.end_of_output()),
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

    /// Stops the server as an administrator would: clients are cut off, data is written.
    ///
    /// # Errors
    /// When it does not end; it is killed then.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        server.signal(Signal::INT);
        server.wait(START_LIMIT).await.context("PostgreSQL does not stop").map(drop)
    }
}

/// The folder of the server's programs, the newest version's. The PATH has only wrappers, or other things.
fn programs() -> Result<PathBuf> {
    let mut folders = versioned(Path::new("/usr/lib/postgresql"), "", "bin");
    folders.reverse();
    let own = folders.into_iter().find(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file());
    if let Some(folder) = own {
        return Ok(folder);
    }
    let initdb = tool("initdb").context("PostgreSQL is not installed: install the Debian package postgresql")?;
    initdb.parent().map(Path::to_owned).context("initdb is in no folder")
}

/// Whom to run as: this very user, unless it is root.
pub(crate) fn unprivileged() -> Result<Option<User>> {
    if !is_root() {
        return Ok(None);
    }
    let found = user("postgres").or_else(|| user("nobody"));
    found.map(Some).context("PostgreSQL does not run as root, and there is no user postgres or nobody")
}
