//! From the first byte read to the last pack sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kubedb_core::lsn::{Lsn, TimelineId};
use tokio::{
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
};

use super::{
    Attempt, BackupOutcome, BackupProgress,
    error::BackupError,
    pack::{Packer, Place},
    read::{Content, Encoder, Piece, UNIT, Work},
    session::{Session, read_control},
    wal::Range,
    walk::{Entry, Kind, Walked, linked_tablespaces, walk},
};
use crate::{
    postgres::{
        control::{CONTROL_FILE, ControlFile},
        page::PAGE_BYTES,
    },
    repository::{manifest::Tablespace, map::Codec},
};

/// Longest history of timelines: a line for each of ten thousand promotions.
const HISTORY_BYTES: u64 = 1 << 20;

/// A file or folder as it was collected.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) is_folder: bool,
    pub(super) bytes: u64,
    pub(super) units: Vec<Stored>,
}

/// A stretch of a file in a pack.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) at: u64,
    pub(super) raw: usize,
    pub(super) place: Place,
    pub(super) length: usize,
    pub(super) codec: Codec,
    pub(super) blake3: blake3::Hash,
}

/// Everything that the manifest will say.
pub(super) struct Copied {
    pub(super) files: BTreeMap<String, Collected>,
    pub(super) packer: Packer,
    pub(super) control: ControlFile,
    pub(super) tablespaces: Vec<Tablespace>,
    pub(super) wal: Vec<String>,
    pub(super) history: Option<String>,
    pub(super) timeline: u32,
    pub(super) start_lsn: Lsn,
    pub(super) stop_lsn: Lsn,
    pub(super) read_bytes: u64,
}

/// Files on their way into packs.
struct Transfer<'a> {
    attempt: &'a Attempt<'a>,
    packer: Packer,
    files: BTreeMap<String, Collected>,
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
        let start_lsn = session.start(&format!("kubedb {}", self.id)).await?;
        let timeline = session.timeline().await?;
        let (control, _) = read_control(&self.request.data_folder).await?;
        if control.block_bytes as usize != PAGE_BYTES {
            return Err(BackupError::PageSize {
                bytes: control.block_bytes,
            });
        }
        let mut transfer = Transfer {
            attempt: self,
            packer: Packer::new(
                self.request.store.clone(),
                self.folder.clone(),
                &self.id.uid,
                self.begun.clone(),
            ),
            files: BTreeMap::new(),
            told: BackupProgress::default(),
        };
        let tablespaces = transfer.copy_files(&control).await?;
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
        transfer
            .put("backup_label", stopped.backup_label.as_bytes())
            .await?;
        if !stopped.tablespace_map.trim().is_empty() {
            transfer
                .put("tablespace_map", stopped.tablespace_map.as_bytes())
                .await?;
        }
        let range = Range {
            start: start_lsn,
            stop: stopped.stop_lsn,
            timeline: TimelineId(timeline),
            segment_bytes: u64::from(control.wal_segment_bytes),
            system_identifier: control.system_identifier,
        };
        let wal = transfer.copy_wal(range).await?;
        let history = transfer.copy_history(range.timeline).await?;
        let copied = Copied {
            read_bytes: transfer.told.done_bytes,
            files: transfer.files,
            packer: transfer.packer,
            control,
            tablespaces,
            wal,
            history,
            timeline,
            start_lsn,
            stop_lsn: stopped.stop_lsn,
        };
        self.commit(session, copied).await
    }

    async fn linked_tablespaces(&self) -> Result<BTreeSet<u32>, BackupError> {
        let folder = self.request.data_folder.clone();
        let found = spawn_blocking(move || linked_tablespaces(&folder)).await;
        found.map_err(|_| BackupError::Worker)?
    }
}

