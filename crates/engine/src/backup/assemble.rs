//! Files out of the pieces that readers give, in the order of their paths, and lists of them: maps, which are written as soon as they are whole, so
//! that memory does not grow with the database. A map that an earlier Snapshot has is referred to instead.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::{
    compare::Run,
    error::BackupError,
    read::stretches,
    walk::{Entry, Kind},
};
use crate::{
    encryption::DataKey,
    repository::{
        keys::{self, DatabaseFolder},
        manifest::ObjectRef,
        map::{FileEntry, Map, Unit, ends_map},
    },
    store::Store,
};

/// Maps that wait to be written, together. They are sent behind the packs as long as there are few, which is when a backup that fails has left
/// fewer objects behind.
const PENDING: usize = 8 << 20;

/// A file or folder as it was collected.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) is_folder: bool,
    pub(super) bytes: u64,
    pub(super) runs: Vec<Run>,
}

impl Collected {
    /// Adds a stretch. One behind the end of a file that became shorter is empty.
    pub(super) fn add(&mut self, at: u64, raw: usize, runs: impl IntoIterator<Item = Run>) {
        if raw > 0 {
            self.bytes = self.bytes.max(at + raw as u64);
        }
        self.runs.extend(runs);
    }
}

/// Puts files together.
pub(super) struct Assembly {
    entries: Arc<Vec<Entry>>,
    /// Files of which stretches have come, by number: no more than readers have under way.
    open: BTreeMap<usize, Open>,
    next: usize,
}

#[derive(Default)]
struct Open {
    come: u64,
    /// Absent while no stretch was there: the file may be gone.
    file: Option<Collected>,
}

impl Assembly {
    pub(super) fn new(entries: Arc<Vec<Entry>>) -> Self {
        Self {
            entries,
            open: BTreeMap::new(),
            next: 0,
        }
    }

    /// Adds a stretch of a file, or that there was none.
    pub(super) fn add(&mut self, entry: usize, stretch: Option<(u64, usize, Vec<Run>)>) {
        let open = self.open.entry(entry).or_default();
        open.come += 1;
        if let Some((at, raw, runs)) = stretch {
            open.file.get_or_insert_default().add(at, raw, runs);
        }
    }

    /// Hands over what is whole and whose turn it is.
    pub(super) async fn hand_over(&mut self, maps: &mut MapWriter) -> Result<(), BackupError> {
        while let Some(entry) = self.entries.get(self.next) {
            let file = match entry.kind {
                Kind::Folder => Some(Collected {
                    is_folder: true,
                    ..Collected::default()
                }),
                Kind::File { bytes, .. } => match self.open.get(&self.next) {
                    Some(open) if open.come == stretches(bytes) => {
                        self.open.remove(&self.next).and_then(|open| open.file)
                    }
                    _ => return Ok(()),
                },
            };
            self.next += 1;
            if let Some(file) = file {
                maps.push(&entry.path, file).await?;
            }
        }
        Ok(())
    }

    /// Whether all has been handed over.
    pub(super) fn is_done(&self) -> bool {
        self.next == self.entries.len()
    }
}

/// Writes maps.
pub(super) struct MapWriter {
    store: Store,
    folder: DatabaseFolder,
    uid: String,
    data_key: Option<DataKey>,
    /// Maps of an earlier Snapshot, by their hash.
    known: HashMap<String, ObjectRef>,
    building: Map,
    numbers: HashMap<Arc<str>, u32>,
    units: usize,
    done: Maps,
    pending: Vec<(String, Vec<u8>)>,
    pending_bytes: usize,
}

/// What was written.
#[derive(Debug, Default)]
pub(super) struct Maps {
    /// All maps, in order.
    pub(super) objects: Vec<ObjectRef>,
    /// Packs that they refer to.
    pub(super) packs: HashSet<Arc<str>>,
    pub(super) database_bytes: u64,
    pub(super) uploaded: u64,
}

impl MapWriter {
    pub(super) fn new(
        store: Store,
        folder: DatabaseFolder,
        uid: &str,
        data_key: Option<DataKey>,
        known: &[ObjectRef],
    ) -> Self {
        let by_hash = |object: &ObjectRef| (object.blake3.clone(), object.clone());
        Self {
            store,
            folder,
            uid: uid.to_owned(),
            data_key,
            known: known.iter().map(by_hash).collect(),
            building: Map::default(),
            numbers: HashMap::new(),
            units: 0,
            done: Maps::default(),
            pending: Vec::new(),
            pending_bytes: 0,
        }
    }

    /// Adds a file, behind the others of its map.
    pub(super) async fn push(&mut self, path: &str, file: Collected) -> Result<(), BackupError> {
        let mut runs = file.runs;
        runs.sort_by_key(|run| run.at);
        self.units += runs.len();
        self.done.database_bytes += file.bytes;
        let units = runs.into_iter().map(|run| self.unit(run)).collect();
        self.building.files.push(FileEntry {
            path: path.to_owned(),
            is_folder: file.is_folder,
            bytes: file.bytes,
            units,
        });
        if ends_map(&self.building, self.units) {
            self.end().await?;
        }
        Ok(())
    }

