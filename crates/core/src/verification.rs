//! What becomes of a verification next: waiting, on an instance, or over with what it found. Never stuck, and never in the way of a Snapshot.
//!
//! A verification costs an instance what a restore costs, and nothing is lost when it comes later; a Snapshot that comes later is a loss. So a
//! Snapshot that is due goes first: a verification under way is taken back, and tried again after. One that was taken back too often is given up
//! with that reason, because a database whose Snapshots follow each other closer than a verification takes would never have one.

use jiff::{SignedDuration, Timestamp};

use crate::{
    snapshot::{Candidate, PENDING_LIMIT, RUNNING_LIMIT, SILENCE_LIMIT, TURN_LIMIT},
    steps::{Step, skipped},
};

/// Tries that may fail, before it is given up.
pub const TRIES_MAX: u32 = 3;
/// Times that it may be taken back for a Snapshot.
pub const YIELDS_MAX: u32 = 10;
/// Pause before the second try; it doubles with each.
const TRY_PAUSE: SignedDuration = SignedDuration::from_secs(5);

/// What the assigned agent says of this try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Nothing.
    None,
    /// In work.
    Running,
    /// Everything that was asked for is proven.
    Sound,
    /// It is proven that the Snapshot is not as it should be.
    Bad {
        /// What is wrong.
        reason: String,
    },
    /// Nothing is proven.
    Failed {
        /// Why.
        reason: String,
        /// Whether another try can help.
        is_retryable: bool,
    },
}

