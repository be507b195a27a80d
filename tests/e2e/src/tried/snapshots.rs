//! Snapshots while something dies: the next one works, nothing is left behind, and nothing stays Running.

use std::{fs, time::Duration};

use serde_json::Value;

use crate::{
    platform::{Part, Platform},
    process::signal,
    wait::eventually,
    world::{World, from_snapshot, postgres, snapshot},
};

/// More than the packs that may wait for the store, so that the session is held until the store has taken some.
const NOISE: usize = 160 << 20;

/// Slow enough that the noise takes half a minute, and a test finds its middle.
const SLOW: u64 = 5 << 20;

const SESSION: &str = "application_name = 'kubedb snapshot'";

/// Begins a Snapshot on the slow line, and waits until it is amid its work.
fn begin<P: Platform>(world: &World<P>, database: &str, name: &str) -> Value {
    // What an earlier Snapshot has would not be sent again.
    for ordinal in 0..2 {
        if world.server.has_noise(database, ordinal) {
            world.server.add_noise(database, ordinal, NOISE);
        }
    }
    world.line.limit(SLOW);
    world.create(&snapshot(name, database));
    eventually("a Snapshot amid its work", Duration::from_secs(60), || {
        let status = world.object("snap", name)?["status"].take();
        let done = status["progress"]["doneBytes"].as_i64().unwrap_or_default();
        if status["phase"] == "Running" && done > 20 << 20 {
            Ok(status)
        } else {
            Err(status.to_string())
        }
    })
}

/// No slot, no session and no second agent of any Snapshot.
fn assert_lets_go<P: Platform>(world: &World<P>, database: &str, more: &[&str]) {
    let left = format!(
        "SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_name::text LIKE 'kubedb_snap%') + (SELECT count(*) FROM pg_stat_activity WHERE {SESSION})"
    );
    eventually("no slot and no session", Duration::from_secs(40), || {
        let found = world.sql_at(database, more, &left)?;
        if found == "0" { Ok(()) } else { Err(found) }
    });
    let agents = world.server.part(database, 0, Part::Agent);
    assert_eq!(agents.len(), 1, "{agents:?}");
}

#[derive(Clone, Copy, Debug)]
enum Victim {
    Postmaster,
    Session,
    Agent,
    Operator,
}

fn kill<P: Platform>(world: &mut World<P>, victim: Victim) {
    match victim {
        Victim::Postmaster => signal(world.part("one", 0, Part::Postmaster), 9),
        Victim::Session => {
            let query = format!("SELECT pid FROM pg_stat_activity WHERE {SESSION}");
            let pid = world.sql("one", &query).unwrap();
            world.server.kill_session("one", 0, pid.parse().unwrap());
        }
        Victim::Agent => signal(world.part("one", 0, Part::Agent), 9),
        Victim::Operator => world.server.kill_operator(),
    }
}

/// Whatever dies during a Snapshot, it comes and leaves nothing behind.
pub fn whatever_dies_the_snapshot_comes<P: Platform>(mut world: World<P>, version: &str) {
    world.create(&postgres("one", version, 1, ""));
    world.status("pg", "one", "Running", 120);
    world.server.add_noise("one", 0, NOISE);
    for (number, victim) in [
        Victim::Postmaster,
        Victim::Session,
        Victim::Agent,
        Victim::Operator,
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("snap-{number}");
        begin(&world, "one", &name);
        kill(&mut world, victim);
        world.line.limit(0);
        let status = world.status("snap", &name, "Succeeded", 120);
        // An operator that is killed costs no attempt: the agent goes on without it.
        let attempts = if matches!(victim, Victim::Operator) {
            1
        } else {
            2
        };
        assert_eq!(status["attempt"], attempts, "{victim:?}: {status}");
        let told = &status["progress"];
        assert_eq!(told["doneBytes"], told["totalBytes"], "{status}");
        assert!(
            told["doneBytes"].as_u64().unwrap() as usize > NOISE,
            "{status}"
        );
        assert_lets_go(&world, "one", &[]);
        // What the attempt that died had stored goes with the Snapshot.
        world.delete("snap", &name);
        assert_eq!(
            world.stored("one"),
            [""; 0].map(std::path::PathBuf::from),
            "{victim:?}"
        );
    }
    assert!(world.server.stop());
}

/// A store that stops midway, or is emptied, is told; and the next Snapshot works.
pub fn a_store_that_stops_or_is_emptied<P: Platform>(mut world: World<P>) {
    world.create(&postgres("one", "15", 1, ""));
    world.status("pg", "one", "Running", 120);
    world.server.add_noise("one", 0, NOISE);
    begin(&world, "one", "cut");
    world.gcs.kill();
    let status = world.status("snap", "cut", "Failed", 200);
    let reason = status["reason"].as_str().unwrap();
    assert!(
        reason.contains("gs:kubedb") && reason.contains("attempt 3 of 3"),
        "{reason}"
    );
    assert_lets_go(&world, "one", &[]);

    world.gcs.restart().unwrap();
    // Somebody empties the bucket while a Snapshot is made: that attempt is lost, the Snapshot is not.
    begin(&world, "one", "emptied");
    for entry in fs::read_dir(world.gcs.objects().join("kubedb")).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    world.line.limit(0);
    let status = world.status("snap", "emptied", "Succeeded", 120);
    assert_eq!(status["attempt"], 2, "{status}");
    let manifest = status["result"]["manifest"].as_str().unwrap();
    assert!(world.gcs.objects().join("kubedb").join(manifest).exists());
    // Emptied once more, now that all is done: deleting what is gone is no trouble.
    fs::remove_dir_all(world.gcs.objects().join("kubedb/kubedb")).unwrap();
    for name in ["cut", "emptied"] {
        world.delete("snap", name);
    }
    assert_eq!(world.stored("one").len(), 0);
}

