//! Structural schemas: unknown fields are found and removed, types, enums and limits are checked.

use k8s_openapi::api::{coordination::v1 as coordination, core::v1 as core, events::v1 as events};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::status::Cause;

/// Unknown fields and causes told at most: a body of 3 MiB could name a million.
const MAX_FINDINGS: usize = 100;

/// What a check found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Paths of fields that the schema does not know; they were removed.
    pub(crate) unknown: Vec<String>,
    pub(crate) causes: Vec<Cause>,
}

/// Removes unknown fields and nulls (Go clients send null for absent) from an object, and checks the rest.
/// `metadata`, `apiVersion` and `kind` are left to others.
pub(crate) fn check(schema: &Value, object: &mut Value) -> Findings {
    let mut findings = Findings::default();
    let Some(map) = object.as_object_mut() else {
        return findings;
    };
    let envelope: Vec<(String, Value)> = ["apiVersion", "kind", "metadata"]
        .into_iter()
        .filter_map(|field| map.remove_entry(field))
        .collect();
    check_object(schema, map, "", &mut findings);
    map.extend(envelope);
    findings
}

/// Writes whole numbers without a point: `3.0` is the integer 3 to kube-apiserver.
pub(crate) fn make_whole(schema: &Value, value: &mut Value) {
    match value {
        Value::Number(number) if schema["type"] == "integer" => {
            // Up to here every whole number is exact in a float.
            const EXACT: f64 = 9_007_199_254_740_992.0;
            if let Some(float) = number.as_f64().filter(|_| number.is_f64())
                && float.fract() == 0.0
                && float.abs() <= EXACT
            {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "it is whole and small enough"
                )]
                let whole = float as i64;
                *value = whole.into();
            }
        }
        Value::Object(map) => {
            for (name, inner) in map {
                let known = schema["properties"].get(name);
                make_whole(known.unwrap_or(&schema["additionalProperties"]), inner);
            }
        }
        Value::Array(items) => {
            for item in items {
                make_whole(&schema["items"], item);
            }
        }
        _ => {}
    }
}

fn check_value(schema: &Value, value: &mut Value, path: &str, findings: &mut Findings) {
    if schema["x-kubernetes-int-or-string"] == true {
        if !value.is_string() && !value.is_i64() && !value.is_u64() {
            findings.wrong_type(path, "integer,string", value);
        }
        return;
    }
    let Some(kind) = schema["type"].as_str() else {
        return;
    };
    let fits = match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => true,
    };
    if !fits {
        findings.wrong_type(path, kind, value);
        check_choice(schema, value, path, findings);
        return;
    }
    check_limits(schema, value, path, findings);
    match value {
        Value::Object(map) => check_object(schema, map, path, findings),
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                check_value(
                    &schema["items"],
                    item,
                    &format!("{path}[{index}]"),
                    findings,
                );
            }
        }
        _ => {}
    }
}

fn check_object(schema: &Value, map: &mut Map<String, Value>, path: &str, findings: &mut Findings) {
    let properties = schema["properties"].as_object();
    let additional = &schema["additionalProperties"];
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true
        || *additional == true
        || (properties.is_none() && additional.is_null());
    for required in schema["required"].as_array().into_iter().flatten() {
        let name = required.as_str().unwrap_or_default();
        if map.get(name).is_none_or(Value::is_null)
            && !is_nullable(schema, name)
            && !is_envelope(path, name)
        {
            findings.cause(Cause::required(&join(path, name), ""));
        }
    }
    map.retain(|name, value| {
        let child = join(path, name);
        if let Some(schema) = properties.and_then(|known| known.get(name)) {
            if value.is_null() {
                return schema["x-kubernetes-preserve-unknown-fields"] == true;
            }
            check_value(schema, value, &child, findings);
        } else if additional.is_object() {
            check_value(additional, value, &child, findings);
        } else if !open {
            if findings.unknown.len() < MAX_FINDINGS {
                findings.unknown.push(child);
            }
            return false;
        }
        true
    });
}

/// A required property whose null is fine, or which is any value at all.
fn is_nullable(schema: &Value, name: &str) -> bool {
    schema["properties"][name]["nullable"] == true
}

fn is_envelope(path: &str, name: &str) -> bool {
    path.is_empty() && matches!(name, "metadata" | "apiVersion" | "kind")
}

