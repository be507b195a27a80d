//! Puts what the archives of a backup hold into a data folder. Everything here blocks.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::{error::UnpackError, increment::Increment, sentinel::Files};
use crate::{
    backup::leaves_out,
    postgres::{control::CONTROL_FILE, page::PAGE_BYTES},
    restore::WAITING,
    tar::{Entry, Sink},
};

/// Writes the entries of one backup.
pub(super) struct Unpacker {
    root: PathBuf,
    /// Files of which pages are stored that have changed since the backup before.
    incremented: BTreeSet<String>,
    /// What was written of this backup.
    seen: BTreeSet<String>,
    current: Option<Current>,
    /// Bytes written.
    pub(super) bytes: u64,
}

struct Current {
    path: String,
    file: Option<File>,
    increment: Option<Increment>,
}

impl Unpacker {
    /// Of a backup of which this became of the files.
    pub(super) fn new(root: &Path, files: &Files) -> Self {
        Self {
            root: root.to_owned(),
            incremented: files.incremented(),
            seen: BTreeSet::new(),
            current: None,
            bytes: 0,
        }
    }

    /// What of the files is not there, of which it was told that they are.
    pub(super) fn missing<'f>(&self, files: &'f Files) -> Option<&'f str> {
        files
            .paths()
            .find(|path| !leaves_out(path) && !place(&self.root, path).exists())
    }

    /// Removes files that came with an earlier backup and are none of this one's.
    pub(super) fn remove_others(&self, files: &Files) -> Result<(), UnpackError> {
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            let here = self.root.join(&folder);
            for entry in fs::read_dir(&here).map_err(fail(&folder))? {
                let entry = entry.map_err(fail(&folder))?;
                let name = entry.file_name();
                let name = name
                    .to_str()
                    .ok_or_else(|| wrong(&folder, "a name in it is no text"))?;
                let path = if folder.is_empty() {
                    name.to_owned()
                } else {
                    format!("{folder}/{name}")
                };
                if entry.file_type().map_err(fail(&path))?.is_dir() {
                    folders.push(path);
                } else if !files.has(&path) && !self.seen.contains(&path) && path != WAITING {
                    fs::remove_file(entry.path()).map_err(fail(&path))?;
                }
            }
        }
        Ok(())
    }

    fn begin_file(&mut self, path: String) -> Result<(), UnpackError> {
        if leaves_out(&path) {
            self.current = Some(Current {
                path,
                file: None,
                increment: None,
            });
            return Ok(());
        }
        // The control file and the label may be there twice, in an archive of their own too: the last one counts.
        self.seen.insert(path.clone());
        let at = place(&self.root, &path);
        if let Some(folder) = at.parent() {
            make_folder(folder).map_err(fail(&path))?;
        }
        let is_increment = self.incremented.contains(&path);
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(nix::libc::O_NOFOLLOW);
        if !is_increment {
            options.create(true).truncate(true).mode(0o600);
        }
        let file = match options.open(&at) {
            Err(error) if is_increment && error.kind() == io::ErrorKind::NotFound => {
                return Err(wrong(
                    &path,
                    "what has changed in it is stored, and the backup before does not have it",
                ));
            }
            other => other.map_err(fail(&path))?,
        };
        self.current = Some(Current {
            path,
            file: Some(file),
            increment: is_increment.then(Increment::default),
        });
        Ok(())
    }
}

impl Sink for Unpacker {
    type Error = UnpackError;

    fn begin(&mut self, entry: Entry) -> Result<(), UnpackError> {
        match entry {
            Entry::Folder { path } => {
                let path = text(&path)?;
                make_folder(&self.root.join(&path)).map_err(fail(&path))
            }
            Entry::File { path, .. } => {
                let path = text(&path)?;
                self.begin_file(path)
            }
            Entry::Link { path, .. } => Err(wrong(
                &path.display().to_string(),
                "it is a link, as backups with tablespaces have them, which are not read here",
            )),
        }
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        let Some(file) = &mut current.file else {
            return Ok(());
        };
        self.bytes += bytes.len() as u64;
        match &mut current.increment {
            None => file.write_all(bytes).map_err(fail(&current.path)),
            Some(increment) => {
                let mut failed = None;
                let fed = increment.feed(bytes, &mut |block, page| {
                    let at = u64::from(block) * PAGE_BYTES as u64;
                    file.write_all_at(page, at).map_err(|error| {
                        let told = error.to_string();
                        failed = Some(error);
                        told
                    })
                });
                match (fed, failed) {
                    (Ok(()), _) => Ok(()),
                    (Err(_), Some(source)) => Err(fail(&current.path)(source)),
                    (Err(reason), None) => Err(wrong(&current.path, &reason)),
                }
            }
        }
    }

    fn end(&mut self) -> Result<(), UnpackError> {
        let Some(current) = self.current.take() else {
            return Ok(());
        };
        if let (Some(increment), Some(file)) = (current.increment, current.file) {
            let bytes = increment
                .finish()
                .map_err(|reason| wrong(&current.path, &reason))?;
            file.set_len(bytes).map_err(fail(&current.path))?;
        }
        Ok(())
    }
}

fn place(root: &Path, path: &str) -> PathBuf {
    if path == CONTROL_FILE {
        root.join(WAITING)
    } else {
        root.join(path)
    }
}

fn text(path: &Path) -> Result<String, UnpackError> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| wrong(&path.display().to_string(), "its name is no text"))
}

/// Makes a folder, and those that it lies in, for nobody but us.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(folder)
}

fn wrong(path: &str, reason: &str) -> UnpackError {
    UnpackError::Wrong {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

pub(super) fn fail(path: &str) -> impl FnOnce(io::Error) -> UnpackError {
    let path = path.to_owned();
    move |source| UnpackError::Write { path, source }
}
