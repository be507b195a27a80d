//! Whether the WAL of a cluster was begun anew by pg_resetwal. Pages may have gone back to what they were before then, and say nothing of it, so no
//! Snapshot from before is referred to. The cluster itself forgets, as soon as it has written on: so whoever starts it looks before, and leaves a
//! note in the data folder, which copies of it have too.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use kubedb_core::lsn::{Lsn, TimelineId};

use super::{
    control::{ControlFile, ReadControlError},
    dialect::PgDialect,
};

/// The note, below the data folder. It holds where the WAL began.
pub const RESET_FILE: &str = "kubedb-wal-reset";

/// Bytes of the header of a segment's first page, behind which a WAL that begins anew has its only record.
const HEADER: u64 = 40;

/// Offset of the position of the record before, in the header of each.
const PREVIOUS: u64 = 8;

/// Why it could not be found out, or not be noted.
#[derive(Debug, thiserror::Error)]
pub enum NoteResetError {
    /// The control file says nothing.
    #[error(transparent)]
    Control(#[from] ReadControlError),
    /// A file could not be read or written.
    #[error("failed to use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Looks at a cluster that is about to be started, and notes where its WAL begins if that was begun anew since it last ran. Blocks.
pub fn note(data_folder: &Path, dialect: PgDialect) -> Result<Option<Lsn>, NoteResetError> {
    let control = ControlFile::read(data_folder)?;
    let bytes = u64::from(control.wal_segment_bytes).max(1 << 20);
    let at = control.checkpoint;
    if at.offset(bytes) != HEADER {
        return Ok(None);
    }
    let name = TimelineId(control.timeline).segment_name(at.segment(bytes), bytes);
    let path = data_folder.join(dialect.wal_folder()).join(name);
    let mut previous = [0; 8];
    let read =
        File::open(&path).and_then(|file| file.read_exact_at(&mut previous, HEADER + PREVIOUS));
    read.map_err(|source| NoteResetError::File { path, source })?;
    // The first record of a WAL has none before it.
    if previous != [0; 8] {
        return Ok(None);
    }
    let path = data_folder.join(RESET_FILE);
    let fail = |source| NoteResetError::File {
        path: path.clone(),
        source,
    };
    if read_note(&path).map_err(fail)? < Some(at) {
        replace(&path, &at.to_string()).map_err(fail)?;
    }
    Ok(Some(at))
}

/// Where the WAL of a cluster was begun anew, if that is known. A note that cannot be read speaks against every earlier Snapshot. Blocks.
#[must_use]
pub fn read(data_folder: &Path) -> Option<Lsn> {
    read_note(&data_folder.join(RESET_FILE)).unwrap_or(Some(Lsn(u64::MAX)))
}

fn read_note(path: &Path) -> io::Result<Option<Lsn>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().parse().unwrap_or(Lsn(u64::MAX)))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}
