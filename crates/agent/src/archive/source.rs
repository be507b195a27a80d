//! Gives archived WAL to a PostgreSQL that recovers, a few segments ahead of its asking.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use kubedb_core::{
    archive::{Segment, WalFile},
    recovery::{Goal, RecoveryPlan, Target},
};
use kubedb_engine::archive::{ArchiveError, Wal, WalContent};
use tokio::time::Instant;

use super::client::Answer;
use crate::backup::line;

/// Segments fetched before PostgreSQL asks for them.
const AHEAD: u64 = 4;
/// Bytes of segments in memory at once, where segments are large.
const MEMORY_BYTES: u64 = 96 << 20;
/// How long a store may be away before the recovery is given up. PostgreSQL waits meanwhile.
const PATIENCE: Duration = Duration::from_secs(600);
/// Pauses between tries grow up to this.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Requests for the same file behind the end before it counts as the end.
const ASKED: u32 = 2;

type Fetched = Shared<BoxFuture<'static, Result<Option<Arc<WalContent>>, Unfetched>>>;

/// Why a file could not be fetched.
#[derive(Clone, Debug)]
pub(crate) struct Unfetched {
    pub(crate) why: Arc<str>,
    /// Whether it stays so.
    pub(crate) is_damaged: bool,
}

/// The archive of one recovery.
#[derive(Debug)]
pub(crate) struct WalSource {
    archive: Wal,
    plan: RecoveryPlan,
    /// Segments that were there when the recovery was planned.
    needed: BTreeSet<Segment>,
    /// Whether the first beginning of a segment is the end. A source that is written to has more every second, and a recovery to the latest would never
    /// be done; one to a target goes on until it is there.
    ends_at_beginning: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ahead: BTreeMap<String, Fetched>,
    /// Segments behind the planned ones that are proven absent, and how often each was asked for.
    absent: BTreeMap<u64, u32>,
    /// The segment of which the beginning was given out last, and how often: PostgreSQL asks for it again at its end.
    begun: Option<Begun>,
    given: u64,
    /// Questions that are not answered yet.
    asked: u32,
    /// What could not be fetched last; PostgreSQL has ended for it.
    unfetched: Option<Unfetched>,
    /// Number of the last segment that was given out.
    highest: Option<u64>,
    /// Nothing behind that one is given out any more.
    is_capped: bool,
}

struct Begun {
    segment: Segment,
    content: Arc<WalContent>,
    times: u32,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("given", &self.given)
            .finish_non_exhaustive()
    }
}

