//! Free loopback ports. In: nothing. Out: a port that nothing listens on and that no other test of this user gets
//! while this process lives. It never keeps the port bound, so its taker can bind it again and again.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::net::TcpListener;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

/// These ports are below the range that the kernel uses for outgoing connections. So no outgoing connection takes a
/// port between this function and the server's own bind, or while a server is restarted.
const LOWEST: u64 = 10_000;
const HIGHEST: u64 = 30_000;

/// The lock files of the ports given out by this process, held until it ends.
static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A TCP port on 127.0.0.1 that is free now. Test processes running side by side never get the same one: each
/// port has a lock file in the temporary folder, which its process holds until it ends.
///
/// # Errors
/// When the lock files cannot be written, or no port is free.
pub fn free_port() -> Result<u16> {
    let user = rustix::process::getuid().as_raw();
    let dir = std::env::temp_dir().join(format!("bugfeed-ports-{user}"));
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    for _ in 0..1000 {
        let random = RandomState::new().hash_one(0);
        let port = u16::try_from(LOWEST + random % (HIGHEST - LOWEST))?;
        let path = dir.join(port.to_string());
        let lock = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        if lock.try_lock().is_err() || TcpListener::bind(("127.0.0.1", port)).is_err() {
            continue;
        }
        HELD.lock().map_err(|_| anyhow::anyhow!("a thread panicked while taking a port"))?.push(lock);
        return Ok(port);
    }
    bail!("no free port on 127.0.0.1 between {LOWEST} and {HIGHEST}")
}
