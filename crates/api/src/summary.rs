//! How the Snapshots of a database are, in a few numbers (`Postgres.status.snapshots`): for people, and for whoever may not read the Snapshots themselves, as
//! an agent may not.
//!
//! The operator writes them by merge patch, which keeps what is not named: so every field is written, also one that is nothing.

use std::borrow::Borrow;

use jiff::Timestamp;
use kube::ResourceExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Snapshot,
    snapshot::SnapshotPhase,
    verification::{VerificationLevel, VerificationPhase},
};

/// How the Snapshots of a database are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotSummary {
    /// Snapshots that wait for their turn.
    #[serde(default)]
    pub pending: i32,
    /// Snapshots in work.
    #[serde(default)]
    pub running: i32,
    /// Snapshots that succeeded.
    #[serde(default)]
    pub succeeded: i32,
    /// Snapshots that failed.
    #[serde(default)]
    pub failed: i32,
    /// The last one that succeeded, of those there are.
    #[serde(default)]
    pub last_success: Option<LastSnapshot>,
    /// The last one that failed, of those there are.
    #[serde(default)]
    pub last_failure: Option<LastSnapshot>,
    /// The last verification of each level that is over.
    #[serde(default)]
    pub verified: Verified,
}

/// A Snapshot that is over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastSnapshot {
    /// Its name.
    pub name: String,
    /// When it started.
    #[schemars(with = "Option<String>")]
    #[serde(default)]
    pub start_time: Option<Timestamp>,
    /// When it ended.
    #[schemars(with = "Option<String>")]
    #[serde(default)]
    pub completion_time: Option<Timestamp>,
    /// Size of the database's files.
    #[serde(default)]
    pub database_bytes: Option<i64>,
    /// Bytes read.
    #[serde(default)]
    pub read_bytes: Option<i64>,
    /// Bytes sent to the store.
    #[serde(default)]
    pub uploaded_bytes: Option<i64>,
    /// Bytes it needs in the store, shared ones included.
    #[serde(default)]
    pub stored_bytes: Option<i64>,
}

/// The last verification of each level.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// Of every object.
    #[serde(default)]
    pub objects: Option<LastVerification>,
    /// Of every page.
    #[serde(default)]
    pub pages: Option<LastVerification>,
    /// With a server that was started on it.
    #[serde(default)]
    pub boot: Option<LastVerification>,
}

impl Verified {
    /// Level by level.
    pub fn levels(&self) -> [(VerificationLevel, Option<&LastVerification>); 3] {
        [
            (VerificationLevel::Objects, self.objects.as_ref()),
            (VerificationLevel::Pages, self.pages.as_ref()),
            (VerificationLevel::Boot, self.boot.as_ref()),
        ]
    }

    fn of(&mut self, level: VerificationLevel) -> &mut Option<LastVerification> {
        match level {
            VerificationLevel::Objects => &mut self.objects,
            VerificationLevel::Pages => &mut self.pages,
            VerificationLevel::Boot => &mut self.boot,
        }
    }
}

/// A verification that is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastVerification {
    /// Name of the Snapshot.
    pub name: String,
    /// When it ended.
    #[schemars(with = "String")]
    pub time: Timestamp,
    /// How: `Succeeded`, `Failed` or `Inconclusive`.
    pub phase: VerificationPhase,
}

/// Sums up the Snapshots of a database.
#[must_use]
pub fn summary<S: Borrow<Snapshot>>(snapshots: &[S]) -> SnapshotSummary {
    let mut all = SnapshotSummary::default();
    for snapshot in snapshots.iter().map(Borrow::borrow) {
        let phase = snapshot.status.as_ref().and_then(|status| status.phase);
        let (count, last) = match phase {
            None | Some(SnapshotPhase::Pending) => (&mut all.pending, None),
            Some(SnapshotPhase::Running) => (&mut all.running, None),
            Some(SnapshotPhase::Succeeded) => (&mut all.succeeded, Some(&mut all.last_success)),
            Some(SnapshotPhase::Failed) => (&mut all.failed, Some(&mut all.last_failure)),
        };
        *count += 1;
        if let Some(last) = last {
            let ended = over(snapshot);
            let time = |last: &LastSnapshot| last.completion_time;
            if last.as_ref().is_none_or(|last| time(last) <= time(&ended)) {
                *last = Some(ended);
            }
        }
        if let Some((level, verified)) = verification(snapshot) {
            let last = all.verified.of(level);
            if last.as_ref().is_none_or(|last| last.time <= verified.time) {
                *last = Some(verified);
            }
        }
    }
    all
}

