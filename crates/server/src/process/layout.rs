//! Folders of the data directory.

use std::path::{Path, PathBuf};

use kubedb_operator::platform::DatabaseKey;

/// Longest folder of a Unix socket: 107 bytes less `/.s.PGSQL.65535` and `.lock`.
const SOCKET_FOLDER_MAX: usize = 85;
/// Characters of a UID that go into a folder's name.
const UID_CHARACTERS: usize = 8;

/// Where the process platform keeps what.
///
/// Whoever can run programs as the service user owns the instances' folders, so nothing that the server itself opens lies in them:
/// a link put in its place would lead root astray.
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
        let short: String = uid.chars().take(UID_CHARACTERS).collect();
        self.databases()
            .join(&key.namespace)
            .join(format!("{}-{short}", key.name))
    }

    /// Whether a folder is one that a database of this name has, or had.
    #[must_use]
    pub fn is_of(&self, folder: &Path, key: &DatabaseKey) -> bool {
        let name = folder.file_name().and_then(|name| name.to_str());
        let uid = name.and_then(|name| name.strip_prefix(&key.name)?.strip_prefix('-'));
        folder.parent() == Some(&self.databases().join(&key.namespace))
            && uid.is_some_and(|uid| uid.len() == UID_CHARACTERS)
    }

    /// What the platform writes for an agent, and the agent's log.
    #[must_use]
    pub fn agent(database: &Path, instance: &str) -> PathBuf {
        database.join("agents").join(instance)
    }

    /// Copies of programs that the service user can run, whatever folder they were installed in.
    #[must_use]
    pub fn programs(&self) -> PathBuf {
        self.data.join("bin")
    }

    /// Folder of the Unix socket of the server at this port, and the folder above that is made for it alone.
    #[must_use]
    pub fn socket(&self, port: u16) -> (PathBuf, PathBuf) {
        let above = self.data.join("run");
        let folder = above.join(port.to_string());
        let text = folder.to_string_lossy();
        // PostgreSQL separates the folders of its sockets by commas.
        if text.len() <= SOCKET_FOLDER_MAX && !text.contains([',', '"']) {
            return (above, folder);
        }
        use std::os::unix::ffi::OsStrExt as _;
        let short: String =
            blake3::hash(self.data.as_os_str().as_bytes()).to_hex()[..12].to_owned();
        let above = std::env::temp_dir().join(format!("kubedb-{short}"));
        let folder = above.join(port.to_string());
        (above, folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_tells_whose_it_is() {
        let layout = Layout::new(Path::new("/d"));
        let key = |name: &str| DatabaseKey {
            namespace: "demo".to_owned(),
            name: name.to_owned(),
        };
        let folder = layout.database(&key("pg"), "0a1b2c3d-4e5f");
        assert_eq!(folder, Path::new("/d/databases/demo/pg-0a1b2c3d"));
        assert!(layout.is_of(&folder, &key("pg")));
        // The folder of `pg-other` is not one of `pg`.
        let other = layout.database(&key("pg-other"), "0a1b2c3d-4e5f");
        assert!(!layout.is_of(&other, &key("pg")));
        assert!(layout.is_of(&other, &key("pg-other")));
    }

    #[test]
    fn a_socket_fits_whatever_the_data_folder_is_called() {
        for data in ["/d", &format!("/{}", "long/".repeat(50)), "/with,comma"] {
            let (above, folder) = Layout::new(Path::new(data)).socket(65_535);
            assert!(folder.starts_with(&above));
            assert!(folder.as_os_str().len() <= SOCKET_FOLDER_MAX, "{folder:?}");
            assert!(!folder.to_string_lossy().contains(','));
        }
    }
}
