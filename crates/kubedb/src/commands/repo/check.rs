//! `kubedb repo check`.

use std::thread;

use clap::Args;
use kubedb_engine::{
    backup::BackupProgress,
    repository::check::{Depth, Finding, Report, check},
    restore::{RestoreError, verify_pages},
    store::Store,
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Complete, PlaceArgs, complete, open};
use crate::{commands::describe::size, error::CommandError, ui::Ui};

const EXAMPLES: &str = "\
Without --read-data manifests and lists of files are read, and every pack is looked for. With it, every byte is read and compared with its hash.
With --pages everything is unpacked as a restore would do it, and the checksum of every page of a table or index is verified.
Objects that no Snapshot refers to are counted; they belong to attempts in work, or were left by ones that were given up.

Examples:
  kubedb repo check gs://kubedb --secret gcs-secret.yaml
  kubedb repo check /backups --read-data
  kubedb repo check /backups --pages
  kubedb repo check s3://backups --snapshot demo/scheduled-pg/scheduled-pg-20180208-105341 --read-data";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Only this one: SNAPSHOT, DATABASE/SNAPSHOT or NAMESPACE/DATABASE/SNAPSHOT
    #[arg(long, value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    /// Read every byte
    #[arg(long)]
    read_data: bool,
    /// Unpack everything as a restore would, and verify every page's checksum; nothing is written
    #[arg(long)]
    pages: bool,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

pub(super) async fn run(arguments: CheckArgs, ui: &Ui) -> Result<(), CommandError> {
    let (store, catalogue) = open(&arguments.place).await?;
    let snapshots = complete(&catalogue, arguments.snapshot.as_deref());
    if let Some(wanted) = &arguments.snapshot
        && snapshots.is_empty()
    {
        return Err(CommandError::NotInStore {
            what: format!("no complete Snapshot {wanted:?}"),
            store: store.label().to_owned(),
        });
    }
    let depth = if arguments.read_data {
        Depth::Content
    } else {
        Depth::Objects
    };
    let (mut checked, mut damaged) = (Vec::new(), 0);
    for ((namespace, database), entry) in &catalogue.databases {
        let mine: Vec<&Complete> = snapshots
            .iter()
            .filter(|one| (&one.namespace, &one.database) == (namespace, database))
            .collect();
        if mine.is_empty() && arguments.snapshot.is_some() {
            continue;
        }
        let is_wanted = |key: &str| mine.iter().any(|one| one.manifest == key);
        let mut report = check(&store, entry, is_wanted, depth).await?;
        for one in mine.iter().filter(|_| arguments.pages) {
            look_at_pages(&store, one, &mut report, ui).await?;
        }
        for one in mine {
            let findings = report.snapshots.get(&one.manifest);
            damaged += usize::from(findings.is_some_and(|findings| !findings.is_empty()));
            checked.push(say(one, &report, arguments.output.is_some(), ui));
        }
        if arguments.output.is_none() && arguments.snapshot.is_none() {
            say_rest(namespace, database, &report, ui);
        }
    }
    if arguments.output.is_some() {
        ui.data(&Value::Array(checked.clone()).to_string());
    } else if checked.is_empty() {
        ui.note(&format!("No Snapshots found in {}", store.label()));
    }
    match damaged {
        0 => Ok(()),
        _ => Err(CommandError::Damaged {
            damaged,
            checked: checked.len(),
            store: store.label().to_owned(),
        }),
    }
}

/// Adds what is wrong with the pages of a Snapshot, unless something is already.
async fn look_at_pages(
    store: &Store,
    one: &Complete,
    report: &mut Report,
    ui: &Ui,
) -> Result<(), CommandError> {
    let findings = report.snapshots.entry(one.manifest.clone()).or_default();
    if !findings.is_empty() {
        return Ok(());
    }
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let (progress, _) = watch::channel(BackupProgress::default());
    let cancel = CancellationToken::new();
    match verify_pages(store, &one.manifest, threads, progress, cancel).await {
        // Rows have no pages.
        Err(RestoreError::Logical { .. }) => ui.note(&format!(
            "{}: logical, so it has no pages; --read-data compares all that it holds with its hashes",
            one.path()
        )),
        Ok(pages) => findings.extend(pages.findings),
        Err(error) if error.is_damage() => findings.push(Finding {
            object: one.manifest.clone(),
            what: error.to_string(),
        }),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// One line for a Snapshot that is whole, one for each thing that is wrong otherwise.
fn say(one: &Complete, report: &Report, quiet: bool, ui: &Ui) -> Value {
    let findings = report.snapshots.get(&one.manifest);
    let findings: Vec<_> = findings.into_iter().flatten().collect();
    if !quiet {
        if findings.is_empty() {
            ui.data(&format!("{}: whole", one.path()));
        }
        for finding in &findings {
            ui.data(&format!(
                "{}: {}: {}",
                one.path(),
                finding.object,
                finding.what
            ));
        }
    }
    let findings = findings
        .iter()
        .map(|finding| json!({"object": finding.object, "what": finding.what}));
    json!({"namespace": one.namespace, "database": one.database, "snapshot": one.snapshot,
        "findings": findings.collect::<Vec<_>>()})
}

fn say_rest(namespace: &str, database: &str, report: &Report, ui: &Ui) {
    match report.unopened.len() {
        0 => {}
        unopened => ui.note(&format!(
            "{namespace}/{database}: {unopened} Snapshots are encrypted; without --identity nothing but hashes was compared"
        )),
    }
    if report.unreferenced.is_empty() {
        return;
    }
    let bytes = report.unreferenced.values().sum::<u64>();
    ui.note(&format!(
        "{namespace}/{database}: {} objects of {} belong to no complete Snapshot",
        report.unreferenced.len(),
        size(bytes)
    ));
}
