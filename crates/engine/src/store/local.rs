//! A folder of this machine as a store.

use std::{fs::DirBuilder, os::unix::fs::DirBuilderExt as _, path::Path};

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
