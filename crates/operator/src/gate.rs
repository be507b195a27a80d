//! Keeps heartbeats from causing work: a reconcile of what did not change in anything that counts ends before its first request.

use std::{
    collections::{BTreeSet, HashMap, hash_map::DefaultHasher},
    hash::{Hash as _, Hasher as _},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kubedb_api::{Postgres, archiver::ArchiveStatus};

#[derive(Clone, Copy, Debug)]
struct Seen {
    digest: u64,
    due: Instant,
}

/// What each database looked like when it was last reconciled, and when to look again all the same.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    seen: Mutex<HashMap<String, Seen>>,
}

impl Gate {
    /// How long nothing is to do yet; none if something is.
    pub(crate) fn closed_for(&self, key: &str, digest: u64, now: Instant) -> Option<Duration> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.get(key) {
            Some(known) if known.digest == digest && now < known.due => Some(known.due - now),
            _ => {
                seen.insert(key.to_owned(), Seen { digest, due: now });
                None
            }
        }
    }

    /// Closes it, unless something happened since `closed_for` let the digest `looked_at` through. What was written meanwhile, and wants nothing further,
    /// is `left`.
    pub(crate) fn close(&self, key: &str, looked_at: u64, left: u64, due: Instant) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = seen.get_mut(key)
            && known.digest == looked_at
        {
            *known = Seen { digest: left, due };
        }
    }

    /// Something else happened to the database, or it is gone.
    pub(crate) fn open(&self, key: &str) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.remove(key);
    }
}

/// Everything of a database that a decision may rest on. Heartbeats count only by `who` is alive, and who is primary.
pub(crate) fn digest<'a>(postgres: &Postgres, who: impl IntoIterator<Item = &'a String>) -> u64 {
    let mut postgres = postgres.clone();
    postgres.metadata.resource_version = None;
    postgres.metadata.managed_fields = None;
    if let Some(status) = &mut postgres.status {
        status.latest_restorable_time = None;
    }
    for report in postgres
        .status
        .iter_mut()
        .flat_map(|status| status.instances.values_mut())
    {
        report.heartbeat_time = None;
        report.lsn = None;
        if let Some(archive) = &mut report.archive {
            // Where it stands moves all the time; whether it goes on is what counts.
            *archive = ArchiveStatus {
                failing_since: archive.failing_since,
                reason: archive.reason.take(),
                disk_full_time: archive.disk_full_time,
                gaps: archive.gaps,
                missing: archive.missing.take(),
                ..ArchiveStatus::default()
            };
        }
        for task in report.tasks.values_mut() {
            task.heartbeat_time = Timestamp::UNIX_EPOCH;
            task.progress = None;
        }
    }
    let mut hasher = DefaultHasher::new();
    // Kinds of ours have string keys only, so this does not fail; if it did, the gate would stay open for nothing worse than work.
    serde_json::to_vec(&postgres)
        .unwrap_or_default()
        .hash(&mut hasher);
    who.into_iter().collect::<BTreeSet<_>>().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use kubedb_api::{
        PostgresSpec, PostgresStatus,
        protocol::{InstancePhase, InstanceStatus},
    };

    use super::*;

    fn postgres(change: impl FnOnce(&mut InstanceStatus)) -> Postgres {
        let mut postgres = Postgres::new("pg", PostgresSpec::default());
        let mut report = InstanceStatus::default();
        change(&mut report);
        let mut status = PostgresStatus::default();
        status.instances.insert("pg-0".to_owned(), report);
        postgres.status = Some(status);
        postgres
    }

    #[test]
    fn a_heartbeat_changes_nothing_and_everything_else_does() {
        let alive = ["pg-0".to_owned()];
        let plain = digest(&postgres(|_| {}), &alive);
        let beat = postgres(|report| {
            report.heartbeat_time = Some(Timestamp::UNIX_EPOCH);
            report.lsn = Some("0/3000060".to_owned());
        });
        assert_eq!(digest(&beat, &alive), plain);
        let archive = |covered: i64, since: Option<Timestamp>| {
            let covered = Timestamp::from_second(covered).unwrap();
            let archive = ArchiveStatus {
                covered_time: Some(covered),
                last_segment: Some(covered.to_string()),
                failing_since: since,
                ..ArchiveStatus::default()
            };
            digest(&postgres(|report| report.archive = Some(archive)), &alive)
        };
        assert_eq!(archive(1, None), archive(2, None), "it goes on");
        assert_ne!(archive(1, None), archive(1, Some(Timestamp::UNIX_EPOCH)));
        let phase = postgres(|report| report.phase = InstancePhase::Running);
        assert_ne!(digest(&phase, &alive), plain);
        assert_ne!(digest(&beat, &[]), plain, "it fell silent");
    }

    #[test]
    fn the_gate_opens_for_change_for_time_and_for_what_happens_meanwhile() {
        let gate = Gate::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(gate.closed_for("pg", 1, at(0)), None);
        // Until it is closed the work was not done.
        assert_eq!(gate.closed_for("pg", 1, at(0)), None);
        gate.close("pg", 1, 1, at(30));
        let left = Some(Duration::from_secs(20));
        assert_eq!(gate.closed_for("pg", 1, at(10)), left);
        assert_eq!(gate.closed_for("pg", 2, at(10)), None);
        gate.close("pg", 2, 2, at(30));
        assert_eq!(gate.closed_for("pg", 2, at(30)), None);
        gate.open("pg");
        gate.close("pg", 2, 2, at(60));
        assert_eq!(gate.closed_for("pg", 2, at(31)), None);
        // It is closed for what the work left behind, and for nothing else.
        gate.close("pg", 2, 3, at(60));
        assert_eq!(gate.closed_for("pg", 3, at(40)), left);
        assert_eq!(gate.closed_for("pg", 2, at(40)), None);
    }
}
