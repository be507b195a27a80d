//! An API server in memory, a platform that does nothing, an agent that follows a script, and an operator that can be killed
//! at any write.

// Each test program uses a part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

mod api;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Event, Namespace},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use kubedb_api::{DormantDatabase, Postgres, Snapshot, agent_config::DataTask};
use kubedb_core::turns::{LIMITS, Limits};
use kubedb_operator::{
    Context,
    metrics::Metrics,
    platform::{
        DatabaseKey, DesiredDatabase, ObservedDatabase, ObservedInstance, Platform, PlatformError,
        TaskState,
    },
    run_with,
};
use kubedb_server::ApiServer;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::api::through;
pub use self::api::{Cut, Slow, Traffic};

/// Runs whatever it is asked to run.
struct Obedient {
    desired: Mutex<BTreeMap<DatabaseKey, DesiredDatabase>>,
    script: Arc<Mutex<Script>>,
    begun: Arc<Mutex<Vec<String>>>,
    /// Tasks by the UID of their Snapshot: how often each was looked at.
    tasks: Mutex<BTreeMap<String, u32>>,
}

impl Obedient {
    fn whole(&self) -> Result<(), PlatformError> {
        match self.script.lock().unwrap().breakage.clone() {
            Some(cause) => Err(PlatformError::Act {
                action: "act on instance demo/pg-0".to_owned(),
                source: cause.into(),
            }),
            None => Ok(()),
        }
    }
}

#[async_trait::async_trait]
impl Platform for Obedient {
    async fn apply(&self, desired: &DesiredDatabase) -> Result<(), PlatformError> {
        if let Some(reason) = &self.script.lock().unwrap().quota {
            return Err(PlatformError::Refuse {
                action: "apply StatefulSet demo/pg".to_owned(),
                reason: reason.clone(),
            });
        }
        self.whole()?;
        let mut all = self.desired.lock().unwrap();
        all.insert(desired.key.clone(), desired.clone());
        Ok(())
    }

    async fn observe(&self, key: &DatabaseKey) -> Result<Option<ObservedDatabase>, PlatformError> {
        let all = self.desired.lock().unwrap();
        Ok(all.get(key).map(|desired| ObservedDatabase {
            primary_endpoint: Some("127.0.0.1:5432".to_owned()),
            instances: (0..desired.replicas)
                .map(|ordinal| {
                    let instance = ObservedInstance {
                        running: true,
                        ..ObservedInstance::default()
                    };
                    (format!("{}-{ordinal}", key.name), instance)
                })
                .collect(),
            ..ObservedDatabase::default()
        }))
    }

    async fn remove(&self, key: &DatabaseKey) -> Result<bool, PlatformError> {
        self.whole()?;
        self.desired.lock().unwrap().remove(key);
        Ok(true)
    }

    async fn wipe(&self, key: &DatabaseKey, data_uid: &str) -> Result<bool, PlatformError> {
        let line = format!("Platform wipes {} {data_uid}", key.name);
        let mut begun = self.begun.lock().unwrap();
        // The first call begins it, the second finds it done.
        let is_done = begun.contains(&line);
        if !is_done {
            begun.push(line);
        }
        Ok(is_done)
    }

    async fn delete_data(
        &self,
        task: &DataTask,
        _image_pull_secrets: &[String],
    ) -> Result<TaskState, PlatformError> {
        let mut tasks = self.tasks.lock().unwrap();
        let looks = tasks.entry(task.snapshot_uid.clone()).or_insert_with(|| {
            let line = format!("Platform deletes {}", task.snapshot);
            self.begun.lock().unwrap().push(line);
            0
        });
        *looks += 1;
        let script = self.script.lock().unwrap();
        Ok(match &script.refusal {
            _ if *looks <= script.rounds => TaskState::Running { obstacle: None },
            Some(reason) => TaskState::Failed {
                reason: reason.clone(),
            },
            None => TaskState::Succeeded,
        })
    }

