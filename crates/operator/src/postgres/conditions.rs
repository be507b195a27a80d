//! Conditions: each with a reason that a script can match and a message for people.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt as _;
use kubedb_api::{
    Postgres, PostgresStatus, Snapshot,
    reasons::{BACKUP_SCHEDULED, LAST_SNAPSHOT_SUCCEEDED, READY},
    snapshot::SnapshotPhase,
};

use super::schedule::Scheduled;

/// All conditions of a database. One that keeps its value keeps its transition time.
pub(super) fn conditions(
    postgres: &Postgres,
    old: &PostgresStatus,
    new: &PostgresStatus,
    schedule: &Scheduled,
    snapshots: &[Snapshot],
    is_ready: bool,
    now: Timestamp,
) -> Vec<Condition> {
    let condition = |type_: &str, is: bool, reason: &str, message: String| {
        let status = if is { "True" } else { "False" };
        let before = old
            .conditions
            .iter()
            .find(|before| before.type_ == type_ && before.status == status);
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            observed_generation: postgres.metadata.generation,
            last_transition_time: before
                .map_or(Time(now), |before| before.last_transition_time.clone()),
        }
    };
    let (reason, message) = if is_ready {
        ("PrimaryReady", "the primary accepts connections".to_owned())
    } else {
        let why = new
            .reason
            .clone()
            .unwrap_or_else(|| "the primary is not ready".to_owned());
        ("PrimaryNotReady", why)
    };
    let mut all = vec![condition(READY, is_ready, reason, message)];
    if let Some(wanted) = &postgres.spec.backup_schedule {
        let is_on = schedule.state.next.is_some();
        let reason = if is_on {
            "Scheduled"
        } else if wanted.suspend == Some(true) {
            "Suspended"
        } else {
            "Waiting"
        };
        all.push(condition(
            BACKUP_SCHEDULED,
            is_on,
            reason,
            schedule.reason.clone(),
        ));
    }
    let ended = |snapshot: &&Snapshot| {
        snapshot
            .status
            .as_ref()
            .and_then(|status| status.completion_time)
    };
    if let Some(last) = snapshots
        .iter()
        .filter(|snapshot| ended(snapshot).is_some())
        .max_by_key(ended)
    {
        let status = last.status.as_ref();
        let is_good = status.and_then(|status| status.phase) == Some(SnapshotPhase::Succeeded);
        let why = status
            .and_then(|status| status.reason.clone())
            .unwrap_or_default();
        let message = if is_good {
            last.name_any()
        } else {
            format!("{}: {why}", last.name_any())
        };
        let reason = if is_good { "Succeeded" } else { "Failed" };
        all.push(condition(LAST_SNAPSHOT_SUCCEEDED, is_good, reason, message));
    }
    all
}
