//! What runs: the operators, and how the webhook is reached.

use kubedb_operator::webhook::configuration::{PORT, SERVICE, SERVICE_PORT};
use serde_json::{Value, json};

use super::{OPERATOR, Settings};

/// Where an operator says how it is.
const HEALTH_PORT: u16 = 8080;
/// The user it runs as: any that is not root. Nothing is written to disk.
const USER: u32 = 65_532;

pub(super) fn objects(settings: &Settings) -> Vec<Value> {
    vec![service(settings), budget(settings), deployment(settings)]
}

/// Labels of the pods. They are in the Deployment's selector, which can never change.
pub(super) fn selector() -> Value {
    json!({"app.kubernetes.io/name": "kubedb", "app.kubernetes.io/component": "operator"})
}

fn service(settings: &Settings) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": SERVICE, "namespace": settings.namespace},
        "spec": {"selector": selector(),
            "ports": [{"name": "webhook", "port": SERVICE_PORT, "targetPort": "webhook", "protocol": "TCP"}]}})
}

/// A drain takes one operator at a time, so that the webhook goes on answering.
fn budget(settings: &Settings) -> Value {
    json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": OPERATOR, "namespace": settings.namespace},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector()}}})
}

fn deployment(settings: &Settings) -> Value {
    let apart = json!({"weight": 100, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": selector()}}});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": OPERATOR, "namespace": settings.namespace},
    "spec": {
        "replicas": settings.replicas,
        "selector": {"matchLabels": selector()},
        // The new one answers before an old one goes.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {"metadata": {"labels": selector(), "annotations": scraped()}, "spec": {
            "serviceAccountName": settings.account,
            "automountServiceAccountToken": true,
            "securityContext": {"runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"}},
            "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [apart]}},
            "terminationGracePeriodSeconds": 30,
            "containers": [container(settings)],
        }},
    }})
}

/// Where a Prometheus that reads annotations finds the metrics.
fn scraped() -> Value {
    json!({"prometheus.io/scrape": "true", "prometheus.io/path": "/metrics", "prometheus.io/port": HEALTH_PORT.to_string()})
}

/// Its caches grow and shrink by all threads alike: in one heap what one lets go is of use to another. With 1,000 databases that saves a tenth of its memory,
/// and its threads, which mostly wait for the API server, seldom meet there.
fn one_heap() -> Value {
    json!({"name": "MALLOC_ARENA_MAX", "value": "1"})
}

fn container(settings: &Settings) -> Value {
    let mut arguments = vec![
        "operator".to_owned(),
        format!("--image={}", settings.image),
        format!("--webhook=0.0.0.0:{PORT}"),
    ];
    let watched = settings.watch.iter();
    arguments.extend(watched.map(|namespace| format!("--watch-namespace={namespace}")));
    let own = |name: &str, field: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": field}}});
    let probe = |path: &str, period: u32, failures: u32| json!({"httpGet": {"path": path, "port": "health"}, "periodSeconds": period, "failureThreshold": failures});
    json!({
        "name": "operator", "image": settings.image, "args": arguments,
        "env": [own("POD_NAME", "metadata.name"), own("POD_NAMESPACE", "metadata.namespace"), one_heap()],
        "ports": [{"name": "health", "containerPort": HEALTH_PORT, "protocol": "TCP"},
            {"name": "webhook", "containerPort": PORT, "protocol": "TCP"}],
        "livenessProbe": probe("/healthz", 10, 6),
        "readinessProbe": probe("/readyz", 5, 2),
        "resources": settings.resources,
        "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]}},
    })
}