/// Instances and databases that go away take no Snapshot with them.
pub fn what_goes_away_takes_no_snapshot_with_it<P: Platform>(mut world: World<P>) {
    world.create(&postgres("one", "9.6", 2, ""));
    world.status("pg", "one", "Running", 180);
    // On an idle primary: no WAL comes that a standby's backup could wait for.
    world.line.limit(0);
    world.create(&snapshot("idle", "one"));
    let status = world.status("snap", "idle", "Succeeded", 30);
    assert_eq!(status["instance"], "one-1", "{status}");
    assert_lets_go(&world, "one", &["--standby"]);

    // The primary is restarted while its standby is backed up.
    world.server.add_noise("one", 1, NOISE);
    let status = begin(&world, "one", "restarted");
    assert_eq!(status["instance"], "one-1", "{status}");
    signal(world.part("one", 0, Part::Postmaster), 9);
    world.line.limit(0);
    world.status("snap", "restarted", "Succeeded", 120);
    world.status("pg", "one", "Running", 60);
    world.sql_becomes(
        "one",
        "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'",
        "1",
    );

    // The instance that takes a Snapshot is scaled away.
    eventually("the standby's turn", Duration::from_secs(40), || {
        let report = world.object("pg", "one")?["status"]["instances"]["one-1"].take();
        if report["streaming"] == true {
            Ok(())
        } else {
            Err(report.to_string())
        }
    });
    let status = begin(&world, "one", "moved");
    assert_eq!(status["instance"], "one-1", "{status}");
    let editor = world.folder().join("scale.sh");
    fs::write(
        &editor,
        "#!/bin/sh\nsed -i 's/^  replicas: .*/  replicas: 1/' \"$1\"\n",
    )
    .unwrap();
    fs::set_permissions(&editor, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let words = ["edit", "pg", "one", "-n", world.server.namespace()];
    let edited = world.server.command(&words, "", Some(&editor)).unwrap();
    assert_eq!(edited.code, 0, "{}", edited.stderr);
    world.line.limit(0);
    let status = world.status("snap", "moved", "Succeeded", 120);
    assert_eq!(status["instance"], "one-0", "{status}");
    assert_lets_go(&world, "one", &[]);

    // The database is deleted while its Snapshot is made.
    world.server.add_noise("one", 0, NOISE);
    begin(&world, "one", "orphan");
    world.delete("pg", "one");
    let status = world.status("snap", "orphan", "Failed", 30);
    assert_eq!(status["reason"], "the database was deleted");
    eventually(
        "nothing of the database that runs",
        Duration::from_secs(60),
        || match world.server.left("one") {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        },
    );
    assert!(world.server.stop());
}

/// Log position as a number.
fn position(text: &str) -> u64 {
    let (high, low) = text.trim().split_once('/').unwrap();
    let part = |text: &str| u64::from_str_radix(text, 16).unwrap();
    part(high) << 32 | part(low)
}

/// The standby does not replay, and the operator's last word of the primary is old: the Snapshot waits for the rows all the same.
pub fn a_standby_has_what_was_committed<P: Platform>(world: World<P>) {
    world.create(&postgres("one", "15", 2, ""));
    world.status("pg", "one", "Running", 180);
    eventually("a streaming standby", Duration::from_secs(60), || {
        let report = world.object("pg", "one")?["status"]["instances"]["one-1"].take();
        if report["streaming"] == true && report["ready"] == true {
            Ok(())
        } else {
            Err(report.to_string())
        }
    });
    let of_standby = |statement: &str| world.sql_at("one", &["--standby"], statement);
    of_standby("SELECT pg_wal_replay_pause()").unwrap();
    let state = "SELECT pg_get_wal_replay_pause_state()";
    eventually("a pause", Duration::from_secs(20), || {
        match of_standby(state)? {
            paused if paused == "paused" => Ok(()),
            other => Err(other),
        }
    });
    let agent = world.part("one", 0, Part::Agent);
    signal(agent, libc::SIGSTOP);
    world
        .sql(
            "one",
            "CREATE TABLE late AS SELECT n FROM generate_series(1, 1000) n",
        )
        .unwrap();
    let committed = position(
        &world
            .sql("one", "SELECT pg_current_wal_flush_lsn()")
            .unwrap(),
    );
    world.create(&snapshot("late", "one"));
    let mut looks = 0;
    eventually(
        "a Snapshot that waits for the rows",
        Duration::from_secs(25),
        || {
            let status = world.object("snap", "late")?["status"].take();
            assert_ne!(status["phase"], "Succeeded", "it did not wait: {status}");
            let asks = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE {SESSION} AND query LIKE '%replay_lsn%'"
            );
            looks = if of_standby(&asks)? == "1" {
                looks + 1
            } else {
                0
            };
            if looks == 10 {
                Ok(())
            } else {
                Err(status.to_string())
            }
        },
    );
    signal(agent, libc::SIGCONT);
    of_standby("SELECT pg_wal_replay_resume()").unwrap();
    let status = world.status("snap", "late", "Succeeded", 120);
    assert_eq!(
        (&status["instance"], &status["attempt"]),
        (&"one-1".into(), &1.into()),
        "{status}"
    );
    let stop = position(status["result"]["stopLsn"].as_str().unwrap());
    assert!(stop >= committed, "{stop} {committed}");
    world.create(&postgres("copy", "15", 1, &from_snapshot("late")));
    world.status("pg", "copy", "Running", 150);
    world.sql_becomes("copy", "SELECT sum(n) FROM late", "500500");
}
