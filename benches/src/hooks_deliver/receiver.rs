//! Receivers, on threads of their own: what endpoints are sent, and when.
//!
//! Goes in: when each bug changed. Comes out: counts, and how long changes took. The path says how a receiver behaves:
//! `/takes` answers at once, `/slow` after a second, `/hangs` never.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::figures::ms;

/// How long a slow receiver takes.
pub(super) const SLOW: Duration = Duration::from_secs(1);

/// What came.
#[derive(Clone, Debug, Default)]
pub(super) struct Came {
    /// Requests.
    pub(super) requests: u64,
    /// Of these, single changes.
    pub(super) singles: u64,
    /// Changes.
    pub(super) changes: u64,
    /// Requests that told of a gap.
    pub(super) gaps: u64,
    /// The most changes in one request.
    pub(super) most: u64,
    /// How long each change took, from its commit to the arrival of the request, in milliseconds.
    pub(super) times: Vec<f64>,
}

/// When bugs changed, and what came.
pub(super) struct Board {
    begin: Instant,
    /// By bug: microseconds after the beginning. 0: never.
    changed: Vec<AtomicU64>,
    came: Mutex<Came>,
}

impl Board {
    /// For bugs below this number.
    pub(super) fn new(bugs: usize) -> Board {
        let changed = std::iter::repeat_with(AtomicU64::default).take(bugs).collect();
        Board { begin: Instant::now(), changed, came: Mutex::default() }
    }

    /// A bug has changed at this time; the newest change of each bug counts, as it does for receivers.
    pub(super) fn changes(&self, bug: u64, at: Instant) {
        let us = u64::try_from((at - self.begin).as_micros()).unwrap_or(u64::MAX).max(1);
        if let Some(cell) = usize::try_from(bug).ok().and_then(|bug| self.changed.get(bug)) {
            cell.store(us, Ordering::Release);
        }
    }

    fn took(&self, bug: u64, now: Instant) -> Option<f64> {
        let us = self.changed.get(usize::try_from(bug).ok()?)?.load(Ordering::Acquire);
        (us > 0).then(|| ms(now.saturating_duration_since(self.begin + Duration::from_micros(us))))
    }

    fn note(&self, body: &str) {
        let now = Instant::now();
        let bugs = body.split("\"bug\":").skip(1);
        let bugs = bugs.filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok());
        let times: Vec<Option<f64>> = bugs.map(|bug| self.took(bug, now)).collect();
        let Ok(mut came) = self.came.lock() else { return };
        came.requests += 1;
        came.singles += u64::from(body.starts_with("{\"command\":\"update\""));
        came.gaps += u64::from(body.starts_with("{\"command\":\"gap\""));
        came.changes += times.len() as u64;
        came.most = came.most.max(times.len() as u64);
        came.times.extend(times.into_iter().flatten());
    }

    /// Takes what came since the last call.
    pub(super) fn take(&self) -> Came {
        self.came.lock().map(|mut came| std::mem::take(&mut *came)).unwrap_or_default()
    }

    /// How many changes came since the last call of [`Board::take`].
    pub(super) fn count(&self) -> u64 {
        self.came.lock().map_or(0, |came| came.changes)
    }
}

/// Starts the receivers. They run until the process ends.
pub(super) fn start(board: Arc<Board>) -> Result<SocketAddr> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).context("no port for receivers")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        runtime.block_on(async move {
            // When no connection can be accepted, the benchmark ends by its own bounds.
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&board)));
            }
        });
    });
    Ok(address)
}

/// Serves one connection. Its errors are the sender's to see.
async fn serve(mut stream: TcpStream, board: Arc<Board>) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut bytes = Vec::with_capacity(1024);
    loop {
        let (end, length) = loop {
            if let Some(found) = head(&bytes) {
                break found;
            }
            if stream.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        };
        while bytes.len() < end + length {
            if stream.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        }
        let path = bytes.split(|byte| *byte == b' ').nth(1)?.to_vec();
        if path == b"/hangs" {
            std::future::pending::<()>().await;
        }
        board.note(str::from_utf8(&bytes[end..end + length]).ok()?);
        bytes.drain(..end + length);
        if path == b"/slow" {
            tokio::time::sleep(SLOW).await;
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.ok()?;
    }
}

/// Where the body begins, and its length, once the head is there.
fn head(bytes: &[u8]) -> Option<(usize, usize)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = str::from_utf8(&bytes[..end]).ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    Some((end, length.unwrap_or(0)))
}
