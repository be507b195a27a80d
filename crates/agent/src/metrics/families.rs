//! Everything an agent tells: of its PostgreSQL under the names of postgres_exporter, which dashboards ask for; of itself, its disk and its archive under ours.

use kubedb_core::metrics::{Family, counter, gauge};

const OWN: &[&str] = &["namespace", "database", "instance"];
const NONE: &[&str] = &[];
const DATABASE: &[&str] = &["datid", "datname"];
const NAMED: &[&str] = &["datname"];
const REPLICA: &[&str] = &["application_name", "client_addr", "state"];
const SLOT: &[&str] = &["slot_name", "database"];

pub(super) const UP: Family = gauge(
    "pg_up",
    NONE,
    "1 if PostgreSQL took a new connection and answered, 0 if it did not in time.",
);
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
pub(super) const SETTING: &str = "pg_settings_";

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

/// Those of PostgreSQL. Beside them there is `pg_settings_NAME` for each setting that is a number, with `_seconds` or `_bytes` behind it where it has a unit.
pub const POSTGRES: &[&Family] = &[
    &UP,
    &gauge(
        "pg_static",
        &["version", "short_version"],
        "1; its labels say which PostgreSQL answers.",
    ),
    &gauge(
        "pg_postmaster_start_time_seconds",
        NONE,
        "When PostgreSQL was started.",
    ),
    &gauge(
        "pg_replication_lag",
        NONE,
        "Seconds that a standby is behind its primary; 0 of a primary.",
    ),
    &gauge(
        "pg_replication_lag_seconds",
        NONE,
        "The same under its later name.",
    ),
    &gauge(
        "pg_replication_is_replica",
        NONE,
        "1 if PostgreSQL is in recovery, else 0.",
    ),
    &gauge(
        "pg_stat_replication_pg_current_wal_lsn_bytes",
        REPLICA,
        "Where this server is, as a position in WAL.",
    ),
    &gauge(
        "pg_stat_replication_pg_wal_lsn_diff",
        REPLICA,
        "Bytes of WAL that a standby has not replayed.",
    ),
    &gauge(
        "pg_stat_replication_write_lag_seconds",
        REPLICA,
        "How late a standby has written; from 10 on.",
    ),
    &gauge(
        "pg_stat_replication_flush_lag_seconds",
        REPLICA,
        "How late a standby has flushed; from 10 on.",
    ),
    &gauge(
        "pg_stat_replication_replay_lag_seconds",
        REPLICA,
        "How late a standby has replayed; from 10 on.",
    ),
    &gauge(
        "pg_replication_slots_active",
        SLOT,
        "1 if somebody reads from the slot, else 0.",
    ),
    &gauge(
        "pg_replication_slots_pg_wal_lsn_diff",
        SLOT,
        "Bytes of WAL that the slot holds.",
    ),
    &gauge(
        "pg_replication_slots_safe_wal_size_bytes",
        SLOT,
        "Bytes that can be written before the slot loses WAL; from 13 on, where that is limited.",
    ),
    &counter(
        "pg_stat_archiver_archived_count",
        NONE,
        "Files of WAL that were archived.",
    ),
    &counter(
        "pg_stat_archiver_failed_count",
        NONE,
        "Times that a file of WAL was not archived.",
    ),
    &gauge(
        "pg_stat_archiver_last_archive_age",
        NONE,
        "Seconds since the last file of WAL was archived.",
    ),
    &counter(
        "pg_stat_bgwriter_checkpoints_timed",
        NONE,
        "Checkpoints that were due; to 16, as the following ones with `checkpoint` and `backend` in their names.",
    ),
    &counter(
        "pg_stat_bgwriter_checkpoints_timed_total",
        NONE,
        "The same under its later name.",
    ),
    &counter(
        "pg_stat_bgwriter_checkpoints_req",
        NONE,
        "Checkpoints that were asked for.",
    ),
    &counter(
        "pg_stat_bgwriter_checkpoints_req_total",
        NONE,
        "The same under its later name.",
    ),
    &counter(
        "pg_stat_bgwriter_checkpoint_write_time",
        NONE,
        "Milliseconds that checkpoints took to write.",
    ),
    &counter(
        "pg_stat_bgwriter_checkpoint_write_time_total",
        NONE,
        "The same under its later name.",
    ),
    &counter(
        "pg_stat_bgwriter_checkpoint_sync_time",
        NONE,
        "Milliseconds that checkpoints took to sync.",
    ),
    &counter(
        "pg_stat_bgwriter_checkpoint_sync_time_total",
        NONE,
        "The same under its later name.",
    ),
    &counter(
        "pg_stat_bgwriter_buffers_checkpoint",
        NONE,
        "Buffers that checkpoints wrote.",
    ),
    &counter(
        "pg_stat_bgwriter_buffers_checkpoint_total",
        NONE,
        "The same under its later name.",
    ),
    &counter(
        "pg_stat_bgwriter_buffers_clean",
        NONE,
        "Buffers that the background writer wrote.",
    ),
    &counter(
        "pg_stat_bgwriter_buffers_clean_total",
        NONE,
        "The same under its later name.",
    ),
    &counter(
        "pg_stat_bgwriter_maxwritten_clean",
        NONE,
        "Times that the background writer stopped because it had written too much.",
    ),
    &counter(
        "pg_stat_bgwriter_maxwritten_clean_total",
        NONE,
        "The same under its later name.",
    ),
    &counter(
        "pg_stat_bgwriter_buffers_backend",
        NONE,
        "Buffers that sessions wrote themselves.",
    ),
    &counter(
        "pg_stat_bgwriter_buffers_backend_total",
        NONE,
        "The same under its later name.",
    ),
    &counter(
        "pg_stat_bgwriter_buffers_backend_fsync",
        NONE,
        "Times that sessions had to sync themselves.",
    ),
    &counter(
        "pg_stat_bgwriter_buffers_backend_fsync_total",
        NONE,
        "The same under its later name.",
    ),
    &counter(
        "pg_stat_bgwriter_buffers_alloc",
        NONE,
        "Buffers that were allocated.",
    ),
    &counter(
        "pg_stat_bgwriter_buffers_alloc_total",
        NONE,
        "The same under its later name.",
    ),
    &gauge(
        "pg_stat_bgwriter_stats_reset",
        NONE,
        "Since when these are counted.",
    ),
    &gauge(
        "pg_stat_bgwriter_stats_reset_total",
        NONE,
        "The same under its later name.",
    ),
    &counter(
        "pg_stat_checkpointer_num_timed_total",
        NONE,
        "Checkpoints that were due; from 17 on, as all of these.",
    ),
    &counter(
        "pg_stat_checkpointer_num_requested_total",
        NONE,
        "Checkpoints that were asked for.",
    ),
    &counter(
        "pg_stat_checkpointer_restartpoints_timed_total",
        NONE,
        "Restartpoints that were due.",
    ),
    &counter(
        "pg_stat_checkpointer_restartpoints_req_total",
        NONE,
        "Restartpoints that were asked for.",
    ),
    &counter(
        "pg_stat_checkpointer_restartpoints_done_total",
        NONE,
        "Restartpoints that were made.",
    ),
    &counter(
        "pg_stat_checkpointer_write_time_total",
        NONE,
        "Milliseconds that checkpoints took to write.",
    ),
    &counter(
        "pg_stat_checkpointer_sync_time_total",
        NONE,
        "Milliseconds that checkpoints took to sync.",
    ),
    &counter(
        "pg_stat_checkpointer_buffers_written_total",
        NONE,
        "Buffers that checkpoints wrote.",
    ),
    &gauge(
        "pg_stat_database_numbackends",
        DATABASE,
        "Sessions in the database.",
    ),
    &counter(
        "pg_stat_database_xact_commit",
        DATABASE,
        "Transactions that committed.",
    ),
    &counter(
        "pg_stat_database_xact_rollback",
        DATABASE,
        "Transactions that were rolled back.",
    ),
    &counter(
        "pg_stat_database_blks_read",
        DATABASE,
        "Blocks that were read from disk.",
    ),
    &counter(
        "pg_stat_database_blks_hit",
        DATABASE,
        "Blocks that were found in the cache.",
    ),
    &counter(
        "pg_stat_database_tup_returned",
        DATABASE,
        "Rows that queries looked at.",
    ),
    &counter(
        "pg_stat_database_tup_fetched",
        DATABASE,
        "Rows that queries fetched by an index.",
    ),
    &counter(
        "pg_stat_database_tup_inserted",
        DATABASE,
        "Rows that were inserted.",
    ),
    &counter(
        "pg_stat_database_tup_updated",
        DATABASE,
        "Rows that were updated.",
    ),
    &counter(
        "pg_stat_database_tup_deleted",
        DATABASE,
        "Rows that were deleted.",
    ),
    &counter(
        "pg_stat_database_conflicts",
        DATABASE,
        "Queries that recovery ended.",
    ),
    &counter(
        "pg_stat_database_temp_files",
        DATABASE,
        "Temporary files that queries made.",
    ),
    &counter(
        "pg_stat_database_temp_bytes",
        DATABASE,
        "Bytes that were written to them.",
    ),
    &counter("pg_stat_database_deadlocks", DATABASE, "Deadlocks."),
    &counter(
        "pg_stat_database_checksum_failures",
        DATABASE,
        "Pages that did not fit their checksum; from 12 on.",
    ),
    &counter(
        "pg_stat_database_blk_read_time",
        DATABASE,
        "Milliseconds that reads took, where track_io_timing is on.",
    ),
    &counter(
        "pg_stat_database_blk_write_time",
        DATABASE,
        "Milliseconds that writes took, where track_io_timing is on.",
    ),
    &counter(
        "pg_stat_database_active_time_seconds_total",
        DATABASE,
        "Seconds that statements ran; from 14 on.",
    ),
    &gauge(
        "pg_stat_database_stats_reset",
        DATABASE,
        "Since when these are counted.",
    ),
    &counter(
        "pg_stat_database_conflicts_confl_tablespace",
        DATABASE,
        "Queries that recovery ended for a dropped tablespace.",
    ),
    &counter(
        "pg_stat_database_conflicts_confl_lock",
        DATABASE,
        "Queries that recovery ended for a lock.",
    ),
    &counter(
        "pg_stat_database_conflicts_confl_snapshot",
        DATABASE,
        "Queries that recovery ended for rows that were cleaned up.",
    ),
    &counter(
        "pg_stat_database_conflicts_confl_bufferpin",
        DATABASE,
        "Queries that recovery ended for a pinned buffer.",
    ),
    &counter(
        "pg_stat_database_conflicts_confl_deadlock",
        DATABASE,
        "Queries that recovery ended for a deadlock.",
    ),
    &gauge(
        "pg_stat_activity_count",
        &["datname", "state"],
        "Sessions in this state.",
    ),
    &gauge(
        "pg_stat_activity_max_tx_duration",
        &["datname", "state"],
        "Seconds that the oldest transaction of a session in this state has lasted.",
    ),
    &gauge(
        "pg_locks_count",
        &["datname", "mode"],
        "Locks of this mode.",
    ),
    &gauge(
        "pg_database_wraparound_age_datfrozenxid_seconds",
        NAMED,
        "Age of the oldest transaction that is not frozen. It counts transactions, whatever its name says.",
    ),
    &gauge(
        "pg_database_wraparound_age_datminmxid_seconds",
        NAMED,
        "The same of multixacts.",
    ),
    &gauge("pg_database_size_bytes", NAMED, "Size of the database."),
];
