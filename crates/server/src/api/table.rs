//! `meta.k8s.io/v1 Table`: what `kubectl get` prints.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::format::metadata_only;
use super::jsonpath;
use super::resource::{self, Column, Resource};
use super::status::ApiError;

/// What a row carries beside its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Include {
    Nothing,
    Metadata,
    Object,
}

impl Include {
    /// The query parameter `includeObject`.
    pub(crate) fn of(text: &str) -> Result<Self, ApiError> {
        match text {
            "None" => Ok(Self::Nothing),
            "Object" => Ok(Self::Object),
            "" | "Metadata" => Ok(Self::Metadata),
            other => Err(ApiError::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: must be \
                 'Metadata', 'Object', 'None', or empty"
            ))),
        }
    }
}

/// A column as it is announced.
struct Heading {
    name: String,
    kind: String,
    format: &'static str,
    priority: i32,
    description: String,
}

/// A table of objects.
pub(crate) fn table(
    resource: &Resource,
    metadata: Value,
    objects: &[Arc<Value>],
    include: Include,
    with_columns: bool,
) -> Value {
    let now = Timestamp::now();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let mut row = json!({"cells": cells(resource, object, now)});
            match include {
                Include::Nothing => row["object"] = Value::Null,
                Include::Metadata => row["object"] = metadata_only(object),
                Include::Object => row["object"] = Value::clone(object),
            }
            row
        })
        .collect();
    let columns: Value = if with_columns {
        let told = |heading: Heading| {
            json!({
                "name": heading.name, "type": heading.kind, "format": heading.format,
                "priority": heading.priority, "description": heading.description,
            })
        };
        headings(resource).into_iter().map(told).collect()
    } else {
        Value::Null
    };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns, "rows": rows,
    })
}

/// Title, whether it is for `-o wide` only, and the field whose description it has.
type CoreColumn = (&'static str, bool, &'static str);

const NAME: CoreColumn = ("Name", false, "metadata.name");
const AGE: CoreColumn = ("Age", false, "metadata.creationTimestamp");

/// Columns of the core kinds.
fn core_columns(resource: &Resource) -> &'static [CoreColumn] {
    match resource.plural.as_str() {
        "namespaces" => &[NAME, ("Status", false, ""), AGE],
        "secrets" => &[NAME, ("Type", false, "type"), ("Data", false, "data"), AGE],
        "configmaps" => &[NAME, ("Data", false, "data"), AGE],
        "leases" => &[NAME, ("Holder", false, "spec.holderIdentity"), AGE],
        "events" => &[
            ("Last Seen", false, "lastTimestamp"),
            ("Type", false, "type"),
            ("Reason", false, "reason"),
            ("Object", false, "involvedObject"),
            ("Subobject", true, "involvedObject.fieldPath"),
            ("Source", true, "source"),
            ("Message", false, "message"),
            ("First Seen", true, "firstTimestamp"),
            ("Count", true, "count"),
            ("Name", true, "metadata.name"),
        ],
        _ => &[NAME, AGE],
    }
}

