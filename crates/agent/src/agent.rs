//! The loop of an agent.

use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kubedb_api::{
    Postgres,
    agent_config::AgentConfig,
    lease,
    monitor::MetricsStatus,
    protocol::{InstancePhase, InstanceRole},
};
use kubedb_core::instance::{self, Action, DataState, ProcessState, Role, Seen};
use kubedb_engine::postgres::dialect::{ChooseDialectError, PgDialect};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{ApiError, OwnApi},
    archive::{WalCommands, WalDesk, listen},
    bootstrap::{BootstrapError, Place},
    health::Health,
    label::Label,
    metrics::{Listening, Metrics},
    observe::{self, Facts},
    paths::Paths,
    postgres::process::{Postmaster, StopMode},
    report::{Reporter, status_of},
    sql::{ServerView, Session},
    state::{self, InstanceState, StoredRole},
};

/// Look again this soon while something is about to change.
const SOON: Duration = Duration::from_millis(100);
/// Look again this late when nothing is.
const LATE: Duration = Duration::from_secs(2);
/// The Lease is looked at, and renewed by its holder, at a third of its duration.
const LEASE_EVERY: Duration = Duration::from_secs(10);
/// How soon after the API had no answer.
const LEASE_AGAIN: Duration = Duration::from_secs(1);
/// Longest pause between tries of something that failed.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// How long a job that is not wanted any more may take to end and to clear up.
const ABANDON_LIMIT: Duration = Duration::from_secs(15);

