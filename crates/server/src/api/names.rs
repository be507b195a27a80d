//! Names, labels and annotations: what kube-apiserver accepts, and its words for the rest.

use serde_json::Value;

use super::resource::Resource;
use super::status::Cause;

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_NAME: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const QUALIFIED: &str = "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
/// Finalizers that need no domain.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];
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

/// Everything that is wrong with a label's or annotation's key.
pub(crate) fn key_faults(key: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let name = match key.split_once('/') {
        Some((_, name)) if name.contains('/') => return vec![QUALIFIED.to_owned()],
        Some((prefix, name)) => {
            if prefix.is_empty() {
                faults.push("prefix part must be non-empty".to_owned());
            } else if !is_subdomain(prefix) || prefix.len() > 253 {
                faults.push(format!("prefix part {SUBDOMAIN}"));
            }
            name
        }
        None => key,
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        faults.push("name part must be no more than 63 characters".to_owned());
    }
    if !is_qualified(name) {
        faults.push(LABEL_NAME.to_owned());
    }
    faults
}

/// Checks a label's or annotation's key.
pub(crate) fn label_key(key: &str) -> Result<(), String> {
    key_faults(key).into_iter().next().map_or(Ok(()), Err)
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
    if let Some(prefix) = metadata["generateName"]
        .as_str()
        .filter(|text| !text.is_empty())
    {
        // The random end makes a name of what ends in a dash.
        let begin = format!("{}x", prefix.trim_end_matches('-'));
        let told = name(resource, &begin, "metadata.generateName").map(|mut cause| {
            cause.message =
                cause
                    .message
                    .replacen(&format!("{begin:?}"), &format!("{prefix:?}"), 1);
            cause
        });
        // One that is too long is cut.
        causes.extend(told.filter(|_| prefix.len() <= 253));
    }
    match metadata["name"].as_str() {
        None | Some("") => {
            let why = "name or generateName is required";
            causes.push(Cause::required("metadata.name", why));
        }
        Some(text) => causes.extend(name(resource, text, "metadata.name")),
    }
    for (key, value) in metadata["labels"].as_object().into_iter().flatten() {
        let invalid =
            |told: &str, why: &str| Cause::invalid("metadata.labels", &format!("{told:?}"), why);
        causes.extend(key_faults(key).iter().map(|why| invalid(key, why)));
        let value = value.as_str().unwrap_or_default();
        causes.extend(label_value(value).err().map(|why| invalid(value, &why)));
    }
    let mut total = 0;
    for (key, value) in metadata["annotations"].as_object().into_iter().flatten() {
        total += key.len() + value.as_str().map_or(0, str::len);
        let invalid =
            |why: &String| Cause::invalid("metadata.annotations", &format!("{key:?}"), why);
        causes.extend(key_faults(&key.to_lowercase()).iter().map(invalid));
    }
    if total > MAX_ANNOTATIONS {
        causes.push(Cause {
            reason: "FieldValueTooLong",
            field: "metadata.annotations".to_owned(),
            message: format!("Too long: may not be more than {MAX_ANNOTATIONS} bytes"),
        });
    }
    check_finalizers(resource, metadata, &mut causes);
    check_owners(metadata, &mut causes);
    causes
}

fn check_finalizers(resource: &Resource, metadata: &Value, causes: &mut Vec<Cause>) {
    let list = metadata["finalizers"].as_array().into_iter().flatten();
    let texts: Vec<&str> = list.filter_map(Value::as_str).collect();
    for text in &texts {
        for why in key_faults(text) {
            causes.push(Cause::invalid(
                "metadata.finalizers",
                &format!("{text:?}"),
                &why,
            ));
        }
    }
    if resource.custom {
        return;
    }
    for (index, text) in texts.iter().enumerate() {
        if !text.contains('/') && !STANDARD_FINALIZERS.contains(text) {
            let field = format!("metadata.finalizers[{index}]");
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            causes.push(Cause::invalid(&field, &format!("{text:?}"), why));
        }
    }
}

/// Owners must be nameable, and at most one of them controls.
fn check_owners(metadata: &Value, causes: &mut Vec<Cause>) {
    let owners = metadata["ownerReferences"].as_array();
    let text = |owner: &Value, field: &str| owner[field].as_str().unwrap_or_default().to_owned();
    let mut controllers: Vec<String> = Vec::new();
    for owner in owners.into_iter().flatten() {
        let (version, kind) = (text(owner, "apiVersion"), text(owner, "kind"));
        for (field, why) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if text(owner, field).is_empty() {
                let field = format!("metadata.ownerReferences.{field}");
                causes.push(Cause::invalid(&field, "\"\"", why));
            }
        }
        if version == "v1" && kind == "Event" {
            let why = "/v1, Kind=Event is disallowed from being an owner";
            causes.push(Cause::invalid(
                "metadata.ownerReferences",
                &told(owner),
                why,
            ));
        }
        if owner["controller"] == true {
            controllers.push(format!("{kind}/{}", text(owner, "name")));
        }
    }
    if let [first, second, ..] = controllers.as_slice() {
        let all: Vec<String> = owners.into_iter().flatten().map(told).collect();
        let why = format!(
            "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {second}"
        );
        let value = format!("[{}]", all.join(","));
        causes.push(Cause::invalid("metadata.ownerReferences", &value, &why));
    }
}

/// An owner in the order of fields in which Go writes it.
fn told(owner: &Value) -> String {
    let fields = [
        "apiVersion",
        "kind",
        "name",
        "uid",
        "controller",
        "blockOwnerDeletion",
    ];
    let list: Vec<String> = fields
        .into_iter()
        .filter(|field| !owner[*field].is_null())
        .map(|field| format!("{field:?}:{}", owner[field]))
        .collect();
    format!("{{{}}}", list.join(","))
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
        let good = json!({"name": "x", "labels": {"a.b/c": "D_1", "e": ""}, "finalizers": ["kubedb.com/x"]});
        assert!(check(secrets, &good).is_empty());
        let bad = json!({"name": "x", "labels": {"a b": "c", "d": "e f"}, "finalizers": ["a b"]});
        // The finalizer is malformed, and without a domain.
        assert_eq!(check(secrets, &bad).len(), 4);
    }
}
