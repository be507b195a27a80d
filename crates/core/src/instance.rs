//! What one instance does next, from what its agent sees.
//!
//! The agent observes, this decides, the agent acts. What could not be found out is `Unknown`, and never leads to a
//! promotion, a deletion or an initialisation.

use crate::lsn::Lsn;

/// What the agent could find out of something outside its machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen<T> {
    /// It was asked for and not answered.
    Unknown,
    /// It was answered.
    Known(T),
}

impl<T> Seen<T> {
    /// The value, where there is one.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Unknown => None,
            Self::Known(value) => Some(value),
        }
    }
}

/// The role an instance has, or had when it was last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Accepts writes.
    Primary,
    /// Follows the primary.
    Standby,
}

/// What lies in the data folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataState {
    /// Nothing that anybody ever used.
    Empty,
    /// A cluster, with the role it last had.
    Initialised(Role),
}

/// The PostgreSQL process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessState {
    /// None runs.
    Down,
    /// It runs and does not answer yet.
    Starting,
    /// It answers.
    Up {
        /// Whether it is in recovery, as a standby is.
        in_recovery: bool,
    },
}

/// The database as the API has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseView {
    /// Whether the object still is the one this instance was made for, and not being deleted.
    pub is_ours: bool,
    /// What the database starts from.
    pub source: SourceView,
}

/// What the database starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceView {
    /// initdb.
    Fresh,
    /// A Snapshot that the operator has not resolved yet.
    Unresolved,
    /// A Snapshot.
    Snapshot,
    /// The data of a paused database that is resumed.
    Kept,
}

/// The database's Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseView {
    /// Instance that holds it; none when there is no Lease yet.
    pub holder: Option<String>,
}

/// The primary that a standby would follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrimaryView {
    /// `host:port` of its PostgreSQL.
    pub endpoint: String,
    /// Whether it accepts connections.
    pub ready: bool,
}

/// Everything a decision rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Name of the instance.
    pub instance: String,
    /// Its ordinal.
    pub ordinal: u32,
    /// The database as the API has it.
    pub database: Seen<DatabaseView>,
    /// The Lease.
    pub lease: Seen<LeaseView>,
    /// The Lease's holder, when that is another instance and has reported.
    pub primary: Option<PrimaryView>,
    /// The primary this instance followed last, kept beside the data.
    pub last_primary: Option<String>,
    /// The data folder.
    pub data: DataState,
    /// The process.
    pub process: ProcessState,
    /// The primary that the running or next standby is configured to follow.
    pub follows: Option<String>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing yet.
    Wait,
    /// Create or take back the Lease, then look again.
    TakeLease,
    /// Make a new cluster.
    Initialise,
    /// Make a cluster from the Snapshot.
    Restore,
    /// Copy the primary.
    Clone {
        /// `host:port` of the primary.
        primary: String,
    },
    /// Start PostgreSQL for writes.
    StartPrimary,
    /// Start PostgreSQL as a standby.
    StartStandby {
        /// `host:port` of the primary.
        primary: String,
    },
    /// Point a running standby at another primary.
    Follow {
        /// `host:port` of the primary.
        primary: String,
    },
    /// Stop PostgreSQL and stay down.
    Stop,
    /// Go on as it is.
    Keep,
}

/// What to do, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What.
    pub action: Action,
    /// Why, in words for log and status.
    pub reason: String,
}

/// An empty database in the place of the one that was paused would look as if nothing had been lost.
const KEPT_IS_GONE: &str = "the database was resumed, and the data of its first instance is not where it was: put it back, since nothing is begun in its place";

fn decision(action: Action, reason: impl Into<String>) -> Decision {
    Decision {
        action,
        reason: reason.into(),
    }
}

/// Decides.
#[must_use]
pub fn decide(seen: &Observation) -> Decision {
    if let Some(database) = seen.database.known()
        && !database.is_ours
    {
        return decision(
            Action::Stop,
            "the database was deleted, or made anew under the same name",
        );
    }
    match seen.data {
        DataState::Empty => decide_empty(seen),
        DataState::Initialised(role) => decide_initialised(seen, role),
    }
}

