//! Checks whether the file with the name of an SQLite database is still the one that was opened.
//!
//! Goes in: a path, and a check whenever a connection is taken. Comes out: an error if the file is gone, or if another
//! one has its name. Why: a connection goes on with the file that it opened, whatever happens to the name. It would
//! read, or write, data that nobody else sees.
//!
//! Never opens a file that is there. Locks of files belong to the process: whoever closes any descriptor of the file gives up all
//! locks that this process has on it, also SQLite's. Another program would then take the file for unused, and remove the log
//! beside it (<https://www.sqlite.org/howtocorrupt.html>, section 2.2).

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, accessat};

use crate::{Fault, SqlError};

#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    /// Device and inode of the file that was opened, once one was.
    seen: Mutex<Option<(u64, u64)>>,
    replaced: AtomicBool,
}

impl File {
    pub(super) fn new(path: PathBuf) -> File {
        File { path, seen: Mutex::new(None), replaced: AtomicBool::new(false) }
    }

    /// Notes that a connection was opened, so the file exists. Returns whether that is news.
    pub(super) fn opened(&self) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.is_some() {
            return false;
        }
        *seen = self.identity().ok();
        seen.is_some()
    }

    fn identity(&self) -> std::io::Result<(u64, u64)> {
        std::fs::metadata(&self.path).map(|found| (found.dev(), found.ino()))
    }

    /// Checks what has become of the file. If it was replaced by another one, that is an error: only once if it
    /// `may_change`, otherwise every time.
    pub(super) fn look(&self, place: &str, may_change: bool) -> Result<(), SqlError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = *seen else { return Ok(()) };
        match self.identity() {
            Ok(found) if found == known => Ok(()),
            Ok(found) => {
                if may_change {
                    *seen = Some(found);
                    self.replaced.store(true, Ordering::Release);
                }
                let message = "the file was replaced by another one while this program runs".to_owned();
                Err(SqlError::stated(Fault::Replaced, place, message))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let message = "the file is gone: it was removed or moved away while this program runs".to_owned();
                Err(SqlError::stated(Fault::Gone, place, message))
            }
            // The database will report this fault too.
            Err(_) => Ok(()),
        }
    }

    /// Why the file could not be opened, as the operating system says it. SQLite itself does not tell that permission
    /// is missing.
    pub(super) fn refused(&self, place: &str) -> Option<SqlError> {
        if self.path.is_dir() {
            return Some(SqlError::stated(Fault::Missing, place, "this is a directory, no file".to_owned()));
        }
        let allowed = accessat(CWD, &self.path, rustix::fs::Access::READ_OK, AtFlags::EACCESS);
        let refused: std::io::Error = allowed.err()?.into();
        let fault = match refused.kind() {
            std::io::ErrorKind::PermissionDenied => Fault::ReadOnly,
            std::io::ErrorKind::NotADirectory => Fault::Missing,
            _ => return None,
        };
        Some(SqlError::stated(fault, place, format!("unable to open the file ({refused})")))
    }

    /// Whether the file was found replaced since this was last asked.
    pub(super) fn take_replaced(&self) -> bool {
        self.replaced.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    use std::path::Path;

    use super::*;

    #[test]
    fn what_became_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let file = File::new(path.clone());
        let fault = |may_change| file.look("a", may_change).err().map(|e| e.fault);
        assert!(!file.opened());
        assert_eq!(fault(true), None, "one that never was there cannot be gone");
        std::fs::write(&path, "one").unwrap();
        assert!(file.opened() && !file.opened());
        std::fs::write(&path, "written to").unwrap();
        assert_eq!(fault(true), None);
        std::fs::write(dir.path().join("b.db"), "two").unwrap();
        std::fs::rename(dir.path().join("b.db"), &path).unwrap();
        assert_eq!(
            [fault(false), fault(false), fault(true), fault(true)],
            [Some(Fault::Replaced), Some(Fault::Replaced), Some(Fault::Replaced), None]
        );
        assert!(file.take_replaced() && !file.take_replaced());
        std::fs::remove_file(&path).unwrap();
        assert_eq!([fault(true), fault(true)], [Some(Fault::Gone); 2]);
        std::fs::write(&path, "three").unwrap();
        assert!(matches!(fault(true), Some(Fault::Replaced) | None), "the number of a removed file is used again");
    }

    /// How many locks this process has on a file, and on the file of the memory that its connections share.
    #[cfg(target_os = "linux")]
    fn locks(path: &Path) -> usize {
        let shared = path.with_extension("db-shm");
        let inodes = [path, &shared].map(|path| format!(":{} ", std::fs::metadata(path).unwrap().ino()));
        let process = format!(" {} ", std::process::id());
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks.lines().filter(|line| line.contains(&process) && inodes.iter().any(|inode| line.contains(inode))).count()
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn whoever_opens_the_file_again_leaves_the_locks_of_others() {
        use crate::{Db, DbUrl, Use};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let url = DbUrl::sqlite_file(&path);
        let setup = Use::Setup { create: true };
        let first = Db::new(&url, setup);
        first.execute("CREATE TABLE a (b INTEGER)", &[]).await.unwrap();
        first.fetch("SELECT b FROM a", &[]).await.unwrap();
        let before = locks(&path);
        assert!(before >= 2, "{before} locks");
        let second = Db::new(&url, setup);
        assert_eq!(locks(&path), before);
        second.fetch("SELECT b FROM a", &[]).await.unwrap();
        second.close().await;
        assert_eq!(locks(&path), before);
        assert!(File::new(path.clone()).refused("a").is_none());
        assert_eq!(locks(&path), before);
        first.close().await;
    }
}
