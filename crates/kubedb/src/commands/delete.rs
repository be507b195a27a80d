//! `kubedb delete`: asks for deletion, then waits until the objects are gone.

use std::time::{Duration, Instant};

use clap::Args;
use jiff::SignedDuration;
use kube::{
    api::{DeleteParams, ListParams, Patch, PatchParams},
    core::DynamicObject,
};
use kubedb_operator::of_uid;
use serde_json::json;

use super::selection::{self, Selection};
use crate::{
    client::{
        DEFAULT_NAMESPACE, ServerArgs, Session,
        kinds::{DORMANT_DATABASE, Kind, POSTGRES, SNAPSHOT},
    },
    error::{CommandError, Failures},
    manifest::{self, source},
    ui::Ui,
};

/// Between two looks: deletion of a Snapshot takes seconds.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Nobody waits longer.
const LONGEST: Duration = Duration::from_secs(86_400);
/// Between two lines of progress.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Deleting a database must not frighten whoever did it by mistake.
const DATA_STAYS: &str = "the data folder of a deleted database stays, below databases/ in the server's data folder (on Kubernetes its volumes); its Snapshots stay too: kubedb get drmn shows what is paused, and creating it again resumes it";
/// Nor must whoever meant to have the data gone think that it is.
const RECORD_GOES: &str = "only the record of a paused database goes: its data, Secret and Snapshots stay, unless spec.wipeOut is true when it is deleted";
/// Whoever kept data wants to know what reads it.
const KEPT: &str = "the data of a Snapshot whose spec.deletionPolicy is Retain stays in its store: kubedb repo list shows it, kubedb repo restore restores it";

const EXAMPLES: &str = "\
A database with spec.doNotPause is not deleted. Deleting a Snapshot deletes its data, unless its
spec.deletionPolicy is Retain; --keep-data sets that first, also for a Snapshot whose deletion waits
for a store that is gone. The data folder and the Snapshots of a deleted database stay, unless its
spec.terminationPolicy is Delete or WipeOut: a DormantDatabase keeps its record, and creating it
again resumes it. Deleting a DormantDatabase with spec.wipeOut deletes everything.

Examples:
  kubedb delete pg scheduled-pg -n demo
  kubedb delete snap -n demo -l kubedb.com/name=scheduled-pg
  kubedb delete snap instant-snapshot -n demo --keep-data
  kubedb delete drmn scheduled-pg -n demo
  kubedb delete -f scheduled-pg.yaml --wait=false";

