//! `cargo xtask fuzz`: readers of foreign bytes under libFuzzer, guided by the coverage of our own crates.
//!
//! The compiler's pass that counts coverage is part of stable Rust. It is given to the crates of the workspace alone, by this very program in the place
//! of their compiler, so that everything else is taken as it was built already.

use std::{
    env, fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    say,
    tools::{cargo, run as run_tool, workspace},
};

/// Says to this program that it stands in the place of the compiler.
const WRAPPER: &str = "KUBEDB_COVERAGE";

/// What a compiler adds for libFuzzer.
const COVERAGE: [&str; 9] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions=yes",
    "-Coverflow-checks=yes",
    "-Copt-level=2",
    "-Ccodegen-units=1",
];

/// An input must be through within this, in seconds.
const INPUT_SECONDS: &str = "5";

/// Memory of a target, in MiB: the largest list of files, unpacked and read, and what libFuzzer keeps.
const MEMORY_MIB: &str = "1024";

/// Longest input: archives and WAL have some pages in it.
const INPUT_BYTES: &str = "65536";

/// Lines of a failed run that are shown.
const LAST_LINES: usize = 25;

/// Time for each target when none is given.
const SECONDS: u64 = 60;

/// Compiles for libFuzzer, if this program was called as a compiler. Then it does not return, unless with a reason.
pub(crate) fn compile_instead(arguments: &[String]) -> Option<String> {
    env::var_os(WRAPPER)?;
    let (compiler, rest) = arguments.split_first()?;
    let mut command = Command::new(compiler);
    command.args(rest);
    // Questions to the compiler have no crate.
    if rest.iter().any(|argument| argument == "--crate-name") {
        command.args(COVERAGE);
    }
    Some(format!("failed to start {compiler}: {}", command.exec()))
}

/// Reads the options and runs one target, or all of them one after another.
pub(crate) fn run(arguments: &[&str]) -> Result<(), String> {
    let (mut seconds, mut wanted) = (SECONDS, None);
    for pair in arguments.chunks(2) {
        match pair {
            ["--time", time] => seconds = read_time(time)?,
            ["--target", name] => wanted = Some(*name),
            _ => return Err("usage: cargo xtask fuzz [--time 60s] [--target NAME]".to_owned()),
        }
    }
    let names = targets()?;
    let chosen: Vec<&String> = names
        .iter()
        .filter(|name| wanted.is_none_or(|wanted| wanted == **name))
        .collect();
    if chosen.is_empty() {
        return Err(format!(
            "unknown target {:?}: one of {}",
            wanted.unwrap_or_default(),
            names.join(", ")
        ));
    }
    let program = build()?;
    let failures: Vec<String> = chosen
        .into_iter()
        .filter_map(|name| fuzz(&program, name, seconds).err())
        .collect();
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures.join("\n"))
    }
}

/// Seconds of `60s` or `5m`.
fn read_time(text: &str) -> Result<u64, String> {
    let (number, unit) = match (text.strip_suffix('s'), text.strip_suffix('m')) {
        (Some(number), _) => (number, 1),
        (_, Some(number)) => (number, 60),
        _ => (text, 1),
    };
    let number: Option<u64> = number.parse().ok().filter(|number| *number > 0);
    let seconds = number.and_then(|number| number.checked_mul(unit));
    seconds.ok_or_else(|| format!("{text:?} is no time such as 60s or 5m"))
}

/// Names of the targets, as their table has them.
fn targets() -> Result<Vec<String>, String> {
    let path = workspace().join("tests/fuzz/src/targets/mod.rs");
    let text = fs::read_to_string(&path)
        .map_err(|error| format!("failed to read {}: {error}", path.display()))?;
    Ok(names_in(&text))
}

fn names_in(table: &str) -> Vec<String> {
    let quoted = table.split("name: \"").skip(1);
    quoted
        .filter_map(|rest| rest.split_once('"'))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Builds the program with all targets, and says where it is.
fn build() -> Result<PathBuf, String> {
    let this = env::current_exe().map_err(|error| format!("failed to find itself: {error}"))?;
    let target = target_folder()?;
    let mut command = cargo();
    command
        // The choice of the tests, so that everything else is taken as they built it.
        .args(["build", "-q", "--workspace"])
        .args(["--features", "kubedb-fuzz/libfuzzer"])
        .args(["--bin", "kubedb-fuzz"])
        .env("RUSTC_WORKSPACE_WRAPPER", this)
        .env(WRAPPER, "1")
        .env("CARGO_INCREMENTAL", "0");
    run_tool(&mut command)?;
    Ok(target.join("debug/kubedb-fuzz"))
}

fn target_folder() -> Result<PathBuf, String> {
    let this = env::current_exe().map_err(|error| format!("failed to find itself: {error}"))?;
    let folder = this.parent().and_then(Path::parent);
    folder
        .map(Path::to_owned)
        .ok_or_else(|| format!("{} lies in no target folder", this.display()))
}

fn fuzz(program: &Path, name: &str, seconds: u64) -> Result<(), String> {
    let base = target_folder()?.join("fuzz");
    let (corpus, found) = (
        base.join("corpus").join(name),
        base.join("found").join(name),
    );
    for folder in [&corpus, &found] {
        fs::create_dir_all(folder)
            .map_err(|error| format!("failed to make {}: {error}", folder.display()))?;
    }
    let output = Command::new(program)
        .env("KUBEDB_FUZZ_TARGET", name)
        .env("KUBEDB_FUZZ_SEEDS", &corpus)
        .env("RUST_BACKTRACE", "0")
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={INPUT_SECONDS}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(format!("-max_len={INPUT_BYTES}"))
        .arg(format!("-artifact_prefix={}/", found.display()))
        .arg("-print_final_stats=1")
        .arg(&corpus)
        .output()
        .map_err(|error| format!("failed to start {}: {error}", program.display()))?;
    let told = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        say(&format!("{name}: {}", summary(&told)));
        return Ok(());
    }
    let lines: Vec<&str> = told.lines().collect();
    let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
    Err(format!(
        "{name}: a promise is broken\n{last}\nwhat broke it lies in {}; keep it in tests/fuzz/regressions/{name}/",
        found.display()
    ))
}

/// How much was tried, and how far it came.
fn summary(told: &str) -> String {
    let number = |key: &str| {
        let (_, rest) = told.rsplit_once(key)?;
        rest.split_whitespace().next()?.parse::<u64>().ok()
    };
    format!(
        "{} inputs tried, {} branches reached",
        number("stat::number_of_executed_units:").unwrap_or_default(),
        number("cov: ").unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_names_are_read() {
        assert_eq!(read_time("60s"), Ok(60));
        assert_eq!(read_time("5m"), Ok(300));
        assert_eq!(read_time("7"), Ok(7));
        for bad in ["", "s", "0s", "-1s", "1h", "99999999999999999999m"] {
            assert!(read_time(bad).is_err(), "{bad}");
        }
        assert_eq!(
            names_in("Target { name: \"a\", x }, Target { name: \"b\" }"),
            ["a", "b"]
        );
        assert!(targets().unwrap().contains(&"schedule".to_owned()));
    }

    #[test]
    fn what_libfuzzer_tells_is_summed_up() {
        let told =
            "#9 NEW cov: 12 ft: 3\n#99 DONE cov: 40 ft: 9\nstat::number_of_executed_units: 99\n";
        assert_eq!(summary(told), "99 inputs tried, 40 branches reached");
        assert_eq!(summary(""), "0 inputs tried, 0 branches reached");
    }
}
