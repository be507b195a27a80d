//! Verification: asked for, carried out, told, and never in the way of a Snapshot.

#![allow(clippy::unwrap_used)]

mod world;

use kube::api::{Patch, PatchParams};
use kubedb_api::{
    Snapshot, labels,
    verification::{Verification, VerificationPhase},
};
use serde_json::{Value, json};
use world::{Cut, World, eventually, killed_at_every_write};

async fn succeeded(world: &World, name: &str) {
    eventually(&format!("{name} Succeeded"), async || {
        let phases = world.phases().await;
        match phases.get(name) {
            Some(phase) if phase.contains("Succeeded") => Ok(()),
            _ => Err(phases),
        }
    })
    .await;
}

async fn ask(world: &World, name: &str, wish: &str) {
    let patch = json!({"metadata": {"annotations": {labels::VERIFY: wish}}});
    let api = world.snapshots();
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
}

/// Waits until its verification is so, and its task gone if it is over.
async fn becomes(world: &World, name: &str, phase: VerificationPhase) -> (Snapshot, Verification) {
    eventually(&format!("{name} {phase:?}"), async || {
        let snapshot = world.snapshots().get(name).await.unwrap();
        let known = snapshot.status.clone().unwrap_or_default().verification;
        match known {
            Some(known) if known.phase == phase && !(phase.is_over() && known.has_task) => {
                Ok((snapshot, *known))
            }
            other => Err(other),
        }
    })
    .await
}

fn verified(snapshot: &Snapshot) -> (String, String, String) {
    let status = snapshot.status.as_ref().unwrap();
    let all: Vec<_> = status
        .conditions
        .iter()
        .filter(|known| known.type_ == "Verified")
        .collect();
    assert_eq!(all.len(), 1);
    let of = |text: &String| text.clone();
    (of(&all[0].status), of(&all[0].reason), of(&all[0].message))
}

fn begun(world: &World, word: &str) -> Vec<String> {
    let begun = world.begun.lock().unwrap();
    let lines = begun.iter().filter(|line| line.contains(word));
    lines.cloned().collect()
}

