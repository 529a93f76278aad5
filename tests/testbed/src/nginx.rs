//! nginx as a reverse proxy. In: Debian's nginx, and the `location` blocks of a server. Out: a port that it listens on.
//! It never reads the machine's own configuration.

use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::find::tool;
use crate::{Proc, Run, eventually, free_port, skip};

/// A private nginx; killed when dropped.
#[derive(Debug)]
pub struct Nginx {
    // Dropped in this order.
    process: Proc,
    _dir: TempDir,
    port: u16,
}

impl Nginx {
    /// Whether the Debian package is there.
    #[must_use]
    pub fn installed() -> bool {
        tool("nginx").is_ok()
    }

    /// Starts it with these `location` blocks, or skips the test when the package is missing.
    ///
    /// # Panics
    /// When it does not start, or nothing may be skipped.
    pub async fn start_or_skip(locations: &str) -> Option<Self> {
        if !skip::need(Self::installed(), "nginx") {
            return None;
        }
        Some(skip::must(Self::start(locations).await))
    }

    /// Starts it with these `location` blocks.
    ///
    /// # Errors
    /// When it is not installed, or does not take the blocks; the message has its output.
    pub async fn start(locations: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("bugfeed-nginx-").tempdir()?;
        let port = free_port()?;
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("    {kind}_temp_path {}/{kind};\n", dir.path().display()))
            .concat();
        let config = format!(
            "daemon off;\nmaster_process off;\npid {dir}/pid;\nerror_log stderr warn;\nevents {{}}\nhttp {{\n    access_log off;\n\
             {temporary}    server {{\n        listen 127.0.0.1:{port};\n{locations}\n    }}\n}}\n",
            dir = dir.path().display(),
        );
        let file = dir.path().join("nginx.conf");
        std::fs::write(&file, config)?;
        let mut process =
            Run::new(tool("nginx")?).arg("-p").arg(dir.path()).arg("-c").arg(&file).dir(dir.path()).spawn()?;
        let started = eventually(Duration::from_secs(20), "nginx", async || {
            if let Some(status) = process.exited()? {
                return Ok(Some(status));
            }
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
            Ok::<_, anyhow::Error>(None)
        });
        let ended = started.await.context("nginx does not answer")?;
        if let Some(status) = ended {
            anyhow::bail!("nginx ended with {status}\n{}", process.output());
        }
        Ok(Self { process, _dir: dir, port })
    }

    /// Where it listens, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process itself: to read its log.
    pub fn process(&mut self) -> &mut Proc {
        &mut self.process
    }
}
