//! Metrics of the operator, and of all databases as far as their objects know them: told also when a database's own agents are gone.

pub mod families;
mod process;
mod requests;
pub mod serve;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::runtime::reflector::Store;
use kubedb_api::{DormantDatabase, Postgres, Snapshot, metrics};
use kubedb_core::metrics::{Exposition, Histogram};

use self::families::*;
use crate::context::ReconcileError;

/// From what costs nothing to what somebody waits for.
const BOUNDS: &[f64] = &[0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0];
/// Who comes within this time is told what the one before was told: a thousand databases are some work.
const FRESH: Duration = Duration::from_secs(1);

/// Counts, and tells. Clones are the same.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Inner>);

#[derive(Default)]
struct Inner {
    leads: AtomicBool,
    counts: Mutex<Counts>,
    caches: Mutex<Option<Caches>>,
    told: Mutex<Option<(Instant, Arc<str>)>>,
}

#[derive(Debug, Default)]
struct Counts {
    active: BTreeMap<&'static str, u64>,
    reconciles: BTreeMap<(&'static str, &'static str), u64>,
    durations: BTreeMap<&'static str, Histogram>,
    requests: BTreeMap<(&'static str, &'static str, u16), u64>,
    request_durations: BTreeMap<&'static str, Histogram>,
    webhook: BTreeMap<(&'static str, &'static str), u64>,
}

/// What the controllers know.
pub(crate) struct Caches {
    pub(crate) databases: Store<Postgres>,
    pub(crate) snapshots: Store<Snapshot>,
    pub(crate) dormants: Store<DormantDatabase>,
    /// How many objects fail.
    pub(crate) failing: Box<dyn Fn() -> usize + Send + Sync>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a reconcile back from those in work, also when it is dropped on its way.
struct Working<'a>(&'a Metrics, &'static str);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        if let Some(active) = self.0.counts().active.get_mut(self.1) {
            *active -= 1;
        }
    }
}

impl Metrics {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        locked(&self.0.counts)
    }

    /// Says whether this operator acts.
    pub fn leads(&self, leads: bool) {
        self.0.leads.store(leads, Ordering::Relaxed);
    }

    /// Tells of what is in these caches, too.
    pub(crate) fn attach(&self, caches: Caches) {
        *locked(&self.0.caches) = Some(caches);
    }

    /// Counts a reconcile, and how long it takes.
    pub(crate) async fn measure<T>(
        &self,
        controller: &'static str,
        reconcile: impl Future<Output = Result<T, ReconcileError>>,
    ) -> Result<T, ReconcileError> {
        let began = Instant::now();
        *self.counts().active.entry(controller).or_default() += 1;
        let working = Working(self, controller);
        let outcome = reconcile.await;
        drop(working);
        let result = match &outcome {
            Ok(_) => "success",
            Err(error) if error.is_conflict() => "conflict",
            Err(_) => "error",
        };
        let mut counts = self.counts();
        *counts.reconciles.entry((controller, result)).or_default() += 1;
        let durations = counts.durations.entry(controller);
        let durations = durations.or_insert_with(|| Histogram::new(BOUNDS));
        durations.observe(began.elapsed().as_secs_f64());
        outcome
    }

    pub(crate) fn webhook(&self, webhook: &'static str, outcome: &'static str) {
        *self.counts().webhook.entry((webhook, outcome)).or_default() += 1;
    }

    fn request(&self, verb: &'static str, resource: &'static str, code: u16, took: Duration) {
        let mut counts = self.counts();
        *counts.requests.entry((verb, resource, code)).or_default() += 1;
        if verb != "watch" {
            let durations = counts.request_durations.entry(verb);
            let durations = durations.or_insert_with(|| Histogram::new(BOUNDS));
            durations.observe(took.as_secs_f64());
        }
    }

    /// The text that a Prometheus reads.
    #[must_use]
    pub fn text(&self) -> Arc<str> {
        let mut told = locked(&self.0.told);
        if let Some((_, text)) = told.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return text.clone();
        }
        let text: Arc<str> = self.exposition(Timestamp::now()).text().into();
        *told = Some((Instant::now(), text.clone()));
        text
    }

    fn exposition(&self, now: Timestamp) -> Exposition {
        let mut to = Exposition::new();
        to.add(&INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
        let leads = self.0.leads.load(Ordering::Relaxed);
        to.add(&LEADS, &[], f64::from(u8::from(leads)));
        self.add_counts(&mut to);
        if let Some(caches) = locked(&self.0.caches).as_ref() {
            for database in caches.databases.state() {
                metrics::database(&database, now, &mut to);
            }
            for (kind, count) in [
                ("Postgres", caches.databases.len()),
                ("Snapshot", caches.snapshots.len()),
                ("DormantDatabase", caches.dormants.len()),
            ] {
                to.add(&OBJECTS, &[kind], count as f64);
            }
            to.add(&FAILING, &[], (caches.failing)() as f64);
        }
        process::add(&mut to);
        to
    }

    fn add_counts(&self, to: &mut Exposition) {
        let counts = self.counts();
        for (controller, active) in &counts.active {
            to.add(&ACTIVE, &[controller], *active as f64);
        }
        for ((controller, result), count) in &counts.reconciles {
            to.add(&RECONCILES, &[controller, result], *count as f64);
        }
        for (controller, durations) in &counts.durations {
            to.add_histogram(&DURATION, &[controller], durations);
        }
        for ((verb, resource, code), count) in &counts.requests {
            to.add(
                &REQUESTS,
                &[verb, resource, &code.to_string()],
                *count as f64,
            );
        }
        for (verb, durations) in &counts.request_durations {
            to.add_histogram(&REQUEST_DURATION, &[verb], durations);
        }
        for ((webhook, outcome), count) in &counts.webhook {
            to.add(&WEBHOOK, &[webhook, outcome], *count as f64);
        }
    }

    /// Where the databases' own metrics are, as a Prometheus that asks for its targets by HTTP reads it.
    #[must_use]
    pub fn targets(&self) -> serde_json::Value {
        let caches = locked(&self.0.caches);
        let databases = caches.iter().flat_map(|caches| caches.databases.state());
        let targets = databases.flat_map(|database| targets_of(&database));
        targets.collect()
    }
}

