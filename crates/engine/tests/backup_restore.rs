//! Snapshots of busy servers, restored and compared.

#![allow(clippy::unwrap_used)]

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use kubedb_core::lsn::Lsn;
use kubedb_engine::{
    backup::BackupOutcome,
    repository::{delete_snapshot, manifest},
    store::Store,
};

mod buckets;
mod servers;
mod snapshots;

use buckets::FakeGcs;
use servers::{Server, Version};
use snapshots::{
    assert_lets_go, let_follow, local, primary_of, promote, request, standby_of, take, uid,
};

const ACCOUNTS: u32 = 2_000;

/// Tables of every kind: plain with indexes, unlogged, in a tablespace, of several MB, and an empty one.
async fn fill(server: &Server) {
    server.make_tablespace().await;
    server
        .sql_by_socket(&format!(
            "CREATE TABLE account (id int PRIMARY KEY, amount bigint NOT NULL);
             INSERT INTO account SELECT i, 1000 FROM generate_series(1, {ACCOUNTS}) i;
             CREATE TABLE log (id bigserial PRIMARY KEY, text text);
             CREATE TABLE wide TABLESPACE space AS SELECT i, md5(i::text) AS text FROM generate_series(1, 100000) i;
             CREATE INDEX ON wide (text) TABLESPACE space;
             CREATE UNLOGGED TABLE scratch AS SELECT i FROM generate_series(1, 50000) i;
             CREATE TABLE nothing ()"
        ))
        .await;
    server.sql_by_socket("CREATE DATABASE other").await;
    server.sql_by_socket("CHECKPOINT").await;
}

/// Moves money between accounts until told to stop; the sum stays what it is. Tells how many transfers were made.
async fn transfer_until(server: &Server, stop: &AtomicBool) -> u64 {
    let mut made = 0;
    while !stop.load(Ordering::Relaxed) || made < 50 {
        made += 1;
        let (from, to) = (
            made % u64::from(ACCOUNTS) + 1,
            made * 7 % u64::from(ACCOUNTS) + 1,
        );
        let statements = format!(
            "BEGIN; UPDATE account SET amount = amount - 3 WHERE id = {from};
             UPDATE account SET amount = amount + 3 WHERE id = {to};
             INSERT INTO log (text) VALUES (repeat('x', 3000)); COMMIT"
        );
        server.sql_by_socket(&statements).await;
    }
    made
}

/// Takes a Snapshot while transfers are made.
async fn take_while_busy(server: &Server, store: &Store, snapshot: &str) -> BackupOutcome {
    let stop = Arc::new(AtomicBool::new(false));
    let backup = async {
        // The backup begins amid transfers.
        server.wait_for("SELECT count(*) > 10 FROM log", "t").await;
        let outcome = take(request(server, store, snapshot)).await;
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap()
    };
    let (outcome, made) = tokio::join!(backup, transfer_until(server, &stop));
    assert!(made >= 50);
    outcome
}

/// What must hold in any copy.
async fn assert_sound(copy: &Server) {
    let sum = format!("{}", u64::from(ACCOUNTS) * 1_000);
    assert_eq!(copy.value("SELECT sum(amount) FROM account").await, sum);
    assert_eq!(copy.value("SELECT count(*) FROM wide").await, "100000");
    assert_eq!(copy.value("SELECT count(*) FROM nothing").await, "0");
    // By the index alone, and by the table alone.
    let found = "SET enable_seqscan = off; SELECT i FROM wide WHERE text = md5('77777')";
    assert_eq!(copy.value(found).await, "77777");
    assert_eq!(
        copy.value("SELECT coalesce(max(id), 0) = count(*) FROM log WHERE text LIKE 'x%'")
            .await,
        "t"
    );
    let databases = "SELECT count(*) FROM pg_database WHERE datname = 'other'";
    assert_eq!(copy.value(databases).await, "1");
}

