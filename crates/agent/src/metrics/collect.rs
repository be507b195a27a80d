//! Asking PostgreSQL, anew each time: a session that lives on would not notice that no new one can begin. What is not answered in time is left out and said to be.

use std::time::Duration;

use kubedb_core::metrics::{Exposition, Family};
use kubedb_engine::postgres::{dialect::PgDialect, statistics::Statistics};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_postgres::{Client, Config, NoTls, Row, types::Type};

use super::{
    families::{COLLECTED, SCRAPE_DURATION},
    postgres::{POSTGRES, SETTING, UP},
};
use crate::sql::MONITOR_ROLE;

/// A local server takes a connection at once, or it is not well.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// All of it: Prometheus gives a scrape ten seconds, unless it is told otherwise.
const LIMIT: Duration = Duration::from_secs(6);
/// Whose rights suffice is nobody's concern but ours; nothing is written, and nobody is waited for.
const SETTINGS: &str = "SET search_path = pg_catalog; SET statement_timeout = '2s'; SET lock_timeout = '500ms'; \
    SET default_transaction_read_only = on; SET client_min_messages = error;";

/// How to reach the local server.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) config: Config,
    pub(super) dialect: PgDialect,
}

struct Asker {
    client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// What PostgreSQL says, in no more time than the limit.
pub(super) async fn collect(target: &Target) -> Exposition {
    let began = Instant::now();
    let mut found = Exposition::new();
    let connected = timeout_at(began + CONNECT_LIMIT, connect(target)).await;
    match connected {
        Ok(Ok(asker)) => {
            found.add(&UP, &[], 1.0);
            ask_all(&asker, target.dialect, began + LIMIT, &mut found).await;
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "PostgreSQL cannot be asked for its metrics");
            found.add(&UP, &[], 0.0);
        }
        Err(_) => found.add(&UP, &[], 0.0),
    }
    found.add(&SCRAPE_DURATION, &[], began.elapsed().as_secs_f64());
    found
}

/// Connects as the superuser, for whom places are kept when users have taken all others, and goes on with the rights of the monitoring role.
async fn connect(target: &Target) -> Result<Asker, tokio_postgres::Error> {
    let (client, connection) = target.config.connect(NoTls).await?;
    let driver = tokio::spawn(async move {
        // Its end is seen by whoever asks next.
        let _ = connection.await;
    });
    let asker = Asker { client, driver };
    asker.client.batch_execute(SETTINGS).await?;
    if target.dialect.has_monitoring_rights() {
        // A server that has no such role yet is asked all the same.
        let role = format!("SET ROLE {MONITOR_ROLE}");
        if let Err(error) = asker.client.batch_execute(&role).await
            && error.as_db_error().is_none()
        {
            return Err(error);
        }
    }
    Ok(asker)
}

async fn ask_all(asker: &Asker, dialect: PgDialect, end: Instant, found: &mut Exposition) {
    let mut questions = dialect.statistics();
    let settings = Statistics {
        name: "settings",
        query: dialect.settings(),
    };
    // Before the one that may take long.
    questions.insert(questions.len().saturating_sub(1), settings);
    // After a question that was not answered in time nothing tells whose answer the next one would be.
    let mut is_lost = false;
    for question in questions {
        let is_told = !is_lost && {
            let rows = timeout_at(end, asker.client.query(question.query.as_str(), &[])).await;
            is_lost = rows.is_err();
            match rows {
                Ok(Ok(rows)) => {
                    for row in &rows {
                        tell(question.name, row, found);
                    }
                    true
                }
                Ok(Err(error)) => {
                    let collector = question.name;
                    tracing::debug!(%error, collector, "a question was not answered");
                    false
                }
                Err(_) => false,
            }
        };
        found.add(&COLLECTED, &[question.name], f64::from(u8::from(is_told)));
    }
}

fn tell(name: &str, row: &Row, found: &mut Exposition) {
    if name == "settings" {
        let texts: Vec<&str> = (0..row.len())
            .filter_map(|place| row.try_get(place).ok())
            .collect();
        if let [name, value, unit, kind, help] = texts.as_slice()
            && let Some((name, value)) = setting(name, value, unit, kind)
        {
            found.add_found(&name, &format!("Setting of PostgreSQL: {help}"), value);
        }
        return;
    }
    let columns = |are_values: bool| {
        let all = row.columns().iter().enumerate();
        all.filter(move |(_, column)| (*column.type_() == Type::FLOAT8) == are_values)
    };
    let labels: Vec<&str> = columns(false)
        .filter_map(|(place, _)| row.try_get(place).ok())
        .collect();
    for (place, column) in columns(true) {
        // What PostgreSQL does not know is null.
        let Ok(Some(value)) = row.try_get::<_, Option<f64>>(place) else {
            continue;
        };
        let later = format!("{}_total", column.name());
        for name in [column.name(), later.as_str()] {
            let Some(family) = family(name) else {
                continue;
            };
            debug_assert_eq!(family.labels.len(), labels.len(), "labels of {name}");
            if family.labels.len() == labels.len() {
                found.add(family, &labels, value);
            }
        }
    }
}