impl Transfer<'_> {
    /// Reads all files by several readers at once, and sends what they give.
    async fn copy_files(&mut self, control: &ControlFile) -> Result<Vec<Tablespace>, BackupError> {
        let request = self.attempt.request;
        let (folder, dialect) = (request.data_folder.clone(), request.dialect);
        let catalog_version = control.catalog_version;
        let walked = spawn_blocking(move || walk(&folder, dialect, catalog_version)).await;
        let Walked {
            entries,
            tablespaces,
        } = walked.map_err(|_| BackupError::Worker)??;
        for folder in entries.iter().filter(|entry| entry.kind == Kind::Folder) {
            let collected = Collected {
                is_folder: true,
                ..Collected::default()
            };
            self.files.insert(folder.path.clone(), collected);
        }
        let checked = (control.checksum_version != 0).then_some(control.segment_blocks);
        let entries = Arc::new(entries);
        let work = Work::plan(entries.clone(), checked, self.attempt.stop.clone());
        let work = Arc::new(work);
        self.told.total_bytes = work.bytes();
        self.read_all(&work, &entries, request.threads.clamp(1, 64))
            .await?;
        Ok(tablespaces)
    }

    async fn read_all(
        &mut self,
        work: &Arc<Work>,
        entries: &[Entry],
        threads: usize,
    ) -> Result<(), BackupError> {
        // A piece waits for each reader, so that none waits for the packer's every turn.
        let (sender, mut pieces) = mpsc::channel(threads);
        let mut readers = JoinSet::new();
        for _ in 0..threads {
            let (work, sender) = (work.clone(), sender.clone());
            readers.spawn_blocking(move || work.read_all(&sender));
        }
        drop(sender);
        while let Some(piece) = pieces.recv().await {
            let piece: Piece = piece?;
            let path = &entries[piece.entry].path;
            self.add(path, piece.at, piece.raw, piece.content).await?;
        }
        while let Some(ended) = readers.join_next().await {
            ended.map_err(|_| BackupError::Worker)?;
        }
        if self.attempt.stop.is_cancelled() {
            return Err(BackupError::Cancelled);
        }
        Ok(())
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
                self.add(&path, at, raw, content).await?;
            }
            names.push(name);
        }
        Ok(names)
    }

    /// A cluster that was promoted has a file that says where its timeline left the former.
    async fn copy_history(&mut self, timeline: TimelineId) -> Result<Option<String>, BackupError> {
        if timeline.0 <= 1 {
            return Ok(None);
        }
        let request = self.attempt.request;
        let wal_folder = request.dialect.wal_folder();
        let name = timeline.history_name();
        let path = request.data_folder.join(wal_folder).join(&name);
        let fail = |reason: String| BackupError::Wal {
            segment: name.clone(),
            reason,
        };
        let size = tokio::fs::metadata(&path).await.map(|meta| meta.len());
        if size.map_err(|error| fail(error.to_string()))? > HISTORY_BYTES {
            return Err(fail("it is too long for a history of timelines".to_owned()));
        }
        let text = tokio::fs::read_to_string(&path).await;
        let text = text.map_err(|error| fail(error.to_string()))?;
        self.put(&format!("{wal_folder}/{name}"), text.as_bytes())
            .await?;
        Ok(Some(text))
    }

    /// Adds a small file that is in memory.
    async fn put(&mut self, path: &str, bytes: &[u8]) -> Result<(), BackupError> {
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
        let mut unit = None;
        if let Some(content) = content {
            unit = Some(Stored {
                at,
                raw,
                place: self.packer.add(&content.stored).await?,
                length: content.stored.len(),
                codec: content.codec,
                blake3: content.blake3,
            });
        }
        let file = self.files.entry(path.to_owned()).or_default();
        // A stretch behind the end of a file that became shorter is empty.
        if raw > 0 {
            file.bytes = file.bytes.max(at + raw as u64);
        }
        file.units.extend(unit);
        self.told.done_bytes += raw as u64;
        self.told.total_bytes = self.told.total_bytes.max(self.told.done_bytes);
        self.told.uploaded_bytes = self.packer.uploaded();
        self.attempt.progress.send_replace(self.told);
        Ok(())
    }
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
