//! What the agent asks of its own PostgreSQL, over the Unix socket.

use std::{collections::BTreeMap, path::Path, time::Duration};

use kubedb_core::lsn::{Lsn, TimelineId};
use kubedb_engine::{backup::SLOT_PREFIX as BACKUP_SLOT_PREFIX, postgres::dialect::PgDialect};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls};

use crate::{paths::Paths, postgres::configuration::REPLICATION_ROLE};

/// A local server answers at once, or it is not well.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The agent's own statements are small.
const STATEMENT_LIMIT: Duration = Duration::from_secs(20);
/// Role for monitoring.
pub(crate) const MONITOR_ROLE: &str = "kubedb_monitor";

/// Why PostgreSQL did not answer.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// No connection.
    #[error("failed to connect to PostgreSQL")]
    Connect(#[source] tokio_postgres::Error),
    /// A statement was refused.
    #[error("failed to {action}")]
    Run {
        /// What was tried.
        action: &'static str,
        /// What PostgreSQL said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// No answer in time.
    #[error("failed to {action} in time")]
    Hang {
        /// What was tried.
        action: &'static str,
    },
    /// An answer that makes no sense.
    #[error("failed to understand PostgreSQL's answer {text:?}")]
    Understand {
        /// The answer.
        text: String,
    },
}

/// A session of the superuser, with `search_path` pinned so that nothing a user made can take a name's place.
#[derive(Debug)]
pub struct Session {
    client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// What a running server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerView {
    /// Whether it is in recovery.
    pub in_recovery: bool,
    /// Write position of a primary, replay position of a standby.
    pub lsn: Option<Lsn>,
    /// Whether the WAL receiver streams.
    pub streaming: bool,
}

/// How to reach the local server as superuser.
#[must_use]
pub fn local(paths: &Paths, port: u16) -> Config {
    let mut config = Config::new();
    config
        .host_path(paths.socket())
        .port(port)
        .user("postgres")
        .dbname("postgres")
        .application_name("kubedb agent")
        // Nothing that a user made can take a name's place, from the first statement on.
        .options("-c search_path=pg_catalog")
        .connect_timeout(CONNECT_LIMIT);
    config
}

impl Session {
    /// Connects.
    pub async fn connect(config: &Config) -> Result<Self, SqlError> {
        let action = "connect to PostgreSQL";
        let (client, connection) = tokio::time::timeout(CONNECT_LIMIT, config.connect(NoTls))
            .await
            .map_err(|_| SqlError::Hang { action })?
            .map_err(SqlError::Connect)?;
        let driver = tokio::spawn(async move {
            // Its end is seen by whoever asks next.
            let _ = connection.await;
        });
        let session = Self { client, driver };
        session
            .run(
                "prepare the session",
                "SET search_path = pg_catalog; SET statement_timeout = '15s'",
            )
            .await?;
        Ok(session)
    }

    /// Runs statements without a result.
    pub async fn run(&self, action: &'static str, statements: &str) -> Result<(), SqlError> {
        tokio::time::timeout(STATEMENT_LIMIT, self.client.batch_execute(statements))
            .await
            .map_err(|_| SqlError::Hang { action })?
            .map_err(|source| SqlError::Run { action, source })
    }

    /// First column of the only row of a query.
    async fn text(&self, action: &'static str, query: &str) -> Result<Option<String>, SqlError> {
        let row = tokio::time::timeout(STATEMENT_LIMIT, self.client.query_one(query, &[]))
            .await
            .map_err(|_| SqlError::Hang { action })?
            .map_err(|source| SqlError::Run { action, source })?;
        row.try_get(0)
            .map_err(|source| SqlError::Run { action, source })
    }

    /// What the server says of itself.
    pub async fn view(&self, dialect: PgDialect) -> Result<ServerView, SqlError> {
        let action = "observe the server";
        let recovery = self
            .text(action, "SELECT pg_is_in_recovery()::text")
            .await?;
        let in_recovery = recovery.as_deref() == Some("true");
        let query = if in_recovery {
            dialect.replay_lsn()
        } else {
            dialect.current_lsn()
        };
        let lsn = match self.text(action, &query).await? {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| SqlError::Understand { text })?),
        };
        let receivers =
            "SELECT count(*)::text FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        let streaming = in_recovery && self.text(action, receivers).await?.as_deref() == Some("1");
        Ok(ServerView {
            in_recovery,
            lsn,
            streaming,
        })
    }

    /// Which transactions have ended, as PostgreSQL prints its snapshots: two equal ones mean that none has in between.
    pub async fn transactions(&self) -> Result<String, SqlError> {
        let query = "SELECT txid_current_snapshot()::text";
        let text = self.text("observe transactions", query).await?;
        Ok(text.unwrap_or_default())
    }

    /// Where the next change will be written: whatever has committed lies before it, written or not.
    pub async fn insert_lsn(&self, dialect: PgDialect) -> Result<Lsn, SqlError> {
        let query = dialect.insert_lsn();
        let text = self.text("ask for the position", &query).await?;
        let text = text.unwrap_or_default();
        text.parse().map_err(|_| SqlError::Understand { text })
    }

    /// Up to where a primary has flushed its WAL; nothing in recovery.
    pub async fn flushed_lsn(&self, dialect: PgDialect) -> Result<Option<Lsn>, SqlError> {
        let query = dialect.flush_lsn();
        let text = self.text("ask what is flushed", &query).await?;
        text.map(|text| {
            let read = text.parse();
            read.map_err(|_| SqlError::Understand { text })
        })
        .transpose()
    }

    /// The timeline that a primary writes; nothing in recovery.
    pub async fn timeline(&self, dialect: PgDialect) -> Result<Option<TimelineId>, SqlError> {
        let query = dialect.current_wal_file();
        let text = self.text("ask for the timeline", &query).await?;
        text.map(|text| {
            let digits = text.get(..8).unwrap_or_default();
            let read = u32::from_str_radix(digits, 16).map(TimelineId);
            read.map_err(|_| SqlError::Understand { text })
        })
        .transpose()
    }

    /// The command that archives, as the running server has it.
    pub async fn archive_command(&self) -> Result<String, SqlError> {
        let query = "SELECT setting FROM pg_settings WHERE name = 'archive_command'";
        let text = self.text("ask for archive_command", query).await?;
        Ok(text.unwrap_or_default())
    }

    /// Ends the segment in work.
    pub async fn switch_wal(&self, dialect: PgDialect) -> Result<(), SqlError> {
        self.run("end a segment of WAL", dialect.switch_wal()).await
    }

    /// When the last transaction that was replayed had committed.
    pub async fn last_replayed_commit(&self) -> Result<Option<String>, SqlError> {
        let query = "SELECT pg_last_xact_replay_timestamp()::text";
        self.text("ask for the last commit", query).await
    }

    /// Names of the settings that are below these values; `None` when none is.
    pub async fn settings_below(
        &self,
        needs: &BTreeMap<String, u64>,
    ) -> Result<Option<String>, SqlError> {
        let list = needs
            .iter()
            .map(|(name, value)| format!("('{name}', {value}::bigint)"))
            .collect::<Vec<_>>()
            .join(", ");
        let query = format!(
            "SELECT string_agg(name, ', ') FROM pg_settings JOIN (VALUES {list}) needs (of, value) ON of = name WHERE setting::bigint < value"
        );
        self.text("compare settings", &query).await
    }

    /// Makes the roles, and sets their passwords. Passwords travel hashed, so that no log of statements can hold one.
    pub async fn ensure_roles(
        &self,
        dialect: PgDialect,
        superuser: &str,
        replication: &str,
    ) -> Result<(), SqlError> {
        let quiet = "SET log_statement = 'none'; SET log_min_error_statement = 'panic'; SET log_min_duration_statement = -1;";
        let make = |role: &str, options: &str| {
            format!(
                "DO $do$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN CREATE ROLE {role} {options}; END IF; END $do$;"
            )
        };
        let statements = [
            quiet.to_owned(),
            make(REPLICATION_ROLE, "LOGIN REPLICATION"),
            make(MONITOR_ROLE, "NOLOGIN"),
            if dialect.password_method() == "md5" {
                String::new()
            } else {
                format!("GRANT pg_monitor TO {MONITOR_ROLE};")
            },
            set_password(dialect, "postgres", superuser),
            set_password(dialect, REPLICATION_ROLE, replication),
        ];
        self.run("set up roles", &statements.join("\n")).await
    }

    /// Makes the slots of the standbys, which hold WAL from now on: a copy taken later starts after this. Drops those of instances that are gone, which would keep WAL for ever.
    pub async fn ensure_slots(&self, slots: &[String]) -> Result<(), SqlError> {
        let list = slots
            .iter()
            .map(|slot| format!("'{slot}'"))
            .collect::<Vec<_>>()
            .join(", ");
        let make = format!(
            "SELECT pg_create_physical_replication_slot(s, true) FROM unnest(ARRAY[{list}]::name[]) s WHERE s NOT IN (SELECT slot_name FROM pg_replication_slots)"
        );
        self.run("make replication slots", &make).await?;
        let drop = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE '{SLOT_PREFIX}%' AND NOT active AND slot_name <> ALL (ARRAY[{list}]::name[])"
        );
        self.run("drop replication slots", &drop).await
    }

    /// Lets a replay go on that an agent had paused for a Snapshot before it was killed, as its note says. Call it while no Snapshot is being taken.
    pub async fn resume_replay(&self, dialect: PgDialect, note: &Path) -> Result<(), SqlError> {
        if !note.exists() {
            return Ok(());
        }
        let resume = format!(
            "DO $do$ BEGIN IF pg_is_in_recovery() THEN PERFORM ({}); END IF; END $do$",
            dialect.resume_replay()
        );
        self.run("resume the replay", &resume).await?;
        tracing::info!("resumed a replay that had been paused for a Snapshot");
        // It is tried again as long as the note is there, which does no harm.
        let _ = std::fs::remove_file(note);
        Ok(())
    }

    /// Drops slots of Snapshots whose session is gone, which 9.6 leaves behind and which would keep WAL for ever. Call it while no
    /// Snapshot is being taken.
    pub async fn drop_backup_slots(&self) -> Result<(), SqlError> {
        let drop = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE left(slot_name::text, length('{BACKUP_SLOT_PREFIX}')) = '{BACKUP_SLOT_PREFIX}' AND NOT active"
        );
        self.run("drop replication slots of ended Snapshots", &drop)
            .await
    }
}

/// Slots of standbys begin so; others are not ours to drop.
const SLOT_PREFIX: &str = "kubedb_standby_";

/// Slot of the standby with this ordinal. Instance names may hold characters that slot names may not.
#[must_use]
pub fn standby_slot(ordinal: u32) -> String {
    format!("{SLOT_PREFIX}{ordinal}")
}

fn set_password(dialect: PgDialect, role: &str, password: &str) -> String {
    use postgres_protocol::password::{md5, scram_sha_256};
    let hashed = match dialect.password_method() {
        "md5" => md5(password.as_bytes(), role),
        _ => scram_sha_256(password.as_bytes()),
    };
    // Hashes hold letters, digits and `+/=$:-` only, so they need no escape.
    format!("ALTER ROLE {role} LOGIN PASSWORD '{hashed}';")
}
