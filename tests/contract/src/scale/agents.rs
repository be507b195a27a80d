//! What agents write, and what Kubernetes does between a StatefulSet and a pod that runs.
//!
//! Each agent takes its Lease and renews it, tells that it is the primary and where it stands, as often as a real one does, and ends every task after a second.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use k8s_openapi::{
    api::{apps::v1::StatefulSet, coordination::v1::Lease, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt as _, watcher},
};
use kubedb_api::{Postgres, postgres::PostgresPhase, protocol::SnapshotTask};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use super::{
    Failure,
    past::{LINEAGE, result_of},
    world::{NODE, parsed, patch_status},
};

/// How often a real agent renews its Lease.
const RENEWAL: Duration = Duration::from_secs(10);
/// How often one that does tells where it stands.
const POSITION: Duration = Duration::from_secs(30);
/// How often one tells while something runs.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// What a Snapshot of little data takes.
const TASK: Duration = Duration::from_secs(1);
/// Between two tries of what the API refused.
const AGAIN: Duration = Duration::from_millis(500);

type Begun = Arc<Mutex<HashMap<String, Timestamp>>>;
type Databases = Arc<Mutex<HashMap<String, watch::Sender<Option<Arc<Postgres>>>>>>;

/// All agents.
pub(super) struct Agents {
    databases: Databases,
    begun: Begun,
    watching: Vec<JoinHandle<()>>,
    living: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Drop for Agents {
    fn drop(&mut self) {
        let living = self.living.lock().unwrap_or_else(PoisonError::into_inner);
        for task in self.watching.iter().chain(living.iter()) {
            task.abort();
        }
    }
}

impl Agents {
    pub(super) fn start(client: &Client) -> Self {
        let databases = Databases::default();
        let (begun, living) = (Begun::default(), Arc::<Mutex<Vec<_>>>::default());
        let told = watch_databases(client.clone(), Arc::clone(&databases));
        let made = watch_workloads(
            client.clone(),
            Arc::clone(&databases),
            Arc::clone(&begun),
            Arc::clone(&living),
        );
        Self {
            databases,
            begun,
            watching: vec![tokio::spawn(told), tokio::spawn(made)],
            living,
        }
    }

    /// Databases that are Running.
    pub(super) fn running(&self) -> usize {
        let databases = self.databases.lock();
        let databases = databases.unwrap_or_else(PoisonError::into_inner);
        let is_running = |known: &watch::Sender<Option<Arc<Postgres>>>| {
            let known = known.borrow();
            let status = known.as_ref().and_then(|known| known.status.as_ref());
            status.and_then(|status| status.phase) == Some(PostgresPhase::Running)
        };
        databases.values().filter(|known| is_running(known)).count()
    }

    /// When agents first saw the task of each Snapshot.
    pub(super) fn begun(&self) -> HashMap<String, Timestamp> {
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.clone()
    }
}

fn told(databases: &Databases, key: &str, database: Option<Arc<Postgres>>) {
    let mut databases = databases.lock().unwrap_or_else(PoisonError::into_inner);
    let sender = databases
        .entry(key.to_owned())
        .or_insert_with(|| watch::channel(None).0);
    if database.is_some() {
        sender.send_replace(database);
    }
}

async fn watch_databases(client: Client, databases: Databases) {
    let events = watcher(Api::<Postgres>::all(client), watcher::Config::default());
    let events = events.default_backoff().applied_objects();
    let hear = events.try_for_each(|database| {
        let key = key_of(&database);
        told(&databases, &key, Some(Arc::new(database)));
        std::future::ready(Ok(()))
    });
    drop(hear.await);
}

fn key_of<K: kube::Resource>(object: &K) -> String {
    let namespace = object.namespace().unwrap_or_default();
    format!("{namespace}/{}", object.name_any())
}

/// Each StatefulSet gets its pod, and the pod its agent.
async fn watch_workloads(
    client: Client,
    databases: Databases,
    begun: Begun,
    living: Arc<Mutex<Vec<JoinHandle<()>>>>,
) {
    let events = watcher(
        Api::<StatefulSet>::all(client.clone()),
        watcher::Config::default(),
    );
    let mut events = events.default_backoff().applied_objects().boxed();
    let mut known = std::collections::HashSet::new();
    while let Some(event) = events.next().await {
        let Ok(workload) = event else { continue };
        if !known.insert(key_of(&workload)) {
            continue;
        }
        let agent = Agent {
            key: key_of(&workload),
            workload,
            client: client.clone(),
            databases: Arc::clone(&databases),
            begun: Arc::clone(&begun),
        };
        let mut living = living.lock().unwrap_or_else(PoisonError::into_inner);
        living.push(tokio::spawn(agent.live()));
    }
}

struct Agent {
    key: String,
    workload: StatefulSet,
    client: Client,
    databases: Databases,
    begun: Begun,
}

/// A task in work.
struct Work {
    task: SnapshotTask,
    ends: Instant,
}

impl Agent {
    async fn live(self) {
        while self.make_pod().await.is_err() {
            sleep(AGAIN).await;
        }
        let mut lease = loop {
            match self.take_lease().await {
                Ok(lease) => break lease,
                Err(_) => sleep(AGAIN).await,
            }
        };
        told(&self.databases, &self.key, None);
        let mut changes = {
            let databases = self.databases.lock();
            let databases = databases.unwrap_or_else(PoisonError::into_inner);
            let Some(sender) = databases.get(&self.key) else {
                return;
            };
            sender.subscribe()
        };
        let mut works: BTreeMap<String, Work> = BTreeMap::new();
        let mut sent = Value::Null;
        let (mut beat, mut renewal) = (Instant::now(), Instant::now() + RENEWAL);
        loop {
            if Instant::now() >= renewal {
                self.renew(&mut lease).await;
                renewal = Instant::now() + RENEWAL;
            }
            let known = changes.borrow_and_update().clone();
            self.take_up(known.as_deref(), &mut works);
            let now = Instant::now();
            let tasks = reports(&works, &sent, now);
            if tasks != sent || now >= beat {
                if self.tell(&tasks).await.is_err() {
                    sleep(AGAIN).await;
                    continue;
                }
                // What was taken away is not there any more.
                sent = reports(&works, &Value::Null, now);
                let runs = works.values().any(|work| work.ends > now);
                beat = now + if runs { HEARTBEAT } else { POSITION };
            }
            let ends = works.values().map(|work| work.ends);
            let next = ends.filter(|ends| *ends > now).min().unwrap_or(beat);
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = sleep_until(next.min(beat).min(renewal)) => {}
            }
        }
    }

