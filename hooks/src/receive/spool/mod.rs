//! The local spool: what takes received requests while the store is away.
//!
//! Goes in: records. Comes out: the same records in the same order, also after kill -9 or a power cut, once the store is
//! back. [`Spool::append`] returns when the record is on the disk. It is bounded in bytes; it never decides what becomes
//! of a record, and never holds more than a few of them in memory.
//!
//! The folder must outlive the process, and is for one process only. Files are read by their owner only: items that are
//! kept for another try, and bodies of errored requests, are in them as the sender wrote them, until the store has them.

mod record;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::VecDeque;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, mpsc, oneshot};

pub use self::record::Record;
pub use self::segment::{Reader, Scan, Segment};
use self::writer::{Disk, Order, RealDisk, Writer};

/// Records that wait for the disk. More are refused as [`SpoolError::Failed`]: the disk hangs.
const QUEUE: usize = 1024;

/// Where the spool is, and how large it may get.
#[derive(Clone, Debug)]
pub struct SpoolOptions {
    /// Its folder, which is created if it is missing.
    pub folder: PathBuf,
    /// The most bytes of all files.
    pub max_bytes: u64,
    /// A file is ended when it has this many bytes. What was replayed is freed by whole files.
    pub segment_bytes: u64,
}

impl SpoolOptions {
    /// 256 MiB in files of 8 MiB.
    pub fn new(folder: impl Into<PathBuf>) -> SpoolOptions {
        SpoolOptions { folder: folder.into(), max_bytes: 256 * 1024 * 1024, segment_bytes: 8 * 1024 * 1024 }
    }
}

/// How much of the spool a record may use, so that what nobody vouches for leaves room for the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// All: the request is authentic.
    All,
    /// A half: its key was not checked yet.
    Half,
    /// A quarter: it is for quarantine.
    Quarter,
}

/// The spool did not take a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    /// There is no room for it.
    #[error("the spool is full")]
    Full,
    /// The disk refused it, for this reason.
    #[error("the spool cannot be written: {0}")]
    Failed(String),
}

/// The spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the spool in {0} is used by another process; each process needs a folder of its own (--spool-dir)")]
    InUse(PathBuf),
    /// The folder or a file cannot be read or written.
    #[error("the spool in {0} cannot be used: {1}; the folder must be writable for this process (--spool-dir)")]
    Io(PathBuf, io::Error),
}

/// The spool. A clone is another handle of the same one.
#[derive(Clone, Debug)]
pub struct Spool {
    orders: mpsc::Sender<Order>,
    shared: Arc<Shared>,
    max_bytes: u64,
}

#[derive(Debug, Default)]
struct Shared {
    folder: PathBuf,
    sealed: Mutex<VecDeque<Segment>>,
    bytes: AtomicU64,
    records: AtomicU64,
    /// Records that were ever in it.
    total: AtomicU64,
    filled: Notify,
}

impl Shared {
    fn give_back(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn written(&self, records: u64) {
        self.records.fetch_add(records, Ordering::Relaxed);
        self.total.fetch_add(records, Ordering::Relaxed);
        self.filled.notify_one();
    }

    fn sealed(&self, segment: Segment) {
        self.sealed.lock().unwrap_or_else(PoisonError::into_inner).push_back(segment);
    }
}

impl Spool {
    /// Opens the spool, and reads through what an earlier process has left. Blocks for as long as that takes.
    ///
    /// # Errors
    /// Another process uses it, or its files cannot be read or written.
    pub fn open(options: SpoolOptions) -> Result<(Spool, Scan), OpenError> {
        Spool::open_on(options, Box::new(RealDisk))
    }

