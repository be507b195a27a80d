//! Numbers that look random and are the same in every run, and what they do to bytes.

/// Splitmix64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

/// Longest input that is made.
const LONGEST: usize = 64 << 10;

/// Texts that readers treat in a way of their own.
const WORDS: &[&str] = &[
    "0",
    "-1",
    "1",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775808",
    "4294967296",
    "1e999",
    "NaN",
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "\\u0000",
    "..",
    "/",
    "//",
    "../",
    "*",
    "?",
    ",",
    "-",
    "@every ",
    "TZ=",
    "h",
    "ns",
    "\u{0}",
    "\n",
    "\t",
    "é",
    "\u{202e}",
    "&a ",
    "*a",
    "<<: ",
    "!!",
    "---\n",
    "|",
    ">",
    "(file ",
    "0/0",
    "FFFFFFFF",
    "ustar\u{0}",
];

impl Random {
    /// The next number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; zero where there is none.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.any() % (end.max(1) as u64)).unwrap_or_default()
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }

    /// A neighbour of one of these: changed in one to eight places.
    pub fn neighbour(&mut self, of: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = self.pick(of).cloned().unwrap_or_default();
        for _ in 0..=self.below(8) {
            let other = self.pick(of).cloned().unwrap_or_default();
            self.change(&mut bytes, &other);
        }
        bytes.truncate(LONGEST);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len() + 1);
        let end = at + self.below(bytes.len() - at + 1);
        match self.below(9) {
            0 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
            1 => {
                let value = [0, 1, 0x7f, 0x80, 0xff, b' ', b'0', b'9'][self.below(8)];
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            2 => drop(bytes.drain(at..end)),
            3 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => {
                let word = WORDS[self.below(WORDS.len())].as_bytes();
                bytes.splice(at..at, word.iter().copied());
            }
            5 => {
                let word = WORDS[self.below(WORDS.len())].as_bytes();
                bytes.splice(at..end.min(at + 8), word.iter().copied());
            }
            6 => {
                let from = self.below(other.len() + 1);
                bytes.splice(at.., other[from..].iter().copied());
            }
            7 => self.number(bytes, at),
            _ => {
                let byte = self.any().to_le_bytes()[0];
                bytes.splice(at..at, [byte]);
            }
        }
    }

    /// Puts an extreme in place of eight bytes.
    fn number(&mut self, bytes: &mut [u8], at: usize) {
        let extremes = [0, 1, u64::MAX, 1 << 63, (1 << 63) - 1, 1 << 32, 1 << 60];
        let value = extremes[self.below(extremes.len())].to_le_bytes();
        for (byte, new) in bytes.iter_mut().skip(at).zip(value) {
            *byte = new;
        }
    }
}
