//! Logical Snapshots of real servers: every kind of object, nasty names, other majors, and what is refused.

#![allow(clippy::unwrap_used)]

#[path = "logical/pieces.rs"]
mod pieces;
mod servers;
mod snapshots;
#[path = "logical/world.rs"]
mod world;

use std::{fs, path::Path, process::Command};

use kubedb_core::recovery::Target;
use kubedb_engine::{
    archive::{Wish, find, inventory},
    backup::{BackupError, BackupProgress},
    encryption::{Keys, new_identity},
    logical::{ExportRequest, LoadError, export, pause_note},
    repository::{
        catalogue::Catalogue,
        check::{Depth, check, check_one},
        keys::DatabaseFolder,
        manifest,
    },
    restore::{RestoreError, verify_pages},
    store::Store,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    servers::{Server, Version},
    snapshots::{
        delete, keys, let_follow, local, request, restore_into, since, small_server, standby_of,
    },
    world::{PROGRAMS, Source, compare, load_into, load_into_with, take, take_with},
};

#[tokio::test]
async fn everything_comes_back_in_the_same_major() {
    for version in [Version::Old, Version::New] {
        let folder = tempfile::tempdir().unwrap();
        let store = local(folder.path());
        let source = Source::make(version).await;
        let outcome = take(&source.server, &store, "snap").await.unwrap();
        let held = outcome.logical.unwrap();
        assert!(held.is_one_point && held.databases == 6, "{held:?}");
        let target = load_into(version, &store, &outcome.manifest).await.unwrap();
        compare(&source, &target).await;
    }
}

#[tokio::test]
async fn everything_comes_back_in_a_later_major() {
    for (from, to) in [
        (Version::Old, Version::New),
        (Version::New, Version::Of(18)),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let store = local(folder.path());
        let source = Source::make(from).await;
        let outcome = take(&source.server, &store, "snap").await.unwrap();
        let target = load_into(to, &store, &outcome.manifest).await.unwrap();
        compare(&source, &target).await;
    }
}

/// What psql makes of the export is what was dumped.
#[tokio::test]
async fn an_export_is_loaded_by_psql_without_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let source = Source::make(Version::New).await;
    let outcome = take(&source.server, &store, "snap").await.unwrap();
    let file = folder.path().join("dumpfile.sql");
    let written = write_export(&store, &outcome.manifest, None, &file).await;
    assert_eq!(written.unwrap(), fs::metadata(&file).unwrap().len());
    let target = Server::create(Version::New, "md5").await;
    let output = Command::new(format!("{PROGRAMS}/psql"))
        .args([
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
            "-d",
            "postgres",
            "-h",
        ])
        .arg(target.folder())
        .args(["-p", &target.port.to_string(), "-f"])
        .arg(&file)
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}");
    compare(&source, &target).await;
    // What stands in a comment of the source is text, whatever psql would make of it.
    assert!(!Path::new("/tmp/never").exists());
    // A part of it.
    let file = folder.path().join("part.sql");
    let wanted = Some(vec!["latin".to_owned()]);
    write_export(&store, &outcome.manifest, wanted, &file)
        .await
        .unwrap();
    let text = fs::read(&file).unwrap();
    let text = String::from_utf8_lossy(&text);
    assert!(
        text.contains("CREATE DATABASE \"latin\"") && !text.contains("CREATE DATABASE \"bytes\"")
    );
}

async fn write_export(
    store: &Store,
    manifest: &str,
    databases: Option<Vec<String>>,
    to: &Path,
) -> Result<u64, LoadError> {
    let request = ExportRequest {
        store: store.clone(),
        manifest: manifest.to_owned(),
        databases,
    };
    let (progress, _) = watch::channel(BackupProgress::default());
    let file = tokio::fs::File::create(to).await.unwrap();
    export(request, file, progress, CancellationToken::new()).await
}

