//! Deleting WAL that no Snapshot needs any more.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use kubedb_core::{
    archive::{Segment, WalFile, keep_from},
    lsn::Lsn,
};

use super::{
    Archive, ArchiveError, TAIL_FOLDER, WAL_FOLDER, file_of, inventory::begins, tail::read_piece,
};
use crate::{repository::keys::DatabaseFolder, store::Listed};

/// Deletions at once.
const AT_ONCE: usize = 8;

/// What is not needed any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unneeded {
    /// From here on everything is kept; nothing where no Snapshot is known, and then all is.
    pub keep: Option<Lsn>,
    /// Keys and sizes of what goes, the oldest first: a prune that is cut off leaves no hole between what stays.
    pub objects: BTreeMap<String, u64>,
    /// Whole segments that stay.
    pub kept: BTreeSet<Segment>,
}

impl Unneeded {
    /// Bytes of what goes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.objects.values().copied().fold(0, u64::saturating_add)
    }
}

impl Archive {
    /// Finds what no Snapshot needs. `told` is where the earliest Snapshot begins that lies elsewhere, or is known to somebody. A Snapshot that cannot be
    /// read is an error: nobody knows what it needs.
    pub async fn unneeded(
        &self,
        database: &DatabaseFolder,
        lineage: &str,
        told: Option<Lsn>,
    ) -> Result<Unneeded, ArchiveError> {
        let begins = begins(&self.store, database, lineage).await?;
        let mut unneeded = Unneeded {
            keep: keep_from(begins, told),
            ..Unneeded::default()
        };
        let mut note = |listed: Listed, is_whole: bool| {
            let Some(file) = self.file_of(&listed.key) else {
                return;
            };
            let keep = unneeded.keep;
            if keep.is_some_and(|keep| file.is_before(keep, self.segment_bytes)) {
                unneeded.objects.insert(listed.key, listed.bytes);
            } else if let WalFile::Segment(segment) = file
                && is_whole
            {
                unneeded.kept.insert(segment);
            }
        };
        for (folder, is_whole) in [(self.wal_folder(), true), (self.tails(), false)] {
            let show = |listed, _| note(listed, is_whole);
            self.store.visit(&folder, show).await?;
        }
        Ok(unneeded)
    }

    /// The file that an object is, or is a piece of.
    fn file_of(&self, key: &str) -> Option<WalFile> {
        let path = key.strip_prefix(self.folder.as_str())?.strip_prefix('/')?;
        match path.split_once('/')? {
            (TAIL_FOLDER, path) => {
                let (segment, _) = read_piece(path, self.segment_bytes)?;
                Some(WalFile::Segment(segment))
            }
            (WAL_FOLDER, object) => WalFile::read(file_of(object)?, self.segment_bytes),
            _ => None,
        }
    }

    /// Deletes it.
    pub async fn prune(&self, unneeded: &Unneeded) -> Result<(), ArchiveError> {
        let keys: Vec<String> = unneeded.objects.keys().cloned().collect();
        stream::iter(keys)
            .map(|key| {
                let store = self.store.clone();
                async move { store.delete(&key).await }
            })
            .buffered(AT_ONCE)
            .try_for_each(|()| std::future::ready(Ok(())))
            .await?;
        Ok(())
    }
}
