//! `Snapshot`: one backup of a database.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::protocol::{BackupLimits, Progress, SnapshotResult};
use crate::quantity;
use crate::storage::SnapshotStorage;
use crate::verification::Verification;

/// What the user wants of a Snapshot.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubedb.com",
    version = "v1alpha1",
    kind = "Snapshot",
    plural = "snapshots",
    singular = "snapshot",
    shortname = "snap",
    namespaced,
    status = "SnapshotStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"DatabaseName","type":"string","jsonPath":".spec.databaseName"}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotSpec {
    /// The database, in the same namespace.
    #[serde(default)]
    pub database_name: String,
    /// Where to.
    #[serde(flatten)]
    pub storage: SnapshotStorage,
    /// What the backup may take: `limits.cpu` holds what reads and compresses, `limits.memory` its buffers. It runs in the pod of
    /// its database, so `requests` reserve nothing: those of `podTemplate.spec.resources` do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Box<ResourceRequirements>>,
    /// Bytes of the database that are read a second at most, such as `50Mi`; as fast as it goes when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rate: Option<Quantity>,
    /// How it is taken; Physical when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<SnapshotMethod>,
    /// Which instance is read; PreferStandby when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<SnapshotTarget>,
    /// What deletion does with the data; Delete when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
    /// Other namespaces that may restore it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_namespaces: Option<Vec<String>>,
}

/// How a Snapshot is taken, and so what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SnapshotMethod {
    /// The files of the data folder. The next one costs what changed, and WAL can be replayed behind it.
    #[default]
    Physical,
    /// Schemas and rows as SQL, which a later major version restores too.
    Logical,
}

/// Which instance a Snapshot is read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SnapshotTarget {
    /// The primary alone.
    Primary,
    /// A standby that is not far behind, to spare the primary; the primary where there is none.
    #[default]
    PreferStandby,
}

impl SnapshotSpec {
    /// What the backup is held to.
    #[must_use]
    pub fn limits(&self) -> Option<BackupLimits> {
        let limits = self
            .resources
            .as_ref()
            .and_then(|wanted| wanted.limits.as_ref());
        let limit = |name| limits?.get(name).map(|quantity| quantity.0.as_str());
        let limits = BackupLimits {
            cpu_millis: limit("cpu").and_then(quantity::thousandths),
            memory_bytes: limit("memory").and_then(quantity::whole),
            bytes_per_second: self
                .max_rate
                .as_ref()
                .and_then(|rate| quantity::whole(&rate.0)),
        };
        (limits != BackupLimits::default()).then_some(limits)
    }

    /// Whether it holds SQL, which no WAL can be replayed behind.
    #[must_use]
    pub fn is_logical(&self) -> bool {
        self.method == Some(SnapshotMethod::Logical)
    }
}

/// What deletion does with the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// Deletes it.
    Delete,
    /// Keeps it.
    Retain,
}

/// Where a Snapshot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SnapshotPhase {
    /// Waits for its turn.
    Pending,
    /// In work.
    Running,
    /// The manifest was read back.
    Succeeded,
    /// `reason` says why.
    Failed,
}

/// What is known of a Snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotStatus {
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<SnapshotPhase>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it started.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    /// When it ended.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Timestamp>,
    /// While Pending: since when nothing but itself keeps it from starting.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<Timestamp>,
    /// What a standby must have replayed before the current attempt starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_lsn: Option<String>,
    /// Current attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Instance that runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Generation this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// What was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<SnapshotResult>>,
    /// Its last verification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification: Option<Box<Verification>>,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
