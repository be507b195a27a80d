//! A child process that cannot outlive its test.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

use crate::left::Left;

/// Programs that outlive this one, once that was asked for.
static OUTLIVING: Mutex<Option<Vec<Left>>> = Mutex::new(None);

/// Programs that are started from now on are not ended with their value, nor with this process.
pub fn outlive() {
    let mut outliving = OUTLIVING.lock().unwrap_or_else(PoisonError::into_inner);
    outliving.get_or_insert_default();
}

/// Those that were started since.
#[must_use]
pub fn outliving() -> Vec<Left> {
    let outliving = OUTLIVING.lock().unwrap_or_else(PoisonError::into_inner);
    outliving.clone().unwrap_or_default()
}

/// Why a helper could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// The program is not installed.
    #[error("failed to start {program}: is it installed? run: cargo xtask tools")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file or folder of the test could not be made.
    #[error("failed to prepare {what}")]
    Prepare {
        /// What was to be made.
        what: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A server refused what a test needs.
    #[error("failed to make {what}: {reply}")]
    Refused {
        /// What was to be made.
        what: String,
        /// What the server said.
        reply: String,
    },
    /// The program did not say it was ready in time.
    #[error("failed to see {what} within {seconds} s")]
    NotReady {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
    },
}

/// A running program, ended on drop, unless it was to [`outlive`] us.
#[derive(Debug)]
pub struct Running {
    child: Child,
    outlives: bool,
    lines: Receiver<String>,
}

impl Running {
    /// Starts a program; its standard output can be read line by line.
    pub fn start(command: &mut Command) -> Result<Self, HelperError> {
        let mut outliving = OUTLIVING.lock().unwrap_or_else(PoisonError::into_inner);
        let outlives = outliving.is_some();
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        if outlives {
            // Nobody will read it, and Ctrl-C is not for it.
            command.stdout(Stdio::null()).process_group(0);
        }
        let mut child = command.spawn().map_err(|source| HelperError::Start {
            program: command.get_program().to_string_lossy().into_owned(),
            source,
        })?;
        if let Some(list) = outliving.as_mut() {
            let program = command.get_program().to_string_lossy();
            let name = program.rsplit('/').next().unwrap_or_default();
            list.extend(Left::new(name, child.id()));
        }
        drop(outliving);
        let (sender, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    // The test may have stopped listening; the pipe must be drained all the same.
                    let _ = sender.send(line);
                }
            });
        }
        Ok(Self {
            child,
            outlives,
            lines,
        })
    }

    /// Process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of standard output that begins with `prefix`, and returns the rest of it.
    pub fn wait_for_line(&self, prefix: &str, within: Duration) -> Result<String, HelperError> {
        let end = Instant::now() + within;
        while let Ok(line) = self
            .lines
            .recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            if let Some(rest) = line.strip_prefix(prefix) {
                return Ok(rest.trim().to_owned());
            }
        }
        Err(HelperError::NotReady {
            what: format!("a line beginning with {prefix:?}"),
            seconds: within.as_secs(),
        })
    }

    /// Asks the program to end (SIGTERM) and waits; kills it when it does not.
    pub fn terminate(&mut self, within: Duration) -> Option<ExitStatus> {
        signal(self.child.id(), libc::SIGTERM);
        let end = Instant::now() + within;
        while Instant::now() < end {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.kill();
        None
    }

    /// How it ended; none while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.outlives && matches!(self.child.try_wait(), Ok(None)) {
            self.terminate(Duration::from_secs(20));
        }
    }
}

/// Sends a signal to one process.
#[expect(
    unsafe_code,
    reason = "kill(2) takes two integers and touches no memory"
)]
pub fn signal(id: u32, number: i32) {
    let Ok(id) = i32::try_from(id) else { return };
    // SAFETY: kill has no memory effects; a stale id gives ESRCH, which is what a test wants then.
    unsafe {
        libc::kill(id, number);
    }
}
