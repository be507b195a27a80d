//! `kubedb repo`: what a bucket holds, and a restore from it, without any server. For the day on which there is nothing but the bucket.

pub(super) mod address;
mod check;
mod export;
pub(super) mod list;
pub(super) mod outlook;
mod prune;
pub(super) mod recover;
pub(super) mod restore;
mod rotate;
pub(super) mod sql;
pub(super) mod target;
mod writing;

use clap::{Args, Subcommand};
use kubedb_engine::{
    repository::{
        catalogue::Catalogue,
        manifest::{self, Manifest},
    },
    store::Store,
};

use self::address::PlaceArgs;
use crate::{error::CommandError, ui::Ui};

const EXAMPLES: &str = "\
No server and no Kubernetes is needed, only the bucket and its keys. They are read from the environment under the names that the storage
Secret has (AWS_ACCESS_KEY_ID, GOOGLE_SERVICE_ACCOUNT_JSON_KEY, AZURE_ACCOUNT_KEY, OS_PASSWORD, …), or with --secret from the Secret's manifest.

Examples:
  kubedb repo list gs://kubedb --secret gcs-secret.yaml
  kubedb repo check s3://backups/production --endpoint https://minio.example.com
  kubedb repo restore gs://kubedb scheduled-pg-20180208-105341 --to /var/lib/postgresql/rescued
  kubedb repo restore gs://kubedb wal-postgres --target-time 2026-11-26T14:05:00Z --to /tmp/db
  kubedb repo restore gs://kubedb snap --to /tmp/db --identity backup-identity.txt
  kubedb repo export s3://backups instant-snapshot --to /tmp/base
  kubedb repo prune s3://backups/production
  kubedb repo stats /backups";

/// What `repo` was told.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct RepoArgs {
    #[command(subcommand)]
    command: RepoCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum RepoCommand {
    /// List the Snapshots that a bucket holds
    List(list::ListArgs),
    /// Verify that Snapshots are whole; with --read-data every byte
    Check(check::CheckArgs),
    /// Write a Snapshot's data folder, ready to start; with a target as of any moment that is archived
    Restore(restore::RestoreArgs),
    /// Wrap the keys of a database for other recipients; no data is read or written
    RotateKey(rotate::RotateArgs),
    /// Write a Snapshot as a base backup that pg_verifybackup accepts, or as SQL that psql loads
    Export(export::ExportArgs),
    /// Delete what no Snapshot needs, such as what attempts that died have left
    Prune(prune::PruneArgs),
    /// Say how much each database takes of a bucket
    Stats(list::StatsArgs),
}

pub(super) async fn run(arguments: RepoArgs, ui: &Ui) -> Result<(), CommandError> {
    match arguments.command {
        RepoCommand::List(arguments) => list::list(arguments, ui).await,
        RepoCommand::Check(arguments) => check::run(arguments, ui).await,
        RepoCommand::Restore(arguments) => restore::run(arguments, ui).await,
        RepoCommand::RotateKey(arguments) => rotate::run(arguments, ui).await,
        RepoCommand::Export(arguments) => export::run(arguments, ui).await,
        RepoCommand::Prune(arguments) => prune::run(arguments, ui).await,
        RepoCommand::Stats(arguments) => list::stats(arguments, ui).await,
    }
}

/// A Snapshot that can be restored.
struct Complete {
    namespace: String,
    database: String,
    snapshot: String,
    /// Key of its manifest.
    manifest: String,
}

impl Complete {
    fn path(&self) -> String {
        format!("{}/{}/{}", self.namespace, self.database, self.snapshot)
    }
}

async fn open(place: &PlaceArgs) -> Result<(Store, Catalogue), CommandError> {
    let store = place.open()?;
    let catalogue = Catalogue::read(&store).await?;
    Ok((store, catalogue))
}

/// Snapshots that can be restored and that `wanted` means: `SNAPSHOT`, `DATABASE/SNAPSHOT` or `NAMESPACE/DATABASE/SNAPSHOT`.
fn complete(catalogue: &Catalogue, wanted: Option<&str>) -> Vec<Complete> {
    let databases = catalogue.databases.iter();
    let all = databases.flat_map(|((namespace, database), entry)| {
        let snapshots = entry.snapshots.iter();
        snapshots.filter_map(move |((snapshot, _), entry)| {
            Some(Complete {
                namespace: namespace.clone(),
                database: database.clone(),
                snapshot: snapshot.clone(),
                manifest: entry.manifest()?.to_owned(),
            })
        })
    });
    all.filter(|one| wanted.is_none_or(|wanted| is_meant(&one.path(), wanted)))
        .collect()
}

fn is_meant(path: &str, wanted: &str) -> bool {
    path.strip_suffix(wanted)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
}

/// The one Snapshot that is meant.
fn one(catalogue: &Catalogue, wanted: &str, store: &Store) -> Result<Complete, CommandError> {
    let mut found = complete(catalogue, Some(wanted));
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err(CommandError::NotInStore {
            what: format!("no complete Snapshot {wanted:?}"),
            store: store.label().to_owned(),
        }),
        (Some(last), false) => {
            found.push(last);
            let paths: Vec<String> = found.iter().map(Complete::path).collect();
            let message = format!(
                "{wanted:?} means {} Snapshots: {}",
                paths.len(),
                paths.join(", ")
            );
            Err(CommandError::State {
                message,
                hint: Some("name it as NAMESPACE/DATABASE/SNAPSHOT; two of one path were made one after the other, and only the bucket tells them apart".to_owned()),
            })
        }
    }
}

/// The manifest of a Snapshot that is meant; without one to go by there is nothing to do.
async fn read_meant(
    store: &Store,
    snapshot: &Complete,
    place: &PlaceArgs,
) -> Result<Manifest, CommandError> {
    let read = read(store, &snapshot.manifest).await?;
    read.map_err(|message| CommandError::State {
        message,
        hint: Some(format!(
            "kubedb repo list {} shows the others",
            place.words()
        )),
    })
}

/// A manifest, or why there is none to go by. An error is the store's.
async fn read(store: &Store, key: &str) -> Result<Result<Manifest, String>, CommandError> {
    let examined = manifest::examine(store, key).await?;
    Ok(examined.map_err(|error| error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::is_meant;

    #[test]
    fn a_snapshot_is_meant_by_as_much_of_its_path_as_is_typed() {
        let path = "demo/pg/snap";
        for wanted in ["snap", "pg/snap", "demo/pg/snap"] {
            assert!(is_meant(path, wanted), "{wanted}");
        }
        for wanted in ["nap", "g/snap", "other/snap", "demo/pg", "/demo/pg/snap"] {
            assert!(!is_meant(path, wanted), "{wanted}");
        }
    }
}
