//! What an update may change.

use serde_json::{Map, Value};

use super::{FieldError, without_nulls};
use crate::untyped::VersionText;

/// Fields of a Postgres that stay as they were created. The original lists two of them by names that they no longer
/// had, so that they could be changed after all.
const POSTGRES_FIXED: [&str; 8] = [
    "version",
    "standbyMode",
    "streamingMode",
    "archiver",
    "databaseSecret",
    "storage",
    "nodeSelector",
    "init",
];

/// Fields of `init` that hold a number, with quotes or without.
const NUMBERS: [(&str, [&str; 2]); 2] = [
    ("snapshotSource/target", ["xid", "timeline"]),
    ("postgresWAL/pitr", ["targetXID", "targetTimeline"]),
];

/// Fields of a Snapshot that speak of what happens later; all others describe what was done.
const SNAPSHOT_FREE: [&str; 2] = ["deletionPolicy", "allowedNamespaces"];

/// Checks what an update of a Postgres changes. Both as they were sent and stored, status left out of sight.
#[must_use]
pub fn validate_postgres_update(old: &Value, new: &Value) -> Vec<FieldError> {
    let selector = |object: &Value| {
        let spec = &object["spec"];
        let either = [
            &spec["nodeSelector"],
            &spec["podTemplate"]["spec"]["nodeSelector"],
        ];
        let said = either.into_iter().find(|said| !said.is_null());
        said.cloned().unwrap_or_default()
    };
    let changed = |field: &&str| {
        if *field == "nodeSelector" {
            return without_nulls(&selector(old)) != without_nulls(&selector(new));
        }
        let (old, new) = (&old["spec"][*field], &new["spec"][*field]);
        let is_first_secret = *field == "databaseSecret" && without_nulls(old) == Value::Null;
        !is_first_secret && normal(field, old) != normal(field, new)
    };
    let changed: Vec<_> = POSTGRES_FIXED.into_iter().filter(changed).collect();
    refusal(&changed, &POSTGRES_FIXED)
}

/// Checks what an update of a Snapshot changes.
#[must_use]
pub fn validate_snapshot_update(old: &Value, new: &Value) -> Vec<FieldError> {
    let empty = Map::new();
    let (old, new) = (&old["spec"], &new["spec"]);
    let fields = |spec: &Value| {
        spec.as_object()
            .unwrap_or(&empty)
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    let mut names = fields(old);
    names.extend(fields(new));
    names.sort();
    names.dedup();
    names.retain(|name| {
        !SNAPSHOT_FREE.contains(&name.as_str())
            && without_nulls(&old[name]) != without_nulls(&new[name])
    });
    let changed: Vec<_> = names.iter().map(String::as_str).collect();
    refusal(&changed, &changed)
}

/// One error that lists all fixed fields, as the original does, and hints at those that were changed.
pub(super) fn refusal(changed: &[&str], fixed: &[&str]) -> Vec<FieldError> {
    let Some(first) = changed.first() else {
        return Vec::new();
    };
    let list: String = fixed
        .iter()
        .map(|field| format!("\n\tspec.{field}"))
        .collect();
    let message = format!("At least one of the following was changed:{list}");
    let changed: Vec<_> = changed
        .iter()
        .map(|field| format!("spec.{field}"))
        .collect();
    let hint = format!("changed here: {}", changed.join(", "));
    vec![FieldError::new(format!("spec.{first}"), message).hint(hint)]
}

/// What a field means: the same whether a default was written or left out, and in every accepted spelling.
pub(super) fn normal(field: &str, value: &Value) -> Value {
    let mode = |default: &str| {
        let text = value.as_str().unwrap_or(default);
        Value::String(text.to_lowercase())
    };
    match field {
        "version" => Value::String(VersionText(value.clone()).text()),
        "standbyMode" => mode("warm"),
        "streamingMode" => mode("asynchronous"),
        "init" => {
            let mut init = without_nulls(value);
            for (source, fields) in NUMBERS {
                for field in fields {
                    if let Some(number) = init.pointer_mut(&format!("/{source}/{field}"))
                        && number.is_number()
                    {
                        *number = Value::String(number.to_string());
                    }
                }
            }
            init
        }
        "storage" => {
            let mut storage = without_nulls(value);
            if let Some(fields) = storage.as_object_mut() {
                let modes = fields
                    .entry("accessModes")
                    .or_insert_with(|| Value::Array(Vec::new()));
                if modes.as_array().is_some_and(Vec::is_empty) {
                    *modes = serde_json::json!(["ReadWriteOnce"]);
                }
            }
            storage
        }
        _ => without_nulls(value),
    }
}
