//! Which base backups there are, which WAL lies behind them, and with which of them a recovery begins.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use kubedb_core::{
    archive::{Holdings, WalFile, read_history},
    recovery::{Base, PlanError, RecoveryPlan, plan},
};

use super::{
    BACKUPS, SENTINEL, WAL, WalgArchive, WalgError, below,
    chain::control,
    codec::Codec,
    sentinel::{Sentinel, timeline_of},
};
use crate::{
    archive::{Found, Wal, Wish},
    store::Store,
};

/// Sentinels and histories read at once.
const READERS: usize = 8;
/// Backups that are looked at, the latest: one a day for eleven years.
const BACKUPS_MAX: usize = 4_096;
/// Longest sentinel: old versions have the state of all files in it.
pub(super) const SENTINEL_BYTES: u64 = 64 << 20;
/// Promotions that are followed.
const HISTORIES: usize = 4_096;

/// A backup that can be begun from, if nothing else is wrong with it.
struct Backup {
    base: Base,
    system_identifier: Option<u64>,
}

/// Finds a recovery below a folder. Backups of several clusters may lie there, after `pg_upgrade` for one: the latest that serves is meant.
pub async fn find(
    store: &Store,
    folder: &str,
    wish: Wish<'_>,
) -> Result<Result<Found, PlanError>, WalgError> {
    let place = format!("{} (wal-g)", store.label());
    let backups = backups(store, folder).await?;
    let named = |backup: &Backup| {
        wish.snapshot
            .is_none_or(|name| backup.base.snapshot == name)
    };
    let Some(latest) = backups.iter().rfind(|backup| named(backup)) else {
        let known: Vec<String> = backups
            .iter()
            .map(|one| one.base.snapshot.clone())
            .collect();
        return Ok(Err(match wish.snapshot {
            Some(name) if !known.is_empty() => PlanError::UnknownBase {
                name: name.to_owned(),
                known,
            },
            _ => PlanError::NoBase { place },
        }));
    };
    let control = control(store, folder, &latest.base.snapshot).await?;
    let segment_bytes = u64::from(control.wal_segment_bytes);
    let archive = WalgArchive::new(
        store.clone(),
        folder,
        control.system_identifier,
        segment_bytes,
    );
    let (holdings, unread) = holdings(store, folder, &archive).await?;
    let is_same = |backup: &&Backup| {
        let theirs = backup.system_identifier;
        theirs.is_none_or(|theirs| theirs == control.system_identifier)
    };
    let bases: Vec<Base> = backups
        .iter()
        .filter(is_same)
        .map(|backup| backup.base.clone())
        .collect();
    let planned = plan(
        &bases,
        &holdings,
        wish.target,
        wish.snapshot,
        wish.covered,
        segment_bytes,
        &place,
    );
    if let Some(error) = unreadable(&planned, &latest.base.snapshot, &unread) {
        return Err(error);
    }
    Ok(planned.map(|plan| Found {
        plan,
        archive: Wal::Walg(archive),
        lineage: control.system_identifier.to_string(),
    }))
}

/// WAL that is there, packed with something that is not read here, is not missing.
fn unreadable(
    planned: &Result<RecoveryPlan, PlanError>,
    backup: &str,
    unread: &BTreeMap<String, String>,
) -> Option<WalgError> {
    let (PlanError::Gap { missing, .. } | PlanError::NotConsistent { missing, .. }) =
        planned.as_ref().err()?
    else {
        return None;
    };
    let codec = unread.get(missing)?;
    Some(WalgError::Refused {
        backup: backup.to_owned(),
        reason: format!("segment {missing} is packed with {codec}, which is not read here"),
    })
}

