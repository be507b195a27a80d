//! What runs on this machine for one data folder, seen from outside.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    kubedb::{Server, binary, scratch},
    process::{HelperError, signal},
    wait::eventually,
};

/// A scratch folder with a data folder. Whatever still runs for it is killed in the end.
#[derive(Debug)]
pub struct Machine {
    folder: tempfile::TempDir,
    data: PathBuf,
}

impl Machine {
    /// An empty one.
    pub fn new() -> Result<Self, HelperError> {
        let folder = scratch()?;
        let data = folder.path().join("data folder");
        Ok(Self { folder, data })
    }

    /// The data folder; its name has a space.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The folder around it.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a server on it.
    pub fn start(&self) -> Result<Server, HelperError> {
        Server::start(&binary(), &self.data, &[])
    }

    /// Agents that run, by process id.
    #[must_use]
    pub fn agents(&self) -> Vec<u32> {
        self.find(|words| words.get(1).is_some_and(|word| word == "agent"))
    }

    /// Postmasters that run.
    #[must_use]
    pub fn postmasters(&self) -> Vec<u32> {
        self.find(|words| words.get(1).is_some_and(|word| word == "-D"))
    }

    /// Everything that was started for the data folder, but servers.
    #[must_use]
    pub fn instances(&self) -> Vec<u32> {
        self.find(|words| words.get(1).is_none_or(|word| word != "server"))
    }

    /// Waits until no instance runs.
    #[track_caller]
    pub fn wait_until_quiet(&self, within: Duration) {
        eventually("end of every instance", within, || {
            let left = self.instances();
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!(
                    "{:?}",
                    left.iter().map(|id| words(*id)).collect::<Vec<_>>()
                ))
            }
        });
    }

    /// What PostgreSQL logged in this instance of the one database in namespace `default`; empty while there is nothing.
    #[must_use]
    pub fn server_log(&self, instance: &str) -> String {
        let entries = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten();
        entries(self.data.join("databases/default"))
            .flat_map(|database| entries(database.path().join(instance).join("log")))
            .filter_map(|log| fs::read_to_string(log.path()).ok())
            .collect()
    }

    fn find(&self, is_wanted: impl Fn(&[String]) -> bool) -> Vec<u32> {
        find(&self.data, is_wanted)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        kill_all(&self.data);
    }
}

/// Processes that were started with something of a data folder.
fn find(data: &Path, is_wanted: impl Fn(&[String]) -> bool) -> Vec<u32> {
    let mut found: Vec<u32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|id| {
            let words = words(*id);
            words.iter().any(|word| Path::new(word).starts_with(data)) && is_wanted(&words)
        })
        .collect();
    found.sort_unstable();
    found
}

/// Kills whatever runs for a data folder.
pub(crate) fn kill_all(data: &Path) {
    for id in find(data, |_| true) {
        signal(id, libc::SIGKILL);
    }
}

/// Command line of a process; empty when it is gone.
#[must_use]
pub fn words(id: u32) -> Vec<String> {
    let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}
