//! Archives beside those of wal-rus, a program of others: what either has written, the other reads. `cargo xtask test --tier interop` builds it.

#![allow(clippy::unwrap_used)]

use std::{env, fs, path::PathBuf, process::Command};

use kubedb_e2e::{
    by_hand::{Server, User, lent},
    kubedb::{binary, run},
    world::{World, postgres, snapshot},
};

/// The program.
fn walrus() -> PathBuf {
    let named = env::var_os("KUBEDB_WALRUS");
    named.expect("KUBEDB_WALRUS names the program").into()
}

/// A database whose programs and user the test borrows.
fn lender(world: &World, version: &str) -> (PathBuf, User) {
    world.create(&postgres("lender", version, 1, ""));
    world.status("pg", "lender", "Running", 120);
    lent(world, "lender")
}

const ROWS: &str = "SELECT string_agg(i::text, ' ' ORDER BY i) FROM step";

/// Of each way of packing that is read, with a delta, by files and by a stream.
#[test]
fn what_wal_rus_stores_comes_back() {
    for (version, codec, is_streamed) in [
        ("15", "lz4", false),
        ("18", "zstd", false),
        ("15", "brotli", true),
    ] {
        let world = World::new();
        let (program, user) = lender(&world, version);
        let (archive, data) = (world.folder().join("wal-g"), world.folder().join("theirs"));
        for folder in [&archive, &data] {
            fs::create_dir(folder).unwrap();
            user.own(folder);
        }
        let environment = format!(
            "WALG_FILE_PREFIX={} WALG_COMPRESSION_METHOD={codec}",
            archive.display()
        );
        let mut initdb = user.command(&program.with_file_name("initdb"));
        initdb
            .args(["-U", "postgres", "-E", "UTF8", "--locale=C", "-k", "-D"])
            .arg(&data);
        let made = run(&mut initdb, "").unwrap();
        assert_eq!(made.code, 0, "{}", made.stderr);
        let push = format!(
            "archive_command={environment} {} wal-push %p",
            walrus().display()
        );
        let server = Server::start(user, &program, &data, &["archive_mode=on", &push]);
        server.becomes("SELECT 1", "1");
        let sql = |statement: &str| server.sql(statement).unwrap();
        sql("CREATE TABLE step (i int)");
        sql("CREATE TABLE bulk AS SELECT generate_series(1, 200000) AS n");
        let archived = || {
            let last = sql("SELECT pg_walfile_name(pg_current_wal_lsn())");
            sql("SELECT pg_switch_wal()");
            server.becomes(
                &format!("SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver"),
                "t",
            );
        };
        let backup = |steps: &str| {
            sql("CHECKPOINT");
            let mut push = user.command(&walrus());
            push.arg("backup-push");
            if !is_streamed {
                push.arg(&data);
            }
            push.env("WALG_FILE_PREFIX", &archive)
                .env("WALG_COMPRESSION_METHOD", codec)
                .env("WALG_DELTA_MAX_STEPS", steps)
                .env("PGHOST", &data)
                .env("PGPORT", "5432")
                .env("PGUSER", "postgres")
                .env("PGDATABASE", "postgres");
            let ran = run(&mut push, "").unwrap();
            assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
        };
        sql("INSERT INTO step VALUES (1)");
        backup("0");
        sql("INSERT INTO step VALUES (2)");
        sql("UPDATE bulk SET n = -n WHERE n % 1000 = 0");
        archived();
        if !is_streamed {
            backup("3");
            sql("INSERT INTO step VALUES (3)");
            archived();
            let names = fs::read_dir(archive.join("basebackups_005")).unwrap();
            let is_delta = |name: &fs::DirEntry| name.file_name().to_string_lossy().contains("_D_");
            assert!(names.map(Result::unwrap).any(|name| is_delta(&name)));
        }
        let (rows, sum) = (sql(ROWS), sql("SELECT sum(n)::text FROM bulk"));
        drop(server);
        let init = format!(
            "  init:\n    postgresWAL:\n      layout: wal-g\n      local:\n        mountPath: {}\n",
            archive.display()
        );
        world.create(&postgres("ours", version, 1, &init).replace("50Mi", "1Gi"));
        world.status("pg", "ours", "Running", 180);
        assert_eq!(world.sql("ours", ROWS).unwrap(), rows, "{version} {codec}");
        let came = world.sql("ours", "SELECT sum(n)::text FROM bulk").unwrap();
        assert_eq!(came, sum, "{version} {codec}");
    }
}

/// A PostgreSQL recovers through their `wal-fetch` from what ours has archived.
#[test]
fn what_we_archive_is_read_by_wal_rus() {
    for version in ["15", "18"] {
        let world = World::new();
        let (program, user) = lender(&world, version);
        let folder = world.folder().join("archive");
        fs::create_dir(&folder).unwrap();
        user.own(&folder);
        let archiver = format!(
            "  archiver:\n    storage:\n      local:\n        mountPath: {}\n",
            folder.display()
        );
        world.create(&postgres("src", version, 1, &archiver));
        world.status("pg", "src", "Running", 120);
        let sql = |statement: &str| world.sql("src", statement).unwrap();
        sql("CREATE TABLE step (i int)");
        world.create(&snapshot("base", "src"));
        world.status("snap", "base", "Succeeded", 120);
        for step in 1..=3 {
            sql(&format!("INSERT INTO step VALUES ({step})"));
            let last = sql("SELECT pg_walfile_name(pg_current_wal_lsn())");
            sql("SELECT pg_switch_wal()");
            let query = format!("SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver");
            world.sql_becomes("src", &query, "t");
        }
        let lineages = fs::read_dir(folder.join("kubedb/demo/src/archive")).unwrap();
        let lineage = lineages.map(|entry| entry.unwrap().path()).next().unwrap();
        let data = world.folder().join("ours");
        let mut restore = Command::new(binary());
        restore
            .args(["repo", "restore", "gs://kubedb", "base", "--endpoint"])
            .arg(world.gcs.endpoint())
            .arg("--to")
            .arg(&data);
        let ran = run(&mut restore, "").unwrap();
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        fs::write(data.join("recovery.signal"), "").unwrap();
        user.own(&data);
        let fetch = format!(
            "restore_command=WALG_FILE_PREFIX={} {} wal-fetch %f %p",
            lineage.display(),
            walrus().display()
        );
        // As high as the primary has it.
        let server = Server::start(user, &program, &data, &[&fetch, "max_wal_senders=20"]);
        server.becomes("SELECT pg_is_in_recovery()", "f");
        assert_eq!(server.sql(ROWS).unwrap(), "1 2 3", "{version}");
    }
}
