//! The end of a backup: the manifest, reading it back, and a last look at what it refers to.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    Attempt, BackupOutcome, Extent,
    base::{self, Base, Found},
    error::BackupError,
    transfer::Copied,
};
use crate::repository::{
    keys::Record,
    manifest::{
        self, BaseRef, Cluster, FORMAT, LOGICAL, Locale, Manifest, ObjectRef, REFERENCES, Sizes,
        VERSION,
    },
};

/// Where the server runs, and as what.
#[derive(Default)]
pub(super) struct Surroundings {
    pub(super) is_standby: bool,
    pub(super) locales: Vec<Locale>,
    pub(super) libc: Option<String>,
}

impl Attempt<'_> {
    /// Makes what was copied a Snapshot.
    pub(super) async fn commit(
        &self,
        mut copied: Copied,
        surroundings: Surroundings,
    ) -> Result<BackupOutcome, BackupError> {
        let packs = referred(&mut copied);
        let maps = std::mem::take(&mut copied.maps.objects);
        let stored_bytes = packs.iter().chain(&maps).map(|object| object.bytes).sum();
        let sizes = Sizes {
            database_bytes: copied.maps.database_bytes,
            read_bytes: copied.read_bytes,
            uploaded_bytes: copied.uploaded_bytes,
            stored_bytes,
        };
        let request = self.request;
        let base = match &copied.found {
            Found::Base(base) => Some(base),
            Found::Whole(_) => None,
        };
        let mut required_features = vec![REFERENCES.to_owned()];
        if copied.logical.is_some() {
            required_features.push(LOGICAL.to_owned());
        }
        let manifest = Manifest {
            format: FORMAT.to_owned(),
            version: VERSION,
            required_features,
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
            from_standby: surroundings.is_standby,
            cluster: self.cluster(&copied, surroundings),
            timeline: copied.timeline,
            timeline_history: copied.history,
            start_lsn: copied.start_lsn,
            stop_lsn: copied.stop_lsn,
            wal: copied.wal,
            tablespaces: copied.tablespaces,
            sizes,
            encryption: None,
            logical: copied.logical.take(),
            base: base.map(|base| BaseRef {
                snapshot: base.manifest.snapshot.clone(),
                snapshot_uid: base.manifest.snapshot_uid.clone(),
                attempt: base.manifest.attempt,
            }),
            maps,
            packs,
        };
        let manifest = match &self.data_key {
            Some(key) => manifest.seal(key)?,
            None => manifest,
        };
        let key = self
            .write_manifest(&manifest, base.map(Box::as_ref))
            .await?;
        let extent = match copied.found {
            Found::Base(base) => Extent::Since {
                snapshot: base.manifest.snapshot,
            },
            Found::Whole(reason) => Extent::Whole { reason },
        };
        Ok(BackupOutcome {
            manifest: key,
            system_identifier: copied.control.system_identifier,
            timeline: copied.timeline,
            start_lsn: copied.start_lsn,
            stop_lsn: copied.stop_lsn,
            database_bytes: sizes.database_bytes,
            read_bytes: sizes.read_bytes,
            uploaded_bytes: sizes.uploaded_bytes,
            stored_bytes,
            extent,
            logical: manifest.logical.clone(),
        })
    }

    /// Writes the manifest and reads it back. The attempt's intent must still be there: deleting the Snapshot removes it first.
    async fn write_manifest(
        &self,
        manifest: &Manifest,
        base: Option<&Base>,
    ) -> Result<String, BackupError> {
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
        if manifest::read(store, &key).await? != *manifest {
            return Err(BackupError::ReadBackDiffers { object: key });
        }
        if let Some(data_key) = &self.data_key
            && manifest.clone().unseal(data_key).is_err()
        {
            return Err(BackupError::ReadBackDiffers { object: key });
        }
        if let Some(base) = base {
            self.check_base(base, &key).await?;
        }
        // Now others may refer to this one. With its intent left they will not, which costs them time and space alone.
        if let Err(error) = store.delete(&intent).await {
            tracing::warn!(%error, "the next Snapshot will not refer to this one");
        }
        Ok(key)
    }

    /// The other Snapshot must still be there now that our manifest is. A deletion removes the manifest first and then looks who refers to its
    /// objects: either it has seen ours, or we see that its is gone.
    async fn check_base(&self, base: &Base, key: &str) -> Result<(), BackupError> {
        let store = &self.request.store;
        match store.size(&base.key).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => {
                store.delete(key).await?;
                Err(BackupError::BaseDeleted {
                    attempt: self.id.to_string(),
                    base: base.manifest.snapshot.clone(),
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Everything that the manifest refers to must be in the store, whole, whatever the store said when it took it.
    async fn check_stored(&self, manifest: &Manifest) -> Result<(), BackupError> {
        let store = &self.request.store;
        let objects = manifest.maps.iter().chain(&manifest.packs);
        match base::missing(store, &self.folder, objects).await? {
            Some(object) => Err(BackupError::Lost {
                object,
                label: store.label().to_owned(),
            }),
            None => Ok(()),
        }
    }

    fn cluster(&self, copied: &Copied, surroundings: Surroundings) -> Cluster {
        let control = &copied.control;
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
        Cluster {
            postgres_version: self.request.postgres_version.clone(),
            major: self.request.dialect.to_string(),
            system_identifier: control.system_identifier.to_string(),
            control_version: control.control_version,
            catalog_version: control.catalog_version,
            page_bytes: control.block_bytes,
            segment_pages: control.segment_blocks,
            wal_segment_bytes: control.wal_segment_bytes,
            data_checksums: control.checksum_version != 0,
            libc: surroundings.libc,
            locales: surroundings.locales,
            settings: settings
                .into_iter()
                .map(|(name, number)| (name.to_owned(), number.to_string()))
                .collect(),
            incarnations: copied.incarnations.clone(),
        }
    }
}

/// The packs that the maps refer to: our own, and those of the base.
fn referred(copied: &mut Copied) -> Vec<ObjectRef> {
    let mut packs = std::mem::take(&mut copied.packs);
    if let Found::Base(base) = &copied.found {
        let used = &copied.maps.packs;
        let theirs = base.manifest.packs.iter();
        packs.extend(
            theirs
                .filter(|pack| used.contains(pack.key.as_str()))
                .cloned(),
        );
    }
    packs
}
