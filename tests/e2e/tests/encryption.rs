//! Databases whose Snapshots and WAL nobody reads without the identity: scheduled, archived, recovered to a moment, and told of where the identity is
//! another.

#![allow(clippy::unwrap_used)]

use std::{fs, process::Command, time::Duration};

use kubedb_e2e::{
    kubedb::{Ran, binary, run},
    wait::eventually,
    world::{World, postgres, snapshot},
};
use serde_json::Value;

/// As age-keygen made them, for tests alone.
const OURS: (&str, &str) = (
    "AGE-SECRET-KEY-1PREAJHF5CG4T7Q4NH4TPLZZ35ZQY38KYN6RJH65MJET6HNPX0SDS8CAVWL",
    "age107yg66ay6r3yl2q78ll49m85yjtqmncgqyc79zvluq2jlytzfq3spdptje",
);
const OTHER: (&str, &str) = (
    "AGE-SECRET-KEY-1WWTYZ28ELQURFV3S2L0JPH4G76NCZWDW2KXAL4QG445VKFDSWD6QFEDZEU",
    "age1gk89g5j57tvp5zkd5vjjph4ppkry5pf4xlq59x4vpvg872jwy4cqe0hz4x",
);

fn secret(name: &str, identity: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\n  namespace: demo\nstringData:\n  AGE_IDENTITY: |\n    # a remark\n    {identity}\n"
    )
}

fn encryption(indent: &str, secret: &str) -> String {
    format!("{indent}encryption:\n{indent}  secretName: {secret}\n")
}

fn sealed_snapshot(name: &str, secret: &str) -> String {
    snapshot(name, "pg") + &encryption("  ", secret)
}

/// The instance's own words.
fn told(world: &World, name: &str, words: &str) -> String {
    eventually(words, Duration::from_secs(150), || {
        let object = world.server.object("pg", name, "demo")?;
        let report = &object["status"]["instances"][format!("{name}-0")];
        let reason = report["reason"].as_str().unwrap_or_default();
        if reason.contains(words) {
            Ok(reason.to_owned())
        } else {
            Err(object["status"].to_string())
        }
    })
}

