//! From a request to its answer.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, WARNING};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::format::Format;
use super::patch::Patch;
use super::read::{self, Page};
use super::route::{Query, Route, Target, Verb};
use super::selector::Selector;
use super::status::ApiError;
use super::write::Written;
use super::{body, delete, discovery, openapi, watch, write};
use crate::auth::Identity;
use crate::limits::Limits;
use crate::storage::Store;

/// Largest body, as in kube-apiserver.
const MAX_BODY: usize = 3 << 20;
/// Watches at once: a hundred databases with three instances each and their tools, with room to spare.
const MAX_WATCHES: usize = 2000;
/// Warnings told in headers at most.
const MAX_WARNINGS: usize = 20;

/// The API over a store.
pub(crate) struct Api {
    pub(crate) store: Arc<Store>,
    watches: Arc<Semaphore>,
    changes: Semaphore,
    body_time: Duration,
}

impl Api {
    pub(crate) fn new(store: Arc<Store>, limits: &Limits) -> Self {
        Self {
            store,
            watches: Arc::new(Semaphore::new(MAX_WATCHES)),
            changes: Semaphore::new(limits.changes),
            body_time: limits.body,
        }
    }

    /// Answers a request of somebody known.
    pub(crate) async fn handle(
        self: Arc<Self>,
        identity: Identity,
        request: Request<Body>,
    ) -> Response<Body> {
        match self.route(&identity, request).await {
            Ok(response) => response,
            Err(error) => refusal(&error),
        }
    }

    async fn route(
        &self,
        identity: &Identity,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let route = Route::parse(request.uri())?;
        let Route::Objects(target) = route else {
            return discover(&route, &request);
        };
        let query = Query::parse(request.uri());
        let verb = Verb::of(request.method(), &target, &query)?;
        let mut selector = Selector::parse(
            target.resource,
            query.text("labelSelector"),
            query.text("fieldSelector"),
        )?;
        if verb == Verb::Watch && !target.name.is_empty() {
            selector = selector.and_name(&target.name);
        }
        identity.authorize(verb, &target, &selector)?;
        let format = format(request.headers(), &query)?;
        match verb {
            Verb::Get => {
                let object = read::get(&self.store, &target, &query)?;
                let value = format.object(target.resource, &object);
                encoded(request.headers(), &value)
            }
            Verb::List => {
                let page = read::list(&self.store, &target, &query, &selector)?;
                if wants_yaml(request.headers()) {
                    return encoded(request.headers(), &format.list(target.resource, &page));
                }
                let text = format.list_text(target.resource, &page);
                Ok(json_response(StatusCode::OK, Body::from(text)))
            }
            Verb::Watch => self.watch(&target, &query, selector, format),
            _ => {
                let call = Call {
                    identity: identity.clone(),
                    verb,
                    target,
                    query,
                    selector,
                    format,
                };
                self.change(call, request).await
            }
        }
    }

    fn watch(
        &self,
        target: &Target,
        query: &Query,
        selector: Selector,
        format: Format,
    ) -> Result<Response<Body>, ApiError> {
        let permit =
            self.watches.clone().try_acquire_owned().map_err(|_| {
                ApiError::too_many_requests("too many watches, please try again later")
            })?;
        let events = watch::watch(&self.store, target, query, selector, format, permit)?;
        Ok(json_response(StatusCode::OK, Body::from_stream(events)))
    }

    async fn change(&self, call: Call, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let _permit = self.changes.try_acquire().map_err(|_| {
            ApiError::too_many_requests("too many requests, please try again later")
        })?;
        let (parts, body) = request.into_parts();
        let bytes = collect(body, self.body_time).await?;
        let content_type = header(&parts.headers, CONTENT_TYPE).to_owned();
        let store = self.store.clone();
        // A write waits for the disk.
        tokio::task::spawn_blocking(move || call.run(&store, &content_type, &bytes))
            .await
            .map_err(|error| ApiError::internal(error.to_string()))?
    }
}

/// A request that changes something.
struct Call {
    identity: Identity,
    verb: Verb,
    target: Target,
    query: Query,
    selector: Selector,
    format: Format,
}

