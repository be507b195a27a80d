//! A logical Snapshot into a server that holds nothing yet. Any error of SQL is a failure, and so is a row too few.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    client::{Address, Client, SqlError},
    contents::{
        CONTENTS, CONTENTS_BYTES, Contents, Database, PRE_DATA, Part, ReadContentsError, SEQUENCES,
    },
    error::LoadError,
    globals::{Cells, OWN_ROLES, Told},
    post_data,
    quote::{ident, literal},
    split::{Piece, Splitter},
};
use crate::{
    backup::BackupProgress,
    postgres::dialect::PgDialect,
    repository::manifest::ReadManifestError,
    restore::{Files, Reading, RestoreError},
    store::Store,
};

/// Rows of large objects that are taken into a table of their own before they are put into place, at most.
const OBJECTS: usize = 64 << 20;

/// Where that table is.
const OBJECTS_TABLE: &str = "pg_temp.kubedb_large_objects";

/// Databases that initdb has made already.
pub(super) const MADE: [&str; 2] = ["postgres", "template1"];

/// Settings of a session that pg_dump names, by whatever major it is, and that we have set already.
const OURS: [&str; 5] = [
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
];

/// Which Snapshot to load, and into what.
#[derive(Clone, Debug)]
pub struct LoadRequest {
    /// Where it is.
    pub store: Store,
    /// Key of its manifest below the store's root.
    pub manifest: String,
    /// A new server that nobody else uses.
    pub address: Address,
    /// Its major.
    pub dialect: PgDialect,
    /// Its full version.
    pub postgres_version: String,
    /// Tables and indexes that are made at once; at least one.
    pub threads: usize,
    /// The databases to load; all where absent.
    pub databases: Option<Vec<String>>,
}

/// What was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Name of the Snapshot.
    pub snapshot: String,
    /// Databases.
    pub databases: u64,
    /// Tables.
    pub tables: u64,
    /// Rows, each of which was counted twice.
    pub rows: u64,
    /// Bytes fetched from the store.
    pub fetched_bytes: u64,
}

/// Reads what a logical Snapshot holds.
pub(crate) async fn contents(files: &Arc<Files>) -> Result<Contents, LoadError> {
    let list = files.read_whole(CONTENTS, CONTENTS_BYTES).await?;
    let object = CONTENTS.to_owned();
    Contents::read(&list).map_err(|error| {
        LoadError::Snapshot(RestoreError::Manifest(match error {
            ReadContentsError::Damaged(reason) => ReadManifestError::Damaged { object, reason },
            ReadContentsError::TooNew(version) => ReadManifestError::TooNew {
                object,
                what: format!("version {version} of its list"),
            },
        }))
    })
}

/// The databases that are wanted, by name.
pub(crate) fn chosen<'a>(
    contents: &'a Contents,
    wanted: Option<&[String]>,
    snapshot: &str,
) -> Result<Vec<&'a Database>, LoadError> {
    let Some(wanted) = wanted else {
        return Ok(contents.databases.iter().collect());
    };
    let named = wanted.iter().map(|name| {
        let found = contents.databases.iter().find(|known| known.name == *name);
        found.ok_or_else(|| LoadError::NoDatabase {
            snapshot: snapshot.to_owned(),
            database: name.clone(),
            known: {
                let known = contents.databases.iter().map(|known| known.name.as_str());
                known.collect::<Vec<_>>().join(", ")
            },
        })
    });
    let mut named: Vec<&Database> = named.collect::<Result<_, _>>()?;
    named.sort_by(|one, other| one.name.cmp(&other.name));
    named.dedup_by(|one, other| one.name == other.name);
    Ok(named)
}