    async fn forget_data(&self, task: &DataTask) -> Result<(), PlatformError> {
        self.tasks.lock().unwrap().remove(&task.snapshot_uid);
        Ok(())
    }
}

/// How an agent behaves.
#[derive(Clone, Debug)]
pub struct Script {
    /// How far its clock is off.
    pub skew: SignedDuration,
    /// Whether it reports in which nothing is new.
    pub beats: bool,
    /// Whether it takes its Lease if nobody has it.
    pub holds: bool,
    /// Whether it renews it.
    pub renews: bool,
    /// Rounds that a task takes.
    pub rounds: u32,
    /// Whether tasks end.
    pub ends: bool,
    /// Why a deletion fails, while it does.
    pub refusal: Option<String>,
    /// Why the workload is refused, while it is.
    pub quota: Option<String>,
    /// Why nothing can be started or stopped, while it cannot.
    pub breakage: Option<String>,
    /// Why a backup fails for good, while it does.
    pub failure: Option<String>,
    /// What a primary reports of its archive.
    pub archive: Option<Value>,
    /// Whether verifications end.
    pub verifies: bool,
    /// What a verification finds wrong.
    pub damage: Option<String>,
    /// Why one cannot be carried out.
    pub obstacle: Option<String>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            skew: SignedDuration::ZERO,
            beats: true,
            holds: true,
            renews: false,
            rounds: 1,
            ends: true,
            refusal: None,
            quota: None,
            breakage: None,
            failure: None,
            archive: None,
            verifies: true,
            damage: None,
            obstacle: None,
        }
    }
}

/// A world of its own for a test.
pub struct World {
    pub server: ApiServer,
    pub client: Client,
    pub script: Arc<Mutex<Script>>,
    pub slow: Arc<Mutex<Slow>>,
    /// Tasks begun, as `action snapshot attempt`.
    pub begun: Arc<Mutex<Vec<String>>>,
    /// Of all operators.
    pub metrics: Metrics,
    platform: Arc<Obedient>,
    stop: CancellationToken,
    agents: Vec<JoinHandle<()>>,
    operator: Option<(JoinHandle<()>, Arc<Mutex<Traffic>>)>,
    _folder: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some((operator, _)) = &self.operator {
            operator.abort();
        }
        for agent in &self.agents {
            agent.abort();
        }
    }
}

