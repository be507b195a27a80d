//! Reading everything that a server holds: every table, every index where the build has amcheck, and what the user asks.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use kubedb_api::verification::VerificationRequest;
use tokio::{task::JoinHandle, time::timeout};
use tokio_postgres::{Client, NoTls};

use super::End;
use crate::{backup::Refusal, bootstrap::Place, sql::local};

/// A local server answers at once, or it is not well.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// Role that runs the user's query: whoever may ask for a verification must not become the superuser by it.
const READER: &str = "kubedb_verify";
/// Schema of amcheck, where the database has none.
const SCHEMA: &str = "kubedb_verify";
/// How long the user's query may take.
const QUERY_LIMIT: &str = "1h";

/// Settings of a session. Nothing that a user made can take a name's place, or be run by what is done here; no limit of a user's holds.
const OPTIONS: &str = "-c search_path=pg_catalog -c session_replication_role=replica -c session_preload_libraries= -c local_preload_libraries= -c statement_timeout=0 -c lock_timeout=0 -c row_security=off -c default_transaction_read_only=off";

/// What was read.
#[derive(Default)]
pub(super) struct Read {
    databases: usize,
    tables: usize,
    indexes: usize,
    /// Indexes that nothing here can check.
    unchecked: usize,
    has_amcheck: bool,
    rows: Option<u64>,
}

impl Read {
    pub(super) fn words(&self) -> String {
        let indexes = match (self.has_amcheck, self.unchecked) {
            (true, 0) => format!("{} indexes checked by amcheck", self.indexes),
            (true, more) => format!(
                "{} indexes checked by amcheck, {more} of kinds it does not know",
                self.indexes
            ),
            (false, more) => format!("{more} indexes not checked: this build has no amcheck"),
        };
        let rows = match self.rows {
            None => String::new(),
            Some(1) => "; the query returned 1 row".to_owned(),
            Some(rows) => format!("; the query returned {rows} rows"),
        };
        let (databases, tables) = (self.databases, self.tables);
        format!("{tables} tables of {databases} databases read, {indexes}{rows}")
    }
}

