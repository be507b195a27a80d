//! What only one core kind needs: Secret data, immutability, Namespace phase, the two forms of Event.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace};
use serde::Deserialize;
use serde_json::{Value, json};

use super::events::prepare as prepare_event;
use super::object::{drop_empty, remove};
use super::resource::Resource;
use super::status::{ApiError, Cause};

/// Keys and values of a Secret or ConfigMap together.
const MAX_DATA: usize = 1 << 20;

/// Decodes a core kind as a typed client will: a time that is none must not come back to it. Secrets are checked by
/// `prepare`, whose words never hold a value.
pub(crate) fn decode(resource: &Resource, object: &Value) -> Result<(), serde_json::Error> {
    check_microtimes(resource, object)?;
    match resource.plural.as_str() {
        "namespaces" => Namespace::deserialize(object).map(drop),
        "configmaps" => ConfigMap::deserialize(object).map(drop),
        "events" => Event::deserialize(object).map(drop),
        "leases" => Lease::deserialize(object).map(drop),
        _ => Ok(()),
    }
}

/// Defaults of a core kind that is about to be stored; `old` on an update.
pub(crate) fn prepare(
    resource: &Resource,
    old: Option<&Value>,
    object: &mut Value,
) -> Result<(), ApiError> {
    match resource.plural.as_str() {
        "secrets" => prepare_secret(resource, old, object),
        "configmaps" => prepare_config_map(resource, old, object),
        "namespaces" if old.is_none() => {
            object["spec"] = json!({"finalizers": ["kubernetes"]});
            object["status"] = json!({"phase": "Active"});
            Ok(())
        }
        "events" if old.is_none() => prepare_event(resource, object),
        "leases" => check_lease(resource, object),
        _ => Ok(()),
    }
}

/// The label by which a Namespace is selected by name.
pub(crate) fn label(resource: &Resource, object: &mut Value) {
    if resource.is_namespace() {
        let name = object["metadata"]["name"].clone();
        object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
    }
}

fn check_lease(resource: &Resource, lease: &Value) -> Result<(), ApiError> {
    let mut causes = Vec::new();
    for (field, least, why) in [
        ("leaseDurationSeconds", 1, "must be greater than 0"),
        ("leaseTransitions", 0, "must be greater than or equal to 0"),
    ] {
        let value = &lease["spec"][field];
        if value.as_i64().is_some_and(|number| number < least) {
            causes.push(Cause::invalid(
                &format!("spec.{field}"),
                &value.to_string(),
                why,
            ));
        }
    }
    finish(resource, &name_of(lease), &causes)
}

/// Times with microseconds have six digits after the point, no more and no less.
fn check_microtimes(resource: &Resource, object: &Value) -> Result<(), serde_json::Error> {
    use serde::de::Error as _;
    let times = match resource.plural.as_str() {
        "leases" => [&object["spec"]["acquireTime"], &object["spec"]["renewTime"]],
        "events" => [&object["eventTime"], &object["series"]["lastObservedTime"]],
        _ => return Ok(()),
    };
    for text in times.into_iter().filter_map(Value::as_str) {
        let digits = text.split_once('.').map_or(0, |(_, fraction)| {
            fraction.bytes().take_while(u8::is_ascii_digit).count()
        });
        if digits != 6 {
            return Err(serde_json::Error::custom(format!(
                "parsing time {text:?}: it must have six digits after the point"
            )));
        }
    }
    Ok(())
}

fn prepare_secret(
    resource: &Resource,
    old: Option<&Value>,
    secret: &mut Value,
) -> Result<(), ApiError> {
    let name = name_of(secret);
    if secret["type"].as_str().unwrap_or_default().is_empty() {
        secret["type"] = "Opaque".into();
    }
    if let Value::Object(texts) = secret["stringData"].take() {
        for (key, text) in texts {
            secret["data"][key] = STANDARD.encode(text.as_str().unwrap_or_default()).into();
        }
    }
    remove(secret, "stringData");
    drop_empty(secret, "data");
    let mut causes = Vec::new();
    let mut size = 0;
    for (key, value) in secret["data"].as_object().into_iter().flatten() {
        let text = value.as_str().unwrap_or_default();
        let bytes = STANDARD.decode(text).map_err(|error| {
            // The value itself must not be told.
            ApiError::bad_request(format!(
                "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data in data[{key}]: {error}"
            ))
        })?;
        size += bytes.len();
        check_key("data", key, &mut causes);
    }
    check_size("data", size, &mut causes);
    check_wanted_keys(secret, &mut causes);
    if let Some(old) = old {
        if old["type"] != secret["type"] {
            causes.push(immutable("type", &secret["type"]));
        }
        check_frozen(old, secret, &["data"], &mut causes);
    }
    finish(resource, &name, &causes)
}

