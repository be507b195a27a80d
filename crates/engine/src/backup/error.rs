//! Why a backup ended without a Snapshot.

use std::io;

use kubedb_core::lsn::Lsn;

use crate::{
    encryption::KeyError,
    logical::LogicalError,
    postgres::control::ReadControlError,
    repository::{keys::NameError, manifest::ReadManifestError, map::MapError},
    store::StoreError,
};

/// Why a backup ended without a Snapshot, in words for the user of the database.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The store did not take what we have, or not any more.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Rows, or what stands around them, could not be read.
    #[error(transparent)]
    Logical(#[from] LogicalError),
    /// There is no key to encrypt with, or to read what an earlier Snapshot has.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A name cannot be part of a key.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The server did not let us in.
    #[error("failed to connect to the database server to back it up: {0}")]
    Connect(#[source] tokio_postgres::Error),
    /// The server did not answer in time.
    #[error("failed to {what} within {seconds} s")]
    Late {
        /// What was waited for.
        what: &'static str,
        /// How long.
        seconds: u64,
    },
    /// The server refused or went away.
    #[error("failed to {what}: {reason}")]
    Query {
        /// What was asked.
        what: &'static str,
        /// What the server said.
        reason: String,
        /// The same with all details.
        #[source]
        source: tokio_postgres::Error,
    },
    /// An answer of the server that makes no sense.
    #[error("failed to understand the server when asked to {what}: {answer:?}")]
    Answer {
        /// What was asked.
        what: &'static str,
        /// What it said.
        answer: String,
    },
    /// The data folder is not that of the server.
    #[error(
        "failed to back up: the server runs cluster {of_server}, the data folder holds cluster {of_folder}"
    )]
    OtherCluster {
        /// System identifier by the server.
        of_server: u64,
        /// System identifier by the folder.
        of_folder: u64,
    },
    /// A layout of pages that this build does not have.
    #[error("failed to back up: pages of {bytes} bytes are not built, 8192 are")]
    PageSize {
        /// Bytes of a page.
        bytes: u32,
    },
    /// A standby that has not replayed what the Snapshot must hold.
    #[error(
        "failed to back up: this instance has replayed up to {reached}, the Snapshot needs {needed}"
    )]
    Behind {
        /// Where it is.
        reached: Lsn,
        /// What was asked for.
        needed: Lsn,
    },
    /// A file could not be read.
    #[error("failed to read {path}: {source}")]
    ReadFile {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `pg_control` could not be read.
    #[error(transparent)]
    Control(#[from] ReadControlError),
    /// A page is not what PostgreSQL wrote.
    #[error(
        "failed to back up damaged data: block {block} of {path} has checksum {stored:04x}, its content gives {computed:04x}"
    )]
    DamagedPage {
        /// File, relative to the data folder.
        path: String,
        /// Number of the page within the relation.
        block: u32,
        /// What the page says.
        stored: u16,
        /// What its content gives.
        computed: u16,
    },
    /// WAL that the Snapshot needs is not there or not what it should be.
    #[error("failed to copy WAL segment {segment}: {reason}")]
    Wal {
        /// Name of the file.
        segment: String,
        /// What is wrong.
        reason: String,
    },
    /// A promotion, here or upstream, came in between.
    #[error("failed to back up: the timeline changed from {from} to {to} meanwhile")]
    TimelineChanged {
        /// At the start.
        from: u32,
        /// At the stop.
        to: u32,
    },
    /// Its WAL holds the tablespace's folder as it is here, and a restore on this machine would write there.
    #[error(
        "failed to back up: tablespace {oid} was made meanwhile; a backup that begins after that holds it"
    )]
    TablespaceMade {
        /// Its number.
        oid: u32,
    },
    /// The server says at the end that the backup is of no use, as after a promotion.
    #[error("failed to complete the backup: {reason}")]
    Interrupted {
        /// What the server said.
        reason: String,
    },
    /// Compression failed.
    #[error("failed to compress {path}: {source}")]
    Compress {
        /// What was compressed.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A list of files or the manifest could not be written down.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The manifest could not be written down.
    #[error("failed to encode the manifest: {0}")]
    Encode(#[source] serde_json::Error),
    /// This attempt was begun before, by a session that may still be at it.
    #[error("failed to begin {attempt}: it was begun before")]
    AttemptTaken {
        /// Snapshot and attempt.
        attempt: String,
    },
    /// The Snapshot was deleted while it was made, or somebody else emptied the store.
    #[error("failed to complete {attempt}: what it had written to {label} was deleted meanwhile")]
    Deleted {
        /// Snapshot and attempt.
        attempt: String,
        /// The store.
        label: String,
    },
    /// An object that the store took is not there.
    #[error(
        "failed to complete the backup: {label} took object {object} and does not have it whole"
    )]
    Lost {
        /// Key of the object.
        object: String,
        /// The store.
        label: String,
    },
    /// A list of files of the Snapshot that this one is compared with was spoilt since it was looked at, or is gone with it.
    #[error("failed to compare with an earlier Snapshot: {object}: {reason}")]
    Base {
        /// Its key.
        object: String,
        /// What is wrong.
        reason: String,
    },
    /// The Snapshot that this one refers to was deleted, and with it perhaps what this one needs.
    #[error(
        "failed to complete {attempt}: Snapshot {base}, which it refers to, was deleted meanwhile"
    )]
    BaseDeleted {
        /// Snapshot and attempt.
        attempt: String,
        /// Name of the other Snapshot.
        base: String,
    },
    /// The manifest was stored and reads differently.
    #[error("failed to verify {object}: the store gives back other content than it was given")]
    ReadBackDiffers {
        /// Key of the manifest.
        object: String,
    },
    /// The manifest was stored and cannot be read.
    #[error(transparent)]
    ReadBack(#[from] ReadManifestError),
    /// The caller wanted no more of it.
    #[error("failed to complete the backup: it was cancelled")]
    Cancelled,
    /// A reader or an upload ended without a word; a defect of this program.
    #[error("failed to complete the backup: a worker ended early")]
    Worker,
}

