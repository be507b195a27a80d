//! What an edit changes, and what it may not.

use kubedb_api::validate::validate_postgres_update;
use serde_json::{Map, Value, json};

use crate::client::kinds::Kind;

/// Fields that name an object or belong to the operator, as the original lists them, and where they lie.
const ALWAYS: &[(&str, &[&str])] = &[
    ("apiVersion", &["/apiVersion"]),
    ("kind", &["/kind"]),
    ("name", &["/metadata/name"]),
    ("namespace", &["/metadata/namespace"]),
    ("status", &["/status"]),
];

const DORMANT_DATABASE: &[(&str, &[&str])] = &[("spec.origin", &["/spec/origin"])];

/// Why an edit is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The original's list.
    pub(super) message: String,
    /// Which of the list it was.
    pub(super) hint: Option<String>,
}

/// What the user sees: no status, and nothing that the server keeps for itself.
pub(super) fn editable(mut object: Value) -> Value {
    if let Some(map) = object.as_object_mut() {
        map.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    object
}

/// Whether two versions of an object differ in nothing that the user saw.
pub(super) fn same_for_user(one: &Value, other: &Value) -> bool {
    let without_version = |value: &Value| {
        let mut value = editable(value.clone());
        if let Some(metadata) = value["metadata"].as_object_mut() {
            metadata.remove("resourceVersion");
        }
        value
    };
    without_version(one) == without_version(other)
}

/// The original's refusal, if a field was changed that may not be.
pub(super) fn refusal(kind: &Kind, old: &Value, new: &Value) -> Option<Refusal> {
    let own = || match kind.kind {
        // The server asks the same function; asking it here keeps the user's text without a second opinion.
        "Postgres" => validate_postgres_update(old, new)
            .into_iter()
            .next()
            .map(|error| Refusal {
                message: error.message,
                hint: error.hint,
            }),
        "DormantDatabase" => listed(DORMANT_DATABASE, old, new),
        _ => None,
    };
    listed(ALWAYS, old, new).or_else(own)
}

fn listed(fields: &[(&str, &[&str])], old: &Value, new: &Value) -> Option<Refusal> {
    let is_changed = |paths: &[&str]| paths.iter().any(|path| is_changed(path, old, new));
    let changed: Vec<&str> = fields
        .iter()
        .filter(|(_, paths)| is_changed(paths))
        .map(|(name, _)| *name)
        .collect();
    let all: String = fields
        .iter()
        .map(|(name, _)| format!("\n\t{name}"))
        .collect();
    (!changed.is_empty()).then(|| Refusal {
        message: format!("At least one of the following was changed:{all}"),
        hint: Some(format!("changed here: {}", changed.join(", "))),
    })
}

fn is_changed(path: &str, old: &Value, new: &Value) -> bool {
    let at = |object: &Value| {
        object
            .pointer(path)
            .filter(|value| !value.is_null())
            .cloned()
    };
    at(old) != at(new)
}

/// A JSON merge patch from `old` to `new`; `None` when nothing changes.
pub(super) fn merge_patch(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut patch = Map::new();
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in after {
        let change = match before.get(key) {
            None => Some(value.clone()),
            // A map that replaces something else must be merged into nothing: nulls in it mean nothing then.
            Some(earlier) => merge_patch(earlier, value),
        };
        if let Some(change) = change {
            patch.insert(key.clone(), change);
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// Makes the server refuse the patch when the object has changed since.
pub(super) fn pinned(patch: &Value, version: Option<&str>) -> Value {
    let mut patch = patch.clone();
    if let (Some(version), Some(map)) = (version, patch.as_object_mut()) {
        let metadata = map.entry("metadata").or_insert_with(|| json!({}));
        metadata["resourceVersion"] = version.into();
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::kinds;

    fn database() -> Value {
        json!({
            "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres",
            "metadata": { "name": "p", "namespace": "demo", "resourceVersion": "7" },
            "spec": {
                "version": 9.6, "replicas": 3,
                "backupSchedule": { "cronExpression": "@every 6h", "gcs": { "bucket": "kubedb" } }
            },
            "status": { "phase": "Running" }
        })
    }

    fn changed(path: &str, value: Value) -> Value {
        let mut object = database();
        let (parent, key) = path.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[key] = value;
        object
    }

    #[test]
    fn patches_lead_from_old_to_new() {
        let mut disabled = database();
        disabled["spec"]
            .as_object_mut()
            .unwrap()
            .remove("backupSchedule");
        let more = changed("/spec/backupSchedule/cronExpression", json!("@daily"));
        for (old, new) in [
            (database(), disabled.clone()),
            (disabled, database()),
            (database(), more),
        ] {
            let patch = merge_patch(&old, &new).unwrap();
            let mut patched = old.clone();
            json_patch::merge(&mut patched, &patch);
            assert_eq!(patched, new);
        }
        assert_eq!(merge_patch(&database(), &database()), None);
        let patch = merge_patch(&database(), &changed("/spec/replicas", json!(1))).unwrap();
        let expected = json!({ "spec": { "replicas": 1 }, "metadata": { "resourceVersion": "7" } });
        assert_eq!(pinned(&patch, Some("7")), expected, "nothing else is sent");
    }

    #[test]
    fn identity_and_status_are_refused_in_the_originals_words() {
        let expected = "At least one of the following was changed:\n\tapiVersion\n\tkind\n\tname\n\tnamespace\n\tstatus";
        for path in [
            "/apiVersion",
            "/kind",
            "/metadata/name",
            "/metadata/namespace",
            "/status",
        ] {
            let refused = refusal(&kinds::POSTGRES, &database(), &changed(path, json!("x")));
            assert_eq!(refused.unwrap().message, expected, "{path}");
        }
    }

    #[test]
    fn what_a_database_cannot_follow_is_refused() {
        let expected = "At least one of the following was changed:\n\tspec.version\n\tspec.standbyMode\n\tspec.streamingMode\n\tspec.archiver\n\tspec.databaseSecret\n\tspec.storage\n\tspec.nodeSelector\n\tspec.init";
        for field in [
            "version",
            "standbyMode",
            "streamingMode",
            "archiver",
            "storage",
            "nodeSelector",
            "init",
        ] {
            let new = changed(&format!("/spec/{field}"), json!("x"));
            let refused = refusal(&kinds::POSTGRES, &database(), &new).unwrap();
            assert_eq!(refused.message, expected, "{field}");
            let hint = format!("changed here: spec.{field}");
            assert_eq!(refused.hint, Some(hint));
        }
        // The same in other words is no change.
        let quoted = changed("/spec/version", json!("9.6"));
        assert_eq!(refusal(&kinds::POSTGRES, &database(), &quoted), None);
        let named = changed("/spec/databaseSecret", json!({ "secretName": "a" }));
        assert_eq!(refusal(&kinds::POSTGRES, &database(), &named), None);
        assert!(refusal(&kinds::POSTGRES, &named, &database()).is_some());
        for allowed in ["replicas", "doNotPause", "backupSchedule", "monitor"] {
            let new = changed(&format!("/spec/{allowed}"), json!(null));
            assert_eq!(
                refusal(&kinds::POSTGRES, &database(), &new),
                None,
                "{allowed}"
            );
        }
        let origin = changed("/spec/origin", json!({}));
        let refused = refusal(&kinds::DORMANT_DATABASE, &database(), &origin).unwrap();
        assert!(refused.message.ends_with(":\n\tspec.origin"), "{refused:?}");
    }

    #[test]
    fn a_changed_status_is_no_change_for_the_user() {
        let mut newer = changed("/status/phase", json!("Failed"));
        newer["metadata"]["resourceVersion"] = json!("8");
        assert!(same_for_user(&database(), &newer));
        assert!(!same_for_user(
            &database(),
            &changed("/spec/replicas", json!(5))
        ));
        assert_eq!(editable(database()).get("status"), None);
    }
}
