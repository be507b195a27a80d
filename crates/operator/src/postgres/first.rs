//! The first Snapshot of a database whose WAL is archived, which nobody else makes.

use std::sync::Arc;

use jiff::Timestamp;
use kubedb_api::{
    Postgres, Snapshot,
    postgres::FirstSnapshot,
    retention::lineage,
    snapshot::SnapshotPhase::{Failed, Succeeded},
};
use kubedb_core::first::{FirstAction, FirstState, FirstView, decide};

use super::schedule::{Scheduled, is_active};

/// What is wanted now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct First {
    /// Make a Snapshot whose name carries this time. It is in the status before, and still when this is done.
    pub(crate) make: Option<Timestamp>,
    /// When to look again.
    pub(crate) again: Option<Timestamp>,
    /// What to remember.
    pub(crate) status: Option<FirstSnapshot>,
}

/// Decides.
pub(super) fn first(
    postgres: &Postgres,
    snapshots: &[Arc<Snapshot>],
    schedule: &Scheduled,
    is_running: bool,
    now: Timestamp,
) -> First {
    let archiver = postgres.spec.archiver.as_ref();
    if archiver.is_none_or(|archiver| archiver.storage.is_none()) {
        return First::default();
    }
    let own = lineage(postgres);
    let known = postgres.status.as_ref();
    let known = known.and_then(|status| status.first_snapshot.as_ref());
    let failed = snapshots.iter().filter_map(|snapshot| {
        let status = snapshot.status.as_ref()?;
        (status.phase == Some(Failed)).then_some(status.completion_time?)
    });
    let view = FirstView {
        now,
        is_running: is_running && own.is_some(),
        has_base: snapshots.iter().any(|snapshot| is_base(snapshot, own)),
        is_active: snapshots.iter().any(|snapshot| is_unsettled(snapshot)),
        is_scheduled: schedule.make.is_some(),
        last_scheduled: schedule.state.last,
        last_failed: failed.max(),
        state: known.map(state).unwrap_or_default(),
    };
    let decision = decide(&view);
    let (make, again) = match decision.action {
        FirstAction::Make { tick } => (Some(tick), None),
        FirstAction::Wait { until } => (None, until),
    };
    First {
        make,
        again,
        status: decision.state.tick.map(|time| FirstSnapshot {
            time,
            tries: i32::try_from(decision.state.tries).unwrap_or(i32::MAX),
            pending: decision.state.is_pending,
        }),
    }
}

fn state(known: &FirstSnapshot) -> FirstState {
    FirstState {
        tick: Some(known.time),
        tries: u32::try_from(known.tries).unwrap_or_default(),
        is_pending: known.pending,
    }
}

/// Whether an archive of this data can be replayed from a Snapshot.
pub(super) fn is_base(snapshot: &Snapshot, own: Option<&str>) -> bool {
    let status = snapshot.status.as_ref();
    let result = status.and_then(|status| status.result.as_ref());
    own.is_some()
        && !snapshot.spec.is_logical()
        && snapshot.metadata.deletion_timestamp.is_none()
        && status.and_then(|status| status.phase) == Some(Succeeded)
        && result.map(|result| result.lineage.as_str()) == own
}

/// Whether one is in work, or on its way out, so that it cannot be told yet what there is.
fn is_unsettled(snapshot: &Snapshot) -> bool {
    is_active(snapshot) || snapshot.metadata.deletion_timestamp.is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-11-26T12:00:00Z";

    fn postgres(spec: Value, status: &Value) -> Postgres {
        let mut status = status.clone();
        status["primary"] = json!("pg-0");
        status["instances"] =
            json!({"pg-0": {"phase": "Running", "ready": true, "session": "s", "lineage": "own"}});
        serde_json::from_value(json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "metadata": {"name": "pg"},
            "spec": spec, "status": status,
        }))
        .unwrap()
    }

    fn archived(status: &Value) -> Postgres {
        let spec =
            json!({"version": "15", "archiver": {"storage": {"local": {"mountPath": "/b"}}}});
        postgres(spec, status)
    }

    fn snapshot(lineage: &str, phase: &str) -> Arc<Snapshot> {
        let snapshot = serde_json::from_value(json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot", "metadata": {"name": "one"},
            "spec": {"databaseName": "pg"}, "status": {"phase": phase, "completionTime": "2026-11-26T11:59:30Z",
                "result": {"manifest": "m", "lineage": lineage, "systemIdentifier": "1", "postgresVersion": "15.1", "timeline": 1,
                    "startLsn": "0/1", "stopLsn": "0/2", "databaseBytes": 1, "readBytes": 1, "uploadedBytes": 1, "storedBytes": 1}},
        }))
        .unwrap();
        Arc::new(snapshot)
    }

    fn decided(postgres: &Postgres, snapshots: &[Arc<Snapshot>]) -> First {
        let schedule = Scheduled::default();
        first(postgres, snapshots, &schedule, true, NOW.parse().unwrap())
    }

    #[test]
    fn a_database_without_an_archiver_makes_none() {
        let plain = postgres(json!({"version": "15"}), &json!({}));
        assert_eq!(decided(&plain, &[]), First::default());
    }

    #[test]
    fn one_of_the_same_data_is_enough_and_one_of_other_data_is_not() {
        let known = archived(&json!({}));
        assert_eq!(decided(&known, &[]).make, Some(NOW.parse().unwrap()));
        assert_eq!(
            decided(&known, &[snapshot("own", "Succeeded")]),
            First::default()
        );
        assert!(
            decided(&known, &[snapshot("other", "Succeeded")])
                .make
                .is_some()
        );
        assert!(
            decided(&known, &[snapshot("own", "Running")])
                .make
                .is_none()
        );
        let failed = decided(&known, &[snapshot("own", "Failed")]);
        assert_eq!(
            (failed.make, failed.again),
            (None, "2026-11-26T12:00:30Z".parse().ok())
        );
    }

    #[test]
    fn what_was_written_down_is_made_whatever_is_there() {
        let noted =
            json!({"firstSnapshot": {"time": "2026-11-26T11:00:00Z", "tries": 2, "pending": true}});
        let plan = decided(&archived(&noted), &[snapshot("own", "Succeeded")]);
        assert_eq!(plan.make, "2026-11-26T11:00:00Z".parse().ok());
        assert_eq!(plan.status.map(|status| status.tries), Some(2));
    }
}
