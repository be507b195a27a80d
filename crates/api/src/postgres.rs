//! `Postgres`: a database.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, PersistentVolumeClaimSpec, ResourceRequirements, Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, ResourceExt as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::archiver::{Archiver, PostgresWal, RecoveryTarget};
use crate::dormant_database::KeptData;
use crate::monitor::Monitor;
use crate::pod_template::PodTemplate;
use crate::protocol::{InstanceStatus, RestoreSource, SnapshotTask};
use crate::retention::Retention;
use crate::snapshot::{SnapshotMethod, SnapshotTarget};
use crate::storage::SnapshotStorage;
use crate::summary::SnapshotSummary;
use crate::untyped::{Unbuilt, VersionText};
use crate::verification::ScheduledVerification;

/// What the user wants of a database.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubedb.com",
    version = "v1alpha1",
    kind = "Postgres",
    plural = "postgreses",
    singular = "postgres",
    shortname = "pg",
    namespaced,
    status = "PostgresStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".spec.version"}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct PostgresSpec {
    /// Name of a PostgresVersion, as text or bare number.
    #[serde(default)]
    pub version: VersionText,
    /// Primary and standbys together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Whether standbys answer queries; `Hot` and `Warm` are accepted too.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standby_mode: Option<StandbyMode>,
    /// How commits reach standbys.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streaming_mode: Option<StreamingMode>,
    /// Secret with the superuser's password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database_secret: Option<DatabaseSecret>,
    /// Claim of each instance's data volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<PersistentVolumeClaimSpec>,
    /// What the database starts from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<InitSource>,
    /// When Snapshots are taken, and where to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_schedule: Option<BackupSchedule>,
    /// Refuses deletion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_not_pause: Option<bool>,
    /// What deletion does; Pause when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub termination_policy: Option<TerminationPolicy>,
    /// Keeps every change as it is made, so that any moment can come back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archiver: Option<Archiver>,
    /// Who scrapes its metrics, and where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitor: Option<Monitor>,
    /// Labels that a node must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Which nodes, and beside whom. Without `podAntiAffinity` instances rather keep apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Taints that are borne.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<Toleration>>,
    /// Who places the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler_name: Option<String>,
    /// Secrets by which images are pulled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_secrets: Option<Vec<LocalObjectReference>>,
    /// Of the container of PostgreSQL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// The later spelling of all of these, and more of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
    /// Not built yet; refused by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_source: Option<Unbuilt>,
    /// Not built yet; refused by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_type: Option<Unbuilt>,
    /// Not built yet; refused by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_template: Option<Unbuilt>,
    /// Not built yet; refused by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replica_service_template: Option<Unbuilt>,
    /// Not built yet; refused by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_strategy: Option<Unbuilt>,
    /// Not built yet; refused by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader_election: Option<Unbuilt>,
}

/// Fields of `spec` that are known and not built.
pub const UNBUILT_FIELDS: &[&str] = &[
    "configSource",
    "storageType",
    "serviceTemplate",
    "replicaServiceTemplate",
    "updateStrategy",
    "leaderElection",
];

/// Whether standbys answer queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StandbyMode {
    /// Read-only queries are answered.
    #[serde(rename = "hot", alias = "Hot")]
    Hot,
    /// Standbys only follow.
    #[serde(rename = "warm", alias = "Warm")]
    Warm,
}

/// How commits reach standbys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StreamingMode {
    /// Commits do not wait.
    #[serde(rename = "asynchronous", alias = "Asynchronous")]
    Asynchronous,
}

/// What deleting the database does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TerminationPolicy {
    /// Keeps data and a DormantDatabase.
    Pause,
    /// Deletes data, keeps Secrets and Snapshots.
    Delete,
    /// Deletes data, Secrets, Snapshots and their data.
    WipeOut,
    /// Refuses deletion.
    DoNotTerminate,
}

/// Names the Secret with the superuser's password.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseSecret {
    /// The Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
}

/// What a database starts from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InitSource {
    /// Scripts, run once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script_source: Option<ScriptSource>,
    /// A Snapshot to restore.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_source: Option<SnapshotSource>,
    /// An archive to recover from.
    #[serde(skip_serializing_if = "Option::is_none", rename = "postgresWAL")]
    pub postgres_wal: Option<PostgresWal>,
}

/// Where scripts lie: `scriptPath` and one volume source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScriptSource {
    /// Path below the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script_path: Option<String>,
    /// A ConfigMap whose keys are the scripts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_map: Option<k8s_openapi::api::core::v1::ConfigMapVolumeSource>,
    /// A Secret whose keys are the scripts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<k8s_openapi::api::core::v1::SecretVolumeSource>,
    /// A folder of the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_path: Option<k8s_openapi::api::core::v1::HostPathVolumeSource>,
    /// A volume claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim:
        Option<k8s_openapi::api::core::v1::PersistentVolumeClaimVolumeSource>,
    /// An NFS share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nfs: Option<k8s_openapi::api::core::v1::NFSVolumeSource>,
    /// A git repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_repo: Option<k8s_openapi::api::core::v1::GitRepoVolumeSource>,
}

