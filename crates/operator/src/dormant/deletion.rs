//! A record of a paused database is being deleted: alone, or with everything there is of the database.

use std::time::Duration;

use jiff::Timestamp;
use kube::{Api, ResourceExt as _, runtime::controller::Action};
use kubedb_api::{
    DormantDatabase, Postgres, PostgresSpec,
    dormant_database::DormantPhase,
    reasons::{event, text},
};
use serde_json::json;

use super::{key_of, patch_status, tell};
use crate::{
    context::{ReconcileError, request},
    guarded::{has_finalizer, set_finalizer},
    operator::Operator,
    wipe::{self, Wiping},
};

/// Look again this soon while something is being deleted.
const SOON: Duration = Duration::from_secs(1);

/// Look again this late at what waits for somebody; the watch usually comes first.
const LATE: Duration = Duration::from_secs(15);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A Postgres has to go, or to say that it has the data.
    Wait,
    /// Another database has the name, and so Snapshots and volumes that cannot be told from those of the paused one.
    Obstructed,
    /// The record goes, and nothing else.
    Release,
    /// It is said that everything goes.
    Announce,
    /// Everything goes.
    Wipe,
}

/// Decides. `postgres` is the one of its name, as the API has it now.
fn step(dormant: &DormantDatabase, namespace_goes: bool, postgres: Option<&Postgres>) -> Step {
    if namespace_goes || dormant.phase() == Some(DormantPhase::WipedOut) {
        return Step::Release;
    }
    if let Some(postgres) = postgres {
        let origin = dormant.spec.origin.metadata.uid.as_ref();
        if postgres.uid().as_ref() == origin {
            // Still being paused.
            return Step::Wait;
        }
        if postgres.kept_data().uid == dormant.kept_data().uid {
            return Step::Release;
        }
        if dormant.phase() == Some(DormantPhase::Resuming) {
            return Step::Wait;
        }
        let is_begun = postgres
            .status
            .as_ref()
            .is_some_and(|status| status.creation_time.is_some());
        if is_begun && dormant.spec.wipe_out == Some(true) {
            return Step::Obstructed;
        }
    }
    match (dormant.spec.wipe_out, dormant.phase()) {
        (Some(true), Some(DormantPhase::WipingOut)) => Step::Wipe,
        (Some(true), _) => Step::Announce,
        _ => Step::Release,
    }
}

pub(super) async fn delete(
    dormant: &DormantDatabase,
    operator: &Operator,
    now: Timestamp,
) -> Result<Action, ReconcileError> {
    if !has_finalizer(dormant) {
        return Ok(Action::await_change());
    }
    let key = key_of(dormant);
    let namespace_goes = operator.namespace_goes(dormant.namespace()).await?;
    // Not from the cache: what is decided here cannot be undone.
    let postgres = Api::<Postgres>::namespaced(operator.client.clone(), &key.namespace)
        .get_opt(&key.name)
        .await
        .map_err(request("look for the database of a record"))?;
    match step(dormant, namespace_goes, postgres.as_ref()) {
        Step::Wait => Ok(Action::requeue(SOON)),
        Step::Obstructed => {
            let name = &key.name;
            let why = format!(
                "Postgres \"{name}\" has this name now, and with it Snapshots and volumes: delete it first, or set spec.wipeOut to false"
            );
            say(dormant, operator, why).await?;
            Ok(Action::requeue(LATE))
        }
        Step::Release => release(dormant, operator).await,
        Step::Announce => {
            tell(operator, dormant, event::WIPING_OUT, text::WIPING_OUT, now).await;
            let status = json!({ "phase": DormantPhase::WipingOut, "reason": null });
            patch_status(operator, dormant, status).await?;
            Ok(Action::requeue(SOON))
        }
        Step::Wipe => wipe_out(dormant, operator, now).await,
    }
}