/// Why an agent cannot run at all.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// No dialect.
    #[error(transparent)]
    Dialect(#[from] ChooseDialectError),
    /// No kubeconfig.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Nobody could ask how the agent is, or for WAL.
    #[error("failed to listen for questions")]
    Listen(#[from] std::io::Error),
    /// PostgreSQL could not be stopped at the end.
    #[error(transparent)]
    Process(#[from] crate::postgres::process::ProcessError),
}

/// Something that failed, and when to try again.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) reason: String,
    pub(crate) is_final: bool,
    count: u32,
    retry_at: Instant,
}

/// A job that takes long, while the loop goes on.
pub(crate) struct Job {
    pub(crate) phase: InstancePhase,
    handle: JoinHandle<Result<(), BootstrapError>>,
    cancel: CancellationToken,
}

/// One instance's agent.
pub(crate) struct Agent {
    pub(crate) config: AgentConfig,
    pub(crate) place: Place,
    pub(crate) api: OwnApi,
    pub(crate) session_id: String,
    pub(crate) state: Option<InstanceState>,
    pub(crate) postmaster: Option<Postmaster>,
    pub(crate) started: Option<Timestamp>,
    /// When this agent began.
    pub(crate) begun: Timestamp,
    pub(crate) sql: Option<Session>,
    pub(crate) view: Option<ServerView>,
    pub(crate) lease: Seen<Option<Lease>>,
    lease_due: Instant,
    pub(crate) follows: Option<String>,
    pub(crate) job: Option<Job>,
    pub(crate) failure: Option<Failure>,
    pub(crate) prepared: Option<crate::prepare::Prepared>,
    /// Times that PostgreSQL ended by itself, each soon after its start.
    pub(crate) crashes: u32,
    /// Whether a Snapshot is being taken.
    pub(crate) backs_up: bool,
    /// What keeps a standby from following.
    pub(crate) trouble: Option<String>,
    pub(crate) reason: String,
    /// Who answers PostgreSQL's commands about WAL.
    pub(crate) desk: WalDesk,
    pub(crate) commands: WalCommands,
    /// Where it answers with metrics, while that is asked for.
    pub(crate) metrics: Option<MetricsStatus>,
}

/// Runs an instance until `shutdown`; PostgreSQL is stopped then.
pub async fn run(config: AgentConfig, shutdown: CancellationToken) -> Result<(), AgentError> {
    let dialect = PgDialect::of(&config.postgres_version)?;
    let paths = Paths::new(&config.directory, &config.socket_directory);
    // With a damaged state nothing is done to the data: that is told instead, for as long as it takes.
    let (state, damage) = match state::claim(&paths) {
        Ok(state) => (state, None),
        Err(error) => (None, Some(error)),
    };
    let postmaster = Postmaster::adopt(&paths.data());
    if let Some(postmaster) = &postmaster {
        tracing::info!(pid = postmaster.pid(), "adopted a running PostgreSQL");
    }
    let desk = WalDesk::default();
    let commands = WalCommands::install(&paths)?;
    let commands_served = listen(&paths.wal_socket(), desk.clone())?;
    let api = OwnApi::open(&config).await?;
    let (objects, latest) = watch::channel(None);
    let watcher = tokio::spawn(watch_own(api.clone(), config.clone(), objects));
    let mut agent = Agent {
        place: Place {
            paths,
            bin_directory: config.bin_directory.clone(),
            dialect,
            socket_port: config.port,
            volume_bytes: None,
            is_alone: false,
        },
        api,
        session_id: uuid::Uuid::new_v4().to_string(),
        state,
        postmaster,
        started: None,
        begun: Timestamp::now(),
        sql: None,
        view: None,
        lease: Seen::Unknown,
        lease_due: Instant::now(),
        follows: None,
        job: None,
        failure: None,
        prepared: None,
        crashes: 0,
        backs_up: false,
        trouble: None,
        reason: String::new(),
        desk,
        commands,
        metrics: None,
        config,
    };
    // What an agent that was killed had made to be looked at.
    if let Err(error) = crate::verify::clear(&agent.place).await {
        tracing::warn!(%error, "what a verification left stays for now");
    }
    if let Some(error) = damage {
        agent.fail(&error, true);
    } else if agent.state.is_none() {
        agent.recall_failure();
    }
    let result = agent.serve(latest, &shutdown).await;
    watcher.abort();
    commands_served.abort();
    result
}

impl Agent {
    async fn serve(
        &mut self,
        mut latest: watch::Receiver<Option<Postgres>>,
        shutdown: &CancellationToken,
    ) -> Result<(), AgentError> {
        let mut reporter = Reporter::new();
        let mut tasks = crate::tasks::Tasks::new(self.session_id.clone());
        let mut label = Label::new(&self.config);
        let metrics = Metrics::new(&self.config, self.begun, &self.place, &self.desk);
        let health = Health::start(self.config.health_port, metrics.router()).await?;
        let mut listening = Listening::new(metrics.clone());
        loop {
            let database = latest.borrow_and_update().clone();
            let next = self.step(database.as_ref()).await;
            if let Some(database) = &database {
                tasks.follow(self, database);
            }
            self.backs_up = tasks.backs_up();
            listening.follow(database.as_ref()).await;
            self.metrics = listening.status();
            let status = status_of(self, &tasks);
            reporter.send(self, status.clone()).await;
            metrics.note(status, database.as_ref());
            label.keep(self, database.as_ref()).await;
            health.beat(self.obstacle());
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = sleep_until(next) => {}
                () = tasks.changed() => {}
                changed = latest.changed() => if changed.is_err() { break },
            }
        }
        tasks.cancel().await;
        self.abandon_job().await;
        self.sql = None;
        if let Some(mut postmaster) = self.postmaster.take() {
            tracing::info!("stops PostgreSQL");
            postmaster.stop(StopMode::Fast).await?;
        }
        Ok(())
    }

    /// One round; returns when to look again.
    async fn step(&mut self, database: Option<&Postgres>) -> Instant {
        self.look_at_lease().await;
        if let Err(error) = self.look_at_server().await {
            self.fail(&error, false);
        }
        self.end_job().await;
        if self.job.is_some() {
            return Instant::now() + SOON;
        }
        if let Some(failure) = &self.failure
            && (failure.is_final || Instant::now() < failure.retry_at)
        {
            return if failure.is_final {
                Instant::now() + LATE
            } else {
                failure.retry_at
            };
        }
        let facts = Facts::of(self, database);
        if let Err(error) = self.remember_archiver(&facts).await {
            self.fail(&error, false);
        }
        self.keep_archiver(&facts);
        let decision = instance::decide(&observe::observation(self, &facts));
        if self.reason != decision.reason {
            tracing::info!(action = ?decision.action, reason = decision.reason, "decides");
            self.reason.clone_from(&decision.reason);
        }
        let is_settled = matches!(decision.action, Action::Keep);
        if let Err(error) = self.act(decision.action, &facts).await {
            self.fail(&error, false);
        } else if self.failure.is_some() && is_settled {
            self.failure = None;
        }
        Instant::now()
            + if is_settled && self.prepared.is_some() {
                LATE
            } else {
                SOON
            }
    }

    /// Notes a failure; tries come further and further apart.
    pub(crate) fn fail(&mut self, error: &(dyn std::error::Error + 'static), is_final: bool) {
        let mut reason = error.to_string();
        let mut cause = error.source();
        while let Some(next) = cause {
            reason += &format!(": {next}");
            cause = next.source();
        }
        let earlier = self.failure.as_ref().map_or(0, |failure| failure.count);
        let count = earlier.max(self.crashes.saturating_sub(1)) + 1;
        let pause = Duration::from_secs(1 << count.min(6)).min(RETRY_MAX);
        tracing::warn!(reason, count, ?pause, "failed");
        self.failure = Some(Failure {
            reason,
            is_final,
            count,
            retry_at: Instant::now() + pause,
        });
    }

    /// What an earlier agent could not make, this one does not try again.
    fn recall_failure(&mut self) {
        let uid = self.config.data_uid();
        if let Some(failure) = state::read_failure(&self.place.paths, uid) {
            tracing::warn!(reason = failure.reason, "failed for good before");
            self.failure = Some(Failure {
                reason: failure.reason,
                is_final: true,
                count: 1,
                retry_at: Instant::now(),
            });
        }
    }

    /// Keeps a final failure for the next agent.
    fn keep_failure(&self) {
        let Some(failure) = self.failure.as_ref().filter(|failure| failure.is_final) else {
            return;
        };
        let kept = state::FinalFailure {
            database_uid: self.config.data_uid().to_owned(),
            reason: failure.reason.clone(),
        };
        if let Err(error) = state::write_failure(&self.place.paths, &kept) {
            tracing::warn!(%error, "the next agent will try again");
        }
    }

    /// Begins a job that makes a data folder. One that ends without it leaves nothing behind, neither files nor processes.
    pub(crate) fn begin(
        &mut self,
        phase: InstancePhase,
        cancel: &CancellationToken,
        job: impl Future<Output = Result<(), BootstrapError>> + Send + 'static,
    ) {
        let (place, asked) = (self.place.clone(), cancel.clone());
        let job = async move {
            let made = tokio::select! {
                biased;
                made = job => made,
                () = stopped(asked) => Err(BootstrapError::Stopped),
            };
            if made.is_err() {
                place.clear().await?;
            }
            made
        };
        self.job = Some(Job {
            phase,
            handle: tokio::spawn(job),
            cancel: cancel.clone(),
        });
    }

    /// Ends a job that the agent cannot wait for.
    async fn abandon_job(&mut self) {
        let Some(mut job) = self.job.take() else {
            return;
        };
        job.cancel.cancel();
        if tokio::time::timeout(ABANDON_LIMIT, &mut job.handle)
            .await
            .is_err()
        {
            tracing::warn!("what was being made does not end; the next start clears it");
            job.handle.abort();
        }
    }

    async fn end_job(&mut self) {
        if !self
            .job
            .as_ref()
            .is_some_and(|job| job.handle.is_finished())
        {
            return;
        }
        let Some(job) = self.job.take() else { return };
        match job.handle.await {
            Ok(Ok(())) => match state::claim(&self.place.paths) {
                Ok(state) => {
                    self.state = state;
                    self.failure = None;
                }
                Err(error) => self.fail(&error, true),
            },
            Ok(Err(error)) => {
                let is_final = error.is_final();
                self.fail(&error, is_final);
                self.keep_failure();
            }
            Err(error) => self.fail(&error, false),
        }
    }

    async fn look_at_lease(&mut self) {
        if Instant::now() < self.lease_due {
            return;
        }
        let seen = self.renew_lease().await;
        let is_held = matches!(&seen, Ok(Some(lease)) if self.holds(lease));
        let is_settled = is_held || self.prepared.is_some();
        let pause = if is_settled { LEASE_EVERY } else { 3 * SOON };
        match seen {
            Ok(lease) => {
                self.lease = Seen::Known(lease);
                self.lease_due = Instant::now() + pause;
            }
            Err(error) => {
                tracing::warn!(%error, "the Lease is unknown");
                self.lease = Seen::Unknown;
                self.lease_due = Instant::now() + LEASE_AGAIN;
                if let Err(error) = self.api.reopen().await {
                    tracing::warn!(%error, "the kubeconfig cannot be read");
                }
            }
        }
    }

    /// The Lease, renewed if this instance holds it. What was known of it is enough for that, unless somebody has changed it since.
    async fn renew_lease(&self) -> Result<Option<Lease>, ApiError> {
        if let Some(lease) = self.own_lease() {
            match self.api.renew_lease(lease.clone(), Timestamp::now()).await {
                Err(error) if error.is_out_of_date() => {}
                renewed => return renewed.map(Some),
            }
        }
        match self.api.lease().await? {
            Some(lease) if self.holds(&lease) => {
                let renewed = self.api.renew_lease(lease, Timestamp::now()).await;
                renewed.map(Some)
            }
            other => Ok(other),
        }
    }

    pub(crate) fn holds(&self, lease: &Lease) -> bool {
        observe::holder(lease).as_deref() == Some(self.config.instance.as_str())
    }

    /// The Lease, if this instance holds it and has renewed it when it was last due.
    fn own_lease(&self) -> Option<&Lease> {
        let lease = self.lease.known()?.as_ref();
        lease.filter(|lease| self.holds(lease))
    }

    /// Whether the Lease says that this instance lives. One that an earlier database of the name has left, or that is not marked as ours, says it to nobody.
    pub(crate) fn lives_by_lease(&self) -> bool {
        self.own_lease().is_some_and(|held| {
            let uid = lease::database_of(held).map(|(_, uid)| uid);
            lease::is_selected(held) && uid == Some(self.config.database_uid.as_str())
        })
    }

    /// Looks again at the Lease in the next round.
    pub(crate) fn lease_now(&mut self) {
        self.lease_due = Instant::now();
    }

    pub(crate) fn data_state(&self) -> DataState {
        match self.state.as_ref().map(|state| state.role) {
            None => DataState::Empty,
            Some(StoredRole::Primary) => DataState::Initialised(Role::Primary),
            Some(StoredRole::Standby) => DataState::Initialised(Role::Standby),
        }
    }

    pub(crate) fn process_state(&self) -> ProcessState {
        match (&self.postmaster, &self.view) {
            (None, _) => ProcessState::Down,
            (Some(_), None) => ProcessState::Starting,
            (Some(_), Some(view)) => ProcessState::Up {
                in_recovery: view.in_recovery,
            },
        }
    }

    /// Whether PostgreSQL serves in its role.
    pub(crate) fn is_ready(&self) -> bool {
        let is_primary = self.role() == Some(InstanceRole::Primary);
        let in_role = self.view.as_ref();
        in_role.is_some_and(|view| view.in_recovery != is_primary) && self.prepared.is_some()
    }

    /// What keeps it from that.
    fn obstacle(&self) -> Option<String> {
        let failure = self.failure.as_ref().map(|failure| failure.reason.clone());
        (!self.is_ready()).then(|| failure.unwrap_or_else(|| self.reason.clone()))
    }

    pub(crate) fn role(&self) -> Option<InstanceRole> {
        self.state.as_ref().map(|state| match state.role {
            StoredRole::Primary => InstanceRole::Primary,
            StoredRole::Standby => InstanceRole::Standby,
        })
    }
}

/// Keeps the own Postgres object up to date; survives a server that comes back at another port.
async fn watch_own(api: OwnApi, config: AgentConfig, objects: watch::Sender<Option<Postgres>>) {
    loop {
        let stream = kube::runtime::watcher::watch_object(api.postgreses(), &config.database);
        let mut stream = std::pin::pin!(stream);
        while let Some(item) = stream.next().await {
            match item {
                // "Not there" is asked again by name: a watch that begins anew may say so wrongly.
                Ok(None) => {
                    if let Ok(object) = api.postgres().await {
                        objects.send_replace(Some(object.unwrap_or_else(gone)));
                    }
                }
                Ok(Some(object)) => {
                    objects.send_replace(Some(object));
                }
                Err(error) => {
                    tracing::warn!(%error, "the watch of the own Postgres ended");
                    break;
                }
            }
        }
        tokio::time::sleep(LATE / 2).await;
        if let Err(error) = api.reopen().await {
            tracing::warn!(%error, "the kubeconfig cannot be read");
        }
    }
}

/// Waits until a job was cancelled and had the time to end by itself.
async fn stopped(cancel: CancellationToken) {
    cancel.cancelled().await;
    tokio::time::sleep(ABANDON_LIMIT / 3).await;
}

/// Stands for an object that the API says is not there: its UID is nobody's.
fn gone() -> Postgres {
    Postgres::new("gone", kubedb_api::PostgresSpec::default())
}
