//! A folder of this machine as a store.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
};

use object_store::local::LocalFileSystem;

use super::{StoreError, error::user};

/// Half written files that are looked at in one folder: a writer leaves as many as it had in flight.
const LEFT_MAX: usize = 100_000;

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
        .map_err(|source| {
            let user = user();
            fail(format!("failed to make the folder as {user}: {source}"))
        })?;
    LocalFileSystem::new_with_prefix(folder)
        .map(|objects| objects.with_fsync(true).with_automatic_cleanup(true))
        .map_err(|source| fail(source.to_string()))
}

/// An object is written beside its place under its name, `#` and a number. A killed writer leaves that; listings do not show it. Names of
/// what is left so in a folder.
pub(super) fn unfinished(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let Some(name) = name.to_str().filter(|name| object_of(name).is_some()) else {
            continue;
        };
        if found.len() == LEFT_MAX {
            return Err(io::Error::other(format!(
                "more than {LEFT_MAX} files are half written"
            )));
        }
        found.push(name.to_owned());
    }
    Ok(found)
}

/// The object that was being written under this name.
pub(super) fn object_of(name: &str) -> Option<&str> {
    let (object, number) = name.rsplit_once('#')?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some(object)
}

/// Removes what was left under one of these names, and its folder where nothing else is in it.
pub(super) fn discard(folder: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(folder.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The folder goes with its last file; one that holds others stays.
    let _ = fs::remove_dir(folder);
    Ok(())
}
