//! The controller of databases: dereference, validate, plan, apply, update status.

mod apply;
mod conditions;
pub mod dereference;
pub mod plan;
pub mod schedule;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::controller::Action,
};
use kubedb_api::{
    Postgres, PostgresStatus, labels,
    postgres::PostgresPhase,
    reasons::{component, event},
    validate::validate_postgres,
};
use serde_json::{Value, json};

use self::dereference::{dereference, key_of};
use crate::{
    context::{Context, ReconcileError, request},
    events::{Note, publish},
};

/// Look again this late when nothing happens: what was changed by hand behind our back is put right then.
const RESYNC: Duration = Duration::from_secs(300);
/// Try again this soon what the platform refused for a reason that somebody may put right, such as a network that is away.
const REFUSED_RETRY: Duration = Duration::from_secs(15);
/// Look again this soon while instances stop.
const SOON: Duration = Duration::from_millis(300);

/// One reconcile of one database.
pub async fn reconcile(
    postgres: Arc<Postgres>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let now = Timestamp::now();
    if postgres.metadata.deletion_timestamp.is_some() {
        return remove(&postgres, &context).await;
    }
    if !postgres
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == labels::FINALIZER)
    {
        set_finalizers(&postgres, &context, true).await?;
    }
    let found = dereference(&context, &postgres).await?;
    let raw = serde_json::to_value(&*postgres).unwrap_or_default();
    let text = postgres.spec.version.text();
    let known: Vec<&str> = found.version.iter().map(|_| text.as_str()).collect();
    if let Some(error) = validate_postgres(&raw, &known).first() {
        let reason = format!("{}: {}", error.field, error.message);
        let note = Note::warning(component::POSTGRES_OPERATOR, event::INVALID, &reason);
        let is_new = postgres
            .status
            .as_ref()
            .and_then(|status| status.reason.as_ref())
            != Some(&reason);
        if is_new {
            publish(&context.client, &*postgres, &note, now).await;
            patch_status(&postgres, &context, &json!({ "reason": reason })).await?;
        }
        return Ok(Action::requeue(RESYNC));
    }
    let plan = plan::plan(&postgres, &found, now);
    let failure = apply::apply(&context, &postgres, &plan, now).await?;
    let longest = failure.as_ref().map_or(RESYNC, |_| REFUSED_RETRY);
    let pause = update_status(&postgres, &context, &plan, failure, now).await?;
    Ok(Action::requeue(pause.min(longest)))
}

/// Stops the instances of a deleted database; its data folders and Snapshots stay.
async fn remove(postgres: &Postgres, context: &Context) -> Result<Action, ReconcileError> {
    if !postgres
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == labels::FINALIZER)
    {
        return Ok(Action::await_change());
    }
    if !context.platform.remove(&key_of(postgres)).await? {
        return Ok(Action::requeue(SOON));
    }
    set_finalizers(postgres, context, false).await?;
    Ok(Action::await_change())
}

async fn set_finalizers(
    postgres: &Postgres,
    context: &Context,
    present: bool,
) -> Result<(), ReconcileError> {
    let mut finalizers = postgres.finalizers().to_vec();
    finalizers.retain(|finalizer| finalizer != labels::FINALIZER);
    if present {
        finalizers.push(labels::FINALIZER.to_owned());
    }
    // With the resourceVersion, so that a finalizer that somebody else sets meanwhile is not lost.
    let patch = json!({ "metadata": { "finalizers": finalizers, "resourceVersion": postgres.resource_version() } });
    postgreses(postgres, context)
        .patch(
            &postgres.name_any(),
            &PatchParams::default(),
            &Patch::Merge(patch),
        )
        .await
        .map(drop)
        .map_err(request("set the finalizer"))
}

fn postgreses(postgres: &Postgres, context: &Context) -> Api<Postgres> {
    Api::namespaced(
        context.client.clone(),
        &postgres.namespace().unwrap_or_default(),
    )
}

async fn patch_status(
    postgres: &Postgres,
    context: &Context,
    status: &Value,
) -> Result<(), ReconcileError> {
    postgreses(postgres, context)
        .patch_status(
            &postgres.name_any(),
            &PatchParams::default(),
            &Patch::Merge(json!({ "status": status })),
        )
        .await
        .map(drop)
        .map_err(request("update the status of a database"))
}

/// Fields of the status that this controller writes; agents and the Snapshot controller write the others.
const OWN_FIELDS: [&str; 13] = [
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
    "scheduleExpression",
    "postgresVersion",
    "bootstrap",
];

/// Step 5. Writes what changed, and tells of a new phase.
async fn update_status(
    postgres: &Postgres,
    context: &Context,
    plan: &plan::Plan,
    failure: Option<String>,
    now: Timestamp,
) -> Result<Duration, ReconcileError> {
    let mut status: PostgresStatus = plan.status.clone();
    if let Some(reason) = failure {
        status.phase = Some(PostgresPhase::Failed);
        status.reason = Some(reason);
    }
    let value = |status: Option<&PostgresStatus>| serde_json::to_value(status).unwrap_or_default();
    let (old, new) = (value(postgres.status.as_ref()), value(Some(&status)));
    let mut patch = serde_json::Map::new();
    for field in OWN_FIELDS {
        if old[field] != new[field] {
            patch.insert(field.to_owned(), new[field].clone());
        }
    }
    if !plan.forgotten.is_empty() {
        let nulls = plan
            .forgotten
            .iter()
            .map(|name| (name.clone(), Value::Null))
            .collect();
        patch.insert("instances".to_owned(), Value::Object(nulls));
    }
    if !patch.is_empty() {
        patch_status(postgres, context, &Value::Object(patch)).await?;
    }
    let before = postgres.status.as_ref().and_then(|status| status.phase);
    if before != status.phase {
        for note in phase_notes(before, &status) {
            publish(&context.client, postgres, &note, now).await;
        }
    }
    let pause = match plan.next {
        Some(next) => Duration::try_from(next.duration_since(now)).unwrap_or(SOON),
        None => RESYNC,
    };
    Ok(pause.clamp(Duration::from_millis(20), RESYNC))
}

fn phase_notes(before: Option<PostgresPhase>, status: &PostgresStatus) -> Vec<Note> {
    use kubedb_api::reasons::text;
    let restored = status.bootstrap.as_ref();
    match (before, status.phase) {
        (_, Some(PostgresPhase::Initializing)) => restored
            .map(|source| {
                let message = format!("Initializing from Snapshot: \"{}\"", source.snapshot);
                Note::normal(component::POSTGRES_OPERATOR, event::INITIALIZING, message)
            })
            .into_iter()
            .collect(),
        (_, Some(PostgresPhase::Running)) => {
            let created = Note::normal(
                component::POSTGRES_OPERATOR,
                event::SUCCESSFUL,
                text::CREATED_POSTGRES,
            );
            let initialized = Note::normal(
                component::JOB_CONTROLLER,
                event::SUCCESSFUL_INITIALIZE,
                text::INITIALIZED,
            );
            if restored.is_some() {
                vec![initialized, created]
            } else {
                vec![created]
            }
        }
        (_, Some(PostgresPhase::Failed)) => {
            let reason = status.reason.clone().unwrap_or_default();
            let message = if restored.is_some() {
                format!("{}. Reason: {reason}", text::INITIALIZE_FAILED)
            } else {
                reason
            };
            vec![Note::warning(
                component::JOB_CONTROLLER,
                event::FAILED,
                message,
            )]
        }
        _ => Vec::new(),
    }
}
