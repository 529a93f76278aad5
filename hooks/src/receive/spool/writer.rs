//! The thread that writes the spool: it appends what has come while the last flush ran, then flushes once for all.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bugfeed_protocol::log_event::LogEvent;
use tokio::sync::{mpsc, oneshot};

use super::segment::{Segment, path_of};
use super::{Shared, SpoolError};

/// One group has at most this many bytes, unless one record alone has more.
const GROUP_BYTES: usize = 4 * 1024 * 1024;

/// What the thread is asked to do.
pub(super) enum Order {
    /// Append a record.
    Append { bytes: Vec<u8>, done: oneshot::Sender<Result<(), SpoolError>> },
    /// End the file that is being written, so that it can be read.
    Seal { done: oneshot::Sender<()> },
}

type Appends = Vec<oneshot::Sender<Result<(), SpoolError>>>;

/// What the thread does to the disk. Tests have one that fails, and that counts what is durable.
pub(super) trait Disk: Send {
    /// Appends these bytes.
    fn append(&mut self, mut file: &File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    /// Makes durable what was appended.
    fn flush(&mut self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    /// Makes the names of new files durable.
    fn flush_folder(&mut self, folder: &Path) -> io::Result<()> {
        sync_folder(folder)
    }
}

/// The disk of this machine.
pub(super) struct RealDisk;

impl Disk for RealDisk {}

pub(super) struct Writer {
    pub(super) disk: Box<dyn Disk>,
    pub(super) folder: PathBuf,
    pub(super) segment_bytes: u64,
    pub(super) next_number: u64,
    pub(super) shared: Arc<Shared>,
    pub(super) active: Option<(File, Segment)>,
    /// Held as long as the folder is in use.
    pub(super) _lock: File,
}

impl Writer {
    /// Works until all handles of the spool are gone.
    pub(super) fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut kept_back = None;
        while let Some(order) = kept_back.take().or_else(|| orders.blocking_recv()) {
            match order {
                Order::Seal { done } => {
                    self.seal();
                    // Whoever asked may be gone.
                    let _ = done.send(());
                }
                Order::Append { bytes, done } => {
                    let (mut group, mut waiting) = (bytes, vec![done]);
                    while group.len() < GROUP_BYTES {
                        match orders.try_recv() {
                            Ok(Order::Append { bytes, done }) => {
                                group.extend_from_slice(&bytes);
                                waiting.push(done);
                            }
                            Ok(seal) => {
                                kept_back = Some(seal);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.append(&group, waiting);
                }
            }
        }
        self.seal();
    }

    fn append(&mut self, group: &[u8], waiting: Appends) {
        let written = self.write(group, waiting.len() as u64);
        if let Err(error) = &written {
            self.shared.give_back(group.len() as u64);
            self.abandon();
            tracing::debug!(%error, event = %LogEvent::SpoolFailed, "writing the spool failed");
        } else if self.active.as_ref().is_some_and(|(_, segment)| segment.bytes >= self.segment_bytes) {
            self.seal();
        }
        for done in waiting {
            let result = match &written {
                Ok(()) => Ok(()),
                Err(error) => Err(SpoolError::Failed(error.to_string())),
            };
            // Whoever asked may be gone; the record stays.
            let _ = done.send(result);
        }
    }

    fn write(&mut self, group: &[u8], records: u64) -> io::Result<()> {
        if self.active.is_none() {
            self.active = Some(self.create()?);
        }
        let Some((file, segment)) = &mut self.active else { return Ok(()) };
        self.disk.append(file, group)?;
        self.disk.flush(file)?;
        segment.bytes += group.len() as u64;
        segment.records += records;
        self.shared.written(records);
        Ok(())
    }

    fn create(&mut self) -> io::Result<(File, Segment)> {
        let number = self.next_number;
        let path = path_of(&self.folder, number);
        let file = File::options().create_new(true).append(true).mode(0o600).open(&path)?;
        self.next_number += 1;
        self.disk.flush_folder(&self.folder)?;
        Ok((file, Segment { path, number, bytes: 0, records: 0 }))
    }

    /// After a failure: what was written in part is cut off, and the next record goes to a file of its own, because it is
    /// not known what a failed flush has left behind.
    fn abandon(&mut self) {
        if let Some((file, segment)) = &self.active {
            // If this fails, too, readers pass over what is not whole.
            let _ = file.set_len(segment.bytes);
        }
        self.seal();
    }

    fn seal(&mut self) {
        let Some((file, segment)) = self.active.take() else { return };
        drop(file);
        if segment.records > 0 {
            self.shared.sealed(segment);
        } else {
            // A file without records is found empty at the next start.
            let _ = fs::remove_file(&segment.path);
        }
    }
}

/// Creates the folder, for its owner only.
pub(super) fn create_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Makes the names of new files durable.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Writes a file, for its owner only, and makes it durable. One that is there already stays.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = match File::options().create_new(true).write(true).mode(0o600).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        opened => opened?,
    };
    file.write_all(bytes)?;
    file.sync_all()?;
    path.parent().map_or(Ok(()), sync_folder)
}
