//! A folder of this machine as a store.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
};

use object_store::local::LocalFileSystem;

use super::StoreError;

/// Opens `folder`, and makes it with mode 0700 where it is absent. Objects and their folders are synced before a write is acknowledged.
pub(super) fn open(folder: &Path, label: &str) -> Result<LocalFileSystem, StoreError> {
    let fail = |reason: String| StoreError::Configure {
        label: label.to_owned(),
        reason,
    };
    if !folder.is_absolute() {
        return Err(fail("the folder must be an absolute path".to_owned()));
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| fail(format!("failed to make the folder: {source}")))?;
    LocalFileSystem::new_with_prefix(folder)
        .map(|objects| objects.with_fsync(true).with_automatic_cleanup(true))
        .map_err(|source| fail(source.to_string()))
}

/// An object is written beside its place under its name, `#` and a number. A killed writer leaves that; listings do not show it.
pub(super) fn discard_unfinished(folder: &Path, is_ours: impl Fn(&str) -> bool) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let Some((object, number)) = name.rsplit_once('#') else {
            continue;
        };
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        if is_number && is_ours(object) {
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    // The folder goes with its last file; one that holds others stays.
    let _ = fs::remove_dir(folder);
    Ok(())
}
