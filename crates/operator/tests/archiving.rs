//! Databases whose WAL is archived: the first Snapshot, what is told of the archive, and what is recovered from it.

#![allow(clippy::unwrap_used)]

mod world;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use kubedb_api::{Postgres, PostgresStatus};
use serde_json::{Value, json};
use world::{Cut, World, eventually, killed_at_every_write};

async fn status(world: &World, name: &str) -> PostgresStatus {
    let found = world.postgreses().get(name).await.unwrap();
    found.status.unwrap_or_default()
}

/// Waits for the status of a database to be so.
async fn until(world: &World, name: &str, what: &str, is_so: impl Fn(&PostgresStatus) -> bool) {
    let is_so = &is_so;
    eventually(what, async || {
        let status = status(world, name).await;
        if is_so(&status) { Ok(()) } else { Err(status) }
    })
    .await;
}

fn archiving(status: &PostgresStatus) -> Option<(&str, &str)> {
    let known = status.conditions.iter();
    let mut known = known.filter(|known| known.type_ == "Archiving");
    known
        .next()
        .map(|known| (known.status.as_str(), known.message.as_str()))
}

async fn create(world: &World, name: &str, init: Value) {
    let mut database = json!(world::postgres(name, Value::Null));
    database["spec"]["init"] = init;
    let database: Postgres = serde_json::from_value(database).unwrap();
    let api = world.postgreses();
    api.create(&PostParams::default(), &database).await.unwrap();
}

