//! What is told of a database to a Prometheus, as far as its object knows it. Its agents tell it, and so does the operator, which goes on when they are gone;
//! under the same names, so that an alert takes the newest of either (`max by (namespace, database)`).

use jiff::Timestamp;
use kube::ResourceExt as _;
use kubedb_core::{
    metrics::{Exposition, Family, gauge},
    schedule::Schedule,
};

use crate::{
    Postgres, PostgresStatus,
    postgres::BackupSchedule,
    reasons::{
        APPLIED, ARCHIVING, BACKUP_SCHEDULED, LAST_SNAPSHOT_SUCCEEDED, MONITORED, READY, VALID,
    },
    summary::SnapshotSummary,
    verification::VerificationPhase,
};

const OWN: &[&str] = &["namespace", "database"];

const INFO: Family = gauge(
    "kubedb_database_info",
    &["namespace", "database", "version", "postgres_version"],
    "1; its labels say which version is wanted and which PostgreSQL runs.",
);
const PHASE: Family = gauge(
    "kubedb_database_phase",
    &["namespace", "database", "phase"],
    "1 for the phase that the database is in, 0 for the others.",
);
const CONDITION: Family = gauge(
    "kubedb_database_condition",
    &["namespace", "database", "condition"],
    "1 while a condition of the database is True, 0 while it is False, -1 while it is Unknown.",
);
const REPLICAS: Family = gauge(
    "kubedb_database_replicas",
    OWN,
    "Instances that the database shall have.",
);
const READY_REPLICAS: Family = gauge(
    "kubedb_database_ready_replicas",
    OWN,
    "Instances that accept connections in their role.",
);
const EARLIEST: Family = gauge(
    "kubedb_restorable_earliest_timestamp_seconds",
    OWN,
    "The earliest moment that the archive can bring back; absent while there is none.",
);
const LATEST: Family = gauge(
    "kubedb_restorable_latest_timestamp_seconds",
    OWN,
    "The latest moment that the archive can bring back, some minute behind; absent while there is none.",
);
const SCHEDULE_LAST: Family = gauge(
    "kubedb_schedule_last_timestamp_seconds",
    OWN,
    "The last scheduled time for which a Snapshot was made.",
);
const SCHEDULE_NEXT: Family = gauge(
    "kubedb_schedule_next_timestamp_seconds",
    OWN,
    "The next scheduled time.",
);
const SCHEDULE_LAG: Family = gauge(
    "kubedb_schedule_lag_seconds",
    OWN,
    "For how long a Snapshot has been due and is not made; 0 while none is due.",
);
const SCHEDULE_INTERVAL: Family = gauge(
    "kubedb_schedule_interval_seconds",
    OWN,
    "The longest time between two of the next scheduled times; absent while the schedule is suspended.",
);
const SCHEDULE_SUSPENDED: Family = gauge(
    "kubedb_schedule_suspended",
    OWN,
    "1 while the schedule is suspended, 0 while it is in force; absent without a schedule.",
);
const SNAPSHOTS: Family = gauge(
    "kubedb_snapshots",
    &["namespace", "database", "phase"],
    "Snapshots of the database in this phase.",
);
const LAST_SUCCESS: Family = gauge(
    "kubedb_snapshot_last_success_timestamp_seconds",
    OWN,
    "When the last Snapshot that succeeded ended, of those there are; absent while there is none.",
);
const LAST_FAILURE: Family = gauge(
    "kubedb_snapshot_last_failure_timestamp_seconds",
    OWN,
    "When the last Snapshot that failed ended, of those there are; absent while there is none.",
);
const LAST_SUCCEEDED: Family = gauge(
    "kubedb_snapshot_last_succeeded",
    OWN,
    "1 if the last Snapshot that is over succeeded, 0 if it failed; absent while there is none.",
);
const LAST_DURATION: Family = gauge(
    "kubedb_snapshot_last_duration_seconds",
    OWN,
    "How long the last Snapshot that succeeded took.",
);
const LAST_DATABASE: Family = gauge(
    "kubedb_snapshot_last_database_bytes",
    OWN,
    "Size of the database's files in the last Snapshot that succeeded.",
);
const LAST_READ: Family = gauge(
    "kubedb_snapshot_last_read_bytes",
    OWN,
    "Bytes that the last Snapshot that succeeded read.",
);
const LAST_UPLOADED: Family = gauge(
    "kubedb_snapshot_last_uploaded_bytes",
    OWN,
    "Bytes that the last Snapshot that succeeded sent to the store.",
);
const LAST_STORED: Family = gauge(
    "kubedb_snapshot_last_stored_bytes",
    OWN,
    "Bytes that the last Snapshot that succeeded needs in the store, those that it shares with others included.",
);
const VERIFIED: Family = gauge(
    "kubedb_verification_last_timestamp_seconds",
    &["namespace", "database", "level"],
    "When the last verification of this level ended; absent while there is none.",
);
const VERIFIED_RESULT: Family = gauge(
    "kubedb_verification_last_result",
    &["namespace", "database", "level"],
    "1 if the last verification of this level proved the Snapshot sound, 0 if it proved it unsound, -1 if it could not tell.",
);

