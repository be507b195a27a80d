//! A scratch folder with a server of its own, and commands run against it.

use std::{
    cell::Cell,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use super::{DemoError, machine};
use crate::ui::Ui;

/// How long the server may take to stop all instances.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// The scratch folder and the server in it. Dropping it stops the server and removes the folder.
pub(super) struct Terminal {
    ui: Ui,
    folder: Option<TempDir>,
    program: PathBuf,
    kubeconfig: PathBuf,
    server: Child,
    keep: Cell<bool>,
}

impl Terminal {
    pub(super) fn start(ui: Ui) -> Result<Self, DemoError> {
        let folder = tempfile::Builder::new()
            .prefix("kubedb-demo-")
            .tempdir()
            .map_err(machine("make a scratch folder"))?;
        // The databases' user must be able to pass through.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))
            .map_err(machine("open the scratch folder"))?;
        let program = std::env::current_exe().map_err(machine("find this program"))?;
        let data = folder.path().join("data");
        let log =
            fs::File::create(folder.path().join("server.log")).map_err(machine("write a log"))?;
        ui.data("A server of one machine: API, operator and databases, all in a scratch folder.");
        ui.data("\n$ kubedb server --listen 127.0.0.1:0 &");
        let mut server = Command::new(&program)
            .args(["server", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(machine("start the server"))?;
        let line = server.stdout.take().and_then(|stdout| {
            BufReader::new(stdout)
                .lines()
                .map_while(Result::ok)
                .find(|line| line.starts_with("kubeconfig: "))
        });
        let terminal = Self {
            ui,
            program,
            kubeconfig: line
                .as_deref()
                .unwrap_or_default()
                .trim_start_matches("kubeconfig: ")
                .into(),
            folder: Some(folder),
            server,
            keep: Cell::new(false),
        };
        match line {
            Some(line) => terminal.ui.data(&line),
            None => {
                let log = fs::read_to_string(terminal.path("server.log")).unwrap_or_default();
                return Err(DemoError::Command {
                    command: "kubedb server".to_owned(),
                    output: log.lines().last().unwrap_or("it ended").to_owned(),
                });
            }
        }
        Ok(terminal)
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
        let output = Command::new(&self.program)
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .envs(variables.iter().copied())
            .current_dir(self.path(""))
            .stdin(Stdio::null())
            .output()
            .map_err(machine("run a command"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(DemoError::Command {
            command: format!("kubedb {}", arguments.join(" ")),
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// An object as JSON.
    pub(super) fn object(&self, kind: &str, name: &str) -> Result<Value, DemoError> {
        let text = self.run(&["get", kind, name, "-n", "demo", "-o", "json"], &[])?;
        serde_json::from_str(&text).map_err(machine("understand an object"))
    }

    /// Asks until `look` finds something.
    pub(super) fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut() -> Result<Result<T, String>, DemoError>,
    ) -> Result<T, DemoError> {
        let begun = Instant::now();
        loop {
            let last = match look()? {
                Ok(found) => return Ok(found),
                Err(last) => last,
            };
            if begun.elapsed() > limit {
                let what = what.to_owned();
                return Err(DemoError::NotSeen { what, limit, last });
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Leaves the folder for whoever wants to know why.
    pub(super) fn keep_for_inspection(&self) {
        self.keep.set(true);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.server.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let begun = Instant::now();
        while begun.elapsed() < STOP_LIMIT && matches!(self.server.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.server.kill();
        let _ = self.server.wait();
        if let (true, Some(folder)) = (self.keep.get(), self.folder.take()) {
            let path = folder.keep();
            self.ui
                .data(&format!("\nLogs and data are kept in {}", path.display()));
        }
    }
}
