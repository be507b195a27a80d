//! Installs what the tests need, from package registries, into a cache outside the checkout.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use crate::{say, stores};

pub(crate) const POSTGRES_15: &str = "/usr/lib/postgresql/15/bin/postgres";

/// The Kubernetes that is built, as its go.mod pins it.
const KUBERNETES: (&str, &str, &str) = ("1", "34", "4");
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
    kubectl(&bin)?;
    Ok(Tools { bin })
}

fn bin_folder() -> Result<PathBuf, String> {
    let bin = cache_folder()?.join("bin");
    fs::create_dir_all(&bin).map_err(|e| format!("failed to create {}: {e}", bin.display()))?;
    Ok(bin)
}

/// Two tiers want it, and their tools are installed side by side.
static KUBECTL: Mutex<()> = Mutex::new(());

fn kubectl(bin: &Path) -> Result<(), String> {
    let _alone = KUBECTL.lock().unwrap_or_else(PoisonError::into_inner);
    if !bin.join("kubectl").exists() {
        say("building kubectl (about 2 minutes)");
        let source = workspace().join("tests/tools/kubectl");
        let target = bin.join("kubectl");
        run(Command::new("go")
            .args(["build", "-trimpath", "-ldflags", "-s -w", "-o"])
            .arg(&target)
            .arg(".")
            .current_dir(source))?;
    }
    Ok(())
}

/// A real control plane and kubectl to ask it with; built again when its source here changes.
pub(crate) fn kubernetes() -> Result<(), String> {
    let bin = bin_folder()?;
    kubectl(&bin)?;
    let source = workspace().join("tests/tools/kubernetes");
    let mut text = String::new();
    for file in ["main.go", "go.mod"] {
        let path = source.join(file);
        text += &fs::read_to_string(&path)
            .map_err(|e| format!("failed to read {}: {e}", path.display()))?;
    }
    let (target, stamp) = (bin.join("kubernetes"), bin.join("kubernetes.source"));
    if !target.exists() || fs::read_to_string(&stamp).unwrap_or_default() != text {
        say("building kube-apiserver and its companions (about 7 minutes)");
        let (major, minor, patch) = KUBERNETES;
        let version = "k8s.io/component-base/version";
        let flags = format!(
            "-s -w -X {version}.gitVersion=v{major}.{minor}.{patch} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"
        );
        // Beside cargo, which somebody waits for.
        let unfinished = bin.join("kubernetes.unfinished");
        run(Command::new("nice")
            .args(["go", "build", "-trimpath", "-ldflags", &flags, "-o"])
            .arg(&unfinished)
            .arg(".")
            .current_dir(source))?;
        fs::rename(&unfinished, &target)
            .and_then(|()| fs::write(&stamp, &text))
            .map_err(|e| format!("failed to install {}: {e}", target.display()))?;
    }
    for name in KUBERNETES_PROGRAMS {
        let link = bin.join(name);
        if !link.exists() {
            std::os::unix::fs::symlink("kubernetes", &link)
                .map_err(|e| format!("failed to link {}: {e}", link.display()))?;
        }
    }
    Ok(())
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
    apt_install("postgresql-15")
}

/// Debian's pgBackRest, which we compare ourselves with.
pub(crate) fn pgbackrest() -> Result<(), String> {
    if Path::new("/usr/bin/pgbackrest").exists() {
        return Ok(());
    }
    say("installing pgbackrest");
    apt_install("pgbackrest")
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
        apt_install("locales")?;
    }
    run(Command::new("localedef").args(["-i", "sv_SE", "-f", "UTF-8", LOCALE]))
}

fn apt_install(package: &str) -> Result<(), String> {
    run(Command::new("apt-get").args(["update", "-q"]))?;
    run(Command::new("apt-get")
        .args([
            "install",
            "-qy",
            "--no-install-recommends",
            "-o",
            "Dpkg::Options::=--force-confold",
        ])
        .arg(package)
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
