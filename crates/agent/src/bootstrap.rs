//! How a data folder comes into being. Each way builds `data.new`, which nobody uses, and ends with one rename.

use std::{
    fs::{self, File},
    io,
    path::PathBuf,
    time::Duration,
};

use kubedb_engine::postgres::{control::ControlFile, dialect::PgDialect};
use tokio::time::Instant;

use crate::{
    paths::{Paths, STATE_FILE},
    postgres::{
        configuration::{self, Configuration, WalSettings},
        initdb::{InitdbError, clear, initdb},
        leftovers::end_leftovers,
        process::{Postmaster, ProcessError, StopMode, last_words},
        tablespaces,
    },
    scripts::{RunScriptsError, Script, run_scripts},
    sql::{Session, SqlError, local},
    state::{self, InstanceState, StateError},
};

/// How long a new cluster's server that only the agent uses may take to come up: it has nothing to recover.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Why no data folder came into being.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// initdb or clearing failed.
    #[error(transparent)]
    Initdb(#[from] InitdbError),
    /// The postmaster could not be run.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The server did not answer as it should.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// A script failed.
    #[error(transparent)]
    Scripts(#[from] RunScriptsError),
    /// The state could not be kept.
    #[error(transparent)]
    State(#[from] StateError),
    /// The server ended while coming up.
    #[error("failed to start PostgreSQL: {last_words}")]
    Start {
        /// Last line of its log that tells.
        last_words: String,
    },
    /// The control file says nothing.
    #[error("failed to read the new cluster's control file")]
    Control(#[source] kubedb_engine::postgres::control::ReadControlError),
    /// The primary could not be copied.
    #[error("failed to copy the primary")]
    Copy(#[from] kubedb_engine::walsender::WalSenderError),
    /// A store could not be opened.
    #[error("failed to open the store: {0}")]
    OpenStore(String),
    /// The Snapshot could not be restored.
    #[error("failed to restore the Snapshot")]
    Restore(#[from] kubedb_engine::restore::RestoreError),
    /// The Snapshot's rows could not be restored.
    #[error(transparent)]
    Load(Box<kubedb_engine::logical::LoadError>),
    /// The base backup could not be restored.
    #[error(transparent)]
    Walg(Box<kubedb_engine::walg::WalgError>),
    /// The target cannot be reached, or nobody knows. Nothing was written.
    #[error(transparent)]
    Find(Box<crate::find::FindError>),
    /// A target that makes no sense.
    #[error("failed to understand the target of the recovery")]
    Target(#[from] kubedb_core::recovery::ReadTargetError),
    /// The source has raised settings behind the Snapshot, which replay needs as high.
    #[error("failed to replay WAL: its source has raised settings that recovery needs as high")]
    Lags,
    /// PostgreSQL ended because a file could not be fetched.
    #[error("failed to recover: {why}")]
    Fetch {
        /// Why not.
        why: String,
        /// Whether it stays so.
        is_damaged: bool,
    },
    /// Everything archived was replayed, and the target did not come.
    #[error(
        "failed to recover to {target}: it did not come in all that is archived, which ends at LSN {reached} (last commit in it at {last_commit}, last segment stored at {latest}). Name an earlier target, or none to get all of it"
    )]
    NotReached {
        /// When the last transaction in it committed, as PostgreSQL prints it.
        last_commit: String,
        /// The target.
        target: String,
        /// Where the WAL ends.
        reached: String,
        /// When the last segment was stored.
        latest: jiff::Timestamp,
    },
    /// The target came before the files of the Snapshot are one whole.
    #[error(
        "failed to recover to {target}: it came before LSN {planned}, where the Snapshot that recovery began from is complete. Begin from an earlier Snapshot, or name a later target"
    )]
    TooEarly {
        /// The target.
        target: String,
        /// Where the Snapshot is complete.
        planned: String,
    },
    /// Replay ended short of what the Snapshot holds.
    #[error("failed to replay the Snapshot's WAL to {planned}: it stopped at {reached}")]
    Replay {
        /// LSN that must be reached.
        planned: String,
        /// LSN that was reached.
        reached: String,
    },
    /// The restored cluster stayed in recovery.
    #[error("failed to promote the restored cluster in time")]
    Promote,
    /// The agent is being stopped.
    #[error("failed to complete the new data folder: the agent was stopped")]
    Stopped,
    /// A file could not be written.
    #[error("failed to {action}")]
    File {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl From<kubedb_engine::walg::WalgError> for BootstrapError {
    fn from(error: kubedb_engine::walg::WalgError) -> Self {
        Self::Walg(Box::new(error))
    }
}

impl From<crate::find::FindError> for BootstrapError {
    fn from(error: crate::find::FindError) -> Self {
        Self::Find(Box::new(error))
    }
}

impl From<kubedb_engine::logical::LoadError> for BootstrapError {
    fn from(error: kubedb_engine::logical::LoadError) -> Self {
        Self::Load(Box::new(error))
    }
}

impl BootstrapError {
    /// Whether another try cannot help: a script that fails once fails again and may have had effects outside, and a
    /// damaged Snapshot stays damaged.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Scripts(_)
            | Self::Target(_)
            | Self::NotReached { .. }
            | Self::TooEarly { .. }
            | Self::Replay { .. } => true,
            Self::Fetch { is_damaged, .. } => *is_damaged,
            // What the user mends in the Secret or at the store is found mended by the next try.
            Self::Restore(error) => !error.is_retryable() && !error.is_mendable(),
            Self::Walg(error) => !error.is_retryable() && !error.is_mendable(),
            Self::Find(error) => error.is_final(),
            Self::Load(error) => error.is_final(),
            _ => false,
        }
    }
}

/// What every way needs.
#[derive(Clone, Debug)]
pub struct Place {
    /// Folders of the instance.
    pub paths: Paths,
    /// Folder of `postgres` and `initdb`.
    pub bin_directory: PathBuf,
    /// Differences of the major.
    pub dialect: PgDialect,
    /// Port that names the Unix socket.
    pub socket_port: u16,
    /// Size of the volume.
    pub volume_bytes: Option<u64>,
    /// Whether the database is known to have no other instance.
    pub is_alone: bool,
}

impl Place {
    /// Configuration of a server that only the agent can reach.
    #[must_use]
    pub fn private_configuration(&self) -> Configuration {
        Configuration {
            dialect: self.dialect,
            listen: None,
            socket_port: self.socket_port,
            accepts_users: false,
            follow: None,
            is_standby: false,
            volume_bytes: self.volume_bytes,
            is_alone: self.is_alone,
            wal: WalSettings::default(),
            at_least: std::collections::BTreeMap::new(),
            is_filled: false,
        }
    }

    /// Starts a server on the folder in the making.
    pub fn launch(&self, configuration: &Configuration) -> Result<Postmaster, BootstrapError> {
        let data = self.paths.new_data();
        configuration::write(&self.paths, &data, configuration, None).map_err(|source| {
            BootstrapError::File {
                action: "write the configuration",
                source,
            }
        })?;
        let overrides = configuration.overrides();
        Ok(Postmaster::start(
            &self.bin_directory,
            &self.paths,
            &data,
            &overrides,
        )?)
    }

    /// Connects to the server on the folder in the making.
    pub async fn connect(&self) -> Result<Session, SqlError> {
        Session::connect(&local(&self.paths, self.socket_port)).await
    }

    /// Starts a server on the folder in the making and waits until it answers.
    pub async fn start_private(
        &self,
        configuration: &Configuration,
    ) -> Result<(Postmaster, Session), BootstrapError> {
        let mut postmaster = self.launch(configuration)?;
        let end = Instant::now() + START_LIMIT;
        loop {
            match self.connect().await {
                Ok(session) => return Ok((postmaster, session)),
                Err(error) if Instant::now() >= end => {
                    postmaster.stop(StopMode::Immediate).await?;
                    return Err(error.into());
                }
                Err(_) if !postmaster.is_running() => {
                    return Err(BootstrapError::Start {
                        last_words: last_words(&self.paths),
                    });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Makes sure that nobody works on the folder in the making, and that nothing is in it. There is no state file yet, so nobody used
    /// what lies there or among the tablespaces.
    pub async fn clear(&self) -> Result<(), BootstrapError> {
        end_leftovers(&self.paths.new_data())
            .await
            .map_err(|source| BootstrapError::File {
                action: "end the processes of an earlier try",
                source,
            })?;
        let new_data = self.paths.new_data();
        tablespaces::allow(&new_data, true).map_err(|source| BootstrapError::File {
            action: "take over the folder of an earlier try",
            source,
        })?;
        clear(&new_data)?;
        Ok(clear(&self.paths.tablespaces())?)
    }

    /// Reads the new cluster's identity.
    pub fn new_control(&self) -> Result<ControlFile, BootstrapError> {
        ControlFile::read(&self.paths.new_data()).map_err(BootstrapError::Control)
    }

    /// Puts the finished folder in place. The state lies within, so that one rename makes the instance: before it there is
    /// nothing, after it everything, wherever the agent is killed.
    pub fn finish(&self, state: &InstanceState) -> Result<(), BootstrapError> {
        let file = |action| move |source| BootstrapError::File { action, source };
        let (data, new_data) = (self.paths.data(), self.paths.new_data());
        state::write(&new_data.join(STATE_FILE), state)?;
        if data.exists() {
            // A folder without a state file was never used by anybody that we know of; it is kept all the same.
            let aside = new_data.with_file_name(format!("data.unclaimed-{}", state.lineage));
            fs::rename(&data, aside).map_err(file("set an unclaimed data folder aside"))?;
        }
        fs::rename(new_data, &data).map_err(file("put the data folder in place"))?;
        if let Some(folder) = data.parent() {
            File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(file("sync the instance's folder"))?;
        }
        state::claim(&self.paths)?;
        Ok(())
    }
}

/// Makes a new cluster and runs the scripts in it.
pub async fn initialise(
    place: &Place,
    scripts: &[Script],
    state: impl FnOnce(&ControlFile) -> InstanceState,
) -> Result<(), BootstrapError> {
    place.clear().await?;
    initdb(&place.bin_directory, &place.paths.new_data()).await?;
    if !scripts.is_empty() {
        let (mut postmaster, session) = place.start_private(&place.private_configuration()).await?;
        drop(session);
        let ran = run_scripts(place, scripts).await;
        postmaster.stop(StopMode::Fast).await?;
        ran?;
    }
    place.finish(&state(&place.new_control()?))
}
