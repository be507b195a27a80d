//! The StatefulSet of a database: any image of PostgreSQL, with our program put beside it.

use std::path::PathBuf;

use kubedb_api::agent_config::{HEALTH_PORT, POD_CONFIG, POD_NAME, POSTGRES_PORT, PodConfig};
use serde_json::{Value, json};

use super::{
    super::{KubernetesOptions, observe::CONTAINER},
    Kind, Object, object, pods_service, selector, value,
};
use crate::platform::DesiredDatabase;

/// Where the volume is mounted.
const VOLUME: &str = "/var/pv";
/// Where our program is put.
const PROGRAM: &str = "/opt/kubedb";
/// Where sockets and temporary files go: the image's own files are read only.
const RUN: &str = "/run/kubedb";
/// How long a pod may take to stop: PostgreSQL's fast, immediate and forced stop together, and some seconds.
const GRACE_SECONDS: u32 = 180;

/// The StatefulSet. Its pods are made anew only when somebody deletes them: a new operator restarts no database.
pub(super) fn stateful_set(desired: &DesiredDatabase, options: &KubernetesOptions) -> Object {
    let selector = selector(&desired.key);
    let mut labels = desired.container.labels.clone();
    labels.extend(selector.clone());
    let spec = json!({
        "serviceName": pods_service(&desired.key.name),
        "replicas": desired.replicas,
        "podManagementPolicy": "Parallel",
        "updateStrategy": { "type": "OnDelete" },
        // A copy that was scaled away is too old to follow on from.
        "persistentVolumeClaimRetentionPolicy": { "whenDeleted": "Retain", "whenScaled": "Delete" },
        "selector": { "matchLabels": selector },
        "template": {
            "metadata": { "labels": labels, "annotations": desired.container.annotations },
            "spec": pod(desired, options),
        },
        "volumeClaimTemplates": [{
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": { "name": "data", "labels": selector },
            "spec": desired.container.volume,
        }],
    });
    object(
        desired,
        Kind::StatefulSet,
        &desired.key.name,
        json!({ "spec": spec }),
    )
}

fn pod(desired: &DesiredDatabase, options: &KubernetesOptions) -> Value {
    let (user, group) = (desired.container.user, desired.container.group);
    let mut pod = json!({
        "serviceAccountName": desired.key.name,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": unprivileged(user, group),
        "affinity": affinity(desired),
        "initContainers": [{
            "name": "install",
            "image": options.image,
            "imagePullPolicy": "IfNotPresent",
            "args": ["agent", "install", PROGRAM],
            "securityContext": confined(),
            "resources": {
                "requests": { "cpu": "10m", "memory": "16Mi" }, "limits": { "memory": "64Mi" },
            },
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [{ "name": "program", "mountPath": PROGRAM }],
        }],
        "containers": [postgres(desired, options)],
        "volumes": [
            { "name": "program", "emptyDir": {} },
            { "name": "run", "emptyDir": {} },
            // The 64 MiB that containers have by default are too few for parallel queries.
            { "name": "shm", "emptyDir": { "medium": "Memory" } },
        ],
    });
    let pods = &desired.container.pods;
    for (field, said) in [
        ("nodeSelector", json!(pods.node_selector)),
        ("tolerations", json!(pods.tolerations)),
        ("schedulerName", json!(pods.scheduler_name)),
        ("priorityClassName", json!(pods.priority_class_name)),
        ("imagePullSecrets", json!(pods.image_pull_secrets)),
    ] {
        // What nobody said is not in the object: its digest stays what it was.
        if !said.is_null() {
            pod[field] = said;
        }
    }
    pod
}

