//! `kubedb repo list` and `kubedb repo stats`.

use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use kubedb_engine::repository::{catalogue::Standing, manifest::Manifest};
use serde_json::{Value, json};

use super::{PlaceArgs, open, read};
use crate::{commands::describe::size, error::CommandError, table::Table, ui::Ui};

/// Manifests read at once; each may have some MiB.
const READS: usize = 4;

const LIST_EXAMPLES: &str = "\
Examples:
  kubedb repo list gs://kubedb --secret gcs-secret.yaml
  kubedb repo list s3://backups/production --endpoint https://minio.example.com -o json
  kubedb repo list /backups";

const STATS_EXAMPLES: &str = "\
Examples:
  kubedb repo stats gs://kubedb --secret gcs-secret.yaml
  kubedb repo stats /backups -o json";

#[derive(Args, Clone, Debug)]
#[command(after_help = LIST_EXAMPLES)]
pub(super) struct ListArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = STATS_EXAMPLES)]
pub(super) struct StatsArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

struct Row {
    namespace: String,
    database: String,
    snapshot: String,
    standing: Standing,
    /// None of one that is not complete.
    manifest: Option<Result<Manifest, String>>,
}

impl Row {
    fn status(&self) -> &'static str {
        match (&self.manifest, self.standing) {
            (Some(Err(_)), _) => "Damaged",
            (_, Standing::Complete) => "Complete",
            (_, Standing::Unfinished) => "Unfinished",
            (_, Standing::Deleting) => "Deleting",
        }
    }

    fn good(&self) -> Option<&Manifest> {
        self.manifest.as_ref()?.as_ref().ok()
    }

    fn cells(&self) -> Vec<String> {
        let told = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let good = self.good();
        vec![
            self.namespace.clone(),
            self.database.clone(),
            self.snapshot.clone(),
            self.status().to_owned(),
            told(good.map(|manifest| second(manifest.created))),
            told(good.map(|manifest| manifest.cluster.postgres_version.clone())),
            told(good.map(|manifest| size(manifest.sizes.database_bytes))),
            told(good.map(|manifest| size(manifest.sizes.stored_bytes))),
            told(good.map(|manifest| method(manifest).to_owned())),
            self.key().unwrap_or_default(),
        ]
    }

    /// The data key, where it is encrypted.
    fn key(&self) -> Option<String> {
        Some(self.good()?.key_id()?.to_string())
    }

    fn json(&self) -> Value {
        let mut value = json!({
            "namespace": self.namespace, "database": self.database, "snapshot": self.snapshot, "status": self.status(),
        });
        match &self.manifest {
            Some(Ok(manifest)) => {
                value["created"] = json!(manifest.created.to_string());
                value["postgresVersion"] = json!(manifest.cluster.postgres_version);
                value["systemIdentifier"] = json!(manifest.cluster.system_identifier);
                value["lineage"] = json!(manifest.lineage);
                value["timeline"] = json!(manifest.timeline);
                value["startLsn"] = json!(manifest.start_lsn.to_string());
                value["stopLsn"] = json!(manifest.stop_lsn.to_string());
                value["method"] = json!(method(manifest));
                value["databaseBytes"] = json!(manifest.sizes.database_bytes);
                value["storedBytes"] = json!(manifest.sizes.stored_bytes);
                if let Some(key) = manifest.key_id() {
                    value["keyId"] = json!(key.to_string());
                }
            }
            Some(Err(why)) => value["reason"] = json!(why),
            None => {}
        }
        value
    }
}

fn method(manifest: &Manifest) -> &'static str {
    match manifest.logical {
        Some(_) => "Logical",
        None => "Physical",
    }
}

/// What is finer than a second tells people nothing.
pub(in crate::commands) fn second(time: Timestamp) -> String {
    let whole = Timestamp::from_second(time.as_second());
    whole.unwrap_or(time).to_string()
}

