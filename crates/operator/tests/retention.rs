//! Retention at work: what no rule keeps goes, with its data, and nothing else does.

#![allow(clippy::unwrap_used)]

mod world;

use jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use kubedb_api::{Snapshot, labels};
use kubedb_operator::retention::verdicts;
use serde_json::json;
use world::{World, eventually};

/// Makes the schedule's time come, and waits for its Snapshot. Returns its name.
async fn tick(world: &World, known: &[String]) -> String {
    // Ticks are whole seconds, and the next one is to be later than those known.
    let begun = Timestamp::now().as_second();
    eventually("another second", async || {
        let passed = Timestamp::now().as_second() - begun;
        if passed >= 2 { Ok(()) } else { Err(passed) }
    })
    .await;
    let now = Timestamp::now();
    let ago = |seconds| now - SignedDuration::from_secs(seconds);
    let status = json!({"lastScheduleTime": ago(3_601), "nextScheduleTime": ago(1)});
    world.status("pg", status).await;
    new_one(world, known).await
}

async fn new_one(world: &World, known: &[String]) -> String {
    eventually("another Snapshot", async || {
        let phases = world.phases().await;
        let new = phases
            .iter()
            .find(|(name, phase)| !known.contains(name) && phase.contains("Succeeded"));
        new.map(|(name, _)| name.clone()).ok_or(phases.clone())
    })
    .await
}

async fn annotate(world: &World, snapshot: &str, annotation: &str, value: &str) {
    let patch = json!({"metadata": {"annotations": {annotation: value}}});
    let api = world.snapshots();
    api.patch(snapshot, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
}

async fn retain(world: &World, rules: serde_json::Value) {
    let patch = json!({"spec": {"backupSchedule": {"retention": rules}}});
    let api = world.postgreses();
    api.patch("pg", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
}

async fn only(world: &World, wanted: &[&String]) {
    eventually("only these Snapshots", async || {
        let names: Vec<String> = world.phases().await.into_keys().collect();
        let is_so = names.len() == wanted.len() && wanted.iter().all(|name| names.contains(name));
        if is_so { Ok(()) } else { Err(names) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_rule_keeps_goes_and_the_rest_stays() {
    let mut world = World::new().await;
    world.operate(None).await;
    let schedule = json!({"cronExpression": "@every 1h"});
    world.database("pg", schedule).await;
    let mut made = vec![new_one(&world, &[]).await];
    world.snapshot("by-hand", "pg").await;
    made.push(new_one(&world, &made).await);
    for _ in 0..3 {
        made.push(tick(&world, &made).await);
    }
    let [first, by_hand, second, third, fourth] = &made[..] else {
        panic!("{made:?}")
    };
    annotate(&world, second, labels::PINNED, "true").await;
    // Nothing goes while no rule is set.
    assert_eq!(world.phases().await.len(), 5);

    retain(&world, json!({"keepLast": 1})).await;
    only(&world, &[by_hand, second, fourth]).await;
    let events = world.events().await;
    for gone in [first, third] {
        let event = format!("pg Expired: Retention deletes Snapshot {gone}: no rule keeps it");
        assert_eq!(events.get(&event), Some(&1), "{events:?}");
        let begun = world.begun.lock().unwrap().clone();
        let deletion = format!("Delete {gone} ");
        let is_done = begun.iter().any(|line| line.starts_with(&deletion));
        assert!(is_done, "{begun:?} has no {deletion}");
    }

    // A later one takes the place of the one before; what is not pinned any more goes.
    let fifth = tick(&world, &made).await;
    only(&world, &[by_hand, second, &fifth]).await;
    annotate(&world, second, labels::PINNED, "false").await;
    only(&world, &[by_hand, &fifth]).await;
}

/// What the API holds of a database that was made anew under its name: other data, and Snapshots that are all that is left of the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i06_snapshots_of_an_earlier_database_of_the_name_stay() {
    let mut world = World::new().await;
    world.operate(None).await;
    let schedule = json!({"cronExpression": "@every 1h", "retention": {"keepLast": 1}});
    world.database("pg", schedule).await;
    let first = new_one(&world, &[]).await;
    // Known to hold other data than the database has.
    let api = world.snapshots();
    let patch = json!({"status": {"result": {"lineage": "earlier"}}});
    api.patch_status(&first, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    let second = tick(&world, std::slice::from_ref(&first)).await;
    let third = tick(&world, &[first.clone(), second.clone()]).await;
    only(&world, &[&first, &third]).await;

    // What the command line would say.
    let postgres = world.postgreses().get("pg").await.unwrap();
    let snapshots: Vec<Snapshot> = world.all_snapshots().await;
    let retention = postgres.spec.backup_schedule.clone().unwrap().retention;
    let told = verdicts(
        &retention.unwrap(),
        &postgres,
        &snapshots,
        std::iter::empty(),
    );
    let reason = |name: &str| {
        let verdict = told.iter().find(|verdict| verdict.name == name);
        verdict.map(|verdict| verdict.reason()).unwrap()
    };
    assert_eq!(reason(&first), "not known to be of this database's data");
    assert_eq!(reason(&third), "the newest good one, last #1");
    assert_eq!(snapshots.len(), 2);
}
