//! What controllers share, and how they are run.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{
        Controller,
        controller::{Action, Error as ControllerError},
        reflector::ObjectRef,
        watcher,
    },
};
use kubedb_api::{Postgres, Snapshot, labels};
use tokio_util::sync::CancellationToken;

use crate::platform::{Platform, PlatformError};

/// Pause after a reconcile that failed.
const RETRY: Duration = Duration::from_secs(3);

/// What every reconcile needs.
pub struct Context {
    /// The API.
    pub client: Client,
    /// Processes and folders, or Kubernetes.
    pub platform: Arc<dyn Platform>,
}

/// Why a reconcile failed. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API refused, or could not be reached.
    #[error("failed to {action}")]
    Request {
        /// What was tried.
        action: &'static str,
        /// What it said.
        #[source]
        source: Box<kube::Error>,
    },
    /// The platform failed.
    #[error(transparent)]
    Platform(#[from] PlatformError),
}

/// For `map_err` on requests.
pub(crate) fn request(action: &'static str) -> impl FnOnce(kube::Error) -> ReconcileError {
    move |source| ReconcileError::Request {
        action,
        source: Box::new(source),
    }
}

/// Runs all controllers until `shutdown`.
pub async fn run(context: Context, shutdown: CancellationToken) {
    let context = Arc::new(context);
    let postgreses: Api<Postgres> = Api::all(context.client.clone());
    let snapshots: Api<Snapshot> = Api::all(context.client.clone());
    let any = watcher::Config::default;
    let databases = Controller::new(postgreses.clone(), any())
        .watches(snapshots.clone(), any(), |snapshot: Snapshot| {
            let namespace = snapshot.namespace()?;
            Some(ObjectRef::<Postgres>::new(&snapshot.spec.database_name).within(&namespace))
        })
        .graceful_shutdown_on(shutdown.clone().cancelled_owned())
        .run(crate::postgres::reconcile, retry, Arc::clone(&context));
    let backups = Controller::new(snapshots, any());
    let known = backups.store();
    let backups = backups
        .watches(postgreses, any(), move |postgres: Postgres| {
            let (name, namespace) = (postgres.name_any(), postgres.namespace());
            known
                .state()
                .into_iter()
                .filter(move |snapshot| {
                    snapshot.namespace() == namespace
                        && snapshot.spec.database_name == name
                        && !is_over(snapshot)
                })
                .map(|snapshot| ObjectRef::from_obj(&*snapshot))
                .collect::<Vec<_>>()
        })
        .graceful_shutdown_on(shutdown.cancelled_owned())
        .run(crate::snapshot::reconcile, retry, context);
    tokio::join!(log(databases), log(backups));
}

/// Whether nothing is left to do for a Snapshot.
fn is_over(snapshot: &Snapshot) -> bool {
    use kubedb_api::snapshot::SnapshotPhase::{Failed, Succeeded};
    let phase = snapshot.status.as_ref().and_then(|status| status.phase);
    matches!(phase, Some(Succeeded | Failed)) && snapshot.metadata.deletion_timestamp.is_none()
}

fn retry<K>(_: Arc<K>, error: &ReconcileError, _: Arc<Context>) -> Action {
    tracing::warn!(
        error = error as &dyn std::error::Error,
        "a reconcile failed"
    );
    Action::requeue(RETRY)
}

async fn log<K: kube::Resource>(
    results: impl Stream<
        Item = Result<(ObjectRef<K>, Action), ControllerError<ReconcileError, watcher::Error>>,
    >,
) where
    K::DynamicType: std::fmt::Debug,
{
    let mut results = std::pin::pin!(results);
    while let Some(result) = results.next().await {
        if let Err(ControllerError::QueueError(error)) = result {
            tracing::warn!(%error, "a watch failed and begins anew");
        }
    }
}

/// Label selector of what belongs to a database.
pub(crate) fn selector(database: &str) -> String {
    format!("{}=Postgres,{}={database}", labels::KIND, labels::NAME)
}
