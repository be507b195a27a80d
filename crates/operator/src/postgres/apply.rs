//! Step 4: makes it so. Every part may be done twice.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt as _,
    api::{ObjectMeta, PostParams},
};
use kubedb_api::{
    Postgres, Snapshot, SnapshotSpec, labels,
    postgres::BackupSchedule,
    reasons::{component, event},
    storage::SnapshotStorage,
    verification::{VerificationRequest, annotation},
};
use kubedb_core::{
    names::{scheduled_snapshot, scheduled_snapshot_beside},
    turns::jitter,
};
use serde_json::json;

use super::{
    dereference::{auth_secret, key_of, replication_secret},
    plan::Plan,
    schedule::is_of_tick,
};
use crate::{
    context::{ReconcileError, request},
    events::{Note, publish},
    guarded::patch_main,
    operator::Operator,
    platform::PlatformError,
};

/// Names tried for one tick before it counts as a failure; the second is nobody's by chance.
const NAMES_MAX: u32 = 3;

/// How a plan was applied.
pub(super) enum Applied {
    /// All of it.
    Whole,
    /// Not all of it: somebody refuses a part, and it is tried again.
    Refused(String),
    /// The database cannot run, for good.
    Never(String),
}

/// Applies a plan, but for its schedule. Returns the object as it is then.
pub(super) async fn apply(
    operator: &Operator,
    postgres: &Postgres,
    plan: &Plan,
) -> Result<(Postgres, Applied), ReconcileError> {
    let mut current = postgres.clone();
    if plan.make_auth_secret {
        let name = auth_secret(postgres);
        make_secret(operator, postgres, name, "POSTGRES_PASSWORD").await?;
    }
    if plan.make_replication_secret {
        let name = replication_secret(postgres);
        make_secret(operator, postgres, name, "REPLICATION_PASSWORD").await?;
    }
    if postgres.spec.database_secret.is_none() {
        let patch =
            json!({ "spec": { "databaseSecret": { "secretName": auth_secret(postgres) } } });
        current = patch_main(operator, &current, patch, "write the Secret's name back").await?;
    }
    match operator.platform.apply(&plan.desired).await {
        Err(error @ PlatformError::ResolveVersion { .. }) => {
            return Ok((current, Applied::Never(error.to_string())));
        }
        Err(error @ PlatformError::Refuse { .. }) => {
            return Ok((current, Applied::Refused(error.to_string())));
        }
        other => other?,
    }
    if plan.mark_initialized {
        let patch = json!({ "metadata": { "annotations": { labels::INITIALIZED: "" } } });
        let action = "mark the database as initialized";
        current = patch_main(operator, &current, patch, action).await?;
    }
    Ok((current, Applied::Whole))
}

/// A password of 16 characters, 96 random bits. The Secret outlives the database, as its data does.
async fn make_secret(
    operator: &Operator,
    postgres: &Postgres,
    name: String,
    key: &str,
) -> Result<(), ReconcileError> {
    let password = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 12]>());
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name),
            labels: Some(database_labels(postgres)),
            ..ObjectMeta::default()
        },
        string_data: Some(BTreeMap::from([(key.to_owned(), password)])),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    };
    let api: Api<Secret> = Api::namespaced(
        operator.client.clone(),
        &postgres.namespace().unwrap_or_default(),
    );
    match api.create(&PostParams::default(), &secret).await {
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        other => other.map(drop).map_err(request("create a Secret")),
    }
}

fn database_labels(postgres: &Postgres) -> BTreeMap<String, String> {
    BTreeMap::from([
        (labels::KIND.to_owned(), "Postgres".to_owned()),
        (labels::NAME.to_owned(), postgres.name_any()),
    ])
}

/// A Snapshot to be made.
pub(super) struct Making<'a> {
    /// The time that it is made for. It is in its name and in an annotation, so making it twice makes one.
    pub(super) tick: Timestamp,
    /// Where to.
    pub(super) storage: &'a SnapshotStorage,
    /// How, where that is not as it is by itself.
    pub(super) schedule: Option<&'a BackupSchedule>,
    /// It starts no earlier.
    pub(super) start: Option<Timestamp>,
}

/// Makes the Snapshot of a tick of the schedule. Tells whether the API has it, now or since before; if not, there will be none.
pub(super) async fn make_scheduled(
    operator: &Operator,
    postgres: &Postgres,
    tick: Timestamp,
    is_first: bool,
    now: Timestamp,
) -> Result<bool, ReconcileError> {
    let Some(schedule) = &postgres.spec.backup_schedule else {
        return Ok(false);
    };
    let start = if is_first {
        None
    } else {
        start_after(operator, postgres, now)
    };
    let making = Making {
        tick,
        storage: &schedule.storage,
        schedule: Some(schedule),
        start,
    };
    make_snapshot(operator, postgres, &making, now).await
}

