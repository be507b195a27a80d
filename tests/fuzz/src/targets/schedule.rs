//! Schedules and spans of time.

use std::collections::HashSet;

use jiff::Timestamp;
use kubedb_core::{retention::parse_within, schedule::Schedule};

use super::{said, texts};

/// Times to count from: before the epoch, around changes of clocks, the ends of what can be told.
const SECONDS: [i64; 7] = [
    -62_135_596_800,
    -1,
    0,
    1_521_939_599,
    1_761_440_399,
    1_795_478_400,
    253_402_207_200,
];

/// Times asked for one after another.
const NEXT: usize = 20;

/// A line is an expression; a second one a zone.
pub(super) fn schedule(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let (expression, zone) = match text.split_once('\n') {
        Some((expression, zone)) => (expression, Some(zone)),
        None => (&*text, None),
    };
    let schedule = match Schedule::parse(expression, zone) {
        Ok(schedule) => schedule,
        Err(error) => return error.to_string(),
    };
    assert_eq!(schedule.expression(), expression);
    assert!(!schedule.explain().is_empty());
    // What is equal fires at the same times.
    let again = Schedule::parse(schedule.identity(), None).expect("an identity is an expression");
    for second in SECONDS {
        let mut after = Timestamp::from_second(second).expect("a time");
        assert_eq!(schedule.next_after(after), again.next_after(after));
        let mut seen = HashSet::new();
        for _ in 0..NEXT {
            let Some(next) = schedule.next_after(after) else {
                break;
            };
            assert!(next > after && seen.insert(next), "{next} after {after}");
            after = next;
        }
        if let Some(anchor) = Timestamp::from_second(second).ok()
            && let Some(next) = schedule.next_anchored(anchor, after)
        {
            assert!(next > after, "{next} after {after}");
        }
    }
    "fires".to_owned()
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    texts(&[
        "@every 6h",
        "@every 1h30m10.5s",
        "*/15 8-18 * * MON-FRI",
        "0 0 30 2 *",
        "59 59 23 31 12 ?",
        "TZ=Asia/Tokyo 0 5 * * *",
        "0 2 * * *\nEurope/Berlin",
        "30 2 29 2 SUN\nAustralia/Lord_Howe",
        "@daily\nAmerica/Sao_Paulo",
        "1,2,3-9/2,* * * * *",
        "+5 007 * * *",
    ])
}

pub(super) fn within(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let read = parse_within(&text);
    if let Ok(span) = &read {
        assert!(span.is_positive(), "{span:?}");
    }
    said(read)
}

pub(super) fn within_seeds() -> Vec<Vec<u8>> {
    texts(&[
        "7d",
        "1w2d3h",
        "36h",
        "1y",
        "0",
        "-1d",
        "99999999999999999999d",
    ])
}
