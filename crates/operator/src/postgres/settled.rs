//! Whether a look leaves anything for the next one. What it wrote is told of by the watch, and would be looked at again for no more than that.

use jiff::Timestamp;
use kubedb_api::{Postgres, postgres::PostgresPhase};

use super::{
    changes,
    dereference::Found,
    plan::{Plan, plan},
};
use crate::{context::ReconcileError, operator::Operator};

/// Whether the specification was looked at before as it is, and the database runs. What applying a change of it brings about shows in a look after it.
pub(super) fn is_applied(postgres: &Postgres) -> bool {
    let status = postgres.status.as_ref();
    status.is_some_and(|status| {
        status.phase == Some(PostgresPhase::Running)
            && status.observed_generation == postgres.metadata.generation
    })
}

/// The plan for a database as a look has left it, if that is one to do nothing.
pub(super) async fn follow_up(
    operator: &Operator,
    current: &Postgres,
    found: &Found,
    done: &Plan,
    now: Timestamp,
) -> Result<Option<Plan>, ReconcileError> {
    if operator.platform.observe(&done.desired.key).await? != found.observed {
        return Ok(None);
    }
    let after = plan(current, found, now);
    Ok(is_nothing(&after, done, current).then_some(after))
}

/// What a look made is not in what it had found, so one that made anything but the Snapshot of a tick is followed by another. That tick stays in the status
/// until its Snapshot is seen, which is told of.
fn is_nothing(after: &Plan, done: &Plan, current: &Postgres) -> bool {
    let tick = after.schedule.make;
    let makes = tick.is_some() && tick != done.schedule.make
        || [after, done].into_iter().any(|plan| {
            plan.make_auth_secret
                || plan.make_replication_secret
                || plan.mark_initialized
                || plan.first.make.is_some()
        });
    let status = current.status.as_ref();
    let says = status.is_none_or(|status| !changes(status, &after.status, after).is_empty());
    !makes && !says && after.desired == done.desired
}
