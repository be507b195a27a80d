//! Maps: the lower level of a manifest. Each lists some files and where their content lies.
//!
//! Where one map ends and the next begins depends on the paths alone, so that a Snapshot of an unchanged part of a database
//! would write an equal map.

use std::io::Read as _;

use serde::{Deserialize, Serialize};

use super::manifest::values;

/// Bytes of a map before compression, at most: a single file of half a terabyte in units of 1 MiB takes 80 MB.
pub const MAP_BYTES: u64 = 128 << 20;

/// Most values in a map: a unit has eight, and such a file 4 194 304. Nothing else needs as little text for as much memory as an empty one.
const MAP_VALUES: usize = 1 << 22;

/// Largest window that a frame may ask for, as a power of two: writers use 2 MiB.
const WINDOW_LOG: u32 = 24;

/// Files in one map, at most.
const MAP_FILES: usize = 4_096;

/// Units in one map, at most; a file of 1 GiB has 256.
const MAP_UNITS: usize = 65_536;

/// Bytes of one unit, read or stored, at most; writers use a sixteenth.
const UNIT_BYTES: u32 = 16 << 20;

/// Larger than any file of a data folder: relations are cut at 1 GiB, and the file systems that servers run on end at 16 TiB to some more.
const FILE_BYTES: u64 = 1 << 46;

/// One path in so many ends its map, on average.
const PATHS_PER_MAP: u32 = 512;

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
    /// BLAKE3 of the content as it is in the file, hexadecimal.
    pub blake3: String,
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
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_false(value: &bool) -> bool {
    !*value
}

impl Map {
    /// The object's bytes: JSON in a zstd frame.
    pub fn encode(&self) -> Result<Vec<u8>, MapError> {
        let json = serde_json::to_vec(self).map_err(|error| MapError::Encode(error.into()))?;
        zstd::bulk::compress(&json, 3).map_err(MapError::Encode)
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
            let is_small = unit.raw <= UNIT_BYTES && unit.stored <= UNIT_BYTES;
            let is_sound =
                is_small && !self.is_folder && unit.at >= end && (unit.pack as usize) < packs;
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

/// Whether the map that this file was just added to is to end here.
#[must_use]
pub fn ends_map(map: &Map, path: &str) -> bool {
    let units: usize = map.files.iter().map(|file| file.units.len()).sum();
    let hash = blake3::hash(path.as_bytes());
    let [a, b, c, d, ..] = *hash.as_bytes();
    map.files.len() >= MAP_FILES
        || units >= MAP_UNITS
        || u32::from_le_bytes([a, b, c, d]) % PATHS_PER_MAP == 0
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
}
