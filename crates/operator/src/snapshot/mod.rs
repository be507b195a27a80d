//! The controller of Snapshots: the only writer of their status.
//!
//! Every write carries the version of the object that it was decided on, and every decision follows from objects alone, so a
//! crash between two writes is made good by the next reconcile. The label of a running Snapshot is set first and taken away
//! last: as long as a Snapshot that does not run has it, something is left to clean up.

mod deletion;
mod steps;
mod verification;
mod view;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::{controller::Action, reflector::ObjectRef},
};
use kubedb_api::{
    Postgres, Snapshot, admission, labels, reasons::text, snapshot::SnapshotPhase,
    validate::validate_snapshot, verification::Verification,
};
use kubedb_core::{
    snapshot::{SILENCE_LIMIT, SnapshotAction, SnapshotDecision, Stage, decide, decision},
    turns::Refusal,
};
use serde_json::{Value, json};

use self::view::{Found, task_status, view};
use crate::{
    context::{self, ReconcileError, request},
    events::{Note, publish},
    guarded::{self, has_finalizer, set_finalizer},
    operator::Operator,
    seats::{Seat, Taken},
};

pub(crate) use self::verification::LIMITS as VERIFICATIONS;

/// Whether a Snapshot has ended, and nothing is left to clean up after that.
pub(crate) fn is_over(snapshot: &Snapshot) -> bool {
    let phase = snapshot.status.as_ref().and_then(|status| status.phase);
    matches!(
        phase,
        Some(SnapshotPhase::Succeeded | SnapshotPhase::Failed)
    ) && snapshot.metadata.deletion_timestamp.is_none()
        && !has_label(snapshot)
}

/// Whether an instance works on it, or verifies it.
pub(crate) fn is_in_work(snapshot: &Snapshot) -> bool {
    runs(snapshot) || view::is_verifying(snapshot)
}

fn runs(snapshot: &Snapshot) -> bool {
    let status = snapshot.status.as_ref();
    status.is_some_and(|status| status.phase == Some(SnapshotPhase::Running))
}

/// One reconcile of one Snapshot.
pub(crate) async fn reconcile(
    snapshot: Arc<Snapshot>,
    operator: Arc<Operator>,
) -> Result<Action, ReconcileError> {
    let snapshot = match guarded::decided_on(&operator, snapshot).await? {
        Ok(snapshot) => snapshot,
        Err(instead) => return Ok(instead),
    };
    let now = Timestamp::now();
    let action = look(&snapshot, &operator, now).await?;
    operator.failures.forget(&context::key_of(&*snapshot));
    Ok(action)
}

async fn look(
    snapshot: &Snapshot,
    operator: &Operator,
    now: Timestamp,
) -> Result<Action, ReconcileError> {
    if snapshot.metadata.deletion_timestamp.is_some() {
        return deletion::delete(snapshot, operator, now).await;
    }
    if is_over(snapshot) {
        return verification::look(snapshot, operator, now).await;
    }
    if !has_finalizer(snapshot) {
        set_finalizer(operator, snapshot, true).await?;
        return Ok(Action::await_change());
    }
    let database = database_of(operator, snapshot).await?;
    if !runs(snapshot) && has_label(snapshot) {
        steps::clean_up(operator, snapshot, database.as_ref()).await?;
        return Ok(Action::await_change());
    }
    if let Some(decision) = invalid(snapshot) {
        let found = Found {
            database,
            ..Found::default()
        };
        return steps::finish(operator, snapshot, &found, &decision, now).await;
    }
    let found = dereference(operator, snapshot, database, now).await?;
    let decision = with_seat(operator, snapshot, &found, now);
    steps::apply(operator, snapshot, &found, &decision, now).await
}

/// Why validation refuses it: admission may have been passed by. What an instance already works on is past that.
fn invalid(snapshot: &Snapshot) -> Option<SnapshotDecision> {
    let status = snapshot.status.as_ref();
    if status.is_some_and(|status| status.attempt.is_some()) {
        return None;
    }
    let errors = validate_snapshot(&serde_json::to_value(snapshot).unwrap_or_default());
    (!errors.is_empty()).then(|| {
        let reason = format!("{}: {}", text::INVALID_SNAPSHOT, admission::list(&errors));
        decision(SnapshotAction::Fail, reason)
    })
}

