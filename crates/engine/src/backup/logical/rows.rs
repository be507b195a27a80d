//! Schemas and rows on their way into packs: several at once, the largest tables first.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::AsyncReadExt as _,
    sync::mpsc::{self, Sender},
    task::{JoinSet, spawn_blocking},
};

use super::{Piece, Store};
use crate::{
    backup::{
        Attempt, BackupError,
        pace::Pace,
        read::{Content, Encoder},
    },
    logical::{
        Address, Client, LogicalError, Point, Program,
        contents::{
            Contents, LARGE_OBJECTS, POST_DATA, PRE_DATA, Part, SEQUENCES, Table, text_encoding,
        },
        tables::{Source, sources},
    },
    postgres::dialect::PgDialect,
};

/// Bytes of a file that are compressed and stored at once: pieces of several tables lie between one another in a pack, so each is worth a request.
pub(super) const UNIT: usize = 4 << 20;

/// Tables smaller than this are read in the order of their databases, so that sessions are not changed for each.
const LARGE: u64 = 64 << 20;

/// Rows of large objects: each at its place, whatever pages the other server has.
const OBJECTS: &str =
    "COPY (SELECT loid, pageno::bigint * (pg_catalog.current_setting('block_size')::int / 4), data
    FROM pg_catalog.pg_largeobject ORDER BY loid, pageno) TO STDOUT";

/// A dump at work.
pub(super) struct Dump<'a> {
    pub(super) attempt: &'a Attempt<'a>,
    pub(super) program: &'a Program,
    pub(super) address: &'a Address,
    pub(super) is_standby: bool,
}

/// Something that is read by one session.
#[derive(Clone, Debug)]
struct Job {
    /// Number of the database.
    database: usize,
    what: What,
    file: String,
    bytes: u64,
}

#[derive(Clone, Debug)]
enum What {
    /// A part of a table: its number among the tables, and that of the part.
    Rows {
        table: usize,
        part: usize,
        lock: String,
        copy: String,
    },
    LargeObjects,
    /// Where sequences stand: queries that give statements.
    Sequences(Arc<Vec<String>>),
}

/// What a session needs to know of a database.
#[derive(Clone, Debug)]
struct Known {
    name: String,
    encoding: &'static str,
    snapshot: String,
}

/// What was read.
struct Read {
    job: Job,
    rows: u64,
    bytes: u64,
}

impl<'a> Dump<'a> {
    /// Reads everything. The transactions at the point end with it.
    pub(super) async fn read(
        &self,
        mut point: Point,
        mut contents: Contents,
    ) -> Result<(Contents, Store<'a>), BackupError> {
        let dialect = self.attempt.request.dialect;
        let mut found = Vec::new();
        for opened in &mut point.opened {
            tracing::debug!(
                database = opened.client.database,
                sees = opened.sees(),
                "opened"
            );
            found.push(sources(&mut opened.client, dialect, self.is_standby).await?);
        }
        let known: Vec<Known> = point
            .opened
            .iter()
            .zip(&contents.databases)
            .map(|(opened, database)| Known {
                name: database.name.clone(),
                encoding: text_encoding(&database.encoding),
                snapshot: opened.snapshot.clone(),
            })
            .collect();
        let jobs = plan(&mut contents, found, dialect);
        let total = jobs.iter().map(|job| job.bytes).sum();
        let mut store = Store::new(self.attempt, total)?;
        let threads = self.attempt.request.effort.threads.clamp(1, 64);
        let (sender, mut pieces) = mpsc::channel(threads);
        let outlet = Outlet {
            into: sender,
            pace: self.attempt.pace.clone(),
        };
        let mut workers: JoinSet<Result<Vec<Read>, BackupError>> = JoinSet::new();
        let folders = contents.databases.iter().map(|one| one.folder.clone());
        workers.spawn(schemas(
            self.program.clone(),
            self.address.clone(),
            known.iter().cloned().zip(folders).collect(),
            outlet.clone(),
        ));
        let (known, jobs) = (Arc::new(known), Arc::new(Mutex::new(jobs)));
        for _ in 0..threads {
            let (known, jobs, outlet) = (known.clone(), jobs.clone(), outlet.clone());
            workers.spawn(work(self.address.clone(), known, jobs, outlet));
        }
        drop(outlet);
        loop {
            // One that fails ends all at once, and says why.
            let ended = tokio::select! {
                Some(piece) = pieces.recv() => {
                    store.add(piece).await?;
                    continue;
                }
                Some(ended) = workers.join_next() => ended,
                else => break,
            };
            for read in ended.map_err(|_| BackupError::Worker)?? {
                note(&mut contents, read);
            }
        }
        for opened in point.opened {
            opened.client.close().await;
        }
        Ok((contents, store))
    }
}

