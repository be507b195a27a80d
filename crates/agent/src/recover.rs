//! From the files of a Snapshot to a cluster of its own: replay as far as planned, then promote, then look where it was promoted.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use jiff::Timestamp;
use kubedb_core::{
    instance::may_promote,
    lsn::{Lsn, TimelineId},
    recovery::{Goal, Target},
};
use tokio::{process::Command, time::Instant};

use crate::{
    archive::WalSource,
    bootstrap::{BootstrapError, Place},
    postgres::{
        configuration::Configuration,
        process::{Postmaster, StopMode, last_words},
    },
    sql::Session,
};

/// How long the replay of a Snapshot's own WAL may stand still before it counts as stuck.
const REPLAY_STANDSTILL: Duration = Duration::from_secs(300);
/// How long a promotion may take.
const PROMOTE_LIMIT: Duration = Duration::from_secs(120);
/// Recovery of a large Snapshot takes its time, even until it answers.
const RECOVERY_LIMIT: Duration = Duration::from_secs(3_600);
/// A recovering server that does not answer by now is asked to be promoted blindly, and again after as long.
const BLIND_AFTER: Duration = Duration::from_secs(5);
/// So long nothing may move before the end of an archive is believed: PostgreSQL asks for what lies behind it before it has replayed all.
const SETTLED: Duration = Duration::from_secs(2);
/// A server that has asked for what lies behind the end of its archive and does not answer either ends soon, or never.
const SILENT: Duration = Duration::from_secs(60);
/// Restarts that a source may have had for higher settings behind one Snapshot.
const RAISES: usize = 16;
/// Between two looks.
const POLL: Duration = Duration::from_millis(50);
/// How PostgreSQL ends where a transaction or a restore point lies within a Snapshot's own window, which no plan can know.
const TOO_EARLY: &str = "is before consistent recovery point";
/// Longest history of timelines that is read.
const HISTORY_BYTES: u64 = 1 << 20;

/// How far to recover.
#[derive(Debug)]
pub(crate) struct Aim<'a> {
    /// Nobody may use what did not come so far.
    pub(crate) planned: Lsn,
    /// What is behind the Snapshot.
    pub(crate) archive: Option<Behind<'a>>,
}

/// The archive behind a Snapshot, and where in it to end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behind<'a> {
    pub(crate) source: &'a WalSource,
    pub(crate) target: &'a Target,
    /// When its last segment was stored.
    pub(crate) latest: Timestamp,
    /// Whatever had been committed by then is in it.
    pub(crate) covered: Option<Timestamp>,
}

impl Behind<'_> {
    /// Whether the end of the archive is what the database was at the target: everything until then is in it, and nothing later came.
    fn ends_as_wanted(&self) -> bool {
        match (&self.target.goal, self.covered) {
            (Goal::Time(time), Some(covered)) => *time <= covered,
            _ => false,
        }
    }
}

impl Aim<'_> {
    /// Whether PostgreSQL finds the end by itself and promotes there. It is never asked to before, since it would do so at once.
    fn has_target(&self) -> bool {
        self.archive
            .is_some_and(|behind| behind.target.goal != Goal::Latest)
    }

    /// Whether there is no more WAL.
    fn is_exhausted(&self) -> bool {
        self.archive
            .is_none_or(|behind| behind.source.is_exhausted())
    }

    /// Whether PostgreSQL waits for a file.
    fn is_fetching(&self) -> bool {
        self.archive
            .is_some_and(|behind| behind.source.is_fetching())
    }

    fn given(&self) -> u64 {
        self.archive.map_or(0, |behind| behind.source.given())
    }

    /// Why the server has ended: for want of a file, or by its own words.
    fn ended(&self, place: &Place) -> BootstrapError {
        let unfetched = self.archive.and_then(|behind| behind.source.unfetched());
        if let Some(unfetched) = unfetched {
            return BootstrapError::Fetch {
                why: unfetched.why.to_string(),
                is_damaged: unfetched.is_damaged,
            };
        }
        let last_words = last_words(&place.paths);
        match self.archive {
            Some(behind) if last_words.contains(TOO_EARLY) => BootstrapError::TooEarly {
                target: behind.target.to_string(),
                planned: self.planned.to_string(),
            },
            _ => BootstrapError::Start { last_words },
        }
    }

    fn not_reached(
        &self,
        reached: Option<Lsn>,
        last_commit: Option<String>,
    ) -> Option<BootstrapError> {
        let behind = self.archive?;
        Some(BootstrapError::NotReached {
            target: behind.target.to_string(),
            reached: reached.map_or_else(|| "nothing".to_owned(), |lsn| lsn.to_string()),
            last_commit: last_commit.unwrap_or_else(|| "an unknown time".to_owned()),
            latest: behind.latest,
        })
    }
}

