//! Deleting the archive of a database that is wiped out: all WAL of one lineage, as often as one likes.

use futures::{StreamExt as _, stream};
use uuid::Uuid;

use super::{
    catalogue::Catalogue,
    delete::Deleted,
    keys::{DatabaseFolder, NameError},
    manifest,
};
use crate::store::{Store, StoreError};

/// Requests under way at once.
const REQUESTS: usize = 8;

/// Keys remembered at once: an archive may hold millions of segments, and their keys need not fit into memory.
const KEYS_MAX: usize = 50_000;

/// Looks that must find nothing, one after another: a listing may be a moment old, and a writer that has not noticed yet may add a segment.
const EMPTY_LOOKS: usize = 2;

/// Looks at all, each of which deletes something or is one of the last: as many as the largest listing takes.
const LOOKS_MAX: usize = 100;

/// Why an archive was kept, or a part of it.
#[derive(Debug, thiserror::Error)]
pub enum DeleteArchiveError {
    /// A name cannot be part of a key.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The lineage is none, so that it would lead elsewhere.
    #[error("failed to delete an archive: {lineage:?} is no lineage")]
    Lineage {
        /// What was given.
        lineage: String,
    },
    /// The store did not do its part.
    #[error("failed to delete the archive of {database}: {source}")]
    Store {
        /// Namespace and name of the database.
        database: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// Objects come as fast as they are deleted.
    #[error("failed to delete the archive of {database}: something still writes to it")]
    Busy {
        /// Namespace and name of the database.
        database: String,
    },
}

/// Deletes all that is archived of one lineage, and then its data keys, unless a Snapshot of it may still need them. Archives of other databases of the same
/// name stay.
pub async fn delete_archive(
    store: &Store,
    namespace: &str,
    database: &str,
    lineage: &str,
) -> Result<Deleted, DeleteArchiveError> {
    let folder = DatabaseFolder::new(namespace, database)?;
    let lineage = Uuid::try_parse(lineage).map_err(|_| DeleteArchiveError::Lineage {
        lineage: lineage.to_owned(),
    })?;
    let name = || format!("{namespace}/{database}");
    let mut deleted = delete_all(store, &folder.key(&format!("archive/{lineage}")), &name).await?;
    let needs = needs_keys(store, &folder, &lineage.to_string()).await;
    let needs = needs.map_err(|source| DeleteArchiveError::Store {
        database: name(),
        source,
    })?;
    if !needs {
        let keys = delete_all(store, &folder.key(&format!("keys/{lineage}")), &name).await?;
        deleted.objects += keys.objects;
        deleted.bytes = deleted.bytes.saturating_add(keys.bytes);
    }
    Ok(deleted)
}

/// Whether a Snapshot is left that may be encrypted with a key of this lineage: one that cannot be read, or was only begun, may be of any.
async fn needs_keys(
    store: &Store,
    folder: &DatabaseFolder,
    lineage: &str,
) -> Result<bool, StoreError> {
    let catalogue = Catalogue::of(&store.list(&folder.snapshots()).await?);
    let databases = catalogue.databases.values();
    for entry in databases.flat_map(|database| database.snapshots.values()) {
        let Some(key) = entry.manifest() else {
            return Ok(true);
        };
        match manifest::examine(store, key).await? {
            Ok(manifest) if manifest.lineage != lineage => {}
            _ => return Ok(true),
        }
    }
    Ok(false)
}

/// Deletes all below a folder.
async fn delete_all(
    store: &Store,
    folder: &str,
    name: &impl Fn() -> String,
) -> Result<Deleted, DeleteArchiveError> {
    let failed = |source| DeleteArchiveError::Store {
        database: name(),
        source,
    };
    let mut deleted = Deleted::default();
    let mut empty = 0;
    for _ in 0..LOOKS_MAX {
        if empty == EMPTY_LOOKS {
            return Ok(deleted);
        }
        let mut found = Vec::new();
        let show = |listed: crate::store::Listed, _| {
            if found.len() < KEYS_MAX {
                found.push((listed.key, listed.bytes));
            }
        };
        match store.visit(folder, show).await {
            // There are more than a listing shows; those that it did show go first.
            Err(StoreError::TooLarge { .. }) if !found.is_empty() => {}
            other => other.map_err(failed)?,
        }
        empty = if found.is_empty() { empty + 1 } else { 0 };
        let mut removals = stream::iter(found)
            .map(|(key, bytes)| async move { store.delete(&key).await.map(|()| bytes) })
            .buffer_unordered(REQUESTS);
        while let Some(removed) = removals.next().await {
            deleted.bytes = deleted.bytes.saturating_add(removed.map_err(failed)?);
            deleted.objects += 1;
        }
    }
    Err(DeleteArchiveError::Busy { database: name() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Credentials, Location};

    const OWN: &str = "0193a0a4-7a6c-7d5e-9a37-2b4f8f3c1d10";
    const OTHER: &str = "0193a0a4-7a6c-7d5e-9a37-2b4f8f3c1d11";

    #[tokio::test]
    async fn the_wal_of_one_lineage_goes_and_everything_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::Local {
            folder: folder.path().to_owned(),
        };
        let store = Store::open(&location, &Credentials::new()).unwrap();
        let own = [
            format!("kubedb/demo/pg/archive/{OWN}/wal_005/000000010000000000000001.zst"),
            format!("kubedb/demo/pg/archive/{OWN}/wal_005/00000002.history.zst"),
            format!("kubedb/demo/pg/keys/{OWN}/k/0001-r.json"),
        ];
        let others = [
            format!("kubedb/demo/pg/keys/{OTHER}/k/0001-r.json"),
            format!("kubedb/demo/pg/archive/{OTHER}/wal_005/000000010000000000000001.zst"),
            format!("kubedb/demo/pg2/archive/{OWN}/wal_005/000000010000000000000001.zst"),
            "kubedb/demo/pg/packs/u/p".to_owned(),
        ];
        for key in own.iter().chain(&others) {
            store.create(key, "WAL".into()).await.unwrap();
        }
        let deleted = delete_archive(&store, "demo", "pg", OWN).await.unwrap();
        let three = Deleted {
            objects: 3,
            bytes: 9,
        };
        assert_eq!(deleted, three);
        let left: Vec<String> = store
            .list("kubedb")
            .await
            .unwrap()
            .into_iter()
            .map(|left| left.key)
            .collect();
        let mut expected = others.to_vec();
        expected.sort();
        assert_eq!(left, expected);
        // As often as one likes.
        let again = delete_archive(&store, "demo", "pg", OWN).await.unwrap();
        assert_eq!(again, Deleted::default());
        // A Snapshot that was begun may need its keys.
        let key = &own[2];
        let intent =
            "kubedb/demo/pg/snapshots/one/attempt-0001-0193a0a4-7a6c-7d5e-9a37-2b4f8f3c1d12.json";
        for key in [key.as_str(), intent] {
            store.create(key, "WAL".into()).await.unwrap();
        }
        let kept = delete_archive(&store, "demo", "pg", OWN).await.unwrap();
        assert_eq!(kept, Deleted::default());
        store.delete(intent).await.unwrap();
        let gone = delete_archive(&store, "demo", "pg", OWN).await.unwrap();
        assert_eq!(gone.objects, 1);
        for lineage in ["", "..", "wal_005", "../packs"] {
            let refused = delete_archive(&store, "demo", "pg", lineage).await;
            assert!(
                matches!(refused, Err(DeleteArchiveError::Lineage { .. })),
                "{lineage:?}"
            );
        }
    }
}
