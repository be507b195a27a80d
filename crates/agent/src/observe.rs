//! From what the agent holds to what a decision rests on.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt as _;
use kubedb_api::{Postgres, postgres::StandbyMode, quantity, storage::SnapshotStorage};
use kubedb_core::{
    instance::{DatabaseView, LeaseView, Observation, PrimaryView, Seen, SourceView},
    lsn::Lsn,
};

use crate::agent::Agent;

/// What the Postgres object says, read out once.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) database: Option<Postgres>,
    pub(crate) is_ours: bool,
    pub(crate) primary: Option<PrimaryView>,
    /// Lineage of the database, as its primary reports it.
    pub(crate) lineage: Option<String>,
    pub(crate) is_hot: bool,
    pub(crate) replicas: u32,
    pub(crate) volume_bytes: Option<u64>,
}

/// Name of the Lease's holder.
pub(crate) fn holder(lease: &Lease) -> Option<String> {
    lease.spec.as_ref()?.holder_identity.clone()
}

impl Facts {
    pub(crate) fn of(agent: &Agent, database: Option<&Postgres>) -> Self {
        let holder = agent
            .lease
            .known()
            .and_then(Option::as_ref)
            .and_then(holder)
            .filter(|holder| *holder != agent.config.instance);
        let status = database.and_then(|database| database.status.as_ref());
        let report = holder.and_then(|holder| status?.instances.get(&holder));
        let spec = database.map(|database| &database.spec);
        let request = spec
            .and_then(|spec| spec.storage.as_ref()?.resources.as_ref()?.requests.as_ref())
            .and_then(|requests| requests.get("storage"));
        Self {
            is_ours: database.is_some_and(|database| {
                database.uid().as_deref() == Some(agent.config.database_uid.as_str())
            }),
            primary: report.and_then(|report| {
                Some(PrimaryView {
                    endpoint: report.endpoint.clone()?,
                    ready: report.ready,
                })
            }),
            lineage: report.and_then(|report| report.lineage.clone()),
            is_hot: spec.is_some_and(|spec| spec.standby_mode == Some(StandbyMode::Hot)),
            replicas: spec
                .and_then(|spec| spec.replicas)
                .and_then(|replicas| u32::try_from(replicas).ok())
                .unwrap_or(1),
            volume_bytes: request.and_then(|quantity| quantity::whole(&quantity.0)),
            database: database.cloned(),
        }
    }

    /// Whether the database is known to have no other instance.
    pub(crate) fn is_alone(&self) -> bool {
        self.database.is_some() && self.replicas == 1
    }

    /// Where WAL is archived.
    pub(crate) fn archive_storage(&self) -> Option<&SnapshotStorage> {
        let archiver = self.database.as_ref()?.spec.archiver.as_ref();
        archiver.and_then(|archiver| archiver.storage.as_ref())
    }

    /// How long the archive may be behind the primary; nothing where whole segments are enough.
    pub(crate) fn archive_lag(&self) -> Option<Duration> {
        let archiver = self.database.as_ref()?.spec.archiver.as_ref()?;
        archiver.max_lag()
    }

    /// Where the earliest Snapshot begins, as the operator knows it.
    pub(crate) fn keep_wal_from(&self) -> Option<Lsn> {
        let status = self.database.as_ref()?.status.as_ref()?;
        status.keep_wal_from.as_ref()?.parse().ok()
    }

    fn source(&self) -> SourceView {
        let Some(database) = &self.database else {
            return SourceView::Unresolved;
        };
        let status = database.status.as_ref();
        let resumed = status.and_then(|status| status.resumed.as_ref());
        if resumed.is_some_and(|resumed| resumed.begun) {
            return SourceView::Kept;
        }
        let wants = database
            .spec
            .init
            .as_ref()
            .is_some_and(|init| init.snapshot_source.is_some() || init.postgres_wal.is_some());
        let resolved = status.is_some_and(|status| status.bootstrap.is_some());
        match (wants, resolved) {
            (false, _) => SourceView::Fresh,
            (true, true) => SourceView::Snapshot,
            (true, false) => SourceView::Unresolved,
        }
    }
}

/// What a decision rests on.
pub(crate) fn observation(agent: &Agent, facts: &Facts) -> Observation {
    let lease = match &agent.lease {
        Seen::Unknown => Seen::Unknown,
        Seen::Known(lease) => Seen::Known(LeaseView {
            holder: lease.as_ref().and_then(holder),
        }),
    };
    Observation {
        instance: agent.config.instance.clone(),
        ordinal: agent.config.ordinal,
        database: match &facts.database {
            None => Seen::Unknown,
            Some(_) => Seen::Known(DatabaseView {
                is_ours: facts.is_ours,
                source: facts.source(),
            }),
        },
        lease,
        primary: facts.primary.clone(),
        last_primary: agent
            .state
            .as_ref()
            .and_then(|state| state.last_primary.clone()),
        data: agent.data_state(),
        process: agent.process_state(),
        follows: agent.follows.clone(),
    }
}
