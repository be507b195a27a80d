//! Continuous archiving, and what a database is recovered to.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::storage::SnapshotStorage;

/// Where every change goes as it is made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Archiver {
    /// Where to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<SnapshotStorage>,
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
    /// Where the archive lies; the prefix is its whole path, such as `kubedb/demo/wal-postgres/archive`.
    #[serde(flatten)]
    pub storage: SnapshotStorage,
}

/// Up to where an archive is replayed, in the original's words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pitr {
    /// Time, with its zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_time: Option<String>,
    /// Number of a timeline, or `latest`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_timeline: Option<String>,
    /// Number of a transaction.
    #[serde(skip_serializing_if = "Option::is_none", rename = "targetXID")]
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xid: Option<String>,
    /// Name of a restore point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The end of the Snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub immediate: Option<bool>,
    /// Number of a timeline, or `latest`.
    #[serde(skip_serializing_if = "Option::is_none")]
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
    /// Up to where.
    #[serde(default)]
    pub target: RecoveryTarget,
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
}
