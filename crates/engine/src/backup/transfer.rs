//! From the first byte read to the last pack sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use kubedb_core::{
    base::{Now, read_history},
    lsn::{Lsn, TimelineId},
};
use tokio::{
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
};

use super::{
    Attempt, BackupOutcome, BackupProgress,
    assemble::{Assembly, Collected, MapWriter, Maps},
    base::{self, Base, Found, Search},
    commit::Surroundings,
    compare::{Frame, Run},
    error::BackupError,
    pack::Packer,
    plan::{Earlier, EarlierFiles, Planner},
    read::{Content, Encoder, Piece, Read, Readers, UNIT},
    session::{Session, Stopped, read_control},
    wal::Range,
    walk::{Entry, Walked, linked_tablespaces, walk},
};
use crate::{
    postgres::{
        control::{CONTROL_FILE, ControlFile},
        dialect::PgDialect,
        page::PAGE_BYTES,
        reset,
    },
    repository::{
        libc,
        manifest::{Logical, ObjectRef, Tablespace},
    },
};

/// Longest history of timelines: a line for each of ten thousand promotions.
const HISTORY_BYTES: u64 = 1 << 20;

/// What the server says of itself, at the start of a backup.
pub(super) struct Facts {
    pub(super) control: ControlFile,
    pub(super) timeline: u32,
    pub(super) start_lsn: Lsn,
    /// What it has written or replayed.
    pub(super) reached: Lsn,
    /// Its databases, by oid, and the transaction that made each.
    pub(super) incarnations: BTreeMap<String, String>,
}

/// Everything that the manifest will say.
pub(super) struct Copied {
    pub(super) maps: Maps,
    pub(super) packs: Vec<ObjectRef>,
    pub(super) found: Found,
    pub(super) incarnations: BTreeMap<String, String>,
    pub(super) control: ControlFile,
    pub(super) tablespaces: Vec<Tablespace>,
    pub(super) wal: Vec<String>,
    pub(super) history: Option<String>,
    pub(super) timeline: u32,
    pub(super) start_lsn: Lsn,
    pub(super) stop_lsn: Lsn,
    pub(super) read_bytes: u64,
    pub(super) uploaded_bytes: u64,
    /// What it holds, where that is rows and not files.
    pub(super) logical: Option<Logical>,
}

/// Files on their way into packs.
pub(super) struct Transfer<'a> {
    attempt: &'a Attempt<'a>,
    packer: Packer,
    maps: MapWriter,
    /// What is copied last, and lives as long as this Snapshot alone: the label, the control file, the WAL.
    late: BTreeMap<String, Collected>,
    told: BackupProgress,
}

