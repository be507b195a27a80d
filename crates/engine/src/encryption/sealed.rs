//! Data keys, and what is encrypted with them: whole objects, and what lies in a pack. Everything is AES-256-GCM under keys derived for one purpose each,
//! so that no pair of key and nonce ever comes twice:
//!
//! - A pack has a key of its own, derived from its random name; what lies in it has its offset for a nonce, and no two stretches of a pack have one offset.
//! - An object has a key derived from a fingerprint of its name and its whole content: other content has another key. The same content gives the same bytes, so
//!   that a list that did not change is found again, and an upload can be repeated.

use std::{fmt, str::FromStr};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    error::Unspecified,
    hkdf::{HKDF_SHA256, Salt},
    rand,
};

/// What each sealed object begins with.
const MAGIC: &[u8; 16] = b"kubedb-sealed-1\n";
/// Magic, id of the key, fingerprint.
pub(crate) const HEADER: usize = 16 + ID + 32;
const ID: usize = 16;
/// Bytes that each chunk is longer than its content.
pub(crate) const TAG: usize = 16;
/// Content of a chunk: it is encrypted while it is in a processor's cache, and little is lost by a tag for each.
pub(crate) const CHUNK: usize = 1 << 20;

/// Which data key it is: a hash of it, so that no other key can be passed off as this one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; ID]);

/// What content is encrypted with.
#[derive(Clone, PartialEq, Eq)]
pub struct DataKey([u8; 32]);

/// What is in one pack is encrypted with this.
pub(crate) struct PackKey {
    key: LessSafeKey,
    name: String,
}

/// Why something sealed was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It was not sealed.
    #[error("it is not encrypted, though it should be")]
    Plain,
    /// With another key.
    #[error("it is encrypted with key {found}, not with {wanted}")]
    OtherKey {
        /// Which.
        found: KeyId,
        /// Which it should be.
        wanted: KeyId,
    },
    /// What the key says is not what lies there.
    #[error("it was changed since it was encrypted, or belongs elsewhere")]
    Changed,
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, hex::FromHexError> {
        let mut id = [0; ID];
        hex::decode_to_slice(text, &mut id)?;
        // One spelling alone, since it is part of names.
        (hex::encode(id) == text)
            .then_some(Self(id))
            .ok_or(hex::FromHexError::InvalidStringLength)
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataKey({})", self.id())
    }
}

impl fmt::Debug for PackKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackKey({})", self.name)
    }
}

/// The key that an object says it is sealed with, if it is.
pub(crate) fn sealed_with(bytes: &[u8]) -> Option<KeyId> {
    let rest = bytes.strip_prefix(MAGIC)?;
    rest.first_chunk().copied().map(KeyId)
}

/// Length of an object that is sealed, of one that has so many bytes.
pub(crate) fn sealed_length(bytes: u64) -> u64 {
    let chunks = bytes.div_ceil(CHUNK as u64).max(1);
    bytes + HEADER as u64 + chunks * TAG as u64
}

impl DataKey {
    /// A new one.
    pub(super) fn random() -> Result<Self, Unspecified> {
        let mut key = [0; 32];
        rand::fill(&mut key)?;
        Ok(Self(key))
    }

