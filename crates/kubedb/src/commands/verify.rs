//! `kubedb verify`: whether a Snapshot can be restored, proven as closely as is asked for.

use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use kubedb_api::{
    Snapshot, labels,
    snapshot::SnapshotPhase,
    verification::{
        Verification, VerificationLevel, VerificationPhase, VerificationRequest, annotation, check,
    },
};
use serde_json::json;

use super::{
    delete::duration,
    describe::size,
    selection::{NamespaceArgs, Selection},
};
use crate::{
    client::{ServerArgs, Session, kinds::SNAPSHOT},
    error::CommandError,
    ui::Ui,
};

const EXAMPLES: &str = "\
Levels, each with what those before prove:
  objects  every object of the Snapshot is in the bucket and is what was written
  pages    every page of every table and index fits its checksum; nothing is written to disk
  boot     a PostgreSQL starts on a copy beside the data of an instance, replays it and reads
           every table; amcheck, where the build has it, checks every index; the query must run

A standby does it where there is one. A Snapshot that is due goes first. The answer is in status.verification, in a condition and an Event.

Examples:
  kubedb verify snap scheduled-pg-20180208-105341 -n demo
  kubedb verify snap scheduled-pg-20180208-105341 -n demo --level pages
  kubedb verify snap instant-snapshot -n demo --database app --query 'SELECT id FROM orders LIMIT 1'
  kubedb verify snap instant-snapshot -n demo --no-wait";

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(300);
/// Pause between two words about how far it is.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// What `verify` was told.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct VerifyArgs {
    /// snap NAME or snap/NAME
    #[arg(value_name = "TYPE NAME", required = true, num_args = 1..=2)]
    object: Vec<String>,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// How much to prove
    #[arg(long, value_name = "LEVEL", default_value = "boot")]
    level: LevelArg,
    /// With boot: one statement that must run without an error, as a role that may only read
    #[arg(long, value_name = "SQL")]
    query: Option<String>,
    /// Database that the query runs in; default postgres
    #[arg(long, value_name = "NAME", requires = "query")]
    database: Option<String>,
    /// Ask for it, and do not wait for the answer
    #[arg(long)]
    no_wait: bool,
    /// How long to wait, such as 30m or 2h
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    timeout: Duration,
    /// Say what would be read, and ask for nothing
    #[arg(long)]
    dry_run: bool,
}

/// A level as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LevelArg {
    Objects,
    Pages,
    Boot,
}

impl From<LevelArg> for VerificationLevel {
    fn from(level: LevelArg) -> Self {
        match level {
            LevelArg::Objects => Self::Objects,
            LevelArg::Pages => Self::Pages,
            LevelArg::Boot => Self::Boot,
        }
    }
}

pub(super) async fn run(
    arguments: VerifyArgs,
    server: &ServerArgs,
    ui: &Ui,
) -> Result<(), CommandError> {
    let name = snapshot_name(&arguments.object)?;
    let request = VerificationRequest {
        level: arguments.level.into(),
        query: arguments.query.clone(),
        database: arguments.database.clone(),
        requested: Some(Timestamp::now()),
    };
    let (query, database) = (request.query.as_deref(), request.database.as_deref());
    check(request.level, query, database).map_err(CommandError::usage)?;
    let session = Session::open(server).await?;
    let namespace = arguments.namespace.namespace.as_str();
    let api: Api<Snapshot> = Api::namespaced(session.client.clone(), namespace);
    let snapshot = api.get(&name).await;
    let snapshot = snapshot.map_err(|error| session.fail(error, None))?;
    check_phase(&snapshot, namespace)?;
    if arguments.dry_run {
        say_what(&snapshot, &request, ui);
        return Ok(());
    }
    let request = ask(&session, &api, &snapshot, request, ui).await?;
    if arguments.no_wait {
        ui.data(&format!(
            "snapshot \"{name}\" is to be verified ({:?})",
            request.level
        ));
        return Ok(());
    }
    tokio::select! {
        result = wait(&session, &api, &name, &request, arguments.timeout, ui) => result,
        _ = tokio::signal::ctrl_c() => {
            ui.note("stopped waiting; the verification goes on, and kubedb describe snap shows it");
            Err(CommandError::Interrupted)
        }
    }
}

