//! Finding the earlier Snapshot that a new one is compared with.

use std::collections::{HashMap, HashSet};

use futures::{StreamExt as _, stream};
use kubedb_core::base::{Earlier, Make, Now, judge};

use super::error::BackupError;
use crate::{
    encryption::{DataKey, KeyId},
    postgres::control::ControlFile,
    repository::{
        keys::{self, AttemptId, DatabaseFolder, Record},
        manifest::{self, Manifest, ObjectRef},
        map::{self, Map, ReadMapError},
    },
    store::{Listed, Store},
};

/// Snapshots that are tried, the latest first. With the last ones unusable, a whole one costs less than a long search.
const CANDIDATES: usize = 8;

/// Manifests that are read at most to find them.
const LOOKED_AT: usize = 64;

/// Maps read at once: ours have some 100 KB.
const MAPS: usize = 4;

/// Objects that a listing lacked and that are asked for by name: it may be a moment old.
const ASKED: usize = 16;

/// A pack of which less than two fifths are in use is not referred to any more; what is in use is stored again. For each byte that is
/// stored again, one and a half were given up before, by changes or deletions that have paid for it.
const IN_USE: (u64, u64) = (2, 5);

/// What one Snapshot stores again for this reason, at most: so much, or a sixteenth of what its base needs.
const AGAIN: u64 = 64 << 20;

/// What a new Snapshot is compared with.
#[derive(Debug)]
pub(super) enum Found {
    Base(Box<Base>),
    /// Nothing, and why.
    Whole(String),
}

#[derive(Debug)]
pub(super) struct Base {
    /// Key of its manifest.
    pub(super) key: String,
    pub(super) manifest: Manifest,
    /// Packs that are not worth being referred to any more.
    pub(super) sparse: HashSet<String>,
}

/// Why a candidate is none.
enum Refusal {
    Unusable(String),
    /// It holds rows, and no pages.
    Logical,
    Backup(BackupError),
}

impl From<BackupError> for Refusal {
    fn from(error: BackupError) -> Self {
        Self::Backup(error)
    }
}

/// What decides whether pages can be exchanged with another Snapshot's.
pub(super) fn make_of(control: &ControlFile, lineage: &str) -> Make {
    Make {
        system_identifier: control.system_identifier.to_string(),
        lineage: lineage.to_owned(),
        catalog_version: control.catalog_version,
        page_bytes: control.block_bytes,
        segment_pages: control.segment_blocks,
        wal_segment_bytes: control.wal_segment_bytes,
        data_checksums: control.checksum_version != 0,
    }
}

fn earlier(manifest: &Manifest) -> Earlier {
    let cluster = &manifest.cluster;
    Earlier {
        make: Make {
            system_identifier: cluster.system_identifier.clone(),
            lineage: manifest.lineage.clone(),
            catalog_version: cluster.catalog_version,
            page_bytes: cluster.page_bytes,
            segment_pages: cluster.segment_pages,
            wal_segment_bytes: cluster.wal_segment_bytes,
            data_checksums: cluster.data_checksums,
        },
        timeline: manifest.timeline,
        start: manifest.start_lsn,
        stop: manifest.stop_lsn,
    }
}

/// Looks for an earlier Snapshot.
pub(super) struct Search<'a> {
    pub(super) store: &'a Store,
    pub(super) folder: &'a DatabaseFolder,
    /// What the new one is encrypted with.
    pub(super) data_key: Option<&'a DataKey>,
    pub(super) now: &'a Now,
}

