//! What the controllers share: the API, the platform, the caches, and what is kept in memory because a restart may lose it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Namespace, Secret},
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    runtime::reflector::{ObjectRef, Store},
};
use kubedb_api::{DormantDatabase, Postgres, PostgresVersion, Snapshot};
use kubedb_core::{
    pulse::{Pulse, Pulses},
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
    recent::Recent,
    related::Related,
    seats::Seats,
    superseded::Superseded,
    tasks::Tasks,
};

fn has<K>(store: &Store<K>, namespace: &str, name: &str) -> bool
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    store.get(&ObjectRef::new(name).within(namespace)).is_some()
}

/// The caches of everything that is watched.
pub(crate) struct AllCaches {
    pub(crate) databases: Cache<Postgres>,
    pub(crate) snapshots: Cache<Snapshot>,
    pub(crate) dormants: Cache<DormantDatabase>,
    pub(crate) leases: Cache<Lease>,
}

/// Shared by all reconciles.
pub(crate) struct Operator {
    pub(crate) client: Client,
    pub(crate) platform: Arc<dyn Platform>,
    pub(crate) databases: Store<Postgres>,
    pub(crate) snapshots: Store<Snapshot>,
    pub(crate) dormants: Store<DormantDatabase>,
    /// Of databases.
    pub(crate) leases: Store<Lease>,
    caches: AllCaches,
    /// Which of them belong together.
    pub(crate) related: Related,
    pub(crate) seats: Seats,
    /// Of verifications.
    pub(crate) verifying: Seats,
    pub(crate) gate: Gate,
    pub(crate) failures: Failures,
    pub(crate) superseded: Superseded,
    /// Ticks whose Snapshots were made, by the UID of the database: the cache may not have them yet.
    pub(crate) made: Recent<Timestamp>,
    /// The catalogue, by name.
    pub(crate) versions: Recent<PostgresVersion>,
    /// Secrets that are there, by the UID of who needs them and their names.
    pub(crate) secrets: Recent<()>,
    pub(crate) tasks: Tasks,
    pub(crate) metrics: Metrics,
    pulses: Mutex<Pulses<String>>,
    watch: Mutex<Watch>,
    started: Instant,
}

