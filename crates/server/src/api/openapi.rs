//! `/openapi/v3`: without it kubectl neither creates nor applies, and `kubectl explain` has nothing to say.

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
    let mut schemas = Map::new();
    let mut paths = Map::new();
    for resource in resource::all()
        .iter()
        .filter(|resource| resource.group == group && resource.version == version)
    {
        let name = schema_name(resource);
        let reference = json!({"$ref": format!("#/components/schemas/{name}")});
        schemas.insert(name, schema(resource));
        add_paths(resource, &reference, &mut paths);
    }
    if schemas.is_empty() {
        return Err(ApiError::no_such_path());
    }
    Ok(json!({
        "openapi": "3.0.0",
        "info": {"title": "kubedb", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {"schemas": schemas},
    }))
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

fn schema(resource: &Resource) -> Value {
    let mut schema = resource.schema.clone();
    schema["properties"]["apiVersion"] = json!({"type": "string"});
    schema["properties"]["kind"] = json!({"type": "string"});
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
