//! What a database is on Kubernetes, as objects. Pure.

mod access;
mod monitor;
mod network;
pub(super) mod task;
mod volume;
mod workload;

use std::{collections::BTreeMap, fmt};

pub(super) use self::volume::unserved;
use kube::core::{ApiResource, GroupVersionKind};
use kubedb_api::labels;
use serde::Serialize;
use serde_json::{Value, json};

use super::KubernetesOptions;
use crate::platform::{DatabaseKey, DesiredDatabase};

/// Kinds of objects that a database consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    ServiceAccount,
    Role,
    RoleBinding,
    Service,
    PodDisruptionBudget,
    StatefulSet,
    /// Not among `ALL`: a cluster may not have it.
    ServiceMonitor,
}

impl Kind {
    /// All, in the order in which they are made: pods need what comes before them.
    pub(super) const ALL: [Self; 6] = [
        Self::ServiceAccount,
        Self::Role,
        Self::RoleBinding,
        Self::Service,
        Self::PodDisruptionBudget,
        Self::StatefulSet,
    ];

    pub(super) fn resource(self) -> ApiResource {
        let (group, kind, plural) = match self {
            Self::ServiceAccount => ("", "ServiceAccount", "serviceaccounts"),
            Self::Role => ("rbac.authorization.k8s.io", "Role", "roles"),
            Self::RoleBinding => ("rbac.authorization.k8s.io", "RoleBinding", "rolebindings"),
            Self::Service => ("", "Service", "services"),
            Self::PodDisruptionBudget => ("policy", "PodDisruptionBudget", "poddisruptionbudgets"),
            Self::StatefulSet => ("apps", "StatefulSet", "statefulsets"),
            Self::ServiceMonitor => ("monitoring.coreos.com", "ServiceMonitor", "servicemonitors"),
        };
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", kind), plural)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.resource().kind)
    }
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) kind: Kind,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Place {
    pub(super) fn new(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

/// An object that there shall be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Object {
    pub(super) place: Place,
    /// All of it that is ours to say.
    pub(super) body: Value,
}

/// Everything a database consists of, in the order in which it is made.
pub(super) fn objects(desired: &DesiredDatabase, options: &KubernetesOptions) -> Vec<Object> {
    let mut all = access::objects(desired);
    all.extend(network::objects(desired));
    all.extend(monitor::objects(desired));
    all.push(workload::stateful_set(desired, options));
    all.extend(volume::objects(desired, options));
    all
}

/// The StatefulSet of a database.
pub(super) fn workload(key: &DatabaseKey) -> Place {
    Place::new(Kind::StatefulSet, &key.namespace, &key.name)
}

/// Service of the standbys that answer queries.
pub(super) fn replicas_service(database: &str) -> String {
    format!("{database}-replicas")
}

/// Headless Service that gives each pod a name.
pub(super) fn pods_service(database: &str) -> String {
    format!("{database}-pods")
}

/// Headless Service that leads to the metrics of each pod.
pub(super) fn stats_service(database: &str) -> String {
    format!("{database}-stats")
}

/// Labels by which a database's pods are found.
fn selector(key: &DatabaseKey) -> BTreeMap<String, String> {
    BTreeMap::from([
        (labels::KIND.to_owned(), "Postgres".to_owned()),
        (labels::NAME.to_owned(), key.name.clone()),
    ])
}

/// An object of the database, in its namespace and gone with it.
fn object(desired: &DesiredDatabase, kind: Kind, name: &str, rest: Value) -> Object {
    let owner = json!([{
        "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "name": desired.key.name, "uid": desired.uid,
        "controller": true, "blockOwnerDeletion": true,
    }]);
    let mut object = bare(desired, kind, &desired.key.namespace, name, rest);
    object.body["metadata"]["ownerReferences"] = owner;
    object
}

/// An object of the database in another namespace, where no owner can be named.
fn outside(
    desired: &DesiredDatabase,
    kind: Kind,
    namespace: &str,
    name: &str,
    rest: Value,
) -> Object {
    let mut object = bare(desired, kind, namespace, name, rest);
    object.body["metadata"]["labels"][labels::NAMESPACE] = json!(desired.key.namespace);
    object
}

fn bare(desired: &DesiredDatabase, kind: Kind, namespace: &str, name: &str, rest: Value) -> Object {
    let resource = kind.resource();
    let mut labels = selector(&desired.key);
    labels.insert(labels::DATABASE_UID.to_owned(), desired.uid.clone());
    let mut body = rest;
    body["apiVersion"] = json!(resource.api_version);
    body["kind"] = json!(resource.kind);
    body["metadata"]["name"] = json!(name);
    body["metadata"]["namespace"] = json!(namespace);
    body["metadata"]["labels"] = json!(labels);
    Object {
        place: Place::new(kind, namespace, name),
        body,
    }
}

/// Rendered values have no field that cannot be written.
fn value(of: impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::platform::DesiredContainer;

    pub(in super::super) fn desired() -> DesiredDatabase {
        let volume = json!({
            "accessModes": ["ReadWriteOnce"], "storageClassName": "standard",
            "resources": { "requests": { "storage": "50Mi" } },
        });
        DesiredDatabase {
            key: DatabaseKey {
                namespace: "demo".to_owned(),
                name: "pg".to_owned(),
            },
            uid: "u-1".to_owned(),
            data_uid: "u-1".to_owned(),
            version: "15".to_owned(),
            bin_directory: None,
            replicas: 3,
            primary: Some("pg-0".to_owned()),
            standbys: Vec::new(),
            secrets: vec![("demo".to_owned(), "pg-auth".to_owned())],
            config_maps: Vec::new(),
            has_lease: true,
            monitor: None,
            volumes: Vec::new(),
            container: DesiredContainer {
                image: "postgres:15".to_owned(),
                user: 999,
                group: 999,
                volume: serde_json::from_value(volume).unwrap(),
                labels: BTreeMap::from([("team".to_owned(), "a".to_owned())]),
                ..DesiredContainer::default()
            },
        }
    }

    fn options() -> KubernetesOptions {
        KubernetesOptions {
            image: "kubedb:1".to_owned(),
            namespaces: crate::Namespaces::default(),
            environment: vec![("NO_PROXY".to_owned(), ".svc".to_owned())],
        }
    }

    #[test]
    fn everything_of_a_database_says_whose_it_is() {
        for object in objects(&desired(), &options()) {
            let labels = &object.body["metadata"]["labels"];
            assert_eq!(labels[labels::NAME], "pg", "{:?}", object.place);
            assert_eq!(labels[labels::DATABASE_UID], "u-1", "{:?}", object.place);
            assert_eq!(object.body["kind"], object.place.kind.to_string());
        }
    }

    #[test]
    fn what_pods_are_found_by_never_changes_with_the_users_labels() {
        let mut changed = desired();
        changed
            .container
            .labels
            .insert("team".to_owned(), "b".to_owned());
        let selectors = |desired| {
            let set = workload::stateful_set(desired, &options()).body;
            (
                set["spec"]["selector"].clone(),
                set["spec"]["volumeClaimTemplates"].clone(),
            )
        };
        assert_eq!(selectors(&desired()), selectors(&changed));
    }

    #[test]
    fn one_instance_does_not_hold_up_a_drain() {
        let mut single = desired();
        single.replicas = 1;
        let is_budget = |object: &Object| object.place.kind == Kind::PodDisruptionBudget;
        assert!(objects(&desired(), &options()).iter().any(is_budget));
        assert!(!objects(&single, &options()).iter().any(is_budget));
    }
}