/// Loads it. `progress` is told as it goes. What an error leaves behind is of no use.
pub async fn load(
    request: LoadRequest,
    progress: watch::Sender<BackupProgress>,
    cancel: CancellationToken,
) -> Result<Loaded, LoadError> {
    let files = Files::open(&request.store, &request.manifest, cancel.clone()).await?;
    let manifest = files.manifest();
    let theirs = PgDialect::of(&manifest.cluster.postgres_version).ok();
    if theirs.is_none_or(|theirs| theirs > request.dialect) {
        return Err(LoadError::Older {
            snapshot: manifest.snapshot.clone(),
            theirs: manifest.cluster.postgres_version.clone(),
            ours: request.postgres_version.clone(),
        });
    }
    let contents = contents(&files).await?;
    let loading = Loading {
        told: Arc::new(Progress {
            done: AtomicU64::new(0),
            total: manifest.sizes.database_bytes,
            progress,
        }),
        files: files.clone(),
        contents: &contents,
        request: &request,
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(LoadError::Snapshot(RestoreError::Cancelled)),
        loaded = loading.load() => loaded,
    }
}

struct Progress {
    done: AtomicU64,
    total: u64,
    progress: watch::Sender<BackupProgress>,
}

impl Progress {
    fn add(&self, bytes: usize, files: &Files) {
        let bytes = bytes as u64;
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.progress.send_replace(BackupProgress {
            done_bytes: done,
            total_bytes: self.total.max(done),
            uploaded_bytes: files.fetched(),
        });
    }
}

struct Loading<'a> {
    files: Arc<Files>,
    contents: &'a Contents,
    request: &'a LoadRequest,
    told: Arc<Progress>,
}

/// A part of a table on its way.
struct Job {
    title: String,
    copy: String,
    part: Part,
}