/// Recovers the folder in the making and promotes it; the server is stopped when this returns.
pub(crate) async fn recover(
    place: &Place,
    configuration: &Configuration,
    aim: &Aim<'_>,
) -> Result<(), BootstrapError> {
    let mut configuration = configuration.clone();
    let recovered = raising(place, &mut configuration, aim).await;
    match (recovered, aim.archive) {
        (Err(BootstrapError::NotReached { .. }), Some(behind)) if behind.ends_as_wanted() => {
            tracing::info!("no later commit is archived: its end is what was asked for");
            to_the_end(place, &configuration, aim.planned, behind).await?;
        }
        (recovered, _) => recovered?,
    }
    check_switch(place, aim.planned)
}

/// Replays what was replayed already, and no more: without the target, which PostgreSQL would insist on.
async fn to_the_end(
    place: &Place,
    configuration: &Configuration,
    planned: Lsn,
    behind: Behind<'_>,
) -> Result<(), BootstrapError> {
    behind.source.cap();
    let mut configuration = configuration.clone();
    if let Some(recovery) = &mut configuration.wal.recovery {
        recovery.target.clear();
    }
    let target = Target {
        goal: Goal::Latest,
        ..behind.target.clone()
    };
    let aim = Aim {
        planned,
        archive: Some(Behind {
            target: &target,
            ..behind
        }),
    };
    attempt(place, &configuration, &aim).await
}

/// Tries, and again with higher settings where the source has raised one behind the Snapshot: PostgreSQL stands still or ends there, and has noted
/// what it needs.
async fn raising(
    place: &Place,
    configuration: &mut Configuration,
    aim: &Aim<'_>,
) -> Result<(), BootstrapError> {
    for _ in 0..RAISES {
        let recovered = attempt(place, configuration, aim).await;
        match (recovered, raised(place, configuration)) {
            (Err(BootstrapError::Lags | BootstrapError::Start { .. }), Some(needs)) => {
                tracing::info!(
                    ?needs,
                    "the source has raised settings; goes on with as much"
                );
                configuration.at_least.extend(needs);
            }
            (recovered, _) => return recovered,
        }
    }
    Err(BootstrapError::Lags)
}

/// Settings that the replayed WAL needs higher than they are.
fn raised(place: &Place, configuration: &Configuration) -> Option<BTreeMap<String, u64>> {
    let needs = place.new_control().ok()?.needs();
    let higher: BTreeMap<String, u64> = needs
        .into_iter()
        .filter(|(name, value)| *value > configuration.setting(name))
        .collect();
    (!higher.is_empty()).then_some(higher)
}

async fn attempt(
    place: &Place,
    configuration: &Configuration,
    aim: &Aim<'_>,
) -> Result<(), BootstrapError> {
    let mut postmaster = place.launch(configuration)?;
    let recovered = replay_and_promote(place, &mut postmaster, configuration, aim).await;
    postmaster.stop(StopMode::Fast).await?;
    recovered
}

