//! The schedule's part of a plan.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use kubedb_api::{
    Postgres, PostgresStatus, Snapshot, labels,
    reasons::{CAN_START, component, event, text},
    snapshot::SnapshotPhase::{Failed, Pending, Succeeded},
};
use kubedb_core::schedule::{
    Schedule,
    plan::{ScheduleAction, ScheduleState, due},
};

use crate::events::Note;

/// What the schedule wants now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scheduled {
    /// Make a Snapshot for this tick. It is written to the status first and taken from there when that Snapshot is seen, so that neither
    /// a crash between the two nor an old copy of the object makes two, or none.
    pub(crate) make: Option<Timestamp>,
    /// Whether that one starts without jitter: somebody waits for it.
    pub(crate) is_first: bool,
    /// A tick for which none is made.
    pub(crate) left: Option<Left>,
    /// What to remember.
    pub(crate) state: ScheduleState,
    /// Whether ticks come.
    pub(crate) standing: Standing,
}

/// Why none is made for a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// One was still active.
    Active(Timestamp),
    /// It passed too long ago.
    Late(Timestamp),
}

impl Left {
    /// What its database's Events say.
    pub(crate) fn note(self) -> Note {
        let (component, reason) = (component::CRON_CONTROLLER, event::IGNORED_SNAPSHOT);
        match self {
            Self::Active(tick) => {
                Note::normal(component, reason, text::BACKUP_SKIPPED).of(tick.to_string())
            }
            Self::Late(tick) => {
                let words = format!(
                    "No Snapshot is made for {tick}: that is longer ago than startingDeadlineSeconds. The next tick makes one"
                );
                Note::warning(component, reason, words).of(tick.to_string())
            }
        }
    }
}

/// Whether ticks come, and if not, why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Standing {
    /// There is no schedule.
    #[default]
    None,
    /// They come.
    On,
    /// The user suspended it.
    Suspended,
    /// The database is not Running.
    Waiting,
    /// The expression cannot be read any more.
    Invalid(String),
}

/// Decides. A database that is not Running keeps what it remembers, and its ticks wait: at most one is made up for.
pub(crate) fn scheduled(
    postgres: &Postgres,
    snapshots: &[Arc<Snapshot>],
    is_running: bool,
    now: Timestamp,
) -> Scheduled {
    let Some(wanted) = &postgres.spec.backup_schedule else {
        return Scheduled::default();
    };
    let empty = PostgresStatus::default();
    let status = postgres.status.as_ref().unwrap_or(&empty);
    let state = ScheduleState {
        expression: status.schedule_expression.clone(),
        last: status.last_schedule_time,
        next: status.next_schedule_time,
    };
    let is_suspended = wanted.suspend == Some(true);
    let is_made = |tick| snapshots.iter().any(|snapshot| is_of_tick(snapshot, tick));
    let pending = status
        .pending_schedule_time
        .filter(|tick| !is_suspended && !is_made(*tick));
    let keep = |standing| Scheduled {
        make: pending,
        state: state.clone(),
        standing,
        ..Scheduled::default()
    };
    let schedule = match Schedule::parse(&wanted.cron_expression, wanted.time_zone.as_deref()) {
        Ok(schedule) => schedule,
        Err(error) => return keep(Standing::Invalid(error.to_string())),
    };
    // What was decided is made before anything else is.
    if pending.is_some() {
        return keep(Standing::On);
    }
    if !is_running && !is_suspended {
        return keep(Standing::Waiting);
    }
    // One that waits aside keeps no tick, unless what the tick would make had to wait for the same.
    let is_met = |snapshot: &Snapshot| snapshot.spec.storage.secrets().eq(wanted.storage.secrets());
    let active = snapshots
        .iter()
        .any(|snapshot| is_active(snapshot) && (!is_aside(snapshot) || is_met(snapshot)));
    let deadline = wanted
        .starting_deadline_seconds
        .map(SignedDuration::from_secs);
    let decision = due(now, &schedule, &state, active, is_suspended, deadline);
    let (make, left) = match decision.action {
        ScheduleAction::Run { tick, .. } => (Some(tick), None),
        ScheduleAction::Skip { tick } => (None, Some(Left::Active(tick))),
        ScheduleAction::Miss { tick } => (None, Some(Left::Late(tick))),
        ScheduleAction::Wait => (None, None),
    };
    Scheduled {
        make,
        is_first: state.last.is_none(),
        left,
        state: decision.state,
        standing: if is_suspended {
            Standing::Suspended
        } else {
            Standing::On
        },
    }
}

/// Whether a Snapshot of the database was made for this tick.
pub(super) fn is_of_tick(snapshot: &Snapshot, tick: Timestamp) -> bool {
    snapshot.annotations().get(labels::TICK) == Some(&tick.to_string())
}

/// Whether a Snapshot is Pending or Running.
pub(crate) fn is_active(snapshot: &Snapshot) -> bool {
    let phase = snapshot.status.as_ref().and_then(|status| status.phase);
    !matches!(phase, Some(Succeeded | Failed)) && snapshot.metadata.deletion_timestamp.is_none()
}

