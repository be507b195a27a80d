//! Snapshots, updates and deletion: what is refused, and in which words.

#![allow(clippy::unwrap_used)]

mod manifests;

use kubedb_api::{
    Postgres,
    validate::{
        validate_delete, validate_postgres_update, validate_snapshot, validate_snapshot_update,
    },
};
use manifests::{guide, lines, set};
use serde_json::{Value, json};

fn snapshot() -> Value {
    json!({
        "apiVersion": "kubedb.com/v1alpha1",
        "kind": "Snapshot",
        "metadata": { "name": "instant", "labels": { "kubedb.com/kind": "Postgres" } },
        "spec": { "databaseName": "pg", "storageSecretName": "s", "gcs": { "bucket": "b" } },
    })
}

#[test]
fn wrong_snapshots_are_told_the_field_and_the_reason() {
    assert_eq!(validate_snapshot(&snapshot()), []);
    for (pointer, value, expected) in [
        ("metadata.name", json!("a".repeat(64)), format!("metadata.name: name \"{}\" has 64 characters, more than 63", "a".repeat(64))),
        ("spec.databaseName", Value::Null, "spec.databaseName: object 'DatabaseName' is missing in '{\"gcs\":{\"bucket\":\"b\"},\"storageSecretName\":\"s\"}'".to_owned()),
        ("spec.databaseName", json!("../pg"), "spec.databaseName: name \"../pg\" must begin with a lower-case letter, end with a letter or digit, and hold only lower-case letters, digits and hyphens".to_owned()),
        ("spec.gcs", Value::Null, "spec: no storage provider is configured (give one of s3, gcs, azure, local, swift)".to_owned()),
        ("spec.deletionPolicy", json!("Keep"), "spec.deletionPolicy: spec.deletionPolicy \"Keep\" invalid (known values: Delete, Retain)".to_owned()),
        ("spec.method", json!("logical"), "spec.method: spec.method \"logical\" invalid (known values: Physical, Logical)".to_owned()),
        ("spec.databasename", json!("pg"), "spec.databasename: unknown field \"spec.databasename\" (did you mean \"databaseName\"?)".to_owned()),
        ("spec.allowedNamespaces", json!("other"), "spec.allowedNamespaces: spec.allowedNamespaces must be a list, not text".to_owned()),
        ("metadata.labels", json!({ "kubedb.com/kind": "MySQL" }), "metadata.labels.kubedb.com/kind: Snapshots of MySQL are not built: Postgres is".to_owned()),
    ] {
        let mut raw = snapshot();
        set(&mut raw, pointer, value);
        assert_eq!(lines(&validate_snapshot(&raw)), [expected], "{pointer}");
    }
}

