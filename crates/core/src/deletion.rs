//! What becomes of a Snapshot that is being deleted: its backup is cancelled, then its data is deleted, then it may go.
//! Never a silent hang: an obstacle is told with the way out.

use jiff::SignedDuration;

use crate::snapshot::{Report, SILENCE_LIMIT};

/// Pause after a store refused; it doubles with each refusal.
const PAUSE: SignedDuration = SignedDuration::from_secs(15);
/// Longest pause: a store that is back is noticed within this.
const PAUSE_MAX: SignedDuration = SignedDuration::from_mins(10);
/// How soon to look again while something is under way that tells of its end itself.
const SOON: SignedDuration = SignedDuration::from_secs(5);
/// How soon to look at what the platform does: it tells of nothing itself.
const LOOK: SignedDuration = SignedDuration::from_secs(1);

/// Said with every obstacle.
const WAY_OUT: &str = "or run kubedb delete snap NAME --keep-data, which sets spec.deletionPolicy to Retain: the Snapshot goes and its data stays";

/// What the agents have of the Snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing.
    None,
    /// The backup is still assigned.
    Backup,
    /// The backup was taken back, and its agent has not said that it heard.
    Cancelling {
        /// For how long that agent has said nothing new.
        silence: SignedDuration,
    },
    /// The deletion is assigned.
    Delete {
        /// Number of the attempt, counted on from the backup's.
        attempt: u32,
        /// Its instance.
        instance: String,
        /// What that reports.
        report: Report,
        /// For how long it has said nothing new.
        silence: SignedDuration,
    },
}

impl Work {
    /// Whether an agent that should go on telling of it has said nothing new for so long that it counts as dead.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        match self {
            Self::Cancelling { silence }
            | Self::Delete {
                report: Report::None | Report::Running,
                silence,
                ..
            } => *silence >= SILENCE_LIMIT,
            _ => false,
        }
    }
}

/// Everything a decision rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletionView {
    /// Whether the data is to be kept.
    pub is_kept: bool,
    /// Whether the namespace is going away, or gone.
    pub namespace_goes: bool,
    /// Attempts that were made to take it. Without one nothing was ever written.
    pub attempts: u32,
    /// A database that is being restored from it.
    pub restoring: Option<String>,
    /// An instance that is alive and can reach the store: the primary if possible. None of a database that is going or gone.
    pub instance: Option<String>,
    /// What the agents have of it.
    pub work: Work,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeletionAction {
    /// Let it go.
    Release {
        /// Whether data stays in the store.
        data_stays: bool,
        /// Whether data was deleted.
        data_deleted: bool,
    },
    /// Take the backup back.
    Cancel,
    /// Hand the deletion to an instance.
    Begin {
        /// Which.
        instance: String,
        /// Number of the attempt.
        attempt: u32,
    },
    /// Have the platform do it: no instance can.
    Run,
    /// Look again after a while, at the latest.
    Wait {
        /// How long.
        pause: SignedDuration,
        /// What is in the way, in words.
        obstacle: Option<String>,
    },
}

/// Decides.
#[must_use]
pub fn decide(view: &DeletionView) -> DeletionAction {
    if let Some(restoring) = &view.restoring
        && !view.namespace_goes
        && !view.is_kept
    {
        return obstacle(
            SOON,
            format!("Postgres {restoring} is being restored from it: wait, or delete that first"),
        );
    }
    if view.work == Work::Backup {
        return DeletionAction::Cancel;
    }
    if view.is_kept || view.namespace_goes || view.attempts == 0 {
        return DeletionAction::Release {
            data_stays: view.attempts > 0,
            data_deleted: false,
        };
    }
    match &view.work {
        Work::Cancelling { silence } if !view.work.is_silent() => DeletionAction::Wait {
            pause: SOON.min(SILENCE_LIMIT - *silence),
            obstacle: None,
        },
        Work::None | Work::Backup | Work::Cancelling { .. } => begin(view, view.attempts + 1),
        Work::Delete {
            attempt,
            instance,
            report,
            silence,
        } => follow(view, *attempt, instance, report, *silence),
    }
}

