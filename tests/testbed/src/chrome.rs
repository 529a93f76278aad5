//! Chromium, driven through WebDriver. In: Debian's chromium-driver. Out: the URL of a WebDriver. It never leaves a
//! browser behind: dropping kills the driver and every browser it started.

use anyhow::Result;

use crate::find::tool;
use crate::server::{Server, listens};
use crate::{Run, free_port, skip};

/// A private WebDriver for Chromium; killed with its browsers when dropped.
#[derive(Debug)]
pub struct ChromeDriver {
    server: Server,
    url: String,
}

impl ChromeDriver {
    /// Whether the Debian packages are installed.
    #[must_use]
    pub fn installed() -> bool {
        tool("chromedriver").is_ok() && tool("chromium").is_ok()
    }

    /// Starts the driver, or skips the test when the packages are missing.
    ///
    /// # Panics
    /// When it does not start, or nothing may be skipped.
    pub async fn start_or_skip() -> Option<Self> {
        skip::unless(Self::installed(), "chromium-driver", chromedriver()).await
    }

    /// Where the WebDriver protocol is spoken: `http://127.0.0.1:PORT`. Root needs the browser's `--no-sandbox`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A folder for the browser's profile and for downloads, removed at the end.
    #[must_use]
    pub fn dir(&self) -> &std::path::Path {
        self.server.dir()
    }
}

/// Starts /usr/bin/chromedriver on a free port.
///
/// # Errors
/// When it is not installed or does not start; the message has its output.
pub async fn chromedriver() -> Result<ChromeDriver> {
    let (mut server, port) = (Server::new("chromedriver")?, free_port()?);
    let run = Run::new("chromedriver")
        .args([format!("--port={port}"), "--log-level=WARNING".to_owned()])
        .env("TMPDIR", server.dir())
        .env("HOME", server.dir());
    server.start(run, async || listens(port).await).await?;
    Ok(ChromeDriver { server, url: format!("http://127.0.0.1:{port}") })
}
