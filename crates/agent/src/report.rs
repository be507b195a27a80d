//! What the agent tells the API: at once when something changed, never twice a second, and otherwise as often as it has to give a sign of life.

use std::time::Duration;

use jiff::Timestamp;
use kubedb_api::archiver::ArchiveStatus;
use kubedb_api::monitor::MetricsStatus;
use kubedb_api::protocol::{InstancePhase, InstanceRole, InstanceStatus, TaskPhase, TaskStatus};
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::{agent::Agent, tasks::Tasks};

/// Sign of life when nothing changes; the operator waits for three of them.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// So seldom does one tell where it stands that lives by its Lease, which it renews as often as it would report otherwise.
const POSITION: Duration = Duration::from_secs(30);
/// Shortest pause between two reports.
const PAUSE: Duration = Duration::from_secs(1);

/// Remembers what was sent.
#[derive(Debug)]
pub(crate) struct Reporter {
    sent: Option<InstanceStatus>,
    sent_at: Option<Instant>,
}

impl Reporter {
    pub(crate) fn new() -> Self {
        Self {
            sent: None,
            sent_at: None,
        }
    }

    /// Sends a report if one is due. A failure is only logged: the next round tries again.
    pub(crate) async fn send(&mut self, agent: &Agent, mut status: InstanceStatus) {
        let now = Instant::now();
        let is_due = match (&self.sent, self.sent_at) {
            (Some(sent), Some(at)) => {
                let silent = now.duration_since(at);
                silent >= rhythm(agent.lives_by_lease(), &status) || (silent >= PAUSE && without_pulse(sent) != without_pulse(&status))
                    // A change of phase or readiness is what people wait for.
                    || (sent.phase, sent.ready) != (status.phase, status.ready)
            }
            // The last one was not taken.
            (None, Some(at)) => now.duration_since(at) >= PAUSE,
            (_, None) => true,
        };
        if !is_due {
            return;
        }
        status.heartbeat_time = Some(Timestamp::now());
        let patch = patch(self.sent.as_ref(), &status);
        match agent.api.report(&patch).await {
            Ok(()) => self.sent = Some(status),
            Err(error) => {
                tracing::warn!(%error, "the report was not taken");
                self.sent = None;
            }
        }
        // Also after a failure, so that an API in trouble is not asked all the time.
        self.sent_at = Some(now);
    }
}

/// How often a report is due in which nothing is new. What runs gives its own signs of life, and how far an archive goes is what somebody may wait for.
fn rhythm(lives_by_lease: bool, status: &InstanceStatus) -> Duration {
    let mut tasks = status.tasks.values();
    let is_idle = tasks.all(|task| task.phase != TaskPhase::Running);
    if lives_by_lease && is_idle && status.archive.is_none() {
        POSITION
    } else {
        HEARTBEAT
    }
}

/// Without what changes all the time and interests nobody by itself.
fn without_pulse(status: &InstanceStatus) -> InstanceStatus {
    let mut status = status.clone();
    status.heartbeat_time = None;
    status.lsn = None;
    if let Some(archive) = &mut status.archive {
        archive.covered_time = None;
        archive.last_segment = None;
        archive.last_archived_time = None;
        // That something waits is told; each file of a long queue is not.
        archive.waiting_segments = archive.waiting_segments.min(2);
    }
    for task in status.tasks.values_mut() {
        task.heartbeat_time = Timestamp::UNIX_EPOCH;
    }
    status
}

