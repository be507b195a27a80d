//! Stores WAL, a few files ahead of PostgreSQL's asking. What it is asked for is answered only when it is durable.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use jiff::Timestamp;
use kubedb_api::{archiver::ArchiveStatus, storage::SnapshotStorage};
use kubedb_core::{
    archive::{Segment, WalFile, gaps},
    codec::{Costs, Density},
    lsn::Lsn,
};
use kubedb_engine::{
    archive::Archive, repository::keys::DatabaseFolder, restore::free_bytes, store::Store,
};
use tokio::{sync::Semaphore, time::Instant};

use super::{
    coverage::{Coverage, Look},
    room::Growth,
    silence::Silence,
    tail::TailError,
};
use crate::backup::line;

/// Files on their way at once: two are compressed while others are sent.
const AT_ONCE: usize = 4;
/// Files begun before PostgreSQL asks for them.
const AHEAD: usize = 4;
/// Files that wait, beyond which an archive is behind.
const BEHIND: usize = 2 * AHEAD;
/// Bytes of segments in memory at once, where segments are large.
const MEMORY_BYTES: u64 = 128 << 20;
/// PostgreSQL is told after this long that a file is not there yet; it asks again, and finds it done.
const PUSH_LIMIT: Duration = Duration::from_secs(90);
/// The folder of waiting files is not listed more often, since it may be large.
const LIST_EVERY: Duration = Duration::from_secs(5);
/// WAL that no Snapshot needs any more is looked for this often, and when the earliest Snapshot has changed.
const PRUNE_EVERY: Duration = Duration::from_secs(3_600);
/// Why nothing is stored that waits, where PostgreSQL asks for nothing: its archiver has ended, or cannot run our command.
const SILENT: &str = "PostgreSQL does not ask for what waits to be archived; its log says why";
/// Bytes of the header of a segment.
const HEADER_BYTES: u64 = 40;
/// Histories that are looked for at the start.
const HISTORIES: usize = 1_024;

/// Where WAL goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    /// The store.
    pub storage: SnapshotStorage,
    /// Namespace of the database.
    pub namespace: String,
    /// Its name.
    pub database: String,
    /// Its lineage.
    pub lineage: String,
    /// Identifier of its cluster.
    pub system_identifier: u64,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Folder of PostgreSQL's WAL.
    pub folder: PathBuf,
}

/// Opens the store anew, with the keys as they are by then.
pub(crate) type Opener = Arc<dyn Fn() -> BoxFuture<'static, Result<Store, String>> + Send + Sync>;

type Stored = Shared<BoxFuture<'static, Result<(), Arc<str>>>>;

/// Stores the WAL of one primary.
pub(crate) struct Archiver {
    to: Destination,
    opener: Opener,
    places: Arc<Semaphore>,
    /// How many processors pack, and how many files are on their way.
    packed_at_once: usize,
    sent_at_once: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    archive: Option<Archive>,
    /// The one of before a failure.
    former: Option<Archive>,
    has_histories: bool,
    on_the_way: BTreeMap<String, Stored>,
    waiting: VecDeque<String>,
    listed: Option<Instant>,
    coverage: Coverage,
    told: ArchiveStatus,
    pruned: Option<(Lsn, Instant)>,
    /// Segments of which pieces are stored.
    tails: BTreeSet<Segment>,
    /// What storing a segment lately cost.
    costs: Option<Costs>,
    growth: Growth,
    silence: Silence,
    /// Why the segment in work is not stored; told once.
    behind: Option<String>,
    /// Where the primary was when it was last looked at.
    position: Option<Lsn>,
    /// Files that were stored for PostgreSQL, and times that it was told no.
    stored: u64,
    failures: u64,
}

/// How archiving goes, in numbers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figures {
    pub(crate) status: ArchiveStatus,
    /// Files that were stored for PostgreSQL since the agent began.
    pub(crate) stored: u64,
    /// Times since then that it was told no.
    pub(crate) failures: u64,
    /// Whether it does not ask for what waits.
    pub(crate) is_silent: bool,
    /// Bytes of a segment.
    pub(crate) segment_bytes: u64,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("told", &self.told)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Archiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archiver")
            .field("to", &self.to)
            .finish_non_exhaustive()
    }
}

impl Archiver {
    pub(crate) fn new(to: Destination, opener: Opener) -> Self {
        let fitting = MEMORY_BYTES / (2 * to.segment_bytes).max(1);
        let places = usize::try_from(fitting).unwrap_or(1).clamp(1, AT_ONCE);
        let processors = std::thread::available_parallelism();
        Self {
            to,
            opener,
            places: Arc::new(Semaphore::new(places)),
            packed_at_once: processors.map_or(1, usize::from).min(places),
            sent_at_once: places,
            state: Mutex::default(),
        }
    }