pub(super) async fn list(arguments: ListArgs, ui: &Ui) -> Result<(), CommandError> {
    let (store, catalogue) = open(&arguments.place).await?;
    let entries = catalogue.databases.iter().flat_map(|(names, database)| {
        let snapshots = database.snapshots.iter();
        snapshots.map(move |((snapshot, _), entry)| (names, snapshot, entry))
    });
    let rows = entries.map(|((namespace, database), snapshot, entry)| {
        let store = &store;
        async move {
            let manifest = match entry.manifest() {
                Some(key) => Some(read(store, key).await?),
                None => None,
            };
            Ok::<_, CommandError>(Row {
                namespace: namespace.clone(),
                database: database.clone(),
                snapshot: snapshot.clone(),
                standing: entry.standing(),
                manifest,
            })
        }
    });
    let mut rows: Vec<Row> = stream::iter(rows).buffered(READS).try_collect().await?;
    let when = |row: &Row| row.good().map(|manifest| manifest.created);
    rows.sort_by(|a, b| {
        (&a.namespace, &a.database, when(a), &a.snapshot).cmp(&(
            &b.namespace,
            &b.database,
            when(b),
            &b.snapshot,
        ))
    });
    if arguments.output.is_some() {
        ui.data(&Value::Array(rows.iter().map(Row::json).collect()).to_string());
        return Ok(());
    }
    if rows.is_empty() {
        ui.note(&format!("No Snapshots found in {}", store.label()));
        return Ok(());
    }
    let head = [
        "NAMESPACE",
        "DATABASE",
        "SNAPSHOT",
        "STATUS",
        "CREATED",
        "PGVERSION",
        "SIZE",
        "STORED",
        "METHOD",
        "KEY",
    ];
    let head: Vec<String> = head.map(str::to_owned).to_vec();
    let cells = std::iter::once(head).chain(rows.iter().map(Row::cells));
    let mut cells: Vec<Vec<String>> = cells.collect();
    if rows.iter().all(|row| row.key().is_none()) {
        // Nothing is encrypted, and most people do not want to know.
        cells.iter_mut().for_each(|row| drop(row.pop()));
    }
    let is_logical = |row: &Row| {
        row.good()
            .is_some_and(|manifest| manifest.logical.is_some())
    };
    if !rows.iter().any(is_logical) {
        // The same holds for the method.
        let column = cells[0].iter().position(|head| head == "METHOD");
        if let Some(column) = column {
            cells.iter_mut().for_each(|row| drop(row.remove(column)));
        }
    }
    ui.block(&Table::default().render(&cells));
    Ok(())
}

/// What one database takes.
struct Taken {
    namespace: String,
    database: String,
    snapshots: usize,
    unfinished: usize,
    /// All of its packs and lists of files.
    stored: u64,
    objects: usize,
    /// What its complete Snapshots would take as data folders.
    restored: u64,
    damaged: usize,
}

pub(super) async fn stats(arguments: StatsArgs, ui: &Ui) -> Result<(), CommandError> {
    let (store, catalogue) = open(&arguments.place).await?;
    let mut all = Vec::new();
    for ((namespace, database), entry) in &catalogue.databases {
        let keys = entry
            .snapshots
            .values()
            .filter_map(|snapshot| snapshot.manifest());
        let manifests = keys.map(|key| read(&store, key));
        let manifests: Vec<_> = stream::iter(manifests)
            .buffered(READS)
            .try_collect()
            .await?;
        let good = manifests.iter().filter_map(|read| read.as_ref().ok());
        all.push(Taken {
            namespace: namespace.clone(),
            database: database.clone(),
            snapshots: manifests.len(),
            unfinished: entry.snapshots.len() - manifests.len(),
            stored: entry.data.values().sum(),
            objects: entry.data.len(),
            restored: good.clone().map(|one| one.sizes.database_bytes).sum(),
            damaged: manifests.len() - good.count(),
        });
    }
    if arguments.output.is_some() {
        let list = all.iter().map(|one| {
            json!({"namespace": one.namespace, "database": one.database, "snapshots": one.snapshots,
                "unfinished": one.unfinished, "damaged": one.damaged, "objects": one.objects,
                "storedBytes": one.stored, "databaseBytes": one.restored})
        });
        ui.data(&Value::Array(list.collect()).to_string());
        return Ok(());
    }
    if all.is_empty() {
        ui.note(&format!("No Snapshots found in {}", store.label()));
        return Ok(());
    }
    let head = [
        "NAMESPACE",
        "DATABASE",
        "SNAPSHOTS",
        "UNFINISHED",
        "DAMAGED",
        "OBJECTS",
        "STORED",
        "RESTORED",
    ];
    let rows = all.iter().map(|one| {
        vec![
            one.namespace.clone(),
            one.database.clone(),
            one.snapshots.to_string(),
            one.unfinished.to_string(),
            one.damaged.to_string(),
            one.objects.to_string(),
            size(one.stored),
            size(one.restored),
        ]
    });
    let rows = std::iter::once(head.map(str::to_owned).to_vec()).chain(rows);
    ui.block(&Table::default().render(&rows.collect::<Vec<_>>()));
    Ok(())
}
