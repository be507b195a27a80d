//! From objects to what core decides on. Pure.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use kubedb_api::{
    Postgres, Snapshot, labels,
    postgres::PostgresPhase,
    protocol::{InstanceRole, TaskPhase, TaskStatus},
    snapshot::{SnapshotPhase, SnapshotTarget},
    verification::VerificationPhase,
};
use kubedb_core::{
    snapshot::{Candidate, Report, SnapshotView, Stage},
    steps::Step,
};

use super::runs;
use crate::postgres::schedule::{is_active, is_aside};

/// What was read for one Snapshot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// Its database.
    pub(crate) database: Option<Postgres>,
    /// All Snapshots of the database.
    pub(crate) siblings: Vec<Arc<Snapshot>>,
    /// Name of the storage Secret, when it is named and not there.
    pub(crate) missing_secret: Option<String>,
    /// Instances of the database that are alive.
    pub(crate) alive: BTreeMap<String, SignedDuration>,
    /// For how long the assigned agent has said nothing new of this attempt.
    pub(crate) silence: SignedDuration,
    /// Steps that the clock made.
    pub(crate) steps: Vec<Step>,
}

/// What the assigned instance reports of the present attempt.
#[must_use]
pub(crate) fn task_status<'a>(
    snapshot: &Snapshot,
    database: Option<&'a Postgres>,
) -> Option<&'a TaskStatus> {
    let status = snapshot.status.as_ref()?;
    let instances = &database?.status.as_ref()?.instances;
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
pub(crate) fn view(snapshot: &Snapshot, found: &Found, now: Timestamp) -> SnapshotView {
    let phase = found
        .database
        .as_ref()
        .and_then(|database| database.status.as_ref()?.phase);
    let is_running = phase == Some(PostgresPhase::Running);
    SnapshotView {
        now,
        steps: found.steps.clone(),
        stage: stage(snapshot, found, now),
        obstacle: (!is_running).then(|| "the database is not Running".to_owned()),
        own_obstacle: found
            .missing_secret
            .as_ref()
            .map(|name| format!("secrets \"{name}\" not found")),
        database_exists: found
            .database
            .as_ref()
            .is_some_and(|database| database.metadata.deletion_timestamp.is_none()),
        before: before(snapshot, &found.siblings)
            .map(|before| format!("Snapshot {before} of the same database comes first"))
            .or_else(|| verifying(&found.siblings)),
        not_before: snapshot
            .annotations()
            .get(labels::START_AFTER)
            .and_then(|start| start.parse().ok()),
        candidates: candidates(found, is_of_primary(snapshot, found)),
    }
}

/// Whether no standby may take it: the user says so, or it cannot, since one of 9.6 lends no snapshots to those who read rows.
fn is_of_primary(snapshot: &Snapshot, found: &Found) -> bool {
    if snapshot.spec.target == Some(SnapshotTarget::Primary) {
        return true;
    }
    let version = found
        .database
        .as_ref()
        .map(|database| database.spec.version.text());
    snapshot.spec.is_logical() && version.is_some_and(|version| version.starts_with("9."))
}

fn stage(snapshot: &Snapshot, found: &Found, now: Timestamp) -> Stage {
    let created = snapshot.creation_timestamp().map_or(now, |time| time.0);
    let status = snapshot.status.clone().unwrap_or_default();
    if status.phase != Some(SnapshotPhase::Running) {
        return Stage::Pending {
            created,
            waiting: status.waiting_since,
            attempts: status.attempt.unwrap_or(0),
        };
    }
    let instances = found
        .database
        .as_ref()
        .and_then(|database| database.status.as_ref())
        .map(|known| &known.instances);
    let instance = status
        .instance
        .as_ref()
        .and_then(|instance| instances?.get(instance));
    let session = instance.map(|instance| instance.session.as_str());
    let report = match task_status(snapshot, found.database.as_ref()) {
        None => Report::None,
        Some(task) => report_of(task, session),
    };
    Stage::Running {
        since: status.start_time.unwrap_or(created),
        attempt: status.attempt.unwrap_or(1),
        report,
        silence: found.silence,
        instance_exists: instance.is_some(),
    }
}

