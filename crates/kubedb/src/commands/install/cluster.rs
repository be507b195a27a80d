//! Objects of any kind on the server: looked at, applied and removed.

use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
    core::ApiResource,
};
use serde_json::Value;

/// Who the API server remembers for each field that we set.
const MANAGER: &str = "kubedb-install";

/// Kinds of an installation: group, version, kind, plural, whether in a namespace.
const KINDS: &[(&str, &str, &str, &str, bool)] = &[
    ("", "v1", "Namespace", "namespaces", false),
    ("", "v1", "Pod", "pods", true),
    ("", "v1", "Secret", "secrets", true),
    ("", "v1", "Service", "services", true),
    ("", "v1", "ServiceAccount", "serviceaccounts", true),
    ("apps", "v1", "Deployment", "deployments", true),
    ("coordination.k8s.io", "v1", "Lease", "leases", true),
    (
        "policy",
        "v1",
        "PodDisruptionBudget",
        "poddisruptionbudgets",
        true,
    ),
    (
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        false,
    ),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "ClusterRole",
        "clusterroles",
        false,
    ),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "ClusterRoleBinding",
        "clusterrolebindings",
        false,
    ),
    ("rbac.authorization.k8s.io", "v1", "Role", "roles", true),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "RoleBinding",
        "rolebindings",
        true,
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingAdmissionPolicy",
        "validatingadmissionpolicies",
        false,
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        false,
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        false,
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        false,
    ),
    ("kubedb.com", "v1alpha1", "Postgres", "postgreses", true),
    ("kubedb.com", "v1alpha1", "Snapshot", "snapshots", true),
    (
        "kubedb.com",
        "v1alpha1",
        "DormantDatabase",
        "dormantdatabases",
        true,
    ),
    (
        "catalog.kubedb.com",
        "v1alpha1",
        "PostgresVersion",
        "postgresversions",
        false,
    ),
];

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) kind: String,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
}

impl Name {
    /// Of something in a namespace.
    pub(super) fn within(namespace: &str, kind: &str, name: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            namespace: Some(namespace.to_owned()),
            name: name.to_owned(),
        }
    }

    /// Of an object as it is or shall be.
    pub(super) fn of(object: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &object["metadata"];
        Self {
            kind: text(&object["kind"]),
            namespace: metadata["namespace"].as_str().map(str::to_owned),
            name: text(&metadata["name"]),
        }
    }

    /// As kubectl writes it: `deployment.apps/kubedb-operator`.
    pub(super) fn text(&self) -> String {
        let group = resource(&self.kind).0.group;
        let dot = if group.is_empty() { "" } else { "." };
        format!("{}{dot}{group}/{}", self.kind.to_lowercase(), self.name)
    }
}

fn resource(kind: &str) -> (ApiResource, bool) {
    let known = KINDS.iter().find(|known| known.2 == kind);
    let (group, version, kind, plural, namespaced) =
        known.copied().unwrap_or(("", "v1", "", "", false));
    let api_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version,
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    };
    (resource, namespaced)
}

/// The server.
#[derive(Clone)]
pub(super) struct Cluster {
    pub(super) client: Client,
}

impl Cluster {
    fn api(&self, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
        let (resource, namespaced) = resource(kind);
        match namespace.filter(|_| namespaced) {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// An object; `None` when it is not there, or its kind is not.
    pub(super) async fn get(&self, name: &Name) -> Result<Option<Value>, kube::Error> {
        let api = self.api(&name.kind, name.namespace.as_deref());
        match api.get(&name.name).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            other => other.map(|found| Some(value(&found))),
        }
    }

    /// All objects of a kind, with these labels, in one namespace or in all; none when the kind is not there.
    pub(super) async fn list(
        &self,
        kind: &str,
        namespace: Option<&str>,
        labels: &str,
    ) -> Result<Vec<Value>, kube::Error> {
        let params = ListParams::default().labels(labels);
        match self.api(kind, namespace).list(&params).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
            // Items of a list do not say what they are.
            other => Ok(other?
                .items
                .iter()
                .map(|item| {
                    let mut item = value(item);
                    item["kind"] = kind.into();
                    item
                })
                .collect()),
        }
    }

    /// Makes an object so, and gives what it is then; a dry run gives what it would be.
    pub(super) async fn apply(&self, object: &Value, dry_run: bool) -> Result<Value, kube::Error> {
        let name = Name::of(object);
        let mut params = PatchParams::apply(MANAGER).force();
        params.dry_run = dry_run;
        let api = self.api(&name.kind, name.namespace.as_deref());
        let applied = api
            .patch(&name.name, &params, &Patch::Apply(object))
            .await?;
        Ok(value(&applied))
    }

    /// Asks for the deletion of an object; `false` when it is gone already.
    pub(super) async fn delete(&self, name: &Name) -> Result<bool, kube::Error> {
        let api = self.api(&name.kind, name.namespace.as_deref());
        match api.delete(&name.name, &DeleteParams::background()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            other => other.map(|_| true),
        }
    }

    /// Takes a finalizer off, if it is there and the object has not changed since it was read.
    pub(super) async fn release(&self, object: &Value, finalizer: &str) -> Result<(), kube::Error> {
        let name = Name::of(object);
        let held = object["metadata"]["finalizers"].as_array();
        let rest: Vec<&Value> = held
            .into_iter()
            .flatten()
            .filter(|held| **held != finalizer)
            .collect();
        if rest.len() == held.map_or(0, Vec::len) {
            return Ok(());
        }
        let patch = serde_json::json!({"metadata": {"finalizers": rest, "resourceVersion": object["metadata"]["resourceVersion"]}});
        let api = self.api(&name.kind, name.namespace.as_deref());
        match api
            .patch(&name.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => other.map(drop),
        }
    }
}

fn value(object: &DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::objects::{Settings, all};
    use super::*;

    #[test]
    fn every_kind_is_known() {
        let settings = Settings {
            watch: vec!["demo".to_owned()],
            ..Settings::default()
        };
        for object in all(&settings).into_iter().chain(all(&Settings::default())) {
            let (resource, namespaced) = resource(object["kind"].as_str().unwrap());
            assert_eq!(object["apiVersion"], resource.api_version);
            assert_eq!(
                object["metadata"]["namespace"].is_string(),
                namespaced,
                "{object}"
            );
        }
    }

    #[test]
    fn names_are_written_as_kubectl_does() {
        let name = Name::within("kubedb", "Deployment", "kubedb-operator");
        assert_eq!(name.text(), "deployment.apps/kubedb-operator");
        assert_eq!(Name::within("kubedb", "Secret", "s").text(), "secret/s");
    }
}
