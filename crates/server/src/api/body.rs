//! Bodies: JSON, YAML, and protobuf for the kinds that kubectl sends that way.

use bytes::Bytes;
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
        YAML => serde_yaml_ng::from_slice::<Value>(bytes)
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
