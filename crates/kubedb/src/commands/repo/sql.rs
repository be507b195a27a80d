//! A logical Snapshot as `dumpfile.sql`, and which of the two exports a Snapshot takes.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use kubedb_engine::{
    backup::BackupProgress,
    logical::{self, ExportRequest},
    repository::manifest::Manifest,
    restore::Ground,
    store::Store,
};
use tokio::{fs::File, io::AsyncWrite, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{export::export_base, writing::Telling};
use crate::{error::CommandError, ui::Ui};

/// The file that the original wrote for each Snapshot.
const DUMPFILE: &str = "dumpfile.sql";

/// In what form, and how much of it.
#[derive(Args, Clone, Debug)]
pub(in crate::commands) struct FormArgs {
    /// Form of what is written; that of the Snapshot's method when absent
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Of a logical Snapshot, a database to write; all of them when absent (can be repeated)
    #[arg(long = "only", value_name = "DATABASE")]
    only: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A base backup, of a Snapshot of method Physical
    Base,
    /// SQL that psql loads, of one of method Logical
    Sql,
}

/// Writes a Snapshot in the form that its method has.
pub(in crate::commands) async fn export(
    store: Store,
    key: String,
    manifest: &Manifest,
    to: &Path,
    form: &FormArgs,
    ui: &Ui,
) -> Result<(), CommandError> {
    let snapshot = &manifest.snapshot;
    let refuse = |message: String, hint: &str| CommandError::State {
        message,
        hint: Some(hint.to_owned()),
    };
    match (manifest.logical.is_some(), form.format) {
        (true, Some(Format::Base)) => Err(refuse(
            format!("Snapshot {snapshot} is logical: it holds no data folder"),
            "--format sql writes what it holds; a Snapshot of method Physical is written as a base backup",
        )),
        (false, Some(Format::Sql)) => Err(refuse(
            format!("Snapshot {snapshot} is physical: it holds no SQL"),
            "--format base writes what it holds; a Snapshot with spec.method Logical holds SQL",
        )),
        (false, _) if !form.only.is_empty() => Err(refuse(
            format!("Snapshot {snapshot} is physical and is written as a whole"),
            "leave --only out",
        )),
        (false, _) => export_base(store, key, manifest, to, ui).await,
        (true, _) => {
            let request = ExportRequest {
                store,
                manifest: key,
                databases: (!form.only.is_empty()).then(|| form.only.clone()),
            };
            write(request, snapshot, to, ui).await
        }
    }
}

async fn write(
    request: ExportRequest,
    snapshot: &str,
    to: &Path,
    ui: &Ui,
) -> Result<(), CommandError> {
    if to == Path::new("-") {
        return follow(request, tokio::io::stdout(), ui).await.map(drop);
    }
    let file = to.join(DUMPFILE);
    let failed = |doing: &str, path: &Path| {
        let doing = format!("{doing} {}", path.display());
        move |source| CommandError::Local { doing, source }
    };
    let is_new = !to.exists();
    tokio::fs::create_dir_all(to)
        .await
        .map_err(failed("create", to))?;
    // Rows are nobody else's business.
    let mut options = File::options();
    let opened = options.write(true).create_new(true).mode(0o600);
    let opened = opened.open(&file).await;
    let written = match opened.map_err(failed("create", &file)) {
        Ok(opened) => {
            let synced = opened.try_clone().await;
            match follow(request, tokio::io::BufWriter::new(opened), ui).await {
                Ok(bytes) => match synced {
                    Ok(file) => file.sync_all().await.map(|()| bytes),
                    Err(error) => Err(error),
                }
                .map_err(failed("write", &file)),
                Err(error) => {
                    take_away(&file, is_new.then_some(to)).await;
                    return Err(error);
                }
            }
        }
        Err(error) => Err(error),
    };
    let bytes = written?;
    ui.data(&format!("exported {snapshot} into {}", file.display()));
    ui.note(&format!(
        "{}; psql loads it into a server that holds nothing yet, as the superuser postgres:\n  psql -X -v ON_ERROR_STOP=1 -d postgres -f {}",
        crate::commands::describe::size(bytes),
        file.display()
    ));
    Ok(())
}

/// Half an export looks like a whole one.
async fn take_away(file: &PathBuf, folder: Option<&Path>) {
    let _ = tokio::fs::remove_file(file).await;
    if let Some(folder) = folder {
        let _ = tokio::fs::remove_dir(folder).await;
    }
}

async fn follow(
    request: ExportRequest,
    into: impl AsyncWrite + Unpin,
    ui: &Ui,
) -> Result<u64, CommandError> {
    let (progress, told) = watch::channel(BackupProgress::default());
    let cancel = CancellationToken::new();
    let export = logical::export(request, into, progress, cancel.clone());
    let telling = Telling {
        told,
        ground: Ground::Empty,
    };
    telling
        .follow(async { Ok(export.await?) }, &cancel, ui)
        .await
}
