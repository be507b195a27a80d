//! What one instance lives through: full disks, damaged files, crashes in a row, lost WAL, scripts.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use kubedb_e2e::{
    process::signal,
    wait::eventually,
    world::{World, postgres},
};

fn another_postmaster(
    world: &World,
    database: &str,
    ordinal: u32,
    before: u32,
    seconds: u64,
) -> u32 {
    eventually(
        "another postmaster",
        Duration::from_secs(seconds),
        || match world.postmaster(database, ordinal) {
            Some(now) if now != before && fs::metadata(format!("/proc/{now}")).is_ok() => Ok(now),
            other => Err(format!("{other:?}")),
        },
    )
}

#[test]
fn crashes_in_a_row_come_slower_and_a_damaged_state_stops_everything_but_the_word() {
    let world = World::new();
    world.create(&postgres("one", "15", 1, ""));
    world.status("pg", "one", "Running", 120);
    let mut pauses = Vec::new();
    let mut postmaster = world.postmaster("one", 0).unwrap();
    for _ in 0..4 {
        // It must have answered, else this is no crash of a server that was up.
        world.sql_becomes("one", "SELECT 1", "1");
        let begun = Instant::now();
        signal(postmaster, 9);
        postmaster = another_postmaster(&world, "one", 0, postmaster, 60);
        pauses.push(begun.elapsed());
    }
    assert!(
        pauses[3] > Duration::from_secs(4) && pauses[3] > pauses[0],
        "{pauses:?}"
    );
    world.sql_becomes("one", "SELECT 1", "1");

    let state = world.instance("one", 0).join("kubedb-instance.json");
    let text = fs::read_to_string(&state).unwrap();
    fs::write(&state, &text[..20]).unwrap();
    signal(world.agent("one", 0).unwrap(), 9);
    let told = eventually("a word of the damage", Duration::from_secs(60), || {
        let report =
            world.server.object("pg", "one", "demo")?["status"]["instances"]["one-0"].take();
        if report["phase"] == "Failed" {
            Ok(report)
        } else {
            Err(report.to_string())
        }
    });
    let reason = told["reason"].as_str().unwrap();
    assert!(reason.contains("kubedb-instance.json"), "{reason}");
    // The data is as it was, and PostgreSQL goes on.
    assert_eq!(world.postmaster("one", 0), Some(postmaster));
    fs::write(&state, &text).unwrap();
    signal(world.agent("one", 0).unwrap(), 9);
    eventually("the instance", Duration::from_secs(60), || {
        let report =
            world.server.object("pg", "one", "demo")?["status"]["instances"]["one-0"].take();
        if report["ready"] == true {
            Ok(())
        } else {
            Err(report.to_string())
        }
    });
    world.sql_becomes("one", "SELECT 1", "1");
}

/// One that lives by its Lease says seldom where it is; one that says nothing is told, and PostgreSQL goes on.
#[test]
fn an_agent_that_hangs_is_told_until_it_goes_on() {
    let world = World::new();
    world.create(&postgres("one", "15", 1, ""));
    world.status("pg", "one", "Running", 120);
    let status = || world.server.object("pg", "one", "demo").unwrap()["status"].take();
    let mut reports = BTreeSet::new();
    for _ in 0..50 {
        reports.insert(status()["instances"]["one-0"]["heartbeatTime"].to_string());
        thread::sleep(Duration::from_millis(500));
    }
    assert!(reports.len() <= 2, "{reports:?}");

    let agent = world.agent("one", 0).unwrap();
    signal(agent, 19);
    let reason = |wanted: Option<&str>| {
        eventually("word of it", Duration::from_secs(60), || {
            let reason = status()["reason"].take();
            if reason.as_str() == wanted {
                Ok(())
            } else {
                Err(reason.to_string())
            }
        });
    };
    reason(Some("the primary is not ready: its agent does not report"));
    assert_eq!(world.sql("one", "SELECT 1").unwrap(), "1");
    signal(agent, 18);
    reason(None);
}

