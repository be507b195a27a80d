//! When a Snapshot is made: at once, at each tick, once after a downtime, never twice.

#![allow(clippy::unwrap_used)]

use jiff::{SignedDuration, Timestamp};
use kubedb_core::schedule::{
    Schedule,
    plan::{ScheduleAction, ScheduleState, due},
};

const START: &str = "2018-02-08T10:53:41Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn every_6h() -> Schedule {
    Schedule::parse("@every 6h", None).unwrap()
}

fn started(schedule: &Schedule) -> ScheduleState {
    due(
        at(START),
        schedule,
        &ScheduleState::default(),
        false,
        false,
        None,
    )
    .state
}

fn run(tick: &str, missed: u32) -> ScheduleAction {
    ScheduleAction::Run {
        tick: at(tick),
        missed,
    }
}

#[test]
fn a_new_schedule_runs_at_once_also_beside_an_instant_snapshot() {
    for active in [false, true] {
        let now = at("2018-02-08T10:53:41.75Z");
        let decision = due(
            now,
            &every_6h(),
            &ScheduleState::default(),
            active,
            false,
            None,
        );
        assert_eq!(decision.action, run(START, 0));
        assert_eq!(decision.state.next, Some(at("2018-02-08T16:53:41Z")));
    }
}

#[test]
fn a_restart_repeats_nothing_and_resets_nothing() {
    let schedule = every_6h();
    let state = started(&schedule);
    let decision = due(
        at("2018-02-08T16:53:40Z"),
        &schedule,
        &state,
        false,
        false,
        None,
    );
    assert_eq!(decision.action, ScheduleAction::Wait);
    assert_eq!(decision.state, state);
}

#[test]
fn a_late_tick_keeps_the_anchor() {
    let schedule = every_6h();
    let decision = due(
        at("2018-02-08T16:54:30Z"),
        &schedule,
        &started(&schedule),
        false,
        false,
        None,
    );
    assert_eq!(decision.action, run("2018-02-08T16:53:41Z", 0));
    assert_eq!(decision.state.next, Some(at("2018-02-08T22:53:41Z")));
}

#[test]
fn one_snapshot_makes_up_for_a_downtime() {
    let schedule = every_6h();
    let decision = due(
        at("2018-02-10T00:00:00Z"),
        &schedule,
        &started(&schedule),
        false,
        false,
        None,
    );
    assert_eq!(decision.action, run("2018-02-09T22:53:41Z", 5));
    assert_eq!(decision.state.next, Some(at("2018-02-10T04:53:41Z")));
    let again = due(
        at("2018-02-10T00:00:01Z"),
        &schedule,
        &decision.state,
        false,
        false,
        None,
    );
    assert_eq!(again.action, ScheduleAction::Wait);
}

#[test]
fn a_tick_that_passed_longer_ago_than_the_deadline_is_left_to_the_next() {
    let schedule = every_6h();
    let decide = |now, deadline: i64| {
        let deadline = Some(SignedDuration::from_secs(deadline));
        due(
            at(now),
            &schedule,
            &started(&schedule),
            false,
            false,
            deadline,
        )
    };
    // What counts is the last tick, however many passed before it.
    let decision = decide("2018-02-09T22:58:41Z", 300);
    assert_eq!(decision.action, run("2018-02-09T22:53:41Z", 5));
    let decision = decide("2018-02-09T22:58:42Z", 300);
    let tick = at("2018-02-09T22:53:41Z");
    assert_eq!(decision.action, ScheduleAction::Miss { tick });
    assert_eq!(decision.state.last, Some(tick));
    assert_eq!(decision.state.next, Some(at("2018-02-10T04:53:41Z")));
}

#[test]
fn a_long_downtime_of_a_fast_schedule_is_bounded() {
    let schedule = Schedule::parse("@every 7s", None).unwrap();
    let decision = due(
        at("2019-02-08T10:53:41Z"),
        &schedule,
        &started(&schedule),
        false,
        false,
        None,
    );
    let ScheduleAction::Run { tick, missed } = decision.action else {
        panic!("{decision:?}")
    };
    assert_eq!(missed, 1_000);
    assert_eq!((tick.as_second() - at(START).as_second()) % 7, 0);
    assert!(at("2019-02-08T10:53:41Z").as_second() - tick.as_second() < 7);
}

