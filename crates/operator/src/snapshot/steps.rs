//! What is done about a decision. Each step may be done twice, and each order of writes is chosen for what a crash leaves.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{ResourceExt as _, runtime::controller::Action};
use kubedb_api::{
    Postgres, Snapshot, labels,
    protocol::{SnapshotTask, TaskAction},
    reasons::{CAN_START, component, event, text},
    snapshot::SnapshotPhase,
};
use kubedb_core::{
    lsn::Lsn,
    snapshot::{RUNNING_LIMIT, SnapshotAction, SnapshotDecision, WaitsFor},
};
use serde_json::{Value, json};

use super::{
    patch_main, patch_status, patch_task, publish_on_both, runs, until_then,
    view::{Found, task_status},
};
use crate::{context::ReconcileError, events::Note, operator::Operator};

/// Look again this late at a Snapshot that waits: a Secret that was made tells nobody.
const WAITING: Duration = Duration::from_secs(5);
/// The same at one that waits for its time, or for a seat, when it is called.
const CALLED: Duration = Duration::from_secs(20);

/// Does what was decided.
pub(super) async fn apply(
    operator: &Operator,
    snapshot: &Snapshot,
    found: &Found,
    decision: &SnapshotDecision,
    now: Timestamp,
) -> Result<Action, ReconcileError> {
    let status = snapshot.status.as_ref();
    let is_running = runs(snapshot);
    match &decision.action {
        SnapshotAction::Wait { until } if is_running => {
            ensure_task(
                operator,
                snapshot,
                found.database.as_ref(),
                task_of(snapshot),
            )
            .await?;
            let task = task_status(snapshot, found.database.as_ref());
            let progress = task.and_then(|task| task.progress);
            let known = status.and_then(|status| status.progress);
            if progress.is_some() && progress != known {
                patch_status(snapshot, operator, json!({ "progress": progress })).await?;
            }
            Ok(Action::requeue(until_then(*until)))
        }
        SnapshotAction::Wait { until } => {
            say_pending(operator, snapshot, decision, now).await?;
            let uid = snapshot.metadata.uid.as_deref().unwrap_or_default();
            let is_called = decision.waits_for == WaitsFor::Time || operator.seats.waits(uid);
            let longest = if is_called { CALLED } else { WAITING };
            Ok(Action::requeue(until_then(*until).min(longest)))
        }
        SnapshotAction::Assign {
            instance,
            attempt,
            minimum_lsn,
        } => {
            let assigned = (instance.as_str(), *attempt, *minimum_lsn);
            assign(operator, snapshot, found, assigned, now).await?;
            Ok(Action::requeue(WAITING))
        }
        SnapshotAction::Withdraw => {
            // The status comes first: a task that is still there is taken away as long as the label is.
            let status = json!({
                "phase": "Pending", "reason": decision.reason, "instance": null, "progress": null,
                "waitingSince": now,
            });
            let snapshot = patch_status(snapshot, operator, status).await?;
            operator.seats.leave(&snapshot.uid().unwrap_or_default());
            clean_up(operator, &snapshot, found.database.as_ref()).await?;
            Ok(Action::requeue(WAITING))
        }
        SnapshotAction::Succeed | SnapshotAction::Fail => {
            finish(operator, snapshot, found, decision, now).await
        }
    }
}

/// Says why it waits, and notes since when nothing but itself keeps it.
async fn say_pending(
    operator: &Operator,
    snapshot: &Snapshot,
    decision: &SnapshotDecision,
    now: Timestamp,
) -> Result<(), ReconcileError> {
    let known = snapshot.status.clone().unwrap_or_default();
    let since = if decision.waits_for == WaitsFor::Turn {
        None
    } else {
        known
            .waiting_since
            .filter(|since| *since <= now)
            .or(Some(now))
    };
    let can_start = can_start(&known.conditions, decision, now);
    let is_told = known.reason.as_deref() == Some(&decision.reason)
        && known.phase == Some(SnapshotPhase::Pending)
        && known.waiting_since == since
        && known.conditions == can_start;
    if is_told {
        return Ok(());
    }
    let status = json!({
        "phase": "Pending", "reason": decision.reason, "waitingSince": since, "conditions": can_start,
    });
    patch_status(snapshot, operator, status).await.map(drop)
}

/// Conditions, with one that tells the others of the database not to wait for it as long as it waits for something of its own.
fn can_start(known: &[Condition], decision: &SnapshotDecision, now: Timestamp) -> Vec<Condition> {
    let (mut conditions, earlier): (Vec<_>, Vec<_>) = known
        .iter()
        .cloned()
        .partition(|condition| condition.type_ != CAN_START);
    if decision.waits_for == WaitsFor::ItsOwn {
        let since = earlier
            .first()
            .map(|known| known.last_transition_time.clone());
        conditions.push(Condition {
            type_: CAN_START.to_owned(),
            status: "False".to_owned(),
            reason: "SecretMissing".to_owned(),
            message: decision.reason.clone(),
            observed_generation: None,
            last_transition_time: since.unwrap_or(Time(now)),
        });
    }
    conditions
}

/// Conditions of one that waits for nothing any more.
fn started(snapshot: &Snapshot) -> Vec<Condition> {
    let known = snapshot.status.as_ref().map(|status| &status.conditions);
    let known = known.into_iter().flatten();
    known
        .filter(|condition| condition.type_ != CAN_START)
        .cloned()
        .collect()
}

