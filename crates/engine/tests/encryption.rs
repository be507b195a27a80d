//! Snapshots and WAL that nobody reads without the key: taken of real servers, looked at as they lie in the bucket, and restored.

#![allow(clippy::unwrap_used)]

mod faults;
mod servers;
mod snapshots;

use std::{fs, path::Path};

use kubedb_core::{archive::Segment, lsn::TimelineId, tail::Piece};
use kubedb_engine::{
    archive::{Archive, ArchiveError, WalContent},
    backup::BackupError,
    encryption::{Identity, KeyError, Keys, new_identity, recipient_of, rotate},
    repository::{
        catalogue::Catalogue,
        check::{Depth, check, check_one},
        keys::DatabaseFolder,
        manifest,
    },
    restore::RestoreError,
    store::Store,
};
use serde_json::Value;

use crate::{
    servers::{Server, Version},
    snapshots::{
        assert_kept, keys, local, primary_of, request, restore_into, since, small_server, take,
        why_whole,
    },
};

fn writing(store: Store, identity: &Identity) -> Store {
    store.with_keys(Keys::writing(vec![identity.clone()], Vec::new()).unwrap())
}

fn reading(store: Store, identity: &Identity) -> Store {
    store.with_keys(Keys::reading(vec![identity.clone()]).unwrap())
}

fn folder() -> DatabaseFolder {
    DatabaseFolder::new("demo", "pg").unwrap()
}

/// Every file below a folder, with its content.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let content = fs::read(&path).unwrap();
            found.push((path.display().to_string(), content));
        }
    }
    found
}

/// Files that hold these bytes.
fn holding(folder: &Path, bytes: &[u8]) -> Vec<String> {
    let holds = |content: &[u8]| content.windows(bytes.len()).any(|window| window == bytes);
    let all = files(folder).into_iter();
    all.filter(|(_, content)| holds(content))
        .map(|(name, _)| name)
        .collect()
}

/// A server with rows that do not compress, and some bytes of them.
async fn secretive_server() -> (Server, Vec<u8>) {
    let server = small_server().await;
    server
        .sql_by_socket("CREATE DATABASE \"name-of-a-customer\"")
        .await;
    server
        .sql_by_socket("CREATE TABLE secret AS SELECT i, decode((SELECT string_agg(md5(i::text || ' ' || j), '') FROM generate_series(1, 60) j), 'hex') AS b FROM generate_series(1, 4000) i; CHECKPOINT")
        .await;
    let marker = server
        .value("SELECT encode(substr(b, 100, 24), 'hex') FROM secret WHERE i = 2000")
        .await;
    (server, hex::decode(marker).unwrap())
}

