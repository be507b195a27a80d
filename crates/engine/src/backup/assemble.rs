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
        known: &[ObjectRef],
    ) -> Self {
        let by_hash = |object: &ObjectRef| (object.blake3.clone(), object.clone());
        Self {
            store,
            folder,
            uid: uid.to_owned(),
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
        let encoded = map.encode()?;
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
