//! Compressing WAL: one frame, with its size and a checksum.

use std::{
    io::{self, Read},
    num::NonZeroUsize,
    sync::{Condvar, LazyLock, Mutex, PoisonError},
    thread::available_parallelism,
};

use zstd::{bulk::Compressor, zstd_safe::compress_bound};

use crate::encryption::{CHUNK, TAG};

/// zstd finds little more in WAL at higher levels, and takes twice as long.
const LEVEL: i32 = 1;
/// Bytes of compressed WAL that are kept in one piece, and encrypted as one.
const PIECE: usize = CHUNK;
/// Up to here a file is compressed as a whole: zstd takes half the time where all of it lies in one place.
const WHOLE_BYTES: u64 = 16 << 20;

/// `bytes` must be what comes. Blocks.
pub(super) fn compress(from: &mut impl Read, bytes: u64) -> io::Result<Vec<Vec<u8>>> {
    if bytes > WHOLE_BYTES {
        return as_it_comes(from, bytes);
    }
    PACKERS.with(|packer| packer.compress(from, bytes))
}

fn as_it_comes(from: &mut impl Read, bytes: u64) -> io::Result<Vec<Vec<u8>>> {
    let mut encoder = zstd::Encoder::new(Pieces::default(), LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(Some(bytes))?;
    io::copy(from, &mut encoder)?;
    Ok(encoder.finish()?.whole())
}

/// As many as can work at once; whoever comes later waits, and memory stays what it is.
static PACKERS: LazyLock<Packers> = LazyLock::new(|| Packers {
    free: Mutex::new(
        (0..available_parallelism().map_or(1, NonZeroUsize::get))
            .map(|_| None)
            .collect(),
    ),
    is_back: Condvar::new(),
});

struct Packers {
    /// One that was never used is none yet.
    free: Mutex<Vec<Option<Packer>>>,
    is_back: Condvar,
}

/// Memory that is used again and again: fresh memory costs a quarter of the time of compressing.
struct Packer {
    compressor: Compressor<'static>,
    content: Vec<u8>,
    packed: Vec<u8>,
}

impl Packers {
    fn with<T>(&self, work: impl FnOnce(&mut Packer) -> io::Result<T>) -> io::Result<T> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let packer = loop {
            match free.pop() {
                Some(packer) => break packer,
                None => {
                    free = self
                        .is_back
                        .wait(free)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        };
        drop(free);
        // A worker that panics must not take the place along.
        let mut place = Place {
            packers: self,
            packer,
        };
        match &mut place.packer {
            Some(packer) => work(packer),
            none => work(none.insert(Packer::new()?)),
        }
    }
}

struct Place<'a> {
    packers: &'a Packers,
    packer: Option<Packer>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut free = self
            .packers
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        free.push(self.packer.take());
        self.packers.is_back.notify_one();
    }
}

impl Packer {
    fn new() -> io::Result<Self> {
        let mut compressor = Compressor::new(LEVEL)?;
        compressor.include_checksum(true)?;
        Ok(Self {
            compressor,
            content: Vec::new(),
            packed: Vec::new(),
        })
    }

    fn compress(&mut self, from: &mut impl Read, bytes: u64) -> io::Result<Vec<Vec<u8>>> {
        self.content.clear();
        from.read_to_end(&mut self.content)?;
        if self.content.len() as u64 != bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.packed.clear();
        self.packed
            .reserve_exact(compress_bound(self.content.len()));
        self.compressor
            .compress_to_buffer(&self.content, &mut self.packed)?;
        Ok(self
            .packed
            .chunks(PIECE)
            .map(|piece| {
                let mut kept = Vec::with_capacity(piece.len() + TAG);
                kept.extend_from_slice(piece);
                kept
            })
            .collect())
    }
}

/// Keeps what is written in pieces, so that nothing large is copied as it grows.
#[derive(Default)]
struct Pieces {
    done: Vec<Vec<u8>>,
    current: Vec<u8>,
}

impl Pieces {
    fn whole(mut self) -> Vec<Vec<u8>> {
        if !self.current.is_empty() {
            self.done.push(self.current);
        }
        self.done
    }
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.current.is_empty() {
            self.current.reserve_exact(PIECE + TAG);
        }
        let room = PIECE - self.current.len();
        let taken = bytes.len().min(room);
        self.current.extend_from_slice(&bytes[..taken]);
        if self.current.len() == PIECE {
            self.done.push(std::mem::take(&mut self.current));
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|at| (at / 7 + at % 251) as u8).collect()
    }

    fn unpacked(pieces: &[Vec<u8>]) -> Vec<u8> {
        zstd::decode_all(pieces.concat().as_slice()).unwrap()
    }

    #[test]
    fn both_ways_give_a_frame_of_the_same_content_with_its_size() {
        for count in [0, 1, 8_192, 3 << 20] {
            let content = bytes(count);
            let size = content.len() as u64;
            let whole = compress(&mut content.as_slice(), size).unwrap();
            let streamed = as_it_comes(&mut content.as_slice(), size).unwrap();
            assert_eq!(unpacked(&whole), content);
            assert_eq!(unpacked(&streamed), content);
            let frame = whole.concat();
            let told = zstd::zstd_safe::get_frame_content_size(&frame);
            assert_eq!(told.ok().flatten(), Some(size));
            // The last four bytes are its checksum.
            let mut flipped = frame.clone();
            *flipped.last_mut().unwrap() ^= 1;
            assert!(zstd::decode_all(flipped.as_slice()).is_err());
        }
        assert!(compress(&mut &b"short"[..], 6).is_err());
    }

    #[test]
    fn more_than_can_work_at_once_wait_for_a_place() {
        let content = bytes(100_000);
        std::thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| {
                    let size = content.len() as u64;
                    let packed = compress(&mut content.as_slice(), size).unwrap();
                    assert_eq!(unpacked(&packed), content);
                    // One that fails gives its place back.
                    assert!(compress(&mut content.as_slice(), 1 + size).is_err());
                });
            }
        });
    }
}
