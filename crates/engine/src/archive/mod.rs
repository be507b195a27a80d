//! An archive of WAL in a store: `kubedb/<namespace>/<database>/archive/<lineage>/wal_005/<name>.zst`.
//!
//! Below the lineage's folder it is laid out as wal-g lays its own out, so that wal-g can read it.

mod error;
mod fetch;
mod inventory;
mod pack;
mod place;
mod prune;
mod push;
mod tail;

pub use error::ArchiveError;
pub use inventory::{Found, Lineage, Wish, find, inventory};
pub use place::Placement;
pub use prune::Unneeded;
pub use push::Pushed;
pub use tail::WalContent;

use crate::{
    repository::keys::{DatabaseFolder, NameError},
    store::Store,
};

/// Folder of the WAL below a lineage's, as wal-g calls it.
const WAL_FOLDER: &str = "wal_005";
/// Folder of the segment in work beside it, of which wal-g knows nothing.
const TAIL_FOLDER: &str = "tail";
/// End of an object's name: what its content is compressed with.
const SUFFIX: &str = ".zst";
/// Longest history or label; PostgreSQL writes some dozens of bytes for each promotion.
const TEXT_BYTES: u64 = 1 << 20;
/// Bytes of the smallest and the largest segment that initdb makes.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = (1 << 20)..=(1 << 30);

/// The archive of one lineage of one database.
#[derive(Clone, Debug)]
pub struct Archive {
    store: Store,
    folder: String,
    /// Folder of the pieces of segments that are not whole yet.
    tails: String,
    segment_bytes: u64,
    /// Identifier of the cluster; WAL of another one is neither stored nor given out.
    system_identifier: u64,
}

impl Archive {
    /// The archive of a lineage.
    pub fn new(
        store: Store,
        database: &DatabaseFolder,
        lineage: &str,
        system_identifier: u64,
        segment_bytes: u64,
    ) -> Result<Self, NameError> {
        Ok(Self {
            store,
            folder: below(database, lineage, WAL_FOLDER)?,
            tails: below(database, lineage, TAIL_FOLDER)?,
            segment_bytes,
            system_identifier,
        })
    }

    /// Bytes of a segment.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// How users know the store.
    #[must_use]
    pub fn label(&self) -> &str {
        self.store.label()
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}{SUFFIX}", self.folder)
    }
}

/// Folder of all archives of a database.
fn archives(database: &DatabaseFolder) -> String {
    database.key("archive")
}

fn below(database: &DatabaseFolder, lineage: &str, folder: &str) -> Result<String, NameError> {
    // A lineage is a UUID; what else stands there would lead elsewhere.
    if uuid::Uuid::try_parse(lineage).is_err() {
        return Err(NameError {
            what: "lineage",
            name: lineage.to_owned(),
        });
    }
    Ok(format!("{}/{lineage}/{folder}", archives(database)))
}
