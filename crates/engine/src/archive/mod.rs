//! An archive of WAL in a store: `kubedb/<namespace>/<database>/archive/<lineage>/wal_005/<name>.zst`.
//!
//! Below the lineage's folder it is laid out as wal-g lays its own out, so that wal-g can read it. What is encrypted ends in `.zst.enc`, and wal-g passes it
//! over.

mod error;
mod fetch;
mod inventory;
mod pack;
mod place;
mod prune;
mod push;
mod tail;

pub use error::ArchiveError;
pub(crate) use fetch::{SLACK, check_content, longest};
pub use inventory::{Found, Lineage, Wal, Wish, find, inventory};
pub use place::Placement;
pub use prune::Unneeded;
pub use push::{Pushed, Took};
pub use tail::WalContent;

use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::{
    encryption::{DataKey, KeyError, writing_key},
    repository::keys::{DatabaseFolder, NameError, of_lineage},
    store::Store,
};

/// Folder of all archives of a database.
const ARCHIVE: &str = "archive";
/// Folder of the WAL below a lineage's, as wal-g calls it.
const WAL_FOLDER: &str = "wal_005";
/// Folder of the segment in work beside it, of which wal-g knows nothing.
const TAIL_FOLDER: &str = "tail";
/// End of an object's name: what its content is compressed with.
const SUFFIX: &str = ".zst";
/// The same where it is encrypted then.
const SEALED_SUFFIX: &str = ".zst.enc";
/// Longest history or label; PostgreSQL writes some dozens of bytes for each promotion.
const TEXT_BYTES: u64 = 1 << 20;
/// Bytes of the smallest and the largest segment that initdb makes.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = (1 << 20)..=(1 << 30);

/// The archive of one lineage of one database.
#[derive(Clone, Debug)]
pub struct Archive {
    store: Store,
    database: DatabaseFolder,
    lineage: String,
    /// The lineage's folder.
    folder: String,
    /// What is stored is encrypted with this, if with anything, once that was found out.
    data_key: Arc<OnceCell<Option<DataKey>>>,
    /// Whether any of what is archived is encrypted, once somebody had to know.
    holds_sealed: Arc<OnceCell<bool>>,
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
            folder: database.key(&of_lineage(ARCHIVE, lineage)?),
            database: database.clone(),
            lineage: lineage.to_owned(),
            data_key: Arc::default(),
            holds_sealed: Arc::default(),
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

    /// Key of an object, by its path below the lineage's folder.
    fn key(&self, path: &str, form: Form) -> String {
        format!("{}/{path}{}", self.folder, form.suffix())
    }

    /// What an object is sealed under: its key relative to the database's folder.
    fn seal_name(&self, path: &str) -> String {
        format!("{ARCHIVE}/{}/{path}{SEALED_SUFFIX}", self.lineage)
    }

    /// Folder of the WAL.
    fn wal_folder(&self) -> String {
        format!("{}/{WAL_FOLDER}", self.folder)
    }

    /// Folder of the pieces of segments that are not whole yet.
    fn tails(&self) -> String {
        format!("{}/{TAIL_FOLDER}", self.folder)
    }

    /// What is stored is encrypted with this; nothing is where there is none. An error is told before anything is stored.
    pub async fn data_key(&self) -> Result<Option<&DataKey>, KeyError> {
        let find = || writing_key(&self.store, &self.database, &self.lineage);
        let key = self.data_key.get_or_try_init(find).await?;
        Ok(key.as_ref())
    }
}

/// How a file lies in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Plain,
    Sealed,
}

impl Form {
    /// How something is stored that is encrypted with this, if with anything.
    fn of(data_key: Option<&DataKey>) -> Self {
        match data_key {
            Some(_) => Self::Sealed,
            None => Self::Plain,
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Plain => SUFFIX,
            Self::Sealed => SEALED_SUFFIX,
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Plain => Self::Sealed,
            Self::Sealed => Self::Plain,
        }
    }
}

/// PostgreSQL's name for what an object of this name holds.
fn file_of(object: &str) -> Option<&str> {
    let sealed = object.strip_suffix(SEALED_SUFFIX);
    sealed.or_else(|| object.strip_suffix(SUFFIX))
}

/// Folder of all archives of a database.
fn archives(database: &DatabaseFolder) -> String {
    database.key(ARCHIVE)
}

/// Path of a file of WAL below the lineage's folder.
fn wal_path(name: &str) -> String {
    format!("{WAL_FOLDER}/{name}")
}