/// What the schema of a core kind says of a field.
fn description(resource: &Resource, path: &str) -> String {
    let mut schema = &resource.schema;
    for field in path.split('.').filter(|field| !field.is_empty()) {
        schema = &schema["properties"][field];
    }
    match path {
        "" => "The status of the namespace".to_owned(),
        _ => schema["description"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
    }
}

fn headings(resource: &Resource) -> Vec<Heading> {
    // Events under either group have the columns, and the words, of core/v1; our kinds have its words for the name.
    let described = match resource.custom {
        true => resource::find("", "v1", "configmaps"),
        false if resource.is_new_event() => resource::find("", "v1", "events"),
        false => Some(resource),
    };
    let described = described.unwrap_or(resource);
    let text = |(name, wide, path): CoreColumn| Heading {
        name: name.to_owned(),
        kind: "string".to_owned(),
        format: if name == "Name" { "name" } else { "" },
        priority: i32::from(wide),
        description: description(described, path),
    };
    if !resource.custom {
        return core_columns(resource).iter().copied().map(text).collect();
    }
    let custom = |column: &Column| Heading {
        name: column.name.clone(),
        kind: column.kind.clone(),
        format: "",
        priority: column.priority,
        description: format!(
            "Custom resource definition column (in JSONPath format): {}",
            column.path
        ),
    };
    std::iter::once(text(NAME))
        .chain(resource.columns.iter().map(custom))
        .collect()
}

fn cells(resource: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    if resource.plural == "events" {
        return event_cells(object, now);
    }
    // A bookmark has no name.
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let mut cells = vec![Value::from(name)];
    let age = || Value::from(since(&object["metadata"]["creationTimestamp"], now));
    let count = |field: &str| object[field].as_object().map_or(0, serde_json::Map::len);
    match resource.plural.as_str() {
        "namespaces" => cells.extend([object["status"]["phase"].clone(), age()]),
        "secrets" => cells.extend([object["type"].clone(), count("data").into(), age()]),
        "configmaps" => cells.extend([(count("data") + count("binaryData")).into(), age()]),
        "leases" => {
            let holder = object["spec"]["holderIdentity"]
                .as_str()
                .unwrap_or_default();
            cells.extend([holder.into(), age()]);
        }
        _ if resource.custom => cells.extend(
            resource
                .columns
                .iter()
                .map(|column| custom_cell(column, object, now)),
        ),
        _ => cells.push(age()),
    }
    cells
}

fn custom_cell(column: &Column, object: &Value, now: Timestamp) -> Value {
    let Some(value) = jsonpath::find(object, &column.path) else {
        return Value::Null;
    };
    match (column.kind.as_str(), value) {
        ("date", value) => since(value, now).into(),
        // A bare 9.6 is a string to the column.
        ("string", Value::Number(number)) => number.to_string().into(),
        (_, value) => value.clone(),
    }
}

fn event_cells(event: &Value, now: Timestamp) -> Vec<Value> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let about = &event["involvedObject"];
    let first = [&event["firstTimestamp"], &event["eventTime"]]
        .into_iter()
        .find(|value| value.is_string())
        .unwrap_or(&Value::Null);
    let last = [
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        first,
    ]
    .into_iter()
    .find(|value| value.is_string())
    .unwrap_or(&Value::Null);
    let count = [&event["series"]["count"], &event["count"]]
        .into_iter()
        .find_map(Value::as_i64)
        .unwrap_or(1);
    let object = format!(
        "{}/{}",
        text(&about["kind"]).to_lowercase(),
        text(&about["name"])
    );
    let component = match text(&event["source"]["component"]) {
        empty if empty.is_empty() => text(&event["reportingComponent"]),
        component => component,
    };
    let source = match text(&event["source"]["host"]) {
        host if host.is_empty() => component,
        host => format!("{component}, {host}"),
    };
    vec![
        since(last, now).into(),
        text(&event["type"]).into(),
        text(&event["reason"]).into(),
        object.into(),
        text(&about["fieldPath"]).into(),
        source.into(),
        text(&event["message"]).trim().into(),
        since(first, now).into(),
        count.into(),
        text(&event["metadata"]["name"]).into(),
    ]
}

fn since(value: &Value, now: Timestamp) -> String {
    let Some(time) = value
        .as_str()
        .and_then(|text| text.parse::<Timestamp>().ok())
    else {
        return "<unknown>".to_owned();
    };
    duration(now.as_second() - time.as_second())
}

/// As kubectl writes durations: two units while the second one still says something.
fn duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |first: i64, first_unit: &str, second: i64, second_unit: &str| {
        if second == 0 {
            format!("{first}{first_unit}")
        } else {
            format!("{first}{first_unit}{second}{second_unit}")
        }
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, "h", s % HOUR / MINUTE, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, "d", s % DAY / HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, "y", s % YEAR / DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::super::resource;
    use super::*;

    #[test]
    fn durations_are_those_of_kubectl() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (10_800, "3h"),
            (10_860, "3h1m"),
            (86_400, "24h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
        ] {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn postgreses_show_their_columns() {
        let postgreses = resource::find("kubedb.com", "v1alpha1", "postgreses").unwrap();
        let object = Arc::new(
            json!({"metadata": {"name": "pg"}, "spec": {"version": 9.6}, "status": {"phase": "Running"}}),
        );
        let table = table(postgreses, json!({}), &[object], Include::Nothing, true);
        let names: Vec<&str> = table["columnDefinitions"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|column| column["name"].as_str())
            .collect();
        assert_eq!(names, ["Name", "Version", "Status", "Age"]);
        assert_eq!(
            table["rows"][0]["cells"],
            json!(["pg", "9.6", "Running", null])
        );
    }
}
