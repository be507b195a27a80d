//! What a primary tells by its Lease alone.

#![allow(clippy::unwrap_used, clippy::panic)]

mod world;

use std::time::{Duration, Instant};

use jiff::SignedDuration;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, api::DeleteParams};
use kubedb_api::postgres::PostgresPhase;
use serde_json::json;
use world::{Script, World, eventually};

/// Longer than an instance may be silent.
const LONG: Duration = Duration::from_secs(45);

/// Whether the primary counts as ready, and why not.
async fn state(world: &World) -> (bool, Option<String>) {
    let database = world.postgreses().get("pg").await.unwrap();
    let status = database.status.unwrap_or_default();
    let runs = status.phase == Some(PostgresPhase::Running);
    (runs && status.reason.is_none(), status.reason)
}

async fn becomes(world: &World, wanted: bool) -> Option<String> {
    eventually("change", async || match state(world).await {
        (is_ready, reason) if is_ready == wanted => Ok(reason),
        other => Err(other),
    })
    .await
}

/// A database that is ready and has its first Snapshot, by an agent that does as it is told.
async fn begun(tell: impl FnOnce(&mut Script)) -> World {
    let mut world = World::new().await;
    tell(&mut world.script.lock().unwrap());
    world.operate(None).await;
    world
        .database("pg", json!({"cronExpression": "@every 6h"}))
        .await;
    becomes(&world, true).await;
    world.all_are("Succeeded", 1).await;
    world
}

/// Whatever its clock says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_lives_by_its_lease_as_long_as_it_renews_it() {
    let world = begun(|script| script.skew = SignedDuration::from_hours(-7)).await;
    let renews = |renews| {
        let mut script = world.script.lock().unwrap();
        (script.beats, script.renews) = (false, renews);
    };
    renews(true);
    let end = Instant::now() + LONG;
    while Instant::now() < end {
        assert_eq!(state(&world).await, (true, None));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // Then a Snapshot begins as ever.
    world.snapshot("late", "pg").await;
    world.all_are("Succeeded", 2).await;
    renews(false);
    let reason = becomes(&world, false).await.unwrap();
    assert_eq!(
        reason,
        "the primary is not ready: its agent does not report"
    );
    renews(true);
    let heard = Instant::now();
    becomes(&world, true).await;
    // By the watch, and not by the look of every half minute.
    assert!(heard.elapsed() < Duration::from_secs(15));
}

/// The holder is the same as before, and was heard of a moment ago.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_goes_and_comes_back_is_heard_both_times() {
    let world = begun(|script| script.renews = true).await;
    let leases = Api::<Lease>::namespaced(world.client.clone(), "demo");
    for _ in 0..2 {
        world.script.lock().unwrap().holds = false;
        leases.delete("pg", &DeleteParams::default()).await.unwrap();
        let gone = Instant::now();
        becomes(&world, false).await;
        world.script.lock().unwrap().holds = true;
        becomes(&world, true).await;
        // By the watch, and not by the look of every half minute.
        assert!(gone.elapsed() < Duration::from_secs(20));
    }
}

/// Renewals alone make no work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_cause_neither_writes_nor_reads() {
    let world = begun(|script| script.renews = true).await;
    let before = world.rest().await;
    // A hundred renewals and more.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let after = world.traffic();
    assert_eq!(after.writes, before.writes);
    // At most one look of each half minute falls into this.
    let reads = after.reads - before.reads;
    assert!(reads <= 10, "{reads} reads");
}
