//! `/openapi/v3`: without it kubectl neither creates nor applies, and `kubectl explain` has nothing to say.

use std::sync::LazyLock;

use axum::body::Body;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::resource::{self, Resource};
use super::status::ApiError;

/// `/openapi/v3`.
pub(crate) fn index() -> Value {
    let paths: Map<String, Value> = resource::groups()
        .into_iter()
        .map(|(group, version)| {
            let path = path(group, version);
            let url = format!("/openapi/v3/{path}");
            (path, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({ "paths": paths })
}

fn path(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

/// The document of one group and version.
pub(crate) fn document(group: &str, version: &str) -> Result<Value, ApiError> {
    let (mut schemas, mut used) = (Map::new(), Vec::new());
    let mut paths = Map::new();
    for resource in resource::all()
        .iter()
        .filter(|resource| resource.group == group && resource.version == version)
    {
        let name = schema_name(resource);
        let reference = json!({"$ref": format!("#/components/schemas/{name}")});
        let schema = schema(resource, &name);
        find_references(&schema, &mut used);
        schemas.insert(name, schema);
        add_paths(resource, &reference, &mut paths);
    }
    if schemas.is_empty() {
        return Err(ApiError::no_page());
    }
    while let Some(name) = used.pop() {
        if !schemas.contains_key(&name)
            && let Some(schema) = DEFINITIONS.get(&name)
        {
            find_references(schema, &mut used);
            schemas.insert(name, schema.clone());
        }
    }
    Ok(json!({
        "openapi": "3.0.0",
        "info": {"title": "kubedb", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {"schemas": schemas},
    }))
}

/// `/openapi/v2`: a document without kinds. kubectl asks for it about a kind that the other version does not know, and
/// then says that there is none.
pub(crate) fn old(accept: &str) -> Response<Body> {
    const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    if !accept.contains("com.github.proto-openapi.spec.v2") {
        let document = json!({
            "swagger": "2.0", "info": {"title": "kubedb", "version": env!("CARGO_PKG_VERSION")},
            "paths": {}, "definitions": {},
        });
        return super::service::answer(StatusCode::OK, &document);
    }
    // Message `Document`: field 1 is the format, field 2 the title and version.
    let text = |field: u8, text: &str| {
        let length = u8::try_from(text.len()).unwrap_or_default();
        [&[field << 3 | 2, length], text.as_bytes()].concat()
    };
    let info = [text(1, "kubedb"), text(2, env!("CARGO_PKG_VERSION"))].concat();
    let length = u8::try_from(info.len()).unwrap_or_default();
    let body = [text(1, "2.0"), vec![2 << 3 | 2, length], info].concat();
    let mut response = Response::new(Body::from(body));
    let media = HeaderValue::from_static(PROTOBUF);
    response.headers_mut().insert(CONTENT_TYPE, media);
    response
}

/// As kube-apiserver names schemas: the group reversed.
fn schema_name(resource: &Resource) -> String {
    let group = match resource.group.as_str() {
        _ if resource.custom => {
            let mut parts: Vec<&str> = resource.group.split('.').collect();
            parts.reverse();
            parts.join(".")
        }
        "" => "io.k8s.api.core".to_owned(),
        group => format!("io.k8s.api.{}", group.split('.').next().unwrap_or_default()),
    };
    format!("{group}.{}.{}", resource.version, resource.kind)
}

/// Core kinds and what they are made of, by name.
static DEFINITIONS: LazyLock<Map<String, Value>> = LazyLock::new(super::schema::definitions);

/// Begins every reference.
const REFERENCE: &str = "#/components/schemas/";

fn find_references(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            for (field, inner) in map {
                match inner.as_str().and_then(|text| text.strip_prefix(REFERENCE)) {
                    Some(name) if field == "$ref" => found.push(name.to_owned()),
                    _ => find_references(inner, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| find_references(item, found)),
        _ => {}
    }
}

fn schema(resource: &Resource, name: &str) -> Value {
    let mut schema = match DEFINITIONS.get(name) {
        Some(schema) if !resource.custom => schema.clone(),
        _ => resource.schema.clone(),
    };
    if !resource.custom {
        // Go's markers, which the types here do not carry over.
        let required: &[&str] = match (resource.group.as_str(), resource.kind.as_str()) {
            ("", "Event") => &["metadata", "involvedObject"],
            ("events.k8s.io", "Event") => &["eventTime"],
            _ => &[],
        };
        schema["required"] = required.into();
    }
    if resource.custom {
        // Described as every kind describes them.
        let any = &DEFINITIONS["io.k8s.api.core.v1.ConfigMap"]["properties"];
        for field in ["apiVersion", "kind", "metadata"] {
            schema["properties"][field] = any[field].clone();
        }
    }
    schema["x-kubernetes-group-version-kind"] = json!([gvk(resource)]);
    schema
}

fn gvk(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

/// kubectl looks into the parameters of PATCH to learn whether `fieldValidation` and `dryRun` are known.
fn add_paths(resource: &Resource, schema: &Value, paths: &mut Map<String, Value>) {
    let root = format!("/{}", path(&resource.group, &resource.version));
    let scope = if resource.namespaced {
        "/namespaces/{namespace}"
    } else {
        ""
    };
    let collection = format!("{root}{scope}/{}", resource.plural);
    let parameters: Vec<Value> = ["dryRun", "fieldManager", "fieldValidation", "pretty"]
        .into_iter()
        .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}))
        .collect();
    let operation = |action: &str, media: &[&str]| -> Value {
        let content: Map<String, Value> = media
            .iter()
            .map(|media| ((*media).to_owned(), json!({"schema": schema})))
            .collect();
        json!({
            "operationId": format!("{action}{}{}", resource.version, resource.kind),
            "parameters": parameters,
            "requestBody": {"content": content},
            "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": schema}}}},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk(resource),
        })
    };
    let patches: &[&str] = if resource.custom {
        &[
            "application/json-patch+json",
            "application/merge-patch+json",
        ]
    } else {
        &[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
        ]
    };
    let json = &["application/json"];
    paths.insert(
        format!("{collection}/{{name}}"),
        json!({
            "get": operation("get", &[]), "put": operation("put", json),
            "patch": operation("patch", patches), "delete": operation("delete", json),
        }),
    );
    paths.insert(
        collection,
        json!({"get": operation("list", &[]), "post": operation("post", json)}),
    );
}
