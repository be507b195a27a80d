//! Maps: the lower level of a manifest. Each lists some files and where their content lies.
//!
//! Where one map ends and the next begins depends on paths and sizes, so that a Snapshot of an unchanged part of a database
//! gives an equal map, which it refers to instead of writing it again.

use std::io::Read as _;

use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::manifest::{ObjectRef, values};
use crate::{
    encryption::{DataKey, KeyError},
    store::{Store, StoreError},
};

/// Bytes of a map before compression, at most: a single file of half a terabyte in units of 1 MiB takes 80 MB.
pub const MAP_BYTES: u64 = 128 << 20;

/// Most values in a map: a unit has eight, and such a file 4 194 304. Nothing else needs as little text for as much memory as an empty one.
const MAP_VALUES: usize = 1 << 22;

/// Largest window that a frame may ask for, as a power of two: writers use 2 MiB.
const WINDOW_LOG: u32 = 24;

/// Files in one map, at most.
const MAP_FILES: usize = 4_096;

/// Units in one map, at most; a file of 1 GiB has 1 024, and 131 072 where each page was last changed at another time.
const MAP_UNITS: usize = 65_536;

/// Bytes of one unit, read or stored, at most; writers use a sixteenth.
const UNIT_BYTES: u32 = 16 << 20;

/// Larger than any file of a data folder: relations are cut at 1 GiB, and the file systems that servers run on end at 16 TiB to some more.
const FILE_BYTES: u64 = 1 << 46;

/// A map ends after so many MiB and paths, on average, so that what is rewritten for a change is as large as what is around it.
const MIB_PER_MAP: u64 = 512;

/// A list of files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Map {
    /// Names of packs relative to the database's folder; units refer to them by number.
    pub packs: Vec<String>,
    /// Files and folders, by path.
    pub files: Vec<FileEntry>,
}

/// A file or folder of the data folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path relative to the data folder, with `/`. Tablespaces stand below `pg_tblspc/<oid>`.
    pub path: String,
    /// Folders have no bytes.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_folder: bool,
    /// Length in bytes; what no unit covers is zero.
    pub bytes: u64,
    /// Content in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<Unit>,
}

/// A stretch of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// Where it begins in the file.
    pub at: u64,
    /// Its length in the file.
    pub raw: u32,
    /// Number of its pack in [`Map::packs`].
    pub pack: u32,
    /// Where it begins in the pack.
    pub offset: u64,
    /// Its length in the pack.
    pub stored: u32,
    /// How it is stored.
    pub codec: Codec,
    /// BLAKE3 of what was stored, unpacked, hexadecimal.
    pub blake3: String,
    /// Where it begins in what was stored, unpacked.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub from: u32,
    /// Length of what was stored, unpacked, where that is more than this unit: pages that changed together are stored together,
    /// and of what was stored once a part may have changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u32>,
    /// BLAKE3 of this unit alone, hexadecimal, where it is a part and others are of no use any more: so that one who has it already need not fetch it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
}

/// How a unit is stored. Zeros are not stored at all: the file is longer there than its units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// As it is.
    Plain,
    /// One zstd frame.
    Zstd,
}

/// Why a map cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// Not written by us, or changed since.
    #[error("failed to verify map: {0}")]
    Damaged(String),
    /// zstd or JSON failed while writing.
    #[error("failed to encode map")]
    Encode(#[source] std::io::Error),
    /// It was not encrypted.
    #[error(transparent)]
    Seal(Box<KeyError>),
}

/// Why a map was not had from the store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadMapError {
    #[error(transparent)]
    Store(StoreError),
    #[error("{0}")]
    Damaged(String),
    #[error(transparent)]
    Map(MapError),
    #[error("failed to wait for who unpacks it")]
    Worker,
}

/// A map that arrives damaged is fetched again so often: the network may have done it.
const FETCHES: u32 = 2;

/// What every map is sealed under: its name follows from its content, and who refers to it knows its hash.
const SEAL_NAME: &str = "map";

