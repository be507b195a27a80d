//! Databases from Snapshots: the same rows, a life of their own, and nothing half-alive when it does not work.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use kubedb_e2e::{
    process::signal,
    wait::eventually,
    world::{World, from_snapshot, postgres, processes, snapshot},
};

const FILL: &str = "
    CREATE TABLE account (id int PRIMARY KEY, amount bigint NOT NULL);
    INSERT INTO account SELECT i, 1000 FROM generate_series(1, 1000) i;
    CREATE TABLE fixed AS SELECT i, md5(i::text) AS text FROM generate_series(1, 50000) i;
    CREATE TABLE log (id bigserial PRIMARY KEY, text text);
    CREATE UNLOGGED TABLE scratch AS SELECT i FROM generate_series(1, 1000) i;
    SELECT lo_from_bytea(4711, convert_to(repeat('large', 9999), 'UTF8'));
    CREATE TABLE cut AS SELECT i FROM generate_series(1, 1000) i";

/// What must be the same in every copy, whenever it was taken.
const DIGEST: &str = "
    SELECT (SELECT md5(string_agg(fixed::text, ',' ORDER BY i)) FROM fixed),
           (SELECT md5(lo_get(4711))), (SELECT sum(amount) FROM account),
           (SELECT coalesce(max(id), 0) <= (SELECT last_value FROM log_id_seq) FROM log)";

/// A psql of the user's own that stays open.
struct Open(Child);

