//! Storing a file of WAL. It counts only when it lies in the store, and was looked at there.

use std::{
    fs::File,
    io::Read as _,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use kubedb_core::{
    archive::{Segment, WalFile},
    codec::Density,
};
use object_store::PutPayload;
use tokio::task::spawn_blocking;

use super::{Archive, ArchiveError, Form, TEXT_BYTES, pack::compress, wal_path};
use crate::{
    encryption::{DataKey, KeyError},
    store::StoreError,
};

/// Bytes of the header of a segment's first page.
pub(super) const HEADER_BYTES: usize = 40;

/// A file that was stored, now or before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes in the store.
    pub stored: u64,
}

/// How long a file took that was stored now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Took {
    /// To read and compress.
    pub pack: Duration,
    /// To send and look at.
    pub send: Duration,
}

impl Archive {
    /// Stores a file of `folder`. One that is there already with the same content is stored; one with other content never is overwritten.
    pub async fn push(&self, folder: &Path, name: &str) -> Result<Pushed, ArchiveError> {
        let (pushed, _) = self.push_as(folder, name, Density::Usual).await?;
        Ok(pushed)
    }

    /// The same, compressed in this way. Tells what it took where it was not stored before.
    pub async fn push_as(
        &self,
        folder: &Path,
        name: &str,
        density: Density,
    ) -> Result<(Pushed, Option<Took>), ArchiveError> {
        let begun = Instant::now();
        let wrong = || ArchiveError::Name {
            name: name.to_owned(),
        };
        let kind = WalFile::read(name, self.segment_bytes).ok_or_else(wrong)?;
        let data_key = self.data_key().await?.cloned();
        let form = Form::of(data_key.as_ref());
        let (path, this, owned) = (folder.join(name), self.clone(), name.to_owned());
        let packing =
            spawn_blocking(move || this.pack(&path, &owned, kind, data_key.as_ref(), density));
        // Looked for while a processor compresses: what was stored in the clear before has the name already.
        let (packed, is_plain) = tokio::join!(packing, self.is_plain(name, form));
        let packed = packed.map_err(|_| ArchiveError::Worker)??;
        if is_plain? {
            let same = self.same(folder, name, packed.bytes).await?;
            return Ok((same, None));
        }
        let (stored, pack) = (packed.stored(), begun.elapsed());
        let key = self.key(&wal_path(name), form);
        let payload: PutPayload = packed.pieces.into_iter().collect();
        match self.store.create(&key, payload).await {
            Ok(()) => {}
            // The same WAL may have been packed by another version of us.
            Err(StoreError::Conflict { .. }) => {
                let same = self.same(folder, name, packed.bytes).await?;
                return Ok((same, None));
            }
            Err(error) => return Err(error.into()),
        }
        let shown = self.store.size(&key).await?;
        if shown != stored {
            return Err(ArchiveError::Lost {
                name: name.to_owned(),
                label: self.store.label().to_owned(),
                sent: stored,
                shown,
            });
        }
        let took = Took {
            pack,
            send: begun.elapsed().saturating_sub(pack),
        };
        let bytes = packed.bytes;
        Ok((Pushed { bytes, stored }, Some(took)))
    }

    /// Compares a file with the object of its name.
    async fn same(&self, folder: &Path, name: &str, bytes: u64) -> Result<Pushed, ArchiveError> {
        let conflict = || ArchiveError::Conflict {
            name: name.to_owned(),
            label: self.store.label().to_owned(),
        };
        let there = match self.fetch_to_compare(name).await {
            Ok(Some(there)) => there,
            // Gone between two requests; the next try stores it.
            Ok(None) => return Err(ArchiveError::Worker),
            // Whatever lies there, this file is not stored.
            Err(ArchiveError::Damaged { .. }) => return Err(conflict()),
            Err(error) => return Err(error),
        };
        let path = folder.join(name);
        let here = spawn_blocking(move || std::fs::read(path))
            .await
            .map_err(|_| ArchiveError::Worker)?
            .map_err(|source| ArchiveError::Read {
                name: name.to_owned(),
                source,
            })?;
        if here != there {
            return Err(conflict());
        }
        let size = async |form| self.store.size(&self.key(&wal_path(name), form)).await;
        let mut stored = size(Form::Plain).await;
        if stored.as_ref().is_err_and(StoreError::is_not_found) {
            stored = size(Form::Sealed).await;
        }
        let stored = stored?;
        Ok(Pushed { bytes, stored })
    }

