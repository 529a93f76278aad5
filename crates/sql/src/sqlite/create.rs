//! Makes the file of a new database, before SQLite opens it.
//!
//! Goes in: a path. Comes out: an empty file of which other users see nothing; one that is there already is left as it is.
//! Why: SQLite makes a file that everybody may read and only its own user may write, whatever is meant. But it may hold what
//! senders wrote and hashes of keys, and a tracker that writes into its change table often runs as another user of the same
//! group. SQLite gives the files beside it the same mode.

use std::fs::{OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// What is asked for: the group's right to write and not that to read, so that the group reads nothing unless it is meant.
const ASKED: u32 = 0o620;
/// Where the umask leaves the group its right to write, the group is meant, and may read too.
const SHARED: u32 = 0o660;

/// Makes the file with mode 0600, or with 0660 if the umask lets a group write.
///
/// # Errors
/// When the file is not there and cannot be made.
pub(super) fn create(path: &Path) -> io::Result<()> {
    let file = match OpenOptions::new().append(true).create_new(true).mode(ASKED).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(error),
    };
    if file.metadata()?.permissions().mode() & 0o020 != 0 {
        file.set_permissions(Permissions::from_mode(SHARED))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_see_nothing_and_the_group_only_where_it_may_write() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let path = dir.path().join("new.db");
        create(&path).unwrap();
        // The umask of this process is not known.
        assert!([0o600, 0o660].contains(&mode(&path)), "{:o}", mode(&path));
        let old = dir.path().join("old.db");
        std::fs::write(&old, "x").unwrap();
        std::fs::set_permissions(&old, Permissions::from_mode(0o644)).unwrap();
        create(&old).unwrap();
        assert_eq!((mode(&old), std::fs::read(&old).unwrap()), (0o644, b"x".to_vec()), "one that is there stays");
        assert!(create(&dir.path().join("none/new.db")).is_err());
    }
}
