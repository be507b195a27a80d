//! `metav1.Status`: how a refusal is told, in kube-apiserver's words.

use http::StatusCode;
use serde_json::{Value, json};

use super::resource::Resource;
use crate::storage::{Compacted, StorageError};

/// A refusal.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub(crate) code: StatusCode,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) details: Value,
    /// The message is the whole answer.
    pub(crate) plain: bool,
    /// Where a list that cannot be continued as it was goes on all the same; empty for everything else.
    next: String,
}

/// One refused field of an object.
#[derive(Clone, Debug)]
pub(crate) struct Cause {
    /// `FieldValueInvalid` and the like.
    pub(crate) reason: &'static str,
    pub(crate) field: String,
    /// Without the field.
    pub(crate) message: String,
}

impl Cause {
    fn new(reason: &'static str, field: &str, message: String) -> Self {
        Self {
            reason,
            field: field.to_owned(),
            message,
        }
    }

    /// `Invalid value: …: why`; `value` is JSON text.
    pub(crate) fn invalid(field: &str, value: &str, why: &str) -> Self {
        let message = format!("Invalid value: {value}: {why}");
        Self::new("FieldValueInvalid", field, message)
    }

    /// The words of somebody else, unchanged.
    pub(crate) fn worded(field: &str, message: String) -> Self {
        Self::new("FieldValueInvalid", field, message)
    }

    /// A word that is none of the known ones; `value` is JSON text.
    pub(crate) fn unsupported(field: &str, value: &str, known: &[&str]) -> Self {
        let known: Vec<String> = known.iter().map(|one| format!("{one:?}")).collect();
        let known = known.join(", ");
        let message = format!("Unsupported value: {value}: supported values: {known}");
        Self::new("FieldValueNotSupported", field, message)
    }

    pub(crate) fn required(field: &str, why: &str) -> Self {
        let colon = if why.is_empty() { "" } else { ": " };
        let message = format!("Required value{colon}{why}");
        Self::new("FieldValueRequired", field, message)
    }

    pub(crate) fn forbidden(field: &str, why: &str) -> Self {
        Self::new("FieldValueForbidden", field, format!("Forbidden: {why}"))
    }

    fn text(&self) -> String {
        if self.field.is_empty() {
            self.message.clone()
        } else {
            format!("{}: {}", self.field, self.message)
        }
    }
}