impl World {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = ApiServer::open(&folder.path().join("kubedb.sqlite")).unwrap();
        let client = server.client();
        let (script, begun) = (Arc::default(), Arc::default());
        let world = Self {
            client,
            platform: Arc::new(Obedient {
                desired: Mutex::default(),
                script: Arc::clone(&script),
                begun: Arc::clone(&begun),
                tasks: Mutex::default(),
            }),
            script,
            slow: Arc::default(),
            begun,
            metrics: Metrics::default(),
            stop: CancellationToken::new(),
            agents: Vec::new(),
            operator: None,
            server,
            _folder: folder,
        };
        world.namespace("demo").await;
        world
    }

    pub async fn namespace(&self, name: &str) {
        let namespace: Namespace =
            serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        let api: Api<Namespace> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &namespace)
            .await
            .unwrap();
    }

    /// Deletes namespace `demo`, and waits until it is gone with all that is in it.
    pub async fn end_namespace(&self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces
            .delete("demo", &DeleteParams::default())
            .await
            .unwrap();
        eventually("namespace gone", async || {
            let known = namespaces.get_opt("demo").await.unwrap();
            known.map_or(Ok(()), |known| Err(known.status))
        })
        .await;
    }

    pub fn postgreses(&self) -> Api<Postgres> {
        Api::namespaced(self.client.clone(), "demo")
    }

    pub fn dormants(&self) -> Api<DormantDatabase> {
        Api::namespaced(self.client.clone(), "demo")
    }

    pub fn snapshots(&self) -> Api<Snapshot> {
        Api::namespaced(self.client.clone(), "demo")
    }

    /// Starts an operator in place of the present one, which is killed.
    pub async fn operate(&mut self, cut: Option<Cut>) {
        self.operate_with(cut, LIMITS).await;
    }

    pub async fn operate_with(&mut self, cut: Option<Cut>, limits: Limits) {
        if let Some((operator, _)) = self.operator.take() {
            operator.abort();
            let _ = operator.await;
        }
        let traffic = Arc::default();
        let client = through(
            self.client.clone(),
            cut,
            Arc::clone(&self.slow),
            Arc::clone(&traffic),
        );
        let platform: Arc<dyn Platform> = Arc::clone(&self.platform) as _;
        let context = Context {
            client,
            platform,
            namespaces: kubedb_operator::Namespaces::default(),
            metrics: self.metrics.clone(),
        };
        let operator = tokio::spawn(run_with(context, limits, self.stop.clone()));
        self.operator = Some((operator, traffic));
    }

    /// Ends the present operator, as a kill does.
    pub async fn stop_operator(&mut self) {
        if let Some((operator, _)) = self.operator.take() {
            operator.abort();
            let _ = operator.await;
        }
    }

    pub fn traffic(&self) -> Traffic {
        let (_, traffic) = self.operator.as_ref().unwrap();
        traffic.lock().unwrap().clone()
    }

    /// Starts the agent of the first instance of a database.
    pub fn agent(&mut self, database: &str) {
        let agent = Agent {
            database: database.to_owned(),
            instance: format!("{database}-0"),
            postgreses: self.postgreses(),
            leases: Api::namespaced(self.client.clone(), "demo"),
            script: Arc::clone(&self.script),
            begun: Arc::clone(&self.begun),
        };
        self.agents.push(tokio::spawn(agent.run()));
    }

    pub async fn database(&mut self, name: &str, schedule: Value) {
        let postgres = postgres(name, schedule);
        let api = self.postgreses();
        api.create(&PostParams::default(), &postgres).await.unwrap();
        self.agent(name);
    }

    /// The same with an archiver.
    pub async fn archived(&mut self, name: &str, schedule: Value) {
        let api = self.postgreses();
        let database = archived(name, schedule);
        api.create(&PostParams::default(), &database).await.unwrap();
        self.agent(name);
    }

    pub async fn snapshot(&self, name: &str, database: &str) {
        let snapshot: Snapshot = serde_json::from_value(json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot",
            "metadata": {"name": name, "namespace": "demo"},
            "spec": {"databaseName": database, "local": store()},
        }))
        .unwrap();
        let api = self.snapshots();
        api.create(&PostParams::default(), &snapshot).await.unwrap();
    }

    pub async fn status(&self, database: &str, status: Value) {
        let patch = Patch::Merge(json!({ "status": status }));
        let api = self.postgreses();
        api.patch_status(database, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    pub async fn all_snapshots(&self) -> Vec<Snapshot> {
        let all = self.snapshots().list(&ListParams::default()).await.unwrap();
        all.items
    }

    /// Phases by name.
    pub async fn phases(&self) -> BTreeMap<String, String> {
        let all = self.all_snapshots().await;
        let phase = |snapshot: &Snapshot| snapshot.status.as_ref().and_then(|status| status.phase);
        all.iter()
            .map(|snapshot| (snapshot.name_any(), format!("{:?}", phase(snapshot))))
            .collect()
    }

    /// Waits until there are so many Snapshots, all of them in a phase. Gives their names.
    pub async fn all_are(&self, phase: &str, count: usize) -> BTreeSet<String> {
        eventually(&format!("{count} {phase}"), async || {
            let phases = self.phases().await;
            let all = phases.values().all(|its| its.contains(phase));
            if all && phases.len() == count {
                Ok(phases.into_keys().collect())
            } else {
                Err(phases)
            }
        })
        .await
    }

    /// Waits until the operator has written nothing for a second. Gives what it did until then.
    pub async fn rest(&self) -> Traffic {
        let mut before = self.traffic();
        eventually("rest", async || {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = self.traffic();
            let is_quiet = now.writes.len() == before.writes.len();
            before = now;
            if is_quiet {
                Ok(())
            } else {
                Err(before.writes.clone())
            }
        })
        .await;
        before
    }

    /// Events as `object reason: message`, with their counts.
    pub async fn events(&self) -> BTreeMap<String, i32> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), "demo");
        let all = api.list(&ListParams::default()).await.unwrap();
        all.items
            .into_iter()
            .map(|event| {
                let about = event.involved_object.name.unwrap_or_default();
                let (reason, message) = (event.reason.unwrap(), event.message.unwrap());
                let line = format!("{about} {reason}: {message}");
                (line, event.count.unwrap_or(0))
            })
            .collect()
    }
}

