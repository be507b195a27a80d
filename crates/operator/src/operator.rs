//! What the controllers share: the API, the platform, the caches, and what is kept in memory because a restart may lose it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt as _, runtime::reflector::Store};
use kubedb_api::{DormantDatabase, Postgres, Snapshot};
use kubedb_core::{
    pulse::Pulses,
    snapshot::SILENCE_LIMIT,
    steps::{Step, Watch},
    turns::Limits,
};

use crate::{
    context::{Cache, Context, ReconcileError, request},
    failures::Failures,
    gate::Gate,
    metrics::Metrics,
    platform::Platform,
    related::Related,
    seats::Seats,
    superseded::Superseded,
    tasks::Tasks,
};

/// Shared by all reconciles.
pub(crate) struct Operator {
    pub(crate) client: Client,
    pub(crate) platform: Arc<dyn Platform>,
    pub(crate) databases: Store<Postgres>,
    pub(crate) snapshots: Store<Snapshot>,
    pub(crate) dormants: Store<DormantDatabase>,
    caches: (Cache<Postgres>, Cache<Snapshot>, Cache<DormantDatabase>),
    /// Which of them belong together.
    pub(crate) related: Related,
    pub(crate) seats: Seats,
    /// Of verifications.
    pub(crate) verifying: Seats,
    pub(crate) gate: Gate,
    pub(crate) failures: Failures,
    pub(crate) superseded: Superseded,
    pub(crate) tasks: Tasks,
    pub(crate) metrics: Metrics,
    pulses: Mutex<Pulses<String>>,
    watch: Mutex<Watch>,
    started: Instant,
}

impl Operator {
    pub(crate) fn new(
        context: Context,
        limits: Limits,
        (databases, snapshots, dormants): (
            Cache<Postgres>,
            Cache<Snapshot>,
            Cache<DormantDatabase>,
        ),
    ) -> Self {
        Self {
            client: context.client,
            platform: context.platform,
            databases: databases.store.clone(),
            snapshots: snapshots.store.clone(),
            dormants: dormants.store.clone(),
            caches: (databases, snapshots, dormants),
            related: Related::default(),
            seats: Seats::new(limits),
            verifying: Seats::new(crate::snapshot::VERIFICATIONS),
            gate: Gate::default(),
            failures: Failures::default(),
            superseded: Superseded::default(),
            tasks: Tasks::default(),
            metrics: context.metrics,
            pulses: Mutex::default(),
            watch: Mutex::default(),
            started: Instant::now(),
        }
    }

    /// Time since the start by a clock that nobody sets.
    pub(crate) fn uptime(&self) -> SignedDuration {
        SignedDuration::try_from(self.started.elapsed()).unwrap_or(SignedDuration::MAX)
    }

    /// Looks at the clock, and tells of the steps that it made. Every reconcile does, so none of them is missed.
    pub(crate) fn steps(&self, now: Timestamp) -> Vec<Step> {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        watch.look(now, self.uptime());
        watch.steps().to_vec()
    }

    /// Waits until all caches hold what there was at the start: an absent object is a deleted one from then on.
    pub(crate) async fn caches(&self) -> Result<(), ReconcileError> {
        self.caches.0.whole().await?;
        self.caches.1.whole().await?;
        self.caches.2.whole().await
    }

    /// Whether a namespace is going away, or gone: what lies in it is not the operator's to delete then.
    pub(crate) async fn namespace_goes(
        &self,
        namespace: Option<String>,
    ) -> Result<bool, ReconcileError> {
        let namespace = Api::<Namespace>::all(self.client.clone())
            .get_opt(&namespace.unwrap_or_default())
            .await
            .map_err(request("get the namespace"))?;
        Ok(namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()))
    }

    /// All Snapshots of a database, by the label that admission sets.
    pub(crate) fn snapshots_of(&self, namespace: &str, database: &str) -> Vec<Snapshot> {
        // By name, in which order they are kept.
        let found = self.related.of(namespace, database);
        found
            .iter()
            .filter_map(|found| self.snapshots.get(found))
            .filter(|snapshot| snapshot.spec.database_name == database)
            .map(|snapshot| (*snapshot).clone())
            .collect()
    }

    /// Instances of a database that are alive, and for how long each counts as alive without another word.
    pub(crate) fn alive(
        &self,
        postgres: &Postgres,
        now: Timestamp,
    ) -> BTreeMap<String, SignedDuration> {
        let uid = postgres.uid().unwrap_or_default();
        let instances = postgres.status.as_ref().map(|status| &status.instances);
        instances
            .into_iter()
            .flatten()
            .filter_map(|(name, report)| {
                let beat = report.heartbeat_time?;
                let pulse = self.hear(format!("{uid}/{name}"), beat);
                // One that was never heard of may have been silent for long: then our clock has to do until its next word.
                let is_recent = now.duration_since(beat).abs() < INSTANCE_SILENCE_LIMIT;
                let left = INSTANCE_SILENCE_LIMIT - pulse.silence;
                let is_alive = (pulse.is_alive || is_recent) && left > SignedDuration::ZERO;
                is_alive.then(|| (name.clone(), left))
            })
            .collect()
    }

    /// For how long a source has been saying the same.
    pub(crate) fn silence(&self, source: String, value: Timestamp) -> SignedDuration {
        self.hear(source, value).silence
    }

    fn hear(&self, source: String, value: Timestamp) -> kubedb_core::pulse::Pulse {
        let mut pulses = self.pulses.lock().unwrap_or_else(PoisonError::into_inner);
        pulses.hear(source, value, self.uptime())
    }
}

/// Silence after which an instance is neither ready nor a candidate: three heartbeats, and time for one to arrive.
const INSTANCE_SILENCE_LIMIT: SignedDuration =
    SignedDuration::from_secs(SILENCE_LIMIT.as_secs() + 5);