/// All of them, for documentation and checks.
pub const FAMILIES: &[&Family] = &[
    &INFO,
    &PHASE,
    &CONDITION,
    &REPLICAS,
    &READY_REPLICAS,
    &EARLIEST,
    &LATEST,
    &SCHEDULE_LAST,
    &SCHEDULE_NEXT,
    &SCHEDULE_LAG,
    &SCHEDULE_INTERVAL,
    &SCHEDULE_SUSPENDED,
    &SNAPSHOTS,
    &LAST_SUCCESS,
    &LAST_FAILURE,
    &LAST_SUCCEEDED,
    &LAST_DURATION,
    &LAST_DATABASE,
    &LAST_READ,
    &LAST_UPLOADED,
    &LAST_STORED,
    &VERIFIED,
    &VERIFIED_RESULT,
];

const PHASES: [&str; 4] = ["Creating", "Initializing", "Running", "Failed"];
/// Conditions that are told; others would be labels that nobody bounds.
const CONDITIONS: [&str; 7] = [
    READY,
    VALID,
    APPLIED,
    BACKUP_SCHEDULED,
    LAST_SNAPSHOT_SUCCEEDED,
    ARCHIVING,
    MONITORED,
];
/// Scheduled times that are looked at for the longest pause between two: a week of days, and one more.
const TICKS: usize = 8;

/// A moment as Prometheus counts it.
#[must_use]
pub fn seconds(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1_000.0
}

/// Adds what is known of a database.
pub fn database(postgres: &Postgres, now: Timestamp, to: &mut Exposition) {
    let (namespace, name) = (
        postgres.namespace().unwrap_or_default(),
        postgres.name_any(),
    );
    let own = [namespace.as_str(), name.as_str()];
    let (spec, empty) = (&postgres.spec, PostgresStatus::default());
    let status = postgres.status.as_ref().unwrap_or(&empty);
    let runs = status.postgres_version.as_deref().unwrap_or_default();
    to.add(&INFO, &[own[0], own[1], &spec.version.text(), runs], 1.0);
    let phase = status.phase.map(|phase| format!("{phase:?}"));
    to.state(&PHASE, &own, &PHASES, phase.as_deref());
    for condition in &status.conditions {
        if CONDITIONS.contains(&condition.type_.as_str()) {
            let value = match condition.status.as_str() {
                "True" => 1.0,
                "False" => 0.0,
                _ => -1.0,
            };
            to.add(&CONDITION, &[own[0], own[1], &condition.type_], value);
        }
    }
    to.add(&REPLICAS, &own, f64::from(spec.replicas.unwrap_or(1)));
    to.maybe(&READY_REPLICAS, &own, status.ready_replicas.map(f64::from));
    let earliest = status.earliest_restorable_time;
    to.maybe(&EARLIEST, &own, earliest.map(seconds));
    let latest = status.latest_restorable_time;
    to.maybe(&LATEST, &own, latest.map(seconds));
    if let Some(wanted) = &spec.backup_schedule {
        schedule(wanted, status, now, own, to);
    }
    if let Some(summary) = &status.snapshots {
        snapshots(summary, own, to);
    }
}

