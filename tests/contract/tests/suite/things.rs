//! Objects that the cases create.

use serde_json::{Value, json};

pub(crate) fn secret(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "Opaque", "data": {"a": "eA=="}})
}

pub(crate) fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

/// Complete, so that no default of ours has anything to fill in: defaults are the webhook's matter, not the API's.
pub(crate) fn postgres(name: &str) -> Value {
    json!({"apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "metadata": {"name": name}, "spec": {
        "version": "9.6", "replicas": 1, "standbyMode": "warm", "streamingMode": "asynchronous",
        "storage": {"storageClassName": "standard", "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}},
    }})
}

/// A kind of ours for which only the schema speaks: nothing else is checked.
pub(crate) fn dormant(name: &str) -> Value {
    json!({"apiVersion": "kubedb.com/v1alpha1", "kind": "DormantDatabase", "metadata": {"name": name},
        "spec": {"origin": {"any": [1, {"thing": null}]}, "wipeOut": false}})
}

pub(crate) fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let mut place = &mut object;
    for part in pointer.split('.') {
        place = &mut place[part];
    }
    *place = value;
    object
}
