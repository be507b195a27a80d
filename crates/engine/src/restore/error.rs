//! Why a Snapshot was not restored.

use std::io;

use crate::{
    encryption::KeyError,
    repository::{
        manifest::{OpenManifestError, ReadManifestError},
        map::MapError,
    },
    store::StoreError,
};

/// What is left to do when a Snapshot cannot be had as it was.
const OTHERS: &str = "restore another Snapshot; kubedb get snap --all-namespaces lists them";

/// The same for one that is not where it is looked for.
const GONE: &str = "it was deleted, or written to another bucket or prefix. Restore another Snapshot; kubedb get snap --all-namespaces lists them";

/// Why a Snapshot was not restored, in words for the user of the database. Nothing of it is left on disk, but in a folder that held something before.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The manifest cannot be used.
    #[error("{0}; {advice}", advice = advice(.0))]
    Manifest(#[source] ReadManifestError),
    /// There is no key to it.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The store did not give what we asked for.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The Snapshot holds schemas and rows.
    #[error(
        "failed to read Snapshot {snapshot} as a data folder: it is logical and holds SQL, which a new database restores (init.snapshotSource) and kubedb repo export writes as dumpfile.sql"
    )]
    Logical {
        /// Name of the Snapshot.
        snapshot: String,
    },
    /// The Snapshot holds a data folder.
    #[error(
        "failed to read Snapshot {snapshot} as SQL: it is physical and holds a data folder; one of method Logical holds SQL"
    )]
    Physical {
        /// Name of the Snapshot.
        snapshot: String,
    },
    /// The Snapshot is of another major.
    #[error(
        "failed to restore Snapshot {snapshot}: it holds PostgreSQL {theirs}, this database runs PostgreSQL {ours}; give a new database a spec.version of the same major"
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
    #[error("failed to restore into {folder}: it is not empty, and nothing in it was touched")]
    NotEmpty {
        /// The folder.
        folder: String,
    },
    /// A server works there, or may do so.
    #[error(
        "failed to restore into {folder}: a server works there (process {pid}), and nothing in it was touched; stop it first"
    )]
    Living {
        /// The data folder.
        folder: String,
        /// The process.
        pid: i32,
    },
    /// Another restore works there.
    #[error("failed to restore into {folder}: another restore works there; wait for it, or end it")]
    Busy {
        /// The data folder.
        folder: String,
    },
    /// There is something that is no cluster's.
    #[error(
        "failed to restore into {folder}: {reason}, so it is no data folder of PostgreSQL, and nothing in it was touched; name one, or an empty folder"
    )]
    NoCluster {
        /// The folder.
        folder: String,
        /// What is wrong.
        reason: String,
    },
    /// Another cluster lies there.
    #[error(
        "failed to restore into {folder}: it is of the cluster {ours}, the Snapshot of {theirs}, and nothing in it was touched"
    )]
    OtherCluster {
        /// The data folder.
        folder: String,
        /// System identifier of the Snapshot.
        theirs: String,
        /// System identifier in the folder.
        ours: String,
    },
    /// A cluster lies there that does not say which.
    #[error(
        "failed to restore into {folder}: it does not say which cluster it is of ({reason}), and nothing in it was touched"
    )]
    UnknownCluster {
        /// The data folder.
        folder: String,
        /// Why.
        reason: String,
    },
    /// A tablespace lies where somebody else may have something too.
    #[error(
        "failed to restore tablespace {oid}: it lies in {folder}, which another server may use too if this folder is a copy, and nothing in it was touched"
    )]
    ForeignTablespace {
        /// Its oid.
        oid: u32,
        /// Where its link leads.
        folder: String,
    },
    /// Two data folders have the same tablespace.
    #[error(
        "failed to restore a tablespace in {folder}: {other} has it too, and nothing in it was touched; one of the two is a copy: remove its link in pg_tblspc"
    )]
    SharedTablespace {
        /// Where the links lead.
        folder: String,
        /// The other data folder.
        other: String,
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
    #[error(
        "failed to restore Snapshot {snapshot}: object {object} is missing in {label}; {}",
        OTHERS
    )]
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
        "failed to restore Snapshot {snapshot}: object {object} in {label} is damaged: {reason}; {}",
        OTHERS
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
    #[error(
        "failed to restore Snapshot {snapshot}: {object} cannot be used: {source}; {}",
        OTHERS
    )]
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
    #[error(
        "failed to restore Snapshot {snapshot}: it holds no {path}; {}",
        OTHERS
    )]
    Incomplete {
        /// Name of the Snapshot.
        snapshot: String,
        /// The file.
        path: String,
    },
    /// What was restored could not be read.
    #[error("failed to read {path}: {source}")]
    Read {
        /// File or folder.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
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

/// One that was not found may lie elsewhere; of what needs a later version, an update makes use.
fn advice(error: &ReadManifestError) -> &'static str {
    match error {
        ReadManifestError::Damaged { .. } => OTHERS,
        ReadManifestError::TooNew { .. } => "it is whole, as far as can be told",
        ReadManifestError::Read(StoreError::NotFound { .. }) => GONE,
        ReadManifestError::Read(_) => OTHERS,
    }
}

impl From<OpenManifestError> for RestoreError {
    fn from(error: OpenManifestError) -> Self {
        match error {
            OpenManifestError::Read(error) => error.into(),
            OpenManifestError::Key(KeyError::Store(error)) => Self::Store(error),
            OpenManifestError::Key(error) => Self::Key(error),
        }
    }
}

impl From<ReadManifestError> for RestoreError {
    fn from(error: ReadManifestError) -> Self {
        match error {
            // What is wrong with the store is not wrong with the Snapshot.
            ReadManifestError::Read(error)
                if !matches!(
                    error,
                    StoreError::NotFound { .. } | StoreError::TooLarge { .. }
                ) =>
            {
                Self::Store(error)
            }
            error => Self::Manifest(error),
        }
    }
}

impl RestoreError {
    /// Whether somebody may make the same restore work: by other keys, or by a bucket.
    #[must_use]
    pub fn is_mendable(&self) -> bool {
        let store = match self {
            Self::Store(source) | Self::Manifest(ReadManifestError::Read(source)) => source,
            Self::Key(source) => return source.is_mendable(),
            _ => return false,
        };
        matches!(
            store,
            StoreError::Denied { .. } | StoreError::MissingBucket { .. }
        )
    }

    /// Whether it proves that the Snapshot is not what was written, or is not there any more.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Missing { .. }
            | Self::Damaged { .. }
            | Self::Map { .. }
            | Self::Incomplete { .. } => true,
            Self::Key(error) => error.is_damage(),
            Self::Manifest(error) => match error {
                ReadManifestError::Damaged { .. } => true,
                ReadManifestError::Read(error) => error.is_not_found(),
                ReadManifestError::TooNew { .. } => false,
            },
            _ => false,
        }
    }

    /// Whether trying again may succeed without anybody changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Store(source) => source.is_retryable(),
            Self::Key(source) => source.is_retryable(),
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
