//! The operator is killed at every single write of a database's life with Snapshots, before and after the write reaches the
//! API, and goes on each time as if nothing had happened.

#![allow(clippy::unwrap_used)]

mod world;

use jiff::{SignedDuration, Timestamp};
use kube::{ResourceExt as _, api::DeleteParams};
use kubedb_core::names::scheduled_snapshot;
use serde_json::json;
use world::{Cut, World, killed_at_every_write};

/// Begins another operator when the present one was killed.
async fn tend(world: &mut World) {
    if world.traffic().is_dead {
        world.operate(None).await;
    }
}

/// Waits for all Snapshots to be as said, and keeps an operator running.
async fn until(world: &mut World, what: &str, succeeded: usize, most: usize) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(90);
    loop {
        tend(world).await;
        let phases = world.phases().await;
        let good = phases
            .values()
            .filter(|phase| phase.contains("Succeeded"))
            .count();
        if good == succeeded && phases.len() == succeeded {
            return;
        }
        assert!(std::time::Instant::now() < end, "no {what}: {phases:?}");
        assert!(phases.len() <= most, "{what}: {phases:?}");
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    }
}

/// The whole life; returns the writes of an operator that was not killed.
async fn live(cut: Option<Cut>) -> usize {
    let mut world = World::new().await;
    world.operate(cut).await;
    world
        .database("pg", json!({"cronExpression": "@every 1h"}))
        .await;
    until(&mut world, "Snapshot at once", 1, 1).await;
    let first = world.all_snapshots().await[0].name_any();

    // The next tick comes: the schedule's last two hours are made to have passed.
    let last = Timestamp::from_second(Timestamp::now().as_second() - 7_000).unwrap();
    let tick = last + SignedDuration::from_hours(1);
    world
        .status(
            "pg",
            json!({"lastScheduleTime": last, "nextScheduleTime": tick}),
        )
        .await;
    until(&mut world, "Snapshot of the tick", 2, 2).await;
    let names: Vec<_> = world.phases().await.into_keys().collect();
    let of_tick = scheduled_snapshot("pg", tick);
    assert!(names.contains(&of_tick), "{names:?} has no {of_tick}");

    world.snapshot("instant", "pg").await;
    until(&mut world, "instant Snapshot", 3, 3).await;
    let api = world.snapshots();
    api.delete("instant", &DeleteParams::default())
        .await
        .unwrap();
    until(&mut world, "deletion", 2, 3).await;
    settle(&mut world).await;
    check(&world, &[&first, &of_tick], tick).await;
    let traffic = world.traffic();
    traffic.writes.len()
}

/// Nothing is left of any task.
async fn settle(world: &mut World) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        tend(world).await;
        let database = world.postgreses().get("pg").await.unwrap();
        let status = database.status.unwrap();
        let labels = world.all_snapshots().await;
        let is_labelled = |snapshot: &kubedb_api::Snapshot| {
            snapshot
                .labels()
                .contains_key(kubedb_api::labels::SNAPSHOT_STATUS)
        };
        let reports = status.instances.values().map(|known| known.tasks.len());
        if status.tasks.is_empty()
            && status.pending_schedule_time.is_none()
            && !labels.iter().any(is_labelled)
            && reports.sum::<usize>() == 0
        {
            return;
        }
        assert!(std::time::Instant::now() < end, "{status:?} {labels:?}");
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    }
}

async fn check(world: &World, snapshots: &[&str], tick: Timestamp) {
    let status = world.postgreses().get("pg").await.unwrap().status.unwrap();
    assert_eq!(status.last_schedule_time, Some(tick));
    let begun = world.begun.lock().unwrap().clone();
    for name in [snapshots[0], snapshots[1], "instant"] {
        let backup = format!("Backup {name} 1");
        let count = begun.iter().filter(|line| **line == backup).count();
        assert_eq!(count, 1, "{backup}: {begun:?}");
    }
    let more = begun
        .iter()
        .filter(|line| line.starts_with("Backup"))
        .count();
    assert_eq!(more, 3, "{begun:?}");
    assert!(begun.iter().any(|line| line.starts_with("Delete instant ")));

    let events = world.events().await;
    let mut expected = vec![
        ("pg Successful: Successfully created Postgres".to_owned(), 1),
        ("pg Starting: Backup running".to_owned(), 3),
        (
            "pg SuccessfulSnapshot: Successfully completed snapshot".to_owned(),
            3,
        ),
        ("pg WipingOut: Wiping out Snapshot: instant".to_owned(), 1),
        (
            "pg SuccessfulWipeOut: Successfully wiped out Snapshot: instant".to_owned(),
            1,
        ),
        (
            "instant WipingOut: Wiping out Snapshot: instant".to_owned(),
            1,
        ),
        (
            "instant SuccessfulWipeOut: Successfully wiped out Snapshot: instant".to_owned(),
            1,
        ),
    ];
    for name in [snapshots[0], snapshots[1], "instant"] {
        expected.push((format!("{name} Starting: Backup running"), 1));
        expected.push((
            format!("{name} SuccessfulSnapshot: Successfully completed snapshot"),
            1,
        ));
    }
    let expected: std::collections::BTreeMap<_, _> = expected.into_iter().collect();
    assert_eq!(events, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_write_makes_no_snapshot_and_loses_none() {
    killed_at_every_write(30, live).await;
}
