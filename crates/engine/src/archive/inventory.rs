//! What archives of a database hold, and the Snapshots that recovery can begin from.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use kubedb_core::{
    archive::{Holdings, Segment, WalFile, read_history},
    lsn::{Lsn, TimelineId},
    recovery::{Base, Goal, PlanError, RecoveryPlan, Target, plan},
    tail::{Piece, Tail},
};

use super::{
    Archive, ArchiveError, SEGMENT_BYTES, TAIL_FOLDER, WAL_FOLDER, WalContent, archives, file_of,
    tail::read_piece,
};
use crate::{
    repository::{
        catalogue::Catalogue,
        keys::DatabaseFolder,
        manifest::{self, Manifest, ReadManifestError},
    },
    store::Store,
    walg::WalgArchive,
};

/// Manifests and histories read at once.
const READERS: usize = 8;
/// Promotions of one database that are followed.
const HISTORIES: usize = 4_096;

/// One lineage: databases of one name that were made one after another have one each.
#[derive(Clone, Debug)]
pub struct Lineage {
    /// Snapshots that can be restored, the oldest first.
    pub bases: Vec<Base>,
    /// Names of those that hold rows, behind which nothing can be replayed.
    pub logical: Vec<String>,
    /// What is archived.
    pub holdings: Holdings,
    /// When its last file was stored; the beginning of time where there is none.
    pub newest: Timestamp,
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
    pub archive: Wal,
    /// The lineage.
    pub lineage: String,
}

/// Where WAL comes from.
#[derive(Clone, Debug)]
pub enum Wal {
    /// An archive of ours.
    Ours(Archive),
    /// One of wal-g's layout.
    Walg(WalgArchive),
}

impl Wal {
    /// Bytes of a segment.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        match self {
            Self::Ours(archive) => archive.segment_bytes(),
            Self::Walg(archive) => archive.segment_bytes(),
        }
    }

    /// How users know the store.
    #[must_use]
    pub fn label(&self) -> &str {
        match self {
            Self::Ours(archive) => archive.label(),
            Self::Walg(archive) => archive.label(),
        }
    }

    /// The content of a file, or what there is of it. Absence is proven.
    pub async fn fetch_content(&self, name: &str) -> Result<Option<WalContent>, ArchiveError> {
        match self {
            Self::Ours(archive) => archive.fetch_content(name).await,
            Self::Walg(archive) => archive.fetch_content(name).await,
        }
    }
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
            Ok(manifest) if manifest.lineage == lineage && !manifest.is_logical => {
                begins.push(manifest.start_lsn)
            }
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
    is_logical: bool,
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
            is_logical: manifest.logical.is_some(),
        }
    }
}

impl Default for Lineage {
    fn default() -> Self {
        Self {
            bases: Vec::new(),
            logical: Vec::new(),
            holdings: Holdings::default(),
            newest: Timestamp::MIN,
            segment_bytes: 0,
            system_identifier: 0,
        }
    }
}

impl Lineage {
    fn add(&mut self, key: String, manifest: &Summary) {
        self.segment_bytes = manifest.segment_bytes;
        self.system_identifier = manifest.system_identifier.parse().unwrap_or(0);
        if manifest.is_logical {
            self.logical.push(manifest.snapshot.clone());
            return;
        }
        self.bases.push(base(key, manifest));
        // A Snapshot carries its own history, also where no archive was kept when it came about.
        if let Some(history) = manifest.history.as_deref().and_then(read_history) {
            let timeline = TimelineId(manifest.timeline);
            self.holdings.histories.insert(timeline, history);
        }
    }

