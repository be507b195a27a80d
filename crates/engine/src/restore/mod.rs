//! Restoring a Snapshot into an empty folder, or into one that holds an earlier or later state of the same cluster; from there a server recovers.

mod delta;
mod disks;
mod error;
mod existing;
mod export;
mod files;
mod living;
mod pages;
mod plan;
mod probe;
mod shown;
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

pub use self::{
    delta::Spared,
    error::RestoreError,
    existing::{Ground, Terms},
    pages::{Pages, verify_folder, verify_pages},
    plan::free_bytes,
    probe::{Outlook, disk, outlook},
};
use self::{
    disks::Disks,
    plan::{Plan, plan},
    source::Source,
    write::{MARKER, Site},
};
pub(crate) use self::{
    files::{Files, Reading},
    plan::check_room,
    write::{Decoder, WAITING, check_empty},
};
use crate::{backup::BackupProgress, postgres::dialect::PgDialect, store::Store};

/// Left out on disk: the links that the first would make are made already, to other places, and the others are our own notes.
const UNWANTED: [&str; 3] = ["tablespace_map", MARKER, WAITING];

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
    /// Where it goes, on the ground that is named beside. Tablespaces go beside it, into `tablespaces/<oid>`.
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

/// Writes a Snapshot's files into an empty folder: a data folder with `backup_label` and the WAL up to the stop, without recovery settings. Everything
/// that can be known to be wrong, such as a missing pack, is found before anything is written; every byte is verified as it is written.
pub async fn fetch(
    request: RestoreRequest,
    progress: watch::Sender<BackupProgress>,
    cancel: CancellationToken,
) -> Result<RestoredCluster, RestoreError> {
    let written = write(request, Ground::Empty, progress, cancel).await?;
    written.complete().await
}

/// The same into whatever ground, but for the last step: until [`Written::complete`] no server starts on the folder, so more can be put into it.
pub async fn write(
    request: RestoreRequest,
    ground: Ground,
    progress: watch::Sender<BackupProgress>,
    cancel: CancellationToken,
) -> Result<Written, RestoreError> {
    let mut plan = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(RestoreError::Cancelled),
        plan = plan(&request) => plan?,
    };
    for unwanted in UNWANTED {
        drop_file(&mut plan, unwanted);
    }
    let cluster = RestoredCluster::of(&plan)?;
    let site = Site::new(&request.data_folder, &plan);
    let restore = Restore {
        told: Told::new(progress),
        plan,
        site,
        request,
        cancel,
    };
    let restore = Arc::new(blocking(move || restore.look_at_ground(ground)).await?);
    let is_fresh = ground == Ground::Empty;
    let written = if is_fresh {
        restore.clone().write_all().await
    } else {
        restore.clone().write_what_differs().await
    };
    if let Err(error) = written {
        // What another restore has written since we looked is not ours.
        if is_fresh && !matches!(error, RestoreError::Busy { .. }) {
            let site = restore.site.clone();
            let _ = spawn_blocking(move || site.remove()).await;
        }
        return Err(error);
    }
    restore.told.end(cluster.database_bytes);
    Ok(Written {
        is_fresh,
        spared: restore.told.spared(),
        cluster,
        restore,
    })
}

/// A data folder that has everything but `pg_control` in its place.
#[must_use = "no server starts on it until it is complete"]
pub struct Written {
    /// What it is.
    pub cluster: RestoredCluster,
    /// What was there already.
    pub spared: Spared,
    restore: Arc<Restore>,
    is_fresh: bool,
}

impl Written {
    /// Lets servers start on it.
    pub async fn complete(self) -> Result<RestoredCluster, RestoreError> {
        let restore = self.restore.clone();
        match blocking(move || restore.site.complete()).await {
            Ok(()) => Ok(self.cluster),
            Err(error) => {
                self.discard().await;
                Err(error)
            }
        }
    }

    /// Takes away what was written into an empty folder. Another stays unfinished, and says so.
    pub async fn discard(self) {
        if self.is_fresh {
            let _ = spawn_blocking(move || self.restore.site.remove()).await;
        }
    }
}

