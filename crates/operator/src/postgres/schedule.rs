//! The schedule's part of a plan.

use jiff::Timestamp;
use kubedb_api::{
    Postgres, PostgresStatus, Snapshot,
    snapshot::SnapshotPhase::{Failed, Succeeded},
};
use kubedb_core::schedule::{
    Schedule,
    plan::{ScheduleAction, ScheduleState, due},
};

/// What the schedule wants now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scheduled {
    /// Make a Snapshot for this tick.
    pub make: Option<Timestamp>,
    /// A tick passed while one was active.
    pub skipped: bool,
    /// What to remember.
    pub state: ScheduleState,
    /// Why.
    pub reason: String,
}

/// Decides. A database that is not Running keeps what it remembers, and its ticks wait: at most one is made up for.
pub(super) fn scheduled(
    postgres: &Postgres,
    snapshots: &[Snapshot],
    is_running: bool,
    now: Timestamp,
) -> Scheduled {
    let Some(wanted) = &postgres.spec.backup_schedule else {
        return Scheduled {
            reason: "there is no backupSchedule".to_owned(),
            ..Scheduled::default()
        };
    };
    let empty = PostgresStatus::default();
    let status = postgres.status.as_ref().unwrap_or(&empty);
    let state = ScheduleState {
        expression: status.schedule_expression.clone(),
        last: status.last_schedule_time,
        next: status.next_schedule_time,
    };
    let keep = |reason: String| Scheduled {
        state: state.clone(),
        reason,
        ..Scheduled::default()
    };
    let schedule = match Schedule::parse(&wanted.cron_expression, wanted.time_zone.as_deref()) {
        Ok(schedule) => schedule,
        Err(error) => return keep(error.to_string()),
    };
    if !is_running {
        return keep("the database is not Running".to_owned());
    }
    let active = snapshots.iter().any(is_active);
    let decision = due(now, &schedule, &state, active, wanted.suspend == Some(true));
    let (make, skipped) = match decision.action {
        ScheduleAction::Run { tick, .. } => (Some(tick), false),
        ScheduleAction::Skip { .. } => (None, true),
        ScheduleAction::Wait => (None, false),
    };
    Scheduled {
        make,
        skipped,
        state: decision.state,
        reason: decision.reason,
    }
}

/// Whether a Snapshot is Pending or Running.
pub(crate) fn is_active(snapshot: &Snapshot) -> bool {
    let phase = snapshot.status.as_ref().and_then(|status| status.phase);
    !matches!(phase, Some(Succeeded | Failed)) && snapshot.metadata.deletion_timestamp.is_none()
}
