//! Condition types, event reasons and their texts.

/// Condition: the database accepts connections.
pub const READY: &str = "Ready";
/// Condition, there only while it is False: what the user wants is right. It is not when admission was passed by.
pub const VALID: &str = "Valid";
/// Condition, there only while it is False: what the database consists of could be made. It is not where a server refuses a part of it, as for a quota.
pub const APPLIED: &str = "Applied";
/// Condition: the schedule is in force.
pub const BACKUP_SCHEDULED: &str = "BackupScheduled";
/// Condition: how the last Snapshot ended.
pub const LAST_SNAPSHOT_SUCCEEDED: &str = "LastSnapshotSucceeded";

/// Condition of a database with an archiver: its changes are stored as they are made.
pub const ARCHIVING: &str = "Archiving";
/// Condition of a Pending Snapshot, there only while it is False: its own storage Secret is there. Without it the Snapshot waits aside, and others of
/// its database go first.
pub const CAN_START: &str = "CanStart";

/// Condition of a Snapshot that was verified: True or False as proven, Unknown where it could not be looked at.
pub const VERIFIED: &str = "Verified";

/// Condition of a database with `spec.monitor`: its metrics can be scraped, and whoever scrapes them was told where.
pub const MONITORED: &str = "Monitored";

/// Condition of a Snapshot that is being deleted: whether its data is gone.
pub const DATA_DELETED: &str = "DataDeleted";

/// Event reasons.
pub mod event {
    /// Something was created or patched.
    pub const SUCCESSFUL: &str = "Successful";
    /// Something failed.
    pub const FAILED: &str = "Failed";
    /// Validation refused the object.
    pub const INVALID: &str = "Invalid";
    /// A backup starts.
    pub const STARTING: &str = "Starting";
    /// Restore or scripts start.
    pub const INITIALIZING: &str = "Initializing";
    /// Restore or scripts ended well.
    pub const SUCCESSFUL_INITIALIZE: &str = "SuccessfulInitialize";
    /// A Snapshot succeeded.
    pub const SUCCESSFUL_SNAPSHOT: &str = "SuccessfulSnapshot";
    /// A Snapshot failed.
    pub const SNAPSHOT_FAILED: &str = "SnapshotFailed";
    /// A Snapshot is being verified.
    pub const VERIFYING: &str = "Verifying";
    /// A Snapshot is what it should be.
    pub const SUCCESSFUL_VERIFICATION: &str = "SuccessfulVerification";
    /// A Snapshot is not what it should be.
    pub const VERIFICATION_FAILED: &str = "VerificationFailed";
    /// Nobody could tell.
    pub const VERIFICATION_INCONCLUSIVE: &str = "VerificationInconclusive";
    /// A Snapshot's data is being deleted.
    pub const WIPING_OUT: &str = "WipingOut";
    /// A Snapshot's data is gone.
    pub const SUCCESSFUL_WIPE_OUT: &str = "SuccessfulWipeOut";
    /// A Snapshot is deleted, and its data stays.
    pub const DATA_RETAINED: &str = "DataRetained";
    /// Retention deletes a Snapshot.
    pub const EXPIRED: &str = "Expired";
    /// A Snapshot is made because an archive has none to begin from.
    pub const FIRST_SNAPSHOT: &str = "FirstSnapshot";
    /// WAL cannot be archived.
    pub const ARCHIVE_FAILING: &str = "ArchiveFailing";
    /// WAL that cannot be archived fills the disk within the hour.
    pub const DISK_FILLING: &str = "DiskFilling";
    /// An archive lacks WAL that later WAL builds on.
    pub const ARCHIVE_GAP: &str = "ArchiveGap";
    /// It can again.
    pub const ARCHIVE_RECOVERED: &str = "ArchiveRecovered";
    /// A database is wiped out, and its archive stays.
    pub const ARCHIVE_RETAINED: &str = "ArchiveRetained";
    /// A database's instances are being stopped.
    pub const PAUSING: &str = "Pausing";
    /// They are.
    pub const SUCCESSFUL_PAUSE: &str = "SuccessfulPause";
    /// A paused database goes on.
    pub const RESUMING: &str = "Resuming";
    /// A tick was skipped.
    pub const IGNORED_SNAPSHOT: &str = "IgnoredSnapshot";
}

/// Event texts.
pub mod text {
    /// Begins the message of `Failed` when the metrics cannot be scraped.
    pub const MONITORING_FAILED: &str = "Failed to manage monitoring system. Reason: ";
    /// Reason of that where there is no ServiceMonitor.
    pub const NO_PROMETHEUS_OPERATOR: &str = "cluster does not support CoreOS Prometheus operator";
    /// With `Successful`.
    pub const CREATED_POSTGRES: &str = "Successfully created Postgres";
    /// With `Successful`.
    pub const CREATED_STATEFUL_SET: &str = "Successfully created StatefulSet";
    /// With `Successful`.
    pub const CREATED_SERVICE: &str = "Successfully created Service";
    /// With `Successful`.
    pub const PATCHED_STATEFUL_SET: &str = "Successfully patched StatefulSet";
    /// With `Successful`.
    pub const PATCHED_SERVICE: &str = "Successfully patched Service";
    /// With `SuccessfulInitialize`.
    pub const INITIALIZED: &str = "Successfully completed initialization";
    /// With `Failed`.
    pub const INITIALIZE_FAILED: &str = "Failed to complete initialization";
    /// With `Starting`.
    pub const BACKUP_RUNNING: &str = "Backup running";
    /// With `SuccessfulSnapshot`.
    pub const SNAPSHOT_COMPLETED: &str = "Successfully completed snapshot";
    /// With `SnapshotFailed`.
    pub const SNAPSHOT_FAILED: &str = "Failed to complete snapshot";
    /// Begins the reason of a Snapshot that validation refuses.
    pub const INVALID_SNAPSHOT: &str = "Invalid Snapshot";
    /// With `Pausing`.
    pub const PAUSING: &str = "Pausing Database";
    /// With `SuccessfulPause`.
    pub const PAUSED: &str = "Successfully paused Database workload";
    /// With `Resuming`.
    pub const RESUMING: &str = "Resuming Database";
    /// With `WipingOut`.
    pub const WIPING_OUT: &str = "Wiping out Database";
    /// With `SuccessfulWipeOut`.
    pub const WIPED_OUT: &str = "Successfully wiped out Database workload";
    /// With `ArchiveRecovered`.
    pub const ARCHIVE_RECOVERED: &str = "WAL is archived again";
    /// With `IgnoredSnapshot`.
    pub const BACKUP_SKIPPED: &str = "Skipping scheduled Backup. One is still active.";
}

/// Event source components.
pub mod component {
    /// Events on databases.
    pub const POSTGRES_OPERATOR: &str = "Postgres operator";
    /// Events of backups and restores.
    pub const JOB_CONTROLLER: &str = "Job Controller";
    /// Events of Snapshots.
    pub const SNAPSHOT_CONTROLLER: &str = "Snapshot Controller";
    /// Events of paused databases.
    pub const DORMANT_CONTROLLER: &str = "DormantDatabase Controller";
    /// Events of the schedule.
    pub const CRON_CONTROLLER: &str = "Cron controller";
}
