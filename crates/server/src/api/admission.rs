//! What the kinds of kubedb are defaulted to and refused for. The rules are in `kubedb-api`.

use kubedb_api::validate::{self, FieldError};
use kubedb_api::{DormantDatabase, Postgres, admission};
use serde_json::Value;

use super::resource::{self, Resource};
use super::status::{ApiError, Cause};
use crate::storage::Transaction;

/// Defaults and checks an object of ours; `old` on an update. `raw` is the object before unknown fields were
/// removed: they are refused by name where the rules know them.
pub(crate) fn admit(
    transaction: &Transaction<'_>,
    resource: &Resource,
    old: Option<&Value>,
    raw: &Value,
    object: &mut Value,
) -> Result<(), ApiError> {
    if !resource.custom || old.is_some_and(|old| !admission::differs(old, raw)) {
        return Ok(());
    }
    let versions = match resource.plural.as_str() {
        "postgreses" => transaction.list("catalog.kubedb.com", "postgresversions", ""),
        _ => Vec::new(),
    };
    let known: Vec<&str> = versions.iter().map(|(key, _)| key.name.as_str()).collect();
    let dormant = match (resource.plural.as_str(), old) {
        ("postgreses", None) => paused(transaction, object),
        _ => None,
    };
    let dormant = dormant.as_ref();
    let admitted = admission::admit(&resource.plural, old, raw, object, &known, dormant);
    let admitted = admitted.and_then(|()| for_one_machine(resource, raw));
    admitted.map_err(|errors| {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let causes: Vec<Cause> = errors.iter().map(cause).collect();
        ApiError::invalid(resource, name, &causes)
    })?;
    if old.is_none() && resource.plural == "snapshots" {
        database_exists(transaction, object)?;
    }
    Ok(())
}

/// Our own part: what a database of this server cannot have, because it has no pods.
fn for_one_machine(resource: &Resource, raw: &Value) -> Result<(), Vec<FieldError>> {
    let errors = match resource.plural.as_str() {
        "postgreses" => validate::validate_for_one_machine(raw),
        _ => Vec::new(),
    };
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors)
    }
}

/// The paused database of a new Postgres' name.
fn paused(transaction: &Transaction<'_>, postgres: &Value) -> Option<DormantDatabase> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &postgres["metadata"];
    let dormants = resource::find("kubedb.com", "v1alpha1", "dormantdatabases")?;
    let key = dormants.key(&text(&metadata["namespace"]), &text(&metadata["name"]));
    serde_json::from_value(Value::clone(&*transaction.get(&key)?)).ok()
}

fn cause(error: &FieldError) -> Cause {
    Cause::worded(&error.field, error.text())
}

fn database_exists(transaction: &Transaction<'_>, snapshot: &Value) -> Result<(), ApiError> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = text(&snapshot["spec"]["databaseName"]);
    let namespace = text(&snapshot["metadata"]["namespace"]);
    let Some(postgreses) = resource::find("kubedb.com", "v1alpha1", "postgreses") else {
        return Ok(());
    };
    if transaction
        .get(&postgreses.key(&namespace, &name))
        .is_some()
    {
        return Ok(());
    }
    Err(ApiError::denied(format!(
        "admission webhook \"snapshot.validators.kubedb.com\" denied the request: {}",
        admission::no_such_database(&name)
    )))
}

/// Refuses the deletion of a locked database.
pub(crate) fn admit_delete(resource: &Resource, object: &Value) -> Result<(), ApiError> {
    // One that is on its way out was admitted when the deletion began.
    if resource.plural != "postgreses" || !object["metadata"]["deletionTimestamp"].is_null() {
        return Ok(());
    }
    let Ok(postgres) = serde_json::from_value::<Postgres>(object.clone()) else {
        return Ok(());
    };
    match validate::validate_delete(&postgres) {
        None => Ok(()),
        Some(error) => Err(ApiError::denied(format!(
            "admission webhook \"postgres.validators.kubedb.com\" denied the request: {}",
            error.message
        ))),
    }
}