impl Search<'_> {
    /// The latest Snapshot of the database that can be referred to, and is whole.
    pub(super) async fn find(&self, own: &AttemptId) -> Result<Found, BackupError> {
        let (store, folder) = (self.store, self.folder);
        let mut candidates = Vec::new();
        let mut unconfirmed = HashSet::new();
        let show = |listed: Listed, written| match folder.read_record(&listed.key) {
            Some((Record::Manifest, id)) if id.uid != own.uid => {
                candidates.push((written, listed.key, id));
            }
            Some((Record::Intent, id)) => drop(unconfirmed.insert(id)),
            _ => {}
        };
        store.visit(&folder.snapshots(), show).await?;
        // The store's clock only orders the tries; whether one is usable does not depend on it.
        candidates.sort_by(|a, b| b.cmp(a));
        let mut first = None;
        let mut unusable = 0;
        for (_, key, id) in candidates.into_iter().take(LOOKED_AT) {
            if unusable == CANDIDATES {
                break;
            }
            let snapshot = &id.snapshot;
            match self.judge(key, unconfirmed.contains(&id)).await {
                Ok(base) => return Ok(Found::Base(Box::new(base))),
                Err(Refusal::Backup(error)) => return Err(error),
                // However many there are, they do not stand in the way of one that serves.
                Err(Refusal::Logical) => {}
                Err(Refusal::Unusable(reason)) => {
                    unusable += 1;
                    tracing::info!(snapshot, reason, "cannot be referred to");
                    first.get_or_insert(format!("{snapshot} cannot be referred to: {reason}"));
                }
            }
        }
        let reason = first.unwrap_or_else(|| "there is no earlier Snapshot".to_owned());
        Ok(Found::Whole(reason))
    }

    async fn judge(&self, key: String, is_unconfirmed: bool) -> Result<Base, Refusal> {
        let examined = manifest::examine(self.store, &key).await;
        let manifest = examined
            .map_err(BackupError::from)?
            .map_err(|error| Refusal::Unusable(error.to_string()))?;
        if manifest.logical.is_some() {
            return Err(Refusal::Logical);
        }
        // Its writer died before it knew that what it refers to stays, or is about to look.
        if is_unconfirmed && manifest.base.is_some() {
            return Err(Refusal::Unusable("it was not completed".to_owned()));
        }
        judge_key(manifest.key_id(), self.data_key.map(DataKey::id)).map_err(Refusal::Unusable)?;
        // Nothing that was changed since is referred to.
        let manifest = match self.data_key {
            Some(key) => manifest
                .unseal(key)
                .map_err(|error| Refusal::Unusable(error.to_string()))?,
            None => manifest,
        };
        judge(&earlier(&manifest), self.now)
            .map_err(|reason| Refusal::Unusable(reason.to_string()))?;
        let objects = manifest.packs.iter().chain(&manifest.maps);
        if let Some(object) = missing(self.store, self.folder, objects).await? {
            let reason = format!("its object {object} is gone or not whole");
            return Err(Refusal::Unusable(reason));
        }
        let sparse = self.sparse(&manifest).await?;
        Ok(Base {
            key,
            manifest,
            sparse,
        })
    }

    /// Reads all maps of a base, and finds the packs of which little is in use.
    async fn sparse(&self, manifest: &Manifest) -> Result<HashSet<String>, Refusal> {
        let mut in_use = HashMap::new();
        // Numbers instead of references: with those the future could not be sent to another thread.
        let mut maps = stream::iter(0..manifest.maps.len())
            .map(|number| async move {
                let object = &manifest.maps[number];
                let key = self.folder.key(&object.key);
                let map = map::read(self.store, &key, object, self.data_key).await;
                (key, map)
            })
            .buffer_unordered(MAPS);
        while let Some((key, map)) = maps.next().await {
            match map {
                Ok(map) => count(&map, &mut in_use),
                Err(ReadMapError::Store(error)) if !error.is_not_found() => {
                    return Err(BackupError::from(error).into());
                }
                Err(ReadMapError::Worker) => return Err(BackupError::Worker.into()),
                Err(error) => return Err(Refusal::Unusable(format!("{key}: {error}"))),
            }
        }
        Ok(sparse(
            &manifest.packs,
            &in_use,
            manifest.sizes.stored_bytes,
        ))
    }
}

/// All that a Snapshot refers to is encrypted with one key, or nothing is: who has configured a key wants nothing in the clear, and who has none cannot
/// read it.
fn judge_key(theirs: Option<KeyId>, ours: Option<KeyId>) -> Result<(), String> {
    match (theirs, ours) {
        (None, Some(_)) => Err("it is not encrypted, and this one is".to_owned()),
        (Some(_), None) => Err("it is encrypted, and this one is not".to_owned()),
        (Some(theirs), Some(ours)) if theirs != ours => Err(format!(
            "it is encrypted with key {theirs}, this one with {ours}"
        )),
        _ => Ok(()),
    }
}

