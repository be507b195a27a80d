//! Where Snapshots may go: one store, named whole.

use kubedb_core::age::{RECIPIENTS_MAX, Recipient};
use serde_json::Value;

use super::{FieldError, check_object_name, is_given, without_nulls};
use crate::encryption::IDENTITY_KEY;

/// Stores in the order in which the original looks for them, and the field that names the bucket.
const STORES: [(&str, &str); 5] = [
    ("s3", "bucket"),
    ("gcs", "bucket"),
    ("azure", "container"),
    ("local", "mountPath"),
    ("swift", "container"),
];

/// Volumes that can lie at `local.mountPath`.
const VOLUMES: [&str; 4] = ["hostPath", "nfs", "persistentVolumeClaim", "emptyDir"];

/// Checks the stores that stand inline in `spec`, which is at `path`.
pub(super) fn check(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let given: Vec<_> = STORES
        .iter()
        .filter(|(store, _)| is_given(spec, store))
        .collect();
    let (store, bucket) = match given.as_slice() {
        [] => {
            let stores = STORES.map(|(store, _)| store);
            let error = FieldError::new(path, "no storage provider is configured");
            errors.push(error.hint(format!("give one of {}", stores.join(", "))));
            return;
        }
        [one] => one,
        several => {
            let names: Vec<_> = several.iter().map(|(store, _)| *store).collect();
            let names = names.join(", ");
            let error = FieldError::new(
                path,
                format!("several storage providers are configured: {names}"),
            );
            errors.push(error.hint("keep one; make further Snapshots for further stores"));
            return;
        }
    };
    let (inner, store_path) = (&spec[*store], format!("{path}.{store}"));
    if inner[*bucket].as_str().is_none_or(str::is_empty) {
        errors.push(FieldError::missing(format!("{store_path}.{bucket}")));
    } else if *store != "local" {
        check_bucket(&inner[*bucket], format!("{store_path}.{bucket}"), errors);
    }
    let secret = format!("{path}.storageSecretName");
    check_object_name(&spec["storageSecretName"], &secret, errors);
    let needs_secret = matches!(*store, "azure" | "swift");
    if needs_secret && spec["storageSecretName"].as_str().is_none_or(str::is_empty) {
        let field = format!("{path}.storageSecretName");
        errors.push(FieldError::new(
            field,
            format!(
                "object 'SecretName' is missing in '{}'",
                without_nulls(spec)
            ),
        ));
    }
    if *store == "local" {
        check_local(inner, &store_path, errors);
    }
    check_endpoint(&inner["endpoint"], format!("{store_path}.endpoint"), errors);
    check_below(&inner["prefix"], format!("{store_path}.prefix"), errors);
    check_encryption(&spec["encryption"], &format!("{path}.encryption"), errors);
}

/// What a recipient says is never repeated: it may be an identity that somebody took for one.
fn check_encryption(encryption: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if encryption.is_null() {
        return;
    }
    let secret = format!("{path}.secretName");
    if encryption["secretName"].as_str().is_none_or(str::is_empty) {
        let hint = format!(
            "name a Secret that holds the identity of age-keygen under {IDENTITY_KEY}; without it nothing could be restored"
        );
        errors.push(FieldError::missing(secret).hint(hint));
    } else {
        check_object_name(&encryption["secretName"], &secret, errors);
    }
    let recipients = encryption["recipients"].as_array().into_iter().flatten();
    let recipients = recipients.filter_map(Value::as_str).enumerate();
    let count = recipients.clone().count();
    if count > RECIPIENTS_MAX {
        let path = format!("{path}.recipients");
        let message =
            format!("{path} has {count} recipients, at most {RECIPIENTS_MAX} are possible");
        errors.push(FieldError::new(path, message));
        return;
    }
    for (number, text) in recipients {
        if let Err(reason) = text.parse::<Recipient>() {
            let path = format!("{path}.recipients[{number}]");
            let message = format!("{path} {reason}");
            errors.push(FieldError::new(path, message));
        }
    }
}

fn check_local(local: &Value, path: &str, errors: &mut Vec<FieldError>) {
    check_folder(&local["mountPath"], format!("{path}.mountPath"), errors);
    let host = &local["hostPath"]["path"];
    check_folder(host, format!("{path}.hostPath.path"), errors);
    check_below(&local["subPath"], format!("{path}.subPath"), errors);
    let volumes: Vec<_> = VOLUMES
        .into_iter()
        .filter(|volume| is_given(local, volume))
        .collect();
    if volumes.len() > 1 {
        let message = format!("several volumes are configured: {}", volumes.join(", "));
        errors.push(FieldError::new(path, message).hint("keep one"));
    }
}

/// A folder of the machine, if there is one.
pub(super) fn check_folder(folder: &Value, path: String, errors: &mut Vec<FieldError>) {
    let folder = folder.as_str().unwrap_or_default();
    let is_plain = folder.starts_with('/') && !folder.split('/').any(|part| part == "..");
    if !folder.is_empty() && !is_plain {
        let message =
            format!("{path} \"{folder}\" invalid: an absolute path without \"..\" is needed");
        errors.push(FieldError::new(path, message));
    }
}

/// Names of buckets differ from store to store, but none has what makes an address of it.
fn check_bucket(bucket: &Value, path: String, errors: &mut Vec<FieldError>) {
    let name = bucket.as_str().unwrap_or_default();
    let is_strange = |letter: char| letter == '/' || letter.is_whitespace() || letter.is_control();
    if name.contains(is_strange) {
        let message = format!("{path} {name:?} invalid: the name alone is needed");
        let error = FieldError::new(path, message);
        errors.push(error.hint("a folder within it goes into prefix"));
    }
}

fn check_endpoint(endpoint: &Value, path: String, errors: &mut Vec<FieldError>) {
    let Some(text) = endpoint.as_str() else {
        return;
    };
    let host = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    let host = host.map(|rest| rest.split('/').next().unwrap_or_default());
    if host.is_some_and(|host| host.contains('@')) {
        let message = format!("{path} invalid: it holds a user, and perhaps a password");
        let error = FieldError::new(path, message);
        errors.push(error.hint("credentials go into the storage Secret"));
        return;
    }
    if !host.is_some_and(is_host) {
        let message = format!(
            "{path} \"{text}\" invalid: an address such as https://store.example.com is needed"
        );
        errors.push(FieldError::new(path, message));
    }
}

/// Whether a name or an address stands there, perhaps with a port.
fn is_host(host: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
    match host.strip_prefix('[') {
        // An address of version 6.
        Some(rest) => rest.split_once(']').is_some_and(|(address, port)| {
            address.bytes().all(is_letter) && (port.is_empty() || port.starts_with(':'))
        }),
        None => !host.is_empty() && !host.starts_with(':') && host.bytes().all(is_letter),
    }
}

/// A folder within the store must stay within it.
fn check_below(folder: &Value, path: String, errors: &mut Vec<FieldError>) {
    let Some(text) = folder.as_str() else { return };
    let trimmed = text.trim_matches('/');
    let reason = if text.split('/').any(|part| matches!(part, ".." | ".")) {
        "\".\" and \"..\" lead elsewhere"
    } else if trimmed.contains("//") {
        "between two slashes is nothing"
    } else if text.contains(char::is_control) {
        "it holds a control character"
    } else {
        return;
    };
    let message = format!("{path} {text:?} invalid: {reason}");
    errors.push(FieldError::new(path, message));
}
