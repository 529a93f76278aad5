//! The folder in which a process keeps its files.
//!
//! Goes in: its name. Comes out: a folder in which this process can make files, or an error that names the folder, the
//! option that said so, and the user as whom the process runs. A database itself would say only that it cannot be opened.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::Path;

use anyhow::Context as _;

/// Makes the folder if it is missing, and looks whether files can be made in it. `what` it is, and which `option` names it.
///
/// # Errors
/// When the folder, or a file in it, cannot be made.
pub(super) fn make(folder: &Path, what: &str, option: &str) -> anyhow::Result<()> {
    let shown = folder.display();
    fs::create_dir_all(folder).with_context(|| format!("cannot make the {what} {shown} ({option})"))?;
    try_a_file(folder).map_err(|error| {
        let user = rustix::process::geteuid().as_raw();
        anyhow::anyhow!(
            "the {what} {shown} ({option}) is not writable for the user of this process (uid {user}): {error}; let that user \
             write there (chown, chmod), or name another one with {option}"
        )
    })
}

/// Makes a file, and removes it: permissions alone do not tell what a mounted disk, a quota or a policy refuses.
fn try_a_file(folder: &Path) -> io::Result<()> {
    let path = folder.join(format!(".bugfeed-try-{}", std::process::id()));
    match OpenOptions::new().write(true).create_new(true).open(&path) {
        Ok(_) => {
            // An error leaves an empty file, which harms nobody.
            let _ = fs::remove_file(&path);
            Ok(())
        }
        // A full disk is no matter of permission, and may have room again in a moment.
        Err(error)
            if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::StorageFull | ErrorKind::QuotaExceeded) =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_takes_no_file_is_named_with_its_option_and_the_user() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("a/b");
        make(&new, "data directory", "--data-dir").unwrap();
        assert_eq!(fs::read_dir(&new).unwrap().count(), 0, "nothing is left");
        // Nobody, not even root, can make a file there.
        let error = make(Path::new("/proc"), "data directory", "--data-dir").unwrap_err().to_string();
        for want in ["/proc", "--data-dir", "not writable", "uid "] {
            assert!(error.contains(want), "no '{want}' in: {error}");
        }
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = make(&file, "data directory", "--data-dir").unwrap_err().to_string();
        assert!(error.contains("cannot make") && error.contains("--data-dir"), "{error}");
    }
}
