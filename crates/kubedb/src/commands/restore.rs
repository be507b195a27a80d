//! `kubedb restore plan`: what would come back of a database, and the manifest that brings it back.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kubedb_agent::location::{keys, location, reads_no_secret};
use kubedb_api::{
    DormantDatabase, Postgres, PostgresSpec, Snapshot,
    archiver::{Pitr, PostgresWal, RecoveryTarget},
    storage::SnapshotStorage,
};
use kubedb_core::recovery::Target;
use kubedb_engine::{
    archive::{Lineage, Wish, find, inventory},
    repository::keys::DatabaseFolder,
    store::{Credentials, Store},
};
use serde_json::json;

use super::{
    repo::{
        address::open_existing,
        outlook::{self, Place},
        recover::Recovery,
        target::{TargetArgs, check_version},
    },
    selection::{self, NamespaceArgs},
};
use crate::{
    client::{ServerArgs, Session},
    error::CommandError,
    ui::Ui,
};

const EXAMPLES: &str = "\
Examples:
  kubedb restore plan wal-postgres -n demo
  kubedb restore plan wal-postgres -n demo --target-time 2026-11-26T14:05:00Z";

const PLAN_EXAMPLES: &str = "\
Nothing is restored and nothing is changed. The bucket is read from here, with the keys of the storage Secret, which you must be allowed to read; the database may be
running, paused, or broken. What cannot be reached is refused with what can. The manifest that is printed makes a database of it, beside the old one.

Examples:
  kubedb restore plan wal-postgres -n demo
  kubedb restore plan wal-postgres -n demo --target-time 2026-11-26T14:05:00Z
  kubedb restore plan wal-postgres -n demo --target-name before-upgrade
  kubedb restore plan wal-postgres -n demo --snapshot wal-postgres-20261126-120002";

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
    #[command(after_help = PLAN_EXAMPLES)]
    Plan(PlanArgs),
}

#[derive(Args, Clone, Debug)]
struct PlanArgs {
    /// The database
    #[arg(value_name = "DATABASE")]
    database: String,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// Snapshot to begin from; the latest that serves when absent
    #[arg(long, value_name = "NAME")]
    snapshot: Option<String>,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) async fn run(
    arguments: RestoreArgs,
    server: &ServerArgs,
    ui: &Ui,
) -> Result<(), CommandError> {
    let RestoreCommand::Plan(arguments) = arguments.command;
    selection::check_name(&arguments.database)?;
    let target = arguments.target.read()?.unwrap_or_else(Target::latest);
    let session = Session::open(server).await?;
    let namespace = arguments.namespace.namespace.as_str();
    let (spec, covered) = spec(&session, namespace, &arguments.database).await?;
    check_version(&target, &spec.version.text())?;
    let storage = archive_of(&spec, namespace, &arguments.database)?;
    let archive = open(&session, namespace, &storage).await?;
    let folder = DatabaseFolder::new(namespace, &arguments.database)
        .map_err(|error| CommandError::usage(error.to_string()))?;
    let mut lineages = inventory(&archive, &archive, &folder).await?;
    // Snapshots of the schedule may lie elsewhere.
    let scheduled = spec
        .backup_schedule
        .as_ref()
        .map(|schedule| &schedule.storage);
    let mut stores = vec![archive.clone()];
    if let Some(other) = scheduled.filter(|other| **other != storage) {
        let other = open(&session, namespace, other).await?;
        merge(&mut lineages, inventory(&other, &archive, &folder).await?);
        stores.push(other);
    }
    let wish = Wish {
        target: &target,
        snapshot: arguments.snapshot.as_deref(),
        covered,
    };
    let found = find(&lineages, &archive, &folder, wish)??;
    let recovery = Recovery {
        namespace: namespace.to_owned(),
        database: arguments.database.clone(),
        target,
        found,
    };
    ui.note(&recovery.told());
    if let Some(earliest) = earliest(&lineages, &recovery) {
        ui.note(&format!("  earliest that can come back: {earliest}"));
    }
    tell_outlook(&stores, &recovery.found.plan.base.manifest, ui).await;
    let snapshots: Api<Snapshot> = Api::namespaced(session.client.clone(), namespace);
    let base = &recovery.found.plan.base.snapshot;
    let is_known = snapshots.get_opt(base).await;
    let is_known = is_known
        .map_err(|error| session.fail(error, None))?
        .is_some();
    let text = database(&arguments, &spec, &storage, base, is_known);
    ui.note("this makes a database of it (kubedb create -f):");
    ui.block(&text);
    Ok(())
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

/// The spec of a database that runs, or that was paused, and how far its archive is known to go.
async fn spec(
    session: &Session,
    namespace: &str,
    name: &str,
) -> Result<(PostgresSpec, Option<Timestamp>), CommandError> {
    let living: Api<Postgres> = Api::namespaced(session.client.clone(), namespace);
    match living.get(name).await {
        Ok(postgres) => {
            let covered = postgres.covered_time();
            Ok((postgres.spec, covered))
        }
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let paused: Api<DormantDatabase> = Api::namespaced(session.client.clone(), namespace);
            let paused = paused.get_opt(name).await;
            let paused = paused.map_err(|error| session.fail(error, None))?;
            let spec = paused.and_then(|paused| paused.spec.origin.spec.postgres);
            let spec = spec.ok_or_else(|| session.fail(kube::Error::Api(status), None))?;
            Ok((spec, None))
        }
        Err(error) => Err(session.fail(error, None)),
    }
}

