//! From objects to what core decides on about a verification. Pure.

use jiff::Timestamp;
use kube::ResourceExt as _;
use kubedb_api::{
    Postgres, Snapshot,
    protocol::{TaskPhase, TaskStatus},
    verification::{Verification, VerificationPhase},
};
use kubedb_core::verification::{Report, Stage, VerificationView};

use crate::{
    postgres::schedule::{is_active, is_aside},
    snapshot::view::{self, Found},
};

/// What the assigned instance reports of the present try.
pub(super) fn report<'a>(
    snapshot: &Snapshot,
    known: &Verification,
    database: Option<&'a Postgres>,
) -> Option<&'a TaskStatus> {
    let instances = &database?.status.as_ref()?.instances;
    let task = instances
        .get(known.instance.as_deref()?)?
        .tasks
        .get(&snapshot.name_any())?;
    let is_this =
        Some(task.attempt) == known.attempt && Some(&task.snapshot_uid) == snapshot.uid().as_ref();
    is_this.then_some(task)
}

pub(crate) fn heard(
    snapshot: &Snapshot,
    known: &Verification,
    database: Option<&Postgres>,
) -> Timestamp {
    report(snapshot, known, database).map_or(Timestamp::UNIX_EPOCH, |task| task.heartbeat_time)
}

pub(super) fn view_of(
    snapshot: &Snapshot,
    found: &Found,
    known: &Verification,
    now: Timestamp,
) -> VerificationView {
    let whole = view::view(snapshot, found, now);
    VerificationView {
        now,
        steps: whole.steps,
        stage: stage(snapshot, found, known, now),
        obstacle: whole.own_obstacle.or(whole.obstacle),
        database_exists: whole.database_exists,
        before: before(snapshot, found),
        is_full: None,
        yields: known.yields,
        candidates: whole.candidates,
    }
}

fn stage(snapshot: &Snapshot, found: &Found, known: &Verification, now: Timestamp) -> Stage {
    if known.phase != VerificationPhase::Running {
        return Stage::Waiting {
            since: known.waiting_since.unwrap_or(now),
            tries: known.tries,
        };
    }
    let instances = found
        .database
        .as_ref()
        .and_then(|database| database.status.as_ref());
    let instance = known
        .instance
        .as_ref()
        .and_then(|name| instances?.instances.get(name));
    let session = instance.map(|instance| instance.session.as_str());
    let report = match report(snapshot, known, found.database.as_ref()) {
        None => Report::None,
        Some(task) => report_of(task, session),
    };
    Stage::Running {
        since: known.start_time.unwrap_or(now),
        tries: known.tries,
        report,
        silence: found.silence,
        instance_exists: instance.is_some(),
    }
}

/// What a report says. One of a session that its instance does not go on with is the last word of a dead agent.
fn report_of(task: &TaskStatus, session: Option<&str>) -> Report {
    let failed = |reason: &str, is_retryable| Report::Failed {
        reason: reason.to_owned(),
        is_retryable,
    };
    match (task.phase, &task.verification) {
        (TaskPhase::Running, _) if session.is_some_and(|session| session != task.session) => {
            failed("the session of its agent ended", true)
        }
        (TaskPhase::Running, _) => Report::Running,
        (TaskPhase::Succeeded, Some(result)) if result.sound => Report::Sound,
        (TaskPhase::Succeeded, Some(result)) => Report::Bad {
            reason: result.found.clone(),
        },
        (TaskPhase::Succeeded, None) => failed("its agent knows no verification", false),
        (TaskPhase::Failed, _) => {
            let reason = task.reason.clone().unwrap_or_default();
            failed(&reason, task.retryable != Some(false))
        }
    }
}

/// What of the same database goes first: a Snapshot that waits or runs, or another verification.
fn before(snapshot: &Snapshot, found: &Found) -> Option<String> {
    let others = || {
        let others = found.siblings.iter();
        others.filter(|other| other.uid() != snapshot.uid())
    };
    let backup = others().find(|other| is_active(other) && !is_aside(other));
    let is_running = |snapshot: &Snapshot| {
        let known = snapshot
            .status
            .as_ref()
            .and_then(|status| status.verification.as_ref());
        known.is_some_and(|known| known.phase == VerificationPhase::Running)
    };
    let other = others().find(|other| is_running(other) && !is_running(snapshot));
    backup
        .map(|other| {
            format!(
                "Snapshot {} of the same database goes first",
                other.name_any()
            )
        })
        .or_else(|| other.map(|other| format!("Snapshot {} is being verified", other.name_any())))
}
