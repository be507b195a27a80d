//! What differs between the majors of PostgreSQL, in one place.

use std::{fmt, ops::RangeInclusive};

/// A major that this engine runs: `9.6`, or 10 and later by one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgDialect {
    pub(super) major: u32,
}

/// Majors that are built and tested. 9.6 is written as 9 here; there was no later 9.
const MAJORS: RangeInclusive<u32> = 9..=18;

/// Why a version has no dialect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to choose a dialect for PostgreSQL {version:?}: 9.6 and 10 to 18 are built")]
pub struct ChooseDialectError {
    /// The version asked for.
    pub version: String,
}

/// How a recovering server is told so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryFiles {
    /// A file of its own holds the settings.
    RecoveryConf,
    /// A signal file; the settings stand in the server's configuration.
    SignalFile,
}

/// Quotes a value for `postgresql.conf` and its like, where a backslash begins an escape.
#[must_use]
pub fn quote_setting(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

impl PgDialect {
    /// Chooses by a version such as `9.6.24` or `15.18 (Debian 15.18-0+deb12u1)`.
    pub fn of(version: &str) -> Result<Self, ChooseDialectError> {
        let wrong = || ChooseDialectError {
            version: version.to_owned(),
        };
        let number = version.split_whitespace().next().unwrap_or_default();
        let mut parts = number.split('.');
        let major: u32 = parts
            .next()
            .and_then(|part| part.parse().ok())
            .ok_or_else(wrong)?;
        let is_old = major == 9 && parts.next() != Some("6");
        if is_old || !MAJORS.contains(&major) {
            Err(wrong())
        } else {
            Ok(Self { major })
        }
    }

    /// The major as a number; 9 is 9.6.
    #[must_use]
    pub fn number(self) -> u32 {
        self.major
    }

    /// `wal` from 10 on, `xlog` before, as in function names.
    pub(super) fn wal(self) -> &'static str {
        if self.major >= 10 { "wal" } else { "xlog" }
    }

    /// `lsn` from 10 on, `location` before, as in function names.
    pub(super) fn lsn(self) -> &'static str {
        if self.major >= 10 { "lsn" } else { "location" }
    }

    /// Folder of the write-ahead log below the data folder.
    #[must_use]
    pub fn wal_folder(self) -> &'static str {
        if self.major >= 10 {
            "pg_wal"
        } else {
            "pg_xlog"
        }
    }

    /// Whether changes of hash indexes are in the WAL.
    #[must_use]
    pub fn logs_hash_indexes(self) -> bool {
        self.major >= 10
    }

    /// Query for the write position of a primary.
    #[must_use]
    pub fn current_lsn(self) -> String {
        format!(
            "SELECT pg_catalog.pg_current_{}_{}()::text",
            self.wal(),
            self.lsn()
        )
    }

    /// Query for what a primary has flushed; nothing in recovery.
    #[must_use]
    pub fn flush_lsn(self) -> String {
        let (wal, lsn) = (self.wal(), self.lsn());
        format!(
            "SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_{wal}_flush_{lsn}()::text END"
        )
    }

    /// Query for the name of the segment that a primary writes; nothing in recovery.
    #[must_use]
    pub fn current_wal_file(self) -> String {
        let (wal, lsn) = (self.wal(), self.lsn());
        let file = format!("{wal}file");
        format!(
            "SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_{file}_name(pg_catalog.pg_current_{wal}_{lsn}()) END"
        )
    }

    /// Query for the position at which a primary inserts next.
    #[must_use]
    pub fn insert_lsn(self) -> String {
        format!(
            "SELECT pg_catalog.pg_current_{}_insert_{}()::text",
            self.wal(),
            self.lsn()
        )
    }

    /// The same for a query that a standby plans too and must not run.
    #[must_use]
    pub fn insert_lsn_of_primary(self) -> String {
        let (wal, lsn) = (self.wal(), self.lsn());
        format!(
            "SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_{wal}_insert_{lsn}()::text END"
        )
    }

    /// Statement that makes a standby's replay wait.
    #[must_use]
    pub fn pause_replay(self) -> String {
        format!("SELECT pg_catalog.pg_{}_replay_pause()", self.wal())
    }

    /// Statement that lets it go on.
    #[must_use]
    pub fn resume_replay(self) -> String {
        format!("SELECT pg_catalog.pg_{}_replay_resume()", self.wal())
    }

    /// Query for how the replay stands, followed by its position: `paused …` where the server says that it waits, which it does from 14 on.
    #[must_use]
    pub fn replay_state(self) -> String {
        let state = if self.major >= 14 {
            "pg_catalog.pg_get_wal_replay_pause_state()"
        } else {
            "'asked'"
        };
        let (wal, lsn) = (self.wal(), self.lsn());
        format!(
            "SELECT {state} || ' ' || coalesce(pg_catalog.pg_last_{wal}_replay_{lsn}()::text, '')"
        )
    }

    /// Whether a standby lends its snapshots.
    #[must_use]
    pub fn standby_exports_snapshots(self) -> bool {
        self.major >= 10
    }

    /// Whether a library may archive in the place of the command.
    #[must_use]
    pub fn has_archive_library(self) -> bool {
        self.major >= 15
    }

    /// Query for the replay position of a standby; null before anything was replayed.
    #[must_use]
    pub fn replay_lsn(self) -> String {
        format!(
            "SELECT pg_catalog.pg_last_{}_replay_{}()::text",
            self.wal(),
            self.lsn()
        )
    }

    /// Statement that ends the segment in work, where anything is in it.
    #[must_use]
    pub fn switch_wal(self) -> &'static str {
        if self.major >= 10 {
            "SELECT pg_catalog.pg_switch_wal()"
        } else {
            "SELECT pg_catalog.pg_switch_xlog()"
        }
    }

    /// Query that begins an online backup in this session; gives the start LSN. `$1` is the label, `$2` whether to checkpoint at once.
    #[must_use]
    pub fn start_backup(self) -> &'static str {
        if self.major >= 15 {
            "SELECT pg_catalog.pg_backup_start($1, $2)::text"
        } else {
            "SELECT pg_catalog.pg_start_backup($1, $2, false)::text"
        }
    }

    /// Query that ends it; gives stop LSN, `backup_label` and `tablespace_map`. It does not wait for an archive: the
    /// Snapshot carries the WAL it needs, and 9.6 has no such wait to switch off.
    #[must_use]
    pub fn stop_backup(self) -> &'static str {
        match self.major {
            15.. => "SELECT lsn::text, labelfile, spcmapfile FROM pg_catalog.pg_backup_stop(false)",
            10..15 => {
                "SELECT lsn::text, labelfile, spcmapfile FROM pg_catalog.pg_stop_backup(false, false)"
            }
            _ => "SELECT lsn::text, labelfile, spcmapfile FROM pg_catalog.pg_stop_backup(false)",
        }
    }

    /// How recovery is configured.
    #[must_use]
    pub fn recovery_files(self) -> RecoveryFiles {
        if self.major >= 12 {
            RecoveryFiles::SignalFile
        } else {
            RecoveryFiles::RecoveryConf
        }
    }

    /// Settings of a recovery that says nothing more, in the order in which they must stand before those that it says: a copy brings along what its source
    /// had in `postgresql.auto.conf`, which may be of an earlier recovery. Two targets are one too many for PostgreSQL, so that none but the wanted one may be left.
    /// Before 12 they stand in a file of their own, which nobody copies.
    #[must_use]
    pub fn no_target(self) -> &'static [(&'static str, &'static str)] {
        match self.recovery_files() {
            RecoveryFiles::RecoveryConf => &[],
            RecoveryFiles::SignalFile => &[
                ("recovery_target", ""),
                ("recovery_target_time", ""),
                ("recovery_target_xid", ""),
                ("recovery_target_name", ""),
                ("recovery_target_lsn", ""),
                ("recovery_target_inclusive", "on"),
                ("recovery_target_action", "pause"),
            ],
        }
    }

    /// The same of what a recovery fetches from elsewhere, waits for, or runs.
    #[must_use]
    pub fn no_source(self) -> &'static [(&'static str, &'static str)] {
        const ALL: &[(&str, &str)] = &[
            ("restore_command", ""),
            ("archive_cleanup_command", ""),
            ("recovery_end_command", ""),
            ("recovery_min_apply_delay", "0"),
            ("primary_conninfo", ""),
            ("primary_slot_name", ""),
            ("promote_trigger_file", ""),
        ];
        match self.major {
            ..12 => &[],
            12..16 => ALL,
            // It knows no such file any more.
            _ => ALL.split_last().map_or(&[], |(_, known)| known),
        }
    }

    /// Setting that keeps `megabytes` of WAL for standbys. Before 13 it counts segments of 16 MiB, and rounds up.
    #[must_use]
    pub fn wal_keep(self, megabytes: u32) -> String {
        if self.major >= 13 {
            format!("wal_keep_size = '{megabytes}MB'")
        } else {
            format!("wal_keep_segments = {}", megabytes.div_ceil(16))
        }
    }

    /// Password method for `pg_hba.conf`.
    #[must_use]
    pub fn password_method(self) -> &'static str {
        if self.major >= 10 {
            "scram-sha-256"
        } else {
            "md5"
        }
    }

    /// Whether BASE_BACKUP takes a list in parentheses and sends one archive after another in one stream.
    #[must_use]
    pub fn base_backup_has_option_list(self) -> bool {
        self.major >= 15
    }
}

