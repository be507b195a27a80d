//! Deleting a Snapshot: what core decides on, and how it is done.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{
    ResourceExt as _,
    runtime::{controller::Action, reflector::ObjectRef},
};
use kubedb_api::{
    DormantDatabase, Postgres, Snapshot,
    agent_config::DataTask,
    protocol::{SnapshotTask, TaskAction, TaskPhase},
    reasons::{DATA_DELETED, component, event},
    snapshot::DeletionPolicy,
};
use kubedb_core::{
    deletion::{DeletionAction, DeletionView, Running, Work, after, decide},
    snapshot::Report,
};
use serde_json::{Value, json};

use super::{
    attempts, database_anew, database_of, patch_status, patch_task, publish_on_both, runs,
    view::report_of,
};
use crate::{
    context::ReconcileError,
    events::{Note, publish},
    guarded::{has_finalizer, set_finalizer},
    operator::Operator,
    postgres::is_restoring,
    tasks::{carry_out, missing_secret},
};

/// Look again this soon after a step.
const SOON: Duration = Duration::from_secs(1);

pub(super) async fn delete(
    snapshot: &Snapshot,
    operator: &Operator,
    now: Timestamp,
) -> Result<Action, ReconcileError> {
    if !has_finalizer(snapshot) {
        operator.seats.leave(&snapshot.uid().unwrap_or_default());
        operator.tasks.leave(&snapshot.uid().unwrap_or_default());
        return Ok(Action::await_change());
    }
    let mut database = database_of(operator, snapshot).await?;
    let mut view = view(operator, snapshot, database.as_ref(), now).await?;
    if view.work.is_silent() {
        database = database_anew(operator, snapshot).await?;
        view.work = work(operator, snapshot, database.as_ref());
    }
    let database = database.as_ref();
    let action = match decide(&view) {
        DeletionAction::Run => after(&on_platform(operator, snapshot, database, now).await?),
        other => other,
    };
    match action {
        // What failed before is tried again at the next look.
        DeletionAction::Run => {
            enter(operator, &snapshot.uid().unwrap_or_default());
            Ok(Action::requeue(SOON))
        }
        DeletionAction::Cancel => {
            patch_task(operator, snapshot, database, &Value::Null).await?;
            Ok(Action::requeue(SOON))
        }
        DeletionAction::Wait { pause, obstacle } => {
            if let Some(why) = obstacle {
                tell(snapshot, operator, &why, now).await?;
            }
            Ok(Action::requeue(Duration::try_from(pause).unwrap_or(SOON)))
        }
        DeletionAction::Begin { instance, attempt } => {
            begin(snapshot, operator, database, instance, attempt, now).await?;
            Ok(Action::requeue(SOON))
        }
        DeletionAction::Release {
            data_stays,
            data_deleted,
        } => {
            let name = snapshot.name_any();
            if data_deleted {
                let message = format!("Successfully wiped out Snapshot: {name}");
                let note = wipe_out_note(snapshot, event::SUCCESSFUL_WIPE_OUT, message);
                publish_on_both(operator, snapshot, database, &note, now).await;
            } else if data_stays && view.namespace_goes {
                let message = "The namespace is going away; the Snapshot's data stays in its store";
                let note = wipe_out_note(snapshot, event::DATA_RETAINED, message.to_owned());
                // A Kubernetes in which the namespace is half gone takes no Events there; the log has it.
                tracing::info!(snapshot = name, namespace = ?snapshot.namespace(), "{message}");
                publish(&operator.client, snapshot, &note, now).await;
            }
            release(snapshot, operator, database).await
        }
    }
}

async fn view(
    operator: &Operator,
    snapshot: &Snapshot,
    database: Option<&Postgres>,
    now: Timestamp,
) -> Result<DeletionView, ReconcileError> {
    let databases = operator.databases.state();
    let restoring = databases.iter().find(|other| is_restoring(other, snapshot));
    let restoring = restoring.map(|other| {
        let namespace = other.namespace().unwrap_or_default();
        format!("{namespace}/{}", other.name_any())
    });
    let status = database.and_then(|database| database.status.as_ref());
    // One that is on its way out stops its instances.
    let stays = database.filter(|database| database.metadata.deletion_timestamp.is_none());
    let alive = stays.map(|database| operator.alive(database, now));
    let alive = alive.unwrap_or_default();
    let primary = status.and_then(|status| status.primary.clone());
    Ok(DeletionView {
        is_kept: snapshot.spec.deletion_policy == Some(DeletionPolicy::Retain),
        namespace_goes: operator.namespace_goes(snapshot.namespace()).await?,
        attempts: attempts(snapshot),
        restoring,
        instance: primary
            .filter(|primary| alive.contains_key(primary))
            .or_else(|| alive.keys().next().cloned()),
        work: work(operator, snapshot, database),
    })
}

