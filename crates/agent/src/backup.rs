//! One task of this instance: a Snapshot taken or verified, or a Snapshot's data deleted.

use std::{pin::Pin, time::Duration};

use jiff::Timestamp;
use kubedb_api::{
    protocol::{
        LogicalResult, Progress, SnapshotResult, SnapshotTask, TaskAction, TaskPhase, TaskStatus,
        VerificationResult,
    },
    snapshot::SnapshotMethod,
};
use kubedb_core::{
    effort::{Effort, Limits},
    lsn::Lsn,
};
use kubedb_engine::{
    backup::{
        BackupError, BackupOutcome, BackupProgress, BackupRequest, Extent, LogicalRequest, take,
        take_logical,
    },
    logical::program_folders,
    repository::delete::delete_snapshot,
    store::Store,
    walsender::{WalSender, WalSenderConfig, WalSenderError},
};
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::Agent,
    api::OwnApi,
    bootstrap::Place,
    location::{self, OpenStoreError},
    postgres::configuration::{Follow, REPLICATION_ROLE},
    sql::local,
};

/// A primary on the same network answers within this, or it is not well.
const PRIMARY_LIMIT: Duration = Duration::from_secs(10);

/// Everything the job needs, taken out of the agent so that it can run beside the loop.
pub(crate) struct Job {
    name: String,
    pub(crate) task: SnapshotTask,
    pub(crate) cancel: CancellationToken,
    api: OwnApi,
    pub(crate) place: Place,
    namespace: String,
    database: String,
    lineage: String,
    pub(crate) postgres_version: String,
    socket_port: u16,
    /// The primary that this standby follows, and the Secret of the role that may ask it.
    primary: Option<(Follow, String)>,
}

/// Why a task ended without success, and whether another attempt can help.
pub(crate) struct Refusal {
    pub(crate) reason: String,
    pub(crate) is_retryable: bool,
}

/// What a task came to.
enum Done {
    Taken(Box<SnapshotResult>),
    Deleted,
    Verified(VerificationResult),
}

impl Refusal {
    pub(crate) fn of(error: &(dyn std::error::Error + 'static), is_retryable: bool) -> Self {
        Self {
            reason: line(error),
            is_retryable,
        }
    }
}

/// An error and its causes in one line.
#[must_use]
pub fn line(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        // Libraries like to repeat their cause in their own words.
        if !line.contains(&text) {
            line += &format!(": {text}");
        }
        cause = next.source();
    }
    line
}

