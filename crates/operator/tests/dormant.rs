//! Pausing, resuming and wiping out, with an operator that is killed at every single write of it.

#![allow(clippy::unwrap_used)]

mod world;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures::{FutureExt as _, future::BoxFuture};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use kubedb_api::{DormantDatabase, Postgres, dormant_database::DormantPhase, reasons::VALID};
use serde_json::{Value, json};
use world::{Cut, World, eventually, killed_at_every_write, postgres};

/// Waits, and begins another operator whenever the present one was killed.
async fn until<T>(
    world: &mut World,
    what: &str,
    condition: impl for<'a> Fn(&'a World) -> BoxFuture<'a, Result<T, String>>,
) -> T {
    let end = Instant::now() + Duration::from_secs(90);
    loop {
        if world.traffic().is_dead {
            world.operate(None).await;
        }
        match condition(world).await {
            Ok(value) => return value,
            Err(reason) => assert!(Instant::now() < end, "no {what}: {reason}"),
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

async fn create(world: &World) -> Postgres {
    let api = world.postgreses();
    let wanted = postgres("pg", Value::Null);
    api.create(&PostParams::default(), &wanted).await.unwrap()
}

/// A world with an operator and the database, which runs.
async fn running_world() -> World {
    let mut world = World::new().await;
    world.operate(None).await;
    create(&world).await;
    world.agent("pg");
    running(&mut world).await;
    world
}

async fn running(world: &mut World) -> Postgres {
    until(world, "running database", |world| {
        async move {
            let postgres = world.postgreses().get("pg").await.unwrap();
            let status = postgres.status.clone().unwrap_or_default();
            match status.phase {
                Some(phase) if format!("{phase:?}") == "Running" => Ok(postgres),
                _ => Err(format!("{status:?}")),
            }
        }
        .boxed()
    })
    .await
}

async fn snapshot(world: &mut World, name: &'static str) {
    world.snapshot(name, "pg").await;
    until(world, "Snapshot", |world| {
        async move {
            let phases = world.phases().await;
            match phases.get(name) {
                Some(phase) if phase.contains("Succeeded") => Ok(()),
                _ => Err(format!("{phases:?}")),
            }
        }
        .boxed()
    })
    .await;
}

async fn delete(world: &World) {
    let api = world.postgreses();
    api.delete("pg", &DeleteParams::default()).await.unwrap();
}

/// Deletes the database, and waits for the record of it.
async fn pause(world: &mut World) -> DormantDatabase {
    delete(world).await;
    until(world, "paused database", |world| {
        async move {
            let left = world.postgreses().get_opt("pg").await.unwrap();
            let dormant = world.dormants().get_opt("pg").await.unwrap();
            match (left, dormant) {
                (None, Some(dormant)) if dormant.phase() == Some(DormantPhase::Paused) => {
                    Ok(dormant)
                }
                (left, dormant) => Err(format!(
                    "{:?} {:?}",
                    left.map(|left| left.status),
                    dormant.map(|dormant| dormant.status)
                )),
            }
        }
        .boxed()
    })
    .await
}

async fn no_record(world: &mut World) {
    until(world, "end of the record", |world| {
        async move {
            let dormant = world.dormants().get_opt("pg").await.unwrap();
            dormant.map_or(Ok(()), |dormant| Err(format!("{:?}", dormant.status)))
        }
        .boxed()
    })
    .await;
}

async fn ask_to_wipe_out(world: &World) {
    let patch = Patch::Merge(json!({ "spec": { "wipeOut": true } }));
    let api = world.dormants();
    api.patch("pg", &PatchParams::default(), &patch)
        .await
        .unwrap();
    api.delete("pg", &DeleteParams::default()).await.unwrap();
}

async fn secret(world: &World, name: &str) -> Option<String> {
    let api: Api<Secret> = Api::namespaced(world.client.clone(), "demo");
    api.get_opt(name).await.unwrap()?.uid()
}

fn done(world: &World, word: &str) -> Vec<String> {
    let begun = world.begun.lock().unwrap();
    let lines = begun.iter().filter(|line| line.contains(word));
    lines.cloned().collect()
}

/// A database is made, paused, resumed, paused again and wiped out. Returns the writes of an operator that was not killed.
async fn live(cut: Option<Cut>) -> usize {
    let mut world = World::new().await;
    world.operate(cut).await;
    let first = create(&world).await.uid().unwrap();
    world.agent("pg");
    running(&mut world).await;
    snapshot(&mut world, "one").await;
    let password = secret(&world, "pg-auth").await.unwrap();

    let dormant = pause(&mut world).await;
    let data = dormant.kept_data();
    assert_eq!((&data.uid, data.begun), (&first, true));
    assert!(dormant.status.unwrap().pausing_time.is_some());
    assert_eq!(secret(&world, "pg-auth").await.as_ref(), Some(&password));

    let second = create(&world).await;
    assert_eq!(
        second.spec.database_secret.unwrap().secret_name.unwrap(),
        "pg-auth"
    );
    let resumed = running(&mut world).await.status.unwrap().resumed.unwrap();
    assert_eq!(resumed.uid, first);
    no_record(&mut world).await;
    snapshot(&mut world, "two").await;

    let dormant = pause(&mut world).await;
    assert_eq!(dormant.kept_data().uid, first);
    assert_eq!(dormant.spec.origin.metadata.uid, second.metadata.uid);
    assert_eq!(world.all_snapshots().await.len(), 2);
    assert!(done(&world, "Platform").is_empty());

    ask_to_wipe_out(&world).await;
    no_record(&mut world).await;
    assert!(world.all_snapshots().await.is_empty());
    for name in ["pg-auth", "pg-replication"] {
        assert_eq!(secret(&world, name).await, None, "{name}");
    }
    let wiped = format!("Platform wipes pg {first}");
    assert_eq!(done(&world, "wipes"), [wiped]);
    for name in ["one", "two"] {
        assert!(!done(&world, &format!("Platform deletes {name}")).is_empty());
    }
    check(&world).await;
    let traffic = world.traffic();
    traffic.writes.len()
}

/// Everything was told, and each of it once to each object.
async fn check(world: &World) {
    let events = world.events().await;
    let of_records: BTreeMap<&str, i32> = events
        .iter()
        .filter_map(|(line, count)| {
            let line = line.strip_prefix("pg ")?;
            let told = [
                "Pausing: Pausing Database",
                "SuccessfulPause: Successfully paused Database workload",
                "Resuming: Resuming Database",
                "WipingOut: Wiping out Database",
                "SuccessfulWipeOut: Successfully wiped out Database workload",
            ];
            told.contains(&line).then_some((line, *count))
        })
        .collect();
    assert_eq!(of_records.len(), 5, "{events:?}");
    assert!(of_records.values().all(|count| *count == 1), "{events:?}");
    let failures: Vec<_> = events
        .keys()
        .filter(|line| line.contains(" Failed"))
        .collect();
    assert!(failures.is_empty(), "{failures:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_write_of_a_pause_a_resume_or_a_wipe_out_loses_nothing_and_leaves_nothing() {
    killed_at_every_write(50, live).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletion_does_what_the_policy_says_and_no_more() {
    for policy in ["Delete", "WipeOut"] {
        let mut world = World::new().await;
        world.operate(None).await;
        let mut wanted = postgres("pg", Value::Null);
        wanted.spec.termination_policy = serde_json::from_value(json!(policy)).unwrap();
        let api = world.postgreses();
        let made = api.create(&PostParams::default(), &wanted).await.unwrap();
        world.agent("pg");
        running(&mut world).await;
        snapshot(&mut world, "one").await;
        delete(&world).await;
        until(&mut world, "end of the database", |world| {
            async move {
                let left = world.postgreses().get_opt("pg").await.unwrap();
                left.map_or(Ok(()), |left| Err(format!("{:?}", left.status)))
            }
            .boxed()
        })
        .await;
        assert_eq!(world.dormants().get_opt("pg").await.unwrap(), None);
        let wiped = format!("Platform wipes pg {}", made.uid().unwrap());
        assert_eq!(done(&world, "wipes"), [wiped]);
        let stays = policy == "Delete";
        assert_eq!(world.all_snapshots().await.len(), usize::from(stays));
        assert_eq!(secret(&world, "pg-auth").await.is_some(), stays);
        assert_eq!(done(&world, "Platform deletes one").is_empty(), stays);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_record_alone_goes_and_a_new_database_begins_with_nothing() {
    let mut world = running_world().await;
    snapshot(&mut world, "one").await;
    pause(&mut world).await;
    let api = world.dormants();
    api.delete("pg", &DeleteParams::default()).await.unwrap();
    no_record(&mut world).await;
    assert_eq!(world.all_snapshots().await.len(), 1);
    assert!(secret(&world, "pg-auth").await.is_some());
    assert!(done(&world, "Platform").is_empty());
    create(&world).await;
    let postgres = running(&mut world).await;
    assert_eq!(postgres.status.unwrap().resumed, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_spec_does_not_resume_and_says_so() {
    let mut world = running_world().await;
    pause(&mut world).await;
    let mut other = postgres("pg", Value::Null);
    other.spec.replicas = Some(3);
    let api = world.postgreses();
    let refused = api
        .create(&PostParams::default(), &other)
        .await
        .unwrap_err();
    let words =
        "postgres spec mismatches with OriginSpec in DormantDatabases. Diff: replicas: 1 -> 3";
    assert!(refused.to_string().contains(words), "{refused}");

    // Where admission was passed by: the record comes back after the object.
    let dormants = world.dormants();
    let mut record = dormants.get("pg").await.unwrap();
    world.stop_operator().await;
    let patch = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    let any = PatchParams::default();
    dormants.patch("pg", &any, &patch).await.unwrap();
    dormants
        .delete("pg", &DeleteParams::default())
        .await
        .unwrap();
    api.create(&PostParams::default(), &other).await.unwrap();
    record.metadata.resource_version = None;
    record.metadata.uid = None;
    record.metadata.creation_timestamp = None;
    dormants
        .create(&PostParams::default(), &record)
        .await
        .unwrap();
    world.operate(None).await;
    eventually("a condition", async || {
        let status = api.get("pg").await.unwrap().status.unwrap_or_default();
        let valid = status.conditions.iter().find(|known| known.type_ == VALID);
        match valid {
            Some(valid) if valid.message.contains(words) => Ok(()),
            _ => Err(status),
        }
    })
    .await;
    // What was never begun goes without a trace, and the record stays.
    delete(&world).await;
    eventually("end of the database", async || {
        let left = world.postgreses().get_opt("pg").await.unwrap();
        left.map_or(Ok(()), |left| Err(format!("{:?}", left.status)))
    })
    .await;
    assert!(dormants.get_opt("pg").await.unwrap().is_some());
    assert!(done(&world, "Platform").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_the_name_waits_for_a_wipe_out_and_is_not_touched_by_it() {
    let mut world = running_world().await;
    snapshot(&mut world, "one").await;
    pause(&mut world).await;
    world.script.lock().unwrap().refusal = Some("bucket \"kubedb\" does not exist".to_owned());
    ask_to_wipe_out(&world).await;
    eventually("a reason", async || {
        let status = world.dormants().get("pg").await.unwrap().status.unwrap();
        let reason = status.reason.clone().unwrap_or_default();
        let is_told = reason.contains("Snapshot one") && reason.contains("does not exist");
        let is_told = is_told && status.phase == Some(DormantPhase::WipingOut);
        if is_told { Ok(()) } else { Err(status) }
    })
    .await;
    create(&world).await;
    eventually("a database that waits", async || {
        let status = world.postgreses().get("pg").await.unwrap().status;
        let status = status.unwrap_or_default();
        let reason = status.reason.clone().unwrap_or_default();
        let waits = reason.contains("is being wiped out") && status.creation_time.is_none();
        if waits { Ok(()) } else { Err(status) }
    })
    .await;
    world.script.lock().unwrap().refusal = None;
    no_record(&mut world).await;
    let postgres = running(&mut world).await;
    assert_eq!(postgres.status.unwrap().resumed, None);
    assert!(secret(&world, "pg-auth").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_namespace_that_goes_away_nothing_is_wiped_out() {
    let mut world = running_world().await;
    snapshot(&mut world, "one").await;
    pause(&mut world).await;
    let patch = Patch::Merge(json!({ "spec": { "wipeOut": true } }));
    let dormants = world.dormants();
    let any = PatchParams::default();
    dormants.patch("pg", &any, &patch).await.unwrap();
    world.end_namespace().await;
    assert!(done(&world, "Platform").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_users_secret_stays_and_so_does_one_that_another_database_names() {
    let mut world = running_world().await;
    let mut other = postgres("other", Value::Null);
    other.spec.database_secret =
        Some(serde_json::from_value(json!({ "secretName": "pg-auth" })).unwrap());
    let api = world.postgreses();
    api.create(&PostParams::default(), &other).await.unwrap();
    pause(&mut world).await;
    ask_to_wipe_out(&world).await;
    no_record(&mut world).await;
    assert!(secret(&world, "pg-auth").await.is_some());
    assert_eq!(secret(&world, "pg-replication").await, None);
}
