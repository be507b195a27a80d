//! How archiving goes, and what can come back by it: from what the primary reports.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kubedb_api::{
    Postgres, PostgresStatus,
    archiver::ArchiveStatus,
    reasons::{ARCHIVING, component, event, text},
    retention::lineage,
};

use super::{conditions::made, dereference::Found, first::is_base};
use crate::events::Note;

/// The latest restorable time moves all the time; it is written when it has moved by this much, or when anything else is.
pub(super) const MOVES_BY: SignedDuration = SignedDuration::from_secs(60);

/// Reason of a condition that is Unknown, and was False before: when it is known again, that is news.
const SINCE_FAILURE: &str = "NotReportedSinceFailure";

/// Reason of a condition while nothing can be stored.
const FAILING: &str = "Failing";
/// Reason of a condition while the disk is nearly full: PostgreSQL stops then.
const FILLING: &str = "DiskFilling";
/// So much time to do something is little.
const NEAR: SignedDuration = SignedDuration::from_hours(1);

fn is_archived(postgres: &Postgres) -> bool {
    let archiver = postgres.spec.archiver.as_ref();
    archiver.is_some_and(|archiver| archiver.storage.is_some())
}

/// What the primary last reported.
fn reported<'a>(postgres: &'a Postgres, holder: Option<&String>) -> Option<&'a ArchiveStatus> {
    let instances = &postgres.status.as_ref()?.instances;
    instances.get(holder?)?.archive.as_ref()
}

/// The condition, of a database that has an archiver.
pub(super) fn condition(
    postgres: &Postgres,
    found: &Found,
    primary_ready: bool,
    now: Timestamp,
) -> Option<Condition> {
    if !is_archived(postgres) {
        return None;
    }
    let old = postgres.status.iter().flat_map(|status| &status.conditions);
    let old: Vec<_> = old.cloned().collect();
    let archive = reported(postgres, found.holder.as_ref()).filter(|_| primary_ready);
    let unknown = |reason, message: &str| {
        let reason = if was_failing(&old) {
            SINCE_FAILURE
        } else {
            reason
        };
        ("Unknown", reason, message.to_owned())
    };
    let (status, reason, message) = match archive {
        None if primary_ready => unknown(
            "NotReported",
            "the primary has not reported of its archive yet",
        ),
        None => unknown("NotReported", "the primary is not ready"),
        // The store may not even be there.
        Some(archive) if is_untried(archive) => unknown(
            "NothingStored",
            "nothing had to be stored since its agent began",
        ),
        Some(archive) => match (archive.failing_since, archive.disk_full_time) {
            (None, _) => {
                let mut message = "every change is stored as it is made".to_owned();
                if let Some(missing) = &archive.missing {
                    message += &format!(
                        "; older ones are missing from {missing} on, so that Snapshots of before cannot be replayed beyond it"
                    );
                }
                ("True", "Archiving", message)
            }
            (Some(since), None) => (
                "False",
                FAILING,
                format!("{} (since {since})", why(archive)),
            ),
            (Some(since), Some(full)) => {
                let is_near = full.duration_since(now) < NEAR;
                let reason = if is_near { FILLING } else { FAILING };
                let why = why(archive);
                let message =
                    format!("{why} (since {since}); as WAL is written, the disk is full at {full}");
                ("False", reason, message)
            }
        },
    };
    Some(made(
        postgres,
        &old,
        (ARCHIVING, status, reason),
        message,
        now,
    ))
}

/// Whether nothing was stored and nothing has failed since its agent began.
fn is_untried(archive: &ArchiveStatus) -> bool {
    archive.last_segment.is_none()
        && archive.covered_time.is_none()
        && archive.failing_since.is_none()
}

fn why(archive: &ArchiveStatus) -> &str {
    let why = archive.reason.as_deref();
    why.unwrap_or("its agent does not say why")
}