fn snapshot_name(object: &[String]) -> Result<String, CommandError> {
    let wrong =
        || CommandError::usage("only one Snapshot can be verified: kubedb verify snap NAME");
    match Selection::parse(object, "verify")? {
        Selection::Named(mut names) if names.len() == 1 => {
            let (kind, name) = names.remove(0);
            if kind.kind != SNAPSHOT.kind {
                return Err(wrong());
            }
            Ok(name)
        }
        _ => Err(wrong()),
    }
}

/// Only what was taken can be looked at.
fn check_phase(snapshot: &Snapshot, namespace: &str) -> Result<(), CommandError> {
    let name = snapshot.name_any();
    let status = snapshot.status.as_ref();
    let phase = status.and_then(|status| status.phase);
    if phase == Some(SnapshotPhase::Succeeded) {
        return Ok(());
    }
    let (stands, hint) = match phase {
        Some(SnapshotPhase::Failed) => ("failed, so there is nothing to verify", "get"),
        _ => ("is not there yet: it must have succeeded", "describe"),
    };
    let hint = match hint {
        "get" => format!("kubedb get snap -n {namespace} shows the others"),
        _ => format!("kubedb describe snap {name} -n {namespace} says how far it is"),
    };
    Err(CommandError::State {
        message: format!("snapshot \"{name}\" {stands}"),
        hint: Some(hint),
    })
}

fn say_what(snapshot: &Snapshot, request: &VerificationRequest, ui: &Ui) {
    let result = snapshot
        .status
        .as_ref()
        .and_then(|status| status.result.as_ref());
    let (stored, whole) = result.map_or((0, 0), |result| {
        (result.stored_bytes, result.database_bytes)
    });
    let name = snapshot.name_any();
    let (stored, whole) = (size(stored), size(whole));
    ui.data(&match request.level {
        VerificationLevel::Objects => {
            format!("snapshot \"{name}\": every object would be read, {stored} of the bucket, and compared with its hash")
        }
        VerificationLevel::Pages => format!(
            "snapshot \"{name}\": {stored} at most would be read of the bucket, and the pages of {whole} verified; nothing would be written"
        ),
        VerificationLevel::Boot => format!(
            "snapshot \"{name}\": {stored} at most would be read of the bucket and {whole} written to a scratch folder beside the data of an instance, which needs as much room and a tenth more; a PostgreSQL would be started on it, read through, and all of it removed"
        ),
    });
    ui.note("nothing was asked for (dry run)");
}

/// Writes the wish down, unless one is under way: the same is joined, and another has to wait.
async fn ask(
    session: &Session,
    api: &Api<Snapshot>,
    snapshot: &Snapshot,
    request: VerificationRequest,
    ui: &Ui,
) -> Result<VerificationRequest, CommandError> {
    let name = snapshot.name_any();
    if let Some(known) = under_way(snapshot) {
        if is_same(&known, &request) {
            ui.note(&format!(
                "snapshot \"{name}\" is being verified already ({:?})",
                known.level
            ));
            return Ok(known);
        }
        return Err(CommandError::State {
            message: format!(
                "snapshot \"{name}\" is being verified already, otherwise ({:?})",
                known.level
            ),
            hint: Some(format!(
                "wait until it is over: kubedb describe snap {name} -n {} says how far it is",
                snapshot.namespace().unwrap_or_default()
            )),
        });
    }
    let patch = json!({ "metadata": {
        "annotations": { labels::VERIFY: annotation(&request) },
        // Two wishes at once: the second sees the first.
        "resourceVersion": snapshot.resource_version(),
    } });
    let patched = api
        .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
        .await;
    match patched {
        Ok(_) => Ok(request),
        Err(error) => Err(session.fail(error, None)),
    }
}

