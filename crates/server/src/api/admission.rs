//! What the kinds of kubedb are defaulted to and refused for. The rules are in `kubedb-api`.

use kubedb_api::validate::{self, FieldError};
use kubedb_api::{Postgres, defaults};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::object::differs;
use super::resource::{self, Resource};
use super::status::{ApiError, Cause};
use crate::storage::Transaction;

/// Defaults and checks an object of ours; `old` on an update. `raw` is the object before unknown fields were
/// removed: they are refused by name where the rules know them.
///
/// An update that leaves the spec alone is never refused: a finalizer must always be removable, whatever the rules
/// have become since.
pub(crate) fn admit(
    transaction: &Transaction<'_>,
    resource: &Resource,
    old: Option<&Value>,
    raw: &Value,
    object: &mut Value,
) -> Result<(), ApiError> {
    if !resource.custom || old.is_some_and(|old| !differs(old, raw)) {
        return Ok(());
    }
    let name = object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let errors = match resource.plural.as_str() {
        "postgreses" => postgres(transaction, raw),
        "snapshots" => validate::validate_snapshot(raw),
        _ => Vec::new(),
    };
    refuse(resource, &name, errors)?;
    match resource.plural.as_str() {
        "postgreses" => apply(resource, &name, object, defaults::default_postgres),
        "snapshots" => {
            if old.is_none() {
                database_exists(transaction, object)?;
            }
            apply(resource, &name, object, defaults::default_snapshot)
        }
        _ => Ok(()),
    }?;
    // Compared after the defaults, so that leaving out what was filled in is no change.
    let errors = match (old, resource.plural.as_str()) {
        (Some(old), "postgreses") => validate::validate_postgres_update(old, object),
        (Some(old), "snapshots") => validate::validate_snapshot_update(old, object),
        _ => Vec::new(),
    };
    refuse(resource, &name, errors)
}

fn refuse(resource: &Resource, name: &str, errors: Vec<FieldError>) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    let causes: Vec<Cause> = errors.into_iter().map(cause).collect();
    Err(ApiError::invalid(resource, name, &causes))
}

fn postgres(transaction: &Transaction<'_>, raw: &Value) -> Vec<FieldError> {
    let versions = transaction.list("catalog.kubedb.com", "postgresversions", "");
    let names: Vec<&str> = versions.iter().map(|(key, _)| key.name.as_str()).collect();
    validate::validate_postgres(raw, &names)
}

fn cause(error: FieldError) -> Cause {
    let message = match error.hint {
        Some(hint) => format!("{} ({hint})", error.message),
        None => error.message,
    };
    Cause::worded(&error.field, message)
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
    let missing = ApiError::not_found(postgreses, &name).message;
    Err(ApiError::denied(format!(
        "admission webhook \"snapshot.validators.kubedb.com\" denied the request: {missing}"
    )))
}

/// Lets `default` work on the typed object, and takes over only what it changed: everything else stays as it was sent.
fn apply<T: DeserializeOwned + Serialize>(
    resource: &Resource,
    name: &str,
    object: &mut Value,
    default: fn(&mut T),
) -> Result<(), ApiError> {
    let undecodable = |error: serde_json::Error| {
        let cause = Cause::worded("", error.to_string());
        ApiError::invalid(resource, name, &[cause])
    };
    let mut typed: T = serde_json::from_value(object.clone()).map_err(undecodable)?;
    let before = serde_json::to_value(&typed).map_err(undecodable)?;
    default(&mut typed);
    let after = serde_json::to_value(&typed).map_err(undecodable)?;
    take_over(object, &before, &after);
    Ok(())
}

fn take_over(object: &mut Value, before: &Value, after: &Value) {
    if before == after {
        return;
    }
    let (Some(after_fields), true) = (after.as_object(), before.is_object() && object.is_object())
    else {
        *object = after.clone();
        return;
    };
    for (field, after) in after_fields {
        if before[field] != *after {
            take_over(&mut object[field], &before[field], after);
        }
    }
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

#[cfg(test)]
mod tests {
    use kubedb_api::Snapshot;
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_leave_everything_else_as_it_was_sent() {
        let postgreses = resource::find("kubedb.com", "v1alpha1", "postgreses").unwrap();
        let mut object = json!({"apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "metadata": {"name": "p"},
            "spec": {"version": 9.6, "standbyMode": "Hot", "storage": {"resources": {"requests": {"storage": "50Mi"}}}}});
        apply(postgreses, "p", &mut object, defaults::default_postgres).unwrap();
        let spec = &object["spec"];
        assert_eq!(spec["version"], json!(9.6));
        assert_eq!(spec["standbyMode"], "Hot");
        assert_eq!(spec["replicas"], 1);
        assert_eq!(spec["storage"]["accessModes"], json!(["ReadWriteOnce"]));
    }

    #[test]
    fn snapshots_are_labelled() {
        let snapshots = resource::find("kubedb.com", "v1alpha1", "snapshots").unwrap();
        let mut object = json!({"apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot", "metadata": {"name": "s"},
            "spec": {"databaseName": "pg", "local": {"hostPath": {"path": "/b"}}}});
        apply::<Snapshot>(snapshots, "s", &mut object, defaults::default_snapshot).unwrap();
        assert_eq!(object["metadata"]["labels"]["kubedb.com/name"], "pg");
    }
}
