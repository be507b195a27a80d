//! kill -9 of an agent at every request that it sends to a store, and after everything that it tells the API, for a Snapshot, a restore and
//! a deletion.
//!
//! Points are found by counting the requests of a run in which nobody dies. At each, the agent dies before the request reaches the store, or
//! when the store has done its work and the answer is on its way. The suite takes these in turn; `KUBEDB_FAULTS=all` takes both everywhere.
//! Databases side by side have a point each: most of the time is waiting.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    env, fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use kubedb_e2e::{
    process::signal,
    wait::eventually,
    world::{World, from_snapshot, postgres, processes, snapshot},
};
use kubedb_stores::fault::{Act, Fault, FaultProxy};

const DATABASES: [&str; 4] = ["ann", "bob", "cid", "dan"];

/// Rounds after which the server begins anew: it waits longer each time before it starts an agent that died again.
const ROUNDS: usize = 3;

/// A point: number of the request, and whether the store has done its work.
type Point = (usize, bool);

fn points(requests: usize) -> Vec<Point> {
    let is_all = env::var("KUBEDB_FAULTS").is_ok_and(|value| value == "all");
    (0..requests)
        .flat_map(|number| [(number, false), (number, true)])
        .filter(|(number, is_done)| is_all || (number % 2 == 1) == *is_done)
        .collect()
}

struct Scene {
    world: World,
    proxy: FaultProxy,
    /// What Snapshots that nobody touches have in the bucket.
    kept: BTreeMap<PathBuf, Vec<u8>>,
    rounds: usize,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let proxy = FaultProxy::before(&world.gcs.endpoint()).unwrap();
        for name in DATABASES {
            world.create(&postgres(name, "15", 1, ""));
        }
        let mut scene = Self {
            world,
            proxy,
            kept: BTreeMap::new(),
            rounds: 0,
        };
        for name in DATABASES {
            scene.world.status("pg", name, "Running", 180);
            scene.world.sql_becomes(name, "SELECT 1", "1");
            let fill = "CREATE TABLE kept AS SELECT n FROM generate_series(1, 1000) n";
            scene.world.sql(name, fill).unwrap();
            scene.begin(&format!("{name}-0"), name);
        }
        for name in DATABASES {
            scene.succeeds(&format!("{name}-0"));
        }
        scene.kept = scene.stored();
        scene
    }

    /// A Snapshot whose store is reached through the proxy.
    fn begin(&self, name: &str, database: &str) {
        let endpoint = format!("http://127.0.0.1:{}", self.proxy.port());
        let more = format!("    bucket: kubedb\n    endpoint: {endpoint}\n");
        let manifest = snapshot(name, database).replace("    bucket: kubedb\n", &more);
        self.world.create(&manifest);
    }

    fn succeeds(&self, name: &str) -> serde_json::Value {
        self.world.status("snap", name, "Succeeded", 150)
    }

    /// Requests so far that concern a database.
    fn requests(&self, database: &str) -> usize {
        let seen = self.proxy.take_seen();
        let word = word(database);
        seen.iter()
            .filter(|(_, target)| target.contains(&word))
            .count()
    }

    /// Kills the agent of this instance at a request that concerns this database.
    fn kill_at(&self, (number, is_done): Point, database: &str, instance: &str) {
        let kill = self.killer(instance);
        let fault = if is_done {
            Fault::After(kill)
        } else {
            Fault::Before(kill)
        };
        self.proxy.strike(&word(database), number, fault);
    }

    fn killer(&self, instance: &str) -> Act {
        let folder = self.world.folder().to_string_lossy().into_owned();
        let config = format!("/agents/{instance}/agent.json");
        Arc::new(move || {
            for agent in processes(&["agent run", &folder, &config]) {
                signal(agent, 9);
            }
        })
    }

    /// Every agent that was to die did.
    fn assert_killed(&self, agents: usize, what: &str) {
        assert_eq!(self.proxy.relent(), agents, "{what}");
    }

    fn end_round(&mut self) {
        self.rounds += 1;
        if self.rounds.is_multiple_of(ROUNDS) {
            self.world.server.kill_and_restart().unwrap();
        }
    }

    /// All objects of all databases.
    fn stored(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let stored = DATABASES.iter().flat_map(|name| self.world.stored(name));
        stored
            .map(|path| (path.clone(), fs::read(&path).unwrap()))
            .collect()
    }
}

