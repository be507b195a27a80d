//! Bodies: JSON, YAML, and protobuf for the kinds that kubectl sends that way.

use bytes::Bytes;
use serde_json::Value;

use super::protobuf;
use super::resource::Resource;
use super::status::ApiError;

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

fn media(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// An object that is to be stored.
pub(crate) fn object(
    resource: &Resource,
    content_type: &str,
    bytes: &Bytes,
) -> Result<Value, ApiError> {
    match media(content_type) {
        PROTOBUF if !resource.custom => protobuf::object(resource, bytes),
        "" | JSON => json(bytes),
        YAML => serde_yaml_ng::from_slice(bytes).map_err(|error| {
            ApiError::bad_request(format!("error converting YAML to JSON: {error}"))
        }),
        _ if resource.custom => Err(ApiError::unsupported_media_type(&[JSON, YAML])),
        _ => Err(ApiError::unsupported_media_type(&[JSON, YAML, PROTOBUF])),
    }
}

/// `DeleteOptions`; null when there are none.
pub(crate) fn options(content_type: &str, bytes: &Bytes) -> Result<Value, ApiError> {
    match media(content_type) {
        _ if bytes.is_empty() => Ok(Value::Null),
        PROTOBUF => protobuf::options(bytes),
        _ => json(bytes),
    }
}

fn json(bytes: &Bytes) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| {
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type JSON): {error}"
        ))
    })
}