/// What is to be read, the largest first; tables are entered into the contents.
fn plan(contents: &mut Contents, found: Vec<Vec<Source>>, dialect: PgDialect) -> VecDeque<Job> {
    let mut jobs = Vec::new();
    for ((number, database), sources) in (0..).zip(&mut contents.databases).zip(found) {
        let (sequences, tables): (Vec<_>, Vec<_>) =
            sources.into_iter().partition(|source| source.is_sequence);
        for source in tables {
            let table = database.tables.len();
            let mut listed = source.table.clone();
            for (part, range) in source.ranges(dialect).into_iter().enumerate() {
                let file = match part {
                    0 => database.file(&format!("tables/{}.copy", source.oid())),
                    _ => database.file(&format!("tables/{}.{part}.copy", source.oid())),
                };
                listed.parts.push(Part {
                    file: file.clone(),
                    ..Part::default()
                });
                jobs.push(Job {
                    database: number,
                    what: What::Rows {
                        table,
                        part,
                        lock: source.lock(),
                        copy: source.copy_out(range, &database.encoding),
                    },
                    file,
                    bytes: source.bytes(range),
                });
            }
            database.tables.push(listed);
        }
        let queries = sequences.iter().map(Source::sequence).collect();
        jobs.push(Job {
            database: number,
            what: What::Sequences(Arc::new(queries)),
            file: database.file(SEQUENCES),
            bytes: 0,
        });
        jobs.push(Job {
            database: number,
            what: What::LargeObjects,
            file: database.file(LARGE_OBJECTS),
            bytes: 0,
        });
    }
    jobs.sort_by_key(|job| {
        let large = if job.bytes >= LARGE { job.bytes } else { 0 };
        (std::cmp::Reverse(large), job.database)
    });
    jobs.into()
}

fn note(contents: &mut Contents, read: Read) {
    let Some(database) = contents.databases.get_mut(read.job.database) else {
        return;
    };
    match read.job.what {
        What::Rows { table, part, .. } => {
            let table = database.tables.get_mut(table);
            if let Some(part) = table.and_then(|table: &mut Table| table.parts.get_mut(part)) {
                (part.rows, part.bytes) = (read.rows, read.bytes);
            }
        }
        What::LargeObjects if read.rows > 0 => {
            database.large_objects = Some(Part {
                file: read.job.file,
                rows: read.rows,
                bytes: read.bytes,
            });
        }
        What::LargeObjects | What::Sequences(_) => {}
    }
}

/// Compresses a piece where it may take its time. Tells the time that a processor spent on it, where the pace asks for that.
pub(super) async fn encode(
    part: Vec<u8>,
    path: &str,
    pace: &Arc<Pace>,
) -> Result<(Option<Content>, Duration), BackupError> {
    let pace = pace.clone();
    let encoded = spawn_blocking(move || {
        let before = pace.thread_time();
        let content = Encoder::new()?.encode(&part)?;
        Ok((content, pace.thread_time().saturating_sub(before)))
    });
    let encoded = encoded.await.map_err(|_| BackupError::Worker)?;
    encoded.map_err(|source| BackupError::Compress {
        path: path.to_owned(),
        source,
    })
}

/// Where pieces go, and at which pace.
#[derive(Clone)]
struct Outlet {
    into: Sender<Piece>,
    pace: Arc<Pace>,
}

/// A file on its way: bytes are gathered, compressed and sent.
struct Out {
    file: String,
    gathered: Vec<u8>,
    bytes: u64,
    into: Outlet,
}

impl Out {
    fn new(file: String, into: Outlet) -> Self {
        Self {
            file,
            gathered: Vec::new(),
            bytes: 0,
            into,
        }
    }

    async fn write(&mut self, mut bytes: &[u8]) -> Result<(), BackupError> {
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let room = UNIT - self.gathered.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.gathered.extend_from_slice(now);
            bytes = later;
            if self.gathered.len() == UNIT {
                self.send().await?;
            }
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), BackupError> {
        let part = std::mem::take(&mut self.gathered);
        let raw = part.len();
        let Outlet { into, pace } = &self.into;
        let (content, worked) = encode(part, &self.file, pace).await?;
        let file = self.file.clone();
        // Nobody takes it any more: whoever stopped has said why.
        let sent = into.send(Piece { file, raw, content }).await;
        sent.map_err(|_| BackupError::Worker)?;
        tokio::time::sleep(pace.pause(raw, worked)).await;
        Ok(())
    }

