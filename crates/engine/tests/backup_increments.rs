//! Snapshots that refer to earlier ones, of real servers: each holds what a whole one would, whatever else is deleted.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use kubedb_engine::{
    backup::{BackupOutcome, Extent},
    store::Store,
};
use tempfile::TempDir;

mod buckets;
mod faults;
mod servers;
mod snapshots;

use servers::{Server, Version, hand_over};
use snapshots::{delete, keys, local, primary_of, request, restore_into, since, take, why_whole};

/// Rows of every table of a database, digested.
const DIGEST: &str = "SELECT string_agg(name || ' ' || rows, E'\\n' ORDER BY name) FROM (
    SELECT c.oid::regclass::text AS name, (xpath('//rows/text()', query_to_xml(format(
        'SELECT count(*) || '':'' || md5(coalesce(string_agg(md5(t::text), '''' ORDER BY md5(t::text)), '''')) AS rows FROM ONLY %s t', c.oid::regclass), false, true, '')))[1]::text AS rows
    FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE relkind = 'r' AND relpersistence = 'p' AND nspname = 'public') digest";

struct Scene {
    server: Server,
    folder: TempDir,
    store: Store,
    /// Where whole Snapshots go, to compare with.
    beside: TempDir,
}

impl Scene {
    async fn new(version: Version, arguments: &[&str]) -> Self {
        let method = if version == Version::Old {
            "md5"
        } else {
            "scram-sha-256"
        };
        let mut server = Server::create_with(version, method, arguments).await;
        // Between two Snapshots that are compared nothing may change by itself.
        server.configure("autovacuum = off\nbgwriter_lru_maxpages = 0\nfsync = off");
        server.stop("fast");
        server.start().await;
        let folder = tempfile::tempdir().unwrap();
        Self {
            server,
            store: local(folder.path()),
            folder,
            beside: tempfile::tempdir().unwrap(),
        }
    }

    async fn sql(&self, statements: &str) {
        self.server.sql_by_socket(statements).await;
    }

    async fn each(&self, statements: &[&str]) {
        for statement in statements {
            self.sql(statement).await;
        }
    }

    async fn filled(version: Version, arguments: &[&str]) -> Self {
        let scene = Self::new(version, arguments).await;
        let space = scene.server.folder().join("space");
        fs::create_dir(&space).unwrap();
        hand_over(scene.server.folder());
        scene
            .sql(&format!(
                "CREATE TABLESPACE space LOCATION '{}'",
                space.display()
            ))
            .await;
        scene
            .sql(
                "CREATE TABLE big AS SELECT i, md5(i::text) || md5((i * 7)::text) AS t, 0 AS n FROM generate_series(1, 150000) i;
                 CREATE UNIQUE INDEX ON big (i);
                 CREATE INDEX ON big (t);
                 CREATE TABLE spaced TABLESPACE space AS SELECT i, repeat('s', 100) AS t FROM generate_series(1, 30000) i;
                 CREATE TABLE emptied AS SELECT i, repeat('e', 100) AS t FROM generate_series(1, 20000) i;
                 CREATE TABLE moved AS SELECT i, repeat('m', 100) AS t FROM generate_series(1, 20000) i;
                 CREATE TABLE dropped AS SELECT i FROM generate_series(1, 20000) i;
                 CREATE TABLE tail AS SELECT i, repeat('x', 200) AS t FROM generate_series(1, 20000) i;
                 CREATE TABLE hidden (id serial, kept boolean); INSERT INTO hidden (kept) SELECT i % 100 > 0 FROM generate_series(1, 50000) i;
                 CREATE INDEX ON hidden (id);
                 CREATE INDEX ON moved USING hash (i)",
            )
            .await;
        scene
    }

    /// Takes a Snapshot, and a whole one beside it of the same state.
    async fn take(&self, name: &str) -> (BackupOutcome, BackupOutcome) {
        // Hints are set now, so that no session sets them between the two.
        self.sql("VACUUM").await;
        self.sql("CHECKPOINT").await;
        let outcome = take(request(&self.server, &self.store, name))
            .await
            .unwrap();
        let whole = take(request(&self.server, &self.beside(name), name))
            .await
            .unwrap();
        assert!(matches!(whole.extent, Extent::Whole { .. }));
        assert_eq!(outcome.database_bytes / 100, whole.database_bytes / 100);
        (outcome, whole)
    }

    fn beside(&self, name: &str) -> Store {
        local(&self.beside.path().join(name))
    }

    /// Restores both, compares them file by file, and lets one of them run: its rows are those that are given.
    async fn check(&self, name: &str, taken: &(BackupOutcome, BackupOutcome), rows: &str) {
        let place = tempfile::tempdir().unwrap();
        let (ours, whole) = (place.path().join("a/data"), place.path().join("b/data"));
        let version = self.server.version;
        restore_into(&ours, version, &self.store, &taken.0.manifest)
            .await
            .unwrap();
        restore_into(&whole, version, &self.beside(name), &taken.1.manifest)
            .await
            .unwrap();
        let (ours, whole) = (relations(&ours), relations(&whole));
        assert_eq!(different(&ours, &whole), [""; 0], "{name}");
        let copy = primary_of(&self.store, &taken.0, version).await;
        assert_eq!(copy.value(DIGEST).await, rows, "{name}");
        let indexed =
            "SET enable_seqscan = off; SELECT count(*) FROM hidden WHERE id BETWEEN 1 AND 50000";
        let scanned = "SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off; SELECT count(*) FROM hidden WHERE id BETWEEN 1 AND 50000";
        assert_eq!(
            copy.value(indexed).await,
            copy.value(scanned).await,
            "{name}"
        );
        if version != Version::Old {
            copy.sql_by_socket("CREATE EXTENSION amcheck").await;
            copy.value("SELECT count(bt_index_parent_check(c.oid, true)) FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE relkind = 'i' AND amname = 'btree' AND relpersistence = 'p'").await;
        }
    }

