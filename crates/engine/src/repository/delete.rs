//! Deleting a Snapshot: exactly what is its own, whatever state it is in, and as often as one likes.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    keys::{self, AttemptId, DatabaseFolder, NameError, Record},
    manifest::{self, Manifest, ReadManifestError},
};
use crate::store::{Listed, Store, StoreError};

/// Requests under way at once.
const REQUESTS: usize = 8;

/// A writer that has not noticed yet may add a pack, or even its manifest, while we delete; it notices before its next one.
const SWEEPS: usize = 3;

/// What no manifest names and no Snapshot answers for is deleted when it is so much older than the deletion, by the store's clock: a listing that
/// lags cannot hide for so long that somebody is about to need it. Such objects are left when a manifest that named them was spoilt.
const GRACE_MS: i64 = 24 * 3_600 * 1_000;

/// What was deleted by this call. A call that finds nothing left says zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Number of objects.
    pub objects: u64,
    /// Their size.
    pub bytes: u64,
}

/// Why data was kept.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// A name cannot be part of a key.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The store did not do its part.
    #[error("failed to delete Snapshot {snapshot}: {source}")]
    Store {
        /// Name of the Snapshot.
        snapshot: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// Another Snapshot of the database may need the data, and cannot be asked.
    #[error(
        "failed to delete Snapshot {snapshot}: another Snapshot's manifest cannot be read, so its need of this data is unknown ({source}); delete that Snapshot first if it is lost"
    )]
    OtherUnreadable {
        /// Name of the Snapshot that stays.
        snapshot: String,
        /// Which manifest, and why.
        #[source]
        source: ReadManifestError,
    },
}

impl DeleteError {
    /// Whether trying again may help without anybody changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Name(_) => false,
            Self::Store { source, .. } => source.is_retryable(),
            Self::OtherUnreadable { source, .. } => source.is_retryable(),
        }
    }
}

/// Deletes all attempts of one Snapshot, complete or not. Objects that another Snapshot of the database refers to stay.
pub async fn delete_snapshot(
    store: &Store,
    namespace: &str,
    database: &str,
    snapshot: &str,
    snapshot_uid: &str,
) -> Result<Deleted, DeleteError> {
    let folder = DatabaseFolder::new(namespace, database)?;
    let id = AttemptId::new(snapshot, snapshot_uid, 0)?;
    let mut deletion = Deletion {
        store,
        folder,
        id,
        deleted: Deleted::default(),
    };
    deletion.run().await?;
    Ok(deletion.deleted)
}

struct Deletion<'a> {
    store: &'a Store,
    folder: DatabaseFolder,
    id: AttemptId,
    deleted: Deleted,
}

/// Keys of records, ours and others'.
#[derive(Default)]
struct Records {
    intents: BTreeMap<String, u64>,
    manifests: BTreeMap<String, AttemptId>,
    markers: BTreeMap<String, u64>,
    /// When the latest of our markers was written.
    marked: Option<i64>,
    /// Uids of all Snapshots of which there is any record.
    known: HashSet<String>,
    /// Manifests of other Snapshots, and those that attempts may be about to write or have written since the listing.
    others: BTreeSet<String>,
}

impl Records {
    /// Whether none of ours is left.
    fn is_empty(&self) -> bool {
        self.intents.is_empty() && self.manifests.is_empty() && self.markers.is_empty()
    }
}

