//! The controller of databases: dereference, validate, plan, apply, update status.

mod apply;
mod archive;
mod conditions;
mod dereference;
mod first;
mod kept_wal;
mod monitor;
mod plan;
mod removal;
mod resume;
pub mod retention;
pub(crate) mod schedule;
mod settled;
pub mod source;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::{Api, ResourceExt as _, api::ListParams, runtime::controller::Action};
use kubedb_api::{
    Postgres, PostgresStatus, PostgresVersion, Snapshot, admission, labels,
    postgres::{PostgresPhase, SnapshotSource},
    protocol::RestoreSource,
    reasons::{APPLIED, READY, VALID, component, event, text},
    validate::validate_postgres,
};
use serde_json::{Map, Value, json};

use self::{
    apply::Applied,
    dereference::{Found, dereference, key_of},
    resume::Beginning,
};
use crate::{
    context::{self, ReconcileError, request},
    events::{Note, publish},
    gate::digest,
    guarded::{self, has_finalizer, set_finalizer},
    operator::Operator,
    platform::DatabaseKey,
};

/// Look again this late when nothing happens: what was changed by hand behind our back is noticed then.
const RESYNC: Duration = Duration::from_secs(30);
/// Try again this soon what the platform refused for a reason that somebody may put right, such as a network that is away.
const REFUSED_RETRY: Duration = Duration::from_secs(15);
/// Never look again sooner than this without a cause.
const SHORTEST: Duration = Duration::from_millis(20);

/// One reconcile of one database, unless nothing but heartbeats happened since the last.
pub(crate) async fn reconcile(
    postgres: Arc<Postgres>,
    operator: Arc<Operator>,
) -> Result<Action, ReconcileError> {
    let postgres = match guarded::decided_on(&operator, postgres).await? {
        Ok(postgres) => postgres,
        Err(instead) => return Ok(instead),
    };
    let now = Timestamp::now();
    operator.steps(now);
    let key = key_of(&postgres);
    let gate = format!("{}/{}", key.namespace, key.name);
    if postgres.metadata.deletion_timestamp.is_some() {
        operator.gate.open(&gate);
        let action = removal::remove(&postgres, &operator, now).await?;
        operator.failures.forget(&context::key_of(&*postgres));
        return Ok(action);
    }
    let alive = operator.alive(&postgres, now).into_keys();
    let holder = operator.holder(&postgres).unwrap_or_default();
    let who: Vec<String> = alive.chain([format!("held by {holder}")]).collect();
    let looked_at = digest(&postgres, &who);
    if let Some(rest) = operator.gate.closed_for(&gate, looked_at, Instant::now()) {
        return Ok(Action::requeue(rest));
    }
    let Looked { pause, settled } = look(&postgres, &operator, now).await?;
    let left = settled.map_or(looked_at, |settled| digest(&settled, &who));
    let due = Instant::now() + pause;
    operator.gate.close(&gate, looked_at, left, due);
    operator.failures.forget(&context::key_of(&*postgres));
    Ok(Action::requeue(pause))
}

/// What a look came to.
struct Looked {
    /// When to look again if nothing happens.
    pause: Duration,
    /// The database as it was left, if that is known to want nothing further: then it need not be looked at again when the watch tells of it.
    settled: Option<Postgres>,
}

impl From<Duration> for Looked {
    fn from(pause: Duration) -> Self {
        Self {
            pause,
            settled: None,
        }
    }
}

