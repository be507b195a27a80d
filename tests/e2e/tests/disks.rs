//! Full disks: it is told what is full and what to do, and room is all it takes. The disk is a small ext4 of the test's own.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use kubedb_e2e::{
    disk::Disk,
    kubedb::binary,
    wait::eventually,
    world::{World, from_snapshot, postgres, snapshot},
};

/// Nothing where we may not mount; that is said aloud.
fn disk(bytes: u64) -> Option<Disk> {
    match Disk::mount(bytes) {
        Ok(disk) => Some(disk),
        Err(error) => {
            eprintln!("SKIPPED: mounting a small file system needs root: {error}");
            None
        }
    }
}

fn on(disk: &Disk) -> World {
    let folder = tempfile::Builder::new().tempdir_in(disk.path()).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
    World::within(folder)
}

#[test]
fn a_full_disk_is_told_and_room_is_all_it_takes() {
    // The server puts a copy of its program there, which is large where it is built for tests.
    let program = fs::metadata(binary()).unwrap().len();
    let Some(disk) = disk(program + (240 << 20)) else {
        return;
    };
    let world = on(&disk);
    let told = |name: &str, words: &[&str]| {
        eventually(words[0], Duration::from_secs(60), || {
            let status = world.server.object("pg", name, "demo")?["status"].take();
            assert_ne!(status["phase"], "Failed", "{status}");
            let reason = status["reason"].as_str().unwrap_or_default();
            if words.iter().any(|words| reason.contains(words)) {
                Ok(())
            } else {
                Err(status.to_string())
            }
        });
    };
    // initdb. Which words it finds depends on where the room ends: a write that fails, or one that is cut short.
    disk.fill(20 << 20).unwrap();
    world.create(&postgres("one", "15", 1, ""));
    told("one", &["No space left on device", "Check free disk space"]);
    disk.clear().unwrap();
    world.status("pg", "one", "Running", 120);
    world.create(&snapshot("snap", "one"));
    world.status("snap", "snap", "Succeeded", 60);
    // A restore: what it needs is known before it writes.
    disk.fill(20 << 20).unwrap();
    world.create(&postgres("copy", "15", 1, &from_snapshot("snap")));
    told("copy", &["bytes are needed"]);
    disk.clear().unwrap();
    world.status("pg", "copy", "Running", 120);

    // A database that writes, and the server that keeps its state on the same disk.
    world.sql_becomes("one", "SELECT 1", "1");
    disk.fill(1 << 20).unwrap();
    let write = "CREATE TABLE IF NOT EXISTS large (text text); INSERT INTO large SELECT repeat(md5(n::text), 30) FROM generate_series(1, 5000) n";
    let error = world.sql("one", write).unwrap_err();
    // Where WAL has no room before the table has none, PostgreSQL ends itself, and the client hears of that alone.
    let words = [
        "No space left on device",
        "terminating connection because of crash",
        "server closed the connection",
    ];
    assert!(words.iter().any(|words| error.contains(words)), "{error}");
    // What PostgreSQL gave back is taken, too.
    disk.clear().unwrap();
    disk.fill(0).unwrap();
    let large = "x".repeat(200 << 10);
    let map = |name: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n  namespace: demo\ndata:\n  text: {large}\n"
        )
    };
    let mut number = 0;
    let refused = eventually("a full state", Duration::from_secs(60), || {
        number += 1;
        let ran = world
            .server
            .kubedb(&["create", "-f", "-"], &map(&format!("map-{number}")));
        match ran.unwrap() {
            ran if ran.code == 0 => Err(ran.stdout),
            ran => Ok(ran.stderr),
        }
    });
    assert!(
        refused.contains("full") && refused.contains("room"),
        "{refused}"
    );
    disk.clear().unwrap();
    eventually("room for an object", Duration::from_secs(30), || {
        let ran = world
            .server
            .kubedb(&["create", "-f", "-"], &map("last"))
            .unwrap();
        if ran.code == 0 {
            Ok(())
        } else {
            Err(ran.stderr)
        }
    });
    // Nothing that was acknowledged is lost, and everybody goes on.
    for acknowledged in 1..number {
        world
            .server
            .object("cm", &format!("map-{acknowledged}"), "demo")
            .unwrap();
    }
    eventually("rows", Duration::from_secs(120), || world.sql("one", write));
    world.create(&snapshot("later", "one"));
    world.status("snap", "later", "Succeeded", 90);
}

#[test]
fn a_full_folder_of_snapshots_is_told_and_room_is_all_it_takes() {
    let Some(disk) = disk(60 << 20) else { return };
    let world = World::new();
    let folder = disk.open_folder("backups").unwrap();
    let manifest = |name: &str| {
        let local = format!("  local:\n    mountPath: {}\n", folder.display());
        snapshot(name, "one")
            .replace("  storageSecretName: gcs-secret\n", "")
            .replace("  gcs:\n    bucket: kubedb\n", &local)
    };
    world.create(&postgres("one", "15", 1, ""));
    world.status("pg", "one", "Running", 120);
    world.create(&manifest("first"));
    world.status("snap", "first", "Succeeded", 60);
    let stored = || {
        let mut found = Vec::new();
        let mut folders = vec![folder.clone()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push((path.clone(), fs::read(path).unwrap()));
                }
            }
        }
        found.sort();
        found
    };
    let first = stored();
    // More than is free, and nothing of it is there already.
    world.add_noise("one", 0, 1 << 20);
    disk.fill(100 << 10).unwrap();
    world.create(&manifest("full"));
    let status = world.status("snap", "full", "Failed", 90);
    let reason = status["reason"].as_str().unwrap();
    let wanted = [
        "no space is left",
        "make room there, or delete Snapshots",
        "local:",
    ];
    assert!(
        wanted.iter().all(|words| reason.contains(words)),
        "{reason}"
    );
    // Deleting makes room, so it must work without any.
    world.delete("snap", "full");
    assert!(stored() == first);
    disk.clear().unwrap();
    world.create(&manifest("next"));
    world.status("snap", "next", "Succeeded", 60);
    world.delete("snap", "next");
    assert!(stored() == first);
}
