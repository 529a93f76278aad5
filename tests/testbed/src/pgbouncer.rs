//! A private PgBouncer in front of a PostgreSQL, in transaction mode. In: Debian's pgbouncer, and a server. Out: URLs
//! that lead through it. All clients of one database share one session of the server, so settings that one client
//! leaves on the session are found by the next one.

use anyhow::Result;

use crate::find::tool;
use crate::postgres::unprivileged;
use crate::server::{Server, listens};
use crate::sql::SqlServer;
use crate::{Run, free_port, skip};

/// A private PgBouncer; killed and removed when dropped.
#[derive(Debug)]
pub struct PgBouncer {
    _server: Server,
    client: SqlServer,
}

impl PgBouncer {
    /// Whether the Debian package is installed.
    #[must_use]
    pub fn installed() -> bool {
        tool("pgbouncer").is_ok()
    }

    /// Starts one in front of this server, or skips the test when the package is missing.
    ///
    /// # Panics
    /// When it does not start, or nothing may be skipped.
    pub async fn start_or_skip(server: &SqlServer) -> Option<Self> {
        skip::unless(Self::installed(), "pgbouncer", Self::start(server)).await
    }

    /// Starts one in front of this server.
    ///
    /// # Errors
    /// When it is not installed or does not start; the message has its output.
    pub async fn start(behind: &SqlServer) -> Result<Self> {
        let (mut server, port) = (Server::new("PgBouncer")?, free_port()?);
        let (host, server_port, user, password) = behind.parts();
        let password = if password.is_empty() { String::new() } else { format!(" password={password}") };
        let ini = format!(
            "[databases]\n* = host={host} port={server_port} user={user}{password}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 1\n"
        );
        let path = server.path("pgbouncer.ini");
        std::fs::write(&path, ini)?;
        let user = unprivileged()?;
        if let Some(user) = &user {
            std::os::unix::fs::chown(server.dir(), Some(user.uid), Some(user.gid))?;
        }
        server.start(Run::new("pgbouncer").arg(&path).user(user), async || listens(port).await).await?;
        Ok(Self { _server: server, client: behind.at(port) })
    }

    /// The address and login of the server, through the pooler.
    #[must_use]
    pub fn client(&self) -> &SqlServer {
        &self.client
    }
}