impl Call {
    fn run(
        &self,
        store: &Store,
        content_type: &str,
        bytes: &Bytes,
    ) -> Result<Response<Body>, ApiError> {
        let (target, query) = (&self.target, &self.query);
        match self.verb {
            Verb::Create => {
                let sent = body::object(target.resource, content_type, bytes)?;
                let name = sent.object["metadata"]["name"].as_str().unwrap_or_default();
                self.identity.authorize_name(target, name)?;
                Ok(self.written(write::create(store, target, query, sent)?))
            }
            Verb::Update => {
                let sent = body::object(target.resource, content_type, bytes)?;
                Ok(self.written(write::update(store, target, query, sent)?))
            }
            Verb::Patch => {
                let patch = Patch::parse(target.resource, content_type, bytes)?;
                Ok(self.written(write::patch(store, target, query, &patch)?))
            }
            Verb::Delete => {
                let options = delete::Options::parse(query, &body::options(content_type, bytes)?)?;
                let answered = delete::delete(store, target, &options)?;
                let value = if answered["kind"] == "Status" {
                    answered
                } else {
                    Format::Plain.object(target.resource, &Arc::new(answered))
                };
                Ok(answer(StatusCode::OK, &value))
            }
            _ => {
                let options = delete::Options::parse(query, &body::options(content_type, bytes)?)?;
                let objects = delete::delete_collection(store, target, &self.selector, &options)?;
                let page = Page {
                    revision: store.revision(),
                    next: String::new(),
                    remaining: None,
                    objects,
                };
                let value = Format::Plain.list(target.resource, &page);
                Ok(answer(StatusCode::OK, &value))
            }
        }
    }

    fn written(&self, written: Written) -> Response<Body> {
        let value = self.format.object(self.target.resource, &written.object);
        let mut response = answer(written.code, &value);
        for warning in written.warnings.iter().take(MAX_WARNINGS) {
            let text = format!("299 - {:?}", warning);
            if let Ok(value) = HeaderValue::from_str(&text) {
                response.headers_mut().append(WARNING, value);
            }
        }
        response
    }
}

fn discover(route: &Route, request: &Request<Body>) -> Result<Response<Body>, ApiError> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(ApiError::method_not_allowed());
    }
    let accept = header(request.headers(), ACCEPT);
    match route {
        Route::Health => Ok(text_response(StatusCode::OK, "ok".to_owned())),
        Route::OldOpenApi => Ok(openapi::old(header(request.headers(), ACCEPT))),
        Route::OpenApiIndex => Ok(answer(StatusCode::OK, &openapi::index())),
        Route::OpenApi(group, version) => {
            Ok(answer(StatusCode::OK, &openapi::document(group, version)?))
        }
        other => {
            let (content_type, value) = discovery::answer(other, accept)?;
            let mut response = answer(StatusCode::OK, &value);
            let headers = response.headers_mut();
            if content_type == discovery::AGGREGATED {
                headers.insert(CACHE_CONTROL, HeaderValue::from_static("public"));
            }
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            Ok(response)
        }
    }
}

fn format(headers: &HeaderMap, query: &Query) -> Result<Format, ApiError> {
    Format::of(header(headers, ACCEPT), query.text("includeObject"))
}

fn wants_yaml(headers: &HeaderMap) -> bool {
    let first = header(headers, ACCEPT).split([',', ';']).next();
    first.map(str::trim) == Some("application/yaml")
}

/// What was read, in JSON, or in YAML where that is asked for first.
fn encoded(headers: &HeaderMap, value: &Value) -> Result<Response<Body>, ApiError> {
    if !wants_yaml(headers) {
        return Ok(answer(StatusCode::OK, value));
    }
    let text =
        serde_yaml_ng::to_string(value).map_err(|error| ApiError::internal(error.to_string()))?;
    let mut response = json_response(StatusCode::OK, Body::from(text));
    let yaml = HeaderValue::from_static("application/yaml");
    response.headers_mut().insert(CONTENT_TYPE, yaml);
    Ok(response)
}

fn header(headers: &HeaderMap, name: HeaderName) -> &str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

async fn collect(body: Body, time: Duration) -> Result<Bytes, ApiError> {
    let collected = tokio::time::timeout(time, Limited::new(body, MAX_BODY).collect());
    match collected.await {
        Err(_) => Err(ApiError::bad_request("the body did not arrive in time")),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(ApiError::too_large(MAX_BODY))
        }
        Ok(Err(error)) => Err(ApiError::bad_request(format!(
            "failed to read the body: {error}"
        ))),
    }
}

/// A JSON answer.
pub(crate) fn answer(code: StatusCode, value: &Value) -> Response<Body> {
    json_response(code, Body::from(value.to_string()))
}

fn text_response(code: StatusCode, text: String) -> Response<Body> {
    let mut response = json_response(code, Body::from(text));
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

fn json_response(code: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    // Answers hold Secrets, and change.
    let uncached = HeaderValue::from_static("no-cache, private");
    response.headers_mut().insert(CACHE_CONTROL, uncached);
    response
}

/// A refusal as an answer.
pub(crate) fn refusal(error: &ApiError) -> Response<Body> {
    if error.plain {
        return text_response(error.code, error.message.clone());
    }
    let mut response = answer(error.code, &error.to_value());
    if error.details["retryAfterSeconds"].is_number() {
        let one = HeaderValue::from_static("1");
        response
            .headers_mut()
            .insert(http::header::RETRY_AFTER, one);
    }
    response
}
