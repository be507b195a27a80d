//! A DormantDatabase as it was sent, and what a Postgres must be to resume one.

use serde_json::{Value, json};

use super::{
    FieldError,
    update::{normal, refusal},
    without_nulls,
};
use crate::{DormantDatabase, Postgres, defaults, dormant_database::Origin};

/// Fields of a Postgres that may differ from those of the one it resumes: none of them says anything about the data.
const FREE: [&str; 5] = [
    "databaseSecret",
    "monitor",
    "backupSchedule",
    "doNotPause",
    "terminationPolicy",
];
/// Longest value that a difference is told with.
const TOLD_MAX: usize = 120;

/// Checks a DormantDatabase as it was sent: its schema says nothing of what an origin is.
#[must_use]
pub fn validate_dormant_database(raw: &Value) -> Vec<FieldError> {
    let path = "spec.origin";
    let origin = match &raw["spec"]["origin"] {
        Value::Null => return Vec::new(),
        origin => serde_json::from_value::<Origin>(origin.clone()),
    };
    let wrong = origin.err().map(|error| {
        let message = format!("{path} is no copy of a database: {error}");
        FieldError::new(path, message)
    });
    wrong.into_iter().collect()
}

/// Checks what an update of a DormantDatabase changes.
#[must_use]
pub fn validate_dormant_database_update(old: &Value, new: &Value) -> Vec<FieldError> {
    let origin = |object: &Value| without_nulls(&object["spec"]["origin"]);
    let changed: &[&str] = if origin(old) == origin(new) {
        &[]
    } else {
        &["origin"]
    };
    refusal(changed, &["origin"])
}

/// Why a Postgres cannot resume the paused database of its name; `object` has its defaults.
#[must_use]
pub fn validate_resume(object: &Value, dormant: &DormantDatabase) -> Option<FieldError> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let Some(origin) = &dormant.spec.origin.spec.postgres else {
        let message = format!(
            "invalid Postgres: \"{name}\". Exists DormantDatabase \"{name}\" of different Kind"
        );
        return Some(FieldError::new("metadata.name", message));
    };
    let mut paused = Postgres::new(name, origin.clone());
    defaults::default_postgres(&mut paused);
    let paused = json!(paused.spec);
    let differences = differences(&paused, &object["spec"]);
    if differences.is_empty() {
        return None;
    }
    let message = format!(
        "postgres spec mismatches with OriginSpec in DormantDatabases. Diff: {}",
        differences.join(", ")
    );
    let hint = format!(
        "create it as it was to resume it, as kubedb get drmn {name} -o yaml shows it, and edit it then; or delete that DormantDatabase first"
    );
    Some(FieldError::new("spec", message).hint(hint))
}

fn differences(paused: &Value, wanted: &Value) -> Vec<String> {
    let keys = |value: &Value| -> Vec<String> {
        let fields = value.as_object().into_iter().flatten();
        fields.map(|(key, _)| key.clone()).collect()
    };
    let mut fields = keys(paused);
    fields.extend(keys(wanted));
    fields.sort();
    fields.dedup();
    fields.retain(|field| !FREE.contains(&field.as_str()));
    let differ = |field: &String| {
        let (was, is) = (normal(field, &paused[field]), normal(field, &wanted[field]));
        (was != is).then(|| format!("{field}: {} -> {}", told(&was), told(&is)))
    };
    fields.iter().filter_map(differ).collect()
}

fn told(value: &Value) -> String {
    let text = match value {
        Value::Null => "nothing".to_owned(),
        other => other.to_string(),
    };
    if text.chars().count() <= TOLD_MAX {
        return text;
    }
    let cut: String = text.chars().take(TOLD_MAX).collect();
    format!("{cut}…")
}

/// Takes over from a paused database what may differ and was left out.
pub(crate) fn take_over(object: &mut Value, dormant: &DormantDatabase) {
    let Some(origin) = &dormant.spec.origin.spec.postgres else {
        return;
    };
    let origin = json!(origin);
    for field in ["databaseSecret", "backupSchedule"] {
        if object["spec"][field].is_null() && !origin[field].is_null() {
            object["spec"][field] = origin[field].clone();
        }
    }
}
