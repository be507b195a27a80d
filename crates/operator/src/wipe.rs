//! Deletes what there is of a database whose instances are down, step by step. Each step may be done twice, and says what it waits for.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Resource, ResourceExt as _, api::ListParams};
use kubedb_api::{
    DormantDatabase, Postgres, PostgresSpec, Snapshot, labels,
    reasons::{component, event},
};

use crate::{
    archives,
    context::{ReconcileError, request},
    events::{Note, publish},
    guarded::of_uid,
    operator::Operator,
    platform::DatabaseKey,
};

/// What is to be wiped out, and for whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wiping<'a> {
    /// Which database.
    pub(crate) key: &'a DatabaseKey,
    /// UID of the object that goes.
    pub(crate) uid: &'a str,
    /// UID that the data bears.
    pub(crate) data_uid: &'a str,
    /// Which data it is, as its archive bears it.
    pub(crate) lineage: Option<&'a str>,
    /// What the database was.
    pub(crate) spec: &'a PostgresSpec,
    /// When it was asked for: what was made later is another database's.
    pub(crate) since: Timestamp,
}

/// Deletes the volumes alone. Returns what it waits for; none when all is gone.
pub(crate) async fn data(
    operator: &Operator,
    wiping: &Wiping<'_>,
) -> Result<Option<String>, ReconcileError> {
    let is_gone = operator.platform.wipe(wiping.key, wiping.data_uid).await?;
    Ok((!is_gone).then(|| "its data is being deleted".to_owned()))
}

/// Deletes Snapshots with their data, the archive, the Secrets that the operator made, and the volumes, in this order: with the record of a Snapshot goes the last
/// trace of where its data lies.
pub(crate) async fn everything(
    operator: &Operator,
    wiping: &Wiping<'_>,
) -> Result<Option<String>, ReconcileError> {
    if let Some(waits) = snapshots(operator, wiping).await? {
        return Ok(Some(waits));
    }
    if let Some(waits) = archives::delete(operator, wiping).await? {
        return Ok(Some(waits));
    }
    secrets(operator, wiping).await?;
    let waits = data(operator, wiping).await?;
    if waits.is_none() {
        archives::forget(operator, wiping).await?;
    }
    Ok(waits)
}

/// Tells of an archive that is left of a database that is wiped out, because nobody knows which one is its own.
pub(crate) async fn tell_archive<K>(
    operator: &Operator,
    object: &K,
    wiping: &Wiping<'_>,
    now: Timestamp,
) where
    K: Resource<DynamicType = ()>,
{
    let Some(note) = archive_note(wiping) else {
        return;
    };
    publish(&operator.client, object, &note, now).await;
}

fn archive_note(wiping: &Wiping<'_>) -> Option<Note> {
    let storage = archives::storage(wiping).filter(|_| wiping.lineage.is_none())?;
    let path = format!(
        "kubedb/{}/{}/archive",
        wiping.key.namespace, wiping.key.name
    );
    let message = format!(
        "The archive of WAL stays in its store ({}), below {path}: no instance ever said which one it is. If there is one, rows of the database are in it",
        storage.bucket_label()
    );
    let (component, reason) = (component::POSTGRES_OPERATOR, event::ARCHIVE_RETAINED);
    Some(Note::warning(component, reason, message).of(wiping.uid))
}

