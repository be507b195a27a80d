//! `kubedb verify`: what is sound passes, what is not is named, what cannot be looked at is neither, and nothing of it stays.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::{
    fs,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::PathBuf,
    time::Duration,
};

use kubedb_e2e::{
    disk::Disk,
    kubedb::Ran,
    process::signal,
    wait::eventually,
    world::{World, postgres, processes, snapshot},
};

fn verify(world: &World, name: &str, more: &[&str]) -> Ran {
    let mut arguments = vec!["verify", "snap", name, "-n", "demo"];
    arguments.extend(more);
    world.server.kubedb(&arguments, "").unwrap()
}

#[track_caller]
fn good(world: &World, name: &str, more: &[&str]) -> String {
    let ran = verify(world, name, more);
    assert_eq!(ran.code, 0, "{} {}", ran.stdout, ran.stderr);
    ran.stdout
}

#[track_caller]
fn bad(world: &World, name: &str, more: &[&str]) -> String {
    let ran = verify(world, name, more);
    assert_eq!(ran.code, 1, "{} {}", ran.stdout, ran.stderr);
    ran.stderr
}

/// Neither a folder nor a process of a verification.
#[track_caller]
fn assert_nothing_left(world: &World, database: &str) {
    let folder = world.instance(database, 0).join("verify");
    assert!(!folder.exists(), "{}", folder.display());
    let left = processes(&["postgres", &folder.to_string_lossy()]);
    assert!(left.is_empty(), "{left:?}");
}

fn verified(world: &World, name: &str) -> (String, String) {
    let object = world.server.object("snap", name, "demo").unwrap();
    let conditions = object["status"]["conditions"].as_array().unwrap().clone();
    let known = conditions
        .iter()
        .find(|known| known["type"] == "Verified")
        .unwrap();
    let text = |field: &str| known[field].as_str().unwrap().to_owned();
    (text("status"), text("message"))
}

fn with_rows(world: &World, version: &str) {
    world.create(&postgres("pg", version, 1, ""));
    world.status("pg", "pg", "Running", 180);
    world.sql_becomes("pg", "SELECT 1", "1");
    let fill = "CREATE TABLE kept AS SELECT i, md5(i::text) AS word FROM generate_series(1, 20000) i; CREATE INDEX kept_word ON kept (word); CREATE TABLE wide AS SELECT repeat(md5(i::text), 3000) AS text FROM generate_series(1, 20) i; CHECKPOINT";
    world.sql("pg", fill).unwrap();
}

fn take(world: &World, name: &str) {
    world.create(&snapshot(name, "pg"));
    world.status("snap", name, "Succeeded", 120);
}

fn a_good_snapshot_passes(version: &str, has_amcheck: bool) {
    let world = World::new();
    with_rows(&world, version);
    for statement in [
        "ALTER SYSTEM SET archive_command = 'touch /tmp/never'",
        "CREATE DATABASE app",
    ] {
        world.sql("pg", statement).unwrap();
    }
    take(&world, "snap");
    let told = good(&world, "snap", &["--dry-run"]);
    assert!(told.contains("written to a scratch folder"), "{told}");
    let object = world.server.object("snap", "snap", "demo").unwrap();
    assert!(object["status"]["verification"].is_null(), "{object}");

    let told = good(&world, "snap", &["--level", "objects"]);
    assert!(
        told.contains("objects are there and are what was written"),
        "{told}"
    );
    let told = good(&world, "snap", &["--level", "pages"]);
    assert!(told.contains("pages fit their checksums"), "{told}");
    let query = ["--query", "SELECT * FROM kept WHERE i <= 7"];
    let told = good(&world, "snap", &query);
    assert!(told.contains("the query returned 7 rows"), "{told}");
    assert!(told.contains("tables of 3 databases read"), "{told}");
    let amcheck = if has_amcheck {
        "indexes checked by amcheck"
    } else {
        "this build has no amcheck"
    };
    assert!(told.contains(amcheck), "{told}");
    assert_nothing_left(&world, "pg");
    let (value, message) = verified(&world, "snap");
    assert_eq!(value, "True");
    assert!(message.starts_with("Boot: restored "), "{message}");
    let described = world.run(&["describe", "snap", "snap", "-n", "demo"], "");
    for line in [
        "Verification:",
        "SuccessfulVerification",
        "the query returned 7 rows",
    ] {
        assert!(described.contains(line), "{described}");
    }

    // A query that fails, one that writes, and one that wants to be more than a reader. None of it says that the data is damaged.
    for (query, words) in [
        (
            "SELECT 1 / count(*) FROM kept WHERE i > 99999",
            "division by zero",
        ),
        ("DELETE FROM kept", "read-only transaction"),
        ("COPY kept TO PROGRAM 'touch /tmp/never'", "superuser"),
        ("SELECT * FROM nowhere", "does not exist"),
    ] {
        let told = bad(&world, "snap", &["--query", query]);
        let is_told = told.contains(words) || told.contains("permission denied");
        assert!(is_told && told.contains("the query failed"), "{told}");
        assert_eq!(verified(&world, "snap").0, "False");
    }
    let object = world.server.object("snap", "snap", "demo").unwrap();
    assert_eq!(object["status"]["phase"], "Succeeded");
    assert!(
        object["status"]["verification"]["damaged"].is_null(),
        "{object}"
    );
    assert!(!PathBuf::from("/tmp/never").exists());
    let told = good(
        &world,
        "snap",
        &["--query", "SELECT 1", "--database", "app"],
    );
    assert!(told.contains("1 row"), "{told}");
    assert_eq!(verified(&world, "snap").0, "True");
    assert_nothing_left(&world, "pg");
    // What it did, it did to nobody else.
    assert_eq!(
        world.sql("pg", "SELECT count(*) FROM kept").unwrap(),
        "20000"
    );
}