/// All that are complete and say where they begin and end, the oldest first.
async fn backups(store: &Store, folder: &str) -> Result<Vec<Backup>, WalgError> {
    let mut found = Vec::new();
    let root = below(folder, BACKUPS);
    let head = format!("{root}/");
    // The folders of backups hold many objects, which are passed over here.
    store
        .visit(&root, |listed, millis| {
            let name = listed.key.strip_prefix(&head);
            let name = name.filter(|name| !name.contains('/'));
            if let Some(name) = name.and_then(|name| name.strip_suffix(SENTINEL)) {
                found.push((millis, name.to_owned()));
            }
        })
        .await?;
    found.sort();
    let first = found.len().saturating_sub(BACKUPS_MAX);
    let read = stream::iter(found.split_off(first))
        .map(|(millis, name)| async move {
            let key = below(folder, &format!("{BACKUPS}/{name}{SENTINEL}"));
            let bytes = match store.read(&key, SENTINEL_BYTES).await {
                Ok(bytes) => bytes,
                // Deleted meanwhile.
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => return Err(WalgError::from(error)),
            };
            let stored = Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MIN);
            let read = Sentinel::read(&bytes);
            let backup = read.and_then(|sentinel| backup(name, key.clone(), &sentinel, stored));
            Ok(backup
                .inspect_err(|reason| tracing::warn!(key, reason, "a base backup cannot be used"))
                .ok())
        })
        .buffered(READERS)
        .try_collect::<Vec<_>>()
        .await?;
    let mut backups: Vec<Backup> = read.into_iter().flatten().collect();
    backups.sort_by_key(|backup| (backup.base.created, backup.base.stop));
    Ok(backups)
}

fn backup(
    name: String,
    manifest: String,
    sentinel: &Sentinel,
    stored: Timestamp,
) -> Result<Backup, String> {
    let nowhere = || "it does not say where it begins and ends".to_owned();
    let start = sentinel.start().ok_or_else(nowhere)?;
    Ok(Backup {
        system_identifier: sentinel.system_identifier,
        base: Base {
            timeline: timeline_of(&name).ok_or("its name tells no timeline")?,
            snapshot: name,
            manifest,
            // Whatever is replayed, what it holds was there by then.
            created: sentinel.finished().unwrap_or(stored),
            start,
            stop: sentinel.stop().ok_or_else(nowhere)?,
            // Unlike a Snapshot it brings no WAL along.
            archived_from: start,
            bytes: sentinel.bytes(),
        },
    })
}

/// What is archived, and what of it is packed with something that is not read here.
async fn holdings(
    store: &Store,
    folder: &str,
    archive: &WalgArchive,
) -> Result<(Holdings, BTreeMap<String, String>), WalgError> {
    let root = below(folder, WAL);
    let head = format!("{root}/");
    let mut holdings = Holdings::default();
    let mut unread = BTreeMap::new();
    let mut histories = BTreeSet::new();
    store
        .visit(&root, |listed, millis| {
            let Some(name) = listed.key.strip_prefix(&head) else {
                return;
            };
            let (name, codec) = Codec::of(name);
            match (WalFile::read(name, archive.segment_bytes()), codec) {
                (Some(_), Codec::Other(codec)) => {
                    unread.insert(name.to_owned(), codec);
                }
                (Some(WalFile::Segment(segment)), _) => {
                    let stored = Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MIN);
                    holdings.segments.insert(segment, stored);
                }
                (Some(WalFile::History(timeline)), _) if histories.len() < HISTORIES => {
                    histories.insert(timeline);
                }
                _ => {}
            }
        })
        .await?;
    let read = stream::iter(histories)
        .map(|timeline| async move {
            let text = archive.fetch_content(&timeline.history_name()).await?;
            Ok::<_, WalgError>((timeline, text))
        })
        .buffered(READERS)
        .try_collect::<Vec<_>>()
        .await?;
    for (timeline, text) in read {
        let text = text.as_ref().map(|text| text.bytes());
        let history = text.and_then(|text| read_history(std::str::from_utf8(text).ok()?));
        match history {
            Some(history) => drop(holdings.histories.insert(timeline, history)),
            None => tracing::warn!(
                timeline = timeline.0,
                "a history of the archive makes no sense"
            ),
        }
    }
    Ok((holdings, unread))
}