impl WalSource {
    pub(crate) fn new(archive: Wal, plan: RecoveryPlan, target: &Target) -> Self {
        let needed = plan.needed(archive.segment_bytes()).collect();
        Self {
            archive,
            plan,
            needed,
            ends_at_beginning: target.goal == Goal::Latest,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of segments that were given out.
    pub(crate) fn given(&self) -> u64 {
        self.state().given
    }

    /// Gives out nothing but what it has already. An archive grows while its database runs.
    pub(crate) fn cap(&self) {
        let mut state = self.state();
        state.is_capped = true;
        state.absent.clear();
        state.begun = None;
        state.ahead.clear();
    }

    fn is_beyond_cap(&self, segment: Segment) -> bool {
        let state = self.state();
        state.is_capped && state.highest.is_none_or(|highest| segment.number > highest)
    }

    /// Why PostgreSQL did not get what it asked for.
    pub(crate) fn unfetched(&self) -> Option<Unfetched> {
        self.state().unfetched.clone()
    }

    /// Whether PostgreSQL has asked for what lies behind the end of the archive, again and again.
    pub(crate) fn is_exhausted(&self) -> bool {
        let state = self.state();
        let is_begun = state
            .begun
            .as_ref()
            .is_some_and(|begun| begun.times > ASKED);
        is_begun || state.absent.values().any(|asked| *asked >= ASKED)
    }

    /// Answers PostgreSQL. Absence is told only where it is proven: PostgreSQL takes it for the end of all WAL.
    pub(crate) async fn fetch(&self, name: &str, to: &Path) -> Answer {
        self.state().asked += 1;
        let answer = self.answer(name, to).await;
        self.state().asked -= 1;
        answer
    }

    async fn answer(&self, name: &str, to: &Path) -> Answer {
        let kind = WalFile::read(name, self.archive.segment_bytes());
        let is_hidden =
            matches!(kind, Some(WalFile::Segment(segment)) if self.is_beyond_cap(segment));
        let content = if is_hidden {
            Ok(None)
        } else if let Some(content) = self.end(kind) {
            Ok(Some(content))
        } else {
            let fetched = self.begin(name);
            if let Some(WalFile::Segment(segment)) = kind {
                self.begin_next(segment);
            }
            fetched.await
        };
        self.state().ahead.remove(name);
        match content {
            Ok(Some(content)) => {
                let (path, bytes) = (to.to_owned(), content.clone());
                let written =
                    tokio::task::spawn_blocking(move || std::fs::write(path, bytes.bytes())).await;
                match written {
                    Ok(Ok(())) => {
                        if let Some(WalFile::Segment(segment)) = kind {
                            let mut state = self.state();
                            state.give(segment, &content);
                        }
                        Answer::Done
                    }
                    Ok(Err(error)) => Answer::Failed(format!("failed to write {name}: {error}")),
                    Err(error) => Answer::Failed(error.to_string()),
                }
            }
            Ok(None) if !is_hidden && self.is_needed(kind) => {
                let why =
                    format!("{name} was in the archive when the recovery was planned, and is gone");
                self.state().unfetched = Some(Unfetched {
                    why: why.as_str().into(),
                    is_damaged: false,
                });
                Answer::Failed(why)
            }
            Ok(None) => {
                if let Some(WalFile::Segment(segment)) = kind
                    && (is_hidden || self.is_behind(segment))
                {
                    *self.state().absent.entry(segment.number).or_default() += 1;
                }
                Answer::Absent
            }
            Err(unfetched) => {
                let why = unfetched.why.to_string();
                self.state().unfetched = Some(unfetched);
                Answer::Failed(why)
            }
        }
    }

    /// What was given out of a segment that is the end.
    fn end(&self, kind: Option<WalFile>) -> Option<Arc<WalContent>> {
        let state = self.state();
        let begun = state.begun.as_ref().filter(|_| self.ends_at_beginning)?;
        (kind == Some(WalFile::Segment(begun.segment))).then(|| begun.content.clone())
    }

    fn is_needed(&self, kind: Option<WalFile>) -> bool {
        matches!(kind, Some(WalFile::Segment(segment)) if self.needed.contains(&segment))
    }

    /// Whether PostgreSQL waits for an answer.
    pub(crate) fn is_fetching(&self) -> bool {
        self.state().asked > 0
    }

    fn is_behind(&self, segment: Segment) -> bool {
        match self.plan.last {
            Some(last) => segment.number > last.number,
            None => segment.number >= self.plan.base.stop.segment(self.archive.segment_bytes()),
        }
    }

    fn begin(&self, name: &str) -> Fetched {
        let mut state = self.state();
        if let Some(fetched) = state.ahead.get(name) {
            return fetched.clone();
        }
        let (archive, owned) = (self.archive.clone(), name.to_owned());
        let task = tokio::spawn(async move { patiently(&archive, &owned).await });
        let fetched: Fetched = async move {
            match task.await {
                Ok(outcome) => outcome.map(|content| content.map(Arc::new)),
                Err(error) => Err(Unfetched {
                    why: error.to_string().into(),
                    is_damaged: false,
                }),
            }
        }
        .boxed()
        .shared();
        state.ahead.insert(name.to_owned(), fetched.clone());
        fetched
    }

    /// Begins with what PostgreSQL will ask for next. Only up to the planned end: what is not there yet must not be remembered as absent.
    fn begin_next(&self, segment: Segment) {
        let bytes = self.archive.segment_bytes();
        let ahead = AHEAD.min(MEMORY_BYTES / bytes.max(1));
        let Some(last) = self.plan.last else { return };
        {
            // What was fetched for a way that PostgreSQL did not take goes.
            let mut state = self.state();
            state
                .ahead
                .retain(|name, _| match WalFile::read(name, bytes) {
                    Some(WalFile::Segment(known)) => known.number >= segment.number,
                    _ => true,
                });
        }
        for number in segment.number + 1..=segment.number + ahead {
            if number <= last.number {
                let next = Segment { number, ..segment };
                drop(self.begin(&next.name(bytes)));
            }
        }
    }
}

impl State {
    /// Notes a segment that was given out. The same beginning once more is no progress.
    fn give(&mut self, segment: Segment, content: &Arc<WalContent>) {
        self.highest = self.highest.max(Some(segment.number));
        let known = self.begun.take().filter(|begun| begun.segment == segment);
        let is_new = known.is_none();
        if let WalContent::Begun(_) = &**content {
            self.begun = Some(Begun {
                segment,
                content: content.clone(),
                times: known.map_or(1, |known| known.times + 1),
            });
        }
        if is_new {
            self.given += 1;
        }
    }
}

/// Fetches, and waits for a store that is away.
async fn patiently(archive: &Wal, name: &str) -> Result<Option<WalContent>, Unfetched> {
    let end = Instant::now() + PATIENCE;
    let mut pause = Duration::from_secs(1);
    loop {
        match archive.fetch_content(name).await {
            Ok(content) => return Ok(content),
            Err(error) if error.is_retryable() && Instant::now() + pause < end => {
                tracing::warn!(
                    name,
                    error = line(&error),
                    "WAL cannot be fetched; tries again"
                );
            }
            Err(error) => {
                return Err(Unfetched {
                    why: line(&error).into(),
                    is_damaged: matches!(
                        error,
                        ArchiveError::Damaged { .. } | ArchiveError::Unsealed { .. }
                    ),
                });
            }
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(PAUSE_MAX);
    }
}