    /// The one that everybody knows.
    pub(super) fn zero() -> Self {
        Self([0; 32])
    }

    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Which it is.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let hash = blake3::derive_key("kubedb 2026-11 id of a data key", &self.0);
        let mut id = [0; ID];
        id.copy_from_slice(&hash[..ID]);
        KeyId(id)
    }

    fn derive(&self, salt: &[u8], info: &[&[u8]]) -> Result<LessSafeKey, Unspecified> {
        let pseudo = Salt::new(HKDF_SHA256, salt).extract(&self.0);
        let key = UnboundKey::from(pseudo.expand(info, &AES_256_GCM)?);
        Ok(LessSafeKey::new(key))
    }

    /// The key of a pack, by its name relative to the database's folder.
    pub(crate) fn pack(&self, name: &str) -> Result<PackKey, Unspecified> {
        Ok(PackKey {
            key: self.derive(&[], &[b"kubedb pack 1\0", name.as_bytes()])?,
            name: name.to_owned(),
        })
    }

    fn object(&self, name: &str, fingerprint: &[u8; 32]) -> Result<LessSafeKey, Unspecified> {
        self.derive(fingerprint, &[b"kubedb object 1\0", name.as_bytes()])
    }

    fn fingerprint<'a>(&self, name: &str, content: impl Iterator<Item = &'a [u8]>) -> [u8; 32] {
        let key = blake3::derive_key("kubedb 2026-11 fingerprint of an object", &self.0);
        let mut hasher = blake3::Hasher::new_keyed(&key);
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        for part in content {
            hasher.update(part);
        }
        *hasher.finalize().as_bytes()
    }

    /// Encrypts chunks in place, all but the last of which have [`CHUNK`] bytes; there is at least one. Gives what stands before them.
    pub(crate) fn seal_chunks(
        &self,
        name: &str,
        chunks: &mut [Vec<u8>],
    ) -> Result<[u8; HEADER], Unspecified> {
        let fingerprint = self.fingerprint(name, chunks.iter().map(Vec::as_slice));
        let key = self.object(name, &fingerprint)?;
        let last = chunks.len().checked_sub(1).ok_or(Unspecified)?;
        for (number, chunk) in chunks.iter_mut().enumerate() {
            if number != last && chunk.len() != CHUNK || chunk.len() > CHUNK {
                return Err(Unspecified);
            }
            let nonce = chunk_nonce(number, number == last);
            key.seal_in_place_append_tag(nonce, Aad::from(name.as_bytes()), chunk)?;
        }
        let mut header = [0; HEADER];
        let (magic, rest) = header.split_at_mut(MAGIC.len());
        let (id, place) = rest.split_at_mut(ID);
        magic.copy_from_slice(MAGIC);
        id.copy_from_slice(&self.id().0);
        place.copy_from_slice(&fingerprint);
        Ok(header)
    }

    /// Encrypts an object.
    pub(crate) fn seal(&self, name: &str, content: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let mut chunks: Vec<Vec<u8>> = content.chunks(CHUNK).map(<[u8]>::to_vec).collect();
        if chunks.is_empty() {
            chunks.push(Vec::new());
        }
        let header = self.seal_chunks(name, &mut chunks)?;
        let mut sealed = header.to_vec();
        sealed.reserve_exact(chunks.iter().map(Vec::len).sum());
        for chunk in chunks {
            sealed.extend_from_slice(&chunk);
        }
        Ok(sealed)
    }

    /// Decrypts an object of this name.
    pub(crate) fn open(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let found = sealed_with(sealed).ok_or(OpenError::Plain)?;
        let wanted = self.id();
        if found != wanted {
            return Err(OpenError::OtherKey { found, wanted });
        }
        let changed = |_: Unspecified| OpenError::Changed;
        let rest = sealed.get(MAGIC.len() + ID..).ok_or(OpenError::Changed)?;
        let (fingerprint, body) = rest.split_first_chunk().ok_or(OpenError::Changed)?;
        let key = self.object(name, fingerprint).map_err(changed)?;
        let count = body.len().div_ceil(CHUNK + TAG);
        let mut content = vec![0; body.len().saturating_sub(count * TAG)];
        let mut into = content.as_mut_slice();
        for (number, chunk) in body.chunks(CHUNK + TAG).enumerate() {
            let (stored, tag) = chunk.split_last_chunk::<TAG>().ok_or(OpenError::Changed)?;
            let (here, rest) = into.split_at_mut(stored.len().min(into.len()));
            let nonce = chunk_nonce(number, number + 1 == count);
            let name = Aad::from(name.as_bytes());
            key.open_separate_gather(nonce, name, stored, tag, here)
                .map_err(changed)?;
            into = rest;
        }
        // What a chunk has been sealed to is known to be whole by its tag; that it is what the key was made for, by this.
        let is_same = count > 0
            && self.fingerprint(name, std::iter::once(content.as_slice())) == *fingerprint;
        is_same.then_some(content).ok_or(OpenError::Changed)
    }
}

