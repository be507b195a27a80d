//! Names of objects: `kubedb/<namespace>/<database>/…` below the store's root.

use std::fmt;

/// Where everything of one database lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseFolder {
    path: String,
}

/// One try to make one Snapshot. The uid tells apart Snapshots that had the same name one after another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId {
    /// Name of the Snapshot.
    pub snapshot: String,
    /// Uid of the Snapshot.
    pub uid: String,
    /// Counts from 0 or 1, as the caller likes; at most 9999.
    pub attempt: u32,
}

/// What an object in a Snapshot's folder says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// The attempt has begun; it may have written packs. Removed when the Snapshot is deleted, which a late writer notices, and by the writer
    /// itself once its Snapshot is complete and what that refers to is known to stay.
    Intent,
    /// The attempt is complete and can be restored.
    Manifest,
    /// A manifest that no longer counts, kept until everything it refers to is deleted.
    Deleting,
}

/// A name that would not fit into a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to use {what} {name:?} in the name of an object")]
pub struct NameError {
    /// What it names.
    pub what: &'static str,
    /// The name.
    pub name: String,
}

/// Folder of a lineage below one of a database's: `archive/<lineage>`, `keys/<lineage>`.
pub(crate) fn of_lineage(root: &str, lineage: &str) -> Result<String, NameError> {
    // A lineage is a UUID; what else stands there would lead elsewhere.
    let is_lineage = uuid::Uuid::try_parse(lineage).is_ok();
    checked("lineage", lineage, is_lineage)?;
    Ok(format!("{root}/{lineage}"))
}

impl Record {
    const ALL: [Self; 3] = [Self::Intent, Self::Manifest, Self::Deleting];

    fn word(self) -> &'static str {
        match self {
            Self::Intent => "attempt",
            Self::Manifest => "manifest",
            Self::Deleting => "deleting",
        }
    }
}

impl AttemptId {
    /// Checks the parts, so that keys made from them can be taken apart again.
    pub fn new(snapshot: &str, uid: &str, attempt: u32) -> Result<Self, NameError> {
        checked("attempt", &attempt.to_string(), attempt <= 9_999)?;
        Ok(Self {
            snapshot: name("Snapshot", snapshot)?,
            uid: name("uid", uid)?,
            attempt,
        })
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} attempt {}", self.snapshot, self.attempt)
    }
}

impl DatabaseFolder {
    /// The folder of a database.
    pub fn new(namespace: &str, database: &str) -> Result<Self, NameError> {
        let namespace = name("namespace", namespace)?;
        let database = name("database", database)?;
        Ok(Self {
            path: format!("kubedb/{namespace}/{database}"),
        })
    }

    /// The folder that holds this record of a Snapshot.
    #[must_use]
    pub fn of(key: &str) -> Option<Self> {
        let (folder, rest) = key.rsplit_once("/snapshots/")?;
        let parts = rest.split('/').count();
        (parts == 2).then(|| Self {
            path: folder.to_owned(),
        })
    }

    /// Key of what is named relative to this folder, as manifests name packs and maps.
    #[must_use]
    pub fn key(&self, relative: &str) -> String {
        format!("{}/{relative}", self.path)
    }

    /// Name relative to this folder.
    #[must_use]
    pub fn relative<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(self.path.as_str())?.strip_prefix('/')
    }

    /// Folder of all Snapshots' records.
    #[must_use]
    pub fn snapshots(&self) -> String {
        self.key("snapshots")
    }

    /// Key of a record.
    #[must_use]
    pub fn record(&self, record: Record, id: &AttemptId) -> String {
        let (
            word,
            AttemptId {
                snapshot,
                uid,
                attempt,
            },
        ) = (record.word(), id);
        self.key(&format!(
            "snapshots/{snapshot}/{word}-{attempt:04}-{uid}.json"
        ))
    }

    /// Takes a record's key apart.
    #[must_use]
    pub fn read_record(&self, key: &str) -> Option<(Record, AttemptId)> {
        read_record(self.relative(key)?)
    }
}

