//! Where a cursor is kept between two runs. In: a cursor. Out: the same cursor, or, after a crash while storing, the
//! one before. Never half of one.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::about;

/// The longest cursor that a gateway makes, in bytes.
const MAX_CURSOR: usize = 1000;

/// Keeps one text. Both functions are called on a thread that may block, one call at a time. Their errors reach the
/// application through the stream.
pub trait Store: Send + 'static {
    /// The text saved last, `None` if there never was one.
    ///
    /// # Errors
    /// When the text cannot be read. That ends the feed, since it is unknown where to go on.
    fn load(&mut self) -> io::Result<Option<String>>;

    /// Replaces the text, completely or not at all, so that it survives a crash.
    ///
    /// # Errors
    /// When the text cannot be stored. The feed goes on, and tries again with the next cursor.
    fn save(&mut self, cursor: &str) -> io::Result<()>;
}

/// Keeps the cursor in a file, which is replaced in one step: a crash, or a power cut, leaves the old one or the new one.
///
/// Each bot needs a file of its own, because a cursor says "the changes of my bugs up to here were dealt with".
#[derive(Clone, Debug)]
pub struct FileStore {
    path: PathBuf,
}

impl FileStore {
    /// A store in that file. The file need not exist yet, but its folder must.
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
                // An empty or damaged file (a power cut can cause it) is no fresh start. It becomes a cursor that the
                // gateway answers with a gap.
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

/// Replaces a file's content in one step that survives a crash: a new file is written beside it, synced and renamed.
///
/// # Errors
/// What the file system says, with the path. The file is then as it was.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    // Each writer has its own file name: while one feed ends and another begins with the same file, they must not write
    // into one temporary file.
    static WRITERS: AtomicU64 = AtomicU64::new(0);
    let number = WRITERS.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{number}.new", std::process::id()));
    let new = path.with_file_name(name);
    let written = write_synced(&new, content).and_then(|()| fs::rename(&new, path));
    if let Err(error) = written {
        // If the temporary file cannot be removed, it does no harm.
        let _ = fs::remove_file(&new);
        return Err(about(path, &error));
    }
    // The renaming is durable once the folder is synced. File systems that cannot sync folders do not need it.
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
        // A power cut may empty a file or fill it with zeros. A text that is too long would be refused by every
        // gateway, for ever.
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
        // A folder in the place of the file cannot be replaced, and the temporary file beside it is removed.
        let taken = dir.path().join("taken");
        fs::create_dir(&taken).unwrap();
        let mut store = FileStore::new(&taken);
        assert!(store.load().unwrap_err().to_string().contains("taken"));
        store.save("E.1").unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
