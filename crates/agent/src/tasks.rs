//! Snapshots that the operator assigned to this instance.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use kube::ResourceExt as _;
use kubedb_api::{
    Postgres,
    protocol::{SnapshotTask, TaskAction, TaskPhase, TaskStatus},
};
use tokio::{
    sync::{Mutex, Notify, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{agent::Agent, report::TaskStatuses};

/// One task in work or finished, until the operator takes it away.
struct Entry {
    task: SnapshotTask,
    cancel: CancellationToken,
    handle: JoinHandle<()>,
    status: watch::Receiver<TaskStatus>,
}

/// The tasks of this instance.
pub(crate) struct Tasks {
    session: String,
    entries: BTreeMap<String, Entry>,
    /// Cancelled tasks that still clear up.
    ending: BTreeMap<String, JoinHandle<()>>,
    changed: Arc<Notify>,
    /// Whose turn it is among those that read all of a database: never two at once.
    turn: Arc<Mutex<()>>,
}

impl Tasks {
    pub(crate) fn new(session: String) -> Self {
        Self {
            session,
            entries: BTreeMap::new(),
            ending: BTreeMap::new(),
            changed: Arc::new(Notify::new()),
            turn: Arc::default(),
        }
    }

    /// Waits until a task's status changed.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Begins what was assigned, cancels what was taken away.
    pub(crate) fn follow(&mut self, agent: &Agent, database: &Postgres) {
        let is_ours = database.uid().as_deref() == Some(agent.config.database_uid.as_str());
        let empty = BTreeMap::new();
        let assigned = match &database.status {
            Some(status) if is_ours => &status.tasks,
            _ => &empty,
        };
        let (stay, go): (BTreeMap<_, _>, _) = std::mem::take(&mut self.entries)
            .into_iter()
            .partition(|(name, entry)| {
                assigned
                    .get(name)
                    .is_some_and(|task| is_same(task, &entry.task))
            });
        self.entries = stay;
        self.ending.retain(|_, handle| !handle.is_finished());
        for (name, entry) in go {
            entry.cancel.cancel();
            self.ending.insert(name, entry.handle);
        }
        for (name, task) in assigned {
            let is_mine = task.instance == agent.config.instance;
            if is_mine && !self.entries.contains_key(name) {
                let earlier = database
                    .status
                    .as_ref()
                    .and_then(|status| status.instances.get(&agent.config.instance))
                    .and_then(|instance| instance.tasks.get(name));
                let entry = self.begin(agent, name, task, earlier);
                self.entries.insert(name.clone(), entry);
            }
        }
    }

    fn begin(
        &mut self,
        agent: &Agent,
        name: &str,
        task: &SnapshotTask,
        earlier: Option<&TaskStatus>,
    ) -> Entry {
        let mut status = TaskStatus {
            snapshot_uid: task.snapshot_uid.clone(),
            attempt: task.attempt,
            session: self.session.clone(),
            phase: TaskPhase::Running,
            heartbeat_time: Timestamp::now(),
            progress: None,
            result: None,
            verification: None,
            reason: None,
            retryable: None,
        };
        let cancel = CancellationToken::new();
        let earlier = earlier.filter(|earlier| {
            earlier.attempt == task.attempt && earlier.snapshot_uid == task.snapshot_uid
        });
        let work = match earlier {
            // An outcome stands, whoever reached it; an attempt that its session did not end is over.
            Some(earlier) if earlier.phase != TaskPhase::Running => {
                status = earlier.clone();
                None
            }
            Some(_) => {
                status.phase = TaskPhase::Failed;
                status.reason = Some("the agent was restarted in the middle of it".to_owned());
                status.retryable = Some(true);
                None
            }
            None => Some(()),
        };
        let (sender, receiver) = watch::channel(status);
        let handle = match work {
            None => tokio::spawn(async {}),
            Some(()) => {
                let job = crate::backup::Job::new(agent, name, task, cancel.clone());
                let changed = Arc::clone(&self.changed);
                let former = self.ending.remove(name);
                let turn = Arc::clone(&self.turn);
                let is_light = task.action == TaskAction::Delete;
                tokio::spawn(async move {
                    // What a cancelled attempt takes away, it takes away before the next one, or a deletion, begins.
                    if let Some(former) = former {
                        let _ = former.await;
                    }
                    // One that was cancelled leaves when it has cleared up.
                    let _turn = if is_light {
                        None
                    } else {
                        Some(turn.lock_owned().await)
                    };
                    job.run(sender, &changed).await;
                })
            }
        };
        Entry {
            task: task.clone(),
            cancel,
            handle,
            status: receiver,
        }
    }

    /// Whether a Snapshot is being taken.
    pub(crate) fn backs_up(&self) -> bool {
        self.entries
            .values()
            .any(|entry| entry.task.action == TaskAction::Backup && !entry.handle.is_finished())
    }

    pub(crate) fn statuses(&self) -> TaskStatuses {
        self.entries
            .iter()
            .map(|(name, entry)| {
                let mut status = entry.status.borrow().clone();
                if status.phase == TaskPhase::Running {
                    status.heartbeat_time = Timestamp::now();
                }
                (name.clone(), status)
            })
            .collect()
    }

    /// Cancels all and waits until they cleaned up.
    pub(crate) async fn cancel(&mut self) {
        for entry in self.entries.values() {
            entry.cancel.cancel();
        }
        for (_, entry) in std::mem::take(&mut self.entries) {
            // A job that hangs in its clean-up must not keep PostgreSQL from being stopped.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(10), entry.handle).await;
        }
    }
}

fn is_same(one: &SnapshotTask, other: &SnapshotTask) -> bool {
    (&one.snapshot_uid, one.attempt, &one.instance, one.action)
        == (
            &other.snapshot_uid,
            other.attempt,
            &other.instance,
            other.action,
        )
}
