//! Makes the file of a new database, before SQLite opens it.
//!
//! Goes in: a path. Comes out: an empty file of which other users see nothing; one that is there already is left as it is.
//! Why: SQLite makes a file that everybody may read and only its own user may write, whatever is meant. But it may hold what
//! senders wrote and hashes of keys, and a tracker that writes into its change table often runs as another user of the same
//! group. SQLite gives the files beside it the same mode.
//!
//! Opens nothing, for the reason that [`super::file`] tells: another thread may open the file as soon as it is there.

use std::io;
use std::path::Path;

/// For its owner alone.
const PRIVATE: u32 = 0o600;
/// For its owner and group.
const SHARED: u32 = 0o660;
/// The bit of an umask that keeps the group from writing.
const GROUP_WRITES: u32 = 0o020;

/// Makes the file for its owner alone, or for the group too where the umask lets that write: then the group is meant, and
/// may read.
///
/// # Errors
/// When there is one already, or it cannot be made.
pub(super) fn create(path: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let mode = Mode::from_raw_mode(mode_for(umask()));
        mknodat(CWD, path, FileType::RegularFile, mode, 0)?;
    }
    // The umask cannot be read without changing it for a moment, so it decides.
    #[cfg(not(target_os = "linux"))]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        std::fs::OpenOptions::new().write(true).create_new(true).mode(SHARED).open(path)?;
    }
    Ok(())
}

#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
fn mode_for(umask: Option<u32>) -> u32 {
    if umask.is_some_and(|umask| umask & GROUP_WRITES == 0) { SHARED } else { PRIVATE }
}

/// The umask of this process, where the system tells it.
#[cfg(target_os = "linux")]
fn umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let text = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(text.trim(), 8).ok()
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, metadata, read, set_permissions, write};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_group_reads_only_where_it_may_write() {
        let modes = [Some(0o022), Some(0o027), Some(0o077), None, Some(0o007), Some(0o002)].map(mode_for);
        assert_eq!(modes, [PRIVATE, PRIVATE, PRIVATE, PRIVATE, SHARED, SHARED]);
    }

    #[test]
    fn others_see_nothing_and_a_file_that_is_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| metadata(path).unwrap().permissions().mode() & 0o777;
        let path = dir.path().join("new.db");
        create(&path).unwrap();
        assert_eq!(mode(&path) & 0o007, 0, "{:o}", mode(&path));
        let old = dir.path().join("old.db");
        write(&old, "x").unwrap();
        set_permissions(&old, Permissions::from_mode(0o644)).unwrap();
        assert!(create(&old).is_err());
        assert_eq!((mode(&old), read(&old).unwrap()), (0o644, b"x".to_vec()));
        assert!(create(&dir.path().join("none/new.db")).is_err());
    }
}
