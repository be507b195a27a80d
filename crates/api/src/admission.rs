//! What an object of ours is defaulted to and refused for before it is stored: by the embedded API and by the webhook, in the same words.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::validate::{self, FieldError};
use crate::{DormantDatabase, defaults};

/// Whether two forms of an object differ in what the user wants: everything but metadata and status.
#[must_use]
pub fn differs(old: &Value, new: &Value) -> bool {
    let fields = |object: &Value| -> Vec<(String, Value)> {
        object
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(field, _)| !matches!(field.as_str(), "metadata" | "status"))
            .map(|(field, value)| (field.clone(), value.clone()))
            .collect()
    };
    fields(old) != fields(new)
}

/// Defaults and checks an object by its plural; `old` on an update. `raw` is the object as it was sent, with what the schema does not know: that
/// is refused by name. `object`, which gets the defaults, may be without it.
///
/// An update that leaves the spec alone is never refused: a finalizer must always be removable, whatever the rules have become since.
///
/// `dormant` is the paused database of a new Postgres' name, which it resumes.
///
/// # Errors
/// What is wrong, field by field.
pub fn admit(
    plural: &str,
    old: Option<&Value>,
    raw: &Value,
    object: &mut Value,
    known_versions: &[&str],
    dormant: Option<&DormantDatabase>,
) -> Result<(), Vec<FieldError>> {
    if old.is_some_and(|old| !differs(old, raw)) {
        return Ok(());
    }
    refuse(match plural {
        "postgreses" => validate::validate_postgres(raw, known_versions),
        "snapshots" => validate::validate_snapshot(raw),
        "dormantdatabases" => validate::validate_dormant_database(raw),
        _ => Vec::new(),
    })?;
    match plural {
        "postgreses" => apply(object, defaults::default_postgres),
        "snapshots" => apply(object, defaults::default_snapshot),
        _ => Ok(()),
    }
    .map_err(|error| vec![FieldError::undecodable(&error)])?;
    if let (None, "postgreses", Some(dormant)) = (old, plural, resumable(dormant)) {
        validate::take_over(object, dormant);
        refuse(
            validate::validate_resume(object, dormant)
                .into_iter()
                .collect(),
        )?;
    }
    // Compared after the defaults, so that leaving out what was filled in is no change.
    refuse(match (old, plural) {
        (Some(old), "postgreses") => validate::validate_postgres_update(old, object),
        (Some(old), "snapshots") => validate::validate_snapshot_update(old, object),
        (Some(old), "dormantdatabases") => validate::validate_dormant_database_update(old, object),
        _ => Vec::new(),
    })
}

/// What is being deleted is waited for, and not resumed.
fn resumable(dormant: Option<&DormantDatabase>) -> Option<&DormantDatabase> {
    dormant.filter(|dormant| !dormant.is_going())
}

fn refuse(errors: Vec<FieldError>) -> Result<(), Vec<FieldError>> {
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors)
    }
}

/// Lets `default` work on the typed object, and takes over only what it changed: everything else stays as it was sent.
fn apply<T: DeserializeOwned + Serialize>(
    object: &mut Value,
    default: fn(&mut T),
) -> Result<(), serde_json::Error> {
    let mut typed: T = serde_json::from_value(object.clone())?;
    let before = serde_json::to_value(&typed)?;
    default(&mut typed);
    let after = serde_json::to_value(&typed)?;
    take_over(object, &before, &after);
    Ok(())
}

fn take_over(object: &mut Value, before: &Value, after: &Value) {
    if before == after {
        return;
    }
    let (Some(after_fields), true) = (after.as_object(), before.is_object() && object.is_object())
    else {
        *object = after.clone();
        return;
    };
    for (field, after) in after_fields {
        if before[field] != *after {
            take_over(&mut object[field], &before[field], after);
        }
    }
}

