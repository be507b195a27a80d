//! Putting files on disk. Everything here blocks.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _,
        PermissionsExt as _, lchown, symlink,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    disks::Disks,
    error::RestoreError,
    plan::{Fetch, Frame, Plan},
};
use crate::{
    postgres::control::CONTROL_FILE,
    repository::{
        manifest::Manifest,
        map::{Codec, FileEntry},
    },
};

/// Says in a folder that a restore has not ended there. It stays until `pg_control` is in its place, without which no server starts.
pub(super) const MARKER: &str = "kubedb-restore.json";

/// Where `pg_control` waits until everything else is durable: without it no server starts.
pub(crate) const WAITING: &str = "global/pg_control.kubedb";

/// Files are made by so many at once: each is waited for, on a file system of the network the most.
const MAKERS: usize = 8;

/// Where the files of a restore go, and what must be removed if it fails.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) data_folder: PathBuf,
    pub(super) tablespaces: PathBuf,
    pub(super) spaces: BTreeMap<u32, Space>,
    /// Who gets what is made, where that is not who makes it.
    pub(super) owner: Option<(u32, u32)>,
    /// The marker, locked for as long as somebody works there.
    lock: Arc<Mutex<Option<File>>>,
}

/// Where a tablespace goes.
#[derive(Clone, Debug)]
pub(super) struct Space {
    pub(super) folder: PathBuf,
    /// Whether it is a folder of the user's choice, in which others may have something too.
    pub(super) is_foreign: bool,
}

/// What an unfinished restore says of itself.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Unfinished {
    /// Words for who finds it.
    unfinished: String,
    snapshot: String,
    pub(super) system_identifier: String,
}

/// Why a unit is not what was written.
#[derive(Debug)]
pub(super) enum UnitError {
    /// Its bytes are not what was stored.
    Damaged { file: usize, reason: String },
    /// The disk did not take it.
    Write(RestoreError),
}

impl Site {
    /// Tablespaces go beside the data folder, into `tablespaces/<oid>`.
    pub(super) fn new(data_folder: &Path, plan: &Plan) -> Self {
        let parent = data_folder.parent().unwrap_or(data_folder);
        let tablespaces = parent.join("tablespaces");
        let space = |oid: u32| Space {
            folder: tablespaces.join(oid.to_string()),
            is_foreign: false,
        };
        let spaces = plan.manifest.tablespaces.iter();
        Self {
            data_folder: data_folder.to_owned(),
            spaces: spaces.map(|found| (found.oid, space(found.oid))).collect(),
            tablespaces,
            owner: None,
            lock: Arc::default(),
        }
    }

    /// Refuses folders that hold something.
    pub(super) fn check_empty(&self) -> Result<(), RestoreError> {
        self.roots().try_for_each(|folder| check_empty(&folder))
    }

