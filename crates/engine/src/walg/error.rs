//! Why a base backup of wal-g's layout was not restored.

use std::io;

use crate::{archive::ArchiveError, restore::RestoreError, store::StoreError, tar::TarError};

/// Why a base backup was not restored. Nothing of it is left on disk.
#[derive(Debug, thiserror::Error)]
pub enum WalgError {
    /// It is of a kind that is not read here. Nothing was written.
    #[error("failed to restore base backup {backup}: {reason}")]
    Refused {
        /// The backup.
        backup: String,
        /// What it is, and what to do.
        reason: String,
    },
    /// An object of it is not what it should be.
    #[error("failed to restore base backup {backup}: {object} in {label} is damaged: {reason}")]
    Damaged {
        /// The backup.
        backup: String,
        /// Key of the object.
        object: String,
        /// The store.
        label: String,
        /// What is wrong.
        reason: String,
    },
    /// What it says or holds does not fit together.
    #[error("failed to restore base backup {backup}: {reason}")]
    Incomplete {
        /// The backup.
        backup: String,
        /// What is wrong.
        reason: String,
    },
    /// What was unpacked has pages that PostgreSQL did not write so.
    #[error("failed to restore base backup {backup}: {what} in {file}, and {more} more like it")]
    Pages {
        /// The backup.
        backup: String,
        /// The first file.
        file: String,
        /// What is wrong in it.
        what: String,
        /// Further findings.
        more: usize,
    },
    /// The disk did not take it.
    #[error("failed to write {path}")]
    Write {
        /// File or folder.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no place for it, or what was written could not be read again.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// Its WAL could not be used.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The store could not be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The caller wanted no more of it.
    #[error("failed to complete the restore: it was cancelled")]
    Cancelled,
    /// A worker ended without a word; a defect of this program.
    #[error("failed to complete the restore: a worker ended early")]
    Worker,
}

impl WalgError {
    /// Whether trying again may succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_retryable(),
            Self::Archive(error) => error.is_retryable(),
            Self::Restore(error) => error.is_retryable(),
            Self::Cancelled | Self::Worker => true,
            Self::Write { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            _ => false,
        }
    }

    /// Whether somebody may make the same restore work, by other keys or a bucket.
    #[must_use]
    pub fn is_mendable(&self) -> bool {
        matches!(
            self,
            Self::Store(
                StoreError::Denied { .. }
                    | StoreError::Forbidden { .. }
                    | StoreError::MissingBucket { .. }
            )
        )
    }
}

/// Why what an archive holds was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnpackError {
    /// The archive is damaged, or holds what it must not.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// What it holds makes no sense.
    #[error("{path}: {reason}")]
    Wrong { path: String, reason: String },
    /// The disk did not take it.
    #[error("failed to write {path}")]
    Write {
        path: String,
        #[source]
        source: io::Error,
    },
}
