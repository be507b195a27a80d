//! What a recovery would bring back, found before anything is written.

use kubedb_api::{
    archiver::{ArchiveLayout, Recovery},
    protocol::RestoreSource,
};
use kubedb_core::recovery::{PlanError, ReadTargetError, Target};
use kubedb_engine::{
    archive::{self, ArchiveError, Found, Wish, inventory},
    repository::keys::{DatabaseFolder, NameError},
    store::Store,
    walg::{self, WalgError},
};

/// A recovery as it was planned.
#[derive(Debug)]
pub struct Planned {
    /// How far.
    pub target: Target,
    /// From what, and along which WAL.
    pub found: Found,
}

/// Why nothing can be planned.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// A target that makes no sense.
    #[error("failed to understand the target of the recovery")]
    ReadTarget(#[from] ReadTargetError),
    /// A name that no database has.
    #[error("failed to look for the archive")]
    Name(#[from] NameError),
    /// The archive could not be read.
    #[error("failed to use the archive")]
    Archive(#[from] ArchiveError),
    /// One of wal-g's layout could not be.
    #[error(transparent)]
    Walg(#[from] WalgError),
    /// The target cannot be reached.
    #[error("failed to plan the recovery")]
    Plan(#[from] PlanError),
}

impl FindError {
    /// Whether another try cannot help. What is missing in the archive may still come.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::ReadTarget(_) | Self::Name(_) => true,
            Self::Plan(error) => matches!(
                error,
                PlanError::TooEarly { .. } | PlanError::Timeline { .. }
            ),
            Self::Walg(error) => !error.is_retryable() && !error.is_mendable(),
            Self::Archive(_) => false,
        }
    }
}

/// Looks for it in the opened stores of the Snapshots and of the archive. An archive that is named as ours are may be one of wal-g's layout: so the first
/// versions of KubeDB named them.
pub async fn find(
    snapshots: &Store,
    archive: &Store,
    source: &RestoreSource,
    recovery: &Recovery,
) -> Result<Planned, FindError> {
    let target = recovery.target.fields().read()?;
    let wanted = match (&source.manifest, &recovery.backup_name) {
        (manifest, _) if !manifest.is_empty() => Some(manifest.as_str()),
        (_, name) => name.as_deref(),
    };
    let wish = Wish {
        target: &target,
        snapshot: wanted,
        covered: recovery.covered_time,
    };
    let found = find_in(snapshots, archive, recovery, wish).await?;
    Ok(Planned { target, found })
}

async fn find_in(
    snapshots: &Store,
    archive: &Store,
    recovery: &Recovery,
    wish: Wish<'_>,
) -> Result<Found, FindError> {
    if recovery.layout == Some(ArchiveLayout::WalG) {
        return Ok(walg::find(archive, "", wish).await??);
    }
    let folder = DatabaseFolder::new(&recovery.namespace, &recovery.database)?;
    let lineages = inventory(snapshots, archive, &folder).await?;
    let found = archive::find(&lineages, archive, &folder, wish)?;
    if matches!(&found, Err(PlanError::NoBase { .. })) {
        let theirs = walg::find(archive, &folder.key("archive"), wish).await?;
        if !matches!(theirs, Err(PlanError::NoBase { .. })) {
            return Ok(theirs?);
        }
    }
    Ok(found?)
}
