//! Everything an agent tells of its PostgreSQL, under the names of postgres_exporter, which dashboards ask for.

use kubedb_core::metrics::{Family, counter, gauge};

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
pub(super) const SETTING: &str = "pg_settings_";

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
