//! Installs what the tests need, from package registries, into a cache outside the checkout.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{say, stores};

pub(crate) const POSTGRES_15: &str = "/usr/lib/postgresql/15/bin/postgres";

/// The Kubernetes that is built, as its go.mod pins it.
const KUBERNETES: (&str, &str, &str) = ("1", "34", "4");
/// The kubectls that are tried beside the one of that Kubernetes; each has its modules pinned in `tests/tools/kubectl`.
const OTHER_KUBECTLS: [&str; 2] = ["1.32", "1.37"];
/// What reads our metrics and checks our rules; unpacked, since an installed one would run as a service.
const PROMETHEUS: [&str; 1] = ["prometheus"];
/// Names under which the one binary of `tests/tools/kubernetes` is started.
const KUBERNETES_PROGRAMS: [&str; 6] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
];

/// Where the tools lie.
pub(crate) struct Tools {
    /// Folder to put first on `PATH`.
    pub(crate) bin: PathBuf,
}

/// Installs what is missing; prints one line for each thing it installs.
pub(crate) fn install() -> Result<Tools, String> {
    let (cache, bin) = (cache_folder()?, bin_folder()?);
    postgres()?;
    locale()?;
    stores::install(&cache)?;
    stores::unpack(&cache, "prometheus", &PROMETHEUS)?;
    kubectl(&bin)?;
    Ok(Tools { bin })
}

/// The program of another project that writes wal-g's layout, of a version that its archives in `tests/fixtures` are of.
const WAL_RUS: (&str, &str) = ("wal-rus", "0.4.1");

/// Builds it where it is not there yet; gives its path.
pub(crate) fn wal_rus() -> Result<PathBuf, String> {
    let (name, version) = WAL_RUS;
    let root = cache_folder()?.join(format!("{name}-{version}"));
    let program = root.join("bin/walrus");
    if program.exists() {
        return Ok(program);
    }
    say(&format!("building {name} {version} (some 5 minutes)"));
    let mut install = cargo();
    install
        .args(["install", name, "--version", version, "--locked", "--root"])
        .arg(&root)
        // Its features are its own: nothing of ours is compiled anew for it.
        .env("CARGO_TARGET_DIR", root.join("target"));
    let status = install
        .status()
        .map_err(|error| format!("failed to run cargo install: {error}"))?;
    let _ = fs::remove_dir_all(root.join("target"));
    if status.success() {
        Ok(program)
    } else {
        Err(format!("cargo install {name} failed: {status}"))
    }
}

pub(crate) fn bin_folder() -> Result<PathBuf, String> {
    let bin = cache_folder()?.join("bin");
    fs::create_dir_all(&bin).map_err(|e| format!("failed to create {}: {e}", bin.display()))?;
    Ok(bin)
}

/// Two tiers want it, and their tools are installed side by side.
static KUBECTL: Mutex<()> = Mutex::new(());

fn kubectl(bin: &Path) -> Result<(), String> {
    let _alone = KUBECTL.lock().unwrap_or_else(PoisonError::into_inner);
    go_program(&GoProgram {
        folder: "kubectl",
        modules: "go.mod",
        target: &bin.join("kubectl"),
        flags: "-s -w",
        announcement: "building kubectl (about 2 minutes)",
    })
}

/// Two tiers want it too.
static CONTROL_PLANE: Mutex<()> = Mutex::new(());

/// Everything that Kubernetes consists of, and its kubectl; built again when their sources here change.
pub(crate) fn kubernetes() -> Result<(), String> {
    let _alone = CONTROL_PLANE.lock().unwrap_or_else(PoisonError::into_inner);
    let bin = bin_folder()?;
    kubectl(&bin)?;
    let (major, minor, patch) = KUBERNETES;
    let version = "k8s.io/component-base/version";
    let flags = format!(
        "-s -w -X {version}.gitVersion=v{major}.{minor}.{patch} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"
    );
    go_program(&GoProgram {
        folder: "kubernetes",
        modules: "go.mod",
        target: &bin.join("kubernetes"),
        flags: &flags,
        announcement: "building kube-apiserver and its companions (about 7 minutes)",
    })?;
    for name in KUBERNETES_PROGRAMS {
        let link = bin.join(name);
        if !link.exists() {
            std::os::unix::fs::symlink("kubernetes", &link)
                .map_err(|e| format!("failed to link {}: {e}", link.display()))?;
        }
    }
    Ok(())
}

/// The same with the other kubectls that a control plane is asked with, and with fakes of nodes.
pub(crate) fn kubernetes_and_kubectls() -> Result<(), String> {
    kwok()?;
    let bin = bin_folder()?;
    for version in OTHER_KUBECTLS {
        go_program(&GoProgram {
            folder: "kubectl",
            modules: &format!("{version}.mod"),
            target: &bin.join(format!("kubectl-{version}")),
            flags: "-s -w",
            announcement: &format!("building kubectl {version} (about 2 minutes)"),
        })?;
    }
    Ok(())
}

/// What plays the kubelets of nodes whose pods are fakes.
const KWOK: &str = "sigs.k8s.io/kwok/cmd/kwok@v0.8.0";