impl Open {
    fn psql(world: &World, database: &str, text: &str) -> Self {
        let url =
            world.server.object("pg", database, "demo").unwrap()["status"]["endpoints"]["primary"]
                .take();
        let (host, port) = url.as_str().unwrap().split_once(':').unwrap();
        let mut child = Command::new("psql")
            .args([
                "-XqAt",
                "-v",
                "ON_ERROR_STOP=1",
                "-h",
                host,
                "-p",
                port,
                "-U",
                "postgres",
                "-d",
                "postgres",
            ])
            .env("PGPASSWORD", password(world, database))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // psql reads on as it goes; what it no longer wants when it is killed is nobody's loss.
        let (mut stdin, text) = (child.stdin.take().unwrap(), text.to_owned());
        std::thread::spawn(move || {
            let _ = stdin.write_all(text.as_bytes());
            // The session stays open until psql is killed.
            std::thread::park_timeout(Duration::from_secs(600));
        });
        Self(child)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn password(world: &World, database: &str) -> String {
    let secret = world
        .server
        .object("secret", &format!("{database}-auth"), "demo")
        .unwrap();
    let text = secret["data"]["POSTGRES_PASSWORD"]
        .as_str()
        .unwrap()
        .to_owned();
    let decoded = kubedb_e2e::kubedb::run(Command::new("base64").arg("-d"), &text).unwrap();
    decoded.stdout
}

/// Whether a password lets `postgres` in.
fn lets_in(world: &World, database: &str, password: &str) -> bool {
    let url =
        world.server.object("pg", database, "demo").unwrap()["status"]["endpoints"]["primary"]
            .take();
    let (host, port) = url.as_str().unwrap().split_once(':').unwrap();
    Command::new("psql")
        .args([
            "-XAt", "-h", host, "-p", port, "-U", "postgres", "-w", "-c", "SELECT 1",
        ])
        .env("PGPASSWORD", password)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

/// Transfers between accounts until psql is killed; a database is made and tables go meanwhile.
fn load(world: &World, database: &str) -> Open {
    let transfer = "BEGIN; UPDATE account SET amount = amount - 3 WHERE id = 1 + (random() * 999)::int; INSERT INTO log (text) VALUES (repeat('x', 2000)); UPDATE account SET amount = 1000 * 1000 - (SELECT sum(amount) FROM account WHERE id <> 7) WHERE id = 7; COMMIT;\n";
    Open::psql(world, database, &transfer.repeat(20_000))
}

/// A transaction with more subtransactions than a standby is told of; it stays open.
fn many_subtransactions(world: &World, database: &str) -> Open {
    let mut text = "BEGIN; CREATE TABLE never ();\n".to_owned();
    for number in 0..150 {
        text += &format!("SAVEPOINT s{number}; INSERT INTO log (text) VALUES ('never');\n");
    }
    text += "SELECT pg_advisory_lock(4711);\n";
    let open = Open::psql(world, database, &text);
    world.sql_becomes(
        database,
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711",
        "1",
    );
    open
}

fn copies_live_their_own_lives(version: &str) {
    let mut world = World::new();
    world.create(&postgres("one", version, 2, ""));
    world.status("pg", "one", "Running", 180);
    world.sql("one", FILL).unwrap();
    let digest = world.sql("one", DIGEST).unwrap();
    world.sql_becomes(
        "one",
        "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'",
        "1",
    );
    {
        let _open = many_subtransactions(&world, "one");
        let _load = load(&world, "one");
        world.create(&snapshot("of-standby", "one"));
        world
            .sql(
                "one",
                "TRUNCATE cut; CREATE TABLE IF NOT EXISTS late (); DROP TABLE late",
            )
            .unwrap();
        world.sql("one", "CREATE DATABASE meanwhile").unwrap();
        let status = world.status("snap", "of-standby", "Succeeded", 120);
        assert_eq!(status["instance"], "one-1", "{status}");
    }
    // A copy of a standby's Snapshot, with standbys of its own.
    world.create(&postgres("copy", version, 3, &from_snapshot("of-standby")));
    world.status("pg", "copy", "Running", 240);
    assert_eq!(world.sql("copy", DIGEST).unwrap(), digest);
    assert_eq!(
        world.sql("copy", "SELECT count(*) FROM scratch").unwrap(),
        "0"
    );
    assert_eq!(
        world
            .sql("copy", "SELECT count(*) FROM log WHERE text = 'never'")
            .unwrap(),
        "0"
    );
    world.sql_becomes(
        "copy",
        "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'",
        "2",
    );
    let object = world.server.object("pg", "copy", "demo").unwrap();
    assert!(
        object["metadata"]["annotations"]["kubedb.com/initialized"].is_string(),
        "{object}"
    );
    let (old, new) = (password(&world, "one"), password(&world, "copy"));
    assert!(old != new && lets_in(&world, "copy", &new) && !lets_in(&world, "copy", &old));
    world
        .sql("copy", "INSERT INTO log (text) VALUES ('of the copy')")
        .unwrap();
    assert_eq!(
        world
            .sql("one", "SELECT count(*) FROM log WHERE text = 'of the copy'")
            .unwrap(),
        "0"
    );

    // Of a primary amid transfers; then a copy of the copy.
    {
        let scaled = world.server.object("pg", "one", "demo").unwrap();
        assert_eq!(scaled["status"]["primary"], "one-0");
        let _open = many_subtransactions(&world, "copy");
        world.create(&snapshot("of-copy", "copy"));
        world.status("snap", "of-copy", "Succeeded", 120);
    }
    let lineage = |name: &str| {
        world.server.object("snap", name, "demo").unwrap()["status"]["result"]["lineage"].take()
    };
    assert_ne!(lineage("of-standby"), lineage("of-copy"));
    world.create(&postgres(
        "grandchild",
        version,
        1,
        &from_snapshot("of-copy"),
    ));
    world.status("pg", "grandchild", "Running", 180);
    assert_eq!(world.sql("grandchild", DIGEST).unwrap(), digest);
    assert_eq!(
        world
            .sql(
                "grandchild",
                "SELECT count(*) FROM log WHERE text = 'of the copy'"
            )
            .unwrap(),
        "1"
    );

    // A Snapshot of a primary amid transfers, with a transaction that has many parts.
    {
        let _open = many_subtransactions(&world, "grandchild");
        let _load = load(&world, "grandchild");
        world.create(&snapshot("of-primary", "grandchild"));
        let status = world.status("snap", "of-primary", "Succeeded", 120);
        assert_eq!(status["instance"], "grandchild-0", "{status}");
    }
    world.create(&postgres("last", version, 1, &from_snapshot("of-primary")));
    world.status("pg", "last", "Running", 180);
    assert_eq!(world.sql("last", DIGEST).unwrap(), digest);

    // The superuser's Secret is changed: its new password works, the old one no more.
    let (before, patch) = (
        password(&world, "last"),
        r#"{"stringData":{"POSTGRES_PASSWORD":"an other: one\\"}}"#,
    );
    let patched = Command::new("kubectl")
        .args([
            "--kubeconfig",
            world.server.kubeconfig(),
            "-n",
            "demo",
            "patch",
            "secret",
            "last-auth",
            "-p",
            patch,
        ])
        .stdout(Stdio::null())
        .status();
    assert!(patched.unwrap().success());
    eventually("the new password", Duration::from_secs(40), || {
        let is_in = lets_in(&world, "last", "an other: one\\") && !lets_in(&world, "last", &before);
        if is_in {
            Ok(())
        } else {
            Err("not yet".to_owned())
        }
    });
    assert!(world.server.stop());
}

#[test]
fn t21_copies_of_15_live_their_own_lives() {
    copies_live_their_own_lives("15");
}

#[test]
fn t21_copies_of_9_6_live_their_own_lives() {
    copies_live_their_own_lives("9.6");
}

/// Changes a manifest on disk with a new hash, or without.
fn rewrite(path: &Path, change: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(path).unwrap();
    fs::write(path, change(text)).unwrap();
}

#[test]
fn t27_a_restore_that_cannot_work_fails_with_its_reason_and_the_right_one_works() {
    let world = World::new();
    world.create(&postgres("one", "15", 1, ""));
    world.status("pg", "one", "Running", 120);
    world.sql("one", FILL).unwrap();
    world.create(&snapshot("whole", "one"));
    let status = world.status("snap", "whole", "Succeeded", 60);
    let manifest = world
        .gcs
        .objects()
        .join("kubedb")
        .join(status["result"]["manifest"].as_str().unwrap());
    let original = fs::read_to_string(&manifest).unwrap();
    let mut packs = world
        .stored("one")
        .into_iter()
        .filter(|path| path.to_string_lossy().contains("/packs/"));
    let pack = packs.next_back().unwrap();
    let pack_name = pack.file_name().unwrap().to_string_lossy().into_owned();
    let content = fs::read(&pack).unwrap();

    let fails = |version: &str, words: &[&str]| {
        world.create(&postgres("copy", version, 1, &from_snapshot("whole")));
        let status = world.status("pg", "copy", "Failed", 120);
        let reason = status["reason"].as_str().unwrap().to_owned();
        for word in words {
            assert!(reason.contains(word), "{reason:?} does not name {word:?}");
        }
        let instance = world.instance("copy", 0);
        for left in ["data", "data.new", "tablespaces", "kubedb-instance.json"] {
            assert!(!instance.join(left).exists(), "{left} after {words:?}");
        }
        let of_server = processes(&["postgres", &instance.to_string_lossy()]);
        assert!(of_server.is_empty(), "{of_server:?}");
        world.delete("pg", "copy");
    };
    fails("9.6", &["PostgreSQL 15", "9.6"]);
    rewrite(&manifest, |text| text[..text.len() / 2].to_owned());
    fails("15", &["manifest-0001"]);
    rewrite(&manifest, |_| {
        original.replace("\"version\":1", "\"version\":2")
    });
    fails("15", &["format version 2"]);
    fs::write(&manifest, &original).unwrap();
    fs::write(&pack, &content[..content.len() - 1]).unwrap();
    fails("15", &[&pack_name, "damaged"]);
    let mut damaged = content.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&pack, &damaged).unwrap();
    fails("15", &[&pack_name, "damaged"]);
    fs::write(&pack, &content).unwrap();
    // The server keeps what it knows of an object with the file, so that is set aside rather than written anew.
    let aside = world.folder().join("aside");
    fs::rename(&pack, &aside).unwrap();
    fails("15", &[&pack_name, "missing"]);

    // The way on: the object is brought back, and the same database is made.
    fs::rename(&aside, &pack).unwrap();
    world.create(&postgres("copy", "15", 1, &from_snapshot("whole")));
    world.status("pg", "copy", "Running", 120);
    assert_eq!(
        world.sql("copy", DIGEST).unwrap(),
        world.sql("one", DIGEST).unwrap()
    );
}

/// The agent is killed a little later each time, and with it, every other time, the server; each restart begins the restore anew, or
/// goes on from its end.
#[test]
fn t19_a_restore_killed_at_any_moment_begins_anew_and_comes_whole() {
    let mut world = World::new();
    world.create(&postgres("one", "15", 1, ""));
    world.status("pg", "one", "Running", 120);
    world.sql("one", FILL).unwrap();
    let digest = world.sql("one", DIGEST).unwrap();
    world.create(&snapshot("whole", "one"));
    world.status("snap", "whole", "Succeeded", 60);
    world.create(&postgres("copy", "15", 1, &from_snapshot("whole")));
    eventually("the restore's beginning", Duration::from_secs(60), || {
        let agent = world.agent("copy", 0).ok_or("no agent")?;
        let status = world.server.object("pg", "copy", "demo")?["status"].take();
        if status["bootstrap"].is_object() {
            Ok(agent)
        } else {
            Err(status.to_string())
        }
    });
    let instance = world.instance("copy", 0);
    let state = instance.join("kubedb-instance.json");
    let (mut delay, mut kills) = (Duration::from_millis(50), 0);
    while !state.exists() && kills < 60 {
        let agent = eventually("an agent", Duration::from_secs(40), || {
            world.agent("copy", 0).ok_or_else(|| "none".to_owned())
        });
        // The moment is the test's parameter, not a wait for something.
        std::thread::sleep(delay);
        signal(agent, 9);
        world.server.kill_and_restart().unwrap();
        delay += Duration::from_millis(50);
        kills += 1;
    }
    assert!(kills >= 5, "{kills} kills are no proof");
    world.status("pg", "copy", "Running", 120);
    // A server that was started a moment ago may not have taken up the database's endpoint yet.
    world.sql_becomes("copy", DIGEST, &digest);
    // A process that was forked a moment ago still has its parent's command line.
    eventually("one server and no other", Duration::from_secs(20), || {
        let servers = processes(&["bin/postgres", "-D", &instance.to_string_lossy()]);
        if servers.len() == 1 {
            Ok(())
        } else {
            Err(format!("{servers:?}"))
        }
    });
    let left: Vec<_> = fs::read_dir(&instance)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("data") && name != "data")
        .collect();
    assert!(left.is_empty(), "{left:?}");

    // A database that is deleted during its restore leaves no server behind.
    world.line.limit(1 << 10);
    world.create(&postgres("gone", "15", 1, &from_snapshot("whole")));
    let folder = eventually("the restore", Duration::from_secs(60), || {
        let status = world.server.object("pg", "gone", "demo")?["status"].take();
        if status["phase"] == "Initializing" {
            Ok(world.instance("gone", 0))
        } else {
            Err(status.to_string())
        }
    });
    world.line.limit(0);
    world.delete("pg", "gone");
    eventually(
        "no process of the database",
        Duration::from_secs(30),
        || {
            let left = processes(&[&folder.to_string_lossy()]);
            if left.is_empty() && !folder.join("data.new").exists() {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            }
        },
    );
}
