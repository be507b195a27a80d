//! The segment in work, as far as it is stored already: pieces of it, until the whole segment lies in the archive.

use jiff::Timestamp;

use crate::lsn::Lsn;

/// Digits of an offset: a segment has a GiB at most.
const DIGITS: usize = 8;

/// Bytes of a segment that were stored at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Piece {
    /// A crash may write other bytes behind the last whole record. So whoever begins to watch a server takes the next generation, and stores the segment from its
    /// first byte on; pieces of different generations are never put together.
    pub generation: u32,
    /// Offset of the first byte in the segment.
    pub from: u64,
    /// Offset of the byte behind the last.
    pub to: u64,
}

impl Piece {
    /// Name of its object.
    #[must_use]
    pub fn name(self) -> String {
        let Self {
            generation,
            from,
            to,
        } = self;
        format!("{generation:08X}-{from:08X}-{to:08X}")
    }

    /// Reads a name; anything else is none of ours.
    #[must_use]
    pub fn read(name: &str, segment_bytes: u64) -> Option<Self> {
        let mut parts = name.split('-').map(|part| {
            let is_hex = part.len() == DIGITS
                && part
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
            is_hex.then(|| u32::from_str_radix(part, 16).ok()).flatten()
        });
        let (generation, from, to) = (parts.next()??, parts.next()??, parts.next()??);
        let (from, to) = (u64::from(from), u64::from(to));
        let is_valid = parts.next().is_none() && from < to && to <= segment_bytes;
        is_valid.then_some(Self {
            generation,
            from,
            to,
        })
    }
}

/// The beginning of a segment, as pieces make it up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// In order, without a gap.
    pub pieces: Vec<Piece>,
    /// When the last of them was stored, by the store's clock.
    pub stored: Timestamp,
}

impl Tail {
    /// Chooses among what was found: the latest generation that has the first byte, as far as it goes on without a gap.
    #[must_use]
    pub fn of(found: &[(Piece, Timestamp)]) -> Option<Self> {
        let latest = found
            .iter()
            .filter(|(piece, _)| piece.from == 0)
            .map(|(piece, _)| piece.generation)
            .max()?;
        let mut tail = Self {
            pieces: Vec::new(),
            stored: Timestamp::MIN,
        };
        loop {
            let end = tail.end();
            // Whoever got no answer stores the same bytes again, and more.
            let next = found
                .iter()
                .filter(|(piece, _)| piece.generation == latest && piece.from == end)
                .max_by_key(|(piece, _)| piece.to);
            let Some((piece, stored)) = next else {
                return Some(tail);
            };
            tail.pieces.push(*piece);
            tail.stored = tail.stored.max(*stored);
        }
    }

    /// Offset of the byte behind the last one.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.pieces.last().map_or(0, |piece| piece.to)
    }

    /// Position of that byte, in a segment that begins here.
    #[must_use]
    pub fn end_lsn(&self, start: Lsn) -> Lsn {
        Lsn(start.0.saturating_add(self.end()))
    }
}

/// The generation that nobody has used yet.
#[must_use]
pub fn next_generation(found: impl IntoIterator<Item = Piece>) -> Option<u32> {
    let used = found.into_iter().map(|piece| piece.generation).max();
    used.map_or(Some(1), |used| used.checked_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 16 << 20;

    fn piece(generation: u32, from: u64, to: u64) -> (Piece, Timestamp) {
        let piece = Piece {
            generation,
            from,
            to,
        };
        let stored = Timestamp::from_second(i64::try_from(to).unwrap()).unwrap();
        (piece, stored)
    }

    fn ends(found: &[(Piece, Timestamp)]) -> Option<(u64, usize)> {
        Tail::of(found).map(|tail| (tail.end(), tail.pieces.len()))
    }

    #[test]
    fn a_name_is_read_as_it_was_written_and_nothing_else_is() {
        let (piece, _) = piece(3, 0x2000, BYTES);
        assert_eq!(piece.name(), "00000003-00002000-01000000");
        assert_eq!(Piece::read(&piece.name(), BYTES), Some(piece));
        for name in [
            "",
            "00000003-00002000",
            "00000003-00002000-01000001",
            "00000003-00002000-00002000",
            "00000003-00002000-00001000",
            "00000003-00002000-01000000-00000000",
            "3-2000-1000000",
            "0000000a-00002000-01000000",
            "+0000003-00002000-01000000",
        ] {
            assert_eq!(Piece::read(name, BYTES), None, "{name}");
        }
    }

    #[test]
    fn pieces_go_on_without_a_gap_and_generations_are_not_mixed() {
        assert_eq!(ends(&[]), None);
        assert_eq!(ends(&[piece(1, 10, 20)]), None);
        assert_eq!(ends(&[piece(1, 10, 20), piece(1, 0, 10)]), Some((20, 2)));
        assert_eq!(ends(&[piece(1, 0, 10), piece(1, 11, 20)]), Some((10, 1)));
        // What follows the crash begins anew, and what was stored before it goes no further.
        let crashed = [piece(1, 0, 10), piece(2, 0, 8), piece(1, 10, 30)];
        assert_eq!(ends(&crashed), Some((8, 1)));
        assert_eq!(
            ends(&[piece(2, 10, 20), piece(1, 0, 10), piece(1, 10, 12)]),
            Some((12, 2))
        );
        // An answer that was lost: the longer one counts.
        let twice = [piece(1, 0, 10), piece(1, 10, 12), piece(1, 10, 15)];
        assert_eq!(ends(&twice), Some((15, 2)));
        let tail = Tail::of(&twice).unwrap();
        assert_eq!(tail.stored.as_second(), 15);
        assert_eq!(tail.end_lsn(Lsn(BYTES)), Lsn(BYTES + 15));
    }

    #[test]
    fn a_generation_is_never_used_twice() {
        assert_eq!(next_generation([]), Some(1));
        assert_eq!(
            next_generation([piece(7, 0, 1).0, piece(2, 0, 1).0]),
            Some(8)
        );
        assert_eq!(next_generation([piece(u32::MAX, 0, 1).0]), None);
    }
}
