//! Initial scripts: run once, on the first instance, before anybody can connect.

use std::{io, path::PathBuf, process::Stdio, time::Duration};

use tokio::process::Command;

use crate::bootstrap::Place;

/// Scripts may load much data, but not for ever.
const SCRIPT_LIMIT: Duration = Duration::from_secs(3_600);
/// End of a script's output that goes into an error.
const OUTPUT_MAX: usize = 2_000;

/// One script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// File name: decides what it is, and its turn.
    pub name: String,
    /// Content.
    pub content: Vec<u8>,
}

/// Why scripts did not run.
#[derive(Debug, thiserror::Error)]
pub enum RunScriptsError {
    /// `psql` is needed and not there.
    #[error("failed to run {script}: it needs psql, which is not installed")]
    FindPsql {
        /// The script.
        script: String,
    },
    /// The script said no.
    #[error("failed to run {script}: {output}")]
    Script {
        /// The script.
        script: String,
        /// What it said, last lines.
        output: String,
    },
    /// The program could not be run.
    #[error("failed to run {script}")]
    Run {
        /// The script.
        script: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Runs `*.sql` by psql and `*.sh` by bash, in the order given; other files are passed over, as the original does.
pub(crate) async fn run_scripts(place: &Place, scripts: &[Script]) -> Result<(), RunScriptsError> {
    for script in scripts {
        let mut command = if script.name.ends_with(".sql") {
            let psql = find_psql(place).ok_or_else(|| RunScriptsError::FindPsql {
                script: script.name.clone(),
            })?;
            let mut command = Command::new(psql);
            command.args(["--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", "-f", "-"]);
            command
        } else if script.name.ends_with(".sh") {
            let mut command = Command::new("bash");
            command.args(["-euo", "pipefail", "-s"]);
            command
        } else {
            tracing::info!(script = script.name, "passed over: neither .sql nor .sh");
            continue;
        };
        tracing::info!(script = script.name, "runs");
        command
            .env("PGHOST", place.paths.socket())
            .env("PGPORT", place.socket_port.to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres");
        run(command, script).await?;
    }
    Ok(())
}

async fn run(mut command: Command, script: &Script) -> Result<(), RunScriptsError> {
    use tokio::io::AsyncWriteExt as _;
    let failed = |source| RunScriptsError::Run {
        script: script.name.clone(),
        source,
    };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let content = script.content.clone();
    let feed = child.stdin.take().map(|mut stdin| {
        tokio::spawn(async move {
            // A script that stops reading has failed, and its exit code says so.
            let _ = stdin.write_all(&content).await;
        })
    });
    let output = tokio::time::timeout(SCRIPT_LIMIT, child.wait_with_output())
        .await
        .map_err(|_| failed(io::Error::from(io::ErrorKind::TimedOut)))?
        .map_err(failed)?;
    if let Some(feed) = feed {
        feed.abort();
    }
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let start = text.len().saturating_sub(OUTPUT_MAX);
    Err(RunScriptsError::Script {
        script: script.name.clone(),
        output: text.get(start..).unwrap_or(&text).trim().to_owned(),
    })
}

/// Beside the server, then in PATH, then where Debian keeps it.
fn find_psql(place: &Place) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.path().join("bin"));
    std::iter::once(place.bin_directory.clone())
        .chain(std::env::split_paths(&path))
        .chain(debian)
        .map(|folder| folder.join("psql"))
        .find(|program| program.is_file())
}
