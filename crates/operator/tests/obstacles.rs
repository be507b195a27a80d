//! Deletion, restore and limits: what is in the way is told, and nothing hangs.

#![allow(clippy::unwrap_used)]

mod world;

use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use kubedb_api::{Postgres, Snapshot};
use kubedb_core::turns::Limits;
use serde_json::{Value, json};
use world::{World, eventually, postgres};

async fn phase(world: &World, name: &str, phase: &str) -> Snapshot {
    eventually(&format!("{name} {phase}"), async || {
        let snapshot = world.snapshots().get(name).await.unwrap();
        let status = snapshot.status.clone().unwrap_or_default();
        match status.phase {
            Some(is) if format!("{is:?}") == phase => Ok(snapshot),
            _ => Err(status),
        }
    })
    .await
}

async fn delete(world: &World, name: &str) {
    let api = world.snapshots();
    api.delete(name, &DeleteParams::default()).await.unwrap();
}

async fn gone(world: &World, name: &str) {
    eventually(&format!("{name} gone"), async || {
        match world.snapshots().get_opt(name).await.unwrap() {
            None => Ok(()),
            Some(snapshot) => Err(snapshot.status),
        }
    })
    .await;
}

/// Waits for the reason of a Snapshot to say something.
async fn says(world: &World, name: &str, words: &str) {
    eventually(words, async || {
        let status = world.snapshots().get(name).await.unwrap().status;
        let reason = status.unwrap_or_default().reason.unwrap_or_default();
        if reason.contains(words) {
            Ok(())
        } else {
            Err(reason)
        }
    })
    .await;
}

async fn retain(world: &World, name: &str) {
    let patch = Patch::Merge(json!({"spec": {"deletionPolicy": "Retain"}}));
    let api = world.snapshots();
    api.patch(name, &PatchParams::default(), &patch)
        .await
        .unwrap();
}