async fn tasks(world: &World) -> usize {
    let database = world.postgreses().get("pg").await.unwrap();
    database.status.unwrap().tasks.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_for_is_proven_or_refuted_or_neither_and_told_as_such() {
    let mut world = World::new().await;
    world.operate(None).await;
    world.database("pg", Value::Null).await;
    world.snapshot("one", "pg").await;
    succeeded(&world, "one").await;

    ask(&world, "one", "Objects").await;
    let (snapshot, known) = becomes(&world, "one", VerificationPhase::Succeeded).await;
    assert_eq!(
        (known.reason.as_deref(), known.bytes),
        (Some("all of it"), Some(7))
    );
    let (value, reason, message) = verified(&snapshot);
    assert_eq!(
        (&*value, &*reason, &*message),
        ("True", "Succeeded", "Objects: all of it")
    );
    assert_eq!(tasks(&world).await, 0);
    assert_eq!(begun(&world, "Verify"), ["Verify one 2"]);

    // The same wish with another time is another wish; the attempt counts on.
    let damage = "pack 7 is missing";
    world.script.lock().unwrap().damage = Some(damage.to_owned());
    let wish = r#"{"level": "Boot", "query": "SELECT 1", "requested": "2018-02-08T10:53:41Z"}"#;
    ask(&world, "one", wish).await;
    let (snapshot, known) = becomes(&world, "one", VerificationPhase::Failed).await;
    assert_eq!(known.reason.as_deref(), Some(damage));
    assert!(known.damaged);
    assert_eq!(verified(&snapshot).0, "False");
    let status = snapshot.status.unwrap();
    assert_eq!(format!("{:?}", status.phase), "Some(Succeeded)");

    world.script.lock().unwrap().damage = None;
    world.script.lock().unwrap().obstacle = Some("the store is down".to_owned());
    ask(&world, "one", "Pages").await;
    let (snapshot, known) = becomes(&world, "one", VerificationPhase::Inconclusive).await;
    assert_eq!(known.reason.as_deref(), Some("the store is down (3 tries)"));
    assert!(!known.damaged && known.request.query.is_none());
    assert_eq!(verified(&snapshot).0, "Unknown");
    assert_eq!(
        begun(&world, "Verify"),
        [
            "Verify one 2",
            "Verify one 3",
            "Verify one 4",
            "Verify one 5",
            "Verify one 6"
        ]
    );
    let told = world.events().await;
    for line in [
        "one Verifying: Verifying Snapshot: Objects",
        "one SuccessfulVerification: Successfully verified Snapshot (Objects): all of it",
        "pg SuccessfulVerification: Successfully verified Snapshot (Objects): all of it",
        "one VerificationFailed: Verification failed: pack 7 is missing",
        "one VerificationInconclusive: Verification could not be carried out: the store is down (3 tries)",
    ] {
        assert_eq!(told.get(line), Some(&1), "{told:?}");
    }
    // A deletion afterwards takes no report of a verification for its own.
    world
        .snapshots()
        .delete("one", &kube::api::DeleteParams::default())
        .await
        .unwrap();
    eventually("gone", async || {
        let known = world.snapshots().get_opt("one").await.unwrap();
        match known {
            None => Ok(()),
            Some(known) => Err(known.metadata.finalizers),
        }
    })
    .await;
    assert_eq!(begun(&world, "Delete"), ["Delete one 7"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_due_goes_first_and_the_verification_comes_after() {
    let mut world = World::new().await;
    world.operate(None).await;
    world.database("pg", Value::Null).await;
    world.snapshot("one", "pg").await;
    succeeded(&world, "one").await;
    world.script.lock().unwrap().verifies = false;
    ask(&world, "one", "Boot").await;
    becomes(&world, "one", VerificationPhase::Running).await;
    eventually("a verification in work", async || {
        let begun = begun(&world, "Verify one");
        if begun.is_empty() { Err(begun) } else { Ok(()) }
    })
    .await;
    world.script.lock().unwrap().ends = false;
    world.snapshot("two", "pg").await;
    let (_, known) = becomes(&world, "one", VerificationPhase::Pending).await;
    assert_eq!((known.yields, known.tries), (1, 0));
    eventually("two begun", async || {
        let begun = begun(&world, "Backup two");
        if begun.is_empty() { Err(begun) } else { Ok(()) }
    })
    .await;
    let (_, known) = becomes(&world, "one", VerificationPhase::Pending).await;
    assert!(
        known
            .reason
            .unwrap()
            .contains("Snapshot two of the same database")
    );
    world.script.lock().unwrap().ends = true;
    world.script.lock().unwrap().verifies = true;
    succeeded(&world, "two").await;
    let (_, known) = becomes(&world, "one", VerificationPhase::Succeeded).await;
    assert_eq!(known.yields, 1);
    assert_eq!(begun(&world, "Verify"), ["Verify one 2", "Verify one 3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_snapshot_of_a_schedule_is_verified_as_the_schedule_says() {
    let mut world = World::new().await;
    world.operate(None).await;
    let schedule = json!({"cronExpression": "@every 1h", "verify": {"level": "Pages"}});
    world.database("pg", schedule).await;
    let name = eventually("a Snapshot", async || {
        let phases = world.phases().await;
        phases.keys().next().cloned().ok_or(phases)
    })
    .await;
    let (snapshot, known) = becomes(&world, &name, VerificationPhase::Succeeded).await;
    assert_eq!(format!("{:?}", known.request.level), "Pages");
    assert_eq!(verified(&snapshot).0, "True");
}

/// A life with a verification in it. Returns how much the operator wrote.
async fn life(cut: Option<Cut>) -> usize {
    let mut world = World::new().await;
    world.operate(None).await;
    world.database("pg", Value::Null).await;
    world.snapshot("one", "pg").await;
    // Written out: a future that holds a closure of its own cannot be sent to another thread.
    while !world.phases().await["one"].contains("Succeeded") {
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    }
    world.operate(cut).await;
    ask(&world, "one", "Objects").await;
    let end = std::time::Instant::now() + std::time::Duration::from_secs(90);
    let snapshot = loop {
        if world.traffic().is_dead {
            world.operate(None).await;
        }
        let snapshot = world.snapshots().get("one").await.unwrap();
        let known = snapshot.status.clone().unwrap().verification;
        let is_done = known
            .as_ref()
            .is_some_and(|known| known.phase == VerificationPhase::Succeeded && !known.has_task);
        if is_done && tasks(&world).await == 0 {
            break snapshot;
        }
        assert!(std::time::Instant::now() < end, "{known:?}");
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    };
    assert_eq!(verified(&snapshot).0, "True");
    let told = world.events().await;
    let line = "one SuccessfulVerification: Successfully verified Snapshot (Objects): all of it";
    assert_eq!(told.get(line), Some(&1), "{told:?}");
    world.traffic().writes.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_killed_at_any_write_of_a_verification_ends_it_once() {
    killed_at_every_write(5, life).await;
}
