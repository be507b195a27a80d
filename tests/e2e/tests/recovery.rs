//! Continuous archiving and recovery to a point in time, on several majors: what comes back is what was asked for, or nothing does.

#![allow(clippy::unwrap_used)]

use std::{
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use kubedb_e2e::{
    instance::Instance,
    kubedb::{binary, run},
    process::signal,
    wait::eventually,
    world::{World, postgres, snapshot},
};
use serde_json::Value;

/// Archives into the bucket of the Snapshots.
const ARCHIVER: &str = "  archiver:\n    storage:\n      storageSecretName: gcs-secret\n      gcs:\n        bucket: kubedb\n";

const ROWS: &str = "SELECT coalesce(string_agg(i::text, ' ' ORDER BY i), 'none') FROM step";

/// A database with an archive, a Snapshot, and steps after it.
struct Source<'a> {
    world: &'a World,
    name: String,
    version: &'a str,
}

impl<'a> Source<'a> {
    /// A Snapshot `<name>-base` with no step in it.
    fn begin(world: &'a World, name: &str, version: &'a str) -> Self {
        world.create(&postgres(name, version, 1, ARCHIVER));
        world.status("pg", name, "Running", 120);
        let source = Self {
            world,
            name: name.to_owned(),
            version,
        };
        source.sql("CREATE TABLE step (i int)");
        source.snapshot("base");
        source
    }

    fn snapshot(&self, name: &str) {
        let name = format!("{}-{name}", self.name);
        self.world.create(&snapshot(&name, &self.name));
        self.world.status("snap", &name, "Succeeded", 120);
    }

    fn sql(&self, statement: &str) -> String {
        self.world.sql(&self.name, statement).unwrap()
    }

    fn step(&self, number: u32) {
        self.sql(&format!("INSERT INTO step VALUES ({number})"));
    }

    /// `wal` and `lsn` as functions of this major are called.
    fn function(&self, name: &str) -> String {
        if self.version == "9.6" {
            name.replace("wal", "xlog").replace("lsn", "location")
        } else {
            name.to_owned()
        }
    }

    /// Ends the segment in work and waits until everything written so far is archived.
    fn archive(&self) {
        let current = self.function("pg_walfile_name(pg_current_wal_lsn())");
        let last = self.sql(&format!("SELECT {current}"));
        self.sql(&format!("SELECT {}()", self.function("pg_switch_wal")));
        eventually(&format!("{last} archived"), Duration::from_secs(60), || {
            let archive = self.archive_status();
            let done = archive["lastSegment"].as_str().unwrap_or_default();
            if done >= last.as_str() {
                Ok(())
            } else {
                Err(archive.to_string())
            }
        });
    }

    fn archive_status(&self) -> Value {
        let object = self.world.server.object("pg", &self.name, "demo").unwrap();
        object["status"]["instances"][format!("{}-0", self.name)]["archive"].clone()
    }

    /// A database recovered from the Snapshot to a target.
    fn recover(&self, name: &str, base: &str, target: &str) {
        let init = format!(
            "  init:\n    snapshotSource:\n      name: {}-{base}\n      target: {target}\n",
            self.name
        );
        self.world.create(&postgres(name, self.version, 1, &init));
    }

    /// Rows of a database that was recovered so; it goes afterwards.
    fn recovered(&self, base: &str, target: &str) -> String {
        let name = format!("{}-back", self.name);
        self.recover(&name, base, target);
        self.world.status("pg", &name, "Running", 120);
        let rows = self.world.sql(&name, ROWS).unwrap();
        self.world
            .sql(&name, "INSERT INTO step VALUES (0)")
            .unwrap();
        self.world.delete_for_good(&name);
        rows
    }

