//! What archives of a database hold, and the Snapshots that recovery can begin from.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use kubedb_core::{
    archive::{Holdings, WalFile, read_history},
    lsn::{Lsn, TimelineId},
    recovery::{Base, PlanError, RecoveryPlan, Target, plan},
};

use super::{Archive, ArchiveError, SEGMENT_BYTES, SUFFIX, WAL_FOLDER, archives};
use crate::{
    repository::{
        catalogue::Catalogue,
        keys::DatabaseFolder,
        manifest::{self, Manifest, ReadManifestError},
    },
    store::Store,
};

/// Manifests and histories read at once.
const READERS: usize = 8;
/// Promotions of one database that are followed.
const HISTORIES: usize = 4_096;

/// One lineage: databases of one name that were made one after another have one each.
#[derive(Clone, Debug, Default)]
pub struct Lineage {
    /// Snapshots that can be restored, the oldest first.
    pub bases: Vec<Base>,
    /// What is archived.
    pub holdings: Holdings,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Identifier of the cluster.
    pub system_identifier: u64,
}

/// A recovery that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// How it goes.
    pub plan: RecoveryPlan,
    /// Where the WAL comes from.
    pub archive: Archive,
    /// The lineage.
    pub lineage: String,
}

/// What lies of one database in the store of its Snapshots and in that of its archive, by lineage. Snapshots that cannot be read are passed over with a
/// warning: another one may do.
pub async fn inventory(
    snapshots: &Store,
    archive: &Store,
    database: &DatabaseFolder,
) -> Result<BTreeMap<String, Lineage>, ArchiveError> {
    let mut lineages = BTreeMap::<String, Lineage>::new();
    for (key, read) in manifests(snapshots, database).await? {
        match read {
            Ok(manifest) => {
                let lineage = lineages.entry(manifest.lineage.clone()).or_default();
                lineage.add(key, &manifest);
            }
            Err(error) => tracing::warn!(key, %error, "a Snapshot cannot be read"),
        }
    }
    for lineage in lineages.values_mut() {
        lineage.bases.sort_by_key(|base| (base.stop, base.created));
    }
    list(archive, database, &mut lineages).await?;
    Ok(lineages)
}

/// Where the Snapshots of a lineage begin. One that cannot be read may be of any.
pub(super) async fn begins(
    store: &Store,
    database: &DatabaseFolder,
    lineage: &str,
) -> Result<Vec<Lsn>, ArchiveError> {
    let mut begins = Vec::new();
    for (key, read) in manifests(store, database).await? {
        match read {
            Ok(manifest) if manifest.lineage == lineage => begins.push(manifest.start_lsn),
            Ok(_) => {}
            Err(error) => {
                return Err(ArchiveError::Unread {
                    manifest: key,
                    reason: error.to_string(),
                });
            }
        }
    }
    Ok(begins)
}

/// Manifests of a database's complete Snapshots, by key. An error is the store's.
async fn manifests(
    store: &Store,
    database: &DatabaseFolder,
) -> Result<Vec<(String, Result<Summary, ReadManifestError>)>, ArchiveError> {
    let listed = store.list(&database.snapshots()).await?;
    let catalogue = Catalogue::of(&listed);
    let entries = catalogue
        .databases
        .values()
        .flat_map(|entry| entry.snapshots.values());
    let keys: Vec<String> = entries
        .filter_map(|entry| entry.manifest().map(str::to_owned))
        .collect();
    let read = stream::iter(keys)
        .map(|key| async move {
            let read = manifest::examine(store, &key).await?;
            Ok::<_, ArchiveError>((key, read.map(Summary::of)))
        })
        .buffered(READERS);
    read.try_collect().await
}

/// What is needed of a manifest: whole ones list every object.
struct Summary {
    snapshot: String,
    lineage: String,
    created: Timestamp,
    timeline: u32,
    history: Option<String>,
    start_lsn: Lsn,
    stop_lsn: Lsn,
    database_bytes: u64,
    segment_bytes: u64,
    system_identifier: String,
}

impl Summary {
    fn of(manifest: Manifest) -> Self {
        Self {
            snapshot: manifest.snapshot,
            lineage: manifest.lineage,
            created: manifest.created,
            timeline: manifest.timeline,
            history: manifest.timeline_history,
            start_lsn: manifest.start_lsn,
            stop_lsn: manifest.stop_lsn,
            database_bytes: manifest.sizes.database_bytes,
            segment_bytes: manifest.cluster.wal_segment_bytes.into(),
            system_identifier: manifest.cluster.system_identifier,
        }
    }
}

impl Lineage {
    fn add(&mut self, key: String, manifest: &Summary) {
        self.segment_bytes = manifest.segment_bytes;
        self.system_identifier = manifest.system_identifier.parse().unwrap_or(0);
        self.bases.push(base(key, manifest));
        // A Snapshot carries its own history, also where no archive was kept when it came about.
        if let Some(history) = manifest.history.as_deref().and_then(read_history) {
            let timeline = TimelineId(manifest.timeline);
            self.holdings.histories.insert(timeline, history);
        }
    }

    fn latest(&self) -> Timestamp {
        let created = self.bases.iter().map(|base| base.created);
        created.max().unwrap_or(Timestamp::MIN)
    }
}

