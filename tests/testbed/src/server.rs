//! What all servers of the testbed share: a folder of its own, one process, and a start that waits until the server
//! answers. In: how to start the server and how to ask whether it answers. Out: a running server. Dropping it kills the
//! process, then removes the folder.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::signal::Signal;
use crate::{Proc, Run, eventually};

/// How long a server may take to start, or to end, on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A private server; killed and removed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    // The fields are dropped in this order: the process first, then its folder.
    process: Option<Proc>,
    dir: TempDir,
    name: &'static str,
}

impl Server {
    /// Makes the server's folder; nothing runs yet.
    pub(crate) fn new(name: &'static str) -> Result<Server> {
        let dir = tempfile::Builder::new().prefix(&format!("bugfeed-{}-", name.to_lowercase())).tempdir()?;
        Ok(Server { process: None, dir, name })
    }

    /// Starts it in its folder and waits until it answers.
    ///
    /// # Errors
    /// When it runs already, ends, or does not answer in time; the message has its output.
    pub(crate) async fn start(&mut self, run: Run, mut answers: impl AsyncFnMut() -> Result<()>) -> Result<()> {
        if self.process.is_some() {
            bail!("{} is running: stop it first", self.name);
        }
        let process = self.process.insert(run.dir(self.dir.path()).spawn()?);
        let look = async || {
            if let Some(status) = process.exited()? {
                return Ok(Some(status));
            }
            answers().await.map(|()| None)
        };
        let why = match eventually(LIMIT, self.name, look).await {
            Ok(None) => return Ok(()),
            Ok(Some(status)) => anyhow::anyhow!("{} ended with {status}", self.name),
            Err(error) => error,
        };
        let output = self.process.take().map(|process| process.output()).unwrap_or_default();
        Err(why.context(format!("{} does not start\n{output}", self.name)))
    }

    /// Runs a program that prepares its folder.
    ///
    /// # Errors
    /// When it fails; the message has its output.
    pub(crate) async fn prepare(&self, run: Run) -> Result<()> {
        let done = run.dir(self.dir.path()).succeeds(LIMIT).await;
        let why = || format!("{} cannot be prepared (can its user reach {}?)", self.name, self.dir.path().display());
        done.with_context(why).map(drop)
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A file or folder in its folder, as text.
    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// The process while it runs.
    pub(crate) fn process(&self) -> Option<&Proc> {
        self.process.as_ref()
    }

    pub(crate) fn process_mut(&mut self) -> Option<&mut Proc> {
        self.process.as_mut()
    }

    /// Kills it at once (SIGKILL).
    pub(crate) fn kill9(&mut self) {
        drop(self.process.take());
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// When it does not end; it is killed then.
    pub(crate) async fn stop(&mut self, signal: Signal) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.signal(signal);
        process.wait(LIMIT).await.with_context(|| format!("{} does not stop", self.name)).map(drop)
    }
}

/// The methods of a public server that only pass on what its field `server` (a [`Server`]) can do.
macro_rules! server_access {
    () => {
        /// The folder with the server's data.
        #[must_use]
        pub fn dir(&self) -> &std::path::Path {
            self.server.dir()
        }

        /// The process id of the server, while it runs.
        #[must_use]
        pub fn pid(&self) -> Option<u32> {
            self.server.process().map($crate::Proc::pid)
        }

        /// The process itself while it runs: to freeze it, or to read its log.
        pub fn process(&mut self) -> Option<&mut $crate::Proc> {
            self.server.process_mut()
        }

        /// Kills the server at once (SIGKILL).
        pub async fn kill9(&mut self) {
            self.server.kill9();
        }
    };
}
pub(crate) use server_access;

/// Checks that somebody listens on a port. That is enough for a server that listens only when it is ready.
pub(crate) async fn listens(port: u16) -> Result<()> {
    TcpStream::connect(("127.0.0.1", port)).await?;
    Ok(())
}
