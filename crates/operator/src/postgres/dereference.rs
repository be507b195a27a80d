//! Step 1: everything a plan needs, read once: from the caches where they hold it.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use kube::{Api, ResourceExt as _};
use kubedb_api::{Postgres, PostgresVersion, Snapshot};

use super::{is_begun, source::Sought};
use crate::{
    context::{ReconcileError, request},
    operator::Operator,
    platform::{DatabaseKey, ObservedDatabase},
};

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// The catalogue's entry for `spec.version`.
    pub(crate) version: Option<PostgresVersion>,
    /// Whether the superuser's Secret exists.
    pub(crate) has_auth_secret: bool,
    /// Whether the replication role's Secret exists.
    pub(crate) has_replication_secret: bool,
    /// Snapshots of this database.
    pub(crate) snapshots: Vec<Arc<Snapshot>>,
    /// What it is to be restored from.
    pub(crate) sought: Sought,
    /// Whether the database's Lease exists.
    pub(crate) has_lease: bool,
    /// Its holder.
    pub(crate) holder: Option<String>,
    /// Instances that are alive, and for how long each counts as alive without another word.
    pub(crate) alive: BTreeMap<String, SignedDuration>,
    /// Tasks whose Snapshot does not exist any more.
    pub(crate) orphans: Vec<String>,
    /// What the platform sees.
    pub(crate) observed: Option<ObservedDatabase>,
}

/// Name of the superuser's Secret.
#[must_use]
pub(crate) fn auth_secret(postgres: &Postgres) -> String {
    postgres
        .spec
        .database_secret
        .as_ref()
        .and_then(|secret| secret.secret_name.clone())
        .unwrap_or_else(|| format!("{}-auth", postgres.name_any()))
}

/// Name of the replication role's Secret.
#[must_use]
pub(crate) fn replication_secret(postgres: &Postgres) -> String {
    format!("{}-replication", postgres.name_any())
}

/// Which database.
#[must_use]
pub(crate) fn key_of(postgres: &Postgres) -> DatabaseKey {
    DatabaseKey {
        namespace: postgres.namespace().unwrap_or_default(),
        name: postgres.name_any(),
    }
}

/// Reads it.
pub(super) async fn dereference(
    operator: &Operator,
    postgres: &Postgres,
    now: Timestamp,
) -> Result<Found, ReconcileError> {
    let (client, key) = (&operator.client, key_of(postgres));
    let snapshots = operator.snapshots_of(&key.namespace, &key.name);
    let orphans = orphans(operator, postgres, &snapshots).await?;
    let sought = Sought::seek(client, postgres).await?;
    let lease = operator.lease(postgres).await?;
    Ok(Found {
        version: operator.version(&postgres.spec.version.text()).await?,
        // Once its name is in the spec it is the user's to keep.
        has_auth_secret: postgres.spec.database_secret.is_some()
            || operator
                .finds_secret(&key.namespace, &auth_secret(postgres))
                .await?,
        has_replication_secret: has_replication_secret(operator, postgres).await?,
        snapshots,
        orphans,
        alive: operator.alive(postgres, now),
        sought,
        has_lease: lease.is_some(),
        holder: lease.and_then(|lease| lease.spec.as_ref()?.holder_identity.clone()),
        observed: operator.platform.observe(&key).await?,
    })
}

/// Until a database begins, a wipe-out of its predecessor may still take the Secret away.
async fn has_replication_secret(
    operator: &Operator,
    postgres: &Postgres,
) -> Result<bool, ReconcileError> {
    let name = replication_secret(postgres);
    if is_begun(postgres) {
        operator.has_secret(postgres, &name).await
    } else {
        let namespace = postgres.namespace().unwrap_or_default();
        operator.finds_secret(&namespace, &name).await
    }
}

/// Tasks of Snapshots that went without a word, as when somebody takes their finalizer away. The cache of Snapshots may be
/// older than that of databases, so the API is asked before a task counts as nobody's.
async fn orphans(
    operator: &Operator,
    postgres: &Postgres,
    snapshots: &[Arc<Snapshot>],
) -> Result<Vec<String>, ReconcileError> {
    let tasks = postgres.status.iter().flat_map(|status| &status.tasks);
    let mut orphans = Vec::new();
    for (name, task) in tasks {
        let is_its = |snapshot: &Snapshot| {
            snapshot.name_any() == *name && snapshot.uid().as_ref() == Some(&task.snapshot_uid)
        };
        if snapshots.iter().any(|snapshot| is_its(snapshot)) {
            continue;
        }
        let namespace = postgres.namespace().unwrap_or_default();
        let known = Api::<Snapshot>::namespaced(operator.client.clone(), &namespace)
            .get_opt(name)
            .await
            .map_err(request("look for the Snapshot of a task"))?;
        if !known.as_ref().is_some_and(is_its) {
            orphans.push(name.clone());
        }
    }
    Ok(orphans)
}
