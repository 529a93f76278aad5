//! Where a cursor is kept between two runs. In: a cursor. Out: the same one, after a crash at any moment, or the one
//! before. Never half of it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::about;

/// No gateway makes a longer cursor, in bytes.
const MAX_CURSOR: usize = 1000;

/// Keeps one text. Both are called on a thread that may block, one at a time; what they return as an error reaches the
/// application through the stream.
pub trait Store: Send + 'static {
    /// The text saved last, `None` if there never was one.
    ///
    /// # Errors
    /// When it cannot be read; that ends the feed, since nobody knows where to go on.
    fn load(&mut self) -> io::Result<Option<String>>;

    /// Replaces it, wholly or not at all, so that it survives a crash.
    ///
    /// # Errors
    /// When it cannot; the feed goes on, and tries again with the next cursor.
    fn save(&mut self, cursor: &str) -> io::Result<()>;
}

/// Keeps the cursor in a file, which is replaced in one step: a crash, or a power cut, leaves the old one or the new one.
///
/// One file for each bot: a cursor says "the changes of my bugs up to here were dealt with".
#[derive(Clone, Debug)]
pub struct FileStore {
    path: PathBuf,
}

impl FileStore {
    /// In that file; it need not be there yet, but its folder must.
    pub fn new(path: impl Into<PathBuf>) -> FileStore {
        FileStore { path: path.into() }
    }
}

impl Store for FileStore {
    fn load(&mut self) -> io::Result<Option<String>> {
        match fs::read(&self.path) {
            Ok(bytes) => {
                let text = bytes.trim_ascii();
                let is_whole =
                    (1..=MAX_CURSOR).contains(&text.len()) && text.iter().all(|byte| matches!(byte, b' '..=b'~'));
                // A file emptied by a power cut is no fresh start. The gateway answers such a text with a gap.
                let text = String::from_utf8_lossy(if is_whole { text } else { b"damaged" });
                Ok(Some(text.into_owned()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(about(&self.path, &error)),
        }
    }

    fn save(&mut self, cursor: &str) -> io::Result<()> {
        replace_file(&self.path, format!("{cursor}\n").as_bytes())
    }
}

/// Replaces a file's content in one step that survives a crash: written beside it, synced, renamed.
///
/// # Errors
/// What the file system says, with the path. The file is then as it was.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    // One name for each writer: two feeds that end and begin with the same file must not write into one.
    static WRITERS: AtomicU64 = AtomicU64::new(0);
    let number = WRITERS.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{number}.new", std::process::id()));
    let new = path.with_file_name(name);
    let written = write_synced(&new, content).and_then(|()| fs::rename(&new, path));
    if let Err(error) = written {
        // Where it cannot be removed either, it is only litter.
        let _ = fs::remove_file(&new);
        return Err(about(path, &error));
    }
    // The renaming itself is durable once the folder is. Some file systems cannot sync folders; they need not.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_the_cursor_and_litters_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = FileStore::new(dir.path().join("bot.cursor"));
        assert_eq!(store.load().unwrap(), None);
        for cursor in ["E.1", "E.2"] {
            store.save(cursor).unwrap();
            assert_eq!(store.load().unwrap().as_deref(), Some(cursor));
        }
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["bot.cursor"]);
    }

    #[test]
    fn a_damaged_file_is_no_fresh_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bot.cursor");
        // A power cut may empty a file or fill it with zeros; a long one would be refused for its size, for good.
        for content in ["\n", "\0\0\0\0", "E.1\nE.2\n", "\u{fffd}", &"x".repeat(300_000)] {
            fs::write(&path, content).unwrap();
            assert_eq!(FileStore::new(&path).load().unwrap().as_deref(), Some("damaged"), "{:.20}", content);
        }
    }

    #[test]
    fn faults_name_the_file_and_leave_it_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = FileStore::new(dir.path().join("no/such/folder/bot.cursor"));
        assert!(store.save("E.1").unwrap_err().to_string().contains("no/such/folder/bot.cursor"));
        // A folder where the file should be cannot be replaced by one, and what was written beside it goes again.
        let taken = dir.path().join("taken");
        fs::create_dir(&taken).unwrap();
        let mut store = FileStore::new(&taken);
        assert!(store.load().unwrap_err().to_string().contains("taken"));
        store.save("E.1").unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
