//! What the guide's manifest is, and what each wrong one is told.

use kubedb_api::{Postgres, crd::crds, validate::validate_postgres};
use serde_json::{Value, json};

const GUIDE: &str = include_str!("../../../examples/scheduled-pg.yaml");
const VERSIONS: [&str; 2] = ["9.6", "15"];

fn guide() -> Value {
    serde_yaml_ng::from_str(GUIDE).unwrap()
}

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
        "spec.archiver",
        "spec.archiver is not built yet: remove it",
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
