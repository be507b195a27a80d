//! The root of a Snapshot: what was backed up, from where to where in the WAL, and which objects hold it.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use bytes::Bytes;
use jiff::Timestamp;
use kubedb_core::lsn::Lsn;
use object_store::PutPayload;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::keys::{self, DatabaseFolder, Record};
use crate::{
    encryption::{DataKey, KeyError, KeyId, OpenError, reading_key},
    store::{Store, StoreError},
};

/// What `format` says in every manifest.
pub const FORMAT: &str = "kubedb-snapshot";

/// The version that this code writes, and the newest that it reads.
pub const VERSION: u64 = 1;

/// Units may be parts of what was stored, and objects those of other Snapshots; the last maps hold files that stand between those of others.
pub const REFERENCES: &str = "references";

/// All that it refers to is encrypted, and so is what it says of names of databases and folders.
pub const ENCRYPTION: &str = "encryption";

/// It holds schemas and rows as SQL, and no files of a data folder.
pub const LOGICAL: &str = "logical";

/// Features a reader must know to restore correctly.
const KNOWN_FEATURES: [&str; 3] = [REFERENCES, ENCRYPTION, LOGICAL];

/// Largest manifest: a row for each of 65 536 packs (1 TiB) and as many maps takes 16 MiB.
pub const MANIFEST_BYTES: u64 = 64 << 20;

/// Most values in a manifest: such a row has four. A value takes some hundred bytes while it is read, and a hostile text needs but two for one.
const MANIFEST_VALUES: usize = 1 << 20;

/// One restorable Snapshot. All sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`] of the writer.
    pub version: u64,
    /// A reader that does not know one of these must refuse.
    pub required_features: Vec<String>,
    /// A reader may ignore these.
    pub optional_features: Vec<String>,
    /// Program and version that wrote it.
    pub written_by: String,
    /// Minted when the database was bootstrapped; tells a recreated database of the same name apart.
    pub lineage: String,
    /// Namespace of the database.
    pub namespace: String,
    /// Name of the database.
    pub database: String,
    /// Name of the Snapshot.
    pub snapshot: String,
    /// Uid of the Snapshot.
    pub snapshot_uid: String,
    /// Which try this was.
    pub attempt: u32,
    /// When the backup began.
    pub started: Timestamp,
    /// When everything but this manifest was stored.
    pub created: Timestamp,
    /// The cluster.
    pub cluster: Cluster,
    /// Timeline at the end of the backup.
    pub timeline: u32,
    /// Text of that timeline's history file; the first timeline has none.
    pub timeline_history: Option<String>,
    /// Where recovery begins.
    #[serde(with = "lsn_text")]
    pub start_lsn: Lsn,
    /// Where the backup is consistent.
    #[serde(with = "lsn_text")]
    pub stop_lsn: Lsn,
    /// Names of the WAL segments within, in order.
    pub wal: Vec<String>,
    /// Whether a standby was read.
    pub from_standby: bool,
    /// Tablespaces outside of the data folder.
    pub tablespaces: Vec<Tablespace>,
    /// Sizes.
    pub sizes: Sizes,
    /// How its content is encrypted, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Sealed>,
    /// What it holds, where that is schemas and rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logical: Option<Logical>,
    /// The Snapshot that it was compared with; nobody needs that any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseRef>,
    /// Objects that list files, in order of path.
    pub maps: Vec<ObjectRef>,
    /// Objects that hold content.
    pub packs: Vec<ObjectRef>,
}

