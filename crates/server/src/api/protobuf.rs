//! Protobuf bodies: what `kubectl create namespace|secret|configmap` sends.

use bytes::Bytes;
use serde_json::Value;

use super::resource::Resource;
use super::status::ApiError;

/// An object that is to be stored.
pub(crate) fn object(_resource: &Resource, _bytes: &Bytes) -> Result<Value, ApiError> {
    Err(ApiError::unsupported_media_type(&["application/json"]))
}

/// `DeleteOptions`.
pub(crate) fn options(_bytes: &Bytes) -> Result<Value, ApiError> {
    Err(ApiError::unsupported_media_type(&["application/json"]))
}
