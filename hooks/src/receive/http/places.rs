//! Reading bodies, within bounds on memory, files and time.
//!
//! Goes in: a body as it arrives. Comes out: all of it, with the place that it takes up; or why not. A body of more than
//! [`ReceiverLimits::file_from_bytes`] goes through a file without a name, so that slow senders of large bodies hold no
//! memory. It is read into memory once it is whole, a few at a time.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures::StreamExt as _;
use ring::digest::{Context, SHA256};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::limits::ReceiverLimits;
use crate::receive::identity::Sha256;

/// Large and compressed bodies that are in memory at the same time. Their JSON takes several times their size.
const LARGE_AT_ONCE: usize = 2;

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It has more than the limit: what it declared, or what was read.
    TooLarge(u64),
    /// There was no place for it.
    NoPlace,
    /// It did not arrive in time.
    Slow,
    /// The sender left, or what came is no body.
    Broken,
    /// The process stops.
    Stopping,
}

/// What the head says of the body.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Declared {
    /// `Content-Length`, where there is one.
    pub(super) bytes: Option<u64>,
    /// The sender sends nothing before it is asked to (`Expect: 100-continue`).
    pub(super) asks_first: bool,
}

impl Declared {
    /// The declared length, or `most` if that is less or nothing is declared.
    fn up_to(self, most: usize) -> usize {
        self.bytes.and_then(|bytes| usize::try_from(bytes).ok()).map_or(most, |bytes| bytes.min(most))
    }
}

/// Whether it is known already that the sender of a body may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is: a key is good.
    Vouched,
    /// It is not known before the body is whole (its signature), or before keys are read.
    Open,
}

/// A place for a body. It is free again when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Place {
    _permits: Vec<OwnedSemaphorePermit>,
}

/// A whole body.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) bytes: Bytes,
    /// It takes long to work on.
    pub(super) is_large: bool,
    pub(super) place: Place,
}

/// What is known of a body that goes to quarantine.
#[derive(Debug)]
pub(super) struct Unvouched {
    pub(super) size: u64,
    pub(super) hash: Sha256,
    /// The body, if it is short enough to be kept.
    pub(super) body: Option<Bytes>,
    pub(super) _place: Place,
}

/// Bytes for bodies, of which what nobody vouches for yet has at most a half. So whoever opens many connections to a
/// source whose senders sign leaves places for those that have a key.
#[derive(Debug)]
struct Room {
    all: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

/// All places for bodies.
#[derive(Debug)]
pub(super) struct Places {
    limits: ReceiverLimits,
    folder: PathBuf,
    memory: Room,
    unvouched: Arc<Semaphore>,
    files: Room,
    large: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Places {
    /// `folder` is where files of arriving bodies are made; the names are gone before anything is written.
    pub(super) fn new(limits: ReceiverLimits, folder: PathBuf, stop: CancellationToken) -> Places {
        let of = |bytes: usize| Arc::new(Semaphore::new(bytes / 1024));
        let room = |bytes: usize| Room { all: of(bytes), open: of(bytes / 2) };
        Places {
            limits,
            folder,
            memory: room(limits.memory_bytes),
            unvouched: of(limits.quarantine_memory_bytes),
            files: room(limits.file_bytes),
            large: Arc::new(Semaphore::new(LARGE_AT_ONCE)),
            stop,
        }
    }

    /// Reads a body.
    pub(super) async fn read(&self, declared: Declared, body: Body, standing: Standing) -> Result<Whole, Refused> {
        let stream = body.into_data_stream();
        let stream = self.refuse_large(declared, stream).await?;
        let place = self.room(&self.memory, declared.up_to(self.limits.file_from_bytes), standing).await?;
        self.in_time(self.collect(declared, stream, place, standing)).await
    }

    /// Reads a body that goes to quarantine: its hash, and itself if it is no longer than `keep`.
    pub(super) async fn read_unvouched(
        &self,
        declared: Declared,
        body: Body,
        keep: usize,
    ) -> Result<Unvouched, Refused> {
        let keep = keep.min(self.limits.file_from_bytes);
        let stream = self.refuse_large(declared, body.into_data_stream()).await?;
        let place = self.wait(take(&self.unvouched, declared.up_to(keep).div_ceil(1024))).await?;
        self.in_time(self.hash(stream, keep, place)).await
    }

    /// A place for the decompression of a body. One that is large has one of the places for large ones already; two that
    /// wanted a second one would wait for each other.
    pub(super) async fn for_decompression(&self, is_large: bool) -> Result<Place, Refused> {
        let mut place = if is_large { Place::default() } else { self.wait(take(&self.large, 1)).await? };
        // Whoever sent it: only two bodies are decompressed at a time.
        place.and(self.room(&self.memory, self.limits.body_bytes, Standing::Vouched).await?);
        Ok(place)
    }

    async fn refuse_large(&self, declared: Declared, mut stream: BodyDataStream) -> Result<BodyDataStream, Refused> {
        match declared.bytes {
            Some(bytes) if bytes > self.limits.body_bytes as u64 => {
                if !declared.asks_first {
                    self.discard(&mut stream, 0).await;
                }
                Err(Refused::TooLarge(bytes))
            }
            _ => Ok(stream),
        }
    }

    /// Reads on and throws away, so that the sender, which reads no answer before it has sent everything, gets one.
    async fn discard(&self, stream: &mut BodyDataStream, already: u64) -> u64 {
        let mut read = already;
        let discarding = async {
            while let Some(Ok(piece)) = stream.next().await {
                read += piece.len() as u64;
                if read >= self.limits.discard_bytes as u64 {
                    return;
                }
            }
        };
        tokio::select! {
            // What was read until then does not matter.
            _ = timeout(self.limits.discard_time, discarding) => {}
            () = self.stop.cancelled() => {}
        }
        read
    }

    async fn in_time<T>(&self, reading: impl Future<Output = Result<T, Refused>>) -> Result<T, Refused> {
        let stopped = async {
            self.stop.cancelled().await;
            tokio::time::sleep(self.limits.stop_grace).await;
        };
        tokio::select! {
            biased;
            read = timeout(self.limits.body_time, reading) => read.unwrap_or(Err(Refused::Slow)),
            () = stopped => Err(Refused::Stopping),
        }
    }

    async fn collect(
        &self,
        declared: Declared,
        mut stream: BodyDataStream,
        place: Place,
        standing: Standing,
    ) -> Result<Whole, Refused> {
        let (mut memory, mut file) = (Vec::new(), None);
        let (mut place, mut total) = (Some(place), 0_u64);
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|_| Refused::Broken)?;
            total += piece.len() as u64;
            if total > self.limits.body_bytes as u64 {
                return Err(Refused::TooLarge(self.discard(&mut stream, total).await));
            }
            if file.is_none() && memory.len() + piece.len() > self.limits.file_from_bytes {
                let mut opened = self.file(declared, standing).await?;
                opened.write(&std::mem::take(&mut memory)).await?;
                (file, place) = (Some(opened), None);
            }
            match &mut file {
                // The pieces are copied, because each of many small ones would take far more memory than it holds.
                None => memory.extend_from_slice(&piece),
                Some(file) => file.write(&piece).await?,
            }
        }
        let Some(file) = file else {
            let place = place.unwrap_or_default();
            return Ok(Whole { bytes: Bytes::from(memory), is_large: false, place });
        };
        let mut place = self.wait(take(&self.large, 1)).await?;
        let size = usize::try_from(total).map_err(|_| Refused::NoPlace)?;
        place.and(self.room(&self.memory, size, standing).await?);
        let bytes = file.read(size).await?;
        Ok(Whole { bytes, is_large: true, place })
    }

