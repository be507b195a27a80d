//! What is to be read, stretch by stretch, each with what an earlier Snapshot has of it. Both go along the same paths in the same order, so that
//! no more than one map of the earlier one is in memory.

use std::{
    collections::{BTreeMap, HashMap},
    iter::Peekable,
    sync::Arc,
    vec,
};

use kubedb_core::lsn::Lsn;
use tokio::sync::mpsc::Sender;

use super::{
    base::Base,
    compare::{Frame, Run, Tells},
    error::BackupError,
    read::{Job, UNIT, stretches},
    walk::{Entry, Kind, database_of},
};
use crate::{
    encryption::DataKey,
    repository::{
        keys::DatabaseFolder,
        manifest::ObjectRef,
        map::{self, FileEntry, ReadMapError},
    },
    store::Store,
};

/// Hands out jobs in the order of paths.
pub(super) struct Planner {
    entries: Arc<Vec<Entry>>,
    earlier: Option<Earlier>,
}

/// An earlier Snapshot, as far as it is compared with.
pub(super) struct Earlier {
    pub(super) files: EarlierFiles,
    /// Where it began, if pages say whether they were changed since.
    pub(super) since: Option<Lsn>,
    /// Whether its WAL has hash indexes.
    pub(super) logs_hash_indexes: bool,
    /// Its databases and ours, by oid: one that was made anew has pages that say nothing.
    pub(super) theirs: BTreeMap<String, String>,
    pub(super) ours: BTreeMap<String, String>,
}

impl Earlier {
    fn tells(&self, entry: &Entry) -> Tells {
        let Kind::File {
            pages: Some(pages), ..
        } = entry.kind
        else {
            return Tells::Content;
        };
        let is_same_database = match database_of(&entry.path) {
            None => true,
            Some(oid) => {
                let theirs = self.theirs.get(oid);
                theirs.is_some() && theirs == self.ours.get(oid)
            }
        };
        match self.since {
            Some(since) if pages.is_main && is_same_database => Tells::Pages {
                since,
                logs_hash_indexes: self.logs_hash_indexes,
            },
            _ => Tells::Content,
        }
    }
}

impl Planner {
    pub(super) fn new(entries: Arc<Vec<Entry>>, earlier: Option<Earlier>) -> Self {
        Self { entries, earlier }
    }

