//! Schedules of what is killed again and again, and of what is to be held back.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;

use crate::{platform::Platform, wait::eventually, world::World};

/// Interval of the schedule that is watched: long enough for a Snapshot and for a server's start.
const INTERVAL: i64 = 6;

/// A manifest of a database with this schedule.
#[must_use]
pub fn postgres(name: &str, expression: &str) -> String {
    format!(
        "apiVersion: kubedb.com/v1alpha1\nkind: Postgres\nmetadata:\n  name: {name}\n  namespace: demo\nspec:\n  version: \"15\"\n  storage:\n    resources:\n      requests:\n        storage: 50Mi\n  backupSchedule:\n    cronExpression: \"{expression}\"\n    storageSecretName: gcs-secret\n    gcs:\n      bucket: kubedb\n"
    )
}

/// Name and phase of each Snapshot.
pub fn snapshots<P: Platform>(world: &World<P>) -> Result<Vec<(String, String)>, String> {
    let all = world.objects("snap")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(all
        .iter()
        .map(|snapshot| {
            let phase = text(&snapshot["status"]["phase"]);
            (text(&snapshot["metadata"]["name"]), phase)
        })
        .collect())
}

/// Seconds of the day that a Snapshot's name carries.
fn tick(name: &str) -> i64 {
    let digits = name.rsplit('-').next().unwrap();
    let part = |range: std::ops::Range<usize>| digits[range].parse::<i64>().unwrap();
    part(0..2) * 3_600 + part(2..4) * 60 + part(4..6)
}

/// An operator that is killed again and again keeps its schedule.
pub fn whoever_is_killed_keeps_its_schedule<P: Platform>(mut world: World<P>) {
    world.create(&postgres("pg", &format!("@every {INTERVAL}s")));
    let mut seen = 0;
    for _ in 0..5 {
        // As soon as another one appears, whatever else is in the middle of being written.
        seen = eventually("another Snapshot", Duration::from_secs(120), || {
            let count = snapshots(&world)?.len();
            if count > seen {
                Ok(count)
            } else {
                Err(format!("{count}"))
            }
        });
        world.server.kill_operator();
    }
    let all = eventually("all Succeeded", Duration::from_secs(120), || {
        let all = snapshots(&world)?;
        let is_good = all.iter().all(|(_, phase)| phase == "Succeeded");
        if is_good && all.len() > seen {
            Ok(all)
        } else {
            Err(format!("{all:?}"))
        }
    });
    // Every one on the grid of the first, none twice, and no two of one tick under other names.
    let ticks: Vec<i64> = all.iter().map(|(name, _)| tick(name)).collect();
    let distinct: BTreeSet<_> = ticks.iter().collect();
    assert_eq!(distinct.len(), ticks.len(), "{all:?}");
    for tick in &ticks {
        // Over midnight as well: a day holds a whole number of intervals.
        assert_eq!((tick - ticks[0]).rem_euclid(INTERVAL), 0, "{all:?}");
    }
    // Another tick may come at any time, and is pending until its Snapshot is seen.
    eventually("nothing pending", Duration::from_secs(10), || {
        let status = world.object("pg", "pg").unwrap()["status"].clone();
        let is_done = status["pendingScheduleTime"].is_null();
        if is_done {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    assert!(world.server.stop(), "it must stop cleanly");
}

/// A scheduled backup keeps to the rate and the limits of its schedule.
pub fn a_scheduled_backup_keeps_to_its_rate<P: Platform>(mut world: World<P>) {
    const RATE: i64 = 8 << 20;
    let held = "    maxRate: 8Mi\n    target: Primary\n    resources:\n      limits:\n        cpu: 500m\n        memory: 64Mi\n";
    world.create(&format!("{}{held}", postgres("pg", "@every 6h")));
    let snapshot = eventually("a Snapshot", Duration::from_secs(180), || {
        let all = world.objects("snap")?;
        let good = all.into_iter().next().ok_or("none")?;
        if good["status"]["phase"] == "Succeeded" {
            Ok(good)
        } else {
            Err(good["status"].to_string())
        }
    });
    let (spec, status) = (&snapshot["spec"], &snapshot["status"]);
    assert_eq!(spec["maxRate"], "8Mi");
    assert_eq!(spec["target"], "Primary");
    assert_eq!(spec["resources"]["limits"]["memory"], "64Mi");
    let time = |name: &str| -> jiff::Timestamp { status[name].as_str().unwrap().parse().unwrap() };
    let took = time("completionTime").duration_since(time("startTime"));
    let read = status["result"]["readBytes"].as_i64().unwrap();
    // But for a moment's worth, it cannot have been faster, however fast the machine is.
    let least = read * 1_000 / RATE - 1_500;
    assert!(
        least > 1_000 && took.as_millis() > i128::from(least),
        "{took:#} for {read} bytes"
    );
    let name = snapshot["metadata"]["name"].as_str().unwrap();
    let words = ["describe", "snap", name, "-n", world.server.namespace()];
    let said = world.run(&words, "");
    assert!(
        said.contains("cpu 500m, memory 64Mi, 8Mi a second"),
        "{said}"
    );
    assert!(world.server.stop(), "it must stop cleanly");
}