#[test]
fn a_good_snapshot_of_15_passes_every_level() {
    a_good_snapshot_passes("15", true);
}

#[test]
fn a_good_snapshot_of_9_6_passes_every_level() {
    a_good_snapshot_passes("9.6", false);
}

/// The pack with most in it.
fn pack(world: &World) -> PathBuf {
    let stored = world.stored("pg");
    let packs = stored
        .into_iter()
        .filter(|path| path.to_string_lossy().contains("/packs/"));
    packs
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap()
}

#[test]
fn damage_is_found_by_the_level_that_can_see_it_and_nothing_is_deleted() {
    let mut world = World::new();
    with_rows(&world, "15");
    // Rows that an index does not know: only PostgreSQL itself can tell.
    let hide = "CREATE TABLE torn (i int); CREATE INDEX torn_i ON torn (i); INSERT INTO torn SELECT generate_series(1, 1000);
        UPDATE pg_index SET indisready = false, indisvalid = false WHERE indexrelid = 'torn_i'::regclass;
        INSERT INTO torn SELECT generate_series(1001, 1100);
        UPDATE pg_index SET indisready = true, indisvalid = true WHERE indexrelid = 'torn_i'::regclass";
    for statement in hide.split(';') {
        world.sql("pg", statement).unwrap();
    }
    take(&world, "snap");
    good(&world, "snap", &["--level", "pages"]);
    let told = bad(&world, "snap", &[]);
    for words in [
        "torn_i",
        "lacks matching index tuple",
        "is not what it should be",
    ] {
        assert!(told.contains(words), "{told}");
    }
    assert_nothing_left(&world, "pg");
    let object = world.server.object("snap", "snap", "demo").unwrap();
    assert_eq!(object["status"]["verification"]["damaged"], true);
    let retention = [
        "snapshot",
        "retention",
        "pg",
        "-n",
        "demo",
        "--keep-last",
        "1",
        "--dry-run",
    ];
    let told = world.run(&retention, "");
    assert!(told.contains("for a person to judge"), "{told}");

    // A byte in the bucket.
    let pack = pack(&world);
    let before = fs::read(&pack).unwrap();
    let file = fs::File::options().write(true).open(&pack).unwrap();
    let at = before.len() / 2;
    file.write_all_at(&[before[at] ^ 1], at as u64).unwrap();
    let name = pack.file_name().unwrap().to_string_lossy().into_owned();
    for level in ["objects", "pages", "boot"] {
        let told = bad(&world, "snap", &["--level", level]);
        assert!(told.contains(&name), "{level}: {told}");
    }
    let (value, message) = verified(&world, "snap");
    assert_eq!(value, "False");
    assert!(message.contains("is damaged"), "{message}");
    let described = world.run(&["describe", "snap", "snap", "-n", "demo"], "");
    assert!(described.contains("VerificationFailed"), "{described}");
    fs::write(&pack, &before).unwrap();
    good(&world, "snap", &["--level", "objects"]);
    // A store that does not answer proves nothing.
    world.gcs.kill();
    let told = bad(&world, "snap", &["--level", "objects"]);
    assert!(told.contains("proves nothing"), "{told}");
    assert_eq!(verified(&world, "snap").0, "Unknown");
    world.gcs.restart().unwrap();
    good(&world, "snap", &["--level", "objects"]);
    let told = verify(&world, "other", &[]);
    assert_eq!(told.code, 3, "{}", told.stderr);
}

