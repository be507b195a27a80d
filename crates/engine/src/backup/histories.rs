//! A model of the repository: random histories of changes, Snapshots and deletions over a store in memory that dies or pauses at any of its calls.
//! After every step each Snapshot that counts is restored and compared, byte for byte, with what it was taken of; in the end nothing may be left.
//!
//! `KUBEDB_HISTORIES=100000` runs more of them, `KUBEDB_HISTORY=seed` a single one.

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use kubedb_core::{
    effort::{Effort, Limits},
    lsn::Lsn,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Attempt, BackupOutcome, BackupProgress, BackupRequest,
    assemble::Maps,
    commit::Surroundings,
    error::BackupError,
    pace::Pace,
    pack::Begun,
    transfer::{Copied, Facts, Transfer},
};
use crate::{
    encryption::{Identity, Keys, writing_key},
    postgres::dialect::PgDialect,
    repository::{
        delete_snapshot,
        keys::{AttemptId, DatabaseFolder},
    },
    restore::{self, RestoreRequest},
    store::Store,
};

mod database;
#[path = "../../tests/faults/mod.rs"]
mod faults;

use database::{Content, Database, Random};
use faults::Faulty;

/// Histories of an ordinary run.
const HISTORIES: u64 = 10_000;

/// Steps of one history.
const STEPS: usize = 7;

/// A Snapshot that may be in the bucket.
struct Taken {
    name: String,
    attempts: u32,
    /// What it must restore, once it counts and until its deletion begins.
    holds: Option<(String, Content)>,
}

struct World {
    random: Random,
    database: Database,
    faulty: Faulty,
    /// The same objects without faults.
    store: Store,
    snapshots: Vec<Taken>,
    lineage: String,
    /// Who encrypts, and what is done of it.
    identity: Identity,
    encrypts: Encrypts,
}

fn uid(name: &str) -> String {
    format!("u-{name}")
}

/// A Snapshot as [`super::take`] makes one, with a folder that changes only when it is told to in place of a server.
async fn take(
    store: Store,
    database: &mut Database,
    random: &mut Random,
    name: &str,
    attempt: u32,
    lineage: &str,
) -> Result<(BackupOutcome, Content), BackupError> {
    let request = BackupRequest {
        store,
        namespace: "demo".to_owned(),
        database: "pg".to_owned(),
        snapshot: name.to_owned(),
        snapshot_uid: uid(name),
        attempt,
        lineage: lineage.to_owned(),
        data_folder: database.folder.path().to_owned(),
        connection: tokio_postgres::Config::new(),
        dialect: PgDialect::of("15").unwrap(),
        postgres_version: "15.18".to_owned(),
        minimum_lsn: None,
        effort: Effort::within(&Limits::default(), 1),
        started: Timestamp::UNIX_EPOCH,
    };
    let folder = DatabaseFolder::new("demo", "pg").unwrap();
    let attempt = Attempt {
        request: &request,
        id: AttemptId::new(name, &request.snapshot_uid, attempt).unwrap(),
        data_key: writing_key(&request.store, &folder, lineage).await?,
        folder,
        begun: Begun::default(),
        pace: Arc::new(Pace::new(&request.effort)),
        progress: watch::channel(BackupProgress::default()).0,
        stop: CancellationToken::new(),
    };
    let outcome = copy(&attempt, database, random).await;
    if outcome.is_err() {
        attempt.begun.take_away(&request.store).await;
    }
    outcome
}

async fn copy(
    attempt: &Attempt<'_>,
    database: &mut Database,
    random: &mut Random,
) -> Result<(BackupOutcome, Content), BackupError> {
    attempt.announce().await?;
    let start_lsn = Lsn(database.tick());
    let facts = Facts {
        control: database.control(),
        timeline: 1,
        start_lsn,
        reached: Lsn(database.clock),
        incarnations: BTreeMap::from([("5".to_owned(), database.incarnation.to_string())]),
    };
    // What changes once the backup has begun may be in it.
    for _ in 0..random.below(2) {
        let is_anew = database.incarnation;
        database.change(random, 4);
        // But what is made anew then is the WAL's to repeat, which there is none of here.
        assert!(database.incarnation == is_anew || !database.mains().is_empty());
    }
    let facts = Facts {
        incarnations: BTreeMap::from([("5".to_owned(), database.incarnation.to_string())]),
        ..facts
    };
    let mut holds = database.content.clone();
    let found = attempt.find_base(&facts, None).await?;
    let mut transfer = Transfer::new(attempt, &found)?;
    transfer.copy_files(&facts, &found).await?;
    for path in ["backup_label", "global/pg_control"] {
        let bytes = database.tick().to_be_bytes().to_vec();
        transfer.put(path, &bytes).await?;
        holds.insert(path.to_owned(), bytes);
    }
    let copied = Copied {
        maps: Maps::default(),
        packs: Vec::new(),
        found,
        incarnations: facts.incarnations,
        control: facts.control,
        tablespaces: Vec::new(),
        wal: Vec::new(),
        history: None,
        timeline: 1,
        start_lsn,
        stop_lsn: Lsn(database.tick()),
        read_bytes: 0,
        uploaded_bytes: 0,
        logical: None,
    };
    let copied = transfer.finish(copied).await?;
    let outcome = attempt.commit(copied, Surroundings::default()).await?;
    Ok((outcome, holds))
}

