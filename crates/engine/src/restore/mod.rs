//! Restoring a Snapshot into an empty folder, from which a server then recovers.

mod error;
mod pages;
mod plan;
mod source;
mod write;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kubedb_core::lsn::Lsn;
use tokio::{sync::watch, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

pub(crate) use self::write::Decoder;
pub use self::{
    error::RestoreError,
    pages::{Pages, verify_folder, verify_pages},
    plan::free_bytes,
};
use self::{
    plan::{Plan, plan},
    source::Source,
    write::Site,
};
use crate::{backup::BackupProgress, postgres::dialect::PgDialect, store::Store};

/// Left out on disk: the links it would make are made already, to other places.
const TABLESPACE_MAP: &str = "tablespace_map";

/// A range that arrives damaged is fetched again so often: the network may have done it.
const FETCHES: u32 = 2;

/// Ranges under way beyond those that are being unpacked, so that no processor waits for the store.
const AHEAD: usize = 2;

/// Which Snapshot to restore, and where to.
#[derive(Clone, Debug)]
pub struct RestoreRequest {
    /// Where it is.
    pub store: Store,
    /// Key of its manifest below the store's root.
    pub manifest: String,
    /// Absent or empty. Removed again when the restore fails. Tablespaces go beside it, into `tablespaces/<oid>`.
    pub data_folder: PathBuf,
    /// Major that will run on it.
    pub dialect: PgDialect,
    /// Full version that will run on it.
    pub postgres_version: String,
    /// Ranges unpacked at once; at least one.
    pub threads: usize,
}

/// A data folder that is ready to recover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredCluster {
    /// Where recovery begins.
    pub start_lsn: Lsn,
    /// A server must replay up to here before anybody may use it.
    pub stop_lsn: Lsn,
    /// Timeline of the Snapshot.
    pub timeline: u32,
    /// Identifier of the cluster.
    pub system_identifier: u64,
    /// Size of all files in bytes.
    pub database_bytes: u64,
    /// Name of the Snapshot.
    pub snapshot: String,
    /// Name of the database it was taken of.
    pub database: String,
    /// Lineage of that database.
    pub lineage: String,
    /// Settings that a server in standby mode must have at least: `max_connections` and its like.
    pub settings: BTreeMap<String, String>,
}

/// Writes a Snapshot's files: a data folder with `backup_label` and the WAL up to the stop, without recovery settings. Everything that can be known to
/// be wrong, such as a missing pack, is found before anything is written; every byte is verified as it is written.
pub async fn fetch(
    request: RestoreRequest,
    progress: watch::Sender<BackupProgress>,
    cancel: CancellationToken,
) -> Result<RestoredCluster, RestoreError> {
    let mut plan = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(RestoreError::Cancelled),
        plan = plan(&request) => plan?,
    };
    let unwanted = plan
        .files
        .iter()
        .position(|file| file.path == TABLESPACE_MAP);
    drop_file(&mut plan, unwanted);
    let system_identifier = plan.manifest.cluster.system_identifier.parse();
    let system_identifier = system_identifier.map_err(|_| RestoreError::Incomplete {
        snapshot: plan.manifest.snapshot.clone(),
        path: "system identifier".to_owned(),
    })?;
    let site = Site::new(&request.data_folder, &plan);
    let restore = Restore {
        told: Told {
            written: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
            progress,
        },
        plan,
        site,
        request,
        cancel,
    };
    let restore = Arc::new(restore);
    restore.clone().check_site().await?;
    if let Err(error) = restore.clone().write().await {
        let site = restore.site.clone();
        let _ = spawn_blocking(move || site.remove()).await;
        return Err(error);
    }
    restore.tell_end();
    let manifest = &restore.plan.manifest;
    Ok(RestoredCluster {
        start_lsn: manifest.start_lsn,
        stop_lsn: manifest.stop_lsn,
        timeline: manifest.timeline,
        system_identifier,
        database_bytes: manifest.sizes.database_bytes,
        snapshot: manifest.snapshot.clone(),
        database: manifest.database.clone(),
        lineage: manifest.lineage.clone(),
        settings: manifest.cluster.settings.clone(),
    })
}

/// Takes a file out of a plan.
fn drop_file(plan: &mut Plan, number: Option<usize>) {
    let Some(number) = number else { return };
    plan.files.remove(number);
    let frames = plan.fetches.iter_mut().flat_map(|fetch| &mut fetch.frames);
    for frame in frames {
        frame.parts.retain(|part| part.file != number);
        for part in frame.parts.iter_mut().filter(|part| part.file > number) {
            part.file -= 1;
        }
    }
}

struct Restore {
    request: RestoreRequest,
    plan: Plan,
    site: Site,
    cancel: CancellationToken,
    told: Told,
}

struct Told {
    written: AtomicU64,
    fetched: AtomicU64,
    progress: watch::Sender<BackupProgress>,
}

impl Restore {
    async fn check_site(self: Arc<Self>) -> Result<(), RestoreError> {
        let check = move || {
            self.site.check_empty()?;
            let folder = &self.request.data_folder;
            let sizes = self.plan.files.iter().map(|file| file.bytes);
            // A map may claim any size.
            let needed = sizes.fold(0, u64::saturating_add);
            match free_bytes(folder) {
                Some(free) if free < needed => Err(RestoreError::Space {
                    folder: folder.display().to_string(),
                    needed,
                    free,
                }),
                _ => Ok(()),
            }
        };
        spawn_blocking(check)
            .await
            .map_err(|_| RestoreError::Worker)?
    }

    async fn write(self: Arc<Self>) -> Result<(), RestoreError> {
        let this = self.clone();
        let prepare = move || this.site.prepare(&this.plan.files, &this.cancel);
        spawn_blocking(prepare)
            .await
            .map_err(|_| RestoreError::Worker)??;
        let threads = self.request.threads.clamp(1, 64);
        stream::iter(0..self.plan.fetches.len())
            .map(|number| self.clone().fetch(number))
            .buffer_unordered(threads + AHEAD)
            .try_for_each(|()| std::future::ready(Ok(())))
            .await?;
        let this = self.clone();
        let sync = move || this.site.sync();
        spawn_blocking(sync)
            .await
            .map_err(|_| RestoreError::Worker)?
    }

    async fn fetch(self: Arc<Self>, number: usize) -> Result<(), RestoreError> {
        let source = Source {
            store: &self.request.store,
            cancel: &self.cancel,
            fetched: &self.told.fetched,
        };
        let this = self.clone();
        let work = move |bytes: &Bytes| {
            let fetch = &this.plan.fetches[number];
            this.site.write(&this.plan.files, fetch, bytes)
        };
        let done = self.plan.fetch(number, source, work).await?;
        self.tell(done);
        Ok(())
    }

    /// Zeros are not fetched, so what was written is less than the whole.
    fn tell_end(&self) {
        let bytes = self.plan.manifest.sizes.database_bytes;
        self.told.progress.send_replace(BackupProgress {
            done_bytes: bytes,
            total_bytes: bytes,
            uploaded_bytes: self.told.fetched.load(Ordering::Relaxed),
        });
    }

    fn tell(&self, written: u64) {
        let done = self.told.written.fetch_add(written, Ordering::Relaxed) + written;
        self.told.progress.send_replace(BackupProgress {
            done_bytes: done,
            total_bytes: self.plan.manifest.sizes.database_bytes,
            uploaded_bytes: self.told.fetched.load(Ordering::Relaxed),
        });
    }
}
