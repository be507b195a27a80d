//! The table, and the file for machines.

use std::{fs, path::Path, process::Command};

use serde::Serialize;

use crate::{failed, say};

/// Whom we are compared with.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// Its own word for its version.
    pub(crate) version: String,
}

impl Peer {
    /// Asks an installed program for its version: the first of its words that begins with a digit.
    pub(crate) fn ask(name: &'static str, command: &[&str]) -> Result<Self, String> {
        let (program, arguments) = command.split_first().ok_or("no program")?;
        let output = Command::new(program).args(arguments).output();
        let output = output.map_err(failed(&format!("start {name}")))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut words = text.split_whitespace();
        let version = words.find(|word| word.starts_with(|first: char| first.is_ascii_digit()));
        let version = version.unwrap_or_default().to_owned();
        Ok(Self { name, version })
    }
}

/// One work, by us and by a peer, run in turn.
#[derive(Debug)]
pub(crate) struct Compared {
    pub(crate) work: &'static str,
    pub(crate) peer: Peer,
    pub(crate) cache: &'static str,
    pub(crate) codec: &'static str,
    pub(crate) bytes: u64,
    pub(crate) ours: Runs,
    pub(crate) theirs: Runs,
}

/// What each run cost.
#[derive(Clone, Debug, Default)]
pub(crate) struct Runs {
    pub(crate) seconds: Vec<f64>,
    pub(crate) megabytes: Vec<f64>,
    pub(crate) stored: u64,
}

#[derive(Serialize)]
struct Row<'a> {
    work: &'a str,
    size_gb: f64,
    ours_s: f64,
    peer: &'a str,
    peer_version: &'a str,
    peer_s: f64,
    ratio: f64,
    cache: &'a str,
    codec: &'a str,
    encrypted: bool,
    ours_mb: f64,
    peer_mb: f64,
    ours_stored_bytes: u64,
    peer_stored_bytes: u64,
    ours_runs_s: &'a [f64],
    peer_runs_s: &'a [f64],
}

/// The middle of all runs, which one disturbed run does not move.
pub(crate) fn median(runs: &[f64]) -> f64 {
    let mut sorted = runs.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

fn most(runs: &[f64]) -> f64 {
    runs.iter().copied().fold(0.0, f64::max)
}

/// Seconds, or thousandths of one where they are few.
fn time(seconds: f64) -> String {
    if seconds < 0.1 {
        return format!("{:.2} ms", seconds * 1e3);
    }
    format!("{seconds:.2} s")
}

/// Prints the table and writes the file.
pub(crate) fn write(compared: &[Compared], encrypted: bool, out: &Path) -> Result<(), String> {
    say(&format!(
        "{:<28} {:<5} {:>8} {:>9} {:>13} {:>9} {:>7} {:>9} {:>9} {:>10} {:>10}",
        "work",
        "cache",
        "size GB",
        "ours",
        "peer",
        "theirs",
        "ratio",
        "ours MB",
        "theirs MB",
        "ours kept",
        "theirs"
    ));
    let rows = compared.iter().map(|one| row(one, encrypted));
    let rows: Vec<Row<'_>> = rows.collect();
    for row in &rows {
        say(&format!(
            "{:<28} {:<5} {:>8.2} {:>9} {:>13} {:>9} {:>7.2} {:>9.0} {:>9.0} {:>8.0}MB {:>8.0}MB",
            row.work,
            row.cache,
            row.size_gb,
            time(row.ours_s),
            row.peer,
            time(row.peer_s),
            row.ratio,
            row.ours_mb,
            row.peer_mb,
            row.ours_stored_bytes as f64 / 1e6,
            row.peer_stored_bytes as f64 / 1e6,
        ));
    }
    let text = serde_json::to_string_pretty(&rows).map_err(failed("write the report"))?;
    fs::create_dir_all(out.parent().unwrap_or(out))
        .and_then(|()| fs::write(out, text + "\n"))
        .map_err(failed(&format!("write {}", out.display())))?;
    say(&format!("written: {}", out.display()));
    Ok(())
}

fn row(one: &Compared, encrypted: bool) -> Row<'_> {
    let (ours, theirs) = (median(&one.ours.seconds), median(&one.theirs.seconds));
    Row {
        work: one.work,
        size_gb: one.bytes as f64 / 1e9,
        ours_s: ours,
        peer: one.peer.name,
        peer_version: &one.peer.version,
        peer_s: theirs,
        ratio: ours / theirs,
        cache: one.cache,
        codec: one.codec,
        encrypted,
        ours_mb: most(&one.ours.megabytes),
        peer_mb: most(&one.theirs.megabytes),
        ours_stored_bytes: one.ours.stored,
        peer_stored_bytes: one.theirs.stored,
        ours_runs_s: &one.ours.seconds,
        peer_runs_s: &one.theirs.seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_disturbed_run_does_not_move_the_median() {
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), 3.0);
    }
}
