//! Initial scripts: run once, on the first instance, before anybody can connect.

use std::{
    io::{self, Read as _},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{ChildStderr, ChildStdin, Command},
    sync::mpsc,
};

use crate::{
    bootstrap::Place,
    postgres::leftovers::{MARK, whole},
};

/// Scripts may load much data, but not for ever.
const SCRIPT_LIMIT: Duration = Duration::from_secs(3_600);
/// End of a script's output that goes into an error.
const OUTPUT_MAX: usize = 2_000;

/// Bytes of an archive that are unpacked at a time.
const UNPACKED: usize = 64 << 10;

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

/// How a script is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runner {
    Psql { is_packed: bool },
    Bash,
}

impl Runner {
    fn of(name: &str) -> Option<Self> {
        if name.ends_with(".sql") {
            Some(Self::Psql { is_packed: false })
        } else if name.ends_with(".sql.gz") {
            Some(Self::Psql { is_packed: true })
        } else {
            name.ends_with(".sh").then_some(Self::Bash)
        }
    }
}

/// Runs `*.sql` and `*.sql.gz` by psql and `*.sh` by bash, in the order given; other files are passed over, as the original does.
pub(crate) async fn run_scripts(place: &Place, scripts: &[Script]) -> Result<(), RunScriptsError> {
    for script in scripts {
        let Some(runner) = Runner::of(&script.name) else {
            tracing::info!(script = script.name, "passed over: no .sql, .sql.gz or .sh");
            continue;
        };
        let mut command = match runner {
            Runner::Psql { .. } => {
                let psql = find_psql(place).ok_or_else(|| RunScriptsError::FindPsql {
                    script: script.name.clone(),
                })?;
                let mut command = Command::new(psql);
                command.args(["--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", "-f", "-"]);
                command
            }
            Runner::Bash => {
                let mut command = Command::new("bash");
                command.args(["-euo", "pipefail", "-s"]);
                command
            }
        };
        tracing::info!(script = script.name, "runs");
        command
            .env(MARK, whole(&place.paths.new_data()))
            .env("PGHOST", place.paths.socket())
            .env("PGPORT", place.socket_port.to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres");
        let is_packed = runner == Runner::Psql { is_packed: true };
        run(command, script, is_packed).await?;
    }
    Ok(())
}

async fn run(
    mut command: Command,
    script: &Script,
    is_packed: bool,
) -> Result<(), RunScriptsError> {
    let failed = |source| RunScriptsError::Run {
        script: script.name.clone(),
        source,
    };
    let refused = |output: String| RunScriptsError::Script {
        script: script.name.clone(),
        output,
    };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let feeding = feed(stdin, script.content.clone(), is_packed);
    let ended = async { tokio::join!(child.wait(), feeding, last_output(stderr)) };
    let (status, fed, output) = tokio::time::timeout(SCRIPT_LIMIT, ended)
        .await
        .map_err(|_| failed(io::Error::from(io::ErrorKind::TimedOut)))?;
    // What psql was given of a damaged archive may have gone well.
    fed.map_err(|error| refused(error.to_string()))?;
    if status.map_err(failed)?.success() {
        Ok(())
    } else {
        Err(refused(output))
    }
}

/// Gives a script to its program. One that stops reading has failed, and its exit code says so.
async fn feed(stdin: Option<ChildStdin>, content: Vec<u8>, is_packed: bool) -> io::Result<()> {
    let Some(mut stdin) = stdin else {
        return Ok(());
    };
    if !is_packed {
        let _ = stdin.write_all(&content).await;
        return Ok(());
    }
    let (sender, mut pieces) = mpsc::channel::<io::Result<Vec<u8>>>(2);
    tokio::task::spawn_blocking(move || {
        let mut archive = flate2::read::MultiGzDecoder::new(content.as_slice());
        loop {
            let mut piece = vec![0; UNPACKED];
            let read = archive.read(&mut piece).map(|read| {
                piece.truncate(read);
                piece
            });
            let is_last = !read.as_ref().is_ok_and(|piece| !piece.is_empty());
            if sender.blocking_send(read).is_err() || is_last {
                return;
            }
        }
    });
    while let Some(piece) = pieces.recv().await {
        if stdin.write_all(&piece?).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Reads all that a program says and keeps the end of it.
async fn last_output(stderr: Option<ChildStderr>) -> String {
    let mut kept = Vec::new();
    let Some(mut stderr) = stderr else {
        return String::new();
    };
    let mut buffer = vec![0; 8_192];
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..read]);
        let surplus = kept.len().saturating_sub(OUTPUT_MAX);
        kept.drain(..surplus);
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scripts_name_says_how_it_is_run() {
        assert_eq!(
            Runner::of("a.sql.gz"),
            Some(Runner::Psql { is_packed: true })
        );
        assert_eq!(Runner::of("b.sql"), Some(Runner::Psql { is_packed: false }));
        assert_eq!(Runner::of("c.sh"), Some(Runner::Bash));
        for other in ["README", "d.gz", "e.sql.bak", "sql"] {
            assert_eq!(Runner::of(other), None, "{other}");
        }
    }
}
