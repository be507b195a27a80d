//! Databases that vanished while no server looked, or whose finalizer somebody took away: nothing of them may run on.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, Instant},
};

use kube::{Api, Client, ResourceExt as _, api::ListParams};
use kubedb_api::{DormantDatabase, Postgres};
use kubedb_operator::platform::DatabaseKey;

use super::ProcessPlatform;

/// How often is looked. A deletion needs no look: it goes through the finalizer.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Folders named in one line of the log.
const NAMED_MAX: usize = 20;

/// Stops instances of databases that the API does not have, now and then, for ever.
pub async fn stop_orphans(platform: ProcessPlatform, client: Client) {
    let mut is_first = true;
    loop {
        let looked = Instant::now();
        match orphans(&platform, &client).await {
            Ok((orphans, unnamed)) => {
                if is_first && !unnamed.is_empty() {
                    tell(&unnamed);
                }
                is_first = false;
                platform.retire(&orphans, looked).await;
            }
            Err(error) => tracing::warn!(%error, "the databases could not be listed"),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Folders in which nothing shall run, and those of them that no paused database has. Folders first: a database that is made in between has its object
/// before its folder.
async fn orphans(
    platform: &ProcessPlatform,
    client: &Client,
) -> Result<(BTreeSet<PathBuf>, BTreeSet<PathBuf>), kube::Error> {
    let mut folders = platform.folders();
    let databases = Api::<Postgres>::all(client.clone())
        .list(&ListParams::default())
        .await?;
    for database in databases {
        let key = DatabaseKey {
            namespace: database.namespace().unwrap_or_default(),
            name: database.name_any(),
        };
        folders.remove(&platform.folder(&key, &database.kept_data().uid));
    }
    let mut unnamed = folders.clone();
    let dormants = Api::<DormantDatabase>::all(client.clone())
        .list(&ListParams::default())
        .await?;
    for dormant in dormants {
        let key = DatabaseKey {
            namespace: dormant.namespace().unwrap_or_default(),
            name: dormant.name_any(),
        };
        unnamed.remove(&platform.folder(&key, &dormant.kept_data().uid));
    }
    Ok((folders, unnamed))
}

fn tell(orphans: &BTreeSet<PathBuf>) {
    let named: Vec<String> = orphans
        .iter()
        .take(NAMED_MAX)
        .map(|folder| folder.display().to_string())
        .collect();
    tracing::info!(
        count = orphans.len(),
        folders = named.join(" "),
        "these folders belong to no database any more; their data is kept until somebody removes it"
    );
}
