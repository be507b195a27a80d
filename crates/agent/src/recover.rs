//! From the files of a Snapshot to a cluster of its own: replay as far as planned, then promote, then look where it was promoted.

use std::{process::Stdio, time::Duration};

use kubedb_core::{
    instance::may_promote,
    lsn::{Lsn, TimelineId},
};
use tokio::{process::Command, time::Instant};

use crate::{
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
/// Between two looks.
const POLL: Duration = Duration::from_millis(50);
/// Longest history of timelines that is read.
const HISTORY_BYTES: u64 = 1 << 20;

/// Recovers the folder in the making and promotes it; the server is stopped when this returns.
pub(crate) async fn recover(
    place: &Place,
    configuration: &Configuration,
    planned: Lsn,
) -> Result<(), BootstrapError> {
    let mut postmaster = place.launch(configuration)?;
    let recovered = replay_and_promote(place, &mut postmaster, planned).await;
    postmaster.stop(StopMode::Fast).await?;
    recovered?;
    check_switch(place, planned)
}

/// Waits until everything planned is replayed, and only then promotes.
async fn replay_and_promote(
    place: &Place,
    postmaster: &mut Postmaster,
    planned: Lsn,
) -> Result<(), BootstrapError> {
    let Some(session) = answer(place, postmaster).await? else {
        return Ok(());
    };
    let (mut last, mut moved) = (None, Instant::now());
    loop {
        let view = session.view(place.dialect).await?;
        if !view.in_recovery {
            return Ok(());
        }
        if may_promote(view.lsn, planned) {
            break;
        }
        if view.lsn != last {
            (last, moved) = (view.lsn, Instant::now());
        }
        if moved.elapsed() > REPLAY_STANDSTILL {
            return Err(BootstrapError::Replay {
                planned: planned.to_string(),
                reached: last.map_or_else(|| "nothing".to_owned(), |lsn| lsn.to_string()),
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

/// Waits until the server answers. A transaction with many subtransactions that was open during the backup keeps a recovering
/// server from ever answering: it waits for WAL that is in no Snapshot. So one that stays silent is asked to be promoted. It does so
/// only at the end of its WAL, and ends instead of promoting when that is short of a consistent state.
async fn answer(
    place: &Place,
    postmaster: &mut Postmaster,
) -> Result<Option<Session>, BootstrapError> {
    let end = Instant::now() + RECOVERY_LIMIT;
    let mut blind = Instant::now() + BLIND_AFTER;
    loop {
        match place.connect().await {
            Ok(session) => return Ok(Some(session)),
            Err(error) if Instant::now() >= end => return Err(error.into()),
            Err(_) if !postmaster.is_running() => {
                return Err(BootstrapError::Start {
                    last_words: last_words(&place.paths),
                });
            }
            Err(_) if Instant::now() >= blind => {
                promote(place).await?;
                blind = Instant::now() + BLIND_AFTER;
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
