//! Taking a Snapshot: a base backup of a running server, primary or standby, with the WAL that makes it consistent.

mod assemble;
mod base;
mod commit;
mod compare;
mod error;
#[cfg(test)]
mod histories;
mod logical;
mod pace;
mod pack;
mod plan;
mod read;
mod session;
mod transfer;
mod wal;
mod walk;

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use kubedb_core::{effort::Effort, lsn::Lsn};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

pub(crate) use self::walk::relation_segment;
pub use self::{
    error::BackupError,
    logical::{LogicalRequest, take_logical},
    session::SLOT_PREFIX,
};
use self::{
    pace::Pace,
    pack::Begun,
    session::{Session, read_control},
};
pub(crate) use self::{
    transfer::{label_start, label_timeline},
    wal::check as check_wal,
    walk::{EMPTIED, leaves_out},
};
use crate::{
    encryption::{DataKey, writing_key},
    postgres::dialect::PgDialect,
    repository::{
        keys::{AttemptId, DatabaseFolder, Record},
        manifest::Logical,
    },
    store::{Store, StoreError},
};

/// A failed attempt clears up for this long at most.
const CLEAR_UP: Duration = Duration::from_secs(60);

/// What to back up, to where, under which name.
#[derive(Clone, Debug)]
pub struct BackupRequest {
    /// Where to.
    pub store: Store,
    /// Namespace of the database.
    pub namespace: String,
    /// Name of the database.
    pub database: String,
    /// Name of the Snapshot.
    pub snapshot: String,
    /// Uid of the Snapshot.
    pub snapshot_uid: String,
    /// Number of this try; each has its own, up to 9999.
    pub attempt: u32,
    /// Lineage of the database.
    pub lineage: String,
    /// Data folder of the running server, readable by us.
    pub data_folder: PathBuf,
    /// How to reach the server as superuser without TLS.
    pub connection: tokio_postgres::Config,
    /// Its major.
    pub dialect: PgDialect,
    /// Its full version.
    pub postgres_version: String,
    /// What the Snapshot must hold; a standby that is behind is waited for, a minute at most.
    pub minimum_lsn: Option<Lsn>,
    /// How much of the machine it takes.
    pub effort: Effort,
    /// When the Snapshot was begun.
    pub started: Timestamp,
}

/// How far a backup or a restore is. All in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackupProgress {
    /// Read from disk, or on restore written to it.
    pub done_bytes: u64,
    /// What `done_bytes` will be in the end, as far as is known now.
    pub total_bytes: u64,
    /// Acknowledged by the store, or on restore fetched from it.
    pub uploaded_bytes: u64,
}

/// Whether a Snapshot was stored as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// What has not changed since this Snapshot is referred to where that has it.
    Since {
        /// Name of the Snapshot.
        snapshot: String,
    },
    /// Everything was stored.
    Whole {
        /// Why.
        reason: String,
    },
}

/// A complete Snapshot. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupOutcome {
    /// Key of the manifest below the store's root.
    pub manifest: String,
    /// Identifier of the cluster.
    pub system_identifier: u64,
    /// Timeline of the backup.
    pub timeline: u32,
    /// Where recovery begins.
    pub start_lsn: Lsn,
    /// Where the backup is consistent.
    pub stop_lsn: Lsn,
    /// Size of all files as they will be restored.
    pub database_bytes: u64,
    /// Read from disk.
    pub read_bytes: u64,
    /// Sent to the store.
    pub uploaded_bytes: u64,
    /// Size of all objects that the Snapshot refers to.
    pub stored_bytes: u64,
    /// What of it was stored.
    pub extent: Extent,
    /// What it holds, of a logical one.
    pub logical: Option<Logical>,
}

