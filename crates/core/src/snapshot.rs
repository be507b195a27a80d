//! What becomes of a Snapshot next: waiting, assigned to an instance, done or failed. Never stuck.

use jiff::{SignedDuration, Timestamp};

use crate::lsn::Lsn;

/// Assignments after which a Snapshot fails for good.
pub const ATTEMPTS_MAX: u32 = 3;
/// Silence of an agent after which its attempt counts as dead: three heartbeats of ten seconds.
pub const SILENCE_LIMIT: SignedDuration = SignedDuration::from_secs(30);
/// How long a Snapshot waits for its turn, its Secret and a running database.
pub const PENDING_LIMIT: SignedDuration = SignedDuration::from_hours(1);
/// How long one attempt may take.
pub const RUNNING_LIMIT: SignedDuration = SignedDuration::from_hours(24);

/// An instance that could take the Snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub instance: String,
    /// Whether it is the primary.
    pub is_primary: bool,
    /// Whether it accepts connections and, as a standby, streams.
    pub is_healthy: bool,
    /// Write position of a primary, replay position of a standby, as last reported.
    pub lsn: Option<Lsn>,
}

/// What the assigned agent reports of this attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Nothing yet.
    None,
    /// In work, last heard of then.
    Running {
        /// Last sign of life.
        heartbeat: Timestamp,
    },
    /// The manifest was read back.
    Succeeded,
    /// Given up.
    Failed {
        /// Why.
        reason: String,
        /// Whether another attempt can help.
        is_retryable: bool,
    },
}

/// Where a Snapshot stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not assigned.
    Pending {
        /// Since when; the object's creation.
        since: Timestamp,
        /// Attempts that were made.
        attempts: u32,
    },
    /// Assigned.
    Running {
        /// Since when.
        since: Timestamp,
        /// Number of this attempt.
        attempt: u32,
        /// What its agent says.
        report: Report,
        /// Whether the instance still is part of the database.
        instance_exists: bool,
    },
}

/// Everything a decision rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotView {
    /// The time.
    pub now: Timestamp,
    /// Where it stands.
    pub stage: Stage,
    /// What keeps it from starting, in words: a missing Secret, a database that is not Running.
    pub obstacle: Option<String>,
    /// Whether the database exists.
    pub database_exists: bool,
    /// An older Snapshot of the same database that is Pending or Running.
    pub before: Option<String>,
    /// Instances of the database.
    pub candidates: Vec<Candidate>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotAction {
    /// Look again when something changes, at the latest then.
    Wait {
        /// The next deadline.
        until: Timestamp,
    },
    /// Hand it to an instance.
    Assign {
        /// Which.
        instance: String,
        /// Number of the attempt.
        attempt: u32,
        /// What a standby must have replayed before it starts.
        minimum_lsn: Option<Lsn>,
    },
    /// Take it back, so that it can be assigned anew.
    Withdraw,
    /// Done.
    Succeed,
    /// Over, for good.
    Fail,
}

/// What to do, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotDecision {
    /// What.
    pub action: SnapshotAction,
    /// Why, in words for status and Event.
    pub reason: String,
}

fn decision(action: SnapshotAction, reason: impl Into<String>) -> SnapshotDecision {
    SnapshotDecision {
        action,
        reason: reason.into(),
    }
}

/// Decides.
#[must_use]
pub fn decide(view: &SnapshotView) -> SnapshotDecision {
    if !view.database_exists {
        // A finished attempt still counts: its data is in the store.
        return match &view.stage {
            Stage::Running {
                report: Report::Succeeded,
                ..
            } => decision(SnapshotAction::Succeed, "the manifest was read back"),
            _ => decision(SnapshotAction::Fail, "the database was deleted"),
        };
    }
    match &view.stage {
        Stage::Pending { since, attempts } => decide_pending(view, *since, *attempts),
        Stage::Running {
            since,
            attempt,
            report,
            instance_exists,
        } => decide_running(view, *since, *attempt, report, *instance_exists),
    }
}

