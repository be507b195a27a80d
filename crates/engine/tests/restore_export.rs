//! Snapshots as base backups, verified by PostgreSQL's own tool.

#![allow(clippy::unwrap_used)]

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Command, Output},
};

use kubedb_engine::{
    backup::{BackupOutcome, BackupProgress},
    restore::{self, Ground, RestoreRequest},
    store::Store,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

mod servers;
mod snapshots;

use servers::{Server, Version, hand_over};
use snapshots::{dialect, local, request, take};

/// pg_verifybackup runs as anybody, and finds pg_waldump beside it.
fn verify(data: &Path) -> Output {
    Command::new("/usr/lib/postgresql/15/bin/pg_verifybackup")
        .arg(data)
        .output()
        .unwrap()
}

async fn export(
    store: &Store,
    outcome: &BackupOutcome,
    version: Version,
    data: &Path,
    ground: Ground,
) -> bool {
    let request = RestoreRequest {
        store: store.clone(),
        manifest: outcome.manifest.clone(),
        data_folder: data.to_owned(),
        dialect: dialect(version),
        postgres_version: version.number().to_owned(),
        threads: 2,
    };
    let (progress, _) = watch::channel(BackupProgress::default());
    let cancel = CancellationToken::new();
    let written = restore::write(request, ground, progress, cancel).await;
    let written = written.unwrap();
    let has_manifest = written.add_backup_manifest().await.unwrap();
    written.complete().await.unwrap();
    has_manifest
}

/// A database with a tablespace and changes between its Snapshots.
async fn two_snapshots(server: &Server, store: &Store) -> BackupOutcome {
    server.make_tablespace().await;
    server
        .sql_by_socket(
            "CREATE TABLE kept AS SELECT i, md5(i::text) AS t FROM generate_series(1, 20000) i;
             CREATE TABLE wide TABLESPACE space AS TABLE kept;
             CREATE UNLOGGED TABLE scratch AS TABLE kept",
        )
        .await;
    server.sql_by_socket("CHECKPOINT").await;
    take(request(server, store, "first")).await.unwrap();
    server
        .sql_by_socket("UPDATE kept SET t = 'x' WHERE i % 1000 = 0")
        .await;
    take(request(server, store, "second")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pg_verifybackup_accepts_an_exported_snapshot_and_sees_what_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let server = Server::create(Version::New, "md5").await;
    let outcome = two_snapshots(&server, &store).await;
    let mut copy = Server::empty(Version::New).await;
    let data = copy.data.clone();
    assert!(export(&store, &outcome, Version::New, &data, Ground::Empty).await);
    let verified = verify(&data);
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(verified.status.success(), "{said}");
    // It is the tool that says so, and not because it looks at nothing.
    let path = "pg_tblspc/16384";
    assert!(data.join(path).exists());
    let spoilt = data.join("base/1/1259");
    let byte = |byte: u8| {
        let file = File::options().write(true).open(&spoilt).unwrap();
        file.write_all_at(&[byte], 5_000).unwrap();
    };
    let before = fs::read(&spoilt).unwrap()[5_000];
    byte(before ^ 1);
    let refused = verify(&data);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("base/1/1259"),
        "{said}"
    );
    byte(before);
    fs::write(data.join("base/1/stranger"), "x").unwrap();
    assert!(!verify(&data).status.success());
    fs::remove_file(data.join("base/1/stranger")).unwrap();
    assert!(verify(&data).status.success());

    copy.start().await;
    copy.wait_for("SELECT pg_is_in_recovery()", "f").await;
    let counted =
        "SELECT (SELECT count(*) FROM kept WHERE t = 'x') || ' ' || (SELECT count(*) FROM wide)";
    assert_eq!(copy.value(counted).await, "20 20000");
    // What is restored into such a folder later has none of it.
    copy.stop("fast");
    let again = Ground::Existing(restore::Terms::default());
    export(&store, &outcome, Version::New, &data, again).await;
    assert!(verify(&data).status.success());
    hand_over(copy.folder());
    snapshots::assert_kept(&{
        copy.start().await;
        copy
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exported_snapshot_of_9_6_starts_without_a_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let server = Server::create(Version::Old, "md5").await;
    let outcome = two_snapshots(&server, &store).await;
    let mut copy = Server::empty(Version::Old).await;
    let data = copy.data.clone();
    assert!(!export(&store, &outcome, Version::Old, &data, Ground::Empty).await);
    assert!(!data.join("backup_manifest").exists());
    copy.start().await;
    copy.wait_for("SELECT pg_is_in_recovery()", "f").await;
    snapshots::assert_kept(&copy).await;
}
