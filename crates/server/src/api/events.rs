//! Events: one store, two forms, and the rules of each.

use serde_json::{Value, json};

use super::names;
use super::object::{remove, set};
use super::resource::{self, Resource};
use super::status::{ApiError, Cause};

/// Characters of a note, and of what says who reports why.
const MAX_NOTE: usize = 1024;
const MAX_WORD: usize = 128;

/// Checks an Event that is about to be stored; `resource` says in which form it came.
pub(crate) fn prepare(resource: &Resource, event: &Value) -> Result<(), ApiError> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let namespace = text(&event["metadata"]["namespace"]);
    let about = text(&event["involvedObject"]["namespace"]);
    let mut causes = Vec::new();
    // An Event about something without a namespace lies in `default`.
    if about != namespace && !(about.is_empty() && namespace == "default") {
        let why = "does not match event.namespace";
        let value = format!("{about:?}");
        causes.push(Cause::invalid("involvedObject.namespace", &value, why));
    }
    if resource.is_new_event() {
        check_new(event, &mut causes);
    }
    refuse(event, &causes)
}

/// What the form of `events.k8s.io/v1` asks for. Its fields are told by their stored names.
fn check_new(event: &Value, causes: &mut Vec<Cause>) {
    let text = |field: &str| event[field].as_str().unwrap_or_default();
    if event["eventTime"].is_null() {
        causes.push(Cause::required("eventTime", ""));
    } else {
        for field in [
            "reportingComponent",
            "reportingInstance",
            "action",
            "reason",
        ] {
            let told = if field == "reportingComponent" {
                "reportingController"
            } else {
                field
            };
            if text(field).is_empty() {
                causes.push(Cause::required(told, ""));
            }
            if field == "reportingComponent" {
                let value = format!("{:?}", text(field));
                let faults = names::key_faults(text(field));
                causes.extend(faults.iter().map(|why| Cause::invalid(told, &value, why)));
            } else if text(field).len() > MAX_WORD {
                let why = format!("can have at most {MAX_WORD} characters");
                causes.push(Cause::invalid(told, "\"\"", &why));
            }
        }
    }
    if text("message").len() > MAX_NOTE {
        let why = format!("can have at most {MAX_NOTE} characters");
        causes.push(Cause::invalid("message", "\"\"", &why));
    }
    if !matches!(text("type"), "Normal" | "Warning") {
        let why = format!("has invalid value: {}", text("type"));
        causes.push(Cause::invalid("type", "\"\"", &why));
    }
}

/// In the new form, only the series of an Event goes on.
pub(crate) fn check_update(old: &Value, new: &Value) -> Result<(), ApiError> {
    let fields = [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "type",
        "eventTime",
        "action",
        "related",
        "reportingComponent",
        "reportingInstance",
    ];
    let causes: Vec<Cause> = fields
        .into_iter()
        .filter(|field| old[*field] != new[*field])
        .map(|field| Cause::invalid(field, &new[field].to_string(), "field is immutable"))
        .collect();
    refuse(new, &causes)
}

fn refuse(event: &Value, causes: &[Cause]) -> Result<(), ApiError> {
    if causes.is_empty() {
        return Ok(());
    }
    let resource = resource::find("", "v1", "events").ok_or_else(ApiError::no_such_path)?;
    let name = event["metadata"]["name"].as_str().unwrap_or_default();
    Err(ApiError::invalid(resource, name, causes))
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

/// The stored form as core/v1 shows it, with the fields that Go writes also when they say nothing.
pub(crate) fn presented_old(mut event: Value) -> Value {
    for (field, value) in [
        ("firstTimestamp", Value::Null),
        ("lastTimestamp", Value::Null),
        ("source", json!({})),
        ("eventTime", Value::Null),
        ("reportingComponent", "".into()),
        ("reportingInstance", "".into()),
    ] {
        fill(&mut event, field, value);
    }
    event
}

/// The stored form as `events.k8s.io/v1` shows it.
pub(crate) fn presented_new(event: Value) -> Value {
    let mut event = new_event(event);
    for (field, value) in [
        ("deprecatedFirstTimestamp", Value::Null),
        ("deprecatedLastTimestamp", Value::Null),
        ("deprecatedSource", json!({})),
        ("eventTime", Value::Null),
    ] {
        fill(&mut event, field, value);
    }
    event
}

/// Unlike an index, this leaves a null behind.
fn fill(event: &mut Value, field: &str, value: Value) {
    if let Some(map) = event.as_object_mut() {
        map.entry(field).or_insert(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_an_event_say_the_same() {
        let new = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
            "regarding": {"name": "pg"}, "note": "text", "reportingController": "operator", "reason": "R"});
        let stored = stored_event(new.clone());
        assert_eq!(stored["involvedObject"]["name"], "pg");
        assert_eq!(new_event(stored), new);
    }
}
