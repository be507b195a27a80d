//! The real binary: a server of its own data folder, and commands against it.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use crate::{
    machine,
    process::{HelperError, Running},
};

/// How long a server may take to stop its instances.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// What a command printed, and how it ended.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
        }
    }
}

/// A `kubedb server` with a data folder of its own.
#[derive(Debug)]
pub struct Server {
    binary: PathBuf,
    data_folder: PathBuf,
    environment: Vec<(String, String)>,
    running: Running,
    kubeconfig: String,
}

impl Server {
    /// Starts a server and waits until it prints its kubeconfig.
    pub fn start(
        binary: &Path,
        data_folder: &Path,
        environment: &[(&str, &str)],
    ) -> Result<Self, HelperError> {
        let environment: Vec<_> = environment
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let (running, kubeconfig) = launch(binary, data_folder, &environment)?;
        Ok(Self {
            binary: binary.to_owned(),
            data_folder: data_folder.to_owned(),
            environment,
            running,
            kubeconfig,
        })
    }

    /// Path of the kubeconfig it printed.
    #[must_use]
    pub fn kubeconfig(&self) -> &str {
        &self.kubeconfig
    }

    /// Its data folder.
    #[must_use]
    pub fn data_folder(&self) -> &Path {
        &self.data_folder
    }

    /// Runs `kubedb ARGUMENTS` against this server.
    pub fn kubedb(&self, arguments: &[&str], stdin: &str) -> Result<Ran, HelperError> {
        run(
            Command::new(&self.binary)
                .args(arguments)
                .env("KUBECONFIG", &self.kubeconfig),
            stdin,
        )
    }

    /// The same with an editor for `kubedb edit`.
    pub fn kubedb_edit(&self, arguments: &[&str], editor: &Path) -> Result<Ran, HelperError> {
        run(
            Command::new(&self.binary)
                .args(arguments)
                .env("KUBECONFIG", &self.kubeconfig)
                .env("KUBEDB_EDITOR", editor),
            "",
        )
    }

    /// One object as JSON.
    pub fn object(
        &self,
        kind: &str,
        name: &str,
        namespace: &str,
    ) -> Result<serde_json::Value, String> {
        self.json(&["get", kind, name, "-n", namespace, "-o", "json"])
    }

    /// Objects of a kind as JSON.
    pub fn objects(&self, kind: &str, namespace: &str) -> Result<Vec<serde_json::Value>, String> {
        let list = self.json(&["get", kind, "-n", namespace, "-o", "json"])?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    fn json(&self, arguments: &[&str]) -> Result<serde_json::Value, String> {
        let ran = self
            .kubedb(arguments, "")
            .map_err(|error| error.to_string())?;
        if ran.code != 0 {
            return Err(ran.stderr);
        }
        serde_json::from_str(&ran.stdout).map_err(|error| error.to_string())
    }

    /// Asks the server to stop, and waits until it has.
    pub fn stop(&mut self) -> bool {
        self.running
            .terminate(STOP_LIMIT)
            .is_some_and(|status| status.success())
    }

    /// Process id of the server.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.running.id()
    }

    /// kill -9 of the server process alone. What it ran goes on.
    pub fn kill(&mut self) {
        self.running.kill();
    }

    /// kill -9 of the server process alone, then a new one on the same folder.
    pub fn kill_and_restart(&mut self) -> Result<(), HelperError> {
        self.running.kill();
        let (running, kubeconfig) = launch(&self.binary, &self.data_folder, &self.environment)?;
        self.running = running;
        self.kubeconfig = kubeconfig;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that was killed on purpose may have a successor on the same folder; one that cannot end, or is asked to while it takes over what its
        // predecessor left, leaves instances running.
        if self.running.ended().is_none() {
            self.running.terminate(STOP_LIMIT);
            machine::kill_all(&self.data_folder);
        }
    }
}

/// The binary beside the running test.
///
/// # Panics
/// When it is not built; `cargo xtask test` builds it first.
#[must_use]
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    let folder = test
        .ancestors()
        .nth(2)
        .map(Path::to_owned)
        .unwrap_or_default();
    let binary = folder.join("kubedb");
    assert!(
        binary.exists(),
        "{} is not built: run cargo xtask test --tier local",
        binary.display()
    );
    binary
}

/// A scratch folder that the databases' user may pass through.
pub fn scratch() -> Result<tempfile::TempDir, HelperError> {
    use std::os::unix::fs::PermissionsExt as _;
    let prepare = |source| HelperError::Prepare {
        what: "a scratch folder".to_owned(),
        source,
    };
    let folder = tempfile::tempdir().map_err(prepare)?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711))
        .map_err(prepare)?;
    Ok(folder)
}

fn launch(
    binary: &Path,
    data_folder: &Path,
    environment: &[(String, String)],
) -> Result<(Running, String), HelperError> {
    let running = Running::start(
        Command::new(binary)
            .args(["server", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_folder)
            .envs(environment.iter().map(|(k, v)| (k, v))),
    )?;
    let kubeconfig = running.wait_for_line("kubeconfig: ", Duration::from_secs(60))?;
    Ok((running, kubeconfig))
}

/// A copy of the program for other users: the build folder may be closed to them. Another process makes it, since one that this process still had open to write
/// in a child that another thread has just forked could not be run ("text file busy").
///
/// # Panics
/// When there is no room for it.
pub fn copy_of_binary(folder: &Path) -> Result<PathBuf, HelperError> {
    let program = folder.join("kubedb");
    let mut install = Command::new("install");
    install.args(["-m", "755"]).arg(binary()).arg(&program);
    let ran = run(&mut install, "")?;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    Ok(program)
}

/// Runs a command to its end with the given standard input.
pub fn run(command: &mut Command, stdin: &str) -> Result<Ran, HelperError> {
    let start = |source| HelperError::Start {
        program: "command".to_owned(),
        source,
    };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    if let Some(mut pipe) = child.stdin.take() {
        // A command that does not read its input closes the pipe; that is its right.
        let _ = pipe.write_all(stdin.as_bytes());
    }
    child.wait_with_output().map(Ran::from).map_err(start)
}
