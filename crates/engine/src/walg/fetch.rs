//! Restores a base backup, and those that it builds on, into an empty folder.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use kubedb_core::lsn::Lsn;
use tokio::{sync::watch, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::{
    WalgError,
    chain::{Link, Part, chain},
    error::UnpackError,
    object::{Pieces, read_through},
    sentinel::timeline_of,
    unpack::{Unpacker, make_folder},
};
use crate::{
    backup::{BackupProgress, EMPTIED, label_start, label_timeline},
    postgres::{
        control::{CONTROL_FILE, ControlFile},
        dialect::PgDialect,
    },
    restore::{RestoredCluster, WAITING, check_empty, check_room, verify_folder},
    store::Store,
    tar::TarReader,
};

/// Bytes that are unpacked at once.
const BUFFER: usize = 256 << 10;

/// Which base backup to restore, and where to.
#[derive(Clone, Debug)]
pub struct WalgRequest {
    /// Where it is.
    pub store: Store,
    /// The folder below which `basebackups_005` lies; empty for the store's root.
    pub folder: String,
    /// Its name.
    pub backup: String,
    /// Cluster that it must be of.
    pub system_identifier: u64,
    /// Where it goes: a folder that is empty or absent.
    pub data_folder: PathBuf,
    /// Major that will run on it.
    pub dialect: PgDialect,
    /// Full version that will run on it.
    pub postgres_version: String,
}

/// Writes a base backup into an empty folder, without recovery settings. Whatever can be known to be wrong is found before anything is written. What was
/// written is compared with the list of its files, where there is one, and pages with their checksums, where there are any; on failure it is removed.
pub async fn fetch(
    request: WalgRequest,
    progress: watch::Sender<BackupProgress>,
    cancel: CancellationToken,
) -> Result<RestoredCluster, WalgError> {
    let chain = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(WalgError::Cancelled),
        chain = chain(&request) => chain?,
    };
    let Some(last) = chain.last() else {
        return Err(WalgError::Worker);
    };
    let needed = last.sentinel.bytes();
    check_empty(&request.data_folder)?;
    check_room(&request.data_folder, needed)?;
    progress.send_replace(BackupProgress {
        total_bytes: needed,
        ..BackupProgress::default()
    });
    let data = request.data_folder.clone();
    let written = write(&request, chain, &progress, &cancel).await;
    if written.is_err() {
        let removed = spawn_blocking(move || fs::remove_dir_all(data)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%error, "a failed restore is left behind");
        }
    }
    written
}

fn write_error(path: &str, source: io::Error) -> WalgError {
    WalgError::Write {
        path: path.to_owned(),
        source,
    }
}

async fn write(
    request: &WalgRequest,
    chain: Vec<Arc<Link>>,
    progress: &watch::Sender<BackupProgress>,
    cancel: &CancellationToken,
) -> Result<RestoredCluster, WalgError> {
    let data = request.data_folder.clone();
    make_folder(&data).map_err(|source| write_error(&data.display().to_string(), source))?;
    let is_alone = chain.len() == 1;
    for link in &chain {
        let unpacker = unpack(request, link, progress, cancel).await?;
        let (link, is_last) = (link.clone(), link.backup == request.backup);
        let ends = move || end(&unpacker, &link, is_last && !is_alone);
        spawn_blocking(ends)
            .await
            .map_err(|_| WalgError::Worker)??;
    }
    let (dialect, cancel) = (request.dialect, cancel.clone());
    let ends = move || match chain.last() {
        Some(last) => complete(&data, last, dialect, &cancel),
        None => Err(WalgError::Worker),
    };
    let restored = spawn_blocking(ends).await;
    let restored = restored.map_err(|_| WalgError::Worker)??;
    if restored.system_identifier != request.system_identifier {
        return Err(WalgError::Incomplete {
            backup: request.backup.clone(),
            reason: format!(
                "its control file is of cluster {}",
                restored.system_identifier
            ),
        });
    }
    Ok(restored)
}

/// Unpacks one backup over those that it builds on, one archive after another: a fetch is ahead of its unpacking.
async fn unpack(
    request: &WalgRequest,
    link: &Link,
    progress: &watch::Sender<BackupProgress>,
    cancel: &CancellationToken,
) -> Result<Unpacker, WalgError> {
    let mut state = State {
        unpacker: Unpacker::new(&request.data_folder, &link.files),
        done: progress.borrow().done_bytes,
    };
    for part in &link.parts {
        let (progress, cancel) = (progress.clone(), cancel.clone());
        let (backup, label) = (link.backup.clone(), request.store.label().to_owned());
        let its = part.clone();
        let work = move |pieces: Pieces| {
            let read = state.read(&its, pieces, &progress, &cancel);
            read.map_err(|error| named(error, &backup, &its.key, &label))?;
            Ok(state)
        };
        state = read_through(&request.store, (&part.key, part.bytes), work).await?;
    }
    Ok(state.unpacker)
}