fn schedule(
    wanted: &BackupSchedule,
    status: &PostgresStatus,
    now: Timestamp,
    own: [&str; 2],
    to: &mut Exposition,
) {
    let is_suspended = wanted.suspend == Some(true);
    to.add(&SCHEDULE_SUSPENDED, &own, f64::from(u8::from(is_suspended)));
    let last = status.last_schedule_time;
    to.maybe(&SCHEDULE_LAST, &own, last.map(seconds));
    if is_suspended {
        return;
    }
    let next = status.next_schedule_time;
    to.maybe(&SCHEDULE_NEXT, &own, next.map(seconds));
    // One that was decided and is not made yet, else one that nobody has decided on.
    let due = status.pending_schedule_time.or(next);
    let lag = due.map(|due| (seconds(now) - seconds(due)).max(0.0));
    to.maybe(&SCHEDULE_LAG, &own, lag);
    let parsed = Schedule::parse(&wanted.cron_expression, wanted.time_zone.as_deref());
    let longest = parsed.ok().and_then(|schedule| longest(&schedule, now));
    to.maybe(&SCHEDULE_INTERVAL, &own, longest);
}

fn longest(schedule: &Schedule, now: Timestamp) -> Option<f64> {
    if let Some(interval) = schedule.interval() {
        return Some(interval.as_secs_f64());
    }
    let mut ticks = Vec::with_capacity(TICKS);
    let mut after = now;
    while ticks.len() < TICKS {
        let Some(tick) = schedule.next_after(after) else {
            break;
        };
        ticks.push(seconds(tick));
        after = tick;
    }
    let pauses = ticks.windows(2).map(|pair| pair[1] - pair[0]);
    pauses.fold(None, |longest: Option<f64>, pause| {
        Some(longest.map_or(pause, |longest| longest.max(pause)))
    })
}

