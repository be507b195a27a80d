//! The test tiers.

use std::{env, process::Command, thread};

use crate::{say, tidy, tools};

/// One tier of tests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    /// Pure crates: nothing but this process.
    Unit,
    /// The embedded API beside a real kube-apiserver.
    Contract,
    /// Real PostgreSQL, real stores, the real binary, on loopback.
    Local,
}

/// Crates whose tests start nothing.
const PURE_CRATES: [&str; 3] = ["kubedb-core", "kubedb-api", "xtask"];

/// The choice of crates whose tests start servers.
pub(crate) const LOCAL: [&str; 8] = [
    "--exclude",
    PURE_CRATES[0],
    "--exclude",
    PURE_CRATES[1],
    "--exclude",
    PURE_CRATES[2],
    "--exclude",
    CONTRACT,
];

/// The crate of the contract suite.
const CONTRACT: &str = "kubedb-contract";

impl Tier {
    /// All of them, the quick ones first.
    pub(crate) const ALL: [Self; 3] = [Self::Unit, Self::Local, Self::Contract];

    /// Reads a tier's name.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        match name {
            "unit" => Ok(Self::Unit),
            "contract" => Ok(Self::Contract),
            "local" => Ok(Self::Local),
            other => Err(format!(
                "unknown tier {other:?}: one of unit, contract, local"
            )),
        }
    }
}

/// Runs the tiers in order. All of them run, also after a failure.
pub(crate) fn run(tiers: &[Tier]) -> Result<(), String> {
    let mut failures = Vec::new();
    // Minutes of another compiler, which the tiers before have no need to wait for.
    let kubernetes = tiers
        .contains(&Tier::Contract)
        .then(|| thread::spawn(tools::kubernetes));
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
        command.arg("--workspace").args(LOCAL);
        command.env("PATH", format!("{}:{path}", tools.bin.display()));
        failures.extend(run_command(&mut command));
    }
    if let Some(kubernetes) = kubernetes {
        say("== tier contract");
        failures.extend(contract(kubernetes));
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures.join("\n"))
    }
}

/// Without a real kube-apiserver our side runs all the same, and the tier fails.
fn contract(kubernetes: thread::JoinHandle<Result<(), String>>) -> Vec<String> {
    let mut command = cargo_test();
    command.args(["-p", CONTRACT]);
    let installed = kubernetes
        .join()
        .unwrap_or_else(|_| Err("the installation of kube-apiserver panicked".to_owned()));
    let missing = match installed {
        Ok(()) => {
            command.env("KUBEDB_CONTRACT_BOTH", "1");
            None
        }
        Err(reason) => {
            let loud = format!("NOTHING WAS COMPARED WITH A REAL kube-apiserver: {reason}");
            say(&loud);
            Some(loud)
        }
    };
    missing
        .into_iter()
        .chain(run_command(&mut command))
        .collect()
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