/// Waits until everything planned is replayed, and only then promotes.
async fn replay_and_promote(
    place: &Place,
    postmaster: &mut Postmaster,
    configuration: &Configuration,
    aim: &Aim<'_>,
) -> Result<(), BootstrapError> {
    let Some(mut session) = answer(place, postmaster, aim).await? else {
        return Ok(());
    };
    let mut moved = Moved::new();
    let mut lost: Option<Instant> = None;
    loop {
        let view = match session.view(place.dialect).await {
            Ok(view) => view,
            // It ends where a target lies before the consistent state.
            Err(_) if !postmaster.is_running() => return Err(aim.ended(place)),
            Err(error) if lost.get_or_insert_with(Instant::now).elapsed() > SILENT => {
                return Err(error.into());
            }
            // Hours of replay are not given up for one answer.
            Err(_) => {
                tokio::time::sleep(POLL).await;
                if let Ok(another) = place.connect().await {
                    session = another;
                }
                continue;
            }
        };
        lost = None;
        if !view.in_recovery {
            return Ok(());
        }
        moved.note(view.lsn, aim.given());
        let is_complete = may_promote(view.lsn, aim.planned);
        let is_over = aim.is_exhausted() && (aim.archive.is_none() || moved.rests(SETTLED));
        match (is_complete && is_over, aim.has_target()) {
            (true, false) => break,
            (true, true) => {
                let commit = session.last_replayed_commit().await?;
                if let Some(error) = aim.not_reached(view.lsn, commit) {
                    return Err(error);
                }
            }
            (false, _) => {}
        }
        if moved.rests(SETTLED) && raised(place, configuration).is_some() {
            return Err(BootstrapError::Lags);
        }
        // A store that is away makes it stand still too: whoever fetches from it gives up by itself.
        if moved.rests(REPLAY_STANDSTILL) && !aim.is_fetching() {
            return Err(BootstrapError::Replay {
                planned: aim.planned.to_string(),
                reached: view
                    .lsn
                    .map_or_else(|| "nothing".to_owned(), |lsn| lsn.to_string()),
            });
        }
        tokio::time::sleep(POLL).await;
    }
    promote(place).await?;
    let end = Instant::now() + PROMOTE_LIMIT;
    while Instant::now() < end {
        if !session.view(place.dialect).await?.in_recovery {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
    Err(BootstrapError::Promote)
}

/// When replay last went on.
struct Moved {
    last: (Option<Lsn>, u64),
    at: Instant,
}

impl Moved {
    fn new() -> Self {
        Self {
            last: (None, 0),
            at: Instant::now(),
        }
    }

    fn note(&mut self, lsn: Option<Lsn>, given: u64) {
        if (lsn, given) != self.last {
            self.last = (lsn, given);
            self.at = Instant::now();
        }
    }

    fn rests(&self, limit: Duration) -> bool {
        self.at.elapsed() >= limit
    }
}

/// Waits until the server answers. A transaction with many subtransactions that was open during the backup keeps a recovering
/// server from ever answering: it waits for WAL that is in no Snapshot. So one that stays silent is asked to be promoted. It does so
/// only at the end of its WAL, and ends instead of promoting when that is short of a consistent state. With a target it promotes by itself, and is never asked.
async fn answer(
    place: &Place,
    postmaster: &mut Postmaster,
    aim: &Aim<'_>,
) -> Result<Option<Session>, BootstrapError> {
    let mut blind = Instant::now() + BLIND_AFTER;
    let mut moved = Moved::new();
    loop {
        // As long as WAL is fetched it is at work, however long that takes.
        moved.note(None, aim.given());
        let is_over = aim.is_exhausted();
        match place.connect().await {
            Ok(session) => return Ok(Some(session)),
            Err(error) if moved.rests(RECOVERY_LIMIT) => return Err(error.into()),
            Err(_) if !postmaster.is_running() => return Err(aim.ended(place)),
            Err(_) if Instant::now() >= blind && is_over && !aim.has_target() => {
                promote(place).await?;
                blind = Instant::now() + BLIND_AFTER;
            }
            Err(_) if is_over && aim.has_target() && moved.rests(SILENT) => {
                let Some(error) = aim.not_reached(None, None) else {
                    continue;
                };
                return Err(error);
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

async fn promote(place: &Place) -> Result<(), BootstrapError> {
    let status = Command::new(place.bin_directory.join("pg_ctl"))
        .args(["promote", "-s", "-W", "-D"])
        .arg(place.paths.new_data())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|source| BootstrapError::File {
            action: "run pg_ctl",
            source,
        })?;
    // It refuses while recovery has not begun; whoever waits for the promotion asks again.
    tracing::debug!(%status, "asked for promotion");
    Ok(())
}

/// A promotion notes where it left the former timeline. Nobody has used the cluster yet, so one that was promoted short of the plan is
/// thrown away.
fn check_switch(place: &Place, planned: Lsn) -> Result<(), BootstrapError> {
    let control = place.new_control()?;
    let name = TimelineId(control.timeline).history_name();
    let path = place
        .paths
        .new_data()
        .join(place.dialect.wal_folder())
        .join(name);
    let short = |reached: String| BootstrapError::Replay {
        planned: planned.to_string(),
        reached,
    };
    let size = std::fs::metadata(&path).map_or(0, |meta| meta.len());
    let text = match std::fs::read_to_string(&path) {
        Ok(text) if size <= HISTORY_BYTES => text,
        _ => return Err(short(format!("no new timeline ({})", control.timeline))),
    };
    match last_switch(&text) {
        Some(switch) if switch >= planned => Ok(()),
        Some(switch) => Err(short(switch.to_string())),
        None => Err(short("an unknown position".to_owned())),
    }
}

/// Position in the last line of a history: number of the timeline that was left, where, and why.
fn last_switch(history: &str) -> Option<Lsn> {
    let line = history.lines().rfind(|line| !line.trim().is_empty())?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_tells_where_the_last_timeline_was_left() {
        let history = "1\t0/3000060\tno recovery target specified\n\n2\t1/5000098\tno recovery target specified\n";
        assert_eq!(last_switch(history), "1/5000098".parse().ok());
        assert_eq!(last_switch("1 nowhere x"), None);
        assert_eq!(last_switch(""), None);
    }
}