fn store() -> Value {
    json!({"mountPath": "/nowhere", "hostPath": {"path": "/nowhere"}})
}

pub fn postgres(name: &str, mut schedule: Value) -> Postgres {
    if schedule.is_object() {
        schedule["local"] = store();
    }
    serde_json::from_value(json!({
        "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres",
        "metadata": {"name": name, "namespace": "demo"},
        "spec": {"version": "15", "backupSchedule": schedule,
            "storage": {"resources": {"requests": {"storage": "50Mi"}}}},
    }))
    .unwrap()
}

/// One whose WAL is archived.
pub fn archived(name: &str, schedule: Value) -> Postgres {
    let mut database = json!(postgres(name, schedule));
    database["spec"]["archiver"] = json!({ "storage": { "local": store() } });
    serde_json::from_value(database).unwrap()
}

struct Agent {
    database: String,
    instance: String,
    postgreses: Api<Postgres>,
    leases: Api<k8s_openapi::api::coordination::v1::Lease>,
    script: Arc<Mutex<Script>>,
    begun: Arc<Mutex<Vec<String>>>,
}

/// A round of an agent.
const ROUND: Duration = Duration::from_millis(40);
/// Rounds between heartbeats.
const HEARTBEAT: u32 = 10;

impl Agent {
    async fn run(self) {
        let mut entries: BTreeMap<String, (Value, u32)> = BTreeMap::new();
        let mut sent = (Value::Null, None);
        let mut silent = 0;
        loop {
            tokio::time::sleep(ROUND).await;
            let Ok(Some(database)) = self.postgreses.get_opt(&self.database).await else {
                continue;
            };
            let Some(status) = database.status else {
                continue;
            };
            let script = self.script.lock().unwrap().clone();
            let now = Timestamp::now() + script.skew;
            if script.holds {
                self.hold_lease(&database.metadata).await;
            }
            if script.renews {
                self.renew_lease(now).await;
            }
            let mut reports = json!({});
            let mut known = std::mem::take(&mut entries);
            for (name, task) in &status.tasks {
                if task.instance != self.instance {
                    continue;
                }
                let task = json!(task);
                let rounds = match known.remove(name) {
                    Some((before, rounds)) if before == task => rounds + 1,
                    _ => {
                        let line = format!("{} {name} {}", task["action"], task["attempt"]);
                        self.begun.lock().unwrap().push(line.replace('"', ""));
                        0
                    }
                };
                reports[name] = report(&script, &task, rounds, now);
                entries.insert(name.clone(), (task, rounds));
            }
            for name in known.keys().filter(|name| !entries.contains_key(*name)) {
                reports[name] = Value::Null;
            }
            silent += 1;
            let news = (without_pulse(&reports), script.archive.clone());
            if news != sent || script.beats && silent >= HEARTBEAT {
                silent = 0;
                sent = news;
                self.tell(now, reports, script.archive).await;
            }
        }
    }