impl RestoredCluster {
    fn of(plan: &Plan) -> Result<Self, RestoreError> {
        let manifest = &plan.manifest;
        let system_identifier = manifest.cluster.system_identifier.parse();
        let system_identifier = system_identifier.map_err(|_| RestoreError::Incomplete {
            snapshot: manifest.snapshot.clone(),
            path: "system identifier".to_owned(),
        })?;
        Ok(Self {
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
}

/// Takes a file out of a plan.
fn drop_file(plan: &mut Plan, path: &str) {
    let found = plan.files.iter().position(|file| file.path == path);
    let Some(number) = found else { return };
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

impl Restore {
    /// Refuses a ground that is not what it should be, before anything is written, and notes where on it things go.
    fn look_at_ground(mut self, ground: Ground) -> Result<Self, RestoreError> {
        let sizes = self.plan.files.iter().map(|file| file.bytes);
        // A map may claim any size.
        let needed = sizes.fold(0, u64::saturating_add);
        let spared = match ground {
            Ground::Empty => {
                self.site.check_empty()?;
                0
            }
            Ground::Existing(terms) => self.site.survey(&self.plan, &self.request, terms)?,
        };
        let needed = needed.saturating_sub(spared);
        check_room(&self.request.data_folder, needed)?;
        Ok(self)
    }

    async fn write_all(self: Arc<Self>) -> Result<(), RestoreError> {
        let this = self.clone();
        let disks = blocking(move || {
            let disks = this.site.begin(&this.plan.manifest)?;
            this.site.prepare(&this.plan.files, &this.cancel)?;
            Ok(Arc::new(disks))
        })
        .await?;
        let threads = self.request.threads.clamp(1, 64);
        stream::iter(0..self.plan.fetches.len())
            .map(|number| self.clone().fetch(number, disks.clone()))
            .buffer_unordered(threads + AHEAD)
            .try_for_each(|()| std::future::ready(Ok(())))
            .await?;
        blocking(move || disks.sync()).await
    }

    async fn fetch(self: Arc<Self>, number: usize, disks: Arc<Disks>) -> Result<(), RestoreError> {
        let this = self.clone();
        let work = move |bytes: &Bytes| {
            let fetch = &this.plan.fetches[number];
            this.site.write(&this.plan.files, fetch, bytes, &disks)
        };
        let fetch = &self.plan.fetches[number];
        let done = self.plan.fetch(fetch, self.source(), work).await?;
        self.tell(done);
        Ok(())
    }

    fn source(&self) -> Source<'_> {
        Source {
            store: &self.request.store,
            cancel: &self.cancel,
            fetched: &self.told.fetched,
        }
    }

    fn tell(&self, written: u64) {
        self.told.written.fetch_add(written, Ordering::Relaxed);
        self.told.say(self.plan.manifest.sizes.database_bytes);
    }
}

/// Does what blocks.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RestoreError> + Send + 'static,
) -> Result<T, RestoreError> {
    let done = spawn_blocking(work).await;
    done.map_err(|_| RestoreError::Worker)?
}

/// What was done so far, and who is told.
#[derive(Debug)]
struct Told {
    written: AtomicU64,
    fetched: AtomicU64,
    kept: AtomicU64,
    removed: AtomicU64,
    progress: watch::Sender<BackupProgress>,
}

impl Told {
    fn new(progress: watch::Sender<BackupProgress>) -> Self {
        Self {
            written: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
            kept: AtomicU64::new(0),
            removed: AtomicU64::new(0),
            progress,
        }
    }

    fn say(&self, total: u64) {
        let spared = self.spared();
        self.progress.send_replace(BackupProgress {
            done_bytes: spared.written_bytes + spared.kept_bytes,
            total_bytes: total,
            uploaded_bytes: spared.fetched_bytes,
        });
    }

    /// Zeros are not fetched, so what was written is less than the whole.
    fn end(&self, total: u64) {
        self.progress.send_replace(BackupProgress {
            done_bytes: total,
            total_bytes: total,
            uploaded_bytes: self.fetched.load(Ordering::Relaxed),
        });
    }

    fn spared(&self) -> Spared {
        Spared {
            kept_bytes: self.kept.load(Ordering::Relaxed),
            written_bytes: self.written.load(Ordering::Relaxed),
            fetched_bytes: self.fetched.load(Ordering::Relaxed),
            removed: self.removed.load(Ordering::Relaxed),
        }
    }
}