fn was_failing(conditions: &[Condition]) -> bool {
    let known = conditions.iter().find(|known| known.type_ == ARCHIVING);
    known.is_some_and(|known| known.status == "False" || known.reason == SINCE_FAILURE)
}

/// The Event of a condition that turned: when archiving begins to fail, and when it works again.
pub(super) fn note(postgres: &Postgres, new: &PostgresStatus) -> Option<Note> {
    let archiving = |known: &&Condition| known.type_ == ARCHIVING;
    let old = postgres.status.as_ref().map(|status| &status.conditions);
    let old = old.map_or(&[][..], Vec::as_slice);
    let known = new.conditions.iter().find(archiving)?;
    let was_filling = old
        .iter()
        .any(|old| old.type_ == ARCHIVING && old.reason == FILLING);
    if known.reason == FILLING && !was_filling {
        let archive = reported(postgres, new.primary.as_ref())?;
        let (full, why) = (archive.disk_full_time?, why(archive));
        let message = format!(
            "WAL that cannot be archived fills the disk, at {full} if it goes on so. Reason: {why}"
        );
        let (component, reason) = (component::POSTGRES_OPERATOR, event::DISK_FILLING);
        let since = archive.failing_since?.to_string();
        return Some(Note::warning(component, reason, message).of(since));
    }
    match (was_failing(old), known.status.as_str()) {
        (false, "False") => {
            let archive = reported(postgres, new.primary.as_ref())?;
            let message = format!("Failed to archive WAL. Reason: {}", why(archive));
            let (component, reason) = (component::POSTGRES_OPERATOR, event::ARCHIVE_FAILING);
            let since = archive.failing_since?.to_string();
            Some(Note::warning(component, reason, message).of(since))
        }
        (true, "True") => {
            let before = old.iter().find(archiving)?;
            let since = before.last_transition_time.0.to_string();
            let (reason, words) = (event::ARCHIVE_RECOVERED, text::ARCHIVE_RECOVERED);
            Some(Note::normal(component::POSTGRES_OPERATOR, reason, words).of(since))
        }
        _ => None,
    }
}

/// The Event of a gap that was not known before.
pub(super) fn gap(postgres: &Postgres, new: &PostgresStatus) -> Option<Note> {
    let missing = reported(postgres, new.primary.as_ref())?.missing.as_ref()?;
    let known = postgres.status.iter().flat_map(|status| &status.conditions);
    let known = known.filter(|known| known.type_ == ARCHIVING);
    let tells = |condition: &Condition| condition.message.contains(missing);
    let is_told = known.clone().any(tells);
    let is_news = new.conditions.iter().any(tells) && !is_told;
    is_news.then(|| {
        let message = format!(
            "The archive lacks WAL from {missing} on: Snapshots of before cannot be replayed beyond it. Take a Snapshot now"
        );
        Note::warning(component::POSTGRES_OPERATOR, event::ARCHIVE_GAP, message).of(missing.clone())
    })
}

/// The earliest and the latest moment that can come back. Without a Snapshot to begin from there is none.
pub(super) fn window(postgres: &Postgres, found: &Found) -> (Option<Timestamp>, Option<Timestamp>) {
    if !is_archived(postgres) {
        return (None, None);
    }
    let own = lineage(postgres);
    let status = postgres.status.as_ref();
    if own.is_none() {
        // Nobody says which data it has; what it had it has still.
        return status.map_or((None, None), |status| {
            (
                status.earliest_restorable_time,
                status.latest_restorable_time,
            )
        });
    }
    let bases = found
        .snapshots
        .iter()
        .filter(|snapshot| is_base(snapshot, own));
    let complete = bases.filter_map(|snapshot| snapshot.status.as_ref()?.completion_time);
    let Some(earliest) = complete.min() else {
        return (None, None);
    };
    let covered =
        reported(postgres, found.holder.as_ref()).and_then(|archive| archive.covered_time);
    let latest = covered.or_else(|| status?.latest_restorable_time);
    (
        Some(earliest),
        Some(latest.unwrap_or(earliest).max(earliest)),
    )
}

