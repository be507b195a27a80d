//! What nobody needs of a store is found and deleted, and nothing else, whatever goes on beside it.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, fs, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kubedb_core::prune::What;
use kubedb_engine::{
    archive::Archive,
    repository::{
        keys::DatabaseFolder,
        manifest,
        prune::{DatabasePrune, carry_out, find},
    },
    store::Store,
};

mod servers;
mod snapshots;

use servers::Version;
use snapshots::{assert_kept, keys, local, primary_of, request, small_server, take, uid};

const DAY: SignedDuration = SignedDuration::from_hours(24);

/// As a day later.
fn tomorrow() -> Timestamp {
    Timestamp::now() + DAY + SignedDuration::from_hours(1)
}

async fn plan(store: &Store, now: Timestamp) -> DatabasePrune {
    let mut found = find(store, now, DAY).await.unwrap();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

fn goes(prune: &DatabasePrune) -> Vec<String> {
    let name = |what: &What| match what {
        What::Unfinished { snapshot, .. } => format!("unfinished {snapshot}"),
        What::HalfDeleted { snapshot, .. } => format!("half {snapshot}"),
        What::Leftovers { snapshot, .. } => format!("left {snapshot}"),
        What::Orphans { uid } => format!("orphans {uid}"),
    };
    prune
        .plan
        .goes
        .iter()
        .map(|item| name(&item.what))
        .collect()
}

async fn set(store: &Store) -> BTreeSet<String> {
    keys(store).await.into_iter().collect()
}

async fn put(store: &Store, key: &str) {
    store
        .create(&format!("kubedb/demo/pg/{key}"), "something".into())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t14_what_dead_attempts_left_goes_and_snapshots_stay() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let server = small_server().await;
    let first = take(request(&server, &store, "first")).await.unwrap();
    let second = take(request(&server, &store, "second")).await.unwrap();
    assert_eq!(snapshots::since(&second), "first");
    let good = set(&store).await;
    assert_eq!(goes(&plan(&store, tomorrow()).await), [""; 0]);

    // An attempt that was killed, one beside a complete one, a deletion that was cut off, and what a spoilt manifest has named.
    put(&store, "snapshots/half/attempt-0001-u1.json").await;
    put(&store, "packs/u1/00aa").await;
    put(&store, "maps/u1/00ab").await;
    put(
        &store,
        &format!("snapshots/second/attempt-0000-{}.json", uid("second")),
    )
    .await;
    put(&store, &format!("packs/{}/00ac", uid("second"))).await;
    put(&store, "packs/u2/00ad").await;
    put(&store, "snapshots/gone/deleting-0001-u3.json").await;
    put(&store, "packs/u3/00ae").await;
    // Not ours.
    put(&store, "packs/u4/notes.txt").await;
    let own = {
        let mut own = good.clone();
        own.insert("kubedb/demo/pg/packs/u4/notes.txt".to_owned());
        own
    };
    let now = plan(&store, Timestamp::now()).await;
    assert_eq!(goes(&now), [""; 0]);
    assert_eq!(now.plan.stays.len(), 4);
    let later = plan(&store, tomorrow()).await;
    let expected = ["left second", "unfinished half", "orphans u2", "half gone"];
    assert_eq!(goes(&later).len(), expected.len());
    for one in expected {
        assert!(goes(&later).contains(&one.to_owned()), "{one}");
    }
    // A plan changes nothing.
    let before = set(&store).await;
    plan(&store, tomorrow()).await;
    assert_eq!(set(&store).await, before);
    let deleted = carry_out(&store, &later, true, tomorrow()).await.unwrap();
    assert_eq!(set(&store).await, own);
    assert_eq!(deleted.objects, 8);
    assert_eq!(deleted.bytes, 7 * 9);
    assert_eq!(goes(&plan(&store, tomorrow()).await), [""; 0]);
    for outcome in [&first, &second] {
        assert_kept(&primary_of(&store, outcome, Version::New).await).await;
    }

    // The first one's data stays for the second when its manifest goes; then it goes with it.
    snapshots::delete(&store, "first").await.unwrap();
    assert_eq!(goes(&plan(&store, tomorrow()).await), [""; 0]);
    assert_kept(&primary_of(&store, &second, Version::New).await).await;
    // Where a manifest cannot be read, nobody knows.
    let key = folder.path().join(&second.manifest);
    let text = fs::read(&key).unwrap();
    fs::write(&key, &text[..text.len() / 2]).unwrap();
    put(&store, "packs/u2/00ad").await;
    let unknown = plan(&store, tomorrow()).await;
    assert!(unknown.obstacle.is_some() && unknown.plan.goes.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t14_a_plan_that_is_old_deletes_nothing_that_is_needed_by_now() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let server = small_server().await;
    // Of a Snapshot whose first attempt has died.
    let half = format!("snapshots/snap/attempt-0000-{}.json", uid("snap"));
    put(&store, &half).await;
    put(&store, &format!("packs/{}/00aa", uid("snap"))).await;
    let old = plan(&store, tomorrow()).await;
    assert_eq!(goes(&old), ["unfinished snap"]);
    // Its second one has become complete since.
    let outcome = take(request(&server, &store, "snap")).await.unwrap();
    let before = set(&store).await;
    let deleted = carry_out(&store, &old, true, tomorrow()).await.unwrap();
    assert_eq!(deleted.objects, 0);
    assert_eq!(set(&store).await, before);
    assert_kept(&primary_of(&store, &outcome, Version::New).await).await;

    // Orphans of a uid that announces an attempt by now.
    put(&store, "packs/u2/00ad").await;
    let old = plan(&store, tomorrow()).await;
    assert!(goes(&old).contains(&"orphans u2".to_owned()));
    put(&store, "snapshots/late/attempt-0001-u2.json").await;
    carry_out(&store, &old, true, tomorrow()).await.unwrap();
    assert!(set(&store).await.contains("kubedb/demo/pg/packs/u2/00ad"));

    // An intent beside its own manifest says that nobody may refer to that, and stays.
    let mark = format!(
        "kubedb/demo/pg/snapshots/snap/attempt-0001-{}.json",
        uid("snap")
    );
    store.create(&mark, "{}".into()).await.unwrap();
    let now = plan(&store, tomorrow()).await;
    carry_out(&store, &now, true, tomorrow()).await.unwrap();
    assert!(set(&store).await.contains(&mark));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t14_beside_snapshots_in_the_making_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let server = small_server().await;
    let first = take(request(&server, &store, "first")).await.unwrap();
    server
        .sql_by_socket("CREATE TABLE more AS SELECT i, md5(i::text) FROM generate_series(1, 300000) i; CHECKPOINT")
        .await;
    let pruning = async {
        // With a clock that is a day off, so that each attempt seems dead as soon as it has begun.
        for _ in 0..40 {
            for prune in find(&store, tomorrow(), DAY).await.unwrap() {
                carry_out(&store, &prune, true, tomorrow()).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let taking = async {
        let mut taken = Vec::new();
        for number in 0..4 {
            // One that was given up fails, and says why; what counts is whole.
            if let Ok(outcome) = take(request(&server, &store, &format!("snap-{number}"))).await {
                taken.push(outcome);
            }
        }
        taken
    };
    let (taken, ()) = tokio::join!(taking, pruning);
    for outcome in taken.iter().chain([&first]) {
        manifest::read(&store, &outcome.manifest).await.unwrap();
        let place = tempfile::tempdir().unwrap();
        let data = place.path().join("data");
        snapshots::restore_into(&data, Version::New, &store, &outcome.manifest)
            .await
            .unwrap();
    }
    // With a clock that is right none is disturbed.
    let pruning = async {
        for _ in 0..40 {
            for prune in find(&store, Timestamp::now(), DAY).await.unwrap() {
                carry_out(&store, &prune, true, Timestamp::now())
                    .await
                    .unwrap();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let (outcome, ()) = tokio::join!(take(request(&server, &store, "calm")), pruning);
    assert_kept(&primary_of(&store, &outcome.unwrap(), Version::New).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t13_wal_before_the_earliest_snapshot_goes_by_the_users_word() {
    let folder = tempfile::tempdir().unwrap();
    let store = local(folder.path());
    let server = small_server().await;
    // Some segments come and go before the Snapshot begins.
    for _ in 0..3 {
        server
            .sql_by_socket("CREATE TABLE gone (i int); DROP TABLE gone; SELECT pg_switch_wal()")
            .await;
    }
    let outcome = take(request(&server, &store, "snap")).await.unwrap();
    let manifest = manifest::read(&store, &outcome.manifest).await.unwrap();
    let database = DatabaseFolder::new("demo", "pg").unwrap();
    let of = |lineage: &str| {
        Archive::new(
            store.clone(),
            &database,
            lineage,
            outcome.system_identifier,
            16 << 20,
        )
        .unwrap()
    };
    let archive = of(&manifest.lineage);
    let mut names: Vec<String> = fs::read_dir(server.data.join("pg_wal"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.len() == 24)
        .collect();
    names.sort();
    let first = manifest.wal.first().unwrap();
    let before = names.iter().filter(|name| *name < first).count();
    assert!(before > 0);
    let stranger = "0193a0a4-7a6c-7d5e-9a37-2b4f8f3c1d10";
    let stranger_key = format!("kubedb/demo/pg/archive/{stranger}/wal_005/{}.zst", names[0]);
    for name in names.iter().filter(|name| *name <= first) {
        let wal = server.data.join("pg_wal");
        archive.push(&wal, name).await.unwrap();
    }
    store.create(&stranger_key, "theirs".into()).await.unwrap();
    let prune = plan(&store, Timestamp::now()).await;
    assert_eq!(prune.wal.len(), 1);
    assert_eq!(prune.wal[0].unneeded.objects.len(), before);
    let all = set(&store).await;
    carry_out(&store, &prune, false, Timestamp::now())
        .await
        .unwrap();
    assert_eq!(set(&store).await, all);
    let deleted = carry_out(&store, &prune, true, Timestamp::now())
        .await
        .unwrap();
    assert_eq!(deleted.objects as usize, before);
    assert_eq!(deleted.bytes, prune.wal[0].unneeded.bytes());
    let left = set(&store).await;
    assert_eq!(left.len(), all.len() - before);
    // What the Snapshot needs is there, and of a lineage without Snapshots all.
    assert!(
        left.iter()
            .any(|key| key.ends_with(&format!("{first}.zst")))
    );
    assert!(left.contains(&stranger_key));
}