    /// Begins what is new, and forgets what was taken away.
    fn take_up(&self, known: Option<&Postgres>, works: &mut BTreeMap<String, Work>) {
        let status = known.and_then(|known| known.status.as_ref());
        let Some(status) = status else { return };
        works.retain(|name, _| status.tasks.contains_key(name));
        for (name, task) in &status.tasks {
            if works.get(name).is_some_and(|work| work.task == *task) {
                continue;
            }
            let (task, ends) = (task.clone(), Instant::now() + TASK);
            works.insert(name.clone(), Work { task, ends });
            let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
            begun.entry(name.clone()).or_insert_with(Timestamp::now);
        }
    }

    fn namespace(&self) -> String {
        self.workload.namespace().unwrap_or_default()
    }

    async fn tell(&self, tasks: &Value) -> Result<(), Failure> {
        let name = self.workload.name_any();
        let report = json!({
            "role": "primary", "phase": "Running", "ready": true, "session": "agent-of-the-bench",
            "heartbeatTime": Timestamp::now(), "lsn": lsn(), "lineage": LINEAGE, "timeline": 1,
            "endpoint": format!("{name}-0.{name}-pods:5432"), "postgresVersion": "15.13",
            "systemIdentifier": "7412345678901234567", "tasks": tasks,
        });
        let api: Api<Postgres> = Api::namespaced(self.client.clone(), &self.namespace());
        let instance = format!("{name}-0");
        patch_status(&api, &name, json!({ "instances": { instance: report } })).await?;
        Ok(())
    }

    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace())
    }

    async fn take_lease(&self) -> Result<Lease, Failure> {
        let name = self.workload.name_any();
        let held = json!({ "holderIdentity": format!("{name}-0"), "leaseDurationSeconds": 30, "renewTime": now() });
        let patch = Patch::Merge(json!({ "spec": held }));
        let api = self.leases();
        Ok(api.patch(&name, &PatchParams::default(), &patch).await?)
    }

    /// By what is known of it, and only if somebody changed it by what there is.
    async fn renew(&self, lease: &mut Lease) {
        let name = self.workload.name_any();
        lease.spec.get_or_insert_default().renew_time = Some(now());
        let api = self.leases();
        let renewed = api.replace(&name, &PostParams::default(), lease).await;
        let known = match renewed {
            Ok(renewed) => Ok(renewed),
            Err(_) => api.get(&name).await,
        };
        if let Ok(known) = known {
            *lease = known;
        }
    }

    /// As the controller of StatefulSets and the scheduler would.
    async fn make_pod(&self) -> Result<(), Failure> {
        let name = self.workload.name_any();
        let template = self.workload.spec.as_ref().map(|spec| json!(spec));
        let template = template.ok_or("a StatefulSet without a spec")?;
        let mut spec = template["template"]["spec"].clone();
        spec["nodeName"] = json!(NODE);
        let claims = template["volumeClaimTemplates"].as_array();
        let mut volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
        for claim in claims.into_iter().flatten() {
            let of = &claim["metadata"]["name"];
            let claimed = format!("{}-{name}-0", of.as_str().unwrap_or_default());
            volumes.push(json!({ "name": of, "persistentVolumeClaim": { "claimName": claimed } }));
        }
        spec["volumes"] = json!(volumes);
        let pod: Pod = parsed(json!({
            "metadata": {
                "name": format!("{name}-0"),
                "labels": template["template"]["metadata"]["labels"],
                "annotations": template["template"]["metadata"]["annotations"],
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "StatefulSet", "name": name, "uid": self.workload.uid(),
                    "controller": true,
                }],
            },
            "spec": spec,
        }))?;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace());
        match api.create(&PostParams::default(), &pod).await {
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
            other => other.map(drop).map_err(Failure::from),
        }
    }
}

fn now() -> MicroTime {
    MicroTime(Timestamp::now())
}

/// Something is written all the time.
fn lsn() -> String {
    let milliseconds = Timestamp::now().as_millisecond();
    format!("1/{:X}", milliseconds & 0xFFFF_FFFF)
}

/// What is told of tasks. One that was told of and is gone is taken away.
fn reports(works: &BTreeMap<String, Work>, sent: &Value, now: Instant) -> Value {
    let mut reports = json!({});
    for name in sent.as_object().into_iter().flatten().map(|(name, _)| name) {
        reports[name] = Value::Null;
    }
    for (name, work) in works {
        let is_over = now >= work.ends;
        reports[name] = json!({
            "snapshotUid": work.task.snapshot_uid, "attempt": work.task.attempt, "session": "agent-of-the-bench",
            "phase": if is_over { "Succeeded" } else { "Running" }, "heartbeatTime": Timestamp::UNIX_EPOCH,
            "result": is_over.then(|| result_of(name)),
        });
    }
    reports
}
