//! What happens by itself: objects without owners go, namespaces empty themselves, old Events are forgotten.
//!
//! A thread of its own that follows the log like a watch. What it decides is a function of the objects alone, so a
//! start after a crash begins with a look at all of them and misses nothing.

use std::collections::HashSet;
use std::sync::{Arc, Weak};

use serde_json::Value;

use super::delete::{self, FOREGROUND, ORPHAN, Options};
use super::namespace;
use super::object::{self, finalizers};
use super::resource;
use super::route::{Part, Target};
use super::status::ApiError;
use super::write::is_finished;
use crate::storage::{Change, ChangeKind, Key, Objects, Store};
use crate::tokens::Tokens;

/// Changes looked at between two looks at the objects.
const BATCH: usize = 256;
/// Age at which an Event is forgotten, as in kube-apiserver.
const EVENT_SECONDS: i64 = 3600;
/// Seconds between two looks for old Events; without writes there are no new ones either.
const EVENT_SWEEP: i64 = 60;
/// Rounds until a chain of owners must be gone: each round removes one link.
const MAX_ROUNDS: usize = 64;

/// Starts the thread; it ends when the store does.
pub(crate) fn start(store: &Arc<Store>, tokens: &Arc<Tokens>) -> std::io::Result<()> {
    let mut woken = store.subscribe();
    let (weak, tokens) = (Arc::downgrade(store), Arc::downgrade(tokens));
    let mut collector = Collector {
        store: weak,
        tokens,
        position: 0,
        swept: 0,
    };
    std::thread::Builder::new()
        .name("collector".to_owned())
        .spawn(move || {
            loop {
                woken.mark_unchanged();
                if !collector.look() {
                    return;
                }
                // An error means that the store is gone.
                if futures::executor::block_on(woken.changed()).is_err() {
                    return;
                }
            }
        })
        .map(drop)
}

struct Collector {
    store: Weak<Store>,
    tokens: Weak<Tokens>,
    /// Everything up to here was looked at; 0 asks for a look at everything.
    position: u64,
    /// Second of the last look for old Events.
    swept: i64,
}

impl Collector {
    /// Does what is to be done; false when the store is gone.
    fn look(&mut self) -> bool {
        for _ in 0..MAX_ROUNDS {
            let Some(store) = self.store.upgrade() else {
                return false;
            };
            match self.needs_look(&store) {
                None => break,
                Some(false) => {}
                Some(true) => collect(&store),
            }
        }
        if let Some(store) = self.store.upgrade() {
            self.sweep_events(&store);
        }
        true
    }

    /// Whether the next changes can leave something to do; `None` when there are none.
    fn needs_look(&mut self, store: &Store) -> Option<bool> {
        let changes = match store.changes(self.position, BATCH) {
            _ if self.position == 0 => Err(()),
            Ok(changes) => Ok(changes),
            Err(_) => Err(()),
        };
        let Ok(changes) = changes else {
            self.position = store.revision();
            return Some(true);
        };
        self.position = changes.last()?.revision;
        let mut needed = false;
        for change in &changes {
            let deleted = change.kind == ChangeKind::Deleted;
            if deleted && change.key.resource == "postgreses" {
                self.revoke(store, &change.key);
            }
            needed |= deleted || asks_for_look(store, change);
        }
        Some(needed)
    }

    /// The agents of a database that is gone lose their rights, unless it was created anew meanwhile.
    fn revoke(&self, store: &Store, key: &Key) {
        let Some(tokens) = self.tokens.upgrade() else {
            return;
        };
        if store.get(key).is_none()
            && let Err(error) = tokens.revoke(store, &key.namespace, &key.name)
        {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                namespace = key.namespace,
                database = key.name,
                "the tokens of a deleted database stay valid"
            );
        }
    }

    fn sweep_events(&mut self, store: &Store) {
        let now = jiff::Timestamp::now().as_second();
        if now - self.swept < EVENT_SWEEP {
            return;
        }
        self.swept = now;
        let (_, events) = store.list("", "events", "");
        for (key, event) in events {
            if last_seen(&event).is_some_and(|seen| now - seen > EVENT_SECONDS) {
                remove_unchanged(store, &key, &event);
            }
        }
    }
}

/// Whether an object that is there can leave something to do: it goes, its owners changed, or its namespace goes and
/// it may no longer refuse to.
fn asks_for_look(store: &Store, change: &Change) -> bool {
    let metadata = &change.object["metadata"];
    let owners = |object: &Value| object["metadata"]["ownerReferences"].clone();
    let before = change.old.as_deref().map_or(Value::Null, owners);
    let namespace = Key::new("", "namespaces", "", &change.key.namespace);
    !metadata["deletionTimestamp"].is_null()
        || metadata["ownerReferences"] != before
        || store
            .get(&namespace)
            .is_some_and(|namespace| !namespace["metadata"]["deletionTimestamp"].is_null())
}

fn last_seen(event: &Value) -> Option<i64> {
    [
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["metadata"]["creationTimestamp"],
    ]
    .into_iter()
    .filter_map(|value| value.as_str()?.parse::<jiff::Timestamp>().ok())
    .map(jiff::Timestamp::as_second)
    .max()
}

fn remove_unchanged(store: &Store, key: &Key, seen: &Value) {
    let removed = store.write(|transaction| -> Result<(), ApiError> {
        match transaction.get(key) {
            Some(object) if *object == *seen => {
                transaction.remove(key.clone(), Value::clone(&object))?;
            }
            _ => {}
        }
        Ok(())
    });
    if let Err(error) = removed {
        tracing::warn!(error = error.message, "an old Event stays");
    }
}

