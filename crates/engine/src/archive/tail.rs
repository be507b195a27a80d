//! The segment in work, stored piece by piece while it grows: `…/archive/<lineage>/tail/<segment>/<generation>-<from>-<to>.zst`, generation and offsets with
//! eight hexadecimal digits each. Once the segment is whole, and stored as such, its pieces go.

use std::{
    fs::File,
    io::{Read, Seek as _, SeekFrom},
    path::Path,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use kubedb_core::{
    archive::{Segment, WalFile},
    codec::Density,
    tail::{Piece, Tail, next_generation},
};
use object_store::PutPayload;
use tokio::task::spawn_blocking;

use super::{
    Archive, ArchiveError, Form, TAIL_FOLDER,
    fetch::Trust,
    file_of,
    pack::compress,
    push::{HEADER_BYTES, Packed},
};
use crate::encryption::DataKey;

/// Pieces read or deleted at once.
const AT_ONCE: usize = 8;
/// A whole segment may take the place of its pieces while they are read.
const LOOKS: usize = 3;
/// Most objects of tails that are looked at: some hundred a segment, of which few are unfinished.
const OBJECTS: usize = 65_536;

/// What there is of a segment, or another file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalContent {
    /// The whole file.
    Whole(Vec<u8>),
    /// The beginning of a segment, filled up with zeros: PostgreSQL finds the end of all WAL there.
    Begun(Vec<u8>),
}

impl WalContent {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let (Self::Whole(bytes) | Self::Begun(bytes)) = self;
        bytes
    }

    /// The bytes.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        let (Self::Whole(bytes) | Self::Begun(bytes)) = self;
        bytes
    }
}

/// An object of a tail.
#[derive(Clone, Debug)]
struct Stored {
    key: String,
    segment: Segment,
    piece: Piece,
    at: Timestamp,
}

impl Archive {
    /// The generation in which nothing of a segment is stored yet.
    pub async fn tail_generation(&self, segment: Segment) -> Result<u32, ArchiveError> {
        let found = self.pieces(segment).await?;
        let next = next_generation(found.iter().map(|stored| stored.piece));
        next.ok_or_else(|| ArchiveError::Name {
            name: segment.name(self.segment_bytes),
        })
    }

    /// Stores a piece of a segment of `folder`: bytes that PostgreSQL has flushed. Gives the bytes in the store.
    pub async fn push_tail(
        &self,
        folder: &Path,
        segment: Segment,
        piece: Piece,
    ) -> Result<u64, ArchiveError> {
        let data_key = self.data_key().await?.cloned();
        let key = self.key(
            &self.piece_path(segment, piece),
            Form::of(data_key.as_ref()),
        );
        let (this, folder) = (self.clone(), folder.to_owned());
        let pack = move || this.pack_piece(&folder, segment, piece, data_key.as_ref());
        let packed = spawn_blocking(pack)
            .await
            .map_err(|_| ArchiveError::Worker)??;
        let stored = packed.stored();
        let payload: PutPayload = packed.pieces.into_iter().collect();
        self.store.create(&key, payload).await?;
        Ok(stored)
    }

    /// Path of a piece below the lineage's folder.
    fn piece_path(&self, segment: Segment, piece: Piece) -> String {
        let segment = segment.name(self.segment_bytes);
        format!("{TAIL_FOLDER}/{segment}/{}", piece.name())
    }

    /// Reads, compresses and encrypts a piece. Blocks.
    fn pack_piece(
        &self,
        folder: &Path,
        segment: Segment,
        piece: Piece,
        data_key: Option<&DataKey>,
    ) -> Result<Packed, ArchiveError> {
        let name = segment.name(self.segment_bytes);
        let path = folder.join(&name);
        let read = |source| ArchiveError::Read {
            name: name.clone(),
            source,
        };
        let wrong = |reason| ArchiveError::Wrong {
            name: name.clone(),
            reason,
        };
        let mut file = File::open(path).map_err(read)?;
        let check = |file: &mut File| {
            let mut head = [0; HEADER_BYTES];
            file.rewind()
                .and_then(|()| file.read_exact(&mut head))
                .map_err(read)?;
            self.check_header(&head, segment).map_err(wrong)
        };
        check(&mut file)?;
        file.seek(SeekFrom::Start(piece.from)).map_err(read)?;
        let bytes = piece.to - piece.from;
        let pieces =
            compress(&mut Read::take(&mut file, bytes), bytes, Density::Usual).map_err(read)?;
        // One that is recycled meanwhile gets another header before anything else.
        check(&mut file)?;
        let pieces = self.sealed(&self.piece_path(segment, piece), pieces, data_key)?;
        Ok(Packed { bytes, pieces })
    }

