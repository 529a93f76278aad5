//! A file of the spool: records one after another.
//!
//! Goes in: a file that may end anywhere, because the process or the machine was stopped while it was written. Comes
//! out: its records, in the order in which they were written. A record that is not whole is passed over: its request was
//! not answered, because the answer waits for the disk.

use std::fs::{self, File};
use std::io::{self, BufReader, Read as _, Seek as _};
use std::path::{Path, PathBuf};

use super::record::{FRAME_BYTES, Frame, MAGIC, Record};
use super::writer;

/// Records are read in pieces of about this many bytes.
const PIECE_BYTES: u64 = 4 * 1024 * 1024;
/// In a torn end, so many frames are checked for whether they are those of a record.
const FRAMES_CHECKED: usize = 16;
/// Records in a piece.
const PIECE_RECORDS: usize = 64;

/// A file that is written no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub(super) path: PathBuf,
    pub(super) number: u64,
    pub(super) bytes: u64,
    pub(super) records: u64,
}

/// The name of a segment's file. Names are in the order of the segments.
pub(super) fn path_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("spool-{number:016}.log"))
}

/// The number in a file's name, if it is a segment's.
pub(super) fn number_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("spool-")?.strip_suffix(".log")?.parse().ok()
}

/// What was found in a segment that an earlier process wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Whole records.
    pub records: u64,
    /// Bytes of the torn record at the end, which were cut off.
    pub torn_bytes: u64,
    /// Records that are not what was written: those before the last whole one, and an end that holds more than what a
    /// process left that was killed.
    pub damaged: u64,
}

/// Reads through a segment, and cuts off what is torn at its end. An end with whole records in it is not torn but damaged:
/// senders may have been answered. It is kept, in a file for people, because nothing in it may be taken for a record: what
/// looks like one may be a part of a body.
pub(super) fn scan(path: &Path, number: u64) -> io::Result<(Segment, Scan)> {
    let mut reader = Reader::open(path)?;
    let (mut scan, mut good_end) = (Scan::default(), 0);
    let mut passed_over = 0;
    while let Some(record) = reader.next()? {
        match record {
            Some(_) => {
                scan.records += 1;
                scan.damaged += std::mem::take(&mut passed_over);
                good_end = reader.at;
            }
            None => passed_over += 1,
        }
    }
    scan.torn_bytes = reader.end - good_end;
    if scan.torn_bytes > 0 {
        let end = read_end(path, good_end)?;
        if holds_record(&end) {
            scan.damaged += 1;
            scan.torn_bytes = 0;
            writer::write_new(&path.with_extension("damaged"), &end)?;
        }
        let file = File::options().write(true).open(path)?;
        file.set_len(good_end)?;
        file.sync_all()?;
    }
    Ok((Segment { path: path.to_owned(), number, bytes: good_end, records: scan.records }, scan))
}

fn read_end(path: &Path, from: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(io::SeekFrom::Start(from))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    Ok(end)
}

/// Whether there may be a whole record anywhere in these bytes. A body can be full of what looks like frames, so only the
/// first ones are checked; where there are more, there may be one.
fn holds_record(bytes: &[u8]) -> bool {
    let begins = bytes.windows(MAGIC.len()).enumerate().filter(|(_, window)| *window == MAGIC);
    let frames = begins.filter_map(|(at, _)| {
        let (frame, contents) = bytes[at..].split_first_chunk::<FRAME_BYTES>()?;
        let frame = Frame::read(frame)?;
        let length = usize::try_from(frame.contents_bytes()).ok()?;
        Some((frame, contents.get(..length)?))
    });
    frames.enumerate().any(|(number, (frame, contents))| number >= FRAMES_CHECKED || frame.decode(contents).is_some())
}

/// Reads a segment from its beginning.
#[derive(Debug)]
pub struct Reader {
    file: BufReader<File>,
    at: u64,
    end: u64,
}

impl Reader {
    pub(super) fn open(path: &Path) -> io::Result<Reader> {
        let file = File::open(path)?;
        let end = file.metadata()?.len();
        Ok(Reader { file: BufReader::with_capacity(64 * 1024, file), at: 0, end })
    }

    /// The next record; `Some(None)` for one that is not what was written. `None`: the segment, or what can be read of
    /// it, is at its end.
    fn next(&mut self) -> io::Result<Option<Option<Record>>> {
        let left = self.end - self.at;
        if left < FRAME_BYTES as u64 {
            return Ok(None);
        }
        let mut frame = [0; FRAME_BYTES];
        self.file.read_exact(&mut frame)?;
        let Some(frame) = Frame::read(&frame) else { return Ok(None) };
        if frame.contents_bytes() > left - FRAME_BYTES as u64 {
            return Ok(None);
        }
        let mut contents = vec![0; usize::try_from(frame.contents_bytes()).map_err(io::Error::other)?];
        self.file.read_exact(&mut contents)?;
        self.at += FRAME_BYTES as u64 + contents.len() as u64;
        Ok(Some(frame.decode(&contents)))
    }

    /// The next records, and how many were passed over because they are not what was written. None: it is at its end.
    pub(super) fn piece(&mut self) -> io::Result<(Vec<Record>, u64)> {
        let (mut records, mut damaged, begin) = (Vec::new(), 0, self.at);
        while self.at - begin < PIECE_BYTES && records.len() < PIECE_RECORDS {
            match self.next()? {
                Some(Some(record)) => records.push(record),
                Some(None) => damaged += 1,
                None => break,
            }
        }
        Ok((records, damaged))
    }
}

/// Removes a segment's file.
pub(super) fn remove(segment: &Segment) -> io::Result<()> {
    match fs::remove_file(&segment.path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
