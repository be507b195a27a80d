//! `kubedb repo restore`.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use kubedb_engine::{
    archive::Placement,
    backup::BackupProgress,
    postgres::dialect::PgDialect,
    repository::manifest,
    restore::{RestoreRequest, RestoredCluster, fetch},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{PlaceArgs, list::second, one, open, read, recover, target::TargetArgs};
use crate::{commands::describe::size, error::CommandError, ui::Ui};

/// Time between two words about how far it is.
const SAY_EVERY: Duration = Duration::from_secs(5);

const EXAMPLES: &str = "\
Without a target the Snapshot comes back as it was. With one, the WAL that was archived behind it is put into the folder too, and PostgreSQL replays it
when it starts, exactly up to the target; a DATABASE may stand in place of the Snapshot then, and the latest that serves is taken. What cannot be reached is
refused before anything is written.

The folder must be empty or absent; what is written is verified byte by byte, and removed again if the restore fails. Tablespaces go beside the
folder, into tablespaces/OID. Start a server of the same major version on it, and it recovers to the end of the Snapshot.

Examples:
  kubedb repo restore gs://kubedb scheduled-pg-20180208-105341 --to /var/lib/postgresql/rescued --secret gcs-secret.yaml
  kubedb repo restore /backups demo/scheduled-pg/scheduled-pg-20180208-105341 --to /tmp/rescued
  kubedb repo restore s3://backups instant-snapshot --to /tmp/rescued --dry-run
  kubedb repo restore gs://kubedb demo/wal-postgres --latest --to /tmp/rescued
  kubedb repo restore gs://kubedb wal-postgres --target-time 2026-11-26T14:05:00Z --to /tmp/db";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// SNAPSHOT, DATABASE/SNAPSHOT or NAMESPACE/DATABASE/SNAPSHOT; with a target also NAMESPACE/DATABASE
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    #[command(flatten)]
    target: TargetArgs,
    /// Data folder to write, empty or absent
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
    /// Say what would be restored, and write nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(arguments: RestoreArgs, ui: &Ui) -> Result<(), CommandError> {
    let (store, catalogue) = open(&arguments.place).await?;
    let recovery = match arguments.target.read()? {
        Some(target) => {
            let wanted = &arguments.snapshot;
            Some(recover::plan(&store, &catalogue, wanted, target, ui).await?)
        }
        None => None,
    };
    let snapshot = match &recovery {
        Some(recovery) => recovery.begin(),
        None => one(&catalogue, &arguments.snapshot, &store)?,
    };
    let read = read(&store, &snapshot.manifest).await?;
    let manifest = read.map_err(|message| CommandError::State {
        message,
        hint: Some(format!(
            "kubedb repo list {} shows the others",
            arguments.place.words()
        )),
    })?;
    // Whether there is a key to it is known before anything is said or written.
    manifest::data_key(&store, &snapshot.manifest, &manifest).await?;
    let version = &manifest.cluster.postgres_version;
    let bytes = size(manifest.sizes.database_bytes);
    ui.note(&format!(
        "{} holds PostgreSQL {version} as of {}, {bytes}",
        snapshot.path(),
        second(manifest.created)
    ));
    if arguments.dry_run {
        ui.note("nothing was written (dry run)");
        return Ok(());
    }
    let dialect = PgDialect::of(&manifest.cluster.major);
    let dialect = dialect.map_err(|error| CommandError::State {
        message: error.to_string(),
        hint: None,
    })?;
    let folder = absolute(&arguments.to)?;
    let request = RestoreRequest {
        store,
        manifest: snapshot.manifest,
        data_folder: folder.clone(),
        dialect,
        postgres_version: version.clone(),
        threads: thread::available_parallelism().map_or(1, usize::from),
    };
    let restored = fetch_telling(request, ui).await?;
    let advice = match &recovery {
        Some(recovery) => {
            let into = Placement {
                data: &folder,
                dialect,
                settings: &restored.settings,
            };
            let placed = place_telling(recovery, into, ui).await;
            if placed.is_err() {
                // Half of it would come back short of the target.
                remove(&folder, ui);
            }
            placed?;
            recovery.advice(&manifest.cluster.major, &folder)
        }
        None => advice(&restored, &manifest.cluster.major, &folder),
    };
    ui.data(&format!(
        "restored {} into {}",
        restored.snapshot,
        folder.display()
    ));
    ui.note(&advice);
    Ok(())
}