fn archive(world: &World) {
    let last = world
        .sql("pg", "SELECT pg_walfile_name(pg_current_wal_lsn())")
        .unwrap();
    world.sql("pg", "SELECT pg_switch_wal()").unwrap();
    eventually(&format!("{last} archived"), Duration::from_secs(60), || {
        let object = world.server.object("pg", "pg", "demo")?;
        let status = &object["status"]["instances"]["pg-0"]["archive"];
        let done = status["lastSegment"].as_str().unwrap_or_default();
        if done >= last.as_str() {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
}

fn repo(world: &World, arguments: &[&str]) -> Ran {
    let mut command = Command::new(binary());
    let endpoint = world.gcs.endpoint();
    command
        .arg("repo")
        .args(arguments)
        .args(["--endpoint", &endpoint])
        .env_remove("KUBECONFIG")
        .env_remove("AGE_IDENTITY");
    run(&mut command, "").unwrap()
}

#[test]
fn t31_an_encrypted_database_is_scheduled_archived_and_recovered_with_its_identity_alone() {
    let world = World::new();
    world.create(&secret("ours", OURS.0));
    world.create(&secret("other", OTHER.0));
    let store = |indent: &str| {
        format!("{indent}storageSecretName: gcs-secret\n{indent}gcs:\n{indent}  bucket: kubedb\n")
            + &encryption(indent, "ours")
    };
    let spec = format!(
        "  archiver:\n    storage:\n{}  backupSchedule:\n    cronExpression: \"@every 5h\"\n{}",
        store("      "),
        store("    ")
    );
    world.create(&postgres("pg", "15", 1, &spec));
    world.status("pg", "pg", "Running", 120);
    let scheduled = eventually("a scheduled Snapshot", Duration::from_secs(120), || {
        let all = world.server.objects("snap", "demo")?;
        let done = all.iter().find(|one| one["status"]["phase"] == "Succeeded");
        done.map(|one| one["metadata"]["name"].as_str().unwrap().to_owned())
            .ok_or_else(|| format!("{all:?}"))
    });
    world.sql("pg", "CREATE TABLE step (i int)").unwrap();
    world.sql("pg", "INSERT INTO step VALUES (1)").unwrap();
    let lsn = world
        .sql("pg", "SELECT pg_current_wal_insert_lsn()")
        .unwrap();
    world.sql("pg", "INSERT INTO step VALUES (2)").unwrap();
    archive(&world);

    // Nothing of the archive is in the clear, and the next Snapshot refers to the first.
    let stored = world.stored("pg");
    let wal = stored
        .iter()
        .filter(|path| path.to_string_lossy().contains("/wal_005/"));
    let wal: Vec<_> = wal.collect();
    assert!(wal.len() > 1, "{stored:?}");
    assert!(
        wal.iter()
            .all(|path| path.to_string_lossy().contains(".zst.enc")),
        "{wal:?}"
    );
    world.create(&sealed_snapshot("second", "ours"));
    let second = world.status("snap", "second", "Succeeded", 120);
    assert_eq!(second["result"]["base"], scheduled, "{second}");

    // With another identity nothing is written, and the status says which is needed.
    let before = world.stored("pg").len();
    world.create(&sealed_snapshot("wrong", "other"));
    let wrong = world.status("snap", "wrong", "Failed", 120);
    let reason = wrong["reason"].as_str().unwrap();
    for word in [
        "failed to open key",
        OURS.1,
        OTHER.1,
        "encryption.secretName",
    ] {
        assert!(reason.contains(word), "{reason}");
    }
    assert_eq!(world.stored("pg").len(), before);
    assert!(!wrong.to_string().contains("AGE-SECRET-KEY"), "{wrong}");
    world.create(&sealed_snapshot("missing", "nobodys"));
    let pending = world.status("snap", "missing", "Pending", 60);
    let reason = pending["reason"].as_str().unwrap_or_default();
    assert!(
        reason.contains("secrets \"nobodys\" not found"),
        "{pending}"
    );
    world.delete("snap", "missing");
    world.delete("snap", "wrong");

    // To a moment, by the Snapshot's own Secret.
    let target = format!(
        "  init:\n    snapshotSource:\n      name: {scheduled}\n      target: {{lsn: {lsn}}}\n"
    );
    world.create(&postgres("moment", "15", 1, &target));
    world.status("pg", "moment", "Running", 150);
    world.sql_becomes(
        "moment",
        "SELECT count(*) || ' ' || max(i) FROM step",
        "1 1",
    );
    world.delete_for_good("moment");

    // From the archive, with a Secret that is wrong at first.
    let init = format!(
        "  init:\n    postgresWAL:\n      storageSecretName: gcs-secret\n      gcs:\n        bucket: kubedb\n        prefix: kubedb/demo/pg/archive\n{}",
        encryption("      ", "other")
    );
    world.create(&postgres("back", "15", 1, &init));
    let why = told(&world, "back", "failed to open key");
    assert!(why.contains(OURS.1), "{why}");
    assert!(!world.instance("back", 0).join("data").exists());
    let both = format!("{}\n{}\n", OTHER.0, OURS.0);
    let patch = serde_json::json!({"stringData": {"AGE_IDENTITY": both}}).to_string();
    let mut kubectl = Command::new("kubectl");
    kubectl.args(["--kubeconfig", world.server.kubeconfig(), "-n", "demo"]);
    kubectl.args(["patch", "secret", "other", "-p", &patch]);
    let patched = run(&mut kubectl, "").unwrap();
    assert_eq!(patched.code, 0, "{}", patched.stderr);
    world.status("pg", "back", "Running", 150);
    world.sql_becomes("back", "SELECT count(*) || ' ' || max(i) FROM step", "2 2");

    from_the_bucket_alone(&world, &scheduled);
}

fn from_the_bucket_alone(world: &World, scheduled: &str) {
    let (bucket, folder) = ("gs://kubedb", world.folder());
    let file = |name: &str, identity: &str| {
        let path = folder.join(name);
        fs::write(&path, format!("# created: today\n{identity}\n")).unwrap();
        path.display().to_string()
    };
    let (ours, other) = (file("ours.txt", OURS.0), file("other.txt", OTHER.0));
    let good = |arguments: &[&str]| {
        let ran = repo(world, arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {} {}", ran.stdout, ran.stderr);
        ran
    };
    let bad = |arguments: &[&str], words: &[&str]| {
        let ran = repo(world, arguments);
        assert_ne!(ran.code, 0, "{arguments:?}: {}", ran.stdout);
        for word in words {
            assert!(ran.stderr.contains(word), "{arguments:?}: {}", ran.stderr);
        }
    };
    let listed: Vec<Value> =
        serde_json::from_str(&good(&["list", bucket, "-o", "json"]).stdout).unwrap();
    let key = listed[0]["keyId"].as_str().unwrap().to_owned();
    let table = good(&["list", bucket]).stdout;
    assert!(table.contains("KEY") && table.contains(&key), "{table}");
    good(&["stats", bucket]);
    let checked = good(&["check", bucket, "--read-data"]);
    assert!(
        checked.stderr.contains("without --identity"),
        "{}",
        checked.stderr
    );
    let checked = good(&["check", bucket, "--pages", "--identity", &ours]);
    assert!(
        !checked.stderr.contains("without --identity"),
        "{}",
        checked.stderr
    );
    bad(&["check", bucket, "--identity", &other], &[&key, OURS.1]);

    let to = folder.join("rescued").display().to_string();
    let restore = ["restore", bucket, "pg", "--latest", "--to", &to];
    bad(
        &restore,
        &["no identity was given", &key, OURS.1, "--identity FILE"],
    );
    let of = |identity| [&restore[..], &["--identity", identity]].concat();
    bad(
        &of(other.as_str()),
        &["failed to open key", OURS.1, OTHER.1],
    );
    assert!(!folder.join("rescued").exists());
    let snapshot = ["restore", bucket, scheduled, "--to", &to, "--dry-run"];
    bad(&snapshot, &["no identity was given", &key]);

    // Another identity from now on, and no data is touched.
    let data = |path: &std::path::PathBuf| !path.to_string_lossy().contains("keys");
    let before: Vec<_> = world.stored("pg").into_iter().filter(data).collect();
    let rotate = ["rotate-key", bucket, "demo/pg", "--recipient", OTHER.1];
    bad(&rotate, &["--identity FILE"]);
    let misuse = [
        "rotate-key",
        bucket,
        "demo/pg",
        "--recipient",
        OTHER.0,
        "--identity",
        &ours,
    ];
    bad(&misuse, &["is an identity, which is secret"]);
    let rotate = [&rotate[..], &["--identity", &ours, "--identity", &other]].concat();
    let said = good(&rotate).stdout;
    assert!(
        said.contains(&key) && said.contains("wrapped for them"),
        "{said}"
    );
    assert!(good(&rotate).stdout.contains("already"));
    let after: Vec<_> = world.stored("pg").into_iter().filter(data).collect();
    assert_eq!(after, before);
    bad(&of(ours.as_str()), &["failed to open key", OTHER.1]);
    good(&of(other.as_str()));
    assert!(folder.join("rescued/backup_label").exists());
}
