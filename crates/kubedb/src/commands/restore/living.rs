//! What would come back of a database that there is, or was, and the manifest that brings it back.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::Api;
use kubedb_api::{
    DormantDatabase, Postgres, PostgresSpec, Snapshot,
    archiver::{Pitr, PostgresWal, RecoveryTarget},
    storage::SnapshotStorage,
};
use kubedb_core::recovery::Target;
use kubedb_engine::{
    archive::{Lineage, Wish, find, inventory},
    repository::keys::DatabaseFolder,
};
use serde_json::json;

use super::{open, tell_outlook};
use crate::{
    client::Session,
    commands::repo::{
        recover::Recovery,
        target::{TargetArgs, check_version},
    },
    error::CommandError,
    ui::Ui,
};

/// A database, and what is wanted of it.
pub(super) struct Wanted<'a> {
    pub(super) namespace: &'a str,
    pub(super) database: &'a str,
    /// Snapshot to begin from.
    pub(super) snapshot: Option<&'a str>,
    pub(super) target: &'a TargetArgs,
}

pub(super) async fn plan(
    wanted: &Wanted<'_>,
    session: &Session,
    ui: &Ui,
) -> Result<(), CommandError> {
    let target = wanted.target.read()?.unwrap_or_else(Target::latest);
    let (namespace, name) = (wanted.namespace, wanted.database);
    let (spec, covered) = spec(session, namespace, name).await?;
    check_version(&target, &spec.version.text())?;
    let storage = archive_of(&spec, namespace, name)?;
    let archive = open(session, namespace, &storage).await?;
    let folder = DatabaseFolder::new(namespace, name)
        .map_err(|error| CommandError::usage(error.to_string()))?;
    let mut lineages = inventory(&archive, &archive, &folder).await?;
    // Snapshots of the schedule may lie elsewhere.
    let scheduled = spec
        .backup_schedule
        .as_ref()
        .map(|schedule| &schedule.storage);
    let mut stores = vec![archive.clone()];
    if let Some(other) = scheduled.filter(|other| **other != storage) {
        let other = open(session, namespace, other).await?;
        merge(&mut lineages, inventory(&other, &archive, &folder).await?);
        stores.push(other);
    }
    let wish = Wish {
        target: &target,
        snapshot: wanted.snapshot,
        covered,
    };
    let found = find(&lineages, &archive, &folder, wish)??;
    let recovery = Recovery {
        namespace: namespace.to_owned(),
        database: name.to_owned(),
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
    let text = database(wanted, &spec, &storage, base, is_known);
    ui.note("this makes a database of it (kubedb create -f):");
    ui.block(&text);
    Ok(())
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
    wanted: &Wanted<'_>,
    spec: &PostgresSpec,
    storage: &SnapshotStorage,
    base: &str,
    is_known: bool,
) -> String {
    let namespace = wanted.namespace;
    let target = wanted.target.field();
    let init = if is_known {
        json!({"snapshotSource": {"name": base, "target": target}})
    } else {
        json!({"postgresWAL": by_archive(storage, &target, namespace, wanted.database, base)})
    };
    let mut made = json!({
        "apiVersion": "kubedb.com/v1alpha1",
        "kind": "Postgres",
        "metadata": {"name": format!("{}-restored", wanted.database), "namespace": namespace},
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
