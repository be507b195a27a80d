//! One agent process: started, found again, watched, stopped.

use std::{
    fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::user::ServiceUser;

/// An agent that ran this long was well: the next failure starts the pauses anew.
const WELL_AFTER: Duration = Duration::from_secs(60);
/// Longest pause before a restart.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A log of an agent is begun anew at this size when the agent starts.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// Variables that agents need of the server's environment; everything else stays out.
const PASSED: [&str; 9] = [
    "PATH",
    "STORAGE_EMULATOR_HOST",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "RUST_LOG",
    "TMPDIR",
];

/// How an agent is started.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) program: PathBuf,
    pub(super) config: PathBuf,
    pub(super) log: PathBuf,
    pub(super) user: ServiceUser,
}

/// An agent, running or between restarts.
#[derive(Debug)]
pub(super) struct AgentProcess {
    launch: Launch,
    pid: Option<i32>,
    child: Option<Child>,
    started: Instant,
    pause: Duration,
    due: Instant,
    is_stopping: bool,
    /// Whether its instance was scaled away.
    pub(super) is_surplus: bool,
    pub(super) restarts: u32,
    pub(super) reason: Option<String>,
}

impl AgentProcess {
    /// Takes over the agent that an earlier server started, if it lives; `tick` starts one otherwise.
    pub(super) fn adopt(launch: Launch) -> Self {
        let pid = find(&launch.config);
        if let Some(pid) = pid {
            tracing::info!(pid, config = %launch.config.display(), "adopted a running agent");
        }
        Self {
            launch,
            pid,
            child: None,
            started: Instant::now(),
            pause: Duration::ZERO,
            due: Instant::now(),
            is_stopping: false,
            is_surplus: false,
            restarts: 0,
            reason: None,
        }
    }

    /// Whether it runs. A child that ended is reaped here.
    pub(super) fn is_running(&mut self) -> bool {
        let (Some(pid), child) = (self.pid, &mut self.child) else {
            return false;
        };
        let ended = match child {
            Some(child) => match child.try_wait() {
                Ok(Some(status)) => Some(format!("its agent ended: {status}")),
                _ => None,
            },
            None if runs_with(pid, &self.launch.config) => None,
            None => Some("its agent ended".to_owned()),
        };
        let Some(reason) = ended else { return true };
        self.reason = Some(reason);
        self.pid = None;
        self.child = None;
        if self.started.elapsed() >= WELL_AFTER {
            self.pause = Duration::ZERO;
        }
        self.due = Instant::now() + self.pause;
        self.pause = (self.pause * 2).clamp(Duration::from_millis(250), PAUSE_MAX);
        false
    }

    /// Starts it again when it is down and its pause is over.
    pub(super) fn tick(&mut self) {
        if self.is_running() || self.is_stopping || Instant::now() < self.due {
            return;
        }
        match self.launch.start() {
            Ok(child) => {
                let is_first = self.reason.is_none();
                if !is_first {
                    self.restarts += 1;
                    tracing::warn!(reason = self.reason, pid = child.id(), "restarted an agent");
                }
                self.pid = i32::try_from(child.id()).ok();
                self.child = Some(child);
                self.started = Instant::now();
                self.reason = None;
            }
            Err(error) => {
                let reason = format!("its agent cannot be started: {error}");
                tracing::error!(reason);
                self.reason = Some(reason);
                self.due = Instant::now() + PAUSE_MAX;
            }
        }
    }

    /// Asks it to stop PostgreSQL and end, and starts it no more. Call until `is_running` says no.
    pub(super) fn terminate(&mut self) {
        self.is_stopping = true;
        if let Some(pid) = self.pid {
            // A process that is gone is noticed by `is_running`.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }
}

impl Launch {
    fn start(&self) -> io::Result<Child> {
        if fs::metadata(&self.log).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
            fs::rename(&self.log, self.log.with_extension("log.1"))?;
        }
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)?;
        let mut command = Command::new(&self.program);
        command
            .args(["agent", "run", "--config"])
            .arg(&self.config)
            .env_clear()
            .envs(
                PASSED
                    .iter()
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            )
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // The agent's working folder must be one that its user can enter.
            .current_dir(self.config.parent().unwrap_or(Path::new("/")))
            .process_group(0);
        if let Some((uid, gid)) = self.user.ids() {
            command.uid(uid).gid(gid);
        }
        command.spawn()
    }
}

/// The agent that runs with this configuration, whoever started it.
fn find(config: &Path) -> Option<i32> {
    fs::read_dir("/proc")
        .ok()?
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .find(|pid| runs_with(*pid, config))
}

fn runs_with(pid: i32, config: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    words.get(1..4) == Some(&[b"agent".as_slice(), b"run", b"--config"])
        && words
            .get(4)
            .is_some_and(|word| *word == config.as_os_str().as_bytes())
}