/// What a restored copy must agree with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// Full version, such as `15.18`.
    pub postgres_version: String,
    /// Major as written by PostgreSQL: `9.6`, `15`.
    pub major: String,
    /// Identifier of the cluster, decimal. A text, since JSON readers round numbers of this size.
    pub system_identifier: String,
    /// Layout of `pg_control`.
    pub control_version: u32,
    /// Layout of the catalogs.
    pub catalog_version: u32,
    /// Bytes of a page.
    pub page_bytes: u32,
    /// Pages in one file of a relation.
    pub segment_pages: u32,
    /// Bytes of a WAL segment.
    pub wal_segment_bytes: u32,
    /// Whether pages carry checksums.
    pub data_checksums: bool,
    /// C library that sorted the indexes, such as `glibc 2.36` or `musl`, where it could be told.
    pub libc: Option<String>,
    /// Encodings and collations, one a database.
    pub locales: Vec<Locale>,
    /// Settings that a standby must have at least, such as `max_connections`.
    pub settings: BTreeMap<String, String>,
    /// For each database, by its oid, the transaction that wrote its row: one that was dropped and made again under the same oid has another.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub incarnations: BTreeMap<String, String>,
}

/// What a logical Snapshot holds, in numbers. Names stand in its file `contents.json`, which is encrypted where anything is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Logical {
    /// Databases.
    pub databases: u64,
    /// Tables that have rows of their own, or could have.
    pub tables: u64,
    /// Their rows.
    pub rows: u64,
    /// Whether all databases are seen at one point; else they are some milliseconds apart, between `startLsn` and `stopLsn`.
    pub is_one_point: bool,
    /// Version of the pg_dump that read the schemas.
    pub pg_dump: String,
}

/// What is encrypted of a manifest, and with it all that the manifest refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sealed {
    /// The data key.
    pub key_id: String,
    /// What everybody may not read, in Base64. It vouches for all the rest too: opened for another manifest, or one that was changed, it is damaged.
    pub sealed: String,
}

/// What [`Sealed`] holds.
#[derive(Serialize, Deserialize)]
struct Secret {
    locales: Vec<Locale>,
    tablespaces: Vec<Tablespace>,
}

/// A Snapshot that another was compared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BaseRef {
    /// Its name.
    pub snapshot: String,
    /// Its uid.
    pub snapshot_uid: String,
    /// Which try it was.
    pub attempt: u32,
}

/// How a database within the cluster sorts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Locale {
    /// Name of the database.
    pub database: String,
    /// Encoding, such as `UTF8`.
    pub encoding: String,
    /// `LC_COLLATE`.
    pub collate: String,
    /// `LC_CTYPE`.
    pub ctype: String,
    /// ICU locale, where ICU sorts.
    pub icu: Option<String>,
    /// Version of the collation as PostgreSQL keeps it.
    pub collation_version: Option<String>,
}

/// A tablespace outside of the data folder. Its files are listed below `pg_tblspc/<oid>/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its oid.
    pub oid: u32,
    /// Where its link pointed.
    pub folder: String,
}

/// Sizes of a Snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sizes {
    /// All files as they will be restored.
    pub database_bytes: u64,
    /// Read from disk for this Snapshot.
    pub read_bytes: u64,
    /// Sent to the store for this Snapshot, without this manifest.
    pub uploaded_bytes: u64,
    /// All objects that this Snapshot refers to, without this manifest.
    pub stored_bytes: u64,
}

/// An object that a manifest refers to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Name relative to the database's folder.
    pub key: String,
    /// Size.
    pub bytes: u64,
    /// BLAKE3 of its content, hexadecimal.
    pub blake3: String,
}

/// Why there is no manifest to go by.
#[derive(Debug, thiserror::Error)]
pub enum ReadManifestError {
    /// The object could not be read.
    #[error(transparent)]
    Read(#[from] StoreError),
    /// The object is no manifest, or its content is not what was written.
    #[error("failed to verify manifest {object}: {reason}")]
    Damaged {
        /// Its key.
        object: String,
        /// What is wrong.
        reason: String,
    },
    /// A later program wrote it.
    #[error(
        "failed to use manifest {object}: it needs {what}, which this version of kubedb does not know; update kubedb"
    )]
    TooNew {
        /// Its key.
        object: String,
        /// What it needs.
        what: String,
    },
}