/// The five steps.
async fn look(
    postgres: &Postgres,
    operator: &Operator,
    now: Timestamp,
) -> Result<Looked, ReconcileError> {
    let version = postgres.resource_version();
    let with_finalizer;
    let mut postgres = postgres;
    if !has_finalizer(postgres) {
        with_finalizer = set_finalizer(operator, postgres, true).await?;
        postgres = &with_finalizer;
    }
    let mut found = dereference(operator, postgres, now).await?;
    if let Some(reason) = invalid(postgres, operator, &found).await? {
        return Ok(tell_invalid(postgres, operator, reason, now).await?.into());
    }
    let begun = match resume::begin(operator, postgres, now).await? {
        Beginning::Begun(begun) => begun,
        Beginning::Waits(reason) => {
            return Ok(tell_waiting(postgres, operator, reason).await?.into());
        }
        Beginning::Invalid(reason) => {
            return Ok(tell_invalid(postgres, operator, reason, now).await?.into());
        }
    };
    postgres = &begun;
    // Its Secret may have been named only now.
    found.has_auth_secret |= postgres.spec.database_secret.is_some();
    let was_applied = settled::is_applied(postgres);
    let plan = plan::plan(postgres, &found, now);
    let (current, applied) = apply::apply(operator, postgres, &plan).await?;
    let is_missing = found
        .observed
        .as_ref()
        .is_some_and(|seen| seen.refusal.is_some());
    let is_whole = matches!(applied, Applied::Whole) && !is_missing;
    let can_run = !matches!(applied, Applied::Never(_));
    let refusal = found
        .observed
        .as_ref()
        .and_then(|seen| seen.refusal.as_ref());
    let applied = match (applied, refusal) {
        (Applied::Whole, Some(refusal)) => Applied::Refused(refusal.clone()),
        (applied, _) => applied,
    };
    let mut current = update_status(&current, operator, &plan, applied, now).await?;
    if let Some(tick) = plan.schedule.make
        && can_run
    {
        current = serve_tick(current, operator, tick, plan.schedule.is_first, now).await?;
    }
    if let Some(tick) = plan.first.make
        && can_run
    {
        apply::make_first(operator, &current, tick, now).await?;
        let made = json!({ "firstSnapshot": { "pending": false } });
        current = patch_status(&current, operator, made).await?;
    }
    retention::apply(operator, &current, &found.snapshots, now).await?;
    let longest = if is_whole { RESYNC } else { REFUSED_RETRY };
    let is_calm = is_whole && was_applied && current.resource_version() != version;
    let after = if is_calm {
        settled::follow_up(operator, &current, &found, &plan, now).await?
    } else {
        None
    };
    let pause = match after.as_ref().map_or(plan.next, |after| after.next) {
        Some(next) => Duration::try_from(next.duration_since(Timestamp::now())).unwrap_or_default(),
        None => longest,
    };
    Ok(Looked {
        pause: pause.clamp(SHORTEST, longest),
        settled: after.map(|_| current),
    })
}

/// Makes the Snapshot of a tick, unless that was done a moment ago. One that is there is heard of soon, which is another change of the status: the tick stays
/// in it until then.
async fn serve_tick(
    postgres: Postgres,
    operator: &Operator,
    tick: Timestamp,
    is_first: bool,
    now: Timestamp,
) -> Result<Postgres, ReconcileError> {
    let uid = postgres.uid().unwrap_or_default();
    if operator.made.get(&uid, Instant::now()) == Some(tick) {
        return Ok(postgres);
    }
    if apply::make_scheduled(operator, &postgres, tick, is_first, now).await? {
        operator.made.note(uid, tick, Instant::now());
        return Ok(postgres);
    }
    let done = json!({ "pendingScheduleTime": null });
    patch_status(&postgres, operator, done).await
}

/// Why validation refuses it: admission may have been passed by, or the rules may have changed.
async fn invalid(
    postgres: &Postgres,
    operator: &Operator,
    found: &Found,
) -> Result<Option<String>, ReconcileError> {
    let raw = serde_json::to_value(postgres).unwrap_or_default();
    let known = match found.version {
        Some(_) => vec![postgres.spec.version.text()],
        None => {
            let versions: Api<PostgresVersion> = Api::all(operator.client.clone());
            let all = versions.list(&ListParams::default()).await;
            let all = all.map_err(request("list the known versions"))?;
            all.iter().map(|version| version.name_any()).collect()
        }
    };
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let errors = validate_postgres(&raw, &known);
    Ok((!errors.is_empty()).then(|| admission::list(&errors)))
}

/// Says what admission would have said, once. What runs goes on as it is.
async fn tell_invalid(
    postgres: &Postgres,
    operator: &Operator,
    reason: String,
    now: Timestamp,
) -> Result<Duration, ReconcileError> {
    let empty = PostgresStatus::default();
    let known = postgres.status.as_ref().unwrap_or(&empty);
    let told = known
        .conditions
        .iter()
        .find(|condition| condition.type_ == VALID);
    if told.is_some_and(|told| told.message == reason) {
        return Ok(RESYNC);
    }
    let note = Note::warning(component::POSTGRES_OPERATOR, event::INVALID, &reason)
        .of(format!("{:?}", postgres.metadata.generation));
    publish(&operator.client, postgres, &note, now).await;
    let conditions = conditions::with_invalid(postgres, known, &reason, now);
    let status = json!({ "reason": reason, "conditions": conditions });
    patch_status(postgres, operator, status).await?;
    Ok(RESYNC)
}

/// Whether a database has data, or may have: it was noted before anything was made.
fn is_begun(postgres: &Postgres) -> bool {
    let status = postgres.status.as_ref();
    status.is_some_and(|status| status.creation_time.is_some())
}

/// Says what a database waits for before it begins.
async fn tell_waiting(
    postgres: &Postgres,
    operator: &Operator,
    reason: String,
) -> Result<Duration, ReconcileError> {
    let known = postgres.status.as_ref();
    if known.and_then(|status| status.reason.as_ref()) != Some(&reason) {
        patch_status(postgres, operator, json!({ "reason": reason })).await?;
    }
    Ok(REFUSED_RETRY)
}

