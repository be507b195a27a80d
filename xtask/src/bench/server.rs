//! The real program on a scratch folder, ended also when a measurement fails.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

/// Nothing that is measured takes so long.
const LIMIT: Duration = Duration::from_secs(120);

/// A running server.
pub(super) struct Server {
    binary: PathBuf,
    folder: PathBuf,
    kubeconfig: String,
    child: Child,
}

/// Lines that a program prints, as they come.
struct Lines {
    child: Child,
    lines: Receiver<String>,
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn failed(what: &str) -> impl Fn(std::io::Error) -> String {
    move |error| format!("failed to {what}: {error}")
}

fn lines(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = channel();
    if let Some(stdout) = child.stdout.take() {
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Nobody may listen any more; the pipe is drained all the same.
                let _ = sender.send(line);
            }
        });
    }
    receiver
}

fn wait_for(lines: &Receiver<String>, is_it: impl Fn(&str) -> bool) -> Result<String, String> {
    let end = Instant::now() + LIMIT;
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) if is_it(&line) => return Ok(line),
            Ok(_) => {}
            Err(_) => return Err(format!("not seen within {} s", LIMIT.as_secs())),
        }
    }
}

impl Server {
    /// Starts one on a new folder.
    pub(super) fn start(binary: &Path) -> Result<Self, String> {
        let folder = std::env::temp_dir().join(format!("kubedb-bench-{}", std::process::id()));
        // The databases' user must be able to pass through, and to write Snapshots.
        for (path, mode) in [(folder.clone(), 0o711), (folder.join("store"), 0o777)] {
            fs::create_dir(&path)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
                .map_err(failed("make a scratch folder"))?;
        }
        let log = fs::File::create(folder.join("server.log")).map_err(failed("write a log"))?;
        let mut child = Command::new(binary)
            .args(["server", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(folder.join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(failed("start the server"))?;
        let lines = lines(&mut child);
        let mut server = Self {
            binary: binary.to_owned(),
            folder,
            kubeconfig: String::new(),
            child,
        };
        let line = wait_for(&lines, |line| line.starts_with("kubeconfig: "))?;
        server.kubeconfig = line.trim_start_matches("kubeconfig: ").to_owned();
        Ok(server)
    }

    /// A folder that everybody may write to.
    pub(super) fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    /// Process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Process ids of its agents.
    pub(super) fn agents(&self) -> Result<Vec<u32>, String> {
        let id = self.id();
        let children = fs::read_dir(format!("/proc/{id}/task"))
            .map_err(failed("look at the server's threads"))?
            .filter_map(Result::ok)
            .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
        Ok(children
            .flat_map(|ids| {
                let ids: Vec<u32> = ids
                    .split_whitespace()
                    .filter_map(|id| id.parse().ok())
                    .collect();
                ids
            })
            .collect())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        command
    }

    /// Runs a command; returns how long it took.
    pub(super) fn run(&self, arguments: &[&str], stdin: &str) -> Result<Duration, String> {
        let begun = Instant::now();
        let mut child = self
            .command(arguments)
            .spawn()
            .map_err(failed("start a command"))?;
        if let Some(mut pipe) = child.stdin.take() {
            pipe.write_all(stdin.as_bytes())
                .map_err(failed("write to a command"))?;
        }
        let output = child
            .wait_with_output()
            .map_err(failed("wait for a command"))?;
        if output.status.success() {
            Ok(begun.elapsed())
        } else {
            Err(format!("{arguments:?} ended with {}", output.status))
        }
    }

    /// Creates an object and waits until its row in a watch holds `word`; returns how long both took together.
    pub(super) fn create(
        &self,
        (kind, name): (&str, &str),
        manifest: &str,
        word: &str,
    ) -> Result<Duration, String> {
        let mut child = self
            .command(&["get", kind, "--watch"])
            // That there is nothing yet is no news here.
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed("start a watch"))?;
        let lines = lines(&mut child);
        let watch = Lines { child, lines };
        let begun = Instant::now();
        self.run(&["create", "-f", "-"], manifest)?;
        wait_for(&watch.lines, |line| {
            let mut words = line.split_whitespace();
            words.next() == Some(name) && words.any(|found| found == word)
        })
        .map_err(|reason| format!("{kind} {name} to be {word}: {reason}"))?;
        Ok(begun.elapsed())
    }
}

impl Server {
    /// Asks it to stop everything; returns how long that took.
    pub(super) fn stop(&mut self) -> Result<Duration, String> {
        let begun = Instant::now();
        Command::new("kill")
            .arg(self.id().to_string())
            .status()
            .map_err(failed("run kill"))?;
        let status = self.child.wait().map_err(failed("wait for the server"))?;
        if status.success() {
            Ok(begun.elapsed())
        } else {
            Err(format!("the server ended with {status}"))
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.stop();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}