/// Why a manifest was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenManifestError {
    /// There is none to go by.
    #[error(transparent)]
    Read(#[from] ReadManifestError),
    /// There is no key to it.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl ReadManifestError {
    /// Whether trying again may help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Read(source) if source.is_retryable())
    }
}

impl Manifest {
    /// The object's bytes: JSON on one line with sorted keys, and among them `blake3`, the hash of the same without `blake3`.
    pub fn encode(&self) -> Result<PutPayload, serde_json::Error> {
        let mut value = serde_json::to_value(self)?;
        let hash = blake3::hash(&canonical(&value)).to_hex().to_string();
        if let Value::Object(fields) = &mut value {
            fields.insert("blake3".to_owned(), Value::String(hash));
        }
        Ok(canonical(&value).into())
    }

    /// Verifies and reads an object's bytes.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<Self, ReadManifestError> {
        let damaged = |reason: String| ReadManifestError::Damaged {
            object: object.to_owned(),
            reason,
        };
        let too_new = |what: String| ReadManifestError::TooNew {
            object: object.to_owned(),
            what,
        };
        if bytes.is_empty() {
            return Err(damaged("it is empty".to_owned()));
        }
        if values(bytes) > MANIFEST_VALUES {
            return Err(damaged(format!(
                "it has more than {MANIFEST_VALUES} values, which no manifest has"
            )));
        }
        let mut value: Value = serde_json::from_slice(bytes)
            .map_err(|error| damaged(format!("it is no whole JSON: {error}")))?;
        if value["format"] != FORMAT {
            return Err(damaged("it is no manifest of kubedb".to_owned()));
        }
        // Before the hash: a later version may hash differently.
        match value["version"].as_u64() {
            Some(1..=VERSION) => {}
            Some(later) if later > VERSION => {
                return Err(too_new(format!("format version {later}")));
            }
            _ => return Err(damaged("it has no version".to_owned())),
        }
        let stored = value
            .as_object_mut()
            .and_then(|fields| fields.remove("blake3"));
        let computed = blake3::hash(&canonical(&value)).to_hex();
        if stored.as_ref().and_then(Value::as_str) != Some(computed.as_str()) {
            return Err(damaged("its content does not fit its hash".to_owned()));
        }
        let manifest: Self =
            serde_json::from_value(value).map_err(|error| damaged(error.to_string()))?;
        if let Some(strange) = manifest.cluster.strange_version() {
            return Err(damaged(format!("{strange:?} is no version of PostgreSQL")));
        }
        let cluster = &manifest.cluster;
        if !cluster.postgres_version.starts_with(&cluster.major) {
            return Err(damaged("its version and its major do not agree".to_owned()));
        }
        let unknown = manifest
            .required_features
            .iter()
            .find(|feature| !KNOWN_FEATURES.contains(&feature.as_str()));
        if let Some(feature) = unknown {
            return Err(too_new(format!("feature {feature:?}")));
        }
        let says = manifest
            .required_features
            .iter()
            .any(|feature| feature == ENCRYPTION);
        if says != manifest.encryption.is_some() {
            return Err(damaged("it does not say how it is encrypted".to_owned()));
        }
        let says = manifest
            .required_features
            .iter()
            .any(|feature| feature == LOGICAL);
        if says != manifest.logical.is_some() {
            return Err(damaged("it does not say whether it holds files".to_owned()));
        }
        if manifest
            .logical
            .as_ref()
            .is_some_and(|held| held.pg_dump.contains(|c: char| !is_shown(c)))
        {
            return Err(damaged("its version of pg_dump is none".to_owned()));
        }
        if manifest.encryption.is_some() && manifest.key_id().is_none() {
            return Err(damaged("it names no key".to_owned()));
        }
        let objects = manifest.maps.iter().chain(&manifest.packs);
        match objects
            .into_iter()
            .find(|object| !keys::is_data(&object.key))
        {
            Some(strange) => Err(damaged(format!("it refers to {:?}", strange.key))),
            None => Ok(manifest),
        }
    }
}