    /// Why a database cannot be recovered so.
    fn refused(&self, base: &str, target: &str) -> String {
        let name = format!("{}-back", self.name);
        self.recover(&name, base, target);
        let why = eventually("a refusal", Duration::from_secs(150), || {
            let object = self.world.server.object("pg", &name, "demo")?;
            let report = &object["status"]["instances"][format!("{name}-0")];
            let reason = report["reason"].as_str().unwrap_or_default();
            let is_told = reason.contains("recover") && reason.contains("failed to");
            if is_told {
                Ok(reason.to_owned())
            } else {
                Err(object["status"].to_string())
            }
        });
        let data = self.world.instance(&name, 0).join("data");
        assert!(!data.exists(), "{why}");
        self.world.delete_for_good(&name);
        why
    }

    /// The time, as a status shows it.
    fn now(&self) -> String {
        self.sql(
            "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
        )
    }

    /// Waits until everything that was committed by then is archived.
    fn covered(&self, time: &str) {
        eventually("coverage", Duration::from_secs(90), || {
            let status = self.archive_status();
            let covered = status["coveredTime"].as_str().unwrap_or_default();
            if covered > time {
                Ok(())
            } else {
                Err(status.to_string())
            }
        });
    }

    /// Pieces of segments in work.
    fn begun(&self) -> Vec<PathBuf> {
        let all = self.world.stored(&self.name);
        let is_begun = |path: &PathBuf| path.to_string_lossy().contains("/tail/");
        all.into_iter().filter(is_begun).collect()
    }

    /// Objects of the archive.
    fn archived(&self) -> Vec<PathBuf> {
        let all = self.world.stored(&self.name);
        let is_wal = |path: &PathBuf| path.to_string_lossy().contains("/wal_005/");
        all.into_iter().filter(is_wal).collect()
    }
}

/// All of them, or those whose carrying out differs most between majors.
fn targets(world: &World, version: &str, is_whole: bool) {
    let name = format!("src-{}", version.replace('.', "-"));
    let source = Source::begin(world, &name, version);
    source.step(1);
    let time = source.sql("SELECT clock_timestamp()");
    source.sql("SELECT pg_sleep(0.1)");
    let xid = source.sql("WITH x AS (INSERT INTO step VALUES (2)) SELECT txid_current()");
    source.step(3);
    source.sql("SELECT pg_create_restore_point('three')");
    source.step(4);
    let lsn = source.sql(&format!(
        "SELECT {}()",
        source.function("pg_current_wal_insert_lsn")
    ));
    source.step(5);
    let quiet = source.now();
    source.archive();
    source.covered(&quiet);

    let back = |target: &str| source.recovered("base", target);
    assert_eq!(
        back(&format!("{{time: \"{time}\"}}")),
        "1",
        "{version} {time}"
    );
    if is_whole {
        assert_eq!(back(&format!("{{xid: \"{xid}\"}}")), "1 2", "{version}");
        let before = format!("{{xid: \"{xid}\", inclusive: false}}");
        assert_eq!(back(&before), "1", "{version}");
        assert_eq!(back("{name: three}"), "1 2 3", "{version}");
        assert_eq!(back("{immediate: true}"), "none", "{version}");
    }
    if version != "9.6" {
        assert_eq!(back(&format!("{{lsn: {lsn}}}")), "1 2 3 4", "{version}");
    }
    // Nothing was committed between then and now, and all of it is archived.
    assert_eq!(
        back(&format!("{{time: \"{quiet}\"}}")),
        "1 2 3 4 5",
        "{version}"
    );
    // Its segment is far from full.
    source.step(6);
    source.covered(&source.now());
    assert_eq!(back("{timeline: \"1\"}"), "1 2 3 4 5 6", "{version}");

    // What cannot be had is not had by half.
    let never = source.refused("base", "{name: four}");
    assert!(never.contains("restore point \"four\""), "{never}");
    if !is_whole {
        world.delete_for_good(&name);
        return;
    }
    let early = source.refused("base", "{time: \"2020-01-01T00:00:00Z\"}");
    assert!(early.contains("lies before the Snapshot"), "{early}");
    let other = source.refused("base", "{timeline: \"7\"}");
    assert!(other.contains("timeline 7"), "{other}");
    world.delete_for_good(&name);
}