/// Types of Secrets that promise keys.
fn check_wanted_keys(secret: &Value, causes: &mut Vec<Cause>) {
    let wanted: &[&str] = match secret["type"].as_str().unwrap_or_default() {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/basic-auth" => &["username", "password"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        _ => &[],
    };
    let missing = |key: &str| secret["data"].get(key).is_none();
    // A user without a password is one, and the other way round.
    if wanted.contains(&"username") && !wanted.iter().all(|key| missing(key)) {
        return;
    }
    for key in wanted.iter().filter(|key| missing(key)) {
        causes.push(Cause::required(&format!("data[{key}]"), ""));
    }
}

fn prepare_config_map(
    resource: &Resource,
    old: Option<&Value>,
    map: &mut Value,
) -> Result<(), ApiError> {
    let name = name_of(map);
    drop_empty(map, "data");
    drop_empty(map, "binaryData");
    let mut causes = Vec::new();
    for key in map["data"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key)
    {
        if map["binaryData"].get(key).is_some() {
            let why = "duplicate of key present in binaryData";
            causes.push(Cause::invalid(
                &format!("data[{key}]"),
                &format!("{key:?}"),
                why,
            ));
        }
    }
    let mut size = 0;
    for field in ["data", "binaryData"] {
        for (key, value) in map[field].as_object().into_iter().flatten() {
            size += value.as_str().map_or(0, str::len);
            check_key(field, key, &mut causes);
            if field == "binaryData" && STANDARD.decode(value.as_str().unwrap_or_default()).is_err()
            {
                return Err(ApiError::bad_request(format!(
                    "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: illegal base64 data in \
                     binaryData[{key}]"
                )));
            }
        }
    }
    check_size("[]", size, &mut causes);
    if let Some(old) = old {
        check_frozen(old, map, &["data", "binaryData"], &mut causes);
    }
    finish(resource, &name, &causes)
}

fn name_of(object: &Value) -> String {
    object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn finish(resource: &Resource, name: &str, causes: &[Cause]) -> Result<(), ApiError> {
    if causes.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid(resource, name, causes))
    }
}

fn immutable(field: &str, value: &Value) -> Cause {
    Cause::invalid(field, &value.to_string(), "field is immutable")
}

/// An object marked immutable keeps its data and its mark. Its data is not told.
fn check_frozen(old: &Value, new: &Value, fields: &[&str], causes: &mut Vec<Cause>) {
    if old["immutable"] != true {
        return;
    }
    let why = "field is immutable when `immutable` is set";
    if new["immutable"] != true {
        causes.push(Cause::forbidden("immutable", why));
    }
    for field in fields {
        if old[field] != new[field] {
            causes.push(Cause::forbidden(field, why));
        }
    }
}

fn check_key(field: &str, key: &str, causes: &mut Vec<Cause>) {
    let characters = key
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    let field = format!("{field}[{key}]");
    let mut invalid = |why: &str| causes.push(Cause::invalid(&field, &format!("{key:?}"), why));
    if key.len() > 253 {
        invalid("must be no more than 253 characters");
    }
    if key.is_empty() || !characters {
        let why = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
        invalid(why);
    }
    match key {
        "." | ".." => invalid(&format!("must not be '{key}'")),
        _ if key.starts_with("..") => invalid("must not start with '..'"),
        _ => {}
    }
}

fn check_size(field: &str, size: usize, causes: &mut Vec<Cause>) {
    if size > MAX_DATA {
        causes.push(Cause {
            reason: "FieldValueTooLong",
            field: field.to_owned(),
            message: format!("Too long: may not be more than {MAX_DATA} bytes"),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::resource;
    use super::*;

    #[test]
    fn secrets_take_text_and_never_tell_it() {
        let secrets = resource::find("", "v1", "secrets").unwrap();
        let mut secret = json!({"metadata": {"name": "s"}, "data": {"a": "eA=="}, "stringData": {"a": "y", "b": "z"}});
        prepare(secrets, None, &mut secret).unwrap();
        assert_eq!(secret["data"], json!({"a": "eQ==", "b": "eg=="}));
        assert!(secret.get("stringData").is_none());
        let mut bad = json!({"metadata": {"name": "s"}, "data": {"a": "hunter2!"}});
        let error = prepare(secrets, None, &mut bad).unwrap_err();
        assert!(
            error.code == 400 && !error.message.contains("hunter2"),
            "{}",
            error.message
        );
    }

    #[test]
    fn immutable_means_it() {
        let secrets = resource::find("", "v1", "secrets").unwrap();
        let old = json!({"metadata": {"name": "s"}, "type": "Opaque", "immutable": true, "data": {"a": "eA=="}});
        let mut new = json!({"metadata": {"name": "s"}, "type": "Opaque", "data": {"a": "eQ=="}});
        let error = prepare(secrets, Some(&old), &mut new).unwrap_err();
        assert_eq!(error.details["causes"].as_array().unwrap().len(), 2);
    }
}