    async fn hash(&self, mut stream: BodyDataStream, keep: usize, place: Place) -> Result<Unvouched, Refused> {
        let (mut context, mut size, mut kept) = (Context::new(&SHA256), 0_u64, Some(Vec::new()));
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|_| Refused::Broken)?;
            size += piece.len() as u64;
            if size > self.limits.body_bytes as u64 {
                return Err(Refused::TooLarge(self.discard(&mut stream, size).await));
            }
            context.update(&piece);
            kept = kept.filter(|_| size <= keep as u64);
            if let Some(kept) = &mut kept {
                kept.extend_from_slice(&piece);
            }
        }
        let (body, hash) = (kept.filter(|_| keep > 0).map(Bytes::from), Sha256::of_context(context));
        Ok(Unvouched { size, hash, body, _place: place })
    }

    /// Room in a file for the rest of a body.
    async fn file(&self, declared: Declared, standing: Standing) -> Result<BodyFile, Refused> {
        let place = self.room(&self.files, declared.up_to(self.limits.body_bytes), standing).await?;
        let folder = self.folder.clone();
        let opened = tokio::task::spawn_blocking(move || nameless(&folder)).await;
        let file = opened.map_err(|_| Refused::NoPlace)?.map_err(|_| Refused::NoPlace)?;
        Ok(BodyFile { file: tokio::fs::File::from_std(file), _place: place })
    }

    /// Waits for so many bytes of a room, rounded up to KiB.
    async fn room(&self, room: &Room, bytes: usize, standing: Standing) -> Result<Place, Refused> {
        let permits = bytes.div_ceil(1024);
        let taking = async {
            let mut place = match standing {
                Standing::Vouched => Place::default(),
                Standing::Open => take(&room.open, permits).await?,
            };
            place.and(take(&room.all, permits).await?);
            Ok(place)
        };
        self.wait(taking).await
    }

    /// Waits for a place, but not for long.
    async fn wait(&self, taking: impl Future<Output = Result<Place, Refused>>) -> Result<Place, Refused> {
        tokio::select! {
            biased;
            taken = timeout(self.limits.place_wait, taking) => taken.unwrap_or(Err(Refused::NoPlace)),
            () = self.stop.cancelled() => Err(Refused::Stopping),
        }
    }
}

/// So many permits, as soon as they are free.
async fn take(pool: &Arc<Semaphore>, permits: usize) -> Result<Place, Refused> {
    let permits = u32::try_from(permits).map_err(|_| Refused::NoPlace)?;
    let permit = Arc::clone(pool).acquire_many_owned(permits).await.map_err(|_| Refused::NoPlace)?;
    Ok(Place { _permits: vec![permit] })
}

impl Place {
    /// Keeps another place together with this one.
    fn and(&mut self, other: Place) {
        self._permits.extend(other._permits);
    }
}

/// A file of an arriving body. Where the disk is full, there is no place.
struct BodyFile {
    file: tokio::fs::File,
    _place: Place,
}

impl BodyFile {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        self.file.write_all(bytes).await.map_err(|_| Refused::NoPlace)
    }

    async fn read(mut self, size: usize) -> Result<Bytes, Refused> {
        self.file.flush().await.map_err(|_| Refused::NoPlace)?;
        let mut file = self.file.into_std().await;
        let reading = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::with_capacity(size);
            file.rewind()?;
            file.read_to_end(&mut bytes)?;
            io::Result::Ok(Bytes::from(bytes))
        });
        reading.await.map_err(|_| Refused::NoPlace)?.map_err(|_| Refused::NoPlace)
    }
}

/// A file that is gone when it is closed, also after kill -9.
fn nameless(folder: &Path) -> io::Result<File> {
    let path = folder.join(format!("body-{:016x}", rand::random::<u64>()));
    let file = File::options().create_new(true).read(true).write(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
