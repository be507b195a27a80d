//! Create, update and patch. All of it blocks for a disk flush.

use std::sync::Arc;

use http::StatusCode;
use serde_json::Value;

use super::body::Sent;
use super::object::{self, Judge, Normalised};
use super::patch::Patch;
use super::resource;
use super::route::{Part, Query, Target};
use super::status::ApiError;
use super::{admission, events, kinds};
use crate::storage::{Store, Transaction};

/// What was written, or would have been.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) code: StatusCode,
    /// In the stored form.
    pub(crate) object: Arc<Value>,
    /// For the `Warning` header.
    pub(crate) warnings: Vec<String>,
}

/// Creates an object.
pub(crate) fn create(
    store: &Store,
    target: &Target,
    query: &Query,
    sent: impl Into<Sent>,
) -> Result<Written, ApiError> {
    let sent = sent.into();
    let version = sent.object["metadata"]["resourceVersion"].as_str();
    if version.is_some_and(|version| !version.is_empty()) {
        return Err(ApiError::unexplained(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    let dry_run = query.change("CreateOptions")?;
    store.write(|transaction| insert(transaction, target, query, sent, dry_run))
}

/// Replaces an object by `body`, within the limits of the target's part.
pub(crate) fn update(
    store: &Store,
    target: &Target,
    query: &Query,
    sent: Sent,
) -> Result<Written, ApiError> {
    let dry_run = query.change("UpdateOptions")?;
    if sent.object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .is_empty()
    {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            target.name
        )));
    }
    store.write(|transaction| {
        let absent = transaction.get(&key(target)).is_none();
        if absent && target.resource.creates_on_update() {
            // Who names a UID means one that was there.
            object::check_uid(target.resource, &target.name, &Value::Null, &sent.object)?;
            return insert(transaction, target, query, sent, dry_run);
        }
        change(transaction, target, query, dry_run, Edit::Replace(sent))
    })
}

/// Patches an object, within the limits of the target's part.
pub(crate) fn patch(
    store: &Store,
    target: &Target,
    query: &Query,
    patch: &Patch,
) -> Result<Written, ApiError> {
    let dry_run = query.change("PatchOptions")?;
    store.write(|transaction| change(transaction, target, query, dry_run, Edit::Patch(patch)))
}

/// How an object is changed.
enum Edit<'a> {
    Replace(Sent),
    Patch(&'a Patch),
}

fn key(target: &Target) -> crate::storage::Key {
    target.resource.key(&target.namespace, &target.name)
}

fn insert(
    transaction: &mut Transaction<'_>,
    target: &Target,
    query: &Query,
    mut sent: Sent,
    dry_run: bool,
) -> Result<Written, ApiError> {
    let resource = target.resource;
    object::place(target, &mut sent.object)?;
    let Normalised {
        mut object,
        raw,
        warnings,
    } = object::normalise(target, query, Judge::All, sent)?;
    object::begin(resource, &mut object);
    kinds::label(resource, &mut object);
    let name = object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    admit_namespace(transaction, target, &name)?;
    object::check_metadata(resource, &object)?;
    kinds::prepare(resource, None, &mut object)?;
    admission::admit(transaction, resource, None, &raw, &mut object)?;
    let key = resource.key(&target.namespace, &name);
    if let Some(found) = transaction.get(&key) {
        return Err(if found["metadata"]["deletionTimestamp"].is_null() {
            ApiError::already_exists(resource, &name)
        } else {
            ApiError::going(resource, &name)
        });
    }
    let object = if dry_run {
        Arc::new(object)
    } else {
        transaction.put_within(key, object, STORED_MAX)?
    };
    Ok(Written {
        code: StatusCode::CREATED,
        object,
        warnings,
    })
}

/// Nothing is created in a namespace that is absent or going away.
fn admit_namespace(
    transaction: &Transaction<'_>,
    target: &Target,
    name: &str,
) -> Result<(), ApiError> {
    if !target.resource.namespaced {
        return Ok(());
    }
    let Some(namespaces) = resource::find("", "v1", "namespaces") else {
        return Ok(());
    };
    let namespace = target.namespace.as_str();
    let Some(found) = transaction.get(&namespaces.key("", namespace)) else {
        return Err(ApiError::not_found(namespaces, namespace));
    };
    if found["metadata"]["deletionTimestamp"].is_null() {
        return Ok(());
    }
    let why = format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    );
    let told = format!("namespace {namespace} is being terminated");
    Err(ApiError::forbidden(target.resource, name, &why).with_cause(
        "NamespaceTerminating",
        &told,
        "metadata.namespace",
    ))
}

fn change(
    transaction: &mut Transaction<'_>,
    target: &Target,
    query: &Query,
    dry_run: bool,
    edit: Edit<'_>,
) -> Result<Written, ApiError> {
    let resource = target.resource;
    let key = key(target);
    let Some(old) = transaction.get(&key) else {
        return Err(ApiError::not_found(resource, &target.name));
    };
    let is_patch = matches!(edit, Edit::Patch(_));
    let mut sent = match edit {
        Edit::Replace(sent) => sent,
        Edit::Patch(patch) if resource.is_new_event() => {
            patch.apply(&events::new_event(Value::clone(&old)))?.into()
        }
        Edit::Patch(patch) => patch.apply(&old)?.into(),
    };
    object::place(target, &mut sent.object)?;
    let judge = match target.part {
        Part::Status => Judge::Status,
        Part::Main if object::differs(&old, &sent.object) => Judge::All,
        _ => Judge::Nothing,
    };
    let patched = is_patch.then(|| sent.object.clone());
    let Normalised {
        object,
        raw,
        warnings,
    } = object::normalise(target, query, judge, sent).map_err(|error| match &patched {
        Some(patched) if error.code == StatusCode::BAD_REQUEST => {
            ApiError::bad_patch(patched, error.why_undecodable())
        }
        _ => error,
    })?;
    object::check_identity(resource, &target.name, &old, &object, is_patch)?;
    let mut new = object::carry_over(target, &old, object)?;
    if target.part == Part::Main {
        kinds::label(resource, &mut new);
        object::check_metadata(resource, &new)?;
        kinds::prepare(resource, Some(&old), &mut new)?;
        if resource.is_new_event() {
            events::check_update(&old, &new)?;
        }
        admission::admit(transaction, resource, Some(&old), &raw, &mut new)?;
        object::count_generation(resource, &old, &mut new);
    }
    let written = |object| Written {
        code: StatusCode::OK,
        object,
        warnings,
    };
    if dry_run {
        return Ok(written(Arc::new(new)));
    }
    if is_finished(&new) {
        transaction.remove(key, Value::clone(&old))?;
        // Watches are told the last state that was stored, the caller what it asked for.
        return Ok(written(Arc::new(new)));
    }
    // What changes nothing wakes nobody.
    if new == *old {
        return Ok(written(old));
    }
    Ok(written(transaction.put_within(key, new, STORED_MAX)?))
}

/// Bytes of a stored object at most, as etcd takes them. A body may have more; what was written here must fit there too.
const STORED_MAX: usize = 1536 << 10;

/// Whether an object was deleted, and its last finalizer is gone.
pub(crate) fn is_finished(object: &Value) -> bool {
    let namespace_finalizers = object["spec"]["finalizers"].as_array();
    let holds_content = object["kind"] == "Namespace"
        && namespace_finalizers.is_some_and(|finalizers| !finalizers.is_empty());
    !object["metadata"]["deletionTimestamp"].is_null()
        && object::finalizers(object).is_empty()
        && !holds_content
}
