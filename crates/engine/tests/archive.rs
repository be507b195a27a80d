//! WAL in a store, tried with forged segments and with those of a real server.

#![allow(clippy::unwrap_used)]

mod faults;
mod servers;
mod snapshots;

use std::{fs, path::Path};

use kubedb_core::{
    archive::{Segment, WalFile},
    lsn::{Lsn, TimelineId},
    recovery::{Goal, PlanError, Target},
    tail::Piece,
};
use kubedb_engine::{
    archive::{Archive, ArchiveError, WalContent, Wish, find, inventory},
    postgres::dialect::quote_setting,
    repository::keys::DatabaseFolder,
    store::Store,
};
use object_store::PutPayload;

use crate::{
    faults::Faulty,
    servers::{Server, Version},
    snapshots::{dialect, request, small_server, take},
};

const LINEAGE: &str = "b5ad6a0e-6f1c-4b0c-9a7c-2c4f7c7f0a11";
const SEGMENT: u64 = 1 << 20;
const SYSTEM: u64 = 7_000_000_000_000_000_007;
const NAME: &str = "000000010000000000000003";

fn folder() -> DatabaseFolder {
    DatabaseFolder::new("demo", "pg").unwrap()
}

fn archive(store: &Store) -> Archive {
    Archive::new(store.clone(), &folder(), LINEAGE, SYSTEM, SEGMENT).unwrap()
}

fn key(name: &str) -> String {
    format!("kubedb/demo/pg/archive/{LINEAGE}/wal_005/{name}.zst")
}

/// Segment 3 of 1 MiB, as of a system, with content that no two seeds have in common.
fn segment(system: u64, seed: u64) -> Vec<u8> {
    let mut state = seed + 1;
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    })
    .take(usize::try_from(SEGMENT).unwrap())
    .collect();
    bytes[..4].copy_from_slice(&[0x13, 0xD1, 2, 0]);
    bytes[4..8].copy_from_slice(&1_u32.to_le_bytes());
    bytes[8..16].copy_from_slice(&(3 * SEGMENT).to_le_bytes());
    bytes[24..32].copy_from_slice(&system.to_le_bytes());
    bytes
}

struct Wal(tempfile::TempDir);

