//! Where an instance keeps what.

use std::path::{Path, PathBuf};

/// Name of the file with the agent's memory. A Snapshot leaves a file of this name out.
pub const STATE_FILE: &str = "kubedb-instance.json";

/// Files and folders of one instance, all below its directory but the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    directory: PathBuf,
    socket_directory: PathBuf,
}

impl Paths {
    /// From the agent's configuration.
    #[must_use]
    pub fn new(directory: &Path, socket_directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            socket_directory: socket_directory.to_owned(),
        }
    }

    /// The instance's folder.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The same of a copy that is made to be looked at, in a folder of its own. Nothing in it is needed by anybody.
    #[must_use]
    pub fn scratch(&self) -> Self {
        Self::new(&self.directory.join("verify"), &self.socket_directory)
    }

    /// The data folder of PostgreSQL.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// A data folder in the making; what lies there was never used by anybody.
    #[must_use]
    pub fn new_data(&self) -> PathBuf {
        self.directory.join("data.new")
    }

    /// Tablespaces of the data folder.
    #[must_use]
    pub fn tablespaces(&self) -> PathBuf {
        self.directory.join("tablespaces")
    }

    /// Configuration files; outside the data folder, so that a restored or copied cluster brings none of its own.
    #[must_use]
    pub fn conf(&self) -> PathBuf {
        self.directory.join("conf")
    }

    /// Logs of PostgreSQL.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// What the agent remembers beside the data.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.directory.join(STATE_FILE)
    }

    /// Why the instance could not be made, for good.
    #[must_use]
    pub fn failure(&self) -> PathBuf {
        self.directory.join("kubedb-failed.json")
    }

    /// Folder of the Unix socket, short enough for its 107 bytes.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket_directory
    }

    /// Socket at which PostgreSQL's commands ask for WAL to be stored and fetched.
    #[must_use]
    pub fn wal_socket(&self) -> PathBuf {
        self.socket_directory.join("kubedb.wal")
    }

    /// Passwords for connections that PostgreSQL itself makes.
    #[must_use]
    pub fn passfile(&self) -> PathBuf {
        self.conf().join("pgpass")
    }
}
