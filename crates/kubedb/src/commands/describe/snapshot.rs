//! `kubedb describe snap`.

use kubedb_api::{Snapshot, verification::Verification};

use super::text::{Description, size};

pub(super) fn describe(snapshot: &Snapshot, text: &mut Description) {
    let status = snapshot.status.clone().unwrap_or_default();
    text.metadata(&snapshot.metadata, "CreationTimestamp");
    text.time("StartTimestamp", status.start_time);
    text.time("CompletionTimestamp", status.completion_time);
    text.labels(&snapshot.metadata);
    text.pair("Database", snapshot.spec.database_name.clone());
    let phase = status.phase.map(|phase| format!("{phase:?}"));
    text.pair("Status", phase.unwrap_or_else(|| "Unknown".to_owned()));
    text.maybe("Reason", status.reason);
    text.maybe("Instance", status.instance);
    if let Some(attempt) = status.attempt.filter(|attempt| *attempt > 1) {
        text.pair("Attempt", attempt.to_string());
    }
    if let Some(progress) = status.progress.filter(|_| status.completion_time.is_none()) {
        let (done, total) = (size(progress.done_bytes), size(progress.total_bytes));
        text.pair(
            "Progress",
            format!(
                "{done} of {total} read, {} uploaded",
                size(progress.uploaded_bytes)
            ),
        );
    }
    text.maybe(
        "Method",
        snapshot.spec.method.map(|method| format!("{method:?}")),
    );
    let target = snapshot.spec.target;
    text.maybe("Target", target.map(|target| format!("{target:?}")));
    text.limits(
        "Limits",
        snapshot.spec.resources.as_deref(),
        snapshot.spec.max_rate.as_ref(),
    );
    let deletion = snapshot.spec.deletion_policy;
    text.maybe("Deletion", deletion.map(|policy| format!("{policy:?}")));
    let allowed = snapshot.spec.allowed_namespaces.clone();
    text.maybe("Allowed", allowed.map(|namespaces| namespaces.join(", ")));
    text.line("Storage:");
    text.storage("  ", &snapshot.spec.storage);
    if let Some(result) = status.result {
        text.line("Contents:");
        text.pair("  PostgreSQL", result.postgres_version);
        text.pair("  Database size", size(result.database_bytes));
        text.pair("  Read", size(result.read_bytes));
        text.pair("  Uploaded", size(result.uploaded_bytes));
        text.pair("  Stored", size(result.stored_bytes));
        if let Some(held) = result.logical {
            let (databases, tables, rows) = (held.databases, held.tables, held.rows);
            text.pair(
                "  Rows",
                format!("{rows} in {tables} tables of {databases} databases"),
            );
            text.pair(
                "  Databases seen",
                if held.one_point {
                    "at one point"
                } else {
                    "some milliseconds apart"
                }
                .to_owned(),
            );
            text.pair("  Schemas read by", format!("pg_dump {}", held.pg_dump));
        }
        text.maybe("  Base", result.base);
        text.maybe("  Whole because", result.whole_reason);
        text.pair("  Timeline", result.timeline.to_string());
        text.pair("  Start LSN", result.start_lsn);
        text.pair("  Stop LSN", result.stop_lsn);
        text.pair("  System", result.system_identifier);
        text.pair("  Manifest", result.manifest);
    }
    if let Some(known) = status.verification {
        verification(&known, text);
    }
    text.conditions(&status.conditions);
}

fn verification(known: &Verification, text: &mut Description) {
    text.line("Verification:");
    text.pair("  Level", format!("{:?}", known.request.level));
    text.pair("  Status", format!("{:?}", known.phase));
    text.maybe("  Found", known.reason.clone());
    text.maybe("  Query", known.request.query.clone());
    text.maybe("  Database", known.request.database.clone());
    text.maybe("  Instance", known.instance.clone());
    text.time("  Started", known.start_time);
    text.time("  Completed", known.completion_time);
    if let Some(progress) = known.progress.filter(|_| !known.phase.is_over()) {
        let (done, total) = (size(progress.done_bytes), size(progress.total_bytes));
        text.pair("  Progress", format!("{done} of {total}"));
    }
    text.maybe("  Read", known.bytes.map(size));
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_finished_snapshot_says_what_it_holds() {
        let snapshot: Snapshot = serde_json::from_value(json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot",
            "metadata": {
                "name": "instant-snapshot", "namespace": "demo",
                "creationTimestamp": "2018-02-08T10:30:29Z",
                "labels": { "kubedb.com/kind": "Postgres", "kubedb.com/name": "script-postgres" }
            },
            "spec": {
                "databaseName": "script-postgres", "storageSecretName": "gcs-secret",
                "gcs": { "bucket": "kubedb" }
            },
            "status": {
                "phase": "Succeeded", "startTime": "2018-02-08T10:30:29Z",
                "completionTime": "2018-02-08T10:31:54Z", "instance": "script-postgres-0",
                "attempt": 1,
                "result": {
                    "manifest": "kubedb/demo/script-postgres/m", "lineage": "l",
                    "systemIdentifier": "6520000000000000000", "postgresVersion": "9.6.24",
                    "timeline": 1, "startLsn": "0/2000028", "stopLsn": "0/20000F8",
                    "databaseBytes": 23_068_672, "readBytes": 23_068_672,
                    "uploadedBytes": 3_145_728, "storedBytes": 3_145_728
                }
            }
        }))
        .unwrap();
        let mut text = Description::new(TimeZone::UTC);
        describe(&snapshot, &mut text);
        insta::assert_snapshot!(text.finish(), @r#"
        Name:                instant-snapshot
        Namespace:           demo
        CreationTimestamp:   Thu, 08 Feb 2018 10:30:29 +0000
        StartTimestamp:      Thu, 08 Feb 2018 10:30:29 +0000
        CompletionTimestamp: Thu, 08 Feb 2018 10:31:54 +0000
        Labels:              kubedb.com/kind=Postgres
                             kubedb.com/name=script-postgres
        Database:            script-postgres
        Status:              Succeeded
        Instance:            script-postgres-0
        Storage:
          Type:   GCS
          Bucket: kubedb
          Secret: gcs-secret
        Contents:
          PostgreSQL:    9.6.24
          Database size: 22.0 MiB
          Read:          22.0 MiB
          Uploaded:      3.0 MiB
          Stored:        3.0 MiB
          Timeline:      1
          Start LSN:     0/2000028
          Stop LSN:      0/20000F8
          System:        6520000000000000000
          Manifest:      kubedb/demo/script-postgres/m
        "#);
    }
}
