//! Chromium, driven through WebDriver. In: Debian's chromium-driver. Out: the URL of a WebDriver. It never leaves a
//! browser behind: dropping kills the driver and every browser it started.

use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::find::tool;
use crate::{Proc, Run, eventually, free_port, skip};

/// A private WebDriver for Chromium; killed with its browsers when dropped.
#[derive(Debug)]
pub struct ChromeDriver {
    // Dropped in this order.
    driver: Proc,
    dir: TempDir,
    url: String,
}

impl ChromeDriver {
    /// Whether the Debian packages are there.
    #[must_use]
    pub fn installed() -> bool {
        tool("chromedriver").is_ok() && tool("chromium").is_ok()
    }

    /// Starts it, or skips the test when the packages are missing.
    ///
    /// # Panics
    /// When it does not start, or nothing may be skipped.
    pub async fn start_or_skip() -> Option<Self> {
        if !skip::need(Self::installed(), "chromium-driver") {
            return None;
        }
        Some(skip::must(chromedriver().await))
    }

    /// Where the WebDriver protocol is spoken: `http://127.0.0.1:PORT`. Root needs the browser's `--no-sandbox`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A folder for the browser's profile and for downloads, removed at the end.
    #[must_use]
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// The process itself: to read its log.
    pub fn process(&mut self) -> &mut Proc {
        &mut self.driver
    }
}

/// Starts /usr/bin/chromedriver on a free port.
///
/// # Errors
/// When it is not installed or does not start; the message has its output.
pub async fn chromedriver() -> Result<ChromeDriver> {
    let dir = tempfile::Builder::new().prefix("bugfeed-chrome-").tempdir()?;
    let port = free_port()?;
    let mut driver = Run::new("chromedriver")
        .args([format!("--port={port}"), "--log-level=WARNING".to_owned()])
        .env("TMPDIR", dir.path())
        .env("HOME", dir.path())
        .dir(dir.path())
        .spawn()?;
    let started = eventually(Duration::from_secs(60), "chromedriver", async || {
        if let Some(status) = driver.exited()? {
            return Ok(Some(status));
        }
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        Ok::<_, anyhow::Error>(None)
    });
    let ended = started.await.with_context(|| "chromedriver does not answer")?;
    if let Some(status) = ended {
        anyhow::bail!("chromedriver ended with {status}\n{}", driver.output());
    }
    Ok(ChromeDriver { driver, dir, url: format!("http://127.0.0.1:{port}") })
}
