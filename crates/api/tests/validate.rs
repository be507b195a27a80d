//! What the guide's manifest is, and what each wrong one is told.

#![allow(clippy::unwrap_used)]

mod manifests;

use kubedb_api::{Postgres, crd::crds, validate::validate_postgres};
use manifests::{ARCHIVED, LOCAL, REPLAYED, VERSIONS, guide, lines, with};
use serde_json::{Value, json};

/// The guide's manifest with one change must be refused with exactly this.
fn check(change: impl FnOnce(&mut Value), field: &str, message: &str) {
    let mut raw = guide();
    change(&mut raw["spec"]);
    let errors = validate_postgres(&raw, &VERSIONS);
    let found: Vec<_> = errors
        .iter()
        .map(|e| (e.field.as_str(), e.message.as_str()))
        .collect();
    assert_eq!(found, [(field, message)]);
}

#[test]
fn the_guide_is_accepted_and_its_bare_version_survives() {
    assert_eq!(validate_postgres(&guide(), &VERSIONS), []);
    let typed: Postgres = serde_json::from_value(guide()).unwrap();
    let again = serde_json::to_value(&typed).unwrap();
    assert_eq!(again["spec"]["version"], json!(9.6));
    assert_eq!(
        again["spec"]["backupSchedule"],
        guide()["spec"]["backupSchedule"]
    );
}

#[test]
fn wrong_manifests_are_told_the_field_and_the_reason() {
    check(
        |spec| spec["version"] = json!("8.4"),
        "spec.version",
        "KubeDB doesn't support Postgres version: 8.4",
    );
    check(
        |spec| spec["replicas"] = json!(0),
        "spec.replicas",
        "spec.replicas \"0\" invalid. Value must be greater than zero",
    );
    check(
        |spec| spec["backupSchedule"]["cronExpression"] = json!("61 * * * *"),
        "spec.backupSchedule.cronExpression",
        "invalid cron expression: minute \"61\": 61 is above 59",
    );
    check(
        |spec| {
            spec["backupSchedule"]["cronExpression"] = json!("TZ=UTC 0 5 * * *");
            spec["backupSchedule"]["timeZone"] = json!("Asia/Tokyo");
        },
        "spec.backupSchedule.cronExpression",
        "invalid cron expression: time zone: give either timeZone or a TZ= prefix, not both",
    );
    check(
        |spec| {
            spec["backupSchedule"]
                .as_object_mut()
                .unwrap()
                .remove("gcs");
        },
        "spec.backupSchedule",
        "no storage provider is configured",
    );
    check(
        |spec| spec["archiver"] = json!({}),
        "spec.archiver.storage",
        "no storage provider is configured",
    );
}

#[test]
fn every_example_is_accepted() {
    let local: Value = serde_yaml_ng::from_str(LOCAL).unwrap();
    assert_eq!(validate_postgres(&local, &VERSIONS), []);
    // What the operator asks again, after the types.
    let archives = [ARCHIVED, REPLAYED].map(|text| serde_yaml_ng::from_str(text).unwrap());
    for raw in archives.into_iter().chain([local, guide()]) {
        assert_eq!(validate_postgres(&raw, &VERSIONS), []);
        let typed: Postgres = serde_json::from_value(raw).unwrap();
        let again = serde_json::to_value(&typed).unwrap();
        assert_eq!(validate_postgres(&again, &VERSIONS), []);
    }
}

