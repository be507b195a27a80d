//! Damage, on disk and in the store: found, named, and kept from spreading.

#![allow(clippy::unwrap_used)]

use std::{fs, os::unix::fs::FileExt as _};

use kubedb_engine::{
    backup::BackupError,
    repository::{
        DeleteError,
        keys::{DatabaseFolder, maps},
        manifest::{self, ObjectRef},
        map::Map,
    },
    restore::RestoreError,
    store::Store,
};
use object_store::PutPayload;

mod buckets;
mod faults;
mod servers;
mod snapshots;

use buckets::FakeGcs;
use faults::Faulty;
use servers::{Version, free_port};
use snapshots::{
    assert_kept, assert_lets_go, delete, dialect, keys, local, primary_of, request, restore_into,
    small_server, take, uid,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_page_is_named_and_not_backed_up() {
    let mut server = small_server().await;
    let path = server.value("SELECT pg_relation_filepath('kept')").await;
    server.stop("fast");
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(server.data.join(&path))
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5 * 8192 + 4000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 5 * 8192 + 4000).unwrap();
    server.start().await;
    let faulty = Faulty::new("");
    let error = take(request(&server, &faulty.store(), "snap"))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains(&format!("block 5 of {path}")),
        "{error}"
    );
    assert!(!error.is_retryable());
    assert_lets_go(&server).await;
    let left = keys(&faulty.store()).await;
    assert!(
        left.iter().all(|key| key.contains("/attempt-0001-")),
        "{left:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t07_requests_that_cannot_work_are_refused() {
    let server = small_server().await;
    let other = small_server().await;
    let faulty = Faulty::new("");
    let store = faulty.store();
    let mut mixed = request(&server, &store, "snap");
    mixed.data_folder = other.data.clone();
    let error = take(mixed).await.unwrap_err();
    assert!(matches!(error, BackupError::OtherCluster { .. }), "{error}");

    let mut bad = request(&server, &store, "snap");
    bad.namespace = "../x".to_owned();
    assert!(matches!(take(bad).await, Err(BackupError::Name(_))));

    let mut nobody = request(&server, &store, "snap");
    nobody.connection = tokio_postgres::Config::new();
    nobody
        .connection
        .host("127.0.0.1")
        .port(free_port())
        .user("postgres");
    let error = take(nobody).await.unwrap_err();
    assert!(
        matches!(error, BackupError::Connect(_)) && error.is_retryable(),
        "{error}"
    );

    let gcs = FakeGcs::start();
    let nowhere = gcs.location("nowhere", "");
    let nowhere = Store::open(&nowhere, &Default::default()).unwrap();
    let error = take(request(&server, &nowhere, "snap")).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("bucket \"nowhere\" does not exist"),
        "{error}"
    );
    assert!(!error.is_retryable());
    assert_eq!(keys(&store).await, [""; 0]);
}

