//! Transactions in all databases that see them at one point.
//!
//! PostgreSQL lends a snapshot to sessions of the same database alone, so each database has one of its own. What they see is compared: two snapshots
//! that print alike see the same transactions, whichever databases those wrote in. A standby's replay is paused while they are opened; on a primary it is
//! tried again until no transaction has ended in between, a limited number of times.

use std::{path::PathBuf, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use kubedb_core::lsn::Lsn;
use tokio::time::Instant;

use super::{
    client::{Address, Client, SqlError},
    contents::Database,
    error::LogicalError,
};
use crate::postgres::dialect::PgDialect;

/// Tries to open all at one point on a primary: each takes some milliseconds.
const TRIES: u32 = 50;

/// Replay is paused for this long at most before it goes on without us.
const PAUSE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// Sessions that are opened at once.
const OPENING: usize = 16;

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
const SEES: &str =
    "SELECT pg_catalog.pg_export_snapshot(), pg_catalog.txid_current_snapshot()::text";

/// A transaction in a database, whose snapshot others may borrow.
pub(crate) struct Opened {
    pub(crate) client: Client,
    pub(crate) snapshot: String,
    sees: String,
}

/// All of them.
pub(crate) struct Point {
    /// In the order of the databases.
    pub(crate) opened: Vec<Opened>,
    /// Whether all databases are seen at one point.
    pub(crate) is_one: bool,
    /// What was written or replayed before the first was opened, and after the last.
    pub(crate) start: Lsn,
    pub(crate) stop: Lsn,
}

/// A standby whose replay waits, and the note by which a later agent knows that it was us.
pub(crate) struct Paused<'a> {
    client: &'a mut Client,
    dialect: PgDialect,
    note: PathBuf,
}

/// The note beside the data folder.
#[must_use]
pub fn pause_note(data_folder: &std::path::Path) -> PathBuf {
    data_folder.with_file_name("kubedb-replay-paused")
}

impl<'a> Paused<'a> {
    async fn begin(
        client: &'a mut Client,
        dialect: PgDialect,
        note: PathBuf,
    ) -> Result<Self, LogicalError> {
        let fail = |source| LogicalError::sql("pause the replay", "postgres")(source);
        // Before it is paused: a note too many resumes what does not wait.
        if let Err(error) = tokio::fs::write(&note, b"").await {
            let note = note.display().to_string();
            tracing::warn!(%error, note, "nobody would know that replay is paused");
            return Err(LogicalError::Pause { seconds: 0 });
        }
        let paused = Self {
            client,
            dialect,
            note,
        };
        let asked = paused.client.run(dialect.pause_replay().as_bytes()).await;
        if let Err(error) = asked.map_err(fail) {
            paused.end().await?;
            return Err(error);
        }
        let since = Instant::now();
        // Before 14 nothing tells whether it waits already; it does when it does not move.
        let (mut before, mut still) = (String::new(), 0);
        while still < 3 {
            let now = paused.client.value(&dialect.replay_state()).await;
            let now = match now.map_err(fail) {
                Ok(now) => now,
                Err(error) => {
                    paused.end().await?;
                    return Err(error);
                }
            };
            if now.starts_with("paused ") {
                break;
            }
            still = if now == before { still + 1 } else { 0 };
            before = now;
            if since.elapsed() > PAUSE {
                paused.end().await?;
                return Err(LogicalError::Pause {
                    seconds: PAUSE.as_secs(),
                });
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(paused)
    }

    async fn end(self) -> Result<(), LogicalError> {
        let fail = |source| LogicalError::sql("resume the replay", "postgres")(source);
        let resumed = self
            .client
            .run(self.dialect.resume_replay().as_bytes())
            .await;
        match resumed {
            // It was promoted meanwhile, which resumes it too.
            Err(SqlError::Refused { code, .. }) if code == "55000" => {}
            other => other.map_err(fail)?,
        }
        let _ = tokio::fs::remove_file(&self.note).await;
        Ok(())
    }
}

/// How sessions are had.
pub(crate) struct Opening<'a> {
    pub(crate) address: &'a Address,
    pub(crate) dialect: PgDialect,
    pub(crate) databases: &'a [Database],
    pub(crate) is_standby: bool,
    pub(crate) note: PathBuf,
}

impl Opening<'_> {
    /// Opens a transaction in each database.
    pub(crate) async fn open(&self, control: &mut Client) -> Result<Point, LogicalError> {
        let mut clients = self.connect().await?;
        if !self.is_standby {
            return self.try_often(control, clients).await;
        }
        let paused = Paused::begin(control, self.dialect, self.note.clone()).await?;
        let opened = async {
            let start = position(&mut *paused.client, self.dialect).await?;
            let opened = begin_all(&mut clients).await?;
            let stop = position(&mut *paused.client, self.dialect).await?;
            Ok((start, opened, stop))
        };
        let opened = match tokio::time::timeout(PAUSE, opened).await {
            Ok(opened) => opened,
            Err(_) => Err(LogicalError::Pause {
                seconds: PAUSE.as_secs(),
            }),
        };
        paused.end().await?;
        let (start, sees, stop) = opened?;
        let is_one = start == stop && all_alike(&sees);
        Ok(point(clients, sees, is_one, start, stop))
    }

