//! Verification of a Snapshot that succeeded: who does it, and what is told of it.
//!
//! As with the Snapshot itself, the status is written first and holds all that the task is made of; the task is taken away last, and
//! `hasTask` says for how long it may be there.

mod state;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{ResourceExt as _, runtime::controller::Action};
use kubedb_api::{
    Postgres, Snapshot,
    protocol::{SnapshotTask, TaskAction, VerifyTask},
    reasons::{VERIFIED, component, event},
    verification::{Verification, VerificationPhase, VerificationRequest, is_wanted, wish},
};
use kubedb_core::{
    snapshot::RUNNING_LIMIT,
    turns::{Limits, Refusal},
    verification::{Stage, VerificationAction, VerificationDecision, VerificationView, decide},
};
use serde_json::{Value, json};

pub(super) use self::state::heard;
use self::state::{report, view_of};
use super::{
    attempts, database_of, dereference_for, patch_status, patch_task, publish_on_both, seat_of,
    seated,
    steps::ensure_task,
    until_then,
    view::{self, Found},
};
use crate::{context::ReconcileError, events::Note, operator::Operator, seats::Taken};

/// How many verifications run at once: each is a restore, and none is urgent.
pub(crate) const LIMITS: Limits = Limits {
    running_max: 4,
    running_per_store_max: 2,
};

/// Look again this late: a Snapshot that comes in between tells only its own reconcile.
const LOOK: Duration = Duration::from_secs(2);

/// One look at a Snapshot that has ended.
pub(super) async fn look(
    snapshot: &Snapshot,
    operator: &Operator,
    now: Timestamp,
) -> Result<Action, ReconcileError> {
    if !is_wanted(snapshot) {
        return Ok(Action::await_change());
    }
    let database = database_of(operator, snapshot).await?;
    let known = snapshot
        .status
        .as_ref()
        .and_then(|status| status.verification.clone());
    let under_way = match known {
        Some(known) if known.phase.is_over() && known.has_task => {
            patch_task(operator, snapshot, database.as_ref(), &Value::Null).await?;
            let status = json!({ "verification": { "hasTask": null } });
            patch_status(snapshot, operator, status).await?;
            return Ok(Action::await_change());
        }
        Some(known) if !known.phase.is_over() => known,
        _ => match wish(snapshot) {
            Some(request) => return begin(snapshot, operator, request, now).await,
            None => return Ok(Action::await_change()),
        },
    };
    let found = dereference_for(operator, snapshot, database, &under_way, now).await?;
    let mut view = view_of(snapshot, &found, &under_way, now);
    let decision = with_seat(operator, snapshot, &mut view);
    apply(operator, snapshot, &found, &under_way, &decision, now).await
}

/// Writes down what was asked for: from now on it is under way.
async fn begin(
    snapshot: &Snapshot,
    operator: &Operator,
    request: VerificationRequest,
    now: Timestamp,
) -> Result<Action, ReconcileError> {
    let begun = Verification {
        request,
        phase: VerificationPhase::Pending,
        reason: None,
        waiting_since: Some(now),
        start_time: None,
        completion_time: None,
        instance: None,
        attempt: Some(attempts(snapshot)),
        tries: 0,
        yields: 0,
        has_task: false,
        damaged: false,
        bytes: None,
        progress: None,
    };
    // A merge patch keeps what it does not name: of the last verification nothing shall stay.
    let mut patch = json!(begun);
    for name in [
        "reason",
        "startTime",
        "completionTime",
        "instance",
        "bytes",
        "progress",
        "tries",
        "yields",
        "hasTask",
        "damaged",
    ] {
        patch[name] = Value::Null;
    }
    for name in ["query", "database", "requested"] {
        if patch["request"][name].is_null() {
            patch["request"][name] = Value::Null;
        }
    }
    patch_status(snapshot, operator, json!({ "verification": patch })).await?;
    Ok(Action::await_change())
}

