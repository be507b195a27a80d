//! What differs between the worlds that one test is tried in: how kubedb is reached, and what can be done to its parts.

use std::path::Path;

use crate::{
    kubedb::{Ran, Server},
    process::{HelperError, signal},
    world::processes,
};

const KILL: i32 = 9;

/// A part of one instance, which is a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// PostgreSQL's first process.
    Postmaster,
    /// The one that watches over PostgreSQL.
    Agent,
}

/// A place where kubedb runs databases.
pub trait Platform {
    /// The test's namespace; in manifests it is `demo`, wherever it is tried.
    fn namespace(&self) -> &str;
    /// Runs a command of kubedb's, with an editor where it is to have one.
    fn command(
        &self,
        arguments: &[&str],
        stdin: &str,
        editor: Option<&Path>,
    ) -> Result<Ran, HelperError>;
    /// Process ids of a part of an instance, as this machine counts them. There is one at most, or something is wrong.
    fn part(&self, database: &str, ordinal: u32, part: Part) -> Vec<u32>;
    /// kill -9 of a process of an instance, as PostgreSQL itself counts them.
    fn kill_session(&self, database: &str, ordinal: u32, pid: u32);
    /// kill -9 of what operates; another comes in its place.
    fn kill_operator(&mut self);
    /// Puts a file of bytes that do not compress, other ones each time, into an instance's data folder; Snapshots hold it as they hold any file there,
    /// and no earlier one has it.
    fn add_noise(&self, database: &str, ordinal: u32, bytes: usize);
    /// Whether it has such a file.
    fn has_noise(&self, database: &str, ordinal: u32) -> bool;
    /// What still runs of a database.
    fn left(&self, database: &str) -> Vec<String>;
    /// Ends it all, and says whether that went well.
    fn stop(&mut self) -> bool;
}

#[expect(clippy::expect_used, reason = "a helper that fails is a failed test")]
impl Platform for Server {
    fn namespace(&self) -> &str {
        "demo"
    }

    fn command(
        &self,
        arguments: &[&str],
        stdin: &str,
        editor: Option<&Path>,
    ) -> Result<Ran, HelperError> {
        match editor {
            Some(editor) => self.kubedb_edit(arguments, editor),
            None => self.kubedb(arguments, stdin),
        }
    }

    fn part(&self, database: &str, ordinal: u32, part: Part) -> Vec<u32> {
        match part {
            Part::Postmaster => self.postmaster(database, ordinal).into_iter().collect(),
            Part::Agent => self.agents(database, ordinal),
        }
    }

    fn kill_session(&self, _database: &str, _ordinal: u32, pid: u32) {
        signal(pid, KILL);
    }

    fn kill_operator(&mut self) {
        self.kill_and_restart().expect("another server");
    }

    fn add_noise(&self, database: &str, ordinal: u32, bytes: usize) {
        self.write_noise(database, ordinal, bytes);
    }

    fn has_noise(&self, database: &str, ordinal: u32) -> bool {
        self.instance(database, ordinal).join("data/noise").exists()
    }

    fn left(&self, database: &str) -> Vec<String> {
        // Its folder's name ends with a part of its UID, which a database that is gone does not tell any more.
        let folder = self.data_folder().join("databases/demo").join(database);
        let running = processes(&[&format!("{}-", folder.to_string_lossy())]);
        running.into_iter().map(|id| id.to_string()).collect()
    }

    fn stop(&mut self) -> bool {
        Server::stop(self)
    }
}