/// A kube-apiserver, and nodes that are fakes.
pub(crate) fn kwok() -> Result<(), String> {
    kubernetes()?;
    let _alone = CONTROL_PLANE.lock().unwrap_or_else(PoisonError::into_inner);
    stores::go_tool(&bin_folder()?, "kwok", KWOK, "about 2 minutes")
}

/// A program of `tests/tools`.
pub(crate) struct GoProgram<'a> {
    pub(crate) folder: &'a str,
    /// The file that pins its modules: one `main.go` is built from several.
    pub(crate) modules: &'a str,
    pub(crate) target: &'a Path,
    pub(crate) flags: &'a str,
    pub(crate) announcement: &'a str,
}

/// Builds it where its source, beside which the binary keeps a copy, is not what it was built from.
pub(crate) fn go_program(program: &GoProgram<'_>) -> Result<(), String> {
    let source = workspace().join("tests/tools").join(program.folder);
    let mut text = String::new();
    for file in ["main.go", program.modules] {
        let path = source.join(file);
        text += &fs::read_to_string(&path)
            .map_err(|e| format!("failed to read {}: {e}", path.display()))?;
    }
    let target = program.target;
    let beside = |end: &str| {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(end);
        target.with_file_name(name)
    };
    let (stamp, unfinished) = (beside(".source"), beside(".unfinished"));
    if target.exists() && fs::read_to_string(&stamp).is_ok_and(|known| known == text) {
        return Ok(());
    }
    say(program.announcement);
    // Beside cargo, which somebody waits for.
    run(Command::new("nice")
        .args(["go", "build", "-trimpath", "-modfile", program.modules])
        .args(["-ldflags", program.flags, "-o"])
        .arg(&unfinished)
        .arg(".")
        .current_dir(source))?;
    fs::rename(&unfinished, target)
        .and_then(|()| fs::write(&stamp, &text))
        .map_err(|e| format!("failed to install {}: {e}", target.display()))
}

/// Debian's PostgreSQL 15, without the cluster that its package would create and start.
fn postgres() -> Result<(), String> {
    if Path::new(POSTGRES_15).exists() {
        return Ok(());
    }
    say("installing postgresql-15");
    let settings = Path::new("/etc/postgresql-common");
    fs::create_dir_all(settings)
        .and_then(|()| {
            fs::write(
                settings.join("createcluster.conf"),
                "create_main_cluster = false\n",
            )
        })
        .map_err(|e| format!("failed to write createcluster.conf: {e} (are you root?)"))?;
    apt_install(&["postgresql-15"])
}

/// Those of Debian's that we compare ourselves with.
pub(crate) fn peers() -> Result<(), String> {
    let packages = ["pgbackrest", "barman-cli-cloud"];
    let programs = ["pgbackrest", "barman-cloud-backup"];
    let is_there = |name: &&str| Path::new("/usr/bin").join(name).exists();
    if programs.iter().all(is_there) {
        return Ok(());
    }
    say("installing pgBackRest and barman-cloud");
    apt_install(&packages)
}

/// A language whose words are not sorted by their bytes.
const LOCALE: &str = "sv_SE.utf8";

/// Makes that locale, as a database of a Swede has it.
fn locale() -> Result<(), String> {
    let known = Command::new("locale")
        .arg("-a")
        .output()
        .map_err(|e| format!("failed to list locales: {e}"))?;
    let known = String::from_utf8_lossy(&known.stdout).into_owned();
    if known.lines().any(|name| name == LOCALE) {
        return Ok(());
    }
    say("making locale sv_SE.utf8");
    if !Path::new("/usr/share/i18n/locales/sv_SE").exists() {
        apt_install(&["locales"])?;
    }
    run(Command::new("localedef").args(["-i", "sv_SE", "-f", "UTF-8", LOCALE]))
}

/// Tiers install side by side, and the lists of packages are written by one at a time.
static APT: Mutex<()> = Mutex::new(());

/// Whoever has this may run apt.
pub(crate) fn apt() -> MutexGuard<'static, ()> {
    APT.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn apt_install(packages: &[&str]) -> Result<(), String> {
    let _alone = apt();
    run(Command::new("apt-get").args(["update", "-q"]))?;
    run(Command::new("apt-get")
        .args([
            "install",
            "-qy",
            "--no-install-recommends",
            "-o",
            "Dpkg::Options::=--force-confold",
        ])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive"))
}

/// `$XDG_CACHE_HOME/kubedb-test`, shared by all checkouts.
pub(crate) fn cache_folder() -> Result<PathBuf, String> {
    env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .map(|folder| folder.join("kubedb-test"))
        .ok_or_else(|| "failed to find a cache folder: set XDG_CACHE_HOME or HOME".to_owned())
}

/// Root of the workspace.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(PathBuf::new, Path::to_path_buf)
}

/// The cargo that started us, in the workspace.
///
/// What cargo says of this program in its environment is kept from it: scripts that build dependencies ask for such variables, and would
/// take the difference between a cargo that we start and one that a person starts for a reason to compile everything above them anew.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    for (name, _) in env::vars_os() {
        let told = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        let is_told = |name: &str| told.iter().any(|told| name.starts_with(told));
        if name.to_str().is_some_and(is_told) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command and turns its failure into words.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let status = command
        .status()
        .map_err(|e| format!("failed to start {command:?}: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{command:?} ended with {status}"))
    }
}

/// Where cargo builds.
pub(crate) fn target_folder() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}