/// What the agents have of it: its task in the database's status, and their reports.
fn work(operator: &Operator, snapshot: &Snapshot, database: Option<&Postgres>) -> Work {
    let (name, uid) = (snapshot.name_any(), snapshot.uid().unwrap_or_default());
    let Some(status) = database.and_then(|database| database.status.as_ref()) else {
        return Work::None;
    };
    let reports = status.instances.iter().filter_map(|(instance, report)| {
        let task = report.tasks.get(&name)?;
        (task.snapshot_uid == uid).then_some((instance, report, task))
    });
    let silence =
        |attempt: u32, value: Timestamp| operator.silence(format!("{uid}/delete/{attempt}"), value);
    match status.tasks.get(&name) {
        Some(task) if task.snapshot_uid == uid && task.action == TaskAction::Delete => {
            let mut its = reports.filter(|(instance, _, report)| {
                **instance == task.instance && report.attempt == task.attempt
            });
            let report = its.next();
            let heard = report.map_or(Timestamp::UNIX_EPOCH, |(_, _, task)| task.heartbeat_time);
            Work::Delete {
                attempt: task.attempt,
                instance: task.instance.clone(),
                report: report.map_or(Report::None, |(_, instance, task)| {
                    report_of(task, Some(&instance.session))
                }),
                silence: silence(task.attempt, heard),
            }
        }
        // Also one that was left behind by an earlier Snapshot of this name.
        Some(_) => Work::Backup,
        None => reports
            .filter(|(_, instance, task)| {
                task.phase == TaskPhase::Running && task.session == instance.session
            })
            .map(|(name, _, task)| {
                let source = format!("{uid}/{name}/{}", task.attempt);
                operator.silence(source, task.heartbeat_time)
            })
            .min()
            .map_or(Work::None, |silence| Work::Cancelling { silence }),
    }
}

/// Hands the deletion to an instance.
async fn begin(
    snapshot: &Snapshot,
    operator: &Operator,
    database: Option<&Postgres>,
    instance: String,
    attempt: u32,
    now: Timestamp,
) -> Result<(), ReconcileError> {
    let message = format!("Wiping out Snapshot: {}", snapshot.name_any());
    let note = wipe_out_note(snapshot, event::WIPING_OUT, message);
    publish_on_both(operator, snapshot, database, &note, now).await;
    end_backup(operator, snapshot, now).await?;
    operator.seats.leave(&snapshot.uid().unwrap_or_default());
    let task = SnapshotTask {
        snapshot_uid: snapshot.uid().unwrap_or_default(),
        instance,
        attempt,
        action: TaskAction::Delete,
        storage: snapshot.spec.storage.clone(),
        minimum_lsn: None,
        deadline: None,
        method: None,
        limits: None,
        verify: None,
    };
    patch_task(operator, snapshot, database, &json!(task)).await
}

/// Has the platform do it, as far as there is room, and says where it stands.
async fn on_platform(
    operator: &Operator,
    snapshot: &Snapshot,
    database: Option<&Postgres>,
    now: Timestamp,
) -> Result<Running, ReconcileError> {
    let uid = snapshot.uid().unwrap_or_default();
    let task = data_task(snapshot);
    if let Some(failure) = operator.tasks.failure(&uid, Instant::now()) {
        return Ok(failure);
    }
    let obstacle = missing_secret(operator, &task.namespace, &task.storage).await?;
    if obstacle.is_some() {
        return Ok(Running::Busy { obstacle });
    }
    if end_backup(operator, snapshot, now).await? || !enter(operator, &uid) {
        return Ok(Running::Busy { obstacle: None });
    }
    let message = format!("Wiping out Snapshot: {}", snapshot.name_any());
    let note = wipe_out_note(snapshot, event::WIPING_OUT, message);
    publish_on_both(operator, snapshot, database, &note, now).await;
    operator.seats.leave(&uid);
    let pulls = pull_secrets(operator, snapshot, database);
    carry_out(operator, &task, &pulls).await
}