/// Takes a Snapshot. It exists once this returns `Ok`: its manifest was written last, and read back. `progress` is told as it goes.
/// However it ends, backup mode is left and the WAL is let go. When the future is dropped instead, the server does
/// both by itself as the session ends, but on 9.6 the slot stays until the next backup.
pub async fn take(
    request: BackupRequest,
    progress: watch::Sender<BackupProgress>,
    cancel: CancellationToken,
) -> Result<BackupOutcome, BackupError> {
    // Readers see it when we end, in whichever way.
    let stop = cancel.child_token();
    let _guard = stop.clone().drop_guard();
    let attempt = Attempt::new(&request, progress, stop, &cancel).await?;
    let outcome = attempt.run(&cancel).await;
    attempt.clear_up(&outcome).await;
    outcome
}

/// One attempt under way.
struct Attempt<'a> {
    request: &'a BackupRequest,
    folder: DatabaseFolder,
    id: AttemptId,
    /// What all that is written is encrypted with.
    data_key: Option<DataKey>,
    begun: Begun,
    pace: Arc<Pace>,
    progress: watch::Sender<BackupProgress>,
    stop: CancellationToken,
}

impl<'a> Attempt<'a> {
    /// Nothing is written yet: with a wrong key nothing is.
    async fn new(
        request: &'a BackupRequest,
        progress: watch::Sender<BackupProgress>,
        stop: CancellationToken,
        cancel: &CancellationToken,
    ) -> Result<Self, BackupError> {
        let folder = DatabaseFolder::new(&request.namespace, &request.database)?;
        let data_key = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(BackupError::Cancelled),
            key = writing_key(&request.store, &folder, &request.lineage) => key?,
        };
        Ok(Self {
            id: AttemptId::new(&request.snapshot, &request.snapshot_uid, request.attempt)?,
            request,
            folder,
            data_key,
            begun: Begun::default(),
            pace: Arc::new(Pace::new(&request.effort)),
            progress,
            stop,
        })
    }

    /// Takes away what a failed one has begun.
    async fn clear_up(&self, outcome: &Result<BackupOutcome, BackupError>) {
        let Err(error) = outcome else { return };
        let is_worthwhile = !matches!(error, BackupError::Store(StoreError::Unreachable { .. }));
        let cleared = self.begun.take_away(&self.request.store);
        if is_worthwhile && timeout(CLEAR_UP, cleared).await.is_err() {
            tracing::warn!(
                "clearing up after a failed backup takes too long; its Snapshot's deletion will"
            );
        }
    }
}

impl Attempt<'_> {
    async fn run(&self, cancel: &CancellationToken) -> Result<BackupOutcome, BackupError> {
        let (control, _) = read_control(&self.request.data_folder).await?;
        let session = Session::open(
            &self.request.connection,
            self.request.dialect,
            &self.request.snapshot_uid,
            self.request.attempt,
            &control,
        );
        let session = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(BackupError::Cancelled),
            session = session => session?,
        };
        let outcome = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(BackupError::Cancelled),
            outcome = self.transfer(&session) => outcome,
        };
        session.close().await;
        if let Ok(outcome) = &outcome {
            // Files may have become shorter, or gone, since they were counted.
            self.progress.send_replace(BackupProgress {
                done_bytes: outcome.read_bytes,
                total_bytes: outcome.read_bytes,
                uploaded_bytes: outcome.uploaded_bytes,
            });
        }
        outcome
    }

    /// Says that this attempt may write, before it does.
    async fn announce(&self) -> Result<(), BackupError> {
        let intent = serde_json::json!({
            "format": "kubedb-attempt",
            "version": 1,
            "session": uuid::Uuid::new_v4().to_string(),
            "started": self.request.started,
        });
        let key = self.folder.record(Record::Intent, &self.id);
        match self
            .request
            .store
            .create(&key, intent.to_string().into())
            .await
        {
            Err(StoreError::Conflict { .. }) => Err(BackupError::AttemptTaken {
                attempt: self.id.to_string(),
            }),
            other => Ok(other?),
        }
    }
}
