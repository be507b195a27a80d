//! What becomes of a database that is being deleted. Nothing is deleted but what `spec.terminationPolicy` says; without one everything stays.
//!
//! The finalizer goes last: until then every look begins with what is there, so that a crash between two writes costs nothing.

use std::time::Duration;

use jiff::Timestamp;
use kube::{Api, ResourceExt as _, api::PostParams, runtime::controller::Action};
use kubedb_api::{
    DormantDatabase, Postgres,
    postgres::TerminationPolicy,
    reasons::{component, event},
};
use serde_json::json;

use super::{dereference::key_of, is_begun, patch_status, resume};
use crate::{
    context::{ReconcileError, request},
    events::{Note, publish},
    guarded::{has_finalizer, set_finalizer},
    operator::Operator,
    wipe::{self, Wiping},
};

/// Look again this soon while instances stop.
const SOON: Duration = Duration::from_millis(300);
/// Look again this late at what waits for somebody.
const LATE: Duration = Duration::from_secs(15);

/// One look at a database that is being deleted.
pub(super) async fn remove(
    postgres: &Postgres,
    operator: &Operator,
    now: Timestamp,
) -> Result<Action, ReconcileError> {
    if !has_finalizer(postgres) {
        return Ok(Action::await_change());
    }
    let namespace_goes = operator.namespace_goes(postgres.namespace()).await?;
    let policy = policy(postgres, namespace_goes);
    if !namespace_goes && !resume::settle(operator, postgres).await? {
        return Ok(Action::requeue(SOON));
    }
    if policy == Some(TerminationPolicy::Pause) {
        match record(operator, postgres).await? {
            Record::Made => {}
            Record::Later => return Ok(Action::requeue(SOON)),
            Record::Obstructed(why) => return wait(postgres, operator, why, now).await,
        }
    }
    if !operator.platform.remove(&key_of(postgres)).await? {
        return Ok(Action::requeue(SOON));
    }
    let key = key_of(postgres);
    let deleted = postgres.metadata.deletion_timestamp.as_ref();
    let kept = postgres.kept_data();
    let wiping = Wiping {
        key: &key,
        uid: &postgres.uid().unwrap_or_default(),
        data_uid: &kept.uid,
        lineage: kept.lineage.as_deref(),
        spec: &postgres.spec,
        since: deleted.map_or(now, |deleted| deleted.0),
    };
    let waits = match policy {
        Some(TerminationPolicy::Delete) => wipe::data(operator, &wiping).await?,
        Some(TerminationPolicy::WipeOut) => wipe::everything(operator, &wiping).await?,
        _ => None,
    };
    if let Some(waits) = waits {
        say(postgres, operator, &waits).await?;
        return Ok(Action::requeue(SOON));
    }
    if policy == Some(TerminationPolicy::WipeOut) {
        wipe::tell_archive(operator, postgres, &wiping, now).await;
    }
    set_finalizer(operator, postgres, false).await?;
    Ok(Action::await_change())
}

/// What to do with what the database has; none where it has nothing, or where it is not the operator's to decide.
fn policy(postgres: &Postgres, namespace_goes: bool) -> Option<TerminationPolicy> {
    // Nothing can be made in a namespace that goes, and what it has goes or stays as its platform sees fit.
    if namespace_goes || !is_begun(postgres) {
        return None;
    }
    match postgres.spec.termination_policy {
        // A deletion that slipped past the lock cannot be undone, but loses nothing. One that failed before it had data leaves nothing to resume, and a
        // record of it would stand in the way of the next try.
        None | Some(TerminationPolicy::Pause | TerminationPolicy::DoNotTerminate) => {
            let has_data = postgres.kept_data().begun;
            has_data.then_some(TerminationPolicy::Pause)
        }
        policy => policy,
    }
}

/// The record of a database that is paused.
enum Record {
    /// It is there.
    Made,
    /// An earlier one of the same data goes first.
    Later,
    /// One of other data is in the way.
    Obstructed(String),
}

/// Makes it.
async fn record(operator: &Operator, postgres: &Postgres) -> Result<Record, ReconcileError> {
    let (namespace, name) = (
        postgres.namespace().unwrap_or_default(),
        postgres.name_any(),
    );
    let api: Api<DormantDatabase> = Api::namespaced(operator.client.clone(), &namespace);
    let found = api
        .get_opt(&name)
        .await
        .map_err(request("look for the record of a paused database"))?;
    let Some(found) = found else {
        let record = DormantDatabase::of(postgres);
        return match api.create(&PostParams::default(), &record).await {
            Ok(_) => Ok(Record::Made),
            Err(error) => Err(request("record a paused database")(error)),
        };
    };
    if found.spec.origin.metadata.uid == postgres.uid() {
        return Ok(Record::Made);
    }
    if found.kept_data().uid == postgres.kept_data().uid {
        return Ok(Record::Later);
    }
    Ok(Record::Obstructed(format!(
        "DormantDatabase \"{name}\" already exists, of another database: delete that, or set spec.terminationPolicy to Delete"
    )))
}

/// Tells of what is in the way of a pause, and waits for somebody to put it right.
async fn wait(
    postgres: &Postgres,
    operator: &Operator,
    obstacle: String,
    now: Timestamp,
) -> Result<Action, ReconcileError> {
    let message = format!("Failed to pause. Reason: {obstacle}");
    let note = Note::warning(component::POSTGRES_OPERATOR, event::FAILED, &message);
    publish(&operator.client, postgres, &note, now).await;
    say(postgres, operator, &message).await?;
    Ok(Action::requeue(LATE))
}

async fn say(postgres: &Postgres, operator: &Operator, reason: &str) -> Result<(), ReconcileError> {
    let known = postgres.status.as_ref();
    if known.and_then(|status| status.reason.as_deref()) == Some(reason) {
        return Ok(());
    }
    patch_status(postgres, operator, json!({ "reason": reason }))
        .await
        .map(drop)
}