async fn delete(store: Store, name: String) -> bool {
    let deleted = delete_snapshot(&store, "demo", "pg", &name, &uid(&name)).await;
    deleted.is_ok()
}

/// Every file below a folder.
fn content(folder: &Path) -> Content {
    fn walk(folder: &Path, path: &str, into: &mut Content) {
        for entry in fs::read_dir(folder).unwrap() {
            let entry: PathBuf = entry.unwrap().path();
            let name = entry.file_name().unwrap().to_str().unwrap().to_owned();
            if entry.is_dir() {
                walk(&entry, &format!("{path}{name}/"), into);
            } else {
                into.insert(format!("{path}{name}"), fs::read(&entry).unwrap());
            }
        }
    }
    let mut found = Content::new();
    walk(folder, "", &mut found);
    found
}

impl World {
    fn new(seed: u64) -> Self {
        let faulty = Faulty::new("");
        let identity = Identity([7; 32]);
        let keys = Keys::reading(vec![identity.clone()]).unwrap();
        Self {
            random: Random(seed),
            database: Database::new(),
            store: faulty.bare().with_keys(keys),
            faulty,
            snapshots: Vec::new(),
            lineage: "b5ad6a0e-6f1c-4b0c-9a7c-2c4f7c7f0a11".to_owned(),
            identity,
            encrypts: match seed % 3 {
                0 => Encrypts::Never,
                1 => Encrypts::Always,
                _ => Encrypts::Sometimes,
            },
        }
    }

    /// The store as a Snapshot is given it.
    fn writing(&mut self, store: Store) -> Store {
        let encrypts = match self.encrypts {
            Encrypts::Never => false,
            Encrypts::Always => true,
            Encrypts::Sometimes => self.random.one_in(3),
        };
        if !encrypts {
            return store;
        }
        let keys = Keys::writing(vec![self.identity.clone()], Vec::new());
        store.with_keys(keys.unwrap())
    }

    fn change(&mut self) {
        let largest = if self.random.one_in(200) { 300 } else { 9 };
        for _ in 0..self.random.below(4) {
            self.database.change(&mut self.random, largest);
        }
    }