/// What `delete` was told.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct DeleteArgs {
    /// TYPE NAME… or TYPE/NAME…; TYPE alone with --selector or --all
    #[arg(value_name = "TYPE [NAME]", conflicts_with = "filename")]
    pub(crate) objects: Vec<String>,
    /// Delete the objects of manifests: file, folder, URL, or - for standard input
    #[arg(short, long, value_name = "SOURCE")]
    pub(crate) filename: Vec<String>,
    /// Read folders within folders too
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// Namespace; `default` when absent
    #[arg(short, long, value_name = "NAME", value_parser = selection::namespace)]
    pub(crate) namespace: Option<String>,
    /// Only objects with these labels
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with_all = ["filename", "all"])]
    pub(crate) selector: Option<String>,
    /// All objects of the type in the namespace
    #[arg(long, conflicts_with = "filename")]
    pub(crate) all: bool,
    /// Print `type/name` instead of a sentence
    #[arg(short, long, value_name = "FORMAT", value_parser = ["name"])]
    pub(crate) output: Option<String>,
    /// Objects that are gone already are no error
    #[arg(long)]
    pub(crate) ignore_not_found: bool,
    /// Delete Snapshots and keep their data in the store
    #[arg(long)]
    pub(crate) keep_data: bool,
    /// Wait until the objects are gone
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    pub(crate) wait: bool,
    /// How long to wait, such as 30s or 5m
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Let the server check everything and delete nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Reads `30s` and `5m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let read: Result<SignedDuration, _> = text.parse();
    read.ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(|| "not a duration such as 30s or 5m, 24h at most".to_owned())
}

/// An object to be deleted.
struct Target {
    kind: &'static Kind,
    namespace: String,
    name: String,
}

impl Target {
    fn sentence(&self) -> String {
        format!("{} \"{}\"", self.kind.singular, self.name)
    }
}

/// An object whose deletion was accepted.
struct Leaving {
    target: Target,
    /// So that an object created anew under the name is not waited for.
    uid: Option<String>,
    /// What is said once it is gone.
    note: Option<&'static str>,
}

pub(super) async fn run(
    arguments: DeleteArgs,
    server: &ServerArgs,
    ui: &Ui,
) -> Result<(), CommandError> {
    let session;
    let targets = if arguments.filename.is_empty() {
        let selection = Selection::parse(&arguments.objects, "delete")?;
        check(&arguments, &selection)?;
        session = Session::open(server).await?;
        select(&session, &arguments, selection).await?
    } else {
        let targets = from_manifests(&arguments).await?;
        session = Session::open(server).await?;
        targets
    };
    if targets.is_empty() {
        ui.note("No resources found");
        return Ok(());
    }
    if arguments.keep_data {
        only_snapshots(&targets)?;
    }
    let mut failures = Failures::default();
    let mut leaving = Vec::new();
    for target in targets {
        match delete(&session, &target, &arguments).await {
            Ok(object) => {
                say_deleted(&target, &arguments, ui);
                leaving.push(Leaving {
                    note: note(target.kind, &object.data["spec"]),
                    uid: object.metadata.uid,
                    target,
                });
            }
            Err(error) if arguments.ignore_not_found && error.status_code() == Some(404) => {}
            Err(error) => {
                ui.error(&error);
                failures.add(&error);
            }
        }
    }
    if arguments.wait && !arguments.dry_run {
        let mut notes: Vec<_> = leaving.iter().filter_map(|object| object.note).collect();
        notes.sort_unstable();
        notes.dedup();
        wait(&session, leaving, arguments.timeout, ui).await?;
        notes.iter().for_each(|note| ui.note(note));
    }
    failures.end()
}

fn check(arguments: &DeleteArgs, selection: &Selection) -> Result<(), CommandError> {
    let filtered = arguments.all || arguments.selector.is_some();
    match selection {
        Selection::Kinds(_) if !filtered => Err(CommandError::usage(
            "resource(s) were provided, but no name, label selector, or --all flag specified",
        )),
        Selection::Named(_) if filtered => Err(CommandError::usage(
            "name cannot be provided when a selector or --all is specified",
        )),
        _ => Ok(()),
    }
}

async fn select(
    session: &Session,
    arguments: &DeleteArgs,
    selection: Selection,
) -> Result<Vec<Target>, CommandError> {
    let namespace = arguments
        .namespace
        .clone()
        .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    let target = |kind, name| Target {
        kind,
        namespace: namespace.clone(),
        name,
    };
    match selection {
        Selection::Named(named) => Ok(named
            .into_iter()
            .map(|(kind, name)| target(kind, name))
            .collect()),
        Selection::Kinds(kinds) => {
            let parameters = ListParams {
                label_selector: arguments.selector.clone(),
                ..ListParams::default()
            };
            let mut targets = Vec::new();
            for kind in kinds {
                let (objects, _) =
                    selection::list(session, kind, Some(&namespace), &parameters).await?;
                let names = objects
                    .into_iter()
                    .filter_map(|object| object.metadata.name);
                targets.extend(names.map(|name| target(kind, name)));
            }
            Ok(targets)
        }
    }
}

async fn from_manifests(arguments: &DeleteArgs) -> Result<Vec<Target>, CommandError> {
    let mut targets = Vec::new();
    for source in source::read_all(&arguments.filename, arguments.recursive).await? {
        for manifest in manifest::parse(&source)? {
            if manifest.name.is_empty() {
                let message = format!(
                    "failed to read {}: {} without metadata.name cannot be deleted by its manifest",
                    manifest.source, manifest.kind.kind
                );
                return Err(CommandError::manifest(message));
            }
            let namespace = manifest.target_namespace(arguments.namespace.as_deref())?;
            targets.push(Target {
                kind: manifest.kind,
                namespace: namespace.unwrap_or_default(),
                name: manifest.name,
            });
        }
    }
    Ok(targets)
}

/// What else has data keeps it by its own fields: nothing may seem kept that is not.
fn only_snapshots(targets: &[Target]) -> Result<(), CommandError> {
    match targets.iter().find(|target| target.kind != &SNAPSHOT) {
        None => Ok(()),
        Some(target) => Err(CommandError::usage(format!(
            "--keep-data is for Snapshots, and {} is none",
            target.sentence()
        ))),
    }
}

/// What people should know of the data.
fn note(kind: &Kind, spec: &serde_json::Value) -> Option<&'static str> {
    let policy = spec["terminationPolicy"].as_str();
    let deletes = matches!(policy, Some("Delete" | "WipeOut"));
    if kind == &POSTGRES && !deletes {
        Some(DATA_STAYS)
    } else if kind == &DORMANT_DATABASE && spec["wipeOut"] != true {
        Some(RECORD_GOES)
    } else if kind == &SNAPSHOT && spec["deletionPolicy"] == "Retain" {
        Some(KEPT)
    } else {
        None
    }
}

/// Asks for deletion, unless the lock is on, and gives the object as it was when it was asked for.
async fn delete(
    session: &Session,
    target: &Target,
    arguments: &DeleteArgs,
) -> Result<DynamicObject, CommandError> {
    let mut object = selection::get(session, target.kind, &target.namespace, &target.name).await?;
    if target.kind == &POSTGRES && object.data["spec"]["doNotPause"] == true {
        return Err(CommandError::State {
            message: format!(
                "{} can't be paused. To continue delete, unset spec.doNotPause and retry",
                target.sentence()
            ),
            hint: Some(format!(
                "kubedb edit pg {} -n {}",
                target.name, target.namespace
            )),
        });
    }
    let api = session.api(target.kind, Some(&target.namespace));
    if arguments.keep_data {
        // Of one that was made anew under the name since, nothing was read.
        let patch = json!({
            "metadata": { "uid": object.metadata.uid },
            "spec": { "deletionPolicy": "Retain" },
        });
        let parameters = PatchParams {
            dry_run: arguments.dry_run,
            ..PatchParams::default()
        };
        let patched = api
            .patch(&target.name, &parameters, &Patch::Merge(&patch))
            .await;
        object = patched.map_err(|error| session.fail(error, None))?;
    }
    let parameters = DeleteParams {
        dry_run: arguments.dry_run,
        ..of_uid(object.metadata.uid.clone())
    };
    let answer = api.delete(&target.name, &parameters).await;
    answer.map_err(|error| session.fail(error, None))?;
    Ok(object)
}

fn say_deleted(target: &Target, arguments: &DeleteArgs, ui: &Ui) {
    let note = if arguments.dry_run {
        " (server dry run)"
    } else {
        ""
    };
    if arguments.output.is_some() {
        ui.data(&format!("{}/{}", target.kind.singular, target.name));
    } else {
        ui.data(&format!("{} deleted{note}", target.sentence()));
    }
}

/// Waits for all, in turn: the time is one for all.
async fn wait(
    session: &Session,
    leaving: Vec<Leaving>,
    timeout: Duration,
    ui: &Ui,
) -> Result<(), CommandError> {
    let until = Instant::now() + timeout;
    for object in &leaving {
        tokio::select! {
            result = wait_for(session, object, until, ui) => result?,
            _ = tokio::signal::ctrl_c() => {
                ui.note("stopped waiting; the deletion goes on");
                return Err(CommandError::Interrupted);
            }
        }
    }
    Ok(())
}

async fn wait_for(
    session: &Session,
    object: &Leaving,
    until: Instant,
    ui: &Ui,
) -> Result<(), CommandError> {
    let target = &object.target;
    let mut say_at = Instant::now() + SAY_EVERY / 2;
    loop {
        let found = selection::get(session, target.kind, &target.namespace, &target.name).await;
        let found = match found {
            Err(error) if error.status_code() == Some(404) => return Ok(()),
            other => other?,
        };
        if found.metadata.uid != object.uid {
            return Ok(());
        }
        let now = Instant::now();
        if now >= until {
            let what = format!("{} to be deleted", target.sentence());
            return Err(CommandError::TimedOut { what });
        }
        if now >= say_at {
            let reason = found.data["status"]["reason"].as_str();
            let reason = reason
                .map(|reason| format!(": {reason}"))
                .unwrap_or_default();
            ui.note(&format!(
                "waiting for {} to be deleted{reason}",
                target.sentence()
            ));
            say_at = now + SAY_EVERY;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_the_data_is_said() {
        let said = |kind, spec| note(kind, &spec);
        assert_eq!(said(&POSTGRES, json!({})), Some(DATA_STAYS));
        let wiped = json!({ "terminationPolicy": "WipeOut" });
        assert_eq!(said(&POSTGRES, wiped), None);
        assert_eq!(said(&DORMANT_DATABASE, json!({})), Some(RECORD_GOES));
        let wiped = json!({ "wipeOut": true });
        assert_eq!(said(&DORMANT_DATABASE, wiped), None);
        assert_eq!(said(&SNAPSHOT, json!({})), None);
        let kept = json!({ "deletionPolicy": "Retain" });
        assert_eq!(said(&SNAPSHOT, kept), Some(KEPT));
    }

    #[test]
    fn durations_are_read() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert!(duration("-5m").is_err());
        assert!(duration("25h").is_err());
        assert!(duration("soon").is_err());
    }
}
