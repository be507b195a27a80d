//! What does not change costs nothing: counted in the audit log of the API server.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::world::{SYSTEM, World};

/// How long nothing happens.
const REST: Duration = Duration::from_secs(45);

#[test]
fn nothing_is_written_while_nothing_changes_and_no_secret_of_a_store_is_read() {
    let Some(world) = World::begin() else { return };
    let namespace = world.namespace("steady");
    let schedule = json!({ "backupSchedule": {
        "cronExpression": "@every 6h", "storageSecretName": "gcs-secret", "gcs": { "bucket": "kubedb" },
    } });
    world.create(&namespace, "pg", &schedule);
    world.wait_for(&namespace, "pg");
    let first = world.first_snapshot(&namespace, "pg");
    world.wait_for_snapshot(&namespace, &first);
    // What a Snapshot leaves to be cleaned up.
    rest(Duration::from_secs(5));
    let log = world.cluster.audit_log();
    let begin = fs::metadata(&log).unwrap().len();
    rest(REST);
    let operator = format!("system:serviceaccount:{SYSTEM}:kubedb-operator");
    let text = fs::read(&log).unwrap();
    let asked = |from: u64| {
        let text = String::from_utf8_lossy(&text[usize::try_from(from).unwrap()..]).into_owned();
        let lines: Vec<Value> = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        lines
    };
    let written: Vec<String> = asked(begin)
        .iter()
        .filter(|event| event["user"]["username"] == operator.as_str())
        .filter(|event| !matches!(event["verb"].as_str(), Some("get" | "list" | "watch")))
        .filter(|event| event["objectRef"]["resource"] != "leases")
        .map(|event| format!("{} {}", event["verb"], event["requestURI"]))
        .collect();
    assert!(written.is_empty(), "{written:?}");
}

/// The test is about time that passes.
fn rest(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(200));
    }
}
