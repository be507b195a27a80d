//! What every store must do, asked of each kind; and what users are told when it does not.

#![allow(clippy::unwrap_used)]

use kubedb_engine::store::{Credentials, Location, Store};
use object_store::PutPayload;

mod buckets;
mod promises;
use buckets::{BUCKET, FakeGcs};
use promises::keeps_its_promises;

fn local(folder: &std::path::Path) -> Store {
    let folder = folder.join("a").join("b");
    Store::open(&Location::Local { folder }, &Credentials::new()).unwrap()
}

#[tokio::test]
async fn i04_t33_a_local_folder_keeps_its_promises() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    keeps_its_promises(&store).await;
    let made = std::fs::metadata(folder.path().join("a")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&made.permissions());
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn i04_t33_a_gcs_bucket_keeps_its_promises() {
    let server = FakeGcs::start();
    let store = server.store("some/prefix/");
    assert_eq!(store.label(), "gs:kubedb/some/prefix");
    keeps_its_promises(&store).await;
    // Another prefix of the same bucket is another store.
    assert!(
        server
            .store("some")
            .list("kubedb")
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_listing_of_many_pages_is_whole() {
    let server = FakeGcs::start();
    let store = server.store("");
    let names = (0..1_203).map(|number| format!("many/{number:05}"));
    let made = futures::StreamExt::buffer_unordered(
        futures::stream::iter(names.map(|name| {
            let store = store.clone();
            async move { store.create(&name, PutPayload::from_static(b"x")).await }
        })),
        16,
    );
    futures::TryStreamExt::try_collect::<()>(made)
        .await
        .unwrap();
    let listed = store.list("many").await.unwrap();
    assert_eq!(listed.len(), 1_203);
    assert_eq!(listed[1_202].key, "many/01202");
}

#[tokio::test]
async fn a_missing_bucket_is_said_and_not_tried_again() {
    let server = FakeGcs::start();
    let store = Store::open(&server.location("nowhere", ""), &Credentials::new()).unwrap();
    let expected = "failed to use store gs:nowhere: bucket \"nowhere\" does not exist in gs:nowhere; make it, or correct its name";
    let content = PutPayload::from_static(b"x");
    let large = PutPayload::from(vec![1; 9 << 20]);
    for error in [
        store.create("a", content).await.unwrap_err(),
        store.create("a", large).await.unwrap_err(),
        store.read("a", 10).await.unwrap_err(),
        store.list("a").await.unwrap_err(),
    ] {
        assert_eq!(error.to_string(), expected);
        assert!(!error.is_retryable());
    }
}

#[tokio::test]
async fn a_dead_server_is_unreachable_and_a_revived_one_is_not() {
    let mut server = FakeGcs::start();
    let store = server.store("p");
    store
        .create("a", PutPayload::from_static(b"x"))
        .await
        .unwrap();
    server.kill();
    let error = store.size("a").await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert!(error.to_string().contains("gs:kubedb/p"), "{error}");
    // It comes back while a request is being retried.
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.create("b", PutPayload::from_static(b"y")).await }
    });
    let server = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    });
    let _server = server.await.unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!(store.read("b", 1).await.unwrap(), "y");
}

#[tokio::test]
async fn locations_that_make_no_sense_are_refused_by_name() {
    let none = Credentials::new();
    let local = Location::Local {
        folder: "relative".into(),
    };
    let endpoint = |endpoint: &str| Location::Gcs {
        endpoint: Some(endpoint.to_owned()),
        bucket: BUCKET.to_owned(),
        prefix: None,
    };
    for (location, words) in [
        (local, "absolute path"),
        (endpoint("ftp://x"), "no http URL"),
        (endpoint("http://"), "no URL"),
    ] {
        let error = Store::open(&location, &none).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(!error.is_retryable());
    }
}