/// Makes the first Snapshot of an archive, into its storage, and says why.
pub(super) async fn make_first(
    operator: &Operator,
    postgres: &Postgres,
    tick: Timestamp,
    now: Timestamp,
) -> Result<(), ReconcileError> {
    let archiver = postgres.spec.archiver.as_ref();
    let Some(storage) = archiver.and_then(|archiver| archiver.storage.as_ref()) else {
        return Ok(());
    };
    let name = scheduled_snapshot(&postgres.name_any(), tick);
    let message = format!(
        "There is no Snapshot that the archive could be replayed from: Snapshot {name} is made"
    );
    let note = Note::normal(component::POSTGRES_OPERATOR, event::FIRST_SNAPSHOT, message);
    publish(&operator.client, postgres, &note.of(tick.to_string()), now).await;
    let making = Making {
        tick,
        storage,
        // WAL is replayed behind no logical one.
        schedule: None,
        start: None,
    };
    make_snapshot(operator, postgres, &making, now)
        .await
        .map(drop)
}

async fn make_snapshot(
    operator: &Operator,
    postgres: &Postgres,
    making: &Making<'_>,
    now: Timestamp,
) -> Result<bool, ReconcileError> {
    let namespace = postgres.namespace().unwrap_or_default();
    let api: Api<Snapshot> = Api::namespaced(operator.client.clone(), &namespace);
    let tick = making.tick;
    for taken in 0..NAMES_MAX {
        let snapshot = snapshot_of(postgres, making, taken);
        let error = match api.create(&PostParams::default(), &snapshot).await {
            Ok(_) => return Ok(true),
            Err(error) => error,
        };
        if !matches!(&error, kube::Error::Api(status) if status.reason == "AlreadyExists") {
            let message = format!("Failed to create Snapshot. Reason: {error}");
            let note = Note::warning(component::CRON_CONTROLLER, event::FAILED, message)
                .of(tick.to_string());
            publish(&operator.client, postgres, &note, now).await;
            return Err(request("create a Snapshot")(error));
        }
        let known = api
            .get_opt(&snapshot.name_any())
            .await
            .map_err(request("get the Snapshot of a tick"))?;
        // One that was deleted meanwhile, on its way out or gone, was made, too.
        let Some(known) = known else {
            return Ok(false);
        };
        if known.spec.database_name == postgres.name_any() && is_of_tick(&known, tick) {
            return Ok(true);
        }
    }
    let message = "Failed to create Snapshot. Reason: its names are taken";
    let note = Note::warning(component::CRON_CONTROLLER, event::FAILED, message);
    publish(&operator.client, postgres, &note.of(tick.to_string()), now).await;
    Ok(false)
}

/// None where all may start at once.
fn start_after(operator: &Operator, postgres: &Postgres, now: Timestamp) -> Option<Timestamp> {
    let schedules = operator.databases.state();
    let schedules = schedules
        .iter()
        .filter(|database| database.spec.backup_schedule.is_some())
        .count();
    let key = key_of(postgres);
    let database = format!("{}/{}", key.namespace, key.name);
    let jitter = jitter(&database, schedules, operator.seats.limits());
    (!jitter.is_zero()).then(|| now.checked_add(jitter).unwrap_or(now))
}

fn snapshot_of(postgres: &Postgres, making: &Making<'_>, taken: u32) -> Snapshot {
    let database = postgres.name_any();
    let tick = making.tick;
    let name = match taken {
        0 => scheduled_snapshot(&database, tick),
        _ => scheduled_snapshot_beside(&database, tick, taken),
    };
    let mut snapshot = Snapshot::new(
        &name,
        SnapshotSpec {
            database_name: database,
            storage: making.storage.clone(),
            resources: making
                .schedule
                .and_then(|how| how.resources.clone())
                .map(Box::new),
            max_rate: making.schedule.and_then(|how| how.max_rate.clone()),
            method: making.schedule.and_then(|how| how.method),
            target: making.schedule.and_then(|how| how.target),
            ..SnapshotSpec::default()
        },
    );
    snapshot.metadata.labels = Some(database_labels(postgres));
    // From the first moment on, so that it does not go unseen.
    snapshot.metadata.finalizers = Some(vec![labels::FINALIZER.to_owned()]);
    let start = making.start;
    let start = start.map(|start| (labels::START_AFTER.to_owned(), start.to_string()));
    let schedule = postgres.spec.backup_schedule.as_ref();
    let verify = schedule.and_then(|schedule| schedule.verify.clone());
    let verify = verify.map(|wanted| {
        let request = VerificationRequest {
            level: wanted.level,
            query: wanted.query,
            database: wanted.database,
            requested: None,
        };
        (labels::VERIFY.to_owned(), annotation(&request))
    });
    let annotations = [(labels::TICK.to_owned(), tick.to_string())];
    let annotations = annotations.into_iter().chain(start).chain(verify);
    snapshot.metadata.annotations = Some(annotations.collect());
    snapshot
}