impl PackKey {
    /// Encrypts what has been put into the pack from `offset` on: all that is in `filling` behind it, in place, and a tag behind that.
    pub(crate) fn seal(
        &self,
        offset: usize,
        filling: &mut bytes::BytesMut,
    ) -> Result<(), Unspecified> {
        let aad = self.aad(offset as u64);
        let tag = self.key.seal_in_place_separate_tag(
            offset_nonce(offset as u64),
            Aad::from(aad),
            filling.get_mut(offset..).ok_or(Unspecified)?,
        )?;
        filling.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Decrypts what lies at `offset` into a buffer.
    pub(crate) fn open(
        &self,
        offset: u64,
        stored: &[u8],
        into: &mut Vec<u8>,
    ) -> Result<(), OpenError> {
        let (stored, tag) = stored.split_last_chunk::<TAG>().ok_or(OpenError::Changed)?;
        into.clear();
        into.resize(stored.len(), 0);
        let aad = Aad::from(self.aad(offset));
        self.key
            .open_separate_gather(offset_nonce(offset), aad, stored, tag, into)
            .map_err(|_| OpenError::Changed)
    }

    fn aad(&self, offset: u64) -> Vec<u8> {
        [self.name.as_bytes(), b"\0", &offset.to_le_bytes()].concat()
    }
}

fn offset_nonce(offset: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&offset.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// A counter, and whether it is the last: an object that was cut, or went on, is noticed.
fn chunk_nonce(number: usize, is_last: bool) -> Nonce {
    let mut nonce = [0; 12];
    nonce[3..11].copy_from_slice(&(number as u64).to_be_bytes());
    nonce[11] = u8::from(is_last);
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> DataKey {
        DataKey([byte; 32])
    }

    #[test]
    fn a_key_is_known_by_its_hash_and_never_shown() {
        let id = key(1).id();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_ne!(id, key(2).id());
        assert!(id.to_string().to_uppercase().parse::<KeyId>().is_err());
        assert_eq!(format!("{:?}", key(1)), format!("DataKey({id})"));
    }

    #[test]
    fn objects_of_several_chunks_cannot_be_cut_joined_or_put_in_another_order() {
        let content: Vec<u8> = (0..2 * CHUNK + 7).map(|at| (at / 3) as u8).collect();
        let sealed = key(1).seal("a", &content).unwrap();
        assert_eq!(sealed.len() as u64, sealed_length(content.len() as u64));
        assert_eq!(key(1).open("a", &sealed).unwrap(), content);
        let (head, body) = sealed.split_at(HEADER);
        let chunks: Vec<&[u8]> = body.chunks(CHUNK + TAG).collect();
        for order in [&[0, 1][..], &[1, 0, 2], &[0, 2], &[0, 1, 2, 2], &[2], &[]] {
            let parts = order.iter().map(|number| chunks[*number]);
            let other: Vec<u8> = [head].into_iter().chain(parts).flatten().copied().collect();
            assert_eq!(
                key(1).open("a", &other),
                Err(OpenError::Changed),
                "{order:?}"
            );
        }
    }

    #[test]
    fn of_a_full_last_chunk_the_end_is_known() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK] {
            let content = vec![5; length];
            let sealed = key(1).seal("a", &content).unwrap();
            assert_eq!(sealed.len() as u64, sealed_length(length as u64));
            assert_eq!(key(1).open("a", &sealed).unwrap(), content, "{length}");
        }
    }

