//! Which objects of the caches belong together, so that nobody has to look through tens of thousands for the ten of one database.
//!
//! It may name an object that the caches do not hold any more, or not yet: whoever asks takes the object from there, and judges that.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use kube::{
    ResourceExt as _,
    runtime::reflector::{ObjectRef, Store},
};
use kubedb_api::{Postgres, Snapshot};

use crate::{postgres::waits, snapshot::is_in_work};

#[derive(Debug, Default)]
struct Inner {
    /// Names of Snapshots by namespace and database.
    snapshots: BTreeMap<(String, String), BTreeSet<String>>,
    /// Databases that wait to be restored from a Snapshot.
    waiting: HashSet<ObjectRef<Postgres>>,
    /// Snapshots that instances work on, or verify.
    in_work: HashSet<ObjectRef<Snapshot>>,
}

/// The relations.
#[derive(Debug, Default)]
pub(crate) struct Related(Mutex<Inner>);

fn owner_of(snapshot: &Snapshot) -> (String, String) {
    let namespace = snapshot.namespace().unwrap_or_default();
    (namespace, snapshot.spec.database_name.clone())
}

impl Related {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A Snapshot is there, or is not any more. Its database is the same as long as it lives. Tells whether it was in work and is not any more.
    pub(crate) fn snapshot(&self, snapshot: &Snapshot, is_gone: bool) -> bool {
        let (owner, name) = (owner_of(snapshot), snapshot.name_any());
        let mut inner = self.inner();
        let has_ended = if is_in_work(snapshot) && !is_gone {
            inner.in_work.insert(ObjectRef::from_obj(snapshot));
            false
        } else {
            inner.in_work.remove(&ObjectRef::from_obj(snapshot))
        };
        if !is_gone {
            inner.snapshots.entry(owner).or_default().insert(name);
        } else if let Some(its) = inner.snapshots.get_mut(&owner) {
            its.remove(&name);
            if its.is_empty() {
                inner.snapshots.remove(&owner);
            }
        }
        has_ended
    }

    /// All Snapshots were told anew: what the cache does not hold is gone.
    pub(crate) fn keep_snapshots(&self, store: &Store<Snapshot>) {
        let mut snapshots: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        let mut in_work = HashSet::new();
        for snapshot in store.state() {
            let its = snapshots.entry(owner_of(&snapshot)).or_default();
            its.insert(snapshot.name_any());
            if is_in_work(&snapshot) {
                in_work.insert(ObjectRef::from_obj(&*snapshot));
            }
        }
        let mut inner = self.inner();
        (inner.snapshots, inner.in_work) = (snapshots, in_work);
    }

    /// A database is there, or is not any more.
    pub(crate) fn database(&self, postgres: &Postgres, is_gone: bool) {
        let database = ObjectRef::from_obj(postgres);
        let mut inner = self.inner();
        if waits(postgres) && !is_gone {
            inner.waiting.insert(database);
        } else {
            inner.waiting.remove(&database);
        }
    }

    /// All databases were told anew.
    pub(crate) fn keep_databases(&self, store: &Store<Postgres>) {
        let waiting = store.state().into_iter();
        let waiting = waiting.filter(|postgres| waits(postgres));
        let waiting = waiting.map(|postgres| ObjectRef::from_obj(&*postgres));
        self.inner().waiting = waiting.collect();
    }

    /// Snapshots of a database, by name.
    pub(crate) fn of(&self, namespace: &str, database: &str) -> Vec<ObjectRef<Snapshot>> {
        let inner = self.inner();
        let its = inner
            .snapshots
            .get(&(namespace.to_owned(), database.to_owned()));
        its.into_iter()
            .flatten()
            .map(|name| ObjectRef::new(name).within(namespace))
            .collect()
    }

    /// Snapshots that instances work on, or verify.
    pub(crate) fn in_work(&self) -> Vec<ObjectRef<Snapshot>> {
        self.inner().in_work.iter().cloned().collect()
    }

    /// Databases that wait to be restored from a Snapshot.
    pub(crate) fn waiting(&self) -> Vec<ObjectRef<Postgres>> {
        self.inner().waiting.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::{reflector, watcher::Event};
    use serde_json::json;

    use super::*;

    fn snapshot(name: &str, database: &str) -> Snapshot {
        serde_json::from_value(json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot",
            "metadata": {"name": name, "namespace": "demo"}, "spec": {"databaseName": database},
        }))
        .unwrap()
    }

    fn names(related: &Related, database: &str) -> Vec<String> {
        let its = related.of("demo", database).into_iter();
        its.map(|snapshot| snapshot.name).collect()
    }

    #[test]
    fn snapshots_are_found_by_their_database_in_order_of_names() {
        let related = Related::default();
        for (name, database) in [("b", "pg"), ("a", "pg"), ("c", "other")] {
            related.snapshot(&snapshot(name, database), false);
        }
        assert_eq!(names(&related, "pg"), ["a", "b"]);
        related.snapshot(&snapshot("a", "pg"), true);
        assert_eq!(names(&related, "pg"), ["b"]);
        assert!(related.of("elsewhere", "pg").is_empty());
    }

    #[test]
    fn what_a_new_list_lacks_is_forgotten() {
        let related = Related::default();
        related.snapshot(&snapshot("gone", "pg"), false);
        let (store, mut writer) = reflector::store();
        writer.apply_watcher_event(&Event::Apply(snapshot("new", "pg")));
        related.keep_snapshots(&store);
        assert_eq!(names(&related, "pg"), ["new"]);
    }

    #[test]
    fn a_database_waits_until_it_begins() {
        let database = |status: serde_json::Value| -> Postgres {
            serde_json::from_value(json!({
                "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "metadata": {"name": "pg", "namespace": "demo"},
                "spec": {"version": "15", "init": {"snapshotSource": {"name": "s"}}}, "status": status,
            }))
            .unwrap()
        };
        let related = Related::default();
        related.database(&database(json!({})), false);
        assert_eq!(related.waiting().len(), 1);
        let begun = json!({"bootstrap": {"namespace": "demo", "database": "pg", "storage": {}}});
        related.database(&database(begun), false);
        assert!(related.waiting().is_empty());
        related.database(&database(json!({})), false);
        related.database(&database(json!({})), true);
        assert!(related.waiting().is_empty());
    }
}
