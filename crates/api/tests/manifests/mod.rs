//! The examples, ways to change them, and what is said of them then.
#![allow(dead_code, reason = "each test file uses a part of it")]

use kubedb_api::validate::{FieldError, validate_postgres};
use serde_json::Value;

pub(crate) const GUIDE: &str = include_str!("../../../../examples/scheduled-pg.yaml");
pub(crate) const LOCAL: &str = include_str!("../../../../examples/local-pg.yaml");
pub(crate) const ARCHIVED: &str = include_str!("../../../../examples/wal-postgres.yaml");
pub(crate) const REPLAYED: &str = include_str!("../../../../examples/replay-postgres.yaml");
pub(crate) const VERSIONS: [&str; 2] = ["9.6", "15"];

pub(crate) fn guide() -> Value {
    serde_yaml_ng::from_str(GUIDE).unwrap()
}

/// Sets the field at a pointer, making what lies between; null removes nothing and means absent.
pub(crate) fn set(raw: &mut Value, pointer: &str, value: Value) {
    let mut place = raw;
    for part in pointer.split('.') {
        place = &mut place[part];
    }
    *place = value;
}

/// Refusals as lines: path, message and hint.
pub(crate) fn lines(errors: &[FieldError]) -> Vec<String> {
    let line = |error: &FieldError| {
        let hint = error.hint.as_deref().map(|hint| format!(" ({hint})"));
        format!(
            "{}: {}{}",
            error.field,
            error.message,
            hint.unwrap_or_default()
        )
    };
    errors.iter().map(line).collect()
}

pub(crate) fn with(pointer: &str, value: Value) -> Vec<String> {
    let mut raw = guide();
    set(&mut raw, pointer, value);
    lines(&validate_postgres(&raw, &VERSIONS))
}
