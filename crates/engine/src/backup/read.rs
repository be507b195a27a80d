//! Readers: they take stretches of files, check their pages, and compress what an earlier Snapshot does not have.

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio_util::sync::CancellationToken;

use super::{
    compare::{Choice, Run, Tells, choose},
    error::BackupError,
    pace::{Pace, wait},
    walk::{Entry, Kind},
};
use crate::{
    postgres::page::{self, PAGE_BYTES, PageState},
    repository::map::Codec,
};

/// Bytes that are read, checked and compressed at a time: twice zstd's window at this level, so that little is lost by
/// beginning anew, and small enough that all of it is done while the bytes are in a processor's cache.
pub(super) const UNIT: usize = 1 << 20;

/// Level that compresses faster than disks and networks move.
const LEVEL: i32 = 1;

/// A page that a checksum does not fit is read again: while its bytes change it is being written, this often at most.
const CHANGING_READS: u32 = 50;

/// Bytes that stay the same over this many reads are no write under way but what is there.
const STABLE_READS: u32 = 3;

/// Between two reads of a page.
const REREAD: Duration = Duration::from_millis(20);

/// A stretch of a file, to be read and compared.
#[derive(Debug)]
pub(super) struct Job {
    /// Number of the file's entry.
    pub(super) entry: usize,
    /// Where it begins in the file. It has [`UNIT`] bytes, or less at the file's end.
    pub(super) at: u64,
    /// What an earlier Snapshot has of it.
    pub(super) base: Vec<Run>,
    /// How to compare the two.
    pub(super) tells: Tells,
}

/// Readers, which take jobs one after another.
pub(super) struct Readers {
    pub(super) entries: Arc<Vec<Entry>>,
    pub(super) jobs: Mutex<Receiver<Job>>,
    /// Pages in one file of a relation; `None` where pages carry no checksums.
    pub(super) checked_segment_pages: Option<u32>,
    pub(super) pace: Arc<Pace>,
    pub(super) stop: CancellationToken,
}

/// What became of a job.
#[derive(Debug)]
pub(super) struct Piece {
    /// Number of the file's entry.
    pub(super) entry: usize,
    /// Where it begins in the file.
    pub(super) at: u64,
    /// Absent when the file is gone.
    pub(super) read: Option<Read>,
}

/// A stretch that was read. What is neither kept nor fresh is zero.
#[derive(Debug)]
pub(super) struct Read {
    /// Its length, which is less than planned where the file ended.
    pub(super) raw: usize,
    /// Taken from earlier Snapshots.
    pub(super) kept: Vec<Run>,
    /// To be stored.
    pub(super) fresh: Option<Fresh>,
}

/// Parts of a stretch that are stored together.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) content: Content,
    /// Their length together.
    pub(super) whole: usize,
    /// Where they lie in the stretch.
    pub(super) ranges: Vec<Range<usize>>,
}

/// Compressed bytes.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) codec: Codec,
    pub(super) stored: Bytes,
    pub(super) blake3: blake3::Hash,
}

/// Number of stretches of a file of this length. An empty file has one: reading it shows that it is there.
pub(super) fn stretches(bytes: u64) -> u64 {
    bytes.div_ceil(UNIT as u64).max(1)
}

impl Readers {
    /// Takes jobs until none is left, nobody wants them any more, or one fails. Blocks.
    pub(super) fn read_all(&self, into: &Sender<Result<Piece, BackupError>>) {
        let mut encoder = match Encoder::new() {
            Ok(encoder) => encoder,
            Err(source) => {
                let path = String::new();
                let _ = into.blocking_send(Err(BackupError::Compress { path, source }));
                return;
            }
        };
        let mut buffer = vec![0; UNIT];
        loop {
            let job = {
                let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
                jobs.blocking_recv()
            };
            let Some(job) = job else { return };
            if self.stop.is_cancelled() {
                return;
            }
            let before = self.pace.thread_time();
            let piece = self.read(job, &mut buffer, &mut encoder);
            let worked = self.pace.thread_time().saturating_sub(before);
            let read = piece.as_ref().ok().and_then(|piece| piece.read.as_ref());
            let pause = read.map(|read| self.pace.pause(read.raw, worked));
            let is_last = piece.is_err();
            if into.blocking_send(piece).is_err() || is_last {
                return;
            }
            wait(pause.unwrap_or_default(), &self.stop);
        }
    }