/// The database, from the cache; that it is not there is asked of the API, since the cache may be younger than the Snapshot.
async fn database_of(
    operator: &Operator,
    snapshot: &Snapshot,
) -> Result<Option<Postgres>, ReconcileError> {
    let namespace = snapshot.namespace().unwrap_or_default();
    let name = &snapshot.spec.database_name;
    let key = ObjectRef::<Postgres>::new(name).within(&namespace);
    match operator.databases.get(&key) {
        Some(known) => Ok(Some((*known).clone())),
        None => database_anew(operator, snapshot).await,
    }
}

/// The database as the API has it now. That an agent is silent is not decided on the cache: an API server under load tells of its words later than they come.
async fn database_anew(
    operator: &Operator,
    snapshot: &Snapshot,
) -> Result<Option<Postgres>, ReconcileError> {
    let namespace = snapshot.namespace().unwrap_or_default();
    Api::<Postgres>::namespaced(operator.client.clone(), &namespace)
        .get_opt(&snapshot.spec.database_name)
        .await
        .map_err(request("get the Snapshot's database"))
}

/// Notes for how long the agent has said nothing new of an attempt, by the time of its latest word.
async fn listen(
    operator: &Operator,
    snapshot: &Snapshot,
    found: &mut Found,
    (instance, attempt): (Option<&str>, Option<u32>),
    latest: impl Fn(Option<&Postgres>) -> Timestamp,
) -> Result<(), ReconcileError> {
    let uid = snapshot.uid().unwrap_or_default();
    let (instance, attempt) = (instance.unwrap_or_default(), attempt.unwrap_or(0));
    let source = format!("{uid}/{instance}/{attempt}");
    found.silence = operator.silence(source.clone(), latest(found.database.as_ref()));
    if found.silence >= SILENCE_LIMIT {
        found.database = database_anew(operator, snapshot).await?;
        found.silence = operator.silence(source, latest(found.database.as_ref()));
    }
    Ok(())
}

/// What is to be known for a verification.
async fn dereference_for(
    operator: &Operator,
    snapshot: &Snapshot,
    database: Option<Postgres>,
    known: &Verification,
    now: Timestamp,
) -> Result<Found, ReconcileError> {
    let mut found = dereference(operator, snapshot, database, now).await?;
    let whose = (known.instance.as_deref(), known.attempt);
    let latest = |database: Option<&Postgres>| verification::heard(snapshot, known, database);
    listen(operator, snapshot, &mut found, whose, latest).await?;
    Ok(found)
}

async fn dereference(
    operator: &Operator,
    snapshot: &Snapshot,
    database: Option<Postgres>,
    now: Timestamp,
) -> Result<Found, ReconcileError> {
    let namespace = snapshot.namespace().unwrap_or_default();
    let name = &snapshot.spec.database_name;
    let status = snapshot.status.clone().unwrap_or_default();
    let alive = database.as_ref().map(|known| operator.alive(known, now));
    let mut found = Found {
        database,
        alive: alive.unwrap_or_default(),
        steps: operator.steps(now),
        ..Found::default()
    };
    if status.phase == Some(SnapshotPhase::Running) {
        let whose = (status.instance.as_deref(), status.attempt);
        let latest = |database: Option<&Postgres>| {
            let report = task_status(snapshot, database);
            report.map_or(Timestamp::UNIX_EPOCH, |task| task.heartbeat_time)
        };
        listen(operator, snapshot, &mut found, whose, latest).await?;
        return Ok(found);
    }
    found.siblings = operator.snapshots_of(&namespace, name);
    for secret in snapshot.spec.storage.secrets() {
        if !operator.has_secret(snapshot, secret).await? {
            found.missing_secret = Some(secret.clone());
            break;
        }
    }
    Ok(found)
}

/// Decides, with a seat for what would start: without one it goes on waiting for its turn.
fn with_seat(
    operator: &Operator,
    snapshot: &Snapshot,
    found: &Found,
    now: Timestamp,
) -> SnapshotDecision {
    let mut view = view(snapshot, found, now);
    let decision = decide(&view);
    let (SnapshotAction::Assign { .. }, Stage::Pending { created, .. }) =
        (&decision.action, &view.stage)
    else {
        if !matches!(view.stage, Stage::Running { .. }) {
            operator.seats.leave(&snapshot.uid().unwrap_or_default());
        }
        return decision;
    };
    let running = seated(operator, runs);
    let taken = operator
        .seats
        .take(seat_of(snapshot), *created, running, operator.uptime());
    let why = match taken {
        Ok(()) => return decision,
        Err(Taken::Database) => "another Snapshot of the same database comes first".to_owned(),
        Err(Taken::Limit(Refusal::Total { running_max })) => {
            format!("{running_max} Snapshots run, and no more may at once")
        }
        Err(Taken::Limit(Refusal::Store { running_max })) => {
            format!("{running_max} Snapshots into its store run, and no more may at once")
        }
    };
    view.before = Some(why);
    decide(&view)
}