/// Whether a database is not begun yet and is to be restored from a Snapshot.
pub(crate) fn waits(postgres: &Postgres) -> bool {
    wanted_source(postgres).is_some()
}

/// Whether it is this one.
pub(crate) fn waits_for(postgres: &Postgres, snapshot: &Snapshot) -> bool {
    wanted_source(postgres).is_some_and(|source| {
        let namespace = source.namespace.clone().or_else(|| postgres.namespace());
        source.name == snapshot.name_any() && namespace == snapshot.namespace()
    })
}

/// The Snapshot that a database is to be restored from, until that begins.
fn wanted_source(postgres: &Postgres) -> Option<&SnapshotSource> {
    let status = postgres.status.as_ref();
    let is_begun = status.is_some_and(|status| status.bootstrap.is_some());
    let init = postgres.spec.init.as_ref().filter(|_| !is_begun)?;
    init.snapshot_source.as_ref()
}

/// Whether a database is being restored from this Snapshot.
pub(crate) fn is_restoring(postgres: &Postgres, snapshot: &Snapshot) -> bool {
    read_source(postgres).is_some_and(|source| reads(source, snapshot))
}

/// Whether a database is being recovered from the archive of this one.
pub(crate) fn is_recovering(postgres: &Postgres, database: &DatabaseKey) -> bool {
    let recovery = read_source(postgres).and_then(|source| source.recovery.as_ref());
    recovery.is_some_and(|recovery| {
        recovery.namespace == database.namespace && recovery.database == database.name
    })
}

/// What a database is being restored from, until that is over.
fn read_source(postgres: &Postgres) -> Option<&RestoreSource> {
    let status = postgres.status.as_ref();
    let source = status.and_then(|status| status.bootstrap.as_ref());
    let phase = status.and_then(|status| status.phase);
    let is_over = matches!(phase, Some(PostgresPhase::Running | PostgresPhase::Failed))
        || postgres.annotations().contains_key(labels::INITIALIZED)
        || postgres.metadata.deletion_timestamp.is_some();
    source.filter(|_| !is_over)
}

/// Whether a restore reads this Snapshot. One that finds its Snapshot in an archive may take any of that database, unless it is told which.
fn reads(source: &RestoreSource, snapshot: &Snapshot) -> bool {
    let (name, namespace) = (snapshot.name_any(), snapshot.namespace());
    match &source.recovery {
        Some(recovery) if source.snapshot.is_empty() => {
            let wanted = recovery.backup_name.as_ref();
            wanted.is_none_or(|wanted| *wanted == name)
                && recovery.database == snapshot.spec.database_name
                && Some(&recovery.namespace) == namespace.as_ref()
        }
        _ => source.snapshot == name && Some(&source.namespace) == namespace.as_ref(),
    }
}

async fn patch_status(
    postgres: &Postgres,
    operator: &Operator,
    status: Value,
) -> Result<Postgres, ReconcileError> {
    let action = "update the status of a database";
    guarded::patch_status(operator, postgres, status, action).await
}

/// Fields of the status that this controller writes; agents and the Snapshot controller write the others.
const OWN_FIELDS: [&str; 19] = [
    "keepWalFrom",
    "phase",
    "reason",
    "creationTime",
    "observedGeneration",
    "conditions",
    "primary",
    "endpoints",
    "readyReplicas",
    "lastScheduleTime",
    "nextScheduleTime",
    "pendingScheduleTime",
    "scheduleExpression",
    "firstSnapshot",
    "earliestRestorableTime",
    LATEST_RESTORABLE,
    "snapshots",
    "postgresVersion",
    "bootstrap",
];

const LATEST_RESTORABLE: &str = "latestRestorableTime";

/// Step 5. Tells of what is new and writes what changed, in this order: what was told twice is told once, and what was not told
/// would never be.
async fn update_status(
    postgres: &Postgres,
    operator: &Operator,
    plan: &plan::Plan,
    applied: Applied,
    now: Timestamp,
) -> Result<Postgres, ReconcileError> {
    let empty = PostgresStatus::default();
    let known = postgres.status.as_ref().unwrap_or(&empty);
    let mut status: PostgresStatus = plan.status.clone();
    if let Applied::Refused(reason) = &applied {
        tell_refusal(postgres, operator, &mut status, reason, now).await;
    }
    if let Applied::Never(reason) = applied {
        status.phase = Some(PostgresPhase::Failed);
        status.reason = Some(reason);
        // Its ticks wait as those of any database that is not Running.
        status.last_schedule_time = known.last_schedule_time;
        status.next_schedule_time = known.next_schedule_time;
        status.pending_schedule_time = known.pending_schedule_time;
        status
            .schedule_expression
            .clone_from(&known.schedule_expression);
        status.first_snapshot.clone_from(&known.first_snapshot);
    } else if let Some(left) = plan.schedule.left {
        publish(&operator.client, postgres, &left.note(), now).await;
    }
    if known.phase != status.phase {
        for note in phase_notes(known, &status) {
            publish(&operator.client, postgres, &note, now).await;
        }
    }
    let notes = [
        archive::note(postgres, &status),
        archive::gap(postgres, &status),
        monitor::note(postgres, &status),
    ];
    for note in notes.into_iter().flatten() {
        publish(&operator.client, postgres, &note, now).await;
    }
    let patch = changes(known, &status, plan);
    if patch.is_empty() {
        return Ok(postgres.clone());
    }
    patch_status(postgres, operator, Value::Object(patch)).await
}

