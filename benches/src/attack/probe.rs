//! A look at a server while it is attacked: what an orchestrator sees of it, and its memory.
//!
//! Goes in: a process and its admin port. Comes out: how long `/livez` and `/readyz` took, and the most memory it had. Each
//! request has a connection of its own, as those of an orchestrator do.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::procfs::resident;

/// An orchestrator waits no longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// From one look to the next.
const PAUSE: Duration = Duration::from_millis(100);

/// What was seen of one path.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// How long each answer took, in ms. Those that did not come took [`PATIENCE`].
    pub(super) times: Vec<f64>,
    /// Answers that did not come, or were not 200.
    pub(super) bad: u32,
}

impl Seen {
    fn note(&mut self, address: SocketAddr, path: &str) {
        let begin = Instant::now();
        let status = ask(address, path);
        let took = if status.is_some() { begin.elapsed() } else { PATIENCE };
        self.times.push(took.as_secs_f64() * 1000.0);
        self.bad += u32::from(status != Some(200));
    }

    /// The longest, in ms.
    pub(super) fn longest(&self) -> f64 {
        self.times.iter().copied().fold(0.0, f64::max)
    }
}

/// What was seen of a server.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    pub(super) livez: Seen,
    pub(super) readyz: Seen,
    /// The most memory, in bytes.
    pub(super) rss: u64,
}

/// Looks at a server until it is told to stop.
pub(super) fn look(pid: u32, admin: SocketAddr, stop: &AtomicBool) -> Look {
    let mut look = Look::default();
    while !stop.load(Ordering::Acquire) {
        look.livez.note(admin, "/livez");
        look.readyz.note(admin, "/readyz");
        // A process that has ended has no memory; who needs it notices elsewhere.
        look.rss = look.rss.max(resident(pid).unwrap_or(0));
        std::thread::sleep(PAUSE);
    }
    look
}

/// The status of an answer; `None` if there is none in time.
fn ask(address: SocketAddr, path: &str) -> Option<u16> {
    let end = Instant::now() + PATIENCE;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 1024]);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || answer.len() > 64 * 1024 {
            return None;
        }
        stream.set_read_timeout(Some(left)).ok()?;
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    std::str::from_utf8(&answer).ok()?.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn answers_and_silence_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            for answer in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 503 no\r\n\r\n", ""] {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 1024]).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let mut seen = Seen::default();
        for bad in [0, 1, 2] {
            seen.note(address, "/livez");
            assert_eq!(seen.bad, bad);
        }
        server.join().unwrap();
        assert_eq!(seen.times.len(), 3);
        assert!((seen.longest() - 2000.0).abs() < 1.0, "no answer takes as long as somebody waits: {seen:?}");
    }
}