async fn snapshots(
    operator: &Operator,
    wiping: &Wiping<'_>,
) -> Result<Option<String>, ReconcileError> {
    let api: Api<Snapshot> = Api::namespaced(operator.client.clone(), &wiping.key.namespace);
    let is_its = |snapshot: &Snapshot| {
        let created = snapshot.creation_timestamp();
        snapshot.spec.database_name == wiping.key.name
            && created.is_none_or(|created| created.0 <= wiping.since)
    };
    let mut found = operator.snapshots_of(&wiping.key.namespace, &wiping.key.name);
    found.retain(|snapshot| is_its(snapshot));
    if found.is_empty() {
        // The cache may be younger than the last one.
        let all = api.list(&ListParams::default()).await;
        let all = all.map_err(request("list Snapshots"))?.items.into_iter();
        found = all.filter(is_its).map(Arc::new).collect();
    }
    for snapshot in &found {
        if snapshot.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let name = snapshot.name_any();
        let deleted = api.delete(&name, &of_uid(snapshot.uid())).await;
        gone_or(deleted.map(drop)).map_err(request("delete a Snapshot"))?;
    }
    let Some(first) = found.first() else {
        return Ok(None);
    };
    let why = found.iter().find_map(|snapshot| {
        let reason = snapshot.status.as_ref()?.reason.clone()?;
        let is_going = snapshot.metadata.deletion_timestamp.is_some();
        is_going.then(|| format!("Snapshot {}: {reason}", snapshot.name_any()))
    });
    Ok(Some(why.unwrap_or_else(|| {
        let first = first.name_any();
        match found.len() {
            1 => format!("Snapshot {first} is being deleted"),
            many => format!("Snapshot {first} and {} more are being deleted", many - 1),
        }
    })))
}

/// The Secrets that the operator made. A user's own stays, and so does one that another database of the namespace names.
async fn secrets(operator: &Operator, wiping: &Wiping<'_>) -> Result<(), ReconcileError> {
    let (namespace, name) = (&wiping.key.namespace, &wiping.key.name);
    let api: Api<Secret> = Api::namespaced(operator.client.clone(), namespace);
    let used = used(operator, wiping).await?;
    for secret in [own_secret(name, wiping.spec), format!("{name}-replication")] {
        if used.contains(&secret) {
            continue;
        }
        let found = api
            .get_metadata_opt(&secret)
            .await
            .map_err(request("get a Secret"))?;
        let Some(found) = found else { continue };
        let is_ours = found
            .labels()
            .get(labels::KIND)
            .is_some_and(|kind| kind == "Postgres")
            && found.labels().get(labels::NAME) == Some(name);
        if is_ours {
            let deleted = api.delete(&secret, &of_uid(found.uid())).await;
            gone_or(deleted.map(drop)).map_err(request("delete a Secret"))?;
        }
    }
    Ok(())
}

fn own_secret(name: &str, spec: &PostgresSpec) -> String {
    let named = spec.database_secret.as_ref();
    let named = named.and_then(|secret| secret.secret_name.clone());
    named.unwrap_or_else(|| format!("{name}-auth"))
}

/// Secrets that other databases of the namespace name, those that are paused included. Asked of the API: a cache may be older.
async fn used(
    operator: &Operator,
    wiping: &Wiping<'_>,
) -> Result<BTreeSet<String>, ReconcileError> {
    let namespace = &wiping.key.namespace;
    let all = ListParams::default();
    let databases: Api<Postgres> = Api::namespaced(operator.client.clone(), namespace);
    let databases = databases
        .list(&all)
        .await
        .map_err(request("list databases"))?;
    let dormants: Api<DormantDatabase> = Api::namespaced(operator.client.clone(), namespace);
    let dormants = dormants.list(&all).await;
    let dormants = dormants.map_err(request("list paused databases"))?;
    let living = databases
        .iter()
        .filter(|other| other.uid().as_deref() != Some(wiping.uid))
        // One of the same name waits, and gets a password of its own.
        .filter(|other| other.name_any() != wiping.key.name || other.spec.database_secret.is_some())
        .map(|other| own_secret(&other.name_any(), &other.spec));
    let paused = dormants
        .iter()
        .filter(|other| other.uid().as_deref() != Some(wiping.uid))
        .filter_map(|other| {
            let spec = other.spec.origin.spec.postgres.as_ref()?;
            Some(own_secret(&other.name_any(), spec))
        });
    Ok(living.chain(paused).collect())
}

/// What is gone, or was made anew, is not there any more.
fn gone_or(deleted: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match deleted {
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        other => other,
    }
}