/// Replaces an object's content; the engine itself never does.
fn spoil(folder: &std::path::Path, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let path = folder.join(key);
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(&path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i02_t20_damage_in_the_store_is_found_named_and_leaves_nothing_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let server = small_server().await;
    let outcome = take(request(&server, &store, "snap")).await.unwrap();
    let good = manifest::read(&store, &outcome.manifest).await.unwrap();
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("data");
    let key = |relative: &str| format!("kubedb/demo/pg/{relative}");
    let pack = key(&good.packs[0].key);
    let map = key(&good.maps[0].key);
    let intact = |key: &str| fs::read(folder.path().join(key)).unwrap();

    let expect = async |what: &str, words: &[&str]| {
        let restored = restore_into(&target, Version::New, &store, &outcome.manifest).await;
        let error = restored.unwrap_err();
        for word in words {
            assert!(error.to_string().contains(word), "{what}: {error}");
        }
        assert!(!error.is_retryable(), "{what}: {error}");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "{what}");
    };
    for (what, key) in [
        ("pack", &pack),
        ("map", &map),
        ("manifest", &outcome.manifest),
    ] {
        let before = intact(key);
        spoil(folder.path(), key, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
        });
        expect(what, &[key]).await;
        spoil(folder.path(), key, |bytes| bytes.truncate(before.len() - 1));
        expect(what, &[key]).await;
        fs::remove_file(folder.path().join(key)).unwrap();
        expect(what, &[key]).await;
        fs::write(folder.path().join(key), before).unwrap();
    }

    // Of another major, and into a folder that holds something.
    let error = restore_into(&target, Version::Old, &store, &outcome.manifest).await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("PostgreSQL 15.18") && error.contains("PostgreSQL 9.6.24"),
        "{error}"
    );
    fs::create_dir(&target).unwrap();
    fs::write(target.join("mine"), "x").unwrap();
    let error = restore_into(&target, Version::New, &store, &outcome.manifest).await;
    assert!(
        matches!(error, Err(RestoreError::NotEmpty { .. })),
        "{error:?}"
    );
    assert_eq!(fs::read(target.join("mine")).unwrap(), b"x");
    fs::remove_dir_all(&target).unwrap();

    restore_into(&target, Version::New, &store, &outcome.manifest)
        .await
        .unwrap();
    assert_eq!(dialect(Version::New).wal_folder(), "pg_wal");
    assert!(target.join("pg_wal").join(&good.wal[0]).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i05_a_manifest_that_cannot_be_read_protects_what_it_may_need() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let server = small_server().await;
    let first = take(request(&server, &store, "first")).await.unwrap();
    let second = take(request(&server, &store, "second")).await.unwrap();
    let before = keys(&store).await;
    spoil(folder.path(), &first.manifest, |bytes| bytes[40] ^= 1);
    let error = delete(&store, "second").await.unwrap_err();
    assert!(
        matches!(error, DeleteError::OtherUnreadable { .. }),
        "{error}"
    );
    assert_eq!(keys(&store).await, before);
    // The damaged one itself can be deleted, and then the other.
    delete(&store, "first").await.unwrap();
    let mut needed = manifest::read(&store, &second.manifest).await.unwrap();
    needed.packs.append(&mut needed.maps);
    let needed = needed.packs.iter();
    let mut needed: Vec<_> = needed
        .map(|object| format!("kubedb/demo/pg/{}", object.key))
        .chain([second.manifest.clone()])
        .collect();
    needed.sort();
    assert_eq!(keys(&store).await, needed);
    assert!(needed.iter().any(|key| key.contains(&uid("first"))));
    let copy = primary_of(&store, &second, Version::New).await;
    assert_kept(&copy).await;
    delete(&store, "second").await.unwrap();
    assert_eq!(keys(&store).await, [""; 0]);

    // A manifest that refers to another Snapshot's pack keeps it.
    let shared = take(request(&server, &store, "first")).await.unwrap();
    let mut refers = manifest::read(&store, &shared.manifest).await.unwrap();
    let needed = refers.packs[0].key.clone();
    refers.snapshot = "later".to_owned();
    refers.snapshot_uid = uid("later");
    let key = format!(
        "kubedb/demo/pg/snapshots/later/manifest-0001-{}.json",
        uid("later")
    );
    let content: PutPayload = refers.encode().unwrap();
    store.create(&key, content).await.unwrap();
    delete(&store, "first").await.unwrap();
    let left = keys(&store).await;
    assert!(
        left.contains(&format!("kubedb/demo/pg/{needed}")),
        "{left:?}"
    );
    let mut of_later = shared.clone();
    of_later.manifest = key;
    let copy = primary_of(&store, &of_later, Version::New).await;
    assert_kept(&copy).await;
    delete(&store, "later").await.unwrap();
    assert_eq!(keys(&store).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t27_what_another_c_library_sorted_is_refused_and_bytes_are_not() {
    let faulty = Faulty::new("");
    let store = faulty.store();
    let server = small_server().await;
    let outcome = take(request(&server, &store, "snap")).await.unwrap();
    let mut manifest = manifest::read(&store, &outcome.manifest).await.unwrap();
    let place = tempfile::tempdir().unwrap();
    for (attempt, collation, words) in [
        (2, "en_US.utf8", Some(["en_US.utf8", "glibc 2.1"])),
        (3, "C.UTF-8", None),
    ] {
        manifest.attempt = attempt;
        manifest.cluster.libc = Some("glibc 2.1".to_owned());
        manifest.cluster.locales[0].collate = collation.to_owned();
        let folder = format!("kubedb/demo/pg/snapshots/snap/manifest-{attempt:04}");
        let key = format!("{folder}-{}.json", manifest.snapshot_uid);
        store
            .create(&key, manifest.encode().unwrap())
            .await
            .unwrap();
        let target = place.path().join("data");
        let restored = restore_into(&target, Version::New, &store, &key).await;
        match words {
            None => drop(restored.unwrap()),
            Some(words) => {
                let error = restored.unwrap_err().to_string();
                assert!(words.iter().all(|word| error.contains(word)), "{error}");
                assert!(!target.exists());
            }
        }
    }
}

/// PostgreSQL writes its control file in place, and a reader may see half of that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t22_a_control_file_that_is_torn_while_it_is_read_is_read_again() {
    let faulty = Faulty::new("");
    let store = faulty.store();
    let server = small_server().await;
    let path = server.data.join("global/pg_control");
    let good = fs::read(&path).unwrap();
    let mut torn = good.clone();
    torn[..100].fill(0x5a);
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&torn, 0).unwrap();
    // Torn for as long as it takes the backup to have read it some times.
    let mended = tokio::spawn(async move {
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        file.write_all_at(&good, 0).unwrap();
    });
    let outcome = take(request(&server, &store, "snap")).await.unwrap();
    mended.await.unwrap();
    let copy = primary_of(&store, &outcome, Version::New).await;
    assert_kept(&copy).await;
}

/// Without its `backup_label` a copy starts as if it had crashed, from the wrong place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t23_a_snapshot_without_backup_label_is_not_restored() {
    let faulty = Faulty::new("");
    let store = faulty.store();
    let server = small_server().await;
    let outcome = take(request(&server, &store, "snap")).await.unwrap();
    let mut manifest = manifest::read(&store, &outcome.manifest).await.unwrap();
    let folder = DatabaseFolder::of(&outcome.manifest).unwrap();
    for object in &mut manifest.maps {
        let bytes = store
            .read(&folder.key(&object.key), object.bytes)
            .await
            .unwrap();
        let mut map = Map::decode(&bytes).unwrap();
        map.files.retain(|file| file.path != "backup_label");
        let encoded = map.encode().unwrap();
        let blake3 = blake3::hash(&encoded).to_hex().to_string();
        *object = ObjectRef {
            key: format!("{}/{blake3}", maps(&manifest.snapshot_uid)),
            bytes: encoded.len() as u64,
            blake3,
        };
        store
            .create(&folder.key(&object.key), encoded.into())
            .await
            .unwrap();
    }
    manifest.attempt = 2;
    let key = outcome.manifest.replace("manifest-0001", "manifest-0002");
    store
        .create(&key, manifest.encode().unwrap())
        .await
        .unwrap();
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("data");
    let error = restore_into(&target, Version::New, &store, &key)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("it holds no backup_label"),
        "{error}"
    );
    assert!(!target.exists());
}
