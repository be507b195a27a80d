//! Conditions: each with a reason that a script can match and a message for people.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt as _;
use kubedb_api::{
    Postgres, PostgresStatus, Snapshot,
    reasons::{APPLIED, BACKUP_SCHEDULED, LAST_SNAPSHOT_SUCCEEDED, READY, VALID, event},
    snapshot::SnapshotPhase,
};

use super::schedule::{Scheduled, Standing};

/// All conditions of a database. One that keeps its value keeps its transition time.
pub(crate) fn conditions(
    postgres: &Postgres,
    old: &PostgresStatus,
    new: &PostgresStatus,
    schedule: &Scheduled,
    snapshots: &[Arc<Snapshot>],
    is_ready: bool,
    now: Timestamp,
) -> Vec<Condition> {
    let condition = |type_: &str, is: bool, reason: &str, message: String| {
        let status = if is { "True" } else { "False" };
        made(
            postgres,
            &old.conditions,
            (type_, status, reason),
            message,
            now,
        )
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
    if postgres.spec.backup_schedule.is_some() {
        let (is_on, reason, message) = standing(schedule);
        all.push(condition(BACKUP_SCHEDULED, is_on, reason, message));
    }
    let ended = |snapshot: &&Arc<Snapshot>| {
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

/// A condition: its type, its status and its reason.
pub(super) fn made(
    postgres: &Postgres,
    old: &[Condition],
    (type_, status, reason): (&str, &str, &str),
    message: String,
    now: Timestamp,
) -> Condition {
    let before = old
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
}

/// The conditions there are, and one that says why the object is not what can be run.
pub(crate) fn with_invalid(
    postgres: &Postgres,
    old: &PostgresStatus,
    reason: &str,
    now: Timestamp,
) -> Vec<Condition> {
    let before = old.conditions.iter().find(|known| known.type_ == VALID);
    let invalid = Condition {
        type_: VALID.to_owned(),
        status: "False".to_owned(),
        reason: event::INVALID.to_owned(),
        message: reason.to_owned(),
        observed_generation: postgres.metadata.generation,
        last_transition_time: before
            .map_or(Time(now), |before| before.last_transition_time.clone()),
    };
    let others = old.conditions.iter().filter(|known| known.type_ != VALID);
    others.cloned().chain([invalid]).collect()
}

/// The condition that says why a part of the database is not there.
pub(crate) fn refused(
    postgres: &Postgres,
    before: Option<&Condition>,
    reason: &str,
    now: Timestamp,
) -> Condition {
    Condition {
        type_: APPLIED.to_owned(),
        status: "False".to_owned(),
        reason: "Refused".to_owned(),
        message: reason.to_owned(),
        observed_generation: postgres.metadata.generation,
        last_transition_time: before
            .map_or(Time(now), |before| before.last_transition_time.clone()),
    }
}

/// The message names the next time and nothing that changes in between, so that it is written once a tick.
fn standing(schedule: &Scheduled) -> (bool, &'static str, String) {
    match (&schedule.standing, schedule.state.next) {
        (Standing::On, Some(next)) => (
            true,
            "Scheduled",
            format!("the next Snapshot is due at {next}"),
        ),
        (Standing::On | Standing::None, _) => {
            let why = "the expression names no time within five years";
            (false, "NoNextTime", why.to_owned())
        }
        (Standing::Suspended, _) => (false, "Suspended", "the schedule is suspended".to_owned()),
        (Standing::Waiting, _) => (false, "Waiting", "the database is not Running".to_owned()),
        (Standing::Invalid(why), _) => (false, "InvalidExpression", why.clone()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn postgres() -> Postgres {
        serde_json::from_value(json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "metadata": {"name": "pg", "generation": 3},
            "spec": {"version": "15", "backupSchedule": {"cronExpression": "@daily"}},
        }))
        .unwrap()
    }

    fn snapshot(name: &str, ended: &str, phase: &str, reason: Option<&str>) -> Arc<Snapshot> {
        let snapshot = serde_json::from_value(json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot", "metadata": {"name": name},
            "spec": {"databaseName": "pg"}, "status": {"phase": phase, "completionTime": ended, "reason": reason},
        }))
        .unwrap();
        Arc::new(snapshot)
    }

    fn all(
        schedule: &Scheduled,
        snapshots: &[Arc<Snapshot>],
        is_ready: bool,
    ) -> Vec<(String, String, String, String)> {
        let (old, new) = (PostgresStatus::default(), PostgresStatus::default());
        let now = at("2018-02-08T10:53:41Z");
        conditions(&postgres(), &old, &new, schedule, snapshots, is_ready, now)
            .into_iter()
            .map(|condition| {
                (
                    condition.type_,
                    condition.status,
                    condition.reason,
                    condition.message,
                )
            })
            .collect()
    }

    fn row(
        type_: &str,
        status: &str,
        reason: &str,
        message: &str,
    ) -> (String, String, String, String) {
        (
            type_.to_owned(),
            status.to_owned(),
            reason.to_owned(),
            message.to_owned(),
        )
    }

    #[test]
    fn each_standing_of_a_schedule_is_told() {
        let scheduled = |standing, next: Option<&str>| {
            let mut schedule = Scheduled {
                standing,
                ..Scheduled::default()
            };
            schedule.state.next = next.map(at);
            all(&schedule, &[], true).remove(1)
        };
        let next = Some("2018-02-09T00:00:00Z");
        assert_eq!(
            scheduled(Standing::On, next),
            row(
                "BackupScheduled",
                "True",
                "Scheduled",
                "the next Snapshot is due at 2018-02-09T00:00:00Z"
            )
        );
        assert_eq!(
            scheduled(Standing::Suspended, None),
            row(
                "BackupScheduled",
                "False",
                "Suspended",
                "the schedule is suspended"
            )
        );
        assert_eq!(
            scheduled(Standing::Waiting, next),
            row(
                "BackupScheduled",
                "False",
                "Waiting",
                "the database is not Running"
            )
        );
        assert_eq!(
            scheduled(Standing::Invalid("no".to_owned()), next),
            row("BackupScheduled", "False", "InvalidExpression", "no")
        );
        assert_eq!(scheduled(Standing::On, None).2, "NoNextTime");
    }

    #[test]
    fn the_last_snapshot_that_ended_counts() {
        let good = snapshot("one", "2018-02-08T10:00:00Z", "Succeeded", None);
        let bad = snapshot("two", "2018-02-08T10:10:00Z", "Failed", Some("bucket gone"));
        let schedule = Scheduled {
            standing: Standing::Waiting,
            ..Scheduled::default()
        };
        let conditions = all(&schedule, &[bad.clone(), good.clone()], false);
        assert_eq!(
            conditions[0],
            row(
                "Ready",
                "False",
                "PrimaryNotReady",
                "the primary is not ready"
            )
        );
        assert_eq!(
            conditions[2],
            row(
                "LastSnapshotSucceeded",
                "False",
                "Failed",
                "two: bucket gone"
            )
        );
        let conditions = all(&schedule, &[good], true);
        assert_eq!(conditions[0].1, "True");
        assert_eq!(
            conditions[2],
            row("LastSnapshotSucceeded", "True", "Succeeded", "one")
        );
        assert_eq!(
            all(&schedule, &[], true).len(),
            2,
            "nothing is said of a Snapshot that never was"
        );
    }

    #[test]
    fn a_condition_that_keeps_its_value_keeps_its_time() {
        let schedule = Scheduled::default();
        let (mut old, new) = (PostgresStatus::default(), PostgresStatus::default());
        let (then, now) = (at("2018-02-08T10:00:00Z"), at("2018-02-08T11:00:00Z"));
        old.conditions = conditions(&postgres(), &old, &new, &schedule, &[], true, then);
        let same = conditions(&postgres(), &old, &new, &schedule, &[], true, now);
        assert_eq!(same[0].last_transition_time.0, then);
        let changed = conditions(&postgres(), &old, &new, &schedule, &[], false, now);
        assert_eq!(changed[0].last_transition_time.0, now);
    }
}
