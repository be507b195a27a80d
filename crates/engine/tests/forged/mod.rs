//! A bucket with one Snapshot that no server was needed for, and ways to forge every part of it.

use std::{fs, path::PathBuf};

use kubedb_engine::{
    backup::BackupProgress,
    postgres::dialect::PgDialect,
    repository::map::{Codec, FileEntry, Map, Unit},
    restore::{self, RestoreError, RestoreRequest},
    store::{Credentials, Location, Store},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) const UID: &str = "7c1f";
const DATABASE: &str = "kubedb/demo/pg";

/// The parts of a Snapshot before they are objects, so that what is forged can have the hashes of what is true.
pub(crate) struct Parts {
    pub(crate) manifest: Value,
    pub(crate) map: Map,
    pub(crate) pack: Vec<u8>,
}

/// A bucket: a folder, and beside it the place that Snapshots are restored to.
pub(crate) struct Bucket {
    folder: TempDir,
    pub(crate) manifest: String,
    pub(crate) map: String,
    pub(crate) pack: String,
}

impl Parts {
    pub(crate) fn good() -> Self {
        let mut parts = Self {
            manifest: manifest(),
            map: Map::default(),
            pack: Vec::new(),
        };
        parts.map.packs.push(format!("packs/{UID}/00ff"));
        parts.put("PG_VERSION", b"15\n");
        parts.put("backup_label", b"START WAL LOCATION: 0/2000028\n");
        parts.folder("base");
        parts.put("base/1", &[7; 16_384]);
        parts.folder("global");
        parts.put("global/pg_control", &[1; 8_192]);
        parts
    }

    fn folder(&mut self, path: &str) {
        self.map.files.push(FileEntry {
            path: path.to_owned(),
            is_folder: true,
            bytes: 0,
            units: Vec::new(),
        });
    }

    pub(crate) fn put(&mut self, path: &str, content: &[u8]) {
        let stored = zstd::bulk::compress(content, 3).unwrap();
        let length = u32::try_from(content.len()).unwrap();
        let unit = Unit {
            at: 0,
            raw: length,
            pack: 0,
            offset: self.pack.len() as u64,
            stored: u32::try_from(stored.len()).unwrap(),
            codec: Codec::Zstd,
            blake3: hash(content),
            from: 0,
            of: None,
            part: None,
        };
        self.pack.extend(stored);
        self.map.files.push(FileEntry {
            path: path.to_owned(),
            is_folder: false,
            bytes: length.into(),
            units: vec![unit],
        });
    }

    pub(crate) fn file(&mut self, path: &str) -> &mut FileEntry {
        let mut files = self.map.files.iter_mut();
        files.find(|file| file.path == path).unwrap()
    }

    pub(crate) fn unit(&mut self, path: &str) -> &mut Unit {
        &mut self.file(path).units[0]
    }

    /// Objects as a writer would make them.
    pub(crate) fn into_bucket(self) -> Bucket {
        let map = self.map.encode().unwrap();
        self.into_bucket_with(&map)
    }

    /// The same with the bytes of another map.
    pub(crate) fn into_bucket_with(mut self, map: &[u8]) -> Bucket {
        let map_key = format!("maps/{UID}/{}", hash(map));
        for (list, key, content) in [
            ("maps", &map_key, map),
            ("packs", &format!("packs/{UID}/00ff"), &self.pack[..]),
        ] {
            let true_row = json!({ "key": key, "bytes": content.len(), "blake3": hash(content) });
            let rows = self.manifest[list].as_array_mut();
            // A case that forged a list keeps it, but for what it left open.
            match rows {
                Some(rows) if rows.is_empty() => rows.push(true_row),
                Some(rows) => rows.iter_mut().for_each(|row| fill(row, &true_row)),
                None => {}
            }
        }
        let bucket = Bucket {
            folder: tempfile::tempdir().unwrap(),
            manifest: format!("{DATABASE}/snapshots/snap/manifest-0001-{UID}.json"),
            map: format!("{DATABASE}/{map_key}"),
            pack: format!("{DATABASE}/packs/{UID}/00ff"),
        };
        bucket.write(&bucket.manifest, sealed(self.manifest).as_bytes());
        bucket.write(&bucket.map, map);
        bucket.write(&bucket.pack, &self.pack);
        bucket
    }
}

