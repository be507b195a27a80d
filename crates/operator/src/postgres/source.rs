//! What a database is restored from: a Snapshot, a Snapshot and the WAL behind it, or an archive alone.

use jiff::Timestamp;
use kube::{Api, Client, ResourceExt as _};
use kubedb_api::{
    DormantDatabase, Postgres, PostgresSpec, Snapshot,
    archiver::{ArchiveLayout, ArchivePlace, PostgresWal, Recovery, RecoveryTarget},
    postgres::SnapshotSource,
    protocol::RestoreSource,
    retention::lineage,
    snapshot::SnapshotPhase,
    storage::SnapshotStorage,
};

use crate::context::{ReconcileError, request};

/// Why nothing can be restored yet, or ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// Whether waiting cannot help.
    pub is_final: bool,
    /// Why, in words.
    pub reason: String,
}

impl Unresolved {
    fn yet(reason: String) -> Self {
        Self {
            is_final: false,
            reason,
        }
    }

    fn ever(reason: String) -> Self {
        Self {
            is_final: true,
            reason,
        }
    }
}

/// The database that a Snapshot was taken of, as far as its archive goes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Origin {
    /// Nobody wants to know.
    #[default]
    Unasked,
    /// There is neither a database of the name nor the record of a paused one.
    Gone,
    /// There is one, and its WAL is not archived.
    Bare {
        /// Whether it is known to have the data that the Snapshot is of.
        is_same: bool,
    },
    /// Its WAL is archived.
    Archived {
        /// Where.
        storage: Box<SnapshotStorage>,
        /// Until when everything is; unknown of a database that does not run, or is another one.
        covered: Option<Timestamp>,
    },
}

/// What a database is made of, as the API has it now. Not from the caches: an operator of one namespace has no others in them.
#[derive(Clone, Debug, Default)]
pub struct Sought {
    /// The Snapshot of `init.snapshotSource`, if it is there.
    pub snapshot: Option<Snapshot>,
    /// The database that this Snapshot was taken of, where its archive is wanted.
    pub(crate) origin: Origin,
}

impl Sought {
    /// Asks the API.
    pub async fn seek(client: &Client, postgres: &Postgres) -> Result<Self, ReconcileError> {
        let Some(source) = snapshot_source(postgres) else {
            return Ok(Self::default());
        };
        let own = postgres.namespace();
        let namespace = source.namespace.clone().or(own).unwrap_or_default();
        let snapshot = Api::<Snapshot>::namespaced(client.clone(), &namespace)
            .get_opt(&source.name)
            .await
            .map_err(request("get the Snapshot to restore"))?;
        let origin = origin(client, postgres, snapshot.as_ref()).await?;
        Ok(Self { snapshot, origin })
    }
}

/// Looks for the archive behind a Snapshot that is to be replayed further.
async fn origin(
    client: &Client,
    postgres: &Postgres,
    snapshot: Option<&Snapshot>,
) -> Result<Origin, ReconcileError> {
    let is_begun = postgres
        .status
        .as_ref()
        .is_some_and(|status| status.bootstrap.is_some());
    let has_target = snapshot_source(postgres).is_some_and(|source| source.target.is_some());
    let Some(snapshot) = snapshot.filter(|_| has_target && !is_begun) else {
        return Ok(Origin::Unasked);
    };
    let (namespace, name) = (
        snapshot.namespace().unwrap_or_default(),
        &snapshot.spec.database_name,
    );
    let databases: Api<Postgres> = Api::namespaced(client.clone(), &namespace);
    let living = databases
        .get_opt(name)
        .await
        .map_err(request("get the database of the Snapshot to restore"))?;
    if let Some(living) = living {
        let theirs = snapshot.status.as_ref();
        let theirs = theirs.and_then(|status| status.result.as_ref());
        let theirs = theirs.map(|result| result.lineage.as_str());
        let is_same = theirs.is_some() && theirs == lineage(&living);
        let covered = is_same.then(|| living.covered_time()).flatten();
        return Ok(archived(&living.spec, is_same, covered));
    }
    let paused: Api<DormantDatabase> = Api::namespaced(client.clone(), &namespace);
    let paused = paused.get_opt(name).await.map_err(request(
        "get the paused database of the Snapshot to restore",
    ))?;
    let spec = paused.and_then(|paused| paused.spec.origin.spec.postgres);
    Ok(spec.map_or(Origin::Gone, |spec| archived(&spec, false, None)))
}