#[test]
fn fixed_fields_stay_and_others_may_change() {
    let update = |pointer: &str, old: Value, new: Value| {
        let (mut before, mut after) = (guide(), guide());
        set(&mut before, pointer, old);
        set(&mut after, pointer, new);
        validate_postgres_update(&before, &after)
    };
    let list = "At least one of the following was changed:\n\tspec.version\n\tspec.standbyMode\n\tspec.streamingMode\n\tspec.archiver\n\tspec.databaseSecret\n\tspec.storage\n\tspec.nodeSelector\n\tspec.init";
    for (pointer, old, new) in [
        ("spec.version", json!(9.6), json!("15")),
        ("spec.standbyMode", Value::Null, json!("hot")),
        (
            "spec.databaseSecret",
            json!({ "secretName": "a" }),
            json!({ "secretName": "b" }),
        ),
        (
            "spec.databaseSecret",
            json!({ "secretName": "a" }),
            Value::Null,
        ),
        (
            "spec.storage.resources.requests.storage",
            json!("1Gi"),
            json!("2Gi"),
        ),
        (
            "spec.init",
            Value::Null,
            json!({ "snapshotSource": { "name": "s" } }),
        ),
        ("spec.nodeSelector", Value::Null, json!({ "disk": "ssd" })),
        (
            "spec.archiver",
            json!({ "storage": { "local": { "mountPath": "/a" } } }),
            json!({ "storage": { "local": { "mountPath": "/b" } } }),
        ),
        (
            "spec.init",
            json!({ "snapshotSource": { "name": "s", "target": { "xid": 700 } } }),
            json!({ "snapshotSource": { "name": "s", "target": { "xid": 701 } } }),
        ),
    ] {
        let errors = update(pointer, old, new);
        assert_eq!(errors.len(), 1, "{pointer}");
        assert_eq!(errors[0].message, list, "{pointer}");
        let hint = errors[0].hint.as_deref().unwrap();
        assert_eq!(hint, format!("changed here: {}", errors[0].field));
        assert!(pointer.starts_with(&errors[0].field), "{pointer}");
    }
    for (pointer, old, new) in [
        ("spec.version", json!(9.6), json!("9.6")),
        ("spec.standbyMode", Value::Null, json!("Warm")),
        (
            "spec.streamingMode",
            json!("Asynchronous"),
            json!("asynchronous"),
        ),
        (
            "spec.storage.accessModes",
            Value::Null,
            json!(["ReadWriteOnce"]),
        ),
        ("spec.storage.selector", Value::Null, Value::Null),
        (
            "spec.databaseSecret",
            Value::Null,
            json!({ "secretName": "a" }),
        ),
        ("spec.replicas", json!(1), json!(3)),
        (
            "spec.init",
            json!({ "snapshotSource": { "name": "s", "target": { "xid": 700, "timeline": 2 } } }),
            json!({ "snapshotSource": { "name": "s", "target": { "xid": "700", "timeline": "2" } } }),
        ),
        (
            "spec.tolerations",
            Value::Null,
            json!([{ "operator": "Exists" }]),
        ),
        (
            "spec.resources",
            Value::Null,
            json!({ "limits": { "memory": "1Gi" } }),
        ),
        ("spec.doNotPause", Value::Null, json!(true)),
        (
            "spec.backupSchedule",
            Value::Null,
            json!({ "cronExpression": "@daily" }),
        ),
        ("status", json!({}), json!({ "phase": "Running" })),
    ] {
        assert_eq!(update(pointer, old, new), [], "{pointer}");
    }
}

#[test]
fn a_snapshot_says_for_good_what_was_done() {
    let update = |pointer: &str, new: Value| {
        let mut after = snapshot();
        set(&mut after, pointer, new);
        lines(&validate_snapshot_update(&snapshot(), &after))
    };
    let told = |field: &str| {
        format!(
            "{field}: At least one of the following was changed:\n\t{field} (changed here: {field})"
        )
    };
    assert_eq!(
        update("spec.databaseName", json!("other")),
        [told("spec.databaseName")]
    );
    assert_eq!(
        update("spec.gcs.bucket", json!("other")),
        [told("spec.gcs")]
    );
    assert_eq!(update("spec.s3", json!({})), [told("spec.s3")]);
    for (pointer, new) in [
        ("spec.deletionPolicy", json!("Retain")),
        ("spec.allowedNamespaces", json!(["other"])),
        ("spec.s3", Value::Null),
        ("metadata.labels", json!({})),
        ("status", json!({ "phase": "Running" })),
    ] {
        assert_eq!(update(pointer, new), [""; 0], "{pointer}");
    }
}

#[test]
fn a_locked_database_says_how_it_is_unlocked() {
    let locked = |field: &str, value: Value| {
        let mut raw = guide();
        set(&mut raw, &format!("spec.{field}"), value);
        let typed: Postgres = serde_json::from_value(raw).unwrap();
        validate_delete(&typed).map(|error| lines(&[error]).remove(0))
    };
    assert_eq!(
        locked("doNotPause", json!(true)).unwrap(),
        "spec.doNotPause: postgres \"scheduled-pg\" can't be paused. To continue delete, unset spec.doNotPause and retry"
    );
    assert_eq!(
        locked("terminationPolicy", json!("DoNotTerminate")).unwrap(),
        "spec.terminationPolicy: postgres \"scheduled-pg\" can't be paused. To continue delete, set spec.terminationPolicy to Pause and retry"
    );
    assert_eq!(locked("doNotPause", json!(false)), None);
    assert_eq!(locked("terminationPolicy", json!("Pause")), None);
}
