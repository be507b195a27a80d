//! Label and field selectors.

use serde_json::Value;

use super::resource::Resource;
use super::status::ApiError;

/// Requirements told in one selector at most.
const MAX_REQUIREMENTS: usize = 100;

#[derive(Clone, Debug, PartialEq)]
enum Operator {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
    Greater(i64),
    Less(i64),
}

/// Which objects are wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector {
    labels: Vec<(String, Operator)>,
    /// Path, value, whether it must be equal.
    fields: Vec<(String, String, bool)>,
}

impl Selector {
    /// Parses both query parameters; empty ones select everything.
    pub(crate) fn parse(resource: &Resource, labels: &str, fields: &str) -> Result<Self, ApiError> {
        let selector = Self {
            labels: parse_labels(labels).map_err(|why| {
                ApiError::bad_request(format!("unable to parse requirement: {why}"))
            })?,
            fields: parse_fields(fields).map_err(ApiError::bad_request)?,
        };
        if selector.labels.len() + selector.fields.len() > MAX_REQUIREMENTS {
            let message = format!("a selector may have {MAX_REQUIREMENTS} requirements");
            return Err(ApiError::bad_request(message));
        }
        for (field, ..) in &selector.fields {
            if !supported(resource, field) {
                let told = match resource.plural.as_str() {
                    "configmaps" | "leases" => format!(
                        "\"{field}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                    ),
                    _ => format!("field label not supported: {field}"),
                };
                return Err(ApiError::bad_request(told));
            }
        }
        Ok(selector)
    }

    /// Adds `metadata.name`, for a request that names its object.
    pub(crate) fn and_name(mut self, name: &str) -> Self {
        self.fields
            .push(("metadata.name".to_owned(), name.to_owned(), true));
        self
    }

    /// Whether everything is wanted.
    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The only name that can match.
    pub(crate) fn name(&self) -> Option<&str> {
        self.fields
            .iter()
            .find(|(field, _, equal)| *equal && field == "metadata.name")
            .map(|(_, name, _)| name.as_str())
    }

    /// Whether an object as it is stored is wanted.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.labels
            .iter()
            .all(|(key, operator)| operator.matches(labels[key].as_str()))
            && self
                .fields
                .iter()
                .all(|(field, value, equal)| (field_of(object, field) == value) == *equal)
    }
}

impl Operator {
    fn matches(&self, value: Option<&str>) -> bool {
        match self {
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
            Self::In(values) => value.is_some_and(|value| values.iter().any(|one| one == value)),
            Self::NotIn(values) => value.is_none_or(|value| values.iter().all(|one| one != value)),
            Self::Greater(limit) => number(value).is_some_and(|value| value > *limit),
            Self::Less(limit) => number(value).is_some_and(|value| value < *limit),
        }
    }
}

fn number(text: Option<&str>) -> Option<i64> {
    text?.parse().ok()
}

const EVENT_FIELDS: &[&str] = &[
    "kind",
    "namespace",
    "name",
    "uid",
    "apiVersion",
    "resourceVersion",
    "fieldPath",
];

fn supported(resource: &Resource, field: &str) -> bool {
    if matches!(field, "metadata.name" | "metadata.namespace") {
        return true;
    }
    match resource.plural.as_str() {
        "namespaces" => field == "status.phase",
        "secrets" => field == "type",
        "events" => {
            let of = |prefix: &str| {
                field
                    .strip_prefix(prefix)
                    .is_some_and(|rest| EVENT_FIELDS.contains(&rest))
            };
            of("involvedObject.")
                || of("regarding.")
                || matches!(
                    field,
                    "reason" | "type" | "source" | "reportingComponent" | "reportingController"
                )
        }
        _ => false,
    }
}

fn field_of<'a>(object: &'a Value, field: &str) -> &'a str {
    let field = match field {
        "source" => {
            let component = object["source"]["component"].as_str().unwrap_or_default();
            return match component {
                "" => object["reportingComponent"].as_str().unwrap_or_default(),
                component => component,
            };
        }
        "reportingController" => "reportingComponent",
        other => other,
    };
    let (first, rest) = field.split_once('.').unwrap_or((field, ""));
    // Events are stored in the form of core/v1.
    let first = if first == "regarding" {
        "involvedObject"
    } else {
        first
    };
    let value = match rest {
        "" => &object[first],
        rest => &object[first][rest],
    };
    value.as_str().unwrap_or_default()
}

fn parse_fields(text: &str) -> Result<Vec<(String, String, bool)>, String> {
    split_escaped(text)
        .into_iter()
        .filter(|part| !part.trim().is_empty())
        .map(|part| {
            let (field, value, equal) = if let Some((field, value)) = part.split_once("!=") {
                (field, value, false)
            } else if let Some((field, value)) = part.split_once("==") {
                (field, value, true)
            } else if let Some((field, value)) = part.split_once('=') {
                (field, value, true)
            } else {
                return Err(format!(
                    "invalid selector: '{text}'; can't understand '{part}'"
                ));
            };
            Ok((field.trim().to_owned(), unescape(value), equal))
        })
        .collect()
}