    /// Sends what is left; an empty file is one too.
    async fn end(mut self) -> Result<u64, BackupError> {
        if !self.gathered.is_empty() || self.bytes == 0 {
            self.send().await?;
        }
        Ok(self.bytes)
    }
}

/// The schemas of all databases, one after another, beside the rows.
async fn schemas(
    program: Program,
    address: Address,
    databases: Vec<(Known, String)>,
    into: Outlet,
) -> Result<Vec<Read>, BackupError> {
    for (known, folder) in databases {
        for (section, name) in [("pre-data", PRE_DATA), ("post-data", POST_DATA)] {
            let Known {
                name: database,
                encoding,
                snapshot,
            } = &known;
            let mut running = program.run(&address, database, encoding, snapshot, section)?;
            let mut out = Out::new(format!("{folder}/{name}"), into.clone());
            let mut buffer = vec![0; 64 << 10];
            loop {
                let read = running.output.read(&mut buffer).await;
                match read.map_err(|source| LogicalError::RunProgram {
                    program: "pg_dump".to_owned(),
                    source,
                })? {
                    0 => break,
                    read => out.write(&buffer[..read]).await?,
                }
            }
            running.end().await?;
            out.end().await?;
        }
    }
    Ok(Vec::new())
}

/// Takes jobs until none is left.
async fn work(
    address: Address,
    known: Arc<Vec<Known>>,
    jobs: Arc<Mutex<VecDeque<Job>>>,
    into: Outlet,
) -> Result<Vec<Read>, BackupError> {
    let mut read = Vec::new();
    let mut sessions: HashMap<usize, Client> = HashMap::new();
    loop {
        let job = {
            let mut jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner);
            jobs.pop_front()
        };
        let Some(job) = job else { break };
        let database = &known[job.database];
        let name = &database.name;
        let mut client = match sessions.remove(&job.database) {
            Some(client) => client,
            None => {
                for (_, other) in sessions.drain() {
                    other.close().await;
                }
                let client = Client::connect(&address, name, database.encoding).await;
                client.map_err(LogicalError::sql("open a session", name))?
            }
        };
        // A transaction for each: what it locks it lets go of.
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{}'",
            database.snapshot
        );
        let begun = client.run(begin.as_bytes()).await;
        begun.map_err(LogicalError::sql("use the snapshot", name))?;
        let (rows, bytes) = carry_out(&mut client, &job, &into).await?;
        let ended = client.run(b"COMMIT").await;
        ended.map_err(LogicalError::sql("end a transaction", name))?;
        sessions.insert(job.database, client);
        read.push(Read { job, rows, bytes });
    }
    for (_, client) in sessions {
        client.close().await;
    }
    Ok(read)
}

async fn carry_out(
    client: &mut Client,
    job: &Job,
    into: &Outlet,
) -> Result<(u64, u64), BackupError> {
    let database = client.database.clone();
    let mut out = Out::new(job.file.clone(), into.clone());
    let copy = match &job.what {
        What::Sequences(queries) => {
            for query in queries.iter() {
                let statement = client.value(query).await;
                let statement =
                    statement.map_err(LogicalError::sql("read the sequences", &database))?;
                out.write(format!("{statement}\n").as_bytes()).await?;
            }
            return Ok((0, out.end().await?));
        }
        What::LargeObjects => OBJECTS,
        What::Rows { lock, copy, .. } => {
            let locked = client.run(lock.as_bytes()).await;
            locked.map_err(LogicalError::sql("lock a table", &database))?;
            copy
        }
    };
    let fail = |source| {
        let what = match job.what {
            What::LargeObjects => "read the large objects",
            _ => "read the rows",
        };
        LogicalError::sql(what, &database)(source)
    };
    client.begin_copy(copy).await.map_err(fail)?;
    let mut rows = 0;
    while let Some(piece) = client.next_piece().await.map_err(fail)? {
        // An end of line within a value is written otherwise.
        rows += piece.iter().filter(|byte| **byte == b'\n').count() as u64;
        out.write(&piece).await?;
    }
    Ok((rows, out.end().await?))
}
