//! An object from what was sent to what is stored: envelope, metadata, schema, generation.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
pub(crate) use kubedb_api::admission::differs;
use rand::RngExt;
use serde_json::{Value, json};

use super::body::{self, Sent};
use super::resource::Resource;
use super::route::{Part, Query, Target};
use super::status::{ApiError, Cause};
use super::{events, kinds, names, schema};

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
    sent: Sent,
) -> Result<Normalised, ApiError> {
    let resource = target.resource;
    let mut object = sent.object;
    envelope(target, &mut object)?;
    if !resource.custom {
        no_nulls_in_maps(&mut object);
    }
    let dropped = metadata(resource, &mut object)?;
    if resource.is_new_event() {
        object = events::stored_event(object);
    }
    let schema = match resource.is_new_event() {
        true => {
            &super::resource::find("", "v1", "events")
                .unwrap_or(resource)
                .schema
        }
        false => &resource.schema,
    };
    schema::make_whole(schema, &mut object);
    let raw = object.clone();
    let mut findings = schema::check(schema, &mut object);
    findings.unknown.extend(dropped);
    findings.unknown.sort();
    match judge {
        Judge::All => {}
        Judge::Status => {
            findings
                .causes
                .retain(|cause| cause.field.starts_with("status"));
            // The status is judged by itself, and the words say so.
            for cause in &mut findings.causes {
                cause.message = cause.message.replacen("status.", "", 1);
            }
        }
        Judge::Nothing => findings.causes.clear(),
    }
    if !findings.causes.is_empty() {
        return Err(refuse(resource, &object, &findings.causes));
    }
    kinds::decode(resource, &object).map_err(|error| undecodable(resource, &error.to_string()))?;
    let warnings = doubtful_fields(resource, query, &findings.unknown, &sent.duplicates)?;
    Ok(Normalised {
        object,
        raw,
        warnings,
    })
}

/// Go reads a null in a map of texts as empty text.
fn no_nulls_in_maps(object: &mut Value) {
    let texts = |map: &mut Value| {
        for value in map
            .as_object_mut()
            .into_iter()
            .flat_map(|map| map.values_mut())
        {
            if value.is_null() {
                *value = "".into();
            }
        }
    };
    for field in ["data", "binaryData", "stringData"] {
        if let Some(map) = object.get_mut(field) {
            texts(map);
        }
    }
    for field in ["labels", "annotations"] {
        if let Some(map) = object["metadata"].get_mut(field) {
            texts(map);
        }
    }
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

fn doubtful_fields(
    resource: &Resource,
    query: &Query,
    unknown: &[String],
    duplicates: &[String],
) -> Result<Vec<String>, ApiError> {
    let twice = duplicates
        .iter()
        .map(|field| format!("duplicate field \"{field}\""));
    let unknown = unknown
        .iter()
        .map(|field| format!("unknown field \"{field}\""));
    let texts: Vec<String> = twice.chain(unknown).collect();
    match query.text("fieldValidation") {
        "Strict" if !texts.is_empty() => {
            let why = format!("strict decoding error: {}", texts.join(", "));
            Err(undecodable(resource, &why))
        }
        "Ignore" => Ok(Vec::new()),
        _ => Ok(texts),
    }
}

/// Checks `apiVersion` and `kind`. A core kind may leave them out, one of ours may not.
fn envelope(target: &Target, object: &mut Value) -> Result<(), ApiError> {
    let resource = target.resource;
    let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    let (found, found_kind) = (text("apiVersion"), text("kind"));
    let (wanted, kind) = (resource.api_version(), resource.kind.as_str());
    if resource.custom {
        if found_kind.is_empty() {
            return Err(body::unrecognized(resource, "Object 'Kind' is missing"));
        }
        if found != wanted {
            return Err(ApiError::bad_request(format!(
                "the API version in the data ({found}) does not match the expected API version ({wanted})"
            )));
        }
        if found_kind != kind {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let why = format!("must be {kind}");
            let cause = Cause::invalid("kind", &format!("{found_kind:?}"), &why);
            return Err(ApiError::invalid_kind(
                &resource.group,
                &found_kind,
                name,
                &[cause],
            ));
        }
        return Ok(());
    }
    let version = found.rsplit('/').next().unwrap_or_default();
    let foreign = |kind: &str, why: &str| {
        ApiError::bad_request(format!(
            "{kind} in version \"{version}\" cannot be handled as a {}: {why}",
            resource.kind
        ))
    };
    if !found.is_empty() && found != wanted {
        let kind = if found_kind.is_empty() {
            kind
        } else {
            &found_kind
        };
        let why = format!("no kind \"{kind}\" is registered for version \"{found}\"");
        return Err(foreign(kind, &why));
    }
    if !found_kind.is_empty() && found_kind != kind {
        let family = match resource.group.as_str() {
            "coordination.k8s.io" => "coordination",
            _ => "core",
        };
        let why =
            format!("converting ({version}.{found_kind}) to ({family}.{kind}): unknown conversion");
        return Err(foreign(&found_kind, &why));
    }
    object["apiVersion"] = wanted.into();
    object["kind"] = kind.into();
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
    let mut known = serde_json::to_value(&typed)
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
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        drop_empty(&mut known, field);
    }
    object["metadata"] = known;
    Ok(dropped)
}

