//! Fetching a file of WAL. Absence is told only where the store has proven it.

use std::io::Read as _;

use kubedb_core::archive::WalFile;
use tokio::task::spawn_blocking;

use super::{Archive, ArchiveError, TEXT_BYTES, push::HEADER_BYTES};

/// Compressed WAL is never much longer than WAL.
pub(super) const SLACK: u64 = 1 << 16;

impl Archive {
    /// The content of a file, or nothing where it is proven absent. A name that the archive cannot have is absent.
    pub async fn fetch(&self, name: &str) -> Result<Option<Vec<u8>>, ArchiveError> {
        let Some(kind) = WalFile::read(name, self.segment_bytes) else {
            return Ok(None);
        };
        let bytes = match kind {
            WalFile::Segment(_) | WalFile::Partial(_) => self.segment_bytes,
            WalFile::History(_) | WalFile::Label(_) => TEXT_BYTES,
        };
        let packed = match self.store.read(&self.key(name), bytes + SLACK).await {
            Ok(packed) => packed,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let content = spawn_blocking(move || unpack(&packed, bytes))
            .await
            .map_err(|_| ArchiveError::Worker)?;
        let damaged = |reason: String| ArchiveError::Damaged {
            name: name.to_owned(),
            label: self.store.label().to_owned(),
            reason,
        };
        let content = content.map_err(|error| damaged(error.to_string()))?;
        if let WalFile::Segment(segment) | WalFile::Partial(segment) = kind {
            if content.len() as u64 != self.segment_bytes {
                let (found, expected) = (content.len(), self.segment_bytes);
                return Err(damaged(format!(
                    "it has {found} bytes instead of {expected}"
                )));
            }
            let head = content.first_chunk::<HEADER_BYTES>();
            let head = head.ok_or_else(|| damaged("it is too short".to_owned()))?;
            self.check_header(head, segment).map_err(damaged)?;
        }
        Ok(Some(content))
    }
}

/// Unpacks at most `limit` bytes; the checksum of a frame is verified with it. Blocks.
pub(super) fn unpack(packed: &[u8], limit: u64) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::with_capacity(usize::try_from(limit).unwrap_or(0).min(16 << 20));
    zstd::Decoder::new(packed)?
        .take(limit + 1)
        .read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(std::io::Error::other("it is longer than any file of WAL"));
    }
    Ok(content)
}
