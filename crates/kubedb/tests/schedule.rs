//! `kubedb schedule` as a script sees it: output, errors, exit codes.

#![allow(clippy::unwrap_used)]

use std::process::Command;

struct Ran {
    stdout: String,
    stderr: String,
    code: Option<i32>,
}

fn kubedb(arguments: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_kubedb"))
        .args(arguments)
        .output()
        .unwrap();
    Ran {
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        code: output.status.code(),
    }
}

#[test]
fn next_prints_times_in_utc() {
    let after = ["--after", "2018-02-08T10:53:41Z", "--count", "2"];
    let ran = kubedb(&[&["schedule", "next", "@every 6h"], &after[..]].concat());
    assert_eq!(ran.stdout, "2018-02-08T16:53:41Z\n2018-02-08T22:53:41Z\n");
    assert_eq!(ran.code, Some(0));
    let zone = ["--time-zone", "Asia/Tokyo", "-o", "json"];
    let ran = kubedb(&[&["schedule", "next", "0 9 * * *"], &after[..], &zone[..]].concat());
    assert_eq!(
        ran.stdout,
        "[\"2018-02-09T00:00:00Z\",\"2018-02-10T00:00:00Z\"]\n"
    );
}

#[test]
fn explain_says_it_in_words() {
    let ran = kubedb(&["schedule", "explain", "30 2 * * *"]);
    assert_eq!(ran.stdout, "at 02:30, every day (UTC)\n");
}

/// Every row that the dialect refuses ends with 2 and says where and why.
#[test]
fn every_refused_row_exits_with_two() {
    let rows = include_str!("../../../tests/fixtures/cron-v2.jsonl");
    let mut refused = 0;
    for line in rows.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        if row["error"] != true {
            continue;
        }
        refused += 1;
        let expression = row["expr"].as_str().unwrap();
        let ran = kubedb(&["schedule", "next", "--", expression]);
        assert_eq!(ran.code, Some(2), "{expression:?}: {}", ran.stderr);
        assert!(
            ran.stderr.starts_with("error: failed to read schedule"),
            "{}",
            ran.stderr
        );
        assert!(ran.stdout.is_empty());
    }
    assert_eq!(refused, 42, "the fixture is not whole");
    let ran = kubedb(&["schedule", "next", "0 25 * * *"]);
    assert!(
        ran.stderr.contains("hour \"25\": 25 is above 23"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_wrong_time_exits_with_two() {
    let ran = kubedb(&["schedule", "next", "@daily", "--after", "yesterday"]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("RFC 3339"), "{}", ran.stderr);
}
