//! What becomes of a Snapshot, one situation each.

#![allow(clippy::unwrap_used)]

use jiff::{SignedDuration, Timestamp};
use kubedb_core::{
    lsn::Lsn,
    snapshot::{Candidate, Report, SnapshotAction, SnapshotView, Stage, decide},
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
}

fn candidate(instance: &str, is_primary: bool, is_healthy: bool, lsn: u64) -> Candidate {
    Candidate {
        instance: instance.to_owned(),
        is_primary,
        is_healthy,
        lsn: Some(Lsn(lsn)),
    }
}

fn pending(now: i64) -> SnapshotView {
    SnapshotView {
        now: at(now),
        stage: Stage::Pending {
            since: at(0),
            attempts: 0,
        },
        obstacle: None,
        database_exists: true,
        before: None,
        candidates: vec![
            candidate("pg-0", true, true, 100),
            candidate("pg-1", false, true, 90),
            candidate("pg-2", false, true, 95),
        ],
    }
}

fn running(now: i64, attempt: u32, report: Report) -> SnapshotView {
    SnapshotView {
        stage: Stage::Running {
            since: at(0),
            attempt,
            report,
            instance_exists: true,
        },
        ..pending(now)
    }
}

#[test]
fn the_standby_that_replayed_most_takes_it_from_the_primarys_position_on() {
    let assign = SnapshotAction::Assign {
        instance: "pg-2".to_owned(),
        attempt: 1,
        minimum_lsn: Some(Lsn(100)),
    };
    assert_eq!(decide(&pending(1)).action, assign);
}

#[test]
fn the_primary_takes_it_when_no_standby_is_healthy_or_nobody_knows_how_far_it_is() {
    let mut view = pending(1);
    view.candidates[1].is_healthy = false;
    view.candidates[2].is_healthy = false;
    let to_primary = |view: &SnapshotView| matches!(decide(view).action, SnapshotAction::Assign { instance, minimum_lsn: None, .. } if instance == "pg-0");
    assert!(to_primary(&view));
    let mut view = pending(1);
    view.candidates[0].lsn = None;
    assert!(to_primary(&view));
}

#[test]
fn two_snapshots_of_one_database_take_turns() {
    let mut view = pending(1);
    view.before = Some("pg-a".to_owned());
    let decided = decide(&view);
    assert_eq!(decided.action, SnapshotAction::Wait { until: at(3_600) });
    assert_eq!(
        decided.reason,
        "Snapshot pg-a of the same database comes first"
    );
}

#[test]
fn waiting_ends() {
    let mut view = pending(3_599);
    view.obstacle = Some("secrets \"gcs-secret\" not found".to_owned());
    assert!(matches!(decide(&view).action, SnapshotAction::Wait { .. }));
    view.now = at(3_600);
    let decided = decide(&view);
    assert_eq!(decided.action, SnapshotAction::Fail);
    assert_eq!(
        decided.reason,
        "not started within 1 h: secrets \"gcs-secret\" not found"
    );
    view.obstacle = None;
    assert!(matches!(
        decide(&view).action,
        SnapshotAction::Assign { .. }
    ));
}

#[test]
fn a_silent_agent_loses_the_snapshot_and_the_third_silence_is_the_last() {
    let beat = |now, attempt| running(now, attempt, Report::Running { heartbeat: at(100) });
    assert_eq!(
        decide(&beat(129, 1)).action,
        SnapshotAction::Wait { until: at(130) }
    );
    assert_eq!(decide(&beat(130, 1)).action, SnapshotAction::Withdraw);
    assert_eq!(decide(&beat(130, 2)).action, SnapshotAction::Withdraw);
    assert_eq!(decide(&beat(130, 3)).action, SnapshotAction::Fail);
    // An agent that never said a word counts from the assignment.
    assert_eq!(
        decide(&running(30, 1, Report::None)).action,
        SnapshotAction::Withdraw
    );
}

#[test]
fn a_fault_that_no_retry_cures_fails_at_once() {
    let failed = |attempt, is_retryable| {
        let reason = "bucket \"kubedb\" does not exist".to_owned();
        let report = Report::Failed {
            reason,
            is_retryable,
        };
        decide(&running(5, attempt, report))
    };
    assert_eq!(failed(1, false).action, SnapshotAction::Fail);
    assert_eq!(failed(1, true).action, SnapshotAction::Withdraw);
    assert_eq!(
        failed(3, true).reason,
        "bucket \"kubedb\" does not exist (attempt 3 of 3)"
    );
}

#[test]
fn nothing_runs_for_ever() {
    let day = 24 * 3_600;
    let mut now = 0;
    // A heartbeat that never stops does not keep it alive.
    while now < day {
        let view = running(now, 1, Report::Running { heartbeat: at(now) });
        let SnapshotAction::Wait { until } = decide(&view).action else {
            panic!("gave up after {now} s");
        };
        assert!(until > at(now));
        now = until.as_second();
    }
    let view = running(now, 1, Report::Running { heartbeat: at(now) });
    assert_eq!(decide(&view).action, SnapshotAction::Fail);
}

#[test]
fn a_deleted_database_ends_its_snapshots_but_not_finished_ones() {
    let mut view = pending(1);
    view.database_exists = false;
    assert_eq!(decide(&view).action, SnapshotAction::Fail);
    let mut view = running(1, 1, Report::Succeeded);
    view.database_exists = false;
    assert_eq!(decide(&view).action, SnapshotAction::Succeed);
    let mut view = running(1, 1, Report::None);
    if let Stage::Running {
        instance_exists, ..
    } = &mut view.stage
    {
        *instance_exists = false;
    }
    assert_eq!(decide(&view).action, SnapshotAction::Withdraw);
}
