//! Which Snapshots retention keeps.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use kubedb_core::retention::{Candidate, Keep, Outcome, Policy, Verdict, parse_within, plan};
use proptest::prelude::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn good(time: &str) -> Candidate {
    Candidate {
        name: format!("db-{time}"),
        time: at(time),
        outcome: Outcome::Good,
        is_scheduled: true,
        is_pinned: false,
        is_refuted: false,
        is_in_use: false,
        is_own: true,
    }
}

fn kept(verdicts: &[Verdict]) -> BTreeSet<String> {
    verdicts
        .iter()
        .filter(|verdict| !verdict.is_expired())
        .map(|verdict| verdict.name.clone())
        .collect()
}

fn reason(verdicts: &[Verdict], time: &str) -> String {
    verdicts
        .iter()
        .find(|verdict| verdict.time == at(time))
        .unwrap()
        .reason()
}

const NOW: &str = "2026-11-24T12:00:00Z";

#[test]
fn an_empty_policy_keeps_everything() {
    let candidates = [good("2020-01-01T00:00:00Z"), good("2026-01-01T00:00:00Z")];
    let verdicts = plan(&Policy::default(), &TimeZone::UTC, &candidates);
    assert_eq!(kept(&verdicts).len(), 2);
    assert_eq!(reason(&verdicts, "2020-01-01T00:00:00Z"), "no rule is set");
}

#[test]
fn each_rule_keeps_the_newest_of_its_period_and_says_so() {
    let policy = Policy {
        last: 1,
        daily: 2,
        weekly: 2,
        ..Policy::default()
    };
    let candidates = [
        good("2026-11-24T06:00:00Z"),
        good("2026-11-24T00:00:00Z"),
        good("2026-11-23T18:00:00Z"),
        good("2026-11-22T18:00:00Z"),
        good("2026-11-20T18:00:00Z"),
    ];
    let verdicts = plan(&policy, &TimeZone::UTC, &candidates);
    assert_eq!(
        reason(&verdicts, "2026-11-24T06:00:00Z"),
        "the newest good one, last #1, daily #1 (2026-11-24), weekly #1 (2026-W48)"
    );
    assert_eq!(
        reason(&verdicts, "2026-11-24T00:00:00Z"),
        "no rule keeps it"
    );
    assert_eq!(
        reason(&verdicts, "2026-11-23T18:00:00Z"),
        "daily #2 (2026-11-23)"
    );
    assert_eq!(
        reason(&verdicts, "2026-11-22T18:00:00Z"),
        "weekly #2 (2026-W47)"
    );
    assert_eq!(
        reason(&verdicts, "2026-11-20T18:00:00Z"),
        "no rule keeps it"
    );
}

#[test]
fn days_are_those_of_the_zone() {
    let policy = Policy {
        daily: 2,
        ..Policy::default()
    };
    // 23:30 and 00:30 in Kolkata: two days there, one in UTC.
    let candidates = [good("2026-11-23T18:00:00Z"), good("2026-11-23T19:00:00Z")];
    let kolkata = TimeZone::get("Asia/Kolkata").unwrap();
    assert_eq!(kept(&plan(&policy, &kolkata, &candidates)).len(), 2);
    assert_eq!(kept(&plan(&policy, &TimeZone::UTC, &candidates)).len(), 1);
}

#[test]
fn the_hour_that_comes_twice_is_two_hours() {
    let policy = Policy {
        hourly: 9,
        ..Policy::default()
    };
    let berlin = TimeZone::get("Europe/Berlin").unwrap();
    let candidates = [good("2026-10-25T00:30:00Z"), good("2026-10-25T01:30:00Z")];
    assert_eq!(kept(&plan(&policy, &berlin, &candidates)).len(), 2);
}

