//! What the operator does when nothing happens, when it is restarted, and when clocks are wrong.

#![allow(clippy::unwrap_used)]

mod world;

use std::{collections::BTreeSet, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kube::{
    ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use world::{World, eventually};

async fn change(world: &World, spec: Value) {
    let patch = Patch::Merge(json!({ "spec": spec }));
    let api = world.postgreses();
    api.patch("pg", &PatchParams::default(), &patch)
        .await
        .unwrap();
}

/// Next time of the schedule once `is_so` likes it.
async fn next(world: &World, is_so: impl Fn(Option<Timestamp>) -> bool) -> Option<Timestamp> {
    let is_so = &is_so;
    eventually("next time", async || {
        let status = world.postgreses().get("pg").await.unwrap().status.unwrap();
        let next = status.next_schedule_time;
        if is_so(next) { Ok(next) } else { Err(next) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_cause_neither_writes_nor_reads() {
    let mut world = World::new().await;
    world.operate(None).await;
    world
        .database("pg", json!({"cronExpression": "@every 6h"}))
        .await;
    world.all_are("Succeeded", 1).await;
    let before = world.rest().await;
    let heartbeat = async || {
        let status = world.postgreses().get("pg").await.unwrap().status.unwrap();
        status.instances["pg-0"].heartbeat_time
    };
    let mut beats = BTreeSet::new();
    eventually("ten heartbeats", async || {
        beats.insert(heartbeat().await);
        if beats.len() > 10 {
            Ok(())
        } else {
            Err(beats.len())
        }
    })
    .await;
    let after = world.traffic();
    assert_eq!(after.writes, before.writes, "nothing changed");
    // One look of each half minute at most falls into this; ten heartbeats would be fifty requests.
    let reads = after.reads - before.reads;
    assert!(reads <= 10, "{reads} reads for 10 heartbeats");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_and_edits_make_no_snapshot_and_move_no_tick() {
    let mut world = World::new().await;
    world.operate(None).await;
    world
        .database("pg", json!({"cronExpression": "@every 6h"}))
        .await;
    let first = world.all_are("Succeeded", 1).await;
    let due = next(&world, |next| next.is_some()).await;
    for _ in 0..3 {
        world.operate(None).await;
        // Four kinds are listed and watched; whatever else is read is read by a look.
        eventually("look", async || {
            let reads = world.traffic().reads;
            if reads > 8 { Ok(()) } else { Err(reads) }
        })
        .await;
        assert_eq!(next(&world, |next| next.is_some()).await, due);
    }
    // Another expression counts from the same anchor.
    change(
        &world,
        json!({"backupSchedule": {"cronExpression": "@every 2h"}}),
    )
    .await;
    let sooner = next(&world, |next| next < due).await.unwrap();
    let moved = due.unwrap().duration_since(sooner);
    assert_eq!(moved, SignedDuration::from_hours(4));
    change(&world, json!({"backupSchedule": {"suspend": true}})).await;
    next(&world, |next| next.is_none()).await;
    change(&world, json!({"backupSchedule": {"suspend": null}})).await;
    assert_eq!(next(&world, |next| next.is_some()).await, Some(sooner));
    assert_eq!(world.all_are("Succeeded", 1).await, first);
    // Removed it stops, added again it begins with one at once.
    change(&world, json!({"backupSchedule": null})).await;
    next(&world, |next| next.is_none()).await;
    assert_eq!(world.all_are("Succeeded", 1).await, first);
    // Names carry whole seconds: within one, the Snapshot that is there is the one.
    eventually("another second", async || {
        let name = kubedb_core::names::scheduled_snapshot("pg", Timestamp::now());
        if first.contains(&name) {
            Err(name)
        } else {
            Ok(())
        }
    })
    .await;
    let again = world::postgres("pg", json!({"cronExpression": "@every 6h"})).spec;
    change(
        &world,
        json!({"backupSchedule": json!(again)["backupSchedule"]}),
    )
    .await;
    assert!(world.all_are("Succeeded", 2).await.is_superset(&first));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t26_an_agent_whose_clock_is_off_by_hours_is_believed() {
    for hours in [-5, 5] {
        let mut world = World::new().await;
        {
            let mut script = world.script.lock().unwrap();
            script.skew = SignedDuration::from_hours(hours);
            script.rounds = 40;
        }
        world.operate(None).await;
        world
            .database("pg", json!({"cronExpression": "@every 6h"}))
            .await;
        world.all_are("Succeeded", 1).await;
        let begun = world.begun.lock().unwrap().clone();
        assert_eq!(begun.len(), 1, "{hours} h: {begun:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tick_beside_an_active_snapshot_is_skipped_with_one_event_and_instant_ones_take_turns() {
    let mut world = World::new().await;
    world.operate(None).await;
    world
        .database("pg", json!({"cronExpression": "@every 6h"}))
        .await;
    world.all_are("Succeeded", 1).await;
    world.script.lock().unwrap().ends = false;
    for name in ["a", "b", "c"] {
        world.snapshot(name, "pg").await;
    }
    let phase = async |name: &str| world.phases().await[name].clone();
    eventually("a Running, b Pending", async || {
        let both = (phase("a").await, phase("b").await);
        let is_so = both.0.contains("Running") && both.1.contains("Pending");
        if is_so { Ok(()) } else { Err(both) }
    })
    .await;
    let last = Timestamp::from_second(Timestamp::now().as_second() - 30_000).unwrap();
    let tick = last + SignedDuration::from_hours(6);
    world
        .status(
            "pg",
            json!({"lastScheduleTime": last, "nextScheduleTime": tick}),
        )
        .await;
    next(&world, |next| next > Some(Timestamp::now())).await;
    let skipped = "pg IgnoredSnapshot: Skipping scheduled Backup. One is still active.";
    assert_eq!(world.events().await.get(skipped), Some(&1));
    world.script.lock().unwrap().ends = true;
    assert_eq!(world.all_are("Succeeded", 4).await.len(), 4);
    let mut spans: Vec<_> = world
        .all_snapshots()
        .await
        .iter()
        .map(|snapshot| {
            let status = snapshot.status.clone().unwrap();
            (
                status.start_time,
                status.completion_time,
                snapshot.name_any(),
            )
        })
        .collect();
    spans.sort();
    for pair in spans.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "two at once: {spans:?}");
    }
    let order: Vec<_> = spans.iter().skip(1).map(|span| span.2.as_str()).collect();
    assert_eq!(order, ["a", "b", "c"]);
}

/// All of them wait for the same cache: none may be forgotten when it is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_database_is_looked_at_after_a_start_whichever_list_comes_last() {
    let mut world = World::new().await;
    let names: Vec<String> = (0..6).map(|number| format!("pg{number}")).collect();
    for name in &names {
        world
            .database(name, json!({"cronExpression": "@every 6h"}))
            .await;
    }
    world.slow.lock().unwrap().lists = Duration::from_millis(300);
    world.operate(None).await;
    eventually("a look at every database", async || {
        let mut missed = Vec::new();
        for name in &names {
            let found = world.postgreses().get(name).await.unwrap();
            if found.status.is_none_or(|status| status.phase.is_none()) {
                missed.push(name.clone());
            }
        }
        if missed.is_empty() {
            Ok(())
        } else {
            Err(missed)
        }
    })
    .await;
}
