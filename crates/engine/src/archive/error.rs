//! What can go wrong with an archive.

use crate::{encryption::KeyError, store::StoreError};

/// Why WAL could not be stored or fetched.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A name that PostgreSQL never gives to its archive.
    #[error("failed to archive {name:?}: it is no file of WAL")]
    Name {
        /// The name.
        name: String,
    },
    /// The file could not be read.
    #[error("failed to read {name}")]
    Read {
        /// Name of the file.
        name: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what its name says. It is not stored.
    #[error("failed to archive {name}: {reason}")]
    Wrong {
        /// Name of the file.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The object is not what its name says, or is damaged.
    #[error("failed to use {name} of archive {label}: {reason}")]
    Damaged {
        /// Name of the file.
        name: String,
        /// The store.
        label: String,
        /// What is wrong.
        reason: String,
    },
    /// The object lies there in the clear, where everything is encrypted.
    #[error(
        "failed to use {name} of archive {label}: it lies there in the clear, and what belongs there is encrypted: somebody else has put it there, so that nobody can tell what is in it. Without encryption beside the archive what lies in the clear is read"
    )]
    Unsealed {
        /// Name of the file.
        name: String,
        /// The store.
        label: String,
    },
    /// An object of this name holds other WAL: two servers write to one archive.
    #[error(
        "failed to archive {name}: {label} holds other WAL under this name. Two servers have written to one archive; it is not overwritten, and this server's WAL is kept on its disk until somebody decides"
    )]
    Conflict {
        /// Name of the file.
        name: String,
        /// The store.
        label: String,
    },
    /// The store lost what it took.
    #[error("failed to archive {name}: {label} took {sent} bytes and shows {shown}")]
    Lost {
        /// Name of the file.
        name: String,
        /// The store.
        label: String,
        /// Bytes that were sent.
        sent: u64,
        /// Bytes that it shows.
        shown: u64,
    },
    /// An object that was listed is not there any more.
    #[error("failed to fetch {name}: it is gone from {label}")]
    Gone {
        /// Name of the file.
        name: String,
        /// The store.
        label: String,
    },
    /// A Snapshot's manifest makes no sense, and may need anything.
    #[error("failed to read {manifest}, and what it needs is unknown: {reason}")]
    Unread {
        /// Key of the manifest.
        manifest: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file could not be written.
    #[error("failed to write {name}")]
    Write {
        /// Name of the file.
        name: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Nobody wants it any more.
    #[error("failed to fetch WAL: it was cancelled")]
    Cancelled,
    /// There is no key to it.
    #[error(transparent)]
    Key(KeyError),
    /// The store could not be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A worker died.
    #[error("failed to compress or to unpack: a worker died")]
    Worker,
}

impl From<KeyError> for ArchiveError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Store(error) => Self::Store(error),
            error => Self::Key(error),
        }
    }
}

impl ArchiveError {
    /// Whether the same request may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_retryable(),
            Self::Key(error) => error.is_retryable(),
            Self::Worker | Self::Lost { .. } => true,
            _ => false,
        }
    }
}
