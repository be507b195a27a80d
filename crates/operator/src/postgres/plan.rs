//! Step 3: what to do and what to say, from what was found. Pure.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use kubedb_api::{
    Postgres, PostgresStatus,
    postgres::{Endpoints, PostgresPhase, StandbyMode},
    protocol::{InstancePhase, InstanceRole, InstanceStatus, RestoreSource},
    snapshot::SnapshotPhase,
};

use super::{
    dereference::{Found, auth_secret, key_of, replication_secret},
    schedule::{Scheduled, scheduled},
};
use crate::platform::DesiredDatabase;

/// Silence after which an instance counts as not ready: three heartbeats of ten seconds.
const SILENCE_LIMIT: SignedDuration = SignedDuration::from_secs(35);

/// What to do and what to say.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The workload.
    pub desired: DesiredDatabase,
    /// Make the superuser's Secret.
    pub make_auth_secret: bool,
    /// Make the replication role's Secret.
    pub make_replication_secret: bool,
    /// Set the annotation that says the database's initialisation is over.
    pub mark_initialized: bool,
    /// The schedule.
    pub schedule: Scheduled,
    /// The operator's part of the status.
    pub status: PostgresStatus,
    /// Instances whose reports are no longer wanted.
    pub forgotten: Vec<String>,
    /// When to look again if nothing happens before.
    pub next: Option<Timestamp>,
}

/// Plans.
#[must_use]
pub fn plan(postgres: &Postgres, found: &Found, now: Timestamp) -> Plan {
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
            .filter(|report| runs && report.ready && is_fresh(report, now))
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
    let source = restore_source(postgres, found);
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
        schedule_expression: schedule.state.expression.clone(),
        postgres_version: found
            .observed
            .as_ref()
            .and_then(|observed| observed.postgres_version.clone()),
        bootstrap: bootstrap.clone(),
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
    Plan {
        desired: DesiredDatabase {
            key: key_of(postgres),
            uid: postgres.uid().unwrap_or_default(),
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
            secrets: secrets(postgres, found, bootstrap.as_ref()),
        },
        make_auth_secret: !found.has_auth_secret && postgres.spec.database_secret.is_none(),
        make_replication_secret: !found.has_replication_secret,
        mark_initialized: is_running
            && bootstrap.is_some()
            && !postgres
                .annotations()
                .contains_key(kubedb_api::labels::INITIALIZED),
        next: wake_up(&schedule, old, now),
        schedule,
        status,
        forgotten: old
            .instances
            .keys()
            .filter(|instance| !instances.contains(instance))
            .cloned()
            .collect(),
    }
}

fn is_fresh(report: &InstanceStatus, now: Timestamp) -> bool {
    report
        .heartbeat_time
        .is_some_and(|heartbeat| now.duration_since(heartbeat) < SILENCE_LIMIT)
}

/// The next tick, or the moment at which a silent instance stops counting as ready.
fn wake_up(schedule: &Scheduled, old: &PostgresStatus, now: Timestamp) -> Option<Timestamp> {
    let silent = old
        .instances
        .values()
        .filter_map(|report| report.heartbeat_time?.checked_add(SILENCE_LIMIT).ok())
        .filter(|time| *time > now)
        .min();
    [schedule.state.next, silent].into_iter().flatten().min()
}

/// What the database is restored from; an error says why it cannot be yet, or ever.
fn restore_source(
    postgres: &Postgres,
    found: &Found,
) -> Result<Option<RestoreSource>, (bool, String)> {
    let Some(wanted) = postgres
        .spec
        .init
        .as_ref()
        .and_then(|init| init.snapshot_source.as_ref())
    else {
        return Ok(None);
    };
    let Some(snapshot) = &found.source else {
        return Err((
            false,
            format!("Snapshot {} to restore does not exist", wanted.name),
        ));
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
        return Err((
            true,
            format!(
                "Snapshot {} of namespace {} does not allow namespace {} (spec.allowedNamespaces)",
                wanted.name,
                theirs.unwrap_or_default(),
                own.unwrap_or_default()
            ),
        ));
    }
    let status = snapshot.status.as_ref();
    match status.and_then(|status| status.phase) {
        Some(SnapshotPhase::Succeeded) => {}
        Some(SnapshotPhase::Failed) => {
            return Err((
                true,
                format!("Snapshot {} to restore has failed", wanted.name),
            ));
        }
        _ => {
            return Err((
                false,
                format!("Snapshot {} to restore is not finished", wanted.name),
            ));
        }
    }
    let manifest = status
        .and_then(|status| status.result.as_ref())
        .map(|result| result.manifest.clone());
    Ok(Some(RestoreSource {
        namespace: theirs.unwrap_or_default(),
        database: snapshot.spec.database_name.clone(),
        snapshot: wanted.name.clone(),
        manifest: manifest.unwrap_or_default(),
        storage: snapshot.spec.storage.clone(),
    }))
}

fn phase(
    old: &PostgresStatus,
    found: &Found,
    source: &Result<Option<RestoreSource>, (bool, String)>,
    primary_ready: bool,
    ready: usize,
    wanted: usize,
) -> (PostgresPhase, Option<String>) {
    let was_running = old.phase == Some(PostgresPhase::Running);
    if was_running || old.bootstrap.is_some() {
        // Begun from its source; what becomes of the Snapshot no longer matters.
    } else if let Err((is_final, reason)) = source {
        let phase = if *is_final {
            PostgresPhase::Failed
        } else {
            PostgresPhase::Creating
        };
        return (phase, Some(reason.clone()));
    }
    let begins = found
        .holder
        .as_ref()
        .and_then(|holder| old.instances.get(holder));
    let reason = begins.and_then(|report| report.reason.clone());
    match begins.map(|report| report.phase) {
        Some(InstancePhase::Failed) => (PostgresPhase::Failed, reason),
        _ if primary_ready && (was_running || ready == wanted) => (PostgresPhase::Running, None),
        _ if was_running => {
            let reason = reason.unwrap_or_else(|| "its agent does not report".to_owned());
            (
                PostgresPhase::Running,
                Some(format!("the primary is not ready: {reason}")),
            )
        }
        Some(InstancePhase::Restoring) => (PostgresPhase::Initializing, reason),
        _ if primary_ready => (
            PostgresPhase::Creating,
            Some(format!("{ready} of {wanted} instances are ready")),
        ),
        _ => (PostgresPhase::Creating, reason),
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
    names.extend(
        schedule.and_then(|schedule| {
            Some((own.clone(), schedule.storage.storage_secret_name.clone()?))
        }),
    );
    names.extend(bootstrap.and_then(|source| {
        Some((
            source.namespace.clone(),
            source.storage.storage_secret_name.clone()?,
        ))
    }));
    for snapshot in &found.snapshots {
        names.extend(
            snapshot
                .spec
                .storage
                .storage_secret_name
                .clone()
                .map(|name| (own.clone(), name)),
        );
    }
    if let Some(scripts) = postgres
        .spec
        .init
        .as_ref()
        .and_then(|init| init.script_source.as_ref())
    {
        names.extend(
            scripts
                .config_map
                .as_ref()
                .map(|map| (own.clone(), map.name.clone())),
        );
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
