//! A bucket and nothing else: what it holds is listed, verified and brought to life without a server of ours.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use kubedb_e2e::{
    instance::Instance,
    kubedb::{Ran, binary, run, scratch},
    world::{World, postgres, snapshot},
};
use serde_json::Value;

const BIN: &str = "/usr/lib/postgresql/15/bin";

/// The command alone: no kubeconfig, no home, no server.
fn repo(arguments: &[&str], endpoint: &str) -> Ran {
    let mut command = Command::new(binary());
    command
        .arg("repo")
        .args(arguments)
        .args(["--endpoint", endpoint])
        .env_remove("KUBECONFIG")
        .env_remove("HOME");
    run(&mut command, "").unwrap()
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// PostgreSQL refuses to run as root, which tests may be.
fn as_postgres(program: &str) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid=postgres",
        "--regid=postgres",
        "--clear-groups",
        program,
    ]);
    command
}

/// A server on a restored folder; stopped when the test ends, however it does.
struct Rescued(PathBuf);

impl Rescued {
    fn start(data: &Path) -> Self {
        if is_root() {
            let mut chown = Command::new("chown");
            chown.args(["-R", "postgres:postgres"]).arg(data);
            assert_eq!(run(&mut chown, "").unwrap().code, 0);
        }
        let log = data.join("rescue.log");
        let mut start = as_postgres(&format!("{BIN}/pg_ctl"));
        let socket = data.display();
        start
            .args(["-D", &data.display().to_string(), "-w", "-t", "60", "-l"])
            .arg(&log)
            .args([
                "-o",
                &format!("-c listen_addresses= -p 5432 -k {socket}"),
                "start",
            ]);
        let ran = run(&mut start, "").unwrap();
        let told = fs::read_to_string(&log).unwrap_or_default();
        assert_eq!(ran.code, 0, "{} {} {told}", ran.stdout, ran.stderr);
        Self(data.to_owned())
    }

    fn sql(&self, statement: &str) -> String {
        let ran = self.try_sql(statement);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.stdout.trim().to_owned()
    }

    fn try_sql(&self, statement: &str) -> Ran {
        let mut psql = as_postgres("psql");
        psql.args(["-AtXq", "-h"]).arg(&self.0);
        psql.args(["-U", "postgres", "-c", statement]);
        run(&mut psql, "").unwrap()
    }
}

impl Drop for Rescued {
    fn drop(&mut self) {
        let mut stop = as_postgres(&format!("{BIN}/pg_ctl"));
        stop.arg("-D")
            .arg(&self.0)
            .args(["-m", "immediate", "-w", "stop"]);
        let _ = run(&mut stop, "");
    }
}

