//! What of a database is backed up: its schedule, its archive, and what it was made of.

use kubedb_api::{
    PostgresStatus,
    archiver::RecoveryTarget,
    postgres::{BackupSchedule, InitSource},
    storage::SnapshotStorage,
};
use kubedb_core::schedule::Schedule;

use super::text::Description;

/// The schedule as written, in words, and its times.
pub(super) fn backup_schedule(
    schedule: &BackupSchedule,
    status: &PostgresStatus,
    text: &mut Description,
) {
    text.line("Schedule:");
    text.pair("  Expression", schedule.cron_expression.clone());
    let parsed = Schedule::parse(&schedule.cron_expression, schedule.time_zone.as_deref());
    text.pair(
        "  In words",
        parsed.map_or_else(
            |error| format!("invalid: {error}"),
            |schedule| schedule.explain(),
        ),
    );
    if schedule.suspend == Some(true) {
        text.pair("  Suspended", "true");
    }
    text.time("  Last", status.last_schedule_time);
    text.time("  Next", status.next_schedule_time);
    text.maybe(
        "  Target",
        schedule.target.map(|target| format!("{target:?}")),
    );
    text.limits(
        "  Limits",
        schedule.resources.as_ref(),
        schedule.max_rate.as_ref(),
    );
    text.storage("  ", &schedule.storage);
}

/// Where WAL goes, how that goes, and what can come back.
pub(super) fn archiver(storage: &SnapshotStorage, status: &PostgresStatus, text: &mut Description) {
    text.line("Archiver:");
    text.storage("  ", storage);
    let primary = status.primary.as_ref();
    let primary = primary.and_then(|primary| status.instances.get(primary));
    if let Some(archive) = primary.and_then(|report| report.archive.as_ref()) {
        text.maybe("  Last segment", archive.last_segment.clone());
        text.time("  Stored", archive.last_archived_time);
        let waiting = archive.waiting_segments;
        let waits = match waiting {
            1 => "1 segment".to_owned(),
            many => format!("{many} segments"),
        };
        text.maybe("  Waiting", (waiting > 0).then_some(waits));
        text.time("  Failing since", archive.failing_since);
        text.maybe("  Reason", archive.reason.clone());
        text.time("  Disk full", archive.disk_full_time);
        text.maybe("  Missing", archive.missing.clone());
    }
    match (
        status.earliest_restorable_time,
        status.latest_restorable_time,
    ) {
        (Some(earliest), latest) => {
            text.time("  Restorable from", Some(earliest));
            text.time("  Restorable to", latest);
        }
        (None, _) => text.pair(
            "  Restorable",
            "nothing yet: there is no Snapshot to begin from",
        ),
    }
}

fn target(target: &RecoveryTarget) -> String {
    let read = target.fields().read();
    read.map_or_else(|error| error.to_string(), |target| target.to_string())
}

pub(super) fn init_source(init: &InitSource, text: &mut Description) {
    text.line("Init:");
    if let Some(wal) = &init.postgres_wal {
        text.line("  postgresWAL:");
        text.storage("    ", &wal.storage);
        text.maybe("    Snapshot", wal.backup_name.clone());
        let pitr = wal.pitr.as_ref().map(RecoveryTarget::from);
        text.pair("    Up to", target(&pitr.unwrap_or_default()));
    }
    if let Some(snapshot) = &init.snapshot_source {
        text.line("  snapshotSource:");
        text.maybe("    namespace", snapshot.namespace.clone());
        text.pair("    name", snapshot.name.clone());
        text.maybe("    up to", snapshot.target.as_ref().map(target));
    }
    if let Some(script) = &init.script_source {
        text.line("  scriptSource:");
        if let Some(map) = &script.config_map {
            text.pair("    Type", "ConfigMap (a volume populated by a ConfigMap)");
            text.pair("    Name", map.name.clone());
        }
        if let Some(secret) = &script.secret {
            text.pair("    Type", "Secret (a volume populated by a Secret)");
            text.maybe("    SecretName", secret.secret_name.clone());
        }
        if let Some(folder) = &script.host_path {
            text.pair("    Type", "HostPath (bare host directory volume)");
            text.pair("    Path", folder.path.clone());
        }
        if let Some(claim) = &script.persistent_volume_claim {
            text.pair("    Type", "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)");
            text.pair("    ClaimName", claim.claim_name.clone());
        }
        if let Some(nfs) = &script.nfs {
            text.pair(
                "    Type",
                "NFS (an NFS mount that lasts the lifetime of a pod)",
            );
            text.pair("    Server", nfs.server.clone());
            text.pair("    Path", nfs.path.clone());
        }
        if let Some(git) = &script.git_repo {
            text.pair(
                "    Type",
                "GitRepo (a volume that is pulled from git when the pod is created)",
            );
            text.pair("    Repository", git.repository.clone());
            text.maybe("    Revision", git.revision.clone());
            text.maybe("    Directory", git.directory.clone());
        }
        text.maybe("    scriptPath", script.script_path.clone());
    }
}