    /// The content of a file, or what there is of it. Absence is proven.
    pub async fn fetch_content(&self, name: &str) -> Result<Option<WalContent>, ArchiveError> {
        let Some(kind) = WalFile::read(name, self.segment_bytes) else {
            return Ok(None);
        };
        let mut whole = self.fetch(name).await?;
        let WalFile::Segment(segment) = kind else {
            return Ok(whole.map(WalContent::Whole));
        };
        let mut looks = 0;
        loop {
            if let Some(whole) = whole {
                return Ok(Some(WalContent::Whole(whole)));
            }
            looks += 1;
            let is_absent = match self.fetch_tail(segment).await {
                Ok(Some(begun)) => return Ok(Some(WalContent::Begun(begun))),
                Ok(None) => true,
                Err(ArchiveError::Gone { .. }) if looks < LOOKS => false,
                Err(error) => return Err(error),
            };
            // Meanwhile the pieces may have made room for the whole.
            whole = self.fetch(name).await?;
            if is_absent {
                return Ok(whole.map(WalContent::Whole));
            }
        }
    }

    /// What there is of a segment that is not whole yet, filled up with zeros.
    async fn fetch_tail(&self, segment: Segment) -> Result<Option<Vec<u8>>, ArchiveError> {
        let found = self.pieces(segment).await?;
        let found: Vec<(Piece, Timestamp)> = found
            .into_iter()
            .map(|stored| (stored.piece, stored.at))
            .collect();
        let Some(tail) = Tail::of(&found) else {
            return Ok(None);
        };
        let name = segment.name(self.segment_bytes);
        let damaged = |reason: String| ArchiveError::Damaged {
            name: name.clone(),
            label: self.store.label().to_owned(),
            reason,
        };
        let read: Vec<Vec<u8>> = stream::iter(tail.pieces)
            .map(|piece| self.fetch_piece(segment, piece))
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let mut content = read.concat();
        let head = content.first_chunk::<HEADER_BYTES>();
        let head = head.ok_or_else(|| damaged("it is too short".to_owned()))?;
        self.check_header(head, segment).map_err(damaged)?;
        content.resize(usize::try_from(self.segment_bytes).unwrap_or(0), 0);
        Ok(Some(content))
    }

    async fn fetch_piece(&self, segment: Segment, piece: Piece) -> Result<Vec<u8>, ArchiveError> {
        let path = self.piece_path(segment, piece);
        let bytes = piece.to - piece.from;
        let (name, label) = (path.clone(), self.store.label().to_owned());
        let Some(content) = self.content(&path, bytes, Trust::Sealed).await? else {
            return Err(ArchiveError::Gone { name, label });
        };
        let content = content.and_then(|content| {
            let is_whole = content.len() as u64 == bytes;
            let short = || "it is too short".to_owned();
            is_whole.then_some(content).ok_or_else(short)
        });
        content.map_err(|reason| ArchiveError::Damaged {
            name,
            label,
            reason,
        })
    }

    /// Deletes the pieces of a segment, which is stored whole.
    pub async fn delete_tail(&self, segment: Segment) -> Result<(), ArchiveError> {
        let found = self.pieces(segment).await?;
        self.delete_pieces(found).await
    }

    /// Deletes the pieces of all segments before this one, all of which are stored whole: a crash may have left some.
    pub async fn delete_tails_before(&self, segment: Segment) -> Result<(), ArchiveError> {
        let mut found = self.pieces_below(&self.tails()).await?;
        found.retain(|stored| stored.segment.number < segment.number);
        self.delete_pieces(found).await
    }

    async fn delete_pieces(&self, mut found: Vec<Stored>) -> Result<(), ArchiveError> {
        // From the last one on: what stays of a deletion that is cut off still goes on without a gap.
        found.sort_by_key(|stored| std::cmp::Reverse((stored.segment, stored.piece)));
        let deleted = stream::iter(found)
            .map(|stored| {
                let store = self.store.clone();
                async move { store.delete(&stored.key).await }
            })
            .buffered(AT_ONCE);
        Ok(deleted
            .try_for_each(|()| std::future::ready(Ok(())))
            .await?)
    }

    async fn pieces(&self, segment: Segment) -> Result<Vec<Stored>, ArchiveError> {
        let folder = format!("{}/{}", self.tails(), segment.name(self.segment_bytes));
        self.pieces_below(&folder).await
    }

    async fn pieces_below(&self, folder: &str) -> Result<Vec<Stored>, ArchiveError> {
        let mut found = Vec::new();
        let tails = format!("{}/", self.tails());
        let visited = self.store.visit(folder, |listed, millis| {
            let path = listed.key.strip_prefix(&tails);
            let read = path.and_then(|path| read_piece(path, self.segment_bytes));
            if let Some((segment, piece)) = read.filter(|_| found.len() < OBJECTS) {
                found.push(Stored {
                    segment,
                    piece,
                    at: Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MIN),
                    key: listed.key,
                });
            }
        });
        visited.await?;
        Ok(found)
    }
}

/// Reads what follows the folder of tails in a key: `<segment>/<piece>.zst`.
pub(super) fn read_piece(path: &str, segment_bytes: u64) -> Option<(Segment, Piece)> {
    let (segment, piece) = path.split_once('/')?;
    let WalFile::Segment(segment) = WalFile::read(segment, segment_bytes)? else {
        return None;
    };
    let piece = Piece::read(file_of(piece)?, segment_bytes)?;
    Some((segment, piece))
}
