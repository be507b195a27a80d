//! A new cluster.

use std::{fs, io, path::Path, process::Stdio, time::Duration};

use tokio::process::Command;

use super::leftovers::{MARK, whole};

/// initdb takes seconds; a disk that needs minutes is broken.
const INITDB_LIMIT: Duration = Duration::from_secs(300);
/// End of initdb's output that goes into an error.
const OUTPUT_MAX: usize = 2_000;

/// Why there is no new cluster.
#[derive(Debug, thiserror::Error)]
pub enum InitdbError {
    /// The program could not be run.
    #[error("failed to run {program}")]
    Run {
        /// The program.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The program said no.
    #[error("failed to make a cluster: {output}")]
    Initdb {
        /// What it said, last lines.
        output: String,
    },
    /// It did not end.
    #[error("failed to make a cluster within {} s", INITDB_LIMIT.as_secs())]
    Hang,
    /// The cluster is not on the disk.
    #[error("failed to sync {folder}")]
    Sync {
        /// The folder.
        folder: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The folder could not be cleared.
    #[error("failed to clear {folder}")]
    Clear {
        /// The folder.
        folder: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Makes a cluster in `data`, which is absent or empty. Checksums and UTF8 are set here because later is too late; the
/// locale is pinned, because an index built under another one is wrong.
pub async fn initdb(bin_directory: &Path, data: &Path) -> Result<(), InitdbError> {
    let program = bin_directory.join("initdb");
    let run = |source| InitdbError::Run {
        program: program.display().to_string(),
        source,
    };
    let child = Command::new(&program)
        .arg("--pgdata")
        .arg(data)
        .args(["--username=postgres", "--encoding=UTF8", "--data-checksums"])
        .args(["--locale=C.UTF-8", "--lc-messages=C"])
        .args(["--auth-local=trust", "--auth-host=reject"])
        // File by file, a thousand times over, this takes longer than everything else; `sync` below does it in one call.
        .arg("-N")
        .env_remove("PGDATA")
        .env(MARK, whole(data))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(run)?;
    let output = tokio::time::timeout(INITDB_LIMIT, child.wait_with_output())
        .await
        .map_err(|_| InitdbError::Hang)?
        .map_err(run)?;
    if output.status.success() {
        return sync(data).await;
    }
    let start = output.stderr.len().saturating_sub(OUTPUT_MAX);
    let output = String::from_utf8_lossy(&output.stderr[start..])
        .trim()
        .replace('\n', "; ");
    Err(InitdbError::Initdb { output })
}

/// Puts a whole new cluster on the disk, with the file system it lies on.
pub(crate) async fn sync(data: &Path) -> Result<(), InitdbError> {
    let folder = data.to_owned();
    tokio::task::spawn_blocking(move || {
        nix::unistd::syncfs(fs::File::open(folder)?).map_err(io::Error::from)
    })
    .await
    .unwrap_or_else(|error| Err(io::Error::other(error)))
    .map_err(|source| InitdbError::Sync {
        folder: data.display().to_string(),
        source,
    })
}

/// Removes a folder and what is in it.
pub fn clear(folder: &Path) -> Result<(), InitdbError> {
    match fs::remove_dir_all(folder) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(InitdbError::Clear {
            folder: folder.display().to_string(),
            source,
        }),
        _ => Ok(()),
    }
}