/// What an instance tells the API, seen by a watch; its agent dies right after the report of a number.
struct Reports {
    watch: Child,
    seen: Arc<AtomicUsize>,
}

impl Reports {
    fn of(scene: &Scene, database: &str, kill_after: usize) -> Self {
        let instance = format!("{database}-0");
        let (kill, database) = (scene.killer(&instance), database.to_owned());
        let mut watch = Command::new("kubectl")
            .args([
                "--kubeconfig",
                scene.world.server.kubeconfig(),
                "-n",
                "demo",
            ])
            .args([
                "get",
                "postgreses.kubedb.com",
                "-w",
                "-o",
                "json",
                "--output-watch-events",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let seen = Arc::new(AtomicUsize::new(0));
        let (stdout, count) = (watch.stdout.take().unwrap(), Arc::clone(&seen));
        thread::spawn(move || {
            let mut last = None;
            let events = serde_json::Deserializer::from_reader(stdout).into_iter();
            for event in events.map_while(Result::<serde_json::Value, _>::ok) {
                let object = &event["object"];
                let mut report = object["status"]["instances"][&instance].clone();
                if object["metadata"]["name"] != *database || report.is_null() {
                    continue;
                }
                // Signs of life are no news.
                for pulse in ["heartbeatTime", "lsn"] {
                    report[pulse].take();
                }
                for (_, task) in report["tasks"].as_object_mut().into_iter().flatten() {
                    task["heartbeatTime"].take();
                }
                if last
                    .replace(report.clone())
                    .is_some_and(|last| last == report)
                {
                    continue;
                }
                if count.fetch_add(1, Ordering::SeqCst) + 1 == kill_after {
                    kill();
                }
            }
        });
        Self { watch, seen }
    }

    fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        let _ = self.watch.kill();
        let _ = self.watch.wait();
    }
}

/// What stands in the names of a database's objects alone.
fn word(database: &str) -> String {
    format!("/demo/{database}/")
}

#[test]
fn t02_an_agent_killed_at_any_request_of_a_snapshot_or_its_deletion_loses_nothing_and_leaves_nothing()
 {
    let mut scene = Scene::new();
    scene.proxy.relent();
    scene.begin("count", DATABASES[0]);
    scene.succeeds("count");
    let requests = scene.requests(DATABASES[0]);
    assert!((6..40).contains(&requests), "{requests}");
    scene.world.delete("snap", "count");
    let of_deletion = scene.requests(DATABASES[0]);
    assert!((6..40).contains(&of_deletion), "{of_deletion}");

    for some in points(requests).chunks(DATABASES.len()) {
        let what = format!("killed at {some:?} of {requests} requests of a Snapshot");
        for (point, database) in some.iter().zip(DATABASES) {
            scene.kill_at(*point, database, &format!("{database}-0"));
            scene.begin(&format!("{database}-1"), database);
        }
        for ((request, _), database) in some.iter().zip(DATABASES) {
            let status = scene.succeeds(&format!("{database}-1"));
            // One that died before anybody knew that it had begun begins the same attempt.
            let is_unknown = *request <= 1 && status["attempt"] == 1;
            assert!(is_unknown || status["attempt"] == 2, "{what}: {status}");
        }
        scene.assert_killed(some.len(), &what);
        for (_, database) in some.iter().zip(DATABASES) {
            scene.world.delete("snap", &format!("{database}-1"));
        }
        assert!(scene.stored() == scene.kept, "{what}");
        scene.end_round();
    }

    for some in points(of_deletion).chunks(DATABASES.len()) {
        let what = format!("killed at {some:?} of {of_deletion} requests of a deletion");
        for (_, database) in some.iter().zip(DATABASES) {
            scene.begin(&format!("{database}-1"), database);
        }
        for (point, database) in some.iter().zip(DATABASES) {
            let name = format!("{database}-1");
            scene.succeeds(&name);
            scene.kill_at(*point, database, &format!("{database}-0"));
            scene
                .world
                .run(&["delete", "snap", &name, "-n", "demo", "--wait=false"], "");
        }
        for (_, database) in some.iter().zip(DATABASES) {
            let name = format!("{database}-1");
            eventually(
                &format!("end of {name}, {what}"),
                Duration::from_secs(150),
                || match scene.world.server.object("snap", &name, "demo") {
                    Ok(object) => Err(object["status"].to_string()),
                    Err(_) => Ok(()),
                },
            );
        }
        scene.assert_killed(some.len(), &what);
        assert!(scene.stored() == scene.kept, "{what}");
        scene.end_round();
    }
}

fn copy_of(database: &str) -> String {
    format!("{database}-copy")
}

fn restore(scene: &Scene, database: &str) {
    let source = from_snapshot(&format!("{database}-0"));
    let manifest = postgres(&copy_of(database), "15", 1, &source);
    scene.world.create(&manifest);
}

/// The copy has the rows and nothing half made; it goes again.
fn check_copy(scene: &Scene, database: &str) {
    let copy = copy_of(database);
    scene.world.status("pg", &copy, "Running", 150);
    scene
        .world
        .sql_becomes(&copy, "SELECT sum(n) FROM kept", "500500");
    let left: Vec<_> = fs::read_dir(scene.world.instance(&copy, 0))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("data") && name != "data")
        .collect();
    assert!(left.is_empty(), "{left:?}");
    scene.world.delete_for_good(&copy);
}

