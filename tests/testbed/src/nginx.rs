//! nginx as a reverse proxy. In: Debian's nginx, and the `location` blocks of a server. Out: a port that it listens on.
//! It never reads the machine's own configuration.

use anyhow::Result;

use crate::find::tool;
use crate::server::{Server, listens};
use crate::{Run, free_port, skip};

/// A private nginx; killed when dropped.
#[derive(Debug)]
pub struct Nginx {
    _server: Server,
    port: u16,
}

impl Nginx {
    /// Whether the Debian package is installed.
    #[must_use]
    pub fn installed() -> bool {
        tool("nginx").is_ok()
    }

    /// Starts it with these `location` blocks, or skips the test when the package is missing.
    ///
    /// # Panics
    /// When it does not start, or nothing may be skipped.
    pub async fn start_or_skip(locations: &str) -> Option<Self> {
        skip::unless(Self::installed(), "nginx", Self::start(locations)).await
    }

    /// Starts it with these `location` blocks.
    ///
    /// # Errors
    /// When it is not installed, or refuses the blocks; the message has its output.
    pub async fn start(locations: &str) -> Result<Self> {
        let (mut server, port) = (Server::new("nginx")?, free_port()?);
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("    {kind}_temp_path {};\n", server.path(kind)))
            .concat();
        let config = format!(
            "daemon off;\nmaster_process off;\npid {dir}/pid;\nerror_log stderr warn;\nevents {{}}\nhttp {{\n    access_log off;\n\
             {temporary}    server {{\n        listen 127.0.0.1:{port};\n{locations}\n    }}\n}}\n",
            dir = server.dir().display(),
        );
        let file = server.path("nginx.conf");
        std::fs::write(&file, config)?;
        let run = Run::new(tool("nginx")?).arg("-p").arg(server.dir()).arg("-c").arg(&file);
        server.start(run, async || listens(port).await).await?;
        Ok(Self { _server: server, port })
    }

    /// Where it listens, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}
