//! Changes that are staged in memory, then written to SQLite in one transaction.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use serde_json::Value;

use super::log::{Change, ChangeKind, Log};
use super::{Key, Objects, OpenError, State, StorageError, range, within};

/// The objects as they are, with what was staged so far on top.
pub(crate) struct Transaction<'a> {
    objects: &'a BTreeMap<Key, Arc<Value>>,
    staged: BTreeMap<Key, Option<Arc<Value>>>,
    changes: Vec<Change>,
    revision: u64,
}

impl<'a> Transaction<'a> {
    pub(super) fn new(objects: &'a BTreeMap<Key, Arc<Value>>, revision: u64) -> Self {
        Self {
            objects,
            staged: BTreeMap::new(),
            changes: Vec::new(),
            revision,
        }
    }

    pub(super) fn into_changes(self) -> Vec<Change> {
        self.changes
    }

    /// One object.
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Value>> {
        match self.staged.get(key) {
            Some(staged) => staged.clone(),
            None => self.objects.get(key).cloned(),
        }
    }

    /// The objects of a resource, of one namespace unless that is empty.
    pub(crate) fn list(&self, group: &str, resource: &str, namespace: &str) -> Objects {
        let mut found: BTreeMap<Key, Arc<Value>> = range(self.objects, group, resource, namespace)
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect();
        for (key, staged) in &self.staged {
            match staged {
                _ if !within(key, group, resource, namespace) => {}
                Some(object) => drop(found.insert(key.clone(), object.clone())),
                None => drop(found.remove(key)),
            }
        }
        found.into_iter().collect()
    }

    /// Stages an object under the next revision, and returns it with that revision in its metadata.
    pub(crate) fn put(&mut self, key: Key, object: Value) -> Result<Arc<Value>, StorageError> {
        self.put_within(key, object, usize::MAX)
    }

    /// The same for an object that may have so many bytes at most.
    pub(crate) fn put_within(
        &mut self,
        key: Key,
        object: Value,
        most: usize,
    ) -> Result<Arc<Value>, StorageError> {
        let old = self.get(&key);
        let kind = match old {
            Some(_) => ChangeKind::Modified,
            None => ChangeKind::Added,
        };
        self.stage(kind, key, object, old, most)
    }

    /// Stages the removal of an object whose last state is `object`, and returns that with the revision of the
    /// removal.
    pub(crate) fn remove(&mut self, key: Key, object: Value) -> Result<Arc<Value>, StorageError> {
        let old = self.get(&key);
        self.stage(ChangeKind::Deleted, key, object, old, usize::MAX)
    }

    fn stage(
        &mut self,
        kind: ChangeKind,
        key: Key,
        mut object: Value,
        old: Option<Arc<Value>>,
        most: usize,
    ) -> Result<Arc<Value>, StorageError> {
        let revision = self.revision + 1;
        object["metadata"]["resourceVersion"] = Value::String(revision.to_string());
        let bytes = serde_json::to_string(&object)?.len();
        if bytes > most {
            return Err(StorageError::TooLarge { bytes, most });
        }
        self.revision = revision;
        let object = Arc::new(object);
        let present = (kind != ChangeKind::Deleted).then(|| object.clone());
        self.staged.insert(key.clone(), present);
        self.changes.push(Change {
            revision: self.revision,
            kind,
            key,
            object: object.clone(),
            old,
            bytes,
        });
        Ok(object)
    }
}

/// Writes the changes durably; forgets the log up to `compacted`.
pub(super) fn commit(
    connection: &mut Connection,
    changes: &[Change],
    compacted: u64,
) -> Result<(), StorageError> {
    let (Some(first), Some(last)) = (changes.first(), changes.last()) else {
        return Ok(());
    };
    let transaction = connection.transaction()?;
    let moved = transaction.execute(
        "UPDATE meta SET value = ?1 WHERE name = 'revision' AND value = ?2",
        (number(last.revision), number(first.revision) - 1),
    )?;
    if moved != 1 {
        return Err(StorageError::InDoubt);
    }
    for change in changes {
        write(&transaction, change)?;
    }
    transaction.execute("DELETE FROM log WHERE revision <= ?1", [number(compacted)])?;
    Ok(transaction.commit()?)
}

fn write(connection: &Connection, change: &Change) -> Result<(), StorageError> {
    let key = &change.key;
    let json = serde_json::to_string(change.object.as_ref())?;
    if change.kind == ChangeKind::Deleted {
        connection.prepare_cached("DELETE FROM objects WHERE grp = ?1 AND resource = ?2 AND namespace = ?3 AND name = ?4")?
            .execute((&key.group, &key.resource, &key.namespace, &key.name))?;
    } else {
        let uid = change.object["metadata"]["uid"]
            .as_str()
            .unwrap_or_default();
        connection
            .prepare_cached("INSERT OR REPLACE INTO objects VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
            .execute((
                &key.group,
                &key.resource,
                &key.namespace,
                &key.name,
                uid,
                number(change.revision),
                &json,
            ))?;
    }
    connection
        .prepare_cached("INSERT INTO log VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
        .execute((
            number(change.revision),
            change.kind.name(),
            &key.group,
            &key.resource,
            &key.namespace,
            &key.name,
            &json,
        ))?;
    Ok(())
}

/// Reads objects and log.
pub(super) fn load(connection: &Connection, path: &Path) -> Result<State, OpenError> {
    let fail = |source| OpenError::Sqlite {
        path: path.into(),
        source,
    };
    let parse = |key: &Key, json: &str| {
        serde_json::from_str::<Value>(json).map_err(|source| OpenError::Damaged {
            path: path.into(),
            key: format!(
                "{}/{}/{}/{}",
                key.group, key.resource, key.namespace, key.name
            ),
            source,
        })
    };
    let mut objects = BTreeMap::new();
    for (key, _, _, json) in rows(
        connection,
        "SELECT grp, resource, namespace, name, 0, '', json FROM objects",
    )
    .map_err(fail)?
    {
        let object = Arc::new(parse(&key, &json)?);
        objects.insert(key, object);
    }
    let revision = connection
        .query_row(
            "SELECT value FROM meta WHERE name = 'revision'",
            [],
            |row| row.get(0),
        )
        .map_err(fail)?;
    let changes = rows(
        connection,
        "SELECT grp, resource, namespace, name, revision, type, json FROM log ORDER BY revision",
    )
    .map_err(fail)?;
    let start = changes.first().map_or(revision, |first| first.1 - 1);
    let mut log = Log::new(start.unsigned_abs());
    let mut last: HashMap<Key, Arc<Value>> = HashMap::new();
    for (key, revision, kind, json) in changes {
        let object = Arc::new(parse(&key, &json)?);
        log.push(Change {
            revision: revision.unsigned_abs(),
            kind: ChangeKind::of(&kind),
            old: last.insert(key.clone(), object.clone()),
            object,
            bytes: json.len(),
            key,
        });
    }
    Ok(State { objects, log })
}

/// Key, revision, type, JSON.
type Row = (Key, i64, String, String);

fn rows(connection: &Connection, query: &str) -> rusqlite::Result<Vec<Row>> {
    connection
        .prepare(query)?
        .query_map([], |row| {
            let key = Key {
                group: row.get(0)?,
                resource: row.get(1)?,
                namespace: row.get(2)?,
                name: row.get(3)?,
            };
            Ok((key, row.get(4)?, row.get(5)?, row.get(6)?))
        })?
        .collect()
}

/// Revisions are counted one by one: they end long before `i64` does.
fn number(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}
