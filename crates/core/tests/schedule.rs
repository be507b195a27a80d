//! The dialect: every row of the fixture, and what a row cannot show.

#![allow(clippy::unwrap_used)]

use jiff::{SignedDuration, Timestamp};
use kubedb_core::schedule::{Schedule, ScheduleError, ScheduleQueue};
use serde_json::Value;

const ROWS: &str = include_str!("../../../tests/fixtures/cron-v2.jsonl");

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn every_row_of_the_dialect_holds() {
    let mut wrong = Vec::new();
    let mut rows = 0;
    for line in ROWS.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        rows += 1;
        let expression = row["expr"].as_str().unwrap();
        let parsed = Schedule::parse(expression, None);
        if row["error"] == true {
            if parsed.is_ok() {
                wrong.push(format!("{expression:?} must be refused"));
            }
            continue;
        }
        let schedule = match parsed {
            Ok(schedule) => schedule,
            Err(error) => {
                wrong.push(format!("{expression:?} refused: {error}"));
                continue;
            }
        };
        let mut after = at(row["after"].as_str().unwrap());
        for expected in row["next"].as_array().unwrap() {
            let expected = at(expected.as_str().unwrap());
            let next = schedule.next_after(after);
            if next != Some(expected) {
                wrong.push(format!(
                    "{expression:?} after {after}: {next:?}, not {expected}"
                ));
                break;
            }
            after = expected;
        }
    }
    assert_eq!(rows, 337);
    assert!(
        wrong.is_empty(),
        "{} rows:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn a_refusal_names_the_field_and_the_reason() {
    let check = |expression: &str, expected: &str| {
        assert_eq!(
            Schedule::parse(expression, None).unwrap_err().to_string(),
            expected
        );
    };
    check("60 * * * *", "minute \"60\": 60 is above 59");
    check("* * * * 7", "day of week \"7\": 7 is above 6");
    check(
        "* * 5-1 * *",
        "day of month \"5-1\": the range begins at 5, after its end 1; ranges do not wrap",
    );
    check("*/0 * * * *", "minute \"*/0\": a step of 0 would never end");
    check("x 0 0 * * *", "second \"x\": \"x\" is not a whole number");
    check(
        "0 0 30 2 *",
        "day of month: no month that is chosen has such a day, so the schedule would never fire",
    );
    check("@every 0s", "interval \"0s\": it must be longer than zero");
    check(
        "@every 5",
        "interval \"5\": a unit (h, m, s) is missing after \"5\"",
    );
    check(
        "TZ=Mars/Base * * * * *",
        "time zone \"Mars/Base\": not in the time-zone database (write it as Europe/Berlin)",
    );
}

#[test]
fn a_zone_is_given_once() {
    assert_eq!(
        Schedule::parse("TZ=UTC 0 5 * * *", Some("Asia/Tokyo")).unwrap_err(),
        ScheduleError::ChooseZone
    );
    let schedule = Schedule::parse("0 9 * * *", Some("Asia/Tokyo")).unwrap();
    assert_eq!(
        schedule.next_after(at("2018-02-08T10:53:41Z")),
        Some(at("2018-02-09T00:00:00Z"))
    );
}

#[test]
fn an_interval_stays_at_its_anchor() {
    let schedule = Schedule::parse("@every 6h", None).unwrap();
    let anchor = at("2018-02-08T10:53:41Z");
    assert_eq!(
        schedule.next_anchored(anchor, anchor),
        Some(at("2018-02-08T16:53:41Z"))
    );
    let late = at("2018-02-10T00:00:00Z");
    assert_eq!(
        schedule.next_anchored(anchor, late),
        Some(at("2018-02-10T04:53:41Z"))
    );
    let on_tick = at("2018-02-08T16:53:41Z");
    assert_eq!(
        schedule.next_anchored(anchor, on_tick),
        Some(at("2018-02-08T22:53:41Z"))
    );
    let earlier = at("2018-02-01T00:00:00Z");
    assert_eq!(
        schedule.next_anchored(anchor, earlier),
        Some(at("2018-02-08T16:53:41Z"))
    );
}

#[test]
fn ten_thousand_schedules_come_due_in_order() {
    let start = at("2026-01-01T00:00:00Z");
    let mut queue = ScheduleQueue::new();
    for number in 0..10_000_i64 {
        let offset = SignedDuration::from_secs((number * 7919) % 10_000);
        queue.insert(number, start.checked_add(offset).unwrap());
    }
    queue.insert(
        5,
        start
            .checked_add(SignedDuration::from_secs(20_000))
            .unwrap(),
    );
    queue.remove(&6);
    assert_eq!(queue.len(), 9_999);
    assert_eq!(queue.pop_due(start).map(|(key, _)| key), Some(0));
    assert_eq!(queue.pop_due(start), None);
    let end = start
        .checked_add(SignedDuration::from_secs(10_000))
        .unwrap();
    let mut last = start;
    let mut popped = 0;
    while let Some((_, due)) = queue.pop_due(end) {
        assert!(due >= last);
        last = due;
        popped += 1;
    }
    assert_eq!(popped, 9_997);
    assert_eq!(queue.peek().map(|(key, _)| *key), Some(5));
}

#[test]
fn words_say_what_the_expression_does() {
    let check = |expression: &str, expected: &str| {
        assert_eq!(
            Schedule::parse(expression, None).unwrap().explain(),
            expected
        );
    };
    check("@every 6h", "every 6 hours after the run before");
    check("@daily", "at 00:00, every day (UTC)");
    check(
        "30 2 * * 1-5",
        "at 02:30, on Monday, Tuesday, Wednesday, Thursday, Friday (UTC)",
    );
    check(
        "TZ=Asia/Tokyo */15 * * * *",
        "every 15 minutes from 0 to 45 of every hour, every day (Asia/Tokyo)",
    );
    check(
        "0 0 1 1 *",
        "at 00:00, on day of the month 1, in January (UTC)",
    );
    check(
        "0 0 13 * 5",
        "at 00:00, on day of the month 13 and also on Friday (UTC)",
    );
}