/// Removes a map or list that holds nothing: Go never writes one.
pub(crate) fn drop_empty(object: &mut Value, field: &str) {
    let empty = match &object[field] {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    if empty {
        remove(object, field);
    }
}

/// Takes the namespace of the path, and the name where the path has one.
pub(crate) fn place(target: &Target, object: &mut Value) -> Result<(), ApiError> {
    if !object["metadata"].is_object() {
        if !object["metadata"].is_null() {
            return Err(undecodable(target.resource, "metadata is not an object"));
        }
        object["metadata"] = json!({});
    }
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
    // A name that is no text is for the decoder to refuse.
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

/// What Go says of a text that is no number.
pub(crate) fn unparsable(parser: &str, text: &str) -> String {
    format!("strconv.{parser}: parsing {text:?}: invalid syntax")
}

/// Checks the identity that an update claims against the stored object.
pub(crate) fn check_identity(
    resource: &Resource,
    name: &str,
    old: &Value,
    new: &Value,
    is_patch: bool,
) -> Result<(), ApiError> {
    if is_patch && is_another(old, new) {
        let why = "field is immutable";
        let wanted = metadata_text(new, "uid");
        let cause = Cause::invalid("metadata.uid", &format!("{wanted:?}"), why);
        return Err(ApiError::invalid(resource, name, &[cause]));
    }
    check_uid(resource, name, old, new)?;
    match metadata_text(new, "resourceVersion") {
        "" if resource.unconditional_update() => Ok(()),
        "" => Err(ApiError::unversioned(resource, name)),
        version if version.parse::<u64>().is_err() => {
            Err(ApiError::unexplained(&unparsable("ParseUint", version)))
        }
        version if version == metadata_text(old, "resourceVersion") => Ok(()),
        _ => Err(ApiError::modified(resource, name)),
    }
}

/// Refuses what names another UID than the object has. One that is absent has none.
pub(crate) fn check_uid(
    resource: &Resource,
    name: &str,
    old: &Value,
    new: &Value,
) -> Result<(), ApiError> {
    if !is_another(old, new) {
        return Ok(());
    }
    let (wanted, found) = (metadata_text(new, "uid"), metadata_text(old, "uid"));
    let why =
        format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}");
    Err(ApiError::conflict(resource, name, &why))
}

fn is_another(old: &Value, new: &Value) -> bool {
    let wanted = metadata_text(new, "uid");
    !wanted.is_empty() && wanted != metadata_text(old, "uid")
}

fn metadata_text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
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
