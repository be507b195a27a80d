//! What the numbers were measured on: without that they say nothing.

use std::{fs, process::Command};

use serde_json::{Value, json};

use crate::tools;

/// The machine and the versions.
pub(super) fn describe() -> Result<Value, String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let cpus = read("/proc/cpuinfo");
    let commit = output(Command::new("git").args(["rev-parse", "HEAD"]))?;
    let changes = output(Command::new("git").args(["status", "--porcelain"]))?;
    Ok(json!({
        "cpu": after(&cpus, "model name"),
        "cores": cpus.lines().filter(|line| line.starts_with("processor")).count(),
        "memory": after(&read("/proc/meminfo"), "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "loadAverageBefore": read("/proc/loadavg").split_whitespace().next(),
        "commit": commit,
        "uncommittedChanges": !changes.is_empty(),
        "kubedb": env!("CARGO_PKG_VERSION"),
        "rustc": output(Command::new("rustc").arg("--version"))?,
        "postgres": output(Command::new(tools::POSTGRES_15).arg("--version"))?,
    }))
}

fn output(command: &mut Command) -> Result<String, String> {
    let output = command
        .current_dir(tools::workspace())
        .output()
        .map_err(|error| format!("failed to start {command:?}: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