    /// Removes everything that a restore wrote. The data folder goes too: it was absent or empty.
    pub(super) fn remove(&self) {
        for folder in self.roots() {
            match fs::remove_dir_all(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(folder = %folder.display(), %error, "a failed restore is left behind");
                }
            }
        }
        if !self.spaces.is_empty() {
            // Only when it is empty, that is when no other cluster beside us has tablespaces.
            let _ = fs::remove_dir(&self.tablespaces);
        }
    }

    pub(super) fn roots(&self) -> impl Iterator<Item = PathBuf> {
        let spaces = self.spaces.values().map(|space| space.folder.clone());
        std::iter::once(self.data_folder.clone()).chain(spaces)
    }

    /// Where a path of the Snapshot lies on disk. `pg_control` waits beside its place.
    pub(super) fn place(&self, path: &str) -> PathBuf {
        if path == CONTROL_FILE {
            return self.data_folder.join(WAITING);
        }
        let within = path.strip_prefix("pg_tblspc/").and_then(|rest| {
            let (oid, rest) = rest.split_once('/').unwrap_or((rest, ""));
            let space = self.spaces.get(&oid.parse().ok()?)?;
            Some((&space.folder, rest))
        });
        match within {
            Some((folder, "")) => folder.clone(),
            Some((folder, rest)) => folder.join(rest),
            None => self.data_folder.join(path),
        }
    }

    /// Makes the folders that everything goes into, and sees to it that no server starts on what is there until [`Site::complete`].
    pub(super) fn begin(&self, manifest: &Manifest) -> Result<Disks, RestoreError> {
        if self.spaces.values().any(|space| !space.is_foreign) {
            self.make_folder(&self.tablespaces)?;
        }
        for folder in self.roots() {
            self.make_folder(&folder)?;
        }
        let parents = self
            .roots()
            .filter_map(|root| root.parent().map(Path::to_owned));
        let disks = Disks::open(self.roots().chain(parents))?;
        let words = Unfinished {
            unfinished: "kubedb has not ended a restore here: what is here is of no use, and no server starts on it. Restore again, with --delta to go on with it".to_owned(),
            snapshot: manifest.snapshot.clone(),
            system_identifier: manifest.cluster.system_identifier.clone(),
        };
        let marker = self.data_folder.join(MARKER);
        let text = serde_json::to_vec_pretty(&words);
        let text = text.map_err(|error| fail(&marker)(error.into()))?;
        let made = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .mode(0o600)
            .open(&marker);
        let mut made = made.map_err(fail(&marker))?;
        match made.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(RestoreError::Busy {
                    folder: self.data_folder.display().to_string(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(fail(&marker)(error)),
        }
        made.set_len(0)
            .and_then(|()| made.write_all(&text))
            .and_then(|()| made.sync_all())
            .map_err(fail(&marker))?;
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
        self.hand_over(&marker)?;
        sync_folder(&self.data_folder)?;
        let control = self.data_folder.join(CONTROL_FILE);
        match fs::remove_file(&control) {
            Ok(()) => sync_folder(&self.data_folder.join("global"))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fail(&control)(error)),
        }
        Ok(disks)
    }

    /// Gives everything that came into the folder and its WAL since to the folder's owner.
    fn hand_over_what_came(&self) -> Result<(), RestoreError> {
        let Some((user, _)) = self.owner else {
            return Ok(());
        };
        for folder in ["", "pg_wal", "pg_xlog"] {
            let folder = self.data_folder.join(folder);
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(fail(&folder)(error)),
            };
            for entry in entries {
                let path = entry.map_err(fail(&folder))?.path();
                let found = fs::symlink_metadata(&path).map_err(fail(&path))?;
                if found.is_file() && found.uid() != user {
                    self.hand_over(&path)?;
                }
            }
        }
        Ok(())
    }

    /// Puts `pg_control` into its place. All else is durable.
    pub(super) fn complete(&self) -> Result<(), RestoreError> {
        self.hand_over_what_came()?;
        let control = self.data_folder.join(CONTROL_FILE);
        fs::rename(self.data_folder.join(WAITING), &control).map_err(fail(&control))?;
        sync_folder(&self.data_folder.join("global"))?;
        let marker = self.data_folder.join(MARKER);
        fs::remove_file(&marker).map_err(fail(&marker))?;
        drop(
            self.lock
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        sync_folder(&self.data_folder)
    }

    /// Makes all folders, links and files that are not there, the files with their length and no content. Tells of each which were not.
    pub(super) fn prepare(
        &self,
        files: &[FileEntry],
        stop: &CancellationToken,
    ) -> Result<Vec<bool>, RestoreError> {
        self.link()?;
        let share = files.len().div_ceil(MAKERS).max(1);
        thread::scope(|scope| {
            // A container may have no more processes to give.
            let makers = files.chunks(share).map(|files| {
                let maker = thread::Builder::new();
                maker.spawn_scoped(scope, || self.make(files, stop))
            });
            let makers = makers.collect::<io::Result<Vec<_>>>();
            let makers = makers.map_err(fail(&self.data_folder))?;
            let mut fresh = Vec::with_capacity(files.len());
            for maker in makers {
                let made = maker.join().map_err(|_| RestoreError::Worker)?;
                fresh.extend(made?);
            }
            Ok(fresh)
        })
    }

    /// Makes some of them.
    fn make(
        &self,
        files: &[FileEntry],
        stop: &CancellationToken,
    ) -> Result<Vec<bool>, RestoreError> {
        let mut fresh = Vec::with_capacity(files.len());
        for file in files {
            if stop.is_cancelled() {
                return Err(RestoreError::Cancelled);
            }
            let path = self.place(&file.path);
            if file.is_folder {
                self.make_folder(&path)?;
                fresh.push(false);
                continue;
            }
            // A Snapshot may hold a file whose folder came into being after the walk had passed.
            if let Some(parent) = path.parent() {
                self.make_folder(parent)?;
            }
            fresh.push(self.make_file(&path, file.bytes).map_err(fail(&path))?);
        }
        Ok(fresh)
    }

    /// Before any content of theirs: what lies in a tablespace that no link leads to is somebody else's.
    fn link(&self) -> Result<(), RestoreError> {
        if self.spaces.is_empty() {
            return Ok(());
        }
        let links = self.data_folder.join("pg_tblspc");
        self.make_folder(&links)?;
        for (oid, space) in &self.spaces {
            let link = links.join(oid.to_string());
            match symlink(&space.folder, &link) {
                Ok(()) => self.hand_over(&link)?,
                // The folder was looked through: this one leads where it should.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(fail(&link)(error)),
            }
        }
        sync_folder(&links)
    }

    /// Gives a file its length. Tells whether it was not there.
    fn make_file(&self, path: &Path, bytes: u64) -> io::Result<bool> {
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        match made {
            Ok(made) => {
                made.set_len(bytes)?;
                self.hand_over(path).map_err(io::Error::other)?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let there = open_file(path)?;
                let found = there.metadata()?;
                if found.len() != bytes {
                    there.set_len(bytes)?;
                }
                if found.mode() & 0o7777 != 0o600 {
                    there.set_permissions(fs::Permissions::from_mode(0o600))?;
                }
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a folder for its owner alone, as PostgreSQL demands of a data folder.
    fn make_folder(&self, folder: &Path) -> Result<(), RestoreError> {
        let found = match fs::metadata(folder) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(folder)
                    .map_err(fail(folder))?;
                return self.hand_over(folder);
            }
            Err(error) => return Err(fail(folder)(error)),
        };
        if found.mode() & 0o777 == 0o700 || !folder.starts_with(&self.data_folder) {
            return Ok(());
        }
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(fail(folder))
    }

    /// Gives what was made to the owner of what was there.
    fn hand_over(&self, path: &Path) -> Result<(), RestoreError> {
        let Some((user, group)) = self.owner else {
            return Ok(());
        };
        lchown(path, Some(user), Some(group)).map_err(fail(path))
    }

    /// Unpacks, verifies and writes the units of one range. Gives the bytes written.
    pub(super) fn write(
        &self,
        files: &[FileEntry],
        fetch: &Fetch,
        bytes: &[u8],
        disks: &Disks,
    ) -> Result<u64, UnitError> {
        let mut written = 0;
        let mut decoder = Decoder::default();
        let mut open: Option<(usize, File)> = None;
        for frame in &fetch.frames {
            let Some(raw) = decoder.frame(fetch, frame, bytes)? else {
                continue;
            };
            for part in &frame.parts {
                let path = || self.place(&files[part.file].path);
                let failed = |error| UnitError::Write(fail(&path())(error));
                // Neighbours in a pack mostly belong to one file.
                let file = match open.take() {
                    Some((number, file)) if number == part.file => file,
                    _ => open_file(&path()).map_err(failed)?,
                };
                // A map is refused when a part goes beyond its whole.
                let content = raw.get(part.from..part.from + part.raw).unwrap_or_default();
                file.write_all_at(content, part.at).map_err(failed)?;
                open = Some((part.file, file));
                written += content.len() as u64;
            }
        }
        disks.wrote(written).map_err(UnitError::Write)?;
        Ok(written)
    }
}

/// Unpacks what was stored, one stretch after another, into one buffer.
#[derive(Default)]
pub(crate) struct Decoder {
    zstd: zstd::bulk::Decompressor<'static>,
    raw: Vec<u8>,
    /// What was encrypted.
    opened: Vec<u8>,
}

impl Decoder {
    /// A frame of a range that was fetched, as it was before; none of one that nobody needs.
    pub(super) fn frame<'a>(
        &'a mut self,
        fetch: &Fetch,
        frame: &Frame,
        bytes: &'a [u8],
    ) -> Result<Option<&'a [u8]>, UnitError> {
        let Some(first) = frame.parts.first() else {
            return Ok(None);
        };
        let damaged = |reason: String| UnitError::Damaged {
            file: first.file,
            reason,
        };
        let from = usize::try_from(frame.offset - fetch.start).unwrap_or(usize::MAX);
        let length = usize::try_from(frame.stored).unwrap_or(usize::MAX);
        let stored = bytes.get(from..from.saturating_add(length));
        let stored = stored.ok_or_else(|| damaged("it ends early".to_owned()))?;
        let Self { zstd, raw, opened } = self;
        let packed = match &fetch.pack {
            None => stored,
            Some(pack) => {
                let done = pack.open(frame.offset, stored, opened);
                done.map_err(|error| damaged(error.to_string()))?;
                opened
            }
        };
        let raw = unpack(zstd, raw, frame.codec, packed, frame.whole, &frame.blake3);
        raw.map(Some).map_err(damaged)
    }

    /// What was stored, as it was before: `length` bytes with this hash, or an error.
    pub(crate) fn unpack<'a>(
        &'a mut self,
        codec: Codec,
        stored: &'a [u8],
        length: usize,
        blake3: &str,
    ) -> Result<&'a [u8], String> {
        unpack(&mut self.zstd, &mut self.raw, codec, stored, length, blake3)
    }
}