/// Takes a place among what the platform does at once.
fn enter(operator: &Operator, uid: &str) -> bool {
    operator.tasks.enter(uid, || {
        let known = operator.snapshots.state();
        known.iter().filter_map(|known| known.uid()).collect()
    })
}

/// Says that a Snapshot that still counts as Running does not: it stands in nobody's way any more. Returns whether it did.
async fn end_backup(
    operator: &Operator,
    snapshot: &Snapshot,
    now: Timestamp,
) -> Result<bool, ReconcileError> {
    if !runs(snapshot) {
        return Ok(false);
    }
    let reason = "deleted while it ran";
    let status = json!({ "phase": "Failed", "reason": reason, "completionTime": now });
    patch_status(snapshot, operator, status).await?;
    Ok(true)
}

/// Secrets by which the database's images are pulled: the program of a task lies in the same registry. They are known as long as it is, or its record.
fn pull_secrets(
    operator: &Operator,
    snapshot: &Snapshot,
    database: Option<&Postgres>,
) -> Vec<String> {
    if let Some(database) = database {
        return database.spec.pull_secrets();
    }
    let namespace = snapshot.namespace().unwrap_or_default();
    let key = ObjectRef::<DormantDatabase>::new(&snapshot.spec.database_name).within(&namespace);
    let dormant = operator.dormants.get(&key);
    let spec = dormant.and_then(|dormant| dormant.spec.origin.spec.postgres.clone());
    spec.map(|spec| spec.pull_secrets()).unwrap_or_default()
}

fn data_task(snapshot: &Snapshot) -> DataTask {
    DataTask {
        namespace: snapshot.namespace().unwrap_or_default(),
        database: snapshot.spec.database_name.clone(),
        archive: None,
        snapshot: snapshot.name_any(),
        snapshot_uid: snapshot.uid().unwrap_or_default(),
        storage: snapshot.spec.storage.clone(),
    }
}

fn wipe_out_note(snapshot: &Snapshot, reason: &'static str, message: String) -> Note {
    let uid = snapshot.uid().unwrap_or_default();
    Note::normal(component::SNAPSHOT_CONTROLLER, reason, message).of(uid)
}

/// Tells of an obstacle: once as an Event, and as a condition as long as it lasts.
async fn tell(
    snapshot: &Snapshot,
    operator: &Operator,
    why: &str,
    now: Timestamp,
) -> Result<(), ReconcileError> {
    let status = snapshot.status.clone().unwrap_or_default();
    let known = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == DATA_DELETED);
    if known.is_some_and(|known| known.message == why) && status.reason.as_deref() == Some(why) {
        return Ok(());
    }
    let note = Note::warning(component::SNAPSHOT_CONTROLLER, event::FAILED, why);
    publish(&operator.client, snapshot, &note, now).await;
    let condition = Condition {
        type_: DATA_DELETED.to_owned(),
        status: "False".to_owned(),
        reason: "Obstructed".to_owned(),
        message: why.to_owned(),
        observed_generation: snapshot.metadata.generation,
        last_transition_time: known.map_or(Time(now), |known| known.last_transition_time.clone()),
    };
    let mut conditions = status.conditions.clone();
    conditions.retain(|condition| condition.type_ != DATA_DELETED);
    conditions.push(condition);
    let status = json!({ "reason": why, "conditions": conditions });
    patch_status(snapshot, operator, status).await.map(drop)
}

/// Takes the task and the finalizer away: the object goes.
async fn release(
    snapshot: &Snapshot,
    operator: &Operator,
    database: Option<&Postgres>,
) -> Result<Action, ReconcileError> {
    patch_task(operator, snapshot, database, &Value::Null).await?;
    set_finalizer(operator, snapshot, false).await?;
    let uid = snapshot.uid().unwrap_or_default();
    operator.seats.leave(&uid);
    if operator.tasks.leave(&uid) {
        // What is left of it goes with the Snapshot, or ends by itself.
        if let Err(error) = operator.platform.forget_data(&data_task(snapshot)).await {
            tracing::warn!(%error, "a finished task stays for now");
        }
    }
    Ok(Action::await_change())
}
