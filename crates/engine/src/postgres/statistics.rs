//! What a running server counts, by major. Each query gives texts, which are labels, and doubles, whose columns are called as dashboards of PostgreSQL know them:
//! by the names of postgres_exporter.

use super::dialect::PgDialect;

/// Rows of a query at most, so that nobody's thousand databases become a thousand series of each kind.
const DATABASES_MAX: u32 = 200;
const ROWS_MAX: u32 = 500;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// What is asked about, in a word.
    pub name: &'static str,
    /// One statement.
    pub query: String,
}

/// The databases that are told of: the oldest.
fn databases() -> String {
    format!("(SELECT oid, datname FROM pg_database ORDER BY oid LIMIT {DATABASES_MAX})")
}

/// Columns as doubles under a prefix.
fn columns(prefix: &str, names: &[&str]) -> String {
    let columns = names
        .iter()
        .map(|name| format!("{name}::float8 AS {prefix}_{name}"));
    columns.collect::<Vec<_>>().join(", ")
}

impl PgDialect {
    /// All questions, the cheap ones first. Settings are asked for apart.
    #[must_use]
    pub fn statistics(self) -> Vec<Statistics> {
        let mut all = vec![
            statistics("version", version()),
            statistics("postmaster", postmaster()),
            statistics("replication", self.replication()),
            statistics("archiver", archiver()),
            statistics("bgwriter", self.bgwriter()),
        ];
        if self.major >= 17 {
            all.push(statistics("checkpointer", checkpointer()));
        }
        all.extend([
            statistics("replicas", self.replicas()),
            statistics("slots", self.slots()),
            statistics("database", self.database()),
            statistics("conflicts", conflicts()),
            statistics("activity", activity()),
            statistics("locks", locks()),
            statistics("wraparound", wraparound()),
            // Looks at each file of each database.
            statistics("size", size()),
        ]);
        all
    }

    /// Query for the settings that are numbers, or on and off: name, value, unit, type and meaning.
    #[must_use]
    pub fn settings(self) -> String {
        format!(
            "SELECT name, setting, COALESCE(unit, ''), vartype, short_desc FROM pg_settings WHERE vartype IN ('bool', 'integer', 'real') ORDER BY name LIMIT {ROWS_MAX}"
        )
    }

    /// Role whose rights the questions are asked with. 9.6 has none that may see what they ask for.
    #[must_use]
    pub fn has_monitoring_rights(self) -> bool {
        self.major >= 10
    }

    fn replication(self) -> String {
        let (wal, lsn) = (self.wal(), self.lsn());
        let lag =
            "GREATEST(0, EXTRACT(EPOCH FROM now() - pg_last_xact_replay_timestamp()))::float8";
        let lag = format!(
            "CASE WHEN NOT pg_is_in_recovery() THEN 0 WHEN pg_last_{wal}_receive_{lsn}() = pg_last_{wal}_replay_{lsn}() THEN 0 ELSE {lag} END"
        );
        format!(
            "SELECT lag AS pg_replication_lag, lag AS pg_replication_lag_seconds, is_replica::int::float8 AS pg_replication_is_replica \
             FROM (SELECT {lag} AS lag, pg_is_in_recovery() AS is_replica) AS found"
        )
    }

    fn bgwriter(self) -> String {
        let mut names = vec!["buffers_clean", "maxwritten_clean", "buffers_alloc"];
        if self.major < 17 {
            names.extend([
                "checkpoints_timed",
                "checkpoints_req",
                "checkpoint_write_time",
                "checkpoint_sync_time",
                "buffers_checkpoint",
                "buffers_backend",
                "buffers_backend_fsync",
            ]);
        }
        format!(
            "SELECT {}, EXTRACT(EPOCH FROM stats_reset)::float8 AS pg_stat_bgwriter_stats_reset FROM pg_stat_bgwriter",
            columns("pg_stat_bgwriter", &names)
        )
    }

    /// Where the server is: what it has written, or received.
    fn position(self) -> String {
        let (wal, lsn) = (self.wal(), self.lsn());
        format!(
            "CASE WHEN pg_is_in_recovery() THEN pg_last_{wal}_receive_{lsn}() ELSE pg_current_{wal}_{lsn}() END"
        )
    }

    fn difference(self) -> String {
        format!("pg_{}_{}_diff", self.wal(), self.lsn())
    }

