//! Databases as StatefulSets, with what they need around them.
//!
//! What is wanted is rendered by pure code (`render/`), compared with what is there, and applied on the server's side where it differs.
//! Metadata of what is ours is watched, so that what is deleted or changed by hand is put right at once, and what did not change costs
//! no request.

mod apply;
mod certificates;
mod known;
mod monitors;
mod observe;
mod pods;
mod pulls;
mod refusals;
mod render;
mod task;
mod volumes;
mod watch;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream::BoxStream};
use jiff::Timestamp;
use kube::{Api, Client, core::DynamicObject};
use tokio::sync::{broadcast, watch::Sender};
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::sync::CancellationToken;

use self::{known::Known, monitors::Support, pods::Pods, render::Kind};
use super::{DatabaseKey, DesiredDatabase, ObservedDatabase, Platform, PlatformError, TaskState};
use kubedb_api::agent_config::DataTask;

use crate::{guarded::of_uid, namespaces::Namespaces};

/// Databases that changed and were not looked at yet. When more change at once the oldest are forgotten, and looked at with the next
/// resync.
const CHANGES_MAX: usize = 4096;
/// How long the first look at what there is may take.
const CACHES_LIMIT: Duration = Duration::from_secs(60);

/// What the platform must know of its surroundings.
#[derive(Clone, Debug)]
pub struct KubernetesOptions {
    /// Image of kubedb itself, whose program is put beside PostgreSQL.
    pub image: String,
    /// Namespaces to stay within.
    pub namespaces: Namespaces,
    /// Variables that agents have as the operator has them, such as the ways out of the cluster.
    pub environment: Vec<(String, String)>,
}

/// What a database was last applied with.
#[derive(Clone, Copy, Debug, Default)]
struct Expected {
    /// Instances that it shall have.
    replicas: u32,
    /// When its StatefulSet was last asked to try again what was refused.
    nudged: Option<Instant>,
}

/// Why databases are not scraped, of those that shall be.
type Unscraped = BTreeMap<DatabaseKey, String>;

/// Databases as StatefulSets.
#[derive(Clone)]
pub struct KubernetesPlatform {
    client: Client,
    options: KubernetesOptions,
    known: Arc<Known>,
    pods: Arc<Pods>,
    /// What each database was last applied with.
    expected: Arc<Mutex<BTreeMap<DatabaseKey, Expected>>>,
    /// Until when the certificates of volumes are good, by the UID of their database.
    certified: Arc<Mutex<BTreeMap<String, Timestamp>>>,
    changes: broadcast::Sender<DatabaseKey>,
    /// Whether there are ServiceMonitors.
    support: Arc<Sender<Support>>,
    unscraped: Arc<Mutex<Unscraped>>,
}

impl KubernetesPlatform {
    /// Begins to watch what is ours, until `shutdown`.
    #[must_use]
    pub fn start(client: Client, options: KubernetesOptions, shutdown: CancellationToken) -> Self {
        let (changes, _) = broadcast::channel(CHANGES_MAX);
        let platform = Self {
            known: Arc::new(Known::default()),
            pods: Arc::new(Pods::default()),
            expected: Arc::default(),
            certified: Arc::default(),
            client,
            options,
            changes,
            support: Arc::new(Sender::new(Support::Unknown)),
            unscraped: Arc::default(),
        };
        watch::start(&platform, &shutdown);
        platform
    }

    /// Notes how many instances a database shall have; none of one that goes.
    fn expects(&self, key: &DatabaseKey, replicas: Option<u32>) {
        let mut all = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        match replicas {
            Some(replicas) => all.entry(key.clone()).or_default().replicas = replicas,
            None => drop(all.remove(key)),
        }
    }

    fn expected(&self, key: &DatabaseKey) -> Option<Expected> {
        let all = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(key).copied()
    }

    fn all_expected(&self) -> Vec<DatabaseKey> {
        let all = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        all.keys().cloned().collect()
    }

    /// Notes why a database is not scraped, and whether that is news.
    fn change_monitor(&self, key: &DatabaseKey, refusal: Option<String>) -> bool {
        let mut all = self
            .unscraped
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = match &refusal {
            Some(refusal) => all.insert(key.clone(), refusal.clone()),
            None => all.remove(key),
        };
        before != refusal
    }

    fn monitor_refusal(&self, key: &DatabaseKey) -> Option<String> {
        let all = self
            .unscraped
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.get(key).cloned()
    }

    fn api(&self, kind: Kind, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &kind.resource())
    }

    /// Until then an object that is not known may be there all the same.
    async fn caches(&self) -> Result<(), PlatformError> {
        let both = async {
            self.known.ready().await;
            self.pods.ready().await;
        };
        tokio::time::timeout(CACHES_LIMIT, both)
            .await
            .map_err(|late| act("look at what there is", late))
    }

    async fn delete(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<(), PlatformError> {
        // Of the one that was looked at, not of one that was made meanwhile.
        let parameters = of_uid(Some(uid.to_owned()));
        match self.api(kind, namespace).delete(name, &parameters).await {
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            other => other
                .map(drop)
                .map_err(|error| act(format!("delete {kind} {namespace}/{name}"), error)),
        }
    }
}