fn check_choice(schema: &Value, value: &Value, path: &str, findings: &mut Findings) {
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let list: Vec<String> = allowed
            .iter()
            .filter(|one| !one.is_null())
            .map(Value::to_string)
            .collect();
        findings.cause(Cause {
            reason: "FieldValueNotSupported",
            field: path.to_owned(),
            message: format!(
                "Unsupported value: {value}: supported values: {}",
                list.join(", ")
            ),
        });
    }
}

fn check_limits(schema: &Value, value: &Value, path: &str, findings: &mut Findings) {
    check_choice(schema, value, path, findings);
    let Some(number) = value.as_f64() else { return };
    if let Some(least) = schema["minimum"].as_f64()
        && number < least
    {
        let why = format!("{path} in body should be greater than or equal to {least}");
        findings.cause(Cause::invalid(path, &value.to_string(), &why));
    }
    let format_limit = (schema["format"] == "int32").then_some(f64::from(i32::MAX));
    if let Some(most) = schema["maximum"].as_f64().or(format_limit)
        && number > most
    {
        let why = format!("{path} in body should be less than or equal to {most}");
        findings.cause(Cause::invalid(path, &value.to_string(), &why));
    }
}

impl Findings {
    fn cause(&mut self, cause: Cause) {
        if self.causes.len() < MAX_FINDINGS {
            self.causes.push(cause);
        }
    }

    fn wrong_type(&mut self, path: &str, wanted: &str, value: &Value) {
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        self.cause(Cause {
            reason: "FieldValueTypeInvalid",
            field: path.to_owned(),
            message: format!(
                "Invalid value: \"{found}\": {path} in body must be of type {wanted}: \"{found}\""
            ),
        });
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// The schema of a core kind.
pub(crate) fn core(group: &str, kind: &str) -> Value {
    match (group, kind) {
        ("", "Namespace") => generate::<core::Namespace>(),
        ("", "Secret") => generate::<core::Secret>(),
        ("", "ConfigMap") => generate::<core::ConfigMap>(),
        ("", "Event") => generate::<core::Event>(),
        ("events.k8s.io", "Event") => generate::<events::Event>(),
        ("coordination.k8s.io", "Lease") => generate::<coordination::Lease>(),
        _ => json!({"type": "object"}),
    }
}

/// The schemas of the core kinds and of what they are made of, by their names in Kubernetes, referring to each other:
/// kubectl prints the names of types.
pub(crate) fn definitions() -> Map<String, Value> {
    let settings = SchemaSettings::openapi3().with(|settings| settings.meta_schema = None);
    let mut generator = settings.into_generator();
    generator.subschema_for::<core::Namespace>();
    generator.subschema_for::<core::Secret>();
    generator.subschema_for::<core::ConfigMap>();
    generator.subschema_for::<core::Event>();
    generator.subschema_for::<events::Event>();
    generator.subschema_for::<coordination::Lease>();
    generator.take_definitions(true)
}

/// Without references; `default` and titles say nothing to kubectl.
fn generate<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let mut schema = schema.to_value();
    if let Some(map) = schema.as_object_mut() {
        map.remove("title");
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    fn postgres() -> Value {
        kubedb_api::crd::openapi_schema("postgreses").unwrap()
    }

    #[test]
    fn removes_what_it_does_not_know_and_keeps_versions_as_sent() {
        let mut object = json!({"metadata": {"name": "p"}, "spec": {"version": 9.6, "replcas": 2,
            "storage": null, "configSource": {"any": [1]}}});
        let findings = check(&postgres(), &mut object);
        assert_eq!(findings.unknown, ["spec.replcas"]);
        assert!(findings.causes.is_empty(), "{:?}", findings.causes);
        assert_eq!(
            object["spec"],
            json!({"version": 9.6, "configSource": {"any": [1]}})
        );
        assert_eq!(object["metadata"]["name"], "p");
    }

    #[test]
    fn tells_wrong_types_in_the_words_of_kube_apiserver() {
        let mut object = json!({"spec": {"version": "9.6", "replicas": "three"}});
        let findings = check(&postgres(), &mut object);
        assert_eq!(
            findings.causes[0].message,
            "Invalid value: \"string\": spec.replicas in body must be of type integer: \"string\""
        );
    }

    #[test]
    fn knows_the_core_kinds() {
        let mut object = json!({"data": {"a": "eA=="}, "stringData": {"b": "y"}, "type": "Opaque",
            "typo": 1, "immutable": "yes"});
        let findings = check(&core("", "Secret"), &mut object);
        assert_eq!(findings.unknown, ["typo"]);
        assert_eq!(findings.causes[0].field, "immutable");
    }
}
