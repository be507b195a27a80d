//! Compressing WAL: one frame, with its size and a checksum.

use std::io::{self, BufReader, Read};

use kubedb_core::codec::Density;

use crate::encryption::{CHUNK, TAG};

/// Bytes of compressed WAL that are kept in one piece, and encrypted as one.
const PIECE: usize = CHUNK;

/// Bytes that are read at once: a block of the codec.
const READ: usize = 128 << 10;

/// `bytes` must be what comes. Blocks. Compressing a segment as a whole was tried: it took twice the memory, and its storing no less time.
pub(super) fn compress(
    from: &mut impl Read,
    bytes: u64,
    density: Density,
) -> io::Result<Vec<Vec<u8>>> {
    let mut encoder = zstd::Encoder::new(Pieces::default(), density.level())?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(Some(bytes))?;
    io::copy(&mut BufReader::with_capacity(READ, from), &mut encoder)?;
    Ok(encoder.finish()?.whole())
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

    #[test]
    fn a_frame_has_the_content_its_size_and_its_checksum() {
        let densities = [Density::Loose, Density::Usual, Density::Dense];
        let counts = [0, 1, 8_192, 3 << 20];
        for (count, density) in counts
            .into_iter()
            .flat_map(|count| densities.map(|one| (count, one)))
        {
            let content: Vec<u8> = (0..count).map(|at| (at / 7 + at % 251) as u8).collect();
            let size = content.len() as u64;
            let frame = compress(&mut content.as_slice(), size, density)
                .unwrap()
                .concat();
            assert_eq!(zstd::decode_all(frame.as_slice()).unwrap(), content);
            let told = zstd::zstd_safe::get_frame_content_size(&frame);
            assert_eq!(told.ok().flatten(), Some(size));
            // The last four bytes are its checksum.
            let mut flipped = frame.clone();
            *flipped.last_mut().unwrap() ^= 1;
            assert!(zstd::decode_all(flipped.as_slice()).is_err());
        }
        assert!(compress(&mut &b"short"[..], 6, Density::Usual).is_err());
    }
}
