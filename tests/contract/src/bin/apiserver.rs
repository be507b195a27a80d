//! A kube-apiserver to try things against: `cargo xtask apiserver up|down|run -- COMMAND`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use kubedb_cluster::{
    error::words,
    loopback::{ControlPlane, Lifetime},
    tools::tools,
};
use kubedb_e2e::left::{self, Left};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["up"] => up(),
        ["down"] => down(),
        ["run", "--", command @ ..] if !command.is_empty() => run(command),
        _ => Err("usage: apiserver up | down | run -- COMMAND".to_owned()),
    };
    match outcome {
        Ok(code) => code,
        Err(reason) => {
            say(&format!("error: {reason}"));
            ExitCode::FAILURE
        }
    }
}

/// Beside the tests' programs, outside the checkout.
fn folder() -> PathBuf {
    tools().with_file_name("apiserver")
}

fn up() -> Result<ExitCode, String> {
    let folder = folder();
    if left::read(&folder).is_some() {
        return Err("it is up already; end it with: cargo xtask apiserver down".to_owned());
    }
    left::private(&folder)
        .map_err(|error| format!("failed to make {}: {error}", folder.display()))?;
    let mut plane =
        ControlPlane::start(&folder, Lifetime::UntilDown).map_err(|error| words(&error))?;
    plane
        .start_controllers(Lifetime::UntilDown)
        .map_err(|error| words(&error))?;
    let running: Vec<Left> = plane
        .processes()
        .into_iter()
        .filter_map(|(name, id)| Left::new(name, id))
        .collect();
    left::write(&folder, &running)
        .map_err(|error| format!("failed to write what runs: {error}"))?;
    say(&format!("export KUBECONFIG={}", plane.kubeconfig.display()));
    plane.detach();
    Ok(ExitCode::SUCCESS)
}

fn down() -> Result<ExitCode, String> {
    let folder = folder();
    let running = left::read(&folder).ok_or("it is not up")?;
    left::end(&folder, &running)
        .map_err(|error| format!("failed to remove {}: {error}", folder.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn run(command: &[&str]) -> Result<ExitCode, String> {
    let folder = folder().with_extension(std::process::id().to_string());
    left::private(&folder)
        .map_err(|error| format!("failed to make {}: {error}", folder.display()))?;
    let outcome = run_in(&folder, command);
    let _ = fs::remove_dir_all(&folder);
    outcome
}

fn run_in(folder: &Path, command: &[&str]) -> Result<ExitCode, String> {
    let mut plane =
        ControlPlane::start(folder, Lifetime::OfStarter).map_err(|error| words(&error))?;
    plane
        .start_controllers(Lifetime::OfStarter)
        .map_err(|error| words(&error))?;
    let path = std::env::var("PATH").unwrap_or_default();
    let status = Command::new(command[0])
        .args(&command[1..])
        .env("KUBECONFIG", &plane.kubeconfig)
        .env("PATH", format!("{}:{path}", tools().display()))
        .status()
        .map_err(|error| format!("failed to start {}: {error}", command[0]))?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[expect(clippy::print_stderr, reason = "it is a command")]
fn say(line: &str) {
    eprintln!("{line}");
}
