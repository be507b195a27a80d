//! What a restore will do, found out before anything is written: from the manifest, its maps, and a look at every pack.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{FETCHES, RestoreRequest, error::RestoreError, shown::shown};
use crate::{
    encryption::{DataKey, KeyError, PackKey},
    postgres::control::CONTROL_FILE,
    repository::{
        keys::DatabaseFolder,
        libc,
        manifest::{self, Manifest, ObjectRef, ReadManifestError},
        map::{self, Codec, FileEntry, Map, ReadMapError, Unit},
    },
    store::{Store, StoreError},
};

/// Requests at once while looking.
pub(super) const REQUESTS: usize = 8;

/// Maps read at once: ours have some 100 KB, and nobody's more than 300 MiB of memory.
const MAPS: usize = 4;

/// Largest range that is fetched at once; with what is in it unpacked, one after another, it takes some 10 MiB.
pub(super) const FETCH: u64 = 8 << 20;

/// What is not needed and lies between two parts that are is fetched along up to this length: at 100 MB/s it takes 5 ms, as does a request.
pub(super) const GAP: u64 = 512 << 10;

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

/// A range of a pack, and what is needed of it.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) key: String,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) frames: Vec<Frame>,
    /// What opens what lies in the pack, where it is encrypted.
    pub(super) pack: Option<Arc<PackKey>>,
}

/// Something that was stored, and where parts of it go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) offset: u64,
    pub(super) stored: u64,
    /// Its length, unpacked.
    pub(super) whole: usize,
    pub(super) codec: Codec,
    pub(super) blake3: String,
    pub(super) parts: Vec<Part>,
}

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Number of the file in [`Plan::files`].
    pub(super) file: usize,
    pub(super) at: u64,
    pub(super) raw: usize,
    /// Where it begins in the frame, unpacked.
    pub(super) from: usize,
    /// Its own hash, where the map tells it.
    pub(super) blake3: Option<String>,
}

/// Makes the plan, or says why there is none.
pub(super) async fn plan(request: &RestoreRequest) -> Result<Plan, RestoreError> {
    let (manifest, data_key) = manifest::open(&request.store, &request.manifest).await?;
    check_method(&manifest)?;
    check_version(request, &manifest)?;
    check_libc(&manifest).await?;
    plan_of(&request.store, &request.manifest, manifest, data_key).await
}

/// The plan for what this manifest says, whatever may run on it.
pub(super) async fn plan_of(
    store: &Store,
    key: &str,
    manifest: Manifest,
    data_key: Option<DataKey>,
) -> Result<Plan, RestoreError> {
    check_method(&manifest)?;
    let plan = gather(store, key, manifest, data_key).await?;
    let has = |path: &str| {
        plan.files
            .binary_search_by(|file| file.path.as_str().cmp(path))
            .is_ok()
    };
    match NEEDED.into_iter().find(|path| !has(path)) {
        Some(path) => Err(RestoreError::Incomplete {
            snapshot: plan.manifest.snapshot,
            path: path.to_owned(),
        }),
        None => Ok(plan),
    }
}

/// One that holds rows has nothing that a server starts on.
fn check_method(manifest: &Manifest) -> Result<(), RestoreError> {
    match manifest.logical {
        Some(_) => Err(RestoreError::Logical {
            snapshot: manifest.snapshot.clone(),
        }),
        None => Ok(()),
    }
}

/// Where everything lies that a manifest names, whatever that is.
pub(super) async fn gather(
    store: &Store,
    key: &str,
    manifest: Manifest,
    data_key: Option<DataKey>,
) -> Result<Plan, RestoreError> {
    let folder = DatabaseFolder::of(key).ok_or_else(|| {
        RestoreError::Manifest(ReadManifestError::Damaged {
            object: key.to_owned(),
            reason: "its name is not that of a manifest".to_owned(),
        })
    })?;
    let reader = Reader {
        store,
        key,
        manifest: &manifest,
        folder,
        data_key,
    };
    let (maps, packs) = tokio::join!(reader.maps(), reader.look_at_packs());
    let (files, fetches) = reader.arrange(maps?)?;
    packs?;
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
    let sorted = manifest.cluster.locales.iter().find_map(|locale| {
        let names = [&locale.collate, &locale.ctype];
        let strange = names.into_iter().find(|name| !libc::is_bytewise(name))?;
        Some((locale.database.clone(), strange.clone()))
    });
    let (Some((database, collation)), Some(theirs)) = (sorted, manifest.cluster.libc.clone())
    else {
        return Ok(());
    };
    let ours = tokio::task::spawn_blocking(libc::name).await;
    match ours {
        Ok(Some(ours)) if ours != theirs => Err(RestoreError::OtherLibc {
            snapshot: manifest.snapshot.clone(),
            database,
            collation,
            theirs,
            ours,
        }),
        _ => Ok(()),
    }
}