/// What a server says to a write: no to what was asked, or nothing that would be the same the next time.
fn refused(action: impl Into<String>, error: kube::Error) -> PlatformError {
    match error {
        kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422) => {
            PlatformError::Refuse {
                action: action.into(),
                reason: status.message,
            }
        }
        error => act(action, error),
    }
}

fn act(
    action: impl Into<String>,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> PlatformError {
    PlatformError::Act {
        action: action.into(),
        source: source.into(),
    }
}

#[async_trait]
impl Platform for KubernetesPlatform {
    async fn apply(&self, desired: &DesiredDatabase) -> Result<(), PlatformError> {
        self.caches().await?;
        let wanted = render::objects(desired, &self.options);
        self.expects(&desired.key, Some(desired.replicas));
        let is_monitor = |object: &&render::Object| object.place.kind == Kind::ServiceMonitor;
        for object in wanted.iter().filter(|object| !is_monitor(object)) {
            self.apply_one(desired, object).await?;
        }
        if !desired.has_lease {
            self.make_lease(desired).await?;
        }
        if !desired.volumes.is_empty() {
            self.certify(desired, Timestamp::now()).await?;
        }
        for (place, seen) in self.known.of(&desired.key) {
            let is_wanted = wanted.iter().any(|object| object.place == place);
            // Another database's, of the same name and before this one, goes with its owner.
            if !is_wanted && !seen.is_going && seen.is_of(&desired.uid) {
                self.delete(place.kind, &place.namespace, &place.name, &seen.uid)
                    .await?;
            }
        }
        let monitor = wanted.iter().find(is_monitor);
        self.apply_monitor(desired, monitor).await?;
        render::unserved(desired).map_or(Ok(()), |reason| {
            Err(PlatformError::Refuse {
                action: format!(
                    "serve a volume to {}/{}",
                    desired.key.namespace, desired.key.name
                ),
                reason,
            })
        })
    }

    async fn observe(&self, key: &DatabaseKey) -> Result<Option<ObservedDatabase>, PlatformError> {
        self.caches().await?;
        let place = render::workload(key);
        let pods = self.pods.of(key);
        if self.known.get(&place).is_none() && pods.is_empty() {
            return Ok(None);
        }
        let mut instances = BTreeMap::new();
        for pod in &pods {
            let Some(name) = pod.metadata.name.clone() else {
                continue;
            };
            let mut instance = observe::instance(pod);
            if let Some(unpulled) = observe::unpulled(pod) {
                instance.reason = Some(self.unpulled(pod, &unpulled).await);
            }
            instances.insert(name, instance);
        }
        let refusal = self.missing(key, &pods).await?;
        let host = |service: String| format!("{service}.{}.svc:5432", key.namespace);
        Ok(Some(ObservedDatabase {
            primary_endpoint: Some(host(key.name.clone())),
            standbys_endpoint: Some(host(render::replicas_service(&key.name))),
            refusal,
            monitor_refusal: self.monitor_refusal(key),
            // The agents know which build the image holds.
            postgres_version: None,
            instances,
        }))
    }

    fn changes(&self) -> BoxStream<'static, DatabaseKey> {
        BroadcastStream::new(self.changes.subscribe())
            .filter_map(|key| async { key.ok() })
            .boxed()
    }

    async fn remove(&self, key: &DatabaseKey) -> Result<bool, PlatformError> {
        self.caches().await?;
        // Without its kind a ServiceMonitor cannot be there; as long as nobody knows, it could be left behind.
        let known = tokio::time::timeout(CACHES_LIMIT, self.monitors_known());
        known
            .await
            .map_err(|late| act("look for ServiceMonitors", late))?;
        self.expects(key, None);
        self.change_monitor(key, None);
        // What the agents need to stop well goes with the database itself; what lies in other namespaces has no owner to go with.
        for (place, seen) in self.known.of(key) {
            let is_workload = place.kind == Kind::StatefulSet;
            if (is_workload || place.namespace != key.namespace) && !seen.is_going {
                self.delete(place.kind, &place.namespace, &place.name, &seen.uid)
                    .await?;
            }
        }
        let is_gone = self.known.get(&render::workload(key)).is_none();
        Ok(is_gone && self.pods.of(key).is_empty())
    }

    async fn wipe(&self, key: &DatabaseKey, _data_uid: &str) -> Result<bool, PlatformError> {
        self.delete_claims(key).await
    }

    async fn delete_data(
        &self,
        task: &DataTask,
        image_pull_secrets: &[String],
    ) -> Result<TaskState, PlatformError> {
        self.task(task, image_pull_secrets).await
    }

    async fn forget_data(&self, task: &DataTask) -> Result<(), PlatformError> {
        self.forget(task).await
    }
}