impl Attempt<'_> {
    /// The whole of a backup, but for leaving the session.
    pub(super) async fn transfer(&self, session: &Session) -> Result<BackupOutcome, BackupError> {
        self.announce().await?;
        if let Some(needed) = self.request.minimum_lsn {
            session.reach(needed).await?;
        }
        session.hold_wal().await?;
        let tablespaces_before = self.linked_tablespaces().await?;
        let facts = self.begin(session).await?;
        let timeline = facts.timeline;
        let history = history_of(&self.request.data_folder, self.request.dialect, timeline).await?;
        let found = self.find_base(&facts, history.as_deref()).await?;
        let mut transfer = Transfer::new(self, &found)?;
        let tablespaces = transfer.copy_files(&facts, &found).await?;
        let control = transfer.copy_control().await?;
        let stopped = session.stop().await?;
        let label = &stopped.backup_label;
        let of_label = label_timeline(label).ok_or_else(|| unreadable_label(label))?;
        for to in [session.timeline().await?, of_label] {
            let from = timeline;
            if from != to {
                return Err(BackupError::TimelineChanged { from, to });
            }
        }
        let made = &self.linked_tablespaces().await? - &tablespaces_before;
        if let Some(oid) = made.first() {
            return Err(BackupError::TablespaceMade { oid: *oid });
        }
        transfer.put_label(&stopped).await?;
        let range = Range {
            start: facts.start_lsn,
            stop: found.reach(stopped.stop_lsn),
            timeline: TimelineId(timeline),
            segment_bytes: u64::from(control.wal_segment_bytes),
            system_identifier: control.system_identifier,
        };
        let wal = transfer.copy_wal(range).await?;
        transfer
            .put_history(range.timeline, history.as_deref())
            .await?;
        let copied = transfer
            .finish(Copied {
                maps: Maps::default(),
                packs: Vec::new(),
                found,
                incarnations: facts.incarnations,
                control,
                tablespaces,
                wal,
                history,
                timeline,
                start_lsn: facts.start_lsn,
                stop_lsn: range.stop,
                read_bytes: 0,
                uploaded_bytes: 0,
                logical: None,
            })
            .await?;
        let surroundings = Surroundings {
            is_standby: session.is_standby,
            locales: session.locales().await?,
            libc: spawn_blocking(libc::name).await.unwrap_or_default(),
        };
        self.commit(copied, surroundings).await
    }

    /// Begins backup mode.
    async fn begin(&self, session: &Session) -> Result<Facts, BackupError> {
        let start_lsn = session.start(&format!("kubedb {}", self.id)).await?;
        let timeline = session.timeline().await?;
        let (control, _) = read_control(&self.request.data_folder).await?;
        if control.block_bytes as usize != PAGE_BYTES {
            return Err(BackupError::PageSize {
                bytes: control.block_bytes,
            });
        }
        Ok(Facts {
            control,
            timeline,
            start_lsn,
            reached: session.reached().await?,
            // Before any file is read: what is made anew from here on is made anew by the WAL of this backup too.
            incarnations: session.incarnations().await?,
        })
    }

    /// Looks for a Snapshot to refer to.
    pub(super) async fn find_base(
        &self,
        facts: &Facts,
        history: Option<&str>,
    ) -> Result<Found, BackupError> {
        let history = match read_history(history.unwrap_or_default()) {
            Ok(history) => history,
            Err(error) => return Ok(Found::Whole(error.to_string())),
        };
        let data_folder = self.request.data_folder.clone();
        let reset = spawn_blocking(move || reset::read(&data_folder)).await;
        let now = Now {
            make: base::make_of(&facts.control, &self.request.lineage),
            timeline: facts.timeline,
            history,
            reached: facts.reached,
            reset: reset.map_err(|_| BackupError::Worker)?,
        };
        let search = Search {
            store: &self.request.store,
            folder: &self.folder,
            data_key: self.data_key.as_ref(),
            now: &now,
        };
        search.find(&self.id).await
    }

    async fn linked_tablespaces(&self) -> Result<BTreeSet<u32>, BackupError> {
        let folder = self.request.data_folder.clone();
        let found = spawn_blocking(move || linked_tablespaces(&folder)).await;
        found.map_err(|_| BackupError::Worker)?
    }
}

impl<'a> Transfer<'a> {
    pub(super) fn new(attempt: &'a Attempt<'a>, found: &Found) -> Result<Self, BackupError> {
        let store = &attempt.request.store;
        let (folder, uid) = (&attempt.folder, attempt.id.uid.as_str());
        let known = match found {
            Found::Base(base) => base.manifest.maps.as_slice(),
            Found::Whole(_) => &[],
        };
        let (begun, key) = (attempt.begun.clone(), &attempt.data_key);
        Ok(Self {
            attempt,
            packer: Packer::new(
                store.clone(),
                folder.clone(),
                uid,
                begun,
                key.as_ref(),
                attempt.request.effort.uploads,
            )?,
            maps: MapWriter::new(store.clone(), folder.clone(), uid, key.clone(), known),
            late: BTreeMap::new(),
            told: BackupProgress::default(),
        })
    }

    /// Reads all files by several readers at once, and sends what they give.
    pub(super) async fn copy_files(
        &mut self,
        facts: &Facts,
        found: &Found,
    ) -> Result<Vec<Tablespace>, BackupError> {
        let request = self.attempt.request;
        let (folder, dialect) = (request.data_folder.clone(), request.dialect);
        let catalog_version = facts.control.catalog_version;
        let walked = spawn_blocking(move || walk(&folder, dialect, catalog_version)).await;
        let Walked {
            mut entries,
            tablespaces,
        } = walked.map_err(|_| BackupError::Worker)??;
        // The order of maps, in which an earlier Snapshot is read beside.
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        self.told.total_bytes = entries.iter().map(Entry::bytes).sum();
        let entries = Arc::new(entries);
        let earlier = match found {
            Found::Whole(_) => None,
            Found::Base(base) => Some(self.earlier(base, facts)),
        };
        let planner = Planner::new(entries.clone(), earlier);
        let checked = facts.control.checksum_version != 0;
        let checked = checked.then_some(facts.control.segment_blocks);
        self.read_all(entries, planner, checked).await?;
        // What follows is of no use to later Snapshots, and not mixed with what is.
        self.packer.cut().await?;
        self.maps.end().await?;
        Ok(tablespaces)
    }

    fn earlier(&self, base: &Base, facts: &Facts) -> Earlier {
        let store = self.attempt.request.store.clone();
        let has_checksums = facts.control.checksum_version != 0;
        Earlier {
            files: EarlierFiles::new(
                store,
                self.attempt.folder.clone(),
                self.attempt.data_key.clone(),
                base,
            ),
            since: has_checksums.then_some(base.manifest.start_lsn),
            logs_hash_indexes: self.attempt.request.dialect.logs_hash_indexes(),
            theirs: base.manifest.cluster.incarnations.clone(),
            ours: facts.incarnations.clone(),
        }
    }

