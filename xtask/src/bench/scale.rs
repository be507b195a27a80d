//! What many databases cost one operator; how it is measured is in `tests/contract/src/scale/`.

use std::{path::PathBuf, process::Command};

use super::local::release;
use crate::tools;

/// What the aims were set for.
const DATABASES: usize = 1_000;
const SNAPSHOTS: usize = 20_000;

#[derive(Debug, PartialEq, Eq)]
struct Options {
    databases: usize,
    snapshots: usize,
    binary: Option<PathBuf>,
}

/// Measures the release, or the program that is named; prints a table and writes `target/bench/scale.json`.
pub(crate) fn scale(arguments: &[&str]) -> Result<(), String> {
    let options = parse(arguments)?;
    tools::kwok()?;
    let (binary, profile) = match options.binary {
        Some(binary) => (binary, "given"),
        None => (release()?, "release"),
    };
    // A release, too: it stands for a thousand agents, and what it takes of the processors is missing to the operator.
    let mut build = tools::cargo();
    build.args([
        "build",
        "-q",
        "--release",
        "--workspace",
        "--bin",
        "bench_scale",
    ]);
    tools::run(&mut build)?;
    let target = tools::target_folder();
    let mut bench = Command::new(target.join("release").join("bench_scale"));
    bench
        .arg(binary)
        .arg(profile)
        .arg(target.join("bench").join("scale.json"))
        .arg(options.databases.to_string())
        .arg(options.snapshots.to_string());
    tools::run(&mut bench)
}

fn parse(arguments: &[&str]) -> Result<Options, String> {
    let mut options = Options {
        databases: DATABASES,
        snapshots: SNAPSHOTS,
        binary: None,
    };
    let mut rest = arguments;
    while let [name, value, others @ ..] = rest {
        let number = || {
            let number = value.parse().ok().filter(|number| *number > 0);
            number.ok_or_else(|| format!("{name} takes a number, not {value:?}"))
        };
        match *name {
            "--databases" => options.databases = number()?,
            "--snapshots" => options.snapshots = number()?,
            "--binary" => options.binary = Some(value.into()),
            other => return Err(format!("unknown option {other:?}")),
        }
        rest = others;
    }
    match rest {
        [] => Ok(options),
        [other, ..] => Err(format!("{other:?} takes a value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_options() {
        let given = parse(&["--databases", "20", "--snapshots", "200"]).unwrap();
        assert_eq!((given.databases, given.snapshots), (20, 200));
        assert_eq!(parse(&[]).unwrap().databases, DATABASES);
        for wrong in [
            &["--databases"][..],
            &["--databases", "0"],
            &["--agents", "1"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