/// One life with a first Snapshot; returns the writes of an operator that was not killed.
async fn live(cut: Option<Cut>) -> usize {
    let mut world = World::new().await;
    world.operate(cut).await;
    world.archived("pg", Value::Null).await;
    let end = std::time::Instant::now() + Duration::from_secs(90);
    loop {
        if world.traffic().is_dead {
            world.operate(None).await;
        }
        let phases = world.phases().await;
        assert!(phases.len() <= 1, "{phases:?}");
        let is_made = phases.values().any(|phase| phase.contains("Succeeded"));
        let status = status(&world, "pg").await;
        let is_known = status.earliest_restorable_time.is_some();
        if is_made && is_known && status.tasks.is_empty() && status.first_snapshot.is_none() {
            break;
        }
        assert!(std::time::Instant::now() < end, "{phases:?} {status:?}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let name = world.all_snapshots().await[0].name_any();
    let told = format!(
        "pg FirstSnapshot: There is no Snapshot that the archive could be replayed from: Snapshot {name} is made"
    );
    let events = world.events().await;
    let firsts = events
        .iter()
        .filter(|(line, _)| line.contains("FirstSnapshot"));
    let firsts: Vec<_> = firsts.collect();
    assert_eq!(firsts, [(&told, &1)]);
    let begun = world.begun.lock().unwrap().clone();
    assert_eq!(begun, [format!("Backup {name} 1")]);
    world.traffic().writes.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_write_makes_one_first_snapshot() {
    killed_at_every_write(15, live).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_schedule_or_anybody_may_have_made_the_first() {
    let mut world = World::new().await;
    world.operate(None).await;
    world
        .archived("pg", json!({"cronExpression": "@every 6h"}))
        .await;
    a_window(&world).await;
    // Two looks later there is still the one of the schedule alone.
    world.operate(None).await;
    until(&world, "pg", "no task", |status| status.tasks.is_empty()).await;
    assert_eq!(world.phases().await.len(), 1);
    let events = world.events().await;
    assert!(
        !events.keys().any(|line| line.contains("FirstSnapshot")),
        "{events:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_snapshot_that_fails_is_tried_again_after_a_pause() {
    let mut world = World::new().await;
    world.script.lock().unwrap().failure = Some("bucket gone".to_owned());
    world.operate(None).await;
    world.archived("pg", Value::Null).await;
    world.all_are("Failed", 1).await;
    let first = status(&world, "pg").await.first_snapshot.unwrap();
    assert_eq!((first.tries, first.pending), (1, false));
    assert_eq!(status(&world, "pg").await.earliest_restorable_time, None);
    // The pause passes: what was decided and what failed is made to have been earlier.
    let name = world.all_snapshots().await[0].name_any();
    eventually("another second", async || {
        let now = Timestamp::now();
        if now.as_second() > first.time.as_second() {
            Ok(())
        } else {
            Err(now)
        }
    })
    .await;
    let earlier = first.time - SignedDuration::from_mins(5);
    let patch = Patch::Merge(json!({ "status": { "completionTime": earlier } }));
    let api = world.snapshots();
    api.patch_status(&name, &PatchParams::default(), &patch)
        .await
        .unwrap();
    world.script.lock().unwrap().failure = None;
    world
        .status("pg", json!({ "firstSnapshot": { "time": earlier } }))
        .await;
    a_window(&world).await;
    until(&world, "pg", "nothing to remember", |status| {
        status.first_snapshot.is_none()
    })
    .await;
    assert_eq!(world.phases().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_archiving_goes_is_told_and_an_archive_that_goes_on_is_quiet() {
    let mut world = World::new().await;
    world.operate(None).await;
    let report = |world: &World, archive: Value| {
        world.script.lock().unwrap().archive = Some(archive);
    };
    world.archived("pg", Value::Null).await;
    until(&world, "pg", "Unknown", |status| {
        archiving(status) == Some(("Unknown", "the primary has not reported of its archive yet"))
    })
    .await;
    a_window(&world).await;
    let bad = json!({ "failingSince": "2026-11-26T12:00:00Z", "reason": "bucket gone", "waitingSegments": 3 });
    report(&world, bad);
    until(&world, "pg", "False", |status| {
        archiving(status) == Some(("False", "bucket gone (since 2026-11-26T12:00:00Z)"))
    })
    .await;
    let now = Timestamp::now();
    let covered = |seconds: i64| json!({ "failingSince": null, "reason": null, "coveredTime": now + SignedDuration::from_secs(seconds) });
    report(&world, covered(300));
    until(&world, "pg", "True", |status| {
        archiving(status).is_some_and(|(status, _)| status == "True")
            && status.latest_restorable_time == Some(now + SignedDuration::from_secs(300))
    })
    .await;
    let events = world.events().await;
    for line in [
        "pg ArchiveFailing: Failed to archive WAL. Reason: bucket gone",
        "pg ArchiveRecovered: WAL is archived again",
    ] {
        assert_eq!(events.get(line), Some(&1), "{events:?}");
    }
    // It moves with every heartbeat, and by less than a minute nobody writes it down.
    until(&world, "pg", "no task", |status| status.tasks.is_empty()).await;
    let mut before = world.traffic();
    for step in 0..10 {
        report(&world, covered(301 + step));
        let seen = now + SignedDuration::from_secs(301 + step);
        until(&world, "pg", "the report", |status| {
            let archive = status.instances["pg-0"].archive.as_ref();
            archive.and_then(|archive| archive.covered_time) == Some(seen)
        })
        .await;
        if step == 4 {
            before = world.traffic();
        }
    }
    let after = world.traffic();
    assert_eq!(after.writes, before.writes);
    report(&world, covered(400));
    // Whoever begins anew looks at once; else it is the next look that finds it.
    world.operate(None).await;
    until(&world, "pg", "a later time", |status| {
        status.latest_restorable_time == Some(now + SignedDuration::from_secs(400))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_archive_of_a_snapshot_is_found_with_its_database_paused_or_not() {
    let world = archived_world().await;
    let snapshot = world.all_snapshots().await[0].name_any();
    let init = json!({ "snapshotSource": { "name": snapshot, "target": { "xid": 700 } } });
    create(&world, "copy", init.clone()).await;
    let resolved = |status: &PostgresStatus| {
        let source = status.bootstrap.as_ref();
        source.is_some_and(|source| source.recovery.is_some())
    };
    until(&world, "copy", "a source", resolved).await;
    let source = status(&world, "copy").await.bootstrap.unwrap();
    let recovery = source.recovery.unwrap();
    assert_eq!(
        (source.snapshot, source.database.as_str()),
        (snapshot.clone(), "pg")
    );
    assert_eq!(
        (recovery.namespace.as_str(), recovery.database.as_str()),
        ("demo", "pg")
    );
    assert_eq!(recovery.storage.bucket_label(), "local:/nowhere");
    assert_eq!(recovery.target.xid.as_deref(), Some("700"));
    // Paused, its record says where.
    let api = world.postgreses();
    api.delete("pg", &DeleteParams::default()).await.unwrap();
    eventually("pause", async || match api.get_opt("pg").await.unwrap() {
        None => Ok(()),
        Some(found) => Err(found.status),
    })
    .await;
    create(&world, "paused", init.clone()).await;
    until(&world, "paused", "a source", resolved).await;
    // With the record goes the last word of it.
    let dormants = world.dormants();
    dormants
        .delete("pg", &DeleteParams::default())
        .await
        .unwrap();
    eventually("gone", async || {
        match dormants.get_opt("pg").await.unwrap() {
            None => Ok(()),
            Some(found) => Err(found.status),
        }
    })
    .await;
    create(&world, "gone", init).await;
    until(&world, "gone", "the reason", |status| {
        let reason = status.reason.as_deref().unwrap_or_default();
        reason.contains("Postgres demo/pg is gone") && reason.contains("init.postgresWAL")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_a_database_without_an_archiver_leads_no_further() {
    let mut world = World::new().await;
    world.operate(None).await;
    world.database("pg", Value::Null).await;
    world.snapshot("one", "pg").await;
    let target = json!({ "snapshotSource": { "name": "one", "target": {} } });
    create(&world, "copy", target).await;
    until(&world, "copy", "Failed", |status| {
        let reason = status.reason.as_deref().unwrap_or_default();
        format!("{:?}", status.phase).contains("Failed") && reason.contains("has no spec.archiver")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_is_recovered_from_by_its_path_alone() {
    let mut world = World::new().await;
    world.operate(None).await;
    let init = json!({ "postgresWAL": { "storageSecretName": "minio", "s3": { "bucket": "wal", "prefix": "backups/kubedb/old/pg/archive" },
        "pitr": { "targetTime": "2019-01-07 08:30:00+00", "targetTimeline": 2 } } });
    create(&world, "copy", init).await;
    until(&world, "copy", "a source", |status| {
        status.bootstrap.is_some()
    })
    .await;
    let source = status(&world, "copy").await.bootstrap.unwrap();
    let recovery = source.recovery.unwrap();
    assert_eq!(
        (source.namespace.as_str(), source.database.as_str()),
        ("demo", "pg")
    );
    assert_eq!(
        (source.snapshot.as_str(), source.manifest.as_str()),
        ("", "")
    );
    let s3 = source.storage.s3.unwrap();
    assert_eq!(
        (s3.bucket.as_str(), s3.prefix.as_deref()),
        ("wal", Some("backups"))
    );
    assert_eq!(
        (recovery.namespace.as_str(), recovery.backup_name),
        ("old", None)
    );
    assert_eq!(recovery.target.timeline.as_deref(), Some("2"));
}

/// Waits until something can come back.
async fn a_window(world: &World) {
    until(world, "pg", "a window", |status| {
        status.earliest_restorable_time.is_some()
    })
    .await;
}

/// A database that archives, with its first Snapshot.
async fn archived_world() -> World {
    let mut world = World::new().await;
    world.operate(None).await;
    world.archived("pg", Value::Null).await;
    a_window(&world).await;
    world
}

async fn gone(world: &World, name: &str) {
    eventually("end of the database", async || {
        match world.postgreses().get_opt(name).await.unwrap() {
            None => Ok(()),
            Some(found) => Err(found.status.map(|status| status.reason)),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_wiped_out_takes_the_archive_along() {
    let world = archived_world().await;
    // One that is being recovered from it is waited for.
    let path = json!({ "mountPath": "/nowhere/kubedb/demo/pg/archive", "hostPath": { "path": "/nowhere/kubedb/demo/pg/archive" } });
    create(&world, "copy", json!({ "postgresWAL": { "local": path } })).await;
    until(&world, "copy", "a source", |status| {
        status.bootstrap.is_some()
    })
    .await;
    let api = world.postgreses();
    let wipes = Patch::Merge(json!({ "spec": { "terminationPolicy": "WipeOut" } }));
    api.patch("pg", &PatchParams::default(), &wipes)
        .await
        .unwrap();
    api.delete("pg", &DeleteParams::default()).await.unwrap();
    // The Snapshot itself is read, too, so that it comes first; kept as it is, it is out of the way.
    eventually("the reader told", async || {
        let all = world.all_snapshots().await;
        let told: Vec<_> = all
            .iter()
            .filter_map(|snapshot| snapshot.status.clone()?.reason)
            .collect();
        if told.iter().any(|reason| reason.contains("demo/copy")) {
            Ok(())
        } else {
            Err(told)
        }
    })
    .await;
    let archive = "Platform deletes pg";
    assert!(
        !world
            .begun
            .lock()
            .unwrap()
            .iter()
            .any(|line| line == archive)
    );
    api.delete("copy", &DeleteParams::default()).await.unwrap();
    gone(&world, "copy").await;
    gone(&world, "pg").await;
    let begun = world.begun.lock().unwrap().clone();
    let at = |line: &str| begun.iter().position(|known| known.starts_with(line));
    let (snapshot, archive, volumes) = (
        at("Delete pg-").or_else(|| at("Platform deletes pg-")),
        begun.iter().position(|line| line == archive),
        at("Platform wipes pg"),
    );
    assert!(
        snapshot < archive && archive < volumes && snapshot.is_some(),
        "{begun:?}"
    );
    let events = world.events().await;
    assert!(
        !events.keys().any(|line| line.contains("ArchiveRetained")),
        "{events:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_database_is_wiped_out_with_its_archive_once_the_store_lets_it() {
    let world = archived_world().await;
    let snapshot = world.all_snapshots().await[0].name_any();
    let retain = Patch::Merge(json!({ "spec": { "deletionPolicy": "Retain" } }));
    let snapshots = world.snapshots();
    snapshots
        .patch(&snapshot, &PatchParams::default(), &retain)
        .await
        .unwrap();
    world
        .postgreses()
        .delete("pg", &DeleteParams::default())
        .await
        .unwrap();
    gone(&world, "pg").await;
    let dormants = world.dormants();
    let data = dormants.get("pg").await.unwrap().kept_data();
    assert_eq!(data.lineage.as_deref(), Some("l"));
    let wipe = Patch::Merge(json!({ "spec": { "wipeOut": true } }));
    dormants
        .patch("pg", &PatchParams::default(), &wipe)
        .await
        .unwrap();
    world.script.lock().unwrap().refusal = Some("bucket gone".to_owned());
    dormants
        .delete("pg", &DeleteParams::default())
        .await
        .unwrap();
    eventually("the reason", async || {
        let found = dormants.get("pg").await.unwrap();
        let reason = found
            .status
            .and_then(|status| status.reason)
            .unwrap_or_default();
        if reason.contains("the archive") && reason.contains("bucket gone") {
            Ok(())
        } else {
            Err(reason)
        }
    })
    .await;
    world.script.lock().unwrap().refusal = None;
    // It is tried again by itself, after a pause.
    eventually("end of the record", async || {
        let found = dormants.get_opt("pg").await.unwrap();
        found.map_or(Ok(()), |found| Err(found.status))
    })
    .await;
    let begun = world.begun.lock().unwrap().clone();
    let tried = begun
        .iter()
        .filter(|line| *line == "Platform deletes pg")
        .count();
    assert_eq!(tried, 2, "{begun:?}");
}

/// A database with an archive that is wiped out; returns the writes of an operator that was not killed.
async fn wiped(cut: Option<Cut>) -> usize {
    let mut world = World::new().await;
    world.operate(cut).await;
    let mut database = json!(world::archived("pg", Value::Null));
    database["spec"]["terminationPolicy"] = json!("WipeOut");
    let database: Postgres = serde_json::from_value(database).unwrap();
    let api = world.postgreses();
    api.create(&PostParams::default(), &database).await.unwrap();
    world.agent("pg");
    let end = std::time::Instant::now() + Duration::from_secs(90);
    let mut is_deleted = false;
    while let Some(found) = api.get_opt("pg").await.unwrap() {
        if world.traffic().is_dead {
            world.operate(None).await;
        }
        let status = found.status.unwrap_or_default();
        if !is_deleted && status.earliest_restorable_time.is_some() {
            api.delete("pg", &DeleteParams::default()).await.unwrap();
            is_deleted = true;
        }
        assert!(std::time::Instant::now() < end, "{status:?}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let begun = world.begun.lock().unwrap().clone();
    let at = |wanted: &str| begun.iter().position(|line| line == wanted);
    let (archive, volumes) = (
        at("Platform deletes pg"),
        begun
            .iter()
            .position(|line| line.starts_with("Platform wipes pg")),
    );
    assert!(archive.is_some() && archive < volumes, "{begun:?}");
    assert!(world.all_snapshots().await.is_empty());
    world.traffic().writes.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_write_leaves_no_archive_of_what_is_wiped_out() {
    killed_at_every_write(20, wiped).await;
}
