//! Step 3: what to do and what to say, from what was found. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::ResourceExt as _;
use kubedb_api::{
    Postgres, PostgresStatus,
    pod_template::PodMetadata,
    postgres::{Endpoints, PostgresPhase, ScriptSource, StandbyMode},
    protocol::{InstancePhase, InstanceRole, RestoreSource, TaskPhase},
    storage::{LocalStorage, SnapshotStorage},
    summary::summary,
};

use super::{
    archive,
    dereference::{Found, auth_secret, key_of, replication_secret},
    first::{First, first},
    kept_wal::keep_wal_from,
    monitor,
    schedule::{Scheduled, scheduled},
    source::{Unresolved, restore_source},
};
use crate::platform::{DesiredContainer, DesiredDatabase};

/// User of PostgreSQL in Debian's images, on which the official ones are built.
const DEBIAN_USER: i64 = 999;

/// What to do and what to say.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// The workload.
    pub(crate) desired: DesiredDatabase,
    /// Make the superuser's Secret.
    pub(crate) make_auth_secret: bool,
    /// Make the replication role's Secret.
    pub(crate) make_replication_secret: bool,
    /// Set the annotation that says the database's initialisation is over.
    pub(crate) mark_initialized: bool,
    /// The schedule.
    pub(crate) schedule: Scheduled,
    /// The first Snapshot of an archive.
    pub(crate) first: First,
    /// The operator's part of the status.
    pub(crate) status: PostgresStatus,
    /// Instances whose reports are no longer wanted.
    pub(crate) forgotten: Vec<String>,
    /// Reports of tasks, by instance and Snapshot, that nobody takes away.
    pub(crate) stale_reports: Vec<(String, String)>,
    /// Tasks whose Snapshot is gone.
    pub(crate) orphans: Vec<String>,
    /// When to look again if nothing happens before.
    pub(crate) next: Option<Timestamp>,
}

