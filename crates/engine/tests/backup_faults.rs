//! Snapshots when things go wrong: what is left, what is said, and whether the next attempt works.

#![allow(clippy::unwrap_used)]

use std::fs;

use kubedb_engine::{
    backup::{self, BackupError, BackupProgress},
    repository::manifest,
    restore,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

mod buckets;
mod faults;
mod servers;
mod snapshots;

use buckets::FakeGcs;
use faults::Faulty;
use servers::{Server, Version};
use snapshots::{
    assert_kept, assert_lets_go, delete, keys, local, primary_of, promote, request, small_server,
    standby_of, take, uid,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i01_wherever_the_store_dies_the_next_attempt_works_and_deletion_is_exact() {
    let server = small_server().await;
    let faulty = Faulty::new("");
    let store = faulty.store();
    let other = take(request(&server, &store, "other")).await.unwrap();
    let calls = faulty.take_calls();
    assert!((6..40).contains(&calls), "{calls}");
    let of_other = keys(&store).await;

    for call in 0..calls {
        faulty.take_calls();
        faulty.break_from(call);
        let error = take(request(&server, &store, "snap")).await.unwrap_err();
        assert!(error.is_retryable(), "call {call}: {error}");
        assert!(
            error.to_string().contains("faulty:x"),
            "call {call}: {error}"
        );
        faulty.break_from(usize::MAX);
        assert_lets_go(&server).await;
        if call % 3 == 0 {
            let mut again = request(&server, &store, "snap");
            again.attempt = 2;
            let outcome = take(again).await.unwrap();
            manifest::read(&store, &outcome.manifest).await.unwrap();
        }
        delete(&store, "snap").await.unwrap();
        assert_eq!(keys(&store).await, of_other, "call {call}");
    }
    let copy = primary_of(&store, &other, Version::New).await;
    assert_kept(&copy).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wherever_a_deletion_is_cut_off_the_next_one_finishes_it() {
    let server = small_server().await;
    let faulty = Faulty::new("");
    let store = faulty.store();
    take(request(&server, &store, "other")).await.unwrap();
    let of_other = keys(&store).await;
    take(request(&server, &store, "snap")).await.unwrap();
    faulty.take_calls();
    delete(&store, "snap").await.unwrap();
    let calls = faulty.take_calls();
    for call in 0..calls {
        take(request(&server, &store, "snap")).await.unwrap();
        faulty.take_calls();
        if call % 2 == 0 {
            faulty.break_from(call);
        } else {
            faulty.lose(call);
        }
        let cut = delete(&store, "snap").await;
        assert!(
            cut.is_ok() || cut.as_ref().unwrap_err().is_retryable(),
            "{cut:?}"
        );
        faulty.break_from(usize::MAX);
        faulty.lose(usize::MAX);
        delete(&store, "snap").await.unwrap();
        assert_eq!(keys(&store).await, of_other, "call {call}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_looks_for_packs_by_listing_and_one_by_one_where_it_may_not_list() {
    let server = small_server().await;
    server
        .sql_by_socket("CREATE TABLE noise AS SELECT decode(string_agg(md5(random()::text), ''), 'hex') AS b FROM generate_series(1, 3500000) i GROUP BY i / 256")
        .await;
    let faulty = Faulty::new("");
    let store = faulty.store();
    let outcome = take(request(&server, &store, "snap")).await.unwrap();
    let packs = keys(&faulty.bare()).await.into_iter();
    let packs: Vec<_> = packs.filter(|key| key.contains("/packs/")).collect();
    assert!(packs.len() >= 3, "{packs:?}");
    let look = async || {
        faulty.take_questions();
        let seen = restore::outlook(&store, &outcome.manifest, 2).await;
        (seen, faulty.take_questions())
    };
    let (seen, questions) = look().await;
    seen.unwrap();
    assert_eq!(questions, 0);
    faulty.hide();
    let (seen, questions) = look().await;
    seen.unwrap();
    assert_eq!(questions, packs.len());
    faulty.bare().delete(&packs[1]).await.unwrap();
    let says_which = |error: &restore::RestoreError| match error {
        restore::RestoreError::Missing { object, .. } => *object == packs[1],
        _ => false,
    };
    assert!(says_which(&look().await.0.unwrap_err()));
    faulty.mend();
    assert!(says_which(&look().await.0.unwrap_err()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_dies_midway_is_worth_another_attempt() {
    let mut gcs = FakeGcs::start();
    let store = gcs.store("p");
    let server = small_server().await;
    server
        .sql_by_socket("CREATE TABLE big AS SELECT i, md5(i::text) || md5((i + 1)::text) || md5((i + 2)::text) AS t FROM generate_series(1, 600000) i")
        .await;
    let (progress, mut told) = watch::channel(BackupProgress::default());
    let running = tokio::spawn(backup::take(
        request(&server, &store, "snap"),
        progress,
        CancellationToken::new(),
    ));
    told.wait_for(|told| told.done_bytes > 30 << 20)
        .await
        .unwrap();
    gcs.kill();
    let error = running.await.unwrap().unwrap_err();
    assert!(
        error.is_retryable() && error.to_string().contains("gs:kubedb/p"),
        "{error}"
    );
    assert_lets_go(&server).await;
    gcs.restart();
    assert!(matches!(
        take(request(&server, &store, "snap")).await,
        Err(BackupError::AttemptTaken { .. })
    ));
    let mut again = request(&server, &store, "snap");
    again.attempt = 2;
    let outcome = take(again).await.unwrap();
    let copy = primary_of(&store, &outcome, Version::New).await;
    assert_eq!(copy.value("SELECT count(*) FROM big").await, "600000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_backup_leaves_no_slot_no_session_and_no_pack() {
    for version in [Version::New, Version::Old] {
        let server = Server::create(version, "md5").await;
        let faulty = Faulty::new("/packs/");
        let store = faulty.store();
        let cancel = CancellationToken::new();
        let (progress, _told) = watch::channel(BackupProgress::default());
        let running = tokio::spawn(backup::take(
            request(&server, &store, "snap"),
            progress,
            cancel.clone(),
        ));
        faulty.until_waiting().await;
        let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'kubedb_snap_%' AND restart_lsn IS NOT NULL";
        assert_eq!(server.value(slots).await, "1");
        cancel.cancel();
        assert!(matches!(
            running.await.unwrap(),
            Err(BackupError::Cancelled)
        ));
        assert_lets_go(&server).await;
        let left = keys(&store).await;
        assert!(
            left.iter().all(|key| key.contains("/attempt-0001-")),
            "{left:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t14_a_snapshot_deleted_while_it_is_made_does_not_come_back() {
    let server = small_server().await;
    let faulty = Faulty::new("/maps/");
    let store = faulty.store();
    let running = tokio::spawn(take(request(&server, &store, "snap")));
    faulty.until_waiting().await;
    delete(&store, "snap").await.unwrap();
    faulty.open();
    let error = running.await.unwrap().unwrap_err();
    assert!(matches!(error, BackupError::Deleted { .. }), "{error}");
    delete(&store, "snap").await.unwrap();
    assert_eq!(keys(&store).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t02_a_store_that_loses_what_it_took_is_found_before_the_snapshot_counts() {
    let server = small_server().await;
    let faulty = Faulty::new("/maps/");
    let running = tokio::spawn(take(request(&server, &faulty.store(), "snap")));
    faulty.until_waiting().await;
    // Packs are all stored by now, and vanish.
    for key in keys(&faulty.store()).await {
        if key.contains("/packs/") {
            faulty.store().delete(&key).await.unwrap();
        }
    }
    faulty.open();
    let error = running.await.unwrap().unwrap_err();
    assert!(matches!(error, BackupError::Lost { .. }), "{error}");
    assert!(
        error.is_retryable() && error.to_string().contains("/packs/"),
        "{error}"
    );
    assert!(
        !keys(&faulty.store())
            .await
            .iter()
            .any(|key| key.contains("/manifest-"))
    );
}

/// What a killed writer left half written in a folder goes with its Snapshot, and no other's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t15_half_written_files_go_with_their_snapshot_and_no_others() {
    let server = small_server().await;
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let other = take(request(&server, &store, "other")).await.unwrap();
    let of_other = keys(&store).await;
    let taken = take(request(&server, &store, "snap")).await.unwrap();
    let root = folder.path().join("kubedb/demo/pg");
    let (ours, others) = (uid("snap"), uid("other"));
    let half = |key: String| {
        let path = root.join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "half").unwrap();
        path
    };
    let doomed = [
        half(format!("packs/{ours}/00ff#1")),
        half(format!("maps/{ours}/00ff#12")),
        half(format!("snapshots/snap/manifest-0002-{ours}.json#1")),
    ];
    let kept = [
        half(format!("packs/{others}/00ff#1")),
        half(format!("snapshots/snap/manifest-0001-{others}.json#1")),
    ];
    assert!(taken.manifest.contains("/snap/"));
    delete(&store, "snap").await.unwrap();
    assert!(doomed.iter().all(|path| !path.exists()) && kept.iter().all(|path| path.exists()));
    assert_eq!(keys(&store).await, of_other);
    manifest::read(&store, &other.manifest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_meanwhile_ends_a_standbys_backup() {
    let server = small_server().await;
    let faulty = Faulty::new("/none/");
    let first = take(request(&server, &faulty.store(), "first"))
        .await
        .unwrap();
    let standby = standby_of(&faulty.store(), &first, Version::New, "").await;
    let (progress, mut told) = watch::channel(BackupProgress::default());
    let slow = Faulty::new("/packs/");
    // More than three packs: two may be under way, so the backup waits for the store before its end.
    fs::write(standby.data.join("noise"), noise(120 << 20)).unwrap();
    servers::hand_over(&standby.data);
    let running = tokio::spawn(backup::take(
        request(&standby, &slow.store(), "snap"),
        progress,
        CancellationToken::new(),
    ));
    slow.until_waiting().await;
    told.wait_for(|told| told.done_bytes > 0).await.unwrap();
    promote(&standby).await;
    slow.open();
    let error = running.await.unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            BackupError::TimelineChanged { .. } | BackupError::Interrupted { .. }
        ),
        "{error}"
    );
    assert!(error.is_retryable(), "{error}");
    let mut again = request(&standby, &slow.store(), "snap");
    again.attempt = 2;
    assert_eq!(take(again).await.unwrap().timeline, 2);
}

/// Bytes that do not compress, the same every time.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}
