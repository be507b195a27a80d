//! What a restore will do, found out before anything is written: from the manifest, its maps, and a look at every pack.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{FETCHES, RestoreRequest, error::RestoreError};
use crate::{
    postgres::control::CONTROL_FILE,
    repository::{
        keys::DatabaseFolder,
        libc,
        manifest::{self, Manifest, ObjectRef, ReadManifestError},
        map::{Codec, FileEntry, MAP_BYTES, Map, Unit},
    },
    store::StoreError,
};

/// Requests at once while looking.
const REQUESTS: usize = 8;

/// Maps read at once: ours have some 100 KB, and nobody's more than 300 MiB of memory.
const MAPS: usize = 4;

/// Largest range that is fetched at once; with its units unpacked it takes some 16 MiB.
const FETCH: u64 = 8 << 20;

/// Files without which a server does not start, or starts without knowing that it must recover.
const NEEDED: [&str; 3] = ["PG_VERSION", CONTROL_FILE, "backup_label"];

/// A restore that can be carried out.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) manifest: Manifest,
    /// All files and folders, by path, folders before what is in them.
    pub(super) files: Vec<FileEntry>,
    pub(super) fetches: Vec<Fetch>,
}

/// A range of a pack, and the units in it.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) key: String,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) units: Vec<Target>,
}

/// A unit, and where it goes.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Number of the file in [`Plan::files`].
    pub(super) file: usize,
    pub(super) at: u64,
    pub(super) raw: usize,
    pub(super) offset: u64,
    pub(super) stored: u64,
    pub(super) codec: Codec,
    pub(super) blake3: String,
}

/// Makes the plan, or says why there is none.
pub(super) async fn plan(request: &RestoreRequest) -> Result<Plan, RestoreError> {
    let manifest = manifest::read(&request.store, &request.manifest).await?;
    check_version(request, &manifest)?;
    check_libc(&manifest).await?;
    let folder = DatabaseFolder::of(&request.manifest).ok_or_else(|| {
        RestoreError::Manifest(ReadManifestError::Damaged {
            object: request.manifest.clone(),
            reason: "its name is not that of a manifest".to_owned(),
        })
    })?;
    let reader = Reader {
        request,
        manifest: &manifest,
        folder,
    };
    let maps = reader.maps().await?;
    let (files, fetches) = reader.arrange(maps)?;
    reader.look_at_packs().await?;
    let has = |path: &str| {
        files
            .binary_search_by(|file| file.path.as_str().cmp(path))
            .is_ok()
    };
    if let Some(path) = NEEDED.into_iter().find(|path| !has(path)) {
        return Err(RestoreError::Incomplete {
            snapshot: manifest.snapshot,
            path: path.to_owned(),
        });
    }
    Ok(Plan {
        manifest,
        files,
        fetches,
    })
}

fn check_version(request: &RestoreRequest, manifest: &Manifest) -> Result<(), RestoreError> {
    if manifest.cluster.major == request.dialect.to_string() {
        return Ok(());
    }
    Err(RestoreError::OtherMajor {
        snapshot: manifest.snapshot.clone(),
        theirs: manifest.cluster.postgres_version.clone(),
        ours: request.postgres_version.clone(),
    })
}

async fn check_libc(manifest: &Manifest) -> Result<(), RestoreError> {
    let ours = tokio::task::spawn_blocking(libc::name).await;
    let (Ok(Some(ours)), Some(theirs)) = (ours, manifest.cluster.libc.clone()) else {
        return Ok(());
    };
    let sorted = manifest.cluster.locales.iter().find_map(|locale| {
        let names = [&locale.collate, &locale.ctype];
        let strange = names.into_iter().find(|name| !libc::is_bytewise(name))?;
        Some((locale.database.clone(), strange.clone()))
    });
    match sorted {
        Some((database, collation)) if ours != theirs => Err(RestoreError::OtherLibc {
            snapshot: manifest.snapshot.clone(),
            database,
            collation,
            theirs,
            ours,
        }),
        _ => Ok(()),
    }
}

struct Reader<'a> {
    request: &'a RestoreRequest,
    manifest: &'a Manifest,
    folder: DatabaseFolder,
}

