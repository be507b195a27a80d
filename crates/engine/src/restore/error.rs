//! Why a Snapshot was not restored.

use std::io;

use crate::{
    repository::{manifest::ReadManifestError, map::MapError},
    store::StoreError,
};

/// Why a Snapshot was not restored, in words for the user of the database. Nothing of it is left on disk.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The manifest cannot be used.
    #[error(transparent)]
    Manifest(#[from] ReadManifestError),
    /// The store did not give what we asked for.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The Snapshot is of another major.
    #[error(
        "failed to restore Snapshot {snapshot}: it holds PostgreSQL {theirs}, this database runs PostgreSQL {ours}"
    )]
    OtherMajor {
        /// Name of the Snapshot.
        snapshot: String,
        /// Version that was backed up.
        theirs: String,
        /// Version that would run on it.
        ours: String,
    },
    /// Indexes on text would be in an order that this machine does not know.
    #[error(
        "failed to restore Snapshot {snapshot}: database {database:?} sorts by {collation:?} of {theirs}, this machine has {ours}"
    )]
    OtherLibc {
        /// Name of the Snapshot.
        snapshot: String,
        /// A database that is not sorted by bytes.
        database: String,
        /// Its collation.
        collation: String,
        /// C library that sorted it.
        theirs: String,
        /// C library of this machine.
        ours: String,
    },
    /// There is something where the data would go.
    #[error("failed to restore into {folder}: it is not empty")]
    NotEmpty {
        /// The folder.
        folder: String,
    },
    /// Not enough room.
    #[error("failed to restore into {folder}: {needed} bytes are needed, {free} are free")]
    Space {
        /// The data folder.
        folder: String,
        /// Bytes of the Snapshot.
        needed: u64,
        /// Bytes left on the disk.
        free: u64,
    },
    /// An object of the Snapshot is gone.
    #[error("failed to restore Snapshot {snapshot}: object {object} is missing in {label}")]
    Missing {
        /// Name of the Snapshot.
        snapshot: String,
        /// Key of the object.
        object: String,
        /// The store.
        label: String,
    },
    /// An object is not what was written.
    #[error(
        "failed to restore Snapshot {snapshot}: object {object} in {label} is damaged: {reason}"
    )]
    Damaged {
        /// Name of the Snapshot.
        snapshot: String,
        /// Key of the object.
        object: String,
        /// The store.
        label: String,
        /// What is wrong, with the file that it concerns.
        reason: String,
    },
    /// A list of files is not what was written.
    #[error("failed to restore Snapshot {snapshot}: {object} cannot be used: {source}")]
    Map {
        /// Name of the Snapshot.
        snapshot: String,
        /// Key of the object.
        object: String,
        /// Why.
        #[source]
        source: MapError,
    },
    /// The Snapshot lacks a file without which a server does not start, or would start wrongly.
    #[error("failed to restore Snapshot {snapshot}: it holds no {path}")]
    Incomplete {
        /// Name of the Snapshot.
        snapshot: String,
        /// The file.
        path: String,
    },
    /// The disk did not take it.
    #[error("failed to write {path}: {source}")]
    Write {
        /// File or folder.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The caller wanted no more of it.
    #[error("failed to complete the restore: it was cancelled")]
    Cancelled,
    /// A worker ended without a word; a defect of this program.
    #[error("failed to complete the restore: a worker ended early")]
    Worker,
}

impl RestoreError {
    /// Whether somebody may make the same restore work: by other keys, or by a bucket.
    #[must_use]
    pub fn is_mendable(&self) -> bool {
        let store = match self {
            Self::Store(source) | Self::Manifest(ReadManifestError::Read(source)) => source,
            _ => return false,
        };
        matches!(
            store,
            StoreError::Denied { .. } | StoreError::MissingBucket { .. }
        )
    }

    /// Whether trying again may succeed without anybody changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Store(source) => source.is_retryable(),
            Self::Manifest(source) => source.is_retryable(),
            // Room can be made.
            Self::Space { .. } | Self::Worker => true,
            Self::Write { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            _ => false,
        }
    }
}
