//! What must be the same after a restart (`platform.json`).

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

const FILE: &str = "platform.json";

/// The pinned build and ports of a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Pinned {
    pub(super) uid: String,
    pub(super) bin_directory: PathBuf,
    pub(super) postgres_version: String,
    pub(super) primary_port: u16,
    pub(super) standbys_port: u16,
    pub(super) instance_ports: BTreeMap<String, u16>,
    /// Ports for metrics, used while `spec.monitor` names no other.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) metrics_ports: BTreeMap<String, u16>,
}

/// Why the file cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "failed to read {path}: {reason}; it says which PostgreSQL build and which ports the database has: put it back, or remove it to have both chosen anew"
)]
pub(super) struct ReadPinnedError {
    path: String,
    reason: String,
}

impl Pinned {
    /// Reads the file of a database's folder; `None` when there is none.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, ReadPinnedError> {
        let path = folder.join(FILE);
        let failed = |reason: String| ReadPinnedError {
            path: path.display().to_string(),
            reason,
        };
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| failed(error.to_string()))?,
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| failed(error.to_string()))
    }

    /// Writes it so that a power cut leaves the old or the new one.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let temporary = folder.join(FILE).with_extension("new");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(&temporary, folder.join(FILE))?;
        File::open(folder)?.sync_all()
    }

    /// Every port of the database.
    pub(super) fn ports(&self) -> impl Iterator<Item = u16> {
        self.instance_ports
            .values()
            .chain(self.metrics_ports.values())
            .copied()
            .chain([self.primary_port, self.standbys_port])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_told_with_what_to_do_and_never_taken_for_absence() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Pinned::read(folder.path()).unwrap(), None);
        let pinned = Pinned {
            uid: "u".to_owned(),
            bin_directory: "/bin".into(),
            postgres_version: "15.18".to_owned(),
            primary_port: 21_000,
            standbys_port: 21_001,
            instance_ports: BTreeMap::from([("pg-0".to_owned(), 21_002)]),
            metrics_ports: BTreeMap::from([("pg-0".to_owned(), 21_003)]),
        };
        pinned.write(folder.path()).unwrap();
        assert_eq!(Pinned::read(folder.path()).unwrap(), Some(pinned));
        for damaged in ["", "{\"uid\":", "[]"] {
            fs::write(folder.path().join(FILE), damaged).unwrap();
            let error = Pinned::read(folder.path()).unwrap_err().to_string();
            assert!(
                error.contains("remove it to have both chosen anew"),
                "{error}"
            );
        }
    }
}