impl Loading<'_> {
    async fn load(&self) -> Result<Loaded, LoadError> {
        let snapshot = &self.files.manifest().snapshot;
        let wanted = self.request.databases.as_deref();
        let chosen = chosen(self.contents, wanted, snapshot)?;
        let mut control = self.connect("postgres", "UTF8").await?;
        self.make_own_roles(&mut control).await?;
        run_all(&mut control, &self.contents.make_roles()).await?;
        control.close().await;
        let mut loaded = Loaded {
            snapshot: snapshot.clone(),
            ..Loaded::default()
        };
        for database in &chosen {
            self.make(database).await?;
            self.fill(database).await?;
            tracing::info!(database = database.name, rows = database.rows(), "loaded");
            loaded.databases += 1;
            loaded.tables += database.tables.len() as u64;
            loaded.rows += database.rows();
        }
        let mut control = self.connect("postgres", "UTF8").await?;
        for database in &chosen {
            run_all(&mut control, &database.finish()).await?;
        }
        let by_name: BTreeMap<&str, &Database> = chosen
            .iter()
            .map(|database| (database.name.as_str(), *database))
            .collect();
        run_all(&mut control, &self.contents.make_settings(&by_name)).await?;
        control.close().await;
        loaded.fetched_bytes = self.files.fetched();
        Ok(loaded)
    }

    async fn connect(&self, database: &str, encoding: &str) -> Result<Client, LoadError> {
        let client = Client::connect(&self.request.address, database, encoding).await;
        client.map_err(LoadError::statement(database, b"(to connect)"))
    }

    /// Roles that each server of ours has, and that something in the databases may have been granted to.
    async fn make_own_roles(&self, control: &mut Client) -> Result<(), LoadError> {
        for role in OWN_ROLES {
            let query = format!(
                "SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = {}",
                literal(role)
            );
            let known = control.value(&query).await;
            if known.map_err(LoadError::statement("postgres", query.as_bytes()))? != "1" {
                let options = if role == OWN_ROLES[0] {
                    "LOGIN REPLICATION"
                } else {
                    "NOLOGIN"
                };
                let made = format!("CREATE ROLE {} {options}", ident(role));
                run_all(control, &[made.into()]).await?;
            }
        }
        Ok(())
    }

    /// Makes a database, empty. One that initdb has made stays where it is as it was there.
    async fn make(&self, database: &Database) -> Result<(), LoadError> {
        let name = database.name.as_str();
        let is_made = MADE.contains(&name);
        let mut control = self
            .connect(
                if name == "postgres" {
                    "template1"
                } else {
                    "postgres"
                },
                "UTF8",
            )
            .await?;
        let create = database.create(self.request.dialect.number());
        if is_made {
            let query = format!(
                "SELECT pg_catalog.pg_encoding_to_char(encoding)::text, datcollate::text, datctype::text, coalesce(pg_catalog.to_jsonb(d) ->> 'datlocprovider', 'c')
                    FROM pg_catalog.pg_database d WHERE datname = {}",
                literal(name)
            );
            let rows = control.rows(&query).await;
            let rows = rows.map_err(LoadError::statement(name, query.as_bytes()))?;
            let mut found = Cells::of(rows.into_iter().next().unwrap_or_default());
            let found = [found.text(), found.text(), found.text(), found.text()];
            let wanted = [
                &database.encoding,
                &database.collate,
                &database.ctype,
                &database.provider,
            ];
            if found.iter().eq(wanted) {
                control.close().await;
                return Ok(());
            }
            let drop = [
                format!("ALTER DATABASE {} IS_TEMPLATE false", ident(name)),
                format!("DROP DATABASE {}", ident(name)),
            ];
            run_all(&mut control, &drop.map(Told::from)).await?;
        }
        run_all(&mut control, &[create.into()]).await?;
        control.close().await;
        Ok(())
    }

    async fn fill(&self, database: &Database) -> Result<(), LoadError> {
        let mut clients = Vec::new();
        for _ in 0..self.request.threads.clamp(1, 64) {
            clients.push(
                self.connect(&database.name, database.text_encoding())
                    .await?,
            );
        }
        self.run_file(&mut clients[0], database, PRE_DATA).await?;
        self.rows(&mut clients, database).await?;
        self.run_file(&mut clients[0], database, SEQUENCES).await?;
        if let Some(part) = &database.large_objects {
            self.large_objects(&mut clients[0], part).await?;
        }
        let statements = self.statements(database, super::contents::POST_DATA)?;
        let clients = post_data::run(clients, statements).await?;
        for (number, mut client) in clients.into_iter().enumerate() {
            if number == 0 {
                run_all(&mut client, &["ANALYZE".to_owned().into()]).await?;
            }
            client.close().await;
        }
        Ok(())
    }

    fn statements(&self, database: &Database, file: &str) -> Result<Statements, LoadError> {
        let reading = self.files.read(&database.file(file))?;
        let major = self.request.dialect.number();
        Ok(Statements::new(reading, &database.name, major))
    }

    /// Runs a file's statements one after another.
    async fn run_file(
        &self,
        client: &mut Client,
        database: &Database,
        file: &str,
    ) -> Result<(), LoadError> {
        let mut statements = self.statements(database, file)?;
        while let Some(statement) = statements.next().await? {
            let ran = client.run(&statement).await;
            ran.map_err(LoadError::statement(&database.name, &statement))?;
        }
        Ok(())
    }

    /// Rows of all tables, several at once, the largest first; those of extensions before them, in the order in which they may refer to one another.
    async fn rows(&self, clients: &mut Vec<Client>, database: &Database) -> Result<(), LoadError> {
        // What an extension brought along may look at rows that are not there yet.
        run_in_each(clients, "SET session_replication_role = replica").await?;
        let mut jobs: Vec<Job> = Vec::new();
        for table in &database.tables {
            let jobs_of_table = table.parts.iter().map(|part| Job {
                title: table.title(),
                copy: table.copy_in(&database.encoding),
                part: part.clone(),
            });
            jobs.extend(jobs_of_table);
        }
        jobs.sort_by_key(|job| std::cmp::Reverse(job.part.bytes));
        let jobs = Arc::new(Mutex::new(VecDeque::from(jobs)));
        let mut workers = JoinSet::new();
        for client in clients.drain(..) {
            let (jobs, files, told) = (jobs.clone(), self.files.clone(), self.told.clone());
            workers.spawn(work(client, jobs, files, told));
        }
        while let Some(ended) = workers.join_next().await {
            clients.push(ended.map_err(|_| RestoreError::Worker)??);
        }
        run_in_each(clients, "RESET session_replication_role").await
    }

    /// Content of large objects, which the schema has made. What is not written of one is zero.
    async fn large_objects(&self, client: &mut Client, part: &Part) -> Result<(), LoadError> {
        let database = client.database.clone();
        let make = "CREATE TEMPORARY TABLE kubedb_large_objects (id oid, at bigint, data bytea)"
            .to_owned();
        let copy = format!("COPY {OBJECTS_TABLE} FROM STDIN");
        let put = format!(
            "SELECT pg_catalog.count(*)::text FROM (SELECT pg_catalog.lo_put(id, at, data) FROM {OBJECTS_TABLE} OFFSET 0) put"
        );
        let empty = format!("TRUNCATE {OBJECTS_TABLE}");
        run_all(client, &[make.into()]).await?;
        let fail = |statement: &str| LoadError::statement(&database, statement.as_bytes());
        let mut reading = self.files.read(&part.file)?;
        let (mut taken, mut is_over) = (0, false);
        let mut rest = bytes::Bytes::new();
        while !is_over {
            client.begin_copy(&copy).await.map_err(fail(&copy))?;
            let mut sent = 0;
            loop {
                let piece = if rest.is_empty() {
                    reading.next().await?
                } else {
                    Some(std::mem::take(&mut rest))
                };
                let Some(mut piece) = piece else {
                    is_over = true;
                    break;
                };
                self.told.add(piece.len(), &self.files);
                let end = piece.iter().rposition(|byte| *byte == b'\n');
                if sent + piece.len() >= OBJECTS
                    && let Some(end) = end
                {
                    rest = piece.split_off(end + 1);
                    client.send(&piece).await.map_err(fail(&copy))?;
                    break;
                }
                sent += piece.len();
                client.send(&piece).await.map_err(fail(&copy))?;
            }
            let rows = client.end_copy().await.map_err(fail(&copy))?;
            let done = client.value(&put).await.map_err(fail(&put))?;
            if done.parse() == Ok(rows) {
                taken += rows;
            }
            client.run(empty.as_bytes()).await.map_err(fail(&empty))?;
        }
        let drop = format!("DROP TABLE {OBJECTS_TABLE}");
        run_all(client, &[drop.into()]).await?;
        counted(&database, "pg_largeobject", taken, part.rows)
    }
}

