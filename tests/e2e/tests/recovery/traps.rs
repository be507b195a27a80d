//! What has made recoveries of others come out short, or mixed, on majors whose ways to recover differ: each walks through all of it with one source.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use kubedb_e2e::{
    by_hand::{Server, lent},
    kubedb::{binary, run, scratch},
    process::signal,
    wait::eventually,
    world::{World, postgres, processes},
};

use crate::{
    source::{ARCHIVER, ROWS, Source},
    store::put,
};

/// What PostgreSQL says when it leaves recovery, on every major.
const PROMOTED: &str = "selected new timeline ID";

fn walk(version: &str) {
    let world = World::new();
    let source = Source::begin(&world, "src", version);
    leave_settings(&source);
    // The Snapshot that has them.
    source.snapshot("set");
    source.sql("SELECT pg_create_restore_point('early')");
    for step in 1..=8 {
        source.step(step);
        source.sql(&format!("SELECT {}()", source.function("pg_switch_wal")));
    }
    source.archive();
    stale(&source);
    away(&source);
    never(&source);
    history(&source);
    twice(&source);
    anew(&source);
}

/// What somebody may have set, or an earlier recovery may have left in `postgresql.auto.conf`: since 12 these are settings like any other, and a copy brings
/// them along.
fn leave_settings(source: &Source<'_>) {
    if source.version == "9.6" {
        return;
    }
    for setting in [
        "recovery_target_name = 'early'",
        "recovery_target_action = 'promote'",
        "recovery_target_inclusive = 'off'",
        "recovery_min_apply_delay = '1h'",
        "restore_command = 'true'",
        "recovery_end_command = 'touch ended'",
        "archive_cleanup_command = 'touch cleaned'",
        "primary_conninfo = 'host=/nowhere'",
        "primary_slot_name = 'none'",
    ] {
        source.sql(&format!("ALTER SYSTEM SET {setting}"));
    }
}

/// Neither a restore nor a recovery heeds them, and in what came back they change nothing.
fn stale(source: &Source<'_>) {
    let world = source.world;
    let init = "  init:\n    snapshotSource:\n      name: src-set\n";
    world.create(&postgres("plain", source.version, 2, init));
    world.status("pg", "plain", "Running", 120);
    assert_eq!(world.sql("plain", ROWS).unwrap(), "none");
    let standbys = "SELECT count(*) FROM pg_stat_replication";
    world.sql_becomes("plain", standbys, "1");
    let data = world.instance("plain", 0).join("data");
    for left in ["ended", "cleaned"] {
        assert!(!data.join(left).exists(), "{left}");
    }
    world.delete_for_good("plain");
    assert_eq!(
        source.recovered("set", "{timeline: latest}"),
        "1 2 3 4 5 6 7 8"
    );
}

/// A store that is away is no end of the archive, and neither is an agent that dies while PostgreSQL waits for its answer.
fn away(source: &Source<'_>) {
    let world = source.world;
    let names = names(&source.archived());
    world.line.cut_at(&names[names.len() - 3]);
    source.recover("away", "base", "{timeline: latest}");
    eventually("a line that breaks", Duration::from_secs(120), || {
        world.line.is_cut().then_some(()).ok_or(String::new())
    });
    let told = || read(&world.agent_folder("away", 0).join("agent.log"));
    eventually("a try that fails", Duration::from_secs(150), || {
        let told = told();
        let is_told = told.contains("WAL cannot be fetched; tries again");
        is_told.then_some(()).ok_or(told)
    });
    let folder = world.instance("away", 0);
    let is_short = || logs(&folder).contains(PROMOTED) || folder.join("data").exists();
    assert!(!is_short());
    signal(world.agent("away", 0).unwrap(), 9);
    eventually("PostgreSQL that ends", Duration::from_secs(60), || {
        let new = folder.join("data.new");
        let left = processes(&["postgres", &new.to_string_lossy()]);
        left.is_empty().then_some(()).ok_or(format!("{left:?}"))
    });
    assert!(!is_short(), "{}", logs(&folder));
    world.line.cut(false);
    world.status("pg", "away", "Running", 180);
    assert_eq!(world.sql("away", ROWS).unwrap(), "1 2 3 4 5 6 7 8");
    world.delete_for_good("away");
}

/// A target that does not come fails, with its reason, and nobody gets less than was asked for.
fn never(source: &Source<'_>) {
    let why = source.refused("base", "{xid: \"1000000000\"}");
    for words in ["transaction 1000000000", "it did not come"] {
        assert!(why.contains(words), "{why}");
    }
}

