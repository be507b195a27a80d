//! Tablespaces on one machine: no instance ever writes into another's.

#![allow(clippy::unwrap_used)]

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use kubedb_e2e::{
    instance::Instance,
    kubedb::run,
    wait::eventually,
    world::{World, from_snapshot, postgres, snapshot},
};

/// More than the packs that may wait for the store, so that a Snapshot stays amid its work on a slow line.
const NOISE: usize = 112 << 20;
const SLOW: u64 = 1 << 20;

/// A folder that the database's user may use.
fn folder(world: &World, of: &Instance, name: &str) -> PathBuf {
    let folder = world.folder().join(name);
    let owner = fs::metadata(of.data()).unwrap();
    fs::create_dir(&folder).unwrap();
    std::os::unix::fs::chown(&folder, Some(owner.uid()), Some(owner.gid())).unwrap();
    folder
}

fn create(world: &World, at: &Instance, name: &str) -> Result<String, String> {
    let folder = folder(world, at, name);
    let made = at.sql(&format!(
        "CREATE TABLESPACE {name} LOCATION '{}'",
        folder.display()
    ))?;
    at.sql(&format!(
        "CREATE TABLE in_{name} TABLESPACE {name} AS SELECT i FROM generate_series(1, 3000) i; CHECKPOINT"
    ))?;
    Ok(made)
}

fn scale(world: &World, replicas: u32) {
    let patch = format!("{{\"spec\":{{\"replicas\":{replicas}}}}}");
    let patched = Command::new("kubectl")
        .args(["--kubeconfig", world.server.kubeconfig(), "-n", "demo"])
        .args(["patch", "postgres.kubedb.com", "one", "--type=merge"])
        .args(["-p", &patch])
        .output();
    assert!(patched.unwrap().status.success());
    eventually("all instances", Duration::from_secs(120), || {
        let status = world.server.object("pg", "one", "demo")?["status"].take();
        let instances = status["instances"].as_object().map_or(0, |all| all.len());
        if status["readyReplicas"] == replicas && instances == replicas as usize {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
}

/// Where an instance has a tablespace.
fn place(of: &Instance, name: &str) -> String {
    let query =
        format!("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = '{name}'");
    of.sql(&query).unwrap()
}

fn is_own(of: &Instance, name: &str) -> bool {
    let own = of.folder().join("tablespaces");
    place(of, name).starts_with(&*own.to_string_lossy())
}

/// Content of the files of a tablespace.
fn content(world: &World, name: &str) -> String {
    let mut command = Command::new("sh");
    command
        .args(["-c", "find . -type f | sort | xargs md5sum"])
        .current_dir(world.folder().join(name));
    run(&mut command, "").unwrap().stdout
}

#[test]
fn no_instance_writes_into_the_tablespace_of_another() {
    let world = World::new();
    world.create(&postgres("one", "15", 1, ""));
    world.status("pg", "one", "Running", 120);
    let primary = Instance::of(&world, "one", 0);
    create(&world, &primary, "first").unwrap();

    // A Snapshot amid which a tablespace is made is taken again: its WAL would lead a restore to the folder of its source.
    world.add_noise("one", 0, NOISE);
    world.line.limit(SLOW);
    world.create(&snapshot("snap", "one"));
    eventually("a Snapshot amid its work", Duration::from_secs(60), || {
        let status = world.server.object("snap", "snap", "demo")?["status"].take();
        let done = status["progress"]["doneBytes"].as_i64().unwrap_or_default();
        if status["phase"] == "Running" && done > 20 << 20 {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    create(&world, &primary, "second").unwrap();
    world.line.limit(0);
    let status = world.status("snap", "snap", "Succeeded", 400);
    assert_eq!(status["attempt"], 2, "{status}");
    fs::remove_file(primary.data().join("noise")).unwrap();

    let before = content(&world, "second");
    world.create(&postgres("copy", "15", 1, &from_snapshot("snap")));
    world.status("pg", "copy", "Running", 120);
    let copy = Instance::of(&world, "copy", 0);
    let rows = "SELECT count(*) FROM in_first; SELECT count(*) FROM in_second";
    assert_eq!(copy.sql(rows).unwrap(), "3000\n3000");
    assert!(is_own(&copy, "first") && is_own(&copy, "second"));
    copy.sql("DELETE FROM in_second; VACUUM in_second; CHECKPOINT")
        .unwrap();
    assert_eq!(content(&world, "second"), before);

    // With two instances none can be made; those that are there go on, each instance with its own.
    scale(&world, 2);
    let standby = Instance::of(&world, "one", 1);
    assert!(is_own(&standby, "first") && is_own(&standby, "second"));
    let refused = create(&world, &primary, "third").unwrap_err();
    assert!(
        refused.contains("pg_tblspc") && refused.contains("Permission denied"),
        "{refused}"
    );
    primary.sql("INSERT INTO in_first VALUES (0)").unwrap();
    standby.becomes("SELECT count(*) FROM in_first", "3001");

    // A standby that meets one in the WAL all the same lets it be, and is copied anew.
    let links = primary.data().join("pg_tblspc");
    fs::set_permissions(&links, Permissions::from_mode(0o700)).unwrap();
    create(&world, &primary, "fourth").unwrap();
    let before = content(&world, "fourth");
    eventually("a new copy", Duration::from_secs(120), || {
        let standby = Instance::of(&world, "one", 1);
        let rows = standby.sql("SELECT count(*) FROM in_fourth")?;
        if rows == "3000" && is_own(&standby, "fourth") {
            Ok(())
        } else {
            Err(rows)
        }
    });
    assert_eq!(content(&world, "fourth"), before);
    eventually(
        "the folder of links shut again",
        Duration::from_secs(40),
        || {
            let mode = fs::metadata(&links).unwrap().permissions().mode() & 0o777;
            if mode == 0o500 {
                Ok(())
            } else {
                Err(format!("{mode:o}"))
            }
        },
    );

    // Alone again it may.
    scale(&world, 1);
    eventually("a tablespace", Duration::from_secs(40), || {
        let _ = fs::remove_dir(world.folder().join("fifth"));
        create(&world, &primary, "fifth").map(|_| ())
    });
    primary
        .sql("DROP TABLE in_fifth; DROP TABLESPACE fifth")
        .unwrap();
}
