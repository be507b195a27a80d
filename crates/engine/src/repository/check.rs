//! Whether what a Snapshot needs is there, and is what was written.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, stream};

use super::{
    catalogue::DatabaseEntry,
    keys::DatabaseFolder,
    manifest::{self, Manifest, ObjectRef},
    map::{MAP_BYTES, Map},
};
use crate::{
    encryption::{KeyError, sealed_with},
    store::{Store, StoreError},
};

/// Objects read at once.
const READERS: usize = 4;
/// Bytes of an object in memory at once, for each reader.
const PART: u64 = 8 << 20;

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Manifests and lists of files are read and verified; packs are there, and as long as they should be.
    Objects,
    /// Every byte of every pack is read, and compared with its hash.
    Content,
}

/// What is wrong with one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Key of the object.
    pub object: String,
    /// What is wrong.
    pub what: String,
}

/// A database as it was checked.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What is wrong with each complete Snapshot, by key of its manifest. Nothing, where it is whole.
    pub snapshots: BTreeMap<String, Vec<Finding>>,
    /// Objects that no complete Snapshot refers to, with their sizes: of attempts in work, or left by those that were given up.
    pub unreferenced: BTreeMap<String, u64>,
    /// Manifests of encrypted Snapshots that were looked at without a key: of what they refer to no more is known than its hashes.
    pub unopened: BTreeSet<String>,
    /// Bytes that were read.
    pub read_bytes: u64,
}

/// Checks the Snapshots of one database whose manifests `wanted` names. Each object is looked at once, however many refer to it.
/// An error is the store's, or that of a wrong key: then nothing is known.
pub async fn check(
    store: &Store,
    database: &DatabaseEntry,
    wanted: impl Fn(&str) -> bool,
    depth: Depth,
) -> Result<Report, KeyError> {
    let mut report = Report::default();
    let mut needed: BTreeMap<ObjectRef, Vec<String>> = BTreeMap::new();
    let mut referred = BTreeSet::new();
    let mut is_all_known = true;
    let entries = database.snapshots.values();
    for key in entries.flat_map(|entry| entry.complete.values()) {
        let read = manifest::examine(store, key).await?;
        let is_wanted = wanted(key);
        if is_wanted {
            report.snapshots.entry(key.clone()).or_default();
        }
        match read {
            Ok(manifest) => {
                if is_wanted {
                    match unlock(store, key, &manifest).await? {
                        Lock::Open => {}
                        Lock::Closed => drop(report.unopened.insert(key.clone())),
                        Lock::Wrong(what) => report.find(key, key, what),
                    }
                }
                let objects = manifest.maps.iter().chain(&manifest.packs);
                referred.extend(objects.clone().map(|object| object.key.clone()));
                for object in objects.filter(|_| is_wanted) {
                    needed.entry(object.clone()).or_default().push(key.clone());
                }
            }
            Err(error) => {
                is_all_known = false;
                if is_wanted {
                    report.find(key, key, error.to_string());
                }
            }
        }
    }
    let looks = needed.into_iter().map(|(object, manifests)| async move {
        let looked = look(store, database, &object, depth).await?;
        Ok::<_, StoreError>((object, manifests, looked))
    });
    let mut looks = stream::iter(looks).buffer_unordered(READERS);
    while let Some(look) = looks.next().await {
        let (object, manifests, looked) = look?;
        report.read_bytes += looked.read;
        if let Some(what) = looked.wrong {
            let key = database.folder.key(&object.key);
            for manifest in manifests {
                report.find(&manifest, &key, what.clone());
            }
        }
    }
    // What a manifest that cannot be read refers to is not known to be unneeded.
    if is_all_known {
        let rest = database
            .data
            .iter()
            .filter(|(key, _)| !referred.contains(*key));
        report.unreferenced = rest.map(|(key, bytes)| (key.clone(), *bytes)).collect();
    }
    Ok(report)
}

/// What is known of the key to a Snapshot.
enum Lock {
    /// It is open, or there is none.
    Open,
    /// No identity was given.
    Closed,
    /// What is wrong.
    Wrong(String),
}

/// Opens what is encrypted of a manifest, and has the key remembered for what it refers to.
async fn unlock(store: &Store, key: &str, manifest: &Manifest) -> Result<Lock, KeyError> {
    if manifest.encryption.is_some() && store.keys().is_none() {
        return Ok(Lock::Closed);
    }
    match manifest::data_key(store, key, manifest).await {
        Ok(None) => Ok(Lock::Open),
        Ok(Some(data_key)) => Ok(match manifest.clone().unseal(&data_key) {
            Ok(_) => Lock::Open,
            Err(error) => Lock::Wrong(error.to_string()),
        }),
        Err(error) if error.is_damage() => Ok(Lock::Wrong(error.to_string())),
        Err(error) => Err(error),
    }
}

/// One Snapshot as it was checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OneReport {
    /// Objects that it needs, its manifest included.
    pub objects: usize,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Reads every byte of every object that one Snapshot needs, and tells how far it is: bytes read, bytes to read. An error is the store's, or that of a wrong
