//! What every store must do, asked of each kind; and what users are told when it does not.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use kubedb_engine::store::{Credentials, Location, Store, StoreError};
use object_store::PutPayload;

mod buckets;
use buckets::{BUCKET, FakeGcs};

fn local(folder: &std::path::Path) -> Store {
    let folder = folder.join("a").join("b");
    Store::open(&Location::Local { folder }, &Credentials::new()).unwrap()
}

/// The same promises for every kind of store.
async fn keeps_its_promises(store: &Store) {
    let limit = 64 << 20;
    assert!(store.list("kubedb").await.unwrap().is_empty());
    assert!(
        store
            .read("kubedb/x", limit)
            .await
            .unwrap_err()
            .is_not_found()
    );
    assert!(store.size("kubedb/x").await.unwrap_err().is_not_found());
    store.delete("kubedb/x").await.unwrap();

    // Empty, small, just one part, and many parts with an odd end, each in several pieces.
    let pattern: Vec<u8> = (0..=250_u8).cycle().take((20 << 20) + 12_345).collect();
    let pattern = Bytes::from(pattern);
    for bytes in [0, 7, 8 << 20, (8 << 20) + 1, pattern.len()] {
        let key = format!("kubedb/ns/db/packs/{bytes}");
        let pieces: PutPayload = [
            pattern.slice(0..bytes / 3),
            pattern.slice(bytes / 3..bytes / 2),
            pattern.slice(bytes / 2..bytes),
        ]
        .into_iter()
        .collect();
        store.create(&key, pieces.clone()).await.unwrap();
        assert_eq!(
            store.read(&key, limit).await.unwrap(),
            pattern.slice(0..bytes)
        );
        assert_eq!(store.size(&key).await.unwrap(), bytes as u64);
        // Once more with the same bytes: an answer that was lost on its way.
        store.create(&key, pieces).await.unwrap();
        let other = store.create(&key, PutPayload::from_static(b"other")).await;
        assert!(
            matches!(other, Err(StoreError::Conflict { .. })),
            "{other:?}"
        );
        assert_eq!(store.size(&key).await.unwrap(), bytes as u64);
    }
    let large = format!("kubedb/ns/db/packs/{}", pattern.len());
    let middle = store
        .read_range(&large, 9_000_000..9_000_100)
        .await
        .unwrap();
    assert_eq!(middle, pattern.slice(9_000_000..9_000_100));
    assert!(matches!(
        store.read(&large, 100).await,
        Err(StoreError::TooLarge { limit: 100, .. })
    ));

    // A folder is a folder and not the beginning of a name.
    let small = PutPayload::from_static(b"1");
    store
        .create("kubedb/ns/db-2/x y+z%2F", small.clone())
        .await
        .unwrap();
    let listed = store.list("kubedb/ns/db").await.unwrap();
    assert_eq!(listed.len(), 5, "{listed:?}");
    assert!(
        listed
            .iter()
            .all(|found| found.key.starts_with("kubedb/ns/db/packs/"))
    );
    assert!(listed.is_sorted_by(|a, b| a.key < b.key));
    let listed = store.list("kubedb/ns/db-2").await.unwrap();
    assert_eq!((listed.len(), listed[0].bytes), (1, 1));
    assert_eq!(store.read(&listed[0].key, 10).await.unwrap(), "1");

    store.delete(&large).await.unwrap();
    store.delete(&large).await.unwrap();
    assert!(store.size(&large).await.unwrap_err().is_not_found());
    assert_eq!(store.list("kubedb/ns/db").await.unwrap().len(), 4);
}

#[tokio::test]
async fn a_local_folder_keeps_its_promises() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    keeps_its_promises(&store).await;
    let made = std::fs::metadata(folder.path().join("a")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&made.permissions());
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn a_gcs_bucket_keeps_its_promises() {
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
    let expected =
        "failed to use store gs:nowhere: bucket \"nowhere\" does not exist in gs:nowhere";
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

/// Wants moto's server on the path and is run by hand: `cargo test -p kubedb-engine --test stores -- --ignored`.
#[tokio::test]
#[ignore = "needs moto_server, which the test command does not install"]
async fn an_s3_bucket_keeps_its_promises() {
    let port = std::net::TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .unwrap()
        .port();
    let mut server = std::process::Command::new("moto_server")
        .args(["-H", "127.0.0.1", "-p", &port.to_string()])
        .spawn()
        .unwrap();
    let endpoint = format!("http://127.0.0.1:{port}");
    let client = reqwest::Client::new();
    let mut made = None;
    for _ in 0..200 {
        made = client.put(format!("{endpoint}/kubedb")).send().await.ok();
        if made.is_some() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let credentials = Credentials::from([
        ("AWS_ACCESS_KEY_ID".to_owned(), b"key\n".to_vec()),
        ("AWS_SECRET_ACCESS_KEY".to_owned(), b"secret".to_vec()),
    ]);
    let open = |bucket: &str| {
        let location = Location::S3 {
            endpoint: Some(endpoint.clone()),
            bucket: bucket.to_owned(),
            prefix: Some("p".to_owned()),
        };
        Store::open(&location, &credentials).unwrap()
    };
    let kept = tokio::spawn({
        let store = open(BUCKET);
        async move { keeps_its_promises(&store).await }
    });
    let kept = kept.await;
    let missing = open("nowhere")
        .create("a", PutPayload::from_static(b"x"))
        .await;
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(made.is_some_and(|made| made.status().is_success()));
    kept.unwrap();
    assert!(
        matches!(missing, Err(StoreError::MissingBucket { .. })),
        "{missing:?}"
    );
}