fn archived(spec: &PostgresSpec, is_same: bool, covered: Option<Timestamp>) -> Origin {
    let archiver = spec.archiver.as_ref();
    match archiver.and_then(|archiver| archiver.storage.clone()) {
        Some(storage) => Origin::Archived {
            storage: Box::new(storage),
            covered,
        },
        None => Origin::Bare { is_same },
    }
}

fn snapshot_source(postgres: &Postgres) -> Option<&SnapshotSource> {
    postgres.spec.init.as_ref()?.snapshot_source.as_ref()
}

/// What the database is restored from; an error says why it cannot be yet, or ever.
pub fn restore_source(
    postgres: &Postgres,
    sought: &Sought,
) -> Result<Option<RestoreSource>, Unresolved> {
    // Its data is there already.
    let resumed = postgres
        .status
        .as_ref()
        .and_then(|status| status.resumed.as_ref());
    if resumed.is_some_and(|resumed| resumed.begun) {
        return Ok(None);
    }
    let init = postgres.spec.init.as_ref();
    if let Some(wal) = init.and_then(|init| init.postgres_wal.as_ref()) {
        return archive_alone(postgres, wal).map(Some);
    }
    let Some(wanted) = snapshot_source(postgres) else {
        return Ok(None);
    };
    let snapshot = usable(postgres, wanted, sought)?;
    check_method(snapshot, wanted)?;
    let recovery = match &wanted.target {
        None => None,
        Some(target) => Some(behind(snapshot, target, &sought.origin)?),
    };
    let manifest = snapshot
        .status
        .as_ref()
        .and_then(|status| status.result.as_ref())
        .map(|result| result.manifest.clone());
    Ok(Some(RestoreSource {
        namespace: snapshot.namespace().unwrap_or_default(),
        database: snapshot.spec.database_name.clone(),
        snapshot: wanted.name.clone(),
        manifest: manifest.unwrap_or_default(),
        storage: snapshot.spec.storage.clone(),
        recovery,
        method: snapshot.spec.method,
        databases: wanted.databases.clone(),
    }))
}

/// The Snapshot, once it can be read.
fn usable<'a>(
    postgres: &Postgres,
    wanted: &SnapshotSource,
    sought: &'a Sought,
) -> Result<&'a Snapshot, Unresolved> {
    let name = &wanted.name;
    let Some(snapshot) = &sought.snapshot else {
        let reason = format!("Snapshot {name} to restore does not exist");
        return Err(Unresolved::yet(reason));
    };
    let (own, theirs) = (postgres.namespace(), snapshot.namespace());
    let is_allowed = own == theirs
        || snapshot
            .spec
            .allowed_namespaces
            .iter()
            .flatten()
            .any(|allowed| Some(allowed) == own.as_ref());
    if !is_allowed {
        return Err(Unresolved::ever(format!(
            "Snapshot {name} of namespace {} does not allow namespace {} (spec.allowedNamespaces)",
            theirs.unwrap_or_default(),
            own.unwrap_or_default()
        )));
    }
    if snapshot.metadata.deletion_timestamp.is_some() {
        let reason = format!("Snapshot {name} to restore is being deleted");
        return Err(Unresolved::yet(reason));
    }
    match snapshot.status.as_ref().and_then(|status| status.phase) {
        Some(SnapshotPhase::Succeeded) => Ok(snapshot),
        Some(SnapshotPhase::Failed) => Err(Unresolved::ever(format!(
            "Snapshot {name} to restore has failed"
        ))),
        _ => Err(Unresolved::yet(format!(
            "Snapshot {name} to restore is not finished"
        ))),
    }
}