#[test]
fn whoever_is_killed_amid_a_verification_it_ends_and_leaves_nothing() {
    let mut world = World::new();
    with_rows(&world, "15");
    take(&world, "snap");
    // Long enough to be met.
    let query = "SELECT pg_sleep(4)";
    let asked = ["--query", query, "--no-wait"];
    let amid = |world: &World| {
        let lock = world
            .instance("pg", 0)
            .join("verify/data.new/postmaster.pid");
        eventually("a server in the scratch", Duration::from_secs(60), || {
            let text = fs::read_to_string(&lock).map_err(|error| error.to_string())?;
            text.lines().next().map(str::to_owned).ok_or(text)
        })
    };
    for victim in ["agent", "server", "scratch"] {
        good(&world, "snap", &asked);
        let scratch: u32 = amid(&world).parse().unwrap();
        // The same is joined, another has to wait.
        let other = bad(&world, "snap", &["--level", "pages"]);
        assert!(other.contains("is being verified already"), "{other}");
        match victim {
            "agent" => signal(world.agent("pg", 0).unwrap(), 9),
            "server" => world.server.kill_and_restart().unwrap(),
            _ => signal(scratch, 9),
        }
        let told = good(&world, "snap", &["--query", query]);
        assert!(told.contains("1 row"), "{victim}: {told}");
        let object = world.server.object("snap", "snap", "demo").unwrap();
        // An agent that dies before it has told of the try begins it anew; a server that is killed costs none.
        let tries = object["status"]["verification"]["tries"].as_i64();
        let wanted: &[Option<i64>] = match victim {
            "agent" => &[None, Some(1)],
            "server" => &[None],
            _ => &[Some(1)],
        };
        assert!(wanted.contains(&tries), "{victim}: {object}");
        assert_nothing_left(&world, "pg");
    }
    // One that is cancelled, with its Snapshot, clears up as well, and a new Snapshot takes the place of one under way.
    good(&world, "snap", &asked);
    amid(&world);
    take(&world, "snap-2");
    let object = world.server.object("snap", "snap", "demo").unwrap();
    assert_eq!(object["status"]["verification"]["yields"], 1, "{object}");
    amid(&world);
    world.delete("snap", "snap");
    eventually("an empty place", Duration::from_secs(20), || {
        let folder = world.instance("pg", 0).join("verify");
        if folder.exists() {
            Err(folder.display().to_string())
        } else {
            Ok(())
        }
    });
    assert_nothing_left(&world, "pg");
    // A server that ends takes it along.
    good(&world, "snap-2", &asked);
    amid(&world);
    assert!(world.server.stop());
    let left = processes(&["postgres", &world.folder().to_string_lossy()]);
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn without_room_nothing_is_begun_and_that_is_said() {
    // The program lies there, too, and a debug build of it is large.
    let disk = match Disk::mount(700 << 20) {
        Ok(disk) => disk,
        Err(error) => {
            eprintln!("SKIPPED: mounting a small file system needs root: {error}");
            return;
        }
    };
    let folder = tempfile::Builder::new().tempdir_in(disk.path()).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let world = World::within(folder);
    with_rows(&world, "15");
    take(&world, "snap");
    disk.fill(60 << 20).unwrap();
    let told = bad(&world, "snap", &[]);
    for words in ["proves nothing", "not enough room", "are free"] {
        assert!(told.contains(words), "{told}");
    }
    assert_nothing_left(&world, "pg");
    good(&world, "snap", &["--level", "pages"]);
    disk.clear().unwrap();
    good(&world, "snap", &[]);
}

#[test]
fn a_schedule_verifies_each_of_its_snapshots() {
    let world = World::new();
    let schedule = "  backupSchedule:\n    cronExpression: '@every 1h'\n    storageSecretName: gcs-secret\n    gcs:\n      bucket: kubedb\n    verify:\n      level: Boot\n      query: SELECT 1\n";
    world.create(&postgres("pg", "15", 1, schedule));
    let name = eventually("a Snapshot", Duration::from_secs(180), || {
        let all = world.server.objects("snap", "demo")?;
        let name = all.first().and_then(|one| one["metadata"]["name"].as_str());
        name.map(str::to_owned).ok_or_else(|| "none".to_owned())
    });
    eventually("a verified Snapshot", Duration::from_secs(180), || {
        let status = world.server.object("snap", &name, "demo")?["status"].take();
        if status["verification"]["phase"] == "Succeeded" {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    let (value, message) = verified(&world, &name);
    assert!(
        value == "True" && message.contains("the query returned 1 row"),
        "{message}"
    );
}