fn decide_pending(view: &SnapshotView, since: Timestamp, attempts: u32) -> SnapshotDecision {
    let deadline = later(since, PENDING_LIMIT);
    let obstacle = match (&view.before, &view.obstacle) {
        (Some(before), _) => Some(format!(
            "Snapshot {before} of the same database comes first"
        )),
        (None, obstacle) => obstacle.clone(),
    };
    let chosen = choose(&view.candidates);
    let obstacle = match (&obstacle, chosen) {
        (None, Some((candidate, minimum_lsn))) => {
            return decision(
                SnapshotAction::Assign {
                    instance: candidate.instance.clone(),
                    attempt: attempts + 1,
                    minimum_lsn,
                },
                if candidate.is_primary {
                    "no standby is healthy, so the primary takes it"
                } else {
                    "a standby takes it, to spare the primary"
                },
            );
        }
        (Some(obstacle), _) => obstacle.clone(),
        (None, None) => "no instance is healthy".to_owned(),
    };
    if view.now >= deadline {
        let reason = format!("not started within {}: {obstacle}", words(PENDING_LIMIT));
        return decision(SnapshotAction::Fail, reason);
    }
    decision(SnapshotAction::Wait { until: deadline }, obstacle)
}

fn decide_running(
    view: &SnapshotView,
    since: Timestamp,
    attempt: u32,
    report: &Report,
    instance_exists: bool,
) -> SnapshotDecision {
    let deadline = later(since, RUNNING_LIMIT);
    match report {
        Report::Succeeded => decision(SnapshotAction::Succeed, "the manifest was read back"),
        Report::Failed {
            reason,
            is_retryable: false,
        } => decision(SnapshotAction::Fail, reason.clone()),
        Report::Failed { reason, .. } => again_or_fail(attempt, reason),
        _ if view.now >= deadline => {
            let reason = format!("not finished within {}", words(RUNNING_LIMIT));
            decision(SnapshotAction::Fail, reason)
        }
        _ if !instance_exists => again_or_fail(attempt, "its instance was removed"),
        Report::None | Report::Running { .. } => {
            let heard = match report {
                Report::Running { heartbeat } => (*heartbeat).max(since),
                _ => since,
            };
            let silent = later(heard, SILENCE_LIMIT);
            if view.now >= silent {
                let reason = format!("its agent was silent for {}", words(SILENCE_LIMIT));
                again_or_fail(attempt, &reason)
            } else {
                let until = silent.min(deadline);
                decision(SnapshotAction::Wait { until }, "in work")
            }
        }
    }
}

fn again_or_fail(attempt: u32, reason: &str) -> SnapshotDecision {
    if attempt < ATTEMPTS_MAX {
        let reason = format!("attempt {attempt} of {ATTEMPTS_MAX}: {reason}");
        decision(SnapshotAction::Withdraw, reason)
    } else {
        let reason = format!("{reason} (attempt {attempt} of {ATTEMPTS_MAX})");
        decision(SnapshotAction::Fail, reason)
    }
}

/// The healthy standby that replayed most, with the primary's position as its floor; else the healthy primary.
fn choose(candidates: &[Candidate]) -> Option<(&Candidate, Option<Lsn>)> {
    let primary = candidates.iter().find(|candidate| candidate.is_primary);
    // Without the primary's position nobody can say that a standby is not behind.
    let floor = primary.and_then(|primary| primary.lsn);
    let standby = candidates
        .iter()
        .filter(|candidate| !candidate.is_primary && candidate.is_healthy)
        .max_by_key(|candidate| candidate.lsn);
    match (standby, floor) {
        (Some(standby), Some(floor)) => Some((standby, Some(floor))),
        _ => primary
            .filter(|primary| primary.is_healthy)
            .map(|primary| (primary, None)),
    }
}

fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

fn words(duration: SignedDuration) -> String {
    match duration.as_secs() {
        seconds if seconds % 3_600 == 0 => format!("{} h", seconds / 3_600),
        seconds => format!("{seconds} s"),
    }
}
