//! The controller of Snapshots: the only writer of their status.

mod deletion;
pub mod view;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
    runtime::controller::Action,
};
use kubedb_api::{
    Postgres, Snapshot, labels,
    protocol::{SnapshotTask, TaskAction},
    reasons::{component, event, text},
    snapshot::SnapshotPhase,
};
use kubedb_core::{
    lsn::Lsn,
    snapshot::{RUNNING_LIMIT, SnapshotAction, SnapshotDecision, decide},
};
use serde_json::{Value, json};

use self::view::{Found, task_status, view};
use crate::{
    context::{Context, ReconcileError, request, selector},
    events::{Note, publish},
};

/// Look again this late at a Snapshot that waits: a Secret that was made tells nobody.
const WAITING: Duration = Duration::from_secs(5);

/// One reconcile of one Snapshot.
pub async fn reconcile(
    snapshot: Arc<Snapshot>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let now = Timestamp::now();
    if snapshot.metadata.deletion_timestamp.is_some() {
        return deletion::delete(&snapshot, &context, now).await;
    }
    if !snapshot
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == labels::FINALIZER)
    {
        let patch = json!({ "metadata": { "finalizers": [labels::FINALIZER], "resourceVersion": snapshot.resource_version() } });
        patch_main(&snapshot, &context, &patch).await?;
        return Ok(Action::await_change());
    }
    let phase = snapshot.status.as_ref().and_then(|status| status.phase);
    if matches!(
        phase,
        Some(SnapshotPhase::Succeeded | SnapshotPhase::Failed)
    ) {
        return Ok(Action::await_change());
    }
    let found = dereference(&context, &snapshot).await?;
    let decision = decide(&view(&snapshot, &found, now));
    apply(&context, &snapshot, &found, &decision, now).await
}

async fn dereference(context: &Context, snapshot: &Snapshot) -> Result<Found, ReconcileError> {
    let (client, namespace) = (&context.client, snapshot.namespace().unwrap_or_default());
    let name = &snapshot.spec.database_name;
    let database = Api::<Postgres>::namespaced(client.clone(), &namespace)
        .get_opt(name)
        .await
        .map_err(request("get the Snapshot's database"))?;
    let siblings = Api::<Snapshot>::namespaced(client.clone(), &namespace)
        .list(&ListParams::default().labels(&selector(name)))
        .await
        .map_err(request("list Snapshots"))?
        .items;
    let missing_secret = match &snapshot.spec.storage.storage_secret_name {
        None => None,
        Some(secret) => {
            let known = Api::<Secret>::namespaced(client.clone(), &namespace)
                .get_opt(secret)
                .await
                .map_err(request("get a Secret"))?;
            known.is_none().then(|| secret.clone())
        }
    };
    Ok(Found {
        database,
        siblings,
        missing_secret,
    })
}

async fn apply(
    context: &Context,
    snapshot: &Snapshot,
    found: &Found,
    decision: &SnapshotDecision,
    now: Timestamp,
) -> Result<Action, ReconcileError> {
    let is_running =
        snapshot.status.as_ref().and_then(|status| status.phase) == Some(SnapshotPhase::Running);
    match &decision.action {
        SnapshotAction::Wait { until } if is_running => {
            ensure_task(context, snapshot, found).await?;
            let progress = task_status(snapshot, found).and_then(|task| task.progress);
            let known = snapshot.status.as_ref().and_then(|status| status.progress);
            if progress.is_some() && progress != known {
                patch_status(snapshot, context, json!({ "progress": progress })).await?;
            }
            Ok(Action::requeue(until_then(*until, now)))
        }
        SnapshotAction::Wait { until } => {
            say_pending(context, snapshot, &decision.reason).await?;
            Ok(Action::requeue(until_then(*until, now).min(WAITING)))
        }
        SnapshotAction::Assign {
            instance,
            attempt,
            minimum_lsn,
        } => {
            assign(
                context,
                snapshot,
                found,
                instance,
                *attempt,
                *minimum_lsn,
                now,
            )
            .await?;
            Ok(Action::requeue(WAITING))
        }
        SnapshotAction::Withdraw => {
            patch_task(context, snapshot, found, &Value::Null).await?;
            let status = json!({ "phase": "Pending", "reason": decision.reason, "instance": null, "progress": null });
            patch_status(snapshot, context, status).await?;
            Ok(Action::await_change())
        }
        SnapshotAction::Succeed | SnapshotAction::Fail => {
            finish(context, snapshot, found, decision, now).await
        }
    }
}

async fn say_pending(
    context: &Context,
    snapshot: &Snapshot,
    reason: &str,
) -> Result<(), ReconcileError> {
    let known = snapshot.status.as_ref();
    let is_told = known.and_then(|status| status.reason.as_deref()) == Some(reason)
        && known.and_then(|status| status.phase) == Some(SnapshotPhase::Pending);
    if is_told {
        return Ok(());
    }
    patch_status(
        snapshot,
        context,
        json!({ "phase": "Pending", "reason": reason }),
    )
    .await
}

async fn assign(
    context: &Context,
    snapshot: &Snapshot,
    found: &Found,
    instance: &str,
    attempt: u32,
    minimum_lsn: Option<Lsn>,
    now: Timestamp,
) -> Result<(), ReconcileError> {
    // The status comes first: with it, a task that was not written is written by the next reconcile.
    let status = json!({
        "phase": "Running", "reason": null, "startTime": now, "instance": instance, "attempt": attempt,
        "progress": null, "observedGeneration": snapshot.metadata.generation,
    });
    patch_status(snapshot, context, status).await?;
    let task = task(snapshot, instance, attempt, minimum_lsn, now);
    patch_task(context, snapshot, found, &json!(task)).await?;
    let label = json!({ "metadata": { "labels": { labels::SNAPSHOT_STATUS: "Running" } } });
    patch_main(snapshot, context, &label).await?;
    if attempt == 1 {
        let note = Note::normal(
            component::SNAPSHOT_CONTROLLER,
            event::STARTING,
            text::BACKUP_RUNNING,
        );
        publish_on_both(context, snapshot, found, &note, now).await;
    }
    Ok(())
}