impl BackupError {
    /// Whether a further attempt may succeed without anybody changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            // An object that is not what we sent was spoilt on its way; the next attempt's has another name.
            Self::Store(StoreError::Conflict { .. }) => true,
            Self::Store(source) => source.is_retryable(),
            Self::Key(source) => source.is_retryable(),
            Self::Logical(source) => source.is_retryable(),
            // What was stored and is gone, or reads differently, was spoilt too.
            Self::ReadBack(ReadManifestError::Read(source)) => {
                source.is_retryable() || source.is_not_found()
            }
            Self::ReadBack(ReadManifestError::Damaged { .. }) => true,
            Self::ReadBack(ReadManifestError::TooNew { .. }) => false,
            Self::Query { source, .. } => is_passing(source),
            Self::Connect(source) => source.code().is_none() || is_passing(source),
            Self::Late { .. }
            | Self::Behind { .. }
            | Self::TimelineChanged { .. }
            | Self::TablespaceMade { .. }
            | Self::Interrupted { .. }
            | Self::Wal { .. }
            | Self::AttemptTaken { .. }
            // Nobody hands out another attempt at a Snapshot that was deleted.
            | Self::Deleted { .. }
            | Self::Lost { .. }
            | Self::Base { .. }
            // The next one finds another base, or does without.
            | Self::BaseDeleted { .. }
            | Self::ReadBackDiffers { .. }
            | Self::Worker => true,
            Self::Name(_)
            | Self::Answer { .. }
            | Self::OtherCluster { .. }
            | Self::PageSize { .. }
            | Self::ReadFile { .. }
            | Self::Control(_)
            | Self::DamagedPage { .. }
            | Self::Compress { .. }
            | Self::Map(_)
            | Self::Encode(_)
            | Self::Cancelled => false,
        }
    }

    pub(super) fn query(what: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Self {
        move |source| Self::Query {
            what,
            reason: source
                .as_db_error()
                .map_or_else(|| source.to_string(), |error| error.message().to_owned()),
            source,
        }
    }
}

/// The connection broke, or the server is starting, stopping or short of something: classes 08, 53 and 57.
fn is_passing(error: &tokio_postgres::Error) -> bool {
    error.is_closed()
        || error.as_db_error().is_none()
        || error.code().is_some_and(|code| {
            ["08", "53", "57"]
                .iter()
                .any(|class| code.code().starts_with(class))
        })
}