/// Takes the end of a record's key apart, from `snapshots/` on.
fn read_record(relative: &str) -> Option<(Record, AttemptId)> {
    let (snapshot, file) = relative.strip_prefix("snapshots/")?.split_once('/')?;
    let stem = file.strip_suffix(".json")?;
    let (record, rest) = Record::ALL.into_iter().find_map(|record| {
        let rest = stem.strip_prefix(record.word())?.strip_prefix('-')?;
        Some((record, rest))
    })?;
    let (attempt, uid) = rest.split_at_checked(4)?;
    let is_number = attempt.bytes().all(|byte| byte.is_ascii_digit());
    let attempt = attempt.parse().ok().filter(|_| is_number)?;
    let id = AttemptId::new(snapshot, uid.strip_prefix('-')?, attempt).ok()?;
    Some((record, id))
}

/// Folder of all packs, relative to the database's.
pub const PACKS: &str = "packs";

/// Folder of all maps.
pub const MAPS: &str = "maps";

/// Folder of the packs that a Snapshot wrote, relative to the database's. All its attempts share it, so that
/// deleting the Snapshot finds what a crashed attempt left.
#[must_use]
pub fn packs(uid: &str) -> String {
    format!("{PACKS}/{uid}")
}

/// Folder of the maps that a Snapshot wrote.
#[must_use]
pub fn maps(uid: &str) -> String {
    format!("{MAPS}/{uid}")
}

/// Whether this may stand in a manifest as the name of a pack or a map: `packs/<uid>/<hex>`, `maps/<uid>/<hex>`.
#[must_use]
pub fn is_data(relative: &str) -> bool {
    let parts: Vec<&str> = relative.split('/').collect();
    let [kind, uid, hash] = parts.as_slice() else {
        return false;
    };
    let is_hex = !hash.is_empty() && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    matches!(*kind, PACKS | MAPS) && name("uid", uid).is_ok() && is_hex
}

/// The uid of the Snapshot that wrote what a manifest may name so.
#[must_use]
pub fn owner(relative: &str) -> Option<&str> {
    let owner = relative.split('/').nth(1);
    owner.filter(|_| is_data(relative))
}

/// Names of Kubernetes objects, and uids: letters, digits, `-` and `.`, at most 253, and never only dots.
fn name(what: &'static str, name: &str) -> Result<String, NameError> {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let starts = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    checked(
        what,
        name,
        starts && name.len() <= 253 && name.bytes().all(is_fine),
    )
}

fn checked(what: &'static str, name: &str, is_fine: bool) -> Result<String, NameError> {
    let name = name.to_owned();
    if is_fine {
        Ok(name)
    } else {
        Err(NameError { what, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_named_and_read_back() {
        let folder = DatabaseFolder::new("demo", "pg").unwrap();
        let id = AttemptId::new("pg-20261124-000000", "0f1e-22", 3).unwrap();
        let key = folder.record(Record::Manifest, &id);
        assert_eq!(
            key,
            "kubedb/demo/pg/snapshots/pg-20261124-000000/manifest-0003-0f1e-22.json"
        );
        assert_eq!(folder.read_record(&key), Some((Record::Manifest, id)));
        assert_eq!(DatabaseFolder::of(&key), Some(folder.clone()));
        for strange in [
            "kubedb/demo/pg/snapshots/x/manifest-3-u.json",
            "kubedb/demo/pg/snapshots/x/manifest-+003-u.json",
            "kubedb/demo/pg/snapshots/x/manifest-0003-.json",
            "kubedb/demo/pg/snapshots/x/other-0003-u.json",
            "kubedb/demo/pg2/snapshots/x/manifest-0003-u.json",
            "kubedb/demo/pg/packs/x/manifest-0003-u.json",
        ] {
            assert_eq!(folder.read_record(strange), None, "{strange}");
        }
    }

    #[test]
    fn names_cannot_leave_their_folder() {
        for bad in ["", ".", "..", "a/b", "-a", "a b", "ä", &"x".repeat(254)] {
            assert!(DatabaseFolder::new(bad, "pg").is_err(), "{bad}");
            assert!(AttemptId::new("s", bad, 1).is_err(), "{bad}");
        }
        assert!(AttemptId::new("s", "u", 10_000).is_err());
        assert!(is_data("packs/u-1/00ff"));
        assert_eq!(owner("maps/u-1/00ff"), Some("u-1"));
        assert_eq!(owner("snapshots/u-1/00ff"), None);
        for bad in [
            "packs/../00ff",
            "packs/u",
            "snapshots/u/00",
            "packs/u/00/..",
            "packs/u/x",
        ] {
            assert!(!is_data(bad), "{bad}");
        }
    }
}