async fn assign(
    operator: &Operator,
    snapshot: &Snapshot,
    found: &Found,
    (instance, attempt, minimum_lsn): (&str, u32, Option<Lsn>),
    now: Timestamp,
) -> Result<(), ReconcileError> {
    let label = json!({ "metadata": { "labels": { labels::SNAPSHOT_STATUS: "Running" } } });
    let snapshot = patch_main(snapshot, operator, label).await?;
    if attempt == 1 {
        let (reason, words) = (event::STARTING, text::BACKUP_RUNNING);
        let note = note_of(
            &snapshot,
            Note::normal(component::SNAPSHOT_CONTROLLER, reason, words),
        );
        publish_on_both(operator, &snapshot, found.database.as_ref(), &note, now).await;
    }
    // The status comes before the task, and holds all that the task is made of: one that was not written is written later.
    let status = json!({
        "phase": "Running", "reason": null, "startTime": now, "instance": instance, "attempt": attempt,
        "minimumLsn": minimum_lsn.map(|lsn| lsn.to_string()), "progress": null, "waitingSince": null,
        "observedGeneration": snapshot.metadata.generation, "conditions": started(&snapshot),
    });
    let snapshot = patch_status(&snapshot, operator, status).await?;
    let task = task_of(&snapshot);
    ensure_task(operator, &snapshot, found.database.as_ref(), task).await
}

/// The task that a Running Snapshot's status stands for.
fn task_of(snapshot: &Snapshot) -> Option<SnapshotTask> {
    let status = snapshot.status.as_ref()?;
    Some(SnapshotTask {
        snapshot_uid: snapshot.uid()?,
        instance: status.instance.clone()?,
        attempt: status.attempt?,
        action: TaskAction::Backup,
        storage: snapshot.spec.storage.clone(),
        minimum_lsn: status.minimum_lsn.clone(),
        deadline: status
            .start_time
            .and_then(|start| start.checked_add(RUNNING_LIMIT).ok()),
        method: snapshot.spec.method,
        limits: snapshot.spec.limits(),
        verify: None,
    })
}

/// Writes a task where it is not there: it is new, or the operator was killed between two writes.
pub(super) async fn ensure_task(
    operator: &Operator,
    snapshot: &Snapshot,
    database: Option<&Postgres>,
    task: Option<SnapshotTask>,
) -> Result<(), ReconcileError> {
    let (Some(task), Some(database)) = (task, database) else {
        return Ok(());
    };
    let tasks = database.status.as_ref().map(|status| &status.tasks);
    let known = tasks.and_then(|tasks| tasks.get(&snapshot.name_any()));
    if known == Some(&task) {
        return Ok(());
    }
    patch_task(operator, snapshot, Some(database), &json!(task)).await
}

/// Ends it. What happened is told first, then written, then cleaned up.
pub(super) async fn finish(
    operator: &Operator,
    snapshot: &Snapshot,
    found: &Found,
    decision: &SnapshotDecision,
    now: Timestamp,
) -> Result<Action, ReconcileError> {
    let database = found.database.as_ref();
    let is_good = decision.action == SnapshotAction::Succeed;
    let note = if is_good {
        let (reason, words) = (event::SUCCESSFUL_SNAPSHOT, text::SNAPSHOT_COMPLETED);
        Note::normal(component::JOB_CONTROLLER, reason, words)
    } else if let Some(why) = decision.reason.strip_prefix(text::INVALID_SNAPSHOT) {
        let why = why.trim_start_matches(": ");
        Note::warning(component::SNAPSHOT_CONTROLLER, event::INVALID, why)
    } else {
        let (reason, words) = (event::SNAPSHOT_FAILED, text::SNAPSHOT_FAILED);
        Note::warning(component::JOB_CONTROLLER, reason, words)
    };
    let note = note_of(snapshot, note);
    publish_on_both(operator, snapshot, database, &note, now).await;
    let task = task_status(snapshot, database);
    let status = json!({
        "phase": if is_good { "Succeeded" } else { "Failed" },
        "reason": if is_good { Value::Null } else { json!(decision.reason) },
        "completionTime": now,
        "waitingSince": null,
        "progress": task.and_then(|task| task.progress),
        "conditions": started(snapshot),
        "result": task.and_then(|task| task.result.clone()),
    });
    let snapshot = patch_status(snapshot, operator, status).await?;
    operator.seats.leave(&snapshot.uid().unwrap_or_default());
    clean_up(operator, &snapshot, database).await?;
    Ok(Action::await_change())
}

/// Takes the task away, then the label that says it may be there.
pub(super) async fn clean_up(
    operator: &Operator,
    snapshot: &Snapshot,
    database: Option<&Postgres>,
) -> Result<(), ReconcileError> {
    if !super::has_label(snapshot) {
        return Ok(());
    }
    patch_task(operator, snapshot, database, &Value::Null).await?;
    let label = json!({ "metadata": { "labels": { labels::SNAPSHOT_STATUS: null } } });
    patch_main(snapshot, operator, label).await.map(drop)
}

/// One Snapshot starts once and ends once.
fn note_of(snapshot: &Snapshot, note: Note) -> Note {
    note.of(snapshot.uid().unwrap_or_default())
}