/// All that is wrong in one line, as an API server lists it.
#[must_use]
pub fn list(errors: &[FieldError]) -> String {
    let line = |error: &FieldError| match error.field.as_str() {
        "" => error.text(),
        field => format!("{field}: {}", error.text()),
    };
    match errors {
        [one] => line(one),
        many => {
            let lines: Vec<String> = many.iter().map(line).collect();
            format!("[{}]", lines.join(", "))
        }
    }
}

/// The answer to a refused object, as the `Status` that an API server gives: code 422, with a cause for each field.
#[must_use]
pub fn invalid(kind: &str, name: &str, errors: &[FieldError]) -> Value {
    const GROUP: &str = "kubedb.com";
    let cause = |error: &FieldError| json!({"reason": "FieldValueInvalid", "message": error.text(), "field": error.field});
    let list = list(errors);
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 422, "reason": "Invalid",
        "message": format!("{kind}.{GROUP} \"{name}\" is invalid: {list}"),
        "details": {"group": GROUP, "kind": kind, "name": name, "causes": errors.iter().map(cause).collect::<Vec<_>>()},
    })
}

/// What a Snapshot of a database that is not there is refused with.
#[must_use]
pub fn no_such_database(name: &str) -> String {
    format!("postgreses.kubedb.com \"{name}\" not found")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_leave_everything_else_as_it_was_sent() {
        let mut object = json!({"apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "metadata": {"name": "p"},
            "spec": {"version": 9.6, "standbyMode": "Hot", "storage": {"resources": {"requests": {"storage": "50Mi"}}}}});
        let raw = object.clone();
        admit("postgreses", None, &raw, &mut object, &["9.6"], None).unwrap();
        let spec = &object["spec"];
        assert_eq!(spec["version"], json!(9.6));
        assert_eq!(spec["standbyMode"], "Hot");
        assert_eq!(spec["replicas"], 1);
        assert_eq!(spec["storage"]["accessModes"], json!(["ReadWriteOnce"]));
    }

    #[test]
    fn snapshots_are_labelled() {
        let mut object = json!({"apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot", "metadata": {"name": "s"},
            "spec": {"databaseName": "pg", "local": {"mountPath": "/b"}}});
        let raw = object.clone();
        admit("snapshots", None, &raw, &mut object, &[], None).unwrap();
        assert_eq!(object["metadata"]["labels"]["kubedb.com/name"], "pg");
    }

    #[test]
    fn what_leaves_the_spec_alone_is_never_refused() {
        let old = json!({"metadata": {"name": "p", "finalizers": ["kubedb.com"]}, "spec": {"version": "8.4"}});
        let mut new = old.clone();
        new["metadata"]["finalizers"] = json!([]);
        let raw = new.clone();
        let admitted = admit("postgreses", Some(&old), &raw, &mut new, &[], None);
        assert_eq!(admitted, Ok(()));
        new["spec"]["replicas"] = json!(2);
        let raw = new.clone();
        assert!(admit("postgreses", Some(&old), &raw, &mut new, &[], None).is_err());
    }

    fn paused(spec: Value) -> DormantDatabase {
        let object = json!({"apiVersion": "kubedb.com/v1alpha1", "kind": "DormantDatabase", "metadata": {"name": "p"},
            "spec": {"origin": {"metadata": {"name": "p", "uid": "u-1"}, "spec": {"postgres": spec}}}});
        serde_json::from_value(object).unwrap()
    }

    fn resume(spec: Value, dormant: &DormantDatabase) -> Result<Value, String> {
        let mut object = json!({"apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "metadata": {"name": "p"}, "spec": spec});
        let raw = object.clone();
        let known = ["9.6", "10"];
        admit("postgreses", None, &raw, &mut object, &known, Some(dormant))
            .map(|()| object)
            .map_err(|errors| list(&errors))
    }

    #[test]
    fn whoever_resumes_has_the_schedule_and_the_secret_again() {
        let schedule = json!({"cronExpression": "@every 6h", "local": {"mountPath": "/b"}});
        let dormant = paused(
            json!({"version": 9.6, "replicas": 3, "backupSchedule": schedule,
            "databaseSecret": {"secretName": "p-auth"}, "doNotPause": true}),
        );
        let object = resume(
            json!({"version": "9.6", "replicas": 3, "standbyMode": "Warm"}),
            &dormant,
        )
        .unwrap();
        assert_eq!(object["spec"]["backupSchedule"], schedule);
        assert_eq!(object["spec"]["databaseSecret"]["secretName"], "p-auth");
        assert_eq!(object["spec"]["doNotPause"], Value::Null);
        let other = json!({"cronExpression": "@daily", "local": {"mountPath": "/b"}});
        let object = resume(
            json!({"version": 9.6, "replicas": 3, "backupSchedule": other}),
            &dormant,
        )
        .unwrap();
        assert_eq!(object["spec"]["backupSchedule"], other);
    }

    #[test]
    fn another_database_does_not_resume() {
        let mut dormant = paused(json!({"version": 9.6, "replicas": 3}));
        let why = resume(json!({"version": "10"}), &dormant).unwrap_err();
        assert!(
            why.starts_with("spec: postgres spec mismatches with OriginSpec in DormantDatabases. Diff: replicas: 3 -> 1, version: \"9.6\" -> \"10\" ("),
            "{why}"
        );
        assert!(why.contains("kubedb get drmn p -o yaml"), "{why}");
        // What is being deleted is waited for.
        dormant.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        resume(json!({"version": "10"}), &dormant).unwrap();
        let foreign: DormantDatabase = serde_json::from_value(json!({"apiVersion": "kubedb.com/v1alpha1",
            "kind": "DormantDatabase", "metadata": {"name": "p"}, "spec": {"origin": {"spec": {"mysql": {}}}}})).unwrap();
        let why = resume(json!({"version": "10"}), &foreign).unwrap_err();
        let words = "metadata.name: invalid Postgres: \"p\". Exists DormantDatabase \"p\" of different Kind";
        assert_eq!(why, words);
    }

    #[test]
    fn an_origin_stays_and_wiping_out_is_asked_for() {
        let old = json!({"metadata": {"name": "p"}, "spec": {"origin": {"spec": {"postgres": {"version": 9.6}}}}});
        let mut new = old.clone();
        new["spec"]["wipeOut"] = json!(true);
        let raw = new.clone();
        let admitted = admit("dormantdatabases", Some(&old), &raw, &mut new, &[], None);
        assert_eq!(admitted, Ok(()));
        new["spec"]["origin"]["spec"]["postgres"]["version"] = json!("10");
        let raw = new.clone();
        let refused = admit("dormantdatabases", Some(&old), &raw, &mut new, &[], None).unwrap_err();
        let message = "At least one of the following was changed:\n\tspec.origin";
        assert_eq!(refused[0].message, message);
        let spec = json!({"origin": {"spec": {"postgres": {"replicas": "three"}}}});
        let mut odd = json!({"metadata": {"name": "p"}, "spec": spec});
        let raw = odd.clone();
        let refused = admit("dormantdatabases", None, &raw, &mut odd, &[], None).unwrap_err();
        let message = &refused[0].message;
        assert!(message.starts_with("spec.origin is no copy of a database: "));
    }

    #[test]
    fn a_refusal_names_every_field() {
        let errors = [
            FieldError::undecodable(&"x"),
            FieldError {
                field: "spec.a".to_owned(),
                message: "b".to_owned(),
                hint: Some("c".to_owned()),
            },
        ];
        let status = invalid("Postgres", "p", &errors);
        assert_eq!(
            status["message"],
            "Postgres.kubedb.com \"p\" is invalid: [x, spec.a: b (c)]"
        );
        assert_eq!(status["details"]["causes"][1]["message"], "b (c)");
    }
}