    fn unit(&mut self, run: Run) -> Unit {
        let frame = &run.frame;
        let number = self.numbers.get(&frame.pack).copied().unwrap_or_else(|| {
            let names = &mut self.building.packs;
            let number = u32::try_from(names.len()).unwrap_or(u32::MAX);
            names.push(frame.pack.to_string());
            self.numbers.insert(frame.pack.clone(), number);
            self.done.packs.insert(frame.pack.clone());
            number
        });
        Unit {
            at: run.at,
            raw: run.raw,
            pack: number,
            offset: frame.offset,
            stored: frame.stored,
            codec: frame.codec,
            blake3: frame.blake3.to_hex().to_string(),
            from: run.from,
            of: (frame.whole != run.raw).then_some(frame.whole),
            part: run.blake3.map(|part| part.to_hex().to_string()),
        }
    }

    /// Ends the map that is being built; what follows comes into another.
    pub(super) async fn end(&mut self) -> Result<(), BackupError> {
        let map = std::mem::take(&mut self.building);
        self.numbers.clear();
        self.units = 0;
        if map.files.is_empty() {
            return Ok(());
        }
        let encoded = map.encode_with(self.data_key.as_ref())?;
        let blake3 = blake3::hash(&encoded).to_hex().to_string();
        if let Some(known) = self.known.get(&blake3) {
            self.done.objects.push(known.clone());
            return Ok(());
        }
        let key = format!("{}/{blake3}", keys::maps(&self.uid));
        let bytes = encoded.len() as u64;
        self.done.uploaded += bytes;
        self.pending_bytes += encoded.len();
        self.pending.push((self.folder.key(&key), encoded));
        self.done.objects.push(ObjectRef { key, bytes, blake3 });
        if self.pending_bytes > PENDING {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), BackupError> {
        self.pending_bytes = 0;
        for (key, encoded) in std::mem::take(&mut self.pending) {
            // Not noted as begun: an earlier attempt may have written the same, and its manifest could refer to it.
            self.store.create(&key, encoded.into()).await?;
        }
        Ok(())
    }

    /// Ends the last map and writes what waits.
    pub(super) async fn finish(mut self) -> Result<Maps, BackupError> {
        self.end().await?;
        self.flush().await?;
        Ok(self.done)
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;
    use crate::{
        backup::compare::Frame,
        repository::map::{self, Codec},
    };

    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;

    /// A hundred GiB: ninety files of a relation each, and ten thousand small ones.
    fn files() -> impl Iterator<Item = (String, u64)> {
        let large = (0..90).map(|n| (format!("base/5/1{n:05}"), GIB));
        let small = (0..10_000).map(|n| (format!("base/5/2{n:05}"), MIB));
        large.chain(small)
    }

    /// Each MiB compressed to two fifths, in packs of 16 MiB.
    fn content(number: u64, bytes: u64) -> Collected {
        let mut collected = Collected::default();
        for stretch in 0..bytes / MIB {
            let unit = number.min(90) * 1_024 + number.saturating_sub(90) + stretch;
            let stored = u32::try_from(MIB * 2 / 5).unwrap();
            let frame = Frame {
                pack: format!("packs/0f1e/{:032x}", unit / 40).into(),
                offset: unit % 40 * u64::from(stored),
                stored,
                whole: u32::try_from(MIB).unwrap(),
                codec: Codec::Zstd,
                blake3: blake3::hash(&unit.to_le_bytes()),
            };
            let run = Run {
                at: stretch * MIB,
                raw: frame.whole,
                from: 0,
                frame: Arc::new(frame),
                blake3: None,
            };
            collected.add(stretch * MIB, 1 << 20, [run]);
        }
        collected
    }

    async fn maps(store: &Store, known: &[ObjectRef], changed: &str) -> Maps {
        let folder = DatabaseFolder::new("demo", "pg").unwrap();
        let mut writer = MapWriter::new(store.clone(), folder, "0f1e", None, known);
        for (number, (path, bytes)) in (0..).zip(files()) {
            let mut file = content(number, bytes);
            if path == changed {
                file.runs[0].raw -= 8_192;
            }
            writer.push(&path, file).await.unwrap();
        }
        writer.finish().await.unwrap()
    }

    #[tokio::test]
    async fn an_unchanged_database_of_100_gib_writes_next_to_nothing_anew() {
        let store = Store::over(Arc::new(InMemory::new()), "memory:", "m", None).unwrap();
        let first = maps(&store, &[], "").await;
        assert_eq!(first.database_bytes, 90 * GIB + 10_000 * MIB);
        let again = maps(&store, &first.objects, "").await;
        assert_eq!((again.uploaded, &again.objects), (0, &first.objects));
        // What is new then is the manifest, which names each object in less than 200 bytes: 0.02 % of 100 GiB are 20 MiB.
        let named = first.objects.len() + first.packs.len();
        assert!(named * 200 < 1 << 20, "{named}");
        // One page of one file costs the map that it stands in.
        let changed = maps(&store, &first.objects, "base/5/100042").await;
        assert!(changed.uploaded < 128 << 10, "{}", changed.uploaded);
        let largest = first.objects.iter().map(|map| map.bytes).max();
        assert!(largest < Some(256 << 10), "{largest:?}");
        let folder = DatabaseFolder::new("demo", "pg").unwrap();
        let object = &first.objects[0];
        let read = map::read(&store, &folder.key(&object.key), object, None).await;
        assert_eq!(read.unwrap().files[0].path, "base/5/100000");
    }
}