impl Manifest {
    /// The key that it and all that it refers to is encrypted with.
    #[must_use]
    pub fn key_id(&self) -> Option<KeyId> {
        self.encryption.as_ref()?.key_id.parse().ok()
    }

    /// The same for everybody to see, with what they may not read encrypted.
    pub(crate) fn seal(mut self, key: &DataKey) -> Result<Self, KeyError> {
        let secret = Secret {
            locales: std::mem::take(&mut self.cluster.locales),
            tablespaces: std::mem::take(&mut self.tablespaces),
        };
        let secret = serde_json::to_vec(&secret).map_err(|_| KeyError::System)?;
        self.required_features.push(ENCRYPTION.to_owned());
        self.encryption = Some(Sealed {
            key_id: key.id().to_string(),
            sealed: String::new(),
        });
        let name = self.seal_name().map_err(|_| KeyError::System)?;
        let sealed = BASE64.encode(key.seal(&name, &secret)?);
        if let Some(encryption) = &mut self.encryption {
            encryption.sealed = sealed;
        }
        Ok(self)
    }

    /// The same with what only who has the key may read.
    pub(crate) fn unseal(mut self, key: &DataKey) -> Result<Self, OpenError> {
        let encryption = self.encryption.as_mut().ok_or(OpenError::Plain)?;
        let sealed = std::mem::take(&mut encryption.sealed);
        let name = self.seal_name().map_err(|_| OpenError::Changed)?;
        let bytes = BASE64.decode(&sealed).map_err(|_| OpenError::Changed)?;
        let secret = key.open(&name, &bytes)?;
        let secret: Secret = serde_json::from_slice(&secret).map_err(|_| OpenError::Changed)?;
        self.cluster.locales = secret.locales;
        self.tablespaces = secret.tablespaces;
        if let Some(encryption) = &mut self.encryption {
            encryption.sealed = sealed;
        }
        Ok(self)
    }

    /// What is sealed is sealed under this name: the hash of all that is not.
    fn seal_name(&self) -> Result<String, serde_json::Error> {
        let value = serde_json::to_value(self)?;
        let hash = blake3::hash(&canonical(&value)).to_hex();
        Ok(format!("manifest {hash}"))
    }
}

impl Cluster {
    /// Versions are shown to people, so they may not hold what a terminal would obey.
    fn strange_version(&self) -> Option<&str> {
        let is_version = |text: &str| {
            (1..=VERSION_LETTERS).contains(&text.len()) && !text.contains(|c: char| !is_shown(c))
        };
        [&self.postgres_version, &self.major]
            .into_iter()
            .map(String::as_str)
            .find(|text| !is_version(text))
    }
}

/// Longer than any version, such as `17beta1 (Debian 17~beta1-1.pgdg120+1)`.
const VERSION_LETTERS: usize = 100;

fn is_shown(letter: char) -> bool {
    letter.is_ascii_graphic() || letter == ' '
}

/// Values in a text of JSON, or more: what stands in quotes counts as if it did not.
pub(super) fn values(json: &[u8]) -> usize {
    let begins = |byte: &&u8| matches!(byte, b',' | b'[' | b'{');
    json.iter().filter(begins).count()
}

/// Reads a manifest by its key, and verifies it: its hash, that this code understands it, and that it is of the Snapshot in its name.
pub async fn read(store: &Store, key: &str) -> Result<Manifest, ReadManifestError> {
    let damaged = |reason: &str| ReadManifestError::Damaged {
        object: key.to_owned(),
        reason: reason.to_owned(),
    };
    let id = DatabaseFolder::of(key).and_then(|folder| folder.read_record(key));
    let Some((Record::Manifest | Record::Deleting, id)) = id else {
        return Err(damaged("its name is not that of a manifest"));
    };
    let manifest = read_twice(store, key).await?.1?;
    let is_same = manifest.snapshot == id.snapshot
        && manifest.snapshot_uid == id.uid
        && manifest.attempt == id.attempt;
    is_same
        .then_some(manifest)
        .ok_or_else(|| damaged("it is the manifest of another Snapshot or attempt"))
}