    /// Two connections may say the same of themselves; the one that is further behind counts.
    fn replicas(self) -> String {
        let (at, difference, lsn) = (self.position(), self.difference(), self.lsn());
        let lags = if self.major >= 10 {
            ["write", "flush", "replay"]
                .map(|lag| {
                    format!(", max(EXTRACT(EPOCH FROM {lag}_lag))::float8 AS pg_stat_replication_{lag}_lag_seconds")
                })
                .concat()
        } else {
            String::new()
        };
        format!(
            "SELECT application_name, COALESCE(host(client_addr), '') AS client_addr, COALESCE(state, '') AS state, \
             max({difference}({at}, '0/0'))::float8 AS pg_stat_replication_pg_current_wal_lsn_bytes, \
             max({difference}({at}, replay_{lsn}))::float8 AS pg_stat_replication_pg_wal_lsn_diff{lags} \
             FROM pg_stat_replication GROUP BY 1, 2, 3 ORDER BY 1, 2, 3 LIMIT {ROWS_MAX}"
        )
    }

    fn slots(self) -> String {
        let (at, difference) = (self.position(), self.difference());
        let safe = if self.major >= 13 {
            ", safe_wal_size::float8 AS pg_replication_slots_safe_wal_size_bytes"
        } else {
            ""
        };
        format!(
            "SELECT slot_name::text AS slot_name, COALESCE(database::text, '') AS database, active::int::float8 AS pg_replication_slots_active, \
             {difference}({at}, restart_lsn)::float8 AS pg_replication_slots_pg_wal_lsn_diff{safe} \
             FROM pg_replication_slots ORDER BY 1 LIMIT {ROWS_MAX}"
        )
    }

    fn database(self) -> String {
        let mut names = vec![
            "numbackends",
            "xact_commit",
            "xact_rollback",
            "blks_read",
            "blks_hit",
            "tup_returned",
            "tup_fetched",
            "tup_inserted",
            "tup_updated",
            "tup_deleted",
            "conflicts",
            "temp_files",
            "temp_bytes",
            "deadlocks",
            "blk_read_time",
            "blk_write_time",
        ];
        if self.major >= 12 {
            names.push("checksum_failures");
        }
        let active = if self.major >= 14 {
            ", (active_time / 1000)::float8 AS pg_stat_database_active_time_seconds_total"
        } else {
            ""
        };
        format!(
            "SELECT datid::text AS datid, datname::text AS datname, {}{active}, \
             EXTRACT(EPOCH FROM stats_reset)::float8 AS pg_stat_database_stats_reset \
             FROM pg_stat_database WHERE datname IS NOT NULL ORDER BY pg_stat_database.datid LIMIT {DATABASES_MAX}",
            columns("pg_stat_database", &names)
        )
    }
}

fn statistics(name: &'static str, query: String) -> Statistics {
    Statistics { name, query }
}

fn version() -> String {
    "SELECT version() AS version, current_setting('server_version') AS short_version, 1::float8 AS pg_static"
        .to_owned()
}

fn postmaster() -> String {
    "SELECT EXTRACT(EPOCH FROM pg_postmaster_start_time())::float8 AS pg_postmaster_start_time_seconds"
        .to_owned()
}

fn archiver() -> String {
    "SELECT archived_count::float8 AS pg_stat_archiver_archived_count, failed_count::float8 AS pg_stat_archiver_failed_count, \
     EXTRACT(EPOCH FROM now() - last_archived_time)::float8 AS pg_stat_archiver_last_archive_age FROM pg_stat_archiver"
        .to_owned()
}

fn checkpointer() -> String {
    let names = [
        "num_timed",
        "num_requested",
        "restartpoints_timed",
        "restartpoints_req",
        "restartpoints_done",
        "write_time",
        "sync_time",
        "buffers_written",
    ];
    let columns = names.map(|name| format!("{name}::float8 AS pg_stat_checkpointer_{name}_total"));
    format!("SELECT {} FROM pg_stat_checkpointer", columns.join(", "))
}

fn conflicts() -> String {
    let names = [
        "confl_tablespace",
        "confl_lock",
        "confl_snapshot",
        "confl_bufferpin",
        "confl_deadlock",
    ];
    format!(
        "SELECT datid::text AS datid, datname::text AS datname, {} FROM pg_stat_database_conflicts ORDER BY pg_stat_database_conflicts.datid LIMIT {DATABASES_MAX}",
        columns("pg_stat_database_conflicts", &names)
    )
}

