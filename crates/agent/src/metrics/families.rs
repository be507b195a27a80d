//! Everything an agent tells of itself, its disk and its archive.

use kubedb_core::metrics::{Family, counter, gauge};

const OWN: &[&str] = &["namespace", "database", "instance"];
const NONE: &[&str] = &[];

pub(super) const SCRAPE_DURATION: Family = gauge(
    "kubedb_scrape_duration_seconds",
    NONE,
    "How long it took to ask PostgreSQL.",
);
pub(super) const COLLECTED: Family = gauge(
    "kubedb_scrape_collector_success",
    &["collector"],
    "1 if PostgreSQL answered this question in time, 0 if it did not.",
);
pub(super) const INFO: Family = gauge(
    "kubedb_agent_info",
    &["namespace", "database", "instance", "version"],
    "1; its label says which version of kubedb the agent is.",
);
pub(super) const STARTED: Family = gauge(
    "kubedb_agent_start_timestamp_seconds",
    OWN,
    "When the agent began.",
);
pub(super) const SILENCE: Family = gauge(
    "kubedb_agent_silence_seconds",
    OWN,
    "For how long the agent's loop has been in its present round.",
);
pub(super) const ROLE: Family = gauge(
    "kubedb_instance_role",
    &["namespace", "database", "instance", "role"],
    "1 for the role that the instance has, 0 for the other.",
);
pub(super) const PHASE: Family = gauge(
    "kubedb_instance_phase",
    &["namespace", "database", "instance", "phase"],
    "1 for what the instance is doing, 0 for the others.",
);
pub(super) const READY: Family = gauge(
    "kubedb_instance_ready",
    OWN,
    "1 while the instance accepts connections in its role, else 0.",
);
pub(super) const STREAMING: Family = gauge(
    "kubedb_instance_streaming",
    OWN,
    "1 while a standby receives WAL from its primary, 0 while it does not; absent of a primary.",
);
pub(super) const TIMELINE: Family = gauge(
    "kubedb_instance_timeline",
    OWN,
    "Timeline of the instance's data.",
);
pub(super) const LSN: Family = gauge(
    "kubedb_instance_lsn_bytes",
    OWN,
    "What a primary has written, or a standby has replayed, as a position in WAL.",
);
pub(super) const DATA: Family = gauge(
    "kubedb_instance_data_bytes",
    OWN,
    "Bytes that the data folder needs on its disk, counted every ten minutes.",
);
pub(super) const VOLUME: Family = gauge(
    "kubedb_volume_size_bytes",
    OWN,
    "Size of the file system that the data folder lies on.",
);
pub(super) const FREE: Family = gauge(
    "kubedb_volume_free_bytes",
    OWN,
    "What of it PostgreSQL can still fill.",
);
pub(super) const PROGRESS_DONE: Family = gauge(
    "kubedb_snapshot_progress_done_bytes",
    OWN,
    "Bytes that the Snapshot in work has read; absent while the instance takes none.",
);
pub(super) const PROGRESS_TOTAL: Family = gauge(
    "kubedb_snapshot_progress_total_bytes",
    OWN,
    "Bytes that the Snapshot in work has to read.",
);
pub(super) const ARCHIVED: Family = counter(
    "kubedb_archive_stored_total",
    OWN,
    "Files of WAL that were stored for PostgreSQL since the agent began.",
);
pub(super) const ARCHIVE_FAILURES: Family = counter(
    "kubedb_archive_failures_total",
    OWN,
    "Times that PostgreSQL was told that a file of WAL is not stored, since the agent began.",
);
pub(super) const ARCHIVE_LAST: Family = gauge(
    "kubedb_archive_last_timestamp_seconds",
    OWN,
    "When the last file of WAL was stored; absent before the first.",
);
pub(super) const ARCHIVE_COVERED: Family = gauge(
    "kubedb_archive_covered_timestamp_seconds",
    OWN,
    "Whatever had been committed by then is stored; absent while that is not known.",
);
pub(super) const ARCHIVE_LAG: Family = gauge(
    "kubedb_archive_lag_seconds",
    OWN,
    "How much of the past a loss of the primary would cost now; absent while that is not known.",
);
pub(super) const ARCHIVE_WAITING: Family = gauge(
    "kubedb_archive_waiting_segments",
    OWN,
    "Files of WAL that are complete and wait to be stored.",
);
pub(super) const ARCHIVE_WAITING_BYTES: Family = gauge(
    "kubedb_archive_waiting_bytes",
    OWN,
    "Bytes of WAL that are complete and wait to be stored.",
);
pub(super) const ARCHIVE_FAILING: Family = gauge(
    "kubedb_archive_failing",
    OWN,
    "1 while WAL cannot be stored, else 0.",
);
pub(super) const ARCHIVE_FAILING_SINCE: Family = gauge(
    "kubedb_archive_failing_since_timestamp_seconds",
    OWN,
    "Since when WAL cannot be stored; absent while it can.",
);
pub(super) const ARCHIVE_SILENT: Family = gauge(
    "kubedb_archive_silent",
    OWN,
    "1 while WAL waits and PostgreSQL does not ask for it to be stored, else 0.",
);
pub(super) const ARCHIVE_FULL: Family = gauge(
    "kubedb_archive_disk_full_timestamp_seconds",
    OWN,
    "While WAL cannot be stored: when it fills the disk, if it goes on being written as it is; absent where that is far or not known.",
);
pub(super) const ARCHIVE_GAPS: Family = gauge(
    "kubedb_archive_gaps",
    OWN,
    "Places in the archive where WAL that later WAL builds on is missing, as last listed; absent before the first look, an hour apart at most.",
);

/// Ours, for documentation and checks.
pub const OURS: &[&Family] = &[
    &SCRAPE_DURATION,
    &COLLECTED,
    &INFO,
    &STARTED,
    &SILENCE,
    &ROLE,
    &PHASE,
    &READY,
    &STREAMING,
    &TIMELINE,
    &LSN,
    &DATA,
    &VOLUME,
    &FREE,
    &PROGRESS_DONE,
    &PROGRESS_TOTAL,
    &ARCHIVED,
    &ARCHIVE_FAILURES,
    &ARCHIVE_LAST,
    &ARCHIVE_COVERED,
    &ARCHIVE_LAG,
    &ARCHIVE_WAITING,
    &ARCHIVE_WAITING_BYTES,
    &ARCHIVE_FAILING,
    &ARCHIVE_FAILING_SINCE,
    &ARCHIVE_SILENT,
    &ARCHIVE_FULL,
    &ARCHIVE_GAPS,
];