/// Plans.
#[must_use]
pub(crate) fn plan(postgres: &Postgres, found: &Found, now: Timestamp) -> Plan {
    let empty = PostgresStatus::default();
    let old = postgres.status.as_ref().unwrap_or(&empty);
    let name = postgres.name_any();
    let replicas = u32::try_from(postgres.spec.replicas.unwrap_or(1)).unwrap_or(1);
    let instances: Vec<String> = (0..replicas)
        .map(|ordinal| format!("{name}-{ordinal}"))
        .collect();
    let ready = |instance: &String| {
        let runs = found
            .observed
            .as_ref()
            .and_then(|observed| observed.instances.get(instance))
            .is_some_and(|instance| instance.running);
        old.instances
            .get(instance)
            .filter(|report| runs && report.ready && found.alive.contains_key(instance))
    };
    let is_hot = postgres.spec.standby_mode == Some(StandbyMode::Hot);
    let standbys: Vec<String> = instances
        .iter()
        .filter(|instance| {
            is_hot
                && ready(instance).is_some_and(|report| report.role == Some(InstanceRole::Standby))
        })
        .cloned()
        .collect();
    let ready_count = instances
        .iter()
        .filter(|instance| ready(instance).is_some())
        .count();
    let primary_ready = found
        .holder
        .as_ref()
        .is_some_and(|holder| ready(holder).is_some());
    let source = restore_source(postgres, &found.sought);
    let (phase, reason) = phase(
        old,
        found,
        &source,
        primary_ready,
        ready_count,
        instances.len(),
    );
    let is_running = phase == PostgresPhase::Running && primary_ready;
    let schedule = scheduled(postgres, &found.snapshots, is_running, now);
    let first = first(postgres, &found.snapshots, &schedule, is_running, now);
    let (earliest, latest) = archive::window(postgres, found);
    let bootstrap = old.bootstrap.clone().or(source.ok().flatten());
    let mut status = PostgresStatus {
        phase: Some(phase),
        reason,
        creation_time: old.creation_time.or(Some(now)),
        observed_generation: postgres.metadata.generation,
        conditions: Vec::new(),
        primary: found.holder.clone(),
        endpoints: found.observed.as_ref().map(|observed| Endpoints {
            primary: observed.primary_endpoint.clone(),
            standbys: observed.standbys_endpoint.iter().cloned().collect(),
        }),
        ready_replicas: i32::try_from(ready_count).ok(),
        last_schedule_time: schedule.state.last,
        next_schedule_time: schedule.state.next,
        pending_schedule_time: schedule.make,
        schedule_expression: schedule.state.expression.clone(),
        first_snapshot: first.status.clone(),
        earliest_restorable_time: earliest,
        latest_restorable_time: latest,
        snapshots: Some(summary(&found.snapshots)),
        postgres_version: postgres_version(old, found),
        bootstrap: bootstrap.clone(),
        resumed: old.resumed.clone(),
        keep_wal_from: postgres
            .spec
            .archiver
            .as_ref()
            .and_then(|_| keep_wal_from(postgres, &found.snapshots)),
        tasks: BTreeMap::new(),
        instances: BTreeMap::new(),
    };
    status.conditions = super::conditions::conditions(
        postgres,
        old,
        &status,
        &schedule,
        &found.snapshots,
        primary_ready,
        now,
    );
    let unfinished = bootstrap
        .as_ref()
        .filter(|_| phase != PostgresPhase::Running);
    let archiving = archive::condition(postgres, found, primary_ready, now);
    status.conditions.extend(archiving);
    let monitored = monitor::condition(postgres, found, now);
    status.conditions.extend(monitored);
    Plan {
        desired: DesiredDatabase {
            key: key_of(postgres),
            uid: postgres.uid().unwrap_or_default(),
            data_uid: postgres.kept_data().uid,
            version: found
                .version
                .as_ref()
                .map(|version| version.spec.version.clone())
                .unwrap_or_default(),
            bin_directory: found
                .version
                .as_ref()
                .and_then(|version| version.spec.bin_directory.clone()),
            replicas,
            primary: found.holder.clone(),
            standbys,
            secrets: secrets(postgres, found, unfinished),
            config_maps: config_maps(postgres),
            has_lease: found.has_lease,
            monitor: postgres.spec.monitor.clone(),
            volumes: volumes(postgres, old, unfinished),
            container: container(postgres, found),
        },
        make_auth_secret: !found.has_auth_secret && postgres.spec.database_secret.is_none(),
        make_replication_secret: !found.has_replication_secret,
        mark_initialized: is_running
            && bootstrap.is_some()
            && !postgres
                .annotations()
                .contains_key(kubedb_api::labels::INITIALIZED),
        next: wake_up(&schedule, &first, found, now),
        stale_reports: stale_reports(old),
        orphans: found.orphans.clone(),
        schedule,
        first,
        status,
        forgotten: old
            .instances
            .keys()
            .filter(|instance| !instances.contains(instance))
            .cloned()
            .collect(),
    }
}

/// What the platform runs, else what the primary says of itself.
fn postgres_version(old: &PostgresStatus, found: &Found) -> Option<String> {
    let platform = found.observed.as_ref();
    let platform = platform.and_then(|observed| observed.postgres_version.clone());
    let primary = found.holder.as_ref();
    let primary = primary.and_then(|holder| old.instances.get(holder));
    platform
        .or_else(|| primary?.postgres_version.clone())
        .or_else(|| old.postgres_version.clone())
}

/// The next tick, the next try of a first Snapshot, or the moment at which an instance that says nothing stops counting as alive. What is past already waits
/// for something to happen.
fn wake_up(
    schedule: &Scheduled,
    first: &First,
    found: &Found,
    now: Timestamp,
) -> Option<Timestamp> {
    let silent = found.alive.values().min();
    let silent = silent.and_then(|left| now.checked_add(*left).ok());
    let tick = schedule.state.next.filter(|tick| *tick > now);
    [tick, silent, first.again].into_iter().flatten().min()
}

