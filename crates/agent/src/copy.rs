//! Data folders that come from elsewhere: a copy of the primary, or a Snapshot.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use kubedb_api::{protocol::InstancePhase, protocol::RestoreSource};
use kubedb_core::instance::may_promote;
use kubedb_engine::{
    restore::{RestoreRequest, fetch},
    store::Store,
    walsender::{WalSender, WalSenderConfig},
};
use tokio::{process::Command, sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::Agent,
    bootstrap::{BootstrapError, Place},
    location::{location, reads_no_secret},
    observe::Facts,
    postgres::{
        configuration::{Configuration, REPLICATION_ROLE},
        initdb::clear,
        process::StopMode,
    },
    serve::ActError,
    sql::{Session, standby_slot},
    state::{InstanceState, StoredRole},
};

/// How long the replay of a Snapshot's own WAL may stand still before it counts as stuck.
const REPLAY_STANDSTILL: Duration = Duration::from_secs(300);
/// How long a promotion may take.
const PROMOTE_LIMIT: Duration = Duration::from_secs(120);

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
            ..self.first_state()
        };
        let (place, slot) = (self.place.clone(), standby_slot(self.config.ordinal));
        self.begin(InstancePhase::Cloning, async move {
            let result = copy(&place, &config, &slot, state).await;
            if result.is_err() {
                clear(&place.paths.new_data())?;
            }
            result
        });
        Ok(())
    }

    /// Restores the Snapshot that the operator resolved.
    pub(crate) async fn restore(&mut self, facts: &Facts) -> Result<(), ActError> {
        let source = facts
            .database
            .as_ref()
            .and_then(|database| database.status.as_ref()?.bootstrap.clone());
        let Some(source) = source else { return Ok(()) };
        let credentials = match &source.storage.storage_secret_name {
            Some(name) if !reads_no_secret(&source.storage) => {
                self.api.secret(&source.namespace, name).await?
            }
            _ => BTreeMap::new(),
        };
        let (place, state) = (self.place.clone(), self.first_state());
        self.begin(InstancePhase::Restoring, async move {
            let result = restore(&place, &source, &credentials, state).await;
            if result.is_err() {
                // Nothing half-alive stays behind.
                clear(&place.paths.new_data())?;
            }
            result
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
    clear(&target)?;
    // Nobody used what an earlier try left here: there is no state file yet.
    clear(&place.paths.tablespaces())?;
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

async fn restore(
    place: &Place,
    source: &RestoreSource,
    credentials: &BTreeMap<String, Vec<u8>>,
    state: InstanceState,
) -> Result<(), BootstrapError> {
    let target = place.paths.new_data();
    clear(&target)?;
    // Nobody used what an earlier try left here: there is no state file yet.
    clear(&place.paths.tablespaces())?;
    let location = location(&source.storage).map_err(BootstrapError::Location)?;
    let store = Store::open(&location, credentials)?;
    let request = RestoreRequest {
        store,
        manifest: source.manifest.clone(),
        data_folder: target,
        dialect: place.dialect,
        postgres_version: state.postgres_version.clone(),
        threads: 2,
    };
    let (progress, _) = watch::channel(Default::default());
    let restored = fetch(request, progress, CancellationToken::new()).await?;
    let configuration = Configuration {
        is_standby: true,
        at_least: restored
            .settings
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), value.parse().ok()?)))
            .collect(),
        ..place.private_configuration()
    };
    let (mut postmaster, session) = place.start_private(&configuration).await?;
    let promoted = replay_and_promote(place, &session, restored.stop_lsn).await;
    drop(session);
    postmaster.stop(StopMode::Fast).await?;
    promoted?;
    let control = place.new_control()?;
    tracing::info!(snapshot = source.snapshot, stop = %restored.stop_lsn, timeline = control.timeline, "restored");
    place.finish(&InstanceState {
        system_identifier: control.system_identifier,
        timeline: control.timeline,
        ..state
    })
}

/// Waits until everything planned is replayed, and only then promotes: older majors promote short of a target silently.
async fn replay_and_promote(
    place: &Place,
    session: &Session,
    planned: kubedb_core::lsn::Lsn,
) -> Result<(), BootstrapError> {
    let mut last = None;
    let mut moved = Instant::now();
    loop {
        let view = session.view(place.dialect).await?;
        if may_promote(view.lsn, planned) {
            break;
        }
        if view.lsn != last {
            last = view.lsn;
            moved = Instant::now();
        }
        if moved.elapsed() > REPLAY_STANDSTILL {
            return Err(BootstrapError::Replay {
                planned: planned.to_string(),
                reached: last.map_or_else(|| "nothing".to_owned(), |lsn| lsn.to_string()),
            });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let status = Command::new(place.bin_directory.join("pg_ctl"))
        .args(["promote", "-s", "-D"])
        .arg(place.paths.new_data())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .map_err(|source| BootstrapError::File {
            action: "run pg_ctl",
            source,
        })?;
    tracing::debug!(%status, "asked for promotion");
    let end = Instant::now() + PROMOTE_LIMIT;
    while Instant::now() < end {
        if !session.view(place.dialect).await?.in_recovery {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(BootstrapError::Promote)
}