impl Wal {
    fn of(name: &str, content: &[u8]) -> Self {
        let wal = Self(tempfile::tempdir().unwrap());
        fs::write(wal.0.path().join(name), content).unwrap();
        wal
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

#[tokio::test]
async fn t06_i04_one_name_never_holds_two_contents() {
    let faulty = Faulty::new("");
    let store = faulty.store();
    let archive = archive(&store);
    assert_eq!(archive.fetch(NAME).await.unwrap(), None);
    let wal = Wal::of(NAME, &segment(SYSTEM, 1));
    let pushed = archive.push(wal.path(), NAME).await.unwrap();
    assert_eq!(pushed.bytes, SEGMENT);
    assert_eq!(archive.fetch(NAME).await.unwrap(), Some(segment(SYSTEM, 1)));
    // Again, as after a crash before PostgreSQL had noted it.
    assert_eq!(archive.push(wal.path(), NAME).await.unwrap(), pushed);
    // Packed otherwise, as by another version.
    store.delete(&key(NAME)).await.unwrap();
    let otherwise = zstd::encode_all(segment(SYSTEM, 1).as_slice(), 7).unwrap();
    store
        .create(&key(NAME), PutPayload::from(otherwise.clone()))
        .await
        .unwrap();
    archive.push(wal.path(), NAME).await.unwrap();
    // Other content under the name.
    let other = Wal::of(NAME, &segment(SYSTEM, 2));
    let error = archive.push(other.path(), NAME).await.unwrap_err();
    assert!(matches!(error, ArchiveError::Conflict { .. }), "{error}");
    assert!(!error.is_retryable());
    assert_eq!(
        store.read(&key(NAME), 2 * SEGMENT).await.unwrap(),
        otherwise
    );
    // So is what cannot be read: it is not taken for this.
    store.delete(&key(NAME)).await.unwrap();
    store
        .create(&key(NAME), PutPayload::from_static(b"no frame"))
        .await
        .unwrap();
    let error = archive.push(wal.path(), NAME).await.unwrap_err();
    assert!(matches!(error, ArchiveError::Conflict { .. }), "{error}");
}

#[tokio::test]
async fn t07_wal_of_another_cluster_is_neither_stored_nor_given_out() {
    let store = Faulty::new("").store();
    let archive = archive(&store);
    let refused = async |name: &str, content: &[u8]| {
        let wal = Wal::of(name, content);
        let error = archive.push(wal.path(), name).await.unwrap_err();
        assert!(matches!(error, ArchiveError::Wrong { .. }), "{error}");
        error.to_string()
    };
    assert!(
        refused(NAME, &segment(8, 1))
            .await
            .contains("belongs to cluster 8")
    );
    let recycled = refused("000000010000000000000004", &segment(SYSTEM, 1)).await;
    assert!(recycled.contains("begins at 0/300000"), "{recycled}");
    let mut later = segment(SYSTEM, 1);
    later[4] = 2;
    assert!(refused(NAME, &later).await.contains("timeline 2"));
    assert!(
        refused(NAME, &segment(SYSTEM, 1)[1..])
            .await
            .contains("bytes")
    );
    assert!(refused(NAME, &[]).await.contains("0 bytes"));
    assert!(snapshots::keys(&store).await.is_empty());
    for name in ["", "x", "../passwd", "000000010000000000000003.gz"] {
        let error = archive.push(Path::new("/"), name).await.unwrap_err();
        assert!(matches!(error, ArchiveError::Name { .. }), "{error}");
        assert_eq!(archive.fetch(name).await.unwrap(), None);
    }
    let foreign = zstd::encode_all(segment(8, 1).as_slice(), 1).unwrap();
    store
        .create(&key(NAME), PutPayload::from(foreign))
        .await
        .unwrap();
    let error = archive.fetch(NAME).await.unwrap_err();
    assert!(matches!(error, ArchiveError::Damaged { .. }), "{error}");
    assert!(Archive::new(store, &folder(), "../other", SYSTEM, SEGMENT).is_err());
}

#[tokio::test]
async fn t02_damage_is_found_when_wal_is_fetched() {
    let store = Faulty::new("").store();
    let archive = archive(&store);
    let wal = Wal::of(NAME, &segment(SYSTEM, 1));
    archive.push(wal.path(), NAME).await.unwrap();
    let whole = store.read(&key(NAME), 2 * SEGMENT).await.unwrap();
    let replace = async |content: Vec<u8>| {
        store.delete(&key(NAME)).await.unwrap();
        store
            .create(&key(NAME), PutPayload::from(content))
            .await
            .unwrap();
        archive.fetch(NAME).await
    };
    for cut in [0, 1, 5, whole.len() / 2, whole.len() - 1] {
        let read = replace(whole[..cut].to_vec()).await;
        assert!(
            matches!(read, Err(ArchiveError::Damaged { .. })),
            "{cut}: {read:?}"
        );
    }
    let mut found = 0;
    for at in (0..12).chain((12..whole.len()).step_by(whole.len() / 60)) {
        let mut spoilt = whole.to_vec();
        spoilt[at] ^= 0x20;
        // A bit of the frame's header may say nothing of the content.
        match replace(spoilt).await {
            Err(ArchiveError::Damaged { .. }) => found += 1,
            read => assert_eq!(read.unwrap(), Some(segment(SYSTEM, 1)), "{at}"),
        }
    }
    assert!(found > 60, "{found}");
    // A frame of gigabytes is not unpacked.
    let bomb = zstd::encode_all(std::io::Read::take(std::io::repeat(0), 1 << 28), 1).unwrap();
    assert!(matches!(
        replace(bomb).await,
        Err(ArchiveError::Damaged { .. })
    ));
}

#[tokio::test]
async fn t05_i03_whatever_call_fails_a_success_means_that_it_is_there() {
    let wal = Wal::of(NAME, &segment(SYSTEM, 1));
    for is_there in [false, true] {
        for call in 0..6 {
            for lost in [false, true] {
                let faulty = Faulty::new("");
                if is_there {
                    // Packed otherwise, so that it is compared.
                    let packed = zstd::encode_all(segment(SYSTEM, 1).as_slice(), 7).unwrap();
                    let bare = faulty.bare();
                    bare.create(&key(NAME), PutPayload::from(packed))
                        .await
                        .unwrap();
                }
                if lost {
                    faulty.lose(call);
                } else {
                    faulty.break_from(call);
                }
                let pushed = archive(&faulty.store()).push(wal.path(), NAME).await;
                faulty.mend();
                let there = archive(&faulty.bare()).fetch(NAME).await.unwrap();
                if pushed.is_ok() {
                    assert_eq!(there, Some(segment(SYSTEM, 1)), "{call} {lost}");
                } else {
                    // PostgreSQL asks again.
                    archive(&faulty.store())
                        .push(wal.path(), NAME)
                        .await
                        .unwrap();
                }
            }
        }
    }
}

#[tokio::test]
async fn absence_is_told_only_where_it_is_proven() {
    let faulty = Faulty::new("");
    faulty.break_from(0);
    let archive = archive(&faulty.store());
    for name in [NAME, "00000002.history"] {
        let error = archive.fetch(name).await.unwrap_err();
        assert!(matches!(error, ArchiveError::Store(_)), "{error}");
    }
    faulty.mend();
    assert_eq!(archive.fetch("00000002.history").await.unwrap(), None);
}

fn wish<'a>(target: &'a Target, snapshot: Option<&'a str>) -> Wish<'a> {
    Wish {
        target,
        snapshot,
        covered: None,
    }
}

/// Archives what a server has finished, as its archiver would.
async fn archive_all(server: &Server, store: &Store) -> Vec<String> {
    server.sql_by_socket("SELECT pg_switch_wal()").await;
    archive_finished(server, store).await
}

async fn archive_finished(server: &Server, store: &Store) -> Vec<String> {
    let folder = server.data.join(dialect(server.version).wal_folder());
    let current = server
        .value("SELECT pg_walfile_name(pg_current_wal_lsn())")
        .await;
    let archive = real_archive(server, store).await;
    let mut names: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| matches!(WalFile::read(name, 16 << 20), Some(WalFile::Segment(_))))
        .filter(|name| *name < current)
        .collect();
    names.sort();
    for name in &names {
        archive.push(&folder, name).await.unwrap();
    }
    names
}

/// Stores what is flushed of the segment in work.
async fn push_begun(server: &Server, store: &Store) -> (Segment, Lsn) {
    server.sql_by_socket("CREATE TABLE last AS SELECT 1").await;
    archive_finished(server, store).await;
    let flushed = server.value("SELECT pg_current_wal_flush_lsn()").await;
    let flushed: Lsn = flushed.parse().unwrap();
    let folder = server.data.join(dialect(server.version).wal_folder());
    let segment = Segment {
        timeline: TimelineId(1),
        number: flushed.segment(16 << 20),
    };
    let pushed = real_archive(server, store).await;
    let piece = piece(1, 0, flushed.offset(16 << 20));
    pushed.push_tail(&folder, segment, piece).await.unwrap();
    (segment, flushed)
}

/// The archive of a real server.
async fn real_archive(server: &Server, store: &Store) -> Archive {
    let system = server
        .value("SELECT system_identifier FROM pg_control_system()")
        .await;
    let (store, system) = (store.clone(), system.parse().unwrap());
    Archive::new(store, &folder(), LINEAGE, system, 16 << 20).unwrap()
}

#[tokio::test]
async fn a_recovery_is_planned_from_what_a_bucket_holds() {
    let store = Faulty::new("").store();
    let server = small_server().await;
    take(request(&server, &store, "first")).await.unwrap();
    server
        .sql_by_socket("CREATE TABLE later AS SELECT 1 AS i")
        .await;
    archive_all(&server, &store).await;
    take(request(&server, &store, "second")).await.unwrap();
    server.sql_by_socket("DROP TABLE later").await;
    let names = archive_all(&server, &store).await;
    let (begun, flushed) = push_begun(&server, &store).await;
    // Another database of the same name was here before.
    let mut old = request(&server, &store, "old");
    old.lineage = "00000000-6f1c-4b0c-9a7c-2c4f7c7f0a11".to_owned();
    take(old).await.unwrap();

    let lineages = inventory(&store, &store, &folder()).await.unwrap();
    assert_eq!(lineages.len(), 2);
    assert_eq!(lineages[LINEAGE].bases.len(), 2);
    let plan = |target: &Target, wanted: Option<&str>| {
        find(&lineages, &store, &folder(), wish(target, wanted)).unwrap()
    };
    let found = plan(&Target::latest(), Some("first")).unwrap();
    assert_eq!(found.lineage, LINEAGE);
    assert_eq!(
        (found.plan.last, found.plan.tail),
        (Some(begun), Some(flushed))
    );
    let last = names.last().unwrap().clone();
    let given = found.archive.fetch_content(&last).await.unwrap().unwrap();
    assert_eq!(given.bytes().len(), 16 << 20);
    let second = lineages[LINEAGE].bases[1].clone();
    let by_key = plan(&Target::latest(), Some(&second.manifest)).unwrap();
    assert_eq!(by_key.plan.base, second);
    let at = Target {
        goal: Goal::Time(second.created),
        ..Target::latest()
    };
    // The latest lineage comes first, and the time is before it.
    assert_eq!(plan(&at, None).unwrap().plan.base.snapshot, "second");
    assert!(matches!(
        plan(&at, Some("none")),
        Err(PlanError::UnknownBase { .. })
    ));
    // A segment goes.
    store.delete(&key(&last)).await.unwrap();
    let middle = key(&names[names.len() - 2]);
    let kept = store.read(&middle, 64 << 20).await.unwrap();
    store.delete(&middle).await.unwrap();
    let gap = inventory(&store, &store, &folder()).await.unwrap();
    let latest = Target::latest();
    let gap = find(&gap, &store, &folder(), wish(&latest, Some("first")));
    let missing = match gap.unwrap() {
        Err(PlanError::Gap { missing, .. }) => missing,
        other => panic!("{other:?}"),
    };
    assert_eq!(missing, names[names.len() - 2]);
    store.create(&middle, PutPayload::from(kept)).await.unwrap();
}

const THIS: Segment = Segment {
    timeline: TimelineId(1),
    number: 3,
};

fn piece(generation: u32, from: u64, to: u64) -> Piece {
    Piece {
        generation,
        from,
        to,
    }
}

/// The beginning of a segment, and zeros.
fn begun(seed: u64, to: u64) -> Option<WalContent> {
    let mut content = segment(SYSTEM, seed);
    content[usize::try_from(to).unwrap()..].fill(0);
    Some(WalContent::Begun(content))
}

#[tokio::test]
async fn the_segment_in_work_comes_back_piece_by_piece_until_it_is_whole() {
    let store = Faulty::new("").store();
    let archive = archive(&store);
    let wal = Wal::of(NAME, &segment(SYSTEM, 1));
    let push = async |generation, from, to| {
        let pushed = archive.push_tail(wal.path(), THIS, piece(generation, from, to));
        pushed.await.unwrap()
    };
    let content = async || archive.fetch_content(NAME).await.unwrap();
    assert_eq!(content().await, None);
    assert_eq!(archive.tail_generation(THIS).await.unwrap(), 1);
    push(1, 0, 5_000).await;
    push(1, 5_000, 9_000).await;
    assert_eq!(content().await, begun(1, 9_000));
    // Again, after an answer that was lost; and further than before.
    push(1, 5_000, 9_000).await;
    push(1, 5_000, 12_000).await;
    assert_eq!(content().await, begun(1, 12_000));
    // A piece that is not there ends it.
    push(1, 20_000, 30_000).await;
    assert_eq!(content().await, begun(1, 12_000));
    // After a crash the server goes on before where it had come.
    assert_eq!(archive.tail_generation(THIS).await.unwrap(), 2);
    push(2, 0, 11_000).await;
    assert_eq!(content().await, begun(1, 11_000));
    // Nothing of it counts as the file, and nothing is in its way.
    assert_eq!(archive.fetch(NAME).await.unwrap(), None);
    archive.push(wal.path(), NAME).await.unwrap();
    assert_eq!(content().await, Some(WalContent::Whole(segment(SYSTEM, 1))));
    let kept = |number| Segment { number, ..THIS };
    archive.delete_tails_before(kept(3)).await.unwrap();
    assert_eq!(snapshots::keys(&store).await.len(), 6);
    archive.delete_tails_before(kept(4)).await.unwrap();
    assert_eq!(snapshots::keys(&store).await, [key(NAME)]);
    push(1, 0, 40).await;
    archive.delete_tail(THIS).await.unwrap();
    assert_eq!(snapshots::keys(&store).await, [key(NAME)]);
}

#[tokio::test]
async fn t02_t07_pieces_of_another_segment_and_damaged_ones_are_given_to_nobody() {
    let faulty = Faulty::new("");
    let store = faulty.store();
    let archive = archive(&store);
    for content in [segment(8, 1), segment(SYSTEM, 1)[..20].to_vec()] {
        let wal = Wal::of(NAME, &content);
        let pushed = archive.push_tail(wal.path(), THIS, piece(1, 0, 5_000));
        pushed.await.unwrap_err();
    }
    // Recycled: its name says more than it holds.
    let next = Segment { number: 4, ..THIS };
    let recycled = Wal::of("000000010000000000000004", &segment(SYSTEM, 1));
    let pushed = archive.push_tail(recycled.path(), next, piece(1, 0, 5_000));
    let error = pushed.await.unwrap_err();
    assert!(matches!(error, ArchiveError::Wrong { .. }), "{error}");
    // Shorter than it should be.
    let wal = Wal::of(NAME, &segment(SYSTEM, 1)[..8_192]);
    let pushed = archive.push_tail(wal.path(), THIS, piece(1, 0, 9_000));
    pushed.await.unwrap_err();
    assert!(snapshots::keys(&store).await.is_empty());

    let wal = Wal::of(NAME, &segment(SYSTEM, 1));
    for (from, to) in [(0, 5_000), (5_000, 9_000)] {
        let pushed = archive.push_tail(wal.path(), THIS, piece(1, from, to));
        pushed.await.unwrap();
    }
    let name = piece(1, 5_000, 9_000).name();
    let key = format!("kubedb/demo/pg/archive/{LINEAGE}/tail/{NAME}/{name}.zst");
    let whole = store.read(&key, SEGMENT).await.unwrap();
    let mut flipped = whole.to_vec();
    flipped[whole.len() / 2] ^= 1;
    let short = zstd::encode_all(&b"short"[..], 1).unwrap();
    for damaged in [
        flipped,
        whole[..whole.len() - 9].to_vec(),
        short,
        Vec::new(),
    ] {
        store.delete(&key).await.unwrap();
        let payload = PutPayload::from(damaged);
        store.create(&key, payload).await.unwrap();
        let error = archive.fetch_content(NAME).await.unwrap_err();
        assert!(matches!(error, ArchiveError::Damaged { .. }), "{error}");
    }
}

#[tokio::test]
async fn t05_i03_whatever_call_fails_nothing_of_the_segment_in_work_is_told_absent() {
    let faulty = Faulty::new("");
    let store = faulty.store();
    let archive = archive(&store);
    let wal = Wal::of(NAME, &segment(SYSTEM, 1));
    for (from, to) in [(0, 5_000), (5_000, 9_000)] {
        let pushed = archive.push_tail(wal.path(), THIS, piece(1, from, to));
        pushed.await.unwrap();
    }
    // The whole that is looked for first, a list, and two pieces.
    faulty.take_calls();
    archive.fetch_content(NAME).await.unwrap();
    let calls = faulty.take_calls();
    assert!(calls >= 4, "{calls}");
    for call in 0..calls {
        for lost in [false, true] {
            faulty.take_calls();
            if lost {
                faulty.lose(call);
            } else {
                faulty.break_from(call);
            }
            match archive.fetch_content(NAME).await {
                Ok(found) => assert_eq!(found, begun(1, 9_000), "{call} {lost}"),
                Err(error) => assert!(error.is_retryable(), "{call} {lost}: {error}"),
            }
            faulty.mend();
        }
    }
    assert_eq!(archive.fetch_content(NAME).await.unwrap(), begun(1, 9_000));
}

/// A restore point may be called so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_quoted_for_a_configuration_is_read_as_it_was() {
    let value = r"it's a\nb \\ 'c' \101";
    for version in [Version::Old, Version::New] {
        let mut server = Server::create(version, "md5").await;
        server.stop("fast");
        server.configure(&format!("cluster_name = {}", quote_setting(value)));
        server.start().await;
        assert_eq!(server.value("SHOW cluster_name").await, value);
    }
}