/// Every database with every state, so that what is none is a nought.
fn activity() -> String {
    format!(
        "SELECT d.datname::text AS datname, states.state AS state, COALESCE(found.count, 0)::float8 AS pg_stat_activity_count, \
         COALESCE(found.longest, 0)::float8 AS pg_stat_activity_max_tx_duration \
         FROM (VALUES ('active'), ('idle'), ('idle in transaction'), ('idle in transaction (aborted)'), ('fastpath function call'), ('disabled')) AS states (state) \
         CROSS JOIN {} AS d LEFT JOIN (SELECT datid, state, count(*) AS count, max(EXTRACT(EPOCH FROM now() - xact_start)) AS longest \
         FROM pg_stat_activity GROUP BY datid, state) AS found ON found.datid = d.oid AND found.state = states.state ORDER BY 1, 2",
        databases()
    )
}

fn locks() -> String {
    let modes = [
        "accesssharelock",
        "rowsharelock",
        "rowexclusivelock",
        "shareupdateexclusivelock",
        "sharelock",
        "sharerowexclusivelock",
        "exclusivelock",
        "accessexclusivelock",
        "sireadlock",
    ];
    let modes = modes.map(|mode| format!("('{mode}')")).join(", ");
    format!(
        "SELECT d.datname::text AS datname, modes.mode AS mode, COALESCE(found.count, 0)::float8 AS pg_locks_count \
         FROM (VALUES {modes}) AS modes (mode) CROSS JOIN {} AS d \
         LEFT JOIN (SELECT database, lower(mode) AS mode, count(*) AS count FROM pg_locks GROUP BY 1, 2) AS found \
         ON found.database = d.oid AND found.mode = modes.mode ORDER BY 1, 2",
        databases()
    )
}

fn wraparound() -> String {
    format!(
        "SELECT datname::text AS datname, age(datfrozenxid)::float8 AS pg_database_wraparound_age_datfrozenxid_seconds, \
         mxid_age(datminmxid)::float8 AS pg_database_wraparound_age_datminmxid_seconds \
         FROM pg_database WHERE datallowconn ORDER BY oid LIMIT {DATABASES_MAX}"
    )
}

fn size() -> String {
    format!(
        "SELECT datname::text AS datname, pg_database_size(oid)::float8 AS pg_database_size_bytes \
         FROM pg_database WHERE datallowconn ORDER BY oid LIMIT {DATABASES_MAX}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(version: &str) -> String {
        let dialect = PgDialect::of(version).unwrap();
        let queries = dialect.statistics().into_iter();
        queries.map(|statistics| statistics.query + ";\n").collect()
    }

    #[test]
    fn each_major_is_asked_for_what_it_has() {
        let (old, ten) = (all("9.6"), all("10.1"));
        assert!(old.contains("pg_current_xlog_location()") && !old.contains("_lsn()"));
        assert!(old.contains("pg_xlog_location_diff(") && !old.contains("replay_lag"));
        assert!(ten.contains("pg_current_wal_lsn()") && ten.contains("replay_lag"));
        for (since, what) in [
            ("12", "checksum_failures"),
            ("13", "safe_wal_size"),
            ("14", "active_time"),
            ("17", "pg_stat_checkpointer"),
        ] {
            let before = (since.parse::<u32>().unwrap() - 1).to_string();
            assert!(!all(&before).contains(what), "{what} before {since}");
            assert!(
                all(since).contains(what) && all("18").contains(what),
                "{what}"
            );
        }
        assert!(all("16").contains("checkpoints_req") && !all("17").contains("checkpoints_req"));
    }

    #[test]
    fn no_answer_grows_with_the_number_of_databases() {
        for version in ["9.6", "18"] {
            for statistics in PgDialect::of(version).unwrap().statistics() {
                let one_row = [
                    "version",
                    "postmaster",
                    "replication",
                    "archiver",
                    "bgwriter",
                    "checkpointer",
                ];
                let is_bounded = statistics.query.contains("LIMIT");
                assert!(
                    is_bounded || one_row.contains(&statistics.name),
                    "{}",
                    statistics.name
                );
            }
        }
    }
}