/// A Snapshot as a plan sees it.
fn base(manifest_key: String, manifest: &Summary) -> Base {
    Base {
        snapshot: manifest.snapshot.clone(),
        manifest: manifest_key,
        created: manifest.created,
        timeline: TimelineId(manifest.timeline),
        start: manifest.start_lsn,
        stop: manifest.stop_lsn,
        bytes: manifest.database_bytes,
    }
}

/// Lists the WAL of the lineages that have Snapshots: without one, nothing can begin.
async fn list(
    archive: &Store,
    database: &DatabaseFolder,
    lineages: &mut BTreeMap<String, Lineage>,
) -> Result<(), ArchiveError> {
    let folder = archives(database);
    let mut histories = Vec::new();
    let note = |listed: crate::store::Listed, millis: i64| {
        let mut parts = listed.key.strip_prefix(folder.as_str())?.split('/').skip(1);
        let (lineage, middle, file) = (parts.next()?, parts.next()?, parts.next()?);
        let known = lineages.get_mut(lineage)?;
        let name = file
            .strip_suffix(SUFFIX)
            .filter(|_| middle == WAL_FOLDER && parts.next().is_none())?;
        match WalFile::read(name, known.segment_bytes)? {
            WalFile::Segment(segment) => {
                let stored = Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MIN);
                known.holdings.segments.insert(segment, stored);
            }
            WalFile::History(timeline) => histories.push((lineage.to_owned(), timeline)),
            WalFile::Partial(_) | WalFile::Label(_) => {}
        }
        Some(())
    };
    let mut note = note;
    archive
        .visit(&folder, |listed, millis| {
            note(listed, millis);
        })
        .await?;
    histories.sort();
    histories.truncate(HISTORIES);
    let read = stream::iter(histories)
        .map(|(lineage, timeline)| {
            let archive = lineages
                .get(&lineage)
                .map(|known| known.archive(archive, database, &lineage));
            async move {
                let archive = archive.transpose()?;
                let text = match archive {
                    Some(archive) => archive.fetch(&timeline.history_name()).await?,
                    None => None,
                };
                Ok::<_, ArchiveError>((lineage, timeline, text))
            }
        })
        .buffered(READERS)
        .try_collect::<Vec<_>>()
        .await?;
    for (lineage, timeline, text) in read {
        let history = text.and_then(|text| read_history(std::str::from_utf8(&text).ok()?));
        match (lineages.get_mut(&lineage), history) {
            (Some(known), Some(history)) => {
                drop(known.holdings.histories.insert(timeline, history))
            }
            // A plan finds it missing where it is needed.
            _ => tracing::warn!(
                lineage,
                timeline = timeline.0,
                "a history of the archive makes no sense"
            ),
        }
    }
    Ok(())
}

impl Lineage {
    fn archive(
        &self,
        store: &Store,
        database: &DatabaseFolder,
        lineage: &str,
    ) -> Result<Archive, ArchiveError> {
        // A manifest may claim any size.
        let segment_bytes = self
            .segment_bytes
            .clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end());
        Archive::new(
            store.clone(),
            database,
            lineage,
            self.system_identifier,
            segment_bytes,
        )
        .map_err(|error| ArchiveError::Name { name: error.name })
    }
}

/// Finds a recovery to `target`: in the lineage of the Snapshot that `wanted` names, by its name or by the key of its manifest; else in the latest lineage that has one.
pub fn find(
    lineages: &BTreeMap<String, Lineage>,
    archive: &Store,
    database: &DatabaseFolder,
    target: &Target,
    wanted: Option<&str>,
) -> Result<Result<Found, PlanError>, ArchiveError> {
    let is_wanted = |base: &Base| {
        wanted.is_none_or(|wanted| base.snapshot == wanted || base.manifest == wanted)
    };
    let mut suited: Vec<(&String, &Lineage)> = lineages
        .iter()
        .filter(|(_, lineage)| lineage.bases.iter().any(is_wanted))
        .collect();
    suited.sort_by_key(|(_, lineage)| std::cmp::Reverse(lineage.latest()));
    let mut refused = None;
    for (name, lineage) in suited {
        let named = wanted.and_then(|wanted| {
            let found = lineage.bases.iter().find(|base| base.manifest == wanted);
            found.map(|base| base.snapshot.as_str()).or(Some(wanted))
        });
        match plan(
            &lineage.bases,
            &lineage.holdings,
            target,
            named,
            lineage.segment_bytes,
            archive.label(),
        ) {
            Ok(plan) => {
                let archive = lineage.archive(archive, database, name)?;
                let lineage = name.clone();
                return Ok(Ok(Found {
                    plan,
                    archive,
                    lineage,
                }));
            }
            // What is said of the latest is said.
            Err(error) => drop(refused.get_or_insert(error)),
        }
    }
    let known = || {
        lineages
            .values()
            .flat_map(|lineage| lineage.bases.iter().map(|base| base.snapshot.clone()))
            .collect()
    };
    Ok(Err(refused.unwrap_or_else(|| match wanted {
        Some(name) if !lineages.is_empty() => PlanError::UnknownBase {
            name: name.to_owned(),
            known: known(),
        },
        _ => PlanError::NoBase {
            place: archive.label().to_owned(),
        },
    })))
}