/// Decides, with a seat for what would start.
fn with_seat(
    operator: &Operator,
    snapshot: &Snapshot,
    view: &mut VerificationView,
) -> VerificationDecision {
    let decision = decide(view);
    if !matches!(decision.action, VerificationAction::Assign { .. }) {
        if !matches!(view.stage, Stage::Running { .. }) {
            operator
                .verifying
                .leave(&snapshot.uid().unwrap_or_default());
        }
        return decision;
    }
    let running = seated(operator, view::is_verifying);
    let seat = seat_of(snapshot);
    let created = match view.stage {
        Stage::Waiting { since, .. } | Stage::Running { since, .. } => since,
    };
    let why = match operator
        .verifying
        .take(seat, created, running, operator.uptime())
    {
        Ok(()) => return decision,
        Err(Taken::Database) => "another Snapshot of the database is being verified".to_owned(),
        Err(Taken::Limit(Refusal::Total { running_max })) => {
            format!("{running_max} Snapshots are being verified, and no more may at once")
        }
        Err(Taken::Limit(Refusal::Store { running_max })) => {
            format!(
                "{running_max} Snapshots of its store are being verified, and no more may at once"
            )
        }
    };
    view.is_full = Some(why);
    decide(view)
}

async fn apply(
    operator: &Operator,
    snapshot: &Snapshot,
    found: &Found,
    known: &Verification,
    decision: &VerificationDecision,
    now: Timestamp,
) -> Result<Action, ReconcileError> {
    let database = found.database.as_ref();
    match &decision.action {
        VerificationAction::Wait { until } => {
            if known.phase == VerificationPhase::Running {
                ensure_task(operator, snapshot, database, task_of(snapshot)).await?;
                let seen = report(snapshot, known, database).and_then(|task| task.progress);
                if seen.is_some() && seen != known.progress {
                    let status = json!({ "verification": { "progress": seen } });
                    patch_status(snapshot, operator, status).await?;
                }
            } else if known.reason.as_deref() != Some(&decision.reason) {
                let status = json!({ "verification": { "reason": decision.reason } });
                patch_status(snapshot, operator, status).await?;
            }
            Ok(Action::requeue(until_then(*until).min(LOOK)))
        }
        VerificationAction::Assign { instance } => {
            let attempt = attempts(snapshot) + 1;
            if known.tries == 0 && known.yields == 0 {
                let message = format!("Verifying Snapshot: {:?}", known.request.level);
                let note = Note::normal(component::SNAPSHOT_CONTROLLER, event::VERIFYING, message);
                tell(operator, snapshot, database, note, attempt, now).await;
            }
            let status = json!({ "verification": {
                "phase": "Running", "reason": decision.reason, "startTime": now, "instance": instance,
                "attempt": attempt, "hasTask": true, "progress": null, "waitingSince": null,
            } });
            let snapshot = patch_status(snapshot, operator, status).await?;
            let task = task_of(&snapshot);
            ensure_task(operator, &snapshot, database, task).await?;
            Ok(Action::requeue(LOOK))
        }
        VerificationAction::Withdraw { yields } => {
            let status = json!({ "verification": {
                "phase": "Pending", "reason": decision.reason, "instance": null, "progress": null,
                "waitingSince": now,
                "tries": known.tries + u32::from(!yields), "yields": known.yields + u32::from(*yields),
            } });
            let snapshot = patch_status(snapshot, operator, status).await?;
            operator
                .verifying
                .leave(&snapshot.uid().unwrap_or_default());
            patch_task(operator, &snapshot, database, &Value::Null).await?;
            Ok(Action::requeue(LOOK))
        }
        VerificationAction::Succeed | VerificationAction::Fail | VerificationAction::GiveUp => {
            finish(operator, snapshot, database, known, decision, now).await
        }
    }
}

