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
    json!({
        "serviceAccountName": desired.key.name,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": user, "runAsGroup": group, "fsGroup": group,
            // Going through a large volume at every start would take minutes.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "affinity": apart(desired),
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
    })
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
    let handed = options.environment.iter();
    environment.extend(handed.map(|(name, value)| json!({ "name": name, "value": value })));
    let probe = |path: &str, period: u32, failures: u32| {
        json!({
            "httpGet": { "path": path, "port": "health", "scheme": "HTTP" },
            "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures, "successThreshold": 1,
        })
    };
    json!({
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
    })
}

/// What pod security calls restricted, and no files of the image are written to.
pub(super) fn confined() -> Value {
    json!({
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
    })
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
