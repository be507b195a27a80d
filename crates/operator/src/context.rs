//! How the controllers are run.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _, future::BoxFuture};
use kube::{
    Api, Client, ResourceExt as _,
    core::NamespaceResourceScope,
    runtime::{
        Controller, WatchStreamExt as _,
        controller::{Action, Config, Error as ControllerError},
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use kubedb_api::{DormantDatabase, Postgres, Snapshot, verification::is_wanted};
use kubedb_core::turns::{LIMITS, Limits};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    dormant,
    gate::digest,
    metrics::{Caches, Metrics},
    operator::Operator,
    platform::{Platform, PlatformError},
    postgres, snapshot,
};

/// Reconciles of one controller at once: each holds a request open, and an API server that is slow shall not get more.
const RECONCILES_MAX: u16 = 64;

/// Look again this soon where the cache is behind our own write; the watch usually comes first.
pub(crate) const BEHIND: Duration = Duration::from_millis(50);

/// What the controllers work with.
pub struct Context {
    /// The API.
    pub client: Client,
    /// Processes and folders, or Kubernetes.
    pub platform: Arc<dyn Platform>,
    /// Namespace to stay within; all when absent.
    pub namespace: Option<String>,
    /// Who counts what they do.
    pub metrics: Metrics,
}

/// Why a reconcile failed. It is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
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
    /// The controllers are being stopped.
    #[error("failed to wait for the caches: the operator stops")]
    Stopping,
}

impl ReconcileError {
    /// Whether somebody changed the object since it was read.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Request { source, .. }
            if matches!(&**source, kube::Error::Api(status) if status.reason == "Conflict"))
    }

    pub(crate) fn text(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(next) = cause {
            text += &format!(": {next}");
            cause = next.source();
        }
        text
    }
}

/// For `map_err` on requests.
pub(crate) fn request(action: &'static str) -> impl FnOnce(kube::Error) -> ReconcileError {
    move |source| ReconcileError::Request {
        action,
        source: Box::new(source),
    }
}

/// Runs all controllers until `shutdown`, with the limits that suit most.
pub async fn run(context: Context, shutdown: CancellationToken) {
    run_with(context, LIMITS, shutdown).await;
}

/// Runs all controllers until `shutdown`.
pub async fn run_with(mut context: Context, limits: Limits, shutdown: CancellationToken) {
    context.client = context.metrics.counted(context.client);
    let postgreses: Api<Postgres> = within(&context);
    let snapshots: Api<Snapshot> = within(&context);
    let dormants: Api<DormantDatabase> = within(&context);
    let any = watcher::Config::default;
    let config = || Config::default().concurrency(RECONCILES_MAX);
    let (databases, known) = cached(postgreses.clone());
    let (backups, made) = cached(snapshots.clone());
    let (sleepers, paused) = cached(dormants.clone());
    let (databases, backups, sleepers) = (
        databases.with_config(config()),
        backups.with_config(config()),
        sleepers.with_config(config()),
    );
    let made_store = made.store.clone();
    let operator = Arc::new(Operator::new(context, limits, known, made, paused));
    let failing = Arc::downgrade(&operator);
    operator.metrics.attach(Caches {
        databases: operator.databases.clone(),
        snapshots: operator.snapshots.clone(),
        dormants: operator.dormants.clone(),
        failing: Box::new(move || failing.upgrade().map_or(0, |it| it.failures.len())),
    });
    let stopped = || shutdown.clone().cancelled_owned();
    let changed = changed(Arc::clone(&operator));
    let databases = databases
        .watches(snapshots.clone(), any(), concerns(Arc::clone(&operator)))
        .watches(dormants, any(), resumes(Arc::clone(&operator)))
        .reconcile_on(changed)
        .graceful_shutdown_on(stopped())
        .run(
            measured("Postgres", postgres::reconcile),
            retry,
            Arc::clone(&operator),
        );
    let backups = backups
        .watches(postgreses.clone(), any(), concerned(made_store))
        .graceful_shutdown_on(stopped())
        .run(
            measured("Snapshot", snapshot::reconcile),
            retry,
            Arc::clone(&operator),
        );
    let of_database = named(Arc::clone(&operator), |postgres: &Postgres| {
        postgres.name_any()
    });
    let of_snapshot = named(Arc::clone(&operator), |snapshot: &Snapshot| {
        snapshot.spec.database_name.clone()
    });
    let sleepers = sleepers
        .watches(postgreses, any(), of_database)
        .watches(snapshots, any(), of_snapshot)
        .graceful_shutdown_on(stopped())
        .run(
            measured("DormantDatabase", dormant::reconcile),
            retry,
            operator,
        );
    tokio::join!(log(databases), log(backups), log(sleepers));
}

/// A reconcile that is counted.
fn measured<K, F>(
    controller: &'static str,
    mut reconcile: impl FnMut(Arc<K>, Arc<Operator>) -> F,
) -> impl FnMut(Arc<K>, Arc<Operator>) -> BoxFuture<'static, F::Output>
where
    F: Future<Output = Result<Action, ReconcileError>> + Send + 'static,
{
    move |object, operator: Arc<Operator>| {
        let metrics = operator.metrics.clone();
        let work = reconcile(object, operator);
        Box::pin(async move { metrics.measure(controller, work).await })
    }
}

/// All objects of a kind that this operator is for.
fn within<K>(context: &Context) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match &context.namespace {
        Some(namespace) => Api::namespaced(context.client.clone(), namespace),
        None => Api::all(context.client.clone()),
    }
}

/// A controller's cache, and whether it holds what there was at the start.
pub(crate) struct Cache<K: kube::Resource<DynamicType = ()> + 'static> {
    pub(crate) store: Store<K>,
    is_whole: watch::Receiver<bool>,
}

