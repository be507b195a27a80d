//! The promises of every store, kept by real servers of S3, Azure and Swift.

#![allow(clippy::unwrap_used)]

use kubedb_engine::store::{Credentials, Location, Store, StoreError};
use kubedb_stores::{
    azurite::{self, Azurite},
    keystone::{self, Keystone},
    minio::{self, Minio},
    swift::{self, Settings, Swift},
};
use object_store::PutPayload;

mod promises;
use promises::keeps_its_promises;

const BUCKET: &str = "kubedb";

fn secret(pairs: &[(&str, &str)]) -> Credentials {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()))
        .collect()
}

/// Another prefix is another store, and a bucket that is not there is said.
async fn keeps_apart(open: impl Fn(&str, &str) -> Store) {
    keeps_its_promises(&open(BUCKET, "some/prefix")).await;
    assert!(
        open(BUCKET, "some")
            .list("kubedb")
            .await
            .unwrap()
            .is_empty()
    );
    let nowhere = open("nowhere", "");
    let content = PutPayload::from_static(b"x");
    for error in [
        nowhere.create("a", content).await.unwrap_err(),
        nowhere.list("a").await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::MissingBucket { .. }), "{error}");
    }
}

#[tokio::test]
async fn i04_t33_an_s3_bucket_keeps_its_promises() {
    let folder = tempfile::tempdir().unwrap();
    let server = Minio::start(folder.path(), &[BUCKET]).unwrap();
    let (id, key) = minio::KEYS;
    let open = |id: &str, bucket: &str, prefix: &str| {
        // Files often end in a newline that is not part of a key.
        let id = format!("{id}\n");
        let credentials = secret(&[("AWS_ACCESS_KEY_ID", &id), ("AWS_SECRET_ACCESS_KEY", key)]);
        let location = Location::S3 {
            endpoint: Some(server.endpoint()),
            bucket: bucket.to_owned(),
            prefix: Some(prefix.to_owned()),
        };
        Store::open(&location, &credentials).unwrap()
    };
    keeps_apart(|bucket, prefix| open(id, bucket, prefix)).await;
    let refused = open("somebody", BUCKET, "").list("a").await.unwrap_err();
    assert!(matches!(refused, StoreError::Denied { .. }), "{refused}");
}

#[tokio::test]
async fn i04_t33_an_azure_container_keeps_its_promises() {
    let folder = tempfile::tempdir().unwrap();
    let server = Azurite::start(folder.path(), &[BUCKET]).unwrap();
    let (account, key) = azurite::ACCOUNT;
    let open = |key: &str, container: &str, prefix: &str| {
        let credentials = secret(&[("AZURE_ACCOUNT_NAME", account), ("AZURE_ACCOUNT_KEY", key)]);
        let location = Location::Azure {
            endpoint: Some(server.endpoint()),
            container: container.to_owned(),
            prefix: Some(prefix.to_owned()),
        };
        Store::open(&location, &credentials).unwrap()
    };
    keeps_apart(|container, prefix| open(key, container, prefix)).await;
    let refused = open("d3Jvbmc=", BUCKET, "").list("a").await.unwrap_err();
    assert!(matches!(refused, StoreError::Denied { .. }), "{refused}");
}

fn swift(credentials: &Credentials, container: &str, prefix: &str) -> Store {
    let location = Location::Swift {
        container: container.to_owned(),
        prefix: Some(prefix.to_owned()),
    };
    Store::open(&location, credentials).unwrap()
}