fn family(name: &str) -> Option<&'static Family> {
    POSTGRES.iter().find(|family| family.name == name).copied()
}

/// A setting as a number in seconds or bytes, and its name with that unit. -1 means "by another setting" or "none", whatever the unit.
fn setting(name: &str, value: &str, unit: &str, kind: &str) -> Option<(String, f64)> {
    let name = format!("{SETTING}{}", name.replace(['.', '-'], "_"));
    if kind == "bool" {
        return Some((name, f64::from(u8::from(value == "on"))));
    }
    let value: f64 = value.parse().ok()?;
    let digits = unit.bytes().take_while(u8::is_ascii_digit).count();
    let count: f64 = if digits == 0 {
        1.0
    } else {
        unit[..digits].parse().ok()?
    };
    let (base, factor): (_, f64) = match &unit[digits..] {
        "" => return Some((name, value)),
        "us" => ("seconds", 1e-6),
        "ms" => ("seconds", 1e-3),
        "s" => ("seconds", 1.0),
        "min" => ("seconds", 60.0),
        "h" => ("seconds", 3_600.0),
        "d" => ("seconds", 86_400.0),
        "B" => ("bytes", 1.0),
        "kB" => ("bytes", 1_024.0),
        "MB" => ("bytes", 1_048_576.0),
        "GB" => ("bytes", 1_073_741_824.0),
        "TB" => ("bytes", 1_099_511_627_776.0),
        _ => return None,
    };
    // Written so that a thousand milliseconds are one second to the last digit.
    let value = match (value, factor) {
        (-1.0, _) => -1.0,
        (value, factor) if factor < 1.0 => value * count / (1.0 / factor).round(),
        (value, factor) => value * count * factor,
    };
    Some((format!("{name}_{base}"), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_in_seconds_and_bytes() {
        for (name, value, unit, kind, wanted, number) in [
            ("fsync", "on", "", "bool", "pg_settings_fsync", 1.0),
            (
                "hot_standby_feedback",
                "off",
                "",
                "bool",
                "pg_settings_hot_standby_feedback",
                0.0,
            ),
            (
                "max_connections",
                "100",
                "",
                "integer",
                "pg_settings_max_connections",
                100.0,
            ),
            (
                "shared_buffers",
                "16384",
                "8kB",
                "integer",
                "pg_settings_shared_buffers_bytes",
                134_217_728.0,
            ),
            (
                "max_wal_size",
                "64",
                "MB",
                "integer",
                "pg_settings_max_wal_size_bytes",
                67_108_864.0,
            ),
            (
                "max_wal_size",
                "4",
                "16MB",
                "integer",
                "pg_settings_max_wal_size_bytes",
                67_108_864.0,
            ),
            (
                "checkpoint_timeout",
                "300",
                "s",
                "integer",
                "pg_settings_checkpoint_timeout_seconds",
                300.0,
            ),
            (
                "autovacuum_vacuum_cost_delay",
                "2",
                "ms",
                "real",
                "pg_settings_autovacuum_vacuum_cost_delay_seconds",
                0.002,
            ),
            (
                "log_min_duration_statement",
                "-1",
                "ms",
                "integer",
                "pg_settings_log_min_duration_statement_seconds",
                -1.0,
            ),
            (
                "log_rotation_age",
                "1440",
                "min",
                "integer",
                "pg_settings_log_rotation_age_seconds",
                86_400.0,
            ),
            (
                "auto_explain.log_min-x",
                "5",
                "",
                "integer",
                "pg_settings_auto_explain_log_min_x",
                5.0,
            ),
        ] {
            let found = setting(name, value, unit, kind);
            assert_eq!(found, Some((wanted.to_owned(), number)), "{name}");
        }
        assert_eq!(setting("x", "1", "furlongs", "integer"), None);
        assert_eq!(setting("x", "many", "", "integer"), None);
    }

    /// What the queries call their columns is in the table: else it would be left out without a word.
    #[test]
    fn every_column_is_in_the_table() {
        for version in [
            "9.6", "10.1", "12.1", "13.1", "14.1", "15.1", "16.1", "17.1", "18.1",
        ] {
            for question in PgDialect::of(version).unwrap().statistics() {
                let words = question.query.split(" AS ").skip(1);
                let names = words.filter_map(|rest| rest.split([',', ' ', ')']).next());
                for name in names.filter(|name| name.starts_with("pg_")) {
                    assert!(
                        family(name).is_some() || family(&format!("{name}_total")).is_some(),
                        "{name}"
                    );
                }
            }
        }
    }
}