#[test]
fn failed_unfinished_pinned_used_and_made_by_hand_have_rules_of_their_own() {
    let policy = Policy {
        last: 1,
        failed: Some(1),
        ..Policy::default()
    };
    let with = |time: &str, change: fn(&mut Candidate)| {
        let mut candidate = good(time);
        change(&mut candidate);
        candidate
    };
    let candidates = [
        with("2026-11-24T11:00:00Z", |c| c.outcome = Outcome::Failed),
        with("2026-11-24T10:00:00Z", |c| c.outcome = Outcome::Failed),
        with("2026-11-24T09:00:00Z", |c| c.outcome = Outcome::Unfinished),
        with("2026-11-24T08:30:00Z", |c| c.is_refuted = true),
        good("2026-11-24T08:00:00Z"),
        with("2026-11-24T07:00:00Z", |c| c.is_pinned = true),
        with("2026-11-24T06:00:00Z", |c| c.is_in_use = true),
        with("2026-11-24T05:00:00Z", |c| c.is_scheduled = false),
        good("2026-11-24T04:00:00Z"),
    ];
    let verdicts = plan(&policy, &TimeZone::UTC, &candidates);
    let reasons: Vec<String> = verdicts.iter().map(Verdict::reason).collect();
    assert_eq!(
        reasons,
        [
            "failure #1",
            "more recent failures are on record",
            "not finished",
            "its verification failed: for a person to judge",
            "the newest good one, last #1",
            "pinned",
            "a restore reads it",
            "made by hand",
            "no rule keeps it",
        ]
    );
}

#[test]
fn i06_many_failures_do_not_push_out_the_last_good_one() {
    let policy = Policy {
        within: Some(SignedDuration::from_hours(1)),
        failed: Some(0),
        ..Policy::default()
    };
    let mut candidates = vec![good("2024-01-01T00:00:00Z"), good("2023-01-01T00:00:00Z")];
    for minute in 0..50 {
        let mut failed = good(&format!("2026-11-24T11:{minute:02}:00Z"));
        failed.outcome = Outcome::Failed;
        candidates.push(failed);
    }
    let verdicts = plan(&policy, &TimeZone::UTC, &candidates);
    assert_eq!(
        kept(&verdicts),
        BTreeSet::from(["db-2024-01-01T00:00:00Z".to_owned()])
    );
    assert!(
        verdicts
            .iter()
            .any(|v| v.keep.first() == Some(&Keep::NewestGood))
    );
}

/// Backups that fail for a month must not cost those of before: age is counted from the newest good one.
#[test]
fn what_is_recent_is_told_by_the_newest_good_one_and_not_by_a_clock() {
    let policy = Policy {
        within: Some(SignedDuration::from_hours(24)),
        ..Policy::default()
    };
    let candidates = [
        good("2024-01-02T00:00:00Z"),
        good("2024-01-01T00:00:00Z"),
        good("2023-12-31T00:00:00Z"),
    ];
    let verdicts = plan(&policy, &TimeZone::UTC, &candidates);
    assert_eq!(kept(&verdicts).len(), 2);
    assert_eq!(reason(&verdicts, "2024-01-01T00:00:00Z"), "recent enough");
}

/// A database that was made anew under an old name must not outlive the Snapshots of the first, which are all that is left of it.
#[test]
fn snapshots_of_another_database_of_the_name_neither_go_nor_count() {
    let policy = Policy {
        last: 1,
        ..Policy::default()
    };
    let mut other = good("2026-11-24T11:00:00Z");
    other.is_own = false;
    let candidates = [
        other,
        good("2026-11-24T10:00:00Z"),
        good("2026-11-24T09:00:00Z"),
    ];
    let verdicts = plan(&policy, &TimeZone::UTC, &candidates);
    let reasons: Vec<String> = verdicts.iter().map(Verdict::reason).collect();
    assert_eq!(
        reasons,
        [
            "not known to be of this database's data",
            "the newest good one, last #1",
            "no rule keeps it",
        ]
    );
}

#[test]
fn ages_are_read_and_refused_in_words() {
    assert_eq!(parse_within("36h").unwrap().as_hours(), 36);
    assert_eq!(
        parse_within("1y2w3d4h").unwrap().as_hours(),
        (365 + 17) * 24 + 4
    );
    let table = [
        ("", "is empty: write an age such as 36h, 30d, 8w or 1y"),
        (
            "d",
            "\"d\" is not a whole number before a unit: write an age such as 36h, 30d, 8w or 1y",
        ),
        (
            "30",
            "unknown unit \"\": one of h (hours), d (days of 24 h), w (weeks), y (years of 365 days)",
        ),
        (
            "6m",
            "unknown unit \"m\": one of h (hours), d (days of 24 h), w (weeks), y (years of 365 days)",
        ),
        (
            "-1d",
            "\"-1d\" is not a whole number before a unit: write an age such as 36h, 30d, 8w or 1y",
        ),
        (
            "1.5d",
            "unknown unit \".\": one of h (hours), d (days of 24 h), w (weeks), y (years of 365 days)",
        ),
        ("0d", "must be more than nothing and at most 100 years"),
        ("101y", "must be more than nothing and at most 100 years"),
        (
            "99999999999999999999h",
            "must be more than nothing and at most 100 years",
        ),
    ];
    for (text, expected) in table {
        assert_eq!(
            parse_within(text).unwrap_err().to_string(),
            expected,
            "{text}"
        );
    }
}