/// What must hold in a promoted copy: it can be written, and unlogged tables are empty.
async fn assert_usable(copy: &Server) {
    assert_sound(copy).await;
    assert_eq!(copy.value("SELECT count(*) FROM scratch").await, "0");
    copy.sql_by_socket("INSERT INTO log (text) VALUES ('after'); CREATE TABLE wide2 TABLESPACE space AS TABLE wide")
        .await;
    copy.sql_by_socket("CHECKPOINT").await;
    assert_eq!(copy.value("SELECT count(*) FROM wide2").await, "100000");
}

/// Every index agrees with its table, by PostgreSQL's own tool.
async fn assert_indexes(copy: &Server) {
    copy.sql_by_socket("CREATE EXTENSION amcheck").await;
    let checked = "SELECT count(bt_index_parent_check(c.oid, true)) FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE relkind = 'i' AND amname = 'btree' AND relpersistence = 'p'";
    copy.value(checked).await;
}

async fn lsn(server: &Server) -> Lsn {
    let query = snapshots::dialect(server.version).current_lsn();
    server.value(&query).await.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t21_t30_a_busy_primary_of_15_comes_back_from_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let server = Server::create(Version::New, "scram-sha-256").await;
    fill(&server).await;
    let before = lsn(&server).await;
    let outcome = take_while_busy(&server, &store, "snap").await;
    let after = lsn(&server).await;
    assert!(outcome.start_lsn >= before && outcome.stop_lsn > outcome.start_lsn);
    assert!(outcome.stop_lsn <= after && outcome.timeline == 1);
    assert!(
        outcome.stored_bytes < outcome.database_bytes / 2,
        "{outcome:?}"
    );
    assert!(outcome.read_bytes > 20 << 20, "{outcome:?}");
    assert_lets_go(&server).await;

    let manifest = manifest::read(&store, &outcome.manifest).await.unwrap();
    assert!(manifest.cluster.data_checksums && !manifest.from_standby);
    assert_eq!(manifest.cluster.settings["max_connections"], "40");
    assert_eq!(manifest.tablespaces.len(), 1);
    let collate = &manifest.cluster.locales[0].collate;
    assert_eq!(
        (collate.as_str(), manifest.cluster.major.as_str()),
        ("C", "15")
    );

    // Beside a living source: a copy that reached for the source's tablespace would be seen.
    let mut copy = primary_of(&store, &outcome, Version::New).await;
    assert_usable(&copy).await;
    assert_indexes(&copy).await;
    assert!(
        copy.folder()
            .join("tablespaces")
            .read_dir()
            .unwrap()
            .count()
            == 1
    );
    assert_sound(&server).await;
    // The copy goes on, over a restart too, and can be backed up on its new timeline.
    copy.stop("fast");
    copy.start().await;
    let again = take(request(&copy, &store, "snap-2")).await.unwrap();
    assert_eq!(again.timeline, 2);
    let manifest = manifest::read(&store, &again.manifest).await.unwrap();
    assert!(manifest.timeline_history.unwrap().starts_with("1\t"));
    let grandchild = primary_of(&store, &again, Version::New).await;
    assert_sound(&grandchild).await;
    assert_eq!(
        grandchild.value("SELECT count(*) FROM wide2").await,
        "100000"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t21_t30_a_busy_primary_of_9_6_comes_back_from_a_bucket() {
    let gcs = FakeGcs::start();
    let store = gcs.store("backups");
    let server = Server::create(Version::Old, "md5").await;
    fill(&server).await;
    let outcome = take_while_busy(&server, &store, "snap").await;
    assert_lets_go(&server).await;
    let copy = primary_of(&store, &outcome, Version::Old).await;
    assert_usable(&copy).await;
}

/// Without checksums, and with WAL in files of another size, which initdb takes since 11.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_of_another_make_come_back_as_they_were() {
    let makes: [(Version, &[&str], &str, &str); 3] = [
        (Version::Old, &[], "off", "16MB"),
        (
            Version::Of(11),
            &["--data-checksums", "--wal-segsize=1"],
            "on",
            "1MB",
        ),
        (
            Version::Of(18),
            &["--no-data-checksums", "--wal-segsize=64"],
            "off",
            "64MB",
        ),
    ];
    for (version, arguments, checksums, segment) in makes {
        let folder = tempfile::tempdir().unwrap();
        let store = local(folder.path());
        let server = Server::create_with(version, "md5", arguments).await;
        fill(&server).await;
        let outcome = take_while_busy(&server, &store, "snap").await;
        let manifest = manifest::read(&store, &outcome.manifest).await.unwrap();
        assert_eq!(manifest.cluster.data_checksums, checksums == "on");
        let copy = primary_of(&store, &outcome, version).await;
        assert_usable(&copy).await;
        assert_eq!(copy.value("SHOW data_checksums").await, checksums);
        let found = copy.value("SHOW wal_segment_size").await;
        assert_eq!(found, segment, "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t24_a_standby_is_backed_up_as_far_as_asked_and_on_new_timelines() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let primary = Server::create(Version::New, "scram-sha-256").await;
    fill(&primary).await;
    let first = take(request(&primary, &store, "first")).await.unwrap();
    let follow = let_follow(&primary).await;
    let standby = standby_of(&store, &first, Version::New, &follow).await;

    // What is written now is not in the standby yet, and must be in the Snapshot.
    transfer_until(&primary, &AtomicBool::new(true)).await;
    let mut asked = request(&standby, &store, "of-standby");
    asked.minimum_lsn = Some(lsn(&primary).await);
    let outcome = take(asked).await.unwrap();
    assert!(
        manifest::read(&store, &outcome.manifest)
            .await
            .unwrap()
            .from_standby
    );
    assert_lets_go(&standby).await;
    let copy = primary_of(&store, &outcome, Version::New).await;
    assert_usable(&copy).await;
    assert_indexes(&copy).await;

    promote(&standby).await;
    let outcome = take(request(&standby, &store, "promoted")).await.unwrap();
    assert_eq!(outcome.timeline, 2);
    let copy = primary_of(&store, &outcome, Version::New).await;
    assert_usable(&copy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_one_snapshot_leaves_the_others() {
    let gcs = FakeGcs::start();
    let store = gcs.store("");
    let server = Server::create(Version::New, "scram-sha-256").await;
    fill(&server).await;
    let first = take(request(&server, &store, "snap")).await.unwrap();
    let second = take(request(&server, &store, "snap-2")).await.unwrap();
    let all = store.list("kubedb").await.unwrap();
    let of = |snapshot: &'static str| delete_snapshot_of(&store, snapshot);

    let deleted = of("snap").await;
    let left = store.list("kubedb").await.unwrap();
    assert_eq!(deleted.objects as usize, all.len() - left.len());
    let bytes = |listed: &[kubedb_engine::store::Listed]| -> u64 {
        listed.iter().map(|found| found.bytes).sum()
    };
    assert_eq!(deleted.bytes, bytes(&all) - bytes(&left));
    // What is left of the first is what the second refers to.
    let needed = manifest::read(&store, &second.manifest).await.unwrap();
    let needed: Vec<String> = needed
        .packs
        .iter()
        .chain(&needed.maps)
        .map(|object| format!("kubedb/demo/pg/{}", object.key))
        .collect();
    let of_first = left
        .iter()
        .filter(|found| found.key.contains(&format!("/{}/", uid("snap"))));
    let of_first: Vec<_> = of_first.collect();
    assert!(!of_first.is_empty());
    assert!(of_first.iter().all(|found| needed.contains(&found.key)));
    let error = manifest::read(&store, &first.manifest).await.unwrap_err();
    assert!(error.to_string().contains(&first.manifest) && !error.is_retryable());
    assert_eq!(of("snap").await.objects, 0);

    let copy = primary_of(&store, &second, Version::New).await;
    assert_usable(&copy).await;
    of("snap-2").await;
    assert_eq!(store.list("kubedb").await.unwrap(), []);
}

async fn delete_snapshot_of(store: &Store, snapshot: &str) -> kubedb_engine::repository::Deleted {
    delete_snapshot(store, "demo", "pg", snapshot, &uid(snapshot))
        .await
        .unwrap()
}
