//! What an agent may ask of the Kubernetes API: its own Postgres, its Lease, the Secrets it was named.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{ConfigMap, Pod, Secret},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use kubedb_api::{Postgres, agent_config::AgentConfig, labels};
use serde_json::{Value, json};

use crate::proxy::{self, names_proxy};

/// How long the API may take to answer: a heartbeat's interval.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// How long a Lease holds without a renewal.
const LEASE_SECONDS: i32 = 30;

/// Why the API did not serve.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The kubeconfig cannot be used.
    #[error("failed to read kubeconfig {path}")]
    ReadKubeconfig {
        /// The file.
        path: String,
        /// What is wrong.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// The pod has no service account that could be used.
    #[error("failed to use the pod's service account")]
    UseServiceAccount(#[source] kube::config::InClusterError),
    /// The API refused, or could not be reached.
    #[error("failed to {action}")]
    Request {
        /// What was tried.
        action: String,
        /// What it said.
        #[source]
        source: Box<kube::Error>,
    },
    /// A Secret lacks a key.
    #[error("failed to find key {key} in Secret {name}")]
    FindKey {
        /// The Secret.
        name: String,
        /// The key.
        key: String,
    },
}

impl ApiError {
    /// Whether what the request was about was changed, or went, since it was read.
    pub(crate) fn is_out_of_date(&self) -> bool {
        let Self::Request { source, .. } = self else {
            return false;
        };
        matches!(&**source, kube::Error::Api(status) if matches!(status.code, 404 | 409))
    }
}

/// The API as this instance sees it.
#[derive(Clone)]
pub struct OwnApi {
    /// None in a pod.
    kubeconfig: Option<PathBuf>,
    /// One for all copies: who finds that the server has moved finds it for everybody.
    client: Arc<Mutex<Client>>,
    namespace: String,
    database: String,
    instance: String,
}

impl fmt::Debug for OwnApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnApi")
            .field("namespace", &self.namespace)
            .field("database", &self.database)
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

impl OwnApi {
    /// Reads the kubeconfig; no request is made.
    pub async fn open(config: &AgentConfig) -> Result<Self, ApiError> {
        Ok(Self {
            client: Arc::new(Mutex::new(connect(config.kubeconfig.as_deref()).await?)),
            kubeconfig: config.kubeconfig.clone(),
            namespace: config.namespace.clone(),
            database: config.database.clone(),
            instance: config.instance.clone(),
        })
    }

    /// Whether this is a pod, which sees no folder of its machine.
    #[must_use]
    pub fn is_in_pod(&self) -> bool {
        self.kubeconfig.is_none()
    }

    /// The namespace of the database.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its name.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Reads the kubeconfig anew, for all copies: a restarted server has another port.
    pub async fn reopen(&self) -> Result<(), ApiError> {
        let client = connect(self.kubeconfig.as_deref()).await?;
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
        Ok(())
    }

    fn client(&self) -> Client {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        client.clone()
    }

    /// Access to Postgres objects of the own namespace, for the watch.
    #[must_use]
    pub fn postgreses(&self) -> Api<Postgres> {
        Api::namespaced(self.client(), &self.namespace)
    }

    fn request(action: impl Into<String>) -> impl FnOnce(kube::Error) -> ApiError {
        let action = action.into();
        move |source| ApiError::Request {
            action,
            source: Box::new(source),
        }
    }

    /// The own Postgres; `None` when there is none.
    pub async fn postgres(&self) -> Result<Option<Postgres>, ApiError> {
        self.postgreses()
            .get_opt(&self.database)
            .await
            .map_err(Self::request(format!("get postgres {}", self.database)))
    }

    /// Reports the own instance. `report` is merged into `status.instances.<instance>`; `null` removes a key.
    pub async fn report(&self, report: &Value) -> Result<(), ApiError> {
        let patch = json!({ "status": { "instances": { &self.instance: report } } });
        self.postgreses()
            .patch_status(
                &self.database,
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await
            .map(drop)
            .map_err(Self::request("report the instance's status"))
    }

    /// Data of a Secret.
    pub async fn secret(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<BTreeMap<String, Vec<u8>>, ApiError> {
        let secret = Api::<Secret>::namespaced(self.client(), namespace)
            .get(name)
            .await
            .map_err(Self::request(format!("get Secret {name}")))?;
        let data = secret.data.unwrap_or_default();
        Ok(data
            .into_iter()
            .map(|(key, value)| (key, value.0))
            .collect())
    }

    /// One value of a Secret of the own namespace, as text.
    pub async fn secret_text(&self, name: &str, key: &str) -> Result<String, ApiError> {
        self.secret(&self.namespace, name)
            .await?
            .remove(key)
            .and_then(|value| String::from_utf8(value).ok())
            .filter(|value| !value.is_empty())
            .ok_or_else(|| ApiError::FindKey {
                name: name.to_owned(),
                key: key.to_owned(),
            })
    }

    /// Data of a ConfigMap of the own namespace, texts and others.
    pub async fn config_map(&self, name: &str) -> Result<BTreeMap<String, Vec<u8>>, ApiError> {
        let map = Api::<ConfigMap>::namespaced(self.client(), &self.namespace)
            .get(name)
            .await
            .map_err(Self::request(format!("get ConfigMap {name}")))?;
        let texts = map.data.unwrap_or_default().into_iter();
        let others = map.binary_data.unwrap_or_default().into_iter();
        Ok(texts
            .map(|(name, text)| (name, text.into_bytes()))
            .chain(others.map(|(name, bytes)| (name, bytes.0)))
            .collect())
    }

    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client(), &self.namespace)
    }

    /// The database's Lease; `None` when there is none.
    pub async fn lease(&self) -> Result<Option<Lease>, ApiError> {
        self.leases()
            .get_opt(&self.database)
            .await
            .map_err(Self::request("get the Lease"))
    }

    /// Creates the Lease with this instance as holder. Somebody who was faster is an error, and seen by the next look.
    pub async fn create_lease(&self, owner_uid: &str, now: Timestamp) -> Result<Lease, ApiError> {
        let owner = OwnerReference {
            api_version: "kubedb.com/v1alpha1".to_owned(),
            kind: "Postgres".to_owned(),
            name: self.database.clone(),
            uid: owner_uid.to_owned(),
            ..OwnerReference::default()
        };
        let labels = BTreeMap::from([
            (labels::KIND.to_owned(), "Postgres".to_owned()),
            (labels::NAME.to_owned(), self.database.clone()),
        ]);
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.database.clone()),
                labels: Some(labels),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.instance.clone()),
                lease_duration_seconds: Some(LEASE_SECONDS),
                acquire_time: Some(MicroTime(now)),
                renew_time: Some(MicroTime(now)),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            }),
        };
        self.leases()
            .create(&PostParams::default(), &lease)
            .await
            .map_err(Self::request("create the Lease"))
    }

    /// Takes a Lease that nobody holds, as a Kubernetes platform makes it. The resourceVersion of what was read goes along.
    pub async fn take_lease(&self, mut lease: Lease, now: Timestamp) -> Result<Lease, ApiError> {
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(self.instance.clone());
        spec.acquire_time = Some(MicroTime(now));
        spec.lease_transitions.get_or_insert(0);
        self.renew_lease(lease, now).await
    }

    /// Says on the own pod which role it has: Services lead by these labels.
    pub async fn label_pod(&self, labels: &Value) -> Result<(), ApiError> {
        let patch = json!({ "metadata": { "labels": labels } });
        Api::<Pod>::namespaced(self.client(), &self.namespace)
            .patch_metadata(
                &self.instance,
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await
            .map(drop)
            .map_err(Self::request("label the pod with its role"))
    }

    /// Renews a Lease that this instance holds. The resourceVersion of what was read goes along, so a change in between refuses it.
    pub async fn renew_lease(&self, mut lease: Lease, now: Timestamp) -> Result<Lease, ApiError> {
        if let Some(spec) = &mut lease.spec {
            spec.renew_time = Some(MicroTime(now));
            spec.lease_duration_seconds = Some(LEASE_SECONDS);
        }
        self.leases()
            .replace(&self.database, &PostParams::default(), &lease)
            .await
            .map_err(Self::request("renew the Lease"))
    }
}

async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ApiError> {
    let mut config = match kubeconfig {
        Some(path) => from_file(path).await?,
        None => {
            let mut config = Config::incluster().map_err(ApiError::UseServiceAccount)?;
            proxy::settle(&mut config, false);
            config
        }
    };
    config.connect_timeout = Some(REQUEST_LIMIT);
    config.write_timeout = Some(REQUEST_LIMIT);
    // The agent has its own rhythm of retries; the client's would only add to it.
    Client::try_from(config).map_err(OwnApi::request("use the kubeconfig"))
}

async fn from_file(path: &Path) -> Result<Config, ApiError> {
    let read = |source| ApiError::ReadKubeconfig {
        path: path.display().to_string(),
        source,
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(read)?;
    let names_proxy = names_proxy(&kubeconfig);
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(read)?;
    proxy::settle(&mut config, names_proxy);
    Ok(config)
}
