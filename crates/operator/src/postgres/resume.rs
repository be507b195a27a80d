//! A new Postgres takes over the data of the paused database of its name.
//!
//! Three writes, each of which the next look finds: the record says that it is Resuming, which keeps it from being wiped out; the Postgres says whose
//! data it has; the record goes.

use jiff::Timestamp;
use kube::{Api, ResourceExt as _, runtime::reflector::ObjectRef};
use kubedb_api::{
    DormantDatabase, Postgres, admission, defaults,
    dormant_database::DormantPhase,
    labels,
    reasons::{component, event, text},
    validate::validate_resume,
};
use serde_json::{Value, json};

use super::{is_begun, patch_status};
use crate::{
    context::{ReconcileError, request},
    dormant,
    events::{Note, publish},
    guarded::{as_read, patch_main},
    operator::Operator,
};

/// How a database begins.
pub(super) enum Beginning {
    /// It is begun, as the object says.
    Begun(Box<Postgres>),
    /// Something must go first.
    Waits(String),
    /// It is not what was paused.
    Invalid(String),
}

/// Notes that a database begins, and with whose data.
pub(super) async fn begin(
    operator: &Operator,
    postgres: &Postgres,
    now: Timestamp,
) -> Result<Beginning, ReconcileError> {
    if is_begun(postgres) {
        settle(operator, postgres).await?;
        return Ok(Beginning::Begun(Box::new(postgres.clone())));
    }
    let Some(paused) = live(operator, postgres).await? else {
        let begun = note(operator, postgres, Value::Null, now).await?;
        return Ok(Beginning::Begun(Box::new(begun)));
    };
    let name = postgres.name_any();
    let is_claimed = paused.phase() == Some(DormantPhase::Resuming);
    if !is_claimed && paused.is_going() {
        let what = if paused.spec.wipe_out == Some(true) {
            "wiped out"
        } else {
            "deleted"
        };
        let waits = format!("DormantDatabase \"{name}\" is being {what}, and has to be gone first");
        return Ok(Beginning::Waits(waits));
    }
    let mut filled = postgres.clone();
    defaults::default_postgres(&mut filled);
    if let Some(error) = validate_resume(&json!(filled), &paused)
        && !is_claimed
    {
        return Ok(Beginning::Invalid(admission::list(&[error])));
    }
    if !is_claimed {
        let words = Note::normal(
            component::DORMANT_CONTROLLER,
            event::RESUMING,
            text::RESUMING,
        );
        let words = words.of(postgres.uid().unwrap_or_default());
        publish(&operator.client, &paused, &words, now).await;
        let status = json!({ "phase": DormantPhase::Resuming, "reason": null });
        // Refused where somebody asked for its deletion meanwhile, or anything else changed.
        dormant::patch_status(operator, &paused, status).await?;
    }
    let current = take_over(operator, postgres, &paused).await?;
    let begun = note(operator, &current, json!(paused.kept_data()), now).await?;
    Ok(Beginning::Begun(Box::new(begun)))
}

/// What may differ and was left out, where admission was passed by; and that the paused one was initialised, so that it is not again.
async fn take_over(
    operator: &Operator,
    postgres: &Postgres,
    paused: &DormantDatabase,
) -> Result<Postgres, ReconcileError> {
    let mut patch = json!({});
    let origin = &paused.spec.origin;
    if let Some(spec) = &origin.spec.postgres {
        if postgres.spec.database_secret.is_none() && spec.database_secret.is_some() {
            patch["spec"]["databaseSecret"] = json!(spec.database_secret);
        }
        if postgres.spec.backup_schedule.is_none() && spec.backup_schedule.is_some() {
            patch["spec"]["backupSchedule"] = json!(spec.backup_schedule);
        }
    }
    let was_initialized = origin
        .metadata
        .annotations
        .as_ref()
        .is_some_and(|annotations| annotations.contains_key(labels::INITIALIZED));
    if was_initialized && !postgres.annotations().contains_key(labels::INITIALIZED) {
        patch["metadata"] = json!({ "annotations": { labels::INITIALIZED: "" } });
    }
    if patch == json!({}) {
        return Ok(postgres.clone());
    }
    patch_main(operator, postgres, patch, "take over what was paused").await
}

/// The first write to a database's status: from now on it has data, or may have.
async fn note(
    operator: &Operator,
    postgres: &Postgres,
    resumed: Value,
    now: Timestamp,
) -> Result<Postgres, ReconcileError> {
    let status = json!({ "creationTime": now, "phase": "Creating", "resumed": resumed });
    patch_status(postgres, operator, status).await
}

/// Ends a resume: the record goes, since the Postgres has its data. Returns whether no such record is left.
pub(super) async fn settle(
    operator: &Operator,
    postgres: &Postgres,
) -> Result<bool, ReconcileError> {
    let namespace = postgres.namespace().unwrap_or_default();
    let name = postgres.name_any();
    let key = ObjectRef::<DormantDatabase>::new(&name).within(&namespace);
    let Some(paused) = operator.dormants.get(&key) else {
        return Ok(true);
    };
    let is_of_this = paused.spec.origin.metadata.uid == postgres.uid();
    let has_its_data = paused.kept_data().uid == postgres.kept_data().uid;
    if is_of_this || !is_begun(postgres) || !has_its_data {
        return Ok(true);
    }
    if paused.is_going() {
        return Ok(false);
    }
    if paused.spec.wipe_out == Some(true) {
        let patch = json!({ "spec": { "wipeOut": false } });
        dormant::patch_main(operator, &paused, patch).await?;
        return Ok(false);
    }
    let api: Api<DormantDatabase> = Api::namespaced(operator.client.clone(), &namespace);
    match api.delete(&name, &as_read(&*paused)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(true),
        other => other
            .map(|_| false)
            .map_err(request("delete the record of a resumed database")),
    }
}

/// The record of this name, as the API has it now: a cache that is behind would have the database begin anew.
async fn live(
    operator: &Operator,
    postgres: &Postgres,
) -> Result<Option<DormantDatabase>, ReconcileError> {
    let namespace = postgres.namespace().unwrap_or_default();
    Api::<DormantDatabase>::namespaced(operator.client.clone(), &namespace)
        .get_opt(&postgres.name_any())
        .await
        .map_err(request("look for a paused database"))
}
