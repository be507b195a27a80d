//! Continuous archiving, and what a database is recovered to.

use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    storage::{LocalStorage, SnapshotStorage},
    untyped::{NumberText, number_or_text},
};

/// Where every change goes as it is made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Archiver {
    /// Where to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<SnapshotStorage>,
    /// How long the archive may be behind the primary while something is written: from 1 second, which is the default, to 60. Each lag stores a piece of the
    /// segment in work; at 60 only whole segments are stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_lag_seconds: Option<i32>,
}

impl Archiver {
    /// Longest lag: a segment is ended after as long, and stored whole.
    pub const LONGEST_LAG: i32 = 60;

    /// How long the archive may be behind; nothing where whole segments are enough.
    #[must_use]
    pub fn max_lag(&self) -> Option<Duration> {
        let seconds = self.max_lag_seconds.unwrap_or(1).max(1);
        let seconds = u64::try_from(seconds).unwrap_or(1);
        (seconds < Self::LONGEST_LAG as u64).then(|| Duration::from_secs(seconds))
    }
}

/// An archive that a database is recovered from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PostgresWal {
    /// Snapshot to begin from; the latest that serves when absent, or `LATEST`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_name: Option<String>,
    /// Up to where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pitr: Option<Pitr>,
    /// Who made it; kubedb when absent. The path of one of wal-g's layout is that of the folder in which `basebackups_005` lies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<ArchiveLayout>,
    /// Where the archive lies; the prefix is its whole path, such as `kubedb/demo/wal-postgres/archive`. Of a `local` one that is `mountPath` and `subPath`
    /// together.
    #[serde(flatten)]
    pub storage: SnapshotStorage,
}

/// How base backups and WAL are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ArchiveLayout {
    /// As kubedb does.
    #[serde(rename = "kubedb")]
    Kubedb,
    /// As wal-g does, and programs that write as it does.
    #[serde(rename = "wal-g")]
    WalG,
}

/// What the path of an archive ends in, for people.
pub const ARCHIVE_PATH: &str = "kubedb/NAMESPACE/DATABASE/archive";

/// An archive as its path names it.
#[derive(Clone, Debug, PartialEq)]
pub struct ArchivePlace {
    /// The store, as `archiver.storage` of the database named it.
    pub storage: SnapshotStorage,
    /// Namespace of the database.
    pub namespace: String,
    /// Its name.
    pub database: String,
}

/// A path that is none of an archive: the field that says it, and what it says, if anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} names no archive: it must end in {ARCHIVE_PATH}", said(.path.as_deref()))]
pub struct ReadPlaceError {
    /// Field below the storage, such as `s3.prefix`.
    pub field: &'static str,
    /// The path.
    pub path: Option<String>,
}

fn said(path: Option<&str>) -> String {
    path.map_or_else(|| "nothing".to_owned(), |path| format!("{path:?}"))
}

impl PostgresWal {
    /// The Snapshot to begin from, where one is named.
    #[must_use]
    pub fn snapshot(&self) -> Option<&str> {
        let named = self.backup_name.as_deref();
        named.filter(|name| !name.is_empty() && *name != LATEST)
    }

    /// The field of a storage that holds the path of an archive.
    #[must_use]
    pub fn path_field(storage: &SnapshotStorage) -> &'static str {
        let sub = storage
            .local
            .as_ref()
            .and_then(|local| local.sub_path.as_ref());
        if storage.local.is_some() {
            let is_below = sub.is_some_and(|path| !path.trim_matches('/').is_empty());
            if is_below {
                "local.subPath"
            } else {
                "local.mountPath"
            }
        } else if storage.gcs.is_some() {
            "gcs.prefix"
        } else if storage.azure.is_some() {
            "azure.prefix"
        } else if storage.swift.is_some() {
            "swift.prefix"
        } else {
            "s3.prefix"
        }
    }

    /// Takes the path of the archive apart.
    pub fn place(&self) -> Result<ArchivePlace, ReadPlaceError> {
        let mut storage = self.storage.clone();
        let field = Self::path_field(&storage);
        let prefixes = [
            storage.s3.as_mut().map(|store| &mut store.prefix),
            storage.gcs.as_mut().map(|store| &mut store.prefix),
            storage.azure.as_mut().map(|store| &mut store.prefix),
            storage.swift.as_mut().map(|store| &mut store.prefix),
        ];
        let prefix = prefixes.into_iter().flatten().next();
        let (namespace, database) = match (&mut storage.local, prefix) {
            (Some(local), _) => cut_local(local)?,
            (None, Some(prefix)) => cut_prefix(field, prefix)?,
            (None, None) => return Err(ReadPlaceError { field, path: None }),
        };
        Ok(ArchivePlace {
            storage,
            namespace,
            database,
        })
    }
}