#[tokio::test]
async fn t28_any_error_of_sql_fails_the_restore_and_names_the_statement() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let source = Server::create(Version::New, "md5").await;
    let lie = |to: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION lie(int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN {to}; END $$"
        )
    };
    for (name, table, told) in [
        (
            "rows",
            "CREATE TABLE bad (a int CHECK (lie(a))); INSERT INTO bad VALUES (7)",
            ["COPY \"public\".\"bad\" (\"a\") FROM STDIN", "23514"],
        ),
        (
            "schema",
            "CREATE TABLE bad (a int); INSERT INTO bad VALUES (7); CREATE INDEX planted ON bad (lie(a))",
            ["CREATE INDEX \"planted\" ON \"public\".\"bad\"", "P0001"],
        ),
    ] {
        source
            .sql_by_socket(&format!("CREATE DATABASE \"{name}\""))
            .await;
        source.sql_in(name, &lie("RETURN true")).await;
        source.sql_in(name, table).await;
        let now = if name == "rows" {
            "RETURN false"
        } else {
            "RAISE EXCEPTION 'no'"
        };
        source.sql_in(name, &lie(now)).await;
        let outcome = take(&source, &store, name).await.unwrap();
        let error = load_into(Version::New, &store, &outcome.manifest)
            .await
            .err()
            .unwrap();
        let words = error.to_string();
        for part in told
            .into_iter()
            .chain([format!("database {name:?}").as_str()])
        {
            assert!(words.contains(part), "{part}: {words}");
        }
        assert!(error.is_final() && !words.contains("(7)"), "{words}");
        source
            .sql_by_socket(&format!("DROP DATABASE \"{name}\""))
            .await;
    }
}

#[tokio::test]
async fn t29_a_server_is_refused_for_which_there_is_no_pg_dump() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let source = small_server().await;
    let error = take_with(&source, &store, "snap", |request| {
        request.programs = vec![folder.path().to_owned()];
    });
    let error = error.await.unwrap_err();
    let words = error.to_string();
    assert!(
        words.contains("install postgresql-client-15") && !error.is_retryable(),
        "{words}"
    );
    // Nothing was begun.
    assert_eq!(keys(&store).await, Vec::<String>::new());
    let later = Server::create(Version::Of(18), "md5").await;
    let error = take(&later, &store, "snap").await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("needs pg_dump of PostgreSQL 18 or later"),
        "{error}"
    );
}

#[tokio::test]
async fn what_only_the_other_method_can_do_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let source = small_server().await;
    let rows = take(&source, &store, "rows").await.unwrap();
    let pages = snapshots::take(request(&source, &store, "pages"))
        .await
        .unwrap();
    let place = folder.path().join("place");
    let error = restore_into(&place, Version::New, &store, &rows.manifest)
        .await
        .unwrap_err();
    assert!(
        matches!(error, RestoreError::Logical { .. }) && !error.is_damage(),
        "{error}"
    );
    let (progress, _) = watch::channel(BackupProgress::default());
    let verified = verify_pages(
        &store,
        &rows.manifest,
        1,
        progress,
        CancellationToken::new(),
    )
    .await;
    assert!(matches!(verified, Err(RestoreError::Logical { .. })));
    let error = load_into(Version::New, &store, &pages.manifest)
        .await
        .err()
        .unwrap();
    assert!(
        matches!(&error, LoadError::Snapshot(RestoreError::Physical { .. })),
        "{error}"
    );
    let error = load_into(Version::Old, &store, &rows.manifest)
        .await
        .err()
        .unwrap();
    assert!(
        error
            .to_string()
            .contains("same major version or a later one"),
        "{error}"
    );
    let none = Some(vec!["nowhere".to_owned()]);
    let error = load_into_with(Version::New, &store, &rows.manifest, none)
        .await
        .err()
        .unwrap();
    assert!(
        error
            .to_string()
            .contains("it holds no database \"nowhere\"; it holds postgres, template1"),
        "{error}"
    );
    // A later one of pages refers to one of pages, whatever lies between; and recovery begins from none of rows.
    let again = snapshots::take(request(&source, &store, "again"))
        .await
        .unwrap();
    assert_eq!(since(&again), "pages");
    let database = DatabaseFolder::new("demo", "pg").unwrap();
    let lineages = inventory(&store, &store, &database).await.unwrap();
    let wish = Wish {
        target: &Target::latest(),
        snapshot: Some("rows"),
        covered: None,
    };
    let refused = find(&lineages, &store, &database, wish)
        .unwrap()
        .err()
        .unwrap();
    assert!(refused.to_string().contains("rows is logical"), "{refused}");
    let bases: Vec<_> = lineages.values().flat_map(|one| &one.bases).collect();
    assert_eq!(bases.len(), 2);
    assert!(bases.iter().all(|base| base.snapshot != "rows"));
}