fn remove(folder: &Path, ui: &Ui) {
    if let Err(error) = std::fs::remove_dir_all(folder) {
        ui.note(&format!("{} is to be removed: {error}", folder.display()));
    }
}

async fn place_telling(
    recovery: &recover::Recovery,
    into: Placement<'_>,
    ui: &Ui,
) -> Result<(), CommandError> {
    let (progress, told) = watch::channel(BackupProgress::default());
    let cancel = CancellationToken::new();
    let place = recovery.place(into, &progress, &cancel);
    telling(place, told, &cancel, ui).await
}

fn absolute(folder: &Path) -> Result<PathBuf, CommandError> {
    std::path::absolute(folder).map_err(|source| CommandError::Local {
        doing: format!("find {}", folder.display()),
        source,
    })
}

/// Restores, says how far it is now and then, and takes everything away again on Ctrl-C.
async fn fetch_telling(request: RestoreRequest, ui: &Ui) -> Result<RestoredCluster, CommandError> {
    let (progress, told) = watch::channel(BackupProgress::default());
    let cancel = CancellationToken::new();
    let restore = fetch(request, progress, cancel.clone());
    telling(async { Ok(restore.await?) }, told, &cancel, ui).await
}

/// Says how far work is now and then, and ends it on Ctrl-C.
async fn telling<T>(
    work: impl Future<Output = Result<T, CommandError>>,
    told: watch::Receiver<BackupProgress>,
    cancel: &CancellationToken,
    ui: &Ui,
) -> Result<T, CommandError> {
    tokio::pin!(work);
    let begun = Instant::now();
    let mut interrupted = false;
    let mut ticks = tokio::time::interval(SAY_EVERY);
    ticks.tick().await;
    loop {
        tokio::select! {
            result = &mut work => {
                return if interrupted { Err(CommandError::Interrupted) } else { result };
            }
            _ = ticks.tick() => {
                let now = *told.borrow();
                ui.note(&progress_line(now, begun.elapsed()));
            }
            _ = tokio::signal::ctrl_c(), if !interrupted => {
                ui.note("stopping; what was written is removed");
                interrupted = true;
                cancel.cancel();
            }
        }
    }
}

fn progress_line(now: BackupProgress, elapsed: Duration) -> String {
    let rest = now.total_bytes.saturating_sub(now.done_bytes);
    let left = match now.done_bytes {
        0 => String::new(),
        done => {
            let seconds = elapsed.as_secs_f64() * rest as f64 / done as f64;
            format!(", about {seconds:.0} s to go")
        }
    };
    format!(
        "{} of {} written{left}",
        size(now.done_bytes),
        size(now.total_bytes)
    )
}

fn advice(restored: &RestoredCluster, major: &str, folder: &Path) -> String {
    format!(
        "it recovers to {} when PostgreSQL {major} starts on it, as the user who owns the folder:\n  postgres -D {}",
        restored.stop_lsn,
        folder.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_it_is_says_how_long_it_takes() {
        let half = BackupProgress {
            done_bytes: 1 << 30,
            total_bytes: 3 << 30,
            uploaded_bytes: 0,
        };
        assert_eq!(
            progress_line(half, Duration::from_secs(10)),
            "1.0 GiB of 3.0 GiB written, about 20 s to go"
        );
        let none = BackupProgress::default();
        assert_eq!(
            progress_line(none, Duration::from_secs(1)),
            "0 bytes of 0 bytes written"
        );
    }
}
