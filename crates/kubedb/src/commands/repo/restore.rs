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
    restore::{Ground, RestoreRequest, RestoredCluster, Spared, Terms, Written, write},
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

With --delta the folder may be one of the same cluster, whose server is stopped: a server that is to go back, or one with a damaged disk. All that lies there is read and
compared with what the Snapshot records, only what differs is fetched, and what the Snapshot does not have is removed. Until it is complete no server starts on
the folder; a restore that was cut off goes on by the same command, and so does one that was killed in an empty folder.

Examples:
  kubedb repo restore gs://kubedb scheduled-pg-20180208-105341 --to /var/lib/postgresql/rescued \
    --secret gcs-secret.yaml
  kubedb repo restore /backups demo/scheduled-pg/scheduled-pg-20180208-105341 --to /tmp/rescued
  kubedb repo restore s3://backups instant-snapshot --to /tmp/rescued --dry-run
  kubedb repo restore s3://backups instant-snapshot --to /var/lib/postgresql/15/main --delta
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
    /// Data folder to write; empty or absent, but with --delta
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
    #[command(flatten)]
    ground: GroundArgs,
    /// Say what would be restored, and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// What may be in the folder already.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "A folder that is not empty")]
struct GroundArgs {
    /// Check what is in the folder already, and fetch only what differs
    #[arg(long)]
    delta: bool,
    /// Overwrite the folder of another cluster, which is lost
    #[arg(long, requires = "delta")]
    force: bool,
    /// Leave tablespaces where links of the folder lead; no other server may use those places
    #[arg(long, requires = "delta")]
    keep_tablespaces: bool,
}

impl GroundArgs {
    fn read(&self) -> Ground {
        if !self.delta {
            return Ground::Empty;
        }
        Ground::Existing(Terms {
            other_cluster: self.force,
            keep_tablespaces: self.keep_tablespaces,
        })
    }
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
    let manifest = read(&store, &snapshot.manifest).await?;
    let manifest = manifest.map_err(|message| CommandError::State {
        message,
        hint: Some(format!(
            "kubedb repo list {} shows the others",
            arguments.place.words()
        )),
    })?;
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
    let ground = arguments.ground.read();
    let written = write_telling(request, ground, ui).await?;
    if ground != Ground::Empty {
        ui.note(&spared_line(&written.spared));
    }
    let placed = match &recovery {
        Some(recovery) => {
            let into = Placement {
                data: &folder,
                dialect,
                settings: &written.cluster.settings,
            };
            place_telling(recovery, into, ground, ui).await
        }
        None => Ok(()),
    };
    if let Err(error) = placed {
        // Half of it would come back short of the target.
        written.discard().await;
        return Err(error);
    }
    let restored = written.complete().await?;
    let major = &manifest.cluster.major;
    ui.data(&format!(
        "restored {} into {}",
        restored.snapshot,
        folder.display()
    ));
    ui.note(&match &recovery {
        Some(recovery) => recovery.advice(major, &folder),
        None => advice(&restored, major, &folder),
    });
    Ok(())
}

async fn place_telling(
    recovery: &recover::Recovery,
    into: Placement<'_>,
    ground: Ground,
    ui: &Ui,
) -> Result<(), CommandError> {
    let (progress, told) = watch::channel(BackupProgress::default());
    let cancel = CancellationToken::new();
    let place = recovery.place(into, &progress, &cancel);
    Telling { told, ground }.follow(place, &cancel, ui).await
}

fn absolute(folder: &Path) -> Result<PathBuf, CommandError> {
    std::path::absolute(folder).map_err(|source| CommandError::Local {
        doing: format!("find {}", folder.display()),
        source,
    })
}

/// Restores, says how far it is now and then, and ends on Ctrl-C.
async fn write_telling(
    request: RestoreRequest,
    ground: Ground,
    ui: &Ui,
) -> Result<Written, CommandError> {
    let (progress, told) = watch::channel(BackupProgress::default());
    let cancel = CancellationToken::new();
    let write = write(request, ground, progress, cancel.clone());
    let telling = Telling { told, ground };
    telling
        .follow(async { Ok(write.await?) }, &cancel, ui)
        .await
}

fn spared_line(spared: &Spared) -> String {
    let removed = match spared.removed {
        0 => String::new(),
        count => format!("; removed {count} files and folders that it does not have"),
    };
    format!(
        "kept {} that were as in the Snapshot, wrote {}, for which {} were fetched{removed}",
        size(spared.kept_bytes),
        size(spared.written_bytes),
        size(spared.fetched_bytes),
    )
}

/// Work that tells how far it is.
struct Telling {
    told: watch::Receiver<BackupProgress>,
    ground: Ground,
}

impl Telling {
    /// Says how far work is now and then, and ends it on Ctrl-C.
    async fn follow<T>(
        self,
        work: impl Future<Output = Result<T, CommandError>>,
        cancel: &CancellationToken,
        ui: &Ui,
    ) -> Result<T, CommandError> {
        let (verb, end) = match self.ground {
            Ground::Empty => ("written", "stopping; what was written is removed"),
            Ground::Existing(_) => (
                "in place",
                "stopping; the folder stays unfinished, and the same command goes on with it",
            ),
        };
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
                    let now = *self.told.borrow();
                    ui.note(&progress_line(now, begun.elapsed(), verb));
                }
                _ = tokio::signal::ctrl_c(), if !interrupted => {
                    ui.note(end);
                    interrupted = true;
                    cancel.cancel();
                }
            }
        }
    }
}

fn progress_line(now: BackupProgress, elapsed: Duration, verb: &str) -> String {
    let rest = now.total_bytes.saturating_sub(now.done_bytes);
    let left = match now.done_bytes {
        0 => String::new(),
        done => {
            let seconds = elapsed.as_secs_f64() * rest as f64 / done as f64;
            format!(", about {seconds:.0} s to go")
        }
    };
    format!(
        "{} of {} {verb}{left}",
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
            progress_line(half, Duration::from_secs(10), "written"),
            "1.0 GiB of 3.0 GiB written, about 20 s to go"
        );
        let none = BackupProgress::default();
        assert_eq!(
            progress_line(none, Duration::from_secs(1), "written"),
            "0 bytes of 0 bytes written"
        );
    }
}