/// Splits at commas that no backslash stands before.
fn split_escaped(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for character in text.chars() {
        if character == ',' && !escaped {
            parts.push(String::new());
            continue;
        }
        escaped = character == '\\' && !escaped;
        if let Some(last) = parts.last_mut() {
            last.push(character);
        }
    }
    parts
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => out.extend(characters.next()),
            other => out.push(other),
        }
    }
    out
}

/// Splits at commas outside of parentheses and reads each requirement.
fn parse_labels(text: &str) -> Result<Vec<(String, Operator)>, String> {
    let mut parts = vec![String::new()];
    let mut depth = 0_usize;
    for character in text.chars() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.checked_sub(1).ok_or("found ')' without '('")?,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = parts.last_mut() {
            last.push(character);
        }
    }
    if depth != 0 {
        return Err(format!("found '(' without ')' in '{text}'"));
    }
    parts
        .iter()
        .map(|part| part.trim())
        .filter(|part| !part.is_empty())
        .map(parse_requirement)
        .collect()
}

fn parse_requirement(part: &str) -> Result<(String, Operator), String> {
    let (key, operator) = if let Some(key) = part.strip_prefix('!') {
        (key, Operator::Absent)
    } else if let Some((head, values)) = part.split_once('(') {
        let values = values
            .trim_end()
            .strip_suffix(')')
            .ok_or_else(|| format!("found text after ')' in '{part}'"))?
            .split(',')
            .map(|value| value.trim().to_owned())
            .collect();
        let head = head.trim();
        match head.rsplit_once(char::is_whitespace) {
            Some((key, "in")) => (key, Operator::In(values)),
            Some((key, "notin")) => (key, Operator::NotIn(values)),
            _ => return Err(format!("found '{head}', expected: in, notin")),
        }
    } else if let Some((key, value)) = part.split_once("!=") {
        (key, Operator::NotIn(vec![value.trim().to_owned()]))
    } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        (key, Operator::In(vec![value.trim().to_owned()]))
    } else if let Some((key, value)) = part.split_once('>') {
        (key, Operator::Greater(integer(value)?))
    } else if let Some((key, value)) = part.split_once('<') {
        (key, Operator::Less(integer(value)?))
    } else {
        (part, Operator::Exists)
    };
    let key = key.trim();
    super::names::label_key(key).map_err(|why| format!("invalid label key \"{key}\": {why}"))?;
    if let Operator::In(values) | Operator::NotIn(values) = &operator {
        for value in values {
            super::names::label_value(value)
                .map_err(|why| format!("invalid label value: \"{value}\": {why}"))?;
        }
    }
    Ok((key.to_owned(), operator))
}

fn integer(text: &str) -> Result<i64, String> {
    let text = text.trim();
    text.parse()
        .map_err(|_| format!("for 'Gt', 'Lt' operators, the value must be an integer: '{text}'"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::resource;
    use super::*;

    fn selects(labels: &str, object: &Value) -> bool {
        let resource = resource::find("", "v1", "secrets").unwrap();
        Selector::parse(resource, labels, "")
            .unwrap()
            .matches(object)
    }

    #[test]
    fn knows_the_whole_grammar_of_labels() {
        let object =
            json!({"metadata": {"labels": {"app": "db", "n": "7", "kubedb.com/kind": "Postgres"}}});
        for yes in [
            "",
            "app",
            "!other",
            "app=db",
            "app==db",
            "app!=x",
            "other!=x",
            "app in (a, db)",
            "app notin (a,b)",
            "other notin (a)",
            "n>6",
            "n<8",
            "kubedb.com/kind=Postgres,app in (db),n",
        ] {
            assert!(selects(yes, &object), "{yes}");
        }
        for no in [
            "!app",
            "other",
            "app=x",
            "app!=db",
            "app in (a,b)",
            "app notin (db)",
            "n>7",
            "app=db,other",
        ] {
            assert!(!selects(no, &object), "{no}");
        }
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        let resource = resource::find("", "v1", "secrets").unwrap();
        for bad in [
            "app in (a",
            "app)",
            "a b (c)",
            "n>x",
            "-bad-=1",
            "app=not/ok",
        ] {
            assert!(Selector::parse(resource, bad, "").is_err(), "{bad}");
        }
        let error = Selector::parse(resource, "", "spec.x=1").unwrap_err();
        assert!(
            error.message.ends_with("field label not supported: spec.x"),
            "{}",
            error.message
        );
    }

    #[test]
    fn finds_events_by_what_they_are_about() {
        let resource = resource::find("", "v1", "events").unwrap();
        let fields = "involvedObject.name=pg,involvedObject.kind=Postgres,type!=Warning";
        let selector = Selector::parse(resource, "", fields).unwrap();
        let mut event = json!({"metadata": {"name": "e"}, "type": "Normal",
            "involvedObject": {"kind": "Postgres", "name": "pg"}});
        assert!(selector.matches(&event));
        event["type"] = "Warning".into();
        assert!(!selector.matches(&event));
    }
}
