//! Pages of a data file: checksum, LSN, and telling a page that was never used.
//!
//! The checksum is the one PostgreSQL writes since 9.3: 32 interleaved FNV-1a sums, folded, mixed with the
//! block number so that a page in the wrong place does not pass.

use kubedb_core::lsn::Lsn;

/// Size of a page in every build we run; `pg_control` is checked against it.
pub const PAGE_BYTES: usize = 8_192;

/// Pages in one file of a relation: 1 GiB.
pub const SEGMENT_PAGES: u32 = 131_072;

const SUMS: usize = 32;
const PRIME: u32 = 16_777_619;
const CHECKSUM_OFFSET: usize = 8;

/// Where the sums start, so that equal columns do not cancel out. Part of PostgreSQL's format.
const OFFSETS: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// What a page is found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageState {
    /// All zero: allocated and never written.
    New,
    /// The checksum fits.
    Good,
    /// The checksum does not fit: torn while it was read, or damaged.
    Bad {
        /// What the page says.
        stored: u16,
        /// What its content gives.
        computed: u16,
    },
}

/// Checks one page. `block` counts from the start of the relation, not of the file.
#[must_use]
pub fn verify(page: &[u8; PAGE_BYTES], block: u32) -> PageState {
    if page.iter().all(|byte| *byte == 0) {
        return PageState::New;
    }
    let stored = u16::from_le_bytes([page[CHECKSUM_OFFSET], page[CHECKSUM_OFFSET + 1]]);
    let computed = checksum(page, block);
    if stored == computed {
        PageState::Good
    } else {
        PageState::Bad { stored, computed }
    }
}

/// LSN of the last change of a page.
#[must_use]
pub fn lsn(page: &[u8; PAGE_BYTES]) -> Lsn {
    let word = |at: usize| {
        u64::from(u32::from_le_bytes([
            page[at],
            page[at + 1],
            page[at + 2],
            page[at + 3],
        ]))
    };
    Lsn(word(0) << 32 | word(4))
}

/// The checksum that a page with this content must carry. The field that holds it counts as zero.
#[must_use]
pub fn checksum(page: &[u8; PAGE_BYTES], block: u32) -> u16 {
    let mut sums = OFFSETS;
    let (rows, _) = page.as_chunks::<{ 4 * SUMS }>();
    for (row, bytes) in rows.iter().enumerate() {
        let (words, _) = bytes.as_chunks::<4>();
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum = mix(*sum, u32::from_le_bytes(*word));
        }
        if row == 0 {
            let column = CHECKSUM_OFFSET / 4;
            let (words, _) = bytes.as_chunks::<4>();
            let value = u32::from_le_bytes(words[column]) & 0xFFFF_0000;
            sums[column] = mix(OFFSETS[column], value);
        }
    }
    for _ in 0..2 {
        for sum in &mut sums {
            *sum = mix(*sum, 0);
        }
    }
    let folded = sums.into_iter().fold(0, |all, sum| all ^ sum) ^ block;
    // Zero means "no checksum", so the result is 1 to 65535.
    u16::try_from(folded % 65_535 + 1).unwrap_or(u16::MAX)
}

fn mix(sum: u32, value: u32) -> u32 {
    let mixed = sum ^ value;
    mixed.wrapping_mul(PRIME) ^ (mixed >> 17)
}