impl ApiError {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Value::Null,
            plain: false,
            next: String::new(),
        }
    }

    fn with_details(mut self, group: &str, kind: &str, name: &str) -> Self {
        let mut details = json!({"kind": kind});
        if !name.is_empty() {
            details["name"] = name.into();
        }
        if !group.is_empty() {
            details["group"] = group.into();
        }
        self.details = details;
        self
    }

    fn about(self, resource: &Resource, name: &str) -> Self {
        self.with_details(&resource.group, &resource.plural, name)
    }

    fn bare(mut self) -> Self {
        self.details = json!({});
        self
    }

    pub(crate) fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", resource.qualified());
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(resource, name)
    }

    /// A path that means nothing here.
    pub(crate) fn no_such_path() -> Self {
        let message = "the server could not find the requested resource";
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).bare()
    }

    /// A path outside every API: no `Status`, as plain a text as Go's router has.
    pub(crate) fn no_page() -> Self {
        let mut error = Self::new(StatusCode::NOT_FOUND, "", "404 page not found\n");
        error.plain = true;
        error
    }

    /// A name that exists because its object has not gone yet.
    pub(crate) fn going(resource: &Resource, name: &str) -> Self {
        let mut error = Self::already_exists(resource, name);
        error.message = format!("object is being deleted: {}", error.message);
        error
    }

    /// A method that one of our kinds, or a part of it, does not have.
    pub(crate) fn unsupported(resource: &Resource, method: &str) -> Self {
        let what = resource.qualified();
        let message = format!("{method} is not supported on resources of kind \"{what}\"");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message).about(resource, "")
    }

    /// No form of the answer that the client would take.
    pub(crate) fn not_acceptable() -> Self {
        let message = "only the following media types are accepted: application/json, application/yaml, \
                       application/vnd.kubernetes.protobuf";
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    /// No media type that the client would take.
    pub(crate) fn no_representation() -> Self {
        let message = "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, \
                       application/vnd.kubernetes.protobuf";
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message).bare()
    }

    pub(crate) fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(resource, name)
    }

    pub(crate) fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let what = resource.qualified();
        let message = format!("Operation cannot be fulfilled on {what} \"{name}\": {why}");
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(resource, name)
    }

    pub(crate) fn modified(resource: &Resource, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    /// `causes` must not be empty.
    pub(crate) fn invalid(resource: &Resource, name: &str, causes: &[Cause]) -> Self {
        Self::invalid_kind(&resource.group, &resource.kind, name, causes)
    }

    /// A PUT that does not say which version it replaces. Told about the resource, not the kind.
    pub(crate) fn unversioned(resource: &Resource, name: &str) -> Self {
        let why = "must be specified for an update";
        let cause = Cause::invalid("metadata.resourceVersion", "0", why);
        Self::invalid_kind(&resource.group, &resource.plural, name, &[cause])
    }

    /// An option of a request that means nothing.
    pub(crate) fn invalid_options(kind: &str, cause: Cause) -> Self {
        Self::invalid_kind("meta.k8s.io", kind, "", &[cause])
    }

    /// A patch whose result is no object of the kind.
    pub(crate) fn bad_patch(object: &Value, why: &str) -> Self {
        let text = Value::String(object.to_string());
        let cause = Cause::invalid("patch", &text.to_string(), why);
        let mut error = Self::invalid_kind("", "", "", std::slice::from_ref(&cause));
        error.details = json!({"causes": error.details["causes"]});
        error
    }

    /// A JSON patch that does not fit the object.
    pub(crate) fn misfit_patch(why: &str) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", why).bare()
    }

    /// A condition of a deletion that does not hold. Told about the kind, not the resource.
    pub(crate) fn precondition(resource: &Resource, name: &str, why: &str) -> Self {
        let dot = if resource.group.is_empty() { "" } else { "." };
        let (kind, group) = (&resource.kind, &resource.group);
        let message =
            format!("Operation cannot be fulfilled on {kind}{dot}{group} \"{name}\": {why}");
        Self::new(StatusCode::CONFLICT, "Conflict", message).with_details(group, kind, name)
    }

    /// The same for what is no object of ours, such as options.
    pub(crate) fn invalid_kind(group: &str, kind: &str, name: &str, causes: &[Cause]) -> Self {
        let texts: Vec<String> = causes.iter().map(Cause::text).collect();
        let list = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let dot = if group.is_empty() { "" } else { "." };
        let message = format!("{kind}{dot}{group} \"{name}\" is invalid: {list}");
        let code = StatusCode::UNPROCESSABLE_ENTITY;
        let mut error = Self::new(code, "Invalid", message).with_details(group, kind, name);
        error.details["causes"] = causes
            .iter()
            .map(|cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field}))
            .collect();
        error
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// `… is forbidden: why`.
    pub(crate) fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        let what = resource.qualified();
        let message = if name.is_empty() {
            format!("{what} is forbidden: {why}")
        } else {
            format!("{what} \"{name}\" is forbidden: {why}")
        };
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).about(resource, name)
    }

    /// A refusal whose words are the whole message.
    pub(crate) fn denied(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).bare()
    }

    /// Adds a machine-readable cause.
    pub(crate) fn with_cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        let mut cause = json!({"reason": reason, "message": message});
        if !field.is_empty() {
            cause["field"] = field.into();
        }
        self.details["causes"] = json!([cause]);
        self
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message).bare()
    }

    pub(crate) fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        let code = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self::new(code, "UnsupportedMediaType", message)
    }

    /// Core kinds refuse a patch in words of their own.
    pub(crate) fn unsupported_patch() -> Self {
        let message = "415: Unsupported Media Type";
        let code = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self::new(code, "UnsupportedMediaType", message).bare()
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        Self::too_large_because(&format!("limit is {limit}"))
    }

    pub(crate) fn too_large_because(why: &str) -> Self {
        let message = format!("Request entity too large: {why}");
        let code = StatusCode::PAYLOAD_TOO_LARGE;
        Self::new(code, "RequestEntityTooLarge", message)
    }

    pub(crate) fn too_many_requests(message: &str) -> Self {
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message);
        error.details = json!({"retryAfterSeconds": 1});
        error
    }

    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// A list is asked to go on as of a version that is forgotten; `next` goes on with what is there now.
    pub(crate) fn expired_continue(next: String) -> Self {
        let message = "The provided continue parameter is too old to display a consistent list result. You can start a new \
            list without the continue parameter, or use the continue token in this response to retrieve the remainder of \
            the results. Continuing with the provided token results in an inconsistent list - objects that were created, \
            modified, or deleted between the time the first chunk was returned and now may show up in the list.";
        Self {
            next,
            ..Self::expired(message)
        }
    }

    pub(crate) fn too_large_revision(wanted: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {wanted}, current: {current}");
        let mut error = Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message);
        error.details = json!({"retryAfterSeconds": 1});
        error.with_cause("ResourceVersionTooLarge", "Too large resource version", "")
    }

    /// An error that kube-apiserver gives no reason to.
    pub(crate) fn unexplained(message: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "", message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        let message = format!("Internal error occurred: {}", message.into());
        let code = StatusCode::INTERNAL_SERVER_ERROR;
        Self::new(code, "InternalError", message)
    }

    /// Why something could not be read as an object of its kind.
    pub(crate) fn why_undecodable(&self) -> &str {
        let told = self.message.split_once(" cannot be handled as a ");
        told.and_then(|(_, rest)| rest.split_once(": "))
            .map_or(self.message.as_str(), |(_, why)| why)
    }

    /// The `Status` object.
    pub(crate) fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code.as_u16(),
        });
        if !self.next.is_empty() {
            status["metadata"]["continue"] = self.next.as_str().into();
        }
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}

impl From<StorageError> for ApiError {
    fn from(error: StorageError) -> Self {
        if let StorageError::TooLarge { .. } = error {
            return Self::too_large_because(&error.to_string());
        }
        // The caller learns that it failed; the cause, which may name files, is for the log.
        tracing::error!(error = &error as &dyn std::error::Error, "a write failed");
        Self::internal(error.to_string())
    }
}

impl From<Compacted> for ApiError {
    fn from(_: Compacted) -> Self {
        Self::expired("The resourceVersion for the provided list is too old.")
    }
}
