//! Metadata of everything that is ours, as the watches tell it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
};

use kube::api::ObjectMeta;
use kubedb_api::labels;
use tokio::sync::watch;

use super::render::{Kind, Place};
use crate::platform::DatabaseKey;

/// What is remembered of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) uid: String,
    pub(super) resource_version: String,
    /// Of kinds that have one it says whether anything but the status changed.
    generation: Option<i64>,
    /// UID of the Postgres it belongs to.
    owner: Option<String>,
    database: DatabaseKey,
    pub(super) is_going: bool,
}

impl Seen {
    /// None of what does not say that it is a database's.
    fn of(metadata: &ObjectMeta) -> Option<Self> {
        let labels = metadata.labels.as_ref()?;
        let namespace = labels.get(labels::NAMESPACE).cloned();
        Some(Self {
            uid: metadata.uid.clone()?,
            resource_version: metadata.resource_version.clone()?,
            generation: metadata.generation,
            owner: labels.get(labels::DATABASE_UID).cloned(),
            database: DatabaseKey {
                namespace: namespace.or_else(|| metadata.namespace.clone())?,
                name: labels.get(labels::NAME)?.clone(),
            },
            is_going: metadata.deletion_timestamp.is_some(),
        })
    }

    /// Whether it belongs to the Postgres of this UID.
    pub(super) fn is_of(&self, uid: &str) -> bool {
        self.owner.as_deref() == Some(uid)
    }

    /// Whether more than the status differs.
    fn differs(&self, other: &Self) -> bool {
        match (self.generation, other.generation) {
            (Some(own), Some(others)) => own != others || self.is_going != other.is_going,
            _ => self.resource_version != other.resource_version,
        }
    }
}

/// An object at the version that was found, or made, to be as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) resource_version: String,
    pub(super) digest: String,
}

#[derive(Debug, Default)]
struct State {
    seen: BTreeMap<Place, Seen>,
    /// Where the objects of each database are: there are tens of thousands, and ten of them its.
    places: HashMap<DatabaseKey, BTreeSet<Place>>,
    settled: BTreeMap<Place, Settled>,
    /// Kinds of which everything was told once.
    whole: BTreeSet<Kind>,
}

impl State {
    /// Gives what was known of it.
    fn see(&mut self, place: &Place, seen: Seen) -> Option<Seen> {
        let database = seen.database.clone();
        let earlier = self.seen.insert(place.clone(), seen);
        let was = earlier.as_ref().map(|earlier| &earlier.database);
        if was == Some(&database) {
            return earlier;
        }
        // Somebody changed its labels.
        if let Some(was) = was {
            self.leave(was, place);
        }
        self.places
            .entry(database)
            .or_default()
            .insert(place.clone());
        earlier
    }

    fn forget(&mut self, place: &Place) -> Option<Seen> {
        self.settled.remove(place);
        let seen = self.seen.remove(place)?;
        self.leave(&seen.database, place);
        Some(seen)
    }

    fn leave(&mut self, database: &DatabaseKey, place: &Place) {
        if let Some(its) = self.places.get_mut(database) {
            its.remove(place);
            if its.is_empty() {
                self.places.remove(database);
            }
        }
    }
}

/// Everything that is ours.
#[derive(Debug)]
pub(super) struct Known {
    state: Mutex<State>,
    is_whole: watch::Sender<bool>,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            is_whole: watch::channel(false).0,
        }
    }
}

impl Known {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until everything was told once.
    pub(super) async fn ready(&self) {
        // The sender lives as long as this.
        let _ = self.is_whole.subscribe().wait_for(|whole| *whole).await;
    }

    pub(super) fn get(&self, place: &Place) -> Option<Seen> {
        self.state().seen.get(place).cloned()
    }

    /// Names of all objects of a kind in a namespace.
    pub(super) fn names(&self, kind: Kind, namespace: &str) -> Vec<String> {
        let state = self.state();
        let places = state.seen.keys();
        let its = places.filter(|place| place.kind == kind && place.namespace == namespace);
        its.map(|place| place.name.clone()).collect()
    }

    /// What is there of a database, in whatever namespace.
    pub(super) fn of(&self, key: &DatabaseKey) -> Vec<(Place, Seen)> {
        let state = self.state();
        let its = state.places.get(key).into_iter().flatten();
        its.filter_map(|place| Some((place.clone(), state.seen.get(place)?.clone())))
            .collect()
    }

    /// The version at which an object was last known to be as wanted.
    pub(super) fn settled(&self, place: &Place) -> Option<Settled> {
        self.state().settled.get(place).cloned()
    }

