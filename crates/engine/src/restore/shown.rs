//! What listings show of the packs that a Snapshot names. A Snapshot of a terabyte has tens of thousands of them: a page of a listing tells of a thousand, a
//! question of one.

use std::collections::{BTreeMap, HashMap};

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::plan::REQUESTS;
use crate::{
    repository::{keys::DatabaseFolder, manifest::ObjectRef},
    store::{Listed, Store, StoreError},
};

/// From so many packs on a listing is less than asking for each.
const LISTED_FROM: usize = 3;

/// Objects of a folder that are looked at beyond those that are needed: what a crashed attempt left, and what only earlier Snapshots need, lies there too.
const OTHERS_MAX: usize = 1_000;

/// Sizes of packs, by the names that the manifest has for them. What is not in it is not known: it may be there all the same.
pub(super) async fn shown(
    store: &Store,
    folder: &DatabaseFolder,
    packs: &[ObjectRef],
) -> Result<HashMap<String, u64>, StoreError> {
    let mut needed: BTreeMap<&str, usize> = BTreeMap::new();
    for pack in packs {
        if let Some((its, _)) = pack.key.rsplit_once('/') {
            *needed.entry(its).or_default() += 1;
        }
    }
    needed.retain(|_, count| *count >= LISTED_FROM);
    let folders: Vec<_> = needed
        .into_iter()
        .map(|(its, count)| (folder.key(its), count + OTHERS_MAX))
        .collect();
    let listed: Vec<_> = stream::iter(folders)
        .map(|(its, most)| list(store, its, most))
        .buffer_unordered(REQUESTS)
        .try_collect()
        .await?;
    let listed = listed.into_iter().flatten();
    Ok(listed
        .filter_map(|pack| Some((folder.relative(&pack.key)?.to_owned(), pack.bytes)))
        .collect())
}

/// Nothing where listing is refused: nobody needs that right for a restore. Where the store is away, each question need not find out again.
async fn list(store: &Store, folder: String, most: usize) -> Result<Vec<Listed>, StoreError> {
    match store.list_some(&folder, most).await {
        Err(error) if !error.is_retryable() => Ok(Vec::new()),
        other => other,
    }
}