impl Deletion<'_> {
    async fn run(&mut self) -> Result<(), DeleteError> {
        for sweep in 0..SWEEPS {
            let records = self.records().await?;
            // A listing may be a moment old, so one that shows nothing at once is not believed.
            let is_last = records.is_empty() && sweep > 0;
            self.sweep(records).await?;
            if is_last {
                break;
            }
        }
        self.discard_unfinished().await
    }

    /// What a writer that was killed left half written is no object, and only a folder shows it.
    async fn discard_unfinished(&self) -> Result<(), DeleteError> {
        let records = format!("{}/{}", self.folder.snapshots(), self.id.snapshot);
        for folder in [
            self.folder.key(&keys::packs(&self.id.uid)),
            self.folder.key(&keys::maps(&self.id.uid)),
            records,
        ] {
            let is_ours = |name: &str| {
                let key = format!("{folder}/{name}");
                match self.folder.read_record(&key) {
                    Some((_, id)) => id.uid == self.id.uid,
                    None => !folder.starts_with(&self.folder.snapshots()),
                }
            };
            let discarded = self.store.discard_unfinished(&folder, is_ours).await;
            discarded.map_err(|source| self.fail(source))?;
        }
        Ok(())
    }

    async fn sweep(&mut self, mut records: Records) -> Result<(), DeleteError> {
        // Before anything is touched: is it known what the others need?
        self.needed_by_others(&records.others).await?;
        // A writer that is still at it finds its intent gone and stops.
        self.remove(std::mem::take(&mut records.intents)).await?;
        let mut referred = BTreeMap::new();
        for (key, id) in std::mem::take(&mut records.manifests) {
            let marker = self.retire(&key, &id).await?;
            records.markers.extend(marker);
        }
        // A Snapshot that is being made looks, once it has its manifest, whether ours is still there. So now that ours is gone, whoever may
        // refer to our objects and stay is to be seen.
        let now = self.records().await?;
        let needed = self.needed_by_others(&now.others).await?;
        for marker in records.markers.keys() {
            referred.extend(self.refers_to(marker).await?);
        }
        referred.extend(self.orphans(&now).await?);
        for _ in 0..SWEEPS {
            let mut doomed = std::mem::take(&mut referred);
            for own in [keys::packs(&self.id.uid), keys::maps(&self.id.uid)] {
                let listed = self.store.list(&self.folder.key(&own)).await;
                let listed = listed.map_err(|source| self.fail(source))?;
                doomed.extend(listed.into_iter().map(|found| (found.key, found.bytes)));
            }
            doomed.retain(|key, _| !needed.contains(key));
            if doomed.is_empty() {
                break;
            }
            self.remove(doomed).await?;
        }
        // Last: until here they say what remains to be deleted.
        self.remove(records.markers).await
    }

    fn fail(&self, source: StoreError) -> DeleteError {
        DeleteError::Store {
            snapshot: self.id.snapshot.clone(),
            source,
        }
    }

    async fn records(&self) -> Result<Records, DeleteError> {
        let mut listed = Vec::new();
        let show = |found: Listed, written| listed.push((found, written));
        let shown = self.store.visit(&self.folder.snapshots(), show).await;
        shown.map_err(|source| self.fail(source))?;
        let mut records = Records::default();
        for (found, written) in listed {
            let Some((record, id)) = self.folder.read_record(&found.key) else {
                continue;
            };
            records.known.insert(id.uid.clone());
            let is_ours = id.snapshot == self.id.snapshot && id.uid == self.id.uid;
            match (is_ours, record) {
                (true, Record::Intent) => drop(records.intents.insert(found.key, found.bytes)),
                (true, Record::Manifest) => drop(records.manifests.insert(found.key, id)),
                (true, Record::Deleting) => {
                    records.marked = records.marked.max(Some(written));
                    records.markers.insert(found.key, found.bytes);
                }
                (false, Record::Manifest | Record::Intent) => {
                    let manifest = self.folder.record(Record::Manifest, &id);
                    records.others.insert(manifest);
                }
                // Not restorable any more; it clears up for itself.
                (false, Record::Deleting) => {}
            }
        }
        Ok(records)
    }

    /// Objects that nobody answers for any more.
    async fn orphans(&self, records: &Records) -> Result<BTreeMap<String, u64>, DeleteError> {
        let mut orphans = BTreeMap::new();
        // The marker was written just now, or before: then the less is old enough.
        let Some(now) = records.marked else {
            return Ok(orphans);
        };
        for root in [keys::PACKS, keys::MAPS] {
            let show = |found: Listed, written: i64| {
                let relative = self.folder.relative(&found.key);
                let owner = relative.and_then(keys::owner);
                let is_orphan = owner.is_some_and(|uid| !records.known.contains(uid));
                if is_orphan && written < now.saturating_sub(GRACE_MS) {
                    orphans.insert(found.key, found.bytes);
                }
            };
            let shown = self.store.visit(&self.folder.key(root), show).await;
            shown.map_err(|source| self.fail(source))?;
        }
        Ok(orphans)
    }

    /// Keys that remaining manifests refer to.
    async fn needed_by_others(
        &self,
        others: &BTreeSet<String>,
    ) -> Result<HashSet<String>, DeleteError> {
        let needed = needed_by(self.store, &self.folder, others).await;
        needed.map_err(|source| DeleteError::OtherUnreadable {
            snapshot: self.id.snapshot.clone(),
            source,
        })
    }

    fn keys_of(&self, manifest: &Manifest) -> BTreeMap<String, u64> {
        let objects = manifest.packs.iter().chain(&manifest.maps);
        objects
            .map(|object| (self.folder.key(&object.key), object.bytes))
            .collect()
    }

    /// Turns a manifest into a marker: not restorable any more, and still saying what it refers to.
    async fn retire(
        &mut self,
        key: &str,
        id: &AttemptId,
    ) -> Result<Option<(String, u64)>, DeleteError> {
        let marker = self.folder.record(Record::Deleting, id);
        let content = match manifest::read_twice(self.store, key).await {
            // One that is damaged in the store is kept as it is.
            Ok((content, _)) => content,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(self.fail(error)),
        };
        let bytes = content.len() as u64;
        match self.store.create(&marker, content.into()).await {
            // A marker with other content is one of an earlier call, of a manifest that was damaged since.
            Ok(()) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(self.fail(error)),
        }
        let removed = self.store.delete(key).await;
        removed.map_err(|source| self.fail(source))?;
        Ok(Some((marker, bytes)))
    }

    /// What a marker refers to; a damaged one refers to nothing that we could name.
    async fn refers_to(&self, marker: &str) -> Result<BTreeMap<String, u64>, DeleteError> {
        let examined = manifest::examine(self.store, marker).await;
        match examined.map_err(|source| self.fail(source))? {
            Ok(manifest) => Ok(self.keys_of(&manifest)),
            Err(error) => {
                tracing::warn!(%error, "deleting what lies in the Snapshot's own folders only");
                Ok(BTreeMap::new())
            }
        }
    }

    async fn remove(&mut self, doomed: BTreeMap<String, u64>) -> Result<(), DeleteError> {
        let store = self.store;
        let mut removals = stream::iter(doomed)
            .map(|(key, bytes)| async move { store.delete(&key).await.map(|()| bytes) })
            .buffer_unordered(REQUESTS);
        while let Some(removed) = removals.next().await {
            let bytes = removed.map_err(|source| DeleteError::Store {
                snapshot: self.id.snapshot.clone(),
                source,
            })?;
            // A manifest may claim any size.
            self.deleted.bytes = self.deleted.bytes.saturating_add(bytes);
            self.deleted.objects += 1;
        }
        Ok(())
    }
}

/// Keys of what these manifests refer to; one that is not there refers to nothing.
pub(super) async fn needed_by(
    store: &Store,
    folder: &DatabaseFolder,
    manifests: &BTreeSet<String>,
) -> Result<HashSet<String>, ReadManifestError> {
    let reads = stream::iter(manifests.clone()).map(|key| async move {
        match manifest::read(store, &key).await {
            Ok(manifest) => {
                let objects = manifest.packs.iter().chain(&manifest.maps);
                Ok(objects.map(|object| folder.key(&object.key)).collect())
            }
            // Deleted since the listing, or not written.
            Err(ReadManifestError::Read(source)) if source.is_not_found() => Ok(Vec::new()),
            Err(source) => Err(source),
        }
    });
    let needed: Vec<Vec<String>> = reads.buffer_unordered(REQUESTS).try_collect().await?;
    Ok(needed.into_iter().flatten().collect())
}