/// Whether all of a backup has come; `replaces` says that only what it has itself stays. Blocks.
fn end(unpacker: &Unpacker, link: &Link, replaces: bool) -> Result<(), WalgError> {
    let missing = unpacker.missing(&link.files);
    if let Some(path) = missing.filter(|_| !link.files.is_empty()) {
        return Err(WalgError::Incomplete {
            backup: link.backup.clone(),
            reason: format!("it holds no {path}, which its list of files has"),
        });
    }
    if replaces {
        let removed = unpacker.remove_others(&link.files);
        removed.map_err(|error| named(error.into(), &link.backup, "", ""))?;
    }
    Ok(())
}

struct State {
    unpacker: Unpacker,
    /// Bytes that were written of the backups before.
    done: u64,
}

impl State {
    fn read(
        &mut self,
        part: &Part,
        pieces: Pieces,
        progress: &watch::Sender<BackupProgress>,
        cancel: &CancellationToken,
    ) -> Result<(), ReadError> {
        let mut reader = part.codec.reader(pieces).map_err(ReadError::Packed)?;
        let mut tar = TarReader::of_others();
        let mut buffer = vec![0; BUFFER];
        loop {
            if cancel.is_cancelled() {
                return Err(ReadError::Cancelled);
            }
            let length = reader.read(&mut buffer).map_err(ReadError::Packed)?;
            if length == 0 {
                break;
            }
            tar.feed(&buffer[..length], &mut self.unpacker)?;
            let done = self.done + self.unpacker.bytes;
            progress.send_modify(|told| told.done_bytes = done);
        }
        tar.finish().map_err(UnpackError::from)?;
        Ok(())
    }
}

/// Why an archive was not unpacked.
enum ReadError {
    Packed(io::Error),
    Unpack(UnpackError),
    Cancelled,
}

impl From<UnpackError> for ReadError {
    fn from(error: UnpackError) -> Self {
        Self::Unpack(error)
    }
}

fn named(error: ReadError, backup: &str, object: &str, label: &str) -> WalgError {
    let damaged = |reason| WalgError::Damaged {
        backup: backup.to_owned(),
        object: object.to_owned(),
        label: label.to_owned(),
        reason,
    };
    match error {
        ReadError::Cancelled => WalgError::Cancelled,
        ReadError::Packed(error) => damaged(format!(
            "{error}; encrypted backups of wal-g are not read here"
        )),
        ReadError::Unpack(UnpackError::Write { path, source }) => WalgError::Write { path, source },
        ReadError::Unpack(error) => damaged(error.to_string()),
    }
}

/// Holds what was written to what it says of itself, makes it durable, and lets servers start on it. Blocks.
fn complete(
    data: &Path,
    link: &Link,
    dialect: PgDialect,
    cancel: &CancellationToken,
) -> Result<RestoredCluster, WalgError> {
    let incomplete = |reason: String| WalgError::Incomplete {
        backup: link.backup.clone(),
        reason,
    };
    let start = link.sentinel.start().unwrap_or(Lsn(0));
    let stop = link.sentinel.stop().unwrap_or(Lsn(0));
    let label = fs::read_to_string(data.join("backup_label"));
    let label = label.map_err(|_| incomplete("it holds no backup_label".to_owned()))?;
    if label_start(&label) != Some(start) {
        return Err(incomplete(format!(
            "its backup_label does not begin at {start}, as it says elsewhere"
        )));
    }
    let timeline = timeline_of(&link.backup).map_or(0, |timeline| timeline.0);
    if label_timeline(&label).is_some_and(|labelled| labelled != timeline) {
        return Err(incomplete(
            "its backup_label is of another timeline".to_owned(),
        ));
    }
    let waiting = data.join(WAITING);
    let bytes = fs::read(&waiting);
    let bytes = bytes.map_err(|_| incomplete("it holds no control file".to_owned()))?;
    let control = ControlFile::parse(&bytes).map_err(|error| incomplete(error.to_string()))?;
    // Of some of these, backups hold nothing.
    let wal = format!("{}/archive_status", dialect.wal_folder());
    for folder in EMPTIED.into_iter().chain([wal.as_str()]) {
        make_folder(&data.join(folder)).map_err(|source| write_error(folder, source))?;
    }
    if control.checksum_version > 0 {
        let pages = verify_folder(data, (start, stop), cancel)?;
        if let Some(first) = pages.findings.first() {
            return Err(WalgError::Pages {
                backup: link.backup.clone(),
                file: first.object.clone(),
                what: first.what.clone(),
                more: pages.findings.len() - 1,
            });
        }
    }
    let failed = |source| write_error(&data.display().to_string(), source);
    let folder = File::open(data).map_err(failed)?;
    nix::unistd::syncfs(&folder).map_err(|error| failed(error.into()))?;
    fs::rename(&waiting, data.join(CONTROL_FILE)).map_err(failed)?;
    nix::unistd::syncfs(&folder).map_err(|error| failed(error.into()))?;
    Ok(RestoredCluster {
        start_lsn: start,
        stop_lsn: stop,
        timeline,
        system_identifier: control.system_identifier,
        database_bytes: link.sentinel.bytes(),
        snapshot: link.backup.clone(),
        database: String::new(),
        lineage: control.system_identifier.to_string(),
        settings: control
            .needs()
            .into_iter()
            .map(|(name, value)| (name, value.to_string()))
            .collect(),
    })
}