#[test]
fn what_the_original_accepts_is_accepted() {
    for (pointer, value) in [
        ("spec.version", json!("9.6")),
        ("spec.standbyMode", json!("hot")),
        ("spec.standbyMode", json!("Warm")),
        ("spec.streamingMode", json!("asynchronous")),
        ("spec.streamingMode", json!("Asynchronous")),
        ("spec.replicas", Value::Null),
        ("spec.doNotPause", json!(true)),
        ("spec.terminationPolicy", json!("DoNotTerminate")),
        ("spec.terminationPolicy", json!("Delete")),
        ("spec.terminationPolicy", json!("WipeOut")),
        ("spec.nodeSelector", json!({ "disktype": "ssd" })),
        (
            "spec.affinity",
            json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
                { "matchExpressions": [{ "key": "zone", "operator": "In", "values": ["a"] }] },
            ] } } }),
        ),
        (
            "spec.tolerations",
            json!([{ "key": "db", "operator": "Exists", "effect": "NoSchedule" }]),
        ),
        ("spec.schedulerName", json!("mine")),
        (
            "spec.imagePullSecrets",
            json!([{ "name": "myregistrykey" }]),
        ),
        (
            "spec.resources",
            json!({ "requests": { "memory": "64Mi", "cpu": "250m" }, "limits": { "memory": "1Gi" } }),
        ),
        (
            "spec.podTemplate",
            json!({ "metadata": { "annotations": { "any.name/at-all": "x" } }, "spec": {
                "nodeSelector": { "disktype": "ssd" }, "priorityClassName": "high",
                "env": [{ "name": "TZ", "value": "UTC" }],
            } }),
        ),
        ("spec.databaseSecret", json!({ "secretName": "mine" })),
        ("spec.storage.resources.requests.storage", json!("0.5Gi")),
        (
            "spec.storage.selector",
            json!({ "matchLabels": { "any.name/at-all": "x" } }),
        ),
        (
            "spec.init",
            json!({ "scriptSource": { "scriptPath": "db", "configMap": { "name": "scripts" } } }),
        ),
        (
            "spec.init",
            json!({ "snapshotSource": { "name": "older", "namespace": "demo" } }),
        ),
        (
            "spec.init",
            json!({ "snapshotSource": { "name": "older", "target": {} } }),
        ),
        (
            "spec.init",
            json!({ "snapshotSource": { "name": "older", "target": { "xid": 700, "timeline": 2, "inclusive": false } } }),
        ),
        (
            "spec.init",
            json!({ "postgresWAL": { "storageSecretName": "s", "s3": { "bucket": "b", "prefix": "kubedb/demo/wal-postgres/archive" } } }),
        ),
        (
            "spec.init",
            json!({ "postgresWAL": { "local": { "mountPath": "/b", "subPath": "kubedb/demo/wal-postgres/archive/" },
                "backupName": "LATEST", "pitr": { "targetTime": "2019-01-07 08:30:00+00", "targetTimeline": "latest", "targetInclusive": true } } }),
        ),
        (
            "spec.archiver",
            json!({ "storage": { "storageSecretName": "s3-secret", "s3": { "bucket": "kubedb" } } }),
        ),
        (
            "spec.archiver",
            json!({ "storage": { "local": { "mountPath": "/b" } } }),
        ),
        (
            "spec.backupSchedule",
            json!({ "cronExpression": "@daily", "local": { "mountPath": "/repo", "emptyDir": {} } }),
        ),
        (
            "spec.backupSchedule.resources",
            json!({ "requests": { "memory": "64Mi", "cpu": "250m" }, "limits": { "memory": "128Mi", "cpu": "500m" } }),
        ),
        ("spec.backupSchedule.maxRate", json!("50Mi")),
        ("spec.backupSchedule.startingDeadlineSeconds", json!(5)),
        ("spec.backupSchedule.target", json!("Primary")),
        ("spec.backupSchedule.suspend", json!(true)),
        ("spec.backupSchedule.timeZone", json!("Asia/Tokyo")),
        (
            "spec.backupSchedule.gcs.endpoint",
            json!("http://127.0.0.1:4443"),
        ),
        ("metadata.annotations", json!({ "x": "y" })),
        ("metadata.unknown", json!(1)),
        ("status", json!({ "anything": 1 })),
    ] {
        assert_eq!(with(pointer, value.clone()), [""; 0], "{pointer} = {value}");
    }
}

