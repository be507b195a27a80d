//! Where Snapshots may go: one store, named whole.

use serde_json::Value;

use super::{FieldError, is_given};

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
    }
    let needs_secret = matches!(*store, "azure" | "swift");
    if needs_secret && spec["storageSecretName"].as_str().is_none_or(str::is_empty) {
        let field = format!("{path}.storageSecretName");
        errors.push(FieldError::new(
            field,
            format!("object 'SecretName' is missing in '{spec}'"),
        ));
    }
    if *store == "local" {
        check_local(inner, &store_path, errors);
    }
    check_endpoint(&inner["endpoint"], format!("{store_path}.endpoint"), errors);
    check_below(&inner["prefix"], format!("{store_path}.prefix"), errors);
}

fn check_local(local: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let folder = local["mountPath"].as_str().unwrap_or_default();
    let is_plain = folder.starts_with('/') && !folder.split('/').any(|part| part == "..");
    if !folder.is_empty() && !is_plain {
        let message = format!(
            "{path}.mountPath \"{folder}\" invalid: an absolute path without \"..\" is needed"
        );
        errors.push(FieldError::new(format!("{path}.mountPath"), message));
    }
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

fn check_endpoint(endpoint: &Value, path: String, errors: &mut Vec<FieldError>) {
    let Some(text) = endpoint.as_str() else {
        return;
    };
    let host = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    if host.is_none_or(|host| host.is_empty() || host.starts_with('/')) {
        let message = format!(
            "{path} \"{text}\" invalid: an address such as https://store.example.com is needed"
        );
        errors.push(FieldError::new(path, message));
    }
}

/// A folder within the store must stay within it.
fn check_below(folder: &Value, path: String, errors: &mut Vec<FieldError>) {
    if let Some(text) = folder.as_str()
        && text.split('/').any(|part| matches!(part, ".." | "."))
    {
        let message = format!("{path} \"{text}\" invalid: \".\" and \"..\" lead elsewhere");
        errors.push(FieldError::new(path, message));
    }
}