    /// A Snapshot, during which the store dies, loses an answer, or pauses while another one is deleted.
    async fn snapshot(&mut self) {
        let number = match self.snapshots.last() {
            Some(last) if last.holds.is_none() && self.random.one_in(2) => self.snapshots.len() - 1,
            _ => {
                let name = format!("s{}", self.snapshots.len());
                self.snapshots.push(Taken {
                    name,
                    attempts: 0,
                    holds: None,
                });
                self.snapshots.len() - 1
            }
        };
        self.snapshots[number].attempts += 1;
        let (name, attempt) = (
            self.snapshots[number].name.clone(),
            self.snapshots[number].attempts,
        );
        self.faulty.take_calls();
        let call = self.random.below(30);
        let mut victim = None;
        match self.random.below(5) {
            0 => self.faulty.break_from(call),
            1 => self.faulty.lose(call),
            2 | 3 => {
                // The last ones are what it refers to.
                let from = self.snapshots.len().saturating_sub(4);
                let chosen = from + self.random.below(self.snapshots.len() - from);
                let is_other = chosen != number;
                victim = is_other.then_some(chosen);
            }
            _ => {}
        }
        let faulty = self.faulty.clone();
        let store = self.writing(self.faulty.store());
        let lineage = self.lineage.clone();
        let taking = take(
            store,
            &mut self.database,
            &mut self.random,
            &name,
            attempt,
            &lineage,
        );
        let outcome = match victim {
            None => taking.await,
            Some(victim) => {
                let other = &mut self.snapshots[victim];
                other.holds = None;
                let deleting = delete(self.store.clone(), other.name.clone());
                at_call(&faulty, call, taking, deleting).await
            }
        };
        self.faulty.mend();
        self.snapshots[number].holds = match outcome {
            Ok((outcome, content)) => Some((outcome.manifest, content)),
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                None
            }
        };
    }

    /// A deletion, during which the store dies, loses an answer, or pauses while a Snapshot is taken.
    async fn deletion(&mut self) {
        if self.snapshots.is_empty() {
            return;
        }
        let chosen = self.random.below(self.snapshots.len());
        let snapshot = &mut self.snapshots[chosen];
        snapshot.holds = None;
        let name = snapshot.name.clone();
        self.faulty.take_calls();
        let call = self.random.below(20);
        let deleting = delete(self.faulty.store(), name);
        match self.random.below(4) {
            0 => self.faulty.break_from(call),
            1 => self.faulty.lose(call),
            2 => {
                let name = format!("s{}", self.snapshots.len());
                let lineage = self.lineage.clone();
                let store = self.writing(self.faulty.bare());
                let taking = take(
                    store,
                    &mut self.database,
                    &mut self.random,
                    &name,
                    1,
                    &lineage,
                );
                let mut taken = None;
                let faulty = self.faulty.clone();
                at_call(&faulty, call, deleting, async {
                    taken = Some(taking.await)
                })
                .await;
                self.faulty.mend();
                let holds = match taken {
                    Some(Ok((outcome, content))) => Some((outcome.manifest, content)),
                    _ => None,
                };
                self.snapshots.push(Taken {
                    name,
                    attempts: 1,
                    holds,
                });
                return;
            }
            _ => {}
        }
        deleting.await;
        self.faulty.mend();
    }

    /// Every Snapshot that counts is what it was taken of.
    async fn check(&self) {
        for snapshot in &self.snapshots {
            let Some((manifest, holds)) = &snapshot.holds else {
                continue;
            };
            let place = self.database.folder.path().join("restored");
            let request = RestoreRequest {
                store: self.store.clone(),
                manifest: manifest.clone(),
                data_folder: place.join("data"),
                dialect: PgDialect::of("15").unwrap(),
                postgres_version: "15.18".to_owned(),
                threads: 1,
            };
            let (progress, _) = watch::channel(BackupProgress::default());
            restore::fetch(request, progress, CancellationToken::new())
                .await
                .unwrap_or_else(|error| panic!("{}: {error}", snapshot.name));
            let restored = content(&place.join("data"));
            fs::remove_dir_all(&place).unwrap();
            let paths: Vec<_> = restored.keys().collect();
            assert_eq!(paths, holds.keys().collect::<Vec<_>>(), "{}", snapshot.name);
            for (path, bytes) in holds {
                assert!(restored[path] == *bytes, "{}: {path}", snapshot.name);
            }
        }
    }

    async fn end(mut self) {
        while !self.snapshots.is_empty() {
            let chosen = self.random.below(self.snapshots.len());
            let gone = self.snapshots.swap_remove(chosen);
            assert!(delete(self.store.clone(), gone.name).await);
            self.check().await;
        }
        let mut left = self.store.list("kubedb").await.unwrap();
        // Keys stay: whether anything is still encrypted with one is not known here.
        left.retain(|left| !left.key.contains("/keys/"));
        assert_eq!(left, []);
    }
}

/// Whether the Snapshots of a history are encrypted.
#[derive(Clone, Copy)]
enum Encrypts {
    Never,
    Always,
    Sometimes,
}

/// Runs `first`; at its call of this number to the store `second` comes in between, or behind it when there are not so many.
async fn at_call<T, U>(
    faulty: &Faulty,
    call: usize,
    first: impl Future<Output = T>,
    second: impl Future<Output = U>,
) -> T {
    faulty.pause_at(call);
    let second = Box::pin(second);
    let mut first = Box::pin(first);
    let ended = tokio::select! {
        ended = &mut first => Some(ended),
        () = faulty.until_paused() => None,
    };
    second.await;
    faulty.go_on();
    match ended {
        Some(ended) => ended,
        None => first.await,
    }
}

async fn history(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.change();
        if world.random.below(3) > 0 {
            world.snapshot().await;
        } else {
            world.deletion().await;
        }
        world.check().await;
    }
    world.end().await;
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn t14_t16_whatever_dies_or_comes_between_every_snapshot_that_counts_is_whole() {
    let single = number("KUBEDB_HISTORY");
    let seeds = match single {
        Some(seed) => seed..seed + 1,
        None => 0..number("KUBEDB_HISTORIES").unwrap_or(HISTORIES),
    };
    let next = Arc::new(std::sync::atomic::AtomicU64::new(seeds.start));
    let workers: Vec<_> = (0..2)
        .map(|_| {
            let (next, end) = (next.clone(), seeds.end);
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    if seed >= end {
                        return;
                    }
                    let run = std::panic::AssertUnwindSafe(|| runtime.block_on(history(seed)));
                    if let Err(panic) = std::panic::catch_unwind(run) {
                        println!("KUBEDB_HISTORY={seed}");
                        std::panic::resume_unwind(panic);
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
}