#[test]
fn every_rule_of_the_original_has_its_words() {
    let schedule = |store: Value| {
        let mut schedule = json!({ "cronExpression": "@daily" });
        schedule
            .as_object_mut()
            .unwrap()
            .extend(store.as_object().unwrap().clone());
        schedule
    };
    for (pointer, value, expected) in [
        (
            "metadata.name",
            json!("1pg"),
            "metadata.name: name \"1pg\" must begin with a lower-case letter, end with a letter or digit, and hold only lower-case letters, digits and hyphens",
        ),
        (
            "spec.version",
            json!(10.1),
            "spec.version: KubeDB doesn't support Postgres version: 10.1 (YAML reads a bare 10.10 as 10.1; if that was meant, write version: \"10.10\". known versions: 9.6, 15)",
        ),
        (
            "spec.version",
            json!("10.1"),
            "spec.version: KubeDB doesn't support Postgres version: 10.1 (known versions: 9.6, 15)",
        ),
        (
            "spec.version",
            json!(["9.6"]),
            "spec.version: spec.version must be text or a number (write version: \"9.6\")",
        ),
        (
            "spec.standbyMode",
            json!("cold"),
            "spec.standbyMode: spec.standbyMode \"cold\" invalid (known values: hot, warm)",
        ),
        (
            "spec.standbyMode",
            json!("hOT"),
            "spec.standbyMode: spec.standbyMode \"hOT\" invalid (known values: hot, warm)",
        ),
        (
            "spec.streamingMode",
            json!("synchronous"),
            "spec.streamingMode: spec.streamingMode \"synchronous\" invalid (known values: asynchronous)",
        ),
        (
            "spec.databaseSecret",
            json!({}),
            "spec.databaseSecret.secretName: spec.databaseSecret.secretName is missing (leave spec.databaseSecret out to have one made)",
        ),
        (
            "spec.storage",
            json!({ "storageClassName": "standard" }),
            "spec.storage.resources.requests.storage: missing ResourceStorage request (write an amount such as 1Gi)",
        ),
        (
            "spec.storage.resources.requests.storage",
            json!("0"),
            "spec.storage.resources.requests.storage: invalid ResourceStorage request (write an amount such as 1Gi)",
        ),
        (
            "spec.affinity",
            json!({ "nodeAfinity": {} }),
            "spec.affinity.nodeAfinity: unknown field \"spec.affinity.nodeAfinity\" (did you mean \"nodeAffinity\"?)",
        ),
        (
            "spec.imagePullSecrets",
            json!([{}]),
            "spec.imagePullSecrets[0].name: spec.imagePullSecrets[0].name is missing",
        ),
        (
            "spec.podTemplate",
            json!({ "spec": { "env": [{ "name": "POSTGRES_PASSWORD", "value": "x" }] } }),
            "spec.podTemplate.spec.env[0].name: environment variable POSTGRES_PASSWORD is forbidden to use in Postgres spec",
        ),
        (
            "spec.podTemplate",
            json!({ "spec": { "env": [{ "name": "KUBEDB_POD", "value": "x" }] } }),
            "spec.podTemplate.spec.env[0].name: environment variable KUBEDB_POD is forbidden to use in Postgres spec",
        ),
        (
            "spec.podTemplate",
            json!({ "spec": { "initContainers": [] } }),
            "spec.podTemplate.spec.initContainers: spec.podTemplate.spec.initContainers is not built yet: remove it",
        ),
        (
            "spec.podTemplate",
            json!({ "metadata": { "labels": { "kubedb.com/role": "primary" } } }),
            "spec.podTemplate.metadata.labels: spec.podTemplate.metadata.labels \"kubedb.com/role\" invalid: kubedb sets it itself",
        ),
        (
            "spec.monitor",
            json!({ "agent": "x" }),
            "spec.monitor.agent: invalid 'Agent' in '{\"agent\":\"x\"}' (known values: prometheus.io/builtin, prometheus.io/coreos-operator)",
        ),
        (
            "spec.monitor",
            json!({ "prometheus": { "port": 9000, "interval": null } }),
            "spec.monitor.agent: object 'Agent' is missing in '{\"prometheus\":{\"port\":9000}}' (known values: prometheus.io/builtin, prometheus.io/coreos-operator)",
        ),
        (
            "spec.monitor",
            json!({ "agent": "prometheus.io/builtin", "prometheus": { "port": 80 } }),
            "spec.monitor.prometheus.port: invalid 'Monitor.Prometheus' in '{\"agent\":\"prometheus.io/builtin\",\"prometheus\":{\"port\":80}}'. Prometheus.Port value must be between 1024 and 65535, inclusive",
        ),
        (
            "spec.monitor",
            json!({ "agent": "prometheus.io/builtin", "prometheus": { "port": 5432 } }),
            "spec.monitor.prometheus.port: spec.monitor.prometheus.port \"5432\" invalid: PostgreSQL listens there",
        ),
        (
            "spec.monitor",
            json!({ "agent": "prometheus.io/coreos-operator", "prometheus": { "namespace": "Monitoring" } }),
            "spec.monitor.prometheus.namespace: spec.monitor.prometheus.namespace \"Monitoring\" invalid: a namespace has lower-case letters, digits and hyphens",
        ),
        (
            "spec.monitor",
            json!({ "agent": "prometheus.io/coreos-operator", "prometheus": { "interval": "ten seconds" } }),
            "spec.monitor.prometheus.interval: spec.monitor.prometheus.interval \"ten seconds\" invalid (write a time such as 10s or 1m30s)",
        ),
        (
            "spec.monitor",
            json!({ "agent": "coreos-prometheus-operator", "prometheus": { "labels": { "kubedb.com/name": "x" } } }),
            "spec.monitor.prometheus.labels: spec.monitor.prometheus.labels \"kubedb.com/name\" invalid: kubedb sets it itself",
        ),
        (
            "spec.monitor",
            json!({ "agent": "prometheus.io/builtin", "resources": {} }),
            "spec.monitor.resources: unknown field \"spec.monitor.resources\" (remove it: there is no exporter, the agent beside PostgreSQL answers itself)",
        ),
        (
            "spec.init",
            json!({ "snapshotSource": { "name": "s" }, "scriptSource": {} }),
            "spec.init: spec.init has several sources: scriptSource, snapshotSource (keep one)",
        ),
        (
            "spec.init",
            json!({ "snapshotSource": {} }),
            "spec.init.snapshotSource.name: spec.init.snapshotSource.name is missing",
        ),
        (
            "spec.init",
            json!({ "postgresWAL": {} }),
            "spec.init.postgresWAL: no storage provider is configured (give one of s3, gcs, azure, local, swift)",
        ),
        (
            "spec.init",
            json!({ "scriptSource": { "gitRepo": { "repository": "x" } } }),
            "spec.init.scriptSource.gitRepo: spec.init.scriptSource.gitRepo is not built yet: remove it",
        ),
        (
            "spec.init",
            json!({ "scriptSource": {} }),
            "spec.init.scriptSource: spec.init.scriptSource needs one of configMap, secret, hostPath",
        ),
        (
            "spec.backupSchedule.startingDeadlineSeconds",
            json!(0),
            "spec.backupSchedule.startingDeadlineSeconds: spec.backupSchedule.startingDeadlineSeconds \"0\" invalid. Value must be greater than zero",
        ),
        (
            "spec.backupSchedule.maxRate",
            json!("32Ki"),
            "spec.backupSchedule.maxRate: spec.backupSchedule.maxRate \"32Ki\" invalid. Value must be at least 1Mi",
        ),
        (
            "spec.backupSchedule.maxRate",
            json!("fast"),
            "spec.backupSchedule.maxRate: spec.backupSchedule.maxRate \"fast\" invalid. Value must be a quantity such as 1Mi",
        ),
        (
            "spec.backupSchedule.resources",
            json!({ "limits": { "memory": "32Mi" } }),
            "spec.backupSchedule.resources.limits.memory: spec.backupSchedule.resources.limits.memory \"32Mi\" invalid. Value must be at least 64Mi",
        ),
        (
            "spec.backupSchedule.resources",
            json!({ "limits": { "cpu": "1m" } }),
            "spec.backupSchedule.resources.limits.cpu: spec.backupSchedule.resources.limits.cpu \"1m\" invalid. Value must be at least 50m",
        ),
        (
            "spec.backupSchedule.resources",
            json!({ "limits": { "memory": "1Gi" }, "requests": { "memory": "2Gi" } }),
            "spec.backupSchedule.resources.requests.memory: spec.backupSchedule.resources.requests.memory must be less than or equal to the limit",
        ),
        (
            "spec.backupSchedule.resources",
            json!({ "limits": { "ephemeral-storage": "1Gi" } }),
            "spec.backupSchedule.resources.limits.ephemeral-storage: spec.backupSchedule.resources.limits.ephemeral-storage has no use (a backup is held to cpu and memory)",
        ),
        (
            "spec.backupSchedule",
            schedule(json!({})),
            "spec.backupSchedule: no storage provider is configured (give one of s3, gcs, azure, local, swift)",
        ),
        (
            "spec.backupSchedule.s3",
            json!({ "bucket": "b" }),
            "spec.backupSchedule: several storage providers are configured: s3, gcs (keep one; make further Snapshots for further stores)",
        ),
        (
            "spec.backupSchedule.gcs",
            json!({}),
            "spec.backupSchedule.gcs.bucket: spec.backupSchedule.gcs.bucket is missing",
        ),
        (
            "spec.backupSchedule.gcs.prefix",
            json!("a/../b"),
            "spec.backupSchedule.gcs.prefix: spec.backupSchedule.gcs.prefix \"a/../b\" invalid: \".\" and \"..\" lead elsewhere",
        ),
        (
            "spec.backupSchedule",
            schedule(json!({ "s3": { "bucket": "b", "endpoint": "minio:9000" } })),
            "spec.backupSchedule.s3.endpoint: spec.backupSchedule.s3.endpoint \"minio:9000\" invalid: an address such as https://store.example.com is needed",
        ),
        (
            "spec.backupSchedule",
            schedule(json!({ "azure": { "container": "c" } })),
            "spec.backupSchedule.storageSecretName: object 'SecretName' is missing in '{\"azure\":{\"container\":\"c\"},\"cronExpression\":\"@daily\"}'",
        ),
        (
            "spec.backupSchedule",
            schedule(json!({ "swift": { "container": "c" } })),
            "spec.backupSchedule.storageSecretName: object 'SecretName' is missing in '{\"cronExpression\":\"@daily\",\"swift\":{\"container\":\"c\"}}'",
        ),
        (
            "spec.backupSchedule",
            schedule(json!({ "local": { "mountPath": "repo" } })),
            "spec.backupSchedule.local.mountPath: spec.backupSchedule.local.mountPath \"repo\" invalid: an absolute path without \"..\" is needed",
        ),
        (
            "spec.backupSchedule",
            schedule(
                json!({ "local": { "mountPath": "/r", "emptyDir": {}, "hostPath": { "path": "/r" } } }),
            ),
            "spec.backupSchedule.local: several volumes are configured: hostPath, emptyDir (keep one)",
        ),
    ] {
        assert_eq!(with(pointer, value), [expected], "{pointer}");
    }
    let unnamed = json!({ "spec": { "version": null, "backupSchedule": null } });
    let found = lines(&validate_postgres(&unnamed, &VERSIONS));
    assert!(
        found[0].starts_with("spec.version: object 'Version' is missing in '{"),
        "{found:?}"
    );
}

