//! `meta.k8s.io/v1 Table`: what `kubectl get` prints.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::format::metadata_only;
use super::jsonpath;
use super::resource::{Column, Resource};

/// What a row carries beside its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Include {
    Nothing,
    Metadata,
    Object,
}

impl Include {
    /// The query parameter `includeObject`.
    pub(crate) fn of(text: &str) -> Self {
        match text {
            "None" => Self::Nothing,
            "Object" => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// Name, type, format, priority.
type Heading = (String, String, &'static str, i32);

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
                Include::Nothing => {}
                Include::Metadata => row["object"] = metadata_only(object),
                Include::Object => row["object"] = Value::clone(object),
            }
            row
        })
        .collect();
    let columns: Vec<Value> = if with_columns {
        headings(resource)
            .into_iter()
            .map(|(name, kind, format, priority)| {
                json!({"name": name, "type": kind, "format": format, "priority": priority, "description": ""})
            })
            .collect()
    } else {
        Vec::new()
    };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns, "rows": rows,
    })
}

/// Columns of the core kinds after the name: title, wide only.
fn core_columns(resource: &Resource) -> &'static [(&'static str, bool)] {
    match resource.plural.as_str() {
        "namespaces" => &[("Status", false), ("Age", false)],
        "secrets" => &[("Type", false), ("Data", false), ("Age", false)],
        "configmaps" => &[("Data", false), ("Age", false)],
        "leases" => &[("Holder", false), ("Age", false)],
        _ => &[("Age", false)],
    }
}

const EVENT_COLUMNS: &[(&str, bool)] = &[
    ("Last Seen", false),
    ("Type", false),
    ("Reason", false),
    ("Object", false),
    ("Subobject", true),
    ("Source", true),
    ("Message", false),
    ("First Seen", true),
    ("Count", true),
    ("Name", true),
];

fn headings(resource: &Resource) -> Vec<Heading> {
    let text = |name: &str, wide: bool| -> Heading {
        let format = if name == "Name" { "name" } else { "" };
        (
            name.to_owned(),
            "string".to_owned(),
            format,
            i32::from(wide),
        )
    };
    if resource.plural == "events" {
        return EVENT_COLUMNS
            .iter()
            .map(|(name, wide)| text(name, *wide))
            .collect();
    }
    let mut headings = vec![text("Name", false)];
    if resource.custom {
        headings.extend(resource.columns.iter().map(|column| {
            (
                column.name.clone(),
                column.kind.clone(),
                "",
                column.priority,
            )
        }));
    } else {
        headings.extend(
            core_columns(resource)
                .iter()
                .map(|(name, wide)| text(name, *wide)),
        );
    }
    headings
}

fn cells(resource: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    if resource.plural == "events" {
        return event_cells(object, now);
    }
    let mut cells = vec![object["metadata"]["name"].clone()];
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