fn begin(view: &DeletionView, attempt: u32) -> DeletionAction {
    if let Some(instance) = &view.instance {
        return DeletionAction::Begin {
            instance: instance.clone(),
            attempt,
        };
    }
    DeletionAction::Run
}

/// What the platform has of a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Running {
    /// In work; in words what keeps it from starting, if something does.
    Busy {
        /// What.
        obstacle: Option<String>,
    },
    /// The data is gone.
    Done,
    /// It failed, and was taken away: it can be tried again.
    Failed {
        /// Why.
        reason: String,
        /// How often it has failed by now.
        failures: u32,
        /// Since when.
        since: SignedDuration,
    },
}

/// Decides on what the platform has of it.
#[must_use]
pub fn after(running: &Running) -> DeletionAction {
    match running {
        Running::Busy { obstacle: None } => DeletionAction::Wait {
            pause: LOOK,
            obstacle: None,
        },
        Running::Busy {
            obstacle: Some(why),
        } => obstacle(SOON, format!("{why}: put that right, {WAY_OUT}")),
        Running::Done => DeletionAction::Release {
            data_stays: false,
            data_deleted: true,
        },
        Running::Failed {
            reason,
            failures,
            since,
        } => match left(*failures, *since) {
            Some(left) => refused(left, reason),
            None => DeletionAction::Run,
        },
    }
}

/// What is left of the pause after so many failures.
fn left(failures: u32, since: SignedDuration) -> Option<SignedDuration> {
    let pause = (PAUSE * (1 << (failures.clamp(1, 8) - 1))).min(PAUSE_MAX);
    let left = pause.checked_sub(since)?;
    (left > SignedDuration::ZERO).then_some(left)
}

fn refused(pause: SignedDuration, reason: &str) -> DeletionAction {
    obstacle(
        pause,
        format!("Failed to wipeOut. Reason: {reason}: put that right, {WAY_OUT}"),
    )
}

fn follow(
    view: &DeletionView,
    attempt: u32,
    instance: &str,
    report: &Report,
    silence: SignedDuration,
) -> DeletionAction {
    match report {
        Report::Succeeded => DeletionAction::Release {
            data_stays: false,
            data_deleted: true,
        },
        Report::Failed { reason, .. } => {
            match left(attempt.saturating_sub(view.attempts), silence) {
                Some(left) => refused(left, reason),
                None => begin(view, attempt + 1),
            }
        }
        Report::None | Report::Running if !view.work.is_silent() => DeletionAction::Wait {
            pause: SILENCE_LIMIT - silence,
            obstacle: None,
        },
        // One that is silent may come back; another takes over at once, and the deletion of what is gone is none.
        Report::None | Report::Running => match &view.instance {
            Some(other) if other == instance => DeletionAction::Run,
            _ => begin(view, attempt + 1),
        },
    }
}