impl Reader<'_> {
    fn damaged(&self, key: &str, reason: String) -> RestoreError {
        RestoreError::Damaged {
            snapshot: self.manifest.snapshot.clone(),
            object: key.to_owned(),
            label: self.request.store.label().to_owned(),
            reason,
        }
    }

    fn missing(&self, key: &str, error: StoreError) -> RestoreError {
        if !error.is_not_found() {
            return error.into();
        }
        RestoreError::Missing {
            snapshot: self.manifest.snapshot.clone(),
            object: key.to_owned(),
            label: self.request.store.label().to_owned(),
        }
    }

    async fn maps(&self) -> Result<Vec<Map>, RestoreError> {
        // Numbers instead of references: with those the future could not be sent to another thread.
        stream::iter(0..self.manifest.maps.len())
            .map(|number| self.map(&self.manifest.maps[number]))
            .buffered(MAPS)
            .try_collect()
            .await
    }

    async fn map(&self, object: &ObjectRef) -> Result<Map, RestoreError> {
        let key = self.folder.key(&object.key);
        // Packed it is smaller than unpacked, or at least not larger than the limit of that.
        let limit = object.bytes.min(MAP_BYTES);
        let mut tried = 0;
        let bytes = loop {
            tried += 1;
            let wrong = match self.request.store.read(&key, limit).await {
                Ok(bytes) if bytes.len() as u64 != object.bytes => {
                    format!("it has {} bytes instead of {}", bytes.len(), object.bytes)
                }
                Ok(bytes) if blake3::hash(&bytes).to_hex().as_str() == object.blake3 => {
                    break bytes;
                }
                Ok(_) => "its content does not fit its hash".to_owned(),
                Err(StoreError::TooLarge { .. }) => "it is longer than it was".to_owned(),
                Err(error) => return Err(self.missing(&key, error)),
            };
            if tried == FETCHES {
                return Err(self.damaged(&key, wrong));
            }
        };
        Map::decode(&bytes).map_err(|source| RestoreError::Map {
            snapshot: self.manifest.snapshot.clone(),
            object: key,
            source,
        })
    }

    /// Sorts all units by where they lie, and joins neighbours to ranges worth a request.
    fn arrange(&self, maps: Vec<Map>) -> Result<(Vec<FileEntry>, Vec<Fetch>), RestoreError> {
        let sizes: HashMap<&str, u64> = self
            .manifest
            .packs
            .iter()
            .map(|pack| (pack.key.as_str(), pack.bytes))
            .collect();
        let mut files: Vec<FileEntry> = Vec::new();
        let mut by_pack: BTreeMap<String, Vec<Target>> = BTreeMap::new();
        let mut paths = HashSet::new();
        for map in maps {
            for mut file in map.files {
                for unit in std::mem::take(&mut file.units) {
                    let pack = map.packs[unit.pack as usize].as_str();
                    let end = unit.offset.checked_add(u64::from(unit.stored));
                    let has = sizes.get(pack).copied().unwrap_or(0);
                    if end.is_none_or(|end| has < end) {
                        let reason = format!(
                            "{:?} needs a part of {pack:?} that it does not have",
                            file.path
                        );
                        return Err(self.damaged(&self.request.manifest, reason));
                    }
                    let target = target(files.len(), unit);
                    by_pack.entry(pack.to_owned()).or_default().push(target);
                }
                if !paths.insert(file.path.clone()) {
                    let reason = format!("{:?} is listed twice", file.path);
                    return Err(self.damaged(&self.request.manifest, reason));
                }
                files.push(file);
            }
        }
        if !files.is_sorted_by(|a, b| a.path < b.path) {
            let reason = "its files are not in order".to_owned();
            return Err(self.damaged(&self.request.manifest, reason));
        }
        let fetches = by_pack.into_iter().flat_map(|(pack, targets)| {
            let key = self.folder.key(&pack);
            ranges(&key, targets)
        });
        Ok((files, fetches.collect()))
    }

    /// Every pack must be there, in full, before anything is written.
    async fn look_at_packs(&self) -> Result<(), RestoreError> {
        let looks = stream::iter(0..self.manifest.packs.len()).map(|number| async move {
            let pack = &self.manifest.packs[number];
            let key = self.folder.key(&pack.key);
            let mut bytes = 0;
            for _ in 0..FETCHES {
                let found = self.request.store.size(&key).await;
                bytes = found.map_err(|error| self.missing(&key, error))?;
                if bytes == pack.bytes {
                    return Ok(());
                }
            }
            let reason = format!("it has {bytes} bytes instead of {}", pack.bytes);
            Err(self.damaged(&key, reason))
        });
        looks.buffer_unordered(REQUESTS).try_collect().await
    }
}

fn target(file: usize, unit: Unit) -> Target {
    Target {
        file,
        at: unit.at,
        raw: unit.raw as usize,
        offset: unit.offset,
        stored: u64::from(unit.stored),
        codec: unit.codec,
        blake3: unit.blake3,
    }
}

fn ranges(key: &str, mut targets: Vec<Target>) -> Vec<Fetch> {
    targets.sort_by_key(|target| target.offset);
    let mut fetches: Vec<Fetch> = Vec::new();
    for target in targets {
        let end = target.offset + target.stored;
        match fetches.last_mut() {
            Some(last) if last.end == target.offset && end - last.start <= FETCH => {
                last.end = end;
                last.units.push(target);
            }
            _ => fetches.push(Fetch {
                key: key.to_owned(),
                start: target.offset,
                end,
                units: vec![target],
            }),
        }
    }
    fetches
}

/// Bytes that are free for us where `folder` is or will be; `None` where the system does not say. Blocks.
pub(super) fn free_bytes(folder: &Path) -> Option<u64> {
    let existing = folder.ancestors().find(|folder| folder.exists())?;
    let space = nix::sys::statvfs::statvfs(existing).ok()?;
    Some(space.blocks_available() as u64 * space.fragment_size() as u64)
}