impl Job {
    pub(crate) fn new(
        agent: &Agent,
        name: &str,
        task: &SnapshotTask,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            name: name.to_owned(),
            task: task.clone(),
            cancel,
            api: agent.api.clone(),
            place: agent.place.clone(),
            namespace: agent.config.namespace.clone(),
            database: agent.config.database.clone(),
            lineage: agent
                .state
                .as_ref()
                .map(|state| state.lineage.clone())
                .unwrap_or_default(),
            postgres_version: agent.config.postgres_version.clone(),
            socket_port: agent.config.port,
            primary: agent
                .followed()
                .map(|follow| (follow, agent.replication_secret())),
        }
    }

    /// Runs to the end, whatever it is; the last status says which.
    pub(crate) async fn run(self, status: watch::Sender<TaskStatus>, changed: &Notify) {
        tracing::info!(snapshot = self.name, attempt = self.task.attempt, action = ?self.task.action, "begins");
        let result = match self.task.action {
            TaskAction::Backup => {
                let taken = self.back_up(&status, changed).await;
                taken.map(|result| Done::Taken(Box::new(result)))
            }
            TaskAction::Delete => self.delete().await.map(|()| Done::Deleted),
            TaskAction::Verify => self.verify(&status, changed).await.map(Done::Verified),
        };
        status.send_modify(|status| {
            status.heartbeat_time = Timestamp::now();
            match result {
                Ok(done) => {
                    status.phase = TaskPhase::Succeeded;
                    match done {
                        Done::Taken(result) => status.result = Some(*result),
                        Done::Verified(result) => {
                            tracing::info!(
                                snapshot = self.name,
                                sound = result.sound,
                                found = result.found,
                                "verified"
                            );
                            status.verification = Some(result);
                        }
                        Done::Deleted => {}
                    }
                }
                Err(refusal) => {
                    tracing::warn!(snapshot = self.name, reason = refusal.reason, "failed");
                    status.phase = TaskPhase::Failed;
                    status.reason = Some(refusal.reason);
                    status.retryable = Some(refusal.is_retryable);
                }
            }
        });
        changed.notify_one();
    }

    fn result(&self, outcome: BackupOutcome) -> SnapshotResult {
        let (base, whole_reason) = match outcome.extent {
            Extent::Since { snapshot } => (Some(snapshot), None),
            Extent::Whole { reason } => (None, Some(reason)),
        };
        SnapshotResult {
            manifest: outcome.manifest,
            lineage: self.lineage.clone(),
            system_identifier: outcome.system_identifier.to_string(),
            postgres_version: self.postgres_version.clone(),
            timeline: outcome.timeline,
            start_lsn: outcome.start_lsn.to_string(),
            stop_lsn: outcome.stop_lsn.to_string(),
            database_bytes: bytes(outcome.database_bytes),
            read_bytes: bytes(outcome.read_bytes),
            uploaded_bytes: bytes(outcome.uploaded_bytes),
            stored_bytes: bytes(outcome.stored_bytes),
            base,
            whole_reason,
            logical: outcome.logical.map(|held| {
                Box::new(LogicalResult {
                    databases: bytes(held.databases),
                    tables: bytes(held.tables),
                    rows: bytes(held.rows),
                    one_point: held.is_one_point,
                    pg_dump: held.pg_dump,
                })
            }),
        }
    }

    pub(crate) async fn store(&self) -> Result<Store, Refusal> {
        let open = location::open(&self.api, &self.namespace, &self.task.storage);
        // It may wait for a pod that serves it.
        let opened = self.cancel.run_until_cancelled(open).await;
        let opened = opened.ok_or_else(|| Refusal {
            reason: "cancelled".to_owned(),
            is_retryable: true,
        })?;
        // A Secret may be there in a moment; what is wrong with the storage stays wrong.
        opened.map_err(|error| {
            let is_retryable = matches!(
                error,
                OpenStoreError::ReadSecret(_) | OpenStoreError::Serve { .. }
            );
            Refusal::of(&error, is_retryable)
        })
    }

    async fn delete(&self) -> Result<(), Refusal> {
        let store = self.store().await?;
        let deleted = delete_snapshot(
            &store,
            &self.namespace,
            &self.database,
            &self.name,
            &self.task.snapshot_uid,
        )
        .await
        .map_err(|error| Refusal::of(&error, error.is_retryable()))?;
        tracing::info!(
            snapshot = self.name,
            objects = deleted.objects,
            bytes = deleted.bytes,
            "deleted"
        );
        Ok(())
    }

    fn end(
        &self,
        outcome: Result<BackupOutcome, BackupError>,
        seen: BackupProgress,
        status: &watch::Sender<TaskStatus>,
    ) -> Result<SnapshotResult, Refusal> {
        status.send_modify(|status| status.progress = Some(progress(seen)));
        match outcome {
            Ok(outcome) => Ok(self.result(outcome)),
            Err(error) => Err(Refusal::of(&error, error.is_retryable())),
        }
    }

    /// What a Snapshot of a standby must hold. What the operator knows of the primary is a report old; the primary itself knows what it has
    /// acknowledged until now.
    async fn floor(&self, reported: Option<Lsn>) -> Result<Option<Lsn>, Refusal> {
        let Some((follow, secret)) = &self.primary else {
            return Ok(reported);
        };
        match self.ask_primary(follow, secret).await {
            Ok(position) => Ok(reported.max(Some(position))),
            Err(mut refusal) if self.task.attempt <= 1 => {
                refusal.reason = format!(
                    "failed to ask the primary for its position: {}",
                    refusal.reason
                );
                Err(refusal)
            }
            // The primary comes first after a failed attempt, so this one is here because there is no healthy primary.
            Err(refusal) => {
                let reason = refusal.reason;
                tracing::warn!(reason, "goes on from what the primary last reported");
                Ok(reported)
            }
        }
    }

    async fn ask_primary(&self, follow: &Follow, secret: &str) -> Result<Lsn, Refusal> {
        let password = self.api.secret_text(secret, "REPLICATION_PASSWORD").await;
        let config = WalSenderConfig {
            host: follow.host.clone(),
            port: follow.port,
            user: REPLICATION_ROLE.to_owned(),
            password: password.map_err(|error| Refusal::of(&error, true))?,
            application_name: "kubedb snapshot".to_owned(),
            connect_timeout: PRIMARY_LIMIT,
        };
        let asked = timeout(PRIMARY_LIMIT, async {
            let mut sender = WalSender::connect(&config).await?;
            let identity = sender.identify_system().await?;
            sender.close().await;
            Ok::<_, WalSenderError>(identity.position)
        });
        match asked.await {
            Ok(position) => position.map_err(|error| Refusal::of(&error, true)),
            Err(_) => Err(Refusal {
                reason: format!("no answer within {} s", PRIMARY_LIMIT.as_secs()),
                is_retryable: true,
            }),
        }
    }

    /// How much of the machine the backup takes. What counts as a processor is what this process may use.
    fn effort(&self) -> Effort {
        let told = self.task.limits.unwrap_or_default();
        let limits = Limits {
            cpu_millis: told.cpu_millis,
            memory_bytes: told.memory_bytes,
            bytes_per_second: told.bytes_per_second,
        };
        let processors = std::thread::available_parallelism();
        Effort::within(&limits, processors.map_or(1, usize::from))
    }

    async fn back_up(
        &self,
        status: &watch::Sender<TaskStatus>,
        changed: &Notify,
    ) -> Result<SnapshotResult, Refusal> {
        let minimum_lsn = match &self.task.minimum_lsn {
            None => None,
            Some(text) => Some(text.parse().map_err(|error| Refusal::of(&error, false))?),
        };
        let minimum_lsn = self.floor(minimum_lsn).await?;
        let mut connection = local(&self.place.paths, self.socket_port);
        connection.application_name("kubedb snapshot");
        let request = BackupRequest {
            store: self.store().await?,
            namespace: self.namespace.clone(),
            database: self.database.clone(),
            snapshot: self.name.clone(),
            snapshot_uid: self.task.snapshot_uid.clone(),
            attempt: self.task.attempt,
            lineage: self.lineage.clone(),
            data_folder: self.place.paths.data(),
            connection,
            dialect: self.place.dialect,
            postgres_version: self.postgres_version.clone(),
            minimum_lsn,
            effort: self.effort(),
            started: Timestamp::now(),
        };
        let (sender, mut receiver) = watch::channel(BackupProgress::default());
        let cancel = self.cancel.clone();
        let work: Pin<Box<dyn Future<Output = _> + Send + '_>> = match self.task.method {
            Some(SnapshotMethod::Logical) => {
                let path = std::env::var_os("PATH");
                let request = LogicalRequest {
                    backup: request,
                    programs: program_folders(&self.place.bin_directory, path.as_deref()),
                };
                Box::pin(take_logical(request, sender, cancel))
            }
            Some(SnapshotMethod::Physical) | None => Box::pin(take(request, sender, cancel)),
        };
        tokio::pin!(work);
        loop {
            tokio::select! {
                outcome = &mut work => return self.end(outcome, *receiver.borrow(), status),
                Ok(()) = receiver.changed() => {
                    let seen = *receiver.borrow_and_update();
                    status.send_modify(|status| status.progress = Some(progress(seen)));
                    changed.notify_one();
                    // The reporter sends once a second at most; waking it more often only costs.
                    tokio::select! {
                        outcome = &mut work => return self.end(outcome, *receiver.borrow(), status),
                        () = tokio::time::sleep(std::time::Duration::from_millis(500)) => {}
                    }
                }
            }
        }
    }
}

pub(crate) fn bytes(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(crate) fn progress(seen: BackupProgress) -> Progress {
    Progress {
        done_bytes: bytes(seen.done_bytes),
        total_bytes: bytes(seen.total_bytes),
        uploaded_bytes: bytes(seen.uploaded_bytes),
    }
}
