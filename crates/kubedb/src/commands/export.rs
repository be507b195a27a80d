//! `kubedb snapshot export`.

use std::path::PathBuf;

use clap::Args;
use kube::Api;
use kubedb_api::Snapshot;
use kubedb_engine::repository::manifest;

use super::{
    repo::{restore::held, sql},
    restore::open,
    selection::{self, NamespaceArgs},
};
use crate::{
    client::{ServerArgs, Session},
    error::CommandError,
    ui::Ui,
};

pub(super) const EXAMPLES: &str = "\
What is written is what pg_basebackup would write: a data folder with its WAL, backup_label and,
since PostgreSQL 13, backup_manifest, so that pg_verifybackup verifies it and PostgreSQL starts
on it. The bucket is read from here, with the keys of the storage Secret, which you must be
allowed to read; a storage that is a folder lies on the machine that ran the database. kubedb
repo export does the same without any server. Of a Snapshot of method Logical,
FOLDER/dumpfile.sql is written instead, which psql loads; with --to - it goes to standard output.

Examples:
  kubedb snapshot export scheduled-pg-20180208-105341 -n demo --to /tmp/base
  kubedb snapshot export nightly-rows -n demo --format sql --to /tmp/rows
  kubedb snapshot export nightly-rows -n demo --to - --only shop | psql -h other -d postgres";

#[derive(Args, Clone, Debug)]
pub(super) struct ExportArgs {
    /// The Snapshot
    #[arg(value_name = "SNAPSHOT")]
    name: String,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// Folder to write, empty or absent; - writes SQL to standard output
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
    #[command(flatten)]
    form: sql::FormArgs,
}

pub(super) async fn run(
    arguments: ExportArgs,
    server: &ServerArgs,
    ui: &Ui,
) -> Result<(), CommandError> {
    selection::check_name(&arguments.name)?;
    let session = Session::open(server).await?;
    let namespace = arguments.namespace.namespace.as_str();
    let snapshots: Api<Snapshot> = Api::namespaced(session.client.clone(), namespace);
    let snapshot = snapshots.get(&arguments.name).await;
    let snapshot = snapshot.map_err(|error| session.fail(error, None))?;
    let status = snapshot.status.as_ref();
    let Some(result) = status.and_then(|status| status.result.as_ref()) else {
        return Err(CommandError::State {
            message: format!(
                "snapshot \"{}\" is not complete: there is nothing to export",
                arguments.name
            ),
            hint: Some(format!(
                "kubedb describe snap {} -n {namespace} says how it stands",
                arguments.name
            )),
        });
    };
    let store = open(&session, namespace, &snapshot.spec.storage).await?;
    let manifest = manifest::examine(&store, &result.manifest).await?;
    let manifest = manifest.map_err(|error| CommandError::State {
        message: error.to_string(),
        hint: Some(format!("kubedb get snap -n {namespace} shows the others")),
    })?;
    let database = &snapshot.spec.database_name;
    let path = format!("{namespace}/{database}/{}", arguments.name);
    ui.note(&held(&path, &manifest));
    let key = result.manifest.clone();
    sql::export(store, key, &manifest, &arguments.to, &arguments.form, ui).await
}
