//! `kubedb repo export`, and what it shares with `kubedb snapshot export`.

use std::path::{Path, PathBuf};

use clap::Args;
use kubedb_engine::{repository::manifest::Manifest, restore::Ground, store::Store};

use super::{PlaceArgs, one, open, read_meant, restore::held, sql, writing::Job};
use crate::{error::CommandError, ui::Ui};

const EXAMPLES: &str = "\
What is written is what pg_basebackup would write: a data folder with its WAL, backup_label and,
since PostgreSQL 13, backup_manifest, so that pg_verifybackup verifies it and PostgreSQL starts
on it. The folder must be empty or absent. Tablespaces go beside it, into tablespaces/OID.
Of a Snapshot of method Logical, FOLDER/dumpfile.sql is written instead, which psql loads; with
--to - it goes to standard output.

Examples:
  kubedb repo export gs://kubedb instant-snapshot --to /tmp/base --secret gcs-secret.yaml
  kubedb repo export /backups demo/scheduled-pg/scheduled-pg-20180208-105341 --to /tmp/base
  kubedb repo export /backups nightly-rows --to - --only shop | psql -h other -d postgres";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// SNAPSHOT, DATABASE/SNAPSHOT or NAMESPACE/DATABASE/SNAPSHOT
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    /// Folder to write, empty or absent; - writes SQL to standard output
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
    #[command(flatten)]
    form: sql::FormArgs,
}

pub(super) async fn run(arguments: ExportArgs, ui: &Ui) -> Result<(), CommandError> {
    let (store, catalogue) = open(&arguments.place).await?;
    let snapshot = one(&catalogue, &arguments.snapshot, &store)?;
    let manifest = read_meant(&store, &snapshot, &arguments.place).await?;
    ui.note(&held(&snapshot.path(), &manifest));
    let (key, to) = (snapshot.manifest, &arguments.to);
    sql::export(store, key, &manifest, to, &arguments.form, ui).await
}

/// Writes a Snapshot as a base backup.
pub(super) async fn export_base(
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
