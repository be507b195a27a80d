//! Who serves a volume to a database's agents: a running pod gains no volume, and a Snapshot's volume is not the database's to hold.

use kubedb_api::{
    agent_config::{VOLUME_CERTIFICATES, VOLUME_PORT, VOLUME_TASK, VolumeTask, volume_secret},
    labels,
    storage::{LocalStorage, SnapshotStorage},
};
use serde_json::{Value, json};

use super::{
    super::KubernetesOptions,
    Kind, Object, object,
    task::USER,
    value,
    workload::{confined, unprivileged},
};
use crate::platform::DesiredDatabase;

/// Container that serves.
const CONTAINER: &str = "store";

/// A StatefulSet of one pod and a Service for each: a pod whose node is lost comes back elsewhere, and never twice.
pub(super) fn objects(desired: &DesiredDatabase, options: &KubernetesOptions) -> Vec<Object> {
    let served = desired
        .volumes
        .iter()
        .filter(|local| obstacle(local).is_none());
    served
        .flat_map(|local| {
            let name = local.served_by(&desired.key.name);
            [
                object(desired, Kind::Service, &name, service(&name)),
                object(
                    desired,
                    Kind::StatefulSet,
                    &name,
                    stateful_set(desired, local, &name, options),
                ),
            ]
        })
        .collect()
}

/// Why a volume cannot be served, of the first that cannot.
pub(in super::super) fn unserved(desired: &DesiredDatabase) -> Option<String> {
    desired.volumes.iter().find_map(obstacle)
}

fn obstacle(local: &LocalStorage) -> Option<String> {
    let place = local.mount_path.as_deref().unwrap_or_default();
    let instead = "name a persistentVolumeClaim, nfs or a hostPath";
    if local.volume().is_none() {
        Some(format!(
            "nothing is mounted at local.mountPath {place}: {instead}"
        ))
    } else if local.empty_dir.is_some() {
        Some(format!(
            "local.emptyDir at {place} is gone with the pod that has it, and what was stored with it: {instead}"
        ))
    } else {
        None
    }
}

fn selector(name: &str) -> Value {
    json!({ labels::TASK: "store", labels::VOLUME: name })
}

fn service(name: &str) -> Value {
    json!({ "spec": {
        "type": "ClusterIP", "selector": selector(name),
        "ports": [{ "name": "store", "port": VOLUME_PORT, "protocol": "TCP", "targetPort": "store" }],
    } })
}

fn stateful_set(
    desired: &DesiredDatabase,
    local: &LocalStorage,
    name: &str,
    options: &KubernetesOptions,
) -> Value {
    // Not the labels by which a database's pods are found.
    let selector = selector(name);
    json!({ "spec": {
        "serviceName": name,
        "replicas": 1,
        "selector": { "matchLabels": selector },
        "template": {
            "metadata": { "labels": selector },
            "spec": pod(desired, local, options),
        },
    } })
}

fn pod(desired: &DesiredDatabase, local: &LocalStorage, options: &KubernetesOptions) -> Value {
    let task = VolumeTask {
        namespace: desired.key.namespace.clone(),
        database: desired.key.name.clone(),
        storage: SnapshotStorage {
            local: Some(Box::new(local.mounted())),
            ..SnapshotStorage::default()
        },
    };
    let mut volume = local.volume().unwrap_or_default();
    volume["name"] = json!("volume");
    let secret = json!({ "secretName": volume_secret(&desired.key.name), "defaultMode": 0o440, "items": [
        { "key": "ca.crt", "path": "ca.crt" },
        { "key": "tls.crt", "path": "tls.crt" },
        { "key": "tls.key", "path": "tls.key" },
    ] });
    let pods = &desired.container.pods;
    let mut pod = json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 30,
        "securityContext": unprivileged(USER, USER),
        "containers": [{
            "name": CONTAINER,
            "image": options.image,
            "imagePullPolicy": "IfNotPresent",
            "args": ["task", "serve-volume"],
            "env": [{ "name": VOLUME_TASK, "value": value(task).to_string() }],
            "ports": [{ "name": "store", "containerPort": VOLUME_PORT, "protocol": "TCP" }],
            "readinessProbe": {
                "tcpSocket": { "port": "store" },
                "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 3, "successThreshold": 1,
            },
            "securityContext": confined(),
            "resources": {
                "requests": { "cpu": "10m", "memory": "64Mi" }, "limits": { "memory": "512Mi" },
            },
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [
                { "name": "volume", "mountPath": local.mount_path },
                { "name": "certificates", "mountPath": VOLUME_CERTIFICATES, "readOnly": true },
            ],
        }],
        "volumes": [volume, { "name": "certificates", "secret": secret }],
    });
    for (field, said) in [
        ("tolerations", json!(pods.tolerations)),
        ("imagePullSecrets", json!(pods.image_pull_secrets)),
    ] {
        if !said.is_null() {
            pod[field] = said;
        }
    }
    pod
}

#[cfg(test)]
mod tests {
    use super::{super::tests::desired, *};

    fn options() -> KubernetesOptions {
        KubernetesOptions {
            image: "kubedb:1".to_owned(),
            namespaces: crate::Namespaces::default(),
            environment: Vec::new(),
        }
    }

    fn local(rest: Value) -> LocalStorage {
        let mut local = rest;
        local["mountPath"] = json!("/backup");
        serde_json::from_value(local).unwrap()
    }

    #[test]
    fn a_volume_is_served_by_a_pod_that_is_no_instance() {
        let mut desired = desired();
        desired.volumes = vec![local(
            json!({ "subPath": "a", "persistentVolumeClaim": { "claimName": "c" } }),
        )];
        let objects = objects(&desired, &options());
        let set = &objects[1];
        assert!(set.place.name.starts_with("pg-store-"), "{:?}", set.place);
        let template = &set.body["spec"]["template"];
        // A database's Services and its operator would take it for an instance.
        let labels = template["metadata"]["labels"].to_string();
        assert!(!labels.contains(labels::NAME) && !labels.contains(labels::KIND));
        assert_eq!(
            objects[0].body["spec"]["selector"],
            template["metadata"]["labels"]
        );
        let volumes = &template["spec"]["volumes"];
        assert_eq!(volumes[0]["persistentVolumeClaim"]["claimName"], "c");
        let told = template["spec"]["containers"][0]["env"][0]["value"]
            .as_str()
            .unwrap();
        let task: VolumeTask = serde_json::from_str(told).unwrap();
        assert_eq!(task.storage.local.unwrap().sub_path.as_deref(), Some("a"));
        assert_eq!(unserved(&desired), None);
    }

    #[test]
    fn what_would_be_lost_with_a_pod_is_refused() {
        for rest in [json!({}), json!({ "emptyDir": {} })] {
            let mut desired = desired();
            desired.volumes = vec![local(rest)];
            assert!(objects(&desired, &options()).is_empty());
            let reason = unserved(&desired).unwrap();
            assert!(
                reason.contains("/backup") && reason.contains("persistentVolumeClaim"),
                "{reason}"
            );
        }
    }
}
