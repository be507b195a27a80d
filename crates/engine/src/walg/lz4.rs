//! Frames of lz4. The decoder takes an end between two blocks for the end of all; this one knows that the frame has not ended there.

use std::io::{self, Read};

/// Reads frames, one after another; an end within one is an error, and so is nothing at all.
pub(super) struct Frames<R: Read> {
    decoder: lz4_flex::frame::FrameDecoder<Followed<R>>,
}

impl<R: Read> Frames<R> {
    pub(super) fn new(packed: R) -> Self {
        let followed = Followed {
            inner: packed,
            part: Part::Begin,
            left: 4,
            buffer: 0,
            flags: 0,
            frames: 0,
        };
        Self {
            decoder: lz4_flex::frame::FrameDecoder::new(followed),
        }
    }
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let before = self.decoder.get_ref().frames;
            let read = self.decoder.read(buffer)?;
            let followed = self.decoder.get_ref();
            match read {
                0 if !followed.is_whole() => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "it ends within a frame of lz4",
                    ));
                }
                // The decoder stops behind a frame, and goes on with the next when it is asked again.
                0 if followed.frames > before => {}
                read => return Ok(read),
            }
        }
    }
}

/// Follows the frames as they pass.
struct Followed<R> {
    inner: R,
    part: Part,
    /// Bytes of the part that are still to come.
    left: u64,
    /// Those of it that came, as a little-endian number.
    buffer: u64,
    flags: u8,
    frames: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The four bytes by which a frame begins.
    Begin,
    Flags,
    /// What else stands before the first block.
    Head,
    /// How long the next block is; zero ends the frame.
    Length,
    Block,
    /// A checksum behind the last block.
    Sum,
}

impl<R> Followed<R> {
    fn is_whole(&self) -> bool {
        self.part == Part::Begin && self.left == 4 && self.frames > 0
    }

    fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken =
                usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
            let (seen, rest) = bytes.split_at(taken);
            if self.part != Part::Block {
                for byte in seen {
                    self.buffer = (self.buffer >> 8) | (u64::from(*byte) << 56);
                }
            }
            bytes = rest;
            self.left -= taken as u64;
            while self.left == 0 {
                self.next();
            }
        }
    }

    /// What comes behind a part that is complete.
    fn next(&mut self) {
        let has = |flags: u8, bit: u8| flags & bit != 0;
        (self.part, self.left) = match self.part {
            Part::Begin => (Part::Flags, 1),
            Part::Flags => {
                self.flags = (self.buffer >> 56) as u8;
                let size = if has(self.flags, 0x08) { 8 } else { 0 };
                let dictionary = if has(self.flags, 0x01) { 4 } else { 0 };
                (Part::Head, 2 + size + dictionary)
            }
            Part::Head => (Part::Length, 4),
            Part::Length => match (self.buffer >> 32) as u32 {
                0 if has(self.flags, 0x04) => (Part::Sum, 4),
                0 => self.end(),
                length => {
                    let sum = if has(self.flags, 0x10) { 4 } else { 0 };
                    (Part::Block, u64::from(length & 0x7fff_ffff) + sum)
                }
            },
            Part::Block => (Part::Length, 4),
            Part::Sum => self.end(),
        };
    }

    fn end(&mut self) -> (Part, u64) {
        self.frames += 1;
        (Part::Begin, 4)
    }
}

impl<R: Read> Read for Followed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.follow(&buffer[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

    use super::*;

    fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        Frames::new(packed).read_to_end(&mut content)?;
        Ok(content)
    }

    #[test]
    fn t02_a_frame_that_is_cut_anywhere_is_not_taken_for_whole() {
        // Zeros too: an end between two blocks must not look like the end of the frame.
        let content: Vec<u8> = (0..200_000_u32)
            .map(|at| if at < 150_000 { 0 } else { (at / 7) as u8 })
            .collect();
        for (sum, sums, size) in [
            (false, false, None),
            (true, false, Some(200_000)),
            (true, true, None),
        ] {
            let info = FrameInfo::new()
                .block_size(BlockSize::Max64KB)
                .block_mode(BlockMode::Linked)
                .content_checksum(sum)
                .block_checksums(sums)
                .content_size(size);
            let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(&content).unwrap();
            let packed = encoder.finish().unwrap();
            assert_eq!(unpack(&packed).unwrap(), content);
            let twice = [packed.as_slice(), &packed].concat();
            assert_eq!(unpack(&twice).unwrap().len(), 2 * content.len());
            for length in (0..packed.len())
                .step_by(13)
                .chain(packed.len() - 20..packed.len())
            {
                assert!(
                    unpack(&packed[..length]).is_err(),
                    "{length} of {}",
                    packed.len()
                );
                assert!(
                    length == 0 || unpack(&twice[..packed.len() + length]).is_err(),
                    "{length}"
                );
            }
        }
    }
}
