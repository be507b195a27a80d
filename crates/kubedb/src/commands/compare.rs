//! `kubedb compare`: what differs between two reports of `kubedb summarize`.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use clap::{ArgAction, Args};
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::summarize::{Report, store};
use crate::{error::CommandError, ui::Ui};

const EXAMPLES: &str = "\
Lines that only the first report has begin with -, those that only the second has with +.

Examples:
  kubedb compare report-20180208-105341.json report-20180208-112210.json
  kubedb compare before.json after.json --show=false --output /tmp";

/// Largest report that is read: a table takes some hundred bytes.
const REPORT_BYTES: u64 = 256 << 20;

/// What `compare` was told.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CompareArgs {
    /// Two files that summarize wrote
    #[arg(value_name = "REPORT")]
    reports: Vec<PathBuf>,
    /// Folder that the result is written to
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    output: PathBuf,
    /// Print the result too
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    show: bool,
}

pub(super) fn run(arguments: &CompareArgs, ui: &Ui) -> Result<(), CommandError> {
    let (first, second) = match arguments.reports.as_slice() {
        [] => return Err(CommandError::usage("Summary reports not provided.")),
        [first, second] => (read(first)?, read(second)?),
        _ => {
            return Err(CommandError::usage(
                "You must provide two summary report to compare.",
            ));
        }
    };
    if first.kind != second.kind {
        return Err(CommandError::usage(format!(
            "summary reports are not for same type database. ({}, {})",
            first.kind, second.kind
        )));
    }
    let value = |report: &Report| serde_json::to_value(&report.summary.postgres);
    let (first, second) = (value(&first), value(&second));
    let result = compare(&first.unwrap_or_default(), &second.unwrap_or_default());
    let stored = store(
        &arguments.output,
        "result",
        "txt",
        &result,
        Timestamp::now(),
    )?;
    ui.data(&format!("Comparison result has been stored in '{stored}'."));
    if arguments.show {
        ui.data("");
        ui.block(&result);
    }
    Ok(())
}

fn read(path: &Path) -> Result<Report, CommandError> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(REPORT_BYTES).read_to_end(&mut text));
    read.map_err(|source| CommandError::Local {
        doing: format!("read {}", path.display()),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|source| CommandError::Manifest {
        message: format!("{} is no report of kubedb summarize", path.display()),
        source: Some(Box::new(source)),
    })
}

/// Both as one text in JSON, in which lines of one alone are marked.
fn compare(first: &Value, second: &Value) -> String {
    let mut lines = Lines::default();
    lines.both(0, "", first, second, "");
    lines.text
}

#[derive(Default)]
struct Lines {
    text: String,
}

impl Lines {
    fn line(&mut self, mark: char, depth: usize, words: &str) {
        let indent = "  ".repeat(depth);
        self.text.push_str(&format!("{mark} {indent}{words}\n"));
    }

    fn both(&mut self, depth: usize, key: &str, first: &Value, second: &Value, comma: &str) {
        match (first, second) {
            (Value::Object(one), Value::Object(other)) => {
                self.line(' ', depth, &format!("{key}{{"));
                let keys: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
                let last = keys.last().copied();
                for name in &keys {
                    let comma = if Some(*name) == last { "" } else { "," };
                    self.member(depth + 1, name, one, other, comma);
                }
                self.line(' ', depth, &format!("}}{comma}"));
            }
            (one, other) if one == other => self.one(' ', depth, key, one, comma),
            (one, other) => {
                self.one('-', depth, key, one, comma);
                self.one('+', depth, key, other, comma);
            }
        }
    }

    fn member(
        &mut self,
        depth: usize,
        name: &str,
        first: &Map<String, Value>,
        second: &Map<String, Value>,
        comma: &str,
    ) {
        let key = format!("{}: ", Value::from(name));
        match (first.get(name), second.get(name)) {
            (Some(one), Some(other)) => self.both(depth, &key, one, other, comma),
            (Some(one), None) => self.one('-', depth, &key, one, comma),
            (None, Some(other)) => self.one('+', depth, &key, other, comma),
            (None, None) => {}
        }
    }

    fn one(&mut self, mark: char, depth: usize, key: &str, value: &Value, comma: &str) {
        let text = serde_json::to_string_pretty(value).unwrap_or_default();
        let mut lines = text.lines().peekable();
        let mut before = key;
        while let Some(line) = lines.next() {
            let end = if lines.peek().is_none() { comma } else { "" };
            self.line(mark, depth, &format!("{before}{line}{end}"));
            before = "";
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_one_alone_has_is_marked() {
        let table = |rows: i64| json!({ "maxId": -1, "nextId": -1, "totalRow": rows });
        let first = json!({ "postgres": { "schema": { "data": { "table": { "a": table(3), "gone": table(1) } } } } });
        let second =
            json!({ "postgres": { "schema": { "data": { "table": { "a": table(4) } } } } });
        let expected = [
            r#"  {"#,
            r#"    "postgres": {"#,
            r#"      "schema": {"#,
            r#"        "data": {"#,
            r#"          "table": {"#,
            r#"            "a": {"#,
            r#"              "maxId": -1,"#,
            r#"              "nextId": -1,"#,
            r#"-             "totalRow": 3"#,
            r#"+             "totalRow": 4"#,
            r#"            },"#,
            r#"-           "gone": {"#,
            r#"-             "maxId": -1,"#,
            r#"-             "nextId": -1,"#,
            r#"-             "totalRow": 1"#,
            r#"-           }"#,
            r#"          }"#,
            r#"        }"#,
            r#"      }"#,
            r#"    }"#,
            r#"  }"#,
            "",
        ];
        assert_eq!(compare(&first, &second), expected.join("\n"));
        let same = compare(&second, &second);
        assert!(same.lines().all(|line| line.starts_with(' ')), "{same}");
    }

    #[test]
    fn two_reports_of_one_kind_are_compared() {
        let run = |reports: &[&Path]| {
            let arguments = CompareArgs {
                reports: reports.iter().map(|path| path.to_path_buf()).collect(),
                output: PathBuf::from("."),
                show: false,
            };
            run(&arguments, &Ui::default()).unwrap_err().to_string()
        };
        assert_eq!(run(&[]), "Summary reports not provided.");
        let path = Path::new("/nowhere");
        let wanted = "You must provide two summary report to compare.";
        assert_eq!(run(&[path]), wanted);
        assert_eq!(run(&[path, path, path]), wanted);
        let folder = tempfile::tempdir().unwrap();
        let write = |kind: &str| {
            let report = json!({
                "kind": kind, "apiVersion": "kubedb.com/v1alpha1",
                "metadata": { "name": "a", "namespace": "demo", "creationTimestamp": null },
                "summary": { "postgres": {} },
                "status": { "startTime": "2017-07-19T15:32:47Z", "completionTime": "2017-07-19T15:32:47Z" },
            });
            let path = folder.path().join(kind);
            std::fs::write(&path, report.to_string()).unwrap();
            path
        };
        let (one, other) = (write("Postgres"), write("Elasticsearch"));
        let wanted = "summary reports are not for same type database. (Postgres, Elasticsearch)";
        assert_eq!(run(&[&one, &other]), wanted);
    }
}
