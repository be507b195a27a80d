//! How the controllers are run.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{Stream, StreamExt as _, TryStreamExt as _, future::BoxFuture};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Client, ResourceExt as _,
    core::NamespaceResourceScope,
    runtime::{
        Controller, WatchStreamExt as _,
        controller::{Action, Config, Error as ControllerError},
        reflector::{self, ObjectRef, Store, store::Writer},
        watcher,
    },
};
use kubedb_api::{DormantDatabase, Postgres, Snapshot, labels, verification::is_wanted};
use kubedb_core::turns::{LIMITS, Limits};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    calls::Calls,
    dormant,
    gate::digest,
    leases,
    metrics::{Caches, Metrics},
    namespaces::{Events, Namespaces, api_of},
    operator::{AllCaches, Operator},
    platform::{Platform, PlatformError},
    postgres, snapshot,
};

/// Reconciles of one controller at once: each holds a request open, and what it has read in memory. An API server that is slow shall not get more.
const RECONCILES_MAX: u16 = 32;

/// A reconcile waits so long for what else happens to its object: a Snapshot that begins is four writes to it and its database, each of which is told to both, and
/// a decision taken between two of them is taken again, or meets the next one.
const SETTLE: Duration = Duration::from_millis(50);

/// What `kubectl apply` keeps for itself.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What the controllers work with.
pub struct Context {
    /// The API.
    pub client: Client,
    /// Processes and folders, or Kubernetes.
    pub platform: Arc<dyn Platform>,
    /// Namespaces to stay within.
    pub namespaces: Namespaces,
    /// Who counts what they do.
    pub metrics: Metrics,
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
    /// Somebody deleted the object since it was read.
    #[error("failed to {0}: the object is gone")]
    Gone(&'static str),
    /// The controllers are being stopped.
    #[error("failed to wait for the caches: the operator stops")]
    Stopping,
}

impl ReconcileError {
    /// Whether somebody changed the object since it was read, or deleted it.
    pub(crate) fn is_conflict(&self) -> bool {
        match self {
            Self::Request { source, .. } => {
                matches!(&**source, kube::Error::Api(status) if status.reason == "Conflict")
            }
            Self::Gone(_) => true,
            Self::Platform(_) | Self::Stopping => false,
        }
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
    let (postgreses, snapshots, dormants) = (cached(), cached(), cached());
    let leases = cached();
    let caches = AllCaches {
        databases: postgreses.0,
        snapshots: snapshots.0,
        dormants: dormants.0,
        leases: leases.0,
    };
    let all = watcher::Config::default();
    let watches = (
        watched(&context, &caches.databases.store, &all),
        watched(&context, &caches.snapshots.store, &all),
        watched(&context, &caches.dormants.store, &all),
    );
    let renewals = watched(&context, &caches.leases.store, &leases::selected());
    let operator = Arc::new(Operator::new(context, limits, caches));
    let failing = Arc::downgrade(&operator);
    operator.metrics.attach(Caches {
        databases: operator.databases.clone(),
        snapshots: operator.snapshots.clone(),
        dormants: operator.dormants.clone(),
        failing: Box::new(move || failing.upgrade().map_or(0, |it| it.failing())),
    });
    let told = Told::default();
    let databases = {
        let (operator, told) = (Arc::clone(&operator), told.clone());
        let digests = Digests::default();
        let is_work = |_: &Postgres| true;
        controller(
            watches.0,
            postgreses.1,
            trim,
            is_work,
            move |event| match event {
                Heard::Is(postgres) | Heard::Gone(postgres) => {
                    let is_gone = matches!(event, Heard::Gone(_));
                    operator.related.database(postgres, is_gone);
                    let is_news = digests.is_news(postgres, is_gone);
                    told.snapshots.add(concerned(&operator, postgres, is_news));
                    told.dormants
                        .add(paused_of(&operator, postgres, &postgres.name_any()));
                }
                Heard::All => {
                    operator.superseded.begin_anew();
                    operator.related.keep_databases(&operator.databases);
                }
            },
        )
    };
    let backups = {
        let (operator, told) = (Arc::clone(&operator), told.clone());
        // Most have ended long ago, and nothing is to do about them.
        let is_work = |snapshot: &Snapshot| !snapshot::is_over(snapshot) || is_wanted(snapshot);
        controller(
            watches.1,
            snapshots.1,
            trim_snapshot,
            is_work,
            move |event| match event {
                Heard::Is(snapshot) | Heard::Gone(snapshot) => {
                    let is_gone = matches!(event, Heard::Gone(_));
                    if operator.related.snapshot(snapshot, is_gone) {
                        told.snapshots.add(snapshot::next_in_turn(&operator));
                    }
                    told.databases.add(concerns(&operator, snapshot));
                    let database = &snapshot.spec.database_name;
                    told.dormants.add(paused_of(&operator, snapshot, database));
                }
                Heard::All => {
                    operator.superseded.begin_anew();
                    operator.related.keep_snapshots(&operator.snapshots);
                }
            },
        )
    };
    let sleepers = {
        let (operator, told) = (Arc::clone(&operator), told.clone());
        let is_work = |_: &DormantDatabase| true;
        controller(
            watches.2,
            dormants.1,
            trim,
            is_work,
            move |event| match event {
                Heard::Is(dormant) | Heard::Gone(dormant) => {
                    told.databases.add(resumes(&operator, dormant));
                }
                Heard::All => operator.superseded.begin_anew(),
            },
        )
    };
    let stopped = || shutdown.clone().cancelled_owned();
    let databases = databases
        .reconcile_on(told.databases.follow())
        .reconcile_on(changed(Arc::clone(&operator)))
        .graceful_shutdown_on(stopped())
        .run(
            measured("Postgres", postgres::reconcile),
            retry,
            Arc::clone(&operator),
        );
    let backups = backups
        .reconcile_on(told.snapshots.follow())
        .graceful_shutdown_on(stopped())
        .run(
            measured("Snapshot", snapshot::reconcile),
            retry,
            Arc::clone(&operator),
        );
    let sleepers = sleepers
        .reconcile_on(told.dormants.follow())
        .graceful_shutdown_on(stopped())
        .run(
            measured("DormantDatabase", dormant::reconcile),
            retry,
            Arc::clone(&operator),
        );
    let call = move |database| told.databases.add([database]);
    let holders = leases::follow(operator, renewals, leases.1, call);
    let holders = shutdown.clone().run_until_cancelled_owned(holders);
    tokio::join!(log(databases), log(backups), log(sleepers), holders);
}

/// Objects of each kind that something else concerns, to be looked at by their controllers.
#[derive(Clone, Default)]
struct Told {
    databases: Calls<Postgres>,
    snapshots: Calls<Snapshot>,
    dormants: Calls<DormantDatabase>,
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

/// A kind of which everything is watched and kept.
pub(crate) trait Kept:
    kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + DeserializeOwned
    + std::fmt::Debug
    + Send
    + Sync
    + 'static
{
}

impl Kept for Postgres {}
impl Kept for Snapshot {}
impl Kept for DormantDatabase {}
impl Kept for Lease {}

/// Watches the objects of a kind that this operator is for.
fn watched<K: Kept>(context: &Context, store: &Store<K>, which: &watcher::Config) -> Events<K> {
    let (client, store) = (context.client.clone(), store.clone());
    context.namespaces.watch(
        which,
        |namespace| api_of(&client, namespace),
        move |namespace| {
            let all = store.state().into_iter();
            all.filter(|object| object.namespace().as_deref() == Some(namespace))
                .map(|object| (*object).clone())
                .collect()
        },
    )
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

/// What fills a cache, and tells that it holds what there was at the start.
pub(crate) type Filler<K> = (Writer<K>, watch::Sender<bool>);

/// A cache, and what fills it.
type Filled<K> = (Cache<K>, Filler<K>);

/// A cache of a kind.
fn cached<K: Kept>() -> Filled<K> {
    let (store, writer) = reflector::store();
    let (told, is_whole) = watch::channel(false);
    (Cache { store, is_whole }, (writer, told))
}

/// What a watch tells, once the cache has it.
pub(crate) enum Heard<'a, K> {
    /// An object, as it is now.
    Is(&'a K),
    /// As it was last.
    Gone(&'a K),
    /// The cache holds all there is, and nothing else.
    All,
}

/// What a watch tells, without its failures: each is logged, and begins the watch anew.
pub(crate) fn logged<K: Kept>(
    events: Events<K>,
) -> impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send {
    events.filter_map(async |event| match event {
        Ok(event) => Some(Ok(event)),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, kind = %K::kind(&()), "a watch failed and begins anew");
            None
        }
    })
}

/// A controller of all objects of a kind that are work, with its cache. Of each kind there is this one watch, whoever wants to hear of it.
fn controller<K: Kept>(
    events: Events<K>,
    (writer, told): Filler<K>,
    trim: impl Fn(&mut K) + Send + 'static,
    is_work: impl Fn(&K) -> bool + Send + 'static,
    hear: impl Fn(Heard<'_, K>) + Send + 'static,
) -> Controller<K> {
    let store = writer.as_reader();
    let objects = logged(events)
        .modify(trim)
        .reflect(writer)
        .inspect_ok(move |event| match event {
            watcher::Event::Apply(object) | watcher::Event::InitApply(object) => {
                hear(Heard::Is(object));
            }
            watcher::Event::Delete(object) => hear(Heard::Gone(object)),
            watcher::Event::Init => {}
            watcher::Event::InitDone => {
                hear(Heard::All);
                told.send_replace(true);
            }
        })
        .applied_objects()
        .try_filter(move |object| std::future::ready(is_work(object)));
    let config = Config::default()
        .concurrency(RECONCILES_MAX)
        .debounce(SETTLE);
    Controller::for_stream(objects, store).with_config(config)
}

/// The same of Snapshots: of one that has ended, and that nobody wants verified, nobody reads who took it, how, and on whose behalf. Whatever is wanted of it
/// next, its deletion too, is a change that comes with all of it.
fn trim_snapshot(snapshot: &mut Snapshot) {
    trim(snapshot);
    if !snapshot::is_over(snapshot) || is_wanted(snapshot) {
        return;
    }
    let metadata = &mut snapshot.metadata;
    (metadata.labels, metadata.finalizers) = (None, None);
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(labels::START_AFTER);
    }
    (snapshot.spec.resources, snapshot.spec.max_rate) = (None, None);
    if let Some(status) = &mut snapshot.status {
        (status.instance, status.minimum_lsn) = (None, None);
    }
}

/// Takes away what nobody here looks at, which is a good part of an object: tens of thousands are kept.
fn trim<K: kube::Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
    if let Some(annotations) = &mut object.meta_mut().annotations {
        annotations.remove(LAST_APPLIED);
    }
}

/// Databases of which the platform saw something change.
fn changed(operator: Arc<Operator>) -> impl Stream<Item = ObjectRef<Postgres>> + Send + 'static {
    let changes = operator.platform.changes();
    changes.map(move |key| operator.opened(ObjectRef::new(&key.name).within(&key.namespace)))
}

/// The database that a change of a paused one concerns: it may wait for it.
fn resumes(operator: &Operator, dormant: &DormantDatabase) -> Option<ObjectRef<Postgres>> {
    let namespace = dormant.namespace()?;
    let name = dormant.name_any();
    let postgres = ObjectRef::new(&name).within(&namespace);
    operator.databases.get(&postgres)?;
    Some(operator.opened(postgres))
}

/// The paused database, if there is one, of the name that an object says.
fn paused_of<K: kube::Resource>(
    operator: &Operator,
    object: &K,
    name: &str,
) -> Option<ObjectRef<DormantDatabase>> {
    let namespace = object.meta().namespace.as_ref()?;
    let dormant = ObjectRef::new(name).within(namespace);
    operator.dormants.get(&dormant).map(|_| dormant)
}

/// Databases that a change of a Snapshot concerns: its own, and those that wait to be restored from it.
fn concerns(operator: &Operator, snapshot: &Snapshot) -> Vec<ObjectRef<Postgres>> {
    let namespace = snapshot.namespace().unwrap_or_default();
    let mut all = vec![ObjectRef::new(&snapshot.spec.database_name).within(&namespace)];
    let waiting = operator.related.waiting();
    let waiting = waiting.into_iter().filter(|waiting| {
        let waiting = operator.databases.get(waiting);
        waiting.is_some_and(|waiting| postgres::waits_for(&waiting, snapshot))
    });
    all.extend(waiting);
    all.into_iter()
        .map(|database| operator.opened(database))
        .collect()
}

/// What each database looked like, but for heartbeats.
#[derive(Default)]
struct Digests(Mutex<HashMap<String, u64>>);

impl Digests {
    /// Whether more than a heartbeat changed. That it is gone is news, however it looked.
    fn is_news(&self, postgres: &Postgres, is_gone: bool) -> bool {
        let key = key_of(postgres);
        let digest = (!is_gone).then(|| digest(postgres, []));
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match digest {
            Some(digest) => known.insert(key, digest) != Some(digest),
            None => {
                known.remove(&key);
                true
            }
        }
    }
}

/// Snapshots that a change of a database concerns: those it has tasks of, and the unfinished ones if that is news.
fn concerned(operator: &Operator, postgres: &Postgres, is_news: bool) -> Vec<ObjectRef<Snapshot>> {
    let namespace = postgres.namespace().unwrap_or_default();
    let status = postgres.status.as_ref();
    let mut all: Vec<_> = status
        .iter()
        .flat_map(|status| status.tasks.keys())
        .map(|name| ObjectRef::new(name).within(&namespace))
        .collect();
    if is_news {
        let made = operator.related.of(&namespace, &postgres.name_any());
        all.extend(made.into_iter().filter(|made| {
            let snapshot = operator.snapshots.get(made);
            snapshot.is_some_and(|snapshot| !snapshot::is_over(&snapshot) || is_wanted(&snapshot))
        }));
    }
    all
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
