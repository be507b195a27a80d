//! What a store holds, told from its names alone: no cluster needs to be there any more.

use std::collections::BTreeMap;

use super::keys::{AttemptId, DatabaseFolder, Record};
use crate::store::{Listed, Store, StoreError};

/// Where everything of ours lies below a store's root.
const ROOT: &str = "kubedb";

/// Everything of ours in a store.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// By namespace and name.
    pub databases: BTreeMap<(String, String), DatabaseEntry>,
}

/// One database's folder.
#[derive(Clone, Debug)]
pub struct DatabaseEntry {
    /// The folder.
    pub folder: DatabaseFolder,
    /// Its Snapshots, by name and uid: a name may have been used again.
    pub snapshots: BTreeMap<(String, String), SnapshotEntry>,
    /// Sizes of packs and maps, by name relative to the folder.
    pub data: BTreeMap<String, u64>,
}

/// What is there of one Snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotEntry {
    /// Attempts that can be restored, by number: keys of their manifests.
    pub complete: BTreeMap<u32, String>,
    /// Attempts that have begun, complete or not.
    pub begun: Vec<u32>,
    /// It is being deleted.
    pub is_going: bool,
}

/// How a Snapshot in a store stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It can be restored, unless its data is gone or damaged.
    Complete,
    /// It was begun, and either is in work or was given up.
    Unfinished,
    /// It is being deleted.
    Deleting,
}

impl SnapshotEntry {
    /// How it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match (self.manifest(), self.is_going) {
            (Some(_), _) => Standing::Complete,
            (None, true) => Standing::Deleting,
            (None, false) => Standing::Unfinished,
        }
    }

    /// Key of the manifest to restore from: the last attempt's.
    #[must_use]
    pub fn manifest(&self) -> Option<&str> {
        self.complete.last_key_value().map(|(_, key)| key.as_str())
    }
}

impl Catalogue {
    /// Lists a store.
    pub async fn read(store: &Store) -> Result<Self, StoreError> {
        Ok(Self::of(&store.list(ROOT).await?))
    }

    /// Sorts what was listed. What is not ours is passed over.
    #[must_use]
    pub fn of(listed: &[Listed]) -> Self {
        let mut catalogue = Self::default();
        for object in listed {
            catalogue.add(object);
        }
        catalogue
    }

    fn add(&mut self, object: &Listed) -> Option<()> {
        let mut parts = object.key.strip_prefix(ROOT)?.split('/').skip(1);
        let (namespace, name) = (parts.next()?, parts.next()?);
        let folder = DatabaseFolder::new(namespace, name).ok()?;
        let relative = folder.relative(&object.key)?.to_owned();
        let record = folder.read_record(&object.key);
        if record.is_none() && !super::keys::is_data(&relative) {
            return None;
        }
        let key = (namespace.to_owned(), name.to_owned());
        let database = self.databases.entry(key).or_insert_with(|| DatabaseEntry {
            folder,
            snapshots: BTreeMap::new(),
            data: BTreeMap::new(),
        });
        match record {
            Some((record, id)) => database.note(record, id, &object.key),
            None => drop(database.data.insert(relative, object.bytes)),
        }
        Some(())
    }
}

impl DatabaseEntry {
    fn note(&mut self, record: Record, id: AttemptId, key: &str) {
        let entry = self.snapshots.entry((id.snapshot, id.uid)).or_default();
        match record {
            Record::Intent => entry.begun.push(id.attempt),
            Record::Manifest => drop(entry.complete.insert(id.attempt, key.to_owned())),
            Record::Deleting => entry.is_going = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(keys: &[&str]) -> Catalogue {
        let listed: Vec<Listed> = keys
            .iter()
            .map(|key| Listed {
                key: (*key).to_owned(),
                bytes: 7,
            })
            .collect();
        Catalogue::of(&listed)
    }

    #[test]
    fn names_tell_what_there_is() {
        let catalogue = of(&[
            "kubedb/demo/pg/maps/u1/00ff",
            "kubedb/demo/pg/packs/u1/00aa",
            "kubedb/demo/pg/snapshots/snap/attempt-0001-u1.json",
            "kubedb/demo/pg/snapshots/snap/attempt-0002-u1.json",
            "kubedb/demo/pg/snapshots/snap/manifest-0001-u1.json",
            "kubedb/demo/pg/snapshots/snap/manifest-0002-u1.json",
            "kubedb/demo/pg/snapshots/half/attempt-0001-u2.json",
            "kubedb/demo/pg/snapshots/gone/deleting-0001-u3.json",
            "kubedb/demo/pg2/snapshots/snap/manifest-0001-u4.json",
            "kubedb/readme.txt",
            "kubedb/demo/pg3/other/thing",
        ]);
        let names: Vec<_> = catalogue.databases.keys().map(|(_, name)| name).collect();
        assert_eq!(names, ["pg", "pg2"]);
        let pg = &catalogue.databases[&("demo".to_owned(), "pg".to_owned())];
        assert_eq!(pg.data.values().sum::<u64>(), 14);
        let standing = |name: &str, uid: &str| {
            let entry = &pg.snapshots[&(name.to_owned(), uid.to_owned())];
            (entry.standing(), entry.manifest())
        };
        let last = "kubedb/demo/pg/snapshots/snap/manifest-0002-u1.json";
        assert_eq!(standing("snap", "u1"), (Standing::Complete, Some(last)));
        assert_eq!(standing("half", "u2"), (Standing::Unfinished, None));
        assert_eq!(standing("gone", "u3"), (Standing::Deleting, None));
    }
}