/// The WAL behind a Snapshot, as far as it is wanted.
fn behind(
    snapshot: &Snapshot,
    target: &RecoveryTarget,
    origin: &Origin,
) -> Result<Recovery, Unresolved> {
    let (namespace, database) = (
        snapshot.namespace().unwrap_or_default(),
        snapshot.spec.database_name.clone(),
    );
    let name = snapshot.name_any();
    let way_out = "init.postgresWAL names an archive by itself";
    match origin {
        Origin::Archived { storage, covered } => Ok(Recovery {
            storage: (**storage).clone(),
            namespace,
            database,
            backup_name: None,
            covered_time: *covered,
            target: target.clone(),
            layout: None,
        }),
        Origin::Bare { is_same: true } => Err(Unresolved::ever(format!(
            "there is no WAL behind Snapshot {name}: Postgres {namespace}/{database} has no spec.archiver. Without init.snapshotSource.target the Snapshot itself is restored"
        ))),
        Origin::Bare { is_same: false } => Err(Unresolved::yet(format!(
            "nobody knows where WAL behind Snapshot {name} lies: the present Postgres {namespace}/{database} has no spec.archiver; {way_out}"
        ))),
        Origin::Gone | Origin::Unasked => Err(Unresolved::yet(format!(
            "nobody knows where WAL behind Snapshot {name} lies: Postgres {namespace}/{database} is gone, and so is any record of it; {way_out}"
        ))),
    }
}

/// An archive that names itself. Its Secret lies where the new database does.
fn archive_alone(postgres: &Postgres, wal: &PostgresWal) -> Result<RestoreSource, Unresolved> {
    let place = if wal.layout == Some(ArchiveLayout::WalG) {
        ArchivePlace {
            storage: wal.storage.clone(),
            namespace: String::new(),
            database: String::new(),
        }
    } else {
        wal.place().map_err(|error| {
            let field = error.field;
            Unresolved::ever(format!("spec.init.postgresWAL.{field} {error}"))
        })?
    };
    let recovery = Recovery {
        storage: place.storage.clone(),
        namespace: place.namespace,
        database: place.database.clone(),
        backup_name: wal.snapshot().map(str::to_owned),
        covered_time: None,
        target: wal
            .pitr
            .as_ref()
            .map(RecoveryTarget::from)
            .unwrap_or_default(),
        layout: wal.layout,
    };
    Ok(RestoreSource {
        namespace: postgres.namespace().unwrap_or_default(),
        database: place.database,
        snapshot: String::new(),
        manifest: String::new(),
        storage: place.storage,
        recovery: Some(recovery),
        method: None,
        databases: None,
    })
}

/// What is asked of a Snapshot must be what one of its method can give.
fn check_method(snapshot: &Snapshot, wanted: &SnapshotSource) -> Result<(), Unresolved> {
    let name = snapshot.name_any();
    if snapshot.spec.is_logical() && wanted.target.is_some() {
        return Err(Unresolved::ever(format!(
            "Snapshot {name} is logical, so no WAL can be replayed behind it: init.snapshotSource.target needs one of method Physical"
        )));
    }
    if !snapshot.spec.is_logical() && wanted.databases.is_some() {
        return Err(Unresolved::ever(format!(
            "Snapshot {name} is physical and comes back as a whole: init.snapshotSource.databases needs one of method Logical"
        )));
    }
    Ok(())
}

