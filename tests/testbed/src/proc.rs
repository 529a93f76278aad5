//! One running process under test. In: what [`crate::Run`] started. Out: its output line by line, its exit status,
//! and signals to it. It never survives its value: dropping kills it with everything it started.

use std::fmt::{Display, Write as _};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::signal::{self, Signal};
use crate::{Run, event, eventually, get};

/// How long to wait for the last lines of a process after its end.
const LAST_LINES: Duration = Duration::from_secs(2);
/// How many of its last lines an error shows.
const SHOWN: usize = 100;

/// Recognises a line of output: by a part of the line, or by a function.
pub trait LinePattern {
    /// Whether this is the line.
    fn is_in(&self, line: &str) -> bool;

    /// What is looked for, as text for an error.
    fn describe(&self) -> String;
}

impl LinePattern for &str {
    fn is_in(&self, line: &str) -> bool {
        line.contains(self)
    }

    fn describe(&self) -> String {
        format!("a line with {self:?}")
    }
}

impl<F: Fn(&str) -> bool> LinePattern for F {
    fn is_in(&self, line: &str) -> bool {
        self(line)
    }

    fn describe(&self) -> String {
        "the awaited line".to_owned()
    }
}

/// All lines so far, and a counter that changes with each line and with each stream that ends.
#[derive(Debug)]
struct Output {
    lines: Mutex<Vec<String>>,
    /// Streams that have not ended.
    open: AtomicUsize,
    moved: watch::Sender<usize>,
}

impl Output {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A process under test, in its own process group; killed when dropped.
#[derive(Debug)]
pub struct Proc {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
    output: Arc<Output>,
}

impl Proc {
    /// Starts a program with these arguments and, beside the inherited ones, these environment variables. For more
    /// say, see [`Run`].
    ///
    /// # Errors
    /// When there is no such program, or it cannot be started.
    pub fn spawn(program: impl AsRef<std::path::Path>, args: &[&str], env: &[(&str, &str)]) -> Result<Self> {
        Run::new(program).args(args).envs(env.iter().copied()).spawn()
    }

    pub(crate) fn new(name: String, mut child: Child) -> Self {
        let output =
            Arc::new(Output { lines: Mutex::default(), open: AtomicUsize::new(0), moved: watch::Sender::new(0) });
        if let Some(stdout) = child.stdout.take() {
            capture(stdout, Arc::clone(&output));
        }
        if let Some(stderr) = child.stderr.take() {
            capture(stderr, Arc::clone(&output));
        }
        Self { name, child, status: None, output }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All it has printed so far, on both streams.
    #[must_use]
    pub fn output(&self) -> String {
        let mut text = self.output.lines().join("\n");
        text.push('\n');
        text
    }

    /// How many lines it has printed so far: a mark for [`Proc::wait_for_line_after`].
    #[must_use]
    pub fn lines(&self) -> usize {
        self.output.lines().len()
    }

    /// Waits for a line, among those printed already or still to come, and returns the first that matches.
    ///
    /// # Errors
    /// When time is up or the process has ended; the message shows the end of the output.
    pub async fn wait_for_line(&mut self, pattern: impl LinePattern, limit: Duration) -> Result<String> {
        self.wait_for_line_after(0, pattern, limit).await
    }

    /// Like [`Proc::wait_for_line`], but only for lines printed after a mark.
    ///
    /// # Errors
    /// When time is up or the process has ended; the message shows the end of the output.
    pub async fn wait_for_line_after(
        &mut self,
        mark: usize,
        pattern: impl LinePattern,
        limit: Duration,
    ) -> Result<String> {
        let deadline = Instant::now() + limit;
        let mut moved = self.output.moved.subscribe();
        let mut seen = mark;
        loop {
            moved.mark_unchanged();
            let ended = self.exited()?;
            {
                let lines = self.output.lines();
                if let Some(line) = lines.iter().skip(seen).find(|line| pattern.is_in(line)) {
                    return Ok(line.clone());
                }
                seen = seen.max(lines.len());
            }
            // The last lines may come through the pipes a moment after the process has ended.
            let patience = if ended.is_some() { Instant::now() + Duration::from_millis(200) } else { deadline };
            if timeout_at(patience.min(deadline), moved.changed()).await.is_err() {
                let why = ended.map_or_else(|| format!("waited {limit:?}"), |status| format!("it ended with {status}"));
                bail!("{} did not print {}: {why}\n{}", self.name, pattern.describe(), self.shown());
            }
        }
    }

    /// Waits for a log line with this event, among those printed already or still to come, and returns the first.
    ///
    /// # Errors
    /// When time is up or the process has ended; the message shows the end of the output.
    pub async fn wait_for_event(&mut self, name: impl Display, limit: Duration) -> Result<String> {
        self.wait_for_line(event(name), limit).await
    }

    /// How many log lines with this event it has printed so far.
    #[must_use]
    pub fn events(&self, name: impl Display) -> usize {
        event(name).count(&self.output())
    }

    /// Waits until `/readyz` of its admin port answers with 200, and returns what it says then.
    ///
    /// # Errors
    /// When time is up or the process has ended; the message shows the last answer and the end of the output.
    pub async fn wait_ready(&mut self, admin: SocketAddr, limit: Duration) -> Result<String> {
        let look = async || {
            if let Some(status) = self.exited()? {
                return Ok(Err(status));
            }
            match get(admin, "/readyz").await? {
                (200, body) => Ok(Ok(body)),
                (status, body) => Err(anyhow!("{status} {body}")),
            }
        };
        match eventually(limit, format!("a ready process on {admin}"), look).await {
            Ok(Ok(body)) => Ok(body),
            Ok(Err(status)) => bail!("{} is not ready: it ended with {status}\n{}", self.name, self.shown()),
            Err(error) => Err(error.context(self.shown())),
        }
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status =
                self.child.try_wait().with_context(|| format!("cannot ask for the state of {}", self.name))?;
        }
        Ok(self.status)
    }

