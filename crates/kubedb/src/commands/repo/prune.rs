//! `kubedb repo prune`.

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use kubedb_core::prune::{Item, What};
use kubedb_engine::repository::prune::{DatabasePrune, WalPrune, carry_out, find};
use serde_json::{Value, json};

use super::PlaceArgs;
use crate::{commands::describe::size, error::CommandError, ui::Ui};

const EXAMPLES: &str = "\
Without --yes nothing is deleted: what would be, and why, is printed. What goes is what attempts
that died have left, what deletions that were cut off have left, and objects that no Snapshot
refers to. Complete Snapshots are never deleted. What was written within the grace period may be
of a Snapshot in the making, and stays. It may run beside Snapshots and deletions: when it
deletes, it looks everything up again, and a writer that it took for dead stops and is repeated.

WAL that lies before the earliest Snapshot of its database in this bucket goes with --wal.
Snapshots in another bucket are not seen from here: where the schedule stores them elsewhere,
leave it; a running database deletes its own WAL when no Snapshot needs it. Histories of
timelines always stay.

Uploads in parts that were never completed are not objects, and no listing shows them: a
lifecycle rule of the bucket takes those away.

Examples:
  kubedb repo prune gs://kubedb --secret gcs-secret.yaml
  kubedb repo prune /backups --yes
  kubedb repo prune s3://backups --grace 72h --wal -o json";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct PruneArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Delete it; without this, only what would be deleted is said
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Say what would be deleted, which is the default
    #[arg(long)]
    dry_run: bool,
    /// Delete WAL before the earliest Snapshot here, too
    #[arg(long)]
    wal: bool,
    /// Keep what was written within this time
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    grace: String,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

/// What was found or deleted, in sum.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    objects: u64,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, objects: usize, bytes: u64) {
        self.objects += objects as u64;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

pub(super) async fn run(arguments: PruneArgs, ui: &Ui) -> Result<(), CommandError> {
    let grace = read_grace(&arguments.grace)?;
    let store = arguments.place.open()?;
    let now = Timestamp::now();
    let found = find(&store, now, grace).await?;
    let mut sum = Sum::default();
    let mut shown = Vec::new();
    for prune in &found {
        let (told, of_it) = say(prune, &arguments, ui);
        sum.add(usize::try_from(of_it.objects).unwrap_or(0), of_it.bytes);
        shown.push(told);
    }
    if !arguments.yes {
        if arguments.output.is_some() {
            ui.data(&json!({"deleted": false, "databases": shown}).to_string());
        }
        ui.note(&would(sum));
        return Ok(());
    }
    let mut deleted = Sum::default();
    for prune in &found {
        let done = carry_out(&store, prune, arguments.wal, now).await?;
        deleted.objects += done.objects;
        deleted.bytes = deleted.bytes.saturating_add(done.bytes);
    }
    if arguments.output.is_some() {
        ui.data(
            &json!({"deleted": true, "objects": deleted.objects, "bytes": deleted.bytes, "databases": shown})
                .to_string(),
        );
    }
    ui.note(&format!(
        "deleted {} objects of {} in {}",
        deleted.objects,
        size(deleted.bytes),
        store.label()
    ));
    Ok(())
}

fn read_grace(text: &str) -> Result<SignedDuration, CommandError> {
    let read: Result<SignedDuration, _> = text.parse();
    match read {
        Ok(grace) if !grace.is_negative() => Ok(grace),
        _ => Err(CommandError::usage(format!(
            "--grace {text:?} is no duration: write it as 24h, 90m or 3h30m"
        ))),
    }
}

fn would(sum: Sum) -> String {
    match sum.objects {
        0 => "nothing is to be deleted".to_owned(),
        count => format!(
            "{count} objects of {} would be deleted; the same with --yes deletes them",
            size(sum.bytes)
        ),
    }
}

/// Says what is found of a database, line by line, unless it is printed for machines. Gives what goes in sum.
fn say(prune: &DatabasePrune, arguments: &PruneArgs, ui: &Ui) -> (Value, Sum) {
    let path = format!("{}/{}", prune.namespace, prune.database);
    let is_quiet = arguments.output.is_some();
    let mut sum = Sum::default();
    if let (Some(obstacle), false) = (&prune.obstacle, is_quiet) {
        ui.data(&format!("{path}: stays: {obstacle}"));
    }
    for item in &prune.plan.goes {
        // Records are not counted beforehand: they have some hundred bytes.
        sum.add(item.objects.len().max(1), item.bytes());
        if !is_quiet {
            ui.data(&line(&path, "goes", item));
        }
    }
    for item in prune.plan.stays.iter().filter(|_| !is_quiet) {
        ui.data(&line(&path, "stays", item));
    }
    for wal in &prune.wal {
        if arguments.wal {
            sum.add(wal.unneeded.objects.len(), wal.unneeded.bytes());
        }
        if !is_quiet {
            ui.data(&wal_line(&path, wal, arguments.wal));
        }
    }
    let item = |item: &Item| json!({"what": name(&item.what), "reason": item.reason, "objects": item.objects.len(), "bytes": item.bytes()});
    let wal = |wal: &WalPrune| json!({"lineage": wal.lineage, "before": wal.keep.to_string(), "objects": wal.unneeded.objects.len(), "bytes": wal.unneeded.bytes()});
    let told = json!({
        "namespace": prune.namespace, "database": prune.database, "obstacle": prune.obstacle,
        "goes": prune.plan.goes.iter().map(item).collect::<Vec<_>>(),
        "stays": prune.plan.stays.iter().map(item).collect::<Vec<_>>(),
        "wal": prune.wal.iter().map(wal).collect::<Vec<_>>(),
    });
    (told, sum)
}

fn line(path: &str, fate: &str, item: &Item) -> String {
    format!(
        "{path}: {fate}: {}, {} objects of {}: {}",
        name(&item.what),
        item.objects.len(),
        size(item.bytes()),
        item.reason
    )
}

fn wal_line(path: &str, wal: &WalPrune, goes: bool) -> String {
    let (fate, end) = if goes {
        ("goes", "")
    } else {
        (
            "stays",
            "; --wal deletes it, where no Snapshot of the database lies in another bucket",
        )
    };
    format!(
        "{path}: {fate}: WAL of lineage {}, {} objects of {}: it lies before {}, where the earliest Snapshot here begins{end}",
        wal.lineage,
        wal.unneeded.objects.len(),
        size(wal.unneeded.bytes()),
        wal.keep
    )
}

fn name(what: &What) -> String {
    match what {
        What::Unfinished { snapshot, .. } => format!("unfinished Snapshot {snapshot}"),
        What::HalfDeleted { snapshot, .. } => format!("half deleted Snapshot {snapshot}"),
        What::Leftovers { snapshot, .. } => format!("leftovers beside Snapshot {snapshot}"),
        What::Orphans { uid } => format!("data of the unknown Snapshot {uid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grace_period_is_a_duration() {
        assert_eq!(read_grace("24h").unwrap(), SignedDuration::from_hours(24));
        assert_eq!(read_grace("0s").unwrap(), SignedDuration::ZERO);
        for wrong in ["", "24", "-1h", "a day"] {
            let told = read_grace(wrong).unwrap_err().to_string();
            assert!(told.contains("24h"), "{told}");
        }
    }
}
