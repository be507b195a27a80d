//! What a backup may take: `resources` and `maxRate` of a Snapshot or a schedule.

use kubedb_core::effort::{CPU_MIN_MILLIS, MEMORY_MIN_BYTES, RATE_MIN_BYTES};
use serde_json::Value;

use super::{FieldError, is_given};
use crate::quantity;

/// What a backup can be held to.
const RESOURCES: [&str; 2] = ["cpu", "memory"];

/// Checks both fields of `fields`, whose path this is.
pub(super) fn check(fields: &Value, path: &str, errors: &mut Vec<FieldError>) {
    check_resources(&fields["resources"], &format!("{path}.resources"), errors);
    let (rate, path) = (&fields["maxRate"], format!("{path}.maxRate"));
    if !rate.is_null() {
        let least = (RATE_MIN_BYTES as f64, "1Mi");
        check_amount(rate, &path, least, errors);
    }
}

fn check_resources(resources: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if is_given(resources, "claims") {
        let error = FieldError::new(
            format!("{path}.claims"),
            format!("{path}.claims has no use"),
        );
        errors
            .push(error.hint("remove it: a backup runs beside its database and claims no device"));
    }
    for kind in ["limits", "requests"] {
        let given = resources[kind].as_object().into_iter().flatten();
        for (name, wanted) in given.filter(|(_, wanted)| !wanted.is_null()) {
            let path = format!("{path}.{kind}.{name}");
            let least = match (name.as_str(), kind) {
                (name, _) if !RESOURCES.contains(&name) => {
                    let error = FieldError::new(&path, format!("{path} has no use"));
                    errors.push(error.hint("a backup is held to cpu and memory"));
                    continue;
                }
                ("cpu", "limits") => (CPU_MIN_MILLIS as f64 / 1e3, "50m"),
                ("memory", "limits") => (MEMORY_MIN_BYTES as f64, "64Mi"),
                _ => (0.0, "0"),
            };
            if check_amount(wanted, &path, least, errors) && kind == "requests" {
                check_request(wanted, &resources["limits"][name], &path, errors);
            }
        }
    }
}

/// A request is no more than the limit, as for any container.
fn check_request(wanted: &Value, limit: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if let (Some(wanted), Some(limit)) = (amount(wanted), amount(limit))
        && wanted > limit
    {
        let message = format!("{path} must be less than or equal to the limit");
        errors.push(FieldError::new(path, message));
    }
}

/// Whether it is a quantity that is enough.
fn check_amount(
    wanted: &Value,
    path: &str,
    (least, words): (f64, &str),
    errors: &mut Vec<FieldError>,
) -> bool {
    let message = match amount(wanted) {
        None => format!("{path} {wanted} invalid. Value must be a quantity such as {words}"),
        Some(amount) if amount < least => {
            format!("{path} {wanted} invalid. Value must be at least {words}")
        }
        Some(_) => return true,
    };
    errors.push(FieldError::new(path, message));
    false
}

fn amount(quantity: &Value) -> Option<f64> {
    quantity::amount(&quantity::text(quantity)?)
}