#[tokio::test]
async fn i04_t33_a_swift_container_keeps_its_promises() {
    let folder = tempfile::tempdir().unwrap();
    let server = Swift::start(folder.path(), &[BUCKET], Settings::default()).unwrap();
    let (address, (user, key)) = (server.auth_address(), swift::USER);
    let user = [("ST_AUTH", &*address), ("ST_USER", user)];
    let credentials = secret(&[user[0], user[1], ("ST_KEY", key)]);
    keeps_apart(|container, prefix| swift(&credentials, container, prefix)).await;

    let wrong = secret(&[user[0], user[1], ("ST_KEY", "wrong")]);
    let refused = swift(&wrong, BUCKET, "").list("a").await.unwrap_err();
    assert!(matches!(refused, StoreError::Denied { .. }), "{refused}");

    // A token that somebody else fetched works while it lives, and no other can be fetched.
    let (path, token) = server.log_in().unwrap();
    let storage = format!("{}{path}", server.address());
    let given = |token: &str| secret(&[("OS_STORAGE_URL", &storage), ("OS_AUTH_TOKEN", token)]);
    let listed = swift(&given(&token), BUCKET, "some/prefix")
        .list("kubedb")
        .await;
    assert_eq!(listed.unwrap().len(), 5);
    let refused = swift(&given("AUTH_tkold"), BUCKET, "")
        .list("a")
        .await
        .unwrap_err();
    assert!(matches!(refused, StoreError::Denied { .. }), "{refused}");
}

#[tokio::test]
async fn a_full_container_is_said_to_be_full() {
    let folder = tempfile::tempdir().unwrap();
    let server = Swift::start(folder.path(), &[BUCKET], Settings::default()).unwrap();
    server.limit(BUCKET, 1_000).unwrap();
    let (address, (user, key)) = (server.auth_address(), swift::USER);
    let credentials = secret(&[("ST_AUTH", &address), ("ST_USER", user), ("ST_KEY", key)]);
    let store = swift(&credentials, BUCKET, "");
    let refused = store
        .create("large", PutPayload::from(vec![7; 1_001]))
        .await
        .unwrap_err();
    assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
    assert!(store.list("").await.unwrap().is_empty());
}

#[tokio::test]
async fn keystone_opens_swift_and_a_token_that_ends_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let keys = Keystone::start(folder.path(), 12).unwrap();
    let settings = Settings {
        keystone: Some(&keys),
        ..Settings::default()
    };
    let server = Swift::start(folder.path(), &[BUCKET], settings).unwrap();
    let address = keys.auth_address();
    let login = |project: &str, region: &str| {
        secret(&[
            ("OS_AUTH_URL", &address),
            ("OS_USERNAME", keystone::USER),
            ("OS_PASSWORD", keystone::PASSWORD),
            ("OS_USER_DOMAIN_NAME", keystone::DOMAIN),
            ("OS_PROJECT_NAME", project),
            ("OS_PROJECT_DOMAIN_NAME", keystone::DOMAIN),
            ("OS_REGION_NAME", region),
        ])
    };
    let right = login(keystone::PROJECT, keystone::REGION);
    let store = swift(&right, BUCKET, "through");
    let content = PutPayload::from_static(b"x");
    store.create("before", content.clone()).await.unwrap();
    // A token that is younger than the store's: when it has ended, so has that.
    let (token, account) = (keys.token().unwrap(), keys.account().unwrap());
    let storage = format!("{}/v1/{account}", server.address());
    let younger = secret(&[("OS_STORAGE_URL", &storage), ("OS_AUTH_TOKEN", &token)]);
    let younger = swift(&younger, BUCKET, "through");
    assert_eq!(younger.list("").await.unwrap().len(), 1);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while younger.list("").await.is_ok() {
        assert!(std::time::Instant::now() < end, "the token never ends");
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    store.create("after", content).await.unwrap();
    assert_eq!(store.list("").await.unwrap().len(), 2);
    for (credentials, words) in [
        (login("nobodys", keystone::REGION), "401"),
        (login(keystone::PROJECT, "elsewhere"), "there are here"),
    ] {
        let refused = swift(&credentials, BUCKET, "").list("a").await.unwrap_err();
        assert!(matches!(refused, StoreError::Denied { .. }), "{refused}");
        assert!(refused.to_string().contains(words), "{refused}");
    }
}