#[tokio::test]
async fn it_is_checked_and_deleted_as_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let source = small_server().await;
    let outcome = take(&source, &store, "rows").await.unwrap();
    let checked = check_one(&store, &outcome.manifest, |_, _| ())
        .await
        .unwrap();
    assert!(
        checked.findings.is_empty() && checked.objects >= 3,
        "{checked:?}"
    );
    let catalogue = Catalogue::read(&store).await.unwrap();
    let entry = catalogue.databases.values().next().unwrap();
    let report = check(&store, entry, |_| true, Depth::Content)
        .await
        .unwrap();
    assert!(report.unreferenced.is_empty() && report.snapshots[&outcome.manifest].is_empty());
    // A byte that is another is found, and not loaded.
    let pack = keys(&store)
        .await
        .into_iter()
        .find(|key| key.contains("/packs/"))
        .unwrap();
    let pack = folder.path().join(pack);
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let checked = check_one(&store, &outcome.manifest, |_, _| ())
        .await
        .unwrap();
    assert_eq!(checked.findings.len(), 1);
    let error = load_into(Version::New, &store, &outcome.manifest)
        .await
        .err()
        .unwrap();
    assert!(error.is_damage(), "{error}");
    assert!(delete(&store, "rows").await.unwrap() > 0);
    assert_eq!(keys(&store).await, Vec::<String>::new());
}

#[tokio::test]
async fn t31_an_encrypted_one_shows_no_name_and_no_row() {
    let folder = tempfile::tempdir().unwrap();
    let identity = new_identity().unwrap();
    let writing =
        local(folder.path()).with_keys(Keys::writing(vec![identity.clone()], Vec::new()).unwrap());
    let source = small_server().await;
    source.sql_by_socket("CREATE DATABASE hushhush").await;
    source
        .sql_by_socket("CREATE TABLE hushtable AS SELECT 'hushrow'::text AS t FROM generate_series(1, 10); CREATE ROLE hushrole")
        .await;
    let outcome = take(&source, &writing, "rows").await.unwrap();
    for key in keys(&writing).await {
        let bytes = fs::read(folder.path().join(&key)).unwrap();
        let shows = bytes.windows(4).any(|window| window == b"hush");
        assert!(!shows, "{key}");
    }
    let closed = load_into(Version::New, &local(folder.path()), &outcome.manifest).await;
    assert!(matches!(
        closed,
        Err(LoadError::Snapshot(RestoreError::Key(_)))
    ));
    let reading = local(folder.path()).with_keys(Keys::reading(vec![identity]).unwrap());
    let target = load_into(Version::New, &reading, &outcome.manifest)
        .await
        .unwrap();
    assert_eq!(target.value("SELECT count(*) FROM hushtable").await, "10");
}

#[tokio::test]
async fn the_databases_that_are_wanted_come_back_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let source = Source::make(Version::Old).await;
    let outcome = take(&source.server, &store, "snap").await.unwrap();
    let wanted = Some(vec!["latin".to_owned()]);
    let (target, loaded) = load_into_with(Version::Old, &store, &outcome.manifest, wanted)
        .await
        .unwrap();
    assert_eq!(
        (loaded.databases, loaded.tables, loaded.rows),
        (1, 1, 1_000)
    );
    let names = "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database";
    assert_eq!(
        target.value(names).await,
        "latin postgres template0 template1"
    );
    assert_eq!(
        target
            .value("SELECT count(*) FROM pg_roles WHERE rolname IN ('reader', 'päge')")
            .await,
        "2"
    );
    assert_eq!(
        target
            .value_in("latin", "SHOW default_transaction_read_only")
            .await,
        "on"
    );
    assert_eq!(
        target
            .value_in("latin", "SELECT count(*) FROM \"é\".\"größe\"")
            .await,
        "1000"
    );
}