/// key: then nothing is known. A caller that wants no more of it drops it.
pub async fn check_one(
    store: &Store,
    key: &str,
    progress: impl Fn(u64, u64),
) -> Result<OneReport, KeyError> {
    let mut report = OneReport {
        objects: 1,
        ..OneReport::default()
    };
    let found = |object: &str, what: String| Finding {
        object: object.to_owned(),
        what,
    };
    let folder = DatabaseFolder::of(key);
    let (manifest, folder) = match (manifest::examine(store, key).await?, folder) {
        (Ok(manifest), Some(folder)) => (manifest, folder),
        (Err(error), _) => {
            report.findings.push(found(key, error.to_string()));
            return Ok(report);
        }
        (_, None) => {
            let what = "its name is not that of a manifest".to_owned();
            report.findings.push(found(key, what));
            return Ok(report);
        }
    };
    match unlock(store, key, &manifest).await? {
        Lock::Open | Lock::Closed => {}
        Lock::Wrong(what) => report.findings.push(found(key, what)),
    }
    // Each once, however often it is named.
    let needed: BTreeSet<&ObjectRef> = manifest.maps.iter().chain(&manifest.packs).collect();
    let total = needed.iter().map(|object| object.bytes).sum();
    report.objects += needed.len();
    // Owned, since with references the future could not be sent to another thread.
    let needed: Vec<ObjectRef> = needed.into_iter().cloned().collect();
    let looks = needed.into_iter().map(|object| {
        let key = folder.key(&object.key);
        async move {
            let looked = look_whole(store, &key, &object).await?;
            Ok::<_, StoreError>((key, looked))
        }
    });
    let mut looks = stream::iter(looks).buffer_unordered(READERS);
    while let Some(look) = looks.next().await {
        let (key, looked) = look?;
        report.read_bytes += looked.read;
        progress(report.read_bytes, total);
        report
            .findings
            .extend(looked.wrong.map(|what| found(&key, what)));
    }
    Ok(report)
}

async fn look_whole(store: &Store, key: &str, object: &ObjectRef) -> Result<Looked, StoreError> {
    let found = |wrong: Option<String>, read| Ok(Looked { wrong, read });
    match store.size(key).await {
        Err(error) if error.is_not_found() => {
            return found(Some("it is missing".to_owned()), 0);
        }
        Err(error) => return Err(error),
        Ok(bytes) if bytes != object.bytes => {
            let what = format!("it has {bytes} bytes instead of {}", object.bytes);
            return found(Some(what), 0);
        }
        Ok(_) => {}
    }
    let is_map = object.key.starts_with("maps/");
    let mut wrong = content(store, key, object, is_map).await?;
    if wrong.is_some() {
        // The network may have done it.
        wrong = content(store, key, object, is_map).await?;
    }
    found(wrong, object.bytes)
}

impl Report {
    fn find(&mut self, manifest: &str, object: &str, what: String) {
        let finding = Finding {
            object: object.to_owned(),
            what,
        };
        let found = self.snapshots.entry(manifest.to_owned()).or_default();
        found.push(finding);
    }
}

struct Looked {
    wrong: Option<String>,
    read: u64,
}

async fn look(
    store: &Store,
    database: &DatabaseEntry,
    object: &ObjectRef,
    depth: Depth,
) -> Result<Looked, StoreError> {
    let found = |wrong: Option<String>, read| Ok(Looked { wrong, read });
    match database.data.get(&object.key) {
        None => return found(Some("it is missing".to_owned()), 0),
        Some(bytes) if *bytes != object.bytes => {
            let what = format!("it has {bytes} bytes instead of {}", object.bytes);
            return found(Some(what), 0);
        }
        Some(_) => {}
    }
    let is_map = object.key.starts_with("maps/");
    if !is_map && depth == Depth::Objects {
        return found(None, 0);
    }
    let key = database.folder.key(&object.key);
    let mut wrong = content(store, &key, object, is_map).await?;
    if wrong.is_some() {
        // The network may have done it.
        wrong = content(store, &key, object, is_map).await?;
    }
    found(wrong, object.bytes)
}

/// Reads an object part by part, and says what is wrong with its bytes.
async fn content(
    store: &Store,
    key: &str,
    object: &ObjectRef,
    is_map: bool,
) -> Result<Option<String>, StoreError> {
    let mut hasher = blake3::Hasher::new();
    let mut kept = Vec::new();
    let mut at = 0;
    while at < object.bytes {
        let end = (at + PART).min(object.bytes);
        let bytes = match store.read_range(key, at..end).await {
            // It was there when the store was listed.
            Err(error) if error.is_not_found() => return Ok(Some("it is missing".to_owned())),
            other => other?,
        };
        hasher.update(&bytes);
        if is_map && object.bytes <= MAP_BYTES {
            kept.extend_from_slice(&bytes);
        }
        at = end;
    }
    if hasher.finalize().to_hex().as_str() != object.blake3 {
        return Ok(Some("its content is not what was written".to_owned()));
    }
    if !is_map {
        return Ok(None);
    }
    let decoded = match sealed_with(&kept) {
        None => Map::decode(&kept),
        Some(id) => match store.keys().and_then(|keys| keys.remembered(id)) {
            Some(data_key) => Map::decode_with(&kept, Some(&data_key)),
            // Without its key it is what was written, and no more is known.
            None => return Ok(None),
        },
    };
    Ok(decoded.err().map(|error| error.to_string()))
}