/// The word for the latest Snapshot that serves.
const LATEST: &str = "LATEST";

/// What stands before the archive's own path, and whose archive it is.
fn cut(path: &str) -> Option<(&str, String, String)> {
    let path = path.trim_end_matches('/').strip_suffix("/archive")?;
    let (path, database) = path.rsplit_once('/')?;
    let (path, namespace) = path.rsplit_once('/')?;
    let before = path.strip_suffix("kubedb")?;
    let is_whole = before.is_empty() || before.ends_with('/');
    let is_named = !namespace.is_empty() && !database.is_empty();
    (is_whole && is_named).then(|| (before, namespace.to_owned(), database.to_owned()))
}

fn cut_prefix(
    field: &'static str,
    prefix: &mut Option<String>,
) -> Result<(String, String), ReadPlaceError> {
    let path = prefix.clone().unwrap_or_default();
    let (before, namespace, database) = cut(&path).ok_or_else(|| ReadPlaceError {
        field,
        path: prefix.clone().filter(|path| !path.is_empty()),
    })?;
    let before = before.trim_matches('/');
    *prefix = (!before.is_empty()).then(|| before.to_owned());
    Ok((namespace, database))
}

/// A folder is named by two fields, and either may hold the archive's own path; the folder of the machine stands for `mountPath` where it is given.
fn cut_local(local: &mut LocalStorage) -> Result<(String, String), ReadPlaceError> {
    let sub = local
        .sub_path
        .clone()
        .filter(|path| !path.trim_matches('/').is_empty());
    if let Some(path) = sub {
        let (before, namespace, database) = cut(&path).ok_or(ReadPlaceError {
            field: "local.subPath",
            path: Some(path.clone()),
        })?;
        let before = before.trim_matches('/');
        local.sub_path = (!before.is_empty()).then(|| before.to_owned());
        return Ok((namespace, database));
    }
    let mut whose = None;
    let host = local
        .host_path
        .as_mut()
        .map(|host| ("local.hostPath.path", &mut host.path));
    let mount = local
        .mount_path
        .as_mut()
        .map(|path| ("local.mountPath", path));
    for (field, path) in host.into_iter().chain(mount) {
        let wrong = || ReadPlaceError {
            field,
            path: Some(path.clone()),
        };
        let (before, namespace, database) = cut(path).ok_or_else(wrong)?;
        let found = (namespace, database);
        if whose.as_ref().is_some_and(|whose| *whose != found) {
            return Err(wrong());
        }
        let before = before.trim_end_matches('/');
        *path = if before.is_empty() { "/" } else { before }.to_owned();
        whose = Some(found);
    }
    whose.ok_or(ReadPlaceError {
        field: "local.mountPath",
        path: None,
    })
}

/// Up to where an archive is replayed, in the original's words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pitr {
    /// Time, with its zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_time: Option<String>,
    /// Number of a timeline, or `latest`.
    #[schemars(with = "Option<NumberText>")]
    #[serde(
        default,
        deserialize_with = "number_or_text",
        skip_serializing_if = "Option::is_none"
    )]
    pub target_timeline: Option<String>,
    /// Number of a transaction.
    #[schemars(with = "Option<NumberText>")]
    #[serde(
        default,
        rename = "targetXID",
        deserialize_with = "number_or_text",
        skip_serializing_if = "Option::is_none"
    )]
    pub target_xid: Option<String>,
    /// Position, from PostgreSQL 10 on.
    #[serde(skip_serializing_if = "Option::is_none", rename = "targetLSN")]
    pub target_lsn: Option<String>,
    /// Name of a restore point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_name: Option<String>,
    /// The end of the Snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_immediate: Option<bool>,
    /// Whether what lies exactly there is replayed; true when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_inclusive: Option<bool>,
}

