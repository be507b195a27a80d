//! Pausing, resuming and wiping out, with real data in a real store, as the guide does it.

#![allow(clippy::unwrap_used)]

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, time::Duration};

use kubedb_e2e::{
    wait::eventually,
    world::{World, from_snapshot, postgres, processes, snapshot},
};

const ROWS: &str = "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n";
const SUM: &str = "SELECT sum(n) FROM kept";

/// Waits for the record of a paused database.
fn paused(world: &World, name: &str) {
    eventually("a paused database", Duration::from_secs(60), || {
        let status = world.server.object("drmn", name, "demo")?["status"].take();
        if status["phase"] == "Paused" {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
}

fn is_there(world: &World, kind: &str, name: &str) -> bool {
    match world.server.object(kind, name, "demo") {
        Ok(_) => true,
        Err(error) if error.contains("NotFound") => false,
        Err(error) => panic!("{error}"),
    }
}

/// Sets `spec.wipeOut` as a user does.
fn ask_to_wipe_out(world: &World, name: &str) {
    let editor = world.folder().join("editor");
    let script = "#!/bin/sh\nsed -i 's/^spec:$/spec:\\n  wipeOut: true/' \"$1\"\n";
    fs::write(&editor, script).unwrap();
    fs::set_permissions(&editor, fs::Permissions::from_mode(0o755)).unwrap();
    let edited = world
        .server
        .kubedb_edit(&["edit", "drmn", name, "-n", "demo"], &editor)
        .unwrap();
    let said = format!("dormantdatabase \"{name}\" edited\n");
    assert_eq!((edited.stdout, edited.code), (said, 0), "{}", edited.stderr);
}

/// The database of the guide.
const NAME: &str = "quick-postgres";

#[test]
fn a_paused_database_is_resumed_with_its_data_and_wiped_out_when_that_is_asked_for() {
    let mut world = World::new();
    let lock = "  doNotPause: true\n  backupSchedule:\n    cronExpression: \"@every 6h\"\n    storageSecretName: gcs-secret\n    gcs:\n      bucket: kubedb\n";
    world.create(&postgres(NAME, "15", 2, lock));
    world.status("pg", NAME, "Running", 180);
    world.sql(NAME, ROWS).unwrap();
    eventually(
        "the Snapshot of the schedule",
        Duration::from_secs(90),
        || {
            let all = world.server.objects("snap", "demo")?;
            let first = all.first().map(|one| one["status"]["phase"].to_string());
            if first.as_deref() == Some("\"Succeeded\"") {
                Ok(())
            } else {
                Err(format!("{first:?}"))
            }
        },
    );
    let refused = world
        .server
        .kubedb(&["delete", "pg", NAME, "-n", "demo"], "")
        .unwrap();
    let words = "error: postgres \"quick-postgres\" can't be paused. To continue delete, unset spec.doNotPause and retry";
    assert!(refused.stderr.starts_with(words), "{}", refused.stderr);
    let folder = world.instance(NAME, 0);
    let script = "#!/bin/sh\nsed -i 's/doNotPause: true/doNotPause: false/' \"$1\"\n";
    let editor = world.folder().join("unlock");
    fs::write(&editor, script).unwrap();
    fs::set_permissions(&editor, fs::Permissions::from_mode(0o755)).unwrap();
    let edited = world
        .server
        .kubedb_edit(&["edit", "pg", NAME, "-n", "demo"], &editor)
        .unwrap();
    assert_eq!(edited.code, 0, "{}", edited.stderr);

    // Paused: nothing runs, everything is there, also for another server.
    world.delete("pg", NAME);
    paused(&world, NAME);
    let parent = folder.parent().unwrap().to_string_lossy().into_owned();
    assert_eq!(processes(&["postgres", &parent]), Vec::<u32>::new());
    let table = world.run(&["get", "drmn", "-n", "demo", NAME], "");
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines[0].starts_with("NAME             STATUS    AGE"),
        "{table}"
    );
    assert!(lines[1].starts_with("quick-postgres   Paused"), "{table}");
    let told = world.run(&["describe", "drmn", NAME, "-n", "demo"], "");
    for part in [
        "PausedTimestamp:",
        "Status:            Paused",
        "Origin:",
        "Succeeded",
        "Successfully paused Database workload",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    world.server.kill_and_restart().unwrap();

    // Resumed: another spec is refused, the same has its rows, its password, its standby and its schedule again.
    let other = world
        .server
        .kubedb(&["create", "-f", "-"], &postgres(NAME, "15", 1, ""))
        .unwrap();
    let words =
        "postgres spec mismatches with OriginSpec in DormantDatabases. Diff: replicas: 2 -> 1";
    assert!(other.stderr.contains(words), "{}", other.stderr);
    world.create(&postgres(NAME, "15", 2, ""));
    world.status("pg", NAME, "Running", 180);
    world.sql_becomes(NAME, SUM, "500500");
    assert_eq!(world.instance(NAME, 0), folder);
    let streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    world.sql_becomes(NAME, streaming, "1");
    let object = world.server.object("pg", NAME, "demo").unwrap();
    assert_eq!(object["spec"]["backupSchedule"]["gcs"]["bucket"], "kubedb");
    assert_eq!(
        object["spec"]["databaseSecret"]["secretName"],
        "quick-postgres-auth"
    );
    eventually("the end of the record", Duration::from_secs(20), || {
        if is_there(&world, "drmn", NAME) {
            Err("there".to_owned())
        } else {
            Ok(())
        }
    });
    // The minute's look for what nobody owns must not take it for a deleted one's.
    world.server.kill_and_restart().unwrap();
    world.status("pg", NAME, "Running", 60);
    world.sql_becomes(NAME, SUM, "500500");

    // Wiped out: bucket, folder and Secrets are empty of it.
    world.delete("pg", NAME);
    paused(&world, NAME);
    assert!(!world.stored(NAME).is_empty());
    ask_to_wipe_out(&world, NAME);
    world.delete("drmn", NAME);
    assert_eq!(world.stored(NAME), Vec::<PathBuf>::new());
    assert!(!folder.parent().unwrap().exists());
    let databases: Vec<_> = fs::read_dir(world.server.data_folder().join("databases/demo"))
        .unwrap()
        .collect();
    assert!(databases.is_empty(), "{databases:?}");
    assert!(
        !is_there(&world, "secret", "quick-postgres-auth")
            && !is_there(&world, "secret", "quick-postgres-replication")
    );
    assert!(is_there(&world, "secret", "gcs-secret"));
    assert!(world.server.objects("snap", "demo").unwrap().is_empty());
}

#[test]
fn a_resumed_database_whose_data_is_gone_is_not_begun_anew() {
    let world = World::new();
    world.create(&postgres("one", "15", 1, ""));
    world.status("pg", "one", "Running", 120);
    world.sql("one", ROWS).unwrap();
    let folder = world.instance("one", 0);
    world.delete("pg", "one");
    paused(&world, "one");
    let aside = folder.with_file_name("aside");
    fs::rename(&folder, &aside).unwrap();
    world.create(&postgres("one", "15", 1, ""));
    eventually("a reason", Duration::from_secs(60), || {
        let status = world.server.object("pg", "one", "demo")?["status"].take();
        let reason = status["reason"].as_str().unwrap_or_default();
        if reason.contains("put it back") {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    assert!(!folder.join("data").exists());
    // Paused as it is, put back, resumed: nothing was lost.
    world.delete("pg", "one");
    paused(&world, "one");
    fs::remove_dir_all(&folder).unwrap();
    fs::rename(&aside, &folder).unwrap();
    world.create(&postgres("one", "15", 1, ""));
    world.status("pg", "one", "Running", 120);
    world.sql_becomes("one", SUM, "500500");
}

#[test]
fn a_restored_database_is_not_restored_again_when_it_is_resumed() {
    let world = World::new();
    world.create(&postgres("one", "15", 1, ""));
    world.status("pg", "one", "Running", 120);
    world.sql("one", ROWS).unwrap();
    world.create(&snapshot("whole", "one"));
    world.status("snap", "whole", "Succeeded", 60);
    let copy = postgres("copy", "15", 1, &from_snapshot("whole"));
    world.create(&copy);
    world.status("pg", "copy", "Running", 120);
    world
        .sql("copy", "INSERT INTO kept VALUES (1000000)")
        .unwrap();
    world.delete("pg", "copy");
    paused(&world, "copy");
    // What it was restored from goes meanwhile.
    world.delete("snap", "whole");
    world.create(&copy);
    world.status("pg", "copy", "Running", 120);
    world.sql_becomes("copy", SUM, "1500500");
    let object = world.server.object("pg", "copy", "demo").unwrap();
    assert_eq!(
        object["metadata"]["annotations"]["kubedb.com/initialized"],
        ""
    );
}

#[test]
fn a_policy_deletes_the_folder_and_keeps_what_it_says() {
    let world = World::new();
    world.create(&postgres("one", "15", 1, "  terminationPolicy: Delete\n"));
    world.status("pg", "one", "Running", 120);
    world.sql("one", ROWS).unwrap();
    world.create(&snapshot("whole", "one"));
    world.status("snap", "whole", "Succeeded", 60);
    let folder = world.instance("one", 0).parent().unwrap().to_owned();
    world.delete("pg", "one");
    assert!(!folder.exists());
    assert!(!is_there(&world, "drmn", "one"));
    assert!(is_there(&world, "secret", "one-auth"));
    let wiped = format!("{}  terminationPolicy: WipeOut\n", from_snapshot("whole"));
    world.create(&postgres("copy", "15", 1, &wiped));
    world.status("pg", "copy", "Running", 120);
    world.sql_becomes("copy", SUM, "500500");
    world.create(&snapshot("of-copy", "copy"));
    world.status("snap", "of-copy", "Succeeded", 60);
    world.delete("pg", "copy");
    assert_eq!(world.stored("copy"), Vec::<PathBuf>::new());
    assert!(!is_there(&world, "snap", "of-copy") && is_there(&world, "snap", "whole"));
    assert!(!is_there(&world, "secret", "copy-auth"));
}

#[test]
fn a_store_that_is_away_holds_up_a_wipe_out_and_is_told() {
    let mut world = World::new();
    world.create(&postgres("one", "15", 1, ""));
    world.status("pg", "one", "Running", 120);
    world.create(&snapshot("whole", "one"));
    world.status("snap", "whole", "Succeeded", 60);
    world.delete("pg", "one");
    paused(&world, "one");
    ask_to_wipe_out(&world, "one");
    world.gcs.kill();
    world.run(&["delete", "drmn", "one", "-n", "demo", "--wait=false"], "");
    eventually("a reason", Duration::from_secs(120), || {
        let status = world.server.object("drmn", "one", "demo")?["status"].take();
        let reason = status["reason"].as_str().unwrap_or_default();
        if status["phase"] == "WipingOut" && reason.contains("Failed to wipeOut") {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    world.gcs.restart().unwrap();
    world.server.kill_and_restart().unwrap();
    eventually("the end of the record", Duration::from_secs(120), || {
        if is_there(&world, "drmn", "one") {
            Err("there".to_owned())
        } else {
            Ok(())
        }
    });
    assert_eq!(world.stored("one"), Vec::<PathBuf>::new());
}
