//! Writes the archives of a base backup to disk: a data folder, and its tablespaces beside it.
//!
//! All of it blocks; it runs on a thread of its own and is fed through a queue.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use tokio::sync::mpsc::Receiver;

use crate::tar::{Entry, Sink, TarError, TarReader};

/// Largest `tablespace_map` accepted: a line of at most 1 KiB for each of a thousand tablespaces.
const MAP_LIMIT: usize = 1 << 20;

const MAP: &str = "tablespace_map";

/// What the thread is fed.
pub(super) enum Piece {
    /// An archive begins; the one before is complete. Nothing stands for the data folder.
    Archive(Option<u32>),
    /// Bytes of it.
    Data(Bytes),
    /// The last archive is complete, and so is the copy.
    Done,
}

/// Why a copy could not be written.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive is damaged, or holds what it must not.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// Something lies where the copy is to go.
    #[error("failed to begin a copy in {}: it is not empty", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("failed to {verb} {}", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A path that cannot stand in a `tablespace_map`, or has no parent.
    #[error("failed to begin a copy in {}: an absolute path without backslashes and line ends is needed", path.display())]
    Target {
        /// The path.
        path: PathBuf,
    },
    /// A link elsewhere than to a tablespace, or a map that names an unknown one.
    #[error("failed to place {what:?}: it leads to no tablespace that the server named")]
    UnknownTablespace {
        /// The link, or the line.
        what: String,
    },
    /// The server stopped sending; what was written is removed.
    #[error("failed to complete a copy: its source ended early")]
    Abandoned,
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> UnpackError {
    move |source| UnpackError::File {
        verb,
        path: path.to_owned(),
        source,
    }
}

/// Where tablespaces go: a folder named by oid each.
pub(super) fn tablespaces_folder(target: &Path) -> Result<PathBuf, UnpackError> {
    let is_plain = target
        .to_str()
        .is_some_and(|text| !text.contains(['\\', '\n', '\r']));
    match target.parent() {
        Some(parent) if target.is_absolute() && is_plain => Ok(parent.join("tablespaces")),
        _ => Err(UnpackError::Target {
            path: target.to_owned(),
        }),
    }
}

/// Refuses a folder that holds something; a missing one is fine.
pub(super) fn check_empty(path: &Path) -> Result<(), UnpackError> {
    match fs::read_dir(path).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(UnpackError::NotEmpty {
            path: path.to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(failed("read", path)(source)),
    }
}

/// Writes what comes through the queue, and makes it durable. Whatever ends this early removes what was written.
pub(super) fn unpack(
    mut pieces: Receiver<Piece>,
    target: &Path,
    tablespaces: &[u32],
) -> Result<(), UnpackError> {
    let mut unpacker = Unpacker::prepare(target, tablespaces)?;
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Archive(tablespace) => unpacker.begin_archive(tablespace)?,
            Piece::Data(bytes) => unpacker.feed(&bytes)?,
            Piece::Done => return unpacker.complete(),
        }
    }
    Err(UnpackError::Abandoned)
}

struct Unpacker {
    reader: TarReader,
    writer: Writer,
    written: Written,
}

impl Unpacker {
    fn prepare(target: &Path, oids: &[u32]) -> Result<Self, UnpackError> {
        let tablespaces = tablespaces_folder(target)?;
        let mut written = Written::default();
        written.begin(target)?;
        if !oids.is_empty() {
            make_folder(&tablespaces)?;
        }
        for oid in oids {
            written.begin(&tablespaces.join(oid.to_string()))?;
        }
        let writer = Writer {
            root: target.to_owned(),
            target: target.to_owned(),
            tablespaces,
            oids: oids.to_vec(),
            file: None,
            map: None,
        };
        Ok(Self {
            reader: TarReader::new(),
            writer,
            written,
        })
    }

    fn begin_archive(&mut self, tablespace: Option<u32>) -> Result<(), UnpackError> {
        std::mem::replace(&mut self.reader, TarReader::new()).finish()?;
        self.writer.root = match tablespace {
            None => self.writer.target.clone(),
            Some(oid) => self.writer.tablespaces.join(oid.to_string()),
        };
        Ok(())
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        self.reader.feed(bytes, &mut self.writer)
    }

    fn complete(mut self) -> Result<(), UnpackError> {
        self.begin_archive(None)?;
        for folder in &self.written.folders {
            sync_tree(&folder.path)?;
        }
        // The folders' own names, so that the copy is there after a power cut.
        let parents = [
            self.writer.target.parent(),
            Some(self.writer.tablespaces.as_path()),
        ];
        for parent in parents
            .into_iter()
            .flatten()
            .filter(|parent| parent.exists())
        {
            sync(parent)?;
        }
        self.written.folders.clear();
        Ok(())
    }
}