fn fill(row: &mut Value, from: &Value) {
    if !row.is_object() {
        return;
    }
    for field in ["key", "bytes", "blake3"] {
        if row.get(field).is_none() {
            row[field] = from[field].clone();
        }
    }
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// With its hash, unless it brings one.
pub(crate) fn sealed(manifest: Value) -> String {
    let mut manifest = sorted(manifest);
    if manifest.get("blake3").is_none() && manifest.is_object() {
        manifest["blake3"] = hash(manifest.to_string().as_bytes()).into();
    }
    manifest.to_string()
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields: std::collections::BTreeMap<_, _> = fields.into_iter().collect();
            fields
                .into_iter()
                .map(|(key, value)| (key, sorted(value)))
                .collect()
        }
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        plain => plain,
    }
}

fn manifest() -> Value {
    json!({
        "format": "kubedb-snapshot", "version": 1, "requiredFeatures": [], "optionalFeatures": [], "writtenBy": "kubedb 0.1.0",
        "lineage": "b5ad6a0e-6f1c-4b0c-9a7c-2c4f7c7f0a11", "namespace": "demo", "database": "pg", "snapshot": "snap", "snapshotUid": UID,
        "attempt": 1, "started": "2026-11-24T00:00:00Z", "created": "2026-11-24T00:00:09Z",
        "cluster": {
            "postgresVersion": "15.18", "major": "15", "systemIdentifier": "7300000000000000000", "controlVersion": 1300,
            "catalogVersion": 202_209_061, "pageBytes": 8_192, "segmentPages": 131_072, "walSegmentBytes": 16_777_216,
            "dataChecksums": true, "libc": null, "locales": [], "settings": {}
        },
        "timeline": 1, "timelineHistory": null, "startLsn": "0/2000028", "stopLsn": "0/2000100", "wal": [], "fromStandby": false,
        "tablespaces": [], "sizes": { "databaseBytes": 24_609, "readBytes": 24_609, "uploadedBytes": 300, "storedBytes": 300 },
        "maps": [], "packs": [],
    })
}

impl Bucket {
    pub(crate) fn path(&self, key: &str) -> PathBuf {
        self.folder.path().join("bucket").join(key)
    }

    pub(crate) fn write(&self, key: &str, content: &[u8]) {
        let path = self.path(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn change(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.path(key)).unwrap();
        change(&mut bytes);
        self.write(key, &bytes);
    }

    pub(crate) fn remove(&self, key: &str) {
        fs::remove_file(self.path(key)).unwrap();
    }

    pub(crate) fn store(&self) -> Store {
        let location = Location::Local {
            folder: self.path(""),
        };
        Store::open(&location, &Credentials::new()).unwrap()
    }

    /// Everything that lies in the bucket, and beside it, with its size.
    pub(crate) fn content(&self) -> Vec<(PathBuf, u64)> {
        fn walk(folder: &std::path::Path, into: &mut Vec<(PathBuf, u64)>) {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                let meta = entry.metadata().unwrap();
                let bytes = if meta.is_dir() { 0 } else { meta.len() };
                into.push((entry.path(), bytes));
                if meta.is_dir() {
                    walk(&entry.path(), into);
                }
            }
        }
        let mut content = Vec::new();
        walk(self.folder.path(), &mut content);
        content.sort();
        content
    }

    /// Restores beside the bucket, as a database of 15 would.
    pub(crate) async fn restore(&self) -> Result<(), RestoreError> {
        let request = RestoreRequest {
            store: self.store(),
            manifest: self.manifest.clone(),
            data_folder: self.folder.path().join("data"),
            dialect: PgDialect::of("15.18").unwrap(),
            postgres_version: "15.18".to_owned(),
            threads: 2,
        };
        let (progress, _) = watch::channel(BackupProgress::default());
        let restored = restore::fetch(request, progress, CancellationToken::new()).await;
        restored.map(drop)
    }

    /// A message without what differs from run to run.
    pub(crate) fn words(&self, message: &str) -> String {
        let folder = self.folder.path().to_str().unwrap();
        message
            .replace(&self.map, "kubedb/demo/pg/maps/7c1f/HASH")
            .replace(&format!("{folder}/bucket"), "BUCKET")
            .replace(folder, "BESIDE")
    }
}