fn targets_of(database: &Postgres) -> Vec<serde_json::Value> {
    let instances = database.status.as_ref().map(|status| &status.instances);
    let of_each = instances.into_iter().flatten().filter_map(|(name, report)| {
        let endpoint = report.metrics.as_ref()?.endpoint.as_ref()?;
        let metadata = &database.metadata;
        let labels = serde_json::json!({ "namespace": metadata.namespace, "database": metadata.name, "instance": name });
        Some(serde_json::json!({ "targets": [endpoint], "labels": labels }))
    });
    let is_monitored = database.spec.monitor.is_some();
    of_each.filter(|_| is_monitored).collect()
}

#[cfg(test)]
mod tests {
    use kube::runtime::{reflector, watcher};
    use serde_json::json;

    use super::*;

    fn attached(metrics: &Metrics, databases: &[Postgres]) {
        let (store, mut writer) = reflector::store();
        for database in databases {
            writer.apply_watcher_event(&watcher::Event::Apply(database.clone()));
        }
        metrics.attach(Caches {
            databases: store,
            snapshots: reflector::store().0,
            dormants: reflector::store().0,
            failing: Box::new(|| 2),
        });
    }

    fn database() -> Postgres {
        serde_json::from_value(json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "metadata": {"name": "pg", "namespace": "demo"},
            "spec": {"version": "15", "monitor": {"agent": "prometheus.io/builtin"}},
            "status": {"phase": "Running", "instances": {
                "pg-0": {"phase": "Running", "ready": true, "session": "s", "metrics": {"endpoint": "127.0.0.1:21001"}},
                "pg-1": {"phase": "Running", "ready": true, "session": "s", "metrics": {"reason": "taken"}}}},
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn reconciles_are_counted_by_how_they_end() {
        let metrics = Metrics::default();
        let _ = metrics
            .measure("Postgres", async { Ok::<_, ReconcileError>(()) })
            .await;
        let failed = async { Err::<(), _>(ReconcileError::Stopping) };
        assert!(metrics.measure("Postgres", failed).await.is_err());
        {
            // One that is dropped on its way is none that ended.
            let waits = metrics.measure("Snapshot", std::future::pending::<Result<(), _>>());
            assert!(
                tokio::time::timeout(Duration::from_millis(1), waits)
                    .await
                    .is_err()
            );
        }
        metrics.webhook("validate", "denied");
        let text = metrics.text();
        for wanted in [
            "kubedb_operator_reconciles_total{controller=\"Postgres\",result=\"success\"} 1",
            "kubedb_operator_reconciles_total{controller=\"Postgres\",result=\"error\"} 1",
            "kubedb_operator_reconcile_duration_seconds_count{controller=\"Postgres\"} 2",
            "kubedb_operator_reconciles_active{controller=\"Snapshot\"} 0",
            "kubedb_operator_webhook_requests_total{webhook=\"validate\",outcome=\"denied\"} 1",
            "kubedb_operator_leader 0",
        ] {
            assert!(text.lines().any(|line| line == wanted), "{wanted}\n{text}");
        }
        let memory = text
            .lines()
            .find(|line| line.starts_with("process_resident_memory_bytes "));
        let memory: f64 = memory.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
        assert!(memory > 1e6, "{memory}");
    }

    #[test]
    fn databases_are_told_of_and_everything_is_in_a_table() {
        let metrics = Metrics::default();
        metrics.leads(true);
        attached(&metrics, &[database()]);
        let exposition = metrics.exposition(Timestamp::now());
        let known = FAMILIES.iter().chain(metrics::FAMILIES);
        let known: Vec<&str> = known.map(|family| family.name).collect();
        for name in exposition.names() {
            assert!(known.contains(&name), "{name}");
        }
        let text = exposition.text();
        for wanted in [
            "kubedb_database_phase{namespace=\"demo\",database=\"pg\",phase=\"Running\"} 1",
            "kubedb_operator_objects{kind=\"Postgres\"} 1",
            "kubedb_operator_failing_objects 2",
            "kubedb_operator_leader 1",
        ] {
            assert!(text.contains(wanted), "{wanted}\n{text}");
        }
    }

    #[test]
    fn targets_are_the_instances_that_answer() {
        let metrics = Metrics::default();
        assert_eq!(metrics.targets(), json!([]));
        let mut silent = database();
        silent.metadata.name = Some("other".to_owned());
        silent.spec.monitor = None;
        attached(&metrics, &[database(), silent]);
        assert_eq!(
            metrics.targets(),
            json!([{"targets": ["127.0.0.1:21001"], "labels": {"namespace": "demo", "database": "pg", "instance": "pg-0"}}])
        );
    }
}