async fn run_in_each(clients: &mut [Client], statement: &str) -> Result<(), LoadError> {
    for client in clients {
        run_all(client, &[statement.to_owned().into()]).await?;
    }
    Ok(())
}

fn counted(database: &str, table: &str, taken: u64, held: u64) -> Result<(), LoadError> {
    if taken == held {
        return Ok(());
    }
    Err(LoadError::Rows {
        database: database.to_owned(),
        table: table.to_owned(),
        taken,
        held,
    })
}

async fn work(
    mut client: Client,
    jobs: Arc<Mutex<VecDeque<Job>>>,
    files: Arc<Files>,
    told: Arc<Progress>,
) -> Result<Client, LoadError> {
    loop {
        let job = {
            let mut jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner);
            jobs.pop_front()
        };
        let Some(job) = job else { return Ok(client) };
        let database = client.database.clone();
        let fail = |error: SqlError| LoadError::statement(&database, job.copy.as_bytes())(error);
        let mut reading = files.read(&job.part.file)?;
        client.begin_copy(&job.copy).await.map_err(fail)?;
        while let Some(piece) = reading.next().await? {
            client.send(&piece).await.map_err(fail)?;
            told.add(piece.len(), &files);
        }
        let taken = client.end_copy().await.map_err(fail)?;
        counted(&database, &job.title, taken, job.part.rows)?;
    }
}

/// Statements of a file, as they come.
pub(super) struct Statements {
    reading: Reading,
    splitter: Splitter,
    is_over: bool,
    database: String,
    /// That of the server that runs them.
    major: u32,
}

