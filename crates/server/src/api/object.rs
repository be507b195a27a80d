//! An object from what was sent to what is stored: envelope, metadata, schema, generation.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rand::RngExt;
use serde_json::{Value, json};

use super::resource::Resource;
use super::route::{Part, Query, Target};
use super::status::{ApiError, Cause};
use super::{kinds, names, schema};

/// Characters of generated names, as in kube-apiserver: no vowels, so no words.
const NAME_CHARACTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Length of a generated name's random end.
const NAME_RANDOM: usize = 5;
/// Length of a generated name.
const NAME_LENGTH: usize = 63;

/// What was sent, brought into the stored form.
#[derive(Debug)]
pub(crate) struct Normalised {
    pub(crate) object: Value,
    /// The same before unknown fields were removed.
    pub(crate) raw: Value,
    /// For the `Warning` header.
    pub(crate) warnings: Vec<String>,
}

/// Now, as Kubernetes writes it: whole seconds.
pub(crate) fn now() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

/// Which findings of the schema count. What was stored once stays writable, whatever the schema has become since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judge {
    All,
    Status,
    Nothing,
}

/// Checks the envelope of what was sent and brings metadata and fields into the stored form. `spec.version` and
/// everything else that the schema leaves open stays as it was sent.
pub(crate) fn normalise(
    target: &Target,
    query: &Query,
    judge: Judge,
    mut object: Value,
) -> Result<Normalised, ApiError> {
    let resource = target.resource;
    envelope(resource, &mut object)?;
    let dropped = metadata(resource, &mut object)?;
    if resource.is_new_event() {
        object = kinds::stored_event(object);
    }
    let schema = match resource.is_new_event() {
        true => {
            &super::resource::find("", "v1", "events")
                .unwrap_or(resource)
                .schema
        }
        false => &resource.schema,
    };
    let raw = object.clone();
    let mut findings = schema::check(schema, &mut object);
    findings.unknown.extend(dropped);
    match judge {
        Judge::All => {}
        Judge::Status => findings
            .causes
            .retain(|cause| cause.field.starts_with("status")),
        Judge::Nothing => findings.causes.clear(),
    }
    if !findings.causes.is_empty() {
        return Err(refuse(resource, &object, &findings.causes));
    }
    kinds::decode(resource, &object).map_err(|error| undecodable(resource, &error.to_string()))?;
    let warnings = unknown_fields(resource, query, &findings.unknown)?;
    Ok(Normalised {
        object,
        raw,
        warnings,
    })
}

fn refuse(resource: &Resource, object: &Value, causes: &[Cause]) -> ApiError {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if resource.custom {
        return ApiError::invalid(resource, name, causes);
    }
    // kube-apiserver fails to decode a core kind before it validates it.
    let texts: Vec<String> = causes
        .iter()
        .map(|cause| format!("{}: {}", cause.field, cause.message))
        .collect();
    undecodable(resource, &texts.join(", "))
}

fn undecodable(resource: &Resource, why: &str) -> ApiError {
    ApiError::bad_request(format!(
        "{kind} in version \"{}\" cannot be handled as a {kind}: {why}",
        resource.version,
        kind = resource.kind
    ))
}

fn unknown_fields(
    resource: &Resource,
    query: &Query,
    unknown: &[String],
) -> Result<Vec<String>, ApiError> {
    let texts = || {
        unknown
            .iter()
            .map(|field| format!("unknown field \"{field}\""))
    };
    match query.text("fieldValidation") {
        _ if unknown.is_empty() => Ok(Vec::new()),
        "Strict" => {
            let list: Vec<String> = texts().collect();
            let why = format!("strict decoding error: {}", list.join(", "));
            Err(undecodable(resource, &why))
        }
        "Ignore" => Ok(Vec::new()),
        _ => Ok(texts().collect()),
    }
}

fn envelope(resource: &Resource, object: &mut Value) -> Result<(), ApiError> {
    if !object.is_object() {
        return Err(undecodable(resource, "the body is not an object"));
    }
    for (field, wanted, what) in [
        ("apiVersion", resource.api_version(), "API version"),
        ("kind", resource.kind.clone(), "kind"),
    ] {
        match object[field].as_str() {
            None | Some("") => object[field] = wanted.into(),
            Some(found) if found == wanted => {}
            Some(found) => {
                return Err(ApiError::bad_request(format!(
                    "the {what} in the data ({found}) does not match the expected {what} ({wanted})"
                )));
            }
        }
    }
    Ok(())
}

/// Brings metadata into the stored form; returns the paths of unknown fields.
fn metadata(resource: &Resource, object: &mut Value) -> Result<Vec<String>, ApiError> {
    let sent = match object["metadata"].take() {
        Value::Null => json!({}),
        sent => sent,
    };
    let mut typed: ObjectMeta = serde_json::from_value(sent.clone())
        .map_err(|error| undecodable(resource, &format!("metadata: {error}")))?;
    // Nobody reads who set which field, and apply by the server is refused.
    typed.managed_fields = None;
    typed.self_link = None;
    let known = serde_json::to_value(&typed)
        .map_err(|error| undecodable(resource, &format!("metadata: {error}")))?;
    let dropped = sent
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(field, value)| {
            !value.is_null()
                && known.get(field).is_none()
                && !matches!(field.as_str(), "managedFields" | "selfLink")
        })
        .map(|(field, _)| format!("metadata.{field}"))
        .collect();
    object["metadata"] = known;
    Ok(dropped)
}

