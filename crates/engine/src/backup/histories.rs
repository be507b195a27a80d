//! A model of the repository: random histories of changes, Snapshots and deletions over a store in memory that dies or pauses at any of its calls.
//! After every step each Snapshot that counts is restored and compared, byte for byte, with what it was taken of; in the end nothing may be left.
//!
//! `KUBEDB_HISTORIES=10000` runs more of them, `KUBEDB_HISTORY=seed` a single one.

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use kubedb_core::lsn::Lsn;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Attempt, BackupOutcome, BackupProgress, BackupRequest,
    assemble::Maps,
    commit::Surroundings,
    error::BackupError,
    pack::Begun,
    transfer::{Copied, Facts, Transfer},
};
use crate::{
    postgres::{
        control::{ClusterState, ControlFile},
        dialect::PgDialect,
        page::{self, PAGE_BYTES},
    },
    repository::{
        delete_snapshot,
        keys::{AttemptId, DatabaseFolder},
    },
    restore::{self, RestoreRequest},
    store::Store,
};

#[path = "../../tests/faults/mod.rs"]
mod faults;

use faults::Faulty;

/// Histories of an ordinary run.
const HISTORIES: u64 = 400;

/// Steps of one history.
const STEPS: usize = 7;

/// Splitmix64: every history follows from its number.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }
}

type Content = BTreeMap<String, Vec<u8>>;

/// A database as files, and its clock, which is its WAL's position.
struct Database {
    folder: TempDir,
    content: Content,
    clock: u64,
    made: u64,
    /// Of database 5, as its row's transaction would say.
    incarnation: u64,
}

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
}

impl Database {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() {
            tempfile::tempdir_in(memory).unwrap()
        } else {
            tempfile::tempdir().unwrap()
        };
        for within in ["base/5", "global"] {
            fs::create_dir_all(folder.path().join(within)).unwrap();
        }
        let mut database = Self {
            folder,
            content: Content::new(),
            clock: 1_000,
            made: 0,
            incarnation: 700,
        };
        database.put("PG_VERSION", b"15\n".to_vec());
        database
    }

    fn put(&mut self, path: &str, bytes: Vec<u8>) {
        fs::write(self.folder.path().join(path), &bytes).unwrap();
        self.content.insert(path.to_owned(), bytes);
    }

    fn remove(&mut self, path: &str) {
        fs::remove_file(self.folder.path().join(path)).unwrap();
        self.content.remove(path);
    }

    fn tick(&mut self) -> u64 {
        self.clock += 8;
        self.clock
    }

    /// A page of a main fork as the server would leave it.
    fn page(&mut self, block: usize, lsn: u64) -> [u8; PAGE_BYTES] {
        let mut page = [0; PAGE_BYTES];
        self.made += 1;
        page[4..8].copy_from_slice(&u32::try_from(lsn).unwrap().to_le_bytes());
        page[24..32].copy_from_slice(&self.made.to_le_bytes());
        page[8_000..8_008].copy_from_slice(&self.made.to_be_bytes());
        let sum = page::checksum(&page, u32::try_from(block).unwrap());
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    fn pages(&mut self, count: usize, lsn: u64) -> Vec<u8> {
        (0..count).flat_map(|block| self.page(block, lsn)).collect()
    }

    fn mains(&self) -> Vec<String> {
        let is_main = |path: &&String| path.starts_with("base/5/") && !path.contains('_');
        self.content.keys().filter(is_main).cloned().collect()
    }

    /// One change of some kind.
    fn change(&mut self, random: &mut Random, largest: usize) {
        let mains = self.mains();
        let kind = random.below(12);
        if mains.is_empty() || kind == 0 {
            self.made += 1;
            let path = format!("base/5/{}", 16_384 + self.made);
            let (count, lsn) = (1 + random.below(largest), self.tick());
            let pages = self.pages(count, lsn);
            self.put(&path, pages);
            return;
        }
        let path = mains[random.below(mains.len())].clone();
        let mut bytes = self.content[&path].clone();
        let blocks = bytes.len() / PAGE_BYTES;
        match kind {
            // Dropped.
            1 if mains.len() > 1 => return self.remove(&path),
            // Cut, and perhaps extended again, by zeros or by pages.
            2 if blocks > 1 => bytes.truncate((1 + random.below(blocks - 1)) * PAGE_BYTES),
            3 => bytes.resize(bytes.len() + (1 + random.below(3)) * PAGE_BYTES, 0),
            4 => {
                for more in 0..=random.below(2) {
                    let lsn = self.tick();
                    bytes.extend(self.page(blocks + more, lsn));
                }
            }
            // Bits of the visibility map, cleared without a trace in its page.
            5 => {
                let lsn = self.clock / 2;
                let pages = self.pages(1, lsn);
                return self.put(&format!("{path}_vm"), pages);
            }
            6 => return self.put("global/pg_filenode.map", self.made.to_le_bytes().to_vec()),
            // The database is dropped and made again under its number, from files whose pages say nothing new.
            7 if random.one_in(4) => {
                self.incarnation += 1;
                for path in mains {
                    let count = self.content[&path].len() / PAGE_BYTES;
                    let pages = self.pages(count.max(1), 900);
                    self.put(&path, pages);
                }
                return;
            }
            // Written without WAL.
            8 if random.one_in(3) && blocks > 0 => {
                let block = random.below(blocks);
                let page = self.page(block, 0);
                bytes[block * PAGE_BYTES..][..PAGE_BYTES].copy_from_slice(&page);
            }
            _ => {
                for _ in 0..=random.below(blocks.clamp(1, 4)) {
                    if blocks > 0 {
                        let (block, lsn) = (random.below(blocks), self.tick());
                        let page = self.page(block, lsn);
                        bytes[block * PAGE_BYTES..][..PAGE_BYTES].copy_from_slice(&page);
                    }
                }
            }
        }
        self.put(&path, bytes);
    }

    fn control(&self) -> ControlFile {
        ControlFile {
            system_identifier: 7,
            control_version: 1_300,
            catalog_version: 202_209_061,
            state: ClusterState::InProduction,
            checkpoint: Lsn(self.clock),
            redo: Lsn(self.clock),
            timeline: 1,
            minimum_recovery_end: Lsn(0),
            backup_start: Lsn(0),
            max_connections: 1,
            max_worker_processes: 1,
            max_wal_senders: None,
            max_prepared_transactions: 0,
            max_locks_per_transaction: 64,
            block_bytes: 8_192,
            segment_blocks: 131_072,
            wal_segment_bytes: 16 << 20,
            checksum_version: 1,
        }
    }
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
        threads: 1,
        started: Timestamp::UNIX_EPOCH,
    };
    let attempt = Attempt {
        request: &request,
        folder: DatabaseFolder::new("demo", "pg").unwrap(),
        id: AttemptId::new(name, &request.snapshot_uid, attempt).unwrap(),
        begun: Begun::default(),
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
    let mut transfer = Transfer::new(attempt, &found);
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
        Self {
            random: Random(seed),
            database: Database::new(),
            store: faulty.bare(),
            faulty,
            snapshots: Vec::new(),
            lineage: "l".to_owned(),
        }
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
        let store = self.faulty.store();
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
                let taking = take(
                    self.store.clone(),
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
        let left = self.store.list("kubedb").await.unwrap();
        assert_eq!(left, []);
    }
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