/// Up to where a Snapshot's database is replayed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryTarget {
    /// Time, with its zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Position, from PostgreSQL 10 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lsn: Option<String>,
    /// Number of a transaction.
    #[schemars(with = "Option<NumberText>")]
    #[serde(
        default,
        deserialize_with = "number_or_text",
        skip_serializing_if = "Option::is_none"
    )]
    pub xid: Option<String>,
    /// Name of a restore point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The end of the Snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub immediate: Option<bool>,
    /// Number of a timeline, or `latest`.
    #[schemars(with = "Option<NumberText>")]
    #[serde(
        default,
        deserialize_with = "number_or_text",
        skip_serializing_if = "Option::is_none"
    )]
    pub timeline: Option<String>,
    /// Whether what lies exactly there is replayed; true when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inclusive: Option<bool>,
}

impl From<&Pitr> for RecoveryTarget {
    fn from(pitr: &Pitr) -> Self {
        Self {
            time: pitr.target_time.clone(),
            lsn: pitr.target_lsn.clone(),
            xid: pitr.target_xid.clone(),
            name: pitr.target_name.clone(),
            immediate: pitr.target_immediate,
            timeline: pitr.target_timeline.clone(),
            inclusive: pitr.target_inclusive,
        }
    }
}

impl From<&RecoveryTarget> for Pitr {
    fn from(target: &RecoveryTarget) -> Self {
        Self {
            target_time: target.time.clone(),
            target_lsn: target.lsn.clone(),
            target_xid: target.xid.clone(),
            target_name: target.name.clone(),
            target_immediate: target.immediate,
            target_timeline: target.timeline.clone(),
            target_inclusive: target.inclusive,
        }
    }
}

impl RecoveryTarget {
    /// The fields, to be read by the rules of `core`.
    #[must_use]
    pub fn fields(&self) -> kubedb_core::recovery::TargetFields<'_> {
        kubedb_core::recovery::TargetFields {
            time: self.time.as_deref(),
            lsn: self.lsn.as_deref(),
            xid: self.xid.as_deref(),
            name: self.name.as_deref(),
            immediate: self.immediate.unwrap_or(false),
            timeline: self.timeline.as_deref(),
            inclusive: self.inclusive,
        }
    }
}

/// WAL behind a Snapshot, and how far it is replayed (`status.bootstrap.recovery`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// Where the archive lies, as `archiver.storage` of the source named it. Its Secret lies in the source's namespace.
    pub storage: SnapshotStorage,
    /// Namespace of the database whose archive it is.
    pub namespace: String,
    /// Name of that database.
    pub database: String,
    /// Snapshot to begin from, where the source names no manifest; the latest that serves when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_name: Option<String>,
    /// Whatever had been committed by then is in the archive, as its database last told: a target up to here that no later commit ends is reached at the end
    /// of the archive.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub covered_time: Option<Timestamp>,
    /// Up to where.
    #[serde(default)]
    pub target: RecoveryTarget,
    /// Who made it; kubedb when absent. Of another layout the storage is the whole path, and there is neither namespace nor name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<ArchiveLayout>,
}

