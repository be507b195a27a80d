//! Taking and restoring Snapshots of test servers.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{fs, path::Path};

use jiff::Timestamp;
use kubedb_core::effort::{Effort, Limits};
use kubedb_engine::{
    backup::{self, BackupError, BackupOutcome, BackupProgress, BackupRequest, Extent},
    postgres::dialect::{PgDialect, RecoveryFiles},
    repository::{DeleteError, delete_snapshot},
    restore::{self, RestoreError, RestoreRequest, RestoredCluster},
    store::{Credentials, Location, Store},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::servers::{Server, Version};

pub(crate) fn local(folder: &Path) -> Store {
    let folder = folder.to_owned();
    Store::open(&Location::Local { folder }, &Credentials::new()).unwrap()
}

pub(crate) fn dialect(version: Version) -> PgDialect {
    PgDialect::of(version.number()).unwrap()
}

/// A request for the first attempt at `demo/pg`'s Snapshot of this name. The uid follows from the name.
pub(crate) fn request(server: &Server, store: &Store, snapshot: &str) -> BackupRequest {
    let mut connection = tokio_postgres::Config::new();
    connection
        .host_path(server.folder())
        .port(server.port)
        .user("postgres")
        .dbname("postgres");
    BackupRequest {
        store: store.clone(),
        namespace: "demo".to_owned(),
        database: "pg".to_owned(),
        snapshot: snapshot.to_owned(),
        snapshot_uid: uid(snapshot),
        attempt: 1,
        lineage: "b5ad6a0e-6f1c-4b0c-9a7c-2c4f7c7f0a11".to_owned(),
        data_folder: server.data.clone(),
        connection,
        dialect: dialect(server.version),
        postgres_version: server.version.number().to_owned(),
        minimum_lsn: None,
        effort: Effort::within(&Limits::default(), 2),
        started: Timestamp::now(),
    }
}

pub(crate) fn uid(snapshot: &str) -> String {
    hex::encode(snapshot)
}

pub(crate) async fn take(request: BackupRequest) -> Result<BackupOutcome, BackupError> {
    let (progress, _) = watch::channel(BackupProgress::default());
    backup::take(request, progress, CancellationToken::new()).await
}

pub(crate) async fn restore_into(
    folder: &Path,
    version: Version,
    store: &Store,
    manifest: &str,
) -> Result<RestoredCluster, RestoreError> {
    let request = RestoreRequest {
        store: store.clone(),
        manifest: manifest.to_owned(),
        data_folder: folder.to_owned(),
        dialect: dialect(version),
        postgres_version: version.number().to_owned(),
        threads: 2,
    };
    let (progress, told) = watch::channel(BackupProgress::default());
    let restored = restore::fetch(request, progress, CancellationToken::new()).await;
    if let Ok(restored) = &restored {
        let told = *told.borrow();
        assert_eq!(told.done_bytes, restored.database_bytes);
        assert_eq!(told.total_bytes, restored.database_bytes);
    }
    restored
}

/// Restores, starts a server in standby mode, and waits until it has replayed to the Snapshot's stop. `settings` are added to its recovery's.
pub(crate) async fn standby_of(
    store: &Store,
    outcome: &BackupOutcome,
    version: Version,
    settings: &str,
) -> Server {
    let mut server = Server::empty(version).await;
    let restored = restore_into(&server.data, version, store, &outcome.manifest)
        .await
        .unwrap();
    assert_eq!(restored.stop_lsn, outcome.stop_lsn);
    assert_eq!(restored.start_lsn, outcome.start_lsn);
    assert_eq!(restored.system_identifier, outcome.system_identifier);
    assert_eq!(restored.database_bytes, outcome.database_bytes);
    for unwanted in [
        "postmaster.pid",
        "standby.signal",
        "recovery.conf",
        "recovery.signal",
    ] {
        assert!(!server.data.join(unwanted).exists(), "{unwanted}");
    }
    let trigger = format!("'{}'", server.folder().join("promote").display());
    match dialect(version).recovery_files() {
        RecoveryFiles::RecoveryConf => {
            let text = format!("standby_mode = on\ntrigger_file = {trigger}\n{settings}\n");
            fs::write(server.data.join("recovery.conf"), text).unwrap();
        }
        RecoveryFiles::SignalFile => {
            let promotion = if server.has_promote_trigger_file() {
                format!("promote_trigger_file = {trigger}")
            } else {
                String::new()
            };
            server.configure(&format!("{promotion}\n{settings}"));
            fs::write(server.data.join("standby.signal"), "").unwrap();
        }
    }
    server.start().await;
    let lsn = dialect(version).replay_lsn();
    let reached = format!("SELECT ({lsn})::pg_lsn >= '{}'", outcome.stop_lsn);
    server.wait_for(&reached, "t").await;
    server
}

pub(crate) async fn promote(server: &Server) {
    if server.has_promote_trigger_file() {
        fs::write(server.folder().join("promote"), "").unwrap();
    } else {
        server.value("SELECT pg_promote(false)").await;
    }
    server.wait_for("SELECT pg_is_in_recovery()", "f").await;
}

/// A primary made from a Snapshot.
pub(crate) async fn primary_of(store: &Store, outcome: &BackupOutcome, version: Version) -> Server {
    let server = standby_of(store, outcome, version, "").await;
    promote(&server).await;
    server
}

/// Slots that the engine made and should have dropped.
pub(crate) async fn assert_lets_go(server: &Server) {
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'kubedb_snap%'";
    server.wait_for(slots, "0").await;
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%backup%' AND pid <> pg_backend_pid()";
    server.wait_for(sessions, "0").await;
}

/// A server with one table of 20 000 rows.
pub(crate) async fn small_server() -> Server {
    let server = Server::create(Version::New, "scram-sha-256").await;
    server
        .sql_by_socket(
            "CREATE TABLE kept AS SELECT i, md5(i::text) AS t FROM generate_series(1, 20000) i",
        )
        .await;
    server.sql_by_socket("CHECKPOINT").await;
    server
}

/// That table, in a copy.
pub(crate) async fn assert_kept(server: &Server) {
    assert_eq!(server.value("SELECT count(*) FROM kept").await, "20000");
}

pub(crate) async fn keys(store: &Store) -> Vec<String> {
    let listed = store.list("kubedb").await.unwrap();
    listed.into_iter().map(|found| found.key).collect()
}

pub(crate) async fn delete(store: &Store, snapshot: &str) -> Result<u64, DeleteError> {
    let deleted = delete_snapshot(store, "demo", "pg", snapshot, &uid(snapshot)).await;
    deleted.map(|deleted| deleted.objects)
}

/// Which Snapshot one refers to.
pub(crate) fn since(outcome: &BackupOutcome) -> &str {
    match &outcome.extent {
        Extent::Since { snapshot } => snapshot,
        Extent::Whole { reason } => panic!("whole: {reason}"),
    }
}

/// Why one refers to none.
pub(crate) fn why_whole(outcome: &BackupOutcome) -> &str {
    match &outcome.extent {
        Extent::Since { snapshot } => panic!("refers to {snapshot}"),
        Extent::Whole { reason } => reason,
    }
}

/// Lets standbys stream from a server, and gives the settings with which one does.
pub(crate) async fn let_follow(primary: &Server) -> String {
    let access = primary.data.join("pg_hba.conf");
    let old = fs::read_to_string(&access).unwrap();
    fs::write(&access, format!("local replication all trust\n{old}")).unwrap();
    primary.value("SELECT pg_reload_conf()").await;
    format!(
        "primary_conninfo = 'host={} port={} user=postgres'\nwal_receiver_status_interval = 1\n",
        primary.folder().display(),
        primary.port
    )
}