impl Plan {
    pub(super) fn explain(&self, fetch: &Fetch, error: StoreError, store: &Store) -> RestoreError {
        if !error.is_not_found() {
            return error.into();
        }
        RestoreError::Missing {
            snapshot: self.manifest.snapshot.clone(),
            object: fetch.key.clone(),
            label: store.label().to_owned(),
        }
    }

    pub(super) fn damaged(
        &self,
        fetch: &Fetch,
        file: usize,
        reason: &str,
        store: &Store,
    ) -> RestoreError {
        let path = &self.files[file].path;
        RestoreError::Damaged {
            snapshot: self.manifest.snapshot.clone(),
            object: fetch.key.clone(),
            label: store.label().to_owned(),
            reason: format!("the part that holds {path:?}: {reason}"),
        }
    }
}

struct Reader<'a> {
    store: &'a Store,
    key: &'a str,
    manifest: &'a Manifest,
    folder: DatabaseFolder,
    data_key: Option<DataKey>,
}

impl Reader<'_> {
    fn damaged(&self, key: &str, reason: String) -> RestoreError {
        RestoreError::Damaged {
            snapshot: self.manifest.snapshot.clone(),
            object: key.to_owned(),
            label: self.store.label().to_owned(),
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
            label: self.store.label().to_owned(),
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
        let read = map::read(self.store, &key, object, self.data_key.as_ref()).await;
        read.map_err(|error| match error {
            ReadMapError::Store(error) => self.missing(&key, error),
            ReadMapError::Damaged(reason) => self.damaged(&key, reason),
            ReadMapError::Worker => RestoreError::Worker,
            ReadMapError::Map(source) => RestoreError::Map {
                snapshot: self.manifest.snapshot.clone(),
                object: key.clone(),
                source,
            },
        })
    }

    /// Sorts everything by where it lies, and joins neighbours to ranges worth a request.
    fn arrange(&self, maps: Vec<Map>) -> Result<(Vec<FileEntry>, Vec<Fetch>), RestoreError> {
        let wrong = |reason: String| Err(self.damaged(self.key, reason));
        let mut oids: Vec<u32> = self.manifest.tablespaces.iter().map(|s| s.oid).collect();
        oids.sort_unstable();
        if let Some([oid, _]) = oids.array_windows().find(|[a, b]| a == b) {
            return wrong(format!("tablespace {oid} is listed twice"));
        }
        // Maps name their packs by number; here all have one numbering.
        let numbers: HashMap<&str, usize> = (0..)
            .zip(&self.manifest.packs)
            .map(|(number, pack)| (pack.key.as_str(), number))
            .collect();
        let mut files = Vec::new();
        for map in maps {
            // Those of the last maps stand between those of others.
            if !map.files.is_sorted_by(|a, b| a.path <= b.path) {
                return wrong("its files are not in order".to_owned());
            }
            let known = |name: String| (numbers.get(name.as_str()).copied(), name);
            let packs: Arc<[_]> = map.packs.into_iter().map(known).collect();
            files.extend(map.files.into_iter().map(|file| (file, packs.clone())));
        }
        files.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path));
        let mut pairs = files.array_windows();
        if let Some([(twice, _), _]) = pairs.find(|[(a, _), (b, _)]| a.path == b.path) {
            return wrong(format!("{:?} is listed twice", twice.path));
        }
        if let Some((path, file)) = below_a_file(&files) {
            return wrong(format!("{path:?} lies below {file:?}, which is a file"));
        }
        let mut by_pack: BTreeMap<usize, BTreeMap<u64, Frame>> = BTreeMap::new();
        for (number, (file, packs)) in files.iter_mut().enumerate() {
            for unit in std::mem::take(&mut file.units) {
                let (pack, name) = &packs[unit.pack as usize];
                let end = unit.offset.checked_add(u64::from(unit.stored));
                let has = pack.map_or(0, |pack| self.manifest.packs[pack].bytes);
                let (Some(pack), true) = (*pack, end.is_some_and(|end| end <= has)) else {
                    return wrong(format!(
                        "{:?} needs a part of {name:?} that it does not have",
                        file.path
                    ));
                };
                if !add(by_pack.entry(pack).or_default(), number, unit) {
                    return wrong(format!(
                        "{:?} needs a part of {name:?} that another file says is something else",
                        file.path
                    ));
                }
            }
        }
        let mut fetches = Vec::new();
        for (pack, frames) in by_pack {
            let name = &self.manifest.packs[pack].key;
            let opened = self.data_key.as_ref().map(|key| key.pack(name));
            let opened = opened.transpose().map_err(KeyError::from)?;
            let key = self.folder.key(name);
            fetches.extend(ranges(&key, opened.map(Arc::new), frames.into_values()));
        }
        Ok((files.into_iter().map(|(file, _)| file).collect(), fetches))
    }

    /// Every pack must be there, in full, before anything is written. What no listing shows so is asked for.
    async fn look_at_packs(&self) -> Result<(), RestoreError> {
        let packs = &self.manifest.packs;
        let shown = shown(self.store, &self.folder, packs).await?;
        let mut left: Vec<_> = (0..packs.len()).collect();
        left.retain(|number| shown.get(&packs[*number].key) != Some(&packs[*number].bytes));
        let looks = stream::iter(left).map(|number| async move {
            let pack = &packs[number];
            let key = self.folder.key(&pack.key);
            let mut bytes = 0;
            for _ in 0..FETCHES {
                let found = self.store.size(&key).await;
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

/// A path that has a file where a folder has to be. All are in order of their paths, so most have the folder of the one before.
fn below_a_file<T>(files: &[(FileEntry, T)]) -> Option<(&str, &str)> {
    let mut last = "";
    for (entry, _) in files {
        let Some((folder, _)) = entry.path.rsplit_once('/') else {
            continue;
        };
        if folder == last {
            continue;
        }
        last = folder;
        let ends = folder.match_indices('/').map(|(end, _)| end);
        for end in ends.chain([folder.len()]) {
            let found =
                files.binary_search_by(|(other, _)| other.path.as_str().cmp(&folder[..end]));
            if let Ok(found) = found
                && !files[found].0.is_folder
            {
                return Some((&entry.path, &files[found].0.path));
            }
        }
    }
    None
}

/// Adds a part to what was stored where it lies, unless that is something else by what was said of it before.
fn add(frames: &mut BTreeMap<u64, Frame>, file: usize, mut unit: Unit) -> bool {
    let part = Part {
        blake3: unit.part.take(),
        file,
        at: unit.at,
        raw: unit.raw as usize,
        from: unit.from as usize,
    };
    let whole = unit.whole() as usize;
    let frame = frames.entry(unit.offset).or_insert_with(|| Frame {
        offset: unit.offset,
        stored: u64::from(unit.stored),
        whole,
        codec: unit.codec,
        blake3: unit.blake3.clone(),
        parts: Vec::new(),
    });
    frame.parts.push(part);
    frame.stored == u64::from(unit.stored)
        && frame.whole == whole
        && frame.codec == unit.codec
        && frame.blake3 == unit.blake3
}

/// Joins what lies one behind the other in a pack.
pub(super) fn ranges(
    key: &str,
    pack: Option<Arc<PackKey>>,
    frames: impl Iterator<Item = Frame>,
) -> Vec<Fetch> {
    let mut fetches: Vec<Fetch> = Vec::new();
    for frame in frames {
        let end = frame.offset + frame.stored;
        match fetches.last_mut() {
            Some(last)
                if frame.offset <= last.end.saturating_add(GAP)
                    && end.max(last.end) - last.start <= FETCH =>
            {
                last.end = last.end.max(end);
                last.frames.push(frame);
            }
            _ => fetches.push(Fetch {
                key: key.to_owned(),
                start: frame.offset,
                end,
                frames: vec![frame],
                pack: pack.clone(),
            }),
        }
    }
    fetches
}

/// Bytes that are free for us where `folder` is or will be; `None` where the system does not say. Blocks.
#[must_use]
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let existing = folder.ancestors().find(|folder| folder.exists())?;
    let space = nix::sys::statvfs::statvfs(existing).ok()?;
    Some(space.blocks_available() as u64 * space.fragment_size() as u64)
}

/// Refuses a disk that is too small, as far as the system says. Blocks.
pub(crate) fn check_room(folder: &Path, needed: u64) -> Result<(), RestoreError> {
    match free_bytes(folder) {
        Some(free) if free < needed => Err(RestoreError::Space {
            folder: folder.display().to_string(),
            needed,
            free,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(offset: u64, stored: u64) -> Frame {
        Frame {
            offset,
            stored,
            whole: 1,
            codec: Codec::Plain,
            blake3: String::new(),
            parts: Vec::new(),
        }
    }

    #[test]
    fn t17_neighbours_are_fetched_by_one_request_within_limits() {
        let of = |frames: &[(u64, u64)]| -> Vec<(u64, u64, usize)> {
            let frames = frames
                .iter()
                .map(|(offset, stored)| frame(*offset, *stored));
            let fetches = ranges("key", None, frames);
            let told = fetches.iter().map(|f| (f.start, f.end, f.frames.len()));
            told.collect()
        };
        assert_eq!(of(&[(0, 10), (10, 5), (15 + GAP, 1)]), [(0, 16 + GAP, 3)]);
        assert_eq!(
            of(&[(0, 10), (11 + GAP, 5)]),
            [(0, 10, 1), (11 + GAP, 16 + GAP, 1)]
        );
        assert_eq!(
            of(&[(0, FETCH), (FETCH, 1)]),
            [(0, FETCH, 1), (FETCH, FETCH + 1, 1)]
        );
        // One that overlaps another, which no writer of ours makes, is within what is fetched.
        assert_eq!(of(&[(0, 100), (10, 5), (50, 60)]), [(0, 110, 3)]);
    }
}