    #[test]
    fn what_is_sealed_for_one_name_or_key_is_nothing_for_another() {
        let sealed = key(1).seal("a", b"content").unwrap();
        assert_eq!(key(1).open("b", &sealed), Err(OpenError::Changed));
        let (found, wanted) = (key(1).id(), key(2).id());
        let other = Err(OpenError::OtherKey { found, wanted });
        assert_eq!(key(2).open("a", &sealed), other);
        assert_eq!(sealed_with(&sealed), Some(found));
        assert_eq!(key(1).open("a", b"content"), Err(OpenError::Plain));
        // The id of another key does not help.
        let mut passed_off = sealed.clone();
        passed_off[16..32].copy_from_slice(&wanted.0);
        assert_eq!(key(2).open("a", &passed_off), Err(OpenError::Changed));
    }

    #[test]
    fn equal_content_gives_equal_bytes_and_other_content_another_key() {
        let seal = |name, content: &[u8]| key(1).seal(name, content).unwrap();
        assert_eq!(seal("a", b"same"), seal("a", b"same"));
        let place = |sealed: Vec<u8>| sealed[32..HEADER].to_vec();
        let all = [
            seal("a", b"same"),
            seal("b", b"same"),
            seal("a", b"Same"),
            seal("as", b"ame"),
        ];
        let places: HashSet<_> = all.into_iter().map(place).collect();
        assert_eq!(places.len(), 4);
    }

    #[test]
    fn nonces_of_one_key_never_come_twice() {
        let bytes = |nonce: Nonce| *nonce.as_ref();
        let chunks =
            (0..5_000).flat_map(|n| [bytes(chunk_nonce(n, false)), bytes(chunk_nonce(n, true))]);
        assert_eq!(chunks.collect::<HashSet<[u8; 12]>>().len(), 10_000);
        let offsets = (0..5_000).map(|n| bytes(offset_nonce(n)));
        assert_eq!(offsets.collect::<HashSet<[u8; 12]>>().len(), 5_000);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_bit_that_flips_in_an_object_is_noticed(content: Vec<u8>, at: prop::sample::Index, bit in 0..8_u8) {
            let mut sealed = key(1).seal("a", &content).unwrap();
            prop_assert_eq!(key(1).open("a", &sealed), Ok(content));
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert!(key(1).open("a", &sealed).is_err());
        }

        #[test]
        fn what_lies_in_a_pack_opens_at_its_place_alone(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 2..8),
            at: prop::sample::Index,
            bit in 0..8_u8,
        ) {
            let pack = key(1).pack("packs/u/00").unwrap();
            let mut filling = BytesMut::new();
            let mut places = Vec::new();
            for part in &parts {
                let offset = filling.len();
                filling.extend_from_slice(part);
                pack.seal(offset, &mut filling).unwrap();
                places.push(offset..filling.len());
            }
            let mut into = Vec::new();
            for (place, part) in places.iter().zip(&parts) {
                pack.open(place.start as u64, &filling[place.clone()], &mut into).unwrap();
                prop_assert_eq!(&into, part);
                // In another pack, with another key, and at another place.
                let other = key(1).pack("packs/u/01").unwrap();
                prop_assert!(other.open(place.start as u64, &filling[place.clone()], &mut into).is_err());
                let other = key(2).pack("packs/u/00").unwrap();
                prop_assert!(other.open(place.start as u64, &filling[place.clone()], &mut into).is_err());
                prop_assert!(pack.open(place.start as u64 + 1, &filling[place.clone()], &mut into).is_err());
            }
            let first = places[0].clone();
            let second = &filling[places[1].clone()];
            prop_assert!(pack.open(first.start as u64, second, &mut into).is_err());
            let at = at.index(filling.len());
            filling[at] ^= 1 << bit;
            let hit = places.iter().find(|place| place.contains(&at)).unwrap();
            prop_assert!(pack.open(hit.start as u64, &filling[hit.clone()], &mut into).is_err());
        }
    }
}