/// Adds up what a map uses of each pack.
fn count(map: &Map, in_use: &mut HashMap<String, u64>) {
    for file in &map.files {
        let mut seen = HashSet::new();
        for unit in &file.units {
            // Several parts of one may be in use.
            if seen.insert((unit.pack, unit.offset)) {
                let pack = &map.packs[unit.pack as usize];
                match in_use.get_mut(pack) {
                    Some(bytes) => *bytes += u64::from(unit.stored),
                    None => drop(in_use.insert(pack.clone(), u64::from(unit.stored))),
                }
            }
        }
    }
}

fn sparse(packs: &[ObjectRef], in_use: &HashMap<String, u64>, stored: u64) -> HashSet<String> {
    let mut sparse: Vec<(u64, &str)> = packs
        .iter()
        .map(|pack| (in_use.get(&pack.key).copied().unwrap_or(0), pack))
        .filter(|(bytes, pack)| {
            bytes.saturating_mul(IN_USE.1) < pack.bytes.saturating_mul(IN_USE.0)
        })
        .map(|(bytes, pack)| (bytes, pack.key.as_str()))
        .collect();
    // The least used first: they give most back.
    sparse.sort_unstable();
    let mut left = AGAIN.max(stored / 16);
    let worth = sparse.into_iter().map_while(|(bytes, key)| {
        left = left.checked_sub(bytes)?;
        Some(key.to_owned())
    });
    worth.collect()
}

/// The first of these objects that the store does not have whole.
pub(super) async fn missing(
    store: &Store,
    folder: &DatabaseFolder,
    objects: impl Iterator<Item = &ObjectRef>,
) -> Result<Option<String>, BackupError> {
    let mut wanted: HashMap<&str, u64> = objects
        .map(|object| (object.key.as_str(), object.bytes))
        .collect();
    for root in [keys::PACKS, keys::MAPS] {
        let tick = |listed: Listed, _| {
            if let Some(relative) = folder.relative(&listed.key)
                && wanted.get(relative) == Some(&listed.bytes)
            {
                wanted.remove(relative);
            }
        };
        store.visit(&folder.key(root), tick).await?;
    }
    let is_lost = wanted.len() > ASKED;
    for (key, bytes) in wanted {
        let absolute = folder.key(key);
        if is_lost {
            return Ok(Some(absolute));
        }
        match store.size(&absolute).await {
            Ok(found) if found == bytes => {}
            Ok(_) => return Ok(Some(absolute)),
            Err(error) if error.is_not_found() => return Ok(Some(absolute)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(key: &str, bytes: u64) -> ObjectRef {
        ObjectRef {
            key: key.to_owned(),
            bytes,
            blake3: String::new(),
        }
    }

    #[test]
    fn packs_of_which_little_is_in_use_are_given_up_within_a_limit() {
        let packs = [
            pack("a", 1_000),
            pack("b", 1_000),
            pack("c", 1_000),
            pack("unused", 9),
        ];
        let in_use = HashMap::from([
            ("a".to_owned(), 399),
            ("b".to_owned(), 400),
            ("c".to_owned(), 1_000),
        ]);
        let given_up = sparse(&packs, &in_use, 0);
        assert_eq!(
            given_up,
            HashSet::from(["a".to_owned(), "unused".to_owned()])
        );
        let mib: Vec<ObjectRef> = (0..300).map(|n| pack(&n.to_string(), 1 << 20)).collect();
        let third = mib.iter().map(|pack| (pack.key.clone(), (1 << 20) / 3));
        let third: HashMap<String, u64> = third.collect();
        assert_eq!(sparse(&mib, &third, 0).len(), 192);
        assert_eq!(sparse(&mib, &third, (16 * 80) << 20).len(), 240);
    }
}