struct Session {
    client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl std::ops::Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

async fn connect(place: &Place, database: &str, user: &str) -> Result<Session, End> {
    let mut config = local(&place.paths, place.socket_port);
    config
        .dbname(database)
        .user(user)
        .application_name("kubedb verify");
    if user == READER {
        config.options(format!(
            "-c statement_timeout={QUERY_LIMIT} -c default_transaction_read_only=on"
        ));
    } else {
        config.options(OPTIONS);
    }
    let doing = || format!("open database {database:?}");
    let connected = timeout(CONNECT_LIMIT, config.connect(NoTls)).await;
    let connected = connected.map_err(|_| Refusal {
        reason: format!("failed to {} in time", doing()),
        is_retryable: true,
    })?;
    let (client, connection) = connected.map_err(|error| judged(&doing(), &error))?;
    let driver = tokio::spawn(async move {
        // Its end is seen by whoever asks next.
        let _ = connection.await;
    });
    Ok(Session { client, driver })
}

/// Reads everything.
pub(super) async fn read(place: &Place, request: &VerificationRequest) -> Result<Read, End> {
    let mut read = Read::default();
    let session = connect(place, "postgres", "postgres").await?;
    let query = "SELECT datname::text FROM pg_database WHERE datallowconn ORDER BY 1";
    let databases = names(&session, "list the databases", query).await?;
    drop(session);
    for database in &databases {
        let session = connect(place, database, "postgres").await?;
        read_database(&session, database, &mut read).await?;
        read.databases += 1;
    }
    if let Some(query) = &request.query {
        let database = request.database.as_deref().unwrap_or("postgres");
        read.rows = Some(ask(place, database, query).await?);
    }
    Ok(read)
}

async fn names(session: &Session, doing: &str, query: &str) -> Result<Vec<String>, End> {
    let rows = session.query(query, &[]).await;
    let rows = rows.map_err(|error| judged(doing, &error))?;
    rows.iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()
        .map_err(|error| judged(doing, &error))
}

/// What lasts, of all schemas: what PostgreSQL keeps for itself is as needed as the rest.
const TABLES: &str = "SELECT format('%I.%I', n.nspname, c.relname), c.relkind::text, c.oid::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND (c.relkind = 'r' OR c.relispopulated) ORDER BY 1";

const INDEXES: &str = "SELECT format('%I.%I', n.nspname, c.relname), a.amname::text, c.oid::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_index i ON i.indexrelid = c.oid JOIN pg_am a ON a.oid = c.relam WHERE c.relkind = 'i' AND c.relpersistence = 'p' AND i.indisready AND i.indisvalid ORDER BY 1";

async fn read_database(session: &Session, database: &str, read: &mut Read) -> Result<(), End> {
    let amcheck = amcheck(session, database).await?;
    read.has_amcheck |= amcheck.is_some();
    for (name, kind, oid) in relations(session, TABLES).await? {
        let doing = format!("read table {name} of database {database:?}");
        let copy = match kind.as_str() {
            "m" => format!("COPY (SELECT * FROM {name}) TO STDOUT"),
            _ => format!("COPY {name} TO STDOUT"),
        };
        discard(session, &doing, &copy).await?;
        if let Some(amcheck) = amcheck.as_ref().filter(|amcheck| amcheck.knows_tables) {
            amcheck.table(session, &doing, &oid).await?;
        }
        read.tables += 1;
    }
    for (name, method, oid) in relations(session, INDEXES).await? {
        match &amcheck {
            Some(amcheck) if method == "btree" => {
                let doing = format!("check index {name} of database {database:?}");
                amcheck.index(session, &doing, &oid).await?;
                read.indexes += 1;
            }
            _ => read.unchecked += 1,
        }
    }
    Ok(())
}

async fn relations(session: &Session, query: &str) -> Result<Vec<(String, String, String)>, End> {
    let doing = "list tables and indexes";
    let rows = session.query(query, &[]).await;
    let rows = rows.map_err(|error| judged(doing, &error))?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)))
        .collect::<Result<_, tokio_postgres::Error>>()
        .map_err(|error| judged(doing, &error))
}

/// Reads all rows with all their values, and keeps none.
async fn discard(session: &Session, doing: &str, copy: &str) -> Result<(), End> {
    let rows = session.copy_out(copy).await;
    let rows = rows.map_err(|error| judged(doing, &error))?;
    rows.try_for_each(|_| std::future::ready(Ok(())))
        .await
        .map_err(|error| judged(doing, &error))
}

/// PostgreSQL's own checks, in the schema they lie in.
struct Amcheck {
    schema: String,
    /// `verify_heapam`, since 14.
    knows_tables: bool,
    /// Whether every row has its entry: since 11.
    knows_rows: bool,
}

/// amcheck of this database; none where the build has none.
async fn amcheck(session: &Session, database: &str) -> Result<Option<Amcheck>, End> {
    let doing = format!("prepare amcheck in database {database:?}");
    let query = "SELECT name::text FROM pg_available_extensions WHERE name = 'amcheck'";
    if names(session, &doing, query).await?.is_empty() {
        return Ok(None);
    }
    let known = "SELECT format('%I', n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'amcheck'";
    if names(session, &doing, known).await?.is_empty() {
        let make = format!(
            "CREATE SCHEMA IF NOT EXISTS {SCHEMA}; CREATE EXTENSION amcheck SCHEMA {SCHEMA}"
        );
        let made = session.batch_execute(&make).await;
        made.map_err(|error| judged(&doing, &error))?;
    }
    // One that a user made with an earlier version knows less.
    let update = session
        .batch_execute("ALTER EXTENSION amcheck UPDATE")
        .await;
    update.map_err(|error| judged(&doing, &error))?;
    let Some(schema) = names(session, &doing, known).await?.pop() else {
        return Ok(None);
    };
    let functions = "SELECT p.proname || '/' || p.pronargs FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.deptype = 'e' JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'amcheck'";
    let functions = names(session, &doing, functions).await?;
    let has = |name: &str| functions.iter().any(|function| function.starts_with(name));
    Ok(Some(Amcheck {
        knows_tables: has("verify_heapam/"),
        knows_rows: has("bt_index_parent_check/2"),
        schema,
    }))
}