/// Whether a Pending Snapshot waits for something of its own, as its condition says.
pub(crate) fn is_aside(snapshot: &Snapshot) -> bool {
    let Some(status) = &snapshot.status else {
        return false;
    };
    let says_so = |known: &Condition| known.type_ == CAN_START && known.status == "False";
    status.phase == Some(Pending) && status.conditions.iter().any(says_so)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const START: &str = "2018-02-08T10:53:41Z";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn postgres(schedule: serde_json::Value, status: serde_json::Value) -> Postgres {
        serde_json::from_value(json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "metadata": {"name": "pg"},
            "spec": {"version": "15", "backupSchedule": schedule}, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_decided_tick_is_made_before_anything_else_and_whatever_the_database_does() {
        let status = json!({"lastScheduleTime": START, "nextScheduleTime": "2018-02-08T16:53:41Z",
            "scheduleExpression": "@every 6h", "pendingScheduleTime": START});
        let pg = postgres(json!({"cronExpression": "@every 6h"}), status.clone());
        for is_running in [false, true] {
            let plan = scheduled(&pg, &[], is_running, at("2018-02-09T00:00:00Z"));
            assert_eq!(plan.make, Some(at(START)));
            assert_eq!(plan.state.next, Some(at("2018-02-08T16:53:41Z")));
        }
        // Suspended or removed: nobody wants it any more.
        let off = json!({"cronExpression": "@every 6h", "suspend": true});
        let plan = scheduled(&postgres(off, status.clone()), &[], true, at(START));
        assert_eq!((plan.make, plan.standing), (None, Standing::Suspended));
        let gone = scheduled(&postgres(json!(null), status), &[], true, at(START));
        assert_eq!(gone, Scheduled::default());
    }

    #[test]
    fn a_decided_tick_is_over_once_its_snapshot_is_seen() {
        let status = json!({"lastScheduleTime": START, "nextScheduleTime": "2018-02-08T16:53:41Z",
            "scheduleExpression": "@every 6h", "pendingScheduleTime": START});
        let pg = postgres(json!({"cronExpression": "@every 6h"}), status);
        let of = |tick: &str| -> Arc<Snapshot> {
            let snapshot = serde_json::from_value(json!({
                "apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot",
                "metadata": {"name": "one", "annotations": {labels::TICK: tick}}, "spec": {"databaseName": "pg"},
            }));
            Arc::new(snapshot.unwrap())
        };
        let soon = at("2018-02-08T10:53:42Z");
        let earlier = of("2018-02-08T04:53:41Z");
        let plan = scheduled(&pg, std::slice::from_ref(&earlier), true, soon);
        assert_eq!(plan.make, Some(at(START)));
        let plan = scheduled(&pg, &[earlier, of(START)], true, soon);
        assert_eq!((plan.make, plan.left), (None, None));
        assert_eq!(plan.state.next, Some(at("2018-02-08T16:53:41Z")));
    }

    #[test]
    fn removing_forgets_everything_so_that_adding_again_makes_one_at_once() {
        let schedule = json!({"cronExpression": "@daily"});
        let first = scheduled(&postgres(schedule, json!({})), &[], true, at(START));
        assert_eq!((first.make, first.is_first), (Some(at(START)), true));
        let forgotten = scheduled(&postgres(json!(null), json!({})), &[], true, at(START));
        assert_eq!(forgotten.state, ScheduleState::default());
    }

    #[test]
    fn a_tick_that_came_while_the_database_was_away_too_long_is_told_and_left() {
        let status = json!({"lastScheduleTime": START, "nextScheduleTime": "2018-02-08T16:53:41Z",
            "scheduleExpression": "@every 6h"});
        let wanted = json!({"cronExpression": "@every 6h", "startingDeadlineSeconds": 60});
        let pg = postgres(wanted, status);
        let away = scheduled(&pg, &[], false, at("2018-02-08T16:54:00Z"));
        assert_eq!((away.make, away.left), (None, None));
        let soon = scheduled(&pg, &[], true, at("2018-02-08T16:54:41Z"));
        assert_eq!(soon.make, Some(at("2018-02-08T16:53:41Z")));
        let late = scheduled(&pg, &[], true, at("2018-02-08T16:54:42Z"));
        let left = Left::Late(at("2018-02-08T16:53:41Z"));
        assert_eq!((late.make, late.left), (None, Some(left)));
        assert_eq!(late.state.next, Some(at("2018-02-08T22:53:41Z")));
        assert!(left.note().message.contains("startingDeadlineSeconds"));
    }

    #[test]
    fn a_database_that_is_not_running_makes_none_and_forgets_nothing() {
        let status = json!({"lastScheduleTime": START, "nextScheduleTime": "2018-02-08T16:53:41Z",
            "scheduleExpression": "@every 6h"});
        let pg = postgres(json!({"cronExpression": "@every 6h"}), status);
        let late = at("2018-02-10T00:00:00Z");
        let plan = scheduled(&pg, &[], false, late);
        assert_eq!((plan.make, plan.standing), (None, Standing::Waiting));
        let plan = scheduled(&pg, &[], true, late);
        assert_eq!(plan.make, Some(at("2018-02-09T22:53:41Z")));
    }
}
