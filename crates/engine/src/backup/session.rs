//! The one connection that a backup holds: it begins and ends backup mode, and keeps the WAL.

use std::{collections::BTreeMap, fmt::Display, path::Path, str::FromStr, time::Duration};

use kubedb_core::lsn::Lsn;
use tokio::{task::JoinHandle, time::timeout};
use tokio_postgres::{Client, NoTls, error::SqlState, types::ToSql};

use super::error::BackupError;
use crate::{
    postgres::{control::ControlFile, dialect::PgDialect},
    repository::manifest::Locale,
};

/// A server on the same machine answers within this.
const ANSWER: Duration = Duration::from_secs(10);

/// Beginning a backup waits for a checkpoint, which writes all of `shared_buffers`: 64 GiB at 100 MB/s.
const CHECKPOINT: Duration = Duration::from_secs(660);

/// A standby that is asked for a position is waited for this long, looked at this often.
const CATCH_UP: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);

/// Waits at the end of a session, for each of two queries; the server clears up by itself when it is too late.
const GOODBYE: Duration = Duration::from_secs(10);

/// Slots that hold WAL for a backup begin so.
pub const SLOT_PREFIX: &str = "kubedb_snap_";

/// Names are PostgreSQL's own, whatever a user made; and no setting ends a session that is silent for hours.
const PREPARE: &str = "SET search_path = pg_catalog; SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings
    WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_session_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')";

/// What the end of backup mode gives.
#[derive(Clone, Debug)]
pub(super) struct Stopped {
    pub(super) stop_lsn: Lsn,
    pub(super) backup_label: String,
    pub(super) tablespace_map: String,
}

/// An open session.
pub(super) struct Session {
    client: Client,
    connection: JoinHandle<()>,
    dialect: PgDialect,
    slot: String,
    pub(super) is_standby: bool,
}

