//! `kubedb edit`: an object in the user's editor, sent when it is saved.

mod change;
mod file;

use clap::Args;
use kube::{
    Api,
    api::{Patch, PatchParams},
    core::DynamicObject,
};
use serde_json::Value;

use self::file::EditFile;
use super::{
    get::Output,
    selection::{self, NamespaceArgs, Selection},
};
use crate::{
    client::{ServerArgs, Session, kinds::Kind},
    error::{CommandError, Failures},
    ui::Ui,
};

/// Rounds of one edit; whoever saves a wrong file that often has an editor that is no editor.
const MOST_ROUNDS: usize = 100;
/// Agents write the status all the time; between reading and writing lie milliseconds, so a few tries do.
const MOST_CONFLICTS: usize = 10;

const EXAMPLES: &str = "\
The editor is KUBEDB_EDITOR, else EDITOR, else nano, else vi. Snapshots cannot be edited.

Examples:
  kubedb edit pg scheduled-pg -n demo
  KUBEDB_EDITOR='code --wait' kubedb edit pg/scheduled-pg -n demo -o json";

/// What `edit` was told.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EditArgs {
    /// TYPE NAME or TYPE/NAME
    #[arg(value_name = "TYPE NAME")]
    pub(crate) object: Vec<String>,
    #[command(flatten)]
    pub(crate) namespace: NamespaceArgs,
    /// Format to edit in: yaml or json
    #[arg(short, long, value_name = "FORMAT", default_value = "yaml")]
    pub(crate) output: String,
}

pub(super) async fn run(
    arguments: EditArgs,
    server: &ServerArgs,
    ui: &Ui,
) -> Result<(), CommandError> {
    let output = match Output::parse(Some(&arguments.output))? {
        output @ (Output::Yaml | Output::Json) => output,
        _ => return Err(CommandError::usage("an object is edited as yaml or json")),
    };
    let (kind, name) = single(&arguments.object)?;
    let session = Session::open(server).await?;
    let namespace = &arguments.namespace.namespace;
    let object = selection::get(&session, kind, namespace, &name).await?;
    let original = to_value(&session, object)?;
    let edit = Edit {
        session: &session,
        kind,
        name,
        original,
        output,
    };
    let mut file = EditFile::create(output)?;
    let outcome = edit
        .rounds(&session.api(kind, Some(namespace)), &mut file, ui)
        .await;
    let outcome = match outcome {
        Err(Stopped { error, keep: true }) => {
            let path = file.keep()?;
            ui.error(&error);
            let mut failures = Failures::default();
            failures.add(&error);
            let path = path.display();
            ui.note(&if error.status_code() == Some(404) {
                format!("The edits you made on deleted resources have been saved to \"{path}\"")
            } else {
                format!("A copy of your changes has been stored to \"{path}\"")
            });
            return failures.end();
        }
        Err(Stopped { error, keep: false }) => return Err(error),
        Ok(outcome) => outcome,
    };
    let word = match outcome {
        Outcome::Edited => "edited",
        Outcome::Skipped => "skipped",
        Outcome::Cancelled(why) => {
            ui.note(&format!("Edit cancelled, {why}."));
            return Ok(());
        }
    };
    ui.data(&format!("{} \"{}\" {word}", kind.singular, edit.name));
    Ok(())
}

/// The one object, of a kind that can be edited.
fn single(arguments: &[String]) -> Result<(&'static Kind, String), CommandError> {
    let selection = Selection::parse(arguments, "edit")?;
    let Selection::Named(mut named) = selection else {
        return Err(CommandError::usage(
            "the name of the object to edit is missing",
        ));
    };
    let (Some((kind, name)), true) = (named.pop(), named.is_empty()) else {
        return Err(CommandError::usage("one object at a time"));
    };
    if ["Snapshot", "Event"].contains(&kind.kind) {
        let typed = arguments.first().map(String::as_str).unwrap_or_default();
        let typed = typed.split_once('/').map_or(typed, |(kind, _)| kind);
        let message = format!("resource type \"{typed}\" doesn't support edit operation");
        return Err(CommandError::usage(message));
    }
    Ok((kind, name))
}

fn to_value(session: &Session, object: DynamicObject) -> Result<Value, CommandError> {
    serde_json::to_value(object)
        .map_err(|source| session.fail(kube::Error::SerdeError(source), None))
}

