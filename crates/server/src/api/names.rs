//! Names, labels and annotations: what kube-apiserver accepts, and its words for the rest.

use serde_json::Value;

use super::resource::Resource;
use super::status::Cause;

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_NAME: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
/// All annotations of an object together, keys and values.
const MAX_ANNOTATIONS: usize = 256 << 10;

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().copied().is_some_and(inner)
        && bytes.last().copied().is_some_and(inner)
        && bytes.iter().all(|byte| inner(*byte) || *byte == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

/// The characters of a label's name or value.
fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// Checks a label's or annotation's key.
pub(crate) fn label_key(key: &str) -> Result<(), String> {
    let name = match key.split_once('/') {
        Some(("", _)) => return Err("prefix part must be non-empty".to_owned()),
        Some((prefix, name)) => {
            if !is_subdomain(prefix) || prefix.len() > 253 {
                return Err(format!("prefix part {SUBDOMAIN}"));
            }
            name
        }
        None => key,
    };
    if name.is_empty() {
        Err("name part must be non-empty".to_owned())
    } else if name.len() > 63 {
        Err("name part must be no more than 63 characters".to_owned())
    } else if is_qualified(name) {
        Ok(())
    } else {
        Err(LABEL_NAME.to_owned())
    }
}

/// Checks a label's value.
pub(crate) fn label_value(value: &str) -> Result<(), String> {
    if value.len() > 63 {
        Err("must be no more than 63 characters".to_owned())
    } else if value.is_empty() || is_qualified(value) {
        Ok(())
    } else {
        Err(LABEL_VALUE.to_owned())
    }
}

fn name(resource: &Resource, name: &str, field: &str) -> Option<Cause> {
    let (fits, most, why) = if resource.is_namespace() {
        (is_label(name), 63, LABEL)
    } else {
        (is_subdomain(name), 253, SUBDOMAIN)
    };
    let quoted = format!("{name:?}");
    if name.len() > most {
        let why = format!("must be no more than {most} characters");
        Some(Cause::invalid(field, &quoted, &why))
    } else {
        (!fits).then(|| Cause::invalid(field, &quoted, why))
    }
}

/// Checks the metadata of an object that is about to be stored.
pub(crate) fn check(resource: &Resource, metadata: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    match metadata["name"].as_str() {
        None | Some("") => {
            let why = "name or generateName is required";
            causes.push(Cause::required("metadata.name", why));
        }
        Some(text) => causes.extend(name(resource, text, "metadata.name")),
    }
    for (key, value) in metadata["labels"].as_object().into_iter().flatten() {
        let checked = label_key(key).and_then(|()| label_value(value.as_str().unwrap_or_default()));
        if let Err(why) = checked {
            let told = if label_key(key).is_err() {
                key
            } else {
                value.as_str().unwrap_or_default()
            };
            causes.push(Cause::invalid(
                "metadata.labels",
                &format!("{told:?}"),
                &why,
            ));
        }
    }
    let mut total = 0;
    for (key, value) in metadata["annotations"].as_object().into_iter().flatten() {
        total += key.len() + value.as_str().map_or(0, str::len);
        if let Err(why) = label_key(&key.to_lowercase()) {
            causes.push(Cause::invalid(
                "metadata.annotations",
                &format!("{key:?}"),
                &why,
            ));
        }
    }
    if total > MAX_ANNOTATIONS {
        causes.push(Cause {
            reason: "FieldValueTooLong",
            field: "metadata.annotations".to_owned(),
            message: format!("Too long: may not be more than {MAX_ANNOTATIONS} bytes"),
        });
    }
    for (index, finalizer) in metadata["finalizers"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let text = finalizer.as_str().unwrap_or_default();
        if let Err(why) = label_key(text) {
            let field = format!("metadata.finalizers[{index}]");
            causes.push(Cause::invalid(&field, &format!("{text:?}"), &why));
        }
    }
    causes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::resource;
    use super::*;

    #[test]
    fn namespaces_are_labels_and_the_rest_subdomains() {
        let namespaces = resource::find("", "v1", "namespaces").unwrap();
        let secrets = resource::find("", "v1", "secrets").unwrap();
        for (fits_namespace, fits_secret, name) in [
            (true, true, "demo"),
            (false, true, "a.b"),
            (false, false, "Demo"),
            (false, false, "a-"),
            (false, false, "a..b"),
            (false, false, "../x"),
        ] {
            let metadata = json!({ "name": name });
            assert_eq!(
                check(namespaces, &metadata).is_empty(),
                fits_namespace,
                "{name}"
            );
            assert_eq!(check(secrets, &metadata).is_empty(), fits_secret, "{name}");
        }
    }

    #[test]
    fn checks_labels_and_finalizers() {
        let secrets = resource::find("", "v1", "secrets").unwrap();
        let good =
            json!({"name": "x", "labels": {"a.b/c": "D_1", "e": ""}, "finalizers": ["kubedb.com"]});
        assert!(check(secrets, &good).is_empty());
        let bad = json!({"name": "x", "labels": {"a b": "c", "d": "e f"}, "finalizers": ["a b"]});
        assert_eq!(check(secrets, &bad).len(), 3);
    }
}