async fn wipe_out(
    dormant: &DormantDatabase,
    operator: &Operator,
    now: Timestamp,
) -> Result<Action, ReconcileError> {
    let key = key_of(dormant);
    let none = PostgresSpec::default();
    let deleted = dormant.metadata.deletion_timestamp.as_ref();
    let kept = dormant.kept_data();
    let wiping = Wiping {
        key: &key,
        uid: &dormant.uid().unwrap_or_default(),
        data_uid: &kept.uid,
        lineage: kept.lineage.as_deref(),
        spec: dormant.spec.origin.spec.postgres.as_ref().unwrap_or(&none),
        since: deleted.map_or(now, |deleted| deleted.0),
    };
    if let Some(waits) = wipe::everything(operator, &wiping).await? {
        say(dormant, operator, waits).await?;
        return Ok(Action::requeue(SOON));
    }
    wipe::tell_archive(operator, dormant, &wiping, now).await;
    let (reason, words) = (event::SUCCESSFUL_WIPE_OUT, text::WIPED_OUT);
    tell(operator, dormant, reason, words, now).await;
    let status = json!({ "phase": DormantPhase::WipedOut, "wipeOutTime": now, "reason": null });
    let wiped = patch_status(operator, dormant, status).await?;
    release(&wiped, operator).await
}

async fn say(
    dormant: &DormantDatabase,
    operator: &Operator,
    reason: String,
) -> Result<(), ReconcileError> {
    let known = dormant.status.as_ref();
    if known.and_then(|status| status.reason.as_ref()) == Some(&reason) {
        return Ok(());
    }
    let status = json!({ "reason": reason });
    patch_status(operator, dormant, status).await.map(drop)
}

async fn release(dormant: &DormantDatabase, operator: &Operator) -> Result<Action, ReconcileError> {
    if dormant.phase() != Some(DormantPhase::WipedOut) {
        let key = key_of(dormant);
        let uid = dormant.kept_data().uid;
        tracing::info!(
            namespace = key.namespace,
            name = key.name,
            data = uid,
            "the record of a paused database goes; its data stays"
        );
    }
    set_finalizer(operator, dormant, false).await?;
    Ok(Action::await_change())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn dormant(wipe_out: bool, phase: &str) -> DormantDatabase {
        serde_json::from_value(json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "DormantDatabase", "metadata": {"name": "pg"},
            "spec": {"wipeOut": wipe_out, "origin": {"metadata": {"uid": "u-2"}, "data": {"uid": "u-1", "begun": true},
                "spec": {"postgres": {"version": "15"}}}},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    fn postgres(uid: &str, resumed: Value) -> Postgres {
        serde_json::from_value(json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "metadata": {"name": "pg", "uid": uid},
            "spec": {"version": "15"}, "status": {"resumed": resumed},
        }))
        .unwrap()
    }

    #[test]
    fn only_what_was_asked_for_is_wiped_out() {
        assert_eq!(step(&dormant(false, "Paused"), false, None), Step::Release);
        assert_eq!(step(&dormant(true, "Paused"), false, None), Step::Announce);
        assert_eq!(step(&dormant(true, "WipingOut"), false, None), Step::Wipe);
        assert_eq!(step(&dormant(true, "WipedOut"), false, None), Step::Release);
        // Asked for no more: what is left stays.
        assert_eq!(
            step(&dormant(false, "WipingOut"), false, None),
            Step::Release
        );
        assert_eq!(step(&dormant(true, "WipingOut"), true, None), Step::Release);
    }

    #[test]
    fn data_that_a_database_has_is_never_wiped_out() {
        let resumed = postgres("u-3", json!({"uid": "u-1", "begun": true}));
        for phase in ["Paused", "Resuming", "WipingOut"] {
            assert_eq!(
                step(&dormant(true, phase), false, Some(&resumed)),
                Step::Release
            );
        }
        let still_pausing = postgres("u-2", json!({"uid": "u-1", "begun": true}));
        assert_eq!(
            step(&dormant(true, "Pausing"), false, Some(&still_pausing)),
            Step::Wait
        );
        // One that takes it over has not said so yet.
        let new = postgres("u-3", Value::Null);
        assert_eq!(
            step(&dormant(true, "Resuming"), false, Some(&new)),
            Step::Wait
        );
        let mut running = postgres("u-3", Value::Null);
        if let Some(status) = &mut running.status {
            status.creation_time = Some(Timestamp::UNIX_EPOCH);
        }
        for phase in ["Paused", "WipingOut"] {
            assert_eq!(
                step(&dormant(true, phase), false, Some(&running)),
                Step::Obstructed
            );
        }
        // One that waits for its name does not have it.
        assert_eq!(
            step(&dormant(true, "WipingOut"), false, Some(&new)),
            Step::Wipe
        );
    }
}
