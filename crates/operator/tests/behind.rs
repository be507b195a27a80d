//! An API server under load tells of changes later than they come: what the operator makes of watches that are behind.

#![allow(clippy::unwrap_used)]

mod world;

use std::time::{Duration, Instant};

use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kubedb_api::postgres::PostgresPhase;
use serde_json::{Value, json};
use world::{World, eventually, postgres};

/// Whatever is decided on the cache meets another's change, and so would every later try. Seen with a thousand databases.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_that_are_behind_the_heartbeats_keep_no_work_from_being_done() {
    let mut world = World::new().await;
    world.slow.lock().unwrap().watches = Duration::from_millis(1_500);
    world.operate(None).await;
    for name in ["a", "b", "c"] {
        world
            .database(name, json!({"cronExpression": "@every 6h"}))
            .await;
    }
    world.all_are("Succeeded", 3).await;
    let traffic = world.traffic();
    let writes = traffic.writes.len();
    assert!(
        traffic.conflicts * 2 < writes,
        "{} of {writes} writes met another's change",
        traffic.conflicts
    );
}

/// Three heartbeats that were not told of are no proof that none came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_words_are_told_late_is_not_taken_for_dead() {
    let mut world = World::new().await;
    world.script.lock().unwrap().ends = false;
    world.operate(None).await;
    world
        .database("pg", json!({"cronExpression": "@every 6h"}))
        .await;
    eventually("a backup under way", async || {
        let phases = world.phases().await;
        if phases.values().any(|phase| phase.contains("Running")) {
            Ok(())
        } else {
            Err(phases)
        }
    })
    .await;
    world.slow.lock().unwrap().is_stuck = true;
    let told = world.events().await;
    // Silence of 30 s counts as the end of an attempt, of 35 s as that of an instance.
    let end = Instant::now() + Duration::from_secs(40);
    while Instant::now() < end {
        let status = world.postgreses().get("pg").await.unwrap().status.unwrap();
        let ready = (status.phase, status.ready_replicas);
        assert_eq!(ready, (Some(PostgresPhase::Running), Some(1)));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(world.events().await, told);
    world.slow.lock().unwrap().is_stuck = false;
    world.script.lock().unwrap().ends = true;
    world.all_are("Succeeded", 1).await;
    let begun = world.begun.lock().unwrap().clone();
    assert_eq!(begun.len(), 1, "{begun:?}");
}

/// Waits until the metrics have a line that begins so.
async fn measured(world: &World, line: &str) {
    eventually(line, async || {
        let text = world.metrics.text();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        let is_there = lines.iter().any(|known| known.starts_with(line));
        if is_there { Ok(()) } else { Err(lines) }
    })
    .await;
}

/// Somebody made it and thought better of it, before the operator heard of either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_before_it_was_looked_at_is_no_failure() {
    let mut world = World::new().await;
    world.slow.lock().unwrap().watches = Duration::from_secs(3);
    let api = world.postgreses();
    let create = async |name: &str| {
        let made = postgres(name, Value::Null);
        api.create(&PostParams::default(), &made).await.unwrap();
    };
    // No agent runs, so nobody but the operator changes anything.
    create("first").await;
    world.operate(None).await;
    let reconciles = |result: &str| {
        format!(r#"kubedb_operator_reconciles_total{{controller="Postgres",result="{result}"}}"#)
    };
    // From here on it hears of databases by its watch alone.
    measured(&world, &reconciles("success")).await;
    create("pg").await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    api.delete("pg", &DeleteParams::default()).await.unwrap();
    measured(&world, &reconciles("conflict")).await;
    measured(&world, "kubedb_operator_failing_objects 0").await;
    let text = world.metrics.text();
    assert!(!text.contains(r#"result="error""#), "{text}");
}

/// Nobody looks at it again, so nobody would say that it goes well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_failed_until_it_was_taken_away_does_not_count_as_failing() {
    let mut world = World::new().await;
    world.script.lock().unwrap().breakage = Some("no processes left".to_owned());
    world.operate(None).await;
    let api = world.postgreses();
    let made = postgres("pg", Value::Null);
    api.create(&PostParams::default(), &made).await.unwrap();
    measured(&world, "kubedb_operator_failing_objects 1").await;
    api.delete("pg", &DeleteParams::default()).await.unwrap();
    let none = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    api.patch("pg", &PatchParams::default(), &none)
        .await
        .unwrap();
    measured(&world, "kubedb_operator_failing_objects 0").await;
}