    /// Waits until it has ended and all its output was read (for up to 2 s, since other processes may hold the streams
    /// open).
    ///
    /// # Errors
    /// When time is up; the message shows the end of the output.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        let waited = eventually(limit, what, async || self.exited()?.ok_or_else(|| anyhow!("it is running"))).await;
        let status = waited.with_context(|| self.shown())?;
        let mut moved = self.output.moved.subscribe();
        let all = moved.wait_for(|_| self.output.open.load(Ordering::Acquire) == 0);
        // Lines that are missing after that are from other processes.
        let _ = timeout(LAST_LINES, all).await;
        Ok(status)
    }

    /// Sends SIGTERM, and waits until it has ended with success.
    ///
    /// # Errors
    /// When time is up, or it ended with an error; the message shows the end of the output.
    pub async fn stop(&mut self, limit: Duration) -> Result<()> {
        self.sigterm();
        self.succeeds(limit).await
    }

    /// Waits until it ends by itself, with success.
    ///
    /// # Errors
    /// When time is up, or it ended with an error; the message shows the end of the output.
    pub async fn succeeds(&mut self, limit: Duration) -> Result<()> {
        let status = self.wait(limit).await?;
        if status.success() { Ok(()) } else { bail!("{} ended with {status}\n{}", self.name, self.shown()) }
    }

    /// Kills it at once (SIGKILL) with everything it started, and reaps it.
    pub fn kill9(&mut self) {
        if matches!(self.exited(), Ok(None)) {
            signal::kill_tree(self.pid());
            self.status = self.child.wait().ok();
        } else {
            // Its process group may still have members.
            signal::send_group(self.pid(), Signal::KILL);
        }
    }

    /// Asks it to end (SIGTERM).
    pub fn sigterm(&mut self) {
        self.signal(Signal::TERM);
    }

    /// Freezes it (SIGSTOP): its sockets stay open and nobody answers.
    pub fn sigstop(&mut self) {
        self.signal(Signal::STOP);
    }

    /// Lets a frozen process go on (SIGCONT).
    pub fn sigcont(&mut self) {
        self.signal(Signal::CONT);
    }

    /// Sends it any signal; nothing happens when it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if matches!(self.exited(), Ok(None)) {
            signal::send(self.pid(), signal);
        }
    }

    /// Its last lines, for the message of a test that failed.
    fn shown(&self) -> String {
        let lines = self.output.lines();
        let before = lines.len().saturating_sub(SHOWN);
        let mut text = format!("--- output of {} (process {}) ---\n", self.name, self.pid());
        if before > 0 {
            let _infallible = writeln!(text, "({before} lines before these)");
        }
        for line in &lines[before..] {
            let _infallible = writeln!(text, "{line}");
        }
        text + "--- end of output ---"
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// Reads a stream to its end on a thread of its own, so that a full pipe never stops the process.
fn capture(stream: impl Read + Send + 'static, output: Arc<Output>) {
    output.open.fetch_add(1, Ordering::AcqRel);
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut bytes = Vec::new();
        while matches!(reader.read_until(b'\n', &mut bytes), Ok(1..)) {
            let line = String::from_utf8_lossy(&bytes);
            output.lines().push(line.trim_end_matches(['\n', '\r']).to_owned());
            output.moved.send_modify(|count| *count += 1);
            bytes.clear();
        }
        output.open.fetch_sub(1, Ordering::AcqRel);
        output.moved.send_modify(|count| *count += 1);
    });
}
