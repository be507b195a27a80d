//! The test tiers.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

use crate::{
    again, cluster, image, say,
    suite::{self, Suite},
    tidy,
    tools::{self, Tools},
};

/// One tier of tests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    /// Pure crates: nothing but this process.
    Unit,
    /// Real PostgreSQL, real stores, the real binary, on loopback.
    Local,
    /// The embedded API beside a real kube-apiserver.
    Contract,
    /// The guide on a real Kubernetes, and a Snapshot on a volume: what would be noticed first.
    Smoke,
    /// A real Kubernetes with nodes, containers and volumes.
    Cluster,
    /// The image of a release, which is built for it.
    Image,
    /// Archives beside those of another program: what either has written, the other reads.
    Interop,
}

/// Crates whose tests start nothing, by folder and name.
const PURE_CRATES: [(&str, &str); 3] = [
    ("crates/core", "kubedb-core"),
    ("crates/api", "kubedb-api"),
    ("xtask", "xtask"),
];

/// Suites that need the machine for themselves: they stop clocks and processes, or keep both cores busy.
const ALONE: [&str; 4] = ["clocks", "disks", "kills", "majors"];

/// The suite that needs another program, for whose compiler nobody waits who does not ask for it.
const INTEROP: &str = "interop";
/// The crate of the contract suite.
const CONTRACT: &str = "tests/contract";
/// The crate of what is tried on a cluster.
const CLUSTER: &str = "tests/cluster";
/// Of its suites the one that needs no cluster, but a release.
const IMAGE: &str = "image";
/// And the one that tries the whole product, and what of it is tried whenever nobody says otherwise: minutes of some 25.
const PRODUCT: &str = "product";
const SMOKE: [&str; 2] = ["guide::", "volumes::a_snapshot"];

impl Tier {
    /// All of them, the quick ones first.
    pub(crate) const ALL: [Self; 7] = [
        Self::Unit,
        Self::Local,
        Self::Contract,
        Self::Smoke,
        Self::Cluster,
        Self::Image,
        Self::Interop,
    ];

    /// Those that run when none is named. All of the cluster's has to be asked for, what needs a release, and what needs another program.
    pub(crate) const USUAL: [Self; 4] = [Self::Unit, Self::Local, Self::Contract, Self::Smoke];

    /// Reads a tier's name.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        match name {
            "unit" => Ok(Self::Unit),
            "contract" => Ok(Self::Contract),
            "smoke" => Ok(Self::Smoke),
            "local" => Ok(Self::Local),
            "cluster" => Ok(Self::Cluster),
            "image" => Ok(Self::Image),
            "interop" => Ok(Self::Interop),
            other => Err(format!(
                "unknown tier {other:?}: one of unit, contract, local, smoke, cluster, image, interop"
            )),
        }
    }

    /// What to build for these alone, in cargo's words. Another selection of crates selects other features of what they share, and
    /// compiles it anew: that is worth it for pure crates alone, which share little.
    fn selection(tiers: &[Self]) -> Vec<&'static str> {
        match tiers {
            [Self::Unit] => PURE_CRATES
                .iter()
                .flat_map(|(_, name)| ["-p", name])
                .collect(),
            [Self::Image] => vec!["--workspace", "--test", IMAGE],
            _ => vec!["--workspace"],
        }
    }

    /// The tier of a suite.
    fn of_suite(suite: &Suite) -> Self {
        let of_folder = Self::of(&suite.folder);
        match of_folder {
            Self::Local if suite.is_one_of(&[INTEROP]) => Self::Interop,
            Self::Cluster if suite.is_one_of(&[IMAGE]) => Self::Image,
            _ => of_folder,
        }
    }

    /// The tier of a crate's tests.
    fn of(folder: &Path) -> Self {
        if PURE_CRATES
            .iter()
            .any(|(pure, _)| folder == Path::new(pure))
        {
            Self::Unit
        } else if folder == Path::new(CONTRACT) {
            Self::Contract
        } else if folder == Path::new(CLUSTER) {
            Self::Cluster
        } else {
            Self::Local
        }
    }
}

/// What is installed while cargo compiles.
struct Installing {
    tools: Option<JoinHandle<Result<Tools, String>>>,
    kubernetes: Option<JoinHandle<Result<(), String>>>,
    cluster: Option<JoinHandle<Result<(), String>>>,
    interop: Option<JoinHandle<Result<PathBuf, String>>>,
}

