//! `cargo xtask cluster`: a real Kubernetes on this machine, to try things against, and what it needs.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    image, say, stores,
    tools::{self, GoProgram, run},
};

/// Debian's packages that are installed: none of them starts anything.
const PACKAGES: [(&str, &str); 5] = [
    ("mmdebstrap", "/usr/bin/mmdebstrap"),
    ("nftables", "/usr/sbin/nft"),
    ("iproute2", "/usr/bin/ip"),
    ("containernetworking-plugins", "/usr/lib/cni/ptp"),
    ("e2fsprogs", "/usr/sbin/mkfs.ext4"),
];
/// Those that are unpacked: installed, containerd would run as a service of the machine.
const UNPACKED: [&str; 2] = ["containerd", "runc"];
/// A private registry, for the tests that pull from one; it would be a service, too.
const REGISTRY: [&str; 1] = ["docker-registry"];

/// Number of the cluster that the tests have; developers have 0.
pub(crate) const OF_TESTS: &str = "1";

/// Runs one of the commands; what they do is in `tests/cluster/src/bin/cluster.rs`.
pub(crate) fn run_command(arguments: &[&str]) -> Result<(), String> {
    match arguments {
        ["up", rest @ ..] => up(rest),
        ["install"] => install(),
        _ => ask(arguments),
    }
}

fn up(rest: &[&str]) -> Result<(), String> {
    if let Some(reason) = impossible() {
        return Err(reason);
    }
    // The Go programs take minutes.
    let installing = std::thread::spawn(install);
    let built = build();
    installing
        .join()
        .unwrap_or_else(|_| Err("the installation panicked".to_owned()))?;
    built?;
    image::write_for_tests()?;
    ask(&[&["up"], rest].concat())
}

fn ask(arguments: &[&str]) -> Result<(), String> {
    build()?;
    run(program().args(arguments))
}

/// Builds the program that does it, and ours for its image. With the choice of the tests, so that everything else is taken as they built it.
pub(crate) fn build() -> Result<(), String> {
    let mut command = tools::cargo();
    command.args(["build", "-q", "--workspace"]);
    command.args(["--bin", "cluster", "--bin", "kubedb"]);
    run(&mut command)
}

/// That program.
pub(crate) fn program() -> Command {
    Command::new(tools::target_folder().join("debug").join("cluster"))
}

/// Why there can be no cluster on this machine.
pub(crate) fn impossible() -> Option<String> {
    if !cfg!(target_os = "linux") {
        return Some("a cluster needs Linux".to_owned());
    }
    let output = Command::new("id").arg("-u").output();
    let is_root = output.is_ok_and(|output| output.stdout == b"0\n");
    (!is_root).then(|| "a cluster needs root".to_owned())
}

/// Installs what is missing; prints one line for each thing it installs.
pub(crate) fn install() -> Result<(), String> {
    let cache = tools::cache_folder()?.join("cluster");
    fs::create_dir_all(&cache).map_err(|e| format!("failed to make {}: {e}", cache.display()))?;
    packages()?;
    stores::unpack(&cache, "packages", &UNPACKED)?;
    stores::unpack(&cache, "registry", &REGISTRY)?;
    pause(&cache)?;
    tools::kubernetes()?;
    tools::go_program(&GoProgram {
        folder: "coredns",
        modules: "go.mod",
        target: &tools::bin_folder()?.join("coredns"),
        flags: "-s -w",
        announcement: "building coredns (about 2 minutes)",
    })
}

fn packages() -> Result<(), String> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(_, file)| !Path::new(file).exists())
        .map(|(package, _)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    say(&format!("installing {}", missing.join(", ")));
    tools::apt_install(&missing)
}

/// The first process of every pod and machine.
fn pause(cache: &Path) -> Result<(), String> {
    let source = tools::workspace().join("tests/tools/pause.rs");
    let (target, stamp) = (cache.join("pause"), cache.join("pause.source"));
    let text = fs::read_to_string(&source)
        .map_err(|e| format!("failed to read {}: {e}", source.display()))?;
    if target.exists() && fs::read_to_string(&stamp).is_ok_and(|known| known == text) {
        return Ok(());
    }
    let making = cache.join("pause.making");
    run(Command::new(rustc())
        .args(["--edition=2024", "-O", "-Cpanic=abort", "-Cstrip=symbols"])
        .args([image::STATIC, "--target", &image::target(), "-o"])
        .args([&making, &source]))?;
    fs::rename(&making, &target)
        .and_then(|()| fs::write(&stamp, text))
        .map_err(|e| format!("failed to install {}: {e}", target.display()))
}

fn rustc() -> PathBuf {
    env::var_os("RUSTC").map_or_else(|| "rustc".into(), PathBuf::from)
}

/// A cluster for the tests, which is taken down whatever becomes of them.
pub(crate) struct Up {
    is_up: bool,
    /// Another run of the tests on this machine waits until this one has ended.
    _alone: fs::File,
}

impl Up {
    /// Brings one up, with the program that was built with the tests; says where its kubeconfig is.
    pub(crate) fn start() -> Result<(Self, String), String> {
        image::write_for_tests()?;
        let lock = tools::cache_folder()?.join("cluster/tests.lock");
        let alone = fs::File::create(&lock)
            .and_then(|file| file.lock().map(|()| file))
            .map_err(|e| format!("failed to lock {}: {e}", lock.display()))?;
        // Of a run that was killed.
        down()?;
        let up = Self {
            is_up: true,
            _alone: alone,
        };
        let output = program()
            .args(["up", "--number", OF_TESTS])
            .stderr(Stdio::inherit())
            .output()
            .map_err(|e| format!("failed to bring the cluster up: {e}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let kubeconfig = text.trim().strip_prefix("export KUBECONFIG=");
        match kubeconfig.filter(|_| output.status.success()) {
            Some(kubeconfig) => Ok((up, kubeconfig.to_owned())),
            None => Err(format!("the cluster is not up: {}", output.status)),
        }
    }

    /// Takes it down.
    pub(crate) fn end(mut self) -> Result<(), String> {
        self.is_up = false;
        down()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if self.is_up
            && let Err(reason) = down()
        {
            say(&format!("THE CLUSTER IS STILL THERE: {reason}"));
        }
    }
}

fn down() -> Result<(), String> {
    run(program().args(["down", "--number", OF_TESTS]))
}
