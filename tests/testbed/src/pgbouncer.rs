//! A PgBouncer of its own in front of a PostgreSQL, in transaction mode. In: Debian's pgbouncer, and a server. Out: URLs
//! that lead through it. All clients of one database share one session of the server, so that what one of them leaves
//! behind is what the next one finds.

use std::time::Duration;

use anyhow::{Result, bail};
use tempfile::TempDir;

use crate::find::tool;
use crate::postgres::unprivileged;
use crate::sql::SqlServer;
use crate::{Proc, Run, eventually, free_port, skip};

const START_LIMIT: Duration = Duration::from_secs(60);

/// A private PgBouncer; killed and removed when dropped.
#[derive(Debug)]
pub struct PgBouncer {
    // Dropped in this order.
    _process: Proc,
    _dir: TempDir,
    client: SqlServer,
}

impl PgBouncer {
    /// Whether the Debian package is there.
    #[must_use]
    pub fn installed() -> bool {
        tool("pgbouncer").is_ok()
    }

    /// Starts one in front of this server, or skips the test when the package is missing.
    ///
    /// # Panics
    /// When it does not start, or nothing may be skipped.
    pub async fn start_or_skip(server: &SqlServer) -> Option<Self> {
        if !skip::need(Self::installed(), "pgbouncer") {
            return None;
        }
        Some(skip::must(Self::start(server).await))
    }

    /// Starts one in front of this server.
    ///
    /// # Errors
    /// When it is not installed or does not start; the message has its output.
    pub async fn start(server: &SqlServer) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("bugfeed-pgbouncer-").tempdir()?;
        let port = free_port()?;
        let (host, server_port, user, password) = server.parts();
        let password = if password.is_empty() { String::new() } else { format!(" password={password}") };
        let ini = format!(
            "[databases]\n* = host={host} port={server_port} user={user}{password}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 1\n"
        );
        let path = dir.path().join("pgbouncer.ini");
        std::fs::write(&path, ini)?;
        let user = unprivileged()?;
        if let Some(user) = &user {
            std::os::unix::fs::chown(dir.path(), Some(user.uid), Some(user.gid))?;
        }
        let mut process = Run::new("pgbouncer").arg(&path).dir(dir.path()).user(user).spawn()?;
        let client = server.at(port);
        let answers = async || {
            if let Some(status) = process.exited()? {
                return Ok(Some(status));
            }
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
            Ok::<_, anyhow::Error>(None)
        };
        match eventually(START_LIMIT, "PgBouncer", answers).await {
            Ok(None) => Ok(Self { _process: process, _dir: dir, client }),
            Ok(Some(status)) => bail!("PgBouncer ended with {status}\n{}", process.output()),
            Err(error) => Err(error.context(process.output())),
        }
    }

    /// The server through it, as a client sees it.
    #[must_use]
    pub fn client(&self) -> &SqlServer {
        &self.client
    }
}