fn postgres(desired: &DesiredDatabase, options: &KubernetesOptions) -> Value {
    let config = PodConfig {
        namespace: desired.key.namespace.clone(),
        database: desired.key.name.clone(),
        database_uid: desired.uid.clone(),
        data_uid: (desired.data_uid != desired.uid).then(|| desired.data_uid.clone()),
        service: pods_service(&desired.key.name),
        volume: PathBuf::from(VOLUME),
        socket_directory: PathBuf::from(RUN).join("socket"),
        bin_directory: desired.bin_directory.clone().map(PathBuf::from),
        version: desired.version.clone(),
    };
    let mut environment = vec![
        json!({ "name": POD_NAME, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.name" } } }),
        json!({ "name": POD_CONFIG, "value": value(config).to_string() }),
        json!({ "name": "TMPDIR", "value": RUN }),
    ];
    let pods = &desired.container.pods;
    let own = pods.env.iter().flatten();
    let is_theirs = |name: &str| own.clone().any(|variable| variable.name == name);
    let handed = options.environment.iter();
    let handed = handed.filter(|(name, _)| !is_theirs(name));
    environment.extend(handed.map(|(name, value)| json!({ "name": name, "value": value })));
    environment.extend(own.clone().map(value));
    let probe = |path: &str, period: u32, failures: u32| {
        json!({
            "httpGet": { "path": path, "port": "health", "scheme": "HTTP" },
            "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures, "successThreshold": 1,
        })
    };
    let mut container = json!({
        "name": CONTAINER,
        "image": desired.container.image,
        "imagePullPolicy": "IfNotPresent",
        "command": [format!("{PROGRAM}/kubedb")],
        "args": ["agent", "run", "--pod"],
        "env": environment,
        "ports": [
            { "name": "api", "containerPort": POSTGRES_PORT, "protocol": "TCP" },
            { "name": "health", "containerPort": HEALTH_PORT, "protocol": "TCP" },
        ],
        // Neither asks the API: while that is away, databases go on.
        "livenessProbe": probe("/livez", 10, 6),
        "readinessProbe": probe("/readyz", 2, 3),
        "securityContext": confined(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            { "name": "data", "mountPath": VOLUME },
            { "name": "program", "mountPath": PROGRAM, "readOnly": true },
            { "name": "run", "mountPath": RUN },
            { "name": "shm", "mountPath": "/dev/shm" },
        ],
    });
    if let Some(resources) = &pods.resources {
        container["resources"] = value(resources);
    }
    container
}

/// What pod security calls restricted, of a pod as a whole.
pub(super) fn unprivileged(user: i64, group: i64) -> Value {
    json!({
        "runAsNonRoot": true, "runAsUser": user, "runAsGroup": group, "fsGroup": group,
        // Going through a large volume at every start would take minutes.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": { "type": "RuntimeDefault" },
    })
}

/// What pod security calls restricted, of a container, and no files of the image are written to.
pub(super) fn confined() -> Value {
    json!({
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
    })
}

/// What the user says, and of instances beside each other what we say, unless the user does.
fn affinity(desired: &DesiredDatabase) -> Value {
    let mut affinity = apart(desired);
    if let Some(said) = &desired.container.pods.affinity {
        let said = value(said);
        for (field, rule) in said.as_object().into_iter().flatten() {
            affinity[field] = rule.clone();
        }
    }
    affinity
}

/// Rather on another node than beside another instance of the same database.
fn apart(desired: &DesiredDatabase) -> Value {
    let term = |weight: u32, topology: &str| {
        json!({
            "weight": weight,
            "podAffinityTerm": {
                "labelSelector": { "matchLabels": selector(&desired.key) }, "topologyKey": topology,
            },
        })
    };
    json!({ "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [
        term(100, "kubernetes.io/hostname"), term(50, "topology.kubernetes.io/zone"),
    ] } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(pods: Value) -> Value {
        let mut desired = super::super::tests::desired();
        desired.container.pods = serde_json::from_value(pods).unwrap();
        let options = KubernetesOptions {
            image: "kubedb:1".to_owned(),
            namespaces: crate::Namespaces::default(),
            environment: vec![("NO_PROXY".to_owned(), ".svc".to_owned())],
        };
        stateful_set(&desired, &options).body["spec"]["template"]["spec"].take()
    }

    #[test]
    fn what_a_user_says_of_pods_is_in_them() {
        let pod = rendered(json!({
            "nodeSelector": { "disk": "fast" }, "schedulerName": "mine", "priorityClassName": "high",
            "tolerations": [{ "key": "db", "operator": "Exists" }], "imagePullSecrets": [{ "name": "registry" }],
            "resources": { "limits": { "memory": "1Gi" } }, "env": [{ "name": "NO_PROXY", "value": "x" }],
            "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [] } } },
        }));
        assert_eq!(pod["nodeSelector"]["disk"], "fast");
        assert_eq!(pod["schedulerName"], "mine");
        assert_eq!(pod["priorityClassName"], "high");
        assert_eq!(pod["tolerations"][0]["key"], "db");
        assert_eq!(pod["imagePullSecrets"][0]["name"], "registry");
        let container = &pod["containers"][0];
        assert_eq!(container["resources"]["limits"]["memory"], "1Gi");
        let proxies: Vec<&Value> = container["env"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|variable| variable["name"] == "NO_PROXY")
            .collect();
        assert_eq!(proxies, [&json!({ "name": "NO_PROXY", "value": "x" })]);
        // Of other instances nothing was said, so they are kept apart as ever.
        assert!(pod["affinity"]["nodeAffinity"].is_object());
        let apart = &pod["affinity"]["podAntiAffinity"];
        assert_eq!(*apart, rendered(json!({}))["affinity"]["podAntiAffinity"]);
        let none = rendered(json!({ "affinity": { "podAntiAffinity": {} } }));
        assert_eq!(none["affinity"]["podAntiAffinity"], json!({}));
    }

    #[test]
    fn what_nobody_says_changes_no_pod() {
        let pod = rendered(json!({}));
        for field in [
            "nodeSelector",
            "tolerations",
            "schedulerName",
            "imagePullSecrets",
        ] {
            assert!(pod.get(field).is_none(), "{field}");
        }
        assert!(pod["containers"][0].get("resources").is_none());
    }
}
