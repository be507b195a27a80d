//! Unknown fields and wrong types: told by path, with what may have been meant.

#![allow(clippy::unwrap_used)]

mod manifests;

use kubedb_api::validate::validate_postgres;
use manifests::{VERSIONS, lines, with};
use serde_json::json;

#[test]
fn an_unknown_field_is_told_by_path_with_what_may_be_meant() {
    for (pointer, expected) in [
        (
            "spec.replica",
            "spec.replica: unknown field \"spec.replica\" (did you mean \"replicas\"?)",
        ),
        (
            "spec.Replicas",
            "spec.Replicas: unknown field \"spec.Replicas\" (did you mean \"replicas\"?)",
        ),
        (
            "spec.standby",
            "spec.standby: unknown field \"spec.standby\" (write standbyMode)",
        ),
        (
            "spec.gcs",
            "spec.gcs: unknown field \"spec.gcs\" (did you mean spec.backupSchedule.gcs?)",
        ),
        (
            "spec.backupSchedule.cronExpresion",
            "spec.backupSchedule.cronExpresion: unknown field \"spec.backupSchedule.cronExpresion\" (did you mean \"cronExpression\"?)",
        ),
        (
            "spec.backupSchedule.gcs.buckte",
            "spec.backupSchedule.gcs.buckte: unknown field \"spec.backupSchedule.gcs.buckte\" (did you mean \"bucket\"?)",
        ),
        (
            "spec.storage.resources.request",
            "spec.storage.resources.request: unknown field \"spec.storage.resources.request\" (did you mean \"requests\"?)",
        ),
        ("spec.zebra", "spec.zebra: unknown field \"spec.zebra\""),
    ] {
        assert_eq!(with(pointer, json!({})), [expected], "{pointer}");
    }
    let old_shape = json!({ "cronExpression": "@daily", "local": { "path": "/repo", "volumeSource": { "emptyDir": {} } } });
    assert_eq!(
        with("spec.backupSchedule", old_shape),
        [
            "spec.backupSchedule.local.path: unknown field \"spec.backupSchedule.local.path\" (write mountPath)",
            "spec.backupSchedule.local.volumeSource: unknown field \"spec.backupSchedule.local.volumeSource\" (write what it holds beside mountPath, such as local: {mountPath: /repo, hostPath: {path: /repo}})",
            "spec.backupSchedule.local.mountPath: spec.backupSchedule.local.mountPath is missing",
        ]
    );
    assert_eq!(
        with(&format!("spec.{}", "x".repeat(10_000)), json!(1)).len(),
        1
    );
}

#[test]
fn a_wrong_type_is_told_by_path_and_only_once() {
    for (pointer, value, expected) in [
        (
            "spec.replicas",
            json!("3"),
            "spec.replicas: spec.replicas must be a whole number, not text (write 3 without quotes)",
        ),
        (
            "spec.replicas",
            json!(2.5),
            "spec.replicas: spec.replicas must be a whole number, not a fraction",
        ),
        (
            "spec.replicas",
            json!(3_000_000_000_u64),
            "spec.replicas: spec.replicas must lie between -2147483648 and 2147483647",
        ),
        (
            "spec.doNotPause",
            json!("true"),
            "spec.doNotPause: spec.doNotPause must be true or false, not text (write true without quotes)",
        ),
        (
            "spec.backupSchedule",
            json!([]),
            "spec.backupSchedule: spec.backupSchedule must be a map of fields, not a list",
        ),
        (
            "spec.backupSchedule.gcs.bucket",
            json!(7),
            "spec.backupSchedule.gcs.bucket: spec.backupSchedule.gcs.bucket must be text, not a number (write it in quotes: \"7\")",
        ),
        (
            "spec.storage.accessModes",
            json!("ReadWriteOnce"),
            "spec.storage.accessModes: spec.storage.accessModes must be a list, not text",
        ),
        (
            "spec.storage.accessModes",
            json!([1]),
            "spec.storage.accessModes[0]: spec.storage.accessModes[0] must be text, not a number (write it in quotes: \"1\")",
        ),
        (
            "spec.storage.resources.requests.storage",
            json!(true),
            "spec.storage.resources.requests.storage: spec.storage.resources.requests.storage must be a number or text, not true or false",
        ),
        (
            "spec.terminationPolicy",
            json!("Never"),
            "spec.terminationPolicy: spec.terminationPolicy \"Never\" invalid (known values: Pause, Delete, WipeOut, DoNotTerminate)",
        ),
        (
            "spec.init",
            json!({ "scriptSource": { "hostPath": {} } }),
            "spec.init.scriptSource.hostPath.path: spec.init.scriptSource.hostPath.path is missing",
        ),
    ] {
        assert_eq!(with(pointer, value), [expected], "{pointer}");
    }
    let nothing = lines(&validate_postgres(
        &json!({ "metadata": { "name": "pg" } }),
        &VERSIONS,
    ));
    assert_eq!(nothing, ["spec: spec is missing"]);
}
