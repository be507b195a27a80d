//! Deleting what nobody needs any more: what attempts that died have left, deletions that were cut off, WAL behind the earliest Snapshot. A plan is made
//! of one listing, and shown; when it is carried out, everything is looked up again, and what is needed by then stays.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use futures::{StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use kubedb_core::{
    lsn::Lsn,
    prune::{Attempt, Data, Item, What, plan},
};

use super::{
    catalogue::Catalogue,
    delete::{DeleteError, Deleted, delete_snapshot, needed_by},
    keys::{self, AttemptId, DatabaseFolder, Record},
    manifest::ReadManifestError,
};
use crate::{
    archive::{Archive, ArchiveError, Unneeded, inventory},
    store::{Listed, Store, StoreError},
};

/// Requests under way at once.
const REQUESTS: usize = 8;

/// Why a store was not pruned, or not to the end.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The store did not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A Snapshot was not deleted to the end.
    #[error(transparent)]
    Delete(#[from] DeleteError),
    /// WAL was not found or not deleted.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// What a Snapshot needs has become unknown since the plan.
    #[error("failed to prune {database}: what a Snapshot needs is unknown ({source})")]
    Unreadable {
        /// Namespace and name of the database.
        database: String,
        /// Which manifest, and why.
        #[source]
        source: ReadManifestError,
    },
}

/// What is to be deleted of one database, and what is not.
#[derive(Clone, Debug)]
pub struct DatabasePrune {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub database: String,
    /// What goes, and what stays though nobody needs it.
    pub plan: kubedb_core::prune::Plan,
    /// WAL that goes where the caller says so.
    pub wal: Vec<WalPrune>,
    /// Why nothing of it is deleted.
    pub obstacle: Option<String>,
}

/// WAL of one lineage that lies before its earliest Snapshot in the store.
#[derive(Clone, Debug)]
pub struct WalPrune {
    /// The lineage.
    pub lineage: String,
    /// From here on everything is kept.
    pub keep: Lsn,
    /// What goes.
    pub unneeded: Unneeded,
    archive: Archive,
}

/// Looks through a store and tells what of it nobody needs. Nothing is changed. `now` is compared with the store's clock.
pub async fn find(
    store: &Store,
    now: Timestamp,
    grace: SignedDuration,
) -> Result<Vec<DatabasePrune>, PruneError> {
    let listed = store.list("kubedb").await?;
    let catalogue = Catalogue::of(&listed);
    drop(listed);
    let mut found = Vec::new();
    for ((namespace, database), entry) in catalogue.databases {
        let seen = Seen::read(store, &entry.folder, now).await?;
        let mut prune = DatabasePrune {
            namespace,
            database,
            plan: kubedb_core::prune::Plan::default(),
            wal: Vec::new(),
            obstacle: None,
        };
        match seen.needed(store).await? {
            Ok(needed) => {
                prune.plan = plan(&seen.attempts, &seen.data(&needed), grace);
                prune.wal = wal(store, &entry.folder).await?;
            }
            Err(error) => {
                prune.obstacle = Some(format!(
                    "what a Snapshot needs is unknown ({error}); delete that Snapshot first if it is lost"
                ));
            }
        }
        found.push(prune);
    }
    Ok(found)
}

/// WAL before the earliest Snapshot of each lineage that has one here.
async fn wal(store: &Store, folder: &DatabaseFolder) -> Result<Vec<WalPrune>, PruneError> {
    let mut found = Vec::new();
    for (lineage, known) in inventory(store, store, folder).await? {
        if known.bases.is_empty() {
            continue;
        }
        let archive = Archive::new(
            store.clone(),
            folder,
            &lineage,
            known.system_identifier,
            known.segment_bytes,
        );
        // What stands there under another name is no archive.
        let Ok(archive) = archive else { continue };
        let unneeded = archive.unneeded(folder, &lineage, None).await?;
        if let (Some(keep), false) = (unneeded.keep, unneeded.objects.is_empty()) {
            found.push(WalPrune {
                lineage,
                keep,
                unneeded,
                archive,
            });
        }
    }
    Ok(found)
}

