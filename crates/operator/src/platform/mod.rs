//! The platform port: what the operator asks of Kubernetes, or of one machine's processes and folders.
//!
//! A platform carries out and observes. It never decides.

pub mod kubernetes;

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures::{StreamExt as _, stream::BoxStream};
use k8s_openapi::api::core::v1::PersistentVolumeClaimSpec;
use kubedb_api::{
    agent_config::DataTask, monitor::Monitor, pod_template::PodTemplateSpec, storage::LocalStorage,
};

/// Which database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatabaseKey {
    /// Namespace of the Postgres object.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The workload a database shall have.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredDatabase {
    /// Which database.
    pub key: DatabaseKey,
    /// UID of the Postgres object.
    pub uid: String,
    /// UID that its data bears: that of the object, or of the one that it resumes. Data of another UID is not this database's.
    pub data_uid: String,
    /// PostgreSQL version of the catalogue's entry: full, such as `9.6.24`, or a major, such as `15`.
    pub version: String,
    /// Folder of programs that the catalogue's entry names.
    pub bin_directory: Option<String>,
    /// Number of instances, named `<name>-0` to `<name>-<n-1>`.
    pub replicas: u32,
    /// The instance that the primary endpoint leads to; none while unknown.
    pub primary: Option<String>,
    /// The instances that the standbys endpoint leads to.
    pub standbys: Vec<String>,
    /// Secrets an agent of this database may read, as (namespace, name).
    pub secrets: Vec<(String, String)>,
    /// ConfigMaps of its own namespace that an agent may read.
    pub config_maps: Vec<String>,
    /// Whether the database's Lease exists.
    pub has_lease: bool,
    /// Who scrapes its metrics, and where.
    pub monitor: Option<Monitor>,
    /// Volumes that its agents reach for now; where they cannot mount them, somebody serves them.
    pub volumes: Vec<LocalStorage>,
    /// What its containers are made of.
    pub container: DesiredContainer,
}

/// What the containers of a database are made of; a machine of processes needs none of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DesiredContainer {
    /// Image that holds PostgreSQL.
    pub image: String,
    /// User that PostgreSQL runs as in it.
    pub user: i64,
    /// Group that the volume is given to.
    pub group: i64,
    /// Claim of each instance's volume.
    pub volume: PersistentVolumeClaimSpec,
    /// Labels that the user put on the database; its pods have them too.
    pub labels: BTreeMap<String, String>,
    /// The same of annotations.
    pub annotations: BTreeMap<String, String>,
    /// What the user says of the pods.
    pub pods: PodTemplateSpec,
}

/// What a platform sees of a database. Absent instances are absent from the map.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedDatabase {
    /// Stable address of the primary, `host:port`.
    pub primary_endpoint: Option<String>,
    /// Stable address of the standbys.
    pub standbys_endpoint: Option<String>,
    /// Why instances that there should be cannot be made, in the words of whoever refuses them.
    pub refusal: Option<String>,
    /// Why whoever is to scrape its metrics does not find them.
    pub monitor_refusal: Option<String>,
    /// Full version of the resolved PostgreSQL build, pinned for this database.
    pub postgres_version: Option<String>,
    /// The instances by name.
    pub instances: BTreeMap<String, ObservedInstance>,
}

/// What a platform sees of one instance's agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedInstance {
    /// Whether its agent process (or pod) runs.
    pub running: bool,
    /// How often it was restarted since the platform started.
    pub restarts: u32,
    /// Why it does not run, in words.
    pub reason: Option<String>,
}

/// Where a piece of work stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// In work.
    Running {
        /// What keeps it from starting, in words.
        obstacle: Option<String>,
    },
    /// Done.
    Succeeded,
    /// Given up. It is tried anew once it was forgotten.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Why a platform could not do something.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// No build of this version can be had; waiting does not help.
    #[error("failed to resolve PostgreSQL {version}: {reason}")]
    ResolveVersion {
        /// Version asked for.
        version: String,
        /// What was tried.
        reason: String,
    },
    /// The cluster refuses it until somebody changes something: a quota, a right, what is in the way.
    #[error("failed to {action}: {reason}")]
    Refuse {
        /// What was tried.
        action: String,
        /// Why, in the words of whoever refused.
        reason: String,
    },
    /// The machine or the cluster failed; worth another try.
    #[error("failed to {action}")]
    Act {
        /// What was tried, as in "start instance demo/pg-0".
        action: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Carries out what the operator decided, and says what it sees.
#[async_trait]
pub trait Platform: Send + Sync + 'static {
    /// Makes the workload so. Idempotent; returns before instances are ready.
    async fn apply(&self, desired: &DesiredDatabase) -> Result<(), PlatformError>;

    /// What is there now; `None` if nothing is.
    async fn observe(&self, key: &DatabaseKey) -> Result<Option<ObservedDatabase>, PlatformError>;

    /// Databases of which something changed without being asked: they are looked at again.
    fn changes(&self) -> BoxStream<'static, DatabaseKey> {
        futures::stream::pending().boxed()
    }

    /// Stops every instance and takes the endpoints away. Data folders stay. Done when it returns `true`; call again until then.
    async fn remove(&self, key: &DatabaseKey) -> Result<bool, PlatformError>;

    /// Deletes the data of a database that was removed: folders or volumes. Done when it returns `true`; call again until then.
    async fn wipe(&self, key: &DatabaseKey, data_uid: &str) -> Result<bool, PlatformError>;

    /// Deletes a Snapshot's data where no agent can: begins it unless it was begun, and says where it stands. `image_pull_secrets` name what the
    /// program's image may need.
    async fn delete_data(
        &self,
        task: &DataTask,
        image_pull_secrets: &[String],
    ) -> Result<TaskState, PlatformError>;

    /// Forgets such a piece of work, whether it is over or not.
    async fn forget_data(&self, task: &DataTask) -> Result<(), PlatformError>;
}