#[test]
fn every_kind_has_a_definition() {
    let names: Vec<_> = crds()
        .into_iter()
        .map(|crd| crd.spec.names.plural)
        .collect();
    assert_eq!(
        names,
        [
            "postgreses",
            "snapshots",
            "dormantdatabases",
            "postgresversions"
        ]
    );
}

#[test]
fn what_is_said_of_pods_is_said_once_and_needs_pods() {
    let mut raw = guide();
    manifests::set(&mut raw, "spec.schedulerName", json!("mine"));
    manifests::set(
        &mut raw,
        "spec.podTemplate",
        json!({ "spec": { "schedulerName": "other" } }),
    );
    let said = lines(&validate_postgres(&raw, &VERSIONS));
    let twice = "spec.schedulerName: spec.schedulerName and spec.podTemplate.spec.schedulerName are the same: keep one";
    assert_eq!(said, [twice]);
    let said = lines(&kubedb_api::validate::validate_for_one_machine(&raw));
    assert_eq!(
        said,
        [
            "spec.schedulerName: spec.schedulerName works on Kubernetes alone: a database of this server is processes of one machine, and has no pods (remove it)",
            "spec.podTemplate: spec.podTemplate works on Kubernetes alone: a database of this server is processes of one machine, and has no pods (remove it)",
        ]
    );
    assert!(kubedb_api::validate::validate_for_one_machine(&guide()).is_empty());
}
