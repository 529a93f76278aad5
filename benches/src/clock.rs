//! One clock for all processes of a benchmark, and the file in which publishers note when each update was sent.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, clock_gettime};

use crate::plan::{Index, Phase};

/// Nanoseconds of the machine's monotonic clock; comparable between processes.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Sleeps until a moment of [`now_ns`]; returns at once if it has passed.
pub fn sleep_until(ns: u64) {
    let left = ns.saturating_sub(now_ns());
    if left > 0 {
        std::thread::sleep(Duration::from_nanos(left));
    }
}

/// Makes sleeps of this thread end exactly in time; by default the kernel may add up to 50 µs.
pub fn exact_sleeps() {
    // If the kernel refuses this, the pace is only less even.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
}

/// The times at which updates were sent. They are in a file, because publishers and receivers are different processes;
/// the file is in memory (/dev/shm) if possible.
#[derive(Debug)]
pub struct Stamps {
    file: File,
    path: PathBuf,
}

impl Stamps {
    /// A new, empty file.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(dir: &Path) -> Result<Stamps> {
        let path = dir.join("stamps");
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&path);
        Ok(Stamps { file: file.with_context(|| format!("cannot make {}", path.display()))?, path })
    }

    /// Opens the file that another process made.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: &Path) -> Result<Stamps> {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Stamps { file, path: path.to_owned() })
    }

    /// Opens the file that another process made, to write into it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn open_to_write(path: &Path) -> Result<Stamps> {
        let file = File::options().read(true).write(true).open(path);
        Ok(Stamps { file: file.with_context(|| format!("cannot write {}", path.display()))?, path: path.to_owned() })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes when an update is sent.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn put(&self, index: Index, ns: u64) -> io::Result<()> {
        self.file.write_all_at(&ns.to_le_bytes(), u64::from(index) * 8)
    }

    /// Writes in advance when the updates of a phase will be sent.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn put_all(&self, phase: &Phase, due_ns: impl Fn(Index) -> u64) -> io::Result<()> {
        let bytes: Vec<u8> = phase.indices().flat_map(|index| due_ns(index).to_le_bytes()).collect();
        self.file.write_all_at(&bytes, u64::from(phase.first) * 8)
    }

    /// When an update was sent; 0 for one that was not.
    pub fn get(&self, index: Index) -> u64 {
        let mut bytes = [0; 8];
        match self.file.read_exact_at(&mut bytes, u64::from(index) * 8) {
            Ok(()) => u64::from_le_bytes(bytes),
            Err(_) => 0,
        }
    }
}

/// A folder for the files of one run of the program, in memory where possible.
///
/// # Errors
/// When none can be made.
pub fn scratch() -> Result<tempfile::TempDir> {
    let shm = Path::new("/dev/shm");
    let builder = || tempfile::Builder::new().prefix("bugfeed-bench-").to_owned();
    builder().tempdir_in(shm).or_else(|_| builder().tempdir()).context("cannot make a temporary folder")
}