/// What is restored, for people.
#[must_use]
pub(super) fn told(source: &RestoreSource) -> String {
    let Some(recovery) = &source.recovery else {
        return format!("Snapshot: \"{}\"", source.snapshot);
    };
    let target = recovery.target.fields().read();
    let target = target.map_or_else(|error| error.to_string(), |target| target.to_string());
    let archive = if recovery.layout == Some(ArchiveLayout::WalG) {
        format!("wal-g in {}", recovery.storage.bucket_label())
    } else {
        format!("{}/{}", recovery.namespace, recovery.database)
    };
    if source.snapshot.is_empty() {
        format!("the archive of {archive}, up to {target}")
    } else {
        format!(
            "Snapshot: \"{}\", and the archive of {archive} up to {target}",
            source.snapshot
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn postgres(init: Value) -> Postgres {
        serde_json::from_value(json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres",
            "metadata": {"name": "new", "namespace": "demo"}, "spec": {"version": "15", "init": init},
        }))
        .unwrap()
    }

    fn snapshot() -> Snapshot {
        serde_json::from_value(json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot", "metadata": {"name": "one", "namespace": "demo"},
            "spec": {"databaseName": "pg", "gcs": {"bucket": "snapshots"}},
            "status": {"phase": "Succeeded"},
        }))
        .unwrap()
    }

    fn resolved(postgres: &Postgres, origin: Origin) -> Result<RestoreSource, Unresolved> {
        let sought = Sought {
            snapshot: Some(snapshot()),
            origin,
        };
        restore_source(postgres, &sought).map(Option::unwrap)
    }

    fn archive() -> SnapshotStorage {
        serde_json::from_value(
            json!({"storageSecretName": "s", "s3": {"bucket": "wal", "prefix": "p"}}),
        )
        .unwrap()
    }

    #[test]
    fn the_archive_behind_a_snapshot_is_that_of_its_database() {
        let wants = postgres(json!({"snapshotSource": {"name": "one", "target": {"xid": 700}}}));
        let source = resolved(
            &wants,
            Origin::Archived {
                storage: Box::new(archive()),
                covered: None,
            },
        )
        .unwrap();
        let recovery = source.recovery.clone().unwrap();
        assert_eq!(
            (source.snapshot.as_str(), source.database.as_str()),
            ("one", "pg")
        );
        assert_eq!(source.storage.bucket_label(), "gs:snapshots");
        assert_eq!(recovery.storage, archive());
        assert_eq!(
            (recovery.namespace.as_str(), recovery.database.as_str()),
            ("demo", "pg")
        );
        assert_eq!(
            told(&source),
            "Snapshot: \"one\", and the archive of demo/pg up to transaction 700"
        );
        // Without a target nobody asks for an archive.
        let plain = postgres(json!({"snapshotSource": {"name": "one"}}));
        let source = resolved(&plain, Origin::Unasked).unwrap();
        assert_eq!(
            (told(&source), source.recovery),
            ("Snapshot: \"one\"".to_owned(), None)
        );
    }

    #[test]
    fn a_database_without_an_archive_is_told_and_final_only_where_it_is_the_same() {
        let wants = postgres(json!({"snapshotSource": {"name": "one", "target": {}}}));
        for (origin, is_final, words) in [
            (
                Origin::Bare { is_same: true },
                true,
                "Postgres demo/pg has no spec.archiver. Without",
            ),
            (
                Origin::Bare { is_same: false },
                false,
                "the present Postgres demo/pg has no spec.archiver",
            ),
            (Origin::Gone, false, "Postgres demo/pg is gone"),
        ] {
            let error = resolved(&wants, origin).unwrap_err();
            assert!(error.reason.contains(words), "{}", error.reason);
            assert_eq!(error.is_final, is_final, "{words}");
        }
    }

    #[test]
    fn an_archive_names_itself() {
        let wal = json!({"postgresWAL": {"storageSecretName": "s", "s3": {"bucket": "wal", "prefix": "p/kubedb/old/pg/archive"},
            "backupName": "LATEST", "pitr": {"targetTime": "2019-01-07 08:30:00+00"}}});
        let source = restore_source(&postgres(wal), &Sought::default())
            .unwrap()
            .unwrap();
        let recovery = source.recovery.clone().unwrap();
        assert_eq!(
            (source.namespace.as_str(), source.database.as_str()),
            ("demo", "pg")
        );
        assert_eq!(
            (source.snapshot.as_str(), source.manifest.as_str()),
            ("", "")
        );
        assert_eq!(
            (&source.storage, &recovery.storage),
            (&archive(), &archive())
        );
        assert_eq!(
            (recovery.namespace.as_str(), recovery.backup_name.as_deref()),
            ("old", None)
        );
        assert_eq!(
            told(&source),
            "the archive of old/pg, up to time 2019-01-07T08:30:00Z"
        );
    }
}