    async fn read_all(
        &mut self,
        entries: Arc<Vec<Entry>>,
        planner: Planner,
        checked_segment_pages: Option<u32>,
    ) -> Result<(), BackupError> {
        let threads = self.attempt.request.effort.threads.clamp(1, 64);
        // A job and a piece wait for each reader, so that none waits for the planner's or the packer's every turn.
        let (jobs, waiting) = mpsc::channel(threads);
        let (sender, mut pieces) = mpsc::channel(threads);
        let readers = Arc::new(Readers {
            entries: entries.clone(),
            jobs: Mutex::new(waiting),
            checked_segment_pages,
            pace: self.attempt.pace.clone(),
            stop: self.attempt.stop.clone(),
        });
        let mut tasks = JoinSet::new();
        for _ in 0..threads {
            let (readers, sender) = (readers.clone(), sender.clone());
            tasks.spawn_blocking(move || readers.read_all(&sender));
        }
        tasks.spawn(async move {
            if let Err(error) = planner.run(jobs).await {
                let _ = sender.send(Err(error)).await;
            }
        });
        let mut assembly = Assembly::new(entries);
        while let Some(piece) = pieces.recv().await {
            let Piece { entry, at, read } = piece?;
            let stretch = match read {
                Some(read) => Some((at, read.raw, self.store(at, read).await?)),
                None => None,
            };
            assembly.add(entry, stretch);
            assembly.hand_over(&mut self.maps).await?;
        }
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|_| BackupError::Worker)?;
        }
        if self.attempt.stop.is_cancelled() {
            return Err(BackupError::Cancelled);
        }
        assembly.hand_over(&mut self.maps).await?;
        assembly.is_done().then_some(()).ok_or(BackupError::Worker)
    }

    /// Stores what is fresh of a stretch. Gives all that it consists of.
    async fn store(&mut self, at: u64, read: Read) -> Result<Vec<Run>, BackupError> {
        let mut runs = read.kept;
        if let Some(fresh) = read.fresh {
            let frame = self.frame(fresh.content, fresh.whole).await?;
            let mut from = 0;
            for range in fresh.ranges {
                let raw = u32::try_from(range.len()).unwrap_or(u32::MAX);
                runs.push(Run {
                    at: at + range.start as u64,
                    raw,
                    from,
                    frame: frame.clone(),
                    blake3: None,
                });
                from += raw;
            }
        }
        self.tell(read.raw);
        Ok(runs)
    }

    async fn frame(&mut self, content: Content, whole: usize) -> Result<Arc<Frame>, BackupError> {
        let place = self.packer.add(&content.stored).await?;
        Ok(Arc::new(Frame {
            pack: place.pack,
            offset: place.offset,
            stored: u32::try_from(place.stored).unwrap_or(u32::MAX),
            whole: u32::try_from(whole).unwrap_or(u32::MAX),
            codec: content.codec,
            blake3: content.blake3,
        }))
    }

    /// The control file comes after all others: on a standby it says up to where they must be replayed.
    async fn copy_control(&mut self) -> Result<ControlFile, BackupError> {
        let (control, bytes) = read_control(&self.attempt.request.data_folder).await?;
        self.put(CONTROL_FILE, &bytes).await?;
        Ok(control)
    }

    async fn copy_wal(&mut self, range: Range) -> Result<Vec<String>, BackupError> {
        let request = self.attempt.request;
        let wal_folder = request.dialect.wal_folder();
        let folder = request.data_folder.join(wal_folder);
        let mut names = Vec::new();
        for (number, name) in range.segments() {
            self.told.total_bytes += range.segment_bytes;
            let path = format!("{wal_folder}/{name}");
            for at in (0..range.segment_bytes).step_by(UNIT) {
                let (folder, name) = (folder.clone(), name.clone());
                let read = spawn_blocking(move || range.read(&folder, number, &name, at)).await;
                let (raw, content) = read.map_err(|_| BackupError::Worker)??;
                tokio::time::sleep(self.attempt.pace.pause(raw, Duration::ZERO)).await;
                self.add(&path, at, raw, content).await?;
            }
            names.push(name);
        }
        Ok(names)
    }

    async fn put_label(&mut self, stopped: &Stopped) -> Result<(), BackupError> {
        self.put("backup_label", stopped.backup_label.as_bytes())
            .await?;
        if stopped.tablespace_map.trim().is_empty() {
            return Ok(());
        }
        self.put("tablespace_map", stopped.tablespace_map.as_bytes())
            .await
    }

    async fn put_history(
        &mut self,
        timeline: TimelineId,
        text: Option<&str>,
    ) -> Result<(), BackupError> {
        let Some(text) = text else { return Ok(()) };
        let wal_folder = self.attempt.request.dialect.wal_folder();
        let path = format!("{wal_folder}/{}", timeline.history_name());
        self.put(&path, text.as_bytes()).await
    }

    /// Adds a small file that is in memory, one of the late ones.
    pub(super) async fn put(&mut self, path: &str, bytes: &[u8]) -> Result<(), BackupError> {
        let content = Encoder::new().and_then(|mut encoder| encoder.encode(bytes));
        let content = content.map_err(|source| BackupError::Compress {
            path: path.to_owned(),
            source,
        })?;
        self.add(path, 0, bytes.len(), content).await
    }

    async fn add(
        &mut self,
        path: &str,
        at: u64,
        raw: usize,
        content: Option<Content>,
    ) -> Result<(), BackupError> {
        let mut run = None;
        if let Some(content) = content {
            run = Some(Run {
                at,
                raw: u32::try_from(raw).unwrap_or(u32::MAX),
                from: 0,
                frame: self.frame(content, raw).await?,
                blake3: None,
            });
        }
        let file = self.late.entry(path.to_owned()).or_default();
        file.add(at, raw, run);
        self.tell(raw);
        Ok(())
    }

    fn tell(&mut self, read: usize) {
        self.told.done_bytes += read as u64;
        self.told.total_bytes = self.told.total_bytes.max(self.told.done_bytes);
        self.told.uploaded_bytes = self.packer.uploaded();
        self.attempt.progress.send_replace(self.told);
    }

    /// Sends the last packs, then the maps.
    pub(super) async fn finish(mut self, copied: Copied) -> Result<Copied, BackupError> {
        let (packs, uploaded) = self.packer.finish().await?;
        for (path, file) in std::mem::take(&mut self.late) {
            self.maps.push(&path, file).await?;
        }
        let maps = self.maps.finish().await?;
        Ok(Copied {
            packs,
            uploaded_bytes: uploaded + maps.uploaded,
            read_bytes: self.told.done_bytes,
            maps,
            ..copied
        })
    }
}

