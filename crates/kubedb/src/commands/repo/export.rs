//! `kubedb repo export`, and what it shares with `kubedb snapshot export`.

use std::path::{Path, PathBuf};

use clap::Args;
use kubedb_engine::{repository::manifest::Manifest, restore::Ground, store::Store};

use super::{PlaceArgs, one, open, read_meant, restore::held, writing::Job};
use crate::{error::CommandError, ui::Ui};

const EXAMPLES: &str = "\
What is written is what pg_basebackup would write: a data folder with its WAL, backup_label and,
since PostgreSQL 13, backup_manifest, so that pg_verifybackup verifies it and PostgreSQL starts
on it. The folder must be empty or absent. Tablespaces go beside it, into tablespaces/OID.

Examples:
  kubedb repo export gs://kubedb instant-snapshot --to /tmp/base --secret gcs-secret.yaml
  kubedb repo export /backups demo/scheduled-pg/scheduled-pg-20180208-105341 --to /tmp/base";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// SNAPSHOT, DATABASE/SNAPSHOT or NAMESPACE/DATABASE/SNAPSHOT
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    /// Folder to write, empty or absent
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
}

pub(super) async fn run(arguments: ExportArgs, ui: &Ui) -> Result<(), CommandError> {
    let (store, catalogue) = open(&arguments.place).await?;
    let snapshot = one(&catalogue, &arguments.snapshot, &store)?;
    let manifest = read_meant(&store, &snapshot, &arguments.place).await?;
    ui.note(&held(&snapshot.path(), &manifest));
    export(store, snapshot.manifest, &manifest, &arguments.to, ui).await
}

/// Writes a Snapshot as a base backup.
pub(in crate::commands) async fn export(
    store: Store,
    key: String,
    manifest: &Manifest,
    to: &Path,
    ui: &Ui,
) -> Result<(), CommandError> {
    let job = Job::new(store, key, manifest, to, Ground::Empty)?;
    let folder = job.request.data_folder.clone();
    let written = job.write(ui).await?;
    let has_manifest = match written.add_backup_manifest().await {
        Ok(has_manifest) => has_manifest,
        Err(error) => {
            written.discard().await;
            return Err(error.into());
        }
    };
    let exported = written.complete().await?;
    let folder = folder.display();
    ui.data(&format!("exported {} into {folder}", exported.snapshot));
    let major = &manifest.cluster.major;
    ui.note(&if has_manifest {
        format!("PostgreSQL {major} verifies it:\n  pg_verifybackup {folder}")
    } else {
        format!("PostgreSQL {major} has no pg_verifybackup, so there is no backup_manifest; every byte was compared with what was stored")
    });
    Ok(())
}
