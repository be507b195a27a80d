//! A Snapshot as it was sent.

use serde_json::Value;

use super::{
    FieldError, check_name, check_namespace, check_reference, effort, judged, shape, storage,
    without_nulls,
};
use crate::{labels, verification};

/// Checks a Snapshot as it was sent.
#[must_use]
pub fn validate_snapshot(raw: &Value) -> Vec<FieldError> {
    let spec = &raw["spec"];
    let mut errors = Vec::new();
    check_name(raw, &mut errors);
    let field = "spec.databaseName";
    if spec["databaseName"].as_str().is_none_or(str::is_empty) {
        errors.push(FieldError::new(
            field,
            format!(
                "object 'DatabaseName' is missing in '{}'",
                without_nulls(spec)
            ),
        ));
    } else {
        check_reference(&spec["databaseName"], field.to_owned(), &mut errors);
    }
    if let Some(kind) = raw["metadata"]["labels"][labels::KIND].as_str()
        && kind != "Postgres"
    {
        let message = format!("Snapshots of {kind} are not built: Postgres is");
        errors.push(FieldError::new(
            format!("metadata.labels.{}", labels::KIND),
            message,
        ));
    }
    if let Some(wish) = raw["metadata"]["annotations"][labels::VERIFY].as_str()
        && let Err(reason) = verification::parse(wish)
    {
        let path = format!("metadata.annotations.{}", labels::VERIFY);
        let message = format!("{path} {wish:?} invalid: {reason}");
        errors.push(FieldError::new(path, message));
    }
    storage::check(spec, "spec", &mut errors);
    let allowed = spec["allowedNamespaces"].as_array().into_iter().flatten();
    for (number, namespace) in allowed.enumerate() {
        let path = format!("spec.allowedNamespaces[{number}]");
        check_namespace(namespace, &path, &mut errors);
    }
    effort::check(spec, "spec", &mut errors);
    judged(shape::check("snapshots", raw), errors)
}