/// Reports of tasks that the operator took back and that the agent's present session knows nothing of.
fn stale_reports(status: &PostgresStatus) -> Vec<(String, String)> {
    let reports = status.instances.iter().flat_map(|(instance, report)| {
        report
            .tasks
            .iter()
            .filter(|(name, task)| {
                let is_over = task.phase != TaskPhase::Running || task.session != report.session;
                is_over && !status.tasks.contains_key(*name)
            })
            .map(|(name, _)| (instance.clone(), name.clone()))
    });
    reports.collect()
}

fn phase(
    old: &PostgresStatus,
    found: &Found,
    source: &Result<Option<RestoreSource>, Unresolved>,
    primary_ready: bool,
    ready: usize,
    wanted: usize,
) -> (PostgresPhase, Option<String>) {
    let was_running = old.phase == Some(PostgresPhase::Running);
    if was_running || old.bootstrap.is_some() {
        // Begun from its source; what becomes of the Snapshot no longer matters.
    } else if let Err(Unresolved { is_final, reason }) = source {
        let phase = if *is_final {
            PostgresPhase::Failed
        } else {
            PostgresPhase::Creating
        };
        return (phase, Some(reason.clone()));
    }
    // The first of a resumed database takes no Lease as long as its data is missing, and says so.
    let first = old
        .resumed
        .as_ref()
        .and_then(|_| old.instances.keys().next());
    let begins = found
        .holder
        .as_ref()
        .or(first)
        .and_then(|holder| old.instances.get(holder));
    let reason = begins.and_then(|report| report.reason.clone());
    // An instance that does not run says nothing itself.
    let unsaid = || {
        let instances = found.observed.as_ref()?.instances.values();
        instances
            .filter_map(|instance| instance.reason.clone())
            .next()
    };
    match begins.map(|report| report.phase) {
        Some(InstancePhase::Failed) => (PostgresPhase::Failed, reason),
        _ if primary_ready && (was_running || ready == wanted) => (PostgresPhase::Running, None),
        _ if was_running => {
            let reason = unsaid().or(reason);
            let reason = reason.unwrap_or_else(|| "its agent does not report".to_owned());
            (
                PostgresPhase::Running,
                Some(format!("the primary is not ready: {reason}")),
            )
        }
        Some(InstancePhase::Restoring) => (PostgresPhase::Initializing, reason),
        _ if primary_ready => {
            let count = format!("{ready} of {wanted} instances are ready");
            let told = unsaid().map_or_else(|| count.clone(), |why| format!("{count}: {why}"));
            (PostgresPhase::Creating, Some(told))
        }
        _ => (PostgresPhase::Creating, unsaid().or(reason)),
    }
}

fn scripts(postgres: &Postgres) -> Option<&ScriptSource> {
    postgres.spec.init.as_ref()?.script_source.as_ref()
}

/// ConfigMaps that this database's agents may read.
fn config_maps(postgres: &Postgres) -> Vec<String> {
    let map = scripts(postgres).and_then(|scripts| scripts.config_map.as_ref());
    map.map(|map| map.name.clone()).into_iter().collect()
}