/// Where a verification stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not assigned.
    Waiting {
        /// Since when it is wanted, or was taken back.
        since: Timestamp,
        /// Tries that failed.
        tries: u32,
    },
    /// Assigned.
    Running {
        /// Since when.
        since: Timestamp,
        /// Tries that failed before.
        tries: u32,
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
pub struct VerificationView {
    /// The time.
    pub now: Timestamp,
    /// Steps forward that the clock made.
    pub steps: Vec<Step>,
    /// Where it stands.
    pub stage: Stage,
    /// What keeps it from starting, in words.
    pub obstacle: Option<String>,
    /// Whether the database, whose instances do it, exists.
    pub database_exists: bool,
    /// Whose turn it is instead, in words: a Snapshot of the database.
    pub before: Option<String>,
    /// Whether as many verifications run as may, in words.
    pub is_full: Option<String>,
    /// Times that it was taken back for a Snapshot.
    pub yields: u32,
    /// Instances of the database.
    pub candidates: Vec<Candidate>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerificationAction {
    /// Look again when something changes, at the latest then.
    Wait {
        /// The next deadline.
        until: Timestamp,
    },
    /// Hand it to an instance.
    Assign {
        /// Which.
        instance: String,
    },
    /// Take it back, so that it can be assigned anew.
    Withdraw {
        /// Whether it made room for a Snapshot, so that the try does not count.
        yields: bool,
    },
    /// The Snapshot is sound.
    Succeed,
    /// The Snapshot is not.
    Fail,
    /// Nobody knows.
    GiveUp,
}

/// What to do, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerificationDecision {
    /// What.
    pub action: VerificationAction,
    /// Why, in words for status and Event.
    pub reason: String,
}

fn decision(action: VerificationAction, reason: impl Into<String>) -> VerificationDecision {
    VerificationDecision {
        action,
        reason: reason.into(),
    }
}

/// Decides.
#[must_use]
pub fn decide(view: &VerificationView) -> VerificationDecision {
    match &view.stage {
        // What was found counts whatever happened since.
        Stage::Running {
            report: Report::Sound,
            ..
        } => decision(VerificationAction::Succeed, "verified"),
        Stage::Running {
            report: Report::Bad { reason },
            ..
        } => decision(VerificationAction::Fail, reason.clone()),
        _ if !view.database_exists => {
            let reason = "its database is gone, and only an instance of it can verify";
            decision(VerificationAction::GiveUp, reason)
        }
        Stage::Waiting { since, tries } => decide_waiting(view, *since, *tries),
        Stage::Running {
            since,
            tries,
            report,
            silence,
            instance_exists,
        } => {
            if let Some(before) = &view.before {
                return decision(
                    VerificationAction::Withdraw { yields: true },
                    before.clone(),
                );
            }
            decide_running(view, *since, *tries, report, *silence, *instance_exists)
        }
    }
}

fn decide_waiting(view: &VerificationView, since: Timestamp, tries: u32) -> VerificationDecision {
    // What lies in the future was written before the clock was set back.
    let since = since.min(view.now);
    if view.yields > YIELDS_MAX {
        let reason = format!(
            "taken back {YIELDS_MAX} times for Snapshots of the database, which come closer than it takes"
        );
        return decision(VerificationAction::GiveUp, reason);
    }
    let turn = view.before.as_ref().or(view.is_full.as_ref());
    if let Some(turn) = turn {
        return wait_or_give_up(view, since, TURN_LIMIT, turn);
    }
    if let Some(obstacle) = &view.obstacle {
        return wait_or_give_up(view, since, PENDING_LIMIT, obstacle);
    }
    let pause = match tries {
        0 => SignedDuration::ZERO,
        _ => TRY_PAUSE * (1 << (tries - 1).min(4)),
    };
    let start = later(since, pause);
    if view.now < start {
        return decision(
            VerificationAction::Wait { until: start },
            "its start is near",
        );
    }
    match choose(&view.candidates, tries) {
        Some(candidate) => decision(
            VerificationAction::Assign {
                instance: candidate.instance.clone(),
            },
            if candidate.is_primary {
                "the primary does it"
            } else {
                "a standby does it, to spare the primary"
            },
        ),
        None => wait_or_give_up(view, since, PENDING_LIMIT, "no instance is healthy"),
    }
}

fn decide_running(
    view: &VerificationView,
    since: Timestamp,
    tries: u32,
    report: &Report,
    silence: SignedDuration,
    instance_exists: bool,
) -> VerificationDecision {
    let deadline = deadline(view, since, RUNNING_LIMIT);
    match report {
        Report::Failed {
            reason,
            is_retryable: false,
        } => decision(VerificationAction::GiveUp, reason.clone()),
        Report::Failed { reason, .. } => again_or_give_up(tries, reason),
        _ if view.now >= deadline => {
            let reason = format!("not finished within {} h", RUNNING_LIMIT.as_hours());
            decision(VerificationAction::GiveUp, reason)
        }
        _ if !instance_exists => again_or_give_up(tries, "its instance was removed"),
        _ => match SILENCE_LIMIT.checked_sub(silence) {
            Some(left) if left > SignedDuration::ZERO => {
                let until = later(view.now, left).min(deadline);
                decision(VerificationAction::Wait { until }, "in work")
            }
            _ => {
                let reason = format!("its agent was silent for {} s", SILENCE_LIMIT.as_secs());
                again_or_give_up(tries, &reason)
            }
        },
    }
}

fn again_or_give_up(tries: u32, reason: &str) -> VerificationDecision {
    if tries + 1 >= TRIES_MAX {
        let reason = format!("{reason} ({TRIES_MAX} tries)");
        return decision(VerificationAction::GiveUp, reason);
    }
    decision(VerificationAction::Withdraw { yields: false }, reason)
}

fn wait_or_give_up(
    view: &VerificationView,
    since: Timestamp,
    limit: SignedDuration,
    why: &str,
) -> VerificationDecision {
    let deadline = deadline(view, since, limit);
    if view.now >= deadline {
        let reason = format!("not started within {} h: {why}", limit.as_hours());
        return decision(VerificationAction::GiveUp, reason);
    }
    decision(VerificationAction::Wait { until: deadline }, why)
}

/// A healthy standby, since it costs processor and disk; each further try is another instance's, for the reason may lie with the first.
fn choose(candidates: &[Candidate], tries: u32) -> Option<&Candidate> {
    let mut healthy: Vec<&Candidate> = candidates
        .iter()
        .filter(|candidate| candidate.is_healthy)
        .collect();
    healthy.sort_by_key(|candidate| (candidate.is_primary, &candidate.instance));
    let number = usize::try_from(tries).ok()?.checked_rem(healthy.len())?;
    healthy.get(number).copied()
}

/// When a limit is over. A clock that was set forward meanwhile does not shorten it.
fn deadline(view: &VerificationView, since: Timestamp, limit: SignedDuration) -> Timestamp {
    later(since, limit.saturating_add(skipped(&view.steps, since)))
}

fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
    }

    fn candidate(instance: &str, is_primary: bool, is_healthy: bool) -> Candidate {
        Candidate {
            instance: instance.to_owned(),
            is_primary,
            is_healthy,
            lsn: None,
        }
    }

    fn waiting(now: i64, tries: u32) -> VerificationView {
        VerificationView {
            now: at(now),
            steps: Vec::new(),
            stage: Stage::Waiting {
                since: at(0),
                tries,
            },
            obstacle: None,
            database_exists: true,
            before: None,
            is_full: None,
            yields: 0,
            candidates: vec![
                candidate("pg-0", true, true),
                candidate("pg-1", false, false),
                candidate("pg-2", false, true),
            ],
        }
    }

    fn running(now: i64, tries: u32, report: Report, silence: i64) -> VerificationView {
        VerificationView {
            stage: Stage::Running {
                since: at(0),
                tries,
                report,
                silence: SignedDuration::from_secs(silence),
                instance_exists: true,
            },
            ..waiting(now, 0)
        }
    }

    fn to(instance: &str) -> VerificationAction {
        VerificationAction::Assign {
            instance: instance.to_owned(),
        }
    }

    fn failed(is_retryable: bool) -> Report {
        Report::Failed {
            reason: "store down".to_owned(),
            is_retryable,
        }
    }

    #[test]
    fn a_healthy_standby_does_it_and_the_next_try_is_another_instances() {
        assert_eq!(decide(&waiting(0, 0)).action, to("pg-2"));
        assert_eq!(decide(&waiting(9, 1)).action, to("pg-0"));
        assert_eq!(decide(&waiting(99, 2)).action, to("pg-2"));
        let mut alone = waiting(0, 0);
        alone.candidates.truncate(1);
        assert_eq!(decide(&alone).action, to("pg-0"));
        alone.candidates.clear();
        let decided = decide(&alone);
        assert_eq!(
            decided.action,
            VerificationAction::Wait { until: at(3_600) }
        );
        alone.now = at(3_600);
        assert_eq!(decide(&alone).action, VerificationAction::GiveUp);
    }

    #[test]
    fn a_snapshot_goes_first_and_takes_back_what_runs_but_not_for_ever() {
        let before = Some("Snapshot two of the same database comes first".to_owned());
        let mut view = waiting(0, 0);
        view.before.clone_from(&before);
        assert!(matches!(
            decide(&view).action,
            VerificationAction::Wait { .. }
        ));
        let mut view = running(5, 0, Report::Running, 0);
        view.before.clone_from(&before);
        let back = VerificationAction::Withdraw { yields: true };
        assert_eq!(decide(&view).action, back);
        // What was found in the last moment counts.
        let mut view = running(5, 0, Report::Sound, 0);
        view.before = before;
        assert_eq!(decide(&view).action, VerificationAction::Succeed);
        let mut view = waiting(0, 0);
        view.yields = YIELDS_MAX + 1;
        assert_eq!(decide(&view).action, VerificationAction::GiveUp);
    }

    #[test]
    fn what_could_not_be_looked_at_is_tried_again_and_never_called_bad() {
        let back = VerificationAction::Withdraw { yields: false };
        for tries in 0..2 {
            assert_eq!(decide(&running(1, tries, failed(true), 0)).action, back);
            assert_eq!(decide(&running(1, tries, Report::Running, 30)).action, back);
        }
        let given_up = decide(&running(1, 2, failed(true), 0));
        assert_eq!(given_up.action, VerificationAction::GiveUp);
        assert_eq!(given_up.reason, "store down (3 tries)");
        let at_once = decide(&running(1, 0, failed(false), 0));
        assert_eq!(at_once.action, VerificationAction::GiveUp);
        let day = decide(&running(86_400, 0, Report::Running, 0));
        assert_eq!(day.action, VerificationAction::GiveUp);
    }

    #[test]
    fn what_was_found_counts_without_a_database_and_nothing_else_does() {
        let mut view = running(
            1,
            0,
            Report::Bad {
                reason: "pack".to_owned(),
            },
            0,
        );
        view.database_exists = false;
        assert_eq!(decide(&view).action, VerificationAction::Fail);
        assert_eq!(decide(&view).reason, "pack");
        for mut view in [running(1, 0, Report::Running, 0), waiting(1, 0)] {
            view.database_exists = false;
            assert_eq!(decide(&view).action, VerificationAction::GiveUp);
        }
    }
}
