//! The lock file beside a store that is an SQLite file: one process works on it.
//!
//! Goes in: the store's URL. Comes out: the lock, or who has it. The system's lock ends with its process, so nothing
//! has to be cleaned up after a crash. The store of a server has none: its replicas share it.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Write as _};

use bugfeed_sql::DbUrl;

use super::StoreError;

/// Held as long as it lives.
#[derive(Debug)]
pub(super) struct Lock(#[allow(dead_code, reason = "it is held, and not read")] File);

impl Lock {
    /// Takes the lock; `None` if this store needs none.
    pub(super) fn take(url: &DbUrl) -> Result<Option<Lock>, StoreError> {
        let Some(file) = url.file_path() else { return Ok(None) };
        let mut path = file.to_owned();
        path.as_mut_os_string().push(".hooks_lock");
        let failed = |error: std::io::Error| StoreError::LockFile {
            path: path.display().to_string(),
            message: error.to_string(),
        };
        let mut file =
            File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {
                // The name is only for people, so a disk that takes no more bytes is no reason to stop.
                let _ = file.set_len(0).and_then(|()| file.write_all(holder().as_bytes()));
                Ok(Some(Lock(file)))
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = if holder.is_empty() { "another process".to_owned() } else { holder };
                Err(StoreError::InUse { place: url.to_string(), holder })
            }
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

/// The name of this process, for people.
pub(super) fn holder() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    let host = if host.is_empty() { "unknown host" } else { host };
    format!("pid {} on {host}", std::process::id()).chars().take(200).collect()
}