    /// Whether it stores there.
    pub(crate) fn goes_to(&self, to: &Destination) -> bool {
        self.to == *to
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        self.to.segment_bytes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers PostgreSQL: nothing but a durable file is a success.
    pub(crate) async fn push(self: &Arc<Self>, name: &str) -> Result<(), String> {
        let Some(kind) = WalFile::read(name, self.to.segment_bytes) else {
            return Err(format!("{name:?} is no file of WAL"));
        };
        self.state().silence.end();
        let stored = self.begin(name);
        self.begin_next(name);
        let outcome = tokio::time::timeout(PUSH_LIMIT, stored).await;
        let now = Timestamp::now();
        let mut state = self.state();
        match outcome {
            Ok(Ok(())) => {
                state.on_the_way.remove(name);
                state.waiting.retain(|waiting| waiting != name);
                state.told.failing_since = None;
                state.told.reason = None;
                state.told.last_archived_time = Some(now);
                state.stored += 1;
                if let WalFile::Segment(segment) = kind {
                    state.told.last_segment = Some(name.to_owned());
                    state.coverage.archived(segment.end(self.to.segment_bytes));
                    if state.tails.remove(&segment) {
                        self.drop_tail(segment);
                    }
                }
                Ok(())
            }
            Ok(Err(why)) => {
                state.on_the_way.remove(name);
                state.failures += 1;
                Err(state.fail(now, &why))
            }
            // It goes on.
            Err(_) => {
                let seconds = PUSH_LIMIT.as_secs();
                state.failures += 1;
                Err(state.fail(now, &format!("{name} is not stored after {seconds} s")))
            }
        }
    }

    /// The way of one file into the store: the one that is under way, or a new one.
    fn begin(self: &Arc<Self>, name: &str) -> Stored {
        let mut state = self.state();
        if let Some(stored) = state.on_the_way.get(name)
            && !matches!(stored.peek(), Some(Err(_)))
        {
            return stored.clone();
        }
        let (this, owned) = (self.clone(), name.to_owned());
        let task = tokio::spawn(async move { this.store(&owned).await });
        let stored: Stored = async move {
            match task.await {
                Ok(outcome) => outcome.map_err(Arc::from),
                Err(error) => Err(Arc::from(error.to_string())),
            }
        }
        .boxed()
        .shared();
        state.on_the_way.insert(name.to_owned(), stored.clone());
        stored
    }

    /// Begins what PostgreSQL will ask for next.
    fn begin_next(self: &Arc<Self>, name: &str) {
        self.list(false);
        let next: Vec<String> = {
            let state = self.state();
            let waiting = state.waiting.iter().filter(|waiting| *waiting != name);
            waiting.take(AHEAD).cloned().collect()
        };
        for name in next {
            // Somebody has to wait for it, or nobody sees that it has failed.
            drop(tokio::spawn(self.begin(&name).map(drop)));
        }
    }

    /// Lists what waits, as PostgreSQL takes it: histories first, then by name.
    fn list(&self, at_once: bool) {
        let mut state = self.state();
        let is_fresh = state
            .listed
            .is_some_and(|listed| listed.elapsed() < LIST_EVERY);
        if is_fresh && !at_once && !state.waiting.is_empty() {
            return;
        }
        let mut ready: Vec<String> = self.ready().map(|(name, _)| name).collect();
        ready.sort_by_key(|name| (!name.ends_with(".history"), name.clone()));
        // What PostgreSQL does not wait for any more is nobody's.
        state.on_the_way.retain(|name, stored| {
            stored.peek().is_none()
                || ready
                    .binary_search_by_key(&(!name.ends_with(".history"), name), |ready| {
                        (!ready.ends_with(".history"), ready)
                    })
                    .is_ok()
        });
        state.told.waiting_segments = i32::try_from(ready.len()).unwrap_or(i32::MAX);
        let (is_waiting, now) = (!ready.is_empty(), Timestamp::now());
        if let Some(since) = state.silence.look(is_waiting, now) {
            state.fail(since, SILENT);
        }
        state.waiting = ready.into();
        state.listed = Some(Instant::now());
    }

    async fn store(&self, name: &str) -> Result<(), String> {
        let _place = self
            .places
            .acquire()
            .await
            .map_err(|error| error.to_string())?;
        let stored = async {
            let archive = self.archive().await?;
            self.store_histories(&archive).await?;
            let density = self.density();
            let pushed = archive.push_as(&self.to.folder, name, density).await;
            let (pushed, took) = pushed.map_err(|error| line(&error))?;
            if let Some(took) = took.filter(|_| pushed.bytes == self.to.segment_bytes) {
                let mut state = self.state();
                let measured = Costs::measured(density, took.pack, took.send);
                state.costs = Some(Costs::then(state.costs, measured));
            }
            Ok(pushed)
        };
        match stored.await {
            Ok(pushed) => {
                tracing::debug!(
                    name,
                    bytes = pushed.bytes,
                    stored = pushed.stored,
                    "archived"
                );
                Ok(())
            }
            Err(why) => {
                // The Secret may have been changed since.
                let mut state = self.state();
                if let Some(archive) = state.archive.take() {
                    state.former = Some(archive);
                }
                Err(why)
            }
        }
    }

    /// How what comes next is compressed: as usual, but where more waits than is worked on.
    fn density(&self) -> Density {
        let state = self.state();
        let costs = state.costs.filter(|_| state.waiting.len() > BEHIND);
        costs.map_or(Density::Usual, |costs| {
            costs.best(self.packed_at_once, self.sent_at_once)
        })
    }

    /// Histories that came about before anybody archived: those of the Snapshot that the database was restored from, and its own promotion.
    async fn store_histories(&self, archive: &Archive) -> Result<(), String> {
        if self.state().has_histories {
            return Ok(());
        }
        let entries = std::fs::read_dir(&self.to.folder).map_err(|error| error.to_string())?;
        let names = entries.filter_map(Result::ok).filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kind = WalFile::read(&name, self.to.segment_bytes);
            matches!(kind, Some(WalFile::History(_))).then_some(name)
        });
        for name in names.take(HISTORIES) {
            let pushed = archive.push(&self.to.folder, &name).await;
            pushed.map_err(|error| line(&error))?;
        }
        self.state().has_histories = true;
        Ok(())
    }

    pub(super) async fn archive(&self) -> Result<Archive, String> {
        if let Some(archive) = &self.state().archive {
            return Ok(archive.clone());
        }
        let to = &self.to;
        let store = match (self.opener)().await {
            Ok(store) => store,
            // The Secret cannot be read while the API is away. The keys of before may still be good.
            Err(why) => return self.state().former.clone().ok_or(why),
        };
        let folder = DatabaseFolder::new(&to.namespace, &to.database);
        let archive = folder.and_then(|folder| {
            Archive::new(
                store,
                &folder,
                &to.lineage,
                to.system_identifier,
                to.segment_bytes,
            )
        });
        let archive = archive.map_err(|error| error.to_string())?;
        self.state().archive = Some(archive.clone());
        Ok(archive)
    }

    /// Whole segments that wait, all of them before a position.
    pub(crate) fn waiting_before(&self, lsn: Lsn) -> usize {
        let number = lsn.segment(self.to.segment_bytes);
        self.ready()
            .filter(
                |(_, file)| matches!(file, WalFile::Segment(waiting) if waiting.number < number),
            )
            .count()
    }

    /// What PostgreSQL has finished and waits to be archived, in any order.
    fn ready(&self) -> impl Iterator<Item = (String, WalFile)> {
        let entries = std::fs::read_dir(self.to.folder.join("archive_status"));
        let entries = entries.into_iter().flatten().filter_map(Result::ok);
        entries.filter_map(|entry| {
            let name = entry.file_name();
            let name = name.to_str()?.strip_suffix(".ready")?;
            let file = WalFile::read(name, self.to.segment_bytes)?;
            Some((name.to_owned(), file))
        })
    }

    /// PostgreSQL's own folder.
    pub(crate) fn wal_folder(&self) -> &Path {
        &self.to.folder
    }

    /// Notes that there will be pieces of a segment.
    pub(crate) fn note_tail(&self, segment: Segment) {
        self.state().tails.insert(segment);
    }

    /// Everything before this is stored.
    pub(crate) fn covers(&self, end: Lsn) {
        let mut state = self.state();
        state.behind = None;
        state.coverage.archived(end);
    }

    /// Tells once why the segment in work is not stored. That it is late is no loss yet: PostgreSQL keeps it.
    pub(crate) fn tell_behind(&self, error: &TailError) {
        let why = line(error);
        let mut state = self.state();
        if state.behind.as_ref() != Some(&why) {
            tracing::warn!(
                why,
                "the segment in work is not stored; a whole one is tried when it is full"
            );
            state.behind = Some(why);
        }
    }

    /// Deletes WAL that no Snapshot needs any more. `told` is where the earliest one begins that anybody knows of, in any store.
    pub(crate) fn prune(self: &Arc<Self>, told: Lsn) {
        let now = Instant::now();
        {
            let mut state = self.state();
            if let Some((known, at)) = state.pruned
                && known == told
                && now.duration_since(at) < PRUNE_EVERY
            {
                return;
            }
            // A failure waits for its next turn as well.
            state.pruned = Some((told, now));
        }
        let this = self.clone();
        tokio::spawn(async move {
            if let Err(why) = this.prune_now(told).await {
                tracing::warn!(why, "archived WAL that no Snapshot needs stays for now");
            }
        });
    }

    async fn prune_now(&self, told: Lsn) -> Result<(), String> {
        let archive = self.archive().await?;
        let folder = DatabaseFolder::new(&self.to.namespace, &self.to.database);
        let folder = folder.map_err(|error| error.to_string())?;
        // Before the archive is looked at: what waits, or comes about, later is no gap.
        let position = self.state().position;
        let waits = self.waits();
        let found = archive
            .unneeded(&folder, &self.to.lineage, Some(told))
            .await;
        let unneeded = found.map_err(|error| line(&error))?;
        if let Some(position) = position {
            self.note_gaps(&gaps(
                &unneeded.kept,
                &waits,
                position,
                self.to.segment_bytes,
            ));
        }
        if unneeded.objects.is_empty() {
            return Ok(());
        }
        let pruned = archive.prune(&unneeded).await;
        pruned.map_err(|error| line(&error))?;
        let (files, bytes) = (unneeded.objects.len(), unneeded.bytes());
        tracing::info!(files, bytes, keep = ?unneeded.keep, "deleted WAL that no Snapshot needs");
        Ok(())
    }

    /// Segments that wait.
    fn waits(&self) -> BTreeSet<Segment> {
        let segments = self.ready().filter_map(|(_, file)| match file {
            WalFile::Segment(segment) => Some(segment),
            _ => None,
        });
        segments.collect()
    }

    fn note_gaps(&self, gaps: &[Segment]) {
        let first = gaps.first();
        let missing = first.map(|segment| segment.name(self.to.segment_bytes));
        let mut state = self.state();
        if missing.is_some() && state.told.missing != missing {
            let gaps = gaps.len();
            tracing::warn!(
                missing,
                gaps,
                "the archive lacks WAL that later WAL builds on"
            );
        }
        state.told.gaps = i32::try_from(gaps.len()).ok();
        state.told.missing = missing;
    }

    /// A position just behind the header of a segment is the end of the one before: nothing lies in between.
    pub(crate) fn settled(&self, lsn: Lsn) -> Lsn {
        let offset = lsn.offset(self.to.segment_bytes);
        if offset <= HEADER_BYTES {
            Lsn(lsn.0 - offset)
        } else {
            lsn
        }
    }

    /// Notes a look at the primary, and says whether its segment shall be ended.
    pub(crate) fn look(&self, look: Look) -> bool {
        let mut state = self.state();
        let is_failing = state.told.failing_since.is_some();
        state.position = Some(look.lsn);
        state.growth.note(is_failing, look.at, look.lsn);
        state.coverage.look(look)
    }

    pub(crate) fn figures(&self) -> Figures {
        let status = self.status();
        let state = self.state();
        Figures {
            is_silent: status.reason.as_deref() == Some(SILENT),
            status,
            stored: state.stored,
            failures: state.failures,
            segment_bytes: self.to.segment_bytes,
        }
    }

    pub(crate) fn status(&self) -> ArchiveStatus {
        let is_due = {
            let state = self.state();
            let listed = state.listed;
            listed.is_none_or(|listed| listed.elapsed() >= LIST_EVERY)
        };
        if is_due {
            self.list(true);
        }
        let mut state = self.state();
        let disk_full_time = state.growth.full_time(|| free_bytes(&self.to.folder));
        ArchiveStatus {
            covered_time: state.coverage.time(),
            disk_full_time,
            ..state.told.clone()
        }
    }
}

impl State {
    fn fail(&mut self, now: Timestamp, why: &str) -> String {
        if self.told.reason.as_deref() != Some(why) {
            tracing::warn!(why, "WAL is not archived; PostgreSQL keeps it");
        }
        self.told.failing_since.get_or_insert(now);
        self.told.reason = Some(why.to_owned());
        why.to_owned()
    }
}