fn begun(world: &World, word: &str) -> Vec<String> {
    let begun = world.begun.lock().unwrap();
    let lines = begun.iter().filter(|line| line.contains(word));
    lines.cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_snapshot_is_cancelled_and_then_deleted() {
    let mut world = World::new().await;
    world.operate(None).await;
    world.database("pg", Value::Null).await;
    world.script.lock().unwrap().ends = false;
    world.snapshot("one", "pg").await;
    phase(&world, "one", "Running").await;
    eventually("begun", async || {
        let begun = begun(&world, "Backup one");
        if begun.is_empty() { Err(begun) } else { Ok(()) }
    })
    .await;
    delete(&world, "one").await;
    eventually("deletion begun", async || {
        let begun = begun(&world, "Delete one 2");
        if begun.is_empty() { Err(begun) } else { Ok(()) }
    })
    .await;
    world.script.lock().unwrap().ends = true;
    gone(&world, "one").await;
    assert_eq!(begun(&world, "one"), ["Backup one 1", "Delete one 2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_refuses_is_told_once_and_retain_is_the_way_out() {
    let mut world = World::new().await;
    world.operate(None).await;
    world.database("pg", Value::Null).await;
    world.snapshot("one", "pg").await;
    phase(&world, "one", "Succeeded").await;
    world.script.lock().unwrap().refusal = Some("bucket \"kubedb\" does not exist".to_owned());
    delete(&world, "one").await;
    says(&world, "one", "bucket \"kubedb\" does not exist").await;
    let snapshot = world.snapshots().get("one").await.unwrap();
    let condition = &snapshot.status.unwrap().conditions[0];
    assert_eq!(
        (condition.type_.as_str(), condition.status.as_str()),
        ("DataDeleted", "False")
    );
    assert!(condition.message.contains("spec.deletionPolicy to Retain"));
    let told = world.events().await;
    let told: Vec<_> = told
        .iter()
        .filter(|(line, _)| line.contains("Failed to wipeOut"))
        .collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(*told[0].1, 1);
    retain(&world, "one").await;
    gone(&world, "one").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_database_a_snapshot_is_deleted_by_the_platform() {
    let mut world = World::new().await;
    world.operate(None).await;
    world.database("pg", Value::Null).await;
    for name in ["one", "two", "three"] {
        world.snapshot(name, "pg").await;
        phase(&world, name, "Succeeded").await;
    }
    let api = world.postgreses();
    api.delete("pg", &DeleteParams::default()).await.unwrap();
    eventually("database gone", async || {
        let known = world.postgreses().get_opt("pg").await.unwrap();
        known.map_or(Ok(()), |known| Err(known.metadata.finalizers))
    })
    .await;
    delete(&world, "one").await;
    gone(&world, "one").await;
    assert_eq!(begun(&world, "deletes"), ["Platform deletes one"]);
    let told = world.events().await;
    assert_eq!(
        told.get("one WipingOut: Wiping out Snapshot: one"),
        Some(&1)
    );
    let done = "one SuccessfulWipeOut: Successfully wiped out Snapshot: one";
    assert_eq!(told.get(done), Some(&1));

    world.script.lock().unwrap().refusal = Some("bucket \"kubedb\" does not exist".to_owned());
    for name in ["two", "three"] {
        delete(&world, name).await;
        says(&world, name, "bucket \"kubedb\" does not exist").await;
        says(&world, name, "spec.deletionPolicy to Retain").await;
    }
    retain(&world, "two").await;
    gone(&world, "two").await;
    world.script.lock().unwrap().refusal = None;
    gone(&world, "three").await;
    assert!(begun(&world, "Delete ").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_namespace_that_goes_away_the_data_stays() {
    let mut world = World::new().await;
    world.operate(None).await;
    world.database("pg", Value::Null).await;
    world.snapshot("one", "pg").await;
    phase(&world, "one", "Succeeded").await;
    world.end_namespace().await;
    assert!(begun(&world, "Delete").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_waits_for_its_snapshot_and_for_consent() {
    let mut world = World::new().await;
    world.namespace("other").await;
    world.operate(None).await;
    let others: Api<Postgres> = Api::namespaced(world.client.clone(), "other");
    let mut copy = postgres("copy", Value::Null);
    copy.metadata.namespace = Some("other".to_owned());
    copy.spec.init =
        serde_json::from_value(json!({"snapshotSource": {"namespace": "demo", "name": "one"}}))
            .unwrap();
    others.create(&PostParams::default(), &copy).await.unwrap();
    let reason = async |words: &str| {
        eventually(words, async || {
            let status = others.get("copy").await.unwrap().status.unwrap_or_default();
            let reason = status.reason.clone().unwrap_or_default();
            if reason.contains(words) {
                Ok(status)
            } else {
                Err(reason)
            }
        })
        .await
    };
    let missing = reason("Snapshot one to restore does not exist").await;
    assert_eq!(missing.bootstrap, None);
    world.database("pg", Value::Null).await;
    world.snapshot("one", "pg").await;
    let refused = reason("does not allow namespace other (spec.allowedNamespaces)").await;
    assert_eq!(format!("{:?}", refused.phase), "Some(Failed)");
    assert_eq!(refused.bootstrap, None);
    phase(&world, "one", "Succeeded").await;
    let consent = Patch::Merge(json!({"spec": {"allowedNamespaces": ["other"]}}));
    let api = world.snapshots();
    api.patch("one", &PatchParams::default(), &consent)
        .await
        .unwrap();
    eventually("source", async || {
        let status = others.get("copy").await.unwrap().status.unwrap_or_default();
        match status.bootstrap {
            Some(source) if source.snapshot == "one" => Ok(()),
            other => Err(other),
        }
    })
    .await;
    // What is being restored from stays until that is over.
    delete(&world, "one").await;
    says(
        &world,
        "one",
        "Postgres other/copy is being restored from it",
    )
    .await;
    others
        .delete("copy", &DeleteParams::default())
        .await
        .unwrap();
    gone(&world, "one").await;
}

/// Databases, each with a Snapshot.
async fn one_of_each(world: &mut World, names: impl IntoIterator<Item = impl AsRef<str>>) {
    for name in names {
        let name = name.as_ref();
        world.database(name, Value::Null).await;
        world.snapshot(&format!("of-{name}"), name).await;
    }
}

/// How many Snapshots are told these words.
async fn told(world: &World, words: &str) -> usize {
    let all = world.all_snapshots().await;
    let told = all.iter().filter(|snapshot| {
        let reason = snapshot.status.clone().unwrap_or_default().reason;
        reason.is_some_and(|reason| reason.contains(words))
    });
    told.count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_run_at_once_than_may() {
    let mut world = World::new().await;
    world.script.lock().unwrap().ends = false;
    let limits = Limits {
        running_max: 2,
        running_per_store_max: 2,
    };
    world.operate_with(None, limits).await;
    one_of_each(&mut world, ["a", "b", "c", "d"]).await;
    let counts = async || {
        let phases = world.phases().await;
        let running = phases.values().filter(|phase| phase.contains("Running"));
        (running.count(), phases)
    };
    eventually("two Running, two told to wait", async || {
        let (running, phases) = counts().await;
        assert!(running <= 2, "{phases:?}");
        let waiting = told(&world, "2 Snapshots run, and no more may").await;
        if running == 2 && waiting == 2 {
            Ok(())
        } else {
            Err(phases)
        }
    })
    .await;
    world.script.lock().unwrap().ends = true;
    eventually("all", async || {
        let (running, phases) = counts().await;
        assert!(running <= 2, "{phases:?}");
        let all = phases.values().all(|phase| phase.contains("Succeeded"));
        if all { Ok(()) } else { Err(phases) }
    })
    .await;
}

/// By itself each looks every 20 s: a dozen would take minutes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_its_turn_is_called_when_another_ends() {
    let mut world = World::new().await;
    world.script.lock().unwrap().ends = false;
    let limits = Limits {
        running_max: 1,
        running_per_store_max: 1,
    };
    world.operate_with(None, limits).await;
    one_of_each(&mut world, (0..12).map(|number| format!("pg{number}"))).await;
    eventually("a line", async || {
        let told = told(&world, "no more may at once").await;
        if told == 11 { Ok(()) } else { Err(told) }
    })
    .await;
    world.script.lock().unwrap().ends = true;
    world.all_are("Succeeded", 12).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_others_took_cost_no_tick() {
    let mut world = World::new().await;
    world.operate(None).await;
    world
        .database("pg", json!({"cronExpression": "@every 1h"}))
        .await;
    world.database("other", Value::Null).await;
    eventually("first", async || {
        let phases = world.phases().await;
        if phases.len() == 1 {
            Ok(())
        } else {
            Err(phases)
        }
    })
    .await;
    let last = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() - 7_000).unwrap();
    let tick = last + jiff::SignedDuration::from_hours(1);
    let taken = kubedb_core::names::scheduled_snapshot("pg", tick);
    world.snapshot(&taken, "other").await;
    phase(&world, &taken, "Succeeded").await;
    world
        .status(
            "pg",
            json!({"lastScheduleTime": last, "nextScheduleTime": tick}),
        )
        .await;
    let beside = kubedb_core::names::scheduled_snapshot_beside("pg", tick, 1);
    eventually("beside", async || {
        let phases = world.phases().await;
        if phases.contains_key(&beside) {
            Ok(())
        } else {
            Err(phases)
        }
    })
    .await;
    assert_eq!(
        phase(&world, &beside, "Succeeded").await.spec.database_name,
        "pg"
    );
    assert_eq!(world.phases().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_refuses_is_told_in_its_words_until_it_does_not() {
    let mut world = World::new().await;
    let words = "statefulsets.apps \"pg\" is forbidden: exceeded quota: small";
    world.script.lock().unwrap().quota = Some(words.to_owned());
    world.operate(None).await;
    world.database("pg", Value::Null).await;
    let api = world.postgreses();
    let applied = async || {
        let status = api.get("pg").await.unwrap().status.unwrap_or_default();
        let condition = status
            .conditions
            .iter()
            .find(|known| known.type_ == "Applied");
        (condition.cloned(), status)
    };
    let told = eventually("a condition", async || {
        let (condition, status) = applied().await;
        condition.ok_or(status)
    })
    .await;
    let whole = format!("failed to apply StatefulSet demo/pg: {words}");
    assert_eq!((&*told.status, &*told.reason), ("False", "Refused"));
    assert_eq!(told.message, whole);
    let (_, status) = applied().await;
    assert_eq!(status.reason.as_ref(), Some(&whole));
    // Looked at again, it is told once.
    let patch = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    let any = PatchParams::default();
    api.patch("pg", &any, &patch).await.unwrap();
    let (again, _) = applied().await;
    assert_eq!(
        again.unwrap().last_transition_time,
        told.last_transition_time
    );
    let events = world.events().await;
    assert_eq!(
        events.get(&format!("pg Failed: {whole}")),
        Some(&1),
        "{events:?}"
    );

    world.script.lock().unwrap().quota = None;
    eventually("no condition", async || {
        let (condition, status) = applied().await;
        let runs = status.phase.map(|phase| format!("{phase:?}"));
        match (condition, runs.as_deref()) {
            (None, Some("Running")) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_secret_is_missing_waits_aside_and_takes_its_turn_when_it_is_there() {
    let mut world = World::new().await;
    world.operate(None).await;
    world.database("pg", Value::Null).await;
    let aside: Snapshot = serde_json::from_value(json!({
        "apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot",
        "metadata": {"name": "aside", "namespace": "demo"},
        "spec": {"databaseName": "pg", "storageSecretName": "later", "gcs": {"bucket": "kubedb"}},
    }))
    .unwrap();
    let api = world.snapshots();
    api.create(&PostParams::default(), &aside).await.unwrap();
    says(&world, "aside", "secrets \"later\" not found").await;
    world.snapshot("one", "pg").await;
    phase(&world, "one", "Succeeded").await;
    // Neither does it keep a tick of a schedule that has what it needs.
    let schedule = json!({"spec": {"backupSchedule":
        {"cronExpression": "@every 1h", "local": {"mountPath": "/repo", "hostPath": {"path": "/tmp"}}}}});
    let api = world.postgreses();
    api.patch("pg", &PatchParams::default(), &Patch::Merge(schedule))
        .await
        .unwrap();
    eventually("a scheduled one", async || {
        let phases = world.phases().await;
        let done = phases.values().filter(|phase| phase.contains("Succeeded"));
        if done.count() == 2 {
            Ok(())
        } else {
            Err(phases)
        }
    })
    .await;
    let waiting = phase(&world, "aside", "Pending").await.status.unwrap();
    let condition = &waiting.conditions[0];
    assert_eq!(
        (&*condition.type_, &*condition.status, &*condition.reason),
        ("CanStart", "False", "SecretMissing")
    );
    let secret: k8s_openapi::api::core::v1::Secret =
        serde_json::from_value(json!({"metadata": {"name": "later"}})).unwrap();
    let secrets: Api<k8s_openapi::api::core::v1::Secret> =
        Api::namespaced(world.client.clone(), "demo");
    secrets
        .create(&PostParams::default(), &secret)
        .await
        .unwrap();
    let done = phase(&world, "aside", "Succeeded").await.status.unwrap();
    assert!(done.conditions.is_empty(), "{:?}", done.conditions);
    assert_eq!(begun(&world, "Backup").len(), 3);
}
