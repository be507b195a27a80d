//! The numbers of one machine: `kubedb server`, real PostgreSQL, a folder as the store.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::{Measured, server::Server};
use crate::{say, tools};

/// Runs of what takes seconds, and of what takes milliseconds.
const RUNS: usize = 5;
const SHORT_RUNS: usize = 21;
/// Starts are over and caches are warm after this.
const SETTLE: Duration = Duration::from_secs(15);
/// How long idle is watched, and how often.
const IDLE: Duration = Duration::from_secs(20);
const IDLE_RUNS: usize = 3;

fn postgres(name: &str, replicas: u32) -> String {
    format!(
        "{{apiVersion: kubedb.com/v1alpha1, kind: Postgres, metadata: {{name: {name}}}, spec: {{version: '15', replicas: {replicas}, storage: {{resources: {{requests: {{storage: 1Gi}}}}}}}}}}"
    )
}

fn snapshot(name: &str, database: &str, server: &Server) -> String {
    let folder = server.store();
    format!(
        "{{apiVersion: kubedb.com/v1alpha1, kind: Snapshot, metadata: {{name: {name}, labels: {{kubedb.com/kind: Postgres}}}}, spec: {{databaseName: {database}, local: {{mountPath: {folder}, hostPath: {{path: {folder}}}}}}}}}",
        folder = folder.display()
    )
}

/// Builds the program, unless one is given.
pub(super) fn release() -> Result<PathBuf, String> {
    say("building the release");
    tools::run(tools::cargo().args(["build", "--release", "-p", "kubedb"]))?;
    Ok(tools::target_folder().join("release").join("kubedb"))
}

/// Measures the program.
pub(super) fn measure(binary: Option<&Path>) -> Result<Vec<Measured>, String> {
    let binary = binary.map_or_else(release, |path| Ok(path.to_owned()))?;
    let timed = |name, aim| Measured {
        name,
        unit: "s",
        aim,
        runs: Vec::new(),
    };
    let mut one = timed("create to Running, 1 replica", Some(2.0));
    let mut three = timed("create to Running, 3 replicas", Some(6.0));
    let mut taken = timed("immediate Snapshot of an empty database", Some(3.0));
    let mut stop = timed("stop of 3 instances", None);
    let mut rest = Vec::new();
    for run in 1..=RUNS {
        say(&format!("run {run} of {RUNS}"));
        let mut server = Server::start(&binary)?;
        let seconds = |time: Duration| time.as_secs_f64();
        let time = server.create(("pg", "one"), &postgres("one", 1), "Running")?;
        one.runs.push(seconds(time));
        let manifest = snapshot("now", "one", &server);
        let time = server.create(("snap", "now"), &manifest, "Succeeded")?;
        taken.runs.push(seconds(time));
        server.run(&["delete", "pg", "one"], "")?;
        let time = server.create(("pg", "three"), &postgres("three", 3), "Running")?;
        three.runs.push(seconds(time));
        if run == RUNS {
            rest.push(commands(&server)?);
            rest.extend(idle(&server)?);
        }
        stop.runs.push(seconds(server.stop()?));
    }
    Ok([one, three, taken, stop].into_iter().chain(rest).collect())
}

fn commands(server: &Server) -> Result<Measured, String> {
    let runs = (0..SHORT_RUNS)
        .map(|_| Ok(server.run(&["get", "pg"], "")?.as_secs_f64() * 1_000.0))
        .collect::<Result<_, String>>()?;
    Ok(Measured {
        name: "kubedb get pg",
        unit: "ms",
        aim: Some(50.0),
        runs,
    })
}

/// What three instances cost while nobody uses them.
fn idle(server: &Server) -> Result<Vec<Measured>, String> {
    say("watching it idle");
    thread::sleep(SETTLE);
    let agents = server.agents()?;
    let mut measured = [
        ("server: memory of its own", "MB", Some(60.0)),
        ("server: proportional memory", "MB", None),
        ("server: CPU while idle", "%", Some(1.0)),
        ("each agent: memory of its own", "MB", None),
        ("each agent: CPU while idle", "%", None),
    ]
    .map(|(name, unit, aim)| Measured {
        name,
        unit,
        aim,
        runs: Vec::new(),
    });
    let count = agents.len().max(1) as f64;
    for _ in 0..IDLE_RUNS {
        let before = (cpu(&[server.id()])?, cpu(&agents)?);
        thread::sleep(IDLE);
        let after = (cpu(&[server.id()])?, cpu(&agents)?);
        let share = |before: f64, after: f64| (after - before) / IDLE.as_secs_f64() * 100.0;
        let values = [
            memory(&[server.id()], "Private_")?,
            memory(&[server.id()], "Pss:")?,
            share(before.0, after.0),
            memory(&agents, "Private_")? / count,
            share(before.1, after.1) / count,
        ];
        for (measured, value) in measured.iter_mut().zip(values) {
            measured.runs.push(value);
        }
    }
    Ok(measured.into())
}

/// Megabytes of the lines that begin so.
fn memory(processes: &[u32], begin: &str) -> Result<f64, String> {
    let mut kilobytes = 0.0;
    for id in processes {
        let path = format!("/proc/{id}/smaps_rollup");
        let text = fs::read_to_string(&path).map_err(|e| format!("failed to read {path}: {e}"))?;
        kilobytes += text
            .lines()
            .filter(|line| line.starts_with(begin) && !line.starts_with("Private_Hugetlb"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok())
            .sum::<f64>();
    }
    Ok(kilobytes / 1_024.0)
}

/// Seconds of a processor that the processes have used, with those of children that ended.
fn cpu(processes: &[u32]) -> Result<f64, String> {
    /// The kernel tells user space of hundredths of a second, whatever it counts in itself.
    const TICKS: f64 = 100.0;
    let mut ticks = 0.0;
    for id in processes {
        let path = format!("/proc/{id}/stat");
        let text = fs::read_to_string(&path).map_err(|e| format!("failed to read {path}: {e}"))?;
        // The name, in brackets, may hold anything.
        let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
        ticks += fields
            .split_whitespace()
            .skip(11)
            .take(4)
            .filter_map(|field| field.parse::<f64>().ok())
            .sum::<f64>();
    }
    Ok(ticks / TICKS)
}
