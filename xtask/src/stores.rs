//! Installs the object-store servers that tests run against, each in one pinned version.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    say,
    tools::{self, run},
};

const FAKE_GCS_SERVER: &str = "github.com/fsouza/fake-gcs-server@v1.56.1";
const MINIO: &str = "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c";
const AZURITE: &str = "azurite@3.37.0";
const SWIFT: [&str; 4] = [
    "swift==2.38.3",
    "keystone==30.0.0",
    "keystonemiddleware==13.0.1",
    "setuptools<81",
];
const MEMCACHED: [&str; 2] = ["memcached", "libevent-2.1-7"];
const FAKETIME: [&str; 1] = ["libfaketime"];

/// Runs one of the commands for a developer; what they do is in `tests/stores/src/bin/stores.rs`.
pub(crate) fn run_command(arguments: &[&str]) -> Result<(), String> {
    if arguments == ["up"] {
        install(&tools::cache_folder()?)?;
    }
    let mut command = tools::cargo();
    command
        .args(["run", "-q", "-p", "kubedb-stores", "--bin", "stores", "--"])
        .args(arguments);
    run(&mut command)
}

/// Installs what is missing; prints one line for each thing it installs.
pub(crate) fn install(cache: &Path) -> Result<(), String> {
    let bin = cache.join("bin");
    go_tool(&bin, "fake-gcs-server", FAKE_GCS_SERVER, "about 3 minutes")?;
    go_tool(&bin, "minio", MINIO, "about 5 minutes")?;
    azurite(cache)?;
    swift(cache)?;
    keystone(cache)?;
    unpack(cache, "memcached", &MEMCACHED)?;
    unpack(cache, "faketime", &FAKETIME)
}

pub(crate) fn go_tool(bin: &Path, name: &str, module: &str, time: &str) -> Result<(), String> {
    if bin.join(name).exists() {
        return Ok(());
    }
    say(&format!("building {name} ({time})"));
    run(Command::new("go")
        .args(["install", "-trimpath", "-ldflags", "-s -w", module])
        .env("GOBIN", bin)
        .env("CGO_ENABLED", "0"))
}

/// Something with many files: made beside its place, and put there when it is whole.
fn folder(
    cache: &Path,
    name: &str,
    version: &str,
    make: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<(), String> {
    let (place, mark) = (cache.join(name), cache.join(name).join("kubedb-version"));
    if fs::read_to_string(&mark).is_ok_and(|known| known == version) {
        return Ok(());
    }
    say(&format!("installing {name} (about a minute)"));
    let failed = |error: std::io::Error| format!("failed to prepare {}: {error}", place.display());
    if place.exists() {
        fs::remove_dir_all(&place).map_err(failed)?;
    }
    fs::create_dir_all(&place).map_err(failed)?;
    make(&place)?;
    fs::write(&mark, version).map_err(failed)
}

fn azurite(cache: &Path) -> Result<(), String> {
    folder(cache, "azurite", AZURITE, |place| {
        run(Command::new("npm")
            .args([
                "install",
                "--silent",
                "--no-fund",
                "--no-audit",
                "--ignore-scripts",
            ])
            .arg("--prefix")
            .arg(place)
            .arg(AZURITE))
    })
}

/// Scripts of a virtual environment name its folder, so it is made in its place.
fn swift(cache: &Path) -> Result<(), String> {
    folder(cache, "swift", SWIFT[0], |place| {
        run(Command::new("python3").args(["-m", "venv"]).arg(place))?;
        run(Command::new(place.join("bin/pip"))
            .args(["install", "--quiet", "--disable-pip-version-check"])
            .args(SWIFT))
    })
}

/// A database with one user and one project, which each test copies: making it takes half a minute.
fn keystone(cache: &Path) -> Result<(), String> {
    folder(cache, "keystone", SWIFT[1], |place| {
        let configuration = place.join("keystone.conf");
        let text = format!(
            "[database]\nconnection = sqlite:///{0}/keystone.db\n[fernet_tokens]\nkey_repository = {0}/fernet\n[credential]\nkey_repository = {0}/credential\n",
            place.display()
        );
        let failed =
            |error: std::io::Error| format!("failed to prepare {}: {error}", place.display());
        fs::write(&configuration, text).map_err(failed)?;
        for name in ["fernet", "credential"] {
            fs::create_dir_all(place.join(name)).map_err(failed)?;
        }
        let owner = ["--keystone-user", "root", "--keystone-group", "root"];
        let bootstrap = [
            "bootstrap",
            "--bootstrap-password",
            "open-sesame",
            "--bootstrap-public-url",
            "http://127.0.0.1/v3/",
            "--bootstrap-region-id",
            "here",
        ];
        let fernet = [&["fernet_setup"][..], &owner].concat();
        let credential = [&["credential_setup"][..], &owner].concat();
        for arguments in [&["db_sync"][..], &fernet, &credential, &bootstrap] {
            run(Command::new(cache.join("swift/bin/keystone-manage"))
                .arg("--config-file")
                .arg(&configuration)
                .args(arguments)
                .stderr(Stdio::null()))?;
        }
        Ok(())
    })
}

/// Packages of the system, unpacked and not installed: an installed memcached, where Swift's TempAuth keeps its tokens, would run as a service of the
/// machine.
pub(crate) fn unpack(cache: &Path, name: &str, packages: &[&str]) -> Result<(), String> {
    folder(cache, name, "1", |place| {
        let _alone = tools::apt();
        let download = || {
            Command::new("apt-get")
                .args(["download", "-q"])
                .args(packages)
                .current_dir(place)
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        };
        if !download() {
            run(Command::new("apt-get").args(["update", "-q"]))?;
            if !download() {
                return Err(format!("apt-get download {name} failed"));
            }
        }
        let failed = |error: std::io::Error| format!("failed to read {}: {error}", place.display());
        for entry in fs::read_dir(place).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                run(Command::new("dpkg-deb").arg("-x").arg(&path).arg(place))?;
            }
        }
        Ok(())
    })
}