    fn read(
        &self,
        job: Job,
        buffer: &mut [u8],
        encoder: &mut Encoder,
    ) -> Result<Piece, BackupError> {
        let entry = &self.entries[job.entry];
        let fail = |source| BackupError::ReadFile {
            path: entry.path.clone(),
            source,
        };
        let mut piece = Piece {
            entry: job.entry,
            at: job.at,
            read: None,
        };
        let file = match File::open(&entry.source) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(piece),
            Err(error) => return Err(fail(error)),
        };
        let raw = read_at(&file, buffer, job.at).map_err(fail)?;
        let buffer = &mut buffer[..raw];
        let checked = (self.checked_segment_pages, entry.kind);
        if let (
            Some(segment_pages),
            Kind::File {
                pages: Some(pages), ..
            },
        ) = checked
        {
            let first = u64::from(pages.segment) * u64::from(segment_pages);
            self.check(&file, &entry.path, buffer, job.at, first)?;
        }
        let Choice { kept, fresh } = choose(buffer, job.at, &job.base, job.tells);
        let fresh = encoder.encode_parts(buffer, fresh);
        let fresh = fresh.map_err(|source| BackupError::Compress {
            path: entry.path.clone(),
            source,
        })?;
        piece.read = Some(Read { raw, kept, fresh });
        Ok(piece)
    }

    /// Checks all whole pages; the end of a file that is being extended may be half a page. `first_page` counts to the file's start.
    fn check(
        &self,
        file: &File,
        path: &str,
        buffer: &mut [u8],
        at: u64,
        first_page: u64,
    ) -> Result<(), BackupError> {
        let (pages, _) = buffer.as_chunks_mut::<PAGE_BYTES>();
        for (number, page) in (at / PAGE_BYTES as u64..).zip(pages) {
            let block = u32::try_from(first_page + number).unwrap_or(u32::MAX);
            if let PageState::Bad { .. } = page::verify(page, block) {
                self.settle(file, page, number * PAGE_BYTES as u64, block)
                    .map_err(|settled| match settled {
                        Unsettled::Read(source) => BackupError::ReadFile {
                            path: path.to_owned(),
                            source,
                        },
                        Unsettled::Bad { stored, computed } => BackupError::DamagedPage {
                            path: path.to_owned(),
                            block,
                            stored,
                            computed,
                        },
                        Unsettled::Stopped => BackupError::Cancelled,
                    })?;
            }
        }
        Ok(())
    }

    /// Reads a page again until its checksum fits, or it is seen to be damaged.
    fn settle(
        &self,
        file: &File,
        page: &mut [u8; PAGE_BYTES],
        at: u64,
        block: u32,
    ) -> Result<(), Unsettled> {
        let (mut changing, mut stable) = (0, 0);
        loop {
            if self.stop.is_cancelled() {
                return Err(Unsettled::Stopped);
            }
            std::thread::sleep(REREAD);
            let mut again = [0; PAGE_BYTES];
            let length = read_at(file, &mut again, at).map_err(Unsettled::Read)?;
            if length < PAGE_BYTES {
                // Truncated since: what the WAL says of it counts.
                return Ok(());
            }
            let is_same = again == *page;
            *page = again;
            let PageState::Bad { stored, computed } = page::verify(page, block) else {
                return Ok(());
            };
            if is_same {
                stable += 1;
            } else {
                (stable, changing) = (0, changing + 1);
            }
            if stable == STABLE_READS || changing == CHANGING_READS {
                return Err(Unsettled::Bad { stored, computed });
            }
        }
    }
}

enum Unsettled {
    Read(io::Error),
    Bad { stored: u16, computed: u16 },
    Stopped,
}

/// Compresses stretches, one after another.
pub(super) struct Encoder {
    zstd: zstd::bulk::Compressor<'static>,
    /// Kept from one stretch to the next: it must be as large as the worst case, and what is in it mostly is not.
    packed: Vec<u8>,
    /// Parts that are stored together, one behind the other.
    gathered: Vec<u8>,
}

impl Encoder {
    pub(super) fn new() -> io::Result<Self> {
        let zstd = zstd::bulk::Compressor::new(LEVEL)?;
        Ok(Self {
            zstd,
            packed: Vec::new(),
            gathered: Vec::new(),
        })
    }

    /// Parts of a stretch as one; `None` where there are none, or all bytes are zero.
    fn encode_parts(
        &mut self,
        buffer: &[u8],
        ranges: Vec<Range<usize>>,
    ) -> io::Result<Option<Fresh>> {
        let whole = ranges.iter().map(Range::len).sum();
        let content = match ranges.as_slice() {
            [] => None,
            [only] => self.encode(&buffer[only.clone()])?,
            several => {
                let mut gathered = std::mem::take(&mut self.gathered);
                gathered.clear();
                for range in several {
                    gathered.extend_from_slice(&buffer[range.clone()]);
                }
                let content = self.encode(&gathered);
                self.gathered = gathered;
                content?
            }
        };
        Ok(content.map(|content| Fresh {
            content,
            whole,
            ranges,
        }))
    }

    /// `None` where all bytes are zero.
    pub(super) fn encode(&mut self, raw: &[u8]) -> io::Result<Option<Content>> {
        if raw.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let blake3 = blake3::hash(raw);
        self.packed.clear();
        self.packed
            .reserve(zstd::zstd_safe::compress_bound(raw.len()));
        self.zstd.compress_to_buffer(raw, &mut self.packed)?;
        // Less than a sixteenth saved is not worth undoing.
        let (codec, stored) = if self.packed.len() < raw.len() - raw.len() / 16 {
            (Codec::Zstd, self.packed.as_slice())
        } else {
            (Codec::Plain, raw)
        };
        Ok(Some(Content {
            codec,
            stored: Bytes::copy_from_slice(stored),
            blake3,
        }))
    }
}

/// Reads until the buffer is full or the file ends.
pub(super) fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