fn unpack<'a>(
    zstd: &mut zstd::bulk::Decompressor<'static>,
    into: &'a mut Vec<u8>,
    codec: Codec,
    stored: &'a [u8],
    length: usize,
    blake3: &str,
) -> Result<&'a [u8], String> {
    let raw = match codec {
        Codec::Plain => stored,
        Codec::Zstd => {
            into.clear();
            // Not more than is wanted is ever written, whatever the frame says of itself.
            into.reserve_exact(length);
            zstd.decompress_to_buffer(stored, into)
                .map_err(|error| format!("it does not unpack: {error}"))?;
            into
        }
    };
    let is_same = raw.len() == length && blake3::hash(raw).to_hex().as_str() == blake3;
    is_same
        .then_some(raw)
        .ok_or_else(|| "its content does not fit its hash".to_owned())
}

/// Opens a file that is there to be written, and none that a link leads to.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)
}

fn sync_folder(folder: &Path) -> Result<(), RestoreError> {
    let opened = File::open(folder);
    opened
        .and_then(|opened| opened.sync_all())
        .map_err(fail(folder))
}

pub(super) fn fail(path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    let path = path.display().to_string();
    move |source| RestoreError::Write { path, source }
}

/// Refuses a folder that holds something. One that is absent is as good as empty.
pub(crate) fn check_empty(folder: &Path) -> Result<(), RestoreError> {
    match fs::read_dir(folder).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Err(RestoreError::NotEmpty {
            folder: folder.display().to_string(),
        }),
        Ok(false) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(fail(folder)(error)),
    }
}