/// How archiving goes, as the primary's agent reports it (`status.instances.<instance>.archive`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveStatus {
    /// Last segment that was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_segment: Option<String>,
    /// When that was.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_archived_time: Option<Timestamp>,
    /// Whatever had been committed by then is stored.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub covered_time: Option<Timestamp>,
    /// Segments that are complete and wait.
    #[serde(default)]
    pub waiting_segments: i32,
    /// Since when nothing could be stored.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// While nothing can be stored: when the disk is full of WAL, if it goes on being written as it is.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_full_time: Option<Timestamp>,
    /// Places of the archive where WAL is missing that later WAL builds on, as last listed: nothing behind the first can come back from a Snapshot before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gaps: Option<i32>,
    /// The first segment that is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wal(storage: serde_json::Value) -> PostgresWal {
        serde_json::from_value(storage).unwrap()
    }

    #[test]
    fn a_path_is_cut_where_kubedb_begins() {
        for (prefix, before) in [
            ("kubedb/demo/wal-postgres/archive", None),
            ("/kubedb/demo/wal-postgres/archive/", None),
            ("backups/kubedb/demo/wal-postgres/archive", Some("backups")),
            (
                "a/kubedb/b/kubedb/demo/wal-postgres/archive",
                Some("a/kubedb/b"),
            ),
        ] {
            let place =
                wal(json!({"storageSecretName": "s", "s3": {"bucket": "b", "prefix": prefix}}));
            let place = place.place().unwrap();
            assert_eq!(
                (place.namespace.as_str(), place.database.as_str()),
                ("demo", "wal-postgres")
            );
            assert_eq!(
                place.storage.s3.unwrap().prefix.as_deref(),
                before,
                "{prefix}"
            );
            assert_eq!(place.storage.storage_secret_name.as_deref(), Some("s"));
        }
        for prefix in [
            "",
            "archive",
            "kubedb/demo/archive",
            "mykubedb/demo/pg/archive",
            "kubedb/demo/pg/archives",
            "kubedb//pg/archive",
        ] {
            let wrong = wal(json!({"gcs": {"bucket": "b", "prefix": prefix}}))
                .place()
                .unwrap_err();
            assert_eq!(wrong.field, "gcs.prefix", "{prefix}");
        }
    }

    #[test]
    fn a_folder_is_cut_in_the_field_that_names_the_archive() {
        let local = |fields: serde_json::Value| wal(json!({ "local": fields })).place();
        let archive = "kubedb/demo/pg/archive";
        let place =
            local(json!({"mountPath": "/b", "subPath": format!("deep/{archive}")})).unwrap();
        let left = place.storage.local.unwrap();
        assert_eq!(
            (left.mount_path.as_deref(), left.sub_path.as_deref()),
            (Some("/b"), Some("deep"))
        );
        let whole = format!("/b/{archive}/");
        let place = local(json!({"mountPath": whole})).unwrap();
        assert_eq!(
            place.storage.local.unwrap().mount_path.as_deref(),
            Some("/b")
        );
        let place = local(json!({"mountPath": whole, "hostPath": {"path": format!("/{archive}")}}))
            .unwrap();
        let left = place.storage.local.unwrap();
        assert_eq!(
            (
                left.mount_path.as_deref(),
                left.host_path.unwrap().path.as_str()
            ),
            (Some("/b"), "/")
        );
        for (fields, field) in [
            (json!({"mountPath": "/b"}), "local.mountPath"),
            (
                json!({"mountPath": "/b", "subPath": "kubedb"}),
                "local.subPath",
            ),
            (
                json!({"mountPath": whole, "hostPath": {"path": "/srv"}}),
                "local.hostPath.path",
            ),
            (
                json!({"mountPath": "/b/kubedb/demo/other/archive", "hostPath": {"path": whole}}),
                "local.mountPath",
            ),
        ] {
            assert_eq!(local(fields.clone()).unwrap_err().field, field, "{fields}");
        }
    }

    #[test]
    fn numbers_are_read_as_they_are_written() {
        let target: RecoveryTarget =
            serde_json::from_value(json!({"xid": 700, "timeline": 2})).unwrap();
        assert_eq!(
            (target.xid.as_deref(), target.timeline.as_deref()),
            (Some("700"), Some("2"))
        );
        let pitr: Pitr =
            serde_json::from_value(json!({"targetXID": "700", "targetTimeline": "latest"}))
                .unwrap();
        let target = RecoveryTarget::from(&pitr);
        assert_eq!(
            (target.xid.as_deref(), target.timeline.as_deref()),
            (Some("700"), Some("latest"))
        );
        // What nobody could have meant is read all the same, and refused where targets are read: an object in an API server must be readable.
        let strange: RecoveryTarget =
            serde_json::from_value(json!({"xid": true, "timeline": null})).unwrap();
        assert!(strange.fields().read().is_err());
        assert_eq!(strange.timeline, None);
    }
}