    async fn rows(&self) -> String {
        self.server.value(DIGEST).await
    }
}

/// All files of relations below a data folder and its tablespaces, by name.
fn relations(data: &Path) -> BTreeMap<String, PathBuf> {
    fn walk(folder: &Path, name: &str, into: &mut BTreeMap<String, PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{name}/{}", path.file_name().unwrap().to_str().unwrap());
            if path.is_dir() {
                walk(&path, &name, into);
            } else if !name.contains("pg_internal") && !name.ends_with("pg_control") {
                into.insert(name, path);
            }
        }
    }
    let mut found = BTreeMap::new();
    for folder in ["base", "global", "pg_tblspc"] {
        walk(&data.join(folder), folder, &mut found);
    }
    found
}

/// Pages that differ.
fn different(one: &BTreeMap<String, PathBuf>, other: &BTreeMap<String, PathBuf>) -> Vec<String> {
    let names: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let mut different = Vec::new();
    for name in names {
        let read =
            |files: &BTreeMap<String, PathBuf>| files.get(name).map(|path| fs::read(path).unwrap());
        let (Some(one), Some(other)) = (read(one), read(other)) else {
            different.push(format!("{name} is in one alone"));
            continue;
        };
        if one.len() != other.len() {
            different.push(format!("{name}: {} and {} bytes", one.len(), other.len()));
        }
        for (page, (a, b)) in one.chunks(8_192).zip(other.chunks(8_192)).enumerate() {
            if a != b {
                different.push(format!("{name}: page {page}"));
            }
        }
    }
    different
}

/// Three Snapshots amid changes of every kind; whichever are deleted, the others are what they were.
async fn changes_of_every_kind(version: Version, arguments: &[&str], sent_for_nothing: u64) {
    let scene = Scene::filled(version, arguments).await;
    let one = scene.take("one").await;
    assert_eq!(why_whole(&one.0), "there is no earlier Snapshot");
    let rows_of_one = scene.rows().await;

    scene
        .each(&[
            "INSERT INTO big SELECT i, md5(i::text), 1 FROM generate_series(150001, 152000) i",
            "UPDATE big SET n = n + 1 WHERE i % 5000 = 0",
            "DELETE FROM big WHERE i BETWEEN 70000 AND 70100",
            "DELETE FROM hidden WHERE id % 977 = 0",
            "TRUNCATE emptied",
            "INSERT INTO emptied SELECT i, 'again' FROM generate_series(1, 100) i",
            "DROP TABLE dropped",
            "CREATE TABLE made AS SELECT i FROM generate_series(1, 10000) i",
            "UPDATE spaced SET t = 'changed' WHERE i < 50",
            "DELETE FROM tail WHERE i > 9000",
            "SELECT nextval('hidden_id_seq')",
            "SET enable_seqscan = off; SELECT count(*) FROM moved WHERE i = 7",
            "DELETE FROM moved WHERE i = 7",
            "SET enable_seqscan = off; SELECT count(*) FROM moved WHERE i = 7",
            "INSERT INTO moved SELECT i, 'hash' FROM generate_series(20001, 21000) i",
            "CREATE DATABASE other",
        ])
        .await;
    let two = scene.take("two").await;
    assert_eq!(since(&two.0), "one");
    let rows_of_two = scene.rows().await;

    scene
        .each(&[
            "INSERT INTO tail SELECT i, repeat('y', 200) FROM generate_series(9001, 15000) i",
            "UPDATE big SET n = n + 1 WHERE i % 7000 = 0",
            "DELETE FROM hidden WHERE id % 991 = 0",
            "INSERT INTO moved SELECT i, 'hash' FROM generate_series(21001, 22000) i",
            "VACUUM FULL emptied",
            "ALTER TABLE made SET TABLESPACE space",
            "REINDEX TABLE big",
            "DROP DATABASE other",
            "SELECT nextval('hidden_id_seq')",
        ])
        .await;
    let three = scene.take("three").await;
    assert_eq!(since(&three.0), "two");
    let rows_of_three = scene.rows().await;

    scene.check("one", &one, &rows_of_one).await;
    delete(&scene.store, "one").await.unwrap();
    scene.check("two", &two, &rows_of_two).await;
    scene.check("three", &three, &rows_of_three).await;
    delete(&scene.store, "two").await.unwrap();
    scene.check("three", &three, &rows_of_three).await;
    // With nothing changed, next to nothing is sent.
    let again = take(request(&scene.server, &scene.store, "again"))
        .await
        .unwrap();
    assert_eq!(since(&again), "three");
    assert!(again.uploaded_bytes < sent_for_nothing, "{again:?}");
    assert!(again.stored_bytes > 4 << 20, "{again:?}");
    delete(&scene.store, "three").await.unwrap();
    let copy = primary_of(&scene.store, &again, version).await;
    assert_eq!(copy.value(DIGEST).await, rows_of_three);
    delete(&scene.store, "again").await.unwrap();
    assert_eq!(keys(&scene.store).await, [""; 0]);
    drop(scene.folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t16_t17_t18_snapshots_of_15_refer_to_each_other_and_live_alone() {
    changes_of_every_kind(Version::New, &["--data-checksums"], 400_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t16_t17_t18_snapshots_of_9_6_refer_to_each_other_and_live_alone() {
    changes_of_every_kind(Version::Old, &["--data-checksums"], 400_000).await;
}

/// Without checksums LSNs do not tell of hints, so stretches are compared by their hashes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t16_snapshots_without_checksums_are_compared_by_content() {
    changes_of_every_kind(Version::Of(13), &[], 2_000_000).await;
}