fn over(snapshot: &Snapshot) -> LastSnapshot {
    let status = snapshot.status.as_ref();
    let result = status.and_then(|status| status.result.as_ref());
    LastSnapshot {
        name: snapshot.name_any(),
        start_time: status.and_then(|status| status.start_time),
        completion_time: status.and_then(|status| status.completion_time),
        database_bytes: result.map(|result| result.database_bytes),
        read_bytes: result.map(|result| result.read_bytes),
        uploaded_bytes: result.map(|result| result.uploaded_bytes),
        stored_bytes: result.map(|result| result.stored_bytes),
    }
}

fn verification(snapshot: &Snapshot) -> Option<(VerificationLevel, LastVerification)> {
    let known = snapshot.status.as_ref()?.verification.as_ref()?;
    let last = LastVerification {
        name: snapshot.name_any(),
        time: known.completion_time?,
        phase: known.phase,
    };
    known.phase.is_over().then_some((known.request.level, last))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn snapshot(name: &str, status: &Value) -> Snapshot {
        serde_json::from_value(json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot", "metadata": {"name": name},
            "spec": {"databaseName": "pg"}, "status": status,
        }))
        .unwrap()
    }

    fn at(hour: u32) -> String {
        format!("2018-02-08T{hour:02}:00:00Z")
    }

    #[test]
    fn the_last_of_each_kind_counts_in_whatever_order_they_come() {
        let good = |hour| {
            json!({"phase": "Succeeded", "startTime": at(hour - 1), "completionTime": at(hour), "result": {
                "manifest": "m", "lineage": "l", "systemIdentifier": "1", "postgresVersion": "15.1", "timeline": 1, "startLsn": "0/1",
                "stopLsn": "0/2", "databaseBytes": i64::from(hour), "readBytes": 1, "uploadedBytes": 2, "storedBytes": 3}})
        };
        let verified = |hour, level: &str, phase: &str| {
            let mut status = good(3);
            status["verification"] =
                json!({"request": {"level": level}, "phase": phase, "completionTime": at(hour)});
            status
        };
        let mut all = vec![
            snapshot("new", &good(9)),
            snapshot("old", &good(2)),
            snapshot("bad", &json!({"phase": "Failed", "completionTime": at(10)})),
            snapshot("next", &json!({"phase": "Running"})),
            snapshot("unseen", &Value::Null),
            snapshot("refuted", &verified(8, "Boot", "Failed")),
            snapshot("proven", &verified(5, "Boot", "Succeeded")),
            snapshot("looked-at", &verified(11, "Pages", "Running")),
        ];
        let first = summary(&all);
        let counts = (first.pending, first.running, first.succeeded, first.failed);
        assert_eq!(counts, (1, 1, 5, 1));
        let last = first.last_success.clone().unwrap();
        assert_eq!((last.name.as_str(), last.database_bytes), ("new", Some(9)));
        assert_eq!(first.last_failure.clone().unwrap().name, "bad");
        let boot = first.verified.boot.clone().unwrap();
        assert_eq!(
            (boot.name.as_str(), boot.phase),
            ("refuted", VerificationPhase::Failed)
        );
        assert_eq!(first.verified.pages, None);
        all.reverse();
        assert_eq!(summary(&all), first);
    }

    #[test]
    fn what_is_no_more_is_taken_back_by_the_patch() {
        let none = serde_json::to_value(summary::<Snapshot>(&[])).unwrap();
        for field in ["lastSuccess", "lastFailure"] {
            assert!(none.as_object().unwrap().contains_key(field), "{none}");
        }
        let read: SnapshotSummary = serde_json::from_value(json!({})).unwrap();
        assert_eq!(read, SnapshotSummary::default());
    }
}
