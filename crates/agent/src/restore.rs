//! A cluster from a Snapshot, and from the WAL behind it where a target asks for that.

use std::{collections::BTreeMap, sync::Arc};

use kubedb_api::{archiver::Recovery, protocol::RestoreSource, snapshot::SnapshotMethod};
use kubedb_engine::{
    archive::Wal,
    logical::{Address, LoadRequest, load},
    restore::{RestoreRequest, RestoredCluster, fetch},
    store::Store,
    walg::{self, WalgRequest},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    api::OwnApi,
    archive::{WalCommands, WalDesk, WalSource},
    backup::line,
    bootstrap::{BootstrapError, Place},
    find::{Planned, find},
    location,
    postgres::{
        configuration::{Configuration, RecoverySettings, WalSettings},
        initdb::{initdb, sync},
        process::StopMode,
    },
    recover::{Aim, Behind, recover},
    state::InstanceState,
};

/// Everything a restore needs, taken out of the agent so that it can run beside the loop.
pub(crate) struct Restore {
    pub(crate) place: Place,
    pub(crate) state: InstanceState,
    pub(crate) source: RestoreSource,
    pub(crate) api: OwnApi,
    pub(crate) desk: WalDesk,
    pub(crate) commands: WalCommands,
}

impl Restore {
    pub(crate) async fn run(self, cancel: CancellationToken) -> Result<(), BootstrapError> {
        self.place.clear().await?;
        let store = self.open(&self.source.storage).await?;
        if self.source.method == Some(SnapshotMethod::Logical) {
            return self.fill(store, cancel).await;
        }
        // Before anything is written: what cannot be reached is told now.
        let planned = match &self.source.recovery {
            Some(recovery) => Some(self.plan(&store, recovery).await?),
            None => None,
        };
        let restored = self.files(store, planned.as_ref(), cancel).await?;
        match planned {
            Some(planned) => self.recover_by_archive(&restored, planned).await?,
            None => {
                let aim = Aim {
                    planned: restored.stop_lsn,
                    archive: None,
                };
                let configuration = self.configuration(&restored, WalSettings::default());
                recover(&self.place, &configuration, &aim).await?;
            }
        }
        let control = self.place.new_control()?;
        tracing::info!(snapshot = restored.snapshot, stop = %restored.stop_lsn, timeline = control.timeline, "restored");
        self.place.finish(&InstanceState {
            system_identifier: control.system_identifier,
            timeline: control.timeline,
            ..self.state
        })
    }

    /// Writes the files that recovery begins from.
    async fn files(
        &self,
        store: Store,
        planned: Option<&Planned>,
        cancel: CancellationToken,
    ) -> Result<RestoredCluster, BootstrapError> {
        let (progress, _) = watch::channel(Default::default());
        let data_folder = self.place.paths.new_data();
        let postgres_version = self.state.postgres_version.clone();
        let base = planned.map(|planned| &planned.found.plan.base);
        if let Some(Wal::Walg(archive)) = planned.map(|planned| &planned.found.archive) {
            let request = WalgRequest {
                store,
                folder: archive.folder().to_owned(),
                backup: base.map_or_else(String::new, |base| base.snapshot.clone()),
                system_identifier: archive.system_identifier(),
                data_folder,
                dialect: self.place.dialect,
                postgres_version,
            };
            return Ok(walg::fetch(request, progress, cancel).await?);
        }
        let request = RestoreRequest {
            store,
            manifest: base
                .map_or(&self.source.manifest, |base| &base.manifest)
                .clone(),
            data_folder,
            dialect: self.place.dialect,
            postgres_version,
            threads: 2,
        };
        Ok(fetch(request, progress, cancel).await?)
    }