    /// Remembers that an object is as wanted, as the server just said.
    pub(super) fn settle(&self, place: &Place, metadata: &ObjectMeta, digest: String) {
        let mut state = self.state();
        if let Some(seen) = Seen::of(metadata) {
            let settled = Settled {
                resource_version: seen.resource_version.clone(),
                digest,
            };
            state.settled.insert(place.clone(), settled);
            state.see(place, seen);
        }
    }

    /// An object was told. Returns whose it is if that is news.
    pub(super) fn told(&self, place: &Place, metadata: &ObjectMeta) -> Option<DatabaseKey> {
        let seen = Seen::of(metadata)?;
        let earlier = self.state().see(place, seen.clone());
        let is_news = earlier.is_none_or(|earlier| earlier.differs(&seen));
        is_news.then_some(seen.database)
    }

    /// An object is gone. Returns whose it was.
    pub(super) fn gone(&self, place: &Place) -> Option<DatabaseKey> {
        self.state().forget(place).map(|seen| seen.database)
    }

    /// All objects of a kind were told anew: what is not among them is gone. Returns whose those were.
    pub(super) fn relisted(&self, kind: Kind, told: &BTreeSet<Place>) -> Vec<DatabaseKey> {
        let lost: Vec<Place> = {
            let state = self.state();
            let its = state.seen.keys().filter(|place| place.kind == kind);
            its.filter(|place| !told.contains(place)).cloned().collect()
        };
        let lost = lost.iter().filter_map(|place| self.gone(place)).collect();
        let mut state = self.state();
        state.whole.insert(kind);
        if Kind::ALL.iter().all(|kind| state.whole.contains(kind)) {
            self.is_whole.send_replace(true);
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(version: &str, generation: Option<i64>) -> ObjectMeta {
        ObjectMeta {
            namespace: Some("demo".to_owned()),
            uid: Some("o-1".to_owned()),
            resource_version: Some(version.to_owned()),
            generation,
            labels: Some(
                [(labels::NAME, "pg"), (labels::DATABASE_UID, "u-1")]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            ),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn a_status_is_no_news_and_a_change_by_hand_is() {
        let known = Known::default();
        let place = Place::new(Kind::StatefulSet, "demo", "pg");
        assert!(known.told(&place, &metadata("1", Some(1))).is_some());
        assert!(known.told(&place, &metadata("2", Some(1))).is_none());
        assert!(known.told(&place, &metadata("3", Some(2))).is_some());
        let place = Place::new(Kind::Service, "demo", "pg");
        assert!(known.told(&place, &metadata("4", None)).is_some());
        assert!(known.told(&place, &metadata("4", None)).is_none());
        assert!(known.told(&place, &metadata("5", None)).is_some());
    }

    #[test]
    fn what_is_of_a_database_is_found_wherever_its_labels_lead() {
        let known = Known::default();
        let key = |name: &str| DatabaseKey {
            namespace: "demo".to_owned(),
            name: name.to_owned(),
        };
        let service = Place::new(Kind::Service, "demo", "pg");
        let workload = Place::new(Kind::StatefulSet, "demo", "pg");
        known.told(&service, &metadata("1", None));
        known.told(&workload, &metadata("2", Some(1)));
        let places = |name: &str| -> BTreeSet<Place> {
            let found = known.of(&key(name)).into_iter();
            found.map(|(place, _)| place).collect()
        };
        let both = BTreeSet::from([service.clone(), workload.clone()]);
        assert_eq!((places("pg"), places("other")), (both, BTreeSet::new()));
        let mut relabelled = metadata("3", None);
        let labels = relabelled.labels.as_mut().unwrap();
        labels.insert(labels::NAME.to_owned(), "other".to_owned());
        known.told(&service, &relabelled);
        assert_eq!(places("other"), BTreeSet::from([service.clone()]));
        assert_eq!(places("pg"), BTreeSet::from([workload.clone()]));
        assert_eq!(known.gone(&service), Some(key("other")));
        known.gone(&workload);
        assert!(known.state().places.is_empty());
    }

    #[test]
    fn what_a_new_list_lacks_is_gone() {
        let known = Known::default();
        let place = Place::new(Kind::Service, "demo", "pg");
        known.settle(&place, &metadata("1", None), "digest".to_owned());
        assert!(known.settled(&place).is_some());
        let lost = known.relisted(Kind::Service, &BTreeSet::new());
        assert_eq!(lost.len(), 1);
        assert!(known.get(&place).is_none() && known.settled(&place).is_none());
    }
}