#[tokio::test]
async fn t31_nothing_in_the_bucket_is_in_the_clear_and_all_of_it_comes_back() {
    let (server, marker) = secretive_server().await;
    let (plain, sealed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let identity = new_identity().unwrap();
    let store = writing(local(sealed.path()), &identity);
    take(request(&server, &local(plain.path()), "first"))
        .await
        .unwrap();
    let first = take(request(&server, &store, "first")).await.unwrap();
    server
        .sql_by_socket("UPDATE secret SET b = b || b WHERE i % 1000 = 0; CHECKPOINT")
        .await;
    let second = take(request(&server, &store, "second")).await.unwrap();
    assert_eq!(since(&second), "first");
    assert!(second.uploaded_bytes * 10 < first.uploaded_bytes);
    let unchanged = take(request(&server, &store, "third")).await.unwrap();
    assert_eq!(since(&unchanged), "second");
    let told = manifest::read(&store, &unchanged.manifest).await.unwrap();
    assert!(
        told.maps
            .iter()
            .any(|map| !map.key.contains(&told.snapshot_uid)),
        "lists that did not change are referred to"
    );
    for bytes in [marker.as_slice(), b"name-of-a-customer"] {
        assert_ne!(holding(plain.path(), bytes), Vec::<String>::new());
        assert_eq!(holding(sealed.path(), bytes), Vec::<String>::new());
    }
    // What tables show is there for everybody; the rest is in no manifest.
    assert_eq!(told.snapshot, "third");
    assert!(told.cluster.locales.is_empty());
    let (opened, _) = manifest::open(&store, &unchanged.manifest).await.unwrap();
    assert!(opened.cluster.locales.len() > 1);
    for (snapshot, outcome) in [("first", &first), ("third", &unchanged)] {
        let copy = primary_of(
            &reading(local(sealed.path()), &identity),
            outcome,
            Version::New,
        )
        .await;
        assert_kept(&copy).await;
        let rows = copy
            .value("SELECT count(*) || ' ' || sum(length(b)) FROM secret")
            .await;
        let expected = if snapshot == "first" {
            "4000 3840000"
        } else {
            "4000 3843840"
        };
        assert_eq!(rows, expected);
    }
}

#[tokio::test]
async fn t31_without_the_right_key_nothing_is_written_and_the_message_says_which() {
    let server = small_server().await;
    let bucket = tempfile::tempdir().unwrap();
    let [ours, others] = [(); 2].map(|()| new_identity().unwrap());
    let store = writing(local(bucket.path()), &ours);
    let outcome = take(request(&server, &store, "first")).await.unwrap();
    let before = keys(&store).await;
    let id = manifest::read(&store, &outcome.manifest)
        .await
        .unwrap()
        .key_id()
        .unwrap();
    let recipient = recipient_of(&ours).unwrap().to_string();

    let error = take(request(
        &server,
        &writing(local(bucket.path()), &others),
        "second",
    ))
    .await;
    let error = error.unwrap_err();
    assert!(
        matches!(error, BackupError::Key(KeyError::WrongIdentity { .. })),
        "{error}"
    );
    assert_eq!(keys(&store).await, before);

    let target = tempfile::tempdir().unwrap();
    let data = target.path().join("data");
    for wrong in [local(bucket.path()), reading(local(bucket.path()), &others)] {
        let error = restore_into(&data, Version::New, &wrong, &outcome.manifest).await;
        let error = error.unwrap_err();
        assert!(
            matches!(error, RestoreError::Key(_)) && error.is_mendable(),
            "{error}"
        );
        assert!(!error.is_damage() && !error.is_retryable());
        let told = error.to_string();
        for word in [
            id.to_string().as_str(),
            &recipient,
            "--identity",
            "secretName",
        ] {
            assert!(told.contains(word), "{told}");
        }
        assert!(!data.exists());
    }
    restore_into(
        &data,
        Version::New,
        &reading(local(bucket.path()), &ours),
        &outcome.manifest,
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn t32_what_is_encrypted_and_what_is_not_never_refer_to_each_other() {
    let server = small_server().await;
    let bucket = tempfile::tempdir().unwrap();
    let identity = new_identity().unwrap();
    let (plain, sealed) = (
        local(bucket.path()),
        writing(local(bucket.path()), &identity),
    );
    take(request(&server, &plain, "plain")).await.unwrap();
    let first = take(request(&server, &sealed, "sealed")).await.unwrap();
    assert_eq!(
        why_whole(&first),
        "plain cannot be referred to: it is not encrypted, and this one is"
    );
    let second = take(request(&server, &sealed, "more")).await.unwrap();
    assert_eq!(since(&second), "sealed");
    // Of the last ones, the one that suits.
    let again = take(request(&server, &plain, "clear")).await.unwrap();
    assert_eq!(since(&again), "plain");
    for (store, outcome) in [(&sealed, &second), (&plain, &again)] {
        let copy = primary_of(store, outcome, Version::New).await;
        assert_kept(&copy).await;
    }
}

#[tokio::test]
async fn t31_a_rotation_touches_no_data_and_from_then_on_the_new_key_alone_opens_it() {
    let server = small_server().await;
    let bucket = tempfile::tempdir().unwrap();
    let [old, new] = [(); 2].map(|()| new_identity().unwrap());
    let store = writing(local(bucket.path()), &old);
    let outcome = take(request(&server, &store, "first")).await.unwrap();
    let is_data = |(name, _): &(String, Vec<u8>)| !name.contains("/keys/");
    let data = |folder: &Path| {
        files(folder)
            .into_iter()
            .filter(is_data)
            .collect::<Vec<_>>()
    };
    let before = data(bucket.path());
    let both = vec![old.clone(), new.clone()];
    let keys = Keys::rotating(both, vec![recipient_of(&new).unwrap()]).unwrap();
    let rotated = rotate(&local(bucket.path()).with_keys(keys), &folder())
        .await
        .unwrap();
    assert_eq!(rotated.len(), 1);
    assert_eq!(data(bucket.path()), before);
    let target = tempfile::tempdir().unwrap();
    let into = target.path().join("data");
    let former = reading(local(bucket.path()), &old);
    let error = restore_into(&into, Version::New, &former, &outcome.manifest)
        .await
        .unwrap_err();
    assert!(
        matches!(error, RestoreError::Key(KeyError::WrongIdentity { .. })),
        "{error}"
    );
    let store = writing(local(bucket.path()), &new);
    let second = take(request(&server, &store, "second")).await.unwrap();
    assert_eq!(since(&second), "first");
    assert_kept(&primary_of(&store, &second, Version::New).await).await;
}

#[tokio::test]
async fn t31_whatever_is_changed_in_the_bucket_is_noticed_and_named() {
    let server = small_server().await;
    let bucket = tempfile::tempdir().unwrap();
    let identity = new_identity().unwrap();
    let store = writing(local(bucket.path()), &identity);
    let outcome = take(request(&server, &store, "first")).await.unwrap();
    let told = manifest::read(&store, &outcome.manifest).await.unwrap();
    let restore = async || {
        let target = tempfile::tempdir().unwrap();
        let store = reading(local(bucket.path()), &identity);
        let data = target.path().join("data");
        let restored = restore_into(&data, Version::New, &store, &outcome.manifest).await;
        restored.map(drop).map_err(|error| {
            assert!(error.is_damage(), "{error}");
            assert!(!data.exists());
            error.to_string()
        })
    };
    restore().await.unwrap();
    let objects = told.packs.iter().chain(&told.maps);
    for object in objects.map(|object| object.key.as_str()) {
        let path = bucket.path().join(folder().key(object));
        let whole = fs::read(&path).unwrap();
        // Within the first stretch of each: what a map says is checked as a whole.
        for at in [0, whole.len() / 3, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, bytes).unwrap();
            let error = restore().await.unwrap_err();
            assert!(error.contains(object), "{error}");
        }
        fs::write(&path, whole).unwrap();
    }
    // A manifest that was written by somebody who knows the format, and not the key.
    let path = bucket.path().join(&outcome.manifest);
    let whole = fs::read(&path).unwrap();
    let forge = |change: &dyn Fn(&mut Value)| {
        let mut value: Value = serde_json::from_slice(&whole).unwrap();
        value.as_object_mut().unwrap().remove("blake3");
        change(&mut value);
        let hash = blake3::hash(value.to_string().as_bytes())
            .to_hex()
            .to_string();
        value["blake3"] = hash.into();
        fs::write(&path, value.to_string()).unwrap();
    };
    forge(&|_| {});
    restore().await.unwrap();
    let changes: [&dyn Fn(&mut Value); 4] = [
        &|value| value["stopLsn"] = "0/10".into(),
        &|value| value["packs"][0]["bytes"] = 1.into(),
        &|value| value["cluster"]["settings"]["max_connections"] = "1".into(),
        &|value| {
            let mut sealed = value["encryption"]["sealed"].as_str().unwrap().to_owned();
            let at = sealed.len() - 8;
            let other = if &sealed[at..=at] == "A" { "B" } else { "A" };
            sealed.replace_range(at..=at, other);
            value["encryption"]["sealed"] = sealed.into();
        },
    ];
    for change in changes {
        forge(change);
        let error = restore().await.unwrap_err();
        assert!(
            error.contains(&outcome.manifest) && error.contains("changed since it was encrypted"),
            "{error}"
        );
    }
    fs::write(&path, whole).unwrap();
    restore().await.unwrap();
}

#[tokio::test]
async fn what_is_encrypted_is_checked_by_hashes_without_the_key_and_opened_with_it() {
    let server = small_server().await;
    let bucket = tempfile::tempdir().unwrap();
    let [ours, others] = [(); 2].map(|()| new_identity().unwrap());
    let store = writing(local(bucket.path()), &ours);
    let outcome = take(request(&server, &store, "first")).await.unwrap();
    let look = async |store: Store| {
        let catalogue = Catalogue::read(&store).await.unwrap();
        let database = catalogue.databases.values().next().unwrap();
        let report = check(&store, database, |_| true, Depth::Content).await?;
        let findings = report.snapshots[&outcome.manifest].clone();
        Ok::<_, KeyError>((findings, report.unopened.len(), report.unreferenced.len()))
    };
    let right = look(reading(local(bucket.path()), &ours)).await;
    assert_eq!(right.unwrap(), (Vec::new(), 0, 0));
    let none = look(local(bucket.path())).await;
    assert_eq!(none.unwrap(), (Vec::new(), 1, 0));
    // With a wrong one nothing is known, which is no damage.
    let wrong = look(reading(local(bucket.path()), &others)).await;
    assert!(
        matches!(wrong, Err(KeyError::WrongIdentity { .. })),
        "{wrong:?}"
    );
    let wrong = reading(local(bucket.path()), &others);
    let one = check_one(&wrong, &outcome.manifest, |_, _| {});
    assert!(matches!(one.await, Err(KeyError::WrongIdentity { .. })));
    // Deletion needs no key: what a Snapshot refers to is for everybody to see.
    snapshots::delete(&local(bucket.path()), "first")
        .await
        .unwrap();
    let left = keys(&store).await;
    assert!(left.iter().all(|key| key.contains("/keys/")), "{left:?}");
}

const LINEAGE: &str = "b5ad6a0e-6f1c-4b0c-9a7c-2c4f7c7f0a11";
const SEGMENT: u64 = 4 << 20;
const SYSTEM: u64 = 7_000_000_000_000_000_007;
const NAME: &str = "000000010000000000000003";

fn archive(store: &Store) -> Archive {
    Archive::new(store.clone(), &folder(), LINEAGE, SYSTEM, SEGMENT).unwrap()
}

/// Segment 3 with content that does not compress, of several chunks.
fn segment(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(SEGMENT).unwrap()];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes[..4].copy_from_slice(&[0x13, 0xD1, 2, 0]);
    bytes[4..8].copy_from_slice(&1_u32.to_le_bytes());
    bytes[8..16].copy_from_slice(&(3 * SEGMENT).to_le_bytes());
    bytes[24..32].copy_from_slice(&SYSTEM.to_le_bytes());
    bytes
}

#[tokio::test]
async fn t31_wal_is_encrypted_under_its_name_and_once() {
    let bucket = tempfile::tempdir().unwrap();
    let [ours, others] = [(); 2].map(|()| new_identity().unwrap());
    let sealed = archive(&writing(local(bucket.path()), &ours));
    let wal = tempfile::tempdir().unwrap();
    fs::write(wal.path().join(NAME), segment(1)).unwrap();
    fs::write(
        wal.path().join("00000002.history"),
        "1\t0/3000000\tno reason\n",
    )
    .unwrap();
    let pushed = sealed.push(wal.path(), NAME).await.unwrap();
    assert!(
        pushed.stored > SEGMENT && pushed.stored < SEGMENT + 2_000,
        "{pushed:?}"
    );
    sealed.push(wal.path(), "00000002.history").await.unwrap();
    // The same again is the same, by another process too.
    let again = archive(&writing(local(bucket.path()), &ours));
    assert_eq!(again.push(wal.path(), NAME).await.unwrap(), pushed);
    let read = archive(&reading(local(bucket.path()), &ours));
    assert_eq!(read.fetch(NAME).await.unwrap(), Some(segment(1)));
    let history = read.fetch("00000002.history").await.unwrap().unwrap();
    assert_eq!(history, b"1\t0/3000000\tno reason\n");
    assert_eq!(read.fetch("000000010000000000000004").await.unwrap(), None);
    let named = bucket
        .path()
        .join(folder().key(&format!("archive/{LINEAGE}/wal_005")));
    let mut names: Vec<String> = fs::read_dir(&named)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            format!("{NAME}.zst.enc"),
            "00000002.history.zst.enc".to_owned()
        ]
    );
    assert_eq!(
        holding(bucket.path(), &segment(1)[5_000..5_024]),
        Vec::<String>::new()
    );
    assert_eq!(holding(bucket.path(), b"no reason"), Vec::<String>::new());
    // With a wrong key, or none, it is neither absent nor stored.
    for wrong in [local(bucket.path()), reading(local(bucket.path()), &others)] {
        let error = archive(&wrong).fetch(NAME).await.unwrap_err();
        assert!(
            matches!(error, ArchiveError::Key(_)) && !error.is_retryable(),
            "{error}"
        );
    }
    let error = archive(&writing(local(bucket.path()), &others))
        .push(wal.path(), NAME)
        .await;
    assert!(
        matches!(
            error,
            Err(ArchiveError::Key(KeyError::WrongIdentity { .. }))
        ),
        "{error:?}"
    );
    // Other content under the name.
    fs::write(wal.path().join(NAME), segment(2)).unwrap();
    let error = sealed.push(wal.path(), NAME).await.unwrap_err();
    assert!(matches!(error, ArchiveError::Conflict { .. }), "{error}");
    // Changed, or under another name.
    let path = named.join(format!("{NAME}.zst.enc"));
    let whole = fs::read(&path).unwrap();
    for at in [0, 20, 40, 100, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        let error = read.fetch(NAME).await.unwrap_err();
        let is_told = error.to_string().contains(NAME) || matches!(error, ArchiveError::Key(_));
        assert!(is_told && !error.is_retryable(), "{error}");
    }
    let other = "000000010000000000000004";
    fs::write(named.join(format!("{other}.zst.enc")), &whole).unwrap();
    let error = read.fetch(other).await.unwrap_err();
    assert!(error.to_string().contains("belongs elsewhere"), "{error}");
}

