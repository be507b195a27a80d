//! Carrying out a decision.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use kubedb_api::{
    Postgres,
    protocol::{InstancePhase, InstanceRole},
};
use kubedb_core::instance::Action;
use kubedb_engine::postgres::{control::ControlFile, reset};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::Agent,
    api::ApiError,
    archive::{Archiver, Destination, Following, Look, Opener},
    backup::line,
    bootstrap::{self, BootstrapError},
    location,
    observe::Facts,
    postgres::{
        configuration::{self, Configuration, Follow, WalSettings},
        process::{Postmaster, StopMode, has_logged, last_words},
        tablespaces,
    },
    scripts::Script,
    sql::{ServerView, Session, local, standby_slot},
    state::{self, InstanceState, StoredRole},
};

/// A server that ran this long was well: its end is the first crash, and the next start comes at once.
const WELL_AFTER: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

/// Why a decision could not be carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ActError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    #[error(transparent)]
    Process(#[from] crate::postgres::process::ProcessError),
    #[error(transparent)]
    Sql(#[from] crate::sql::SqlError),
    #[error(transparent)]
    State(#[from] state::StateError),
    #[error("failed to write the configuration")]
    Configure(#[source] std::io::Error),
    #[error("failed to read the primary's address {0:?}")]
    Address(String),
    #[error("failed to use init.scriptSource: {0}")]
    Scripts(&'static str),
    #[error("failed to keep PostgreSQL running, it ended {count} times: {words}")]
    Crash { count: u32, words: String },
}

impl Agent {
    pub(crate) async fn act(&mut self, action: Action, facts: &Facts) -> Result<(), ActError> {
        self.place.volume_bytes = facts.volume_bytes;
        self.place.is_alone = facts.is_alone();
        match action {
            Action::Wait => Ok(()),
            Action::Keep => self.prepare(facts).await,
            Action::TakeLease => self.take_lease().await,
            Action::Initialise => self.initialise(facts).await,
            Action::Restore => self.restore(facts).await,
            Action::Clone { primary } => self.copy(facts, &primary).await,
            Action::StartPrimary => self.start(facts, None).await,
            Action::StartStandby { primary } => self.start(facts, Some(primary)).await,
            Action::Follow { primary } => self.follow(facts, primary).await,
            Action::Stop => self.stop().await,
        }
    }

    async fn take_lease(&mut self) -> Result<(), ActError> {
        let now = Timestamp::now();
        match self.lease.known().cloned().flatten() {
            Some(lease) => self.api.take_lease(lease, now).await?,
            None => {
                self.api
                    .create_lease(&self.config.database_uid, now)
                    .await?
            }
        };
        self.lease_now();
        Ok(())
    }

    /// State of a database that begins here.
    pub(crate) fn first_state(&self, facts: &Facts) -> InstanceState {
        InstanceState {
            database_uid: self.config.data_uid().to_owned(),
            lineage: uuid::Uuid::new_v4().to_string(),
            system_identifier: 0,
            timeline: 0,
            epoch: self.epoch(),
            role: StoredRole::Primary,
            last_primary: None,
            postgres_version: self.config.postgres_version.clone(),
            archives: facts.archive_storage().is_some(),
        }
    }

    fn epoch(&self) -> i32 {
        self.lease
            .known()
            .and_then(Option::as_ref)
            .and_then(|lease| lease.spec.as_ref()?.lease_transitions)
            .unwrap_or(0)
    }

    async fn initialise(&mut self, facts: &Facts) -> Result<(), ActError> {
        let scripts = match &facts.database {
            Some(database) => self.scripts(database).await?,
            None => Vec::new(),
        };
        let (place, state) = (self.place.clone(), self.first_state(facts));
        let cancel = CancellationToken::new();
        self.begin(InstancePhase::Bootstrapping, &cancel, async move {
            bootstrap::initialise(&place, &scripts, |control| InstanceState {
                system_identifier: control.system_identifier,
                timeline: control.timeline,
                ..state
            })
            .await
        });
        Ok(())
    }

    /// Scripts of `init.scriptSource`, by name.
    async fn scripts(&self, database: &Postgres) -> Result<Vec<Script>, ActError> {
        let Some(source) = database
            .spec
            .init
            .as_ref()
            .and_then(|init| init.script_source.as_ref())
        else {
            return Ok(Vec::new());
        };
        let mut scripts: Vec<Script> = if let Some(map) = &source.config_map {
            let data = self.api.config_map(&map.name).await?;
            data.into_iter()
                .map(|(name, content)| Script { name, content })
                .collect()
        } else if let Some(secret) = &source.secret {
            let name = secret
                .secret_name
                .as_deref()
                .ok_or(ActError::Scripts("secret.secretName is missing"))?;
            let data = self.api.secret(&self.config.namespace, name).await?;
            data.into_iter()
                .map(|(name, content)| Script { name, content })
                .collect()
        } else if let Some(host) = &source.host_path {
            read_folder(&host.path, source.script_path.as_deref())?
        } else {
            return Err(ActError::Scripts(
                "only configMap, secret and hostPath work on one machine",
            ));
        };
        scripts.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(scripts)
    }

    /// Starts PostgreSQL in its role.
    async fn start(&mut self, facts: &Facts, primary: Option<String>) -> Result<(), ActError> {
        let follow = primary
            .as_deref()
            .map(|primary| self.follow_of(primary))
            .transpose()?;
        let overrides = self.configure(facts, follow).await?;
        self.sql = None;
        self.view = None;
        self.prepared = None;
        self.remember_primary(primary.as_deref())?;
        self.follows = primary;
        self.note_reset().await;
        let (bin, paths) = (&self.place.bin_directory, &self.place.paths);
        // An agent that was killed right after it had started one left it before its lock file could be found.
        self.postmaster = match Postmaster::adopt(&paths.data()) {
            Some(postmaster) => Some(postmaster),
            None => Some(Postmaster::start(bin, paths, &paths.data(), &overrides)?),
        };
        self.started = Some(Timestamp::now());
        Ok(())
    }

    /// Once it has started, nothing tells any more whether somebody has run pg_resetwal.
    async fn note_reset(&self) {
        let (data, dialect) = (self.place.paths.data(), self.place.dialect);
        let noted = tokio::task::spawn_blocking(move || reset::note(&data, dialect)).await;
        match noted {
            Ok(Ok(Some(at))) => {
                tracing::info!(%at, "the WAL begins anew; the next Snapshot refers to none from before")
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "cannot tell whether pg_resetwal was run"),
            Err(error) => tracing::warn!(%error, "cannot tell whether pg_resetwal was run"),
        }
    }

    /// Whether WAL is archived: as the database says, or said last.
    pub(crate) fn archives(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.archives)
    }

    /// Remembers whether WAL is archived. It is written before PostgreSQL is started by it.
    pub(crate) async fn remember_archiver(&mut self, facts: &Facts) -> Result<(), ActError> {
        let is_known = facts.database.is_some() && facts.is_ours;
        let archives = facts.archive_storage().is_some();
        if let Some(state) = &mut self.state
            && is_known
            && state.archives != archives
        {
            state.archives = archives;
            state::write(&self.place.paths.state(), state)?;
            if self.postmaster.is_some() {
                tracing::info!(
                    archives,
                    "PostgreSQL starts anew, since it archives otherwise"
                );
                self.stop().await?;
            }
        }
        Ok(())
    }

    /// Archives the WAL of this primary where its database says, from before PostgreSQL starts.
    pub(crate) fn keep_archiver(&self, facts: &Facts) {
        let (Some(storage), Some(state)) = (facts.archive_storage(), &self.state) else {
            // An API that does not answer changes nothing, and neither does another database of the name.
            if facts.database.is_some() && facts.is_ours {
                self.desk.stop_archiver();
            }
            return;
        };
        if state.role != StoredRole::Primary || !facts.is_ours {
            return;
        }
        let known = self.desk.archiver();
        let data = self.place.paths.data();
        let destination = |segment_bytes| Destination {
            storage: storage.clone(),
            namespace: self.config.namespace.clone(),
            database: self.config.database.clone(),
            lineage: state.lineage.clone(),
            system_identifier: state.system_identifier,
            segment_bytes,
            folder: data.join(self.place.dialect.wal_folder()),
        };
        if let Some(known) = known
            && known.goes_to(&destination(known.segment_bytes()))
        {
            if let Some(keep) = facts.keep_wal_from() {
                known.prune(keep);
            }
            return;
        }
        match ControlFile::read(&data) {
            Ok(control) => {
                let to = destination(control.wal_segment_bytes.into());
                let (api, storage) = (self.api.clone(), storage.clone());
                let namespace = self.config.namespace.clone();
                let opener: Opener = Arc::new(move || {
                    let (api, namespace, storage) =
                        (api.clone(), namespace.clone(), storage.clone());
                    Box::pin(async move {
                        location::open(&api, &namespace, &storage)
                            .await
                            .map_err(|error| line(&error))
                    })
                });
                let following = facts.archive_lag().map(|lag| Following {
                    server: local(&self.place.paths, self.config.port),
                    dialect: self.place.dialect,
                    lag,
                });
                let archiver = Archiver::new(to, opener);
                self.desk.set_archiver(Arc::new(archiver), following);
            }
            Err(error) => tracing::warn!(%error, "cannot archive"),
        }
    }

    async fn configure(
        &mut self,
        facts: &Facts,
        follow: Option<Follow>,
    ) -> Result<Vec<String>, ActError> {
        let is_standby = follow.is_some();
        let password = if is_standby {
            // Without the API the file of the last start still holds.
            self.api
                .secret_text(&self.replication_secret(), "REPLICATION_PASSWORD")
                .await
                .ok()
        } else {
            None
        };
        let at_least = if is_standby {
            ControlFile::read(&self.place.paths.data())
                .map(|control| control.needs())
                .unwrap_or_default()
        } else {
            BTreeMap::new()
        };
        let configuration = Configuration {
            wal: WalSettings {
                archive_command: self.archives().then(|| self.commands.push()),
                recovery: None,
            },
            listen: Some((self.config.listen_address.clone(), self.config.port)),
            accepts_users: !is_standby || facts.is_hot,
            is_standby,
            follow,
            at_least,
            ..self.place.private_configuration()
        };
        let paths = &self.place.paths;
        configuration::write(paths, &paths.data(), &configuration, password.as_deref())
            .map_err(ActError::Configure)?;
        Ok(configuration.overrides())
    }

    pub(crate) fn follow_of(&self, primary: &str) -> Result<Follow, ActError> {
        let (host, port) = primary
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)))
            .ok_or_else(|| ActError::Address(primary.to_owned()))?;
        Ok(Follow {
            host,
            port,
            application_name: self.config.instance.clone(),
            slot: standby_slot(self.config.ordinal),
        })
    }

    fn remember_primary(&mut self, primary: Option<&str>) -> Result<(), ActError> {
        let epoch = self.epoch();
        if let (Some(state), Some(primary)) = (&mut self.state, primary)
            && state.last_primary.as_deref() != Some(primary)
        {
            state.last_primary = Some(primary.to_owned());
            state.epoch = epoch;
            state::write(&self.place.paths.state(), state)?;
        }
        Ok(())
    }

    /// Points a running standby at its primary. Up to 12 the primary is read at the start alone; a new start does for all.
    async fn follow(&mut self, facts: &Facts, primary: String) -> Result<(), ActError> {
        let is_adopted = self.follows.is_none();
        let unchanged = self
            .state
            .as_ref()
            .and_then(|state| state.last_primary.as_ref())
            == Some(&primary);
        if is_adopted && unchanged {
            self.follows = Some(primary);
            return Ok(());
        }
        self.stop().await?;
        self.start(facts, Some(primary)).await
    }

    pub(crate) async fn stop(&mut self) -> Result<(), ActError> {
        self.sql = None;
        self.view = None;
        self.prepared = None;
        if let Some(mut postmaster) = self.postmaster.take() {
            postmaster.stop(StopMode::Fast).await?;
        }
        Ok(())
    }

    /// The primary that this standby follows, or followed when it was last started.
    pub(crate) fn followed(&self) -> Option<Follow> {
        let state = self.state.as_ref()?;
        let primary = self.follows.as_ref().or(state.last_primary.as_ref())?;
        let is_standby = state.role == StoredRole::Standby;
        is_standby.then(|| self.follow_of(primary).ok()).flatten()
    }

    pub(crate) fn replication_secret(&self) -> String {
        format!("{}-replication", self.config.database)
    }

    /// Looks whether PostgreSQL runs and answers; a crashed one is started by the next decision.
    pub(crate) async fn look_at_server(&mut self) -> Result<(), ActError> {
        let Some(postmaster) = &mut self.postmaster else {
            return Ok(());
        };
        if !postmaster.is_running() {
            let words = last_words(&self.place.paths);
            tracing::warn!(words, "PostgreSQL ended by itself");
            let was_up = self.view.is_some();
            let was_well = self
                .started
                .is_none_or(|started| Timestamp::now().duration_since(started) > WELL_AFTER);
            self.crashes = if was_well { 1 } else { self.crashes + 1 };
            self.postmaster = None;
            self.sql = None;
            self.view = None;
            self.prepared = None;
            let began = self.started.unwrap_or(self.begun);
            if self.role() == Some(InstanceRole::Standby)
                && has_logged(&self.place.paths, began, tablespaces::REFUSAL)
            {
                let why = "a tablespace was made while this standby came into being";
                return self.forget_copy(why).await;
            }
            if !was_up {
                self.fail(&BootstrapError::Start { last_words: words }, false);
            } else if self.crashes > 1 {
                let count = self.crashes;
                self.fail(&ActError::Crash { count, words }, false);
            }
            return Ok(());
        }
        if self.sql.is_none() {
            self.sql = Session::connect(&local(&self.place.paths, self.config.port))
                .await
                .ok();
        }
        let Some(sql) = &self.sql else { return Ok(()) };
        let before = Timestamp::now();
        match sql.view(self.place.dialect).await {
            Ok(view) => {
                self.note_coverage(before, &view).await;
                self.view = Some(view);
            }
            Err(error) => {
                tracing::warn!(%error, "PostgreSQL did not answer");
                self.sql = None;
            }
        }
        Ok(())
    }
}

impl Agent {
    /// What was committed before now lies before the position that the primary has told since.
    async fn note_coverage(&self, before: Timestamp, view: &ServerView) {
        let (Some(archiver), Some(sql)) = (self.desk.archiver(), &self.sql) else {
            return;
        };
        if view.in_recovery {
            return;
        }
        // In this order: what has committed by the first lies before the second.
        let Ok(transactions) = sql.transactions().await else {
            return;
        };
        if let Ok(lsn) = sql.insert_lsn(self.place.dialect).await {
            let lsn = archiver.settled(lsn);
            let ends = archiver.look(Look {
                at: before,
                lsn,
                transactions,
            });
            if ends && let Err(error) = sql.switch_wal(self.place.dialect).await {
                tracing::debug!(%error, "the segment ends later");
            }
        }
    }
}

fn read_folder(folder: &str, below: Option<&str>) -> Result<Vec<Script>, ActError> {
    let folder = std::path::Path::new(folder).join(below.unwrap_or_default());
    let unreadable =
        |_| ActError::Scripts("the hostPath folder cannot be read by the database's user");
    let mut scripts = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_file() {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            scripts.push(Script {
                name,
                content: std::fs::read(&path).map_err(unreadable)?,
            });
        }
    }
    Ok(scripts)
}