fn archive_of(
    spec: &PostgresSpec,
    namespace: &str,
    name: &str,
) -> Result<SnapshotStorage, CommandError> {
    let archiver = spec.archiver.as_ref();
    let storage = archiver.and_then(|archiver| archiver.storage.clone());
    storage.ok_or_else(|| CommandError::State {
        message: format!(
            "postgres \"{name}\" has no spec.archiver: nothing but its Snapshots can come back"
        ),
        hint: Some(format!("kubedb get snap -n {namespace} shows them")),
    })
}

pub(super) async fn open(
    session: &Session,
    namespace: &str,
    storage: &SnapshotStorage,
) -> Result<Store, CommandError> {
    let place = location(storage).map_err(CommandError::usage)?;
    let credentials = match &storage.storage_secret_name {
        Some(name) if !reads_no_secret(storage) => read_secret(session, namespace, name).await?,
        _ => Credentials::new(),
    };
    let store = open_existing(&place, &credentials)?;
    let Some(encryption) = &storage.encryption else {
        return Ok(store);
    };
    let name = &encryption.secret_name;
    let held = read_secret(session, namespace, name).await?;
    let keys = keys(encryption, &held).map_err(|reason| CommandError::State {
        message: format!("failed to use Secret {name} for encryption: {reason}"),
        hint: None,
    });
    Ok(store.with_keys(keys?))
}

async fn read_secret(
    session: &Session,
    namespace: &str,
    name: &str,
) -> Result<Credentials, CommandError> {
    let secrets: Api<Secret> = Api::namespaced(session.client.clone(), namespace);
    let secret = secrets.get(name).await;
    let secret = secret.map_err(|error| session.fail(error, None))?;
    let data = secret.data.unwrap_or_default().into_iter();
    Ok(data.map(|(key, value)| (key, value.0)).collect())
}

/// Adds the Snapshots of another store.
fn merge(lineages: &mut BTreeMap<String, Lineage>, others: BTreeMap<String, Lineage>) {
    for (name, other) in others {
        match lineages.get_mut(&name) {
            Some(known) => {
                known.bases.extend(other.bases);
                known.bases.sort_by_key(|base| (base.stop, base.created));
                for (timeline, history) in other.holdings.histories {
                    known.holdings.histories.entry(timeline).or_insert(history);
                }
            }
            None => drop(lineages.insert(name, other)),
        }
    }
}

fn earliest(lineages: &BTreeMap<String, Lineage>, recovery: &Recovery) -> Option<String> {
    let lineage = lineages.get(&recovery.found.lineage)?;
    let first = lineage.bases.iter().min_by_key(|base| base.created)?;
    Some(format!("{} (Snapshot {})", first.created, first.snapshot))
}

/// A database like the old one, made of what was planned.
fn database(
    arguments: &PlanArgs,
    spec: &PostgresSpec,
    storage: &SnapshotStorage,
    base: &str,
    is_known: bool,
) -> String {
    let namespace = &arguments.namespace.namespace;
    let target = arguments.target.field();
    let init = if is_known {
        json!({"snapshotSource": {"name": base, "target": target}})
    } else {
        json!({"postgresWAL": by_archive(storage, &target, namespace, &arguments.database, base)})
    };
    let mut made = json!({
        "apiVersion": "kubedb.com/v1alpha1",
        "kind": "Postgres",
        "metadata": {"name": format!("{}-restored", arguments.database), "namespace": namespace},
        "spec": {"version": spec.version, "init": init},
    });
    if let Some(storage) = &spec.storage {
        made["spec"]["storage"] = json!(storage);
    }
    serde_yaml_ng::to_string(&made).unwrap_or_default()
}

/// An archive is named by its whole path.
fn by_archive(
    storage: &SnapshotStorage,
    target: &RecoveryTarget,
    namespace: &str,
    database: &str,
    base: &str,
) -> PostgresWal {
    let path = format!("kubedb/{namespace}/{database}/archive");
    let mut storage = storage.clone();
    let places = [
        storage.s3.as_mut().map(|s3| &mut s3.prefix),
        storage.gcs.as_mut().map(|gcs| &mut gcs.prefix),
        storage.azure.as_mut().map(|azure| &mut azure.prefix),
        storage.swift.as_mut().map(|swift| &mut swift.prefix),
        storage.local.as_mut().map(|local| &mut local.sub_path),
    ];
    for place in places.into_iter().flatten() {
        let before = place.as_deref().unwrap_or_default().trim_matches('/');
        *place = Some(match before {
            "" => path.clone(),
            before => format!("{before}/{path}"),
        });
    }
    PostgresWal {
        backup_name: Some(base.to_owned()),
        pitr: (*target != RecoveryTarget::default()).then(|| Pitr::from(target)),
        layout: None,
        storage,
    }
}