/// One look at all objects.
fn collect(store: &Store) {
    let (_, objects) = store.all();
    let present: HashSet<(&str, &str)> = objects
        .iter()
        .filter_map(|(key, object)| Some((key.namespace.as_str(), uid(object)?)))
        .collect();
    // An owner lies in the same namespace or in none.
    let exists = |namespace: &str, owner: &str| {
        present.contains(&(namespace, owner)) || present.contains(&("", owner))
    };
    for (key, object) in &objects {
        if let Err(error) = follow_owners(store, key, object, &exists) {
            told(key, &error);
        }
    }
    for (key, object) in &objects {
        let held = |name: &str| finalizers(object).contains(&name);
        let done = if object["metadata"]["deletionTimestamp"].is_null() {
            Ok(())
        } else if key.resource == "namespaces" {
            namespace::empty(store, key, &objects)
        } else if held(ORPHAN) {
            orphan(store, key, object, &objects)
        } else if held(FOREGROUND) {
            foreground(store, key, object, &objects)
        } else {
            Ok(())
        };
        if let Err(error) = done {
            told(key, &error);
        }
    }
}

fn told(key: &Key, error: &ApiError) {
    tracing::debug!(
        resource = key.resource,
        namespace = key.namespace,
        name = key.name,
        error = error.message,
        "not collected yet"
    );
}

fn uid(object: &Value) -> Option<&str> {
    object["metadata"]["uid"].as_str()
}

fn owners(object: &Value) -> impl Iterator<Item = &str> {
    object["metadata"]["ownerReferences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|owner| owner["uid"].as_str())
}

/// Deletes an object whose owners are all gone, and lets it forget those that are when others are left.
fn follow_owners(
    store: &Store,
    key: &Key,
    object: &Value,
    exists: &dyn Fn(&str, &str) -> bool,
) -> Result<(), ApiError> {
    let (left, gone): (Vec<&str>, Vec<&str>) =
        owners(object).partition(|owner| exists(&key.namespace, owner));
    if gone.is_empty() {
        Ok(())
    } else if left.is_empty() {
        delete(store, key, Some(object))
    } else {
        forget_owners(store, key, &gone)
    }
}

fn target(key: &Key) -> Result<Target, ApiError> {
    Ok(Target {
        resource: resource::stored(key).ok_or_else(ApiError::no_such_path)?,
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        part: Part::Main,
    })
}

/// Deletes an object unless that has begun; `seen` names the very object.
pub(super) fn delete(store: &Store, key: &Key, seen: Option<&Value>) -> Result<(), ApiError> {
    if seen.is_some_and(|object| !object["metadata"]["deletionTimestamp"].is_null()) {
        return Ok(());
    }
    let options = match seen.and_then(uid) {
        Some(uid) => Options::of_uid(uid),
        None => Options::default(),
    };
    delete::delete(store, &target(key)?, &options).map(drop)
}

/// Changes metadata of an object, and removes the object when nothing holds it any more.
pub(super) fn edit(
    store: &Store,
    key: &Key,
    change: impl FnOnce(&mut Value),
) -> Result<(), ApiError> {
    store.write(|transaction| {
        let Some(old) = transaction.get(key) else {
            return Ok(());
        };
        let mut new = Value::clone(&old);
        change(&mut new);
        if is_finished(&new) {
            transaction.remove(key.clone(), new)?;
        } else if new != *old {
            transaction.put(key.clone(), new)?;
        }
        Ok(())
    })
}

fn forget_owners(store: &Store, key: &Key, gone: &[&str]) -> Result<(), ApiError> {
    edit(store, key, |object| {
        let metadata = &mut object["metadata"];
        if let Some(list) = metadata["ownerReferences"].as_array_mut() {
            list.retain(|owner| !gone.iter().any(|uid| owner["uid"] == *uid));
            if list.is_empty() {
                object::remove(metadata, "ownerReferences");
            }
        }
    })
}

fn remove_finalizer(store: &Store, key: &Key, finalizer: &str) -> Result<(), ApiError> {
    edit(store, key, |object| {
        let metadata = &mut object["metadata"];
        if let Some(list) = metadata["finalizers"].as_array_mut() {
            list.retain(|one| one != finalizer);
            if list.is_empty() {
                object::remove(metadata, "finalizers");
            }
        }
    })
}

fn dependents<'a>(
    owner: &'a Key,
    object: &'a Value,
    objects: &'a Objects,
) -> impl Iterator<Item = (&'a Key, &'a Value)> {
    objects
        .iter()
        .filter(move |(key, _)| owner.namespace.is_empty() || key.namespace == owner.namespace)
        .filter(move |(_, dependent)| owners(dependent).any(|uid_| Some(uid_) == uid(object)))
        .map(|(key, dependent)| (key, &**dependent))
}

/// Dependents forget their owner, then it goes.
fn orphan(store: &Store, key: &Key, object: &Value, objects: &Objects) -> Result<(), ApiError> {
    let own = uid(object).unwrap_or_default();
    for (dependent, _) in dependents(key, object, objects) {
        forget_owners(store, dependent, &[own])?;
    }
    remove_finalizer(store, key, ORPHAN)
}

/// Dependents go, then their owner. Those that do not block it may outlive it.
fn foreground(store: &Store, key: &Key, object: &Value, objects: &Objects) -> Result<(), ApiError> {
    let mut blocked = false;
    for (dependent, value) in dependents(key, object, objects) {
        delete(store, dependent, Some(value))?;
        let references = value["metadata"]["ownerReferences"].as_array();
        let blocks = references.into_iter().flatten().any(|reference| {
            reference["uid"].as_str() == uid(object) && reference["blockOwnerDeletion"] == true
        });
        blocked |= blocks && store.get(dependent).is_some();
    }
    if blocked {
        return Ok(());
    }
    remove_finalizer(store, key, FOREGROUND)
}
