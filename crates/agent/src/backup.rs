//! One Snapshot, taken by this instance.

use kubedb_api::protocol::{SnapshotTask, TaskPhase, TaskStatus};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;

/// Everything the job needs, taken out of the agent so that it can run beside the loop.
pub(crate) struct Job {
    name: String,
    cancel: CancellationToken,
}

impl Job {
    pub(crate) fn new(
        _agent: &Agent,
        name: &str,
        _task: &SnapshotTask,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            name: name.to_owned(),
            cancel,
        }
    }

    pub(crate) async fn run(self, status: watch::Sender<TaskStatus>, changed: &Notify) {
        tracing::warn!(
            snapshot = self.name,
            cancelled = self.cancel.is_cancelled(),
            "refused"
        );
        status.send_modify(|status| {
            status.phase = TaskPhase::Failed;
            status.reason = Some("taking Snapshots is not built yet".to_owned());
            status.retryable = Some(false);
        });
        changed.notify_one();
    }
}