    async fn connect(&self) -> Result<Vec<Client>, LogicalError> {
        let sessions = stream::iter(0..self.databases.len()).map(|number| async move {
            let database = &self.databases[number];
            let encoding = database.text_encoding();
            let client = Client::connect(self.address, &database.name, encoding).await;
            client.map_err(LogicalError::sql("open a session", &database.name))
        });
        sessions.buffered(OPENING).try_collect().await
    }

    async fn try_often(
        &self,
        control: &mut Client,
        mut clients: Vec<Client>,
    ) -> Result<Point, LogicalError> {
        let mut tried = 0;
        loop {
            tried += 1;
            let start = position(control, self.dialect).await?;
            let sees = begin_all(&mut clients).await?;
            let is_one = all_alike(&sees);
            if is_one || tried == TRIES {
                let stop = position(control, self.dialect).await?;
                return Ok(point(clients, sees, is_one, start, stop));
            }
            for client in &mut clients {
                let rolled_back = client.run(b"ROLLBACK").await;
                rolled_back.map_err(LogicalError::sql("end a transaction", &client.database))?;
            }
        }
    }
}

fn point(
    clients: Vec<Client>,
    sees: Vec<(String, String)>,
    is_one: bool,
    start: Lsn,
    stop: Lsn,
) -> Point {
    let opened = clients.into_iter().zip(sees);
    Point {
        opened: opened
            .map(|(client, (snapshot, sees))| Opened {
                client,
                snapshot,
                sees,
            })
            .collect(),
        is_one,
        start,
        stop: stop.max(start),
    }
}

impl Opened {
    /// What it sees, as PostgreSQL prints it.
    pub(crate) fn sees(&self) -> &str {
        &self.sees
    }
}

async fn position(control: &mut Client, dialect: PgDialect) -> Result<Lsn, LogicalError> {
    let query = format!(
        "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN ({}) ELSE ({}) END",
        dialect.replay_lsn(),
        dialect.insert_lsn_of_primary()
    );
    let text = control.value(&query).await;
    let text = text.map_err(LogicalError::sql("ask for the position", "postgres"))?;
    Ok(text.parse().unwrap_or(Lsn(0)))
}

/// Begins in all at once. What each exported, and sees.
async fn begin_all(clients: &mut [Client]) -> Result<Vec<(String, String)>, LogicalError> {
    let begun = clients.iter_mut().map(|client| async move {
        let rows = client.rows(&format!("{BEGIN}; {SEES}")).await;
        let rows = rows.map_err(LogicalError::sql("export a snapshot", &client.database))?;
        let mut row = rows.into_iter().next_back().unwrap_or_default().into_iter();
        let mut cell = || row.next().flatten().unwrap_or_default();
        Ok((cell(), cell()))
    });
    futures::future::join_all(begun).await.into_iter().collect()
}

fn all_alike(sees: &[(String, String)]) -> bool {
    sees.array_windows()
        .all(|[(_, one), (_, other)]| one == other)
}