/// What a report says. One of a session that its instance does not go on with is the last word of a dead agent.
pub(super) fn report_of(task: &TaskStatus, session: Option<&str>) -> Report {
    match task.phase {
        TaskPhase::Running if session.is_some_and(|session| session != task.session) => {
            Report::Failed {
                reason: "the session of its agent ended".to_owned(),
                is_retryable: true,
            }
        }
        TaskPhase::Running => Report::Running,
        TaskPhase::Succeeded => Report::Succeeded,
        TaskPhase::Failed => Report::Failed {
            reason: task.reason.clone().unwrap_or_default(),
            is_retryable: task.retryable != Some(false),
        },
    }
}

/// The Snapshot of the same database whose turn it is: one that runs, else an older one that could.
fn before(snapshot: &Snapshot, siblings: &[Arc<Snapshot>]) -> Option<String> {
    let order = |snapshot: &Snapshot| {
        (
            !runs(snapshot),
            snapshot.creation_timestamp(),
            snapshot.name_any(),
        )
    };
    siblings
        .iter()
        .filter(|other| is_active(other) && !is_aside(other) && other.uid() != snapshot.uid())
        .filter(|other| order(other) < order(snapshot))
        .min_by_key(|other| order(other))
        .map(|other| other.name_any())
}

/// Why it waits for a verification, which its own presence ends within seconds.
fn verifying(siblings: &[Arc<Snapshot>]) -> Option<String> {
    let other = siblings.iter().find(|other| is_verifying(other))?;
    let name = other.name_any();
    Some(format!(
        "the verification of Snapshot {name} is being taken back for it"
    ))
}

/// Whether an instance works on its verification.
pub(super) fn is_verifying(snapshot: &Snapshot) -> bool {
    let status = snapshot.status.as_ref();
    let known = status.and_then(|status| status.verification.as_ref());
    known.is_some_and(|known| known.phase == VerificationPhase::Running)
        && snapshot.metadata.deletion_timestamp.is_none()
}

