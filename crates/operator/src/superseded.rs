//! Versions of objects that our own writes replaced, or that were read anew since. A cache that still shows one is behind us: to decide on it would be to
//! decide the same thing twice, and to tell of things that did not happen.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use kube::{Resource, ResourceExt as _};

/// Entries remembered of each sort: a cache is behind by seconds at most, and an operator writes some hundred times a second at most.
const REMEMBERED_MAX: usize = 8_192;

/// The latest entries, the first that came first to go.
#[derive(Debug)]
struct Memory<V> {
    order: VecDeque<String>,
    entries: HashMap<String, V>,
}

impl<V> Default for Memory<V> {
    fn default() -> Self {
        Self {
            order: VecDeque::new(),
            entries: HashMap::new(),
        }
    }
}

impl<V> Memory<V> {
    /// The entry under a key, which is this one if there was none.
    fn entry(&mut self, key: String, new: V) -> &mut V {
        if !self.entries.contains_key(&key) {
            self.order.push_back(key.clone());
            if self.order.len() > REMEMBERED_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.entries.remove(&oldest);
            }
        }
        self.entries.entry(key).or_insert(new)
    }
}

#[derive(Debug, Default)]
struct Inner {
    /// Versions that were replaced.
    replaced: Memory<()>,
    /// The latest version that the API has shown, by UID.
    shown: Memory<u64>,
}

/// The versions.
#[derive(Debug, Default)]
pub(crate) struct Superseded {
    inner: Mutex<Inner>,
}

fn version<K: Resource>(object: &K) -> Option<String> {
    Some(format!("{}/{}", object.uid()?, object.resource_version()?))
}

/// As a number, by which versions of one object are in order wherever they are numbers, as those of Kubernetes are.
fn number<K: Resource>(object: &K) -> Option<(String, u64)> {
    Some((object.uid()?, object.resource_version()?.parse().ok()?))
}

impl Superseded {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The API has shown this one: a cache that has an earlier one is behind.
    pub(crate) fn see<K: Resource>(&self, object: &K) {
        if let Some((uid, version)) = number(object) {
            let mut inner = self.inner();
            let latest = inner.shown.entry(uid, version);
            *latest = version.max(*latest);
        }
    }

    /// Our write made `new` of `old`. One that changed nothing replaced nothing.
    pub(crate) fn note<K: Resource>(&self, old: &K, new: &K) {
        let (Some(replaced), Some(version)) = (version(old), version(new)) else {
            return;
        };
        if replaced != version {
            self.inner().replaced.entry(replaced, ());
            self.see(new);
        }
    }

    /// All objects of a kind are told anew, with the versions that they have now: where the API's store was put back to an earlier day, those are earlier ones.
    pub(crate) fn begin_anew(&self) {
        self.inner().shown = Memory::default();
    }

    /// Whether this is an object as it was before a write of ours, or before what was read of it anew.
    pub(crate) fn holds<K: Resource>(&self, object: &K) -> bool {
        let inner = self.inner();
        let is_replaced =
            version(object).is_some_and(|version| inner.replaced.entries.contains_key(&version));
        let is_earlier = number(object).is_some_and(|(uid, version)| {
            let latest = inner.shown.entries.get(&uid);
            latest.is_some_and(|latest| version < *latest)
        });
        is_replaced || is_earlier
    }
}

#[cfg(test)]
mod tests {
    use kubedb_api::{Snapshot, SnapshotSpec};

    use super::*;

    fn snapshot(version: usize) -> Snapshot {
        let mut snapshot = Snapshot::new("one", SnapshotSpec::default());
        snapshot.metadata.uid = Some("uid".to_owned());
        snapshot.metadata.resource_version = Some(version.to_string());
        snapshot
    }

    #[test]
    fn what_a_write_replaced_is_old_and_what_it_made_is_not() {
        let superseded = Superseded::default();
        superseded.note(&snapshot(1), &snapshot(2));
        assert!(superseded.holds(&snapshot(1)));
        assert!(!superseded.holds(&snapshot(2)));
        // Whatever came before is old, too; of another object nothing is known.
        let mut first = snapshot(1);
        assert!(superseded.holds(&snapshot(0)));
        first.metadata.uid = Some("other".to_owned());
        assert!(!superseded.holds(&first));
        // What was read anew is as good as what was written.
        superseded.see(&snapshot(5));
        assert!(superseded.holds(&snapshot(4)) && !superseded.holds(&snapshot(5)));
        superseded.see(&snapshot(3));
        assert!(!superseded.holds(&snapshot(6)) && superseded.holds(&snapshot(4)));
        superseded.begin_anew();
        assert!(!superseded.holds(&snapshot(4)));
        // A write without effect leaves the version as it was, and that one is the newest there is.
        superseded.note(&snapshot(6), &snapshot(6));
        assert!(!superseded.holds(&snapshot(6)));
    }

    #[test]
    fn memory_is_bounded() {
        let superseded = Superseded::default();
        let of = |number: usize| {
            let mut snapshot = snapshot(1);
            snapshot.metadata.uid = Some(number.to_string());
            snapshot
        };
        for number in 0..=REMEMBERED_MAX {
            let mut new = of(number);
            new.metadata.resource_version = Some("2".to_owned());
            superseded.note(&of(number), &new);
        }
        assert!(!superseded.holds(&of(0)));
        assert!(superseded.holds(&of(1)));
        let inner = superseded.inner.lock().unwrap();
        assert_eq!(inner.replaced.entries.len(), REMEMBERED_MAX);
        assert_eq!(inner.shown.entries.len(), REMEMBERED_MAX);
    }
}
