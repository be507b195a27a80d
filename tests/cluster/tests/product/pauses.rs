//! Pausing, resuming and wiping out, with volumes, and with Jobs where no instance is left.

use kubedb_e2e::wait::eventually;
use serde_json::{Value, json};

use crate::world::{PATIENCE, World};

/// Objects of a kind that bear the database's labels.
fn of_database(world: &World, namespace: &str, kind: &str) -> Vec<Value> {
    let labels = "kubedb.com/kind=Postgres,kubedb.com/name=pg";
    let found = world.kubectl.get(&["-n", namespace, kind, "-l", labels]);
    let found = found.unwrap();
    found["items"].as_array().cloned().unwrap_or_default()
}

fn is_there(world: &World, namespace: &str, kind: &str, name: &str) -> bool {
    match world.get(namespace, kind, name) {
        Ok(_) => true,
        Err(error) if error.contains("NotFound") || error.contains("not found") => false,
        Err(error) => panic!("{error}"),
    }
}

fn pause(world: &World, namespace: &str) {
    world.does(&["delete", "pg", "pg", "-n", namespace], "");
    eventually("a paused database", PATIENCE, || {
        let found = world.get(namespace, "drmn", "pg")?;
        if found["status"]["phase"] == "Paused" {
            Ok(())
        } else {
            Err(found["status"].to_string())
        }
    });
    assert!(of_database(world, namespace, "pods").is_empty());
    assert!(!is_there(world, namespace, "statefulset", "pg"));
}

fn snapshot(world: &World, namespace: &str, name: &str) {
    let snapshot = json!({
        "apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot", "metadata": { "name": name, "namespace": namespace },
        "spec": { "databaseName": "pg", "storageSecretName": "gcs-secret", "gcs": { "bucket": "kubedb" } },
    });
    world.kubectl.apply(&[snapshot]).unwrap();
    world.wait_for_snapshot(namespace, name);
}

#[test]
fn a_database_is_paused_resumed_and_wiped_out() {
    let Some(world) = World::begin() else { return };
    let namespace = world.namespace("paused");
    world.create(&namespace, "pg", &json!({}));
    world.wait_for(&namespace, "pg");
    world.answer(
        &namespace,
        "pg",
        "create table kept as select generate_series(1, 1000) as n",
    );
    for name in ["one", "two"] {
        snapshot(&world, &namespace, name);
    }
    let below = format!("kubedb/{namespace}/pg");
    let both = world.stored(&below);

    pause(&world, &namespace);
    let claims = of_database(&world, &namespace, "pvc");
    assert_eq!(claims.len(), 1, "{claims:?}");
    assert!(is_there(&world, &namespace, "secret", "pg-auth"));
    assert_eq!(world.stored(&below), both);
    // Nothing of the database runs, so a Job deletes what a Snapshot left.
    world.does(&["delete", "snap", "one", "-n", &namespace], "");
    let one = world.stored(&below);
    assert!(0 < one && one < both, "{one} of {both}");

    world.create(&namespace, "pg", &json!({}));
    world.wait_for(&namespace, "pg");
    assert_eq!(
        world.answer(&namespace, "pg", "select sum(n) from kept"),
        "500500"
    );
    eventually("the end of the record", PATIENCE, || {
        if is_there(&world, &namespace, "drmn", "pg") {
            Err("there".to_owned())
        } else {
            Ok(())
        }
    });
    snapshot(&world, &namespace, "three");

    pause(&world, &namespace);
    let wipe = r#"{"spec":{"wipeOut":true}}"#;
    for words in [
        &["patch", "drmn", "pg", "--type=merge", "-p", wipe][..],
        &["delete", "drmn", "pg", "--timeout=120s"],
    ] {
        let arguments = [&["-n", &namespace], words].concat();
        world.kubectl.run(&arguments).unwrap();
    }
    assert_eq!(world.stored(&below), 0);
    assert!(of_database(&world, &namespace, "snap").is_empty());
    let claims = of_database(&world, &namespace, "pvc");
    assert!(claims.is_empty(), "{claims:?}");
    assert!(!is_there(&world, &namespace, "secret", "pg-auth"));
    assert!(is_there(&world, &namespace, "secret", "gcs-secret"));
}

#[test]
fn a_locked_database_stays_and_another_spec_does_not_resume() {
    let Some(world) = World::begin() else { return };
    let namespace = world.namespace("locked");
    world.create(&namespace, "pg", &json!({ "doNotPause": true }));
    world.wait_for(&namespace, "pg");
    let refused = world.kubectl.run(&["-n", &namespace, "delete", "pg", "pg"]);
    let refused = refused.unwrap_err().to_string();
    let words = "can't be paused. To continue delete, unset spec.doNotPause and retry";
    assert!(refused.contains(words), "{refused}");
    let unlock = r#"{"spec":{"doNotPause":false}}"#;
    world
        .kubectl
        .run(&[
            "-n",
            &namespace,
            "patch",
            "pg",
            "pg",
            "--type=merge",
            "-p",
            unlock,
        ])
        .unwrap();
    pause(&world, &namespace);
    let other = json!({
        "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "metadata": { "name": "pg", "namespace": namespace },
        "spec": { "version": "15", "replicas": 2, "storage": {
            "storageClassName": "standard", "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "50Mi" } },
        } },
    });
    let ran = world.kubedb(&["create", "-f", "-"], &other.to_string());
    let words =
        "postgres spec mismatches with OriginSpec in DormantDatabases. Diff: replicas: 1 -> 2";
    assert!(ran.stderr.contains(words), "{}", ran.stderr);
}
