//! The controller of paused databases: tells when nothing of one runs any more, and carries out its deletion.

mod deletion;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{
    Api, ResourceExt as _,
    runtime::{controller::Action, reflector::ObjectRef},
};
use kubedb_api::{
    DormantDatabase, Postgres,
    dormant_database::DormantPhase,
    reasons::{component, event, text},
};
use serde_json::{Value, json};

use crate::{
    context::{self, ReconcileError, request},
    events::{Note, publish},
    guarded::{self, has_finalizer, set_finalizer},
    operator::Operator,
    platform::DatabaseKey,
};

/// Look again this late while the database's instances stop: the watch usually comes first.
const STOPPING: Duration = Duration::from_secs(2);

/// One reconcile of one paused database.
pub(crate) async fn reconcile(
    dormant: Arc<DormantDatabase>,
    operator: Arc<Operator>,
) -> Result<Action, ReconcileError> {
    let dormant = match guarded::decided_on(&operator, dormant).await? {
        Ok(dormant) => dormant,
        Err(instead) => return Ok(instead),
    };
    let action = look(&dormant, &operator, Timestamp::now()).await?;
    operator.failures.forget(&context::key_of(&*dormant));
    Ok(action)
}

async fn look(
    dormant: &DormantDatabase,
    operator: &Operator,
    now: Timestamp,
) -> Result<Action, ReconcileError> {
    if dormant.is_going() {
        return deletion::delete(dormant, operator, now).await;
    }
    if !has_finalizer(dormant) {
        set_finalizer(operator, dormant, true).await?;
        return Ok(Action::await_change());
    }
    match dormant.phase() {
        None => {
            let status = json!({ "phase": DormantPhase::Pausing, "creationTime": now });
            tell(operator, dormant, event::PAUSING, text::PAUSING, now).await;
            patch_status(operator, dormant, status).await?;
            Ok(Action::await_change())
        }
        Some(DormantPhase::Pausing) => pause(dormant, operator, now).await,
        // Whoever resumes it says so in its own status; one that went without is none.
        Some(DormantPhase::Resuming) => {
            if living(operator, dormant).await?.is_none() {
                let status = json!({ "phase": DormantPhase::Paused });
                patch_status(operator, dormant, status).await?;
            }
            Ok(Action::await_change())
        }
        Some(DormantPhase::Paused | DormantPhase::WipingOut | DormantPhase::WipedOut) => {
            Ok(Action::await_change())
        }
    }
}

/// Waits until the database that was paused is gone, and what ran of it.
async fn pause(
    dormant: &DormantDatabase,
    operator: &Operator,
    now: Timestamp,
) -> Result<Action, ReconcileError> {
    let postgres = living(operator, dormant).await?;
    let runs = match &postgres {
        Some(postgres) => postgres.uid() == dormant.spec.origin.metadata.uid,
        None => operator.platform.observe(&key_of(dormant)).await?.is_some(),
    };
    if runs {
        return Ok(Action::requeue(STOPPING));
    }
    tell(
        operator,
        dormant,
        event::SUCCESSFUL_PAUSE,
        text::PAUSED,
        now,
    )
    .await;
    let status = json!({
        "phase": DormantPhase::Paused, "pausingTime": now, "reason": null,
        "observedGeneration": dormant.metadata.generation,
    });
    patch_status(operator, dormant, status).await?;
    Ok(Action::await_change())
}

/// The Postgres of this name; that there is none is asked of the API.
async fn living(
    operator: &Operator,
    dormant: &DormantDatabase,
) -> Result<Option<Postgres>, ReconcileError> {
    let key = key_of(dormant);
    let known = ObjectRef::<Postgres>::new(&key.name).within(&key.namespace);
    if let Some(known) = operator.databases.get(&known) {
        return Ok(Some((*known).clone()));
    }
    Api::<Postgres>::namespaced(operator.client.clone(), &key.namespace)
        .get_opt(&key.name)
        .await
        .map_err(request("look for the database of a record"))
}

fn key_of(dormant: &DormantDatabase) -> DatabaseKey {
    DatabaseKey {
        namespace: dormant.namespace().unwrap_or_default(),
        name: dormant.name_any(),
    }
}

/// Each of these happens once to one record.
async fn tell(
    operator: &Operator,
    dormant: &DormantDatabase,
    reason: &'static str,
    words: &str,
    now: Timestamp,
) {
    let note = Note::normal(component::DORMANT_CONTROLLER, reason, words);
    publish(&operator.client, dormant, &note, now).await;
}

/// Changes a record unless somebody else did since it was read.
pub(crate) async fn patch_main(
    operator: &Operator,
    dormant: &DormantDatabase,
    patch: Value,
) -> Result<DormantDatabase, ReconcileError> {
    let action = "change the record of a paused database";
    guarded::patch_main(operator, dormant, patch, action).await
}

/// The same for its status.
pub(crate) async fn patch_status(
    operator: &Operator,
    dormant: &DormantDatabase,
    status: Value,
) -> Result<DormantDatabase, ReconcileError> {
    let action = "update the status of a paused database";
    guarded::patch_status(operator, dormant, status, action).await
}