/// Whether the latest restorable time has moved by so little that this alone is not worth a write.
pub(super) fn is_little(old: Option<Timestamp>, new: Option<Timestamp>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => new.duration_since(old).abs() < MOVES_BY,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kubedb_api::Snapshot;
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-11-26T12:00:00Z";

    fn postgres(archive: Value, conditions: &[Condition]) -> Postgres {
        serde_json::from_value(json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "metadata": {"name": "pg"},
            "spec": {"version": "15", "archiver": {"storage": {"local": {"mountPath": "/b"}}}},
            "status": {"primary": "pg-0", "conditions": conditions, "instances": {"pg-0": {
                "phase": "Running", "ready": true, "session": "s", "lineage": "own", "archive": archive}}},
        }))
        .unwrap()
    }

    fn found(snapshots: Value) -> Found {
        let snapshots: Vec<Snapshot> = serde_json::from_value(snapshots).unwrap();
        Found {
            holder: Some("pg-0".to_owned()),
            snapshots: snapshots.into_iter().map(Arc::new).collect(),
            ..Found::default()
        }
    }

    fn snapshot(lineage: &str, ended: &str) -> Value {
        json!({"apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot", "metadata": {"name": "one"},
            "spec": {"databaseName": "pg"}, "status": {"phase": "Succeeded", "completionTime": ended,
                "result": {"manifest": "m", "lineage": lineage, "systemIdentifier": "1", "postgresVersion": "15.1", "timeline": 1,
                    "startLsn": "0/1", "stopLsn": "0/2", "databaseBytes": 1, "readBytes": 1, "uploadedBytes": 1, "storedBytes": 1}}})
    }

    /// Lets the condition follow these reports; the words of each, and of the Event.
    fn told(reports: &[(Value, bool)]) -> Vec<(String, String, Option<String>)> {
        let mut conditions = Vec::new();
        let mut told = Vec::new();
        for (report, is_ready) in reports {
            let postgres = postgres(report.clone(), &conditions);
            let found = found(json!([]));
            let new = condition(&postgres, &found, *is_ready, NOW.parse().unwrap()).unwrap();
            let after = PostgresStatus {
                conditions: vec![new.clone()],
                primary: Some("pg-0".to_owned()),
                ..PostgresStatus::default()
            };
            let note = note(&postgres, &after);
            told.push((
                new.status.clone(),
                new.reason.clone(),
                note.map(|note| note.message),
            ));
            conditions = vec![new];
        }
        told
    }

    #[test]
    fn a_failure_is_told_once_and_its_end_too_whatever_lies_between() {
        let good = (json!({"lastSegment": "000000010000000000000003"}), true);
        let bad = (json!({"failingSince": NOW, "reason": "bucket gone"}), true);
        let silent = (Value::Null, true);
        let untried = (json!({ "waitingSegments": 0 }), true);
        let down = (good.0.clone(), false);
        let row = |status: &str, reason: &str, note: Option<&str>| {
            (
                status.to_owned(),
                reason.to_owned(),
                note.map(str::to_owned),
            )
        };
        let failed = "Failed to archive WAL. Reason: bucket gone";
        assert_eq!(
            told(&[
                silent.clone(),
                untried.clone(),
                good.clone(),
                bad.clone(),
                untried,
                bad.clone(),
                silent.clone(),
                down,
                bad,
                silent,
                good
            ]),
            [
                row("Unknown", "NotReported", None),
                row("Unknown", "NothingStored", None),
                row("True", "Archiving", None),
                row("False", "Failing", Some(failed)),
                row("Unknown", "NotReportedSinceFailure", None),
                row("False", "Failing", None),
                row("Unknown", "NotReportedSinceFailure", None),
                row("Unknown", "NotReportedSinceFailure", None),
                row("False", "Failing", None),
                row("Unknown", "NotReportedSinceFailure", None),
                row("True", "Archiving", Some("WAL is archived again")),
            ]
        );
    }

    #[test]
    fn a_disk_that_fills_is_told_an_hour_before_it_is_full() {
        let now: Timestamp = NOW.parse().unwrap();
        let full_in = |minutes: i64| {
            let full = now + SignedDuration::from_mins(minutes);
            (
                json!({"failingSince": NOW, "reason": "bucket gone", "diskFullTime": full}),
                true,
            )
        };
        let told = told(&[full_in(600), full_in(59), full_in(55)]);
        let reasons: Vec<&str> = told.iter().map(|(_, reason, _)| reason.as_str()).collect();
        assert_eq!(reasons, ["Failing", "DiskFilling", "DiskFilling"]);
        let notes: Vec<Option<&str>> = told.iter().map(|(.., note)| note.as_deref()).collect();
        let full = now + SignedDuration::from_mins(59);
        let filling = format!(
            "WAL that cannot be archived fills the disk, at {full} if it goes on so. Reason: bucket gone"
        );
        let failing = "Failed to archive WAL. Reason: bucket gone";
        assert_eq!(notes, [Some(failing), Some(filling.as_str()), None]);
    }

    #[test]
    fn a_gap_is_told_once() {
        let now: Timestamp = NOW.parse().unwrap();
        let report = |missing: Value| json!({"lastSegment": "000000010000000000000009", "gaps": 1, "missing": missing});
        let mut conditions = Vec::new();
        let mut told = Vec::new();
        for missing in [
            Value::Null,
            json!("000000010000000000000005"),
            json!("000000010000000000000005"),
            Value::Null,
        ] {
            let postgres = postgres(report(missing), &conditions);
            let new = condition(&postgres, &found(json!([])), true, now).unwrap();
            assert_eq!(new.status, "True");
            conditions = vec![new];
            let after = PostgresStatus {
                conditions: conditions.clone(),
                primary: Some("pg-0".to_owned()),
                ..PostgresStatus::default()
            };
            told.push(gap(&postgres, &after).map(|note| note.reason));
        }
        assert_eq!(told, [None, Some("ArchiveGap"), None, None]);
        assert_eq!(
            conditions[0].message,
            "every change is stored as it is made"
        );
    }

    #[test]
    fn the_window_begins_with_a_snapshot_of_this_data() {
        let at = |text: &str| text.parse::<Timestamp>().ok();
        let covered = json!({"coveredTime": "2026-11-26T11:59:00Z"});
        let all = |archive: &Value, snapshots: Value| {
            window(&postgres(archive.clone(), &[]), &found(snapshots))
        };
        assert_eq!(all(&covered, json!([])), (None, None));
        assert_eq!(
            all(&covered, json!([snapshot("other", "2026-11-25T00:00:00Z")])),
            (None, None)
        );
        let two = json!([
            snapshot("own", "2026-11-26T09:00:00Z"),
            snapshot("own", "2026-11-26T08:00:00Z")
        ]);
        assert_eq!(
            all(&covered, two.clone()),
            (at("2026-11-26T08:00:00Z"), at("2026-11-26T11:59:00Z"))
        );
        // Nothing is archived yet: the Snapshot alone can come back.
        assert_eq!(
            all(&Value::Null, two),
            (at("2026-11-26T08:00:00Z"), at("2026-11-26T08:00:00Z"))
        );
    }

    #[test]
    fn a_minute_is_worth_a_write() {
        let at = |text: &str| text.parse::<Timestamp>().ok();
        assert!(is_little(at("2026-11-26T11:59:01Z"), at(NOW)));
        assert!(!is_little(at("2026-11-26T11:59:00Z"), at(NOW)));
        assert!(!is_little(None, at(NOW)));
        assert!(!is_little(at(NOW), None));
    }
}
