//! The test tiers.

use std::{env, process::Command};

use crate::{say, tidy, tools};

/// One tier of tests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    /// Pure crates: nothing but this process.
    Unit,
    /// Real PostgreSQL, real stores, the real binary, on loopback.
    Local,
}

/// Crates whose tests start nothing.
const PURE_CRATES: [&str; 3] = ["kubedb-core", "kubedb-api", "xtask"];

impl Tier {
    /// Reads a tier's name.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        match name {
            "unit" => Ok(Self::Unit),
            "local" => Ok(Self::Local),
            other => Err(format!("unknown tier {other:?}: one of unit, local")),
        }
    }
}

/// Runs the tiers in order. All of them run, also after a failure.
pub(crate) fn run(tiers: &[Tier]) -> Result<(), String> {
    let mut failures = Vec::new();
    if tiers.contains(&Tier::Unit) {
        say("== tidy");
        failures.extend(tidy::run().err());
        say("== tier unit");
        let mut command = cargo_test();
        for name in PURE_CRATES {
            command.args(["-p", name]);
        }
        failures.extend(run_command(&mut command));
    }
    if tiers.contains(&Tier::Local) {
        say("== tier local: installing what it needs");
        let tools = tools::install()?;
        say("== tier local");
        let path = env::var("PATH").unwrap_or_default();
        let mut command = cargo_test();
        command.arg("--workspace");
        for name in PURE_CRATES {
            command.args(["--exclude", name]);
        }
        command.env("PATH", format!("{}:{path}", tools.bin.display()));
        failures.extend(run_command(&mut command));
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures.join("\n"))
    }
}

fn cargo_test() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(tools::workspace())
        .args(["test", "--no-fail-fast"]);
    command
}

fn run_command(command: &mut Command) -> Option<String> {
    tools::run(command).err()
}
