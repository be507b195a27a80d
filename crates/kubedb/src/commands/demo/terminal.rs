//! A scratch folder with a server of its own, and commands run against it.

use std::{
    cell::Cell,
    fs,
    io::{self, BufRead as _, BufReader},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use super::{DemoError, interrupt::Interrupt, machine};
use crate::ui::Ui;

/// Below the scratch folder, where every command runs: the folder's own path may hold a colon, which parts the paths of a list.
const KUBECONFIG: &str = "data/kubeconfig";
/// How long the server may take to listen: it makes a user and keys at first.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long the server may take to stop all instances.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at something that takes its time.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Between two lines that say what is waited for.
const SAY_EVERY: Duration = Duration::from_secs(5);
/// How many lines of a failed server's log are shown.
const LOG_LINES: usize = 5;

/// The scratch folder and the server in it. Dropping it stops the server and removes the folder.
pub(super) struct Terminal<'a> {
    ui: &'a Ui,
    interrupt: Interrupt,
    folder: Option<TempDir>,
    program: PathBuf,
    server: Child,
    keep: Cell<bool>,
}

impl<'a> Terminal<'a> {
    pub(super) fn start(ui: &'a Ui, interrupt: Interrupt) -> Result<Self, DemoError> {
        let folder = tempfile::Builder::new()
            .prefix("kubedb-demo-")
            .tempdir()
            .map_err(machine("make a scratch folder: is TMPDIR a folder?"))?;
        // The databases' user must be able to pass through.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))
            .map_err(machine("open the scratch folder"))?;
        // Children run in the folder itself, so a relative TMPDIR would lead them elsewhere.
        let root = fs::canonicalize(folder.path()).map_err(machine("find the scratch folder"))?;
        check_path(&root)?;
        let program = std::env::current_exe().map_err(machine("find this program"))?;
        let log = fs::File::create(root.join("server.log")).map_err(machine("write a log"))?;
        ui.data("A server of one machine: API, operator and databases, all in a scratch folder.");
        ui.data(&format!("\n$ cd {}", root.display()));
        ui.data("$ kubedb server --data-dir data --listen 127.0.0.1:0 &");
        let mut server = Command::new(&program)
            .args(["server", "--listen", "127.0.0.1:0", "--data-dir", "data"])
            .current_dir(&root)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C reaches the story alone, which then stops the server in good order.
            .process_group(0)
            .spawn()
            .map_err(machine("start the server"))?;
        let lines = server.stdout.take().map(lines_of);
        let terminal = Self {
            ui,
            interrupt,
            program,
            folder: Some(folder),
            server,
            keep: Cell::new(false),
        };
        let printed = terminal.wait_for_server(lines)?;
        ui.data(&format!(
            "kubeconfig: {printed}\n$ export KUBECONFIG={KUBECONFIG}"
        ));
        Ok(terminal)
    }