/// The key to what a manifest refers to; none where nothing is encrypted.
pub async fn data_key(
    store: &Store,
    key: &str,
    manifest: &Manifest,
) -> Result<Option<DataKey>, KeyError> {
    match (manifest.key_id(), DatabaseFolder::of(key)) {
        (Some(id), Some(folder)) => {
            let opened = reading_key(store, &folder, &manifest.lineage, id).await;
            opened.map(Some)
        }
        _ => Ok(None),
    }
}

/// Reads a manifest as [`read`] does, and what is encrypted of it.
pub async fn open(
    store: &Store,
    key: &str,
) -> Result<(Manifest, Option<DataKey>), OpenManifestError> {
    let manifest = read(store, key).await?;
    let Some(data_key) = data_key(store, key, &manifest).await? else {
        return Ok((manifest, None));
    };
    let opened = manifest
        .unseal(&data_key)
        .map_err(|error| ReadManifestError::Damaged {
            object: key.to_owned(),
            reason: error.to_string(),
        });
    Ok((opened?, Some(data_key)))
}

/// The same, for who goes on without a manifest that is gone, damaged or too new; what is wrong with the store is an error of its own.
pub async fn examine(
    store: &Store,
    key: &str,
) -> Result<Result<Manifest, ReadManifestError>, StoreError> {
    match read(store, key).await {
        Err(ReadManifestError::Read(error)) if !error.is_not_found() => Err(error),
        read => Ok(read),
    }
}

/// A manifest's bytes and what they say. What reads wrongly is read once more: the network may have done it.
pub(super) async fn read_twice(
    store: &Store,
    key: &str,
) -> Result<(Bytes, Result<Manifest, ReadManifestError>), StoreError> {
    let bytes = store.read(key, MANIFEST_BYTES).await?;
    match Manifest::decode(key, &bytes) {
        Err(ReadManifestError::Damaged { .. }) => {
            let bytes = store.read(key, MANIFEST_BYTES).await?;
            let decoded = Manifest::decode(key, &bytes);
            Ok((bytes, decoded))
        }
        decoded => Ok((bytes, decoded)),
    }
}

/// JSON with sorted keys and no space, whatever order the value has.
fn canonical(value: &Value) -> Vec<u8> {
    fn write(value: &Value, into: &mut Vec<u8>) {
        match value {
            Value::Object(fields) => {
                let sorted: BTreeMap<&String, &Value> = fields.iter().collect();
                into.push(b'{');
                for (number, (key, value)) in sorted.into_iter().enumerate() {
                    if number > 0 {
                        into.push(b',');
                    }
                    into.extend_from_slice(Value::from(key.as_str()).to_string().as_bytes());
                    into.push(b':');
                    write(value, into);
                }
                into.push(b'}');
            }
            Value::Array(items) => {
                into.push(b'[');
                for (number, item) in items.iter().enumerate() {
                    if number > 0 {
                        into.push(b',');
                    }
                    write(item, into);
                }
                into.push(b']');
            }
            plain => into.extend_from_slice(plain.to_string().as_bytes()),
        }
    }
    let mut bytes = Vec::new();
    write(value, &mut bytes);
    bytes
}

mod lsn_text {
    use kubedb_core::lsn::Lsn;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(lsn: &Lsn, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(lsn)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(reader: D) -> Result<Lsn, D::Error> {
        String::deserialize(reader)?
            .parse()
            .map_err(D::Error::custom)
    }
}
