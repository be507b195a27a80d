//! A kube-apiserver to try things against: `cargo xtask apiserver up|down|run -- COMMAND`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use kubedb_contract::control_plane::{ControlPlane, Lifetime, tools};
use kubedb_e2e::process::signal;
use serde::{Deserialize, Serialize};

/// kube-apiserver ends its watches before it ends.
const END: Duration = Duration::from_secs(20);

/// What `down` needs to know.
#[derive(Debug, Serialize, Deserialize)]
struct Running {
    name: String,
    id: u32,
    /// Its start time in clock ticks, since ids are given again.
    started: String,
}

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
    if folder.join("processes.json").exists() {
        return Err("it is up already; end it with: cargo xtask apiserver down".to_owned());
    }
    private(&folder).map_err(|error| format!("failed to make {}: {error}", folder.display()))?;
    let mut plane = ControlPlane::start(&folder, Lifetime::UntilDown).map_err(words)?;
    plane
        .start_controllers(Lifetime::UntilDown)
        .map_err(words)?;
    let running: Vec<Running> = plane
        .processes()
        .into_iter()
        .filter_map(|(name, id)| {
            let started = started(id)?;
            Some(Running {
                name: name.to_owned(),
                id,
                started,
            })
        })
        .collect();
    let text = serde_json::to_string_pretty(&running).map_err(|error| error.to_string())?;
    fs::write(folder.join("processes.json"), text)
        .map_err(|error| format!("failed to write what runs: {error}"))?;
    say(&format!("export KUBECONFIG={}", plane.kubeconfig.display()));
    plane.detach();
    Ok(ExitCode::SUCCESS)
}

fn down() -> Result<ExitCode, String> {
    let folder = folder();
    let text =
        fs::read_to_string(folder.join("processes.json")).map_err(|_| "it is not up".to_owned())?;
    let running: Vec<Running> = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    for process in running.iter().rev() {
        let lives = || started(process.id).is_some_and(|started| started == process.started);
        let limit = Instant::now() + END;
        if lives() {
            signal(process.id, 15);
        }
        while lives() && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(50));
        }
        if lives() {
            signal(process.id, 9);
        }
    }
    fs::remove_dir_all(&folder)
        .map_err(|error| format!("failed to remove {}: {error}", folder.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn run(command: &[&str]) -> Result<ExitCode, String> {
    let folder = folder().with_extension(std::process::id().to_string());
    private(&folder).map_err(|error| format!("failed to make {}: {error}", folder.display()))?;
    let outcome = run_in(&folder, command);
    let _ = fs::remove_dir_all(&folder);
    outcome
}

fn run_in(folder: &Path, command: &[&str]) -> Result<ExitCode, String> {
    let mut plane = ControlPlane::start(folder, Lifetime::OfStarter).map_err(words)?;
    plane
        .start_controllers(Lifetime::OfStarter)
        .map_err(words)?;
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

/// It holds keys.
fn private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

/// Field 22 of /proc/ID/stat, after the name, which may hold anything.
fn started(id: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_whitespace().nth(19).map(str::to_owned)
}

fn words(error: impl std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[expect(clippy::print_stderr, reason = "it is a command")]
fn say(line: &str) {
    eprintln!("{line}");
}