impl Session {
    /// Connects, and checks that the server is the one that lives in `data_folder`.
    pub(super) async fn open(
        config: &tokio_postgres::Config,
        dialect: PgDialect,
        snapshot_uid: &str,
        attempt: u32,
        control: &ControlFile,
    ) -> Result<Self, BackupError> {
        let (client, connection) = within(ANSWER, "connect to the server", config.connect(NoTls))
            .await?
            .map_err(BackupError::Connect)?;
        let connection = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the backup's session ended");
            }
        });
        let uid: String = snapshot_uid
            .to_ascii_lowercase()
            .chars()
            .filter(char::is_ascii_hexdigit)
            .take(16)
            .collect();
        let mut session = Self {
            client,
            connection,
            dialect,
            slot: format!("{SLOT_PREFIX}{uid}_{attempt}"),
            is_standby: false,
        };
        let what = "prepare the session";
        let prepare = session.client.batch_execute(PREPARE);
        within(ANSWER, what, prepare)
            .await?
            .map_err(BackupError::query(what))?;
        let recovering = "SELECT pg_catalog.pg_is_in_recovery()::text";
        session.is_standby = session.text(recovering, "say its role").await? == "true";
        let identifier = "SELECT system_identifier::text FROM pg_catalog.pg_control_system()";
        let identifier = session.text(identifier, "name its cluster").await?;
        // The SQL function gives a signed number of the same bits.
        let of_server = identifier
            .parse::<i64>()
            .map(i64::cast_unsigned)
            .map_err(|_| answer("name its cluster", &identifier))?;
        if of_server == control.system_identifier {
            Ok(session)
        } else {
            Err(BackupError::OtherCluster {
                of_server,
                of_folder: control.system_identifier,
            })
        }
    }

    /// Waits until this instance holds everything up to `needed`.
    pub(super) async fn reach(&self, needed: Lsn) -> Result<(), BackupError> {
        let begun = tokio::time::Instant::now();
        loop {
            let reached = self.reached().await?;
            if reached >= needed {
                return Ok(());
            }
            if begun.elapsed() > CATCH_UP {
                return Err(BackupError::Behind { reached, needed });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What this instance has written or replayed. A standby that has only just started does not say; then it counts as nothing.
    pub(super) async fn reached(&self) -> Result<Lsn, BackupError> {
        let what = "say how far it is";
        let query = if self.is_standby {
            self.dialect.replay_lsn()
        } else {
            self.dialect.current_lsn()
        };
        match self.text(&query, what).await?.as_str() {
            "" => Ok(Lsn(0)),
            text => text.parse().map_err(|_| answer(what, &text)),
        }
    }

    /// For each database, by its oid, the transaction that wrote its row.
    pub(super) async fn incarnations(&self) -> Result<BTreeMap<String, String>, BackupError> {
        let what = "list its databases";
        let query = "SELECT oid::text, xmin::text FROM pg_catalog.pg_database";
        let rows = within(ANSWER, what, self.client.query(query, &[])).await?;
        let rows = rows.map_err(BackupError::query(what))?;
        let pair = |row: &tokio_postgres::Row| Ok((row.try_get(0)?, row.try_get(1)?));
        let pairs: Result<_, tokio_postgres::Error> = rows.iter().map(pair).collect();
        pairs.map_err(BackupError::query(what))
    }

    /// Holds the WAL from now on. From 10 on the slot goes with the session; before, a dead attempt's is dropped here.
    pub(super) async fn hold_wal(&self) -> Result<(), BackupError> {
        let is_temporary = self.dialect.wal_folder() == "pg_wal";
        let what = "drop the slot of a dead backup";
        let dead = "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots
            WHERE NOT active AND pg_catalog.left(slot_name::text, pg_catalog.length($1::text)) = $1::text";
        within(ANSWER, what, self.client.execute(dead, &[&SLOT_PREFIX]))
            .await?
            .map_err(BackupError::query(what))?;
        let create = if is_temporary {
            "SELECT slot_name::text FROM pg_catalog.pg_create_physical_replication_slot($1, true, true)"
        } else {
            "SELECT slot_name::text FROM pg_catalog.pg_create_physical_replication_slot($1, true)"
        };
        let what = "hold the WAL by a replication slot";
        let parameters: [&(dyn ToSql + Sync); 1] = [&self.slot];
        let created = self.client.query_one(create, &parameters);
        within(ANSWER, what, created)
            .await?
            .map_err(BackupError::query(what))?;
        Ok(())
    }

    /// Begins backup mode, with a checkpoint at once.
    pub(super) async fn start(&self, label: &str) -> Result<Lsn, BackupError> {
        let what = "begin a backup";
        let parameters: [&(dyn ToSql + Sync); 2] = [&label, &true];
        let started = self
            .client
            .query_one(self.dialect.start_backup(), &parameters);
        let row = within(CHECKPOINT, what, started)
            .await?
            .map_err(BackupError::query(what))?;
        let text: String = row.try_get(0).map_err(BackupError::query(what))?;
        text.parse().map_err(|_| answer(what, &text))
    }

    /// Ends backup mode.
    pub(super) async fn stop(&self) -> Result<Stopped, BackupError> {
        let what = "end the backup";
        let stopped = self.client.query_one(self.dialect.stop_backup(), &[]);
        let row = within(CHECKPOINT, what, stopped).await?;
        let row = row.map_err(|error| match error.as_db_error() {
            Some(told) if *told.code() == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE => {
                BackupError::Interrupted {
                    reason: told.message().to_owned(),
                }
            }
            _ => BackupError::query(what)(error),
        })?;
        let column = |number: usize| {
            row.try_get::<_, Option<String>>(number)
                .map(Option::unwrap_or_default)
                .map_err(BackupError::query(what))
        };
        let stop_lsn = column(0)?;
        Ok(Stopped {
            stop_lsn: stop_lsn.parse().map_err(|_| answer(what, &stop_lsn))?,
            backup_label: column(1)?,
            tablespace_map: column(2)?,
        })
    }

    /// The timeline that the cluster is on: that of the last checkpoint, or of what a standby has replayed since.
    pub(super) async fn timeline(&self) -> Result<u32, BackupError> {
        let query = "SELECT (CASE WHEN pg_catalog.pg_is_in_recovery() THEN GREATEST(c.timeline_id, r.min_recovery_end_timeline)
            ELSE c.timeline_id END)::text FROM pg_catalog.pg_control_checkpoint() c, pg_catalog.pg_control_recovery() r";
        self.parsed(query, "name its timeline").await
    }

    /// Encodings and collations of all databases that take connections.
    pub(super) async fn locales(&self) -> Result<Vec<Locale>, BackupError> {
        let what = "list its databases";
        // Columns that a major does not have are null.
        let query = "SELECT datname::text, pg_catalog.pg_encoding_to_char(encoding)::text, datcollate::text, datctype::text,
            CASE WHEN pg_catalog.to_jsonb(d) ->> 'datlocprovider' = 'i'
                THEN coalesce(pg_catalog.to_jsonb(d) ->> 'daticulocale', pg_catalog.to_jsonb(d) ->> 'datlocale') END, pg_catalog.to_jsonb(d) ->> 'datcollversion'
            FROM pg_catalog.pg_database d WHERE datallowconn ORDER BY 1";
        let rows = within(ANSWER, what, self.client.query(query, &[]))
            .await?
            .map_err(BackupError::query(what))?;
        let locale = |row: &tokio_postgres::Row| {
            Ok(Locale {
                database: row.try_get(0)?,
                encoding: row.try_get(1)?,
                collate: row.try_get(2)?,
                ctype: row.try_get(3)?,
                icu: row.try_get(4)?,
                collation_version: row.try_get(5)?,
            })
        };
        let locales: Result<Vec<_>, tokio_postgres::Error> = rows.iter().map(locale).collect();
        locales.map_err(BackupError::query(what))
    }

    /// Lets go of the WAL and closes. Whatever goes wrong here is the server's to clear up.
    pub(super) async fn close(self) {
        // A query may still be under way when the backup was cancelled.
        let _ = timeout(GOODBYE, self.client.cancel_token().cancel_query(NoTls)).await;
        let let_go = "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";
        // The cancellation may hit this query instead; then it is asked again.
        for _ in 0..2 {
            let dropped = timeout(GOODBYE, self.client.execute(let_go, &[&self.slot])).await;
            if matches!(dropped, Ok(Ok(_))) {
                break;
            }
        }
        let (client, connection) = (self.client, self.connection);
        // Dropping the client is what ends a connection.
        drop(client);
        if timeout(GOODBYE, connection).await.is_err() {
            tracing::warn!(slot = self.slot, "the backup's session did not end in time");
        }
    }

    async fn text(&self, query: &str, what: &'static str) -> Result<String, BackupError> {
        let row = within(ANSWER, what, self.client.query_one(query, &[]))
            .await?
            .map_err(BackupError::query(what))?;
        let text: Option<String> = row.try_get(0).map_err(BackupError::query(what))?;
        Ok(text.unwrap_or_default())
    }

    async fn parsed<T: FromStr>(&self, query: &str, what: &'static str) -> Result<T, BackupError> {
        let text = self.text(query, what).await?;
        text.parse().map_err(|_| answer(what, &text))
    }
}

fn answer(what: &'static str, answer: &impl Display) -> BackupError {
    BackupError::Answer {
        what,
        answer: answer.to_string(),
    }
}

async fn within<T>(
    limit: Duration,
    what: &'static str,
    work: impl Future<Output = T>,
) -> Result<T, BackupError> {
    timeout(limit, work).await.map_err(|_| BackupError::Late {
        what,
        seconds: limit.as_secs(),
    })
}

/// `pg_control` of a running cluster. A read may meet a write half way, which its checksum shows.
pub(super) async fn read_control(
    data_folder: &Path,
) -> Result<(ControlFile, Vec<u8>), BackupError> {
    const TRIES: u32 = 50;
    let path = data_folder.join(crate::postgres::control::CONTROL_FILE);
    let mut tried = 0;
    loop {
        let bytes = tokio::fs::read(&path).await;
        let bytes = bytes.map_err(|source| BackupError::ReadFile {
            path: path.display().to_string(),
            source,
        })?;
        match ControlFile::parse(&bytes) {
            Ok(control) => return Ok((control, bytes)),
            Err(error) if tried == TRIES => return Err(error.into()),
            Err(_) => tried += 1,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
