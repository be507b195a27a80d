//! Data folders that come from elsewhere: a copy of the primary, or a Snapshot.

use std::time::Duration;

use kubedb_api::protocol::InstancePhase;
use kubedb_engine::walsender::{WalSender, WalSenderConfig};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    agent::Agent,
    bootstrap::{BootstrapError, Place},
    observe::Facts,
    postgres::configuration::REPLICATION_ROLE,
    restore::Restore,
    serve::ActError,
    sql::standby_slot,
    state::{InstanceState, StoredRole},
};

impl Agent {
    /// Copies the primary, with a slot on it that keeps the WAL this copy will ask for.
    pub(crate) async fn copy(&mut self, facts: &Facts, primary: &str) -> Result<(), ActError> {
        let follow = self.follow_of(primary)?;
        let Some(lineage) = facts.lineage.clone() else {
            return Ok(());
        };
        let password = self
            .api
            .secret_text(&self.replication_secret(), "REPLICATION_PASSWORD")
            .await?;
        let config = WalSenderConfig {
            host: follow.host,
            port: follow.port,
            user: REPLICATION_ROLE.to_owned(),
            password,
            application_name: self.config.instance.clone(),
            connect_timeout: Duration::from_secs(10),
        };
        let state = InstanceState {
            lineage,
            role: StoredRole::Standby,
            last_primary: Some(primary.to_owned()),
            ..self.first_state(facts)
        };
        let (place, slot) = (self.place.clone(), standby_slot(self.config.ordinal));
        let cancel = CancellationToken::new();
        self.begin(InstancePhase::Cloning, &cancel, async move {
            copy(&place, &config, &slot, state).await
        });
        Ok(())
    }

    /// Restores what the operator resolved.
    pub(crate) async fn restore(&mut self, facts: &Facts) -> Result<(), ActError> {
        let source = facts
            .database
            .as_ref()
            .and_then(|database| database.status.as_ref()?.bootstrap.clone());
        let Some(source) = source else { return Ok(()) };
        let restore = Restore {
            place: self.place.clone(),
            state: self.first_state(facts),
            source,
            api: self.api.clone(),
            desk: self.desk.clone(),
            commands: self.commands.clone(),
        };
        let cancel = CancellationToken::new();
        let asked = cancel.clone();
        self.begin(InstancePhase::Restoring, &cancel, async move {
            let desk = restore.desk.clone();
            let restored = restore.run(asked).await;
            desk.set_source(None);
            restored
        });
        Ok(())
    }
}

async fn copy(
    place: &Place,
    config: &WalSenderConfig,
    slot: &str,
    state: InstanceState,
) -> Result<(), BootstrapError> {
    let target = place.paths.new_data();
    place.clear().await?;
    let mut sender = WalSender::connect(config).await?;
    sender.create_physical_slot(slot, place.dialect).await?;
    let (progress, _) = watch::channel(Default::default());
    let copied = sender
        .base_backup(place.dialect, &config.application_name, &target, &progress)
        .await?;
    sender.close().await;
    tracing::info!(start = %copied.start, stop = %copied.stop, "copied the primary");
    let control = place.new_control()?;
    place.finish(&InstanceState {
        system_identifier: control.system_identifier,
        timeline: copied.timeline,
        ..state
    })
}
