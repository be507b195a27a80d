//! Packs: stretches of many files in objects of tens of MiB, uploaded while the next is filled.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream};
use object_store::PutPayload;
use tokio::task::JoinSet;

use super::{error::BackupError, read::UNIT};
use crate::{
    encryption::{DataKey, KeyError, PackKey, TAG},
    repository::{
        keys::{self, DatabaseFolder},
        manifest::ObjectRef,
    },
    store::{Store, StoreError},
};

/// A pack is closed when it holds as much: large enough that requests cost little, small enough to send again.
const PACK: usize = 16 << 20;

/// Deletions at once when an attempt clears up.
const DELETIONS: usize = 8;

/// Keys of all objects whose upload was begun, so that a failed attempt can take them away.
#[derive(Clone, Debug, Default)]
pub(super) struct Begun(Arc<Mutex<Vec<String>>>);

/// Where a stretch was put: name of the pack, and offset within.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pack: Arc<str>,
    pub(super) offset: u64,
    /// How long it is there.
    pub(super) stored: usize,
}

/// Fills packs.
pub(super) struct Packer {
    store: Store,
    folder: DatabaseFolder,
    uid: String,
    begun: Begun,
    filling: BytesMut,
    hasher: blake3::Hasher,
    closed: Vec<ObjectRef>,
    uploads: JoinSet<Result<Bytes, StoreError>>,
    /// How many at once. With the pack that is filled they bound the memory of a backup, beside the readers' buffers and the list of files.
    uploads_max: usize,
    /// Memory of packs that were sent, to be filled again: taken from the system once, it does not fragment the heap.
    empty: Vec<BytesMut>,
    uploaded: u64,
    key: Arc<str>,
    seal: Option<Seal>,
}

/// How what comes into packs is encrypted. It is done here and not by who compresses, since what is encrypted is bound to its place, which is known here
/// alone: nothing that lies elsewhere can pass for it.
struct Seal {
    key: DataKey,
    /// Of the pack that is being filled.
    pack: PackKey,
}

impl Begun {
    pub(super) fn note(&self, key: &str) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.push(key.to_owned());
    }

    /// Nothing of it is to be taken away any more.
    pub(super) fn forget(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Deletes what was begun, as far as the store lets us; the rest is found when the Snapshot is deleted.
    pub(super) async fn take_away(&self, store: &Store) {
        let keys = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let deletions = stream::iter(keys)
            .map(|key| async move { store.delete(&key).await })
            .buffer_unordered(DELETIONS);
        let failed = deletions
            .filter(|deleted| std::future::ready(deleted.is_err()))
            .count();
        let failed = failed.await;
        if failed > 0 {
            tracing::warn!(
                failed,
                "objects of a failed backup stay until its Snapshot is deleted"
            );
        }
    }
}

impl Packer {
    pub(super) fn new(
        store: Store,
        folder: DatabaseFolder,
        uid: &str,
        begun: Begun,
        data_key: Option<&DataKey>,
        uploads_max: usize,
    ) -> Result<Self, BackupError> {
        let key = new_key(uid);
        let seal = match data_key {
            Some(data_key) => Some(Seal {
                key: data_key.clone(),
                pack: data_key.pack(&key).map_err(KeyError::from)?,
            }),
            None => None,
        };
        Ok(Self {
            store,
            folder,
            key,
            seal,
            uid: uid.to_owned(),
            begun,
            filling: BytesMut::new(),
            hasher: blake3::Hasher::new(),
            closed: Vec::new(),
            uploads: JoinSet::new(),
            uploads_max: uploads_max.max(1),
            empty: Vec::new(),
            uploaded: 0,
        })
    }

    /// Bytes that the store has acknowledged.
    pub(super) fn uploaded(&self) -> u64 {
        self.uploaded
    }

    /// Puts a stretch into the pack that is being filled, and sends the pack when it is full.
    pub(super) async fn add(&mut self, stored: &[u8]) -> Result<Place, BackupError> {
        let offset = self.filling.len();
        if self.filling.is_empty() {
            self.filling = self.empty.pop().unwrap_or_default();
            self.filling.reserve(PACK + UNIT + TAG);
        }
        self.filling.extend_from_slice(stored);
        if let Some(seal) = &self.seal {
            let sealed = seal.pack.seal(offset, &mut self.filling);
            sealed.map_err(KeyError::from)?;
        }
        let stored = &self.filling[offset..];
        self.hasher.update(stored);
        let place = Place {
            pack: self.key.clone(),
            offset: offset as u64,
            stored: stored.len(),
        };
        if self.filling.len() >= PACK {
            self.close().await?;
        }
        Ok(place)
    }

    /// Sends the last pack and waits for all. Gives the packs in order.
    pub(super) async fn finish(mut self) -> Result<(Vec<ObjectRef>, u64), BackupError> {
        self.cut().await?;
        while !self.uploads.is_empty() {
            self.join().await?;
        }
        Ok((self.closed, self.uploaded))
    }

    /// Begins another pack: what follows lives for another time than what was added until now.
    pub(super) async fn cut(&mut self) -> Result<(), BackupError> {
        if self.filling.is_empty() {
            return Ok(());
        }
        self.close().await
    }

    async fn close(&mut self) -> Result<(), BackupError> {
        while self.uploads.len() >= self.uploads_max {
            self.join().await?;
        }
        let content = std::mem::take(&mut self.filling).freeze();
        let relative = std::mem::replace(&mut self.key, new_key(&self.uid));
        if let Some(seal) = &mut self.seal {
            seal.pack = seal.key.pack(&self.key).map_err(KeyError::from)?;
        }
        let key = self.folder.key(&relative);
        self.begun.note(&key);
        self.closed.push(ObjectRef {
            key: relative.to_string(),
            bytes: content.len() as u64,
            blake3: std::mem::take(&mut self.hasher)
                .finalize()
                .to_hex()
                .to_string(),
        });
        let store = self.store.clone();
        self.uploads.spawn(async move {
            let payload = PutPayload::from_bytes(content.clone());
            store.create(&key, payload).await.map(|()| content)
        });
        Ok(())
    }

    async fn join(&mut self) -> Result<(), BackupError> {
        match self.uploads.join_next().await {
            Some(Ok(sent)) => {
                let sent = sent?;
                self.uploaded += sent.len() as u64;
                if let Ok(mut empty) = sent.try_into_mut() {
                    empty.clear();
                    self.empty.push(empty);
                }
            }
            Some(Err(_)) => return Err(BackupError::Worker),
            None => {}
        }
        Ok(())
    }
}

/// The name is random and not the content's hash, so that a pack can be sent before it is whole, and encrypted under its name.
fn new_key(uid: &str) -> Arc<str> {
    format!("{}/{}", keys::packs(uid), uuid::Uuid::new_v4().simple()).into()
}