/// Those in work of which `which` holds, as the caches show them.
fn seated(operator: &Operator, which: impl Fn(&Snapshot) -> bool) -> Vec<Seat> {
    let all = operator.in_work();
    let them = all.iter().filter(|other| which(other));
    them.map(|other| seat_of(other)).collect()
}

/// Snapshots whose turn has come, to be taken or to be verified: to be asked for when one has ended.
pub(crate) fn next_in_turn(operator: &Operator) -> Vec<ObjectRef<Snapshot>> {
    let of_backups = (&operator.seats, runs as fn(&Snapshot) -> bool);
    let of_verifications = (
        &operator.verifying,
        view::is_verifying as fn(&Snapshot) -> bool,
    );
    let all = [of_backups, of_verifications].into_iter();
    let awaited = all.filter(|(seats, _)| seats.is_awaited());
    awaited
        .flat_map(|(seats, which)| seats.next(&seated(operator, which), operator.uptime()))
        .collect()
}

fn seat_of(snapshot: &Snapshot) -> Seat {
    let namespace = snapshot.namespace().unwrap_or_default();
    Seat {
        snapshot: ObjectRef::from_obj(snapshot),
        uid: snapshot.uid().unwrap_or_default(),
        database: format!("{namespace}/{}", snapshot.spec.database_name),
        store: snapshot.spec.storage.bucket_label(),
    }
}

/// Attempts of a Snapshot so far, its verifications included: a report of one is never taken for that of another.
fn attempts(snapshot: &Snapshot) -> u32 {
    let status = snapshot.status.as_ref();
    let taken = status.and_then(|status| status.attempt);
    let verified = status.and_then(|status| status.verification.as_ref()?.attempt);
    taken.max(verified).unwrap_or(0)
}

fn has_label(snapshot: &Snapshot) -> bool {
    snapshot.labels().contains_key(labels::SNAPSHOT_STATUS)
}

async fn publish_on_both(
    operator: &Operator,
    snapshot: &Snapshot,
    database: Option<&Postgres>,
    note: &Note,
    now: Timestamp,
) {
    publish(&operator.client, snapshot, note, now).await;
    if let Some(database) = database {
        publish(&operator.client, database, note, now).await;
    }
}

fn until_then(time: Timestamp) -> Duration {
    Duration::try_from(time.duration_since(Timestamp::now())).unwrap_or(Duration::from_millis(50))
}

/// Changes a Snapshot unless somebody else did since it was read.
async fn patch_main(
    snapshot: &Snapshot,
    operator: &Operator,
    patch: Value,
) -> Result<Snapshot, ReconcileError> {
    guarded::patch_main(operator, snapshot, patch, "change a Snapshot").await
}

/// The same for its status.
async fn patch_status(
    snapshot: &Snapshot,
    operator: &Operator,
    status: Value,
) -> Result<Snapshot, ReconcileError> {
    guarded::patch_status(
        operator,
        snapshot,
        status,
        "update the status of a Snapshot",
    )
    .await
}

/// Writes or removes this Snapshot's task in its database's status. Nobody else writes that key.
async fn patch_task(
    operator: &Operator,
    snapshot: &Snapshot,
    database: Option<&Postgres>,
    task: &Value,
) -> Result<(), ReconcileError> {
    let Some(database) = database else {
        return Ok(());
    };
    let mut tasks = serde_json::Map::new();
    tasks.insert(snapshot.name_any(), task.clone());
    let patch = json!({ "status": { "tasks": tasks } });
    let namespace = database.namespace().unwrap_or_default();
    let api: Api<Postgres> = Api::namespaced(operator.client.clone(), &namespace);
    let patched = api
        .patch_status(
            &database.name_any(),
            &PatchParams::default(),
            &Patch::Merge(patch),
        )
        .await;
    match patched {
        // With the database its tasks are gone.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other
            .map(drop)
            .map_err(request("hand a task to an instance")),
    }
}