impl Installing {
    /// Begins with what the tiers need.
    fn start(tiers: &[Tier]) -> Self {
        let needs = |tier| tiers.contains(&tier);
        Self {
            tools: (needs(Tier::Local) || needs(Tier::Interop))
                .then(|| thread::spawn(tools::install)),
            interop: needs(Tier::Interop).then(|| thread::spawn(tools::wal_rus)),
            // Minutes of another compiler, which the tiers before have no need to wait for.
            kubernetes: needs(Tier::Contract)
                .then(|| thread::spawn(tools::kubernetes_and_kubectls)),
            cluster: ((needs(Tier::Cluster) || needs(Tier::Smoke))
                && cluster::impossible().is_none())
            .then(|| thread::spawn(cluster::install)),
        }
    }
}

fn join<T>(
    what: &str,
    installing: Option<JoinHandle<Result<T, String>>>,
) -> Result<Option<T>, String> {
    installing
        .map(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(format!("the installation of {what} panicked")))
        })
        .transpose()
}

/// Runs the tiers, the quick ones first. All of them run, also after a failure.
pub(crate) fn run(tiers: &[Tier]) -> Result<(), String> {
    let mut installing = Installing::start(tiers);
    let mut failures = Vec::new();
    if tiers.contains(&Tier::Unit) {
        say("== tidy");
        failures.extend(tidy::run().err());
    }
    say("== building the tests");
    let suites = suite::build(&Tier::selection(tiers))?;
    for tier in Tier::ALL {
        if !tiers.contains(&tier) {
            continue;
        }
        let mine = suites.iter().filter(|suite| Tier::of_suite(suite) == tier);
        let mine: Vec<&Suite> = mine.collect();
        failures.extend(match tier {
            Tier::Unit => all(&mine, "unit", &[]),
            Tier::Local => local(&mine, &mut installing),
            Tier::Contract => contract(&mine, &mut installing),
            Tier::Smoke => smoke(&suites, &mut installing),
            Tier::Cluster => on_cluster(&mine, &mut installing),
            Tier::Image => image(&mine),
            Tier::Interop => interop(&mine, &mut installing),
        });
    }
    if tiers.contains(&Tier::Smoke) && !tiers.contains(&Tier::Image) {
        say(
            "THE IMAGE OF A RELEASE WAS NOT TRIED: cargo xtask test --tier image builds one, which takes some minutes, and does",
        );
    }
    again::tell();
    if failures.is_empty() {
        say(&format!("all {} suites passed", suites.len()));
        Ok(())
    } else {
        Err(format!("failed:\n{}", failures.join("\n")))
    }
}

fn local(suites: &[&Suite], installing: &mut Installing) -> Vec<String> {
    match join("the tools", installing.tools.take()) {
        Ok(tools) => {
            let bin = tools.map(|tools| tools.bin).unwrap_or_default();
            let path = env::var("PATH").unwrap_or_default();
            let path: OsString = format!("{}:{path}", bin.display()).into();
            beside(suites, &[("PATH", path)])
        }
        Err(reason) => vec![reason],
    }
}

/// What the local tier needs, and the other program.
fn interop(suites: &[&Suite], installing: &mut Installing) -> Vec<String> {
    let tools = join("the tools", installing.tools.take());
    let other = join("wal-rus", installing.interop.take());
    let (tools, other) = match (tools, other) {
        (Ok(tools), Ok(other)) => (tools, other),
        (tools, other) => return tools.err().into_iter().chain(other.err()).collect(),
    };
    let bin = tools.map(|tools| tools.bin).unwrap_or_default();
    let path = env::var("PATH").unwrap_or_default();
    let environment = [
        ("PATH", format!("{}:{path}", bin.display()).into()),
        ("KUBEDB_WALRUS", other.unwrap_or_default().into()),
    ];
    all(suites, "interop", &environment)
}

/// Without a real kube-apiserver our side runs all the same, and the tier fails.
fn contract(suites: &[&Suite], installing: &mut Installing) -> Vec<String> {
    match join("kube-apiserver", installing.kubernetes.take()) {
        Ok(_) => all(
            suites,
            "contract",
            &[("KUBEDB_CONTRACT_BOTH", OsString::from("1"))],
        ),
        Err(reason) => {
            let loud = format!("NOTHING WAS COMPARED WITH A REAL kube-apiserver: {reason}");
            say(&loud);
            let mut failures = vec![loud];
            failures.extend(all(suites, "contract", &[]));
            failures
        }
    }
}

