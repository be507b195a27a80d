//! What an archive holds, lacks and gives up.

use std::{path::PathBuf, time::Duration};

use kubedb_e2e::{
    process::signal,
    wait::eventually,
    world::{World, postgres},
};

use crate::{
    source::{ARCHIVER, ROWS, Source},
    store::{put, remove},
};

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

/// The segment that holds a position, without its timeline, as names of WAL have it.
fn segment(lsn: &str) -> String {
    let (high, low) = lsn.split_once('/').unwrap();
    let low = u64::from_str_radix(low, 16).unwrap();
    format!("{:0>8}{:08X}", high, low >> 24)
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
    let later = world.server.object("snap", "src-later", "demo").unwrap();
    let first = segment(later["status"]["result"]["startLsn"].as_str().unwrap());
    // It may go in two steps, one for each Snapshot.
    eventually("WAL goes", Duration::from_secs(90), || {
        let left = source.archived();
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        let early = left
            .iter()
            .map(name)
            .find(|name| name.get(8..24).is_some_and(|segment| *segment < *first));
        match early {
            None if left.len() < before => Ok(()),
            early => Err(format!("{early:?}, {} of {before}", left.len())),
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
    let planned = world.plan(&["one", "-n", "demo", "--target-time", &time], "");
    assert_eq!(planned.code, 0, "{}", planned.stderr);
    assert!(
        planned.stderr.contains("demo/one comes back as of time"),
        "{}",
        planned.stderr
    );
    // And what is made of it is planned alike.
    let again = world.plan(&["-f", "-"], &planned.stdout);
    assert_eq!(again.code, 0, "{}", again.stderr);
    // But for why: the Snapshot is named in it.
    for line in [0, 2] {
        let told = |stderr: &str| stderr.lines().nth(line).map(str::to_owned);
        assert_eq!(told(&again.stderr), told(&planned.stderr));
    }
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
    let two = postgres("two", "15", 2, &from("one"));
    let planned = world.plan(&["-f", "-"], &two);
    assert_eq!(planned.code, 0, "{}", planned.stderr);
    assert!(
        planned.stderr.starts_with("demo/one comes back as of"),
        "{}",
        planned.stderr
    );
    world.create(&two);
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
