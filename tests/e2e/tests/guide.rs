//! The guide to scheduled backup, command by command, against a real GCS server.

#![allow(clippy::unwrap_used)]

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, time::Duration};

use kubedb_e2e::{
    kubedb::{Server, binary, scratch},
    stores::FakeGcs,
    wait::eventually,
    world::BASICS,
};
use serde_json::Value;

/// The guide's `script-postgres`, with one instance so that the test stays small.
const SCRIPT_POSTGRES: &str = "\
apiVersion: kubedb.com/v1alpha1
kind: Postgres
metadata:
  name: script-postgres
  namespace: demo
spec:
  version: \"9.6\"
  storage:
    resources:
      requests:
        storage: 50Mi
";

const INSTANT_SNAPSHOT: &str = "\
apiVersion: kubedb.com/v1alpha1
kind: Snapshot
metadata:
  name: instant-snapshot
  namespace: demo
  labels:
    kubedb.com/kind: Postgres
spec:
  databaseName: script-postgres
  storageSecretName: gcs-secret
  gcs:
    bucket: kubedb
";

const SCHEDULE: &str = "  backupSchedule:\\n    cronExpression: \"@every 6h\"\\n    storageSecretName: gcs-secret\\n    gcs:\\n      bucket: kubedb";

fn example(name: &str) -> String {
    format!("{}/../../examples/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn running(server: &Server, name: &str) {
    eventually(&format!("{name} Running"), Duration::from_secs(180), || {
        let object = server.object("pg", name, "demo")?;
        match object["status"]["phase"].as_str() {
            Some("Running") => Ok(()),
            _ => Err(object["status"].to_string()),
        }
    });
}

/// Names of Succeeded Snapshots of a database, as soon as there are `count`.
fn succeeded(server: &Server, database: &str, count: usize) -> Vec<String> {
    eventually(
        &format!("{count} Snapshots of {database}"),
        Duration::from_secs(90),
        || {
            let snapshots = server.objects("snap", "demo")?;
            let of_database = |snapshot: &&Value| snapshot["spec"]["databaseName"] == database;
            let all: Vec<&Value> = snapshots.iter().filter(of_database).collect();
            let good = all
                .iter()
                .filter(|snapshot| snapshot["status"]["phase"] == "Succeeded");
            let names: Vec<String> = good
                .filter_map(|snapshot| snapshot["metadata"]["name"].as_str().map(str::to_owned))
                .collect();
            if names.len() == count && all.len() == count {
                Ok(names)
            } else {
                Err(format!("{all:?}"))
            }
        },
    )
}

fn editor(folder: &std::path::Path, name: &str, script: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\nset -e\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn the_guide_works_word_for_word() {
    let folder = scratch().unwrap();
    let gcs = FakeGcs::start(folder.path(), &["kubedb"]).unwrap();
    let environment = [("STORAGE_EMULATOR_HOST", gcs.endpoint())];
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let mut server = Server::start(&binary(), &folder.path().join("data"), &environment).unwrap();
    let prepared = server.kubedb(&["create", "-f", "-"], BASICS).unwrap();
    assert_eq!(prepared.code, 0, "{}", prepared.stderr);

    let file = example("scheduled-pg.yaml");
    let created = server.kubedb(&["create", "-f", &file], "").unwrap();
    assert_eq!(
        created.stdout,
        format!("validating \"{file}\"\npostgres \"scheduled-pg\" created\n"),
        "{}",
        created.stderr
    );
    running(&server, "scheduled-pg");
    let first = succeeded(&server, "scheduled-pg", 1);
    let selector = "--selector=kubedb.com/kind=Postgres,kubedb.com/name=scheduled-pg";
    let table = server
        .kubedb(&["get", "snap", "-n", "demo", selector], "")
        .unwrap()
        .stdout;
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(
        lines[0],
        "NAME                           DATABASE          STATUS      AGE"
    );
    assert!(
        lines[1].starts_with(&format!("{}   pg/scheduled-pg   Succeeded   ", first[0])),
        "{table}"
    );
    assert!(
        gcs.objects()
            .join("kubedb/kubedb/demo/scheduled-pg/snapshots")
            .join(&first[0])
            .is_dir()
    );

    // A restart by kill -9 repeats nothing: the schedule is known, and the same PostgreSQL goes on.
    let instances = |server: &Server| {
        server
            .object("pg", "scheduled-pg", "demo")
            .map(|object| object["status"]["instances"]["scheduled-pg-0"]["session"].clone())
    };
    let before = instances(&server).unwrap();
    let next =
        server.object("pg", "scheduled-pg", "demo").unwrap()["status"]["nextScheduleTime"].clone();
    assert!(next.is_string());
    server.kill_and_restart().unwrap();
    running(&server, "scheduled-pg");
    assert_eq!(
        instances(&server).unwrap(),
        before,
        "the agent must live on"
    );
    assert_eq!(succeeded(&server, "scheduled-pg", 1), first);
    assert_eq!(
        server.object("pg", "scheduled-pg", "demo").unwrap()["status"]["nextScheduleTime"],
        next
    );

    // Update Postgres to enable periodic backups.
    for manifest in [SCRIPT_POSTGRES, INSTANT_SNAPSHOT] {
        let ran = server.kubedb(&["create", "-f", "-"], manifest).unwrap();
        assert_eq!(ran.code, 0, "{}", ran.stderr);
    }
    running(&server, "script-postgres");
    assert_eq!(
        succeeded(&server, "script-postgres", 1),
        ["instant-snapshot"]
    );
    let add = editor(
        folder.path(),
        "add.sh",
        &format!(
            "awk '{{print}} /^spec:/ {{print \"{}\"}}' \"$1\" > \"$1.new\"\ncat \"$1.new\" > \"$1\"\nrm \"$1.new\"",
            SCHEDULE.replace('"', "\\\"")
        ),
    );
    let edited = server
        .kubedb_edit(&["edit", "pg", "script-postgres", "-n", "demo"], &add)
        .unwrap();
    assert_eq!(
        edited.stdout, "postgres \"script-postgres\" edited\n",
        "{}",
        edited.stderr
    );
    let both = succeeded(&server, "script-postgres", 2);
    assert_eq!(both[0], "instant-snapshot");
    assert!(both[1].starts_with("script-postgres-20"), "{both:?}");

    // Update Postgres to disable periodic backups.
    let remove = editor(
        folder.path(),
        "remove.sh",
        "awk '/^  [^ ]/ {skip = ($1 == \"backupSchedule:\")} /^[^ ]/ {skip = 0} !skip' \"$1\" > \"$1.new\"\ncat \"$1.new\" > \"$1\"\nrm \"$1.new\"",
    );
    let edited = server
        .kubedb_edit(&["edit", "pg", "scheduled-pg", "-n", "demo"], &remove)
        .unwrap();
    assert_eq!(edited.code, 0, "{}", edited.stderr);
    eventually("no next tick", Duration::from_secs(20), || {
        let next =
            server.object("pg", "scheduled-pg", "demo")?["status"]["nextScheduleTime"].clone();
        if next.is_null() {
            Ok(())
        } else {
            Err(next.to_string())
        }
    });

    // Deleting one Snapshot deletes its data and leaves the other's.
    let below = |name: &str| {
        gcs.objects()
            .join("kubedb/kubedb/demo/script-postgres/snapshots")
            .join(name)
    };
    let deleted = server
        .kubedb(&["delete", "snap", "instant-snapshot", "-n", "demo"], "")
        .unwrap();
    assert_eq!(deleted.code, 0, "{}", deleted.stderr);
    assert!(
        fs::read_dir(below("instant-snapshot")).map_or(true, |mut files| files.next().is_none())
    );
    assert!(below(&both[1]).is_dir());
    assert!(server.objects("snap", "default").unwrap().is_empty());
    assert!(server.stop(), "the server must stop cleanly");
}
