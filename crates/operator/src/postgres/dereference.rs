//! Step 1: everything a plan needs, read once.

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use kube::{Api, ResourceExt as _, api::ListParams};
use kubedb_api::{Postgres, PostgresVersion, Snapshot};

use crate::{
    context::{Context, ReconcileError, request, selector},
    platform::{DatabaseKey, ObservedDatabase},
};

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The catalogue's entry for `spec.version`.
    pub version: Option<PostgresVersion>,
    /// Whether the superuser's Secret exists.
    pub has_auth_secret: bool,
    /// Whether the replication role's Secret exists.
    pub has_replication_secret: bool,
    /// Snapshots of this database.
    pub snapshots: Vec<Snapshot>,
    /// The Snapshot of `init.snapshotSource`.
    pub source: Option<Snapshot>,
    /// Holder of the database's Lease.
    pub holder: Option<String>,
    /// What the platform sees.
    pub observed: Option<ObservedDatabase>,
}

/// Name of the superuser's Secret.
#[must_use]
pub fn auth_secret(postgres: &Postgres) -> String {
    postgres
        .spec
        .database_secret
        .as_ref()
        .and_then(|secret| secret.secret_name.clone())
        .unwrap_or_else(|| format!("{}-auth", postgres.name_any()))
}

/// Name of the replication role's Secret.
#[must_use]
pub fn replication_secret(postgres: &Postgres) -> String {
    format!("{}-replication", postgres.name_any())
}

/// Which database.
#[must_use]
pub fn key_of(postgres: &Postgres) -> DatabaseKey {
    DatabaseKey {
        namespace: postgres.namespace().unwrap_or_default(),
        name: postgres.name_any(),
    }
}

/// Reads it.
pub(super) async fn dereference(
    context: &Context,
    postgres: &Postgres,
) -> Result<Found, ReconcileError> {
    let (client, key) = (&context.client, key_of(postgres));
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &key.namespace);
    let exists = async |name: String| {
        let found = secrets
            .get_opt(&name)
            .await
            .map_err(request("get a Secret"))?;
        Ok::<_, ReconcileError>(found.is_some())
    };
    let versions: Api<PostgresVersion> = Api::all(client.clone());
    let snapshots: Api<Snapshot> = Api::namespaced(client.clone(), &key.namespace);
    let leases: Api<Lease> = Api::namespaced(client.clone(), &key.namespace);
    let of_database = ListParams::default().labels(&selector(&key.name));
    let source = match postgres
        .spec
        .init
        .as_ref()
        .and_then(|init| init.snapshot_source.as_ref())
    {
        None => None,
        Some(source) => {
            let namespace = source.namespace.as_deref().unwrap_or(&key.namespace);
            Api::<Snapshot>::namespaced(client.clone(), namespace)
                .get_opt(&source.name)
                .await
                .map_err(request("get the Snapshot to restore"))?
        }
    };
    Ok(Found {
        version: versions
            .get_opt(&postgres.spec.version.text())
            .await
            .map_err(request("get the PostgresVersion"))?,
        has_auth_secret: exists(auth_secret(postgres)).await?,
        has_replication_secret: exists(replication_secret(postgres)).await?,
        snapshots: snapshots
            .list(&of_database)
            .await
            .map_err(request("list Snapshots"))?
            .items,
        source,
        holder: leases
            .get_opt(&key.name)
            .await
            .map_err(request("get the Lease"))?
            .and_then(|lease| lease.spec?.holder_identity),
        observed: context.platform.observe(&key).await?,
    })
}
