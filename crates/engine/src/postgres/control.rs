//! `global/pg_control`: what a cluster says of itself before anything of it is started.
//!
//! The file is a C structure as x86-64 and arm64 lay it out (little endian, 8-byte alignment), closed by a CRC-32C.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use kubedb_core::lsn::Lsn;

/// Where the file lies below the data folder.
pub const CONTROL_FILE: &str = "global/pg_control";

/// What a cluster says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// Made by initdb; standbys and restored copies share it.
    pub system_identifier: u64,
    /// Layout of this file: 960 for 9.6, 1002, 1100 and 1201 for 10 to 12, 1300 for 13 to 16, 1700 and 1800 for 17 and 18.
    pub control_version: u32,
    /// Layout of the system catalogs.
    pub catalog_version: u32,
    /// What the cluster was doing when the file was written.
    pub state: ClusterState,
    /// Position of the last checkpoint record.
    pub checkpoint: Lsn,
    /// Where recovery from that checkpoint begins.
    pub redo: Lsn,
    /// Timeline of that checkpoint.
    pub timeline: u32,
    /// Position up to which a recovering cluster must replay to be consistent; zero on a primary.
    pub minimum_recovery_end: Lsn,
    /// Start of the backup this cluster is recovering from; zero else.
    pub backup_start: Lsn,
    /// `max_connections` of the primary; a standby needs at least as much, as of the next four.
    pub max_connections: u32,
    /// `max_worker_processes`.
    pub max_worker_processes: u32,
    /// `max_wal_senders`; recorded from 12 on.
    pub max_wal_senders: Option<u32>,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: u32,
    /// Bytes of a data page.
    pub block_bytes: u32,
    /// Pages in one file of a relation.
    pub segment_blocks: u32,
    /// Bytes of a WAL segment.
    pub wal_segment_bytes: u32,
    /// Zero without data checksums, else their version.
    pub checksum_version: u32,
}

/// What a cluster was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// Being made by initdb or a single-user server.
    StartingUp,
    /// Stopped cleanly.
    ShutDown,
    /// A standby that was stopped cleanly.
    ShutDownInRecovery,
    /// Writing its last checkpoint.
    ShuttingDown,
    /// Recovering after a crash.
    InCrashRecovery,
    /// A standby, or a restore that replays.
    InArchiveRecovery,
    /// A primary that runs, or was killed.
    InProduction,
    /// A state of a later PostgreSQL.
    Unknown(u32),
}

/// Why the control file gives no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadControlError {
    /// The file could not be read.
    #[error("failed to read {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file ends too early.
    #[error("failed to read pg_control: {bytes} bytes are too few, at least {needed} are expected")]
    Short {
        /// Bytes found.
        bytes: usize,
        /// Bytes that this layout has.
        needed: usize,
    },
    /// A layout that is not built.
    #[error(
        "failed to read pg_control of layout {version}: it is of none of the versions 9.6 to 18"
    )]
    Layout {
        /// What the file says.
        version: u32,
    },
    /// The content does not fit its checksum.
    #[error(
        "failed to verify pg_control: CRC {stored:08x} is stored, its content gives {computed:08x}"
    )]
    Checksum {
        /// What the file says.
        stored: u32,
        /// What its content gives.
        computed: u32,
    },
}

/// Where fields lie in a layout. What stands behind the copy of the last checkpoint keeps its distances, but that 12 and later put
/// `max_wal_senders` between two older fields.
#[derive(Clone, Copy)]
struct Layout {
    /// The copy of the last checkpoint record.
    checkpoint_copy: usize,
    /// The first field behind it that is read: `minimum_recovery_end`.
    recovery: usize,
    has_max_wal_senders: bool,
    crc: usize,
}

const VERSION: usize = 8;

/// Up to 10 the checkpoint before the last is recorded too, so the copy of the last stands 8 bytes later.
const LAYOUT_960: Layout = Layout {
    checkpoint_copy: 48,
    recovery: 136,
    has_max_wal_senders: false,
    crc: 256,
};

/// 10 and later keep a nonce of 32 bytes before the CRC.
const LAYOUT_1002: Layout = Layout {
    crc: 288,
    ..LAYOUT_960
};

/// 11 has no checkpoint before the last any more.
const LAYOUT_1100: Layout = Layout {
    checkpoint_copy: 40,
    recovery: 128,
    has_max_wal_senders: false,
    crc: 280,
};

/// From 12 on transaction ids have 64 bits in the copy of the checkpoint, which makes it 8 bytes longer.
const LAYOUT_1201: Layout = Layout {
    checkpoint_copy: 40,
    recovery: 136,
    has_max_wal_senders: true,
    crc: 288,
};

/// 18 records whether `char` is signed.
const LAYOUT_1800: Layout = Layout {
    crc: 292,
    ..LAYOUT_1201
};

