//! From objects to what core decides on. Pure.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use kubedb_api::{
    Postgres, Snapshot,
    postgres::PostgresPhase,
    protocol::{InstanceRole, TaskPhase, TaskStatus},
    snapshot::SnapshotPhase,
};
use kubedb_core::snapshot::{Candidate, Report, SnapshotView, Stage};

use crate::postgres::schedule::is_active;

/// Silence after which an instance is no candidate.
const SILENCE_LIMIT: SignedDuration = SignedDuration::from_secs(35);

/// What was read for one Snapshot.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Its database.
    pub database: Option<Postgres>,
    /// All Snapshots of the database.
    pub siblings: Vec<Snapshot>,
    /// Name of the storage Secret, when it is named and not there.
    pub missing_secret: Option<String>,
}

/// What the assigned instance reports of the present attempt.
#[must_use]
pub fn task_status<'a>(snapshot: &Snapshot, found: &'a Found) -> Option<&'a TaskStatus> {
    let status = snapshot.status.as_ref()?;
    let instances = &found.database.as_ref()?.status.as_ref()?.instances;
    let report = instances
        .get(status.instance.as_deref()?)?
        .tasks
        .get(&snapshot.name_any())?;
    let is_this = Some(report.attempt) == status.attempt
        && Some(&report.snapshot_uid) == snapshot.uid().as_ref();
    is_this.then_some(report)
}

/// What core decides on.
#[must_use]
pub fn view(snapshot: &Snapshot, found: &Found, now: Timestamp) -> SnapshotView {
    let phase = found
        .database
        .as_ref()
        .and_then(|database| database.status.as_ref()?.phase);
    let is_running = phase == Some(PostgresPhase::Running);
    let obstacle = match &found.missing_secret {
        Some(name) => Some(format!("secrets \"{name}\" not found")),
        None if !is_running => Some("the database is not Running".to_owned()),
        None => None,
    };
    SnapshotView {
        now,
        stage: stage(snapshot, found, now),
        obstacle,
        database_exists: found
            .database
            .as_ref()
            .is_some_and(|database| database.metadata.deletion_timestamp.is_none()),
        before: before(snapshot, &found.siblings),
        candidates: candidates(found, now),
    }
}

fn stage(snapshot: &Snapshot, found: &Found, now: Timestamp) -> Stage {
    let created = snapshot.creation_timestamp().map_or(now, |time| time.0);
    let status = snapshot.status.clone().unwrap_or_default();
    if status.phase != Some(SnapshotPhase::Running) {
        return Stage::Pending {
            since: created,
            attempts: status.attempt.unwrap_or(0),
        };
    }
    let report = match task_status(snapshot, found) {
        None => Report::None,
        Some(task) => match task.phase {
            TaskPhase::Running => Report::Running {
                heartbeat: task.heartbeat_time,
            },
            TaskPhase::Succeeded => Report::Succeeded,
            TaskPhase::Failed => Report::Failed {
                reason: task.reason.clone().unwrap_or_default(),
                is_retryable: task.retryable != Some(false),
            },
        },
    };
    let instance_exists = found
        .database
        .as_ref()
        .and_then(|database| database.status.as_ref())
        .is_some_and(|known| {
            status
                .instance
                .as_ref()
                .is_some_and(|instance| known.instances.contains_key(instance))
        });
    Stage::Running {
        since: status.start_time.unwrap_or(created),
        attempt: status.attempt.unwrap_or(1),
        report,
        instance_exists,
    }
}

/// The Snapshot of the same database whose turn it is: one that runs, else an older one.
fn before(snapshot: &Snapshot, siblings: &[Snapshot]) -> Option<String> {
    let order = |snapshot: &Snapshot| {
        let runs = snapshot.status.as_ref().and_then(|status| status.phase)
            == Some(SnapshotPhase::Running);
        (!runs, snapshot.creation_timestamp(), snapshot.name_any())
    };
    siblings
        .iter()
        .filter(|other| is_active(other) && other.uid() != snapshot.uid())
        .filter(|other| order(other) < order(snapshot))
        .min_by_key(|other| order(other))
        .map(|other| other.name_any())
}

fn candidates(found: &Found, now: Timestamp) -> Vec<Candidate> {
    let Some(status) = found
        .database
        .as_ref()
        .and_then(|database| database.status.as_ref())
    else {
        return Vec::new();
    };
    status
        .instances
        .iter()
        .map(|(name, report)| {
            let is_primary = status.primary.as_ref() == Some(name);
            let is_fresh = report
                .heartbeat_time
                .is_some_and(|heartbeat| now.duration_since(heartbeat) < SILENCE_LIMIT);
            let in_role = is_primary == (report.role == Some(InstanceRole::Primary));
            Candidate {
                instance: name.clone(),
                is_primary,
                is_healthy: report.ready
                    && is_fresh
                    && in_role
                    && (is_primary || report.streaming == Some(true)),
                lsn: report.lsn.as_ref().and_then(|lsn| lsn.parse().ok()),
            }
        })
        .collect()
}