#[test]
fn t11_t12_every_target_of_9_6_and_15_is_reached_exactly_or_refused() {
    let world = World::new();
    for version in ["9.6", "15"] {
        targets(&world, version, true);
    }
}

#[test]
fn t11_t12_targets_of_12_and_18_are_reached_exactly_or_refused() {
    let world = World::new();
    for version in ["12", "18"] {
        targets(&world, version, false);
    }
}

#[test]
fn t12_a_transaction_within_the_snapshots_own_window_is_refused_for_good() {
    let world = World::new();
    let source = Source::begin(&world, "src", "15");
    source.sql("CREATE TABLE beat (xid text, lsn pg_lsn)");
    let instance = Instance::of(&world, "src", 0);
    let beat = "INSERT INTO beat VALUES (txid_current(), pg_current_wal_insert_lsn());\n";
    let session = instance.open(&beat.repeat(20_000));
    source.snapshot("busy");
    drop(session);
    source.archive();
    let snapshot = world.server.object("snap", "src-busy", "demo").unwrap();
    let (start, stop) = (
        &snapshot["status"]["result"]["startLsn"],
        &snapshot["status"]["result"]["stopLsn"],
    );
    let within = format!("lsn > '{}' AND lsn < '{}'", text(start), text(stop));
    let xid = source.sql(&format!(
        "SELECT xid FROM beat WHERE {within} ORDER BY lsn LIMIT 1 OFFSET 3"
    ));
    assert!(!xid.is_empty(), "{snapshot}");
    let early = source.refused("busy", &format!("{{xid: \"{xid}\"}}"));
    assert!(early.contains("Begin from an earlier Snapshot"), "{early}");
    // From the earlier one it comes back.
    assert_eq!(
        source.recovered("base", &format!("{{xid: \"{xid}\"}}")),
        "none"
    );
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn t04_t05_nothing_is_lost_while_the_store_is_away() {
    let world = World::new();
    let source = Source::begin(&world, "src", "15");
    source.step(1);
    source.archive();
    world.line.cut(true);
    source.step(2);
    source.sql("SELECT pg_switch_wal()");
    source.step(3);
    source.sql("SELECT pg_switch_wal()");
    let failing = eventually("a reason", Duration::from_secs(120), || {
        let archive = source.archive_status();
        if archive["reason"].is_string() {
            Ok(archive)
        } else {
            Err(archive.to_string())
        }
    });
    assert!(failing["failingSince"].is_string(), "{failing}");
    // The agent dies, and so does what it had begun.
    signal(world.agent("src", 0).unwrap(), 9);
    source.step(4);
    world.line.cut(false);
    source.archive();
    assert_eq!(source.archive_status()["reason"], Value::Null);
    assert_eq!(source.recovered("base", "{timeline: latest}"), "1 2 3 4");
}

#[test]
fn t03_t08_what_is_missing_in_the_archive_is_named_before_anything_is_restored() {
    let world = World::new();
    let source = Source::begin(&world, "src", "15");
    for step in 1..=3 {
        source.step(step);
        source.archive();
    }
    let mut archived = source.archived();
    archived.sort();
    let middle = archived[archived.len() - 2].clone();
    let kept = std::fs::read(&middle).unwrap();
    let name = middle.file_stem().unwrap().to_string_lossy().into_owned();
    // A half segment is no end of the archive.
    remove(&world, &middle);
    put(&world, &middle, &kept[..kept.len() / 2]);
    let half = source.refused("base", "{timeline: latest}");
    assert!(half.contains(&name), "{half}");
    remove(&world, &middle);
    let gap = source.refused("base", "{timeline: latest}");
    assert!(gap.contains(&format!("segment {name} is missing")), "{gap}");
    put(&world, &middle, &kept);
    assert_eq!(source.recovered("base", "{timeline: latest}"), "1 2 3");
}

fn key(world: &World, path: &Path) -> String {
    let key = path.strip_prefix(world.gcs.objects().join("kubedb"));
    key.unwrap().to_string_lossy().replace('/', "%2F")
}

/// Removes an object by the store's own API.
fn remove(world: &World, path: &Path) {
    let (endpoint, key) = (world.gcs.endpoint(), key(world, path));
    curl(
        &[
            "-X",
            "DELETE",
            &format!("{endpoint}/storage/v1/b/kubedb/o/{key}"),
        ],
        &[],
    );
}

/// Stores an object by the store's own API.
fn put(world: &World, path: &Path, content: &[u8]) {
    let (endpoint, key) = (world.gcs.endpoint(), key(world, path));
    let url = format!("{endpoint}/upload/storage/v1/b/kubedb/o?uploadType=media&name={key}");
    curl(
        &["-X", "POST", "-o", "/dev/null", "--data-binary", "@-", &url],
        content,
    );
}

fn curl(arguments: &[&str], content: &[u8]) {
    let mut command = Command::new("curl");
    command.arg("-sf").args(arguments).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(content).unwrap();
    assert!(child.wait().unwrap().success(), "{arguments:?}");
}

#[test]
fn t13_wal_that_no_snapshot_needs_goes_and_the_rest_still_recovers() {
    let world = World::new();
    let source = Source::begin(&world, "src", "15");
    for step in 1..=3 {
        source.step(step);
        source.archive();
    }
    source.snapshot("later");
    source.step(4);
    source.archive();
    let before = source.archived().len();
    // The first Snapshots need all of it, one of which the operator has made, and the later one alone does not.
    for snapshot in world.server.objects("snap", "demo").unwrap() {
        let name = snapshot["metadata"]["name"].as_str().unwrap();
        if name != "src-later" {
            world.delete("snap", name);
        }
    }
    eventually("WAL goes", Duration::from_secs(60), || {
        let left = source.archived().len();
        if left < before {
            Ok(())
        } else {
            Err(format!("{left} of {before}"))
        }
    });
    assert_eq!(source.recovered("later", "{timeline: latest}"), "1 2 3 4");
    let left = source.archived().len();
    world.delete("snap", "src-later");
    // Without a Snapshot nothing goes: the next one may be on its way.
    source.step(5);
    source.archive();
    assert!(source.archived().len() > left);
}

#[test]
fn an_archive_alone_makes_a_database_that_archives_itself_and_makes_another() {
    let world = World::new();
    world.create(&postgres("one", "15", 1, ARCHIVER));
    world.status("pg", "one", "Running", 120);
    let first = |name: &str| {
        let what = format!("the first Snapshot of {name}");
        eventually(&what, Duration::from_secs(120), || {
            let all = world.server.objects("snap", "demo")?;
            let mut good = all.iter().filter(|snapshot| {
                snapshot["spec"]["databaseName"] == name
                    && snapshot["status"]["phase"] == "Succeeded"
            });
            good.next().map(drop).ok_or_else(|| format!("{all:?}"))
        });
    };
    first("one");
    let one = Source {
        world: &world,
        name: "one".to_owned(),
        version: "15",
    };
    one.sql("CREATE TABLE step (i int)");
    one.step(1);
    let time = one.sql("SELECT clock_timestamp()");
    one.sql("SELECT pg_sleep(0.1)");
    one.step(2);
    one.archive();
    // What is planned comes back.
    let mut plan = Command::new(binary());
    plan.args([
        "restore",
        "plan",
        "one",
        "-n",
        "demo",
        "--target-time",
        &time,
    ])
    .env("KUBECONFIG", world.server.kubeconfig())
    .env("STORAGE_EMULATOR_HOST", world.gcs.endpoint());
    let planned = run(&mut plan, "").unwrap();
    assert_eq!(planned.code, 0, "{}", planned.stderr);
    assert!(
        planned.stderr.contains("demo/one comes back as of time"),
        "{}",
        planned.stderr
    );
    world.create(&planned.stdout);
    world.status("pg", "one-restored", "Running", 120);
    assert_eq!(world.sql("one-restored", ROWS).unwrap(), "1");
    // Neither the database nor its Snapshots are needed any more.
    world.delete_for_good("one");
    let from = |name: &str| {
        format!(
            "{ARCHIVER}  init:\n    postgresWAL:\n      storageSecretName: gcs-secret\n      gcs:\n        bucket: kubedb\n        prefix: kubedb/demo/{name}/archive\n"
        )
    };
    world.create(&postgres("two", "15", 2, &from("one")));
    world.status("pg", "two", "Running", 120);
    first("two");
    let two = Source {
        world: &world,
        name: "two".to_owned(),
        version: "15",
    };
    assert_eq!(two.sql(ROWS), "1 2");
    two.step(3);
    two.archive();
    world.sql_becomes("two", "SELECT count(*) FROM pg_stat_replication", "1");
    world.create(&postgres("three", "15", 1, &from("two")));
    world.status("pg", "three", "Running", 120);
    assert_eq!(world.sql("three", ROWS).unwrap(), "1 2 3");
}

#[test]
fn t19_a_recovery_that_is_killed_or_loses_its_store_begins_anew_and_comes_whole() {
    let world = World::new();
    let source = Source::begin(&world, "src", "15");
    for step in 1..=6 {
        source.step(step);
        source.archive();
    }
    source.recover("back", "base", "{timeline: latest}");
    for delay in [0, 150, 400, 900] {
        let what = "an agent that restores, or is done";
        let agent = eventually(what, Duration::from_secs(60), || {
            let object = world.server.object("pg", "back", "demo")?;
            let phase = &object["status"]["instances"]["back-0"]["phase"];
            let is_at_work = phase == "Restoring" || phase == "Running";
            world
                .agent("back", 0)
                .filter(|_| is_at_work)
                .ok_or_else(|| object["status"].to_string())
        });
        std::thread::sleep(Duration::from_millis(delay));
        signal(agent, 9);
    }
    // The store goes away for a while, whatever is being fetched.
    world.line.cut(true);
    std::thread::sleep(Duration::from_secs(5));
    world.line.cut(false);
    world.status("pg", "back", "Running", 180);
    world.sql_becomes("back", ROWS, "1 2 3 4 5 6");
    let kept = world.instance("back", 0).join("data.new");
    assert!(!kept.exists());
}

#[test]
fn t04_a_server_that_starts_while_the_api_is_away_archives_nothing_into_nowhere() {
    let mut world = World::new();
    {
        let source = Source::begin(&world, "src", "15");
        source.step(1);
        source.archive();
    }
    let instance = Instance::of(&world, "src", 0);
    let config = world.agent_folder("src", 0).join("agent.json");
    let log = world.folder().join("lonely agent.log");
    let victims = [
        world.agent("src", 0).unwrap(),
        world.postmaster("src", 0).unwrap(),
    ];
    world.server.kill();
    for victim in victims {
        signal(victim, 9);
    }
    // As a kubelet restarts a container while no API server answers.
    let owner = std::fs::metadata(instance.data()).unwrap();
    let mut agent = Command::new("setpriv")
        .args([
            format!("--reuid={}", owner.uid()),
            format!("--regid={}", owner.gid()),
        ])
        .arg("--clear-groups")
        .arg(binary())
        .args(["agent", "run", "--config"])
        .arg(config)
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    instance.becomes("SELECT pg_is_in_recovery()", "f");
    instance.sql("INSERT INTO step VALUES (2)").unwrap();
    let file = instance
        .sql("SELECT pg_walfile_name(pg_current_wal_lsn())")
        .unwrap();
    instance.sql("SELECT pg_switch_wal()").unwrap();
    // What was archived before may still be counted, or not: that depends on how the server ended.
    let query = format!(
        "SELECT last_failed_time > pg_postmaster_start_time() AND coalesce(last_archived_wal, '') < '{file}', pg_stat_archiver, \
         pg_postmaster_start_time(), ARRAY(SELECT pg_ls_dir('pg_wal/archive_status')) FROM pg_stat_archiver"
    );
    eventually("failure to archive", Duration::from_secs(60), || {
        let found = instance.sql(&query)?;
        let told = || std::fs::read_to_string(&log).unwrap_or_default();
        let is_told = found.starts_with("t|");
        is_told
            .then_some(())
            .ok_or_else(|| format!("{found}\n{}", told()))
    });
    signal(agent.id(), 15);
    agent.wait().unwrap();
    world.server.kill_and_restart().unwrap();
    world.sql_becomes("src", "SELECT count(*) FROM step", "2");
    let source = Source {
        world: &world,
        name: "src".to_owned(),
        version: "15",
    };
    source.archive();
    assert_eq!(source.recovered("base", "{timeline: latest}"), "1 2");
}

#[test]
fn a_setting_that_was_raised_behind_the_snapshot_does_not_stop_a_recovery() {
    let world = World::new();
    for version in ["12", "15"] {
        let name = format!("src-{version}");
        let source = Source::begin(&world, &name, version);
        source.step(1);
        source.sql("ALTER SYSTEM SET max_connections = 150");
        let postmaster = world.postmaster(&name, 0).unwrap();
        signal(postmaster, 2);
        let raised = "SELECT setting FROM pg_settings WHERE name = 'max_connections'";
        world.sql_becomes(&name, raised, "150");
        source.step(2);
        source.archive();
        assert_eq!(
            source.recovered("base", "{timeline: latest}"),
            "1 2",
            "{version}"
        );
    }
}

#[test]
fn what_was_committed_behind_the_last_whole_segment_outlives_the_machine() {
    let mut world = World::new();
    let (folder, rows) = {
        let source = Source::begin(&world, "src", "15");
        source.step(1);
        source.archive();
        eventually("pieces that go", Duration::from_secs(60), || {
            // Whole segments take their place.
            let begun = source.begun();
            begun.is_empty().then_some(()).ok_or(format!("{begun:?}"))
        });
        source.step(2);
        source.covered(&source.now());
        // The server crashes, and what it writes behind its crash is another generation.
        signal(world.agent("src", 0).unwrap(), 9);
        signal(world.postmaster("src", 0).unwrap(), 9);
        world.sql_becomes("src", ROWS, "1 2");
        // PostgreSQL ends a segment when its time has come, which may be just now.
        let mut steps = 3..=9;
        while let Some(step) = steps.next() {
            source.step(step);
            source.covered(&source.now());
            if !source.begun().is_empty() {
                break;
            }
        }
        assert!(!source.begun().is_empty());
        (world.instance("src", 0), source.sql(ROWS))
    };
    let victims = [
        world.agent("src", 0).unwrap(),
        world.postmaster("src", 0).unwrap(),
    ];
    world.server.kill();
    for victim in victims {
        signal(victim, 9);
    }
    eventually("end of all", Duration::from_secs(30), || {
        let left = kubedb_e2e::world::processes(&["postgres", &folder.to_string_lossy()]);
        left.is_empty().then_some(()).ok_or(format!("{left:?}"))
    });
    std::fs::remove_dir_all(folder).unwrap();
    world.server.kill_and_restart().unwrap();
    let source = Source {
        world: &world,
        name: "src".to_owned(),
        version: "15",
    };
    assert_eq!(source.recovered("base", "{timeline: latest}"), rows);
}