#[tokio::test]
async fn t06_i04_a_name_has_one_content_in_whichever_form() {
    let bucket = tempfile::tempdir().unwrap();
    let identity = new_identity().unwrap();
    let (plain, sealed) = (
        archive(&local(bucket.path())),
        archive(&writing(local(bucket.path()), &identity)),
    );
    let wal = tempfile::tempdir().unwrap();
    fs::write(wal.path().join(NAME), segment(1)).unwrap();
    let pushed = plain.push(wal.path(), NAME).await.unwrap();
    // Archived before it was encrypted: it is there, and counts.
    assert_eq!(sealed.push(wal.path(), NAME).await.unwrap(), pushed);
    fs::write(wal.path().join(NAME), segment(2)).unwrap();
    let error = sealed.push(wal.path(), NAME).await.unwrap_err();
    assert!(matches!(error, ArchiveError::Conflict { .. }), "{error}");
}

/// Whoever can write to a store can put WAL of his own into it, in the clear.
#[tokio::test]
async fn t31_wal_in_the_clear_is_not_taken_for_encrypted_wal() {
    let bucket = tempfile::tempdir().unwrap();
    let identity = new_identity().unwrap();
    let wal = tempfile::tempdir().unwrap();
    fs::write(wal.path().join(NAME), segment(1)).unwrap();
    let history = "00000002.history";
    fs::write(wal.path().join(history), "1\t0/3000000\tno reason\n").unwrap();
    let plain = archive(&local(bucket.path()));
    plain.push(wal.path(), NAME).await.unwrap();
    plain.push(wal.path(), history).await.unwrap();
    // All of it is in the clear, and who only reads may have keys for Snapshots alone.
    let reader = || archive(&reading(local(bucket.path()), &identity));
    assert_eq!(reader().fetch(NAME).await.unwrap(), Some(segment(1)));
    let refuses = async |archive: Archive, name: &str| {
        let error = archive.fetch_content(name).await.unwrap_err();
        assert!(matches!(error, ArchiveError::Unsealed { .. }), "{error}");
        assert!(error.to_string().contains(name) && !error.is_retryable());
    };
    let writer = || archive(&writing(local(bucket.path()), &identity));
    refuses(writer(), NAME).await;
    refuses(writer(), history).await;
    // One that is encrypted says how it is with all of them.
    let mut next = segment(1);
    next[8..16].copy_from_slice(&(4 * SEGMENT).to_le_bytes());
    let name = "000000010000000000000004";
    fs::write(wal.path().join(name), next).unwrap();
    writer().push(wal.path(), name).await.unwrap();
    refuses(reader(), NAME).await;
    refuses(reader(), history).await;
    assert!(reader().fetch(name).await.unwrap().is_some());
}

