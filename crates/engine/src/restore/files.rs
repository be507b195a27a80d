//! Files of a logical Snapshot, each read from its beginning to its end, in pieces.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::{StreamExt as _, stream, stream::BoxStream};
use tokio_util::sync::CancellationToken;

use super::{
    RestoreError,
    plan::{FETCH, Fetch, Frame, GAP, Plan, gather},
    source::Source,
    write::{Decoder, UnitError},
};
use crate::{
    repository::manifest::{self, Manifest},
    store::Store,
};

/// Ranges of one file under way at once.
const AHEAD: usize = 2;

/// The files, by path.
pub(crate) struct Files {
    store: Store,
    plan: Plan,
    /// For each path its length, and what to fetch in order.
    index: BTreeMap<String, (u64, Vec<Fetch>)>,
    cancel: CancellationToken,
    fetched: AtomicU64,
}

impl Files {
    /// Reads the lists of a logical Snapshot, and looks whether all that they name is there.
    pub(crate) async fn open(
        store: &Store,
        key: &str,
        cancel: CancellationToken,
    ) -> Result<Arc<Self>, RestoreError> {
        let look = async {
            let (manifest, data_key) = manifest::open(store, key).await?;
            if manifest.logical.is_none() {
                return Err(RestoreError::Physical {
                    snapshot: manifest.snapshot,
                });
            }
            gather(store, key, manifest, data_key).await
        };
        let mut plan = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(RestoreError::Cancelled),
            plan = look => plan?,
        };
        let mut parts: BTreeMap<usize, Vec<(u64, Fetch)>> = BTreeMap::new();
        for fetch in std::mem::take(&mut plan.fetches) {
            for frame in fetch.frames {
                for part in &frame.parts {
                    let one = Fetch {
                        key: fetch.key.clone(),
                        start: frame.offset,
                        end: frame.offset + frame.stored,
                        frames: vec![Frame {
                            parts: vec![part.clone()],
                            ..frame.clone()
                        }],
                        pack: fetch.pack.clone(),
                    };
                    parts.entry(part.file).or_default().push((part.at, one));
                }
            }
        }
        let index = plan.files.iter().enumerate().map(|(number, file)| {
            let mut parts = parts.remove(&number).unwrap_or_default();
            parts.sort_by_key(|(at, _)| *at);
            let fetches = join(parts.into_iter().map(|(_, fetch)| fetch));
            (file.path.clone(), (file.bytes, fetches))
        });
        Ok(Arc::new(Self {
            index: index.collect(),
            store: store.clone(),
            plan,
            cancel,
            fetched: AtomicU64::new(0),
        }))
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.plan.manifest
    }

    pub(crate) fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// What is said of a file that is not as it should be.
    fn wrong(&self, path: &str, reason: &str) -> RestoreError {
        RestoreError::Damaged {
            snapshot: self.plan.manifest.snapshot.clone(),
            object: path.to_owned(),
            label: self.store.label().to_owned(),
            reason: reason.to_owned(),
        }
    }

    /// A file's content.
    pub(crate) fn read(self: &Arc<Self>, path: &str) -> Result<Reading, RestoreError> {
        if !self.index.contains_key(path) {
            return Err(RestoreError::Incomplete {
                snapshot: self.plan.manifest.snapshot.clone(),
                path: path.to_owned(),
            });
        }
        let count = self.index[path].1.len();
        let (files, name) = (self.clone(), path.to_owned());
        let pieces = stream::iter(0..count).map(move |number| {
            let (files, name) = (files.clone(), name.clone());
            async move { files.fetch(&name, number).await }
        });
        Ok(Reading {
            files: self.clone(),
            path: path.to_owned(),
            at: 0,
            waiting: Vec::new().into_iter(),
            pieces: pieces.buffered(AHEAD).boxed(),
        })
    }

    /// All of a file that is known to be short.
    pub(crate) async fn read_whole(
        self: &Arc<Self>,
        path: &str,
        limit: u64,
    ) -> Result<Vec<u8>, RestoreError> {
        let mut reading = self.read(path)?;
        if self.index[path].0 > limit {
            return Err(self.wrong(path, "it is longer than any that we write"));
        }
        let mut whole = Vec::new();
        while let Some(piece) = reading.next().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(whole)
    }

    async fn fetch(
        self: Arc<Self>,
        path: &str,
        number: usize,
    ) -> Result<Vec<(u64, Bytes)>, RestoreError> {
        let fetch = &self.index[path].1[number];
        let unpacked = Arc::new(Mutex::new(Vec::new()));
        let (this, into, path) = (self.clone(), unpacked.clone(), path.to_owned());
        let work = move |bytes: &Bytes| {
            let fetch = &this.index[&path].1[number];
            let mut into = into.lock().unwrap_or_else(PoisonError::into_inner);
            // Of a try that arrived damaged.
            into.clear();
            unpack(fetch, bytes, &mut into)
        };
        let source = Source {
            store: &self.store,
            cancel: &self.cancel,
            fetched: &self.fetched,
        };
        self.plan.fetch(fetch, source, work).await?;
        let mut unpacked = unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *unpacked))
    }
}

fn unpack(fetch: &Fetch, bytes: &Bytes, into: &mut Vec<(u64, Bytes)>) -> Result<u64, UnitError> {
    let mut decoder = Decoder::default();
    let mut done = 0;
    for frame in &fetch.frames {
        let Some(raw) = decoder.frame(fetch, frame, bytes)? else {
            continue;
        };
        for part in &frame.parts {
            let content = raw.get(part.from..part.from + part.raw).unwrap_or_default();
            into.push((part.at, Bytes::copy_from_slice(content)));
            done += content.len() as u64;
        }
    }
    Ok(done)
}

/// Bytes of a range when it is unpacked, at most: several are in memory for each table that is loaded.
const UNPACKED: usize = 8 << 20;

/// Joins what lies one behind the other in a pack, in the order of the file.
fn join(fetches: impl Iterator<Item = Fetch>) -> Vec<Fetch> {
    let mut joined: Vec<Fetch> = Vec::new();
    let unpacked = |fetch: &Fetch| fetch.frames.iter().map(|frame| frame.whole).sum::<usize>();
    for fetch in fetches {
        match joined.last_mut() {
            Some(last)
                if last.key == fetch.key
                    && fetch.start >= last.end
                    && fetch.start - last.end <= GAP
                    && fetch.end - last.start <= FETCH
                    && unpacked(last) + unpacked(&fetch) <= UNPACKED =>
            {
                last.end = fetch.end;
                last.frames.extend(fetch.frames);
            }
            _ => joined.push(fetch),
        }
    }
    joined
}

/// A file that is being read.
pub(crate) struct Reading {
    files: Arc<Files>,
    path: String,
    at: u64,
    waiting: std::vec::IntoIter<(u64, Bytes)>,
    pieces: BoxStream<'static, Result<Vec<(u64, Bytes)>, RestoreError>>,
}

impl Reading {
    /// The next piece; nothing at the end, which is where the list says.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, RestoreError> {
        loop {
            if let Some((at, piece)) = self.waiting.next() {
                if at != self.at {
                    let reason = format!("nothing is there of bytes {} to {at}", self.at);
                    return Err(self.files.wrong(&self.path, &reason));
                }
                self.at += piece.len() as u64;
                return Ok(Some(piece));
            }
            match self.pieces.next().await {
                Some(pieces) => self.waiting = pieces?.into_iter(),
                None if self.at == self.files.index[&self.path].0 => return Ok(None),
                None => return Err(self.files.wrong(&self.path, "its end is not there")),
            }
        }
    }
}
