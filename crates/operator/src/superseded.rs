//! Versions of objects that our own writes replaced. A cache that still shows one is behind us: to decide on it would be to
//! decide the same thing twice, and to tell of things that did not happen.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, PoisonError},
};

use kube::{Resource, ResourceExt as _};

/// Versions remembered: a cache is behind by seconds at most, and an operator writes some hundred times a second at most.
const REMEMBERED_MAX: usize = 8_192;

#[derive(Debug, Default)]
struct Inner {
    order: VecDeque<String>,
    known: HashSet<String>,
}

/// The versions.
#[derive(Debug, Default)]
pub(crate) struct Superseded {
    inner: Mutex<Inner>,
}

fn version<K: Resource>(object: &K) -> Option<String> {
    Some(format!("{}/{}", object.uid()?, object.resource_version()?))
}

impl Superseded {
    /// Our write made `new` of `old`. One that changed nothing replaced nothing.
    pub(crate) fn note<K: Resource>(&self, old: &K, new: &K) {
        let (Some(old), Some(new)) = (version(old), version(new)) else {
            return;
        };
        if old == new {
            return;
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.known.insert(old.clone()) {
            inner.order.push_back(old);
        }
        if inner.order.len() > REMEMBERED_MAX
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.known.remove(&oldest);
        }
    }

    /// Whether this is an object as it was before a write of ours.
    pub(crate) fn holds<K: Resource>(&self, object: &K) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        version(object).is_some_and(|version| inner.known.contains(&version))
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
        // A write without effect leaves the version as it was, and that one is the newest there is.
        superseded.note(&snapshot(2), &snapshot(2));
        assert!(!superseded.holds(&snapshot(2)));
    }

    #[test]
    fn memory_is_bounded() {
        let superseded = Superseded::default();
        for version in 0..=REMEMBERED_MAX {
            superseded.note(&snapshot(version), &snapshot(version + 1));
        }
        assert!(!superseded.holds(&snapshot(0)));
        assert!(superseded.holds(&snapshot(1)));
        assert_eq!(superseded.inner.lock().unwrap().known.len(), REMEMBERED_MAX);
    }
}