/// Takes the namespace of the path, and the name where the path has one.
pub(crate) fn place(target: &Target, object: &mut Value) -> Result<(), ApiError> {
    let metadata = &mut object["metadata"];
    let namespace = metadata["namespace"].as_str().unwrap_or_default();
    if !namespace.is_empty() && namespace != target.namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let name = metadata["name"].as_str().unwrap_or_default();
    if !target.name.is_empty() && !name.is_empty() && name != target.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    if !target.name.is_empty() {
        metadata["name"] = target.name.as_str().into();
    }
    if target.resource.namespaced {
        metadata["namespace"] = target.namespace.as_str().into();
    } else {
        remove(metadata, "namespace");
    }
    Ok(())
}

/// Gives a new object its name, uid, time and generation.
pub(crate) fn begin(resource: &Resource, object: &mut Value) {
    let metadata = &mut object["metadata"];
    for field in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "resourceVersion",
        "generation",
    ] {
        remove(metadata, field);
    }
    let prefix = metadata["generateName"].as_str().unwrap_or_default();
    if metadata["name"].as_str().unwrap_or_default().is_empty() && !prefix.is_empty() {
        metadata["name"] = generate_name(prefix).into();
    }
    metadata["uid"] = uuid::Uuid::new_v4().to_string().into();
    metadata["creationTimestamp"] = now().into();
    if resource.custom {
        metadata["generation"] = 1.into();
        if resource.status {
            remove(object, "status");
        }
    }
}

fn generate_name(prefix: &str) -> String {
    let mut random = rand::rng();
    let kept = prefix.chars().take(NAME_LENGTH - NAME_RANDOM);
    let end = (0..NAME_RANDOM)
        .map(|_| char::from(NAME_CHARACTERS[random.random_range(0..NAME_CHARACTERS.len())]));
    kept.chain(end).collect()
}

/// Checks the identity that an update claims against the stored object.
pub(crate) fn check_identity(
    resource: &Resource,
    name: &str,
    old: &Value,
    new: &Value,
) -> Result<(), ApiError> {
    let text = |object: &Value, field: &str| -> String {
        object["metadata"][field]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let (wanted, found) = (text(new, "uid"), text(old, "uid"));
    if !wanted.is_empty() && wanted != found {
        let why = format!(
            "Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"
        );
        return Err(ApiError::conflict(resource, name, &why));
    }
    match text(new, "resourceVersion").as_str() {
        "" if resource.unconditional_update() => Ok(()),
        "" => {
            let why = "must be specified for an update";
            let cause = Cause::invalid("metadata.resourceVersion", "0x0", why);
            Err(ApiError::invalid(resource, name, &[cause]))
        }
        version if version == text(old, "resourceVersion") => Ok(()),
        _ => Err(ApiError::modified(resource, name)),
    }
}

/// Takes from an update only what its part may change, and carries the rest over.
pub(crate) fn carry_over(target: &Target, old: &Value, mut new: Value) -> Result<Value, ApiError> {
    let resource = target.resource;
    match target.part {
        Part::Status => {
            let mut object = old.clone();
            set(&mut object, "status", new["status"].take());
            return Ok(object);
        }
        Part::Finalize => {
            let mut object = old.clone();
            object["spec"]["finalizers"] = new["spec"]["finalizers"].take();
            return Ok(object);
        }
        Part::Main => {}
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "resourceVersion",
    ] {
        let kept = old["metadata"].get(field).cloned();
        set(&mut new["metadata"], field, kept.unwrap_or(Value::Null));
    }
    if resource.status {
        set(&mut new, "status", old["status"].clone());
    }
    if resource.is_namespace() {
        set(&mut new, "spec", old["spec"].clone());
    }
    check_finalizers(resource, &target.name, old, &new)?;
    Ok(new)
}

/// Counts the generation on when anything but metadata and status changed.
pub(crate) fn count_generation(resource: &Resource, old: &Value, new: &mut Value) {
    if resource.custom && differs(old, new) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        new["metadata"]["generation"] = (generation + 1).into();
    }
}

/// Whether anything but metadata and status differs.
pub(crate) fn differs(old: &Value, new: &Value) -> bool {
    let fields = |object: &Value| -> Vec<(String, Value)> {
        object
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(field, _)| !matches!(field.as_str(), "metadata" | "status"))
            .map(|(field, value)| (field.clone(), value.clone()))
            .collect()
    };
    fields(old) != fields(new)
}

fn check_finalizers(
    resource: &Resource,
    name: &str,
    old: &Value,
    new: &Value,
) -> Result<(), ApiError> {
    if old["metadata"]["deletionTimestamp"].is_null() {
        return Ok(());
    }
    let before = finalizers(old);
    let added: Vec<String> = finalizers(new)
        .into_iter()
        .filter(|finalizer| !before.contains(finalizer))
        .map(|finalizer| format!("{finalizer:?}"))
        .collect();
    if added.is_empty() {
        return Ok(());
    }
    let why = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        added.join(", ")
    );
    let cause = Cause::forbidden("metadata.finalizers", &why);
    Err(ApiError::invalid(resource, name, &[cause]))
}

/// Finalizers in metadata.
pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    object["metadata"]["finalizers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// Checks names, labels, annotations and finalizers.
pub(crate) fn check_metadata(resource: &Resource, object: &Value) -> Result<(), ApiError> {
    let causes = names::check(resource, &object["metadata"]);
    if causes.is_empty() {
        return Ok(());
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    Err(ApiError::invalid(resource, name, &causes))
}

/// Sets a field, or removes it when the value is null.
pub(crate) fn set(object: &mut Value, field: &str, value: Value) {
    if value.is_null() {
        remove(object, field);
    } else {
        object[field] = value;
    }
}

/// Removes a field.
pub(crate) fn remove(object: &mut Value, field: &str) {
    if let Some(map) = object.as_object_mut() {
        map.remove(field);
    }
}
