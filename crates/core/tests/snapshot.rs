//! What becomes of a Snapshot, one situation each.

#![allow(clippy::unwrap_used)]

use jiff::{SignedDuration, Timestamp};
use kubedb_core::{
    lsn::Lsn,
    snapshot::{Candidate, Report, SnapshotAction, SnapshotView, Stage, WaitsFor, decide},
    steps::{Watch, skipped},
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
        steps: Vec::new(),
        now: at(now),
        stage: Stage::Pending {
            created: at(0),
            waiting: Some(at(0)),
            attempts: 0,
        },
        obstacle: None,
        own_obstacle: None,
        database_exists: true,
        before: None,
        not_before: None,
        candidates: vec![
            candidate("pg-0", true, true, 100),
            candidate("pg-1", false, true, 90),
            candidate("pg-2", false, true, 95),
        ],
    }
}

fn running(now: i64, attempt: u32, report: Report, silence: i64) -> SnapshotView {
    SnapshotView {
        steps: Vec::new(),
        stage: Stage::Running {
            since: at(0),
            attempt,
            report,
            silence: SignedDuration::from_secs(silence),
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
fn a_standby_far_behind_is_spared_the_wait() {
    let mut view = pending(1);
    view.candidates[0].lsn = Some(Lsn(1 << 30));
    assert_eq!(assigned(&view), ("pg-0".to_owned(), 1));
    // Without a healthy primary it is still the best there is.
    view.candidates[0].is_healthy = false;
    assert_eq!(assigned(&view), ("pg-2".to_owned(), 1));
}

#[test]
fn after_a_failed_attempt_the_primary_takes_it_after_a_pause() {
    let mut view = pending(101);
    let withdrawn = |attempts| Stage::Pending {
        created: at(0),
        waiting: Some(at(100)),
        attempts,
    };
    view.stage = withdrawn(1);
    let wait = SnapshotAction::Wait { until: at(102) };
    assert_eq!(decide(&view).action, wait);
    view.now = at(102);
    assert_eq!(assigned(&view), ("pg-0".to_owned(), 2));
    view.stage = withdrawn(2);
    let wait = SnapshotAction::Wait { until: at(104) };
    assert_eq!(decide(&view).action, wait);
    view.now = at(104);
    assert_eq!(assigned(&view), ("pg-0".to_owned(), 3));
}

fn assigned(view: &SnapshotView) -> (String, u32) {
    match decide(view).action {
        SnapshotAction::Assign {
            instance, attempt, ..
        } => (instance, attempt),
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_that_waits_for_its_turn_does_not_fail_because_the_one_before_takes_long() {
    let hours = |hours: i64| hours * 3_600;
    let mut view = pending(1);
    view.before = Some("Snapshot pg-a of the same database comes first".to_owned());
    let decided = decide(&view);
    assert_eq!(
        decided.action,
        SnapshotAction::Wait {
            until: at(hours(72))
        }
    );
    assert_eq!(
        decided.reason,
        "Snapshot pg-a of the same database comes first"
    );
    view.now = at(hours(71));
    assert!(matches!(decide(&view).action, SnapshotAction::Wait { .. }));
    view.now = at(hours(72));
    assert_eq!(decide(&view).action, SnapshotAction::Fail);
    // Its own wait begins when its turn comes, however long that took.
    view.before = None;
    view.obstacle = Some("the database is not Running".to_owned());
    view.stage = Stage::Pending {
        created: at(0),
        waiting: None,
        attempts: 0,
    };
    let until = at(hours(73));
    assert_eq!(decide(&view).action, SnapshotAction::Wait { until });
}

#[test]
fn a_long_attempt_that_was_taken_back_has_its_whole_wait_before_it() {
    let mut view = pending(7_210);
    view.stage = Stage::Pending {
        created: at(0),
        waiting: Some(at(7_200)),
        attempts: 1,
    };
    view.candidates.clear();
    let decided = decide(&view);
    let until = at(7_200 + 3_600 + 2);
    assert_eq!(decided.action, SnapshotAction::Wait { until });
    assert_eq!(decided.reason, "no instance is healthy");
}

#[test]
fn jitter_delays_the_start_and_not_the_limit() {
    let mut view = pending(1);
    view.not_before = Some(at(200));
    let wait = SnapshotAction::Wait { until: at(200) };
    assert_eq!(decide(&view).action, wait);
    view.now = at(200);
    assert_eq!(assigned(&view), ("pg-2".to_owned(), 1));
    view.obstacle = Some("the database is not Running".to_owned());
    let wait = SnapshotAction::Wait { until: at(3_800) };
    assert_eq!(decide(&view).action, wait);
    // Drawn before the clock was set back by a day: it does not hold the Snapshot for a day.
    let mut view = pending(1);
    view.not_before = Some(at(86_400));
    assert_eq!(assigned(&view), ("pg-2".to_owned(), 1));
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
    for report in [Report::None, Report::Running] {
        let silent = |silence, attempt| running(500, attempt, report.clone(), silence);
        assert_eq!(
            decide(&silent(29, 1)).action,
            SnapshotAction::Wait { until: at(501) }
        );
        assert_eq!(decide(&silent(30, 1)).action, SnapshotAction::Withdraw);
        assert_eq!(decide(&silent(30, 2)).action, SnapshotAction::Withdraw);
        assert_eq!(decide(&silent(30, 3)).action, SnapshotAction::Fail);
    }
}

#[test]
fn a_fault_that_no_retry_cures_fails_at_once() {
    let failed = |attempt, is_retryable| {
        let reason = "bucket \"kubedb\" does not exist".to_owned();
        let report = Report::Failed {
            reason,
            is_retryable,
        };
        decide(&running(5, attempt, report, 0))
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
        let view = running(now, 1, Report::Running, 0);
        let SnapshotAction::Wait { until } = decide(&view).action else {
            panic!("gave up after {now} s");
        };
        assert!(until > at(now));
        now = until.as_second();
    }
    let view = running(now, 1, Report::Running, 0);
    assert_eq!(decide(&view).action, SnapshotAction::Fail);
}

#[test]
fn a_deleted_database_ends_its_snapshots_but_not_finished_ones() {
    let mut view = pending(1);
    view.database_exists = false;
    assert_eq!(decide(&view).action, SnapshotAction::Fail);
    let mut view = running(1, 1, Report::Succeeded, 0);
    view.database_exists = false;
    assert_eq!(decide(&view).action, SnapshotAction::Succeed);
    let mut view = running(1, 1, Report::None, 0);
    if let Stage::Running {
        instance_exists, ..
    } = &mut view.stage
    {
        *instance_exists = false;
    }
    assert_eq!(decide(&view).action, SnapshotAction::Withdraw);
}

#[test]
fn t26_a_clock_that_is_set_a_day_forward_ends_no_snapshot_and_no_wait() {
    let (day, second) = (86_400, SignedDuration::from_secs);
    let mut watch = Watch::default();
    // Seen once a minute by another clock; after five minutes it is set a day forward.
    for minute in 0..10 {
        let shown = minute * 60 + if minute >= 5 { day } else { 0 };
        watch.look(at(shown), second(minute * 60));
    }
    let steps = watch.steps().to_vec();
    assert_eq!(steps.len(), 1, "{steps:?}");
    assert_eq!(skipped(&steps, at(0)), second(day));
    assert_eq!(skipped(&steps, at(day)), SignedDuration::ZERO);

    let waits = |view: &SnapshotView| matches!(decide(view).action, SnapshotAction::Wait { .. });
    let fails = |view: &SnapshotView| decide(view).action == SnapshotAction::Fail;
    let mut runs = running(day + 600, 1, Report::Running, 0);
    assert!(fails(&runs));
    runs.steps.clone_from(&steps);
    assert!(waits(&runs));
    // Its limit holds all the same.
    runs.now = at(2 * day);
    assert!(fails(&runs));

    let mut waiting = pending(day + 600);
    waiting.obstacle = Some("secrets \"s\" not found".to_owned());
    assert!(fails(&waiting));
    waiting.steps = steps;
    assert!(waits(&waiting));
    waiting.now = at(day + 3_600);
    assert!(fails(&waiting));
}

#[test]
fn t26_a_clock_that_is_set_back_or_slewed_made_no_step() {
    let mut watch = Watch::default();
    for (shown, uptime) in [(10_000, 0), (10_090, 60), (6_500, 120), (6_560, 180)] {
        watch.look(at(shown), SignedDuration::from_secs(uptime));
    }
    assert_eq!(watch.steps(), []);
}

#[test]
fn what_misses_its_secret_waits_aside_and_for_nobody_and_takes_its_turn_after() {
    let mut view = pending(10);
    view.own_obstacle = Some("secrets \"s\" not found".to_owned());
    view.before = Some("Snapshot other of the same database comes first".to_owned());
    let decided = decide(&view);
    assert_eq!(decided.reason, "secrets \"s\" not found");
    assert_eq!(decided.waits_for, WaitsFor::ItsOwn);
    assert_eq!(decided.action, SnapshotAction::Wait { until: at(3_600) });
    view.now = at(3_600);
    assert_eq!(decide(&view).action, SnapshotAction::Fail);
    view.own_obstacle = None;
    let decided = decide(&view);
    assert_eq!(decided.waits_for, WaitsFor::Turn);
    view.before = None;
    assert!(matches!(
        decide(&view).action,
        SnapshotAction::Assign { .. }
    ));
}
