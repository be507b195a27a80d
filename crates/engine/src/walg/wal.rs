//! WAL that wal-g has archived. Absence is told only where the store has proven it of every way in which a file may be packed.

use std::{
    io::Read as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use kubedb_core::archive::WalFile;
use tokio::task::spawn_blocking;

use super::{
    WAL, below,
    codec::{Codec, KNOWN},
};
use crate::{
    archive::{ArchiveError, SLACK, WalContent, check_content, longest},
    store::Store,
};

/// The WAL of one cluster below a folder.
#[derive(Clone, Debug)]
pub struct WalgArchive {
    store: Store,
    folder: String,
    system_identifier: u64,
    segment_bytes: u64,
    /// Place in the known codecs of the one that the last file was packed with: the next one most likely is too.
    likely: Arc<AtomicUsize>,
}

impl WalgArchive {
    pub(super) fn new(
        store: Store,
        folder: &str,
        system_identifier: u64,
        segment_bytes: u64,
    ) -> Self {
        Self {
            store,
            folder: folder.to_owned(),
            system_identifier,
            segment_bytes,
            likely: Arc::default(),
        }
    }

    /// Bytes of a segment.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// The folder below which it lies; empty for the store's root.
    #[must_use]
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// Cluster that it is of.
    #[must_use]
    pub fn system_identifier(&self) -> u64 {
        self.system_identifier
    }

    /// How users know the store.
    #[must_use]
    pub fn label(&self) -> &str {
        self.store.label()
    }

    /// The content of a file, or nothing where it is proven absent. A name that no archive has is absent.
    pub async fn fetch_content(&self, name: &str) -> Result<Option<WalContent>, ArchiveError> {
        let Some(kind) = WalFile::read(name, self.segment_bytes) else {
            return Ok(None);
        };
        let limit = longest(kind, self.segment_bytes);
        let likely = self.likely.load(Ordering::Relaxed);
        for number in (0..KNOWN.len()).map(|number| (likely + number) % KNOWN.len()) {
            let Some((end, codec)) = KNOWN.get(number) else {
                continue;
            };
            let key = below(&self.folder, &format!("{WAL}/{name}{end}"));
            let packed = match self.store.read(&key, limit + SLACK).await {
                Ok(packed) => packed,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error.into()),
            };
            self.likely.store(number, Ordering::Relaxed);
            let codec = codec.clone();
            let unpacked = spawn_blocking(move || unpack(&codec, &packed, limit)).await;
            let content = unpacked.map_err(|_| ArchiveError::Worker)?;
            let content = content.and_then(|content| {
                check_content(kind, &content, self.segment_bytes, self.system_identifier)?;
                Ok(content)
            });
            let content = content.map_err(|reason| ArchiveError::Damaged {
                name: name.to_owned(),
                label: self.store.label().to_owned(),
                reason,
            });
            return content.map(|content| Some(WalContent::Whole(content)));
        }
        Ok(None)
    }
}

/// Blocks.
fn unpack(codec: &Codec, packed: &[u8], limit: u64) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    let read = codec
        .reader(packed)
        .and_then(|reader| reader.take(limit + 1).read_to_end(&mut content));
    read.map_err(|error| format!("{error}; encrypted WAL of wal-g is not read here"))?;
    if content.len() as u64 > limit {
        return Err("it is longer than any file of WAL".to_owned());
    }
    Ok(content)
}