/// Names the Snapshot to restore.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotSource {
    /// Namespace of the Snapshot; the database's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The Snapshot.
    #[serde(default)]
    pub name: String,
    /// How far behind the Snapshot the archive of its database is replayed; not at all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<RecoveryTarget>,
    /// Of a logical Snapshot, the databases that come back; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub databases: Option<Vec<String>>,
}

/// When Snapshots are taken, and where to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupSchedule {
    /// Expression such as `@every 6h` or `0 3 * * *`.
    #[serde(default)]
    pub cron_expression: String,
    /// Where to.
    #[serde(flatten)]
    pub storage: SnapshotStorage,
    /// What each backup may take: `limits.cpu` holds what reads and compresses, `limits.memory` its buffers. It runs in the pod of
    /// its database, so `requests` reserve nothing: those of `podTemplate.spec.resources` do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Bytes of the database that are read a second at most, such as `50Mi`; as fast as it goes when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rate: Option<Quantity>,
    /// IANA zone the expression is read in; UTC when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Stops the schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// Which Snapshots are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// How Snapshots are taken; Physical when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<SnapshotMethod>,
    /// Which instance is read; PreferStandby when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<SnapshotTarget>,
    /// How many seconds late a Snapshot may still be made; one that is later is left to the next tick. However late when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starting_deadline_seconds: Option<i64>,
    /// What of each Snapshot is verified, once it succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<ScheduledVerification>,
}

/// Where a database stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PostgresPhase {
    /// Comes into being.
    Creating,
    /// Restores or runs scripts.
    Initializing,
    /// Accepts connections.
    Running,
    /// `reason` says why.
    Failed,
}

/// Where clients connect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// `host:port` of the primary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// `host:port` of each standby.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub standbys: Vec<String>,
}

/// The first Snapshot of a database whose WAL is archived, as the operator remembers it until one has succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FirstSnapshot {
    /// When it was decided; its name carries this time.
    #[schemars(with = "String")]
    pub time: Timestamp,
    /// How often one was decided: those before it failed.
    pub tries: i32,
    /// Decided, and perhaps not there yet.
    #[serde(default)]
    pub pending: bool,
}

/// What is known of a database.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PostgresStatus {
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<PostgresPhase>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the operator first saw it.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_time: Option<Timestamp>,
    /// Generation this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Instance that is primary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// Where clients connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Endpoints>,
    /// Instances that accept connections in their role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// Last scheduled time that was served.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<Timestamp>,
    /// Next scheduled time.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_schedule_time: Option<Timestamp>,
    /// Scheduled time whose Snapshot is being made: decided, and perhaps not there yet.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_schedule_time: Option<Timestamp>,
    /// Expression that the next time was computed from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_expression: Option<String>,
    /// The Snapshot that the operator makes by itself, where an archive has none to begin from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_snapshot: Option<FirstSnapshot>,
    /// The earliest moment that can come back: when the oldest Snapshot of this data was complete.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub earliest_restorable_time: Option<Timestamp>,
    /// The latest, some minute behind what the primary reports.
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest_restorable_time: Option<Timestamp>,
    /// How its Snapshots are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<SnapshotSummary>,
    /// Full PostgreSQL version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres_version: Option<String>,
    /// Resolved restore source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<RestoreSource>,
    /// Data that this database took over from a paused one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumed: Option<KeptData>,
    /// Where the earliest Snapshot of this database begins that is known, in any store: archived WAL from here on is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_wal_from: Option<String>,
    /// Assigned tasks, by Snapshot.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<String, SnapshotTask>,
    /// Reports of the agents, by instance.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub instances: BTreeMap<String, InstanceStatus>,
}

impl Postgres {
    /// Whatever had been committed by then is archived, as its primary last told.
    #[must_use]
    pub fn covered_time(&self) -> Option<Timestamp> {
        let reports = self.status.as_ref()?.instances.values();
        reports
            .filter_map(|report| report.archive.as_ref()?.covered_time)
            .max()
    }

    /// The data that it has, or shall have: its own, or what it took over.
    #[must_use]
    pub fn kept_data(&self) -> KeptData {
        let status = self.status.as_ref();
        let resumed = status.and_then(|status| status.resumed.clone());
        let own = KeptData {
            uid: self.uid().unwrap_or_default(),
            ..KeptData::default()
        };
        let data = resumed.unwrap_or(own);
        let instances = status.map(|status| &status.instances).into_iter().flatten();
        let lineage = instances
            .filter_map(|(_, report)| report.lineage.clone())
            .next();
        KeptData {
            begun: data.begun || lineage.is_some(),
            lineage: lineage.or(data.lineage),
            uid: data.uid,
        }
    }
}
