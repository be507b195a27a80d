//! `backupSchedule.retention`: which Snapshots of a schedule are kept.

use jiff::Timestamp;
use kube::ResourceExt as _;
use kubedb_core::retention::{Candidate, Outcome, Policy, parse_within};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Postgres, Snapshot, labels,
    snapshot::SnapshotPhase::{Failed, Succeeded},
    verification::is_refuted,
};

/// Which Snapshots of the schedule are kept. Each rule adds some; what no rule keeps is deleted with its data. Without a rule all
/// are kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// The newest ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_last: Option<i32>,
    /// The newest of each of so many hours that have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_hourly: Option<i32>,
    /// The newest of each of so many days that have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_daily: Option<i32>,
    /// The newest of each of so many weeks that have one; weeks begin on Monday.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_weekly: Option<i32>,
    /// The newest of each of so many months that have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_monthly: Option<i32>,
    /// The newest of each of so many years that have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_yearly: Option<i32>,
    /// All that are at most this much older than the newest good one, such as `36h`, `30d` or `1y`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_within: Option<String>,
    /// The newest failed ones; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_history_limit: Option<i32>,
}

impl Retention {
    /// As the decision takes it. What validation would refuse keeps nothing away from deletion, and nothing is deleted on it alone.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let count = |rule: Option<i32>| rule.and_then(|count| u32::try_from(count).ok());
        let kept = |rule| count(rule).unwrap_or(0);
        Policy {
            last: kept(self.keep_last),
            hourly: kept(self.keep_hourly),
            daily: kept(self.keep_daily),
            weekly: kept(self.keep_weekly),
            monthly: kept(self.keep_monthly),
            yearly: kept(self.keep_yearly),
            within: self
                .keep_within
                .as_deref()
                .and_then(|text| parse_within(text).ok()),
            failed: count(self.failed_history_limit),
        }
    }
}

/// Which data a database has, as its primary says. Nobody knows before it said so.
#[must_use]
pub fn lineage(postgres: &Postgres) -> Option<&str> {
    let status = postgres.status.as_ref()?;
    let report = status.instances.get(status.primary.as_ref()?)?;
    report.lineage.as_deref()
}

/// What the decision needs to know of a Snapshot. `None` of one that is being deleted already.
#[must_use]
pub fn candidate(snapshot: &Snapshot, lineage: Option<&str>, is_in_use: bool) -> Option<Candidate> {
    if snapshot.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = snapshot.status.as_ref();
    let outcome = match status.and_then(|status| status.phase) {
        Some(Succeeded) => Outcome::Good,
        Some(Failed) => Outcome::Failed,
        _ => Outcome::Unfinished,
    };
    let tick = snapshot.annotations().get(labels::TICK);
    let made = snapshot.metadata.creation_timestamp.as_ref();
    let tick_time = tick.and_then(|tick| tick.parse::<Timestamp>().ok());
    let result = status.and_then(|status| status.result.as_ref());
    Some(Candidate {
        name: snapshot.name_any(),
        time: tick_time.or_else(|| made.map(|made| made.0))?,
        outcome,
        is_scheduled: tick.is_some(),
        is_pinned: is_pinned(snapshot),
        is_refuted: is_refuted(snapshot),
        is_in_use,
        is_own: lineage.is_some() && result.map(|result| result.lineage.as_str()) == lineage,
    })
}

/// Whether a person said that it stays. Any word but `false` says so: a typing error must not delete.
#[must_use]
pub fn is_pinned(snapshot: &Snapshot) -> bool {
    let pinned = snapshot.annotations().get(labels::PINNED);
    pinned.is_some_and(|word| word != "false")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn snapshot(annotations: serde_json::Value, status: serde_json::Value) -> Snapshot {
        serde_json::from_value(json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot",
            "metadata": {"name": "s", "annotations": annotations, "creationTimestamp": "2026-01-02T00:00:00Z"},
            "spec": {"databaseName": "pg"}, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_snapshot_is_what_its_object_says_and_unknown_otherwise() {
        let result = json!({"manifest": "m", "lineage": "l", "systemIdentifier": "1", "postgresVersion": "15.1",
            "timeline": 1, "startLsn": "0/1", "stopLsn": "0/2", "databaseBytes": 1, "readBytes": 1, "uploadedBytes": 1,
            "storedBytes": 1});
        let good = json!({"phase": "Succeeded", "result": result});
        let tick = json!({"kubedb.com/scheduled-for": "2026-01-01T00:00:00Z"});
        let found = candidate(&snapshot(tick, good.clone()), Some("l"), false).unwrap();
        assert_eq!(found.time, "2026-01-01T00:00:00Z".parse().unwrap());
        assert!(found.is_scheduled && found.is_own && found.outcome == Outcome::Good);
        let found = candidate(&snapshot(json!({}), good.clone()), Some("other"), false).unwrap();
        assert_eq!(found.time, "2026-01-02T00:00:00Z".parse().unwrap());
        assert!(!found.is_scheduled && !found.is_own);
        let found = candidate(&snapshot(json!({}), good), None, false).unwrap();
        assert!(!found.is_own);
        let found = candidate(&snapshot(json!({}), json!({})), None, false).unwrap();
        assert_eq!(found.outcome, Outcome::Unfinished);
        for (word, pinned) in [("true", true), ("", true), ("yes", true), ("false", false)] {
            let snapshot = snapshot(json!({"kubedb.com/pinned": word}), json!({}));
            assert_eq!(is_pinned(&snapshot), pinned, "{word}");
        }
    }

    #[test]
    fn absent_rules_keep_nothing_and_no_limit_keeps_all_failures() {
        let retention: Retention =
            serde_json::from_value(json!({"keepDaily": 7, "keepWithin": "36h"})).unwrap();
        let policy = retention.policy();
        assert_eq!((policy.daily, policy.last, policy.failed), (7, 0, None));
        assert_eq!(policy.within.unwrap().as_hours(), 36);
        assert!(Retention::default().policy().is_empty());
    }
}
