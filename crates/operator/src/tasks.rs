//! Work that the platform does because no agent can: how much of it at once, and how often it failed. In memory, because a restart may forget it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use jiff::SignedDuration;
use kubedb_api::{agent_config::DataTask, storage::SnapshotStorage};
use kubedb_core::deletion::Running;

use crate::{
    context::ReconcileError,
    operator::Operator,
    platform::{PlatformError, TaskState},
};

/// Pieces of work at once: each is a process or a pod, and a database that is wiped out may have thousands of Snapshots.
const TASKS_MAX: usize = 8;

#[derive(Clone, Debug, Default)]
struct Known {
    failures: u32,
    /// Why it failed last, and since when it stands still; none while it is in work.
    failed: Option<(String, Instant)>,
}

/// What is known, by the UID of the Snapshot.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    known: Mutex<HashMap<String, Known>>,
}

impl Tasks {
    /// Takes a place, which it keeps until it failed or is over. Returns whether there is one. Whoever does not exist any more keeps none.
    pub(crate) fn enter(&self, uid: &str, existing: impl FnOnce() -> HashSet<String>) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_in = |known: &Known| known.failed.is_none();
        if known.get(uid).is_some_and(is_in) {
            return true;
        }
        if known.values().filter(|known| is_in(known)).count() >= TASKS_MAX {
            let existing = existing();
            known.retain(|uid, _| existing.contains(uid));
        }
        if known.values().filter(|known| is_in(known)).count() >= TASKS_MAX {
            return false;
        }
        known.entry(uid.to_owned()).or_default().failed = None;
        true
    }

    /// Counts a failure.
    pub(crate) fn failed(&self, uid: &str, reason: String, now: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = known.get_mut(uid) {
            own.failures = own.failures.saturating_add(1);
            own.failed = Some((reason, now));
        }
    }

    /// How it stands still after a failure; none of what is in work or was never begun.
    pub(crate) fn failure(&self, uid: &str, now: Instant) -> Option<Running> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let own = known.get(uid)?;
        let (reason, failed) = own.failed.clone()?;
        let since = now.saturating_duration_since(failed);
        Some(Running::Failed {
            reason,
            failures: own.failures,
            since: SignedDuration::try_from(since).unwrap_or(SignedDuration::MAX),
        })
    }

    /// It is over. Returns whether it was ever begun.
    pub(crate) fn leave(&self, uid: &str) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(uid).is_some()
    }
}

/// Has the platform delete, and says where it stands. A failure is counted.
pub(crate) async fn carry_out(
    operator: &Operator,
    task: &DataTask,
    pull_secrets: &[String],
) -> Result<Running, ReconcileError> {
    let reason = match operator.platform.delete_data(task, pull_secrets).await {
        Ok(TaskState::Running { obstacle }) => return Ok(Running::Busy { obstacle }),
        Ok(TaskState::Succeeded) => return Ok(Running::Done),
        Ok(TaskState::Failed { reason }) => reason,
        // As when a quota has no room: told like a store that refuses.
        Err(error @ (PlatformError::Act { .. } | PlatformError::Refuse { .. })) => {
            ReconcileError::from(error).text()
        }
        Err(error) => return Err(error.into()),
    };
    if let Err(error) = operator.platform.forget_data(task).await {
        tracing::warn!(%error, "a failed task stays for now");
    }
    let uid = &task.snapshot_uid;
    operator.tasks.failed(uid, reason, Instant::now());
    let failure = operator.tasks.failure(uid, Instant::now());
    Ok(failure.unwrap_or(Running::Busy { obstacle: None }))
}

/// Says which Secret is missing. Without it a store cannot be asked, and a pod would wait for it without a word.
pub(crate) async fn missing_secret(
    operator: &Operator,
    namespace: &str,
    storage: &SnapshotStorage,
) -> Result<Option<String>, ReconcileError> {
    let Some(name) = &storage.storage_secret_name else {
        return Ok(None);
    };
    let is_there = operator.finds_secret(namespace, name).await?;
    Ok((!is_there).then(|| format!("secrets \"{name}\" not found")))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_failure_gives_the_place_to_another_and_is_remembered() {
        let tasks = Tasks::default();
        let now = Instant::now();
        let numbers = || (0..TASKS_MAX).map(|number| number.to_string());
        let all = || numbers().chain(["more".to_owned()]).collect();
        let enter = |uid: &str| tasks.enter(uid, all);
        for number in 0..TASKS_MAX {
            assert!(enter(&number.to_string()));
            assert!(enter(&number.to_string()));
        }
        assert!(!enter("more"));
        tasks.failed("0", "why".to_owned(), now);
        assert!(enter("more"));
        assert!(!enter("0"));
        let failed = |failures, since| Running::Failed {
            reason: "why".to_owned(),
            failures,
            since: SignedDuration::from_secs(since),
        };
        let later = now + Duration::from_secs(7);
        assert_eq!(tasks.failure("0", later), Some(failed(1, 7)));
        assert_eq!(tasks.failure("more", later), None);
        assert!(tasks.leave("more") && !tasks.leave("more"));
        assert!(enter("0"));
        assert_eq!(tasks.failure("0", later), None);
        tasks.failed("0", "why".to_owned(), later);
        assert_eq!(tasks.failure("0", later), Some(failed(2, 0)));
    }

    #[test]
    fn who_is_gone_keeps_no_place() {
        let tasks = Tasks::default();
        let all = || (0..TASKS_MAX).map(|number| number.to_string());
        for number in all() {
            assert!(tasks.enter(&number, HashSet::new));
        }
        assert!(!tasks.enter("more", || all().collect()));
        assert!(tasks.enter("more", || all().skip(1).collect()));
    }
}
