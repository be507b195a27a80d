//! Snapshots and WAL on a volume, which a running pod cannot mount: somebody serves it.

use std::path::PathBuf;

use kubedb_e2e::wait::eventually;
use serde_json::{Value, json};

use crate::world::{PATIENCE, World};

/// A claim for backups, of a class. Returns the storage that names it.
fn claim(world: &World, namespace: &str, class: &str) -> Value {
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "backups", "namespace": namespace },
        "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": { "requests": { "storage": "40Mi" } } },
    });
    world.kubectl.apply(&[claim]).unwrap();
    json!({ "mountPath": "/backup", "subPath": "team", "persistentVolumeClaim": { "claimName": "backups" } })
}

/// The volume's folder, as this machine sees it.
fn folder(world: &World, namespace: &str) -> PathBuf {
    let claim = world.get(namespace, "pvc", "backups").unwrap();
    let volume = claim["spec"]["volumeName"].as_str().unwrap();
    let volume = world.kubectl.get(&["pv", volume]).unwrap();
    let path = volume["spec"]["hostPath"]["path"].as_str();
    let path = path.or(volume["spec"]["local"]["path"].as_str());
    PathBuf::from(path.unwrap())
        .join("team/kubedb")
        .join(namespace)
}

fn snapshot(world: &World, namespace: &str, name: &str, local: &Value) {
    let snapshot = json!({
        "apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot", "metadata": { "name": name, "namespace": namespace },
        "spec": { "databaseName": "pg", "local": local },
    });
    world.kubectl.apply(&[snapshot]).unwrap();
    world.wait_for_snapshot(namespace, name);
}

