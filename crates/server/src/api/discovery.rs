//! What is served, in the plain and the aggregated form.

use serde_json::{Value, json};

use super::resource::{self, Resource};
use super::route::Route;
use super::status::ApiError;

/// The Kubernetes whose manners these are.
const MINOR: &str = "34";

const PLAIN: &str = "application/json";
/// Both of `/api` and `/apis` in one answer each.
pub(crate) const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
/// Of our kinds, in the order in which definitions have them.
const CUSTOM_VERBS: &[&str] = &[
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "create",
    "update",
    "watch",
];
const NAMESPACE_VERBS: &[&str] = &[
    "create", "delete", "get", "list", "patch", "update", "watch",
];
const STATUS_VERBS: &[&str] = &["get", "patch", "update"];

/// Content type and body.
pub(crate) fn answer(route: &Route, accept: &str) -> Result<(&'static str, Value), ApiError> {
    let wants_aggregated =
        matches!(route, Route::CoreVersions | Route::Groups) && aggregated(accept)?;
    let value = match (route, wants_aggregated) {
        (Route::Version, _) => version(),
        (Route::CoreVersions, true) => return Ok((AGGREGATED, group_discovery(true))),
        (Route::Groups, true) => return Ok((AGGREGATED, group_discovery(false))),
        (Route::CoreVersions, false) => json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [],
        }),
        (Route::Groups, false) => {
            let groups: Vec<Value> = named_groups()
                .map(|(name, version)| group(name, version))
                .collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        (Route::Group(wanted), _) => {
            let (name, version) = named_groups()
                .find(|(name, _)| name == wanted)
                .ok_or_else(ApiError::no_page)?;
            let mut value = group(name, version);
            value["kind"] = "APIGroup".into();
            value["apiVersion"] = "v1".into();
            value
        }
        (Route::Resources(group, version), _) => resources(group, version)?,
        _ => return Err(ApiError::no_such_path()),
    };
    Ok((PLAIN, value))
}

/// Whether the aggregated form is the first that we have; an error when there is none at all.
fn aggregated(accept: &str) -> Result<bool, ApiError> {
    if accept.trim().is_empty() {
        return Ok(false);
    }
    for media in accept.split(',') {
        let parts: Vec<&str> = media.split(';').map(str::trim).collect();
        let has = |part: &str| parts.contains(&part);
        match parts.first().copied().unwrap_or_default() {
            // A form that we do not have is none.
            "application/json"
                if has("as=APIGroupDiscoveryList")
                    && !(has("v=v2") && has("g=apidiscovery.k8s.io")) => {}
            "application/json" if has("as=APIGroupDiscoveryList") => return Ok(true),
            "application/json" | "application/*" | "*/*" => return Ok(false),
            _ => {}
        }
    }
    Err(ApiError::not_acceptable())
}

fn named_groups() -> impl Iterator<Item = (&'static str, &'static str)> {
    resource::groups()
        .into_iter()
        .filter(|(group, _)| !group.is_empty())
}

fn version() -> Value {
    json!({
        "major": "1", "minor": MINOR,
        "gitVersion": format!("v1.{MINOR}.0+kubedb.{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64",
    })
}

fn group(name: &str, version: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/{version}"), "version": version});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

fn of(group: &str, version: &str) -> impl Iterator<Item = &'static Resource> {
    resource::all()
        .iter()
        .filter(move |resource| resource.group == group && resource.version == version)
}

fn verbs(resource: &Resource) -> &'static [&'static str] {
    if resource.is_namespace() {
        NAMESPACE_VERBS
    } else if resource.custom {
        CUSTOM_VERBS
    } else {
        VERBS
    }
}

/// Subresources and their verbs.
fn parts(resource: &Resource) -> Vec<(&'static str, &'static [&'static str])> {
    let mut parts = Vec::new();
    if resource.is_namespace() {
        parts.push(("finalize", &["update"] as &[&str]));
    }
    if resource.status {
        parts.push(("status", STATUS_VERBS));
    }
    parts
}

fn resources(group: &str, version: &str) -> Result<Value, ApiError> {
    let mut list = Vec::new();
    for resource in of(group, version) {
        let mut entry = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": verbs(resource),
        });
        if !resource.short_names.is_empty() {
            entry["shortNames"] = resource.short_names.clone().into();
        }
        list.push(entry);
        for (part, verbs) in parts(resource) {
            list.push(json!({
                "name": format!("{}/{part}", resource.plural), "singularName": "",
                "namespaced": resource.namespaced, "kind": resource.kind, "verbs": verbs,
            }));
        }
    }
    let Some(first) = of(group, version).next() else {
        return Err(super::route::absent(group));
    };
    let mut answer = json!({
        "kind": "APIResourceList", "groupVersion": first.api_version(), "resources": list,
    });
    if !group.is_empty() {
        answer["apiVersion"] = "v1".into();
    }
    Ok(answer)
}

fn group_discovery(core: bool) -> Value {
    let items: Vec<Value> = resource::groups()
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, version)| {
            let resources: Vec<Value> = of(group, version).map(resource_discovery).collect();
            let mut item = json!({
                "metadata": {},
                "versions": [{"version": version, "freshness": "Current", "resources": resources}],
            });
            if !group.is_empty() {
                item["metadata"]["name"] = group.into();
            }
            item
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {}, "items": items,
    })
}

fn resource_discovery(resource: &Resource) -> Value {
    // Of a kind of Kubernetes itself it is told by the place in this document.
    let (group, version) = match resource.custom {
        true => (resource.group.as_str(), resource.version.as_str()),
        false => ("", ""),
    };
    let kind = json!({"group": group, "version": version, "kind": resource.kind});
    let mut value = json!({
        "resource": resource.plural, "responseKind": kind, "singularResource": resource.singular,
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" }, "verbs": verbs(resource),
    });
    if !resource.short_names.is_empty() {
        value["shortNames"] = resource.short_names.clone().into();
    }
    let parts: Vec<Value> = parts(resource)
        .into_iter()
        .map(|(part, verbs)| json!({"subresource": part, "responseKind": kind, "verbs": verbs}))
        .collect();
    if !parts.is_empty() {
        value["subresources"] = parts.into();
    }
    value
}
