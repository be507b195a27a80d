//! The postmaster: started as a child, or adopted when a killed agent left it running.

use std::{
    fs,
    io::{self, Read as _, Seek as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use jiff::Timestamp;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::{Child, Command};

use super::leftovers::{MARK, whole};
use crate::paths::Paths;

/// How long a fast shutdown may take before the immediate one: a checkpoint of a busy server takes minutes.
const FAST_LIMIT: Duration = Duration::from_secs(120);
/// How long an immediate shutdown may take before kill -9.
const IMMEDIATE_LIMIT: Duration = Duration::from_secs(10);
/// How often an adopted process is looked at; it is not our child, so nobody tells us.
const POLL: Duration = Duration::from_millis(100);

/// End of a log that is read for the last words of a server.
const LOG_END: u64 = 4_096;

/// Why the postmaster could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It did not start.
    #[error("failed to start {program}")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It does not end, not even by kill -9.
    #[error("failed to stop PostgreSQL (process {pid})")]
    Stop {
        /// Process id.
        pid: i32,
    },
}

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Sessions are ended, a checkpoint is made.
    Fast,
    /// At once; the next start recovers.
    Immediate,
}

/// A running postmaster.
#[derive(Debug)]
pub struct Postmaster {
    pid: Pid,
    data: PathBuf,
    child: Option<Child>,
}

/// A kubelet may open a volume to the group of its pod each time it mounts it, and PostgreSQL refuses a data folder that others may enter.
fn close_to_others(data: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::metadata(data)?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    tracing::warn!(
        mode = format!("{:o}", mode & 0o7777),
        "others could enter the data folder"
    );
    fs::set_permissions(data, fs::Permissions::from_mode(0o700))
}

impl Postmaster {
    /// Starts PostgreSQL. Its own log collector takes over soon; what it says before that goes to `startup.log`.
    /// `overrides` are settings that stand above those of every file.
    pub fn start(
        bin_directory: &Path,
        paths: &Paths,
        data: &Path,
        overrides: &[String],
    ) -> Result<Self, ProcessError> {
        let program = bin_directory.join("postgres");
        let start = |source| ProcessError::Start {
            program: program.display().to_string(),
            source,
        };
        close_to_others(data).map_err(start)?;
        let log = fs::File::create(startup_log(paths)).map_err(start)?;
        let mut config_file = std::ffi::OsString::from("config_file=");
        config_file.push(paths.conf().join("postgresql.conf"));
        let child = Command::new(&program)
            .arg("-D")
            .arg(data)
            .arg("-c")
            .arg(config_file)
            .args(overrides.iter().flat_map(|setting| ["-c", setting]))
            // libpq of 9.6 knows no `passfile` in a connection string.
            .env("PGPASSFILE", paths.passfile())
            .env_remove("PGDATA")
            .env(MARK, whole(data))
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(start)?)
            .stderr(log)
            // A signal to the agent's group, such as Ctrl-C, is the agent's to pass on.
            .process_group(0)
            .spawn()
            .map_err(start)?;
        let pid = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .ok_or_else(|| start(io::Error::other("it ended at once")))?;
        Ok(Self {
            pid: Pid::from_raw(pid),
            data: data.to_owned(),
            child: Some(child),
        })
    }

    /// Finds the postmaster that an earlier agent started on this data folder. `postmaster.pid` alone is not believed: the
    /// number may be another process's by now.
    #[must_use]
    pub fn adopt(data: &Path) -> Option<Self> {
        let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
        let pid: i32 = text.lines().next()?.trim().parse().ok()?;
        is_postmaster_of(pid, data).then(|| Self {
            pid: Pid::from_raw(pid),
            data: data.to_owned(),
            child: None,
        })
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Whether it runs. A child that ended is reaped here.
    pub fn is_running(&mut self) -> bool {
        match &mut self.child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => is_postmaster_of(self.pid.as_raw(), &self.data),
        }
    }

    /// Reads its configuration anew.
    pub fn reload(&self) {
        // A process that is gone is noticed by the next observation.
        let _ = kill(self.pid, Signal::SIGHUP);
    }

    /// Stops it, harder and harder; returns when it is gone.
    pub async fn stop(&mut self, mode: StopMode) -> Result<(), ProcessError> {
        let steps = [
            (Signal::SIGINT, FAST_LIMIT),
            (Signal::SIGQUIT, IMMEDIATE_LIMIT),
            (Signal::SIGKILL, IMMEDIATE_LIMIT),
        ];
        let skip = usize::from(mode == StopMode::Immediate);
        for (signal, limit) in steps.into_iter().skip(skip) {
            let _ = kill(self.pid, signal);
            if self.is_gone_within(limit).await {
                return Ok(());
            }
        }
        Err(ProcessError::Stop {
            pid: self.pid.as_raw(),
        })
    }

    async fn is_gone_within(&mut self, limit: Duration) -> bool {
        let end = tokio::time::Instant::now() + limit;
        while tokio::time::Instant::now() < end {
            if !self.is_running() {
                return true;
            }
            tokio::time::sleep(POLL / 5).await;
        }
        !self.is_running()
    }
}

