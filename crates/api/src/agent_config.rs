//! The file a platform hands to `kubedb agent run --config FILE`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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
    /// Port PostgreSQL listens on.
    pub port: u16,
    /// Kubeconfig with the agent's own token; read anew when the API cannot be reached.
    pub kubeconfig: PathBuf,
}
