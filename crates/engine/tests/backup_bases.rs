//! Which Snapshots are referred to, and which are not, by real servers and buckets in a state that nobody wishes for.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use kubedb_engine::{
    backup::{BackupOutcome, BackupRequest},
    postgres::reset,
    repository::manifest,
    store::Store,
};

mod buckets;
mod faults;
mod servers;
mod snapshots;

use faults::Faulty;
use servers::{Server, Version};
use snapshots::{
    assert_kept, delete, let_follow, local, primary_of, promote, request, restore_into, since,
    small_server, standby_of, take, why_whole,
};

async fn restores(store: &Store, outcome: &BackupOutcome) {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    restore_into(&data, Version::New, store, &outcome.manifest)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t14_a_base_deleted_at_any_moment_costs_an_attempt_at_most() {
    let server = small_server().await;
    let faulty = Faulty::new("");
    let bare = faulty.bare();
    take(request(&server, &bare, "base")).await.unwrap();
    take(request(&server, &faulty.store(), "first"))
        .await
        .unwrap();
    let calls = faulty.take_calls();
    delete(&bare, "first").await.unwrap();
    let mut failed = 0;
    for call in (0..calls).step_by(2) {
        faulty.take_calls();
        faulty.pause_at(call);
        let running = tokio::spawn(take(request(&server, &faulty.store(), "snap")));
        faulty.until_paused().await;
        delete(&bare, "base").await.unwrap();
        faulty.go_on();
        let outcome = match running.await.unwrap() {
            Ok(outcome) => outcome,
            Err(error) => {
                assert!(error.is_retryable(), "{call}: {error}");
                failed += 1;
                let mut again = request(&server, &bare, "snap");
                again.attempt = 2;
                let outcome = take(again).await.unwrap();
                assert_eq!(why_whole(&outcome), "there is no earlier Snapshot");
                outcome
            }
        };
        restores(&bare, &outcome).await;
        take(request(&server, &bare, "base")).await.unwrap();
        delete(&bare, "snap").await.unwrap();
    }
    assert!(failed > 0);
    delete(&bare, "base").await.unwrap();
    assert_eq!(bare.list("kubedb").await.unwrap(), []);
}

/// Some object of a kind, of this Snapshot.
fn object(folder: &Path, kind: &str, snapshot: &str) -> std::path::PathBuf {
    let folder = folder.join("kubedb/demo/pg");
    let within = match kind {
        "manifest" => folder.join("snapshots").join(snapshot),
        kind => folder.join(kind).join(snapshots::uid(snapshot)),
    };
    let found = fs::read_dir(within).unwrap();
    let mut found = found.map(|entry| entry.unwrap().path());
    found
        .find(|path| kind != "manifest" || path.to_str().unwrap().contains("/manifest-"))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t16_a_base_that_is_spoilt_or_of_another_history_is_not_referred_to() {
    let server = small_server().await;
    type Change = fn(&Path, &mut BackupRequest);
    let changes: [(&str, Change, &str); 5] = [
        (
            "a pack is gone",
            |folder, _| fs::remove_file(object(folder, "packs", "one")).unwrap(),
            "is gone or not whole",
        ),
        (
            "a map is gone",
            |folder, _| fs::remove_file(object(folder, "maps", "one")).unwrap(),
            "is gone or not whole",
        ),
        (
            "a map is spoilt",
            |folder, _| {
                let map = object(folder, "maps", "one");
                let mut bytes = fs::read(&map).unwrap();
                bytes[40] ^= 1;
                fs::write(map, bytes).unwrap();
            },
            "does not fit its hash",
        ),
        (
            "the manifest is cut",
            |folder, _| fs::write(object(folder, "manifest", "one"), "{").unwrap(),
            "it is no whole JSON",
        ),
        (
            "another lineage",
            |_, request| request.lineage = "another".to_owned(),
            "it is of an earlier database of this name",
        ),
    ];
    for (name, change, reason) in changes {
        let folder = tempfile::tempdir().unwrap();
        let store = local(folder.path());
        take(request(&server, &store, "one")).await.unwrap();
        let mut second = request(&server, &store, "two");
        change(folder.path(), &mut second);
        let outcome = take(second).await.unwrap();
        let why = why_whole(&outcome);
        assert!(
            why.starts_with("one cannot be referred to: "),
            "{name}: {why}"
        );
        assert!(why.contains(reason), "{name}: {why}");
        restores(&store, &outcome).await;
        let mut third = request(&server, &store, "three");
        if name == "another lineage" {
            third.lineage = "another".to_owned();
        }
        assert_eq!(since(&take(third).await.unwrap()), "two", "{name}");
    }
}

/// A writer that dies right after its manifest leaves one that looks whole and protects nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t14_a_manifest_whose_writer_did_not_look_back_is_no_base() {
    let server = small_server().await;
    let faulty = Faulty::new("");
    let bare = faulty.bare();
    take(request(&server, &bare, "one")).await.unwrap();
    let taken = take(request(&server, &faulty.store(), "two"))
        .await
        .unwrap();
    assert_eq!(since(&taken), "one");
    let calls = faulty.take_calls();
    // The last two are the look and the removal of the intent.
    faulty.break_from(calls - 2);
    take(request(&server, &faulty.store(), "three"))
        .await
        .unwrap_err();
    faulty.mend();
    let manifests = bare.list("kubedb/demo/pg/snapshots/three").await.unwrap();
    assert!(
        manifests
            .iter()
            .any(|found| found.key.contains("/manifest-"))
    );
    let next = take(request(&server, &bare, "four")).await.unwrap();
    assert_eq!(since(&next), "two");
    for gone in ["one", "two", "three"] {
        delete(&bare, gone).await.unwrap();
        restores(&bare, &next).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t16_a_database_made_anew_under_its_number_is_not_the_old_one() {
    let server = Server::create(Version::New, "scram-sha-256").await;
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    server
        .sql_by_socket("CREATE DATABASE old OID = 20000 STRATEGY file_copy TEMPLATE template0")
        .await;
    server
        .sql_in(
            "old",
            "CREATE TABLE t AS SELECT i, 'old' AS v FROM generate_series(1, 20000) i",
        )
        .await;
    server
        .sql_by_socket("CREATE DATABASE other STRATEGY file_copy TEMPLATE old")
        .await;
    server.sql_in("other", "UPDATE t SET v = 'new'").await;
    server.sql_in("other", "VACUUM t").await;
    take(request(&server, &store, "one")).await.unwrap();
    // Files of the same names, of other content, whose pages are older than the first Snapshot.
    server.sql_by_socket("DROP DATABASE old").await;
    server
        .sql_by_socket("CREATE DATABASE old OID = 20000 STRATEGY file_copy TEMPLATE other")
        .await;
    let two = take(request(&server, &store, "two")).await.unwrap();
    assert_eq!(since(&two), "one");
    let copy = primary_of(&store, &two, Version::New).await;
    let rows = "SELECT count(*) FROM t WHERE v = 'new'";
    assert_eq!(copy.value_in("old", rows).await, "20000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t16_promotions_and_standbys_refer_to_what_they_came_by() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let primary = small_server().await;
    let write = |server: &'static str| {
        format!(
            "CREATE TABLE IF NOT EXISTS log (t text); INSERT INTO log SELECT '{server}' FROM generate_series(1, 3000)"
        )
    };
    let one = take(request(&primary, &store, "one")).await.unwrap();
    let follow = let_follow(&primary).await;
    let standby = standby_of(&store, &one, Version::New, &follow).await;
    primary.sql_by_socket(&write("both")).await;

    let asked = |server: &Server, name: &str, reached: &str| {
        let mut asked = request(server, &store, name);
        asked.minimum_lsn = Some(reached.parse().unwrap());
        asked
    };
    let position = snapshots::dialect(Version::New).current_lsn();
    let reached = primary.value(&position).await;
    let two = take(asked(&standby, "two", &reached)).await.unwrap();
    assert_eq!(since(&two), "one");
    // Nothing happens, so the standby begins where it did, before the end of the one that it refers to.
    let three = take(asked(&standby, "three", &reached)).await.unwrap();
    assert_eq!(since(&three), "two");
    assert!(three.start_lsn < two.stop_lsn && three.stop_lsn >= two.stop_lsn);
    // The primary's Snapshot ends behind what the standby has written to disk.
    primary.sql_by_socket(&write("both")).await;
    let of_primary = take(request(&primary, &store, "of-primary")).await.unwrap();
    assert_eq!(since(&of_primary), "three");
    let reached = primary.value(&position).await;
    let after = take(asked(&standby, "after", &reached)).await.unwrap();
    assert_eq!(since(&after), "of-primary");
    assert!(after.stop_lsn >= of_primary.stop_lsn);

    promote(&standby).await;
    standby.sql_by_socket(&write("new")).await;
    let four = take(request(&standby, &store, "four")).await.unwrap();
    assert_eq!((since(&four), four.timeline), ("after", 2));
    // The old primary goes on by itself, beyond where the new one left its timeline.
    primary.sql_by_socket(&write("old")).await;
    let five = take(request(&primary, &store, "five")).await.unwrap();
    assert_eq!((since(&five), five.timeline), ("after", 1));
    standby.sql_by_socket(&write("new")).await;
    let six = take(request(&standby, &store, "six")).await.unwrap();
    assert_eq!(since(&six), "four");

    for gone in ["one", "two", "three", "of-primary", "after", "four"] {
        delete(&store, gone).await.unwrap();
    }
    let rows = "SELECT string_agg(t || n, ' ' ORDER BY t) FROM (SELECT t, count(*) AS n FROM log GROUP BY t) g";
    for (outcome, wanted) in [(&five, "both6000 old3000"), (&six, "both6000 new6000")] {
        let copy = primary_of(&store, outcome, Version::New).await;
        assert_eq!(copy.value(rows).await, wanted);
        assert_kept(&copy).await;
    }
    let manifest = manifest::read(&store, &six.manifest).await.unwrap();
    assert_eq!(manifest.base.unwrap().snapshot, "four");
}

/// What only a spoilt manifest named goes a day later, with the next deletion.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i05_what_nobody_answers_for_goes_after_a_day() {
    let server = small_server().await;
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    take(request(&server, &store, "one")).await.unwrap();
    let two = take(request(&server, &store, "two")).await.unwrap();
    delete(&store, "one").await.unwrap();
    fs::write(folder.path().join(&two.manifest), "spoilt").unwrap();
    let kept = take(request(&server, &store, "kept")).await.unwrap();
    assert!(why_whole(&kept).contains("two"));
    delete(&store, "two").await.unwrap();
    let of_one = async || {
        let listed = store.list("kubedb/demo/pg").await.unwrap();
        let of_one = |found: &kubedb_engine::store::Listed| {
            found.key.contains(&format!("/{}/", snapshots::uid("one")))
        };
        listed.into_iter().filter(of_one).collect::<Vec<_>>()
    };
    let orphans = of_one().await;
    assert!(!orphans.is_empty());
    // Nothing is touched that somebody may be about to need.
    take(request(&server, &store, "next")).await.unwrap();
    delete(&store, "next").await.unwrap();
    assert_eq!(of_one().await, orphans);
    let yesterday = std::time::SystemTime::now() - std::time::Duration::from_secs(90_000);
    let listed = store.list("kubedb/demo/pg").await.unwrap();
    for found in listed {
        let file = fs::File::options()
            .append(true)
            .open(folder.path().join(&found.key));
        file.unwrap().set_modified(yesterday).unwrap();
    }
    take(request(&server, &store, "last")).await.unwrap();
    delete(&store, "last").await.unwrap();
    assert_eq!(of_one().await, []);
    restores(&store, &kept).await;
    delete(&store, "kept").await.unwrap();
    assert_eq!(store.list("kubedb").await.unwrap(), []);
}

/// PostgreSQL's own tool, which nobody should need: what it lost may be in an earlier Snapshot and not in the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t16_after_pg_resetwal_nothing_from_before_is_referred_to() {
    let mut server = small_server().await;
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let dialect = snapshots::dialect(Version::New);
    take(request(&server, &store, "one")).await.unwrap();
    // A stop, a crash and a switch of segments are no reset.
    for mode in ["fast", "immediate"] {
        server.value("SELECT pg_switch_wal()").await;
        server.stop(mode);
        assert_eq!(reset::note(&server.data, dialect).unwrap(), None, "{mode}");
        server.start().await;
    }
    let two = take(request(&server, &store, "two")).await.unwrap();
    assert_eq!(since(&two), "one");
    server.stop("immediate");
    server.reset_wal();
    let began = reset::note(&server.data, dialect).unwrap().unwrap();
    assert_eq!(reset::read(&server.data), Some(began));
    server.start().await;
    server.sql_by_socket("CHECKPOINT").await;
    server.stop("fast");
    assert_eq!(reset::note(&server.data, dialect).unwrap(), None);
    server.start().await;
    let three = take(request(&server, &store, "three")).await.unwrap();
    assert!(why_whole(&three).contains("pg_resetwal was run since"));
    let four = take(request(&server, &store, "four")).await.unwrap();
    assert_eq!(since(&four), "three");
    assert_kept(&primary_of(&store, &four, Version::New).await).await;
    // A note that says nothing speaks against all.
    fs::write(server.data.join(reset::RESET_FILE), "?").unwrap();
    let five = take(request(&server, &store, "five")).await.unwrap();
    assert!(why_whole(&five).contains("pg_resetwal was run since"));
}
