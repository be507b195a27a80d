//! `cargo xtask bench`: how long what users wait for takes, and what it costs while nobody waits.

mod host;
mod local;
mod scale;
mod server;

use std::{fs, path::Path};

use serde_json::{Value, json};

pub(crate) use self::scale::scale;

use crate::{say, tools};

/// One thing that was measured.
pub(crate) struct Measured {
    /// What.
    name: &'static str,
    /// In what.
    unit: &'static str,
    /// Not more than this is the aim; none where nothing was promised.
    aim: Option<f64>,
    /// Every run.
    runs: Vec<f64>,
}

impl Measured {
    /// The median, which one disturbed run does not move.
    fn median(&self) -> f64 {
        let mut runs = self.runs.clone();
        runs.sort_by(f64::total_cmp);
        let middle = runs.len() / 2;
        match runs.len() {
            0 => f64::NAN,
            count if count % 2 == 1 => runs[middle],
            _ => f64::midpoint(runs[middle - 1], runs[middle]),
        }
    }

    fn row(&self) -> String {
        let spread = |pick: fn(f64, f64) -> f64| self.runs.iter().copied().reduce(pick);
        let (low, high) = (spread(f64::min), spread(f64::max));
        let aim = self.aim.map_or_else(|| "-".to_owned(), number);
        let verdict = match self.aim {
            Some(aim) if self.median() > aim => "missed",
            Some(_) => "met",
            None => "",
        };
        format!(
            "{:<44} {:>9} {:>9} {:>9} {:>4} {:>8} {:<5} {verdict}",
            self.name,
            number(self.median()),
            number(low.unwrap_or(f64::NAN)),
            number(high.unwrap_or(f64::NAN)),
            self.runs.len(),
            aim,
            self.unit,
        )
        .trim_end()
        .to_owned()
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "unit": self.unit, "aim": self.aim, "median": self.median(), "runs": self.runs,
        })
    }
}

/// Three digits that count.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

/// Measures one machine; prints a table and writes `target/bench/local.json`.
pub(crate) fn local(binary: Option<&Path>) -> Result<(), String> {
    let host = host::describe()?;
    let measured = local::measure(binary)?;
    say(&format!(
        "{:<44} {:>9} {:>9} {:>9} {:>4} {:>8}",
        "", "median", "least", "most", "runs", "aim"
    ));
    for row in measured.iter().map(Measured::row) {
        say(&row);
    }
    let report = json!({
        "host": host,
        "binary": binary.map_or_else(|| "release build".into(), Path::to_string_lossy),
        "measured": measured.iter().map(Measured::json).collect::<Vec<_>>(),
    });
    let path = tools::target_folder().join("bench").join("local.json");
    let text = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
    fs::create_dir_all(path.parent().unwrap_or(&path))
        .and_then(|()| fs::write(&path, text + "\n"))
        .map_err(|error| format!("failed to write {}: {error}", path.display()))?;
    say(&format!("written: {}", path.display()));
    Ok(())
}

/// Measures our engine beside its peers; what it does is in `tests/bench`.
pub(crate) fn backup(arguments: &[&str]) -> Result<(), String> {
    let installed = tools::install()?;
    tools::peers()?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = tools::cargo();
    command
        .env("PATH", format!("{}:{path}", installed.bin.display()))
        .args([
            "run",
            "-q",
            "--release",
            "-p",
            "kubedb-bench",
            "--",
            "--out",
        ])
        .arg(tools::target_folder().join("bench").join("backup.json"))
        .args(arguments);
    tools::run(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(runs: &[f64], aim: f64) -> Measured {
        Measured {
            name: "x",
            unit: "s",
            aim: Some(aim),
            runs: runs.to_vec(),
        }
    }

    #[test]
    fn the_median_decides_whether_an_aim_is_met() {
        assert_eq!(measured(&[9.0, 1.0, 2.0], 2.0).median(), 2.0);
        assert_eq!(measured(&[4.0, 1.0, 2.0, 9.0], 2.0).median(), 3.0);
        assert!(measured(&[9.0, 1.0, 2.0], 2.0).row().ends_with("met"));
        assert!(measured(&[9.0, 3.0, 2.0], 2.0).row().ends_with("missed"));
    }
}
