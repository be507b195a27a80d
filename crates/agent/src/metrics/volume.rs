//! Room on the disk: asked at each scrape, since that costs nothing; the size of the data folder is counted now and then, since that looks at each file.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Between two counts.
const EVERY: Duration = Duration::from_secs(600);
/// Files of a folder that are counted; one with more is told as no size rather than as a wrong one.
const FILES_MAX: usize = 5_000_000;

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) size: u64,
    /// For whoever is not root.
    pub(super) free: u64,
}

/// The file system of a folder, or of what it lies in while it is not there.
pub(super) fn room(folder: &Path) -> Option<Room> {
    let found = nix::sys::statvfs::statvfs(folder);
    let found = found.or_else(|_| nix::sys::statvfs::statvfs(folder.parent().unwrap_or(folder)));
    let room = found.ok()?;
    let block = room.fragment_size();
    Some(Room {
        size: room.blocks().saturating_mul(block),
        free: room.blocks_available().saturating_mul(block),
    })
}

#[derive(Debug, Default)]
struct Counted {
    bytes: Option<u64>,
    begun: Option<Instant>,
    is_counting: bool,
}

/// The data folder.
#[derive(Clone, Debug)]
pub(super) struct Volume {
    folder: PathBuf,
    counted: Arc<Mutex<Counted>>,
}

impl Volume {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            counted: Arc::default(),
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The size as last counted. A count that is due begins, and nobody waits for it.
    pub(super) fn data_bytes(&self) -> Option<u64> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = counted.begun.is_some_and(|begun| begun.elapsed() < EVERY);
        if !is_fresh && !counted.is_counting && tokio::runtime::Handle::try_current().is_ok() {
            counted.is_counting = true;
            counted.begun = Some(Instant::now());
            let this = self.clone();
            tokio::task::spawn_blocking(move || {
                let bytes = size(&this.folder, FILES_MAX);
                let mut counted = this.counted.lock().unwrap_or_else(PoisonError::into_inner);
                counted.bytes = bytes;
                counted.is_counting = false;
            });
        }
        counted.bytes
    }
}

/// Bytes that a folder needs on its disk. What vanishes meanwhile does not count, and links lead nowhere.
fn size(folder: &Path, most: usize) -> Option<u64> {
    let (mut folders, mut files, mut bytes) = (vec![folder.to_owned()], 0, 0);
    std::fs::symlink_metadata(folder).ok()?;
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        for entry in entries.filter_map(Result::ok) {
            files += 1;
            if files > most {
                return None;
            }
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            bytes += 512 * metadata.blocks();
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_as_large_as_its_files() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("base")).unwrap();
        for name in ["one", "base/two"] {
            std::fs::write(folder.path().join(name), vec![1; 40_000]).unwrap();
        }
        std::os::unix::fs::symlink("/usr", folder.path().join("elsewhere")).unwrap();
        let found = size(folder.path(), 100).unwrap();
        assert!((80_000..1_000_000).contains(&found), "{found}");
        assert_eq!(size(folder.path(), 2), None);
        assert_eq!(size(&folder.path().join("absent"), 100), None);
        let there = room(folder.path()).unwrap();
        assert!(there.free <= there.size && there.size > 0);
        assert_eq!(
            room(&folder.path().join("absent")).map(|room| room.size),
            Some(there.size)
        );
    }
}
