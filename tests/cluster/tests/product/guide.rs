//! The guides, with `kubedb` and with `kubectl`.

use std::{collections::BTreeSet, fs};

use kubedb_e2e::{kubedb::scratch, wait::eventually};
use serde_json::json;

use crate::world::{PATIENCE, World};

/// The guide's manifest, in another namespace.
fn scheduled(namespace: &str) -> String {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../examples/scheduled-pg.yaml"
    );
    let text = fs::read_to_string(path).unwrap();
    text.replace("namespace: demo", &format!("namespace: {namespace}"))
}

#[test]
fn scheduled_backup_as_the_guide_has_it() {
    let Some(world) = World::begin() else { return };
    let namespace = world.namespace("guide");
    let said = world.does(&["create", "-f", "-"], &scheduled(&namespace));
    assert!(said.contains("postgres \"scheduled-pg\" created"), "{said}");
    world.wait_for(&namespace, "scheduled-pg");
    let nodes: BTreeSet<String> = (0..3)
        .map(|ordinal| {
            let pod = world
                .get(&namespace, "pod", &format!("scheduled-pg-{ordinal}"))
                .unwrap();
            pod["spec"]["nodeName"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(nodes.len(), 3, "the instances are on {nodes:?}");
    let first = world.first_snapshot(&namespace, "scheduled-pg");
    world.wait_for_snapshot(&namespace, &first);
    let selector = "--selector=kubedb.com/kind=Postgres,kubedb.com/name=scheduled-pg";
    let table = world.does(&["get", "snap", "-n", &namespace, selector], "");
    let mut lines = table.lines();
    let head: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["NAME", "DATABASE", "STATUS", "AGE"]);
    let row: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(row[..3], [first.as_str(), "pg/scheduled-pg", "Succeeded"]);
    let below = format!("kubedb/{namespace}/scheduled-pg");
    assert!(world.stored(&below) > 0);
    // Without the field there is no schedule any more.
    edit_away_schedule(&world, &namespace);
    eventually("no next time", PATIENCE, || {
        let found = world.get(&namespace, "pg", "scheduled-pg")?;
        if found["status"]["nextScheduleTime"].is_null() {
            Ok(())
        } else {
            Err(found["status"]["nextScheduleTime"].to_string())
        }
    });
    // What was stored goes with its Snapshot.
    world.does(&["delete", "snap", &first, "-n", &namespace], "");
    assert_eq!(world.stored(&format!("{below}/{first}")), 0);
}

/// `kubedb edit`, with an editor that takes the field out.
fn edit_away_schedule(world: &World, namespace: &str) {
    let script = "/^  backupSchedule:/,/^  [a-z]/{/^  backupSchedule:/d;/^    /d}";
    let ran = world.edit(namespace, ["pg", "scheduled-pg"], script);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stdout.contains("\"scheduled-pg\" edited"),
        "{}",
        ran.stdout
    );
}

#[test]
fn a_script_an_instant_snapshot_and_a_database_made_of_it() {
    let Some(world) = World::begin() else { return };
    let namespace = world.namespace("instant");
    let script =
        "create schema data; create table data.dashboard as select generate_series(1, 1000) as id;";
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "init", "namespace": namespace },
        "data": { "data.sql": script },
    });
    world.kubectl.apply(&[map]).unwrap();
    let init = json!({ "init": { "scriptSource": { "configMap": { "name": "init" } } } });
    world.create(&namespace, "script-postgres", &init);
    world.wait_for(&namespace, "script-postgres");
    let query = "select * from pg_catalog.pg_tables where schemaname = 'data'";
    let expected = "data|dashboard|postgres||f|f|f|f";
    assert_eq!(world.answer(&namespace, "script-postgres", query), expected);
    // With kubectl this time.
    let snapshot = json!({
        "apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot",
        "metadata": { "name": "instant-snapshot", "namespace": namespace, "labels": { "kubedb.com/kind": "Postgres" } },
        "spec": { "databaseName": "script-postgres", "storageSecretName": "gcs-secret", "gcs": { "bucket": "kubedb" } },
    });
    world.kubectl.apply(&[snapshot]).unwrap();
    world.wait_for_snapshot(&namespace, "instant-snapshot");
    world.answer(
        &namespace,
        "script-postgres",
        "insert into data.dashboard values (1001)",
    );
    let init = json!({
        "init": { "snapshotSource": { "name": "instant-snapshot", "namespace": namespace } },
        "databaseSecret": { "secretName": "script-postgres-auth" },
    });
    world.create(&namespace, "recovered-postgres", &init);
    let found = world.wait_for(&namespace, "recovered-postgres");
    assert_eq!(
        found["spec"]["databaseSecret"]["secretName"],
        "script-postgres-auth"
    );
    let host = format!("recovered-postgres.{namespace}.svc");
    let rows = eventually("rows of the Snapshot", PATIENCE, || {
        let query = "select count(*), min(id), max(id) from data.dashboard";
        world.sql(&namespace, "script-postgres", &host, query)
    });
    assert_eq!(rows, "1000|1|1000");
    // From outside of the cluster, through its API server.
    let folder = scratch().unwrap();
    let output = folder.path().to_str().unwrap();
    let words = [
        "summarize",
        "pg",
        "recovered-postgres",
        "-n",
        &namespace,
        "--output",
        output,
    ];
    let said = world.does(&words, "");
    assert!(
        said.contains("Summary report for \"postgreses/recovered-postgres\""),
        "{said}"
    );
    let report = fs::read_dir(folder.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(report.path()).unwrap()).unwrap();
    let schemas = &report["summary"]["postgres"]["postgres"]["schema"];
    assert_eq!(schemas["data"]["table"]["dashboard"]["totalRow"], 1000);
    let words = [
        "connect",
        "pg",
        "recovered-postgres",
        "-n",
        &namespace,
        "--",
        "-Atc",
        "select 6 * 7",
    ];
    assert_eq!(world.does(&words, "").trim(), "42");
    let told = world.does(
        &["describe", "pg", "recovered-postgres", "-n", &namespace],
        "",
    );
    for words in [
        "kubedb.com/initialized",
        "Successfully created Service",
        "Successfully created StatefulSet",
        "Successfully created Postgres",
        "Successfully completed initialization",
    ] {
        assert!(told.contains(words), "no {words} in {told}");
    }
}