/// The wish that is being worked on, or about to be.
fn under_way(snapshot: &Snapshot) -> Option<VerificationRequest> {
    let status = snapshot.status.as_ref()?;
    let known = status.verification.as_ref();
    let running = known.filter(|known| !known.phase.is_over());
    running
        .map(|known| known.request.clone())
        .or_else(|| kubedb_api::verification::wish(snapshot))
}

fn is_same(one: &VerificationRequest, other: &VerificationRequest) -> bool {
    (one.level, &one.query, &one.database) == (other.level, &other.query, &other.database)
}

async fn wait(
    session: &Session,
    api: &Api<Snapshot>,
    name: &str,
    request: &VerificationRequest,
    timeout: Duration,
    ui: &Ui,
) -> Result<(), CommandError> {
    let until = Instant::now() + timeout;
    let mut say_at = Instant::now() + SAY_EVERY / 2;
    loop {
        let snapshot = api.get(name).await;
        let snapshot = snapshot.map_err(|error| session.fail(error, None))?;
        let known = snapshot.status.and_then(|status| status.verification);
        let known = known.filter(|known| known.request == *request);
        if let Some(known) = known.as_ref().filter(|known| known.phase.is_over()) {
            return end(name, known, ui);
        }
        let now = Instant::now();
        if now >= until {
            let what = format!("the verification of snapshot \"{name}\"");
            return Err(CommandError::TimedOut { what });
        }
        if now >= say_at {
            ui.note(&so_far(known.as_deref()));
            say_at = now + SAY_EVERY;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn so_far(known: Option<&Verification>) -> String {
    let Some(known) = known else {
        return "waiting for the operator to see it".to_owned();
    };
    let instance = known.instance.as_deref().unwrap_or("an instance");
    match (known.phase, known.progress) {
        (VerificationPhase::Running, Some(progress))
            if progress.done_bytes < progress.total_bytes =>
        {
            let (done, total) = (size(progress.done_bytes), size(progress.total_bytes));
            format!("{instance} verifies: {done} of {total}")
        }
        (VerificationPhase::Running, Some(_)) => format!("{instance} verifies: all is fetched"),
        (VerificationPhase::Running, None) => format!("{instance} verifies"),
        _ => {
            let reason = known.reason.as_deref().unwrap_or("its turn");
            format!("waiting: {reason}")
        }
    }
}

fn end(name: &str, known: &Verification, ui: &Ui) -> Result<(), CommandError> {
    let reason = known.reason.clone().unwrap_or_default();
    let level = known.request.level;
    match known.phase {
        VerificationPhase::Succeeded => {
            ui.data(&format!("snapshot \"{name}\" verified ({level:?}): {reason}"));
            Ok(())
        }
        VerificationPhase::Failed => Err(CommandError::State {
            message: format!("snapshot \"{name}\" is not what it should be: {reason}"),
            hint: Some("make another Snapshot while the database runs (kubedb create -f, kind Snapshot); nothing of this one was deleted".to_owned()),
        }),
        _ => Err(CommandError::State {
            message: format!("the verification of snapshot \"{name}\" proves nothing: {reason}"),
            hint: Some(format!("mend that, and try again: kubedb verify snap {name}")),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_snapshot_is_named() {
        let words = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            snapshot_name(&words)
        };
        assert_eq!(words(&["snap", "a"]).unwrap(), "a");
        assert_eq!(words(&["snap/a"]).unwrap(), "a");
        for wrong in [&["pg", "a"][..], &["snap"], &["a"], &["snap/a", "snap/b"]] {
            assert!(words(wrong).is_err(), "{wrong:?}");
        }
    }
}
