//! What a platform hands to an agent: a file on a machine of its own, a variable in a pod.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::storage::SnapshotStorage;

/// Everything an agent cannot learn from the API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentConfig {
    /// Namespace of the database.
    pub namespace: String,
    /// Name of the Postgres object.
    pub database: String,
    /// UID of the Postgres object: an agent of a deleted and recreated database stops itself.
    pub database_uid: String,
    /// UID that the instance's data bears, where it is not that of the object: the database was resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_uid: Option<String>,
    /// Name of the instance, `<database>-<ordinal>`.
    pub instance: String,
    /// Ordinal; 0 may bootstrap the database.
    pub ordinal: u32,
    /// Folder of the instance; the agent puts `data/`, `conf/`, `log/` and `kubedb-instance.json` below it.
    pub directory: PathBuf,
    /// Folder of PostgreSQL's Unix socket, short enough for a socket's 107 bytes; only the agent's user may enter it.
    pub socket_directory: PathBuf,
    /// Folder that holds `postgres` and `initdb`.
    pub bin_directory: PathBuf,
    /// Full PostgreSQL version of that folder, such as `9.6.24`.
    pub postgres_version: String,
    /// Address PostgreSQL listens on.
    pub listen_address: String,
    /// Host that the other instances reach it at; the address it listens on when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertised_host: Option<String>,
    /// Port PostgreSQL listens on.
    pub port: u16,
    /// Kubeconfig with the agent's own token; read anew when the API cannot be reached. In a pod there is none: its service account counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// Port at which the agent says how it is; none where nobody asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_port: Option<u16>,
    /// Port that is kept for metrics, used while `spec.monitor` names no other; none where every instance has an address of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_port: Option<u16>,
}

impl AgentConfig {
    /// UID that the instance's data bears.
    #[must_use]
    pub fn data_uid(&self) -> &str {
        self.data_uid.as_deref().unwrap_or(&self.database_uid)
    }

    /// `host:port` that others reach its PostgreSQL at.
    #[must_use]
    pub fn endpoint(&self) -> String {
        let host = self.advertised_host.as_ref();
        format!("{}:{}", host.unwrap_or(&self.listen_address), self.port)
    }
}

/// Variables that lead out of a machine or a cluster: agents have them as whoever starts them has.
pub const WAYS_OUT: [&str; 9] = [
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "https_proxy",
    "http_proxy",
    "all_proxy",
    "no_proxy",
    "STORAGE_EMULATOR_HOST",
];

/// Name of the variable that holds a `PodConfig`.
pub const POD_CONFIG: &str = "KUBEDB_POD";
/// Name of the variable that holds the pod's name, which is the instance's.
pub const POD_NAME: &str = "POD_NAME";
/// Where an agent in a pod says how it is.
pub const HEALTH_PORT: u16 = 8008;
/// Where PostgreSQL listens in a pod.
pub const POSTGRES_PORT: u16 = 5432;

/// What all pods of a database are told; the rest each finds out by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodConfig {
    /// Namespace of the database.
    pub namespace: String,
    /// Name of the Postgres object.
    pub database: String,
    /// UID of the Postgres object.
    pub database_uid: String,
    /// UID that its data bears, where it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_uid: Option<String>,
    /// Headless Service that gives each pod a name.
    pub service: String,
    /// Where the volume is mounted.
    pub volume: PathBuf,
    /// Folder of PostgreSQL's Unix socket.
    pub socket_directory: PathBuf,
    /// Folder that holds `postgres` and `initdb`, where the catalogue names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bin_directory: Option<PathBuf>,
    /// Version or major that the image must hold.
    pub version: String,
}

/// Name of the variable that holds a `DataTask`.
pub const TASK: &str = "KUBEDB_TASK";
/// Where a pod of a task finds the storage Secret: a file for each key.
pub const TASK_SECRET: &str = "/run/kubedb-storage";

/// A Snapshot whose data is to be deleted by nobody's agent. Secrets are named in `storage`; their values come on another way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DataTask {
    /// Namespace of the Snapshot.
    pub namespace: String,
    /// Database it was taken of.
    pub database: String,
    /// Lineage whose archive of WAL is deleted, in place of a Snapshot's data; then there is no Snapshot, and the next two fields name the work alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
    /// Its name.
    pub snapshot: String,
    /// Its UID.
    pub snapshot_uid: String,
    /// Where the data lies.
    pub storage: SnapshotStorage,
}

/// What a platform of processes writes to the standard input of a task, so that no value of a Secret is in an argument or a file.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TaskInput {
    /// What to do.
    pub task: DataTask,
    /// Data of the storage Secret.
    pub credentials: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for TaskInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskInput")
            .field("task", &self.task)
            .finish_non_exhaustive()
    }
}

/// Name of the variable that holds a `VolumeTask`.
pub const VOLUME_TASK: &str = "KUBEDB_VOLUME";
/// Where a volume is served.
pub const VOLUME_PORT: u16 = 8443;
/// Where the pod that serves a volume finds its certificate, its key and the authority of who may ask.
pub const VOLUME_CERTIFICATES: &str = "/run/kubedb-certificates";

/// Name of the Secret with the certificates of both sides.
#[must_use]
pub fn volume_secret(database: &str) -> String {
    format!("{database}-store")
}

/// Address of who serves a volume.
#[must_use]
pub fn volume_endpoint(service: &str, namespace: &str) -> String {
    format!("https://{service}.{namespace}.svc:{VOLUME_PORT}")
}

/// A volume that is served to the agents of one database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumeTask {
    /// Namespace of the database: what is kept of others is not shown.
    pub namespace: String,
    /// The database: nothing is written but its own.
    pub database: String,
    /// The folder, as it is mounted.
    pub storage: SnapshotStorage,
}
