//! Schedules of the real server with real PostgreSQL: killed again and again, and with names at the limit.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, time::Duration};

use kubedb_e2e::{
    kubedb::{Server, binary, scratch},
    stores::FakeGcs,
    wait::eventually,
    world::BASICS,
};
use serde_json::Value;

/// Interval of the schedule that is watched: long enough for a Snapshot and for a server's start.
const INTERVAL: i64 = 6;

fn postgres(name: &str, expression: &str) -> String {
    format!(
        "apiVersion: kubedb.com/v1alpha1\nkind: Postgres\nmetadata:\n  name: {name}\n  namespace: demo\nspec:\n  version: \"15\"\n  storage:\n    resources:\n      requests:\n        storage: 50Mi\n  backupSchedule:\n    cronExpression: \"{expression}\"\n    storageSecretName: gcs-secret\n    gcs:\n      bucket: kubedb\n"
    )
}

fn create(server: &Server, manifest: &str) {
    let ran = server.kubedb(&["create", "-f", "-"], manifest).unwrap();
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

fn start(folder: &std::path::Path) -> (FakeGcs, Server) {
    let gcs = FakeGcs::start(folder, &["kubedb"]).unwrap();
    let endpoint = gcs.endpoint();
    let environment = [("STORAGE_EMULATOR_HOST", endpoint.as_str())];
    let server = Server::start(&binary(), &folder.join("data"), &environment).unwrap();
    create(&server, BASICS);
    (gcs, server)
}

/// Name and phase of each Snapshot.
fn snapshots(server: &Server) -> Result<Vec<(String, String)>, String> {
    let all = server.objects("snap", "demo")?;
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

#[test]
fn a_server_that_is_killed_again_and_again_keeps_its_schedule() {
    let folder = scratch().unwrap();
    let (_gcs, mut server) = start(folder.path());
    create(&server, &postgres("pg", &format!("@every {INTERVAL}s")));
    let mut seen = 0;
    for _ in 0..5 {
        // As soon as another one appears, whatever else is in the middle of being written.
        seen = eventually("another Snapshot", Duration::from_secs(120), || {
            let count = snapshots(&server)?.len();
            if count > seen {
                Ok(count)
            } else {
                Err(format!("{count}"))
            }
        });
        server.kill_and_restart().unwrap();
    }
    let all = eventually("all Succeeded", Duration::from_secs(120), || {
        let all = snapshots(&server)?;
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
    let object = server.object("pg", "pg", "demo").unwrap();
    let status = &object["status"];
    assert!(status["pendingScheduleTime"].is_null(), "{status}");
    assert!(server.stop(), "the server must stop cleanly");
}

#[test]
fn a_scheduled_backup_keeps_to_the_rate_and_the_limits_of_its_schedule() {
    const RATE: i64 = 8 << 20;
    let folder = scratch().unwrap();
    let (_gcs, mut server) = start(folder.path());
    let held = "    maxRate: 8Mi\n    target: Primary\n    resources:\n      limits:\n        cpu: 500m\n        memory: 64Mi\n";
    create(&server, &format!("{}{held}", postgres("pg", "@every 6h")));
    let snapshot = eventually("a Snapshot", Duration::from_secs(180), || {
        let all = server.objects("snap", "demo")?;
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
    let said = server
        .kubedb(&["describe", "snap", name, "-n", "demo"], "")
        .unwrap();
    assert!(
        said.stdout.contains("cpu 500m, memory 64Mi, 8Mi a second"),
        "{}",
        said.stdout
    );
    assert!(server.stop(), "the server must stop cleanly");
}

#[test]
fn two_long_names_with_a_common_beginning_have_snapshots_of_their_own() {
    let folder = scratch().unwrap();
    let (gcs, mut server) = start(folder.path());
    let names = [
        format!("{}a", "d".repeat(59)),
        format!("{}b", "d".repeat(59)),
    ];
    let manifests: Vec<_> = names
        .iter()
        .map(|name| postgres(name, "@every 6h"))
        .collect();
    create(&server, &manifests.join("---\n"));
    let all = eventually("two Snapshots", Duration::from_secs(180), || {
        let all = snapshots(&server)?;
        let is_good = all.iter().all(|(_, phase)| phase == "Succeeded");
        if is_good && all.len() == 2 {
            Ok(all)
        } else {
            Err(format!("{all:?}"))
        }
    });
    for name in &names {
        let folder = gcs.objects().join("kubedb/kubedb/demo").join(name);
        let own = std::fs::read_dir(folder.join("snapshots")).unwrap();
        assert_eq!(own.count(), 1, "{all:?}");
    }
    assert!(all.iter().all(|(name, _)| name.len() <= 63), "{all:?}");
    assert!(server.stop(), "the server must stop cleanly");
}
