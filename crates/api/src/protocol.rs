//! What the operator and the agents tell each other, all of it inside `Postgres.status`.
//!
//! Maps are keyed by instance and by Snapshot name, because a JSON merge patch replaces a list whole
//! and two writers would overwrite each other.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::archiver::{ArchiveStatus, Recovery};
use crate::monitor::MetricsStatus;
use crate::snapshot::SnapshotMethod;
use crate::storage::SnapshotStorage;
use crate::verification::VerificationRequest;

/// A backup that the operator assigned to an instance (`status.tasks.<snapshot>`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotTask {
    /// UID of the Snapshot object, so that a recreated object of the same name is another task.
    pub snapshot_uid: String,
    /// The instance that shall run it.
    pub instance: String,
    /// Counts assignments; part of the manifest's key, so that a stale agent's commit loses.
    pub attempt: u32,
    /// `Backup`, `Delete` or `Verify`.
    pub action: TaskAction,
    /// Where the data goes. Secrets are named, never carried.
    pub storage: SnapshotStorage,
    /// A standby must have replayed at least this LSN before it starts (text form, `0/3000060`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_lsn: Option<String>,
    /// When the operator gives the task up.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// With `Backup`: how it is taken; Physical when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<SnapshotMethod>,
    /// With `Backup`: what it is held to; nothing when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<BackupLimits>,
    /// With `Verify`: what shall be proven of what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<VerifyTask>,
}

/// What a backup is held to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupLimits {
    /// Thousandths of a processor for what reads and compresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// Bytes of its buffers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Bytes that are read a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
}

/// What a verification is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerifyTask {
    /// Key of the manifest below the store's root.
    pub manifest: String,
    /// How much shall be proven.
    pub request: VerificationRequest,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerificationResult {
    /// Whether everything asked for is proven; else it is proven that the Snapshot is not as it should be.
    pub sound: bool,
    /// Whether what is wrong is its data; otherwise the user's query failed.
    pub damaged: bool,
    /// What was proven, or what is wrong.
    pub found: String,
    /// Bytes read of the store.
    pub bytes: i64,
}

/// What a task asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TaskAction {
    /// Take the Snapshot.
    Backup,
    /// Delete the Snapshot's data.
    Delete,
    /// Verify the Snapshot's data.
    Verify,
}

/// What a new database is restored from (`status.bootstrap`), resolved by the operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreSource {
    /// Namespace of the Snapshot and of its storage Secret.
    pub namespace: String,
    /// Database the Snapshot was taken of.
    pub database: String,
    /// Name of the Snapshot; empty where it is found in an archive.
    #[serde(default)]
    pub snapshot: String,
    /// Manifest key as the Snapshot's status gives it; empty likewise.
    #[serde(default)]
    pub manifest: String,
    /// The store it lies in.
    pub storage: SnapshotStorage,
    /// WAL that is replayed behind the Snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
    /// How the Snapshot was taken; Physical when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<SnapshotMethod>,
    /// The databases that are wanted of a logical one; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub databases: Option<Vec<String>>,
}

/// What an agent reports of its instance (`status.instances.<instance>`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstanceStatus {
    /// `primary`, `standby`; absent while unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<InstanceRole>,
    /// What the instance is doing.
    pub phase: InstancePhase,
    /// Whether it accepts connections in its role.
    pub ready: bool,
    /// Why it is in this phase, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Session id of the reporting agent process.
    pub session: String,
    /// When the agent last reported.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_time: Option<Timestamp>,
    /// When PostgreSQL was started.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    /// `host:port` of PostgreSQL itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Full version, such as `9.6.24`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres_version: Option<String>,
    /// Identifier that initdb gave the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<String>,
    /// Repository lineage, minted at bootstrap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lineage: Option<String>,
    /// Current timeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// Write position of a primary, replay position of a standby.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lsn: Option<String>,
    /// Standby: whether its WAL receiver streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streaming: Option<bool>,
    /// Primary with an archiver: how archiving goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveStatus>,
    /// With `spec.monitor`: where it answers with its metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<MetricsStatus>,
    /// Progress and outcome of the tasks assigned to it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<String, TaskStatus>,
}

/// Role of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InstanceRole {
    /// Accepts writes.
    Primary,
    /// Follows the primary.
    Standby,
}

/// What an instance is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum InstancePhase {
    /// Nothing decided yet, or waiting for the primary.
    #[default]
    Waiting,
    /// initdb or script initialisation.
    Bootstrapping,
    /// Copying the primary.
    Cloning,
    /// Restoring a Snapshot.
    Restoring,
    /// PostgreSQL is coming up.
    Starting,
    /// PostgreSQL is up.
    Running,
    /// PostgreSQL is down on purpose.
    Stopped,
    /// Cannot go on; `reason` says why.
    Failed,
}

/// Progress and outcome of one task, written by the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskStatus {
    /// The Snapshot's UID, as in the task.
    pub snapshot_uid: String,
    /// The attempt this belongs to.
    pub attempt: u32,
    /// The agent session that runs it.
    pub session: String,
    /// Where it stands.
    pub phase: TaskPhase,
    /// Last sign of life.
    #[schemars(with = "String")]
    pub heartbeat_time: Timestamp,
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// What was made, once it succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<SnapshotResult>,
    /// What a verification found, once it succeeded in finding something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification: Option<VerificationResult>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether another attempt can help; absent while it runs and when it succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retryable: Option<bool>,
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TaskPhase {
    /// In work.
    Running,
    /// Done; for a backup: the manifest was read back.
    Succeeded,
    /// Given up; `reason` says why.
    Failed,
}

/// Bytes done out of bytes to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Bytes of the database read so far.
    pub done_bytes: i64,
    /// Bytes of the database to read, as estimated at the start.
    pub total_bytes: i64,
    /// Bytes sent to the store so far.
    pub uploaded_bytes: i64,
}

/// What a finished Snapshot is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotResult {
    /// Key of the manifest below the store's root.
    pub manifest: String,
    /// Repository lineage.
    pub lineage: String,
    /// Identifier of the PostgreSQL cluster.
    pub system_identifier: String,
    /// Full PostgreSQL version.
    pub postgres_version: String,
    /// Timeline it was taken on.
    pub timeline: u32,
    /// LSN at which replay starts.
    pub start_lsn: String,
    /// LSN at which the copy is consistent.
    pub stop_lsn: String,
    /// Size of the database's files.
    pub database_bytes: i64,
    /// Bytes read.
    pub read_bytes: i64,
    /// Bytes sent to the store.
    pub uploaded_bytes: i64,
    /// Bytes this Snapshot needs in the store, shared ones included.
    pub stored_bytes: i64,
    /// The Snapshot that this one was compared with: what had not changed since was not sent again. Either can be deleted without the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Why everything was sent, where it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole_reason: Option<String>,
    /// What a logical one holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logical: Option<Box<LogicalResult>>,
}

/// What a logical Snapshot holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogicalResult {
    /// Databases.
    pub databases: i64,
    /// Tables.
    pub tables: i64,
    /// Rows.
    pub rows: i64,
    /// Whether all databases are seen at one point; else they are some milliseconds apart.
    pub one_point: bool,
    /// The pg_dump that read the schemas.
    pub pg_dump: String,
}
