//! Deleting a Snapshot deletes its data, unless it is to be kept. Never a silent hang: an obstacle is told with the way out.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, ResourceExt as _, runtime::controller::Action};
use kubedb_api::{
    Snapshot, labels,
    protocol::{SnapshotTask, TaskAction, TaskPhase},
    reasons::{component, event},
    snapshot::DeletionPolicy,
};
use serde_json::{Value, json};

use super::{Found, dereference, patch_main, patch_status, patch_task};
use crate::{
    context::{Context, ReconcileError, request},
    events::{Note, publish},
};

/// Pause between attempts at a store that refuses.
const RETRY: Duration = Duration::from_secs(15);

pub(super) async fn delete(
    snapshot: &Snapshot,
    context: &Context,
    now: Timestamp,
) -> Result<Action, ReconcileError> {
    if !snapshot
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == labels::FINALIZER)
    {
        return Ok(Action::await_change());
    }
    let found = dereference(context, snapshot).await?;
    let status = snapshot.status.clone().unwrap_or_default();
    let is_kept = snapshot.spec.deletion_policy == Some(DeletionPolicy::Retain);
    let namespace_goes = namespace_goes(snapshot, context).await?;
    // Without an attempt nothing was ever written.
    if is_kept || namespace_goes || status.attempt.is_none() {
        if namespace_goes && status.attempt.is_some() {
            let message = "The namespace is going away; the Snapshot's data stays in its store";
            let note = Note::normal(component::SNAPSHOT_CONTROLLER, "DataRetained", message);
            publish(&context.client, snapshot, &note, now).await;
        }
        return release(snapshot, context, &found).await;
    }
    let name = snapshot.name_any();
    let tasks = found
        .database
        .as_ref()
        .and_then(|database| database.status.as_ref())
        .map(|status| &status.tasks);
    match tasks.and_then(|tasks| tasks.get(&name)) {
        Some(task) if task.action == TaskAction::Delete => {
            follow(snapshot, context, &found, task, now).await
        }
        _ => {
            begin(
                snapshot,
                context,
                &found,
                status.attempt.unwrap_or(0) + 1,
                now,
            )
            .await
        }
    }
}

/// Hands the deletion to the primary, which can reach the store.
async fn begin(
    snapshot: &Snapshot,
    context: &Context,
    found: &Found,
    attempt: u32,
    now: Timestamp,
) -> Result<Action, ReconcileError> {
    let database = found
        .database
        .as_ref()
        .and_then(|database| database.status.as_ref());
    let primary = database.and_then(|status| status.primary.clone());
    let Some(instance) = primary else {
        let reason = "no instance of its database is there to delete its data; set spec.deletionPolicy to Retain to delete the Snapshot and keep its data";
        return obstacle(snapshot, context, reason, now).await;
    };
    let task = SnapshotTask {
        snapshot_uid: snapshot.uid().unwrap_or_default(),
        instance,
        attempt,
        action: TaskAction::Delete,
        storage: snapshot.spec.storage.clone(),
        minimum_lsn: None,
        deadline: None,
    };
    let message = format!("Wiping out Snapshot: {}", snapshot.name_any());
    let note = Note::normal(component::SNAPSHOT_CONTROLLER, "WipingOut", message);
    super::publish_on_both(context, snapshot, found, &note, now).await;
    patch_task(context, snapshot, found, &json!(task)).await?;
    Ok(Action::requeue(RETRY))
}

async fn follow(
    snapshot: &Snapshot,
    context: &Context,
    found: &Found,
    task: &SnapshotTask,
    now: Timestamp,
) -> Result<Action, ReconcileError> {
    let name = snapshot.name_any();
    let report = found
        .database
        .as_ref()
        .and_then(|database| {
            database
                .status
                .as_ref()?
                .instances
                .get(&task.instance)?
                .tasks
                .get(&name)
        })
        .filter(|report| report.attempt == task.attempt);
    match report.map(|report| (report.phase, report)) {
        Some((TaskPhase::Succeeded, _)) => {
            let message = format!("Successfully wiped out Snapshot: {name}");
            let note = Note::normal(component::SNAPSHOT_CONTROLLER, "SuccessfulWipeOut", message);
            super::publish_on_both(context, snapshot, found, &note, now).await;
            release(snapshot, context, found).await
        }
        Some((TaskPhase::Failed, report)) => {
            let why = report.reason.clone().unwrap_or_default();
            let reason = format!(
                "Failed to wipeOut. Reason: {why}; set spec.deletionPolicy to Retain to delete the Snapshot and keep its data"
            );
            let is_due = now.duration_since(report.heartbeat_time).unsigned_abs() >= RETRY;
            if is_due {
                begin(snapshot, context, found, task.attempt + 1, now).await?;
            }
            obstacle(snapshot, context, &reason, now).await
        }
        _ => Ok(Action::requeue(RETRY)),
    }
}

async fn obstacle(
    snapshot: &Snapshot,
    context: &Context,
    reason: &str,
    now: Timestamp,
) -> Result<Action, ReconcileError> {
    let is_told = snapshot
        .status
        .as_ref()
        .and_then(|status| status.reason.as_deref())
        == Some(reason);
    if !is_told {
        let note = Note::warning(component::SNAPSHOT_CONTROLLER, event::FAILED, reason);
        publish(&context.client, snapshot, &note, now).await;
        patch_status(snapshot, context, json!({ "reason": reason })).await?;
    }
    Ok(Action::requeue(RETRY))
}

/// Takes the task and the finalizer away: the object goes.
async fn release(
    snapshot: &Snapshot,
    context: &Context,
    found: &Found,
) -> Result<Action, ReconcileError> {
    patch_task(context, snapshot, found, &Value::Null).await?;
    let mut finalizers = snapshot.finalizers().to_vec();
    finalizers.retain(|finalizer| finalizer != labels::FINALIZER);
    let patch = json!({ "metadata": { "finalizers": finalizers, "resourceVersion": snapshot.resource_version() } });
    patch_main(snapshot, context, &patch).await?;
    Ok(Action::await_change())
}

async fn namespace_goes(snapshot: &Snapshot, context: &Context) -> Result<bool, ReconcileError> {
    let namespace = Api::<Namespace>::all(context.client.clone())
        .get_opt(&snapshot.namespace().unwrap_or_default())
        .await
        .map_err(request("get the namespace"))?;
    Ok(namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()))
}