/// Names of who serves volumes.
fn servers(world: &World, namespace: &str) -> Vec<String> {
    let found = world
        .kubectl
        .get(&["-n", namespace, "pods", "-l", "kubedb.com/task=store"])
        .unwrap();
    let pods = found["items"].as_array().cloned().unwrap_or_default();
    pods.iter()
        .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

fn wait_for_no_server(world: &World, namespace: &str) {
    eventually("nobody that serves a volume", PATIENCE, || {
        match servers(world, namespace).as_slice() {
            [] => Ok(()),
            some => Err(format!("{some:?}")),
        }
    });
}

#[test]
fn a_snapshot_on_a_volume_is_taken_restored_verified_and_deleted() {
    let Some(world) = World::begin() else { return };
    let namespace = world.namespace("volume");
    let local = claim(&world, &namespace, "standard");
    world.create(&namespace, "pg", &json!({}));
    world.wait_for(&namespace, "pg");
    assert!(servers(&world, &namespace).is_empty());
    world.answer(
        &namespace,
        "pg",
        "create table kept as select generate_series(1, 1000) as id",
    );
    for name in ["one", "two"] {
        snapshot(&world, &namespace, name, &local);
    }
    let kept = folder(&world, &namespace).join("pg/snapshots");
    assert!(kept.join("one").exists() && kept.join("two").exists());
    wait_for_no_server(&world, &namespace);
    let verify = [
        "verify", "snap", "one", "--level", "pages", "-n", &namespace,
    ];
    world.does(&verify, "");
    world.answer(&namespace, "pg", "insert into kept values (1001)");
    let init = json!({ "init": { "snapshotSource": { "name": "one", "namespace": namespace } } });
    world.create(&namespace, "copy", &init);
    world.wait_for(&namespace, "copy");
    let query = "select count(*), max(id) from kept";
    assert_eq!(world.answer(&namespace, "copy", query), "1000|1000");
    world.does(&["delete", "snap", "one", "-n", &namespace], "");
    assert!(!kept.join("one").exists() && kept.join("two").exists());
    wait_for_no_server(&world, &namespace);
    // Without a database a Job mounts the volume itself.
    world.does(&["delete", "pg", "pg", "-n", &namespace], "");
    world.does(&["delete", "snap", "two", "-n", &namespace], "");
    assert!(!kept.join("two").exists());
}

#[test]
fn an_archive_on_a_volume_is_served_as_long_as_its_database_runs() {
    let Some(world) = World::begin() else { return };
    let namespace = world.namespace("archive");
    let local = claim(&world, &namespace, "standard");
    world.create(
        &namespace,
        "pg",
        &json!({ "archiver": { "storage": { "local": local } } }),
    );
    world.wait_for(&namespace, "pg");
    world.answer(
        &namespace,
        "pg",
        "create table kept as select generate_series(1, 1000) as id",
    );
    let server = servers(&world, &namespace);
    assert_eq!(server.len(), 1, "{server:?}");
    // Who serves it may die: what was not stored by then is stored by its successor.
    let kill = [
        "-n",
        &namespace,
        "delete",
        "pod",
        &server[0],
        "--force",
        "--grace-period=0",
    ];
    world.kubectl.run(&kill).unwrap();
    world.answer(&namespace, "pg", "insert into kept values (1001)");
    let wanted: String = world.answer(&namespace, "pg", "select clock_timestamp()::text");
    eventually("an archive that has it", PATIENCE, || {
        let found = world.get(&namespace, "pg", "pg")?;
        let query = format!(
            "select '{}'::timestamptz > '{wanted}'::timestamptz",
            found["status"]["latestRestorableTime"]
                .as_str()
                .unwrap_or("-infinity")
        );
        match world.answer(&namespace, "pg", &query).as_str() {
            "t" => Ok(()),
            other => Err(format!("{other} {}", found["status"]["conditions"])),
        }
    });
    let path = format!("team/kubedb/{namespace}/pg/archive");
    let source = json!({ "mountPath": "/backup", "subPath": path, "persistentVolumeClaim": { "claimName": "backups" } });
    world.create(
        &namespace,
        "copy",
        &json!({ "init": { "postgresWAL": { "local": source } } }),
    );
    world.wait_for(&namespace, "copy");
    let query = "select count(*), max(id) from kept";
    assert_eq!(world.answer(&namespace, "copy", query), "1001|1001");
}

#[test]
fn a_volume_that_would_be_lost_with_its_pod_is_refused() {
    let Some(world) = World::begin() else { return };
    let namespace = world.namespace("scratch");
    let storage = json!({ "local": { "mountPath": "/backup", "emptyDir": {} } });
    world.create(
        &namespace,
        "pg",
        &json!({ "archiver": { "storage": storage } }),
    );
    eventually("a refusal", PATIENCE, || {
        let found = world.get(&namespace, "pg", "pg")?;
        let conditions = found["status"]["conditions"].to_string();
        if conditions.contains("local.emptyDir at /backup is gone with the pod") {
            Ok(())
        } else {
            Err(conditions)
        }
    });
}

#[test]
fn a_full_volume_of_backups_is_told_and_room_is_all_it_takes() {
    let Some(world) = World::begin() else { return };
    let namespace = world.namespace("fullbackups");
    let class = format!("backups-{}", std::process::id());
    world.cluster.add_disk("node2", &class, 40 << 20).unwrap();
    let local = claim(&world, &namespace, &class);
    world.create(&namespace, "pg", &json!({}));
    world.wait_for(&namespace, "pg");
    // What does not compress, so that a Snapshot of it has no room.
    let noise = "create table noise as select string_agg(decode(md5(random()::text), 'hex'), '') as bytes from generate_series(1, 4000000) n group by n % 1000";
    world.answer(&namespace, "pg", noise);
    let snapshot = json!({
        "apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot", "metadata": { "name": "large", "namespace": namespace },
        "spec": { "databaseName": "pg", "local": local },
    });
    world.kubectl.apply(&[snapshot]).unwrap();
    let reason = eventually("a failed Snapshot", PATIENCE, || {
        let found = world.get(&namespace, "snap", "large")?;
        match found["status"]["phase"].as_str() {
            Some("Failed") => Ok(found["status"]["reason"].to_string()),
            other => Err(format!("{other:?} {}", found["status"]["reason"])),
        }
    });
    assert!(reason.contains("no space is left"), "{reason}");
    world.answer(&namespace, "pg", "drop table noise");
    world.does(&["delete", "snap", "large", "-n", &namespace], "");
    self::snapshot(&world, &namespace, "small", &local);
}

#[test]
fn a_full_volume_of_a_database_is_told_and_room_is_all_it_takes() {
    let Some(world) = World::begin() else { return };
    let namespace = world.namespace("full");
    let class = format!("full-{}", std::process::id());
    world.cluster.add_disk("node3", &class, 160 << 20).unwrap();
    let storage = json!({
        "storageClassName": class, "accessModes": ["ReadWriteOnce"],
        "resources": { "requests": { "storage": "160Mi" } },
    });
    world.create(&namespace, "pg", &json!({ "storage": storage }));
    world.wait_for(&namespace, "pg");
    world.answer(&namespace, "pg", "create table kept as select 42 as answer");
    let within = |script: &str| {
        let words = [
            "-n", &namespace, "exec", "pg-0", "-c", "postgres", "--", "bash", "-c", script,
        ];
        world.kubectl.run(&words).map_err(|error| error.to_string())
    };
    // Until nothing more fits.
    within("cat /dev/zero >/var/pv/filler 2>/dev/null || true").unwrap();
    let host = format!("pg.{namespace}.svc");
    let write = "create table if not exists large as select repeat('x', 900) as text from generate_series(1, 30000)";
    let refused = world.sql(&namespace, "pg", &host, write).unwrap_err();
    let mut told = refused.clone();
    if !refused.contains("No space left on device") {
        // WAL had no room either, which ends PostgreSQL: then the database says so.
        told = eventually("a status that says why", PATIENCE, || {
            let status = world.get(&namespace, "pg", "pg")?["status"].to_string();
            if status.contains("No space left on device") {
                Ok(status)
            } else {
                Err(status)
            }
        });
    }
    assert!(told.contains("No space left on device"), "{told}");
    eventually("room", PATIENCE, || within("rm -f /var/pv/filler"));
    world.wait_for(&namespace, "pg");
    assert_eq!(
        world.answer(&namespace, "pg", "select answer from kept"),
        "42"
    );
    eventually("rows", PATIENCE, || {
        world.sql(&namespace, "pg", &host, write)
    });
}
