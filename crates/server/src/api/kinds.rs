//! What only one core kind needs: Secret data, immutability, Namespace phase, the two forms of Event.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace};
use serde::Deserialize;
use serde_json::{Value, json};

use super::object::{remove, set};
use super::resource::Resource;
use super::status::{ApiError, Cause};

/// Keys and values of a Secret or ConfigMap together.
const MAX_DATA: usize = 1 << 20;

/// Decodes a core kind as a typed client will: a time that is none must not come back to it. Secrets are checked by
/// `prepare`, whose words never hold a value.
pub(crate) fn decode(resource: &Resource, object: &Value) -> Result<(), serde_json::Error> {
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
            let name = object["metadata"]["name"].clone();
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
            object["spec"] = json!({"finalizers": ["kubernetes"]});
            object["status"] = json!({"phase": "Active"});
            Ok(())
        }
        "events" => prepare_event(object),
        _ => Ok(()),
    }
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
    if let Some(old) = old {
        if old["type"] != secret["type"] {
            causes.push(immutable("type", &secret["type"]));
        }
        check_frozen(old, secret, &["data"], &mut causes);
    }
    finish(resource, &name, &causes)
}

fn prepare_config_map(
    resource: &Resource,
    old: Option<&Value>,
    map: &mut Value,
) -> Result<(), ApiError> {
    let name = name_of(map);
    let mut causes = Vec::new();
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
    check_size("", size, &mut causes);
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
    if key.is_empty() || key.len() > 253 || !characters || key == "." || key.starts_with("..") {
        let why = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
        causes.push(Cause::invalid(
            &format!("{field}[{key}]"),
            &format!("{key:?}"),
            why,
        ));
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

fn prepare_event(event: &mut Value) -> Result<(), ApiError> {
    let namespace = event["metadata"]["namespace"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let about = &mut event["involvedObject"];
    match about["namespace"].as_str().unwrap_or_default() {
        // An Event about something without a namespace lies in `default`.
        "" if namespace == "default" => Ok(()),
        found if found == namespace => Ok(()),
        found => {
            let why = "does not match event.namespace";
            let cause = Cause::invalid("involvedObject.namespace", &format!("{found:?}"), why);
            let resource =
                super::resource::find("", "v1", "events").ok_or_else(ApiError::no_such_path)?;
            Err(ApiError::invalid(resource, "", &[cause]))
        }
    }
}

/// Fields of `events.k8s.io/v1` and what they are called in core/v1.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// From `events.k8s.io/v1` to the stored form.
pub(crate) fn stored_event(mut event: Value) -> Value {
    for (new, stored) in EVENT_FIELDS {
        let value = event[*new].take();
        remove(&mut event, new);
        if !value.is_null() {
            event[*stored] = value;
        }
    }
    event["apiVersion"] = "v1".into();
    event
}

/// From the stored form to `events.k8s.io/v1`.
pub(crate) fn new_event(mut event: Value) -> Value {
    for (new, stored) in EVENT_FIELDS {
        let value = event[*stored].take();
        remove(&mut event, stored);
        set(&mut event, new, value);
    }
    event["apiVersion"] = "events.k8s.io/v1".into();
    event
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

    #[test]
    fn both_forms_of_an_event_say_the_same() {
        let new = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
            "regarding": {"name": "pg"}, "note": "text", "reportingController": "operator", "reason": "R"});
        let stored = stored_event(new.clone());
        assert_eq!(stored["involvedObject"]["name"], "pg");
        assert_eq!(new_event(stored), new);
    }
}