/// Puts entries where they belong.
struct Writer {
    /// Where the archive at hand goes.
    root: PathBuf,
    target: PathBuf,
    tablespaces: PathBuf,
    oids: Vec<u32>,
    file: Option<(PathBuf, File)>,
    /// The `tablespace_map`. Its links are made here, to other places; a server that found it would make them anew.
    map: Option<Vec<u8>>,
}

impl Sink for Writer {
    type Error = UnpackError;

    fn begin(&mut self, entry: Entry) -> Result<(), UnpackError> {
        match entry {
            Entry::Folder { path } => make_folder(&self.root.join(path)),
            Entry::File { path, .. } if self.root == self.target && path == Path::new(MAP) => {
                self.map = Some(Vec::new());
                Ok(())
            }
            Entry::File { path, .. } => {
                let path = self.root.join(path);
                self.file = Some((path.clone(), new_file(&path)?));
                Ok(())
            }
            Entry::Link { path, target } => self.link(&path, &target),
        }
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        if let Some(map) = &mut self.map {
            map.extend_from_slice(bytes);
            return if map.len() <= MAP_LIMIT {
                Ok(())
            } else {
                Err(unknown("a tablespace_map over 1 MiB"))
            };
        }
        match &mut self.file {
            Some((path, file)) => file.write_all(bytes).map_err(failed("write", path)),
            None => Ok(()),
        }
    }

    fn end(&mut self) -> Result<(), UnpackError> {
        self.file = None;
        let Some(map) = self.map.take() else {
            return Ok(());
        };
        let links = self.target.join("pg_tblspc");
        make_folder(&links)?;
        for oid in mapped(&map, &self.oids)? {
            let (place, link) = (oid.to_string(), links.join(oid.to_string()));
            symlink(self.tablespaces.join(place), &link).map_err(failed("make link", &link))?;
        }
        Ok(())
    }
}

impl Writer {
    /// Links lead to tablespaces, and those lie elsewhere here.
    fn link(&self, path: &Path, target: &Path) -> Result<(), UnpackError> {
        let oid = path.strip_prefix("pg_tblspc").ok().and_then(Path::to_str);
        let known = oid.filter(|oid| self.oids.iter().any(|known| known.to_string() == **oid));
        match known {
            Some(oid) if self.root == self.target => {
                let link = self.root.join(path);
                symlink(self.tablespaces.join(oid), &link).map_err(failed("make link", &link))
            }
            _ => Err(unknown(&format!(
                "{} -> {}",
                path.display(),
                target.display()
            ))),
        }
    }
}

fn unknown(what: &str) -> UnpackError {
    UnpackError::UnknownTablespace {
        what: what.to_owned(),
    }
}

/// The tablespaces of a map. Each line is an oid, a space and a path, in which a backslash stands before a line end.
fn mapped(map: &[u8], oids: &[u32]) -> Result<Vec<u32>, UnpackError> {
    let map = String::from_utf8_lossy(map);
    let (mut found, mut is_continued) = (Vec::new(), false);
    for line in map.split_terminator('\n') {
        if !is_continued {
            let oid = line
                .split(' ')
                .next()
                .and_then(|oid| oid.parse::<u32>().ok());
            let oid = oid
                .filter(|oid| oids.contains(oid))
                .ok_or_else(|| unknown(line))?;
            found.push(oid);
        }
        // An odd number: an even one is escaped backslashes.
        is_continued = line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1;
    }
    Ok(found)
}

fn make_folder(path: &Path) -> Result<(), UnpackError> {
    let made = fs::DirBuilder::new().mode(0o700).create(path);
    match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other.map_err(failed("make folder", path)),
    }
}

fn new_file(path: &Path) -> Result<File, UnpackError> {
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600);
    options.open(path).map_err(failed("make", path))
}

fn sync(path: &Path) -> Result<(), UnpackError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(failed("sync", path))
}

/// Makes a folder and all below it durable, with the file system it lies on: one call instead of a thousand. What is linked to is a
/// folder of its own here.
fn sync_tree(root: &Path) -> Result<(), UnpackError> {
    File::open(root)
        .and_then(|folder| nix::unistd::syncfs(folder).map_err(io::Error::from))
        .map_err(failed("sync", root))
}

/// Folders that are ours to remove unless the copy completes.
#[derive(Default)]
struct Written {
    folders: Vec<OurFolder>,
}

struct OurFolder {
    path: PathBuf,
    /// Then it stays, empty as it was: it may be a mount point.
    existed: bool,
}

impl Written {
    fn begin(&mut self, path: &Path) -> Result<(), UnpackError> {
        check_empty(path)?;
        let existed = path.exists();
        make_folder(path)?;
        self.folders.push(OurFolder {
            path: path.to_owned(),
            existed,
        });
        Ok(())
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        for OurFolder { path, existed } in &self.folders {
            let removed = if *existed {
                empty_folder(path)
            } else {
                fs::remove_dir_all(path)
            };
            if let Err(error) = removed {
                tracing::warn!(path = %path.display(), %error, "a broken copy could not be removed");
            }
        }
    }
}

fn empty_folder(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
