//! What becomes of a Snapshot next: waiting, assigned to an instance, done or failed. Never stuck.

use jiff::{SignedDuration, Timestamp};

use crate::{
    lsn::Lsn,
    steps::{Step, skipped},
    turns::JITTER_MAX,
};

/// Assignments after which a Snapshot fails for good.
pub const ATTEMPTS_MAX: u32 = 3;
/// Silence of an agent after which its attempt counts as dead: three heartbeats of ten seconds.
pub const SILENCE_LIMIT: SignedDuration = SignedDuration::from_secs(30);
/// How long a Snapshot whose turn it is waits for its Secret, a running database and a healthy instance.
pub const PENDING_LIMIT: SignedDuration = SignedDuration::from_hours(1);
/// How long one attempt may take.
pub const RUNNING_LIMIT: SignedDuration = SignedDuration::from_hours(24);
/// How long a Snapshot waits for its turn: as long as the one before it may take with all its attempts.
pub const TURN_LIMIT: SignedDuration = SignedDuration::from_hours(72);
/// Pause before the second attempt; it doubles with each. A store that restarts is back then.
const ATTEMPT_PAUSE: SignedDuration = SignedDuration::from_secs(2);
/// A standby this far behind would keep the Snapshot waiting longer than sparing the primary is worth: eight segments.
const LAG_MAX_BYTES: u64 = 128 << 20;

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
    /// Nothing.
    None,
    /// In work.
    Running,
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
        /// When the object was created.
        created: Timestamp,
        /// Since when nothing but itself keeps it: its turn has come, or its last attempt was taken back.
        waiting: Option<Timestamp>,
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
        /// For how long its agent has said nothing new, by our clock.
        silence: SignedDuration,
        /// Whether the instance still is part of the database.
        instance_exists: bool,
    },
}

/// Everything a decision rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotView {
    /// The time.
    pub now: Timestamp,
    /// Steps forward that the clock made.
    pub steps: Vec<Step>,
    /// Where it stands.
    pub stage: Stage,
    /// What keeps it from starting, in words: a database that is not Running.
    pub obstacle: Option<String>,
    /// The same, where others of the same database do not meet it: its storage Secret is missing. It stands in nobody's way meanwhile.
    pub own_obstacle: Option<String>,
    /// Whether the database exists.
    pub database_exists: bool,
    /// Why it is not its turn, in words: an older Snapshot of the same database, or limits on how many run at once.
    pub before: Option<String>,
    /// A scheduled Snapshot does not start before, so that not all start on the tick.
    pub not_before: Option<Timestamp>,
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

/// What a Snapshot waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// Its turn, and so others.
    Turn,
    /// Something of its own, so that others need not wait for it.
    ItsOwn,
    /// Nothing but a time.
    Time,
    /// Its database, or for nothing.
    Database,
}

/// What to do, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotDecision {
    /// What.
    pub action: SnapshotAction,
    /// Why, in words for status and Event.
    pub reason: String,
    /// What it waits for, if it does.
    pub waits_for: WaitsFor,
}

/// One of a Snapshot that waits for its database, or for nothing.
#[must_use]
pub fn decision(action: SnapshotAction, reason: impl Into<String>) -> SnapshotDecision {
    SnapshotDecision {
        action,
        reason: reason.into(),
        waits_for: WaitsFor::Database,
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
        Stage::Pending {
            created,
            waiting,
            attempts,
        } => decide_pending(view, *created, *waiting, *attempts),
        Stage::Running {
            since,
            attempt,
            report,
            silence,
            instance_exists,
        } => decide_running(view, *since, *attempt, report, *silence, *instance_exists),
    }
}