fn decide_empty(seen: &Observation) -> Decision {
    let (Some(database), Some(lease)) = (seen.database.known(), seen.lease.known()) else {
        return decision(
            Action::Wait,
            "the API cannot be reached, so it is unknown whether a primary exists",
        );
    };
    match &lease.holder {
        None if seen.ordinal == 0 => match database.source {
            SourceView::Unresolved => {
                decision(Action::Wait, "the Snapshot to restore is not resolved yet")
            }
            SourceView::Kept => decision(Action::Wait, KEPT_IS_GONE),
            _ => decision(
                Action::TakeLease,
                "the database has no Lease, and the first instance begins it",
            ),
        },
        None => decision(
            Action::Wait,
            "the first instance has not begun the database",
        ),
        Some(holder) if *holder == seen.instance => match database.source {
            SourceView::Fresh => decision(Action::Initialise, "this instance begins the database"),
            SourceView::Snapshot => decision(
                Action::Restore,
                "this instance begins the database from a Snapshot",
            ),
            SourceView::Unresolved => {
                decision(Action::Wait, "the Snapshot to restore is not resolved yet")
            }
            SourceView::Kept => decision(Action::Wait, KEPT_IS_GONE),
        },
        Some(holder) => match &seen.primary {
            Some(primary) if primary.ready => decision(
                Action::Clone {
                    primary: primary.endpoint.clone(),
                },
                format!("{holder} is primary and ready to be copied"),
            ),
            _ => decision(
                Action::Wait,
                format!("primary {holder} is not ready to be copied"),
            ),
        },
    }
}

fn decide_initialised(seen: &Observation, last: Role) -> Decision {
    let holder = seen.lease.known().map(|lease| lease.holder.as_deref());
    match holder {
        // Without an answer, the last role goes on: losing the API must not stop a database.
        None => as_role(
            seen,
            last,
            "the API cannot be reached; the last role goes on",
        ),
        Some(None) if last == Role::Primary => decision(
            Action::TakeLease,
            "the Lease is gone, and this instance was the primary",
        ),
        Some(None) => as_role(
            seen,
            Role::Standby,
            "the Lease is gone, and this instance was a standby",
        ),
        Some(Some(name)) if name == seen.instance => match last {
            Role::Primary => as_role(seen, Role::Primary, "this instance holds the Lease"),
            // Only a promotion makes a primary of a standby's data, and a Lease alone does not order one.
            Role::Standby => as_role(
                seen,
                Role::Standby,
                "this instance holds the Lease with a standby's data; no promotion was ordered",
            ),
        },
        Some(Some(name)) => match (last, seen.process) {
            (Role::Primary, ProcessState::Down) => decision(
                Action::Wait,
                format!(
                    "{name} holds the Lease, but this instance has a primary's data: it stays down until the two are told apart"
                ),
            ),
            (Role::Primary, _) => decision(
                Action::Stop,
                format!("{name} holds the Lease, so this instance must not accept writes"),
            ),
            (Role::Standby, _) => as_role(seen, Role::Standby, &format!("{name} is primary")),
        },
    }
}

fn as_role(seen: &Observation, role: Role, reason: &str) -> Decision {
    match (role, seen.process) {
        (_, ProcessState::Starting) => decision(Action::Wait, "PostgreSQL is coming up"),
        (Role::Primary, ProcessState::Down) => decision(Action::StartPrimary, reason),
        (Role::Primary, ProcessState::Up { in_recovery: false }) => decision(Action::Keep, reason),
        (Role::Primary, ProcessState::Up { in_recovery: true }) => decision(
            Action::Stop,
            "a primary's data is in recovery: PostgreSQL must be started anew",
        ),
        (Role::Standby, ProcessState::Up { in_recovery: false }) => decision(
            Action::Stop,
            "a standby's data accepts writes: PostgreSQL must be stopped",
        ),
        (Role::Standby, process) => {
            let primary = seen
                .primary
                .as_ref()
                .map(|primary| primary.endpoint.clone())
                .or_else(|| seen.last_primary.clone());
            match (primary, process) {
                (None, ProcessState::Down) => {
                    decision(Action::Wait, "no primary is known to follow")
                }
                (Some(primary), ProcessState::Down) => {
                    decision(Action::StartStandby { primary }, reason)
                }
                (Some(primary), _) if seen.follows.as_ref() != Some(&primary) => decision(
                    Action::Follow { primary },
                    "the primary has another address",
                ),
                _ => decision(Action::Keep, reason),
            }
        }
    }
}

/// Whether a restored cluster has replayed all it must before it may be promoted.
#[must_use]
pub fn may_promote(replayed: Option<Lsn>, planned: Lsn) -> bool {
    replayed.is_some_and(|replayed| replayed >= planned)
}
