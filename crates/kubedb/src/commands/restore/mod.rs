//! `kubedb restore plan`: what would come back, before anything is made.

mod living;
mod manifest;

use clap::{Args, Subcommand};
use kubedb_agent::location::{keys, location, reads_no_secret};
use kubedb_api::storage::SnapshotStorage;
use kubedb_engine::store::{Credentials, Store};

use super::{
    repo::{
        address::open_existing,
        outlook::{self, Place},
        target::TargetArgs,
    },
    selection,
};
use crate::{
    client::{DEFAULT_NAMESPACE, ServerArgs, Session},
    error::CommandError,
    ui::Ui,
};

const EXAMPLES: &str = "\
Examples:
  kubedb restore plan wal-postgres -n demo
  kubedb restore plan wal-postgres -n demo --target-time 2026-11-26T14:05:00Z
  kubedb restore plan -f restored-pg.yaml";

const PLAN_EXAMPLES: &str = "\
Nothing is restored and nothing is changed. The bucket is read from here, with the keys of the storage Secret, which you must be allowed to read; the database may be
running, paused, or broken. What cannot be reached is refused with what can. The manifest that is printed makes a database of it, beside the old one.

With -f it says what a Postgres of yours would begin with, by its spec.init: from which Snapshot and which WAL, an archive of wal-g's layout too, or why it never would.

Examples:
  kubedb restore plan wal-postgres -n demo
  kubedb restore plan wal-postgres -n demo --target-time 2026-11-26T14:05:00Z
  kubedb restore plan wal-postgres -n demo --target-name before-upgrade
  kubedb restore plan wal-postgres -n demo --snapshot wal-postgres-20261126-120002
  kubedb restore plan -f restored-pg.yaml";

/// What `restore` was told.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct RestoreArgs {
    #[command(subcommand)]
    command: RestoreCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum RestoreCommand {
    /// Say what comes back of a database, from what, and how far its archive goes
    #[command(after_help = PLAN_EXAMPLES, arg_required_else_help = true)]
    Plan(PlanArgs),
}

#[derive(Args, Clone, Debug)]
struct PlanArgs {
    /// The database
    #[arg(value_name = "DATABASE", required_unless_present = "filename")]
    database: Option<String>,
    /// Manifest of a Postgres that is not made yet: file, URL, or - for standard input
    #[arg(short, long, value_name = "SOURCE", conflicts_with_all = TOLD_BY_MANIFEST)]
    filename: Option<String>,
    /// Namespace of the database; `default` when absent
    #[arg(short, long, value_name = "NAME", value_parser = selection::namespace)]
    namespace: Option<String>,
    /// Snapshot to begin from; the latest that serves when absent
    #[arg(long, value_name = "NAME")]
    snapshot: Option<String>,
    #[command(flatten)]
    target: TargetArgs,
}

/// What a manifest says by its `spec.init`.
const TOLD_BY_MANIFEST: [&str; 9] = [
    "database",
    "snapshot",
    "latest",
    "target_time",
    "target_lsn",
    "target_xid",
    "target_name",
    "target_timeline",
    "exclusive",
];

pub(super) async fn run(
    arguments: RestoreArgs,
    server: &ServerArgs,
    ui: &Ui,
) -> Result<(), CommandError> {
    let RestoreCommand::Plan(arguments) = arguments.command;
    let namespace = arguments.namespace.as_deref();
    if let Some(source) = &arguments.filename {
        let manifest = manifest::read(source, namespace).await?;
        return manifest::plan(manifest, &Session::open(server).await?, ui).await;
    }
    let wanted = living::Wanted {
        namespace: namespace.unwrap_or(DEFAULT_NAMESPACE),
        database: arguments.database.as_deref().unwrap_or_default(),
        snapshot: arguments.snapshot.as_deref(),
        target: &arguments.target,
    };
    selection::check_name(wanted.database)?;
    living::plan(&wanted, &Session::open(server).await?, ui).await
}

/// How much there is to fetch, and how fast that goes from here. A plan is none the worse without.
async fn tell_outlook(stores: &[Store], key: &str, ui: &Ui) {
    let mut reason = format!("{key} is gone");
    for store in stores {
        match outlook::tell(store, key, Place::Elsewhere, ui).await {
            Ok(()) => return ui.note(&format!("  {}", outlook::REPLAY)),
            Err(error) => reason = error.to_string(),
        }
    }
    ui.note(&format!("  how long that takes is not known: {reason}"));
}

pub(super) async fn open(
    session: &Session,
    namespace: &str,
    storage: &SnapshotStorage,
) -> Result<Store, CommandError> {
    let place = location(storage).map_err(CommandError::usage)?;
    let credentials = match &storage.storage_secret_name {
        Some(name) if !reads_no_secret(storage) => session.secret(namespace, name).await?,
        _ => Credentials::new(),
    };
    let store = open_existing(&place, &credentials)?;
    let Some(encryption) = &storage.encryption else {
        return Ok(store);
    };
    let name = &encryption.secret_name;
    let held = session.secret(namespace, name).await?;
    let keys = keys(encryption, &held).map_err(|reason| CommandError::State {
        message: format!("failed to use Secret {name} for encryption: {reason}"),
        hint: None,
    });
    Ok(store.with_keys(keys?))
}