fn decide_pending(
    view: &SnapshotView,
    created: Timestamp,
    waiting: Option<Timestamp>,
    attempts: u32,
) -> SnapshotDecision {
    // What lies in the future was written before the clock was set back.
    let since = waiting
        .filter(|since| *since <= view.now)
        .unwrap_or(view.now);
    if let Some(obstacle) = &view.own_obstacle {
        let deadline = deadline(view, since, PENDING_LIMIT);
        let decided = wait_or_fail(view.now, deadline, PENDING_LIMIT, obstacle.clone());
        return SnapshotDecision {
            waits_for: WaitsFor::ItsOwn,
            ..decided
        };
    }
    if let Some(before) = &view.before {
        let deadline = deadline(view, created, TURN_LIMIT);
        let decided = wait_or_fail(view.now, deadline, TURN_LIMIT, before.clone());
        return SnapshotDecision {
            waits_for: WaitsFor::Turn,
            ..decided
        };
    }
    // The pause is over when somebody else kept it from starting meanwhile.
    let pauses = if waiting.is_some() { attempts } else { 0 };
    let start = start(view, since, pauses);
    if view.now < start {
        return SnapshotDecision {
            waits_for: WaitsFor::Time,
            ..decision(SnapshotAction::Wait { until: start }, "its start is near")
        };
    }
    let obstacle = match (&view.obstacle, choose(&view.candidates, attempts)) {
        (None, Some((candidate, minimum_lsn))) => {
            return decision(
                SnapshotAction::Assign {
                    instance: candidate.instance.clone(),
                    attempt: attempts + 1,
                    minimum_lsn,
                },
                if candidate.is_primary {
                    "the primary takes it"
                } else {
                    "a standby takes it, to spare the primary"
                },
            );
        }
        (Some(obstacle), _) => obstacle.clone(),
        (None, None) => "no instance is healthy".to_owned(),
    };
    let deadline = deadline(view, since.max(start), PENDING_LIMIT);
    wait_or_fail(view.now, deadline, PENDING_LIMIT, obstacle)
}

/// When it may start: after its jitter, and after a pause that follows a failed attempt.
fn start(view: &SnapshotView, since: Timestamp, attempts: u32) -> Timestamp {
    let pause = match attempts {
        0 => SignedDuration::ZERO,
        _ => ATTEMPT_PAUSE * (1 << (attempts - 1).min(4)),
    };
    // One that is further away than a jitter can be was drawn before the clock was set back.
    let jitter = view
        .not_before
        .filter(|time| *time <= later(view.now, JITTER_MAX))
        .unwrap_or(since);
    later(since, pause).max(jitter)
}

fn wait_or_fail(
    now: Timestamp,
    deadline: Timestamp,
    limit: SignedDuration,
    obstacle: String,
) -> SnapshotDecision {
    if now >= deadline {
        let reason = format!("not started within {}: {obstacle}", words(limit));
        return decision(SnapshotAction::Fail, reason);
    }
    decision(SnapshotAction::Wait { until: deadline }, obstacle)
}

fn decide_running(
    view: &SnapshotView,
    since: Timestamp,
    attempt: u32,
    report: &Report,
    silence: SignedDuration,
    instance_exists: bool,
) -> SnapshotDecision {
    let deadline = deadline(view, since, RUNNING_LIMIT);
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
        Report::None | Report::Running => match SILENCE_LIMIT.checked_sub(silence) {
            Some(left) if left > SignedDuration::ZERO => {
                let until = later(view.now, left).min(deadline);
                decision(SnapshotAction::Wait { until }, "in work")
            }
            _ => {
                let reason = format!("its agent was silent for {}", words(SILENCE_LIMIT));
                again_or_fail(attempt, &reason)
            }
        },
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

/// The healthy standby that replayed most, with the primary's position as its floor; else the healthy primary. After a failed
/// attempt the primary comes first: it has nothing to catch up with, and its disk is another one.
fn choose(candidates: &[Candidate], attempts: u32) -> Option<(&Candidate, Option<Lsn>)> {
    let primary = candidates.iter().find(|candidate| candidate.is_primary);
    let healthy_primary = primary.filter(|primary| primary.is_healthy);
    // Without the primary's position nobody can say that a standby is not behind.
    let floor = primary.and_then(|primary| primary.lsn);
    let standby = candidates
        .iter()
        .filter(|candidate| !candidate.is_primary && candidate.is_healthy)
        .max_by_key(|candidate| candidate.lsn);
    match (standby, floor) {
        (Some(standby), Some(floor))
            if healthy_primary.is_none() || attempts == 0 && is_near(standby, floor) =>
        {
            Some((standby, Some(floor)))
        }
        _ => healthy_primary.map(|primary| (primary, None)),
    }
}

fn is_near(standby: &Candidate, floor: Lsn) -> bool {
    standby
        .lsn
        .is_some_and(|lsn| floor.0.saturating_sub(lsn.0) <= LAG_MAX_BYTES)
}

/// When a limit is over. A clock that was set forward meanwhile does not shorten it.
fn deadline(view: &SnapshotView, since: Timestamp, limit: SignedDuration) -> Timestamp {
    later(since, limit.saturating_add(skipped(&view.steps, since)))
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
