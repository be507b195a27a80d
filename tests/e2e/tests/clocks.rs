//! The clock of the server and its operator is set: a day forward, an hour back.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, process::Command, time::Duration};

use kubedb_e2e::{
    kubedb::{run, scratch},
    wait::eventually,
    world::{World, postgres, snapshot},
};
use kubedb_stores::clock::Clock;
use serde_json::Value;

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// More than the packs that may wait for the store.
const NOISE: usize = 160 << 20;

const SCHEDULE: &str = "  backupSchedule:\n    cronExpression: \"@every 6h\"\n    storageSecretName: gcs-secret\n    gcs:\n      bucket: kubedb\n";

/// Phases of the Snapshots that the schedule made, by name.
fn scheduled(world: &World) -> BTreeMap<String, String> {
    let snapshots = world.server.objects("snap", "demo").unwrap();
    let phases = snapshots.iter().map(|snapshot| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (
            text(&snapshot["metadata"]["name"]),
            text(&snapshot["status"]["phase"]),
        )
    });
    phases
        .filter(|(name, _)| name.starts_with("one-"))
        .collect()
}

fn until_scheduled(world: &World, count: usize) {
    let what = format!("{count} scheduled Snapshots");
    eventually(&what, Duration::from_secs(120), || {
        let found = scheduled(world);
        assert!(found.len() <= count, "a tick fired twice: {found:?}");
        let good = found.values().filter(|phase| *phase == "Succeeded").count();
        if good == count {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    });
}

fn next_tick(world: &World) -> String {
    let status = world.server.object("pg", "one", "demo").unwrap()["status"].take();
    status["nextScheduleTime"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Holder of the Lease, how often it changed hands, and who is told to be the primary.
fn primary(world: &World) -> String {
    let mut command = Command::new("kubectl");
    command.args(["--kubeconfig", world.server.kubeconfig(), "-n", "demo"]);
    command.args([
        "get",
        "lease",
        "one",
        "-o",
        "jsonpath={.spec.holderIdentity} {.spec.leaseTransitions}",
    ]);
    let lease = run(&mut command, "").unwrap();
    let status = world.server.object("pg", "one", "demo").unwrap()["status"].take();
    format!("{} {}", lease.stdout, status["primary"])
}

/// Both instances are well, in their roles.
fn assert_well(world: &World, what: &str) {
    let status = world.server.object("pg", "one", "demo").unwrap()["status"].take();
    assert_eq!(status["phase"], "Running", "{what}: {status}");
    for instance in ["one-0", "one-1"] {
        assert_eq!(
            status["instances"][instance]["ready"], true,
            "{what}: {status}"
        );
    }
    assert_eq!(
        world.sql("one", "SELECT pg_is_in_recovery()").unwrap(),
        "f",
        "{what}"
    );
    let standby = world.sql_at("one", &["--standby"], "SELECT pg_is_in_recovery()");
    assert_eq!(standby.unwrap(), "t", "{what}");
}

#[test]
fn t26_a_clock_that_jumps_fires_no_tick_twice_or_never_and_silences_nobody() {
    let folder = scratch().unwrap();
    let clock = Clock::new(folder.path()).unwrap();
    let environment = clock.environment();
    let environment: Vec<_> = environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let mut world = World::with(folder, &environment);
    world.create(&postgres("one", "15", 2, SCHEDULE));
    world.status("pg", "one", "Running", 180);
    until_scheduled(&world, 1);
    world.add_noise("one", 0, NOISE);
    world.add_noise("one", 1, NOISE);
    eventually("the standby", Duration::from_secs(60), || {
        world.sql_at("one", &["--standby"], "SELECT 1")
    });
    let before = primary(&world);

    // A day: four ticks have passed, and one Snapshot makes up for them.
    clock.set(DAY).unwrap();
    until_scheduled(&world, 2);
    assert_well(&world, "a day ahead");

    // One more, amid a Snapshot: its day of grace is not over, and its agent is not silent. The tick is passed over.
    let next = next_tick(&world);
    for ordinal in 0..2 {
        world.add_noise("one", ordinal, NOISE);
    }
    world.line.limit(5 << 20);
    world.create(&snapshot("long", "one"));
    let running = || world.server.object("snap", "long", "demo").unwrap()["status"].take();
    eventually("a Snapshot amid its work", Duration::from_secs(60), || {
        let status = running();
        let done = status["progress"]["doneBytes"].as_i64().unwrap_or_default();
        if status["phase"] == "Running" && done > 20 << 20 {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    clock.set(2 * DAY + HOUR).unwrap();
    eventually("a tick passed over", Duration::from_secs(60), || {
        let status = running();
        assert_eq!(status["phase"], "Running", "{status}");
        let now = next_tick(&world);
        if now == next { Err(now) } else { Ok(()) }
    });
    world.line.limit(0);
    let status = world.status("snap", "long", "Succeeded", 120);
    assert_eq!(status["attempt"], 1, "{status}");
    until_scheduled(&world, 2);
    assert_well(&world, "two days ahead");

    // An hour back, with and without a server that remembers what it saw.
    let next = next_tick(&world);
    clock.set(2 * DAY).unwrap();
    world.create(&snapshot("back", "one"));
    world.status("snap", "back", "Succeeded", 120);
    world.server.kill_and_restart().unwrap();
    world.create(&snapshot("again", "one"));
    world.status("snap", "again", "Succeeded", 120);
    assert_eq!(next_tick(&world), next);
    until_scheduled(&world, 2);
    assert_well(&world, "an hour back");

    // The next tick comes when the clock gets there.
    clock.set(2 * DAY + 8 * HOUR).unwrap();
    until_scheduled(&world, 3);
    assert_well(&world, "eight hours later");
    assert_eq!(primary(&world), before);
}
