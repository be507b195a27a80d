//! A volume that one process serves to another, as a pod does on Kubernetes.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, time::Duration};

use kubedb_agent::served::serve;
use kubedb_api::{
    agent_config::VolumeTask,
    storage::{LocalStorage, SnapshotStorage},
};
use kubedb_engine::store::{
    Credentials, Location, PutPayload, Store, StoreError,
    served::{AUTHORITY_KEY, CERTIFICATE_KEY, PRIVATE_KEY},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

#[allow(dead_code)]
#[path = "../../engine/tests/promises/mod.rs"]
mod promises;

/// A volume that is served to database `db` of namespace `ns`.
struct Pod {
    folder: tempfile::TempDir,
    certificates: tempfile::TempDir,
    endpoint: String,
    server: JoinHandle<()>,
    stop: CancellationToken,
}

/// Makes an authority, puts what the server needs into its folder, and returns what clients need.
fn certify(folder: &Path) -> Credentials {
    let root_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let root = params.self_signed(&root_key).unwrap().pem();
    let issuer = Issuer::new(params, root_key);
    let sign = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        (certificate, key.serialize_pem())
    };
    let (certificate, key) = sign("localhost");
    fs::write(folder.join("ca.crt"), &root).unwrap();
    fs::write(folder.join("tls.crt"), certificate).unwrap();
    fs::write(folder.join("tls.key"), key).unwrap();
    let (certificate, key) = sign("db.kubedb");
    Credentials::from([
        (AUTHORITY_KEY.to_owned(), root.into_bytes()),
        (CERTIFICATE_KEY.to_owned(), certificate.into_bytes()),
        (PRIVATE_KEY.to_owned(), key.into_bytes()),
    ])
}

impl Pod {
    async fn start() -> (Self, Store) {
        let folder = tempfile::tempdir().unwrap();
        let certificates = tempfile::tempdir().unwrap();
        let credentials = certify(certificates.path());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!(
            "https://localhost:{}",
            listener.local_addr().unwrap().port()
        );
        let local = LocalStorage {
            mount_path: Some(folder.path().display().to_string()),
            sub_path: Some("a/b".to_owned()),
            ..LocalStorage::default()
        };
        let task = VolumeTask {
            namespace: "ns".to_owned(),
            database: "db".to_owned(),
            storage: SnapshotStorage {
                local: Some(Box::new(local)),
                ..SnapshotStorage::default()
            },
        };
        let stop = CancellationToken::new();
        let (shutdown, secret) = (stop.clone(), certificates.path().to_owned());
        let server = tokio::spawn(async move {
            serve(&task, listener, &secret, shutdown).await.unwrap();
        });
        let pod = Self {
            folder,
            certificates,
            endpoint,
            server,
            stop,
        };
        let store = pod.store(&credentials);
        (pod, store)
    }

    fn store(&self, credentials: &Credentials) -> Store {
        let place = Location::Served {
            endpoint: self.endpoint.clone(),
            label: "local:/backup".to_owned(),
        };
        Store::open(&place, credentials).unwrap()
    }

    async fn stop(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(20), self.server).await;
        ended.unwrap().unwrap();
    }
}

#[tokio::test]
async fn i04_t33_a_served_volume_keeps_its_promises() {
    let (pod, store) = Pod::start().await;
    store.knock().await.unwrap();
    assert_eq!(store.label(), "local:/backup");
    promises::keeps_its_promises_within(&store, "kubedb/ns", "kubedb/ns/db/a").await;
    pod.stop().await;
}