#[test]
fn t19_an_agent_killed_at_any_request_of_a_restore_begins_it_anew() {
    let mut scene = Scene::new();
    scene.proxy.relent();
    restore(&scene, DATABASES[0]);
    check_copy(&scene, DATABASES[0]);
    let requests = scene.requests(DATABASES[0]);
    assert!((4..40).contains(&requests), "{requests}");

    for some in points(requests).chunks(DATABASES.len()) {
        let what = format!("killed at {some:?} of {requests} requests of a restore");
        for (point, database) in some.iter().zip(DATABASES) {
            scene.kill_at(*point, database, &format!("{}-0", copy_of(database)));
            restore(&scene, database);
        }
        for (_, database) in some.iter().zip(DATABASES) {
            check_copy(&scene, database);
        }
        scene.assert_killed(some.len(), &what);
        scene.end_round();
    }
    assert!(scene.stored() == scene.kept);
}

/// A Snapshot and its deletion in each of these databases, whose agents die after reports of these numbers. Gives the reports of the last.
fn lives(scene: &Scene, some: &[(usize, &str)]) -> usize {
    let watch = |(point, database): &(usize, &str)| Reports::of(scene, database, *point);
    let reports: Vec<_> = some.iter().map(watch).collect();
    for (_, database) in some {
        scene.begin(&format!("{database}-1"), database);
    }
    for (_, database) in some {
        scene.succeeds(&format!("{database}-1"));
        scene.world.delete("snap", &format!("{database}-1"));
    }
    reports.last().map(Reports::seen).unwrap_or_default()
}

/// A restore from each of these databases, in the same way.
fn births(scene: &Scene, some: &[(usize, &str)]) -> usize {
    let watch = |(point, database): &(usize, &str)| Reports::of(scene, &copy_of(database), *point);
    let reports: Vec<_> = some.iter().map(watch).collect();
    for (_, database) in some {
        restore(scene, database);
    }
    for (_, database) in some {
        check_copy(scene, database);
    }
    reports.last().map(Reports::seen).unwrap_or_default()
}

#[test]
fn an_agent_killed_after_any_report_goes_on_where_it_was() {
    let mut scene = Scene::new();
    let never = (usize::MAX, DATABASES[0]);
    let (of_life, of_birth) = (lives(&scene, &[never]), births(&scene, &[never]));
    assert!(
        (3..40).contains(&of_life) && (3..40).contains(&of_birth),
        "{of_life} {of_birth}"
    );
    for (most, live) in [
        (of_life, lives as fn(&Scene, &[(usize, &str)]) -> usize),
        (of_birth, births),
    ] {
        let points: Vec<usize> = (1..=most).collect();
        for some in points.chunks(DATABASES.len()) {
            let some: Vec<_> = some.iter().copied().zip(DATABASES).collect();
            live(&scene, &some);
            assert!(
                scene.stored() == scene.kept,
                "killed after {some:?} of {most} reports"
            );
            scene.end_round();
        }
    }
}
