//! `kubedb snapshot`: which Snapshots stay, and why; and one as PostgreSQL's own tools know it.

use clap::{Args, Subcommand};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use kubedb_api::{Postgres, Snapshot, labels, retention::Retention, validate::check_retention};
use kubedb_core::retention::Verdict;
use kubedb_operator::{as_read, retention::verdicts};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{
    export,
    selection::{self, NamespaceArgs},
};
use crate::{
    client::{
        ServerArgs, Session,
        kinds::{Kind, POSTGRES, SNAPSHOT},
    },
    error::CommandError,
    table::Table,
    ui::Ui,
};

const EXAMPLES: &str = "\
Examples:
  kubedb snapshot retention scheduled-pg -n demo --dry-run
  kubedb snapshot retention scheduled-pg -n demo --keep-daily 7 --keep-weekly 4 --dry-run
  kubedb snapshot pin scheduled-pg-20180208-105341 -n demo
  kubedb snapshot export scheduled-pg-20180208-105341 -n demo --to /tmp/base";

const RETENTION_EXAMPLES: &str = "\
The rules are those of spec.backupSchedule.retention, by which the operator deletes too. With rules on the command line
these alone are tried, and nothing is deleted. The newest good Snapshot, pinned ones, and those that no schedule made always stay.

Examples:
  kubedb snapshot retention scheduled-pg -n demo --dry-run
  kubedb snapshot retention scheduled-pg -n demo --keep-last 3 --keep-within 30d --dry-run
  kubedb snapshot retention scheduled-pg -n demo --dry-run -o json
  kubedb snapshot retention scheduled-pg -n demo";

/// What `snapshot` was told.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct SnapshotArgs {
    #[command(subcommand)]
    command: SnapshotCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum SnapshotCommand {
    /// Say which Snapshots of a database stay and why, and delete the others
    #[command(after_help = RETENTION_EXAMPLES)]
    Retention(RetentionArgs),
    /// Keep a Snapshot whatever retention says
    #[command(after_help = "Examples:\n  kubedb snapshot pin scheduled-pg-20180208-105341 -n demo")]
    Pin(PinArgs),
    /// Write a Snapshot as a base backup that pg_verifybackup accepts, or as SQL that psql loads
    #[command(after_help = export::EXAMPLES)]
    Export(export::ExportArgs),
    /// Leave a Snapshot to retention again
    #[command(
        after_help = "Examples:\n  kubedb snapshot unpin scheduled-pg-20180208-105341 -n demo"
    )]
    Unpin(PinArgs),
}

#[derive(Args, Clone, Debug)]
struct RetentionArgs {
    /// The database
    #[arg(value_name = "DATABASE")]
    database: String,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// Only say it
    #[arg(long)]
    dry_run: bool,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
    #[command(flatten)]
    rules: RuleArgs,
}

/// Rules to try, each as the field of its name.
#[derive(Args, Clone, Debug, Default)]
#[group(requires = "dry_run", multiple = true)]
#[command(next_help_heading = "Rules to try")]
struct RuleArgs {
    /// Keep the newest ones
    #[arg(long, value_name = "COUNT")]
    keep_last: Option<i32>,
    /// Keep the newest of so many hours
    #[arg(long, value_name = "COUNT")]
    keep_hourly: Option<i32>,
    /// Keep the newest of so many days
    #[arg(long, value_name = "COUNT")]
    keep_daily: Option<i32>,
    /// Keep the newest of so many weeks
    #[arg(long, value_name = "COUNT")]
    keep_weekly: Option<i32>,
    /// Keep the newest of so many months
    #[arg(long, value_name = "COUNT")]
    keep_monthly: Option<i32>,
    /// Keep the newest of so many years
    #[arg(long, value_name = "COUNT")]
    keep_yearly: Option<i32>,
    /// Keep all that are at most this much older than the newest, such as 36h or 30d
    #[arg(long, value_name = "AGE")]
    keep_within: Option<String>,
    /// Keep the newest failed ones
    #[arg(long, value_name = "COUNT")]
    failed_history_limit: Option<i32>,
}

impl RuleArgs {
    /// None where none was given.
    fn retention(self) -> Option<Retention> {
        let retention = Retention {
            keep_last: self.keep_last,
            keep_hourly: self.keep_hourly,
            keep_daily: self.keep_daily,
            keep_weekly: self.keep_weekly,
            keep_monthly: self.keep_monthly,
            keep_yearly: self.keep_yearly,
            keep_within: self.keep_within,
            failed_history_limit: self.failed_history_limit,
        };
        (retention != Retention::default()).then_some(retention)
    }
}

#[derive(Args, Clone, Debug)]
struct PinArgs {
    /// The Snapshots
    #[arg(value_name = "SNAPSHOT", required = true)]
    names: Vec<String>,
    #[command(flatten)]
    namespace: NamespaceArgs,
}

pub(super) async fn run(
    arguments: SnapshotArgs,
    server: &ServerArgs,
    ui: &Ui,
) -> Result<(), CommandError> {
    match arguments.command {
        SnapshotCommand::Retention(arguments) => retention(arguments, server, ui).await,
        SnapshotCommand::Export(arguments) => export::run(arguments, server, ui).await,
        SnapshotCommand::Pin(arguments) => pin(arguments, true, server, ui).await,
        SnapshotCommand::Unpin(arguments) => pin(arguments, false, server, ui).await,
    }
}

