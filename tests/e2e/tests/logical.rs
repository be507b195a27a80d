//! Logical Snapshots by the real server: taken on schedule, restored into another major, exported, and nothing half-alive where that does not work.

#![allow(clippy::unwrap_used)]

use std::{fs, process::Command, time::Duration};

use kubedb_e2e::{
    kubedb::{binary, run},
    process::signal,
    wait::eventually,
    world::{World, from_snapshot, postgres, processes, snapshot},
};

const FILL: &str = "
    CREATE TABLE account (id int PRIMARY KEY, amount bigint NOT NULL);
    INSERT INTO account SELECT i, 1000 FROM generate_series(1, 1000) i;
    CREATE TABLE fixed AS SELECT i, md5(i::text) AS text FROM generate_series(1, 50000) i;
    CREATE INDEX fixed_text ON fixed (text);
    CREATE TABLE log (id bigserial PRIMARY KEY, account int REFERENCES account, text text);
    INSERT INTO log (account, text) SELECT i, E'it''s\\t\\\\' || i FROM generate_series(1, 100) i;
    CREATE ROLE app LOGIN; GRANT SELECT ON account TO app; GRANT SELECT ON fixed TO kubedb_monitor;
    SELECT lo_from_bytea(4711, convert_to(repeat('large', 9999), 'UTF8'))";

/// A standby has sequences up to 32 ahead, as it would go on from there.
const DIGEST: &str = "
    SELECT (SELECT md5(string_agg(fixed::text, ',' ORDER BY i)) FROM fixed), (SELECT md5(string_agg(log::text, ',' ORDER BY id)) FROM log),
           (SELECT md5(lo_get(4711))), (SELECT sum(amount) FROM account), (SELECT last_value >= 100 FROM log_id_seq), has_table_privilege('app', 'account', 'SELECT')";

const OTHER: &str = "CREATE TABLE t AS SELECT generate_series(1, 10) AS a";

fn logical(name: &str, database: &str) -> String {
    snapshot(name, database) + "  method: Logical\n"
}

/// The Snapshot that the schedule makes at once.
fn scheduled(world: &World, database: &str) -> String {
    eventually("a scheduled Snapshot", Duration::from_secs(120), || {
        let snapshots = world.server.objects("snap", "demo")?;
        let of = snapshots
            .iter()
            .find(|snapshot| snapshot["spec"]["databaseName"] == database);
        let name = of.and_then(|snapshot| snapshot["metadata"]["name"].as_str());
        name.map(str::to_owned).ok_or_else(|| "none yet".to_owned())
    })
}

