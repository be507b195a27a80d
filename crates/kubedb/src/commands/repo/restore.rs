//! `kubedb repo restore`.

use std::path::{Path, PathBuf};

use clap::Args;
use kubedb_engine::{
    archive::Placement,
    backup::BackupProgress,
    repository::manifest::{self, Manifest},
    restore::{Ground, RestoredCluster, Terms},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    PlaceArgs,
    list::second,
    one, open,
    outlook::{self, Place},
    read_meant, recover,
    target::{TargetArgs, check_version},
    writing::{Job, Telling},
};
use crate::{commands::describe::size, error::CommandError, ui::Ui};

const EXAMPLES: &str = "\
Without a target the Snapshot comes back as it was. With one, the WAL that was archived behind
it is put into the folder too, and PostgreSQL replays it when it starts, exactly up to the
target; a DATABASE may stand in place of the Snapshot then, and the latest that serves is taken.
What cannot be reached is refused before anything is written.

The folder must be empty or absent; what is written is verified byte by byte, and removed again
if the restore fails. Tablespaces go beside the folder, into tablespaces/OID. Start a server of
the same major version on it, and it recovers to the end of the Snapshot.

With --delta the folder may be one of the same cluster, whose server is stopped: a server that
is to go back, or one with a damaged disk. All that lies there is read and compared with what
the Snapshot records, only what differs is fetched, and what the Snapshot does not have is
removed. Until it is complete no server starts on the folder; a restore that was cut off goes on
by the same command, and so does one that was killed in an empty folder. A server that works on
the folder from another machine, or in a container, is not seen from here: stop it first.

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
    /// Say what would be restored and how long it takes, by a first part of it, and write nothing
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
    let manifest = read_meant(&store, &snapshot, &arguments.place).await?;
    if let Some(recovery) = &recovery {
        check_version(&recovery.target, &manifest.cluster.postgres_version)?;
    }
    // Whether there is a key to it is known before anything is said or written.
    manifest::data_key(&store, &snapshot.manifest, &manifest).await?;
    ui.note(&held(&snapshot.path(), &manifest));
    if arguments.dry_run {
        let folder = arguments.to.as_path();
        let place = if arguments.ground.delta {
            Place::Existing(folder)
        } else {
            Place::Empty(folder)
        };
        outlook::tell(&store, &snapshot.manifest, place, ui).await?;
        if recovery.is_some() {
            ui.note(&format!("  {}", outlook::REPLAY));
        }
        ui.note("nothing was written (dry run)");
        return Ok(());
    }
    let ground = arguments.ground.read();
    let job = Job::new(store, snapshot.manifest, &manifest, &arguments.to, ground)?;
    let (folder, dialect) = (job.request.data_folder.clone(), job.request.dialect);
    let written = job.write(ui).await?;
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

/// What a Snapshot holds, in a line.
pub(in crate::commands) fn held(path: &str, manifest: &Manifest) -> String {
    format!(
        "{path} holds PostgreSQL {} as of {}, {}",
        manifest.cluster.postgres_version,
        second(manifest.created),
        size(manifest.sizes.database_bytes)
    )
}

fn advice(restored: &RestoredCluster, major: &str, folder: &Path) -> String {
    format!(
        "it recovers to {} when PostgreSQL {major} starts on it, as the user who owns the folder:\n  postgres -D {}",
        restored.stop_lsn,
        folder.display()
    )
}