#[tokio::test]
async fn the_segment_in_work_is_encrypted_piece_by_piece() {
    let bucket = tempfile::tempdir().unwrap();
    let identity = new_identity().unwrap();
    let sealed = archive(&writing(local(bucket.path()), &identity));
    let wal = tempfile::tempdir().unwrap();
    fs::write(wal.path().join(NAME), segment(1)).unwrap();
    let this = Segment {
        timeline: TimelineId(1),
        number: 3,
    };
    for (from, to) in [(0, 5_000), (5_000, 9_000)] {
        let piece = Piece {
            generation: 1,
            from,
            to,
        };
        // Again, as after an answer that was lost.
        for _ in 0..2 {
            sealed.push_tail(wal.path(), this, piece).await.unwrap();
        }
    }
    let mut begun = segment(1);
    begun[9_000..].fill(0);
    let expected = Some(WalContent::Begun(begun));
    assert_eq!(sealed.fetch_content(NAME).await.unwrap(), expected);
    let plain = archive(&local(bucket.path()));
    let error = plain.fetch_content(NAME).await.unwrap_err();
    assert!(matches!(error, ArchiveError::Key(_)), "{error}");
    // A piece in the place of another is none.
    let tail = bucket
        .path()
        .join(format!("kubedb/demo/pg/archive/{LINEAGE}/tail/{NAME}"));
    let named = |from: u64, to: u64| tail.join(format!("00000001-{from:08X}-{to:08X}.zst.enc"));
    fs::copy(named(0, 5_000), named(5_000, 10_000)).unwrap();
    let error = sealed.fetch_content(NAME).await.unwrap_err();
    assert!(matches!(error, ArchiveError::Damaged { .. }), "{error}");
}
