//! What is refused, and in which words. Everything here judges a manifest by itself: what must exist elsewhere (a
//! Secret, a storage class, the database of a Snapshot) is the caller's to look up.

mod archive;
mod dormant;
mod effort;
mod monitor;
mod pods;
mod postgres;
mod shape;
mod snapshot;
mod storage;
mod update;

use kubedb_core::names;
use serde_json::Value;

pub(crate) use self::dormant::take_over;
pub use self::{
    dormant::{validate_dormant_database, validate_dormant_database_update, validate_resume},
    pods::validate_for_one_machine,
    postgres::{check_retention, validate_delete, validate_postgres},
    snapshot::validate_snapshot,
    update::{validate_postgres_update, validate_snapshot_update},
};

/// Most errors told of one manifest.
const ERRORS_MAX: usize = 50;

/// One refused field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Path, such as `spec.replicas`.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl FieldError {
    fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
            hint: None,
        }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// What cannot be read as an object of its kind at all.
    pub(crate) fn undecodable(why: &dyn std::fmt::Display) -> Self {
        Self::new("", why.to_string())
    }

    /// What is wrong and, in brackets, what to do.
    #[must_use]
    pub fn text(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{} ({hint})", self.message),
            None => self.message.clone(),
        }
    }

    fn unbuilt(path: String) -> Self {
        let message = format!("{path} is not built yet: remove it");
        Self::new(path, message)
    }

    fn missing(path: String) -> Self {
        let message = format!("{path} is missing");
        Self::new(path, message)
    }
}

/// Whether the schema that the definitions publish has something against an object: then an API server refuses it by that, in words of its own.
#[must_use]
pub fn is_misshapen(plural: &str, raw: &Value) -> bool {
    !shape::check(plural, raw).is_empty()
}

/// Null is as good as absent; a map of nothing but nulls is an empty map. As deep as the object is.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.clone(), without_nulls(value)))
            .collect(),
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

/// Shape first, then meaning; of what has the wrong shape, the meaning is not judged.
fn judged(shape: Vec<FieldError>, meaning: Vec<FieldError>) -> Vec<FieldError> {
    let mut errors = shape;
    for error in meaning {
        let is_known = errors.iter().any(|known| {
            let (one, other) = (&error.field, &known.field);
            one == other || is_below(one, other) || is_below(other, one)
        });
        if !is_known {
            errors.push(error);
        }
    }
    errors.truncate(ERRORS_MAX);
    errors
}

fn is_below(field: &str, folder: &str) -> bool {
    field
        .strip_prefix(folder)
        .is_some_and(|rest| rest.starts_with('.'))
}

/// Objects without a name are named by the server, which checks what it makes.
fn check_name(raw: &Value, errors: &mut Vec<FieldError>) {
    if let Some(name) = raw["metadata"]["name"].as_str()
        && let Err(reason) = names::check(name)
    {
        errors.push(FieldError::new("metadata.name", reason.to_string()));
    }
}

/// Whether a field was given; null is as good as absent, as everywhere in Kubernetes.
fn is_given(value: &Value, field: &str) -> bool {
    !value[field].is_null()
}

/// Longest name of a Secret or a ConfigMap.
const OBJECT_NAME_MAX: usize = 253;

/// Longest name of a namespace.
const NAMESPACE_MAX: usize = 63;

/// A name of a Secret or a ConfigMap, if there is one; unlike ours it may have dots and begin with a digit.
fn check_object_name(value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(name) = value.as_str()
        && !name.is_empty()
        && !is_plain(name, OBJECT_NAME_MAX, b".-")
    {
        let message = format!(
            "{path} {name:?} invalid: a name has lower-case letters, digits, hyphens and dots"
        );
        errors.push(FieldError::new(path, message));
    }
}

/// A name of a namespace, if there is one.
fn check_namespace(value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(name) = value.as_str()
        && !is_plain(name, NAMESPACE_MAX, b"-")
    {
        let message = format!(
            "{path} {name:?} invalid: a namespace has lower-case letters, digits and hyphens"
        );
        errors.push(FieldError::new(path, message));
    }
}

/// Lower-case letters and digits, and between them these signs.
fn is_plain(name: &str, longest: usize, signs: &[u8]) -> bool {
    let is_outer = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    (1..=longest).contains(&bytes.len())
        && bytes
            .iter()
            .all(|byte| is_outer(byte) || signs.contains(byte))
        && [bytes.first(), bytes.last()]
            .into_iter()
            .flatten()
            .all(is_outer)
}

/// A domain as labels have it before a slash, or none.
fn is_plain_or_empty(name: &str) -> bool {
    name.is_empty() || is_plain(name, OBJECT_NAME_MAX, b".-")
}

/// A name that must be there and be one.
fn check_reference(value: &Value, path: String, errors: &mut Vec<FieldError>) {
    match value.as_str() {
        None | Some("") => errors.push(FieldError::missing(path)),
        Some(name) => {
            if let Err(reason) = names::check(name) {
                errors.push(FieldError::new(path, reason.to_string()));
            }
        }
    }
}