    /// Hands out all jobs, or as many as are wanted.
    pub(super) async fn run(mut self, jobs: Sender<Job>) -> Result<(), BackupError> {
        for (number, entry) in self.entries.clone().iter().enumerate() {
            let Kind::File { bytes, .. } = entry.kind else {
                continue;
            };
            let (mut runs, mut tells) = (Vec::new(), Tells::Content);
            if let Some(earlier) = &mut self.earlier {
                runs = earlier.files.of(&entry.path).await?;
                tells = earlier.tells(entry);
            }
            let mut runs = runs.into_iter().peekable();
            for stretch in 0..stretches(bytes) {
                let at = stretch * UNIT as u64;
                let job = Job {
                    entry: number,
                    at,
                    base: cut(&mut runs, at + UNIT as u64),
                    tells,
                };
                if jobs.send(job).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Takes the runs before `end`, and of one that goes beyond it the part before.
fn cut(runs: &mut Peekable<vec::IntoIter<Run>>, end: u64) -> Vec<Run> {
    let mut taken = Vec::new();
    while let Some(run) = runs.peek_mut().filter(|run| run.at < end) {
        if run.at + u64::from(run.raw) <= end {
            taken.extend(runs.next());
            continue;
        }
        let part = u32::try_from(end - run.at).unwrap_or(u32::MAX);
        taken.push(Run {
            raw: part,
            blake3: None,
            ..run.clone()
        });
        run.blake3 = None;
        run.at = end;
        run.from += part;
        run.raw -= part;
    }
    taken
}

/// Files of an earlier Snapshot, asked for in the order of their paths.
pub(super) struct EarlierFiles {
    store: Store,
    folder: DatabaseFolder,
    data_key: Option<DataKey>,
    maps: vec::IntoIter<ObjectRef>,
    sparse: std::collections::HashSet<String>,
    /// Packs of the map that is open; `None` for one that is not referred to.
    packs: Vec<Option<Arc<str>>>,
    files: Peekable<vec::IntoIter<FileEntry>>,
    /// Path of the last file of the last map.
    last: String,
}

impl EarlierFiles {
    pub(super) fn new(
        store: Store,
        folder: DatabaseFolder,
        data_key: Option<DataKey>,
        base: &Base,
    ) -> Self {
        Self {
            store,
            folder,
            data_key,
            maps: base.manifest.maps.clone().into_iter(),
            sparse: base.sparse.clone(),
            packs: Vec::new(),
            files: Vec::new().into_iter().peekable(),
            last: String::new(),
        }
    }

    /// What it has of a file.
    async fn of(&mut self, path: &str) -> Result<Vec<Run>, BackupError> {
        loop {
            while self
                .files
                .next_if(|file| file.path.as_str() < path)
                .is_some()
            {}
            if self.files.peek().is_some() {
                let found = self.files.next_if(|file| file.path == path);
                return Ok(found.map(|file| self.runs(file)).unwrap_or_default());
            }
            if !self.open_next().await? {
                return Ok(Vec::new());
            }
        }
    }

    /// Opens the next map. The last ones have what was copied last, of all paths, and nothing of it stays the same.
    async fn open_next(&mut self) -> Result<bool, BackupError> {
        let Some(object) = self.maps.next() else {
            return Ok(false);
        };
        let key = self.folder.key(&object.key);
        let read = map::read(&self.store, &key, &object, self.data_key.as_ref()).await;
        let map = read.map_err(|error| match error {
            ReadMapError::Store(error) if !error.is_not_found() => BackupError::Store(error),
            ReadMapError::Store(error) => BackupError::Base {
                object: key.clone(),
                reason: error.to_string(),
            },
            ReadMapError::Damaged(reason) => BackupError::Base {
                object: key.clone(),
                reason,
            },
            ReadMapError::Worker => BackupError::Worker,
            ReadMapError::Map(error) => BackupError::Base {
                object: key.clone(),
                reason: error.to_string(),
            },
        })?;
        let (Some(first), Some(last)) = (map.files.first(), map.files.last()) else {
            return Ok(true);
        };
        if first.path <= self.last {
            self.maps = Vec::new().into_iter();
            return Ok(false);
        }
        self.last.clone_from(&last.path);
        let sparse = &self.sparse;
        let name = |pack: String| (!sparse.contains(&pack)).then(|| pack.into());
        self.packs = map.packs.into_iter().map(name).collect();
        self.files = map.files.into_iter().peekable();
        Ok(true)
    }

    fn runs(&self, file: FileEntry) -> Vec<Run> {
        let mut frames: HashMap<(u32, u64), Arc<Frame>> = HashMap::new();
        let run = |unit: map::Unit| {
            let pack = self.packs.get(unit.pack as usize)?.clone()?;
            let blake3 = blake3::Hash::from_hex(&unit.blake3).ok()?;
            let frame = frames.entry((unit.pack, unit.offset)).or_insert_with(|| {
                Arc::new(Frame {
                    pack,
                    offset: unit.offset,
                    stored: unit.stored,
                    whole: unit.whole(),
                    codec: unit.codec,
                    blake3,
                })
            });
            let is_same = frame.stored == unit.stored
                && frame.whole == unit.whole()
                && frame.codec == unit.codec
                && frame.blake3 == blake3;
            is_same.then(|| Run {
                at: unit.at,
                raw: unit.raw,
                from: unit.from,
                frame: frame.clone(),
                blake3: unit.part.and_then(|part| blake3::Hash::from_hex(part).ok()),
            })
        };
        file.units.into_iter().filter_map(run).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::map::Codec;

    #[test]
    fn t17_runs_are_cut_where_stretches_end() {
        let frame = Arc::new(Frame {
            pack: "packs/u/00".into(),
            offset: 0,
            stored: 9,
            whole: 100,
            codec: Codec::Plain,
            blake3: blake3::hash(b""),
        });
        let run = |at, raw, from| Run {
            at,
            raw,
            from,
            frame: frame.clone(),
            blake3: None,
        };
        let mut runs = vec![run(0, 5, 50), run(5, 20, 0), run(30, 10, 90)]
            .into_iter()
            .peekable();
        assert_eq!(cut(&mut runs, 10), [run(0, 5, 50), run(5, 5, 0)]);
        assert_eq!(cut(&mut runs, 20), [run(10, 10, 5)]);
        assert_eq!(cut(&mut runs, 30), [run(20, 5, 15)]);
        assert_eq!(cut(&mut runs, 40), [run(30, 10, 90)]);
        assert_eq!(cut(&mut runs, 50), []);
    }
}