impl Operator {
    pub(crate) fn new(context: Context, limits: Limits, caches: AllCaches) -> Self {
        Self {
            client: context.client,
            platform: context.platform,
            databases: caches.databases.store.clone(),
            snapshots: caches.snapshots.store.clone(),
            dormants: caches.dormants.store.clone(),
            leases: caches.leases.store.clone(),
            caches,
            related: Related::default(),
            seats: Seats::new(limits),
            verifying: Seats::new(crate::snapshot::VERIFICATIONS),
            gate: Gate::default(),
            failures: Failures::default(),
            superseded: Superseded::default(),
            made: Recent::default(),
            versions: Recent::default(),
            secrets: Recent::default(),
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
        self.caches.databases.whole().await?;
        self.caches.snapshots.whole().await?;
        self.caches.dormants.whole().await?;
        self.caches.leases.whole().await
    }

    /// Sees to it that the next look at a database is not taken for one of which nothing is new. Gives the database.
    pub(crate) fn opened(&self, database: ObjectRef<Postgres>) -> ObjectRef<Postgres> {
        let namespace = database.namespace.as_deref().unwrap_or_default();
        self.gate.open(&format!("{namespace}/{}", database.name));
        database
    }

    /// How many objects failed at the last look at them. Those that went since are forgotten here: nobody will look at them again.
    pub(crate) fn failing(&self) -> usize {
        self.failures.keep(|key| self.holds(key));
        self.failures.len()
    }

    /// Whether the caches have an object, by its name in the memory of failures.
    fn holds(&self, key: &str) -> bool {
        let mut parts = key.splitn(3, '/');
        let (Some(kind), Some(namespace), Some(name)) = (parts.next(), parts.next(), parts.next())
        else {
            return false;
        };
        match kind {
            "Postgres" => has(&self.databases, namespace, name),
            "Snapshot" => has(&self.snapshots, namespace, name),
            _ => has(&self.dormants, namespace, name),
        }
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
    pub(crate) fn snapshots_of(&self, namespace: &str, database: &str) -> Vec<Arc<Snapshot>> {
        // By name, in which order they are kept.
        let found = self.related.of(namespace, database);
        found
            .iter()
            .filter_map(|found| self.snapshots.get(found))
            .filter(|snapshot| snapshot.spec.database_name == database)
            .collect()
    }

    /// Snapshots that instances work on, or verify.
    pub(crate) fn in_work(&self) -> Vec<Arc<Snapshot>> {
        let found = self.related.in_work();
        found
            .iter()
            .filter_map(|found| self.snapshots.get(found))
            .collect()
    }

    /// The catalogue's entry of a name, as it was a moment ago.
    pub(crate) async fn version(
        &self,
        name: &str,
    ) -> Result<Option<PostgresVersion>, ReconcileError> {
        let all = Api::<PostgresVersion>::all(self.client.clone());
        let learn = async {
            let found = all.get_opt(name).await;
            found.map_err(request("get the PostgresVersion"))
        };
        self.versions.or_learn(name.to_owned(), learn).await
    }

    /// Whether there is a Secret that an object needs, or was a moment ago.
    pub(crate) async fn has_secret<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        name: &str,
    ) -> Result<bool, ReconcileError> {
        let key = format!("{}/{name}", object.uid().unwrap_or_default());
        let namespace = object.namespace().unwrap_or_default();
        let learn = async {
            let is_there = self.finds_secret(&namespace, name).await?;
            Ok(is_there.then_some(()))
        };
        let known = self.secrets.or_learn(key, learn).await?;
        Ok(known.is_some())
    }

    /// Whether there is a Secret now. Its metadata alone is read: what is in it is none of the operator's business.
    pub(crate) async fn finds_secret(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<bool, ReconcileError> {
        let found = Api::<Secret>::namespaced(self.client.clone(), namespace)
            .get_metadata_opt(name)
            .await
            .map_err(request("get a Secret"))?;
        Ok(found.is_some())
    }

    /// Instances of a database that are alive, and for how long each counts as alive without another word.
    pub(crate) fn alive(
        &self,
        postgres: &Postgres,
        now: Timestamp,
    ) -> BTreeMap<String, SignedDuration> {
        let uid = postgres.uid().unwrap_or_default();
        let renewed = self.renewed(postgres);
        let instances = postgres.status.as_ref().map(|status| &status.instances);
        instances
            .into_iter()
            .flatten()
            .filter_map(|(name, report)| {
                let (told, beat) = (format!("{uid}/{name}"), report.heartbeat_time?);
                let by_report = self.left(told.clone(), beat, now);
                let renewed = renewed.as_ref().filter(|(holder, ..)| holder == name);
                let by_lease = renewed.and_then(|(_, renewal, source)| {
                    // Whoever renews its Lease, and cannot report any more, need not be as it said last.
                    let current = REPORT_SILENCE_LIMIT - self.silence(told, beat);
                    let left = self.left(source.clone(), *renewal, now)?.min(current);
                    (left > SignedDuration::ZERO).then_some(left)
                });
                let left = by_report.max(by_lease)?;
                Some((name.clone(), left))
            })
            .collect()
    }

    /// For how long an instance counts as alive by one of its signs of life; none if it does not.
    fn left(&self, source: String, beat: Timestamp, now: Timestamp) -> Option<SignedDuration> {
        let pulse = self.hear(source, beat);
        // One that was never heard of may have been silent for long: then our clock has to do until its next word.
        let is_recent = now.duration_since(beat).abs() < INSTANCE_SILENCE_LIMIT;
        let left = INSTANCE_SILENCE_LIMIT - pulse.silence;
        let is_alive = (pulse.is_alive || is_recent) && left > SignedDuration::ZERO;
        is_alive.then_some(left)
    }

    /// For how long a source has been saying the same.
    pub(crate) fn silence(&self, source: String, value: Timestamp) -> SignedDuration {
        self.hear(source, value).silence
    }

    pub(crate) fn hear(&self, source: String, value: Timestamp) -> Pulse {
        let mut pulses = self.pulses.lock().unwrap_or_else(PoisonError::into_inner);
        pulses.hear(source, value, self.uptime())
    }

    /// What was last heard of a source.
    pub(crate) fn heard(&self, source: &String) -> Option<Pulse> {
        let pulses = self.pulses.lock().unwrap_or_else(PoisonError::into_inner);
        pulses.last(source, self.uptime())
    }
}

/// Silence of the reports of an instance that lives by its Lease, after which it is neither: three of them, and time for one to arrive.
const REPORT_SILENCE_LIMIT: SignedDuration = SignedDuration::from_secs(95);

/// Silence after which an instance is neither ready nor a candidate: three heartbeats, and time for one to arrive.
pub(crate) const INSTANCE_SILENCE_LIMIT: SignedDuration =
    SignedDuration::from_secs(SILENCE_LIMIT.as_secs() + 5);