/// WAL of a later timeline of which the archive has no history: nobody can tell whether it goes on from here.
fn history(source: &Source<'_>) {
    let world = source.world;
    let wal = source.archived().pop().unwrap();
    let wal = wal.parent().unwrap();
    let mut files = another_primary(source, "9");
    let name = "00000002.history";
    let history = files.remove(name).unwrap();
    for (name, content) in &files {
        put(world, &wal.join(format!("{name}.zst")), content);
    }
    let latest = "{timeline: latest}";
    let why = source.refused("base", latest);
    assert!(why.contains("timeline 2") && why.contains(name), "{why}");
    let first = source.recovered("base", "{timeline: \"1\"}");
    assert_eq!(first, "1 2 3 4 5 6 7 8");
    put(world, &wal.join(format!("{name}.zst")), &history);
    assert_eq!(source.recovered("base", latest), "1 2 3 4 5 6 7 8 9");
}

/// What a primary would have archived that took over from this one and wrote a step: a copy, recovered from the bucket alone and promoted by PostgreSQL.
fn another_primary(source: &Source<'_>, step: &str) -> BTreeMap<String, Vec<u8>> {
    let world = source.world;
    let place = scratch().unwrap();
    let data = place.path().join("taken");
    let mut restore = Command::new(binary());
    restore
        .args(["repo", "restore", "gs://kubedb", "demo/src", "--latest"])
        .args(["--endpoint", &world.gcs.endpoint(), "--to"])
        .arg(&data);
    let ran = run(&mut restore, "").unwrap();
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let auto = read(&data.join("postgresql.auto.conf"));
    let (program, user) = lent(world, "src");
    user.own(&data);
    // As a primary whose store is away: it keeps what it would archive.
    let settings = [
        "archive_mode=on",
        "wal_level=replica",
        "archive_command=false",
    ];
    let server = Server::start(user, &program, &data, &settings);
    server.becomes("SELECT pg_is_in_recovery()", "f");
    // Of the recovery nothing is left that a copy could bring along.
    for setting in ["hot_standby = 'off'", "restore_command = 'false'"] {
        assert!(auto.contains(setting) || source.version == "9.6", "{auto}");
        let left = read(&data.join("postgresql.auto.conf"));
        assert!(!left.contains(setting), "{left}");
    }
    server
        .sql(&format!("INSERT INTO step VALUES ({step})"))
        .unwrap();
    server
        .sql(&format!("SELECT {}()", source.function("pg_switch_wal")))
        .unwrap();
    drop(server);
    let folder = data.join(if source.version == "9.6" {
        "pg_xlog"
    } else {
        "pg_wal"
    });
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder.join("archive_status")).unwrap() {
        // What it would archive: whole segments and the history. `.partial` is the first timeline's.
        let name = entry.unwrap().file_name().into_string().unwrap();
        let name = name.strip_suffix(".ready").unwrap_or_default();
        if name.starts_with("00000002") {
            let content = fs::read(folder.join(name)).unwrap();
            files.insert(name.to_owned(), zstd::encode_all(&content[..], 1).unwrap());
        }
    }
    assert!(files.len() > 1, "{:?}", files.keys());
    files
}

/// Two databases of one Snapshot live their own lives, and archive into places of their own.
fn twice(source: &Source<'_>) {
    let world = source.world;
    let before = sizes(&source.archived());
    let init =
        "  init:\n    snapshotSource:\n      name: src-set\n      target: {timeline: \"1\"}\n";
    let names = ["one", "two"];
    for name in names {
        let spec = format!("{ARCHIVER}{init}");
        world.create(&postgres(name, source.version, 1, &spec));
    }
    let twins = names.map(|name| Source {
        world,
        name: name.to_owned(),
        version: source.version,
    });
    for (number, twin) in (21..).zip(&twins) {
        world.status("pg", &twin.name, "Running", 120);
        assert_eq!(twin.sql(ROWS), "1 2 3 4 5 6 7 8");
        first_snapshot(world, &twin.name);
        twin.step(number);
        twin.archive();
    }
    let lineage = |twin: &Source<'_>| {
        let wal = twin.archived().pop().unwrap();
        let folder = wal
            .parent()
            .and_then(Path::parent)
            .and_then(Path::file_name);
        folder.unwrap().to_owned()
    };
    assert_ne!(lineage(&twins[0]), lineage(&twins[1]));
    for (number, twin) in (21..).zip(&twins) {
        world.create(&postgres(
            "third",
            source.version,
            1,
            &from_archive(&twin.name, ""),
        ));
        world.status("pg", "third", "Running", 120);
        let rows = world.sql("third", ROWS).unwrap();
        assert_eq!(rows, format!("1 2 3 4 5 6 7 8 {number}"));
        world.delete_for_good("third");
    }
    for twin in &twins {
        world.delete_for_good(&twin.name);
    }
    // Where they come from nothing was written by them.
    let after = sizes(&source.archived());
    let of = |sizes: &BTreeMap<PathBuf, u64>| {
        let second = |path: &&PathBuf| path.to_string_lossy().contains("/00000002");
        sizes.keys().filter(second).count()
    };
    assert_eq!(of(&before), of(&after));
}