#[tokio::test]
async fn a_listing_of_many_lines_is_whole_and_says_when() {
    let (pod, store) = Pod::start().await;
    let below = pod.folder.path().join("a/b/kubedb/ns/db/many");
    fs::create_dir_all(&below).unwrap();
    for number in 0..1_203 {
        fs::write(below.join(format!("{number:05}")), b"xy").unwrap();
    }
    let mut oldest = i64::MAX;
    let mut count = 0;
    store
        .visit("kubedb/ns/db/many", |object, modified| {
            assert_eq!(object.bytes, 2);
            oldest = oldest.min(modified);
            count += 1;
        })
        .await
        .unwrap();
    assert_eq!(count, 1_203);
    let now = jiff::Timestamp::now().as_millisecond();
    assert!((now - 60_000..=now).contains(&oldest), "{oldest}");
    pod.stop().await;
}

#[tokio::test]
async fn a_database_reads_its_namespace_and_writes_its_own() {
    let (pod, store) = Pod::start().await;
    let root = pod.folder.path().join("a/b/kubedb");
    for (place, word) in [("ns/other/x", "seen"), ("ns2/db/x", "hidden")] {
        fs::create_dir_all(root.join(place).parent().unwrap()).unwrap();
        fs::write(root.join(place), word).unwrap();
    }
    assert_eq!(store.read("kubedb/ns/other/x", 10).await.unwrap(), "seen");
    let content = PutPayload::from_static(b"x");
    let denied = |outcome: Result<(), StoreError>| {
        let error = outcome.unwrap_err();
        assert!(matches!(error, StoreError::Denied { .. }), "{error}");
    };
    denied(store.read("kubedb/ns2/db/x", 10).await.map(drop));
    denied(store.list("kubedb/ns2/db").await.map(drop));
    denied(store.list("kubedb").await.map(drop));
    denied(store.create("kubedb/ns/other/y", content.clone()).await);
    denied(store.delete("kubedb/ns/other/x").await);
    denied(store.discard("kubedb/ns/other", "x#1").await);
    assert!(root.join("ns/other/x").exists());
    pod.stop().await;
}

#[tokio::test]
async fn what_killed_writers_left_is_seen_and_removed() {
    let (pod, store) = Pod::start().await;
    let below = pod.folder.path().join("a/b/kubedb/ns/db/packs/u-1");
    fs::create_dir_all(&below).unwrap();
    for name in ["00ff#3", "00ff", "note#x"] {
        fs::write(below.join(name), b"x").unwrap();
    }
    let left = store.unfinished("kubedb/ns/db/packs/u-1").await.unwrap();
    assert_eq!(left, ["00ff#3"]);
    let folder = "kubedb/ns/db/packs/u-1";
    assert!(store.discard(folder, "00ff").await.is_err());
    store.discard(folder, "00ff#3").await.unwrap();
    assert!(!below.join("00ff#3").exists() && below.join("00ff").exists());
    pod.stop().await;
}

#[tokio::test]
async fn nobody_keeps_an_agent_out_by_saying_nothing() {
    let (pod, store) = Pod::start().await;
    let address = pod.endpoint.trim_start_matches("https://").to_owned();
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    let answered = tokio::time::timeout(Duration::from_secs(5), store.knock()).await;
    answered.unwrap().unwrap();
    pod.stop().await;
}

#[tokio::test]
async fn nobody_else_is_let_in_and_renewed_certificates_are_taken_up() {
    let (pod, store) = Pod::start().await;
    store.knock().await.unwrap();
    let strangers = tempfile::tempdir().unwrap();
    let strange = certify(strangers.path());
    let refused = pod.store(&strange).knock().await.unwrap_err();
    assert!(matches!(refused, StoreError::Untrusted { .. }), "{refused}");
    // One that trusts the server and is not trusted by it.
    let ours = certify(pod.certificates.path());
    let mut mixed = ours.clone();
    for key in [CERTIFICATE_KEY, PRIVATE_KEY] {
        mixed.insert(key.to_owned(), strange[key].clone());
    }
    let stranger = pod.store(&mixed);
    let anyone = tokio::time::timeout(Duration::from_secs(60), stranger.knock()).await;
    assert!(anyone.is_ok_and(|answered| answered.is_err()));
    pod.store(&ours).knock().await.unwrap();
    pod.stop().await;
}