impl fmt::Display for PgDialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.major == 9 {
            f.write_str("9.6")
        } else {
            write!(f, "{}", self.major)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_choose_their_dialect() {
        let name = |version: &str| PgDialect::of(version).map(|dialect| dialect.to_string());
        assert_eq!(name("9.6.24").unwrap(), "9.6");
        assert_eq!(name("9.6").unwrap(), "9.6");
        assert_eq!(name("15.18 (Debian 15.18-0+deb12u1)").unwrap(), "15");
        for bad in ["", "9", "9.5.1", "8.4", "19.0", "15devel", "x"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_change_comes_with_its_major() {
        let of = |major: &str| PgDialect::of(major).unwrap();
        let is_new_since = |older: &str, newer: &str, what: fn(PgDialect) -> String| {
            assert_ne!(what(of(older)), what(of(newer)), "{newer}");
            assert_eq!(what(of(older)), what(of("9.6")), "{older}");
            assert_eq!(what(of(newer)), what(of("18")), "{newer}");
        };
        is_new_since("9.6", "10", |d| {
            d.current_lsn() + d.wal_folder() + d.password_method()
        });
        is_new_since("11", "12", |d| format!("{:?}", d.recovery_files()));
        is_new_since("12", "13", |d| d.wal_keep(100));
        is_new_since("14", "15", |d| d.start_backup().to_owned());
        is_new_since("14", "15", |d| d.base_backup_has_option_list().to_string());
        let stops = ["9.6", "10", "14", "15", "18"].map(|major| of(major).stop_backup());
        assert!(stops[0] != stops[1] && stops[1] == stops[2]);
        assert!(stops[2] != stops[3] && stops[3] == stops[4]);
    }

    #[test]
    fn old_names_stay_old() {
        let old = PgDialect::of("9.6.24").unwrap();
        assert_eq!(
            old.replay_lsn(),
            "SELECT pg_catalog.pg_last_xlog_replay_location()::text"
        );
        assert!(
            old.flush_lsn()
                .contains(".pg_current_xlog_flush_location()")
        );
        assert!(old.current_wal_file().contains(".pg_xlogfile_name("));
        assert_eq!(old.wal_keep(100), "wal_keep_segments = 7");
        assert_eq!(old.recovery_files(), RecoveryFiles::RecoveryConf);
        let new = PgDialect::of("15.2").unwrap();
        assert_eq!(
            new.current_lsn(),
            "SELECT pg_catalog.pg_current_wal_lsn()::text"
        );
        assert!(new.flush_lsn().contains(".pg_current_wal_flush_lsn()"));
        assert!(new.current_wal_file().contains(".pg_walfile_name("));
        assert_eq!(new.wal_keep(100), "wal_keep_size = '100MB'");
        assert_eq!(new.wal_folder(), "pg_wal");
    }
}
