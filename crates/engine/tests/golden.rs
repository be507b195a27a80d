//! Repositories as earlier programs wrote them, kept byte by byte: they are read, and deleted, for good.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use kubedb_engine::{
    backup::BackupProgress,
    postgres::dialect::PgDialect,
    repository::{delete_snapshot, manifest},
    restore::{self, RestoreRequest},
    store::{Credentials, Location, Store},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Written before Snapshots referred to each other: no required feature, and units that are stored alone.
#[tokio::test]
async fn a_repository_of_the_first_form_is_restored_and_deleted() {
    let place = tempfile::tempdir().unwrap();
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/first");
    let folder = place.path().join("bucket");
    copy(&golden, &folder);
    let store = Store::open(&Location::Local { folder }, &Credentials::new()).unwrap();
    let key = "kubedb/demo/pg/snapshots/snap/manifest-0001-7c1f.json";
    let read = manifest::read(&store, key).await.unwrap();
    assert_eq!(read.required_features, [""; 0]);
    let data = place.path().join("data");
    let request = RestoreRequest {
        store: store.clone(),
        manifest: key.to_owned(),
        data_folder: data.clone(),
        dialect: PgDialect::of("15").unwrap(),
        postgres_version: "15.18".to_owned(),
        threads: 1,
    };
    let (progress, _) = watch::channel(BackupProgress::default());
    restore::fetch(request, progress, CancellationToken::new())
        .await
        .unwrap();
    let file = |path: &str| fs::read(data.join(path)).unwrap();
    assert_eq!(file("PG_VERSION"), b"15\n");
    assert_eq!(file("backup_label"), b"START WAL LOCATION: 0/2000028\n");
    assert_eq!(file("base/1"), [7; 16_384]);
    assert_eq!(file("global/pg_control"), [1; 8_192]);
    delete_snapshot(&store, "demo", "pg", "snap", "7c1f")
        .await
        .unwrap();
    assert_eq!(store.list("kubedb").await.unwrap(), []);
}
