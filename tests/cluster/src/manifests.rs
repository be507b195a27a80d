//! What a cluster has from its beginning, beside what Kubernetes makes itself.

use std::path::Path;

use serde_json::{Value, json};

/// Name of what makes the volumes of class `standard`.
pub(crate) const PROVISIONER: &str = "kubedb.com/folders";

/// Everything.
pub(crate) fn all() -> Vec<Value> {
    let reads = |name: &str, rules: Value| {
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules,
        });
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
        });
        [role, binding]
    };
    let names = json!([
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]);
    let volumes = json!([
        {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["list", "watch"]},
        {"apiGroups": [""], "resources": ["persistentvolumes"], "verbs": ["list", "watch", "create", "delete"]},
    ]);
    let proxies = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "kube-proxies"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:kube-proxy"}],
    });
    let mut objects = vec![class("standard", PROVISIONER), proxies];
    objects.extend(reads("coredns", names));
    objects.extend(reads("provisioner", volumes));
    objects
}

fn class(name: &str, provisioner: &str) -> Value {
    let is_default = (name == "standard").to_string();
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": is_default}},
        "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer", "reclaimPolicy": "Delete",
    })
}

/// A folder of a node as a volume. Volumes of this type are given to the group of the pod that mounts them; those of type `hostPath` are not.
pub(crate) fn volume(
    name: &str,
    node: &str,
    folder: &Path,
    (class, capacity, policy): (&str, &str, &str),
) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": capacity}, "accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem",
            "storageClassName": class, "persistentVolumeReclaimPolicy": policy, "local": {"path": folder},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]},
            ]}]}},
        },
    })
}

/// A disk as a volume, with a class of its own.
pub(crate) fn disk(node: &str, name: &str, folder: &Path, bytes: u64) -> Vec<Value> {
    let bytes = bytes.to_string();
    vec![
        class(name, "kubernetes.io/no-provisioner"),
        volume(name, node, folder, (name, &bytes, "Retain")),
    ]
}