fn obstacle(pause: SignedDuration, why: String) -> DeletionAction {
    DeletionAction::Wait {
        pause,
        obstacle: Some(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(work: Work) -> DeletionView {
        DeletionView {
            is_kept: false,
            namespace_goes: false,
            attempts: 1,
            restoring: None,
            instance: Some("one-0".to_owned()),
            work,
        }
    }

    fn at(seconds: i64) -> SignedDuration {
        SignedDuration::from_secs(seconds)
    }

    fn delete(report: Report, silence: i64) -> DeletionView {
        view(Work::Delete {
            attempt: 2,
            instance: "one-0".to_owned(),
            report,
            silence: at(silence),
        })
    }

    fn told(view: &DeletionView) -> String {
        match decide(view) {
            DeletionAction::Wait {
                obstacle: Some(why),
                ..
            } => why,
            other => panic!("{other:?}"),
        }
    }

    fn begins(instance: &str, attempt: u32) -> DeletionAction {
        DeletionAction::Begin {
            instance: instance.to_owned(),
            attempt,
        }
    }

    #[test]
    fn a_running_one_is_cancelled_first_then_its_data_is_deleted_then_it_goes() {
        assert_eq!(decide(&view(Work::Backup)), DeletionAction::Cancel);
        let cancelling = |silence| {
            view(Work::Cancelling {
                silence: at(silence),
            })
        };
        assert!(matches!(
            decide(&cancelling(0)),
            DeletionAction::Wait { obstacle: None, .. }
        ));
        // Its agent is dead: nobody will ever say that it heard.
        assert_eq!(decide(&cancelling(30)), begins("one-0", 2));
        assert_eq!(decide(&view(Work::None)), begins("one-0", 2));
        assert!(matches!(
            decide(&delete(Report::Running, 1)),
            DeletionAction::Wait { obstacle: None, .. }
        ));
        assert_eq!(
            decide(&delete(Report::Succeeded, 0)),
            DeletionAction::Release {
                data_stays: false,
                data_deleted: true
            }
        );
    }

    #[test]
    fn also_one_to_be_kept_is_cancelled_first() {
        let mut kept = view(Work::Backup);
        kept.is_kept = true;
        assert_eq!(decide(&kept), DeletionAction::Cancel);
        kept.work = Work::None;
        let release = |data_stays| DeletionAction::Release {
            data_stays,
            data_deleted: false,
        };
        assert_eq!(decide(&kept), release(true));
        kept.is_kept = false;
        kept.attempts = 0;
        assert_eq!(decide(&kept), release(false));
        kept.attempts = 2;
        kept.namespace_goes = true;
        kept.instance = None;
        assert_eq!(decide(&kept), release(true));
    }

    #[test]
    fn a_refusing_store_is_told_and_tried_again_further_and_further_apart() {
        let failed = |silence| {
            let reason = "bucket \"kubedb\" does not exist".to_owned();
            delete(
                Report::Failed {
                    reason,
                    is_retryable: true,
                },
                silence,
            )
        };
        let why = told(&failed(14));
        assert!(why.contains("bucket \"kubedb\" does not exist"), "{why}");
        assert!(why.contains("spec.deletionPolicy to Retain"), "{why}");
        assert_eq!(decide(&failed(15)), begins("one-0", 3));
        let mut tenth = failed(599);
        if let Work::Delete { attempt, .. } = &mut tenth.work {
            *attempt = 11;
        }
        told(&tenth);
        if let Work::Delete { silence, .. } = &mut tenth.work {
            *silence = at(600);
        }
        assert_eq!(decide(&tenth), begins("one-0", 12));
    }

    #[test]
    fn where_no_instance_can_the_platform_does_it() {
        let mut gone = view(Work::None);
        gone.instance = None;
        assert_eq!(decide(&gone), DeletionAction::Run);
        let mut silent = delete(Report::None, 31);
        assert_eq!(decide(&silent), DeletionAction::Run);
        silent.instance = None;
        assert_eq!(decide(&silent), DeletionAction::Run);
        silent.instance = Some("one-1".to_owned());
        assert_eq!(decide(&silent), begins("one-1", 3));
    }

    #[test]
    fn what_the_platform_cannot_do_is_told_and_tried_again() {
        let failed = |failures, since| Running::Failed {
            reason: "bucket \"kubedb\" does not exist".to_owned(),
            failures,
            since: at(since),
        };
        let told = |running| match after(&running) {
            DeletionAction::Wait {
                obstacle: Some(why),
                pause,
            } => (why, pause),
            other => panic!("{other:?}"),
        };
        let (why, pause) = told(failed(1, 5));
        assert!(why.contains("bucket \"kubedb\" does not exist") && why.contains("Retain"));
        assert_eq!(pause, at(10));
        assert_eq!(after(&failed(1, 15)), DeletionAction::Run);
        told(failed(40, 599));
        assert_eq!(after(&failed(40, 600)), DeletionAction::Run);
        let (why, _) = told(Running::Busy {
            obstacle: Some("its pod cannot be placed".to_owned()),
        });
        assert!(why.contains("Retain"), "{why}");
        assert!(matches!(
            after(&Running::Done),
            DeletionAction::Release {
                data_deleted: true,
                ..
            }
        ));
    }

    #[test]
    fn what_is_being_restored_stays_until_then() {
        let mut source = view(Work::None);
        source.restoring = Some("demo/copy".to_owned());
        assert!(told(&source).contains("demo/copy"));
        source.is_kept = true;
        assert!(matches!(decide(&source), DeletionAction::Release { .. }));
    }
}