/// How an edit ended well.
enum Outcome {
    Edited,
    /// Saved with other words that mean the same.
    Skipped,
    Cancelled(&'static str),
}

/// How it ended otherwise, and whether there is work of the user's to keep.
struct Stopped {
    error: CommandError,
    keep: bool,
}

struct Edit<'a> {
    session: &'a Session,
    kind: &'static Kind,
    name: String,
    original: Value,
    output: Output,
}

impl Edit<'_> {
    /// Edits until the server takes it or the user gives up.
    async fn rounds(
        &self,
        api: &Api<DynamicObject>,
        file: &mut EditFile,
        ui: &Ui,
    ) -> Result<Outcome, Stopped> {
        let lose = |error| Stopped { error, keep: false };
        let keep = |error| Stopped { error, keep: true };
        let before = change::editable(self.original.clone());
        let original_text = file::to_text(&before, self.output).map_err(lose)?;
        let (mut text, mut reasons) = (original_text.clone(), Vec::new());
        for _ in 0..MOST_ROUNDS {
            file.fill(&reasons, &text).map_err(lose)?;
            let first = reasons.is_empty();
            let edited = file.edit().map_err(|error| Stopped {
                error,
                keep: !first || file.is_changed(),
            })?;
            if edited.trim().is_empty() {
                return Ok(Outcome::Cancelled("saved file was empty"));
            }
            if edited == original_text {
                return Ok(Outcome::Cancelled("no changes made"));
            }
            if edited == text && !first {
                return Err(keep(nothing_valid()));
            }
            text = edited;
            let after = match file::from_text(&text) {
                Ok(after) => after,
                Err(reason) => {
                    reasons = vec![format!("The edited file had a syntax error: {reason}")];
                    continue;
                }
            };
            if let Some(refusal) = change::refusal(self.kind, &before, &after) {
                let (message, hint) = (refusal.message, refusal.hint);
                return Err(keep(CommandError::State { message, hint }));
            }
            let Some(patch) = change::merge_patch(&before, &after) else {
                return Ok(Outcome::Skipped);
            };
            match self.send(api, &patch).await {
                Ok(()) => return Ok(Outcome::Edited),
                Err(error) if matches!(error.status_code(), Some(400 | 403 | 422)) => {
                    ui.error(&error);
                    let name = format!("{} \"{}\" was not valid:", self.kind.plural, self.name);
                    reasons = vec![name, format!("* {error}")];
                }
                Err(error) => return Err(keep(error)),
            }
        }
        Err(keep(nothing_valid()))
    }

    /// Sends the patch against what the user saw: a status that moved on meanwhile is no conflict, other changes are.
    async fn send(&self, api: &Api<DynamicObject>, patch: &Value) -> Result<(), CommandError> {
        let parameters = PatchParams::default().validation_strict();
        let mut version = self.original["metadata"]["resourceVersion"]
            .as_str()
            .map(str::to_owned);
        let mut last = None;
        for _ in 0..MOST_CONFLICTS {
            let pinned = Patch::Merge(change::pinned(patch, version.as_deref()));
            let error = match api.patch(&self.name, &parameters, &pinned).await {
                Ok(_) => return Ok(()),
                Err(error) => self.session.fail(error, None),
            };
            if error.status_code() != Some(409) {
                return Err(error);
            }
            let now = api
                .get(&self.name)
                .await
                .map_err(|error| self.session.fail(error, None))?;
            version = now.metadata.resource_version.clone();
            let now = to_value(self.session, selection::with_types(now, self.kind))?;
            if !change::same_for_user(&self.original, &now) {
                return Err(error);
            }
            last = Some(error);
        }
        Err(last.unwrap_or_else(nothing_valid))
    }
}

fn nothing_valid() -> CommandError {
    CommandError::State {
        message: "Edit cancelled, no valid changes were saved.".to_owned(),
        hint: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::kinds::POSTGRES;

    #[test]
    fn snapshots_are_not_edited() {
        let single = |parts: &[&str]| {
            let parts: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
            single(&parts)
        };
        assert_eq!(single(&["pg/x"]).unwrap(), (&POSTGRES, "x".to_owned()));
        for typed in [&["snap", "x"][..], &["snap/x"]] {
            let message = single(typed).unwrap_err().to_string();
            assert_eq!(
                message,
                "resource type \"snap\" doesn't support edit operation"
            );
        }
        assert!(single(&["pg"]).is_err());
        assert!(single(&["pg", "x", "y"]).is_err());
    }
}
