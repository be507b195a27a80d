//! Unknown fields, wrong types and missing ones, judged by the schema that the definitions publish.

use std::{cmp::Reverse, collections::BTreeMap, sync::LazyLock};

use serde_json::{Map, Value};

use super::FieldError;
use crate::crd::openapi_schema;

/// Schemas by plural. Making one takes milliseconds, and every write asks.
static SCHEMAS: LazyLock<BTreeMap<&str, Value>> = LazyLock::new(|| {
    let schema = |plural| Some((plural, openapi_schema(plural)?["properties"]["spec"].take()));
    ["postgreses", "snapshots"]
        .into_iter()
        .filter_map(schema)
        .collect()
});

/// Later versions of the original have a container for it.
const NO_EXPORTER: &str =
    "remove it: there is no exporter, the agent beside PostgreSQL answers itself";

/// Fields that older versions wrote otherwise: last part of the parent's path, field, what to write.
const FORMER: &[(&str, &str, &str)] = &[
    ("local", "path", "write mountPath"),
    (
        "local",
        "volumeSource",
        "write what it holds beside mountPath, such as local: {mountPath: /repo, hostPath: {path: /repo}}",
    ),
    (
        "s3",
        "region",
        "write AWS_REGION into the storage Secret; without it the bucket is asked",
    ),
    (
        "swift",
        "endpoint",
        "ST_AUTH or OS_AUTH_URL of the storage Secret says where the store is",
    ),
    (
        "postgresWAL",
        "storage",
        "write what it holds beside it, such as postgresWAL: {storageSecretName: s3-secret, s3: {bucket: kubedb, prefix: kubedb/demo/wal-postgres/archive}}",
    ),
    ("target", "targetTime", "write time"),
    ("target", "targetLSN", "write lsn"),
    ("target", "targetXID", "write xid"),
    ("target", "targetName", "write name"),
    ("target", "targetImmediate", "write immediate"),
    ("target", "targetTimeline", "write timeline"),
    ("target", "targetInclusive", "write inclusive"),
    ("pitr", "time", "write targetTime"),
    ("pitr", "lsn", "write targetLSN"),
    ("pitr", "xid", "write targetXID"),
    ("pitr", "name", "write targetName"),
    ("pitr", "immediate", "write targetImmediate"),
    ("pitr", "timeline", "write targetTimeline"),
    ("pitr", "inclusive", "write targetInclusive"),
    ("monitor", "args", NO_EXPORTER),
    ("monitor", "env", NO_EXPORTER),
    ("monitor", "resources", NO_EXPORTER),
    ("monitor", "securityContext", NO_EXPORTER),
    ("spec", "standby", "write standbyMode"),
    ("spec", "streaming", "write streamingMode"),
];

/// Checks the spec of an object.
pub(super) fn check(plural: &str, raw: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(root) = SCHEMAS.get(plural) {
        let mut walk = Walk {
            root,
            errors: &mut errors,
        };
        match &raw["spec"] {
            Value::Null => walk.errors.push(FieldError::missing("spec".to_owned())),
            spec => walk.node(root, spec, "spec"),
        }
    }
    errors
}

/// Longest unknown name that is compared with the known ones; ours are shorter.
const NAME_MAX: usize = 64;

struct Walk<'a> {
    root: &'a Value,
    errors: &'a mut Vec<FieldError>,
}

impl Walk<'_> {
    /// Goes as deep as the schema does; null is as good as absent.
    fn node(&mut self, schema: &Value, value: &Value, path: &str) {
        if value.is_null() {
            return;
        }
        if let Some(error) = wrong_type(schema, value, path) {
            self.errors.push(error);
            return;
        }
        match value {
            Value::Object(fields) if schema["x-kubernetes-preserve-unknown-fields"] != true => {
                self.object(schema, fields, path);
            }
            Value::Array(items) if schema["items"].is_object() => {
                for (index, item) in items.iter().enumerate() {
                    self.node(&schema["items"], item, &format!("{path}[{index}]"));
                }
            }
            _ => {}
        }
    }

    fn object(&mut self, schema: &Value, fields: &Map<String, Value>, path: &str) {
        let known = schema["properties"].as_object();
        let others = &schema["additionalProperties"];
        for (name, value) in fields {
            let inner = format!("{path}.{name}");
            match known.and_then(|known| known.get(name)) {
                Some(schema) => self.node(schema, value, &inner),
                None if others.is_object() => self.node(others, value, &inner),
                // A folder of anything.
                None if known.is_none() => {}
                None => {
                    let hint = self.suggest(known, name, path);
                    let message = format!("unknown field \"{inner}\"");
                    self.errors.push(FieldError {
                        hint,
                        ..FieldError::new(inner, message)
                    });
                }
            }
        }
        let required = schema["required"].as_array().into_iter().flatten();
        for name in required.filter_map(Value::as_str) {
            if fields.get(name).is_none_or(Value::is_null) {
                self.errors
                    .push(FieldError::missing(format!("{path}.{name}")));
            }
        }
    }

    /// What may have been meant: another spelling, or the same name in another place.
    fn suggest(
        &self,
        known: Option<&Map<String, Value>>,
        name: &str,
        path: &str,
    ) -> Option<String> {
        let parent = path.rsplit('.').next().unwrap_or(path);
        let former = FORMER
            .iter()
            .find(|(place, field, _)| (*place, *field) == (parent, name));
        if let Some((_, _, hint)) = former {
            return Some((*hint).to_owned());
        }
        if name.len() > NAME_MAX {
            return None;
        }
        let near = known.into_iter().flat_map(Map::keys).filter_map(|known| {
            let distance = distance(&known.to_lowercase(), &name.to_lowercase());
            (distance <= (name.len() / 3).max(1)).then_some((distance, known))
        });
        near.min()
            .map(|(_, known)| format!("did you mean \"{known}\"?"))
            .or_else(|| {
                place_of(self.root, name, path).map(|place| format!("did you mean {place}?"))
            })
    }
}