fn task(
    snapshot: &Snapshot,
    instance: &str,
    attempt: u32,
    minimum_lsn: Option<Lsn>,
    now: Timestamp,
) -> SnapshotTask {
    SnapshotTask {
        snapshot_uid: snapshot.uid().unwrap_or_default(),
        instance: instance.to_owned(),
        attempt,
        action: TaskAction::Backup,
        storage: snapshot.spec.storage.clone(),
        minimum_lsn: minimum_lsn.map(|lsn| lsn.to_string()),
        deadline: now.checked_add(RUNNING_LIMIT).ok(),
    }
}

/// Writes the task of a Running Snapshot again when it is not there: the operator was killed between two writes.
async fn ensure_task(
    context: &Context,
    snapshot: &Snapshot,
    found: &Found,
) -> Result<(), ReconcileError> {
    let (Some(status), Some(database)) = (&snapshot.status, &found.database) else {
        return Ok(());
    };
    let tasks = database.status.as_ref().map(|status| &status.tasks);
    let (Some(instance), Some(attempt)) = (&status.instance, status.attempt) else {
        return Ok(());
    };
    if tasks.is_some_and(|tasks| tasks.contains_key(&snapshot.name_any())) {
        return Ok(());
    }
    let since = status.start_time.unwrap_or_else(Timestamp::now);
    let task = task(snapshot, instance, attempt, None, since);
    patch_task(context, snapshot, found, &json!(task)).await
}

async fn finish(
    context: &Context,
    snapshot: &Snapshot,
    found: &Found,
    decision: &SnapshotDecision,
    now: Timestamp,
) -> Result<Action, ReconcileError> {
    let is_good = decision.action == SnapshotAction::Succeed;
    let task = task_status(snapshot, found);
    let status = json!({
        "phase": if is_good { "Succeeded" } else { "Failed" },
        "reason": if is_good { Value::Null } else { json!(decision.reason) },
        "completionTime": now,
        "progress": task.and_then(|task| task.progress),
        "result": task.and_then(|task| task.result.clone()),
    });
    patch_status(snapshot, context, status).await?;
    patch_task(context, snapshot, found, &Value::Null).await?;
    let label = json!({ "metadata": { "labels": { labels::SNAPSHOT_STATUS: null } } });
    patch_main(snapshot, context, &label).await?;
    let note = if is_good {
        Note::normal(
            component::JOB_CONTROLLER,
            event::SUCCESSFUL_SNAPSHOT,
            text::SNAPSHOT_COMPLETED,
        )
    } else {
        let message = format!("{}. Reason: {}", text::SNAPSHOT_FAILED, decision.reason);
        Note::warning(component::JOB_CONTROLLER, event::SNAPSHOT_FAILED, message)
    };
    publish_on_both(context, snapshot, found, &note, now).await;
    Ok(Action::await_change())
}

async fn publish_on_both(
    context: &Context,
    snapshot: &Snapshot,
    found: &Found,
    note: &Note,
    now: Timestamp,
) {
    publish(&context.client, snapshot, note, now).await;
    if let Some(database) = &found.database {
        publish(&context.client, database, note, now).await;
    }
}

fn until_then(time: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(time.duration_since(now)).unwrap_or(Duration::from_millis(50))
}

fn snapshots(snapshot: &Snapshot, context: &Context) -> Api<Snapshot> {
    Api::namespaced(
        context.client.clone(),
        &snapshot.namespace().unwrap_or_default(),
    )
}

async fn patch_main(
    snapshot: &Snapshot,
    context: &Context,
    patch: &Value,
) -> Result<(), ReconcileError> {
    snapshots(snapshot, context)
        .patch(
            &snapshot.name_any(),
            &PatchParams::default(),
            &Patch::Merge(patch),
        )
        .await
        .map(drop)
        .map_err(request("change a Snapshot"))
}

async fn patch_status(
    snapshot: &Snapshot,
    context: &Context,
    status: Value,
) -> Result<(), ReconcileError> {
    let patch = json!({ "status": status });
    snapshots(snapshot, context)
        .patch_status(
            &snapshot.name_any(),
            &PatchParams::default(),
            &Patch::Merge(patch),
        )
        .await
        .map(drop)
        .map_err(request("update the status of a Snapshot"))
}

/// Writes or removes this Snapshot's task in its database's status.
async fn patch_task(
    context: &Context,
    snapshot: &Snapshot,
    found: &Found,
    task: &Value,
) -> Result<(), ReconcileError> {
    let Some(database) = &found.database else {
        return Ok(());
    };
    let mut tasks = serde_json::Map::new();
    tasks.insert(snapshot.name_any(), task.clone());
    let patch = json!({ "status": { "tasks": tasks } });
    let api: Api<Postgres> = Api::namespaced(
        context.client.clone(),
        &database.namespace().unwrap_or_default(),
    );
    api.patch_status(
        &database.name_any(),
        &PatchParams::default(),
        &Patch::Merge(patch),
    )
    .await
    .map(drop)
    .map_err(request("hand a task to an instance"))
}