impl Found {
    /// Pages that are taken from an earlier Snapshot may hold what it did at its end, so recovery must go at least as far. It is found here: the
    /// server was there already when it began.
    fn reach(&self, stop: Lsn) -> Lsn {
        match self {
            Self::Base(base) => stop.max(base.manifest.stop_lsn),
            Self::Whole(_) => stop,
        }
    }
}

/// A cluster that was promoted has a file that says where its timeline left the former.
pub(super) async fn history_of(
    data_folder: &Path,
    dialect: PgDialect,
    timeline: u32,
) -> Result<Option<String>, BackupError> {
    if timeline <= 1 {
        return Ok(None);
    }
    let name = TimelineId(timeline).history_name();
    let path = data_folder.join(dialect.wal_folder()).join(&name);
    let fail = |reason: String| BackupError::Wal {
        segment: name.clone(),
        reason,
    };
    let size = tokio::fs::metadata(&path).await.map(|meta| meta.len());
    if size.map_err(|error| fail(error.to_string()))? > HISTORY_BYTES {
        return Err(fail("it is too long for a history of timelines".to_owned()));
    }
    let text = tokio::fs::read_to_string(&path).await;
    text.map(Some).map_err(|error| fail(error.to_string()))
}

/// Where a `backup_label` says that recovery begins.
pub(crate) fn label_start(label: &str) -> Option<Lsn> {
    let (_, lsn) = label.split_once("START WAL LOCATION: ")?;
    lsn.split_whitespace().next()?.parse().ok()
}

/// The timeline on which recovery begins, by the name of its first segment in `backup_label`.
pub(crate) fn label_timeline(label: &str) -> Option<u32> {
    let (_, name) = label.split_once("(file ")?;
    let digits = name.get(..8)?;
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u32::from_str_radix(digits, 16).ok())?
}

fn unreadable_label(label: &str) -> BackupError {
    BackupError::Answer {
        what: "end the backup",
        answer: label.chars().take(200).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t10_a_timeline_is_read_as_the_hexadecimal_number_that_it_is() {
        let label = |file: &str| {
            format!("START WAL LOCATION: 0/2000028 (file {file})\nCHECKPOINT LOCATION: 0/2000060\n")
        };
        let timeline = |file| label_timeline(&label(file));
        assert_eq!(timeline("0000000A0000000000000002").unwrap(), 10);
        assert_eq!(timeline("000000100000000000000002").unwrap(), 16);
        assert!(timeline("tenth").is_none());
    }
}
