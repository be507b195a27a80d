//! How much archived WAL is kept.

use std::sync::Arc;

use kubedb_api::{Postgres, Snapshot, retention::lineage, snapshot::SnapshotPhase};
use kubedb_core::lsn::Lsn;

/// Where the earliest Snapshot of this database begins, whichever store it lies in. Those of an earlier database of the name need nothing of this one's
/// WAL. One that is being deleted counts until it is gone.
pub(super) fn keep_wal_from(postgres: &Postgres, snapshots: &[Arc<Snapshot>]) -> Option<String> {
    let lineage = lineage(postgres)?;
    let begins = snapshots.iter().filter_map(|snapshot| {
        let status = snapshot.status.as_ref()?;
        let result = status.result.as_ref()?;
        // No WAL is replayed behind one that holds rows.
        let counts = status.phase == Some(SnapshotPhase::Succeeded)
            && result.lineage == lineage
            && !snapshot.spec.is_logical();
        result.start_lsn.parse::<Lsn>().ok().filter(|_| counts)
    });
    begins.min().map(|begin| begin.to_string())
}

#[cfg(test)]
mod tests {
    use kubedb_api::protocol::InstanceStatus;
    use serde_json::json;

    use super::*;

    fn snapshot(phase: &str, lineage: &str, begin: &str) -> Arc<Snapshot> {
        let snapshot = serde_json::from_value(json!({
            "metadata": {"name": "snap"},
            "spec": {"databaseName": "pg"},
            "status": {"phase": phase, "result": {
                "manifest": "m", "lineage": lineage, "systemIdentifier": "7", "postgresVersion": "15.18", "timeline": 1,
                "startLsn": begin, "stopLsn": begin, "databaseBytes": 1, "readBytes": 1, "uploadedBytes": 1, "storedBytes": 1,
            }},
        }))
        .unwrap();
        Arc::new(snapshot)
    }

    #[test]
    fn the_earliest_good_snapshot_of_this_database_counts() {
        let mut postgres = Postgres::new("pg", kubedb_api::PostgresSpec::default());
        let snapshots = [
            snapshot("Succeeded", "ours", "0/9000028"),
            snapshot("Succeeded", "ours", "0/A000028"),
            snapshot("Failed", "ours", "0/2000028"),
            snapshot("Succeeded", "earlier", "0/1000028"),
        ];
        // Before anybody has said which database this is.
        assert_eq!(keep_wal_from(&postgres, &snapshots), None);
        let report = InstanceStatus {
            lineage: Some("ours".to_owned()),
            ..InstanceStatus::default()
        };
        let status = postgres.status.get_or_insert_default();
        status.primary = Some("pg-0".to_owned());
        status.instances.insert("pg-0".to_owned(), report);
        let keep = keep_wal_from(&postgres, &snapshots);
        assert_eq!(keep.as_deref(), Some("0/9000028"));
        assert_eq!(keep_wal_from(&postgres, &snapshots[2..]), None);
    }
}
