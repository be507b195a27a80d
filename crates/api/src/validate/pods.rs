//! What is said of pods.

use serde_json::Value;

use super::{FieldError, check_object_name, is_given};
use crate::pod_template::{POD_FIELDS, UNBUILT_POD_FIELDS};

/// Variables that the agent is told by, or that would say of the superuser what its Secret says.
const FORBIDDEN: [&str; 4] = ["POSTGRES_USER", "POSTGRES_PASSWORD", "POD_NAME", "TMPDIR"];
/// The same by how they begin.
const FORBIDDEN_PREFIX: &str = "KUBEDB_";
/// Labels and annotations of ours.
const OURS: &str = "kubedb.com/";

/// Checks the fields that a Postgres has for its pods.
pub(super) fn check(spec: &Value, errors: &mut Vec<FieldError>) {
    let template = &spec["podTemplate"];
    for field in POD_FIELDS {
        if is_given(spec, field) && is_given(&template["spec"], field) {
            let message =
                format!("spec.{field} and spec.podTemplate.spec.{field} are the same: keep one");
            errors.push(FieldError::new(format!("spec.{field}"), message));
        }
    }
    let path = "spec.podTemplate";
    if is_given(template, "controller") {
        errors.push(FieldError::unbuilt(format!("{path}.controller")));
    }
    let unbuilt = UNBUILT_POD_FIELDS.iter();
    let unbuilt = unbuilt.filter(|field| is_given(&template["spec"], field));
    errors.extend(unbuilt.map(|field| FieldError::unbuilt(format!("{path}.spec.{field}"))));
    for (place, holder) in [("spec", spec), ("spec.podTemplate.spec", &template["spec"])] {
        let secrets = holder["imagePullSecrets"].as_array().into_iter().flatten();
        for (number, secret) in secrets.enumerate() {
            let path = format!("{place}.imagePullSecrets[{number}].name");
            match secret["name"].as_str() {
                None | Some("") => errors.push(FieldError::missing(path)),
                Some(_) => check_object_name(&secret["name"], &path, errors),
            }
        }
    }
    check_environment(&template["spec"]["env"], errors);
    for field in ["labels", "annotations"] {
        let names = template["metadata"][field]
            .as_object()
            .into_iter()
            .flatten();
        for (name, _) in names.filter(|(name, _)| name.contains(OURS)) {
            let path = format!("{path}.metadata.{field}");
            let message = format!("{path} {name:?} invalid: kubedb sets it itself");
            errors.push(FieldError::new(path, message));
        }
    }
}

fn check_environment(variables: &Value, errors: &mut Vec<FieldError>) {
    let variables = variables.as_array().into_iter().flatten();
    for (number, variable) in variables.enumerate() {
        let path = format!("spec.podTemplate.spec.env[{number}].name");
        let Some(name) = variable["name"].as_str() else {
            continue;
        };
        if name.is_empty() || name.contains(['=', '\0']) {
            let message = format!("{path} {name:?} invalid: a variable has a name without \"=\"");
            errors.push(FieldError::new(path, message));
        } else if FORBIDDEN.contains(&name) || name.starts_with(FORBIDDEN_PREFIX) {
            let message =
                format!("environment variable {name} is forbidden to use in Postgres spec");
            errors.push(FieldError::new(path, message));
        }
    }
}

/// What only a Kubernetes can do: there a database has pods. A server of one machine refuses it rather than seem to do it.
#[must_use]
pub fn validate_for_one_machine(raw: &Value) -> Vec<FieldError> {
    let spec = &raw["spec"];
    let fields = POD_FIELDS.iter().chain([&"podTemplate"]);
    let given = fields.filter(|field| is_given(spec, field));
    let told = given.map(|field| {
        let why = match *field {
            "resources" => "nothing holds a process of this machine to it",
            _ => "a database of this server is processes of one machine, and has no pods",
        };
        let path = format!("spec.{field}");
        let message = format!("{path} works on Kubernetes alone: {why}");
        FieldError::new(path, message).hint("remove it")
    });
    told.collect()
}
