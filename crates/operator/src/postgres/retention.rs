//! Deletes the Snapshots that retention lets go. The decision is pure, and the one that `kubedb snapshot retention` prints.

use std::{borrow::Borrow, sync::Arc};

use jiff::{Timestamp, tz::TimeZone};
use kube::{Api, ResourceExt as _};
use kubedb_api::{
    Postgres, Snapshot,
    reasons::{component, event},
    retention::{Retention, candidate, lineage},
};
use kubedb_core::{
    retention::{Verdict, plan},
    schedule::Schedule,
};

use super::{is_restoring, waits_for};
use crate::{
    context::{ReconcileError, request},
    events::{Note, publish},
    guarded::as_read,
    operator::Operator,
};

/// Snapshots let go in one look: each costs a task of an agent, and the next look is at the next of them that is gone.
const AT_ONCE: usize = 8;

/// What becomes of each Snapshot of a database under these rules, newest first. `databases` are all there are: one of them may be
/// reading a Snapshot.
#[must_use]
pub fn verdicts<'a>(
    retention: &Retention,
    postgres: &Postgres,
    snapshots: &[impl Borrow<Snapshot>],
    databases: impl Iterator<Item = &'a Postgres>,
) -> Vec<Verdict> {
    let lineage = lineage(postgres);
    let restored: Vec<&Postgres> = databases.filter(|other| is_restored(other)).collect();
    let candidates: Vec<_> = snapshots
        .iter()
        .map(Borrow::borrow)
        .filter_map(|snapshot| {
            let is_in_use = restored
                .iter()
                .any(|other| is_restoring(other, snapshot) || waits_for(other, snapshot));
            candidate(snapshot, lineage, is_in_use)
        })
        .collect();
    plan(&retention.policy(), &zone(postgres), &candidates)
}

fn is_restored(postgres: &Postgres) -> bool {
    let init = postgres.spec.init.as_ref();
    init.is_some_and(|init| init.snapshot_source.is_some() || init.postgres_wal.is_some())
}

/// Days are those of the schedule. One that cannot be read any more deletes by those of UTC, a day off at most.
fn zone(postgres: &Postgres) -> TimeZone {
    let schedule = postgres.spec.backup_schedule.as_ref();
    let schedule = schedule.and_then(|schedule| {
        Schedule::parse(&schedule.cron_expression, schedule.time_zone.as_deref()).ok()
    });
    schedule.map_or(TimeZone::UTC, |schedule| schedule.zone().clone())
}

/// Lets go what no rule keeps, the oldest first.
pub(super) async fn apply(
    operator: &Operator,
    postgres: &Postgres,
    snapshots: &[Arc<Snapshot>],
    now: Timestamp,
) -> Result<(), ReconcileError> {
    let schedule = postgres.spec.backup_schedule.as_ref();
    let Some(retention) = schedule.and_then(|schedule| schedule.retention.as_ref()) else {
        return Ok(());
    };
    let databases = operator.databases.state();
    let databases = databases.iter().map(|database| &**database);
    let verdicts = verdicts(retention, postgres, snapshots, databases);
    let expired = verdicts.iter().rev().filter(|verdict| verdict.is_expired());
    for verdict in expired.take(AT_ONCE) {
        let Some(snapshot) = snapshots
            .iter()
            .find(|snapshot| snapshot.name_any() == verdict.name)
        else {
            continue;
        };
        let message = format!(
            "Retention deletes Snapshot {}: {}",
            verdict.name,
            verdict.reason()
        );
        let note = Note::normal(component::CRON_CONTROLLER, event::EXPIRED, message);
        let note = note.of(snapshot.uid().unwrap_or_default());
        publish(&operator.client, postgres, &note, now).await;
        delete(operator, snapshot).await?;
    }
    Ok(())
}

/// Deletes the Snapshot that was judged, and none that was pinned or begun to be restored from since.
async fn delete(operator: &Operator, snapshot: &Snapshot) -> Result<(), ReconcileError> {
    let namespace = snapshot.namespace().unwrap_or_default();
    let api: Api<Snapshot> = Api::namespaced(operator.client.clone(), &namespace);
    match api.delete(&snapshot.name_any(), &as_read(snapshot)).await {
        Err(kube::Error::Api(status)) if status.reason == "NotFound" => Ok(()),
        other => other
            .map(drop)
            .map_err(request("delete a Snapshot that retention lets go")),
    }
}
