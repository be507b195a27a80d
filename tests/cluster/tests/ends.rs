//! A cluster begins whatever was left of another, and ends without a trace, also one that never was whole.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kubedb_cluster::{Cluster, Layout, control};
use kubedb_e2e::{process::signal, wait::eventually};

/// A cluster beside the one that tests share.
const NUMBER: u8 = 2;
const PROGRAM: &str = env!("CARGO_BIN_EXE_cluster");
const PATIENCE: Duration = Duration::from_secs(60);

/// There is one of that number.
static ALONE: Mutex<()> = Mutex::new(());

/// What a machine has that could stay when a cluster has ended.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    processes: BTreeSet<String>,
    mounts: BTreeSet<String>,
    links: BTreeSet<String>,
    roads: BTreeSet<String>,
    groups: BTreeSet<PathBuf>,
    rules: BTreeSet<String>,
    settings: Vec<String>,
    files: BTreeSet<PathBuf>,
}

impl Machine {
    fn look(layout: &Layout) -> Self {
        let printed = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines().map(str::to_owned).collect::<BTreeSet<_>>()
        };
        // Others work on this machine too, and there is another cluster.
        let folder = layout.folder.display().to_string();
        let mine = |lines: String| {
            lines
                .lines()
                .filter(|line| line.contains(&folder))
                .map(str::to_owned)
                .collect()
        };
        Self {
            processes: processes(layout),
            mounts: mine(fs::read_to_string("/proc/self/mountinfo").unwrap()),
            links: printed("ip", &["-brief", "link"])
                .iter()
                .map(|line| line.split_whitespace().next().unwrap().to_owned())
                .collect(),
            roads: printed("ip", &["route"]),
            groups: groups(layout),
            rules: printed("nft", &["list", "tables"]),
            // A kubelet would set them for the whole machine.
            settings: [
                "vm/overcommit_memory",
                "vm/panic_on_oom",
                "kernel/panic",
                "kernel/panic_on_oops",
            ]
            .iter()
            .map(|name| fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap())
            .collect(),
            files: [
                "/run/netns",
                "/run/containerd",
                "/var/lib/kubelet",
                "/var/lib/cni",
                "/var/log/pods",
                "/var/log/containers",
                "/opt/containerd",
                "/etc/cni",
            ]
            .iter()
            .map(PathBuf::from)
            .chain([layout.folder.clone()])
            .filter(|path| path.exists())
            .collect(),
        }
    }
}

/// Those that were started with something of the cluster's folder, and those in its pods.
fn processes(layout: &Layout) -> BTreeSet<String> {
    let folder = layout.folder.display().to_string();
    let group = format!("/{}-", layout.prefix());
    let read = |path: PathBuf| {
        let text = fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&text).replace('\0', " ")
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
        .filter_map(|entry| {
            let words = read(entry.path().join("cmdline"));
            let is_ours =
                words.contains(&folder) || read(entry.path().join("cgroup")).contains(&group);
            is_ours.then(|| format!("{} {words}", entry.file_name().display()))
        })
        .collect()
}

/// Groups of processes of this cluster, with those within.
fn groups(layout: &Layout) -> BTreeSet<PathBuf> {
    let begin = layout.prefix();
    let is_ours = |path: &Path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(&begin))
    };
    let hierarchies = fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten();
    let mut found: BTreeSet<PathBuf> = hierarchies
        .flat_map(|hierarchy| {
            fs::read_dir(hierarchy.path())
                .into_iter()
                .flatten()
                .flatten()
        })
        .map(|entry| entry.path())
        .collect();
    found.extend(
        fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path()),
    );
    found.retain(|path| is_ours(path));
    found
}

/// Ends the cluster, also when a test fails.
struct Ended;

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = Cluster::down(NUMBER);
    }
}

fn up() -> Cluster {
    let layout = Layout::new(NUMBER, 1).unwrap();
    Cluster::up(layout, Path::new(PROGRAM), |_| ()).unwrap()
}

/// The machine before a cluster, which the test has for itself and ends in any case.
struct Before {
    machine: Machine,
    layout: Layout,
    _ended: Ended,
    _alone: MutexGuard<'static, ()>,
}

impl Before {
    /// None where there is no cluster of tests.
    fn look() -> Option<Self> {
        Cluster::of_tests()?;
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let layout = Layout::new(NUMBER, 1).unwrap();
        let ended = Ended;
        Cluster::down(NUMBER).unwrap();
        Some(Self {
            machine: Machine::look(&layout),
            layout,
            _ended: ended,
            _alone: alone,
        })
    }

    /// Nothing is there that was not, and nothing is gone.
    fn is_restored(&self) {
        let before = &self.machine;
        eventually("the machine as it was", PATIENCE, || {
            let after = Machine::look(&self.layout);
            if after == *before {
                Ok(())
            } else {
                Err(format!("{before:#?}\n{after:#?}"))
            }
        });
    }
}

#[test]
fn nothing_stays_of_a_cluster_and_one_that_was_killed_is_no_hindrance() {
    let Some(before) = Before::look() else { return };

    let first = up();
    let pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"},
        "spec": {"containers": [{"name": "sleep", "image": "postgres:15", "imagePullPolicy": "IfNotPresent", "command": ["sleep", "600"]}]},
    });
    eventually("pod", PATIENCE, || {
        first
            .kubectl()
            .apply(std::slice::from_ref(&pod))
            .map_err(|error| error.to_string())
    });
    first
        .kubectl()
        .run(&["wait", "--for=condition=Ready", "pod/one", "--timeout=60s"])
        .unwrap();
    let begun = Machine::look(&before.layout);
    for (name, before, begun) in [
        (
            "processes",
            before.machine.processes.len(),
            begun.processes.len(),
        ),
        ("links", before.machine.links.len(), begun.links.len()),
        ("roads", before.machine.roads.len(), begun.roads.len()),
        ("groups", before.machine.groups.len(), begun.groups.len()),
        ("files", before.machine.files.len(), begun.files.len()),
    ] {
        assert!(
            before < begun,
            "a cluster has {name}, or they are looked for in vain"
        );
    }
    // Whoever asks twice gets the same.
    let again = up();
    assert_eq!(first.control().id(), again.control().id());

    // kill -9 of everything.
    for process in processes(&before.layout) {
        signal(process.split(' ').next().unwrap().parse().unwrap(), 9);
    }
    eventually("end of everything", PATIENCE, || {
        match first.control().id() {
            None => Ok(()),
            Some(id) => Err(format!("process {id} lives")),
        }
    });
    let second = up();
    second.wait_until_ready("node1", true).unwrap();

    Cluster::down(NUMBER).unwrap();
    before.is_restored();
    // Whoever ends twice is not told off.
    Cluster::down(NUMBER).unwrap();
}

#[test]
fn nothing_stays_of_a_beginning_that_was_killed() {
    let Some(before) = Before::look() else { return };
    let mut beginning = Command::new(PROGRAM)
        .args(["up", "--number", "2", "--nodes", "1"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let control_plane = kubedb_cluster::Machine::of(&before.layout, "control");
    eventually("etcd", PATIENCE, || {
        let running = control_plane.running(control::ETCD);
        if running.is_empty() {
            Err("it does not run".to_owned())
        } else {
            Ok(())
        }
    });
    beginning.kill().unwrap();
    beginning.wait().unwrap();
    assert!(Cluster::known(NUMBER).is_none(), "it was not whole");
    Cluster::down(NUMBER).unwrap();
    before.is_restored();
}