    async fn hold_lease(&self, database: &ObjectMeta) {
        let lease = serde_json::from_value(json!({
            "metadata": {"name": self.database, "labels": {"kubedb.com/kind": "Postgres"}, "ownerReferences": [{
                "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "name": self.database, "uid": database.uid}]},
            "spec": {"holderIdentity": self.instance},
        }));
        // It exists from the second round on.
        let _ = self
            .leases
            .create(&PostParams::default(), &lease.unwrap())
            .await;
    }

    async fn renew_lease(&self, now: Timestamp) {
        let patch = Patch::Merge(json!({"spec": {"renewTime": MicroTime(now)}}));
        let parameters = PatchParams::default();
        let _ = self.leases.patch(&self.database, &parameters, &patch).await;
    }

    async fn tell(&self, now: Timestamp, tasks: Value, archive: Option<Value>) {
        let report = json!({
            "role": "primary", "phase": "Running", "ready": true, "session": "s", "heartbeatTime": now,
            "lsn": "0/3000060", "lineage": "l", "tasks": tasks, "archive": archive,
        });
        let patch = json!({"status": {"instances": {&self.instance: report}}});
        let patch = Patch::Merge(patch);
        let _ = self
            .postgreses
            .patch_status(&self.database, &PatchParams::default(), &patch)
            .await;
    }
}

fn report(script: &Script, task: &Value, rounds: u32, now: Timestamp) -> Value {
    let is_verification = task["action"] == "Verify";
    let ends = if is_verification {
        script.verifies
    } else {
        script.ends
    };
    let is_over = ends && rounds >= script.rounds;
    let refusal = match task["action"].as_str() {
        Some("Verify") => script.obstacle.as_ref(),
        Some("Delete") => script.refusal.as_ref(),
        _ => script.failure.as_ref(),
    };
    let phase = match (is_over, refusal) {
        (false, _) => "Running",
        (true, None) => "Succeeded",
        (true, Some(_)) => "Failed",
    };
    let result = (phase == "Succeeded" && task["action"] == "Backup").then(|| {
        json!({"manifest": "m", "lineage": "l", "systemIdentifier": "1", "postgresVersion": "15.1", "timeline": 1,
            "startLsn": "0/1", "stopLsn": "0/2", "databaseBytes": 1, "readBytes": 1, "uploadedBytes": 1, "storedBytes": 1})
    });
    let found = script.damage.as_deref().unwrap_or("all of it");
    let verification = (phase == "Succeeded" && is_verification).then(|| {
        json!({"sound": script.damage.is_none(), "damaged": script.damage.is_some(), "found": found, "bytes": 7})
    });
    // A finished task says the same for ever.
    let now = if is_over {
        Timestamp::UNIX_EPOCH + script.skew
    } else {
        now
    };
    json!({"snapshotUid": task["snapshotUid"], "attempt": task["attempt"], "session": "s", "phase": phase,
        "heartbeatTime": now, "reason": refusal, "result": result, "verification": verification,
        "retryable": script.failure.as_ref().filter(|_| phase == "Failed").map(|_| false)})
}

fn without_pulse(reports: &Value) -> Value {
    let mut reports = reports.clone();
    for report in reports.as_object_mut().into_iter().flatten() {
        if report.1.is_object() {
            report.1["heartbeatTime"] = Value::Null;
        }
    }
    reports
}

/// Waits until `condition` holds.
pub async fn eventually<T, E: Debug>(
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(reason) => assert!(Instant::now() < end, "no {what}: {reason:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Lives in parallel: most of each is waiting.
const LIVES: usize = 12;

/// Lives a life once to count its writes, of which there are more than `least`, and then once for each of them and each way to be killed there.
pub async fn killed_at_every_write<F>(least: usize, live: impl Fn(Option<Cut>) -> F)
where
    F: Future<Output = usize> + Send + 'static,
{
    let writes = live(None).await;
    assert!(
        writes > least,
        "{writes} writes are too few to be all of them"
    );
    let cuts = (1..=writes).flat_map(|number| [Cut::Before(number), Cut::After(number)]);
    let cuts: Vec<Cut> = cuts.collect();
    for some in cuts.chunks(LIVES) {
        let lives: Vec<_> = some
            .iter()
            .map(|cut| (*cut, tokio::spawn(live(Some(*cut)))))
            .collect();
        for (cut, life) in lives {
            life.await
                .unwrap_or_else(|error| panic!("killed {cut:?} of {writes}: {error}"));
        }
    }
}
