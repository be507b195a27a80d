//! Processes of a bootstrap whose agent is gone.
//!
//! An agent that is killed leaves its initdb, its private server or its script running. The next agent clears the folder in the
//! making and begins anew, and whoever still writes there would spoil what it makes.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::Instant;

/// Variable that every process of a bootstrap carries: the folder it makes.
pub(crate) const MARK: &str = "KUBEDB_BOOTSTRAP";

/// kill -9 ends a process within milliseconds, unless it waits for a broken disk.
const END_LIMIT: Duration = Duration::from_secs(10);

/// A process that is being started shows neither its command nor its variables, for less than a scheduler's turn.
const START_LIMIT: Duration = Duration::from_secs(1);

/// Between two looks.
const POLL: Duration = Duration::from_millis(20);

/// Ends every process that still works on `folder`, and returns when all are gone.
pub async fn end_leftovers(folder: &Path) -> io::Result<()> {
    let begin = Instant::now();
    loop {
        let Found { found, starting } = leftovers(folder)?;
        if found.is_empty() && (!starting || begin.elapsed() >= START_LIMIT) {
            return Ok(());
        }
        if !found.is_empty() && begin.elapsed() >= END_LIMIT {
            return Err(io::Error::other(format!(
                "process {} does not end",
                found[0]
            )));
        }
        for pid in found {
            tracing::warn!(pid, folder = %folder.display(), "ends what a killed agent left running");
            // One that ended meanwhile is gone all the same.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What one look at the processes found.
struct Found {
    found: Vec<i32>,
    /// Whether some process is just being started, and so cannot be told yet.
    starting: bool,
}

fn leftovers(folder: &Path) -> io::Result<Found> {
    let folder = whole(folder);
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let numbers: Vec<i32> = fs::read_dir("/proc")?
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid > 1 && *pid != own)
        .collect();
    // In this order: one that has started between the two looks is found by the second.
    let starting = numbers.iter().any(|pid| is_starting(*pid) && is_ours(*pid));
    Ok(Found {
        found: numbers
            .into_iter()
            .filter(|pid| works_on(*pid, &folder) && is_ours(*pid))
            .collect(),
        starting,
    })
}

/// Whether a process is within its exec: its memory is new and still without command and variables. A thread of the
/// kernel has neither ever, and no program.
fn is_starting(pid: i32) -> bool {
    let is_empty = |name: &str| {
        fs::read(format!("/proc/{pid}/{name}")).is_ok_and(|content| content.is_empty())
    };
    is_empty("cmdline") && is_empty("environ") && fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

/// The folder as the system names it: its parent may be reached by a link, and it may be gone itself.
pub(crate) fn whole(folder: &Path) -> PathBuf {
    match (folder.parent().map(fs::canonicalize), folder.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => folder.to_owned(),
    }
}

/// Whether a process carries the mark, or is a PostgreSQL that lives in the folder. A shell that somebody opened there is neither.
fn works_on(pid: i32, folder: &Path) -> bool {
    let mark = [MARK.as_bytes(), b"=", folder.as_os_str().as_bytes()].concat();
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    if environment
        .split(|byte| *byte == 0)
        .any(|word| word == mark)
    {
        return true;
    }
    let Ok(cwd) = fs::read_link(format!("/proc/{pid}/cwd")) else {
        return false;
    };
    let cwd = cwd.as_os_str().as_bytes();
    let cwd = cwd.strip_suffix(b" (deleted)").unwrap_or(cwd);
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let program = command.split(|byte| *byte == 0).next().unwrap_or_default();
    OsStr::from_bytes(cwd) == folder
        && (program.ends_with(b"/postgres") || program.starts_with(b"postgres:"))
}

/// Whether we may end it; a zombie is ended already and waits for whoever started it.
fn is_ours(pid: i32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let is_zombie = state
        .rsplit_once(") ")
        .is_some_and(|(_, rest)| rest.starts_with('Z'));
    !is_zombie
        && !matches!(
            kill(Pid::from_raw(pid), None),
            Err(Errno::EPERM | Errno::ESRCH)
        )
}