fn candidates(found: &Found, is_primary_alone: bool) -> Vec<Candidate> {
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
            let in_role = is_primary == (report.role == Some(InstanceRole::Primary));
            Candidate {
                instance: name.clone(),
                is_primary,
                is_healthy: report.ready
                    && found.alive.contains_key(name)
                    && in_role
                    && (is_primary || report.streaming == Some(true))
                    && (is_primary || !is_primary_alone),
                lsn: report.lsn.as_ref().and_then(|lsn| lsn.parse().ok()),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use kubedb_core::snapshot::{SnapshotAction, decide};
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2018-02-08T10:53:41Z";

    fn snapshot(name: &str, created: &str, status: Value) -> Arc<Snapshot> {
        let snapshot = serde_json::from_value(json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot",
            "metadata": {"name": name, "uid": name, "creationTimestamp": created},
            "spec": {"databaseName": "pg"}, "status": status,
        }))
        .unwrap();
        Arc::new(snapshot)
    }

    fn found(report: Value) -> Found {
        let tasks = if report.is_null() {
            json!({})
        } else {
            json!({ "one": report })
        };
        let database = json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "metadata": {"name": "pg"},
            "spec": {"version": "15"},
            "status": {"phase": "Running", "primary": "pg-0", "instances": {"pg-0": {
                "phase": "Running", "ready": true, "role": "primary", "session": "second", "lsn": "0/3000060",
                "heartbeatTime": "1970-01-01T00:00:00Z", "tasks": tasks}}},
        });
        Found {
            database: Some(serde_json::from_value(database).unwrap()),
            alive: [("pg-0".to_owned(), SignedDuration::from_secs(9))].into(),
            ..Found::default()
        }
    }

    fn report(session: &str, uid: &str, attempt: u32) -> Value {
        json!({"snapshotUid": uid, "attempt": attempt, "session": session, "phase": "Running",
            "heartbeatTime": "2031-01-01T00:00:00Z"})
    }

    fn decided(snapshot: &Snapshot, found: &Found) -> SnapshotAction {
        decide(&view(snapshot, found, NOW.parse().unwrap())).action
    }

    #[test]
    fn a_snapshot_of_the_primary_is_read_from_no_standby() {
        let mut found = found(Value::Null);
        let database = found.database.as_mut().unwrap();
        let instances = &mut database.status.as_mut().unwrap().instances;
        let mut standby = instances["pg-0"].clone();
        standby.role = Some(InstanceRole::Standby);
        standby.streaming = Some(true);
        instances.insert("pg-1".to_owned(), standby);
        found.alive.insert("pg-1".to_owned(), SignedDuration::ZERO);
        let mut snapshot = snapshot("one", NOW, json!({"waitingSince": NOW}));
        let by = |snapshot: &Snapshot| match decided(snapshot, &found) {
            SnapshotAction::Assign { instance, .. } => instance,
            other => panic!("{other:?}"),
        };
        assert_eq!(by(&snapshot), "pg-1");
        Arc::make_mut(&mut snapshot).spec.target = Some(SnapshotTarget::Primary);
        assert_eq!(by(&snapshot), "pg-0");
    }

    fn running() -> Arc<Snapshot> {
        let status =
            json!({"phase": "Running", "attempt": 1, "instance": "pg-0", "startTime": NOW});
        snapshot("one", NOW, status)
    }

    #[test]
    fn t26_a_clock_that_is_decades_off_fails_nobody() {
        let found = found(report("second", "one", 1));
        let wait = |action| matches!(action, SnapshotAction::Wait { .. });
        assert!(wait(decided(&running(), &found)));
        let silent = Found {
            silence: SignedDuration::from_secs(30),
            ..found
        };
        assert_eq!(decided(&running(), &silent), SnapshotAction::Withdraw);
        // Nor does it keep an instance from being assigned.
        let pending = snapshot("one", NOW, json!(null));
        assert!(matches!(
            decided(&pending, &silent),
            SnapshotAction::Assign { .. }
        ));
        let dead = Found {
            alive: BTreeMap::new(),
            ..silent
        };
        assert!(wait(decided(&pending, &dead)));
    }

    #[test]
    fn an_ended_session_is_noticed_at_once() {
        let found = found(report("first", "one", 1));
        assert_eq!(decided(&running(), &found), SnapshotAction::Withdraw);
    }

    #[test]
    fn the_report_of_another_attempt_or_object_says_nothing() {
        for report in [report("second", "one", 2), report("second", "other", 1)] {
            let found = found(report);
            assert_eq!(task_status(&running(), found.database.as_ref()), None);
        }
    }

    #[test]
    fn snapshots_of_a_database_go_in_order_of_creation_behind_the_running_one() {
        let later = "2018-02-08T10:53:42Z";
        let one = snapshot("one", NOW, json!(null));
        let two = snapshot("two", NOW, json!({"phase": "Pending"}));
        let three = snapshot("three", later, json!({"phase": "Running"}));
        let over = snapshot("over", "2018-02-08T10:00:00Z", json!({"phase": "Failed"}));
        let first = vec![over.clone(), one.clone(), two.clone()];
        assert_eq!(before(&one, &first), None);
        assert_eq!(before(&two, &first).as_deref(), Some("one"));
        let busy = vec![over, one.clone(), two.clone(), three.clone()];
        assert_eq!(before(&one, &busy).as_deref(), Some("three"));
        assert_eq!(before(&two, &busy).as_deref(), Some("three"));
        assert_eq!(before(&three, &busy), None);
    }

    #[test]
    fn one_that_waits_aside_is_before_nobody() {
        let aside = json!({"phase": "Pending", "conditions": [{"type": "CanStart", "status": "False",
            "reason": "SecretMissing", "message": "", "lastTransitionTime": NOW}]});
        let aside = snapshot("one", NOW, aside);
        let two = snapshot("two", NOW, json!(null));
        assert_eq!(before(&two, &[aside.clone(), two.clone()]), None);
        let two = snapshot("two", NOW, json!({"phase": "Running"}));
        assert_eq!(before(&aside, &[two]).as_deref(), Some("two"));
    }
}