#[test]
fn rows_of_9_6_are_taken_on_schedule_and_come_back_in_15() {
    let mut world = World::new();
    world.create(&postgres("old", "9.6", 2, ""));
    world.status("pg", "old", "Running", 180);
    world.sql("old", FILL).unwrap();
    world.sql("old", "CREATE DATABASE other").unwrap();
    world.sql_at("old", &["--database", "other"], OTHER).ok();
    let digest = world.sql("old", DIGEST).unwrap();
    // The schedule is added later, so that there is something to take.
    let kubectl = Command::new("kubectl")
        .args(["--kubeconfig", world.server.kubeconfig(), "-n", "demo", "patch", "pg", "old", "--type", "merge", "-p"])
        .arg(r#"{"spec":{"backupSchedule":{"cronExpression":"@every 6h","method":"Logical","verify":{"level":"Objects"},"storageSecretName":"gcs-secret","gcs":{"bucket":"kubedb"}}}}"#)
        .output()
        .unwrap();
    assert!(
        kubectl.status.success(),
        "{}",
        String::from_utf8_lossy(&kubectl.stderr)
    );
    let name = scheduled(&world, "old");
    let status = world.status("snap", &name, "Succeeded", 120);
    // A standby of 9.6 lends no snapshots: the primary is asked at once.
    assert_eq!(
        (status["instance"].as_str(), status["attempt"].as_i64()),
        (Some("old-0"), Some(1)),
        "{status}"
    );
    assert_eq!(status["result"]["logical"]["onePoint"], true, "{status}");
    eventually("verified", Duration::from_secs(60), || {
        let status = world.server.object("snap", &name, "demo")?["status"].take();
        let phase = status["verification"]["phase"].as_str();
        (phase == Some("Succeeded"))
            .then_some(())
            .ok_or_else(|| status.to_string())
    });
    let told = world.run(&["describe", "snap", &name, "-n", "demo"], "");
    assert!(
        told.contains("Logical") && told.contains("at one point"),
        "{told}"
    );

    // Another major, with a standby that clones it.
    world.create(&postgres("new", "15", 2, &from_snapshot(&name)));
    world.status("pg", "new", "Running", 240);
    assert_eq!(world.sql("new", DIGEST).unwrap(), digest);
    assert!(
        world
            .sql("new", "SELECT version()")
            .unwrap()
            .contains("PostgreSQL 15")
    );
    world.sql_becomes(
        "new",
        "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'",
        "1",
    );
    world.sql_becomes(
        "new",
        "SELECT count(*) FROM pg_database WHERE datname = 'other'",
        "1",
    );
    world
        .sql("new", "INSERT INTO log (account, text) VALUES (1, 'new')")
        .unwrap();
    // A part of it.
    let only = from_snapshot(&name) + "      databases: [other]\n";
    world.create(&postgres("part", "15", 1, &only));
    world.status("pg", "part", "Running", 240);
    assert!(world.sql("part", "SELECT count(*) FROM fixed").is_err());
    world.sql_becomes(
        "part",
        "SELECT count(*) FROM pg_database WHERE datname = 'other'",
        "1",
    );

    // The original's file.
    let to = world.folder().join("export");
    let to = to.to_str().unwrap();
    let export = |more: &[&str]| {
        let words = ["snapshot", "export", &name, "-n", "demo"];
        world.read_store(&[&words, more].concat(), "")
    };
    let told = export(&["--format", "sql", "--to", to]);
    assert!(
        told.code == 0 && told.stdout.contains("dumpfile.sql"),
        "{}",
        told.stderr
    );
    let text = fs::read_to_string(format!("{to}/dumpfile.sql")).unwrap();
    assert!(text.contains("COPY \"public\".\"fixed\""));
    let piped = export(&["--to", "-", "--only", "postgres"]);
    assert!(
        piped.stdout.contains("COPY \"public\".\"fixed\"") && !piped.stdout.contains("\"other\"")
    );
    for (more, words) in [
        (
            ["--format", "base", "--to", "/tmp/never"],
            "it holds no data folder",
        ),
        (["--to", to, "--format", "sql"], "failed to create"),
    ] {
        let refused = export(&more);
        assert!(
            refused.code != 0 && refused.stderr.contains(words),
            "{}",
            refused.stderr
        );
    }
    let mut repo = Command::new(binary());
    repo.args([
        "repo",
        "list",
        "gs://kubedb",
        "--endpoint",
        &world.gcs.endpoint(),
    ]);
    let listed = run(&mut repo, "").unwrap();
    assert!(
        listed.stdout.contains("METHOD") && listed.stdout.contains("Logical"),
        "{}",
        listed.stdout
    );
    let mut repo = Command::new(binary());
    repo.args([
        "repo",
        "restore",
        "gs://kubedb",
        &name,
        "--to",
        "/tmp/never",
        "--endpoint",
        &world.gcs.endpoint(),
    ]);
    let refused = run(&mut repo, "").unwrap();
    assert!(
        refused.code != 0 && refused.stderr.contains("kubedb repo export"),
        "{}",
        refused.stderr
    );
    let mut repo = Command::new(binary());
    repo.args([
        "repo",
        "check",
        "gs://kubedb",
        "--pages",
        "--endpoint",
        &world.gcs.endpoint(),
    ]);
    let checked = run(&mut repo, "").unwrap();
    assert!(
        checked.code == 0 && checked.stderr.contains("it has no pages"),
        "{}",
        checked.stderr
    );
    world.delete("snap", &name);
    assert!(world.server.stop());
}

/// A standby is read, and its database is what it was; a restore that is killed begins anew.
#[test]
fn a_restore_that_is_killed_begins_anew_and_ends_whole() {
    let mut world = World::new();
    world.create(&postgres("one", "15", 2, ""));
    world.status("pg", "one", "Running", 180);
    world.sql("one", FILL).unwrap();
    let digest = world.sql("one", DIGEST).unwrap();
    world.create(&logical("rows", "one"));
    let status = world.status("snap", "rows", "Succeeded", 120);
    assert_eq!(status["instance"], "one-1", "{status}");
    world
        .sql("one", "CREATE TABLE after AS SELECT 1 AS a")
        .unwrap();
    eventually("the standby replays on", Duration::from_secs(40), || {
        world.sql_at("one", &["--standby"], "SELECT count(*) FROM after")
    });
    // An agent that was killed while replay waited left this behind, and a replay that waits for ever.
    world
        .sql_at("one", &["--standby"], "SELECT pg_wal_replay_pause()")
        .unwrap();
    fs::write(world.instance("one", 1).join("kubedb-replay-paused"), "").unwrap();
    eventually("the replay is resumed", Duration::from_secs(60), || {
        let paused = world.sql_at("one", &["--standby"], "SELECT pg_is_wal_replay_paused()")?;
        (paused == "f").then_some(()).ok_or(paused)
    });
    assert!(
        !world
            .instance("one", 1)
            .join("kubedb-replay-paused")
            .exists()
    );
    world.create(&postgres("copy", "15", 1, &from_snapshot("rows")));
    // Killed as soon as its server is there, and once more.
    for _ in 0..2 {
        let instance = world.instance("copy", 0);
        let agent = eventually("a restore in work", Duration::from_secs(120), || {
            let agent = world.agent("copy", 0).ok_or("no agent")?;
            let is_begun = instance.join("data.new/postmaster.pid").exists();
            assert!(!instance.join("data").exists(), "too late");
            is_begun
                .then_some(agent)
                .ok_or_else(|| "not begun".to_owned())
        });
        signal(agent, 9);
        eventually("another agent", Duration::from_secs(60), || {
            let now = world.agent("copy", 0).ok_or("no agent")?;
            (now != agent)
                .then_some(())
                .ok_or_else(|| "the old one".to_owned())
        });
    }
    world.status("pg", "copy", "Running", 240);
    assert_eq!(world.sql("copy", DIGEST).unwrap(), digest);
    let instance = world.instance("copy", 0);
    assert!(!instance.join("data.new").exists());
    assert_eq!(
        processes(&[
            "postgres",
            "-D",
            &instance.join("data.new").to_string_lossy()
        ]),
        Vec::<u32>::new()
    );
    assert!(world.server.stop());
}

#[test]
fn t28_a_restore_with_an_error_of_sql_fails_by_the_statement_and_leaves_nothing() {
    let mut world = World::new();
    world.create(&postgres("one", "15", 1, ""));
    world.status("pg", "one", "Running", 120);
    let lie = |to: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION lie(int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN {to}; END $$"
        )
    };
    world.sql("one", &lie("RETURN true")).unwrap();
    world
        .sql("one", "CREATE TABLE bad AS SELECT 7 AS a")
        .unwrap();
    world
        .sql("one", "CREATE INDEX planted ON bad (lie(a))")
        .unwrap();
    world.sql("one", &lie("RAISE EXCEPTION 'planted'")).unwrap();
    world.create(&logical("rows", "one"));
    world.status("snap", "rows", "Succeeded", 120);
    world.create(&postgres("copy", "15", 1, &from_snapshot("rows")));
    let status = world.status("pg", "copy", "Failed", 120);
    let reason = status["reason"].as_str().unwrap().to_owned();
    for word in [
        "CREATE INDEX \"planted\"",
        "P0001",
        "\"postgres\"",
        "planted",
    ] {
        assert!(reason.contains(word), "{word}: {reason}");
    }
    let instance = world.instance("copy", 0);
    for left in ["data", "data.new", "kubedb-instance.json"] {
        assert!(!instance.join(left).exists(), "{left}");
    }
    // What cannot be asked of rows is refused by name.
    let target = from_snapshot("rows") + "      target: {}\n";
    world.create(&postgres("further", "15", 1, &target));
    let status = world.status("pg", "further", "Failed", 60);
    assert!(
        status["reason"]
            .as_str()
            .unwrap()
            .contains("is logical, so no WAL can be replayed"),
        "{status}"
    );
    world.create(&postgres("earlier", "9.6", 1, &from_snapshot("rows")));
    let status = world.status("pg", "earlier", "Failed", 120);
    assert!(
        status["reason"]
            .as_str()
            .unwrap()
            .contains("same major version or a later one"),
        "{status}"
    );
    assert!(world.server.stop());
}
