//! Pages of a file that have changed since an earlier backup: `wi1` and 0x55, the file's length (8 bytes, little-endian), how many pages (4 bytes), their
//! numbers (4 bytes each), and the pages.

use crate::postgres::page::{PAGE_BYTES, SEGMENT_PAGES};

const MAGIC: [u8; 4] = [b'w', b'i', b'1', 0x55];
/// The same of increments as PostgreSQL 17 makes them itself.
const NATIVE: [u8; 4] = 0xd3ae_1f0d_u32.to_le_bytes();
/// Bytes before the numbers.
const HEAD: usize = 16;

/// Reads one as it arrives.
#[derive(Default)]
pub(super) struct Increment {
    /// Head and numbers, until both are complete; then a page in the making.
    buffer: Vec<u8>,
    head: Option<Head>,
    /// Pages that were given out.
    done: usize,
}

struct Head {
    bytes: u64,
    blocks: Vec<u32>,
}

impl Increment {
    /// Takes a piece of any length, and gives out pages that are whole, by their number.
    pub(super) fn feed(
        &mut self,
        mut piece: &[u8],
        page: &mut impl FnMut(u32, &[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        while !piece.is_empty() {
            let wanted = self.wanted()?;
            if wanted == 0 {
                return Err("bytes follow its last page".to_owned());
            }
            let taken = piece.len().min(wanted - self.buffer.len());
            self.buffer.extend_from_slice(&piece[..taken]);
            piece = &piece[taken..];
            if self.buffer.len() < wanted {
                return Ok(());
            }
            match &self.head {
                None if self.buffer.len() > HEAD || count(&self.buffer)? == 0 => self.begin()?,
                None => {}
                Some(head) => {
                    let block = head.blocks.get(self.done).copied().unwrap_or(u32::MAX);
                    page(block, &self.buffer)?;
                    self.done += 1;
                    self.buffer.clear();
                }
            }
        }
        Ok(())
    }

    /// Length that the buffer is to have.
    fn wanted(&self) -> Result<usize, String> {
        match &self.head {
            None if self.buffer.len() < HEAD => Ok(HEAD),
            None => Ok(HEAD + 4 * count(&self.buffer)?),
            Some(head) if self.done < head.blocks.len() => Ok(PAGE_BYTES),
            Some(_) => Ok(0),
        }
    }

    fn begin(&mut self) -> Result<(), String> {
        let bytes = self
            .buffer
            .get(4..12)
            .and_then(|bytes| bytes.try_into().ok());
        let bytes = bytes.map_or(0, u64::from_le_bytes);
        let numbers = self.buffer.get(HEAD..).unwrap_or_default();
        let blocks: Vec<u32> = numbers
            .as_chunks::<4>()
            .0
            .iter()
            .map(|number| u32::from_le_bytes(*number))
            .collect();
        let pages = bytes / PAGE_BYTES as u64;
        if bytes % PAGE_BYTES as u64 != 0 || pages > u64::from(SEGMENT_PAGES) {
            return Err(format!("it is of a file of {bytes} bytes"));
        }
        if let Some(beyond) = blocks.iter().find(|block| u64::from(**block) >= pages) {
            return Err(format!("page {beyond} lies behind the file's end"));
        }
        self.buffer.clear();
        self.head = Some(Head { bytes, blocks });
        Ok(())
    }

    /// The file's length, once everything is there.
    pub(super) fn finish(&self) -> Result<u64, String> {
        match &self.head {
            Some(head) if self.done == head.blocks.len() && self.buffer.is_empty() => {
                Ok(head.bytes)
            }
            _ => Err("it ends too early".to_owned()),
        }
    }
}

/// Number of pages that a complete head tells.
fn count(head: &[u8]) -> Result<usize, String> {
    if head.starts_with(&NATIVE) {
        return Err(
            "it is an increment as PostgreSQL 17 makes them itself, which is not read here"
                .to_owned(),
        );
    }
    if !head.starts_with(&MAGIC) {
        return Err("it is no increment".to_owned());
    }
    let count = head.get(12..HEAD).and_then(|count| count.try_into().ok());
    let count = count.map_or(u32::MAX, u32::from_le_bytes);
    if count > SEGMENT_PAGES {
        return Err(format!("it has {count} pages, more than any file"));
    }
    usize::try_from(count).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn increment(pages: u32, blocks: &[u32]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend((u64::from(pages) * PAGE_BYTES as u64).to_le_bytes());
        bytes.extend(u32::try_from(blocks.len()).unwrap().to_le_bytes());
        bytes.extend(blocks.iter().flat_map(|block| block.to_le_bytes()));
        for block in blocks {
            bytes.extend(vec![u8::try_from(*block).unwrap(); PAGE_BYTES]);
        }
        bytes
    }

    fn read(bytes: &[u8], piece: usize) -> Result<(u64, Vec<u32>), String> {
        let (mut read, mut seen) = (Increment::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            read.feed(piece, &mut |block, page| {
                assert_eq!(page, vec![u8::try_from(block).unwrap(); PAGE_BYTES]);
                seen.push(block);
                Ok(())
            })?;
        }
        Ok((read.finish()?, seen))
    }

    #[test]
    fn t17_pages_come_out_by_their_number_however_they_arrive() {
        for piece in [1, 3, 16, 20, 8192, 100_000] {
            assert_eq!(
                read(&increment(5, &[1, 4]), piece).unwrap(),
                (5 * 8192, vec![1, 4])
            );
            assert_eq!(read(&increment(2, &[]), piece).unwrap(), (2 * 8192, vec![]));
        }
    }

    #[test]
    fn t17_what_is_cut_or_leads_beyond_the_file_is_refused() {
        let whole = increment(5, &[1, 4]);
        for length in [0, 4, 15, 16, 23, 24, 8192, whole.len() - 1] {
            assert!(read(&whole[..length], 100).is_err(), "{length}");
        }
        let mut more = whole.clone();
        more.push(0);
        assert!(read(&more, 100).is_err());
        assert!(read(&increment(4, &[4]), 100).is_err());
        let mut native = whole;
        native[..4].copy_from_slice(&NATIVE);
        assert!(read(&native, 100).unwrap_err().contains("PostgreSQL 17"));
        let mut many = MAGIC.to_vec();
        many.extend(8192_u64.to_le_bytes());
        many.extend(u32::MAX.to_le_bytes());
        assert!(read(&many, 7).unwrap_err().contains("more than any file"));
    }
}