/// The place of a field of this name that is nearest to where it was written: below the same parents as far as can be, and then as high as can be.
fn place_of(root: &Value, name: &str, path: &str) -> Option<String> {
    let mut places = Vec::new();
    places_of(root, name, "spec", &mut places);
    let shared = |place: &str| {
        let pairs = place.split('.').zip(path.split('.'));
        pairs.take_while(|(one, other)| one == other).count()
    };
    let nearest = |place: &String| (Reverse(shared(place)), place.split('.').count());
    places.into_iter().min_by_key(nearest)
}

fn places_of(schema: &Value, name: &str, path: &str, places: &mut Vec<String>) {
    let Some(known) = schema["properties"].as_object() else {
        return;
    };
    if known.contains_key(name) {
        places.push(format!("{path}.{name}"));
    }
    for (field, schema) in known {
        places_of(schema, name, &format!("{path}.{field}"), places);
    }
}

fn wrong_type(schema: &Value, value: &Value, path: &str) -> Option<FieldError> {
    let fits_type = |kind: &str| match kind {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => true,
    };
    if schema["x-kubernetes-int-or-string"] == true {
        let fits = value.is_string() || value.is_i64() || value.is_u64();
        return (!fits).then(|| told(path, "a number or text", value));
    }
    let kind = schema["type"].as_str().unwrap_or_default();
    if !fits_type(kind) {
        return Some(told(path, described(kind), value));
    }
    let is_small =
        schema["format"] != "int32" || value.as_i64().is_some_and(|n| i32::try_from(n).is_ok());
    if !is_small {
        let message = format!("{path} must lie between {} and {}", i32::MIN, i32::MAX);
        return Some(FieldError::new(path, message));
    }
    let choices = schema["enum"].as_array()?;
    (!choices.contains(value)).then(|| {
        let choices: Vec<_> = choices.iter().filter_map(Value::as_str).collect();
        let message = format!("{path} \"{}\" invalid", value.as_str().unwrap_or_default());
        FieldError::new(path, message).hint(format!("known values: {}", choices.join(", ")))
    })
}

fn told(path: &str, wanted: &str, value: &Value) -> FieldError {
    let found = match value {
        Value::String(_) => "text",
        Value::Bool(_) => "true or false",
        Value::Number(number) if number.is_f64() => "a fraction",
        Value::Number(_) => "a number",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map of fields",
        Value::Null => "nothing",
    };
    let error = FieldError::new(path, format!("{path} must be {wanted}, not {found}"));
    // The usual reason is quoting.
    let bare = value.as_str().map(serde_json::from_str::<Value>);
    match (wanted, bare) {
        (_, Some(Ok(bare))) if bare.is_boolean() || bare.is_i64() => {
            error.hint(format!("write {bare} without quotes"))
        }
        ("text", _) if value.is_number() || value.is_boolean() => {
            error.hint(format!("write it in quotes: \"{value}\""))
        }
        _ => error,
    }
}

fn described(kind: &str) -> &str {
    match kind {
        "string" => "text",
        "boolean" => "true or false",
        "integer" => "a whole number",
        "array" => "a list",
        "object" => "a map of fields",
        other => other,
    }
}

/// Letters to insert, remove, replace or swap with their neighbour to get from one word to the other.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut rows = vec![vec![0; other.len() + 1]; one.len() + 1];
    for i in 0..=one.len() {
        for j in 0..=other.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(one[i - 1] != other[j - 1]);
                let edited = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                let is_swap =
                    i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1];
                if is_swap {
                    edited.min(rows[i - 2][j - 2] + 1)
                } else {
                    edited
                }
            };
        }
    }
    rows[one.len()][other.len()]
}