impl Amcheck {
    async fn table(&self, session: &Session, doing: &str, oid: &str) -> Result<(), End> {
        let query = format!(
            "SELECT 'block ' || blkno || ': ' || msg FROM {}.verify_heapam({oid}::regclass) LIMIT 1",
            self.schema
        );
        match names(session, doing, &query).await?.pop() {
            None => Ok(()),
            Some(what) => Err(End::Bad(format!("failed to {doing}: {what}"))),
        }
    }

    async fn index(&self, session: &Session, doing: &str, oid: &str) -> Result<(), End> {
        let arguments = if self.knows_rows { ", true" } else { "" };
        let query = format!(
            "SELECT {}.bt_index_parent_check({oid}::regclass{arguments})",
            self.schema
        );
        let checked = session.batch_execute(&query).await;
        checked.map_err(|error| judged(doing, &error))
    }
}

/// Runs the user's query as a role that may read everything and change nothing, and counts the rows.
async fn ask(place: &Place, database: &str, query: &str) -> Result<u64, End> {
    let doing = "prepare the query";
    let session = connect(place, database, "postgres").await?;
    let make =
        format!("DROP ROLE IF EXISTS {READER}; CREATE ROLE {READER} LOGIN NOSUPERUSER BYPASSRLS");
    let made = session.batch_execute(&make).await;
    made.map_err(|error| judged(doing, &error))?;
    let granted = session.batch_execute(GRANT).await;
    granted.map_err(|error| judged(doing, &error))?;
    drop(session);
    let session = connect(place, database, READER).await?;
    // One statement, and its rows are not kept.
    let rows = session.query_raw(query, Vec::<String>::new()).await;
    let rows = rows.map_err(|error| failed_query(&error))?;
    let mut rows = std::pin::pin!(rows);
    let mut count = 0;
    while let Some(row) = rows.next().await {
        row.map_err(|error| failed_query(&error))?;
        count += 1;
    }
    Ok(count)
}

/// Reading everything: a role of its own does that since 14.
const GRANT: &str = "DO $do$ DECLARE schema name; BEGIN
EXECUTE format('GRANT CONNECT ON DATABASE %I TO kubedb_verify', current_database());
IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'pg_read_all_data') THEN GRANT pg_read_all_data TO kubedb_verify;
ELSE FOR schema IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_(toast|temp)' LOOP
EXECUTE format('GRANT USAGE ON SCHEMA %I TO kubedb_verify', schema);
IF schema !~ '^pg_' THEN EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO kubedb_verify', schema); END IF;
END LOOP; END IF; END $do$";

fn words(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(told) => told.message().to_owned(),
        None => crate::backup::line(error),
    }
}

/// Whether an error comes from what is around the server, and not from what is in it.
fn is_around(error: &tokio_postgres::Error) -> bool {
    let code = error.code().map_or("", |code| code.code());
    // Lost connections, resources, an operator's intervention, the system.
    code.is_empty()
        || ["08", "53", "57", "58030"]
            .iter()
            .any(|class| code.starts_with(class))
}

/// What an error of our own statements means: damage is what PostgreSQL calls so, a value that makes no sense, and a file that is not there.
fn judged(doing: &str, error: &tokio_postgres::Error) -> End {
    let reason = format!("failed to {doing}: {}", words(error));
    let code = error.code().map_or("", |code| code.code());
    let is_library = reason.contains("could not access file");
    let is_damage =
        code.starts_with("XX") || code.starts_with("22") || (code == "58P01" && !is_library);
    if is_damage {
        return End::Bad(reason);
    }
    End::Refused(Refusal {
        reason,
        is_retryable: is_around(error),
    })
}

fn failed_query(error: &tokio_postgres::Error) -> End {
    let reason = format!("the query failed: {}", words(error));
    if is_around(error) && error.code().map(|code| code.code()) != Some("57014") {
        return End::Refused(Refusal {
            reason,
            is_retryable: true,
        });
    }
    End::Query(reason)
}
