//! Bodies: JSON, YAML, and protobuf for the kinds that kubectl sends that way.

use bytes::Bytes;
use kubedb_api::nesting::{MOST_OPEN, too_deep};
use serde_json::Value;

use super::resource::Resource;
use super::status::ApiError;
use super::{protobuf, strict};

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// An object as it was sent.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) object: Value,
    /// Paths of fields that were sent more than once; the last one counts.
    pub(crate) duplicates: Vec<String>,
}

impl From<Value> for Sent {
    fn from(object: Value) -> Self {
        Self {
            object,
            duplicates: Vec::new(),
        }
    }
}

fn media(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// An object that is to be stored.
pub(crate) fn object(
    resource: &Resource,
    content_type: &str,
    bytes: &Bytes,
) -> Result<Sent, ApiError> {
    let sent = match media(content_type) {
        PROTOBUF if !resource.custom => protobuf::object(resource, bytes)?.into(),
        "" | JSON => {
            let (object, duplicates) = strict::parse(bytes).map_err(|error| {
                let why = format!("couldn't get version/kind; json parse error: {error}");
                unrecognized(resource, &why)
            })?;
            Sent { object, duplicates }
        }
        YAML => yaml(bytes)
            .map_err(|error| {
                ApiError::bad_request(format!("error converting YAML to JSON: {error}"))
            })?
            .into(),
        _ => return Err(ApiError::unsupported_media_type(&[JSON, YAML, PROTOBUF])),
    };
    if sent.object.is_object() {
        Ok(sent)
    } else {
        Err(unrecognized(
            resource,
            "couldn't get version/kind: it is no object",
        ))
    }
}

fn yaml(bytes: &[u8]) -> Result<Value, String> {
    if let Some(line) = too_deep(bytes) {
        return Err(format!("line {line} is nested more than {MOST_OPEN} deep"));
    }
    serde_yaml_ng::from_slice(bytes).map_err(|error| error.to_string())
}

/// What is no object at all.
pub(crate) fn unrecognized(resource: &Resource, why: &str) -> ApiError {
    ApiError::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): {why}",
        resource.kind
    ))
}

/// `DeleteOptions`; null when there are none.
pub(crate) fn options(content_type: &str, bytes: &Bytes) -> Result<Value, ApiError> {
    match media(content_type) {
        _ if bytes.is_empty() => Ok(Value::Null),
        PROTOBUF => protobuf::options(bytes),
        _ => serde_json::from_slice(bytes)
            .map_err(|error| ApiError::bad_request(format!("error decoding the options: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A megabyte of brackets took the parser minutes, and a thread of the server with it.
    #[test]
    fn yaml_that_is_nested_too_deep_is_refused_unread() {
        let refused = yaml("[".repeat(1 << 20).as_bytes());
        assert_eq!(
            refused,
            Err("line 1 is nested more than 1000 deep".to_owned())
        );
        assert!(yaml(b"a: [{b: 1}]").is_ok());
    }
}