impl Layout {
    fn of(version: u32) -> Option<Self> {
        match version {
            960 => Some(LAYOUT_960),
            1002 => Some(LAYOUT_1002),
            1100 => Some(LAYOUT_1100),
            1201 | 1300 | 1700 => Some(LAYOUT_1201),
            1800 => Some(LAYOUT_1800),
            _ => None,
        }
    }
}

impl ControlFile {
    /// Reads the file of a data folder. PostgreSQL writes it in one write of 8 KiB, which is not atomic for a reader
    /// of a running cluster: a checksum that does not fit there is worth a second try by the caller.
    pub fn read(data_folder: &Path) -> Result<Self, ReadControlError> {
        let path = data_folder.join(CONTROL_FILE);
        let bytes = fs::read(&path).map_err(|source| ReadControlError::Open { path, source })?;
        Self::parse(&bytes)
    }

    /// Settings that a server which recovers on it must have at least as high, as far as they are known.
    #[must_use]
    pub fn needs(&self) -> BTreeMap<String, u64> {
        let known = [
            ("max_connections", Some(self.max_connections)),
            ("max_worker_processes", Some(self.max_worker_processes)),
            (
                "max_prepared_transactions",
                Some(self.max_prepared_transactions),
            ),
            (
                "max_locks_per_transaction",
                Some(self.max_locks_per_transaction),
            ),
            ("max_wal_senders", self.max_wal_senders),
        ];
        let known = known.into_iter();
        known
            .filter_map(|(name, value)| Some((name.to_owned(), value?.into())))
            .collect()
    }

    /// Reads the bytes of the file. The padding after the structure is not needed.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReadControlError> {
        let version = u32_at(bytes, VERSION)?;
        let layout = Layout::of(version).ok_or(ReadControlError::Layout { version })?;
        let stored = u32_at(bytes, layout.crc)?;
        let computed = crc32c(&bytes[..layout.crc]);
        if stored != computed {
            return Err(ReadControlError::Checksum { stored, computed });
        }
        let u32_of = |at| u32_at(bytes, at);
        let lsn_of = |at| u64_at(bytes, at).map(Lsn);
        let behind = |distance| u32_at(bytes, layout.recovery + distance);
        let senders = layout.has_max_wal_senders.then(|| behind(52)).transpose()?;
        let next = if senders.is_some() { 56 } else { 52 };
        Ok(Self {
            system_identifier: u64_at(bytes, 0)?,
            control_version: version,
            catalog_version: u32_of(12)?,
            state: ClusterState::of(u32_of(16)?),
            checkpoint: lsn_of(32)?,
            redo: lsn_of(layout.checkpoint_copy)?,
            timeline: u32_of(layout.checkpoint_copy + 8)?,
            minimum_recovery_end: lsn_of(layout.recovery)?,
            backup_start: lsn_of(layout.recovery + 16)?,
            max_connections: behind(44)?,
            max_worker_processes: behind(48)?,
            max_wal_senders: senders,
            max_prepared_transactions: behind(next)?,
            max_locks_per_transaction: behind(next + 4)?,
            block_bytes: behind(80)?,
            segment_blocks: behind(84)?,
            wal_segment_bytes: behind(92)?,
            checksum_version: behind(116)?,
        })
    }
}

impl ClusterState {
    fn of(number: u32) -> Self {
        match number {
            0 => Self::StartingUp,
            1 => Self::ShutDown,
            2 => Self::ShutDownInRecovery,
            3 => Self::ShuttingDown,
            4 => Self::InCrashRecovery,
            5 => Self::InArchiveRecovery,
            6 => Self::InProduction,
            other => Self::Unknown(other),
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, ReadControlError> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, ReadControlError> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], ReadControlError> {
    bytes
        .get(at..at + N)
        .and_then(|part| part.try_into().ok())
        .ok_or(ReadControlError::Short {
            bytes: bytes.len(),
            needed: at + N,
        })
}

/// CRC-32C (Castagnoli, reflected) bit by bit: the input is 300 bytes, a table would be longer than what it saves.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (POLYNOMIAL & (sum & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_is_the_published_one() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
    }

    #[test]
    fn what_is_no_control_file_is_refused() {
        assert!(matches!(
            ControlFile::parse(b""),
            Err(ReadControlError::Short {
                bytes: 0,
                needed: 12
            })
        ));
        let mut bytes = [0; 300];
        bytes[8..12].copy_from_slice(&1900u32.to_le_bytes());
        assert!(matches!(
            ControlFile::parse(&bytes),
            Err(ReadControlError::Layout { version: 1900 })
        ));
        bytes[8..12].copy_from_slice(&1300u32.to_le_bytes());
        assert!(matches!(
            ControlFile::parse(&bytes),
            Err(ReadControlError::Checksum { stored: 0, .. })
        ));
        assert!(matches!(
            ControlFile::parse(&bytes[..290]),
            Err(ReadControlError::Short { needed: 292, .. })
        ));
    }
}
