//! The end of a backup: lists of files, then the manifest, then reading it back.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use super::{
    Attempt, BackupOutcome,
    error::BackupError,
    session::Session,
    transfer::{Collected, Copied, Stored},
};
use crate::{
    postgres::control::ControlFile,
    repository::{
        keys::{self, Record},
        libc,
        manifest::{self, Cluster, FORMAT, Manifest, ObjectRef, Sizes, VERSION},
        map::{FileEntry, Map, Unit, ends_map},
    },
};

impl Attempt<'_> {
    /// Makes what was copied a Snapshot.
    pub(super) async fn commit(
        &self,
        session: &Session,
        copied: Copied,
    ) -> Result<BackupOutcome, BackupError> {
        let database_bytes = copied.files.values().map(|file| file.bytes).sum();
        let (packs, uploaded) = copied.packer.finish().await?;
        let maps = self.write_maps(copied.files, &packs).await?;
        let stored_bytes = packs.iter().chain(&maps).map(|object| object.bytes).sum();
        let sizes = Sizes {
            database_bytes,
            read_bytes: copied.read_bytes,
            uploaded_bytes: uploaded + maps.iter().map(|map| map.bytes).sum::<u64>(),
            stored_bytes,
        };
        let request = self.request;
        let manifest = Manifest {
            format: FORMAT.to_owned(),
            version: VERSION,
            required_features: Vec::new(),
            optional_features: Vec::new(),
            written_by: concat!("kubedb ", env!("CARGO_PKG_VERSION")).to_owned(),
            lineage: request.lineage.clone(),
            namespace: request.namespace.clone(),
            database: request.database.clone(),
            snapshot: request.snapshot.clone(),
            snapshot_uid: request.snapshot_uid.clone(),
            attempt: request.attempt,
            started: request.started,
            created: Timestamp::now(),
            cluster: self.cluster(session, &copied.control).await?,
            timeline: copied.timeline,
            timeline_history: copied.history,
            start_lsn: copied.start_lsn,
            stop_lsn: copied.stop_lsn,
            wal: copied.wal,
            from_standby: session.is_standby,
            tablespaces: copied.tablespaces,
            sizes,
            maps,
            packs,
        };
        let key = self.write_manifest(&manifest).await?;
        Ok(BackupOutcome {
            manifest: key,
            system_identifier: copied.control.system_identifier,
            timeline: copied.timeline,
            start_lsn: copied.start_lsn,
            stop_lsn: copied.stop_lsn,
            database_bytes,
            read_bytes: sizes.read_bytes,
            uploaded_bytes: sizes.uploaded_bytes,
            stored_bytes,
        })
    }

    async fn write_maps(
        &self,
        files: BTreeMap<String, Collected>,
        packs: &[ObjectRef],
    ) -> Result<Vec<ObjectRef>, BackupError> {
        let mut maps = Vec::new();
        let mut map = Map::default();
        let mut numbers = BTreeMap::new();
        let last = files.len().saturating_sub(1);
        for (number, (path, collected)) in files.into_iter().enumerate() {
            let is_end = ends_map(&map, &path) || number == last;
            map.files
                .push(entry(path, collected, packs, &mut map.packs, &mut numbers));
            if is_end {
                maps.push(self.write_map(&std::mem::take(&mut map)).await?);
                numbers.clear();
            }
        }
        Ok(maps)
    }

    async fn write_map(&self, map: &Map) -> Result<ObjectRef, BackupError> {
        let encoded = map.encode()?;
        let blake3 = blake3::hash(&encoded).to_hex().to_string();
        let relative = format!("{}/{blake3}", keys::maps(&self.id.uid));
        let bytes = encoded.len() as u64;
        let key = self.folder.key(&relative);
        // Not noted as begun when an earlier attempt may have written the same; its manifest could refer to it.
        self.request.store.create(&key, encoded.into()).await?;
        Ok(ObjectRef {
            key: relative,
            bytes,
            blake3,
        })
    }

    /// Writes the manifest and reads it back. The attempt's intent must still be there: deleting the Snapshot removes it first.
    async fn write_manifest(&self, manifest: &Manifest) -> Result<String, BackupError> {
        let store = &self.request.store;
        let intent = self.folder.record(Record::Intent, &self.id);
        match store.size(&intent).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {
                return Err(BackupError::Deleted {
                    attempt: self.id.to_string(),
                    label: store.label().to_owned(),
                });
            }
            Err(error) => return Err(error.into()),
        }
        self.check_stored(manifest).await?;
        let key = self.folder.record(Record::Manifest, &self.id);
        // From here on the manifest may exist, whatever answer we get: nothing may be taken away from it.
        self.begun.forget();
        let encoded = manifest.encode().map_err(BackupError::Encode)?;
        store.create(&key, encoded).await?;
        if manifest::read(store, &key).await? == *manifest {
            Ok(key)
        } else {
            Err(BackupError::ReadBackDiffers { object: key })
        }
    }

    /// Everything that the manifest refers to must be in the store, whole, whatever the store said when it took it.
    async fn check_stored(&self, manifest: &Manifest) -> Result<(), BackupError> {
        let store = &self.request.store;
        let mut stored = HashMap::new();
        for own in [keys::packs(&self.id.uid), keys::maps(&self.id.uid)] {
            let listed = store.list(&self.folder.key(&own)).await?;
            stored.extend(listed.into_iter().map(|found| (found.key, found.bytes)));
        }
        let objects = manifest.maps.iter().chain(&manifest.packs);
        for object in objects {
            let key = self.folder.key(&object.key);
            if stored.get(&key) != Some(&object.bytes) {
                return Err(BackupError::Lost {
                    object: key,
                    label: store.label().to_owned(),
                });
            }
        }
        Ok(())
    }

    async fn cluster(
        &self,
        session: &Session,
        control: &ControlFile,
    ) -> Result<Cluster, BackupError> {
        let mut settings = BTreeMap::from([
            ("max_connections", control.max_connections),
            ("max_worker_processes", control.max_worker_processes),
            (
                "max_prepared_transactions",
                control.max_prepared_transactions,
            ),
            (
                "max_locks_per_transaction",
                control.max_locks_per_transaction,
            ),
        ]);
        settings.extend(
            control
                .max_wal_senders
                .map(|number| ("max_wal_senders", number)),
        );
        Ok(Cluster {
            postgres_version: self.request.postgres_version.clone(),
            major: self.request.dialect.to_string(),
            system_identifier: control.system_identifier.to_string(),
            control_version: control.control_version,
            catalog_version: control.catalog_version,
            page_bytes: control.block_bytes,
            segment_pages: control.segment_blocks,
            wal_segment_bytes: control.wal_segment_bytes,
            data_checksums: control.checksum_version != 0,
            libc: tokio::task::spawn_blocking(libc::name)
                .await
                .unwrap_or_default(),
            locales: session.locales().await?,
            settings: settings
                .into_iter()
                .map(|(name, number)| (name.to_owned(), number.to_string()))
                .collect(),
        })
    }
}

fn entry(
    path: String,
    mut collected: Collected,
    packs: &[ObjectRef],
    names: &mut Vec<String>,
    numbers: &mut BTreeMap<usize, u32>,
) -> FileEntry {
    collected.units.sort_by_key(|unit| unit.at);
    let mut unit = |stored: Stored| {
        let pack = *numbers.entry(stored.place.pack).or_insert_with(|| {
            names.push(packs[stored.place.pack].key.clone());
            u32::try_from(names.len() - 1).unwrap_or(u32::MAX)
        });
        Unit {
            at: stored.at,
            raw: u32::try_from(stored.raw).unwrap_or(u32::MAX),
            pack,
            offset: stored.place.offset,
            stored: u32::try_from(stored.length).unwrap_or(u32::MAX),
            codec: stored.codec,
            blake3: stored.blake3.to_hex().to_string(),
        }
    };
    FileEntry {
        units: collected.units.into_iter().map(&mut unit).collect(),
        path,
        is_folder: collected.is_folder,
        bytes: collected.bytes,
    }
}