fn snapshots(summary: &SnapshotSummary, own: [&str; 2], to: &mut Exposition) {
    let counts = [
        ("Pending", summary.pending),
        ("Running", summary.running),
        ("Succeeded", summary.succeeded),
        ("Failed", summary.failed),
    ];
    for (phase, count) in counts {
        to.add(&SNAPSHOTS, &[own[0], own[1], phase], f64::from(count));
    }
    let (good, bad) = (summary.last_success.as_ref(), summary.last_failure.as_ref());
    let ended = good.and_then(|last| last.completion_time);
    let failed = bad.and_then(|last| last.completion_time);
    to.maybe(&LAST_SUCCESS, &own, ended.map(seconds));
    to.maybe(&LAST_FAILURE, &own, failed.map(seconds));
    if ended.is_some() || failed.is_some() {
        to.add(&LAST_SUCCEEDED, &own, f64::from(u8::from(ended > failed)));
    }
    if let Some(last) = good {
        let began = last.start_time.map(seconds);
        let took = began
            .zip(ended)
            .map(|(began, ended)| seconds(ended) - began);
        to.maybe(&LAST_DURATION, &own, took);
        for (family, bytes) in [
            (&LAST_DATABASE, last.database_bytes),
            (&LAST_READ, last.read_bytes),
            (&LAST_UPLOADED, last.uploaded_bytes),
            (&LAST_STORED, last.stored_bytes),
        ] {
            to.maybe(family, &own, bytes.map(|bytes| bytes as f64));
        }
    }
    for (level, last) in summary.verified.levels() {
        let Some(last) = last else { continue };
        let level = format!("{level:?}");
        let labels = [own[0], own[1], level.as_str()];
        to.add(&VERIFIED, &labels, seconds(last.time));
        let result = match last.phase {
            VerificationPhase::Succeeded => 1.0,
            VerificationPhase::Failed => 0.0,
            _ => -1.0,
        };
        to.add(&VERIFIED_RESULT, &labels, result);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(spec: Value, status: Value, now: &str) -> String {
        let postgres: Postgres = serde_json::from_value(json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "metadata": {"name": "pg", "namespace": "demo"},
            "spec": spec, "status": status,
        }))
        .unwrap();
        let mut exposition = Exposition::new();
        database(&postgres, now.parse().unwrap(), &mut exposition);
        let known: Vec<&str> = FAMILIES.iter().map(|family| family.name).collect();
        for name in exposition.names() {
            assert!(known.contains(&name), "{name} is in no table");
        }
        let text = exposition.text();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let lines = lines.map(|line| line.replace("namespace=\"demo\",database=\"pg\"", ""));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn has(text: &str, wanted: &[&str]) {
        for line in wanted {
            assert!(text.lines().any(|known| known == *line), "{line}\n{text}");
        }
    }

    #[test]
    fn what_is_not_known_is_not_told() {
        let text = told(json!({"version": 9.6}), Value::Null, "2018-02-08T10:00:00Z");
        has(
            &text,
            &[
                "kubedb_database_info{,version=\"9.6\",postgres_version=\"\"} 1",
                "kubedb_database_phase{,phase=\"Running\"} 0",
                "kubedb_database_replicas{} 1",
            ],
        );
        assert_eq!(text.lines().count(), 6, "{text}");
    }

    #[test]
    fn an_alert_for_what_is_late_needs_no_more_than_this() {
        let schedule = json!({"cronExpression": "0 3 * * 1-5", "gcs": {"bucket": "b"}});
        let status = json!({"phase": "Running", "nextScheduleTime": "2018-02-09T03:00:00Z", "lastScheduleTime": "2018-02-08T03:00:00Z",
            "conditions": [{"type": "Ready", "status": "True", "reason": "r", "message": "", "lastTransitionTime": "2018-02-08T10:00:00Z"},
                {"type": "Archiving", "status": "Unknown", "reason": "r", "message": "", "lastTransitionTime": "2018-02-08T10:00:00Z"},
                {"type": "Theirs", "status": "True", "reason": "r", "message": "", "lastTransitionTime": "2018-02-08T10:00:00Z"}],
            "snapshots": {"succeeded": 1, "failed": 1, "verified": {"boot": {"name": "one", "time": "2018-02-08T05:00:00Z", "phase": "Inconclusive"}},
                "lastSuccess": {"name": "one", "startTime": "2018-02-08T03:00:00Z", "completionTime": "2018-02-08T03:01:30Z", "storedBytes": 7},
                "lastFailure": {"name": "two", "completionTime": "2018-02-08T04:00:00Z"}}});
        let spec = json!({"version": "15", "replicas": 3, "backupSchedule": schedule});
        let text = told(spec.clone(), status.clone(), "2018-02-09T03:00:20Z");
        has(
            &text,
            &[
                "kubedb_database_phase{,phase=\"Running\"} 1",
                "kubedb_database_condition{,condition=\"Ready\"} 1",
                "kubedb_database_condition{,condition=\"Archiving\"} -1",
                "kubedb_schedule_lag_seconds{} 20",
                // From Friday to Monday.
                "kubedb_schedule_interval_seconds{} 259200",
                "kubedb_schedule_suspended{} 0",
                "kubedb_snapshots{,phase=\"Failed\"} 1",
                "kubedb_snapshot_last_success_timestamp_seconds{} 1518058890",
                "kubedb_snapshot_last_succeeded{} 0",
                "kubedb_snapshot_last_duration_seconds{} 90",
                "kubedb_snapshot_last_stored_bytes{} 7",
                "kubedb_verification_last_result{,level=\"Boot\"} -1",
            ],
        );
        assert!(!text.contains("Theirs"), "{text}");
        let early = told(spec.clone(), status.clone(), "2018-02-09T02:59:00Z");
        has(&early, &["kubedb_schedule_lag_seconds{} 0"]);
        let mut suspended = spec;
        suspended["backupSchedule"]["suspend"] = json!(true);
        let text = told(suspended, status, "2018-02-09T03:00:20Z");
        has(&text, &["kubedb_schedule_suspended{} 1"]);
        assert!(
            !text.contains("interval") && !text.contains("lag"),
            "{text}"
        );
        let every = json!({"version": "15", "backupSchedule": {"cronExpression": "@every 6h"}});
        has(
            &told(every, json!({}), "2018-02-09T03:00:20Z"),
            &["kubedb_schedule_interval_seconds{} 21600"],
        );
    }
}