#[test]
fn a_tick_beside_an_active_snapshot_is_skipped_for_good() {
    let schedule = every_6h();
    let decision = due(
        at("2018-02-08T16:53:41Z"),
        &schedule,
        &started(&schedule),
        true,
        false,
        None,
    );
    assert_eq!(
        decision.action,
        ScheduleAction::Skip {
            tick: at("2018-02-08T16:53:41Z")
        }
    );
    let later = due(
        at("2018-02-08T17:00:00Z"),
        &schedule,
        &decision.state,
        false,
        false,
        None,
    );
    assert_eq!(later.action, ScheduleAction::Wait);
}

#[test]
fn changing_only_the_expression_makes_no_snapshot() {
    let state = started(&every_6h());
    let daily = Schedule::parse("@daily", None).unwrap();
    let decision = due(
        at("2018-02-08T23:00:00Z"),
        &daily,
        &state,
        false,
        false,
        None,
    );
    assert_eq!(decision.action, ScheduleAction::Wait);
    assert_eq!(decision.state.next, Some(at("2018-02-09T00:00:00Z")));
}

#[test]
fn a_suspended_schedule_does_not_catch_up_when_it_goes_on() {
    let schedule = every_6h();
    let suspended = due(
        at("2018-02-08T12:00:00Z"),
        &schedule,
        &started(&schedule),
        false,
        true,
        None,
    );
    assert_eq!(
        (suspended.action, suspended.state.next),
        (ScheduleAction::Wait, None)
    );
    let resumed = due(
        at("2018-02-10T00:00:00Z"),
        &schedule,
        &suspended.state,
        false,
        false,
        None,
    );
    assert_eq!(resumed.action, ScheduleAction::Wait);
    assert_eq!(resumed.state.next, Some(at("2018-02-10T04:53:41Z")));
}

#[test]
fn another_zone_is_another_schedule_and_makes_no_snapshot_either() {
    let at_three = |zone| Schedule::parse("0 3 * * *", zone).unwrap();
    let state = started(&at_three(None));
    assert_eq!(state.next, Some(at("2018-02-09T03:00:00Z")));
    let now = at("2018-02-08T11:00:00Z");
    let decision = due(
        now,
        &at_three(Some("Asia/Tokyo")),
        &state,
        false,
        false,
        None,
    );
    assert_eq!(decision.action, ScheduleAction::Wait);
    assert_eq!(decision.state.next, Some(at("2018-02-08T18:00:00Z")));
}

#[test]
fn t26_a_clock_that_steps_back_serves_no_tick_twice() {
    let schedule = every_6h();
    let tick = "2018-02-08T16:53:41Z";
    let served = due(at(tick), &schedule, &started(&schedule), false, false, None);
    assert_eq!(served.action, run(tick, 0));
    for now in ["2018-02-08T16:53:40Z", "2018-02-08T12:00:00Z"] {
        let decision = due(at(now), &schedule, &served.state, false, false, None);
        assert_eq!(decision.action, ScheduleAction::Wait);
        assert_eq!(decision.state, served.state);
    }
    // And forth again: the next tick is the next one.
    let next = "2018-02-08T22:53:41Z";
    let decision = due(at(next), &schedule, &served.state, false, false, None);
    assert_eq!(decision.action, run(next, 0));
}

#[test]
fn a_clock_that_was_years_ahead_does_not_stop_the_schedule_for_years() {
    let schedule = every_6h();
    let ahead = at("2030-01-01T00:00:00Z");
    let served = due(ahead, &schedule, &started(&schedule), false, false, None);
    assert!(matches!(served.action, ScheduleAction::Run { .. }));
    let now = at("2018-02-09T01:00:00Z");
    let decision = due(now, &schedule, &served.state, false, false, None);
    assert_eq!(decision.action, ScheduleAction::Wait);
    assert_eq!(decision.state.next, Some(at("2018-02-09T07:00:00Z")));
}

#[test]
fn the_hour_that_comes_twice_has_two_names() {
    let schedule = Schedule::parse("30 2 * * *", Some("Europe/Berlin")).unwrap();
    let mut state = ScheduleState {
        expression: Some(schedule.identity().to_owned()),
        last: Some(at("2018-10-27T00:30:00Z")),
        next: Some(at("2018-10-28T00:30:00Z")),
    };
    let mut names = Vec::new();
    for now in ["2018-10-28T00:30:00Z", "2018-10-28T01:30:00Z"] {
        let decision = due(at(now), &schedule, &state, false, false, None);
        let ScheduleAction::Run { tick, .. } = decision.action else {
            panic!("{decision:?}")
        };
        names.push(kubedb_core::names::scheduled_snapshot("pg", tick));
        state = decision.state;
    }
    assert_eq!(names, ["pg-20181028-003000", "pg-20181028-013000"]);
}