impl Statements {
    pub(super) fn new(reading: Reading, database: &str, major: u32) -> Self {
        Self {
            reading,
            splitter: Splitter::default(),
            is_over: false,
            database: database.to_owned(),
            major,
        }
    }

    /// The next one. Commands of psql are never carried out: those that only guard psql against others are passed over, any other is an error.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, LoadError> {
        loop {
            let piece = self.splitter.next().map_err(|source| LoadError::Split {
                database: self.database.clone(),
                source,
            })?;
            match piece {
                Some(Piece::Statement(statement)) if is_ours(&statement) => {}
                Some(Piece::Statement(statement)) => {
                    return Ok(Some(adapted(statement, self.major)));
                }
                Some(Piece::Meta(command)) => {
                    let word = command.split_whitespace().next().unwrap_or_default();
                    if !matches!(word, "\\restrict" | "\\unrestrict") {
                        return Err(LoadError::Meta {
                            database: self.database.clone(),
                            command: command.chars().take(80).collect(),
                        });
                    }
                }
                None if self.is_over => return Ok(None),
                None => match self.reading.next().await? {
                    Some(piece) => self.splitter.push(&piece),
                    None => {
                        self.splitter.end();
                        self.is_over = true;
                    }
                },
            }
        }
    }
}

/// Whether a statement only sets what we have set, perhaps by a name that this server does not know.
fn is_ours(statement: &[u8]) -> bool {
    let text = std::str::from_utf8(statement).unwrap_or_default();
    let name = text
        .strip_prefix("SET ")
        .and_then(|rest| rest.strip_suffix(" = 0;"));
    name.is_some_and(|name| OURS.contains(&name))
}

/// A statement as an older major has it, where pg_dump writes it as later ones do.
fn adapted(statement: Vec<u8>, major: u32) -> Vec<u8> {
    const WORDS: [(&str, &str, &str); 2] = [
        (
            "CREATE EVENT TRIGGER ",
            "\n   EXECUTE FUNCTION ",
            "\n   EXECUTE PROCEDURE ",
        ),
        (
            "CREATE OPERATOR ",
            "\n    FUNCTION = ",
            "\n    PROCEDURE = ",
        ),
    ];
    if major >= 11 {
        return statement;
    }
    let known = WORDS
        .into_iter()
        .find(|(begin, ..)| statement.starts_with(begin.as_bytes()));
    match (known, std::str::from_utf8(&statement)) {
        (Some((_, new, old)), Ok(text)) => text.replacen(new, old, 1).into_bytes(),
        _ => statement,
    }
}

/// Runs statements one after another.
pub(super) async fn run_all(client: &mut Client, statements: &[Told]) -> Result<(), LoadError> {
    let database = client.database.clone();
    for Told { statement } in statements {
        let ran = client.run(statement.as_bytes()).await;
        ran.map_err(LoadError::statement(&database, statement.as_bytes()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_we_have_set_ourselves_is_passed_over() {
        assert!(is_ours(b"SET transaction_timeout = 0;"));
        for other in [
            "SET row_security = off;",
            "SET statement_timeout = 1;",
            "SELECT 0;",
        ] {
            assert!(!is_ours(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn an_older_server_is_told_of_procedures() {
        let text =
            b"CREATE EVENT TRIGGER \"e\" ON ddl_command_end\n   EXECUTE FUNCTION \"s\".\"f\"();";
        let old = adapted(text.to_vec(), 9);
        assert!(old.ends_with(b"EXECUTE PROCEDURE \"s\".\"f\"();"));
        assert_eq!(adapted(text.to_vec(), 11), text);
        let text =
            b"CREATE OPERATOR \"s\".=== (\n    FUNCTION = \"int4eq\",\n    LEFTARG = integer\n);";
        let old = String::from_utf8(adapted(text.to_vec(), 10)).unwrap();
        assert!(old.contains("\n    PROCEDURE = \"int4eq\""), "{old}");
    }
}