/// A standby sees all databases at exactly one point, replays on, and leaves what it cannot read to the primary.
#[tokio::test]
async fn a_standby_is_read_at_one_point_and_replays_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let primary = small_server().await;
    primary.sql_by_socket("CREATE DATABASE other").await;
    primary
        .sql_in("other", "CREATE TABLE t AS SELECT 1 AS a")
        .await;
    let base = snapshots::take(request(&primary, &store, "base"))
        .await
        .unwrap();
    let settings = let_follow(&primary).await;
    let standby = standby_of(&store, &base, Version::New, &settings).await;
    let outcome = take(&standby, &store, "rows").await.unwrap();
    assert!(outcome.logical.as_ref().unwrap().is_one_point);
    assert_eq!(outcome.start_lsn, outcome.stop_lsn);
    assert!(!pause_note(&standby.data).exists());
    primary.sql_in("other", "INSERT INTO t VALUES (2)").await;
    let since = std::time::Instant::now();
    while standby.value_in("other", "SELECT count(*) FROM t").await != "2" {
        assert!(since.elapsed().as_secs() < 30, "replay does not go on");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let read = manifest::read(&store, &outcome.manifest).await.unwrap();
    assert!(read.from_standby && read.logical.unwrap().tables == 2);
    let target = load_into(Version::New, &store, &outcome.manifest)
        .await
        .unwrap();
    assert_eq!(target.value("SELECT count(*) FROM kept").await, "20000");
    assert_eq!(
        target.value_in("other", "SELECT count(*) FROM t").await,
        "1"
    );
    primary
        .sql_in("other", "CREATE UNLOGGED TABLE fleeting (a int)")
        .await;
    standby
        .wait_for(
            "SELECT pg_last_wal_replay_lsn() = pg_last_wal_receive_lsn()",
            "t",
        )
        .await;
    let since = std::time::Instant::now();
    loop {
        let error = match take(&standby, &store, "no").await {
            Err(error) => error,
            Ok(_) if since.elapsed().as_secs() < 30 => {
                delete(&store, "no").await.unwrap();
                continue;
            }
            Ok(_) => panic!("taken without what it cannot read"),
        };
        assert!(
            error.is_retryable() && error.to_string().contains("fleeting"),
            "{error}"
        );
        break;
    }
    let outcome = take(&primary, &store, "yes").await.unwrap();
    assert_eq!(outcome.logical.unwrap().tables, 3);
}

/// Two databases that are written side by side, in one transaction each time: what comes back of both is of one moment.
#[tokio::test]
async fn databases_are_seen_at_one_point_while_they_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let source = Server::create(Version::New, "md5").await;
    source.configure("max_prepared_transactions = 4");
    let mut source = source;
    source.stop("fast");
    source.start().await;
    for name in ["one", "two"] {
        source
            .sql_by_socket(&format!("CREATE DATABASE {name}"))
            .await;
        source.sql_in(name, "CREATE TABLE t (a int)").await;
    }
    let stop = CancellationToken::new();
    let writing = async {
        let mut count = 0;
        while !stop.is_cancelled() {
            // A transaction in the second follows that in the first: a point has as many in both, or one more in the first.
            for name in ["one", "two"] {
                source
                    .sql_in(name, &format!("INSERT INTO t VALUES ({count})"))
                    .await;
            }
            count += 1;
        }
        count
    };
    let taking = async {
        let outcome = take(&source, &store, "rows").await;
        stop.cancel();
        outcome
    };
    let (outcome, written) = tokio::join!(taking, writing);
    let outcome = outcome.unwrap();
    assert!(outcome.logical.unwrap().is_one_point && written > 0);
    let target = load_into(Version::New, &store, &outcome.manifest)
        .await
        .unwrap();
    let one: i64 = target
        .value_in("one", "SELECT count(*) FROM t")
        .await
        .parse()
        .unwrap();
    let two: i64 = target
        .value_in("two", "SELECT count(*) FROM t")
        .await
        .parse()
        .unwrap();
    assert!(one - two == 0 || one - two == 1, "{one} {two}");
}

