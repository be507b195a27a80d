//! Installs what the tests need, from package registries, into a cache outside the checkout.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{say, stores};

pub(crate) const POSTGRES_15: &str = "/usr/lib/postgresql/15/bin/postgres";

/// Where the tools lie.
pub(crate) struct Tools {
    /// Folder to put first on `PATH`.
    pub(crate) bin: PathBuf,
}

/// Installs what is missing; prints one line for each thing it installs.
pub(crate) fn install() -> Result<Tools, String> {
    let cache = cache_folder()?;
    let bin = cache.join("bin");
    fs::create_dir_all(&bin).map_err(|e| format!("failed to create {}: {e}", bin.display()))?;
    postgres()?;
    stores::install(&cache)?;
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
    Ok(Tools { bin })
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
    run(Command::new("apt-get").args(["update", "-q"]))?;
    run(Command::new("apt-get")
        .args([
            "install",
            "-qy",
            "--no-install-recommends",
            "-o",
            "Dpkg::Options::=--force-confold",
        ])
        .arg("postgresql-15")
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
