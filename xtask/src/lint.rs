//! What is checked without running anything: format, lints, licences and sources of what we depend on.

use std::{path::PathBuf, process::Command};

use crate::{say, tidy, tools};

/// The checker of dependencies, in the one version that everyone uses.
const CARGO_DENY: (&str, &str) = ("cargo-deny", "0.20.2");

/// Runs every check. All of them run, also after a failure.
pub(crate) fn run() -> Result<(), String> {
    let mut failures = Vec::new();
    say("== tidy");
    failures.extend(tidy::run().err());
    say("== format");
    failures.extend(tools::run(tools::cargo().args(["fmt", "--all", "--check"])).err());
    say("== clippy");
    let mut clippy = tools::cargo();
    clippy.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);
    failures.extend(tools::run(&mut clippy).err());
    say("== dependencies");
    failures.extend(deny().err());
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures.join("\n"))
    }
}

/// Advisories come from a repository of their own, which a machine without a way out cannot read; `cargo deny check` reads them.
fn deny() -> Result<(), String> {
    let mut command = Command::new(installed_deny()?);
    command.current_dir(tools::workspace()).args([
        "--all-features",
        "check",
        "bans",
        "licenses",
        "sources",
    ]);
    tools::run(&mut command)
}

/// The checker itself, built once into the cache.
fn installed_deny() -> Result<PathBuf, String> {
    let (name, version) = CARGO_DENY;
    let root = tools::cache_folder()?.join(format!("{name}-{version}"));
    let bin = root.join("bin").join(name);
    if !bin.exists() {
        say("building cargo-deny (about 5 minutes)");
        let mut install = tools::cargo();
        install
            .args(["install", name, "--version", version, "--locked", "--root"])
            .arg(&root);
        tools::run(&mut install)?;
    }
    Ok(bin)
}