    fn open_on(options: SpoolOptions, disk: Box<dyn Disk>) -> Result<(Spool, Scan), OpenError> {
        let folder = options.folder.clone();
        let io_error = |error| OpenError::Io(folder.clone(), error);
        writer::create_folder(&options.folder).map_err(io_error)?;
        let lock = File::options().create(true).append(true).open(options.folder.join("lock")).map_err(io_error)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(options.folder)),
            Err(TryLockError::Error(error)) => return Err(io_error(error)),
        }
        let shared = Arc::new(Shared { folder: options.folder.clone(), ..Shared::default() });
        let (mut sum, mut next_number) = (Scan::default(), 1);
        for (number, path) in segments(&options.folder).map_err(io_error)? {
            next_number = number + 1;
            let (segment, scan) = segment::scan(&path, number).map_err(io_error)?;
            sum.records += scan.records;
            sum.torn_bytes += scan.torn_bytes;
            sum.damaged += scan.damaged;
            if segment.records == 0 {
                segment::remove(&segment).map_err(io_error)?;
                continue;
            }
            shared.bytes.fetch_add(segment.bytes, Ordering::Relaxed);
            shared.sealed(segment);
        }
        shared.written(sum.records);
        let (orders, receiver) = mpsc::channel(QUEUE);
        let (segment_bytes, max_bytes) = (options.segment_bytes, options.max_bytes);
        let writer = Writer {
            disk,
            folder: options.folder,
            segment_bytes,
            next_number,
            shared: Arc::clone(&shared),
            active: None,
            _lock: lock,
        };
        std::thread::Builder::new().name("spool".to_owned()).spawn(move || writer.run(receiver)).map_err(io_error)?;
        Ok((Spool { orders, shared, max_bytes }, sum))
    }

    /// Appends a record. When this returns, it is on the disk.
    ///
    /// # Errors
    /// There is no room, or the disk refused it. Then nothing of it will be replayed, unless the disk lied.
    pub async fn append(&self, record: &Record, room: Room) -> Result<(), SpoolError> {
        let bytes = record.encode().ok_or(SpoolError::Full)?;
        let limit = match room {
            Room::All => self.max_bytes,
            Room::Half => self.max_bytes / 2,
            Room::Quarter => self.max_bytes / 4,
        };
        let length = bytes.len() as u64;
        let reserve = |used: u64| used.checked_add(length).filter(|sum| *sum <= limit);
        if self.shared.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, reserve).is_err() {
            return Err(SpoolError::Full);
        }
        let (done, written) = oneshot::channel();
        if self.orders.try_send(Order::Append { bytes, done }).is_err() {
            self.shared.give_back(length);
            return Err(SpoolError::Failed("too much waits for the disk already".to_owned()));
        }
        written.await.unwrap_or_else(|_| Err(SpoolError::Failed("its thread has ended".to_owned())))
    }

    /// How many bytes its files have.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// How many records wait in it.
    pub fn records(&self) -> u64 {
        self.shared.records.load(Ordering::Relaxed)
    }

    /// How many records were ever in it, as far as this process knows: it rises whenever the spool is used.
    pub fn total(&self) -> u64 {
        self.shared.total.load(Ordering::Relaxed)
    }

    /// Whether nothing waits in it.
    pub fn is_empty(&self) -> bool {
        self.records() == 0
    }

    /// Whether there is no room for an ordinary record.
    pub fn is_full(&self) -> bool {
        self.bytes().saturating_add(64 * 1024) > self.max_bytes
    }

    /// Waits until something is in it. For one task only: the one that replays.
    pub async fn filled(&self) {
        while self.is_empty() {
            self.shared.filled.notified().await;
        }
    }

    /// The oldest file, which is written no more once this returns. `None`: nothing waits.
    pub async fn oldest(&self) -> Option<Segment> {
        if let Some(segment) = self.front() {
            return Some(segment);
        }
        let (done, sealed) = oneshot::channel();
        self.orders.send(Order::Seal { done }).await.ok()?;
        sealed.await.ok()?;
        self.front()
    }

    fn front(&self) -> Option<Segment> {
        self.shared.sealed.lock().unwrap_or_else(PoisonError::into_inner).front().cloned()
    }

    /// Removes the oldest file: all of its records were replayed.
    ///
    /// # Errors
    /// The file cannot be removed. It is left alone until the next start, when it is replayed again.
    pub fn remove(&self, segment: &Segment) -> io::Result<()> {
        self.leave(segment);
        segment::remove(segment)
    }

    /// Leaves the oldest file alone until the next start, because it cannot be read.
    pub fn leave(&self, segment: &Segment) {
        let mut sealed = self.shared.sealed.lock().unwrap_or_else(PoisonError::into_inner);
        if sealed.front() == Some(segment) {
            sealed.pop_front();
            self.shared.give_back(segment.bytes);
            self.shared.records.fetch_sub(segment.records, Ordering::Relaxed);
        }
    }

    /// Puts a record that the store never takes into a file of its own, for a person: `aside-ID.record` in the folder.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_aside(&self, record: &Record) -> io::Result<PathBuf> {
        let path = self.shared.folder.join(format!("aside-{}.record", record.envelope().id));
        let bytes = record.encode().ok_or(io::ErrorKind::FileTooLarge)?;
        writer::write_new(&path, &bytes)?;
        Ok(path)
    }
}

impl Segment {
    /// Opens it for reading from its beginning.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn open(&self) -> io::Result<Reader> {
        Reader::open(&self.path)
    }

    /// Its number: later ones are higher.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Reader {
    /// The next few records, and how many were passed over because they are not what was written. No record: it is at
    /// its end. Blocks while it reads.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn next_piece(&mut self) -> io::Result<(Vec<Record>, u64)> {
        let mut sum = 0;
        loop {
            let (records, damaged) = self.piece()?;
            sum += damaged;
            if !records.is_empty() || damaged == 0 {
                return Ok((records, sum));
            }
        }
    }
}

/// The segments in a folder, oldest first.
fn segments(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        found.extend(segment::number_of(&path).map(|number| (number, path.clone())));
    }
    found.sort();
    Ok(found)
}