/// Deletes what a plan says, but for what is needed by now, or is at work again. `with_wal` is the word that no Snapshot lies in another store.
pub async fn carry_out(
    store: &Store,
    prune: &DatabasePrune,
    with_wal: bool,
    now: Timestamp,
) -> Result<Deleted, PruneError> {
    let mut pruning = Pruning {
        store,
        folder: DatabaseFolder::new(&prune.namespace, &prune.database)
            .map_err(DeleteError::from)?,
        prune,
        now,
        deleted: Deleted::default(),
    };
    for item in &prune.plan.goes {
        match &item.what {
            What::Unfinished { snapshot, uid } | What::HalfDeleted { snapshot, uid } => {
                pruning.give_up(snapshot, uid).await?;
            }
            What::Leftovers {
                snapshot,
                uid,
                attempts,
            } => {
                pruning.forget(snapshot, uid, attempts).await?;
                pruning.clear(uid, item).await?;
            }
            What::Orphans { uid } => pruning.clear(uid, item).await?,
        }
    }
    if with_wal {
        for one in &prune.wal {
            pruning.clear_wal(one).await?;
        }
    }
    Ok(pruning.deleted)
}

struct Pruning<'a> {
    store: &'a Store,
    folder: DatabaseFolder,
    prune: &'a DatabasePrune,
    now: Timestamp,
    deleted: Deleted,
}

impl Pruning<'_> {
    /// Deletes a Snapshot that is not complete, unless it is by now.
    async fn give_up(&mut self, snapshot: &str, uid: &str) -> Result<(), PruneError> {
        let seen = Seen::read(self.store, &self.folder, self.now).await?;
        if seen.of(uid).any(|attempt| attempt.has_manifest) {
            tracing::info!(snapshot, "has become complete, and stays");
            return Ok(());
        }
        let (namespace, database) = (&self.prune.namespace, &self.prune.database);
        let deleted = delete_snapshot(self.store, namespace, database, snapshot, uid).await?;
        self.deleted.objects += deleted.objects;
        self.deleted.bytes = self.deleted.bytes.saturating_add(deleted.bytes);
        Ok(())
    }

    /// Takes away what announces failed attempts, so that one which is not dead after all stops.
    async fn forget(
        &mut self,
        snapshot: &str,
        uid: &str,
        attempts: &[u32],
    ) -> Result<(), PruneError> {
        let seen = Seen::read(self.store, &self.folder, self.now).await?;
        for number in attempts {
            // An intent beside its manifest says that nobody may refer to that.
            let is_complete = seen
                .of(uid)
                .any(|attempt| attempt.number == *number && attempt.has_manifest);
            if is_complete {
                continue;
            }
            let id = AttemptId::new(snapshot, uid, *number).map_err(DeleteError::from)?;
            let intent = self.folder.record(Record::Intent, &id);
            let manifest = self.folder.record(Record::Manifest, &id);
            // A listing may be a moment old.
            if self.store.exists(&manifest).await? || !self.store.exists(&intent).await? {
                continue;
            }
            self.store.delete(&intent).await?;
            self.deleted.objects += 1;
        }
        Ok(())
    }

    /// Deletes objects that no manifest refers to, if nothing announces an attempt that they may be of.
    async fn clear(&mut self, uid: &str, item: &Item) -> Result<(), PruneError> {
        let seen = Seen::read(self.store, &self.folder, self.now).await?;
        let mut attempts = seen.of(uid);
        if attempts.any(|attempt| attempt.has_intent && !attempt.has_manifest) {
            tracing::info!(uid, "is at work again, and stays");
            return Ok(());
        }
        let needed = seen.needed(self.store).await?;
        let needed = needed.map_err(|source| PruneError::Unreadable {
            database: format!("{}/{}", self.prune.namespace, self.prune.database),
            source,
        })?;
        let doomed = item
            .objects
            .iter()
            .map(|(name, bytes)| (self.folder.key(name), *bytes))
            .filter(|(key, _)| !needed.contains(key));
        self.remove(doomed.collect()).await
    }

    /// Deletes WAL of the plan that no Snapshot needs by now either.
    async fn clear_wal(&mut self, wal: &WalPrune) -> Result<(), PruneError> {
        let archive = &wal.archive;
        let mut unneeded = archive.unneeded(&self.folder, &wal.lineage, None).await?;
        let planned = &wal.unneeded.objects;
        unneeded.objects.retain(|key, _| planned.contains_key(key));
        archive.prune(&unneeded).await?;
        self.deleted.objects += unneeded.objects.len() as u64;
        self.deleted.bytes = self.deleted.bytes.saturating_add(unneeded.bytes());
        Ok(())
    }

    async fn remove(&mut self, doomed: Vec<(String, u64)>) -> Result<(), PruneError> {
        let store = self.store;
        let mut removals = stream::iter(doomed)
            .map(|(key, bytes)| async move { store.delete(&key).await.map(|()| bytes) })
            .buffer_unordered(REQUESTS);
        while let Some(removed) = removals.next().await {
            self.deleted.bytes = self.deleted.bytes.saturating_add(removed?);
            self.deleted.objects += 1;
        }
        Ok(())
    }
}

