//! One agent process: started, found again, watched, stopped.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use nix::{
    fcntl::OFlag,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    processes::{self, Kind, LeftBehind},
    user::ServiceUser,
};

/// An agent that ran this long was well: the next failure starts the pauses anew.
const WELL_AFTER: Duration = Duration::from_secs(60);
/// Longest pause before a restart.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A log of an agent is set aside at this size; one older is kept.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// How often sizes of logs are looked at.
const LOG_LOOK: Duration = Duration::from_secs(30);
/// How long a server without an agent may take for its shutdown, before it is ended at once. An agent takes as long at most.
const FAST_LIMIT: Duration = Duration::from_secs(125);
/// How long an agent may take to stop: its own limits for a fast, an immediate and a forced stop together, and some seconds.
const AGENT_LIMIT: Duration = Duration::from_secs(145);
/// When whatever still runs is ended by force.
const FORCE_LIMIT: Duration = Duration::from_secs(150);
/// A makeshift server gets this long to remove its traces.
const UNFINISHED_LIMIT: Duration = Duration::from_secs(5);
/// Looking through all processes costs some milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How an agent is started.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) program: PathBuf,
    pub(super) config: PathBuf,
    pub(super) log: PathBuf,
    /// The instance's folder: what runs on it belongs to the agent.
    pub(super) folder: PathBuf,
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
    stops_since: Option<Instant>,
    clears_since: Option<Instant>,
    look_due: Instant,
    log_due: Instant,
    is_down: bool,
    /// Whether its instance was scaled away.
    pub(super) is_surplus: bool,
    pub(super) restarts: u32,
    pub(super) reason: Option<String>,
}

impl AgentProcess {
    /// Takes over the agent that an earlier server started, if it lives; `tick` starts one otherwise.
    pub(super) fn adopt(launch: Launch) -> Self {
        let pid = processes::find_agent(&launch.config, launch.user);
        if let Some(pid) = pid {
            tracing::info!(pid, config = %launch.config.display(), "adopted a running agent");
        }
        let now = Instant::now();
        Self {
            launch,
            pid,
            child: None,
            started: now,
            pause: Duration::ZERO,
            due: now,
            stops_since: None,
            clears_since: None,
            look_due: now,
            log_due: now,
            is_down: false,
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
            None if processes::is_agent(pid, &self.launch.config, self.launch.user) => None,
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
        if Instant::now() >= self.log_due {
            self.log_due = Instant::now() + LOG_LOOK;
            if let Err(error) = self.launch.trim_log() {
                tracing::warn!(%error, log = %self.launch.log.display(), "a log was not set aside");
            }
        }
        if self.is_running() || self.stops_since.is_some() || Instant::now() < self.due {
            return;
        }
        if !self.is_cleared() {
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

    /// Asks it to stop PostgreSQL and end, and starts it no more. Call `is_down` until it says yes.
    pub(super) fn terminate(&mut self) {
        if self.stops_since.is_none() {
            self.stops_since = Some(Instant::now());
            self.signal_agent(Signal::SIGTERM);
        }
    }

    /// Whether nothing of the instance runs any more, after `terminate`. What a dead agent left behind is ended here, harder and
    /// harder: PostgreSQL has time for its shutdown first.
    pub(super) fn is_down(&mut self) -> bool {
        let Some(since) = self.stops_since else {
            return false;
        };
        if self.is_running() {
            if since.elapsed() > AGENT_LIMIT {
                tracing::error!(config = %self.launch.config.display(), "an agent does not end, and is killed");
                self.signal_agent(Signal::SIGKILL);
            }
            return false;
        }
        if self.is_down || Instant::now() < self.look_due {
            return self.is_down;
        }
        self.look_due = Instant::now() + LOOK_EVERY;
        let left = processes::left_behind(&self.launch.folder, self.launch.user);
        for LeftBehind { pid, kind } in &left {
            let signal = match kind {
                _ if since.elapsed() > FORCE_LIMIT => Signal::SIGKILL,
                Kind::Server if since.elapsed() < FAST_LIMIT => Signal::SIGINT,
                Kind::Server | Kind::Unfinished => Signal::SIGQUIT,
                Kind::Maker => Signal::SIGKILL,
            };
            send(*pid, signal);
        }
        self.is_down = left.is_empty();
        self.is_down
    }

    /// Whether nothing runs that a new agent would meet in a folder it is about to make. A server on the data is left to it.
    fn is_cleared(&mut self) -> bool {
        let mut left = processes::left_behind(&self.launch.folder, self.launch.user);
        left.retain(|left| left.kind != Kind::Server);
        if left.is_empty() {
            self.clears_since = None;
            return true;
        }
        let since = *self.clears_since.get_or_insert_with(Instant::now);
        for LeftBehind { pid, kind } in left {
            tracing::warn!(pid, ?kind, "ends what an agent that was killed left behind");
            let is_patient = kind == Kind::Unfinished && since.elapsed() < UNFINISHED_LIMIT;
            send(
                pid,
                if is_patient {
                    Signal::SIGQUIT
                } else {
                    Signal::SIGKILL
                },
            );
        }
        false
    }

    fn signal_agent(&mut self, signal: Signal) {
        // Looked at first: the number of an adopted process may be somebody else's by now.
        if self.is_running()
            && let Some(pid) = self.pid
        {
            send(pid, signal);
        }
    }
}

/// A process that is gone is noticed by the next look.
fn send(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}

impl Launch {
    fn start(&self) -> io::Result<Child> {
        self.trim_log()?;
        let log = open_log(&self.log)?;
        let mut command = self.user.command(&self.program);
        command
            .args(["agent", "run", "--config"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // The agent's working folder must be one that its user can enter.
            .current_dir(self.config.parent().unwrap_or(Path::new("/")));
        command.spawn()
    }

    /// Sets a log aside that grew too long. The agent goes on writing to the same file, at its new end.
    fn trim_log(&self) -> io::Result<()> {
        match fs::metadata(&self.log) {
            Ok(found) if found.len() > LOG_BYTES_MAX => {
                fs::copy(&self.log, self.log.with_extension("log.1"))?;
                open_log(&self.log)?.set_len(0)
            }
            _ => Ok(()),
        }
    }
}

fn open_log(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_log_is_bounded_while_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let launch = Launch {
            program: "/bin/true".into(),
            config: folder.path().join("agent.json"),
            log: folder.path().join("agent.log"),
            folder: folder.path().join("pg-0"),
            user: ServiceUser::own(),
        };
        let mut writer = open_log(&launch.log).unwrap();
        let line = [b'x'; 1 << 20];
        for _ in 0..40 {
            writer.write_all(&line).unwrap();
            launch.trim_log().unwrap();
            assert!(fs::metadata(&launch.log).unwrap().len() <= LOG_BYTES_MAX);
        }
        writer.write_all(b"last").unwrap();
        assert!(fs::read(&launch.log).unwrap().ends_with(b"last"));
        let kept = fs::metadata(launch.log.with_extension("log.1")).unwrap();
        assert!(kept.len() <= LOG_BYTES_MAX + line.len() as u64);
    }
}