    /// A cluster of its own that is filled with the rows of a logical Snapshot. Whatever goes wrong, all of it is begun anew.
    async fn fill(self, store: Store, cancel: CancellationToken) -> Result<(), BootstrapError> {
        let data = self.place.paths.new_data();
        initdb(&self.place.bin_directory, &data).await?;
        let configuration = Configuration {
            is_filled: true,
            ..self.place.private_configuration()
        };
        let (mut postmaster, session) = self.place.start_private(&configuration).await?;
        drop(session);
        let request = LoadRequest {
            store,
            manifest: self.source.manifest.clone(),
            address: Address {
                folder: self.place.paths.socket().to_owned(),
                port: self.place.socket_port,
                user: "postgres".to_owned(),
            },
            dialect: self.place.dialect,
            postgres_version: self.state.postgres_version.clone(),
            threads: std::thread::available_parallelism()
                .map_or(2, |count| count.get().clamp(2, 4)),
            databases: self.source.databases.clone(),
        };
        let (progress, _) = watch::channel(Default::default());
        let loaded = load(request, progress, cancel).await;
        let mode = if loaded.is_ok() {
            StopMode::Fast
        } else {
            StopMode::Immediate
        };
        let stopped = postmaster.stop(mode).await;
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                // Half of the rows are of no use to anybody. What cannot be removed now is removed by the next try.
                if let Err(error) = self.place.clear().await {
                    tracing::warn!(%error, "what a restore has made stays for now");
                }
                return Err(error.into());
            }
        };
        stopped?;
        sync(&data).await?;
        let control = self.place.new_control()?;
        tracing::info!(
            snapshot = loaded.snapshot,
            databases = loaded.databases,
            tables = loaded.tables,
            rows = loaded.rows,
            "restored"
        );
        self.place.finish(&InstanceState {
            system_identifier: control.system_identifier,
            timeline: control.timeline,
            ..self.state
        })
    }

    async fn open(
        &self,
        storage: &kubedb_api::storage::SnapshotStorage,
    ) -> Result<Store, BootstrapError> {
        location::open(&self.api, &self.source.namespace, storage)
            .await
            .map_err(|error| BootstrapError::OpenStore(line(&error)))
    }

    async fn plan(
        &self,
        snapshots: &Store,
        recovery: &Recovery,
    ) -> Result<Planned, BootstrapError> {
        let archive = self.open(&recovery.storage).await?;
        let planned = find(snapshots, &archive, &self.source, recovery).await?;
        let (plan, target) = (&planned.found.plan, &planned.target);
        tracing::info!(
            snapshot = plan.base.snapshot,
            reason = plan.reason,
            timeline = plan.timeline.0,
            segments = plan.segments,
            latest = %plan.latest,
            "plans to recover to {target}"
        );
        Ok(planned)
    }

    async fn recover_by_archive(
        &self,
        restored: &RestoredCluster,
        planned: Planned,
    ) -> Result<(), BootstrapError> {
        let Planned { target, found } = planned;
        let plan = found.plan;
        let (latest, timeline) = (plan.latest, plan.timeline.0);
        // With a target, PostgreSQL ends where it says, which is somewhere behind the Snapshot.
        let least = match target.goal {
            kubedb_core::recovery::Goal::Latest => plan.at_least,
            _ => restored.stop_lsn,
        };
        let source = Arc::new(WalSource::new(found.archive, plan, &target));
        self.desk.set_source(Some(source.clone()));
        let wal = WalSettings {
            archive_command: None,
            recovery: Some(RecoverySettings {
                restore_command: self.commands.fetch(),
                timeline,
                target: target.settings(),
            }),
        };
        let aim = Aim {
            planned: least,
            archive: Some(Behind {
                source: &source,
                target: &target,
                latest,
                covered: self.covered_time(),
            }),
        };
        recover(&self.place, &self.configuration(restored, wal), &aim).await?;
        tracing::info!(
            segments = source.given(),
            "replayed the archive to {target}"
        );
        Ok(())
    }

    fn covered_time(&self) -> Option<jiff::Timestamp> {
        self.source.recovery.as_ref()?.covered_time
    }

    /// Of a server that only the agent reaches, with settings as high as the WAL needs.
    fn configuration(&self, restored: &RestoredCluster, wal: WalSettings) -> Configuration {
        let needs = restored.settings.iter();
        let at_least: BTreeMap<String, u64> = needs
            .filter_map(|(name, value)| Some((name.clone(), value.parse().ok()?)))
            .collect();
        Configuration {
            is_standby: true,
            at_least,
            wal,
            ..self.place.private_configuration()
        }
    }
}
