//! Pods of databases: of each no more than what is looked at.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use kubedb_api::labels;
use tokio::sync::watch;

use super::observe::unpulled;
use crate::platform::DatabaseKey;

/// Pods by the name of their database, then by their own.
#[derive(Debug)]
pub(super) struct Pods {
    // A node of a map has room for eleven values, and most databases have one or three pods.
    pods: Mutex<BTreeMap<DatabaseKey, BTreeMap<String, Box<Pod>>>>,
    is_whole: watch::Sender<bool>,
}

impl Default for Pods {
    fn default() -> Self {
        Self {
            pods: Mutex::default(),
            is_whole: watch::channel(false).0,
        }
    }
}

/// Whose a pod is.
fn database_of(pod: &Pod) -> Option<DatabaseKey> {
    Some(DatabaseKey {
        namespace: pod.metadata.namespace.clone()?,
        name: pod.metadata.labels.as_ref()?.get(labels::NAME)?.clone(),
    })
}

impl Pods {
    /// Waits until all pods were told once.
    pub(super) async fn ready(&self) {
        // The sender lives as long as this.
        let _ = self.is_whole.subscribe().wait_for(|whole| *whole).await;
    }

    /// A database's pods.
    pub(super) fn of(&self, key: &DatabaseKey) -> Vec<Pod> {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.get(key)
            .into_iter()
            .flatten()
            .map(|(_, pod)| Pod::clone(pod))
            .collect()
    }

    /// All pods of a namespace, as much of them as says whose they are.
    pub(super) fn within(&self, namespace: &str) -> Vec<Pod> {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let its = pods.iter().filter(|(key, _)| key.namespace == namespace);
        its.flat_map(|(key, pods)| pods.values().map(|pod| labelled(pod, key)))
            .collect()
    }

    /// A pod was told. Returns whose it is if anything that is looked at changed.
    pub(super) fn told(&self, pod: &Pod) -> Option<DatabaseKey> {
        let key = database_of(pod)?;
        let name = pod.metadata.name.clone()?;
        let pod = Box::new(trimmed(pod));
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let its = pods.entry(key.clone()).or_default();
        let is_news = its.get(&name) != Some(&pod);
        its.insert(name, pod);
        is_news.then_some(key)
    }

    /// A pod is gone. Returns whose it was.
    pub(super) fn gone(&self, pod: &Pod) -> Option<DatabaseKey> {
        let key = database_of(pod)?;
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let its = pods.get_mut(&key)?;
        its.remove(pod.metadata.name.as_ref()?);
        if its.is_empty() {
            pods.remove(&key);
        }
        Some(key)
    }

    /// All pods were told anew: what is not among them is gone. Returns whose those were.
    pub(super) fn relisted(&self, told: &BTreeSet<(String, String)>) -> Vec<DatabaseKey> {
        let mut lost = Vec::new();
        {
            let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
            for (key, its) in pods.iter_mut() {
                let before = its.len();
                its.retain(|name, _| told.contains(&(key.namespace.clone(), name.clone())));
                if its.len() != before {
                    lost.push(key.clone());
                }
            }
            pods.retain(|_, its| !its.is_empty());
        }
        self.is_whole.send_replace(true);
        lost
    }
}

/// A trimmed one with the label that says whose it is.
fn labelled(pod: &Pod, key: &DatabaseKey) -> Pod {
    let mut pod = pod.clone();
    let label = (labels::NAME.to_owned(), key.name.clone());
    pod.metadata.labels = Some([label].into());
    pod
}

/// Without what is not looked at: thousands of them are kept.
fn trimmed(pod: &Pod) -> Pod {
    let mut kept = Pod::default();
    kept.metadata.name.clone_from(&pod.metadata.name);
    kept.metadata.namespace.clone_from(&pod.metadata.namespace);
    kept.metadata
        .deletion_timestamp
        .clone_from(&pod.metadata.deletion_timestamp);
    if let Some(status) = &pod.status {
        let kept = kept.status.get_or_insert_default();
        kept.phase.clone_from(&status.phase);
        kept.reason.clone_from(&status.reason);
        kept.message.clone_from(&status.message);
        kept.container_statuses
            .clone_from(&status.container_statuses);
        kept.init_container_statuses
            .clone_from(&status.init_container_statuses);
        kept.conditions = status.conditions.as_ref().map(|conditions| {
            let mut conditions = conditions.clone();
            // What is said of it all the time.
            for condition in &mut conditions {
                condition.last_probe_time = None;
            }
            conditions
        });
    }
    // What is to be told of an image that cannot be had.
    if let Some(spec) = pod.spec.as_ref().filter(|_| unpulled(pod).is_some()) {
        let images = |containers: &[Container]| -> Vec<Container> {
            let image = |own: &Container| Container {
                name: own.name.clone(),
                image: own.image.clone(),
                ..Container::default()
            };
            containers.iter().map(image).collect()
        };
        kept.spec = Some(PodSpec {
            containers: images(&spec.containers),
            init_containers: spec.init_containers.as_deref().map(images),
            image_pull_secrets: spec.image_pull_secrets.clone(),
            ..PodSpec::default()
        });
    }
    kept
}
