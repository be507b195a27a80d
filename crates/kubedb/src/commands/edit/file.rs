//! The file that is edited: its header, its text, the editor.

use std::{
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::NamedTempFile;

use crate::{
    commands::get::{Output, to_json},
    error::CommandError,
    manifest,
};

/// What the user is told first.
const HEADER: &str = "\
# Please edit the object below. Lines beginning with a '#' will be ignored,
# and an empty file will abort the edit. If an error occurs while saving this file will be
# reopened with the relevant failures.
#
";

/// Lines above the object in a file that is opened again for one line of reason: header, reason, and a line between.
const LINES_ABOVE: usize = 6;

/// A temporary file that only its user can read.
pub(super) struct EditFile {
    file: NamedTempFile,
    /// What was written into it for the user.
    filled: String,
}

fn failed(doing: &str) -> impl FnOnce(io::Error) -> CommandError {
    let doing = doing.to_owned();
    move |source| CommandError::Local { doing, source }
}

impl EditFile {
    /// Makes the file with nothing in it.
    pub(super) fn create(output: Output) -> Result<Self, CommandError> {
        let suffix = if output == Output::Json {
            ".json"
        } else {
            ".yaml"
        };
        let file = tempfile::Builder::new()
            .prefix("kubedb-edit-")
            .suffix(suffix)
            .tempfile()
            .map_err(failed("create a temporary file"))?;
        Ok(Self {
            file,
            filled: String::new(),
        })
    }

    /// Fills it: header, what went wrong the last time, text.
    pub(super) fn fill(&mut self, reasons: &[String], text: &str) -> Result<(), CommandError> {
        let comments: String = reasons
            .iter()
            .flat_map(|reason| reason.lines())
            .map(|line| format!("# {line}\n"))
            .chain((!reasons.is_empty()).then(|| "#\n".to_owned()))
            .collect();
        // Editors may replace the file, so it is opened by its name.
        self.filled = format!("{HEADER}{comments}{text}");
        fs::File::create(self.file.path())
            .and_then(|mut file| file.write_all(self.filled.as_bytes()))
            .map_err(failed("write the temporary file"))
    }

    /// Whether the user saved anything since: an editor that fails afterwards must not take it along.
    pub(super) fn is_changed(&self) -> bool {
        fs::read(self.file.path()).is_ok_and(|found| found != self.filled.as_bytes())
    }

    /// Lets the user edit it and reads the text without comments.
    pub(super) fn edit(&self) -> Result<String, CommandError> {
        let editor = editor();
        let status = Command::new("sh")
            .arg("-c")
            .arg(format!("{editor} \"$1\""))
            .arg("kubedb")
            .arg(self.file.path())
            .status()
            .map_err(failed(&format!("start the editor {editor:?}")))?;
        if !status.success() {
            return Err(CommandError::State {
                message: format!("there was a problem with the editor {editor:?}: {status}"),
                hint: Some("KUBEDB_EDITOR or EDITOR names another one".to_owned()),
            });
        }
        let text = fs::read_to_string(self.file.path()).map_err(failed("read the edited file"))?;
        Ok(without_comments(&text))
    }

    /// Keeps the file and says where.
    pub(super) fn keep(self) -> Result<PathBuf, CommandError> {
        let kept = self.file.keep().map_err(|error| error.error);
        kept.map(|(_, path)| path)
            .map_err(failed("keep the edited file"))
    }
}

/// `KUBEDB_EDITOR`, else `EDITOR`, else nano where it is there, else vi.
fn editor() -> String {
    let named = ["KUBEDB_EDITOR", "EDITOR"]
        .into_iter()
        .filter_map(|name| env::var(name).ok())
        .find(|editor| !editor.trim().is_empty());
    named.unwrap_or_else(|| {
        let path = env::var_os("PATH").unwrap_or_default();
        let nano = env::split_paths(&path)
            .any(|folder: PathBuf| Path::new(&folder).join("nano").is_file());
        if nano { "nano" } else { "vi" }.to_owned()
    })
}

/// An object as text to edit.
pub(super) fn to_text(object: &Value, output: Output) -> Result<String, CommandError> {
    if output == Output::Json {
        to_json(object)
    } else {
        Ok(manifest::yaml::to_yaml(object))
    }
}

/// Reads the edited text; the error says line and column in the file that is opened again with it.
pub(super) fn from_text(text: &str) -> Result<Value, String> {
    let shifted = "\n".repeat(LINES_ABOVE) + text;
    let mut documents = manifest::text::read(&shifted).map_err(|mistake| mistake.reason)?;
    match (documents.pop(), documents.is_empty()) {
        (Some(value @ Value::Object(_)), true) => Ok(value),
        _ => Err("not one object".to_owned()),
    }
}

fn without_comments(text: &str) -> String {
    let kept = text.lines().filter(|line| !line.starts_with('#'));
    kept.map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let object = json!({
            "spec": { "version": "9.6", "number": 9.6, "text": "a\n# no comment\nb\n", "yes": "yes", "none": null }
        });
        for output in [Output::Yaml, Output::Json] {
            let mut file = EditFile::create(output).unwrap();
            let text = to_text(&object, output).unwrap();
            file.fill(&["bad\nworse".to_owned()], &text).unwrap();
            let written = fs::read_to_string(file.file.path()).unwrap();
            assert!(
                written.starts_with(&format!("{HEADER}# bad\n# worse\n#\n")),
                "{written}"
            );
            assert_eq!(HEADER.lines().count(), 4);
            assert_eq!(from_text(&without_comments(&written)).unwrap(), object);
        }
    }

    #[test]
    fn syntax_errors_say_where() {
        for wrong in ["just text", "a: 1\n---\nb: 2\n"] {
            assert_eq!(from_text(wrong).unwrap_err(), "not one object");
        }
        let text = "a: 1\nb: 2\nb: 3\n";
        assert!(from_text(text).unwrap_err().contains("duplicate"));
        // The line that is named is the line in the file that the user sees next.
        let text = "a: 1\nb: {c: 1\nd: 2\n";
        let reason = from_text(text).unwrap_err();
        let mut file = EditFile::create(Output::Yaml).unwrap();
        file.fill(
            &[format!("The edited file had a syntax error: {reason}")],
            text,
        )
        .unwrap();
        let written = fs::read_to_string(file.file.path()).unwrap();
        let line = written.lines().position(|line| line == "d: 2").unwrap() + 1;
        assert!(
            reason.contains(&format!("line {line} ")),
            "{reason} is not in line {line}"
        );
    }

    #[test]
    fn a_kept_file_stays() {
        let mut file = EditFile::create(Output::Yaml).unwrap();
        file.fill(&[], "a: 1\n").unwrap();
        let path = file.keep().unwrap();
        assert!(fs::read_to_string(&path).unwrap().ends_with("#\na: 1\n"));
        fs::remove_file(path).unwrap();
    }
}
