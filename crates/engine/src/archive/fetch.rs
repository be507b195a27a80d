//! Fetching a file of WAL. Absence is told only where the store has proven it.

use std::io::Read as _;

use bytes::Bytes;
use kubedb_core::archive::WalFile;
use tokio::task::spawn_blocking;

use super::{
    Archive, ArchiveError, Form, SEALED_SUFFIX, TEXT_BYTES,
    push::{HEADER_BYTES, check_header},
    wal_path,
};
use crate::{
    encryption::{DataKey, OpenError, reading_key, sealed_length, sealed_with},
    store::Listed,
};

/// Compressed WAL is never much longer than WAL.
pub(crate) const SLACK: u64 = 1 << 16;

impl Archive {
    /// The content of a file, or nothing where it is proven absent. A name that the archive cannot have is absent. Where all is to be encrypted, what lies in
    /// the clear is refused.
    pub async fn fetch(&self, name: &str) -> Result<Option<Vec<u8>>, ArchiveError> {
        self.fetch_as(name, Trust::Sealed).await
    }

    /// The same to be compared with what we have ourselves.
    pub(super) async fn fetch_to_compare(
        &self,
        name: &str,
    ) -> Result<Option<Vec<u8>>, ArchiveError> {
        self.fetch_as(name, Trust::Any).await
    }

    async fn fetch_as(&self, name: &str, trust: Trust) -> Result<Option<Vec<u8>>, ArchiveError> {
        let Some(kind) = WalFile::read(name, self.segment_bytes) else {
            return Ok(None);
        };
        let bytes = longest(kind, self.segment_bytes);
        let Some(content) = self.content(&wal_path(name), bytes, trust).await? else {
            return Ok(None);
        };
        let damaged = |reason: String| ArchiveError::Damaged {
            name: name.to_owned(),
            label: self.store.label().to_owned(),
            reason,
        };
        let content = content.map_err(damaged)?;
        check_content(kind, &content, self.segment_bytes, self.system_identifier)
            .map_err(damaged)?;
        Ok(Some(content))
    }

    /// What an object holds, of at most so many bytes, or what is wrong with it; nothing where it is proven absent.
    pub(super) async fn content(
        &self,
        path: &str,
        bytes: u64,
        trust: Trust,
    ) -> Result<Option<Result<Vec<u8>, String>>, ArchiveError> {
        let likely = match self.store.keys() {
            Some(_) => Form::Sealed,
            None => Form::Plain,
        };
        let mut found = self.read(path, likely, bytes).await?;
        if found.is_none() {
            found = self.read(path, likely.other(), bytes).await?;
        }
        let Some(stored) = found else {
            return Ok(None);
        };
        if stored.data_key.is_none() && trust == Trust::Sealed && !self.may_be_plain().await? {
            return Err(ArchiveError::Unsealed {
                name: path.to_owned(),
                label: self.store.label().to_owned(),
            });
        }
        let seal_name = self.seal_name(path);
        let unpack = move || {
            let opened = match &stored.data_key {
                None => return unpack(&stored.bytes, bytes),
                Some(key) => key.open(&seal_name, &stored.bytes),
            };
            unpack(&opened.map_err(std::io::Error::other)?, bytes)
        };
        let content = spawn_blocking(unpack)
            .await
            .map_err(|_| ArchiveError::Worker)?;
        Ok(Some(content.map_err(|error| error.to_string())))
    }

    /// Whether WAL in the clear is what belongs there. It is not where this very store is encrypted, and neither where any of the archive's WAL is: whoever can
    /// write to a store could put his own in the place of ours. Who has keys for reading alone may read an archive in the clear behind encrypted Snapshots.
    async fn may_be_plain(&self) -> Result<bool, ArchiveError> {
        let Some(keys) = self.store.keys() else {
            return Ok(true);
        };
        if keys.encrypts() {
            return Ok(false);
        }
        let find = || async {
            let mut is_sealed = false;
            for folder in [self.wal_folder(), self.tails()] {
                let note = |listed: Listed, _| is_sealed |= listed.key.ends_with(SEALED_SUFFIX);
                self.store.visit(&folder, note).await?;
            }
            Ok::<_, ArchiveError>(is_sealed)
        };
        Ok(!*self.holds_sealed.get_or_try_init(find).await?)
    }

    /// An object in one form, and the key to it; nothing where it is proven absent.
    async fn read(
        &self,
        path: &str,
        form: Form,
        bytes: u64,
    ) -> Result<Option<Stored>, ArchiveError> {
        let limit = match form {
            Form::Plain => bytes + SLACK,
            Form::Sealed => sealed_length(bytes + SLACK),
        };
        let bytes = match self.store.read(&self.key(path, form), limit).await {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let data_key = match (form, sealed_with(&bytes)) {
            (Form::Plain, _) => None,
            (Form::Sealed, Some(id)) => {
                let key = reading_key(&self.store, &self.database, &self.lineage, id);
                Some(key.await?)
            }
            (Form::Sealed, None) => {
                return Err(ArchiveError::Damaged {
                    name: path.to_owned(),
                    label: self.store.label().to_owned(),
                    reason: OpenError::Plain.to_string(),
                });
            }
        };
        Ok(Some(Stored { bytes, data_key }))
    }
}

/// Bytes that a file of WAL has at most.
pub(crate) fn longest(kind: WalFile, segment_bytes: u64) -> u64 {
    match kind {
        WalFile::Segment(_) | WalFile::Partial(_) => segment_bytes,
        WalFile::History(_) | WalFile::Label(_) => TEXT_BYTES,
    }
}

/// Whether content is what a file of WAL holds: a segment is whole, the one that its name says, and of this cluster.
pub(crate) fn check_content(
    kind: WalFile,
    content: &[u8],
    segment_bytes: u64,
    system_identifier: u64,
) -> Result<(), String> {
    let (WalFile::Segment(segment) | WalFile::Partial(segment)) = kind else {
        return Ok(());
    };
    if content.len() as u64 != segment_bytes {
        let found = content.len();
        return Err(format!("it has {found} bytes instead of {segment_bytes}"));
    }
    let head = content.first_chunk::<HEADER_BYTES>();
    let head = head.ok_or("it is too short")?;
    check_header(head, segment, segment_bytes, system_identifier)
}

/// In which form an object is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Encrypted, where that is how it should be.
    Sealed,
    /// Any.
    Any,
}

/// What lies in the store.
struct Stored {
    bytes: Bytes,
    data_key: Option<DataKey>,
}

/// Unpacks at most `limit` bytes; the checksum of a frame is verified with it. Blocks.
fn unpack(packed: &[u8], limit: u64) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::with_capacity(usize::try_from(limit).unwrap_or(0).min(16 << 20));
    zstd::Decoder::new(packed)?
        .take(limit + 1)
        .read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(std::io::Error::other("it is longer than any file of WAL"));
    }
    Ok(content)
}