    /// The path that a server prints when it is ready.
    fn wait_for_server(&self, lines: Option<Receiver<String>>) -> Result<String, DemoError> {
        let begun = Instant::now();
        while let Some(lines) = &lines {
            self.check()?;
            match lines.recv_timeout(LOOK_EVERY) {
                Ok(line) => {
                    if let Some(path) = line.strip_prefix("kubeconfig: ") {
                        return Ok(path.to_owned());
                    }
                }
                Err(RecvTimeoutError::Timeout) if begun.elapsed() < START_LIMIT => {}
                Err(_) => break,
            }
        }
        let log = fs::read_to_string(self.path("server.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
        Err(DemoError::Command {
            command: "kubedb server".to_owned(),
            output: if last.is_empty() {
                "it said nothing".to_owned()
            } else {
                last.join("\n")
            },
        })
    }

    /// Fails once the story shall end early: somebody asked, or nobody listens any more.
    pub(super) fn check(&self) -> Result<(), DemoError> {
        if self.interrupt.is_asked() || self.ui.nobody_reads() {
            return Err(DemoError::Interrupted);
        }
        Ok(())
    }

    /// A path in the scratch folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        let folder = self
            .folder
            .as_ref()
            .map_or(Path::new("/nonexistent"), TempDir::path);
        folder.join(name)
    }

    /// Says something to the reader.
    pub(super) fn say(&self, text: &str) {
        self.ui.data(&format!("\n{text}"));
    }

    /// Shows a command, runs it and shows what it printed.
    pub(super) fn show(&self, arguments: &[&str]) -> Result<String, DemoError> {
        self.show_with(arguments, &[])
    }

    /// The same with variables.
    pub(super) fn show_with(
        &self,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<String, DemoError> {
        let prefix: String = variables
            .iter()
            .map(|(name, value)| format!("{name}={value} "))
            .collect();
        self.ui
            .data(&format!("\n$ {prefix}kubedb {}", arguments.join(" ")));
        let output = self.run(arguments, variables)?;
        self.ui.data(output.trim_end());
        Ok(output)
    }

    /// Runs a command silently.
    pub(super) fn run(
        &self,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<String, DemoError> {
        self.check()?;
        let child = Command::new(&self.program)
            .args(arguments)
            .env("KUBECONFIG", KUBECONFIG)
            .envs(variables.iter().copied())
            .current_dir(self.path(""))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(machine("run a command"))?;
        let output = self.finish(child)?;
        // A command that Ctrl-C ended did not fail.
        self.check()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(DemoError::Command {
            command: format!("kubedb {}", arguments.join(" ")),
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// Waits for a command; when the story is interrupted, so is the command.
    fn finish(&self, child: Child) -> Result<Output, DemoError> {
        let id = child.id();
        let (sender, done) = channel();
        thread::spawn(move || sender.send(child.wait_with_output()));
        let mut is_told = false;
        loop {
            match done.recv_timeout(LOOK_EVERY) {
                Ok(output) => return output.map_err(machine("run a command")),
                Err(RecvTimeoutError::Timeout) if !is_told && self.check().is_err() => {
                    ask_to_end(id, Signal::SIGINT);
                    is_told = true;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let lost = io::Error::other("nobody waited for it");
                    return Err(machine("run a command")(lost));
                }
            }
        }
    }

    /// An object as JSON.
    pub(super) fn object(&self, kind: &str, name: &str) -> Result<Value, DemoError> {
        let text = self.run(&["get", kind, name, "-n", "demo", "-o", "json"], &[])?;
        serde_json::from_str(&text).map_err(machine("understand an object"))
    }

    /// Asks until `look` finds something, and says now and then what is there instead.
    pub(super) fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut() -> Result<Result<T, String>, DemoError>,
    ) -> Result<T, DemoError> {
        let begun = Instant::now();
        let (mut said_at, mut said) = (begun, String::new());
        loop {
            self.check()?;
            let last = match look()? {
                Ok(found) => return Ok(found),
                Err(last) => last,
            };
            if begun.elapsed() > limit {
                let what = what.to_owned();
                return Err(DemoError::NotSeen { what, limit, last });
            }
            if said_at.elapsed() > SAY_EVERY && said != last {
                self.ui.data(&format!("(waits until {what}; now: {last})"));
                (said_at, said) = (Instant::now(), last);
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Leaves the folder for whoever wants to know why.
    pub(super) fn keep_for_inspection(&self) {
        self.keep.set(true);
    }

    /// Stops the server and removes the folder; both must succeed.
    pub(super) fn end(mut self) -> Result<(), DemoError> {
        self.say("The server stops, and the scratch folder goes.");
        let status = self.stop();
        if !status.is_some_and(|status| status.success()) {
            self.keep_for_inspection();
            return Err(DemoError::Untrue(
                "the server did not stop cleanly".to_owned(),
            ));
        }
        let folder = self.folder.take();
        folder
            .map_or(Ok(()), TempDir::close)
            .map_err(machine("remove the scratch folder"))
    }

    /// Asks the server to stop its instances and itself; ends it when it does not.
    fn stop(&mut self) -> Option<ExitStatus> {
        let begun = Instant::now();
        if matches!(self.server.try_wait(), Ok(None)) {
            ask_to_end(self.server.id(), Signal::SIGTERM);
        }
        while begun.elapsed() < STOP_LIMIT {
            match self.server.try_wait() {
                Ok(None) => thread::sleep(LOOK_EVERY / 2),
                Ok(status) => return status,
                Err(_) => break,
            }
        }
        let _ = self.server.kill();
        let _ = self.server.wait();
        None
    }
}

/// PostgreSQL's own programs put the paths of others between quotes for a shell, and these characters end such quotes.
fn check_path(folder: &Path) -> Result<(), DemoError> {
    let text = folder.to_string_lossy();
    match text.chars().find(|letter| "\"$`\\\n".contains(*letter)) {
        None => Ok(()),
        Some(letter) => Err(DemoError::Untrue(format!(
            "PostgreSQL cannot be started in {text}, because of the {letter:?} in it: set TMPDIR to another folder"
        ))),
    }
}

fn ask_to_end(id: u32, signal: Signal) {
    if let Ok(id) = i32::try_from(id) {
        // A process that is gone already did what was asked.
        let _ = kill(Pid::from_raw(id), signal);
    }
}

/// Lines as they come, read on a thread of their own so that waiting for one can end.
fn lines_of(stdout: std::process::ChildStdout) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // The pipe is drained also when nobody wants the lines any more.
            let _ = sender.send(line);
        }
    });
    lines
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        self.stop();
        if let (true, Some(folder)) = (self.keep.get(), self.folder.take()) {
            let path = folder.keep();
            self.ui
                .note(&format!("\nLogs and data are kept in {}", path.display()));
        }
    }
}
