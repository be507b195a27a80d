//! What is refused, and in which words. Unknown fields are not checked here yet.

use kubedb_core::schedule::Schedule;
use serde_json::Value;

use crate::postgres::{Postgres, UNBUILT_FIELDS};

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

fn error(field: &str, message: String) -> FieldError {
    FieldError {
        field: field.to_owned(),
        message,
        hint: None,
    }
}

/// Checks a Postgres as it was sent.
#[must_use]
pub fn validate_postgres(raw: &Value, known_versions: &[&str]) -> Vec<FieldError> {
    let spec = &raw["spec"];
    let mut errors = Vec::new();
    let version = crate::untyped::VersionText(spec["version"].clone()).text();
    if version.is_empty() {
        errors.push(error(
            "spec.version",
            format!("object 'Version' is missing in '{spec}'"),
        ));
    } else if !known_versions.contains(&version.as_str()) {
        errors.push(error(
            "spec.version",
            format!("KubeDB doesn't support Postgres version: {version}"),
        ));
    }
    if let Some(replicas) = spec["replicas"].as_i64()
        && replicas < 1
    {
        let message =
            format!("spec.replicas \"{replicas}\" invalid. Value must be greater than zero");
        errors.push(error("spec.replicas", message));
    }
    if !spec["backupSchedule"].is_null() {
        check_schedule(&spec["backupSchedule"], &mut errors);
    }
    for field in UNBUILT_FIELDS
        .iter()
        .filter(|field| !spec[**field].is_null())
    {
        let path = format!("spec.{field}");
        errors.push(error(&path, format!("{path} is not built yet: remove it")));
    }
    errors
}

fn check_schedule(schedule: &Value, errors: &mut Vec<FieldError>) {
    let expression = schedule["cronExpression"].as_str().unwrap_or_default();
    if let Err(reason) = Schedule::parse(expression, schedule["timeZone"].as_str()) {
        let path = "spec.backupSchedule.cronExpression";
        let hint = format!("kubedb schedule next '{expression}' says when an expression fires");
        errors.push(FieldError {
            hint: Some(hint),
            ..error(path, format!("invalid cron expression: {reason}"))
        });
    }
    if ["s3", "gcs", "azure", "local", "swift"]
        .iter()
        .all(|store| schedule[*store].is_null())
    {
        errors.push(error(
            "spec.backupSchedule",
            "no storage provider is configured".to_owned(),
        ));
    }
    for field in ["retention", "method", "encryption", "target", "verify"] {
        if !schedule[field].is_null() {
            let path = format!("spec.backupSchedule.{field}");
            errors.push(error(&path, format!("{path} is not built yet: remove it")));
        }
    }
}

/// Refuses the deletion of a locked database.
#[must_use]
pub fn validate_delete(postgres: &Postgres) -> Option<FieldError> {
    let name = postgres.metadata.name.as_deref().unwrap_or_default();
    (postgres.spec.do_not_pause == Some(true)).then(|| {
        let message =
            format!("postgres \"{name}\" can't be paused. To continue delete, unset spec.doNotPause and retry");
        error("spec.doNotPause", message)
    })
}

/// Checks a Snapshot as it was sent.
#[must_use]
pub fn validate_snapshot(raw: &Value) -> Vec<FieldError> {
    let spec = &raw["spec"];
    let mut errors = Vec::new();
    if spec["databaseName"].as_str().is_none_or(str::is_empty) {
        let message = format!("object 'DatabaseName' is missing in '{spec}'");
        errors.push(error("spec.databaseName", message));
    }
    errors
}

/// Checks what an update of a Postgres changes. Both as they were sent and stored, status left out of sight.
#[must_use]
pub fn validate_postgres_update(_old: &Value, _new: &Value) -> Vec<FieldError> {
    Vec::new()
}