/// Rows that a snapshot would not see any more are no empty table.
#[tokio::test]
async fn a_closed_database_is_an_error_and_not_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let source = small_server().await;
    source
        .sql_by_socket("CREATE DATABASE shut ALLOW_CONNECTIONS false")
        .await;
    let error = take(&source, &store, "rows").await.unwrap_err();
    assert!(matches!(&error, BackupError::Logical(_)) && !error.is_retryable());
    assert!(
        error.to_string().contains("\"shut\" allows no connections"),
        "{error}"
    );
}

/// A table that is emptied between the snapshot and the lock would look as if it had been empty; the attempt fails instead.
#[tokio::test]
async fn a_table_that_is_rewritten_as_it_begins_is_no_empty_table() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let source = small_server().await;
    let holder = source.client("postgres").await;
    holder
        .batch_execute("BEGIN; LOCK TABLE kept IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let emptying = async {
        // Its snapshot is there, and it waits for the lock.
        source
            .wait_for("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'kubedb snapshot' AND wait_event_type = 'Lock'", "1")
            .await;
        holder.batch_execute("TRUNCATE kept; COMMIT").await.unwrap();
    };
    let (error, ()) = tokio::join!(take(&source, &store, "rows"), emptying);
    let error = error.unwrap_err();
    assert!(
        error.is_retryable() && error.to_string().contains("public.kept"),
        "{error}"
    );
    assert!(take(&source, &store, "again").await.is_ok());
}

/// What an extension has made comes back by its own script, and what a user has put into its tables as the extension says.
#[tokio::test]
async fn tables_of_extensions_come_back_with_the_rows_of_the_user() {
    let share = Version::Old
        .bin()
        .await
        .join("../share/postgresql/extension");
    let files = [
        (
            "kubedb_trial.control",
            "default_version = '1'\nrelocatable = false\nschema = public\n",
        ),
        (
            "kubedb_trial--1.sql",
            "CREATE TABLE trial_kinds (id int PRIMARY KEY, own boolean);\nINSERT INTO trial_kinds VALUES (1, true);\n\
             CREATE TABLE trial_refers (kind int REFERENCES trial_kinds);\nCREATE TABLE trial_cache (a int);\nCREATE SEQUENCE trial_seq;\n\
             SELECT pg_catalog.pg_extension_config_dump('trial_refers', '');\nSELECT pg_catalog.pg_extension_config_dump('trial_kinds', 'WHERE NOT own');\n\
             SELECT pg_catalog.pg_extension_config_dump('trial_seq', '');\n",
        ),
    ];
    for (name, text) in files {
        fs::write(share.join(name), text).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let source = Server::create(Version::Old, "md5").await;
    source
        .sql_by_socket(
            "CREATE EXTENSION kubedb_trial; INSERT INTO trial_kinds VALUES (2, false), (3, false); INSERT INTO trial_refers VALUES (1), (3);
             INSERT INTO trial_cache VALUES (7); SELECT nextval('trial_seq'), nextval('trial_seq')",
        )
        .await;
    let outcome = take(&source, &store, "rows").await.unwrap();
    let target = load_into(Version::Old, &store, &outcome.manifest)
        .await
        .unwrap();
    for (query, wanted) in [
        (
            "SELECT string_agg(id::text, ' ' ORDER BY id) FROM trial_kinds",
            "1 2 3",
        ),
        (
            "SELECT string_agg(kind::text, ' ' ORDER BY kind) FROM trial_refers",
            "1 3",
        ),
        ("SELECT count(*) FROM trial_cache", "0"),
        ("SELECT last_value FROM trial_seq", "2"),
    ] {
        assert_eq!(target.value(query).await, wanted, "{query}");
    }
}
