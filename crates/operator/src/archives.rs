//! Deletes the archive of a database that is wiped out, and the data keys of its Snapshots: its rows are in it. No agent is left that could, so that the platform does.

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

/// The work, of each store; none where nothing is archived or encrypted, or where nobody knows any more which archive it is.
fn works(wiping: &Wiping<'_>) -> Vec<DataTask> {
    let Some(lineage) = wiping.lineage else {
        return Vec::new();
    };
    let uid = wiping.data_uid;
    let task = |storage: &SnapshotStorage, what: &str| DataTask {
        namespace: wiping.key.namespace.clone(),
        database: wiping.key.name.clone(),
        archive: Some(lineage.to_owned()),
        snapshot: wiping.key.name.clone(),
        snapshot_uid: format!("{uid}-{what}"),
        storage: storage.clone(),
    };
    let archive = storage(wiping);
    // Keys to Snapshots lie beside them.
    let schedule = wiping.spec.backup_schedule.as_ref();
    let keys = schedule
        .map(|schedule| &schedule.storage)
        .filter(|storage| storage.encryption.is_some() && Some(*storage) != archive);
    let archive = archive.map(|storage| task(storage, "archive"));
    archive
        .into_iter()
        .chain(keys.map(|storage| task(storage, "keys")))
        .collect()
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
    let works = works(wiping);
    if works.is_empty() {
        return Ok(None);
    }
    let readers = operator.databases.state();
    if let Some(reader) = readers
        .iter()
        .find(|other| is_recovering(other, wiping.key))
    {
        let (namespace, name) = (reader.namespace().unwrap_or_default(), reader.name_any());
        let why = format!("Postgres {namespace}/{name} is being recovered from the archive");
        return Ok(Some(why));
    }
    for task in works {
        let waits = match after(&run(operator, wiping, &task).await?) {
            DeletionAction::Release { .. } => continue,
            DeletionAction::Wait {
                obstacle: Some(why),
                ..
            } => format!("the archive: {why}"),
            _ => "its archive is being deleted".to_owned(),
        };
        return Ok(Some(waits));
    }
    Ok(None)
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
    for task in works(wiping) {
        operator.tasks.leave(&task.snapshot_uid);
        operator.platform.forget_data(&task).await?;
    }
    Ok(())
}
