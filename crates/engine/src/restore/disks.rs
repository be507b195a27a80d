//! Making what was written durable. Everything here blocks.

use std::{
    collections::BTreeSet,
    fs::File,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{
        Mutex, TryLockError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{error::RestoreError, write::fail};

/// The disk begins with so much that was written, while more is being unpacked: left to itself the system has it wait until there are gigabytes.
const AT_ONCE: u64 = 256 << 20;

/// The file systems that a restore writes to. They are opened before the first write: a disk that fails later on tells those alone who have been listening
/// since then.
#[derive(Debug)]
pub(super) struct Disks {
    systems: Vec<(PathBuf, File)>,
    waiting: AtomicU64,
    syncing: Mutex<()>,
}

impl Disks {
    /// Those of all these folders.
    pub(super) fn open(folders: impl Iterator<Item = PathBuf>) -> Result<Self, RestoreError> {
        let mut known = BTreeSet::new();
        let mut systems = Vec::new();
        for folder in folders {
            let opened = File::open(&folder).map_err(fail(&folder))?;
            let device = opened.metadata().map_err(fail(&folder))?.dev();
            if known.insert(device) {
                systems.push((folder, opened));
            }
        }
        Ok(Self {
            systems,
            waiting: AtomicU64::new(0),
            syncing: Mutex::new(()),
        })
    }

    /// Something was written. Whoever finds that it is enough waits until it is durable; the others go on.
    pub(super) fn wrote(&self, bytes: u64) -> Result<(), RestoreError> {
        let waiting = self.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if waiting < AT_ONCE {
            return Ok(());
        }
        match self.syncing.try_lock() {
            Err(TryLockError::WouldBlock) => Ok(()),
            _held => {
                self.waiting.store(0, Ordering::Relaxed);
                self.sync()
            }
        }
    }

    /// Makes all of it durable, with the file systems it lies on: one call for each instead of one for each file, of which a
    /// cluster may have a hundred thousand.
    pub(super) fn sync(&self) -> Result<(), RestoreError> {
        self.systems.iter().try_for_each(|(folder, opened)| {
            nix::unistd::syncfs(opened).map_err(|error| fail(folder)(error.into()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_waits_for_the_disk_and_the_others_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let beside = folder.path().join("beside");
        std::fs::create_dir(&beside).unwrap();
        let folders = [folder.path().to_owned(), beside];
        let disks = Disks::open(folders.into_iter()).unwrap();
        assert_eq!(disks.systems.len(), 1);
        let waiting = || disks.waiting.load(Ordering::Relaxed);
        disks.wrote(AT_ONCE - 1).unwrap();
        assert_eq!(waiting(), AT_ONCE - 1);
        {
            let _somebody = disks.syncing.lock().unwrap();
            disks.wrote(1).unwrap();
            assert_eq!(waiting(), AT_ONCE);
        }
        disks.wrote(1).unwrap();
        assert_eq!(waiting(), 0);
    }
}