/// Reads a map by its key, and verifies it. With a data key it must be encrypted.
pub(crate) async fn read(
    store: &Store,
    key: &str,
    object: &ObjectRef,
    data_key: Option<&DataKey>,
) -> Result<Map, ReadMapError> {
    // Packed it is smaller than unpacked, or at least not larger than the limit of that.
    let limit = object.bytes.min(MAP_BYTES);
    let mut tried = 0;
    let bytes = loop {
        tried += 1;
        let wrong = match store.read(key, limit).await {
            Ok(bytes) if bytes.len() as u64 != object.bytes => {
                format!("it has {} bytes instead of {}", bytes.len(), object.bytes)
            }
            Ok(bytes) if blake3::hash(&bytes).to_hex().as_str() == object.blake3 => break bytes,
            Ok(_) => "its content does not fit its hash".to_owned(),
            Err(StoreError::TooLarge { .. }) => "it is longer than it was".to_owned(),
            Err(error) => return Err(ReadMapError::Store(error)),
        };
        if tried == FETCHES {
            return Err(ReadMapError::Damaged(wrong));
        }
    };
    let data_key = data_key.cloned();
    let decoded = spawn_blocking(move || Map::decode_with(&bytes, data_key.as_ref())).await;
    let decoded = decoded.map_err(|_| ReadMapError::Worker)?;
    decoded.map_err(ReadMapError::Map)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_false(value: &bool) -> bool {
    !*value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl Unit {
    /// Length of what was stored, unpacked.
    #[must_use]
    pub fn whole(&self) -> u32 {
        self.of.unwrap_or(self.raw)
    }
}

impl Map {
    /// The object's bytes: JSON in a zstd frame.
    pub fn encode(&self) -> Result<Vec<u8>, MapError> {
        let json = serde_json::to_vec(self).map_err(|error| MapError::Encode(error.into()))?;
        zstd::bulk::compress(&json, 3).map_err(MapError::Encode)
    }

    /// The same, encrypted where there is a key. Equal maps give equal bytes.
    pub(crate) fn encode_with(&self, key: Option<&DataKey>) -> Result<Vec<u8>, MapError> {
        let encoded = self.encode()?;
        match key {
            None => Ok(encoded),
            Some(key) => key
                .seal(SEAL_NAME, &encoded)
                .map_err(|error| MapError::Seal(Box::new(error.into()))),
        }
    }

    /// Reads an object's bytes, encrypted where there is a key.
    pub(crate) fn decode_with(bytes: &[u8], key: Option<&DataKey>) -> Result<Self, MapError> {
        match key {
            None => Self::decode(bytes),
            Some(key) => {
                let opened = key.open(SEAL_NAME, bytes);
                Self::decode(&opened.map_err(|error| MapError::Damaged(error.to_string()))?)
            }
        }
    }

    /// Reads an object's bytes, whose hash the caller has checked, and checks that every path and number is sound.
    pub fn decode(bytes: &[u8]) -> Result<Self, MapError> {
        let damaged = |reason: String| MapError::Damaged(reason);
        let mut json = Vec::new();
        zstd::stream::read::Decoder::new(bytes)
            .and_then(|mut decoder| {
                decoder.window_log_max(WINDOW_LOG)?;
                decoder.take(MAP_BYTES + 1).read_to_end(&mut json)
            })
            .map_err(|error| damaged(format!("it does not unpack: {error}")))?;
        if json.len() as u64 > MAP_BYTES || values(&json) > MAP_VALUES {
            return Err(damaged("it is larger than any that we write".to_owned()));
        }
        let map: Self = serde_json::from_slice(&json)
            .map_err(|error| damaged(format!("it is no list of files: {error}")))?;
        match map
            .files
            .iter()
            .find_map(|file| file.fault(map.packs.len()))
        {
            Some(fault) => Err(damaged(fault)),
            None => Ok(map),
        }
    }
}

impl FileEntry {
    fn fault(&self, packs: usize) -> Option<String> {
        if !is_safe_path(&self.path) {
            return Some(format!("path {:?} leaves the data folder", self.path));
        }
        if self.bytes > FILE_BYTES {
            return Some(format!(
                "{:?} is said to have {} bytes, which no file has",
                self.path, self.bytes
            ));
        }
        let mut end = 0;
        for unit in &self.units {
            let is_small = unit.whole() <= UNIT_BYTES && unit.stored <= UNIT_BYTES;
            let end_of_part = unit.from.checked_add(unit.raw);
            let is_part = end_of_part.is_some_and(|end| end <= unit.whole());
            let is_sound = is_small
                && is_part
                && !self.is_folder
                && unit.at >= end
                && (unit.pack as usize) < packs;
            end = unit.at.saturating_add(u64::from(unit.raw));
            if !is_sound || end > self.bytes {
                return Some(format!("the content of {:?} is not in order", self.path));
            }
        }
        None
    }
}

/// Whether a path stays below the folder it is put in: no root, no `..`, no empty part.
#[must_use]
pub fn is_safe_path(path: &str) -> bool {
    path.len() <= 1_024
        && !path.contains(['\0', '\\'])
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// Whether the map that this file was just added to is to end here; it has so many units by now. Mostly the path and the size of the file alone
/// decide, so that maps of what has not changed come out equal.
#[must_use]
pub fn ends_map(map: &Map, units: usize) -> bool {
    let Some(file) = map.files.last() else {
        return false;
    };
    let hash = blake3::hash(file.path.as_bytes());
    let [a, b, c, d, ..] = *hash.as_bytes();
    let chance = u64::from(u32::from_le_bytes([a, b, c, d])) % MIB_PER_MAP;
    map.files.len() >= MAP_FILES || units >= MAP_UNITS || chance <= file.bytes >> 20
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(path: &str, at: u64, pack: u32) -> Map {
        let unit = Unit {
            at,
            raw: 10,
            pack,
            offset: 0,
            stored: 10,
            codec: Codec::Plain,
            blake3: String::new(),
            from: 0,
            of: None,
            part: None,
        };
        let file = FileEntry {
            path: path.to_owned(),
            is_folder: false,
            bytes: 20,
            units: vec![unit],
        };
        Map {
            packs: vec!["packs/u/00".to_owned()],
            files: vec![file],
        }
    }

    #[test]
    fn maps_come_back_as_they_were() {
        let whole = map("base/1/2", 10, 0);
        assert_eq!(Map::decode(&whole.encode().unwrap()).unwrap(), whole);
    }

    #[test]
    fn t36_what_would_write_elsewhere_is_refused() {
        for path in [
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a//b",
            "",
            ".",
            "a\0",
            "a/.",
        ] {
            let bytes = map(path, 0, 0).encode().unwrap();
            assert!(Map::decode(&bytes).is_err(), "{path}");
        }
        for (at, pack) in [(11, 0), (0, 1), (u64::MAX, 0)] {
            let bytes = map("x", at, pack).encode().unwrap();
            assert!(Map::decode(&bytes).is_err(), "{at} {pack}");
        }
        assert!(Map::decode(b"no map").is_err());
    }

    #[test]
    fn t17_a_part_lies_within_what_was_stored() {
        for (from, of, is_sound) in [
            (0, None, true),
            (1, None, false),
            (0, Some(9), false),
            (5, Some(15), true),
            (6, Some(15), false),
            (u32::MAX, Some(15), false),
            (0, Some(UNIT_BYTES + 1), false),
        ] {
            let mut map = map("x", 0, 0);
            (map.files[0].units[0].from, map.files[0].units[0].of) = (from, of);
            let read = Map::decode(&map.encode().unwrap());
            assert_eq!(read.is_ok(), is_sound, "{from} {of:?}");
            assert!(!is_sound || read.unwrap() == map);
        }
    }

    #[test]
    fn maps_end_by_path_and_size() {
        let ends = |path: &str, bytes: u64, units| {
            let mut map = map(path, 0, 0);
            map.files[0].bytes = bytes;
            ends_map(&map, units)
        };
        assert!(ends("base/1/2", 1 << 30, 0) && ends("base/1/2", 0, MAP_UNITS));
        let count = |bytes| {
            let paths = (0..4_096).filter(|path| ends(&path.to_string(), bytes, 0));
            paths.count()
        };
        assert!((2..30).contains(&count(8_192)), "{}", count(8_192));
        assert!((400..650).contains(&count(64 << 20)), "{}", count(64 << 20));
    }
}
