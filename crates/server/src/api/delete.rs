//! Delete, one object or many.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;
use serde::Deserialize;
use serde_json::{Value, json};

use super::resource::Resource;
use super::route::{Query, Target, unknown_dry_run};
use super::selector::Selector;
use super::status::{ApiError, Cause};
use super::{admission, object};
use crate::storage::{Store, Transaction};

/// Holds an object until its dependents are gone.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// Holds an object until its dependents have forgotten it.
pub(crate) const ORPHAN: &str = "orphan";

/// `DeleteOptions`, from body and query.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    uid: Option<String>,
    resource_version: Option<String>,
    finalizer: Option<&'static str>,
    dry_run: bool,
}

impl Options {
    /// Those of a deletion that means one object and no other of its name.
    pub(crate) fn of_uid(uid: &str) -> Self {
        Self {
            uid: Some(uid.to_owned()),
            ..Self::default()
        }
    }

    /// Reads them; `body` is null when there is none.
    pub(crate) fn parse(query: &Query, body: &Value) -> Result<Self, ApiError> {
        let told = told(query, body)?;
        let orphans = told.orphan_dependents;
        let policy = told.propagation_policy.as_deref().unwrap_or_default();
        if !policy.is_empty() && orphans.is_some() {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            let cause = Cause::invalid("propagationPolicy", &format!("{policy:?}"), why);
            return Err(ApiError::invalid_options("DeleteOptions", cause));
        }
        let finalizer = match policy {
            "" if orphans == Some(true) => Some(ORPHAN),
            "" | "Background" => None,
            "Foreground" => Some(FOREGROUND),
            "Orphan" => Some(ORPHAN),
            other => {
                let known = ["Foreground", "Background", "Orphan", "nil"];
                let cause = Cause::unsupported("propagationPolicy", &format!("{other:?}"), &known);
                return Err(ApiError::invalid_options("DeleteOptions", cause));
            }
        };
        let words = told.dry_run.unwrap_or_default();
        if let Some(word) = words.iter().find(|word| *word != "All") {
            return Err(unknown_dry_run("DeleteOptions", word));
        }
        let preconditions = told.preconditions.unwrap_or_default();
        Ok(Self {
            uid: preconditions.uid,
            resource_version: preconditions.resource_version,
            finalizer,
            dry_run: !words.is_empty(),
        })
    }
}

/// The options of the body; only without a body those of the query.
fn told(query: &Query, body: &Value) -> Result<DeleteOptions, ApiError> {
    if body.is_null() {
        let text = |name: &str| Some(query.text(name).to_owned()).filter(|text| !text.is_empty());
        return Ok(DeleteOptions {
            dry_run: text("dryRun").map(|word| vec![word]),
            propagation_policy: text("propagationPolicy"),
            orphan_dependents: text("orphanDependents").map(|text| text == "true"),
            ..DeleteOptions::default()
        });
    }
    let kind = body["kind"].as_str().unwrap_or_default();
    if !matches!(kind, "" | "DeleteOptions") {
        let version = body["apiVersion"].as_str().unwrap_or_default();
        let why = format!("no kind {kind:?} is registered for version {version:?}");
        return Err(ApiError::unexplained(&why));
    }
    // Its type insists on its own kind and version, which a body may leave out.
    let mut body = body.clone();
    object::remove(&mut body, "kind");
    object::remove(&mut body, "apiVersion");
    DeleteOptions::deserialize(&body).map_err(|error| ApiError::unexplained(&error.to_string()))
}

/// Deletes an object; returns what kube-apiserver answers: the object while it goes, a Status when it is gone.
pub(crate) fn delete(store: &Store, target: &Target, options: &Options) -> Result<Value, ApiError> {
    store.write(|transaction| delete_in(transaction, target, options))
}

fn delete_in(
    transaction: &mut Transaction<'_>,
    target: &Target,
    options: &Options,
) -> Result<Value, ApiError> {
    let resource = target.resource;
    let name = target.name.as_str();
    let key = resource.key(&target.namespace, name);
    let Some(old) = transaction.get(&key) else {
        return Err(ApiError::not_found(resource, name));
    };
    check_preconditions(resource, name, &old, options)?;
    if resource.is_namespace() && matches!(name, "default" | "kube-system") {
        let why = "this namespace may not be deleted";
        return Err(ApiError::forbidden(resource, name, why));
    }
    admission::admit_delete(resource, &old)?;
    let mut new = Value::clone(&old);
    if let Some(finalizer) = options.finalizer
        && !object::finalizers(&old).contains(&finalizer)
        && old["metadata"]["deletionTimestamp"].is_null()
    {
        let mut finalizers = old["metadata"]["finalizers"].clone();
        match finalizers.as_array_mut() {
            Some(list) => list.push(finalizer.into()),
            None => finalizers = json!([finalizer]),
        }
        new["metadata"]["finalizers"] = finalizers;
    }
    mark(resource, &mut new);
    if super::write::is_finished(&new) {
        if !options.dry_run {
            transaction.remove(key, Value::clone(&old))?;
        }
        return Ok(gone(resource, name, &old));
    }
    if options.dry_run || new == *old {
        return Ok(new);
    }
    Ok(Value::clone(&*transaction.put(key, new)?))
}

/// Marks an object as going away, once.
fn mark(resource: &Resource, object: &mut Value) {
    let metadata = &mut object["metadata"];
    if !metadata["deletionTimestamp"].is_null() {
        return;
    }
    metadata["deletionTimestamp"] = object::now().into();
    metadata["deletionGracePeriodSeconds"] = 0.into();
    if let Some(generation) = metadata["generation"].as_i64() {
        metadata["generation"] = (generation + 1).into();
    }
    if resource.is_namespace() {
        object::remove(&mut object["metadata"], "deletionGracePeriodSeconds");
        object["status"]["phase"] = "Terminating".into();
    }
}

fn gone(resource: &Resource, name: &str, object: &Value) -> Value {
    let mut details = json!({
        "name": name, "kind": resource.plural, "uid": object["metadata"]["uid"],
    });
    if !resource.group.is_empty() {
        details["group"] = resource.group.as_str().into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

fn check_preconditions(
    resource: &Resource,
    name: &str,
    object: &Value,
    options: &Options,
) -> Result<(), ApiError> {
    for (what, wanted, field, end) in [
        ("UID", &options.uid, "uid", "deleted and then recreated"),
        (
            "ResourceVersion",
            &options.resource_version,
            "resourceVersion",
            "modified",
        ),
    ] {
        let found = object["metadata"][field].as_str().unwrap_or_default();
        if let Some(wanted) = wanted
            && wanted != found
        {
            let why = format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record ({found}). \
                 The object might have been {end}"
            );
            return Err(ApiError::precondition(resource, name, &why));
        }
    }
    Ok(())
}

/// Deletes what a selector selects, one by one; returns the objects as they were.
pub(crate) fn delete_collection(
    store: &Store,
    target: &Target,
    selector: &Selector,
    options: &Options,
) -> Result<Vec<Arc<Value>>, ApiError> {
    let resource = target.resource;
    let (_, objects) = store.list(resource.stored_group(), &resource.plural, &target.namespace);
    let mut deleted = Vec::new();
    for (key, object) in objects {
        if !selector.matches(&object) {
            continue;
        }
        let one = Target {
            name: key.name,
            namespace: key.namespace,
            ..target.clone()
        };
        match delete(store, &one, options) {
            Ok(_) => deleted.push(object),
            // Somebody else was faster.
            Err(error) if error.code == http::StatusCode::NOT_FOUND => {}
            Err(error) => return Err(error),
        }
    }
    Ok(deleted)
}