/// Says in the status that a part of the database is refused, and by an Event if that is news.
async fn tell_refusal(
    postgres: &Postgres,
    operator: &Operator,
    status: &mut PostgresStatus,
    reason: &str,
    now: Timestamp,
) {
    let known = postgres.status.iter().flat_map(|status| &status.conditions);
    let known = known.clone().find(|known| known.type_ == APPLIED);
    if known.is_none_or(|known| known.message != reason) {
        let note = Note::warning(component::POSTGRES_OPERATOR, event::FAILED, reason);
        // The same until the status that tells of it is written, however often that is tried.
        let mut ready = postgres.status.iter().flat_map(|status| &status.conditions);
        let ready = ready.find(|known| known.type_ == READY);
        let since = ready.map(|ready| ready.last_transition_time.0.to_string());
        let note = note.of(since.unwrap_or_default());
        publish(&operator.client, postgres, &note, now).await;
    }
    status.reason = Some(reason.to_owned());
    let refusal = conditions::refused(postgres, known, reason, now);
    status.conditions.push(refusal);
}

/// What of the status changed, as a merge patch.
fn changes(old: &PostgresStatus, new: &PostgresStatus, plan: &plan::Plan) -> Map<String, Value> {
    let (was, is) = (old.latest_restorable_time, new.latest_restorable_time);
    let is_little = archive::is_little(was, is);
    let value = |status: &PostgresStatus| serde_json::to_value(status).unwrap_or_default();
    let (old, new) = (value(old), value(new));
    let mut patch = Map::new();
    for field in OWN_FIELDS {
        if old[field] != new[field] {
            patch.insert(field.to_owned(), new[field].clone());
        }
    }
    let mut instances = json!({});
    for (instance, task) in &plan.stale_reports {
        instances[instance]["tasks"][task] = Value::Null;
    }
    for instance in &plan.forgotten {
        instances[instance] = Value::Null;
    }
    if instances != json!({}) {
        patch.insert("instances".to_owned(), instances);
    }
    if !plan.orphans.is_empty() {
        let nulls = plan.orphans.iter().map(|name| (name.clone(), Value::Null));
        patch.insert("tasks".to_owned(), Value::Object(nulls.collect()));
    }
    if patch.len() == 1 && patch.contains_key(LATEST_RESTORABLE) && is_little {
        patch.clear();
    }
    patch
}

/// Events of a new phase. The time at which readiness last changed tells one passage through a phase from the next.
fn phase_notes(old: &PostgresStatus, new: &PostgresStatus) -> Vec<Note> {
    let since = old.conditions.iter().find(|known| known.type_ == READY);
    let since = since.map(|known| known.last_transition_time.0.to_string());
    let since = since.unwrap_or_default();
    let restored = new.bootstrap.as_ref();
    match new.phase {
        Some(PostgresPhase::Initializing) => restored
            .map(|source| {
                let message = format!("Initializing from {}", source::told(source));
                Note::normal(component::POSTGRES_OPERATOR, event::INITIALIZING, message)
            })
            .into_iter()
            .collect(),
        // Both happen once in a database's life, however often it comes back to Running.
        Some(PostgresPhase::Running) => {
            let (reason, words) = (event::SUCCESSFUL, text::CREATED_POSTGRES);
            let created = Note::normal(component::POSTGRES_OPERATOR, reason, words);
            let (reason, words) = (event::SUCCESSFUL_INITIALIZE, text::INITIALIZED);
            let initialized = Note::normal(component::JOB_CONTROLLER, reason, words);
            let initialized = restored.map(|_| initialized);
            initialized.into_iter().chain([created]).collect()
        }
        Some(PostgresPhase::Failed) => {
            let is_restore = restored.is_some() && old.phase != Some(PostgresPhase::Running);
            let reason = new.reason.clone().unwrap_or_default();
            let (component, message) = if is_restore {
                (
                    component::JOB_CONTROLLER,
                    text::INITIALIZE_FAILED.to_owned(),
                )
            } else {
                (component::POSTGRES_OPERATOR, reason)
            };
            vec![Note::warning(component, event::FAILED, message).of(since)]
        }
        _ => Vec::new(),
    }
}
