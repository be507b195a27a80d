//! What an agent remembers beside the data, so that it can go on without the API.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::paths::{Paths, STATE_FILE};

/// Largest state file that is read; a real one has a few hundred bytes.
const BYTES_MAX: u64 = 64 * 1024;

/// `kubedb-instance.json`. Written last when a cluster has been made, so its presence says that the data is whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceState {
    /// UID of the Postgres object the data belongs to.
    pub database_uid: String,
    /// Repository lineage, minted when the database began.
    pub lineage: String,
    /// Identifier that initdb gave the cluster.
    pub system_identifier: u64,
    /// Last known timeline.
    pub timeline: u32,
    /// The Lease's transitions when this instance last held or saw it.
    pub epoch: i32,
    /// Role the data has.
    pub role: StoredRole,
    /// `host:port` of the primary that was followed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_primary: Option<String>,
    /// Whether WAL is archived, as the database last said. A server that is started while the API is away must neither drop WAL nor keep it for nobody.
    #[serde(default)]
    pub archives: bool,
    /// Full version of the build that made the data.
    pub postgres_version: String,
}

/// Role the data has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoredRole {
    /// Accepted writes.
    Primary,
    /// Followed a primary.
    Standby,
}

/// Why the state could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file is there and says nothing that can be understood.
    #[error("failed to read {path}: {reason}")]
    Read {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file could not be written.
    #[error("failed to write {path}")]
    Write {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Reads the state; `None` when there is none.
pub fn read(path: &Path) -> Result<Option<InstanceState>, StateError> {
    let wrong = |reason: String| StateError::Read {
        path: path.display().to_string(),
        reason,
    };
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(error.to_string())),
        Ok(metadata) if metadata.len() > BYTES_MAX => {
            return Err(wrong(format!("it has {} bytes", metadata.len())));
        }
        Ok(_) => {}
    }
    let bytes = fs::read(path).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| wrong(error.to_string()))
}

/// Reads the state of an instance. A data folder whose agent was killed right after it came into being brings its state along; it is
/// moved beside the data here.
pub fn claim(paths: &Paths) -> Result<Option<InstanceState>, StateError> {
    if let Some(state) = read(&paths.state())? {
        return Ok(Some(state));
    }
    let within = paths.data().join(STATE_FILE);
    let Some(state) = read(&within)? else {
        return Ok(None);
    };
    write(&paths.state(), &state)?;
    // Only the one beside the data counts from now on.
    if let Err(error) = fs::remove_file(&within) {
        tracing::debug!(%error, "the state within the data folder stays");
    }
    Ok(Some(state))
}

/// Writes the state so that a power cut leaves either the old or the new one.
pub fn write(path: &Path, state: &InstanceState) -> Result<(), StateError> {
    let bytes = serde_json::to_vec_pretty(state).map_err(|error| StateError::Write {
        path: path.display().to_string(),
        source: io::Error::other(error),
    })?;
    replace(path, &bytes).map_err(|source| StateError::Write {
        path: path.display().to_string(),
        source,
    })
}

/// Removes the state: the instance has no data that counts any more.
pub fn forget(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StateError::Write {
            path: path.display().to_string(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Why an instance could not be made, for good. It stands beside the data that there is not, so that an agent that is started again does not
/// try again: a script may have had effects outside, and a restore would fetch everything once more to fail as before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FinalFailure {
    /// UID of the Postgres object it was to be made for.
    pub database_uid: String,
    /// What is told in the status.
    pub reason: String,
}

/// Reads why the instance of this database could not be made. A file that says nothing is none: then it is tried again.
#[must_use]
pub fn read_failure(paths: &Paths, database_uid: &str) -> Option<FinalFailure> {
    let path = paths.failure();
    let size = fs::metadata(&path).ok()?.len();
    let text = (size <= BYTES_MAX).then(|| fs::read(&path))?.ok()?;
    let failure: FinalFailure = serde_json::from_slice(&text).ok()?;
    (failure.database_uid == database_uid).then_some(failure)
}

/// Keeps why the instance could not be made.
pub fn write_failure(paths: &Paths, failure: &FinalFailure) -> Result<(), StateError> {
    let path = paths.failure();
    let text = serde_json::to_vec_pretty(failure).map_err(io::Error::other);
    let written = text.and_then(|text| replace(&path, &text));
    written.map_err(|source| StateError::Write {
        path: path.display().to_string(),
        source,
    })
}

/// Replaces a file by rename, with content and name on disk before it returns. Mode 0600.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let folder = path
        .parent()
        .ok_or_else(|| io::Error::other("the path has no folder"))?;
    let mut name = path
        .file_name()
        .ok_or_else(|| io::Error::other("the path has no name"))?
        .to_owned();
    name.push(".new");
    let temporary = folder.join(name);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_survives_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubedb-instance.json");
        assert_eq!(read(&path).unwrap(), None);
        let state = InstanceState {
            database_uid: "u".to_owned(),
            lineage: "l".to_owned(),
            system_identifier: u64::MAX,
            timeline: 1,
            epoch: 0,
            role: StoredRole::Primary,
            last_primary: None,
            postgres_version: "9.6.24".to_owned(),
            archives: false,
        };
        write(&path, &state).unwrap();
        assert_eq!(read(&path).unwrap(), Some(state));
        fs::write(&path, b"{\"databaseUid\":").unwrap();
        // A damaged file must never look like an absent one: that would begin the database anew.
        assert!(matches!(read(&path), Err(StateError::Read { .. })));
    }

    #[test]
    fn a_final_failure_stands_for_its_database_alone() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::new(folder.path(), folder.path());
        assert_eq!(read_failure(&paths, "u"), None);
        let failure = FinalFailure {
            database_uid: "u".to_owned(),
            reason: "the pack is damaged".to_owned(),
        };
        write_failure(&paths, &failure).unwrap();
        assert_eq!(read_failure(&paths, "u"), Some(failure));
        assert_eq!(read_failure(&paths, "other"), None);
        fs::write(paths.failure(), b"{\"databaseUid\":").unwrap();
        assert_eq!(read_failure(&paths, "u"), None);
    }
}
