//! Restores a base backup, and those that it builds on, into an empty folder.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use kubedb_core::lsn::Lsn;
use tokio::{sync::watch, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::{
    BACKUPS, FILES, PARTS, SENTINEL, WalgError,
    backups::SENTINEL_BYTES,
    below,
    codec::Codec,
    error::UnpackError,
    object::{Pieces, read_through},
    sentinel::{Files, Sentinel, timeline_of},
    unpack::{Unpacker, WAITING},
};
use crate::{
    backup::{BackupProgress, EMPTIED, label_start, label_timeline},
    postgres::{
        control::{CONTROL_FILE, ControlFile},
        dialect::PgDialect,
    },
    restore::{RestoredCluster, free_bytes, verify_folder},
    store::Store,
    tar::{Entry, Sink, TarError, TarReader},
};

/// Backups that one may build on.
const CHAIN: usize = 64;
/// Longest list of files: some million of them.
const FILES_BYTES: u64 = 1 << 30;
/// Archives of one backup.
const PARTS_MAX: usize = 100_000;
/// Archives without anything but a control file are as small as this.
const CONTROL_BYTES: u64 = 1 << 20;
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

/// One backup of a chain.
struct Link {
    backup: String,
    sentinel: Sentinel,
    files: Files,
    parts: Vec<Part>,
}

struct Part {
    key: String,
    bytes: u64,
    codec: Codec,
    is_control: bool,
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
    look_at_ground(&request.data_folder, needed)?;
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

/// The backup, after those that it builds on.
async fn chain(request: &WalgRequest) -> Result<Vec<Link>, WalgError> {
    let mut chain: Vec<Link> = Vec::new();
    let mut next = Some(request.backup.clone());
    while let Some(name) = next {
        let is_known = chain.iter().any(|link| link.backup == name);
        if is_known || chain.len() == CHAIN {
            return Err(WalgError::Incomplete {
                backup: request.backup.clone(),
                reason: format!("it builds on more than {CHAIN} backups, or on itself"),
            });
        }
        let link = link(request, name).await?;
        next = link.sentinel.parent.clone();
        chain.push(link);
    }
    chain.reverse();
    // Of one that stands alone the list of files only proves that it is whole.
    let is_alone = chain.len() == 1;
    if let Some(link) = chain.iter().find(|link| link.files.is_empty() && !is_alone) {
        return Err(WalgError::Refused {
            backup: request.backup.clone(),
            reason: format!(
                "it builds on others, and {} has no list of its files (it was made without {FILES}); restore it with wal-g, or a full one here",
                link.backup
            ),
        });
    }
    Ok(chain)
}

async fn link(request: &WalgRequest, backup: String) -> Result<Link, WalgError> {
    let (store, folder) = (&request.store, &request.folder);
    let is_name = backup
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !is_name {
        return Err(WalgError::Incomplete {
            backup: request.backup.clone(),
            reason: format!("{backup:?} is no name of a backup"),
        });
    }
    let key = below(folder, &format!("{BACKUPS}/{backup}{SENTINEL}"));
    let damaged = |object: &str, reason: String| WalgError::Damaged {
        backup: request.backup.clone(),
        object: object.to_owned(),
        label: store.label().to_owned(),
        reason,
    };
    let bytes = match store.read(&key, SENTINEL_BYTES).await {
        Err(error) if error.is_not_found() && backup != request.backup => {
            return Err(WalgError::Incomplete {
                backup: request.backup.clone(),
                reason: format!("it builds on {backup}, which is not there"),
            });
        }
        other => other?,
    };
    let sentinel = Sentinel::read(&bytes).map_err(|reason| damaged(&key, reason))?;
    check(request, &backup, &sentinel)?;
    // Before there was a list of its own, it stood in the sentinel.
    let mut files = Files::read(&bytes).unwrap_or_default();
    if files.is_empty() && !sentinel.lists_no_files {
        let key = below(folder, &format!("{BACKUPS}/{backup}/{FILES}"));
        match store.read(&key, FILES_BYTES).await {
            Ok(bytes) => files = Files::read(&bytes).map_err(|reason| damaged(&key, reason))?,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    let parts = parts(request, &backup, &files).await?;
    Ok(Link {
        backup,
        sentinel,
        files,
        parts,
    })
}

/// Refuses what cannot run here, or is not read here.
fn check(request: &WalgRequest, backup: &str, sentinel: &Sentinel) -> Result<(), WalgError> {
    let refused = |reason| {
        Err(WalgError::Refused {
            backup: backup.to_owned(),
            reason,
        })
    };
    let (theirs, ours) = (sentinel.major(), request.dialect.to_string());
    if theirs != ours {
        return refused(format!(
            "it holds PostgreSQL {theirs}, this database runs PostgreSQL {}; give a new database a spec.version of the same major",
            request.postgres_version
        ));
    }
    let tablespaces = sentinel.tablespaces();
    if !tablespaces.is_empty() {
        return refused(format!(
            "it has tablespaces ({}), which are not read here; restore it with wal-g, and take a Snapshot",
            tablespaces.join(", ")
        ));
    }
    let theirs = sentinel.system_identifier;
    if theirs.is_some_and(|theirs| theirs != request.system_identifier) {
        return refused(format!(
            "it is of cluster {}, not of {}",
            theirs.unwrap_or_default(),
            request.system_identifier
        ));
    }
    Ok(())
}

/// The archives of a backup, the control file's last. One that the list of files names and that is not there is missing.
async fn parts(request: &WalgRequest, backup: &str, files: &Files) -> Result<Vec<Part>, WalgError> {
    let folder = below(&request.folder, &format!("{BACKUPS}/{backup}/{PARTS}"));
    let listed = request.store.list(&folder).await?;
    let mut parts = Vec::new();
    let mut names = BTreeSet::new();
    for listed in listed.into_iter().take(PARTS_MAX) {
        let name = listed.key.rsplit('/').next().unwrap_or_default();
        let (stem, codec) = Codec::of(name);
        if !stem.ends_with(".tar") {
            continue;
        }
        if let Codec::Other(codec) = codec {
            return Err(WalgError::Refused {
                backup: backup.to_owned(),
                reason: format!("{name} is packed with {codec}, which is not read here"),
            });
        }
        names.insert(stem.to_owned());
        parts.push(Part {
            is_control: stem.starts_with("pg_control"),
            bytes: listed.bytes,
            codec,
            key: listed.key,
        });
    }
    parts.sort_by(|a, b| (a.is_control, &a.key).cmp(&(b.is_control, &b.key)));
    let incomplete = |reason| {
        Err(WalgError::Incomplete {
            backup: backup.to_owned(),
            reason,
        })
    };
    if let Some(missing) = files
        .parts()
        .into_iter()
        .find(|part| !names.contains(*part))
    {
        return incomplete(format!("{missing} is missing in it"));
    }
    if !parts.iter().any(|part| part.is_control) {
        return incomplete("pg_control.tar is missing in it".to_owned());
    }
    Ok(parts)
}

/// The control file of a backup.
pub(super) async fn control(
    store: &Store,
    folder: &str,
    backup: &str,
) -> Result<ControlFile, WalgError> {
    let parts = below(folder, &format!("{BACKUPS}/{backup}/{PARTS}"));
    let listed = store.list(&parts).await?;
    let found = listed.into_iter().find_map(|listed| {
        let name = listed.key.rsplit('/').next().unwrap_or_default();
        let (stem, codec) = Codec::of(name);
        stem.starts_with("pg_control")
            .then(|| (codec, listed.key.clone()))
    });
    let Some((codec, key)) = found else {
        return Err(WalgError::Incomplete {
            backup: backup.to_owned(),
            reason: "pg_control.tar is missing in it".to_owned(),
        });
    };
    let packed = store.read(&key, CONTROL_BYTES).await?;
    let read = || -> Result<ControlFile, String> {
        let mut tar = Vec::new();
        let reader = codec
            .reader(&packed[..])
            .map_err(|error| error.to_string())?;
        let read = reader.take(CONTROL_BYTES).read_to_end(&mut tar);
        read.map_err(|error| format!("{error}; encrypted backups of wal-g are not read here"))?;
        let mut sink = OneFile::default();
        let mut reader = TarReader::of_others();
        let fed = reader.feed(&tar, &mut sink).and_then(|()| reader.finish());
        fed.map_err(|error| error.to_string())?;
        let file = sink.content.ok_or("it holds no control file")?;
        ControlFile::parse(&file).map_err(|error| error.to_string())
    };
    read().map_err(|reason| WalgError::Damaged {
        backup: backup.to_owned(),
        object: key.clone(),
        label: store.label().to_owned(),
        reason,
    })
}

/// Keeps the control file.
#[derive(Default)]
struct OneFile {
    content: Option<Vec<u8>>,
    is_meant: bool,
}

impl Sink for OneFile {
    type Error = TarError;

    fn begin(&mut self, entry: Entry) -> Result<(), TarError> {
        self.is_meant =
            matches!(&entry, Entry::File { path, .. } if path == Path::new(CONTROL_FILE));
        if self.is_meant {
            self.content = Some(Vec::new());
        }
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        if let Some(content) = self.content.as_mut().filter(|_| self.is_meant) {
            content.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), TarError> {
        Ok(())
    }
}

/// Refuses a folder that holds something, and a disk that is too small.
fn look_at_ground(data: &Path, needed: u64) -> Result<(), WalgError> {
    let folder = data.display().to_string();
    match fs::read_dir(data).map(|mut entries| entries.next().is_some()) {
        Ok(true) => return Err(WalgError::NotEmpty { folder }),
        Ok(false) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(write_error(&folder, source)),
    }
    match free_bytes(data) {
        Some(free) if free < needed => Err(WalgError::Space {
            folder,
            needed,
            free,
        }),
        _ => Ok(()),
    }
}

fn write_error(path: &str, source: io::Error) -> WalgError {
    WalgError::Write {
        path: path.to_owned(),
        source,
    }
}

async fn write(
    request: &WalgRequest,
    chain: Vec<Link>,
    progress: &watch::Sender<BackupProgress>,
    cancel: &CancellationToken,
) -> Result<RestoredCluster, WalgError> {
    let chain: Arc<[Link]> = chain.into();
    let data = request.data_folder.clone();
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&data);
    made.map_err(|source| write_error(&data.display().to_string(), source))?;
    for number in 0..chain.len() {
        unpack(request, &chain, number, progress, cancel).await?;
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
    chain: &Arc<[Link]>,
    number: usize,
    progress: &watch::Sender<BackupProgress>,
    cancel: &CancellationToken,
) -> Result<(), WalgError> {
    let Some(link) = chain.get(number) else {
        return Ok(());
    };
    let mut state = State {
        unpacker: Unpacker::new(&request.data_folder, &link.files),
        done: progress.borrow().done_bytes,
    };
    for (at, part) in link.parts.iter().enumerate() {
        let (links, progress, cancel) = (chain.clone(), progress.clone(), cancel.clone());
        let label = request.store.label().to_owned();
        let work = move |pieces: Pieces| {
            let Some(part) = links.get(number).and_then(|link| link.parts.get(at)) else {
                return Err(WalgError::Worker);
            };
            state
                .read(part, pieces, &progress, &cancel)
                .map_err(|error| named(error, &links[number].backup, &part.key, &label))?;
            Ok(state)
        };
        state = read_through(&request.store, (&part.key, part.bytes), work).await?;
    }
    let (chain, is_last) = (chain.clone(), number + 1 == chain.len());
    let ends = move || {
        let link = &chain[number];
        let missing = state.unpacker.missing(&link.files);
        if let Some(path) = missing.filter(|_| !link.files.is_empty()) {
            return Err(WalgError::Incomplete {
                backup: link.backup.clone(),
                reason: format!("it holds no {path}, which its list of files has"),
            });
        }
        if chain.len() > 1 && is_last {
            let removed = state.unpacker.remove_others(&link.files);
            removed.map_err(|error| named(error.into(), &link.backup, "", ""))?;
        }
        Ok(())
    };
    spawn_blocking(ends).await.map_err(|_| WalgError::Worker)?
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
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data.join(folder));
        made.map_err(|source| write_error(folder, source))?;
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
