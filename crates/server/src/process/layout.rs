//! Folders of the data directory.

use std::path::{Path, PathBuf};

use kubedb_operator::platform::DatabaseKey;

/// Longest folder of a Unix socket: 107 bytes less `/.s.PGSQL.65535` and `.lock`.
const SOCKET_FOLDER_MAX: usize = 85;

/// Where the process platform keeps what.
#[derive(Clone, Debug)]
pub struct Layout {
    data: PathBuf,
}

impl Layout {
    /// Below the server's data directory.
    #[must_use]
    pub fn new(data: &Path) -> Self {
        Self {
            data: data.to_owned(),
        }
    }

    /// All databases.
    #[must_use]
    pub fn databases(&self) -> PathBuf {
        self.data.join("databases")
    }

    /// One database. The UID is part of the name, so that a database made anew never finds another's data.
    #[must_use]
    pub fn database(&self, key: &DatabaseKey, uid: &str) -> PathBuf {
        let short: String = uid.chars().take(8).collect();
        self.databases()
            .join(&key.namespace)
            .join(format!("{}-{short}", key.name))
    }

    /// Copies of programs that the service user can run, whatever folder they were installed in.
    #[must_use]
    pub fn programs(&self) -> PathBuf {
        self.data.join("bin")
    }

    /// Folder of the Unix socket of the server at this port.
    #[must_use]
    pub fn socket(&self, port: u16) -> PathBuf {
        let folder = self.data.join("run").join(port.to_string());
        if folder.as_os_str().len() <= SOCKET_FOLDER_MAX {
            folder
        } else {
            std::env::temp_dir().join(format!("kubedb-{port}"))
        }
    }
}