    /// Reads, checks, compresses and encrypts. Blocks.
    fn pack(
        &self,
        path: &Path,
        name: &str,
        kind: WalFile,
        data_key: Option<&DataKey>,
        density: Density,
    ) -> Result<Packed, ArchiveError> {
        let read = |source| ArchiveError::Read {
            name: name.to_owned(),
            source,
        };
        let wrong = |reason: String| ArchiveError::Wrong {
            name: name.to_owned(),
            reason,
        };
        let mut file = File::open(path).map_err(read)?;
        let bytes = file.metadata().map_err(read)?.len();
        let mut head = [0; HEADER_BYTES];
        let mut begin: &[u8] = &[];
        match kind {
            WalFile::Segment(segment) | WalFile::Partial(segment) => {
                if bytes != self.segment_bytes {
                    let expected = self.segment_bytes;
                    return Err(wrong(format!("it has {bytes} bytes instead of {expected}")));
                }
                file.read_exact(&mut head).map_err(read)?;
                self.check_header(&head, segment).map_err(wrong)?;
                begin = &head;
            }
            WalFile::History(_) | WalFile::Label(_) if bytes > TEXT_BYTES => {
                return Err(wrong(format!("it has {bytes} bytes")));
            }
            WalFile::History(_) | WalFile::Label(_) => {}
        }
        let mut whole = begin.chain(&mut file).take(bytes);
        let pieces = compress(&mut whole, bytes, density).map_err(read)?;
        Ok(Packed {
            bytes,
            pieces: self.sealed(&wal_path(name), pieces, data_key)?,
        })
    }

    /// What is stored of an object: it is encrypted, if anything is.
    pub(super) fn sealed(
        &self,
        path: &str,
        mut pieces: Vec<Vec<u8>>,
        data_key: Option<&DataKey>,
    ) -> Result<Vec<Bytes>, ArchiveError> {
        let mut header = None;
        if let Some(key) = data_key {
            let sealed = key.seal_chunks(&self.seal_name(path), &mut pieces);
            header = Some(Bytes::copy_from_slice(&sealed.map_err(KeyError::from)?));
        }
        let pieces = pieces.into_iter().map(Bytes::from);
        Ok(header.into_iter().chain(pieces).collect())
    }

    /// Whether a file that is to be encrypted was stored before, in the clear. A spec cannot turn encryption off.
    async fn is_plain(&self, name: &str, form: Form) -> Result<bool, ArchiveError> {
        if form == Form::Plain {
            return Ok(false);
        }
        let key = self.key(&wal_path(name), Form::Plain);
        Ok(self.store.exists(&key).await?)
    }

    pub(super) fn check_header(
        &self,
        head: &[u8; HEADER_BYTES],
        segment: Segment,
    ) -> Result<(), String> {
        check_header(head, segment, self.segment_bytes, self.system_identifier)
    }
}

/// A segment says which one it is and of which cluster. One that was recycled, or comes from elsewhere, says something else.
pub(super) fn check_header(
    head: &[u8; HEADER_BYTES],
    segment: Segment,
    segment_bytes: u64,
    system_identifier: u64,
) -> Result<(), String> {
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&head[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let position = segment.start(segment_bytes).0;
    if number(8) != position {
        return Err(format!(
            "it says that it begins at {} instead of {}",
            kubedb_core::lsn::Lsn(number(8)),
            kubedb_core::lsn::Lsn(position)
        ));
    }
    if number(24) != system_identifier {
        return Err(format!(
            "it belongs to cluster {}, not to {}",
            number(24),
            system_identifier
        ));
    }
    // What a promotion copied still carries the former timeline.
    let timeline = (number(0) >> 32) as u32;
    if timeline > segment.timeline.0 {
        return Err(format!(
            "it was written on timeline {timeline}, later than {}",
            segment.timeline.0
        ));
    }
    Ok(())
}

/// What is to be stored.
pub(super) struct Packed {
    pub(super) bytes: u64,
    pub(super) pieces: Vec<Bytes>,
}

impl Packed {
    /// Bytes in the store.
    pub(super) fn stored(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }
}
