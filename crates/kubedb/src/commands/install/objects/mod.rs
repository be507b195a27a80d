//! Everything that makes a cluster one with kubedb, as plain values: pure, so that `deploy/`, the chart, a dry run and a run hold the same.

mod access;
mod workload;

use kubedb_api::{catalogue, crd};
use kubedb_operator::webhook::configuration::{self, Place};
use serde_json::{Value, json};

/// What an installation may choose. Texts may be templates of a chart.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Where the operator runs.
    pub(super) namespace: String,
    /// Its image, which also brings the agent.
    pub(super) image: String,
    /// How many operators: one acts, the others answer the webhook and wait.
    pub(super) replicas: Value,
    /// Resources of an operator.
    pub(super) resources: Value,
    /// Its ServiceAccount.
    pub(super) account: String,
    /// Namespaces whose databases it runs; all when empty.
    pub(super) watch: Vec<String>,
}

/// The image of this version.
pub(super) const IMAGE: &str = concat!("kubedb:", env!("CARGO_PKG_VERSION"));
/// Where the operator runs unless somebody chooses.
pub(super) const NAMESPACE: &str = "kubedb";
/// Name of the Deployment, of its account and of its roles.
pub(super) const OPERATOR: &str = "kubedb-operator";

impl Default for Settings {
    fn default() -> Self {
        Self {
            namespace: NAMESPACE.to_owned(),
            image: IMAGE.to_owned(),
            replicas: 2.into(),
            // A thousand databases take 150 MB of memory at most; a limit on processors would only make it late.
            resources: json!({"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}}),
            account: OPERATOR.to_owned(),
            watch: Vec::new(),
        }
    }
}

impl Settings {
    fn place(&self) -> Place<'_> {
        Place {
            namespace: &self.namespace,
            account: &self.account,
        }
    }
}

/// A part of an installation; each is a file of `deploy/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The operator's namespace.
    Namespace,
    /// CustomResourceDefinitions.
    Definitions,
    /// Account, roles and bindings.
    Access,
    /// What runs.
    Workload,
    /// Policy and webhooks.
    Admission,
    /// PostgreSQL versions.
    Catalogue,
}

/// Labels of the operator's pods.
#[cfg(test)]
pub(super) fn operator_labels() -> Value {
    workload::selector()
}

impl Part {
    /// In the order in which they are made: each needs those before it. The webhooks come after what answers them.
    pub(super) const ALL: [Self; 6] = [
        Self::Namespace,
        Self::Definitions,
        Self::Access,
        Self::Workload,
        Self::Admission,
        Self::Catalogue,
    ];

    /// Its objects.
    pub(super) fn objects(self, settings: &Settings) -> Vec<Value> {
        let objects = match self {
            Self::Namespace => vec![namespace(settings)],
            Self::Definitions => values(crd::for_kubernetes()),
            Self::Access => access::objects(settings),
            Self::Workload => workload::objects(settings),
            Self::Admission => {
                let place = settings.place();
                let hooks = [
                    configuration::mutating(place),
                    configuration::validating(place),
                ];
                configuration::lock().into_iter().chain(hooks).collect()
            }
            Self::Catalogue => values(catalogue::built_in()),
        };
        objects.into_iter().map(labelled).collect()
    }
}

/// Everything, in order.
pub(super) fn all(settings: &Settings) -> Vec<Value> {
    Part::ALL
        .iter()
        .flat_map(|part| part.objects(settings))
        .collect()
}

fn values<T: serde::Serialize>(objects: Vec<T>) -> Vec<Value> {
    objects
        .into_iter()
        .filter_map(|object| serde_json::to_value(object).ok())
        .collect()
}

fn namespace(settings: &Settings) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": settings.namespace, "labels": {
        "pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted",
    }}})
}

/// Labels by which people find what belongs to kubedb.
fn labelled(mut object: Value) -> Value {
    let labels = &mut object["metadata"]["labels"];
    labels["app.kubernetes.io/name"] = "kubedb".into();
    labels["app.kubernetes.io/part-of"] = "kubedb".into();
    object
}