pub(crate) fn status_of(agent: &Agent, tasks: &Tasks) -> InstanceStatus {
    let role = agent.role();
    let is_up = agent.view.is_some();
    let streams = agent.view.as_ref().is_some_and(|view| view.streaming);
    let phase = match (&agent.job, &agent.failure) {
        (Some(job), _) => job.phase,
        (None, Some(failure)) if failure.is_final => InstancePhase::Failed,
        _ if is_up => InstancePhase::Running,
        _ if agent.postmaster.is_some() => InstancePhase::Starting,
        _ => InstancePhase::Waiting,
    };
    InstanceStatus {
        role,
        phase,
        ready: agent.is_ready(),
        reason: match &agent.failure {
            Some(failure) => Some(failure.reason.clone()),
            None if is_up => agent.trouble.clone().filter(|_| !streams),
            None => Some(agent.reason.clone()),
        },
        session: agent.session_id.clone(),
        heartbeat_time: None,
        start_time: agent.started,
        endpoint: Some(agent.config.endpoint()),
        postgres_version: Some(agent.config.postgres_version.clone()),
        system_identifier: agent
            .state
            .as_ref()
            .map(|state| state.system_identifier.to_string()),
        lineage: agent.state.as_ref().map(|state| state.lineage.clone()),
        timeline: agent.state.as_ref().map(|state| state.timeline),
        lsn: agent
            .view
            .as_ref()
            .and_then(|view| view.lsn)
            .map(|lsn| lsn.to_string()),
        streaming: agent
            .view
            .as_ref()
            .filter(|view| view.in_recovery)
            .map(|view| view.streaming),
        archive: agent
            .desk
            .archiver()
            .filter(|_| role == Some(InstanceRole::Primary))
            .map(|archiver| archiver.status()),
        metrics: agent.metrics.clone(),
        tasks: tasks.statuses(),
    }
}

/// A merge patch: what vanished becomes `null`. After a failure everything is sent, and unknown keys of an earlier session
/// are removed by the operator's own clean-up of finished tasks.
fn patch(sent: Option<&InstanceStatus>, status: &InstanceStatus) -> Value {
    let mut new = to_map(status);
    let old = sent.map(to_map).unwrap_or_else(|| to_map(&all_fields()));
    fill_nulls(&old, &mut new);
    Value::Object(new)
}

fn fill_nulls(old: &Map<String, Value>, new: &mut Map<String, Value>) {
    for (key, value) in old {
        match (value, new.get_mut(key)) {
            (_, None) => {
                new.insert(key.clone(), Value::Null);
            }
            (Value::Object(old), Some(Value::Object(new))) => fill_nulls(old, new),
            _ => {}
        }
    }
}

fn to_map(status: &InstanceStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// Every field set once, so that a first report clears what an earlier session left behind.
fn all_fields() -> InstanceStatus {
    InstanceStatus {
        role: Some(InstanceRole::Standby),
        reason: Some(String::new()),
        start_time: Some(Timestamp::UNIX_EPOCH),
        system_identifier: Some(String::new()),
        lineage: Some(String::new()),
        timeline: Some(0),
        lsn: Some(String::new()),
        streaming: Some(false),
        archive: Some(ArchiveStatus {
            last_segment: Some(String::new()),
            last_archived_time: Some(Timestamp::UNIX_EPOCH),
            covered_time: Some(Timestamp::UNIX_EPOCH),
            failing_since: Some(Timestamp::UNIX_EPOCH),
            disk_full_time: Some(Timestamp::UNIX_EPOCH),
            reason: Some(String::new()),
            waiting_segments: 0,
            gaps: Some(0),
            missing: Some(String::new()),
        }),
        metrics: Some(MetricsStatus {
            endpoint: Some(String::new()),
            reason: Some(String::new()),
        }),
        ..InstanceStatus::default()
    }
}

/// Keeps the type in sight of `tasks`.
pub(crate) type TaskStatuses = std::collections::BTreeMap<String, TaskStatus>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lives_by_a_lease_reports_seldom_unless_something_goes_on() {
        let mut status = InstanceStatus::default();
        assert_eq!(rhythm(true, &status), POSITION);
        assert_eq!(rhythm(false, &status), HEARTBEAT);
        let task = |phase| TaskStatus {
            snapshot_uid: "u".to_owned(),
            attempt: 1,
            session: "s".to_owned(),
            phase,
            heartbeat_time: Timestamp::UNIX_EPOCH,
            progress: None,
            result: None,
            verification: None,
            reason: None,
            retryable: None,
        };
        let tasks = &mut status.tasks;
        tasks.insert("ended".to_owned(), task(TaskPhase::Succeeded));
        assert_eq!(rhythm(true, &status), POSITION);
        status.archive = Some(ArchiveStatus::default());
        assert_eq!(rhythm(true, &status), HEARTBEAT);
        status.archive = None;
        let tasks = &mut status.tasks;
        tasks.insert("runs".to_owned(), task(TaskPhase::Running));
        assert_eq!(rhythm(true, &status), HEARTBEAT);
    }
}
