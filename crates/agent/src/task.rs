//! Work on a store that belongs to no instance: the data of a Snapshot whose database is gone, the archive of one that is wiped out.

use kubedb_api::agent_config::DataTask;
use kubedb_engine::{
    repository::{
        archives::{DeleteArchiveError, delete_archive},
        delete::{DeleteError, Deleted, delete_snapshot},
    },
    store::{Credentials, Store, StoreError},
};

pub use crate::backup::line;
use crate::location::{location, reads_no_secret};

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The storage names no store.
    #[error("failed to find the store: {0}")]
    FindStore(&'static str),
    /// The store cannot be used.
    #[error(transparent)]
    OpenStore(#[from] StoreError),
    /// The data was kept.
    #[error(transparent)]
    Delete(#[from] DeleteError),
    /// The archive was kept, or a part of it.
    #[error(transparent)]
    DeleteArchive(#[from] DeleteArchiveError),
}

impl TaskError {
    /// All of it in one line, as a status tells it.
    #[must_use]
    pub fn line(&self) -> String {
        line(self)
    }
}

/// Deletes exactly a Snapshot's data, or an archive. May be done as often as one likes, and by several at once.
pub async fn delete_data(task: &DataTask, credentials: Credentials) -> Result<Deleted, TaskError> {
    let place = location(&task.storage).map_err(TaskError::FindStore)?;
    let credentials = if reads_no_secret(&task.storage) {
        Credentials::new()
    } else {
        credentials
    };
    let store = Store::open(&place, &credentials)?;
    if let Some(lineage) = &task.archive {
        let deleted = delete_archive(&store, &task.namespace, &task.database, lineage);
        return Ok(deleted.await?);
    }
    let deleted = delete_snapshot(
        &store,
        &task.namespace,
        &task.database,
        &task.snapshot,
        &task.snapshot_uid,
    );
    Ok(deleted.await?)
}