/// Suites of the crates and those of the whole product, side by side: most of the time both wait for servers.
fn beside(suites: &[&Suite], environment: &[(&str, OsString)]) -> Vec<String> {
    say("== tier local");
    let (crates, whole): (Vec<&Suite>, Vec<&Suite>) = suites
        .iter()
        .partition(|suite| suite.folder.starts_with("crates"));
    let (alone, whole): (Vec<&Suite>, Vec<&Suite>) =
        whole.into_iter().partition(|suite| suite.is_one_of(&ALONE));
    thread::scope(|scope| {
        let crates = scope.spawn(|| {
            let failures = crates
                .iter()
                .filter_map(|suite| suite.run_beside(environment));
            failures.collect::<Vec<_>>()
        });
        let run = |suites: &[&Suite]| {
            let failures = suites.iter().filter_map(|suite| suite.run(environment));
            failures.collect::<Vec<_>>()
        };
        let mut failures = run(&whole);
        let lost = |_| vec!["the runner of the crates' suites panicked".to_owned()];
        failures.extend(crates.join().unwrap_or_else(lost));
        failures.extend(run(&alone));
        failures
    })
}

/// A machine on which no cluster comes up says so, and that is no failure of what was changed.
fn smoke(suites: &[Suite], installing: &mut Installing) -> Vec<String> {
    let is_product =
        |suite: &&Suite| Tier::of(&suite.folder) == Tier::Cluster && suite.is_one_of(&[PRODUCT]);
    let parts: Vec<Suite> = suites
        .iter()
        .filter(is_product)
        .map(|suite| suite.part(&SMOKE))
        .collect();
    match begin_cluster(installing) {
        Ok(up) => try_on(up, &parts.iter().collect::<Vec<_>>(), "smoke"),
        Err(reason) => {
            say(&format!("NOTHING WAS TRIED ON A REAL KUBERNETES: {reason}"));
            Vec::new()
        }
    }
}

/// Who asks for a cluster fails without one, but where there can be none.
fn on_cluster(suites: &[&Suite], installing: &mut Installing) -> Vec<String> {
    if let Some(reason) = cluster::impossible() {
        say(&format!("NOTHING WAS TRIED ON A REAL KUBERNETES: {reason}"));
        return Vec::new();
    }
    match begin_cluster(installing) {
        Ok(up) => try_on(up, suites, "cluster"),
        Err(reason) => vec![reason],
    }
}

/// A release, which takes some minutes, and what is tried of its image. It is unpacked as root, and run as nobody.
fn image(suites: &[&Suite]) -> Vec<String> {
    if let Some(reason) = cluster::impossible() {
        say(&format!("THE IMAGE OF A RELEASE WAS NOT TRIED: {reason}"));
        return Vec::new();
    }
    say("building a release (some minutes)");
    match image::release() {
        Ok(archive) => all(suites, "image", &[("KUBEDB_IMAGE", archive.into())]),
        Err(reason) => vec![reason],
    }
}

fn begin_cluster(installing: &mut Installing) -> Result<(cluster::Up, String), String> {
    if let Some(reason) = cluster::impossible() {
        return Err(reason);
    }
    join("the cluster's tools", installing.cluster.take())?;
    cluster::Up::start()
}

fn try_on((up, kubeconfig): (cluster::Up, String), suites: &[&Suite], tier: &str) -> Vec<String> {
    let environment = [
        ("KUBECONFIG", OsString::from(kubeconfig)),
        ("KUBEDB_CLUSTER", OsString::from(cluster::OF_TESTS)),
    ];
    let mut failures = all(suites, tier, &environment);
    failures.extend(up.end().err());
    failures
}

fn all(suites: &[&Suite], tier: &str, environment: &[(&str, OsString)]) -> Vec<String> {
    say(&format!("== tier {tier}"));
    suites
        .iter()
        .filter_map(|suite| suite.run(environment))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_that_nobody_sorted_is_tested_with_the_real_parts() {
        assert!(Tier::of(Path::new("crates/core")) == Tier::Unit);
        assert!(Tier::of(Path::new("tests/contract")) == Tier::Contract);
        assert!(Tier::of(Path::new("tests/cluster")) == Tier::Cluster);
        assert!(Tier::of(Path::new("crates/new")) == Tier::Local);
    }
}
