//! Serves a mounted volume to the agents of one database, which cannot mount it themselves: a running pod gains no volume.
//!
//! Both sides show certificates of one authority. What is asked for is in `kubedb_engine::store::served`.

mod listen;
mod requests;

use std::{io, path::Path};

use kubedb_api::agent_config::{VOLUME_PORT, VolumeTask};
use kubedb_engine::{
    repository::keys::{DatabaseFolder, NameError},
    store::{Credentials, Store, StoreError},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::location::location;

/// Why a volume is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It names no folder.
    #[error("failed to find the folder: {0}")]
    FindFolder(&'static str),
    /// The folder cannot be used.
    #[error(transparent)]
    OpenStore(#[from] StoreError),
    /// Keys cannot be made of the names.
    #[error("failed to name the database's folder")]
    NameFolder(#[from] NameError),
    /// The port cannot be had.
    #[error("failed to listen")]
    Listen(#[source] io::Error),
}

/// Listens where pods are asked.
pub async fn listen() -> Result<TcpListener, ServeError> {
    let listener = kubedb_listen::bind(None, VOLUME_PORT).await;
    listener.map_err(ServeError::Listen)
}

/// Serves until `shutdown`, with the certificates that lie in a folder at the moment.
pub async fn serve(
    task: &VolumeTask,
    listener: TcpListener,
    certificates: &Path,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let place = location(&task.storage).map_err(ServeError::FindFolder)?;
    let store = Store::open(&place, &Credentials::new())?;
    let own = DatabaseFolder::new(&task.namespace, &task.database)?;
    tracing::info!(store = store.label(), "serves");
    let doors = requests::Doors::new(store, &task.namespace, &own);
    let listener = listen::Authenticated::start(listener, certificates, shutdown.clone());
    let served = axum::serve(listener, requests::router(doors));
    served
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
        .map_err(ServeError::Listen)
}
