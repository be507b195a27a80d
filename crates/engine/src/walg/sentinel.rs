//! What says that a backup is complete, and what became of its files.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kubedb_core::lsn::{Lsn, TimelineId};
use serde::Deserialize;
use serde_json::Value;

/// What a backup says of itself.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Sentinel {
    #[serde(rename = "LSN", default)]
    start: Option<u64>,
    #[serde(rename = "FinishLSN", default)]
    stop: Option<u64>,
    /// Such as 150004 or 90624.
    #[serde(rename = "PgVersion", default)]
    pub(super) version: u32,
    #[serde(rename = "SystemIdentifier", default)]
    pub(super) system_identifier: Option<u64>,
    /// The backup of which it holds what has changed since.
    #[serde(rename = "DeltaFrom", default)]
    pub(super) parent: Option<String>,
    #[serde(rename = "UncompressedSize", default)]
    bytes: i64,
    /// Size of the data folder, where it is told.
    #[serde(rename = "DataCatalogSize", default)]
    data_bytes: i64,
    #[serde(rename = "FilesMetadataDisabled", default)]
    pub(super) lists_no_files: bool,
    #[serde(rename = "FinishTime", default)]
    finished: Option<String>,
    #[serde(rename = "Spec", alias = "spec", default)]
    tablespaces: Option<Value>,
}

impl Sentinel {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }

    /// Where replay begins.
    pub(super) fn start(&self) -> Option<Lsn> {
        self.start.filter(|start| *start > 0).map(Lsn)
    }

    /// Where it is consistent.
    pub(super) fn stop(&self) -> Option<Lsn> {
        let stop = self.stop.filter(|stop| Some(*stop) >= self.start);
        stop.map(Lsn)
    }

    /// The major: `15`, or `9.6`.
    pub(super) fn major(&self) -> String {
        match self.version {
            version @ 100_000.. => (version / 10_000).to_string(),
            version => format!("{}.{}", version / 10_000, version / 100 % 100),
        }
    }

    pub(super) fn finished(&self) -> Option<Timestamp> {
        self.finished.as_deref()?.parse().ok()
    }

    /// Bytes on disk, as far as they are told.
    pub(super) fn bytes(&self) -> u64 {
        u64::try_from(self.data_bytes.max(self.bytes)).unwrap_or(0)
    }

    /// Numbers of the tablespaces outside of the data folder.
    pub(super) fn tablespaces(&self) -> Vec<String> {
        let names = self.tablespaces.as_ref().map(|spec| &spec["tablespaces"]);
        let names = names.and_then(Value::as_array).into_iter().flatten();
        names
            .map(|name| {
                name.as_str()
                    .map_or_else(|| name.to_string(), str::to_owned)
            })
            .collect()
    }
}

/// The timeline that the name of a backup tells: `base_` and the name of the segment in which it begins.
pub(super) fn timeline_of(backup: &str) -> Option<TimelineId> {
    let segment = backup.strip_prefix("base_")?.get(..24)?;
    let is_name = segment
        .bytes()
        .all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte));
    let timeline = u32::from_str_radix(segment.get(..8)?, 16).ok()?;
    (is_name && timeline > 0).then_some(TimelineId(timeline))
}

/// What became of each file.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Files {
    #[serde(rename = "Files", default)]
    files: BTreeMap<String, FileState>,
    #[serde(rename = "TarFileSets", default)]
    sets: BTreeMap<String, Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct FileState {
    #[serde(rename = "IsIncremented", default)]
    is_incremented: bool,
}

impl Files {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let read: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let relative = |path: &str| path.trim_start_matches('/').to_owned();
        let files = read.files.into_iter();
        Ok(Self {
            files: files
                .map(|(path, state)| (relative(&path), state))
                .collect(),
            sets: read.sets,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Paths of all files of the data folder, also of those that an earlier backup has.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Whether there is a file of this path.
    pub(super) fn has(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    /// Paths of those of which the pages are stored that have changed.
    pub(super) fn incremented(&self) -> BTreeSet<String> {
        let files = self.files.iter();
        let files = files.filter(|(_, state)| state.is_incremented);
        files.map(|(path, _)| path.clone()).collect()
    }

    /// Archives in which anything is, without what they are packed with.
    pub(super) fn parts(&self) -> BTreeSet<&str> {
        let sets = self.sets.iter().filter(|(_, files)| !files.is_empty());
        sets.map(|(name, _)| super::codec::Codec::of(name).0)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentinel_is_read_as_either_version_writes_it() {
        let text = br#"{"LSN":33554472,"PgVersion":150018,"FinishLSN":33554720,"SystemIdentifier":7577777777777777777,
            "UncompressedSize":23,"CompressedSize":2,"DataCatalogSize":40,"Spec":{"base_prefix":"/d","tablespaces":["16385"]},
            "Version":2,"FinishTime":"2026-11-26T14:05:00.123Z"}"#;
        let read = Sentinel::read(text).unwrap();
        assert_eq!(read.start(), Some(Lsn(33_554_472)));
        assert_eq!(read.stop(), Some(Lsn(33_554_720)));
        assert_eq!(read.system_identifier, Some(7_577_777_777_777_777_777));
        assert_eq!((read.major().as_str(), read.bytes()), ("15", 40));
        assert_eq!(read.tablespaces(), ["16385"]);
        assert!(read.finished().is_some());
        let old =
            Sentinel::read(br#"{"LSN":1,"PgVersion":90624,"FinishLSN":2,"Spec":null}"#).unwrap();
        assert_eq!(old.major(), "9.6");
        assert!(old.tablespaces().is_empty() && old.finished().is_none());
    }

    #[test]
    fn t10_the_timeline_of_a_backup_is_hexadecimal() {
        let timeline = |name: &str| timeline_of(name).map(|timeline| timeline.0);
        assert_eq!(timeline("base_000000010000000000000003"), Some(1));
        assert_eq!(
            timeline("base_0000001F0000000000000003_D_000000010000000000000002"),
            Some(31)
        );
        for name in [
            "base_0000000",
            "base_00000000000000000000000G",
            "x",
            "base_000000000000000000000003",
        ] {
            assert_eq!(timeline(name), None, "{name}");
        }
    }

    #[test]
    fn files_have_relative_paths_whoever_wrote_them() {
        let text = br#"{"Files":{"/base/1/2":{"IsIncremented":true,"MTime":"2026-11-26T14:05:00Z"},"PG_VERSION":{"IsIncremented":false}},
            "TarFileSets":{"part_001.tar.lz4":["/base/1/2"],"part_002.tar.lz4":[]}}"#;
        let files = Files::read(text).unwrap();
        assert!(files.has("base/1/2") && files.has("PG_VERSION"));
        assert_eq!(
            files.incremented().into_iter().collect::<Vec<_>>(),
            ["base/1/2"]
        );
        assert_eq!(
            files.parts().into_iter().collect::<Vec<_>>(),
            ["part_001.tar"]
        );
    }
}
