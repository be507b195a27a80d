//! Putting files on disk. Everything here blocks.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{
        DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, symlink,
    },
    path::{Path, PathBuf},
};

use tokio_util::sync::CancellationToken;

use super::{
    error::RestoreError,
    plan::{Fetch, Frame, Plan},
};
use crate::repository::map::{Codec, FileEntry};

/// Where the files of a restore go, and what must be removed if it fails.
#[derive(Clone, Debug)]
pub(super) struct Site {
    data_folder: PathBuf,
    tablespaces: PathBuf,
    oids: Vec<u32>,
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
        Self {
            data_folder: data_folder.to_owned(),
            tablespaces: parent.join("tablespaces"),
            oids: plan
                .manifest
                .tablespaces
                .iter()
                .map(|space| space.oid)
                .collect(),
        }
    }

    /// Refuses folders that hold something.
    pub(super) fn check_empty(&self) -> Result<(), RestoreError> {
        for folder in self.roots() {
            let entries = match fs::read_dir(&folder) {
                Ok(mut entries) => entries.next().is_some(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => return Err(fail(&folder)(error)),
            };
            if entries {
                return Err(RestoreError::NotEmpty {
                    folder: folder.display().to_string(),
                });
            }
        }
        Ok(())
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
        if !self.oids.is_empty() {
            // Only when it is empty, that is when no other cluster beside us has tablespaces.
            let _ = fs::remove_dir(&self.tablespaces);
        }
    }

    fn roots(&self) -> impl Iterator<Item = PathBuf> {
        let spaces = self
            .oids
            .iter()
            .map(|oid| self.tablespaces.join(oid.to_string()));
        std::iter::once(self.data_folder.clone()).chain(spaces)
    }

    /// Where a path of the Snapshot lies on disk.
    pub(super) fn place(&self, path: &str) -> PathBuf {
        let within = path.strip_prefix("pg_tblspc/").map(|rest| {
            let (oid, rest) = rest.split_once('/').unwrap_or((rest, ""));
            (oid.parse::<u32>().ok(), rest)
        });
        match within {
            Some((Some(oid), "")) if self.oids.contains(&oid) => {
                self.tablespaces.join(oid.to_string())
            }
            Some((Some(oid), rest)) if self.oids.contains(&oid) => {
                self.tablespaces.join(oid.to_string()).join(rest)
            }
            _ => self.data_folder.join(path),
        }
    }

    /// Makes all folders, links and files, the files with their length and no content.
    pub(super) fn prepare(
        &self,
        files: &[FileEntry],
        stop: &CancellationToken,
    ) -> Result<(), RestoreError> {
        if !self.oids.is_empty() {
            make_folder(&self.tablespaces)?;
        }
        for folder in self.roots() {
            make_folder(&folder)?;
        }
        for file in files {
            if stop.is_cancelled() {
                return Err(RestoreError::Cancelled);
            }
            let path = self.place(&file.path);
            if file.is_folder {
                make_folder(&path)?;
                continue;
            }
            // A Snapshot may hold a file whose folder came into being after the walk had passed.
            if let Some(parent) = path.parent() {
                make_folder(parent)?;
            }
            let made = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path);
            made.and_then(|made| made.set_len(file.bytes))
                .map_err(fail(&path))?;
        }
        for oid in &self.oids {
            let link = self.data_folder.join("pg_tblspc").join(oid.to_string());
            symlink(self.tablespaces.join(oid.to_string()), &link).map_err(fail(&link))?;
        }
        Ok(())
    }

    /// Unpacks, verifies and writes the units of one range. Gives the bytes written.
    pub(super) fn write(
        &self,
        files: &[FileEntry],
        fetch: &Fetch,
        bytes: &[u8],
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
                    _ => OpenOptions::new()
                        .write(true)
                        .open(path())
                        .map_err(failed)?,
                };
                // A map is refused when a part goes beyond its whole.
                let content = raw.get(part.from..part.from + part.raw).unwrap_or_default();
                file.write_all_at(content, part.at).map_err(failed)?;
                open = Some((part.file, file));
                written += content.len() as u64;
            }
        }
        Ok(written)
    }

    /// Makes all of it durable, with the file systems it lies on: one call for each instead of one for each file, of which a
    /// cluster may have a hundred thousand.
    pub(super) fn sync(&self) -> Result<(), RestoreError> {
        let parents = self
            .roots()
            .filter_map(|root| root.parent().map(Path::to_owned));
        let mut synced = BTreeSet::new();
        for folder in self.roots().chain(parents) {
            let opened = File::open(&folder).map_err(fail(&folder))?;
            let device = opened.metadata().map_err(fail(&folder))?.dev();
            if synced.insert(device) {
                nix::unistd::syncfs(&opened).map_err(|error| fail(&folder)(error.into()))?;
            }
        }
        Ok(())
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
        let Some(pack) = &fetch.pack else {
            let raw = self.unpack(frame.codec, stored, frame.whole, &frame.blake3);
            return raw.map(Some).map_err(damaged);
        };
        let mut opened = std::mem::take(&mut self.opened);
        let result = pack.open(frame.offset, stored, &mut opened);
        self.opened = opened;
        result.map_err(|error| damaged(error.to_string()))?;
        let Self { zstd, raw, opened } = self;
        let raw = unpack(zstd, raw, frame.codec, opened, frame.whole, &frame.blake3);
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

/// Makes a folder for its owner alone, as PostgreSQL demands of a data folder.
fn make_folder(folder: &Path) -> Result<(), RestoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(fail(folder))
}

fn fail(path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    let path = path.display().to_string();
    move |source| RestoreError::Write { path, source }
}