/// Last words of a server that did not come up.
#[must_use]
pub fn last_words(paths: &Paths) -> String {
    words_of(&end_of_log(paths), None)
}

/// The last complaint that was logged since then; empty when there is none.
#[must_use]
pub fn complaint_since(paths: &Paths, since: Timestamp) -> String {
    words_of(&end_of_log(paths), Some(since))
}

/// Whether a line with these words was logged since then.
pub(crate) fn has_logged(paths: &Paths, since: Timestamp, words: &str) -> bool {
    let log = end_of_log(paths);
    let is_it = |line: &str| line.contains(words) && logged_at(line).is_some_and(|at| at >= since);
    log.lines().any(is_it)
}

fn end_of_log(paths: &Paths) -> String {
    let newest = fs::read_dir(paths.log())
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .max();
    newest
        .and_then(|(_, path)| end_of(&path, LOG_END).ok())
        .unwrap_or_default()
}

fn end_of(path: &Path, bytes: u64) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(io::SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut end = Vec::new();
    file.take(bytes).read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).into_owned())
}

/// What a session is answered while nobody gets in, such as those that look whether the server is up. It follows the cause, and never tells it.
const CLOSED: &str = "FATAL:  the database system is ";

fn words_of(log: &str, since: Option<Timestamp>) -> String {
    let is_telling = |line: &&str| {
        (line.contains("FATAL:") || line.contains("PANIC:")) && !line.contains(CLOSED)
    };
    let complaint = log.lines().rev().find(is_telling);
    let words = match since {
        None => complaint.or_else(|| log.lines().last()),
        Some(since) => complaint.filter(|line| logged_at(line).is_some_and(|at| at >= since)),
    };
    words.unwrap_or_default().to_owned()
}

/// The time that `log_line_prefix` puts before a line.
fn logged_at(line: &str) -> Option<Timestamp> {
    let mut parts = line.split(' ');
    format!("{}T{}Z", parts.next()?, parts.next()?).parse().ok()
}

fn startup_log(paths: &Paths) -> PathBuf {
    paths.log().join("startup.log")
}

/// Whether this process is a postmaster of this data folder, by its command line and its working folder.
fn is_postmaster_of(pid: i32, data: &Path) -> bool {
    if pid <= 1 {
        return false;
    }
    let Ok(command) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    let mut words = command.split(|byte| *byte == 0);
    let is_postgres = words.next().is_some_and(|word| word.ends_with(b"postgres"));
    let cwd = fs::read_link(format!("/proc/{pid}/cwd"));
    let folder = fs::canonicalize(data);
    is_postgres && matches!((cwd, folder), (Ok(cwd), Ok(folder)) if cwd == folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_folder_that_was_opened_to_a_group_is_closed_again() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let mode = || fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o2770)).unwrap();
        close_to_others(folder.path()).unwrap();
        assert_eq!(mode(), 0o700);
        close_to_others(folder.path()).unwrap();
        assert_eq!(mode(), 0o700);
        assert!(close_to_others(&folder.path().join("absent")).is_err());
    }

    #[test]
    fn only_complaints_of_this_start_count() {
        let log = "2026-11-25 10:00:00.123 UTC [7] FATAL:  old\n2026-11-25 10:00:09.000 UTC [7] LOG:  later\n";
        let at = |text: &str| text.parse().ok();
        assert!(words_of(log, at("2026-11-25T10:00:00Z")).ends_with("FATAL:  old"));
        assert_eq!(words_of(log, at("2026-11-25T10:00:01Z")), "");
        assert!(words_of(log, None).ends_with("old"));
        assert_eq!(words_of("no time\n", None), "no time");
    }

    #[test]
    fn answers_to_sessions_hide_no_cause() {
        let cause = "2026-11-27 19:18:53.690 UTC [7] FATAL:  requested recovery stop point is before consistent recovery point\n";
        for state in ["starting up", "shutting down", "in recovery mode"] {
            let answer = format!(
                "2026-11-27 19:18:53.699 UTC [8] postgres@postgres FATAL:  the database system is {state}\n"
            );
            let since = "2026-11-27T19:18:00Z".parse().ok();
            assert_eq!(words_of(&format!("{cause}{answer}"), since), cause.trim());
            assert_eq!(words_of(&format!("{cause}{answer}"), None), cause.trim());
            assert_eq!(words_of(&answer, since), "");
        }
    }
}
