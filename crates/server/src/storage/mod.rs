//! Objects in SQLite, all of them in memory as well: reads never touch the disk, a write is visible once it is on it.

pub(crate) mod log;
mod schema;
mod transaction;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use rusqlite::Connection;
use serde_json::Value;
use tokio::sync::watch;

use log::Log;
pub(crate) use log::{Change, ChangeKind, Compacted};
pub use schema::OpenError;
pub(crate) use transaction::Transaction;

/// Where an object lies. The order is the order of lists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) group: String,
    pub(crate) resource: String,
    /// Empty for cluster-scoped objects.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(group: &str, resource: &str, namespace: &str, name: &str) -> Self {
        Self {
            group: group.to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// Objects and their keys, in order.
pub(crate) type Objects = Vec<(Key, Arc<Value>)>;

/// Why the storage refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StorageError {
    /// SQLite.
    #[error("failed to write to storage")]
    Sqlite(#[source] rusqlite::Error),
    /// No room is left.
    #[error(
        "failed to write to storage: the disk of the server's data folder is full; make room on it"
    )]
    Full(#[source] rusqlite::Error),
    /// JSON that does not become text.
    #[error("failed to encode an object")]
    Encode(#[from] serde_json::Error),
    /// More than the caller lets one object have.
    #[error("the object has {bytes} bytes, and {most} are stored at most")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// A write that failed may be on the disk all the same: memory is behind it from then on.
    #[error("failed to write to storage: an earlier write ended in doubt, restart the server")]
    InDoubt,
}

impl From<rusqlite::Error> for StorageError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full(error),
            _ => Self::Sqlite(error),
        }
    }
}

struct State {
    objects: BTreeMap<Key, Arc<Value>>,
    log: Log,
}

/// All objects.
pub(crate) struct Store {
    connection: Mutex<Connection>,
    state: RwLock<State>,
    revision: watch::Sender<u64>,
}

impl Store {
    /// Opens or creates the file and reads it.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let connection = schema::open(path)?;
        let state = transaction::load(&connection, path)?;
        let (revision, _) = watch::channel(state.log.revision());
        Ok(Self {
            connection: Mutex::new(connection),
            state: RwLock::new(state),
            revision,
        })
    }

    /// Wakes at every write; ends when the store is gone.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// One object.
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Value>> {
        self.read().objects.get(key).cloned()
    }

    /// The objects of a resource (of one namespace, unless that is empty) and the revision they were read at.
    pub(crate) fn list(&self, group: &str, resource: &str, namespace: &str) -> (u64, Objects) {
        let state = self.read();
        let objects = range(&state.objects, group, resource, namespace)
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect();
        (state.log.revision(), objects)
    }

    /// The same as they were at `revision`, unless that is forgotten.
    pub(crate) fn list_at(
        &self,
        revision: u64,
        group: &str,
        resource: &str,
        namespace: &str,
    ) -> Result<Objects, Compacted> {
        let state = self.read();
        let mut objects: BTreeMap<Key, Arc<Value>> =
            range(&state.objects, group, resource, namespace)
                .map(|(key, object)| (key.clone(), object.clone()))
                .collect();
        for change in state.log.after(revision, usize::MAX)?.iter().rev() {
            let key = &change.key;
            if !within(key, group, resource, namespace) {
                continue;
            }
            match (change.kind, &change.old) {
                (ChangeKind::Added, _) => objects.remove(key),
                (_, Some(old)) => objects.insert(key.clone(), old.clone()),
                (_, None) => {
                    let oldest = state.log.revision();
                    return Err(Compacted { oldest });
                }
            };
        }
        Ok(objects.into_iter().collect())
    }

    /// Every object, for the collector.
    pub(crate) fn all(&self) -> (u64, Objects) {
        let state = self.read();
        let objects = state
            .objects
            .iter()
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect();
        (state.log.revision(), objects)
    }

    /// At most `limit` changes after `revision`, oldest first.
    pub(crate) fn changes(
        &self,
        revision: u64,
        limit: usize,
    ) -> Result<Vec<Arc<Change>>, Compacted> {
        self.read().log.after(revision, limit)
    }

    /// The last revision.
    pub(crate) fn revision(&self) -> u64 {
        self.read().log.revision()
    }

    /// Runs `work` while nothing else writes, and writes what it staged in one durable transaction; nothing when it
    /// fails. Blocks for a disk flush.
    pub(crate) fn write<T, E: From<StorageError>>(
        &self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut connection = self.connection();
        let (result, changes) = {
            let state = self.read();
            let mut transaction = Transaction::new(&state.objects, state.log.revision());
            let result = work(&mut transaction)?;
            (result, transaction.into_changes())
        };
        if !changes.is_empty() {
            let compacted = self.read().log.compacted();
            transaction::commit(&mut connection, &changes, compacted)?;
            self.apply(changes);
        }
        Ok(result)
    }

    /// Forgets the history. What is forgotten goes from the file with the next write.
    pub(crate) fn compact(&self) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.log.forget();
    }

    /// The file itself, for what is not an object.
    pub(crate) fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, changes: Vec<Change>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            match change.kind {
                ChangeKind::Deleted => state.objects.remove(&change.key),
                _ => state
                    .objects
                    .insert(change.key.clone(), change.object.clone()),
            };
            state.log.push(change);
        }
        self.revision.send_replace(state.log.revision());
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn within(key: &Key, group: &str, resource: &str, namespace: &str) -> bool {
    key.group == group
        && key.resource == resource
        && (namespace.is_empty() || key.namespace == namespace)
}

fn range<'a>(
    objects: &'a BTreeMap<Key, Arc<Value>>,
    group: &'a str,
    resource: &'a str,
    namespace: &'a str,
) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
    objects
        .range(Key::new(group, resource, namespace, "")..)
        .take_while(move |(key, _)| within(key, group, resource, namespace))
}
