//! Deletes the archive of a database that is wiped out: its rows are in it. No agent is left that could, so that the platform does.

use std::time::Instant;

use kube::ResourceExt as _;
use kubedb_api::{agent_config::DataTask, storage::SnapshotStorage};
use kubedb_core::deletion::{DeletionAction, Running, after};

use crate::{
    context::ReconcileError,
    operator::Operator,
    postgres::is_recovering,
    tasks::{carry_out, missing_secret},
    wipe::Wiping,
};

/// The work; none where there is no archive, or where nobody knows any more which one it is.
fn work(wiping: &Wiping<'_>) -> Option<DataTask> {
    let storage = storage(wiping)?.clone();
    let uid = wiping.data_uid;
    Some(DataTask {
        namespace: wiping.key.namespace.clone(),
        database: wiping.key.name.clone(),
        archive: Some(wiping.lineage?.to_owned()),
        snapshot: wiping.key.name.clone(),
        snapshot_uid: format!("{uid}-archive"),
        storage,
    })
}

/// Where the database archives.
pub(crate) fn storage<'a>(wiping: &Wiping<'a>) -> Option<&'a SnapshotStorage> {
    wiping.spec.archiver.as_ref()?.storage.as_ref()
}

/// Deletes it. Returns what it waits for; none when it is gone. Until it is forgotten it stays done.
pub(crate) async fn delete(
    operator: &Operator,
    wiping: &Wiping<'_>,
) -> Result<Option<String>, ReconcileError> {
    let Some(task) = work(wiping) else {
        return Ok(None);
    };
    let readers = operator.databases.state();
    if let Some(reader) = readers
        .iter()
        .find(|other| is_recovering(other, wiping.key))
    {
        let (namespace, name) = (reader.namespace().unwrap_or_default(), reader.name_any());
        let why = format!("Postgres {namespace}/{name} is being recovered from the archive");
        return Ok(Some(why));
    }
    Ok(match after(&run(operator, wiping, &task).await?) {
        DeletionAction::Release { .. } => None,
        DeletionAction::Wait {
            obstacle: Some(why),
            ..
        } => Some(format!("the archive: {why}")),
        _ => Some("its archive is being deleted".to_owned()),
    })
}

async fn run(
    operator: &Operator,
    wiping: &Wiping<'_>,
    task: &DataTask,
) -> Result<Running, ReconcileError> {
    let uid = &task.snapshot_uid;
    if let Some(failure) = operator.tasks.failure(uid, Instant::now())
        && !matches!(after(&failure), DeletionAction::Run)
    {
        return Ok(failure);
    }
    let obstacle = missing_secret(operator, &task.namespace, &task.storage).await?;
    if obstacle.is_some() {
        return Ok(Running::Busy { obstacle });
    }
    let known = || {
        let known = operator.snapshots.state();
        let known = known.iter().filter_map(|known| known.uid());
        known.chain([uid.clone()]).collect()
    };
    if !operator.tasks.enter(uid, known) {
        return Ok(Running::Busy { obstacle: None });
    }
    carry_out(operator, task, &wiping.spec.pull_secrets()).await
}

/// Everything of the database is gone, and so is the work.
pub(crate) async fn forget(operator: &Operator, wiping: &Wiping<'_>) -> Result<(), ReconcileError> {
    if let Some(task) = work(wiping) {
        operator.tasks.leave(&task.snapshot_uid);
        operator.platform.forget_data(&task).await?;
    }
    Ok(())
}