async fn retention(
    arguments: RetentionArgs,
    server: &ServerArgs,
    ui: &Ui,
) -> Result<(), CommandError> {
    selection::check_name(&arguments.database)?;
    let tried = arguments.rules.retention();
    if let Some(tried) = &tried {
        let raw = serde_json::to_value(tried).unwrap_or_default();
        if let Some(error) = check_retention(&raw, "retention").first() {
            return Err(CommandError::usage(error.text()));
        }
    }
    let session = Session::open(server).await?;
    let namespace = arguments.namespace.namespace.as_str();
    let api: Api<Postgres> = Api::namespaced(session.client.clone(), namespace);
    let postgres = api.get(&arguments.database).await;
    let postgres = postgres.map_err(|error| session.fail(error, None))?;
    let schedule = postgres.spec.backup_schedule.as_ref();
    let stated = schedule.and_then(|schedule| schedule.retention.clone());
    let Some(rules) = tried.or(stated) else {
        return Err(no_rules(&arguments.database, namespace));
    };
    let snapshots: Vec<Snapshot> = all(&session, &SNAPSHOT, Some(namespace)).await?;
    let snapshots: Vec<Snapshot> = snapshots
        .into_iter()
        .filter(|snapshot| snapshot.spec.database_name == arguments.database)
        .collect();
    let databases = everywhere(&session, namespace, ui).await?;
    let verdicts = verdicts(&rules, &postgres, &snapshots, databases.iter());
    print(&verdicts, arguments.output.is_some(), ui);
    if arguments.dry_run {
        return Ok(());
    }
    for verdict in verdicts.iter().rev().filter(|verdict| verdict.is_expired()) {
        let judged = snapshots
            .iter()
            .find(|snapshot| snapshot.name_any() == verdict.name);
        if let Some(snapshot) = judged {
            delete(&session, snapshot, ui).await?;
        }
    }
    Ok(())
}

fn no_rules(database: &str, namespace: &str) -> CommandError {
    CommandError::State {
        message: format!(
            "postgres \"{database}\" has no spec.backupSchedule.retention: all its Snapshots are kept"
        ),
        hint: Some(format!(
            "try rules first: kubedb snapshot retention {database} -n {namespace} --keep-daily 7 --dry-run"
        )),
    }
}

async fn all<K: DeserializeOwned>(
    session: &Session,
    kind: &'static Kind,
    namespace: Option<&str>,
) -> Result<Vec<K>, CommandError> {
    let (objects, _) = selection::list(session, kind, namespace, &ListParams::default()).await?;
    let read = objects.into_iter().map(|object| {
        let value = serde_json::to_value(object).and_then(serde_json::from_value);
        value.map_err(|error| CommandError::State {
            message: format!("failed to read a {} of the server: {error}", kind.kind),
            hint: None,
        })
    });
    read.collect()
}

/// Databases of all namespaces, because each of them may be reading a Snapshot; those of one for who may see no more.
async fn everywhere(
    session: &Session,
    namespace: &str,
    ui: &Ui,
) -> Result<Vec<Postgres>, CommandError> {
    match all(session, &POSTGRES, None).await {
        Err(error) if error.status_code() == Some(403) => {
            ui.note("databases of other namespaces, which may be reading a Snapshot, cannot be seen by you");
            all(session, &POSTGRES, Some(namespace)).await
        }
        other => other,
    }
}

fn print(verdicts: &[Verdict], as_json: bool, ui: &Ui) {
    if as_json {
        let list: Vec<serde_json::Value> = verdicts
            .iter()
            .map(|verdict| {
                json!({"name": verdict.name, "time": verdict.time.to_string(), "kept": !verdict.is_expired(),
                    "reason": verdict.reason()})
            })
            .collect();
        ui.data(&serde_json::Value::Array(list).to_string());
        return;
    }
    if verdicts.is_empty() {
        ui.note("No Snapshots found");
        return;
    }
    let head = ["NAME", "TIME", "FATE", "REASON"].map(str::to_owned);
    let rows = verdicts.iter().map(|verdict| {
        let fate = if verdict.is_expired() {
            "delete"
        } else {
            "keep"
        };
        vec![
            verdict.name.clone(),
            verdict.time.to_string(),
            fate.to_owned(),
            verdict.reason(),
        ]
    });
    let rows: Vec<Vec<String>> = std::iter::once(head.to_vec()).chain(rows).collect();
    ui.block(&Table::default().render(&rows));
}

/// The Snapshot that was judged, and not one that was pinned since.
async fn delete(session: &Session, snapshot: &Snapshot, ui: &Ui) -> Result<(), CommandError> {
    let namespace = snapshot.namespace();
    let api = session.api(&SNAPSHOT, namespace.as_deref());
    let name = snapshot.name_any();
    match api.delete(&name, &as_read(snapshot)).await {
        // The operator was quicker.
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => drop(other.map_err(|error| session.fail(error, None))?),
    }
    ui.data(&format!("snapshot \"{name}\" deleted"));
    Ok(())
}

async fn pin(
    arguments: PinArgs,
    pinned: bool,
    server: &ServerArgs,
    ui: &Ui,
) -> Result<(), CommandError> {
    arguments
        .names
        .iter()
        .try_for_each(|name| selection::check_name(name))?;
    let session = Session::open(server).await?;
    let api: Api<Snapshot> =
        Api::namespaced(session.client.clone(), &arguments.namespace.namespace);
    let value = pinned.then_some("true");
    let patch = json!({ "metadata": { "annotations": { labels::PINNED: value } } });
    for name in &arguments.names {
        let patched = api
            .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        patched.map_err(|error| session.fail(error, None))?;
        let done = if pinned { "pinned" } else { "unpinned" };
        ui.data(&format!("snapshot \"{name}\" {done}"));
    }
    Ok(())
}