/// A database of the same name that is made anew is another one, and both come back from what lies side by side.
fn anew(source: &Source<'_>) {
    let world = source.world;
    let old = sizes(&world.stored("src"));
    world.delete_for_good("src");
    world.create(&postgres("src", source.version, 1, ARCHIVER));
    world.status("pg", "src", "Running", 120);
    source.sql("CREATE TABLE step (i int)");
    source.snapshot("new");
    source.step(101);
    source.archive();
    let latest = "{timeline: latest}";
    assert_eq!(source.recovered("new", latest), "101");
    assert_eq!(source.recovered("base", latest), "1 2 3 4 5 6 7 8 9");
    // The archive alone means the database that has the name now, until an earlier Snapshot is named.
    for (backup, rows) in [("", "101"), ("src-base", "1 2 3 4 5 6 7 8 9")] {
        world.create(&postgres(
            "third",
            source.version,
            1,
            &from_archive("src", backup),
        ));
        world.status("pg", "third", "Running", 120);
        assert_eq!(world.sql("third", ROWS).unwrap(), rows, "{backup}");
        world.delete_for_good("third");
    }
    let now = sizes(&world.stored("src"));
    let whole = |path: &&PathBuf| !path.to_string_lossy().contains("/tail/");
    let changed = old.keys().filter(whole);
    let changed: Vec<_> = changed
        .filter(|path| old.get(*path) != now.get(*path))
        .collect();
    assert!(changed.is_empty(), "{changed:?}");
}

fn first_snapshot(world: &World, name: &str) {
    let what = format!("the first Snapshot of {name}");
    eventually(&what, Duration::from_secs(120), || {
        let all = world.server.objects("snap", "demo")?;
        let is_good = |snapshot: &&serde_json::Value| {
            snapshot["spec"]["databaseName"] == name && snapshot["status"]["phase"] == "Succeeded"
        };
        let good = all.iter().find(is_good);
        good.map(drop).ok_or_else(|| format!("{all:?}"))
    });
}

fn from_archive(name: &str, backup: &str) -> String {
    format!(
        "  init:\n    postgresWAL:\n      backupName: \"{backup}\"\n      storageSecretName: gcs-secret\n      gcs:\n        bucket: kubedb\n        prefix: kubedb/demo/{name}/archive\n"
    )
}

/// Names of whole segments, in order.
fn names(archived: &[PathBuf]) -> Vec<String> {
    let name = |path: &PathBuf| Some(path.file_stem()?.to_str()?.to_owned());
    let mut names: Vec<String> = archived.iter().filter_map(name).collect();
    names.retain(|name| name.len() == 24);
    names.sort();
    names
}

fn sizes(paths: &[PathBuf]) -> BTreeMap<PathBuf, u64> {
    let size = |path: &PathBuf| Some((path.clone(), fs::metadata(path).ok()?.len()));
    paths.iter().filter_map(size).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// All that PostgreSQL has logged of an instance.
fn logs(instance: &Path) -> String {
    let files = fs::read_dir(instance.join("log")).into_iter().flatten();
    let files = files.filter_map(Result::ok);
    files.map(|file| read(&file.path())).collect()
}

#[test]
fn t06_t08_a_recovery_of_9_6_falls_into_no_trap() {
    walk("9.6");
}

#[test]
fn t06_t08_a_recovery_of_12_falls_into_no_trap() {
    walk("12");
}

#[test]
fn t06_t08_a_recovery_of_15_falls_into_no_trap() {
    walk("15");
}

#[test]
fn t06_t08_a_recovery_of_18_falls_into_no_trap() {
    walk("18");
}