/// What lies in a database's folder. Data is listed before records: whoever writes data has announced it before.
struct Seen {
    folder: DatabaseFolder,
    attempts: Vec<Attempt>,
    /// Names, sizes and ages.
    data: Vec<(String, u64, SignedDuration)>,
}

impl Seen {
    async fn read(
        store: &Store,
        folder: &DatabaseFolder,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let age = |written: i64| {
            let written = Timestamp::from_millisecond(written).unwrap_or(now);
            now.duration_since(written)
        };
        let mut data = Vec::new();
        for root in [keys::PACKS, keys::MAPS] {
            let show = |found: Listed, written| {
                if let Some(name) = folder
                    .relative(&found.key)
                    .filter(|name| keys::is_data(name))
                {
                    data.push((name.to_owned(), found.bytes, age(written)));
                }
            };
            store.visit(&folder.key(root), show).await?;
        }
        let mut attempts = BTreeMap::<AttemptId, Attempt>::new();
        let show = |found: Listed, written| {
            let Some((record, id)) = folder.read_record(&found.key) else {
                return;
            };
            let attempt = attempts.entry(id.clone()).or_insert_with(|| Attempt {
                snapshot: id.snapshot,
                uid: id.uid,
                number: id.attempt,
                has_intent: false,
                has_manifest: false,
                is_going: false,
                age: SignedDuration::MAX,
            });
            match record {
                Record::Intent => attempt.has_intent = true,
                Record::Manifest => attempt.has_manifest = true,
                Record::Deleting => attempt.is_going = true,
            }
            attempt.age = attempt.age.min(age(written));
        };
        store.visit(&folder.snapshots(), show).await?;
        Ok(Self {
            folder: folder.clone(),
            attempts: attempts.into_values().collect(),
            data,
        })
    }

    fn of<'a>(&'a self, uid: &'a str) -> impl Iterator<Item = &'a Attempt> {
        self.attempts
            .iter()
            .filter(move |attempt| attempt.uid == uid)
    }

    /// Keys that manifests refer to, those included that intents announce and that a listing may not show yet.
    async fn needed(
        &self,
        store: &Store,
    ) -> Result<Result<HashSet<String>, ReadManifestError>, StoreError> {
        let announced = self
            .attempts
            .iter()
            .filter(|attempt| attempt.has_manifest || attempt.has_intent);
        let ids = announced.filter_map(|attempt| {
            AttemptId::new(&attempt.snapshot, &attempt.uid, attempt.number).ok()
        });
        let manifests: BTreeSet<String> = ids
            .map(|id| self.folder.record(Record::Manifest, &id))
            .collect();
        match needed_by(store, &self.folder, &manifests).await {
            Ok(needed) => Ok(Ok(needed)),
            Err(ReadManifestError::Read(error)) if error.is_retryable() => Err(error),
            Err(error) => Ok(Err(error)),
        }
    }

    fn data(&self, needed: &HashSet<String>) -> Vec<Data> {
        let data = self.data.iter().filter_map(|(name, bytes, age)| {
            Some(Data {
                uid: keys::owner(name)?.to_owned(),
                is_needed: needed.contains(&self.folder.key(name)),
                name: name.clone(),
                bytes: *bytes,
                age: *age,
            })
        });
        data.collect()
    }
}