fn policies() -> impl Strategy<Value = Policy> {
    (
        (0_u32..4, 0_u32..4, 0_u32..4, 0_u32..3, 0_u32..3, 0_u32..3),
        proptest::option::of(1_i64..2_000),
        proptest::option::of(0_u32..4),
    )
        .prop_map(
            |((last, hourly, daily, weekly, monthly, yearly), within, failed)| Policy {
                last,
                hourly,
                daily,
                weekly,
                monthly,
                yearly,
                within: within.map(SignedDuration::from_hours),
                failed,
            },
        )
}

fn histories() -> impl Strategy<Value = Vec<Candidate>> {
    let one = (
        0_i64..3_000,
        0_u8..10,
        0_u8..10,
        0_u8..10,
        0_u8..10,
        0_u8..10,
    );
    proptest::collection::vec(one, 0..40).prop_map(|rows| {
        rows.into_iter()
            .enumerate()
            .map(
                |(index, (hours, outcome, scheduled, pinned, used, foreign))| Candidate {
                    name: format!("s{index:03}"),
                    time: at(NOW) - SignedDuration::from_hours(hours - 10),
                    outcome: match outcome {
                        0 => Outcome::Unfinished,
                        1 | 2 => Outcome::Failed,
                        _ => Outcome::Good,
                    },
                    is_scheduled: scheduled > 1,
                    is_pinned: pinned == 0,
                    is_refuted: false,
                    is_in_use: used == 0,
                    is_own: foreign > 0,
                },
            )
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn the_promises_hold(policy in policies(), history in histories(), shuffle in any::<u64>()) {
        let verdicts = plan(&policy, &TimeZone::UTC, &history);
        prop_assert_eq!(verdicts.len(), history.len());
        let stays = kept(&verdicts);
        let goods = || history.iter().filter(|c| c.outcome == Outcome::Good && c.is_own);
        // The newest good one stays.
        if let Some(newest) = goods().max_by_key(|c| (c.time, c.name.clone())) {
            prop_assert!(stays.contains(&newest.name));
        }
        // What is pinned, in use, made by hand or unfinished stays.
        for c in &history {
            let is_foreign = c.outcome == Outcome::Good && !c.is_own;
            if is_foreign || c.is_pinned || c.is_in_use || !c.is_scheduled || c.outcome == Outcome::Unfinished {
                prop_assert!(stays.contains(&c.name));
            }
        }
        // As many as each rule promises stay.
        let scheduled = goods().filter(|c| c.is_scheduled).count();
        let good_stays = goods().filter(|c| stays.contains(&c.name)).count();
        prop_assert!(good_stays >= scheduled.min(policy.last as usize));
        // A second run deletes nothing more.
        let rest: Vec<Candidate> = history.iter().filter(|c| stays.contains(&c.name)).cloned().collect();
        prop_assert_eq!(kept(&plan(&policy, &TimeZone::UTC, &rest)), stays.clone());
        // The order of the list does not matter.
        let mut other = history.clone();
        if !other.is_empty() {
            let middle = (shuffle as usize) % other.len();
            other.rotate_left(middle);
            other.reverse();
        }
        prop_assert_eq!(plan(&policy, &TimeZone::UTC, &other), verdicts);
        // A policy that keeps more of each keeps all that the smaller one kept.
        let wider = Policy { last: policy.last + 1, daily: policy.daily + 1, ..policy };
        if !policy.is_empty() {
            prop_assert!(kept(&plan(&wider, &TimeZone::UTC, &history)).is_superset(&stays));
        }
    }
}