#[test]
fn a_bucket_is_enough_to_get_a_database_back() {
    let place = scratch().unwrap();
    let mut world = World::new();
    world.create(&postgres("pg", "15", 1, ""));
    let primary = Instance::of(&world, "pg", 0);
    primary
        .sql("CREATE TABLE kept AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i")
        .unwrap();
    let rows = "SELECT count(*), md5(string_agg(k::text, ',' ORDER BY i)) FROM kept k";
    let wanted = primary.sql(rows).unwrap();
    for name in ["snap", "snap-2"] {
        world.create(&snapshot(name, "pg"));
        world.status("snap", name, "Succeeded", 120);
    }
    // As PostgreSQL's own tools know it, while the server knows where it lies.
    let base = place.path().join("base");
    let to = base.to_str().unwrap();
    let export = ["snapshot", "export", "snap", "-n", "demo", "--to", to];
    let ran = world.read_store(&export, "");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    verify(&base);
    // Nothing of ours runs from here on.
    assert!(world.server.stop(), "the server must stop cleanly");
    let (bucket, endpoint) = ("gs://kubedb", world.gcs.endpoint());
    let repo = |arguments: &[&str]| repo(arguments, &endpoint);
    let good = |arguments: &[&str]| {
        let ran = repo(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {} {}", ran.stdout, ran.stderr);
        ran.stdout
    };

    let listed: Vec<Value> = serde_json::from_str(&good(&["list", bucket, "-o", "json"])).unwrap();
    let names: Vec<_> = listed.iter().map(|one| one["snapshot"].clone()).collect();
    assert_eq!(names, ["snap", "snap-2"], "{listed:?}");
    assert!(
        listed.iter().all(|one| one["status"] == "Complete"),
        "{listed:?}"
    );
    let table = good(&["list", bucket]);
    assert!(
        table.starts_with("NAMESPACE   DATABASE   SNAPSHOT   STATUS"),
        "{table}"
    );
    let stats: Vec<Value> = serde_json::from_str(&good(&["stats", bucket, "-o", "json"])).unwrap();
    assert_eq!(
        (&stats[0]["snapshots"], &stats[0]["damaged"]),
        (&2.into(), &0.into())
    );
    for depth in [
        &["check", bucket][..],
        &["check", bucket, "--read-data"],
        &["check", bucket, "--pages"],
    ] {
        let told = good(depth);
        assert_eq!(told, "demo/pg/snap: whole\ndemo/pg/snap-2: whole\n");
    }

    // What is meant must be said, and is said before anything is written.
    let target = place.path().join("rescued");
    let to = target.to_str().unwrap();
    let ran = repo(&["restore", bucket, "other", "--to", to]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("kubedb repo list"), "{}", ran.stderr);
    let ran = repo(&["restore", bucket, "pg/snap-2", "--to", to, "--dry-run"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let told = [
        "  fetches ",
        "that takes about ",
        "fetched and unpacked just now",
    ];
    assert!(
        told.iter().all(|told| ran.stderr.contains(told)),
        "{}",
        ran.stderr
    );
    assert!(!target.exists());
    good(&["restore", bucket, "pg/snap-2", "--to", to]);
    // Never over what is there.
    let ran = repo(&["restore", bucket, "snap", "--to", to]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("it is not empty"), "{}", ran.stderr);
    let rescued = Rescued::start(&target);
    assert_eq!(rescued.sql(rows), wanted);

    // Back to the other one, in the same folder: not under a server, and then only what differs.
    rescued.sql("DELETE FROM kept WHERE i > 100");
    let delta = ["restore", bucket, "pg/snap", "--to", to, "--delta"];
    let ran = repo(&delta);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("a server works there"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("pg_ctl stop"), "{}", ran.stderr);
    assert_eq!(rescued.sql("SELECT count(*) FROM kept"), "100");
    drop(rescued);
    let ran = repo(&delta);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("kept ") && ran.stderr.contains("removed "),
        "{}",
        ran.stderr
    );
    let rescued = Rescued::start(&target);
    assert_eq!(rescued.sql(rows), wanted);
    drop(rescued);
    // Nothing but a data folder is ever overwritten, whatever is said.
    let photos = place.path().join("photos");
    fs::create_dir(&photos).unwrap();
    fs::write(photos.join("cat"), "cat").unwrap();
    let to = photos.to_str().unwrap();
    let ran = repo(&[
        "restore", bucket, "pg/snap", "--to", to, "--delta", "--force",
    ]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("it has no PG_VERSION"),
        "{}",
        ran.stderr
    );
    assert_eq!(fs::read_dir(&photos).unwrap().count(), 1);

    let base = place.path().join("base-2");
    let told = good(&["export", bucket, "snap-2", "--to", base.to_str().unwrap()]);
    assert_eq!(told, format!("exported snap-2 into {}\n", base.display()));
    verify(&base);
    let rescued = Rescued::start(&base);
    assert_eq!(rescued.sql(rows), wanted);
    drop(rescued);

    // What nobody needs goes, and nothing else.
    assert_eq!(good(&["prune", bucket, "--grace", "0s"]), "");
    let packs = world.gcs.objects().join("kubedb/kubedb/demo/pg/packs");
    fs::create_dir(packs.join("dead")).unwrap();
    let mut copy = Command::new("cp");
    copy.arg("-a")
        .arg(a_pack(&packs))
        .arg(packs.join("dead/00ff"));
    assert_eq!(run(&mut copy, "").unwrap().code, 0);
    let bytes = fs::metadata(packs.join("dead/00ff")).unwrap().len();
    let told = good(&["prune", bucket, "--grace", "0s"]);
    assert!(
        told.starts_with("demo/pg: goes: data of the unknown Snapshot dead, 1 objects of "),
        "{told}"
    );
    let told = good(&["prune", bucket]);
    assert!(
        told.starts_with("demo/pg: stays: data of the unknown Snapshot dead"),
        "{told}"
    );
    assert!(packs.join("dead/00ff").exists());
    let told = good(&["prune", bucket, "--grace", "0s", "--yes", "-o", "json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(
        (&told["objects"], &told["bytes"]),
        (&1.into(), &bytes.into())
    );
    assert!(!packs.join("dead/00ff").exists());
    let _ = fs::remove_dir(packs.join("dead"));
    assert_eq!(
        good(&["check", bucket]),
        "demo/pg/snap: whole\ndemo/pg/snap-2: whole\n"
    );

    damage(world.gcs.objects());
    let ran = repo(&["check", bucket]);
    assert_eq!(
        ran.code, 0,
        "a changed byte shows only when it is read: {}",
        ran.stdout
    );
    let ran = repo(&["check", bucket, "--pages"]);
    assert_eq!(ran.code, 1, "{}", ran.stdout);
    assert!(ran.stdout.contains("/packs/"), "{}", ran.stdout);
    let ran = repo(&["check", bucket, "--read-data"]);
    assert_eq!(ran.code, 1, "{}", ran.stdout);
    assert!(
        ran.stdout.contains("its content is not what was written"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("/packs/"), "{}", ran.stdout);
}

/// PostgreSQL's own tool finds all of it as it should be.
fn verify(data: &Path) {
    let mut verify = Command::new(format!("{BIN}/pg_verifybackup"));
    let ran = run(verify.arg(data), "").unwrap();
    assert_eq!(ran.code, 0, "{} {}", ran.stdout, ran.stderr);
}

fn a_pack(packs: &Path) -> PathBuf {
    let first = |folder: &Path| {
        let mut entries = fs::read_dir(folder).unwrap();
        entries.next().unwrap().unwrap().path()
    };
    let folders = fs::read_dir(packs).unwrap();
    let mut folders = folders.map(|folder| folder.unwrap().path());
    first(&folders.find(|folder| !folder.ends_with("dead")).unwrap())
}

/// Changes a byte in the middle of one pack.
fn damage(store: &Path) {
    let pack = a_pack(&store.join("kubedb/kubedb/demo/pg/packs"));
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(pack)
        .unwrap();
    let at = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn a_bucket_is_enough_to_get_any_archived_moment_back() {
    let place = scratch().unwrap();
    let mut world = World::new();
    let archiver = "  archiver:\n    storage:\n      storageSecretName: gcs-secret\n      gcs:\n        bucket: kubedb\n";
    world.create(&postgres("pg", "15", 1, archiver));
    let primary = Instance::of(&world, "pg", 0);
    primary.sql("CREATE TABLE step (i int)").unwrap();
    world.create(&snapshot("snap", "pg"));
    world.status("snap", "snap", "Succeeded", 120);
    primary.sql("INSERT INTO step VALUES (1)").unwrap();
    let time = primary.sql("SELECT clock_timestamp()").unwrap();
    primary.sql("SELECT pg_sleep(0.1)").unwrap();
    primary.sql("INSERT INTO step VALUES (2)").unwrap();
    let last = primary
        .sql("SELECT pg_walfile_name(pg_current_wal_lsn())")
        .unwrap();
    primary.sql("SELECT pg_switch_wal()").unwrap();
    let archived = "SELECT last_archived_wal >= '$' FROM pg_stat_archiver".replace('$', &last);
    primary.becomes(&archived, "t");
    assert!(world.server.stop(), "the server must stop cleanly");

    let (bucket, endpoint) = ("gs://kubedb", world.gcs.endpoint());
    let restore = |name: &str, more: &[&str]| {
        let to = place.path().join(name);
        let mut arguments = vec!["restore", bucket, "demo/pg", "--to", to.to_str().unwrap()];
        arguments.extend(more);
        (repo(&arguments, &endpoint), to)
    };
    let (ran, to) = restore("dry", &["--latest", "--dry-run"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("begins from Snapshot snap"),
        "{}",
        ran.stderr
    );
    assert!(!to.exists());
    let early = ["--target-time", "2020-01-01T00:00:00Z"];
    let (ran, to) = restore("early", &early);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("nothing was restored"),
        "{}",
        ran.stderr
    );
    assert!(!to.exists());
    let steps = "SELECT string_agg(i::text, ' ' ORDER BY i) FROM step";
    let until = [
        ("latest", vec!["--latest"], "1 2"),
        ("time", vec!["--target-time", &time], "1"),
    ];
    for (name, more, rows) in until {
        let (ran, to) = restore(name, &more);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let rescued = Rescued::start(&to);
        // Until it has replayed everything it answers nobody.
        let ready = "SELECT NOT pg_is_in_recovery()";
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while rescued.try_sql(ready).stdout.trim() != "t" {
            assert!(std::time::Instant::now() < end, "{name}");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        assert_eq!(rescued.sql(steps), rows, "{name}");
        rescued.sql("INSERT INTO step VALUES (3)");
    }
}