fn left_behind(version: &str) {
    let world = World::new();
    world.create(&postgres("one", version, 2, ""));
    world.status("pg", "one", "Running", 180);
    world
        .sql("one", "CREATE TABLE kept AS SELECT 7 AS n")
        .unwrap();
    // The standby is held back, its slot is dropped by hand, and its WAL goes.
    let (postmaster, agent) = (
        world.postmaster("one", 1).unwrap(),
        world.agent("one", 1).unwrap(),
    );
    signal(agent, libc::SIGSTOP);
    signal(postmaster, 9);
    world.sql_becomes(
        "one",
        "SELECT count(*) FROM pg_replication_slots WHERE active",
        "0",
    );
    world
        .sql("one", "SELECT pg_drop_replication_slot('kubedb_standby_1')")
        .unwrap();
    let switch = if version == "15" {
        "pg_switch_wal"
    } else {
        "pg_switch_xlog"
    };
    for number in 0..12 {
        world
            .sql(
                "one",
                &format!("CREATE TABLE t{number} (); SELECT {switch}()"),
            )
            .unwrap();
        world.sql("one", "CHECKPOINT").unwrap();
    }
    signal(agent, libc::SIGCONT);
    world.sql_becomes(
        "one",
        "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'",
        "1",
    );
    eventually("the row", Duration::from_secs(30), || {
        world.sql_at("one", &["--standby"], "SELECT n FROM kept")
    });
    let log = fs::read_to_string(world.agent_folder("one", 1).join("agent.log")).unwrap();
    assert!(
        log.contains("it is copied anew"),
        "the standby was not left behind: {log}"
    );
}

#[test]
fn a_standby_that_was_left_behind_is_copied_anew() {
    left_behind("15");
}

#[test]
fn a_standby_of_9_6_that_was_left_behind_is_copied_anew() {
    left_behind("9.6");
}

#[test]
fn t28_scripts_run_in_order_and_the_one_that_fails_is_named() {
    let world = World::new();
    let folder = world.folder().join("scripts");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(
        folder.join("1.sql"),
        "CREATE TABLE steps (n serial, name text); INSERT INTO steps (name) VALUES ('sql');",
    )
    .unwrap();
    fs::write(
        folder.join("2.sql"),
        "INSERT INTO steps (name) VALUES ('gz');",
    )
    .unwrap();
    assert!(
        Command::new("gzip")
            .arg(folder.join("2.sql"))
            .status()
            .unwrap()
            .success()
    );
    fs::write(
        folder.join("3.sh"),
        "psql -Xqc \"INSERT INTO steps (name) VALUES ('sh')\"\n",
    )
    .unwrap();
    fs::write(folder.join("README"), "no script").unwrap();
    let init = format!(
        "  init:\n    scriptSource:\n      hostPath:\n        path: {}\n",
        folder.display()
    );
    world.create(&postgres("one", "9.6", 1, &init));
    world.status("pg", "one", "Running", 120);
    assert_eq!(
        world
            .sql("one", "SELECT string_agg(name, ',' ORDER BY n) FROM steps")
            .unwrap(),
        "sql,gz,sh"
    );
    // An archive that is cut short fails, however well its beginning went.
    let packed = fs::read(folder.join("2.sql.gz")).unwrap();
    for (name, content, words) in [
        ("4.sql.gz", packed[..packed.len() - 6].to_vec(), "4.sql.gz"),
        ("4.sql.gz", b"no archive".to_vec(), "4.sql.gz"),
        ("5.sql", b"SELECT 1/0".to_vec(), "division by zero"),
    ] {
        fs::write(folder.join(name), content).unwrap();
        world.create(&postgres("two", "9.6", 1, &init));
        let status = world.status("pg", "two", "Failed", 120);
        let reason = status["reason"].as_str().unwrap();
        assert!(reason.contains(name) && reason.contains(words), "{reason}");
        assert!(
            !world.instance("two", 0).join("data").exists()
                && !world.instance("two", 0).join("data.new").exists()
        );
        world.delete("pg", "two");
        fs::remove_file(folder.join(name)).unwrap();
    }
}