/// Ends it: told first, then written, then cleaned up.
async fn finish(
    operator: &Operator,
    snapshot: &Snapshot,
    database: Option<&Postgres>,
    known: &Verification,
    decision: &VerificationDecision,
    now: Timestamp,
) -> Result<Action, ReconcileError> {
    let task = report(snapshot, known, database);
    let result = task.and_then(|task| task.verification.as_ref());
    let level = format!("{:?}", known.request.level);
    let (phase, reason) = match decision.action {
        VerificationAction::Succeed => {
            let found = result.map(|result| result.found.clone());
            (
                "Succeeded",
                found.unwrap_or_else(|| decision.reason.clone()),
            )
        }
        VerificationAction::Fail => ("Failed", decision.reason.clone()),
        _ => ("Inconclusive", decision.reason.clone()),
    };
    let (why, words, is_warning, value) = match phase {
        "Succeeded" => (
            event::SUCCESSFUL_VERIFICATION,
            "Successfully verified",
            false,
            "True",
        ),
        "Failed" => (
            event::VERIFICATION_FAILED,
            "Verification failed:",
            true,
            "False",
        ),
        _ => (
            event::VERIFICATION_INCONCLUSIVE,
            "Verification could not be carried out:",
            true,
            "Unknown",
        ),
    };
    let message = if is_warning {
        format!("{words} {reason}")
    } else {
        format!("{words} Snapshot ({level}): {reason}")
    };
    let note = if is_warning {
        Note::warning(component::SNAPSHOT_CONTROLLER, why, message)
    } else {
        Note::normal(component::SNAPSHOT_CONTROLLER, why, message)
    };
    tell(
        operator,
        snapshot,
        database,
        note,
        known.attempt.unwrap_or(0),
        now,
    )
    .await;
    let said = (value, phase, format!("{level}: {reason}"));
    let status = json!({
        "verification": {
            "phase": phase, "reason": reason, "completionTime": now, "waitingSince": null,
            "damaged": result.and_then(|result| result.damaged.then_some(true)),
            "progress": task.and_then(|task| task.progress), "bytes": result.map(|result| result.bytes),
        },
        "conditions": conditions(snapshot, said, now),
    });
    let snapshot = patch_status(snapshot, operator, status).await?;
    operator
        .verifying
        .leave(&snapshot.uid().unwrap_or_default());
    patch_task(operator, &snapshot, database, &Value::Null).await?;
    let status = json!({ "verification": { "hasTask": null } });
    patch_status(&snapshot, operator, status).await?;
    Ok(Action::await_change())
}

/// Conditions, with what is known now. One that keeps its value keeps its transition time.
fn conditions(
    snapshot: &Snapshot,
    (value, reason, message): (&str, &str, String),
    now: Timestamp,
) -> Vec<Condition> {
    let known = snapshot.status.as_ref().map(|status| &status.conditions);
    let (mut others, earlier): (Vec<_>, Vec<_>) = known
        .into_iter()
        .flatten()
        .cloned()
        .partition(|condition| condition.type_ != VERIFIED);
    let since = earlier.first().filter(|known| known.status == value);
    others.push(Condition {
        type_: VERIFIED.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: None,
        last_transition_time: since.map_or(Time(now), |known| known.last_transition_time.clone()),
    });
    others
}

async fn tell(
    operator: &Operator,
    snapshot: &Snapshot,
    database: Option<&Postgres>,
    note: Note,
    attempt: u32,
    now: Timestamp,
) {
    let uid = snapshot.uid().unwrap_or_default();
    let note = note.of(format!("{uid}/{attempt}"));
    publish_on_both(operator, snapshot, database, &note, now).await;
}

fn task_of(snapshot: &Snapshot) -> Option<SnapshotTask> {
    let status = snapshot.status.as_ref()?;
    let known = status.verification.as_ref()?;
    Some(SnapshotTask {
        snapshot_uid: snapshot.uid()?,
        instance: known.instance.clone()?,
        attempt: known.attempt?,
        action: TaskAction::Verify,
        storage: snapshot.spec.storage.clone(),
        minimum_lsn: None,
        deadline: known
            .start_time
            .and_then(|start| start.checked_add(RUNNING_LIMIT).ok()),
        method: None,
        limits: None,
        verify: Some(VerifyTask {
            manifest: status.result.as_ref()?.manifest.clone(),
            request: known.request.clone(),
        }),
    })
}