impl<K: kube::Resource<DynamicType = ()> + 'static> Cache<K> {
    /// Waits until it does. The store can say so itself, but to the last who asks alone: one of a controller and its reconciles would wait for
    /// good.
    pub(crate) async fn whole(&self) -> Result<(), ReconcileError> {
        let mut is_whole = self.is_whole.clone();
        let whole = is_whole.wait_for(|is_whole| *is_whole).await;
        whole.map(drop).map_err(|_| ReconcileError::Stopping)
    }
}

/// A controller of all objects of a kind, and its cache.
fn cached<K>(api: Api<K>) -> (Controller<K>, Cache<K>)
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let (store, writer) = reflector::store();
    let (told, is_whole) = watch::channel(false);
    let objects = watcher(api, watcher::Config::default())
        .reflect(writer)
        .inspect(move |event| {
            // The store has it by now.
            if matches!(event, Ok(watcher::Event::InitDone)) {
                told.send_replace(true);
            }
        })
        .applied_objects();
    let cache = Cache {
        store: store.clone(),
        is_whole,
    };
    (Controller::for_stream(objects, store), cache)
}

/// Databases of which the platform saw something change.
fn changed(operator: Arc<Operator>) -> impl Stream<Item = ObjectRef<Postgres>> + Send + 'static {
    operator.platform.changes().map(move |key| {
        operator
            .gate
            .open(&format!("{}/{}", key.namespace, key.name));
        ObjectRef::new(&key.name).within(&key.namespace)
    })
}

/// The database that a change of a paused one concerns: it may wait for it.
fn resumes(operator: Arc<Operator>) -> impl Fn(DormantDatabase) -> Option<ObjectRef<Postgres>> {
    move |dormant| {
        let namespace = dormant.namespace()?;
        let name = dormant.name_any();
        let postgres = ObjectRef::new(&name).within(&namespace);
        operator.databases.get(&postgres)?;
        operator.gate.open(&format!("{namespace}/{name}"));
        Some(postgres)
    }
}

/// The paused database, if there is one, of the name that an object says.
fn named<K: kube::Resource>(
    operator: Arc<Operator>,
    name: impl Fn(&K) -> String,
) -> impl Fn(K) -> Option<ObjectRef<DormantDatabase>> {
    move |object| {
        let namespace = object.meta().namespace.clone()?;
        let dormant = ObjectRef::new(&name(&object)).within(&namespace);
        operator.dormants.get(&dormant).map(|_| dormant)
    }
}

/// Databases that a change of a Snapshot concerns: its own, and those that wait to be restored from it.
fn concerns(operator: Arc<Operator>) -> impl Fn(Snapshot) -> Vec<ObjectRef<Postgres>> {
    move |snapshot| {
        let namespace = snapshot.namespace().unwrap_or_default();
        let own = ObjectRef::new(&snapshot.spec.database_name).within(&namespace);
        let mut all = vec![own];
        let waiting = operator.databases.state();
        let waiting = waiting
            .iter()
            .filter(|postgres| postgres::waits_for(postgres, &snapshot));
        all.extend(waiting.map(|postgres| ObjectRef::from_obj(&**postgres)));
        for database in &all {
            let namespace = database.namespace.as_deref().unwrap_or_default();
            operator
                .gate
                .open(&format!("{namespace}/{}", database.name));
        }
        all
    }
}

/// Snapshots that a change of a database concerns: those it has tasks of, and the unfinished ones if more than a heartbeat
/// changed.
fn concerned(made: Store<Snapshot>) -> impl Fn(Postgres) -> Vec<ObjectRef<Snapshot>> {
    let digests = std::sync::Mutex::new(HashMap::<String, u64>::new());
    move |postgres| {
        let namespace = postgres.namespace().unwrap_or_default();
        let status = postgres.status.as_ref();
        let mut all: Vec<_> = status
            .iter()
            .flat_map(|status| status.tasks.keys())
            .map(|name| ObjectRef::new(name).within(&namespace))
            .collect();
        let key = format!("{namespace}/{}", postgres.name_any());
        let digest = digest(&postgres, []);
        let is_changed = {
            let mut digests = digests
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if postgres.metadata.deletion_timestamp.is_some() {
                digests.remove(&key) != Some(digest)
            } else {
                digests.insert(key, digest) != Some(digest)
            }
        };
        if is_changed {
            let unfinished = made.state();
            let unfinished = unfinished.iter().filter(|snapshot| {
                snapshot.spec.database_name == postgres.name_any()
                    && snapshot.namespace().as_deref() == Some(&namespace)
                    && (!snapshot::is_over(snapshot) || is_wanted(snapshot))
            });
            all.extend(unfinished.map(|snapshot| ObjectRef::from_obj(&**snapshot)));
        }
        all
    }
}

/// Name of an object in the memory of failures.
pub(crate) fn key_of<K: kube::Resource<DynamicType = ()>>(object: &K) -> String {
    let namespace = object.meta().namespace.as_deref().unwrap_or_default();
    let name = object.meta().name.as_deref().unwrap_or_default();
    format!("{}/{namespace}/{name}", K::kind(&()))
}

fn retry<K>(object: Arc<K>, error: &ReconcileError, operator: Arc<Operator>) -> Action
where
    K: kube::Resource<DynamicType = ()>,
{
    let key = key_of(&*object);
    let advice = if error.is_conflict() {
        operator.failures.conflict(&key)
    } else {
        operator.failures.failure(&key, &error.text())
    };
    if advice.is_news {
        tracing::warn!(object = key, error = error.text(), pause = ?advice.pause, "a reconcile failed and is tried again");
    } else {
        tracing::debug!(
            object = key,
            error = error.text(),
            "a reconcile failed again"
        );
    }
    Action::requeue(advice.pause)
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