/// What the containers of the database are made of.
fn container(postgres: &Postgres, found: &Found) -> DesiredContainer {
    let version = found.version.as_ref().map(|version| &version.spec);
    let user = version.and_then(|version| version.run_as_user);
    let user = user.unwrap_or(DEBIAN_USER);
    let group = version.and_then(|version| version.fs_group);
    // What is ours is not the user's to hand on, and what an applier keeps there is as large as the object.
    let theirs = |map: &BTreeMap<String, String>| {
        let foreign = |key: &str| {
            let domain = key.split_once('/').map_or("", |(domain, _)| domain);
            domain != "kubedb.com"
                && domain != "postgres.kubedb.com"
                && domain != "kubectl.kubernetes.io"
        };
        let theirs = map.iter().filter(|(key, _)| foreign(key));
        theirs
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    let template = postgres.spec.pod_template.as_ref();
    let template = template.and_then(|template| template.metadata.as_ref());
    let with = |mut map: BTreeMap<String, String>, more: fn(&PodMetadata) -> Option<&_>| {
        let more: Option<&BTreeMap<String, String>> = template.and_then(more);
        map.extend(more.cloned().unwrap_or_default());
        map
    };
    DesiredContainer {
        image: version
            .map(|version| version.db.image.clone())
            .unwrap_or_default(),
        user,
        group: group.unwrap_or(user),
        volume: postgres.spec.storage.clone().unwrap_or_default(),
        labels: with(theirs(postgres.labels()), |template| {
            template.labels.as_ref()
        }),
        annotations: with(theirs(postgres.annotations()), |template| {
            template.annotations.as_ref()
        }),
        pods: postgres.spec.pods(),
    }
}

/// Secrets that this database's agents may read.
fn secrets(
    postgres: &Postgres,
    found: &Found,
    bootstrap: Option<&RestoreSource>,
) -> Vec<(String, String)> {
    let own = postgres.namespace().unwrap_or_default();
    let mut names = vec![
        (own.clone(), auth_secret(postgres)),
        (own.clone(), replication_secret(postgres)),
    ];
    let schedule = postgres.spec.backup_schedule.as_ref();
    let archiver = postgres.spec.archiver.as_ref();
    let stores = [
        schedule.map(|schedule| &schedule.storage),
        archiver.and_then(|archiver| archiver.storage.as_ref()),
    ];
    let snapshots = found.snapshots.iter();
    let snapshots = snapshots.map(|snapshot| &snapshot.spec.storage);
    let stores = stores.into_iter().flatten().chain(snapshots);
    let used = stores.flat_map(SnapshotStorage::secrets);
    names.extend(used.map(|name| (own.clone(), name.clone())));
    if let Some(source) = bootstrap {
        let recovery = source.recovery.as_ref();
        let storages = [
            Some(&source.storage),
            recovery.map(|recovery| &recovery.storage),
        ];
        let used = storages
            .into_iter()
            .flatten()
            .flat_map(SnapshotStorage::secrets);
        names.extend(used.map(|name| (source.namespace.clone(), name.clone())));
    }
    if let Some(scripts) = scripts(postgres) {
        names.extend(
            scripts
                .secret
                .as_ref()
                .and_then(|secret| Some((own.clone(), secret.secret_name.clone()?))),
        );
    }
    names.sort();
    names.dedup();
    names
}

/// Volumes that its agents reach for: always that of its archive, the others while something is done with them.
fn volumes(
    postgres: &Postgres,
    status: &PostgresStatus,
    bootstrap: Option<&RestoreSource>,
) -> Vec<LocalStorage> {
    let archiver = postgres.spec.archiver.as_ref();
    let archive = archiver.and_then(|archiver| archiver.storage.as_ref());
    let tasks = status.tasks.values().map(|task| &task.storage);
    // No pod mounts a claim of another namespace.
    let own = postgres.namespace();
    let source = bootstrap.filter(|source| Some(&source.namespace) == own.as_ref());
    let recovery = source.and_then(|source| source.recovery.as_ref());
    let sources = source.map(|source| &source.storage).into_iter();
    let sources = sources.chain(recovery.map(|recovery| &recovery.storage));
    let used = archive.into_iter().chain(tasks).chain(sources);
    let mut volumes = Vec::new();
    for local in used.filter_map(|storage| storage.local.as_deref()) {
        if !volumes.contains(local) {
            volumes.push(local.clone());
        }
    }
    volumes
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn named(spec: Value, bootstrap: &Value) -> Vec<String> {
        let postgres: Postgres = serde_json::from_value(json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "metadata": {"name": "pg", "namespace": "demo"},
            "spec": spec,
        }))
        .unwrap();
        let bootstrap: Option<RestoreSource> = serde_json::from_value(bootstrap.clone()).unwrap();
        let named = secrets(&postgres, &Found::default(), bootstrap.as_ref());
        let named = named.into_iter();
        named
            .map(|(namespace, name)| format!("{namespace}/{name}"))
            .collect()
    }

    #[test]
    fn volumes_are_asked_for_while_something_is_done_with_them() {
        let local = |path: &str| json!({"local": {"mountPath": path, "persistentVolumeClaim": {"claimName": "c"}}});
        let asked = |spec: Value, status: Value, bootstrap: Value| {
            let postgres: Postgres = serde_json::from_value(json!({
                "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres",
                "metadata": {"name": "pg", "namespace": "demo"}, "spec": spec, "status": status,
            }))
            .unwrap();
            let bootstrap: Option<RestoreSource> = serde_json::from_value(bootstrap).unwrap();
            let status = postgres.status.clone().unwrap_or_default();
            let volumes = volumes(&postgres, &status, bootstrap.as_ref()).into_iter();
            volumes
                .filter_map(|local| local.mount_path)
                .collect::<Vec<_>>()
        };
        let plain = json!({"version": "15", "backupSchedule": {"cronExpression": "@daily", "local": {"mountPath": "/s"}}});
        assert!(asked(plain.clone(), json!({}), Value::Null).is_empty());
        let task = json!({"action": "Backup", "instance": "pg-0", "attempt": 1, "snapshotUid": "u", "storage": local("/s")});
        let status = json!({"tasks": {"a": task, "b": task}});
        assert_eq!(asked(plain.clone(), status, Value::Null), ["/s"]);
        let archived = json!({"version": "15", "archiver": {"storage": local("/wal")}});
        assert_eq!(asked(archived, json!({}), Value::Null), ["/wal"]);
        let mut source = json!({"namespace": "demo", "database": "old", "storage": local("/s"),
            "recovery": {"namespace": "demo", "database": "old", "storage": local("/wal")}});
        assert_eq!(
            asked(plain.clone(), json!({}), source.clone()),
            ["/s", "/wal"]
        );
        source["namespace"] = json!("prod");
        assert!(asked(plain, json!({}), source).is_empty());
    }

    #[test]
    fn agents_read_the_secret_of_their_archive_and_of_the_one_they_recover_from() {
        let archiver = json!({"storage": {"storageSecretName": "wal", "s3": {"bucket": "b"}}});
        let spec = json!({"version": "15", "archiver": archiver});
        let own = ["demo/pg-auth", "demo/pg-replication"];
        assert_eq!(named(json!({"version": "15"}), &Value::Null), own);
        assert_eq!(
            named(spec.clone(), &Value::Null),
            [own[0], own[1], "demo/wal"]
        );
        let bootstrap = json!({"namespace": "prod", "database": "old", "storage": {"storageSecretName": "snapshots"},
            "recovery": {"namespace": "prod", "database": "old", "storage": {"storageSecretName": "archive"}}});
        let all = [own[0], own[1], "demo/wal", "prod/archive", "prod/snapshots"];
        assert_eq!(named(spec, &bootstrap), all);
        let schedule = json!({"cronExpression": "@daily", "gcs": {"bucket": "b"}, "encryption": {"secretName": "identity"}});
        let spec = json!({"version": "15", "backupSchedule": schedule});
        let bootstrap = json!({"namespace": "prod", "database": "old",
            "storage": {"gcs": {"bucket": "b"}, "encryption": {"secretName": "old-identity"}}});
        let all = ["demo/identity", own[0], own[1], "prod/old-identity"];
        assert_eq!(named(spec, &bootstrap), all);
    }
}