    fn latest(&self) -> Timestamp {
        let created = self.bases.iter().map(|base| base.created);
        created.max().unwrap_or(Timestamp::MIN).max(self.newest)
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
        archived_from: manifest.stop_lsn,
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
    let mut tails = BTreeMap::<(String, Segment), Vec<(Piece, Timestamp)>>::new();
    let note = |listed: crate::store::Listed, millis: i64| {
        let path = listed.key.strip_prefix(folder.as_str())?;
        let mut parts = path.strip_prefix('/')?.splitn(3, '/');
        let (lineage, middle, file) = (parts.next()?, parts.next()?, parts.next()?);
        let stored = Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MIN);
        // One without a Snapshot counts too: it may be the one that is meant.
        uuid::Uuid::try_parse(lineage).ok()?;
        let known = lineages.entry(lineage.to_owned()).or_default();
        known.newest = known.newest.max(stored);
        if middle == TAIL_FOLDER {
            let (segment, piece) = read_piece(file, known.segment_bytes)?;
            let entry = (lineage.to_owned(), segment);
            tails.entry(entry).or_default().push((piece, stored));
            return Some(());
        }
        let name = file_of(file).filter(|_| middle == WAL_FOLDER)?;
        match WalFile::read(name, known.segment_bytes)? {
            WalFile::Segment(segment) => {
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
    for ((lineage, segment), found) in tails {
        if let (Some(known), Some(tail)) = (lineages.get_mut(&lineage), Tail::of(&found)) {
            known.holdings.tails.insert(segment, tail);
        }
    }
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

/// What a recovery is wanted to.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The target.
    pub target: &'a Target,
    /// Snapshot to begin from, by its name or by the key of its manifest.
    pub snapshot: Option<&'a str>,
    /// Whatever had been committed by then is archived, as somebody knows.
    pub covered: Option<Timestamp>,
}

/// Finds a recovery: in the lineage of the Snapshot that is named, else in the latest. An earlier database of the name is meant by nothing but a time that lies
/// before the later one.
pub fn find(
    lineages: &BTreeMap<String, Lineage>,
    archive: &Store,
    database: &DatabaseFolder,
    wish: Wish<'_>,
) -> Result<Result<Found, PlanError>, ArchiveError> {
    let is_named = |base: &Base| {
        let names = |wanted| base.snapshot == wanted || base.manifest == wanted;
        wish.snapshot.is_some_and(names)
    };
    let mut suited: Vec<(&String, &Lineage)> = lineages
        .iter()
        .filter(|(_, lineage)| wish.snapshot.is_none() || lineage.bases.iter().any(is_named))
        .collect();
    suited.sort_by_key(|(_, lineage)| std::cmp::Reverse(lineage.latest()));
    let mut refused = None;
    for (name, lineage) in suited {
        let named = lineage.bases.iter().find(|base| is_named(base));
        let planned = plan(
            &lineage.bases,
            &lineage.holdings,
            wish.target,
            named.map(|base| base.snapshot.as_str()),
            wish.covered,
            lineage.segment_bytes,
            archive.label(),
        );
        let is_time = matches!(wish.target.goal, Goal::Time(_));
        match planned {
            Ok(plan) => {
                let archive = Wal::Ours(lineage.archive(archive, database, name)?);
                let lineage = name.clone();
                return Ok(Ok(Found {
                    plan,
                    archive,
                    lineage,
                }));
            }
            // What is said of the latest is said.
            Err(error @ (PlanError::TooEarly { .. } | PlanError::NoBase { .. })) if is_time => {
                refused.get_or_insert(error);
            }
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Err(
        refused.unwrap_or_else(|| unknown(lineages, archive, wish))
    ))
}

fn unknown(lineages: &BTreeMap<String, Lineage>, archive: &Store, wish: Wish<'_>) -> PlanError {
    let bases = lineages.values().flat_map(|lineage| &lineage.bases);
    let known: Vec<String> = bases.map(|base| base.snapshot.clone()).collect();
    let mut logical = lineages.values().flat_map(|lineage| &lineage.logical);
    match wish.snapshot {
        Some(name) if logical.any(|known| known == name) => PlanError::LogicalBase {
            name: name.to_owned(),
        },
        Some(name) if !known.is_empty() => PlanError::UnknownBase {
            name: name.to_owned(),
            known,
        },
        _ => PlanError::NoBase {
            place: archive.label().to_owned(),
        },
    }
}
