//! What is served, in both forms, and with schemas. kube-apiserver serves more: only what both do is compared.

use kubedb_contract::talk::{Call, Talk};
use serde_json::{Value, json};

const GROUPS: [&str; 4] = [
    "events.k8s.io",
    "coordination.k8s.io",
    "kubedb.com",
    "catalog.kubedb.com",
];
const CORE: [&str; 6] = [
    "namespaces",
    "namespaces/finalize",
    "namespaces/status",
    "secrets",
    "configmaps",
    "events",
];

fn kept(list: &Value, keep: impl Fn(&Value) -> bool) -> Value {
    let mut items: Vec<Value> = list
        .as_array()
        .into_iter()
        .flatten()
        .filter(|item| keep(item))
        .cloned()
        .collect();
    items.sort_by_key(ToString::to_string);
    items.into()
}

fn is_ours(name: &Value) -> bool {
    GROUPS.iter().any(|group| name == group)
}

/// Lists without what only kube-apiserver serves, and without the hash of a storage version, which nobody reads.
fn filtered(body: &Value) -> Value {
    let mut body = body.clone();
    if body.get("groups").is_some() {
        body["groups"] = kept(&body["groups"], |group| is_ours(&group["name"]));
    }
    if body.get("resources").is_some() {
        let served = |resource: &Value| {
            body["groupVersion"] != "v1" || CORE.iter().any(|name| resource["name"] == *name)
        };
        let mut resources = kept(&body["resources"], served);
        for resource in resources.as_array_mut().into_iter().flatten() {
            resource
                .as_object_mut()
                .unwrap()
                .remove("storageVersionHash");
        }
        body["resources"] = resources;
    }
    body
}

pub(crate) async fn plain(talk: &mut Talk) {
    talk.step_of(
        "core versions",
        Call::get("/api"),
        |body| json!({"kind": body["kind"], "versions": body["versions"]}),
    )
    .await;
    talk.step_of("groups", Call::get("/apis"), filtered).await;
    for group in GROUPS {
        let path = format!("/apis/{group}");
        let title = format!("the group {group}");
        talk.step_of(&title, Call::get(&path), filtered).await;
    }
    for path in [
        "/api/v1",
        "/apis/events.k8s.io/v1",
        "/apis/kubedb.com/v1alpha1",
        "/apis/catalog.kubedb.com/v1alpha1",
    ] {
        let title = format!("resources of {path}");
        talk.step_of(&title, Call::get(path), filtered).await;
    }
    let leases = Call::get("/apis/coordination.k8s.io/v1");
    talk.step_of("resources of leases", leases, filtered).await;
    talk.step_of("the version", Call::get("/version"), |body| {
        let has: Vec<&str> = ["gitVersion", "platform", "goVersion"]
            .into_iter()
            .filter(|field| body[field].is_string())
            .collect();
        json!({"major": body["major"], "minor": body["minor"], "has": has})
    })
    .await;
    for path in ["/healthz", "/livez", "/readyz", "/readyz/ping"] {
        talk.step(&format!("health at {path}"), Call::get(path))
            .await;
    }
    for path in ["/api/", "/apis/", "/apis/kubedb.com/"] {
        let title = format!("with a slash at the end: {path}");
        talk.step_of(&title, Call::get(path), |body| body["kind"].clone())
            .await;
    }
}

pub(crate) async fn aggregated(talk: &mut Talk) {
    for form in ["v2", "v2beta1"] {
        let accept = format!(
            "application/json;g=apidiscovery.k8s.io;v={form};as=APIGroupDiscoveryList,application/json"
        );
        for path in ["/api", "/apis"] {
            let call = Call::get(path).accept(&accept);
            talk.step_of(&format!("{path} in {form}"), call, aggregate)
                .await;
        }
    }
    let unknown = "application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList";
    let call = Call::get("/apis").accept(&format!("{unknown},application/json"));
    talk.step_of("an unknown form", call, |body| body["kind"].clone())
        .await;
    let call = Call::get("/apis").accept(unknown);
    talk.step("an unknown form alone", call).await;
}

fn aggregate(body: &Value) -> Value {
    if body["kind"] != "APIGroupDiscoveryList" {
        let mut body = filtered(body);
        body.as_object_mut()
            .unwrap()
            .remove("serverAddressByClientCIDRs");
        return body;
    }
    let mut body = body.clone();
    let core = |item: &Value| item["metadata"]["name"].is_null();
    body["items"] = kept(&body["items"], |item| {
        core(item) || is_ours(&item["metadata"]["name"])
    });
    for item in body["items"].as_array_mut().into_iter().flatten() {
        let is_core = core(item);
        item["versions"] = kept(&item["versions"], |version| {
            matches!(version["version"].as_str(), Some("v1" | "v1alpha1"))
        });
        for version in item["versions"].as_array_mut().into_iter().flatten() {
            version["resources"] = kept(&version["resources"], |resource| {
                !is_core || CORE.iter().any(|name| resource["resource"] == *name)
            });
            for resource in version["resources"].as_array_mut().into_iter().flatten() {
                if resource["subresources"].is_array() {
                    resource["subresources"] = kept(&resource["subresources"], |_| true);
                }
            }
        }
    }
    // Some groups appear when their definitions are read: only what is there in the end counts.
    body
}

/// The schemas as `kubectl explain` reads them: names and types of fields, references followed.
pub(crate) async fn schemas(talk: &mut Talk) {
    let index = talk.ask(&Call::get("/openapi/v3")).await;
    for (path, kinds) in [
        ("api/v1", &["Secret", "ConfigMap", "Namespace", "Event"][..]),
        ("apis/coordination.k8s.io/v1", &["Lease"]),
        ("apis/events.k8s.io/v1", &["Event"]),
        (
            "apis/kubedb.com/v1alpha1",
            &["Postgres", "Snapshot", "DormantDatabase"],
        ),
        ("apis/catalog.kubedb.com/v1alpha1", &["PostgresVersion"]),
    ] {
        let url = index.body["paths"][path]["serverRelativeURL"]
            .as_str()
            .unwrap()
            .to_owned();
        let document = talk.ask(&Call::get(&url)).await.body;
        for kind in kinds {
            let (name, schema) = schema_of(&document, path, kind);
            let mut fields = Vec::new();
            walk(&document, schema, "", 0, &mut fields);
            talk.note(
                &format!("{kind} of {path}"),
                &json!({"name": name, "fields": fields}),
            );
        }
    }
}

fn schema_of<'a>(document: &'a Value, path: &str, kind: &str) -> (String, &'a Value) {
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let group = path.trim_start_matches("apis/").trim_start_matches("api/");
    let group = group.split_once('/').map_or("", |(group, _)| group);
    let found = schemas.iter().find(|(_, schema)| {
        schema["x-kubernetes-group-version-kind"]
            .as_array()
            .is_some_and(|kinds| {
                kinds.len() == 1 && kinds[0]["kind"] == kind && kinds[0]["group"] == group
            })
    });
    let (name, schema) = found.unwrap_or_else(|| panic!("{path} has no schema of {kind}"));
    (name.clone(), schema)
}

/// `path: type`, without the inner fields of metadata, which every kind has.
fn walk(document: &Value, schema: &Value, path: &str, depth: usize, fields: &mut Vec<String>) {
    let schema = follow(document, schema);
    if depth > 6 {
        return;
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let inner = follow(document, inner);
        let kind = inner["type"].as_str().unwrap_or("any").to_owned();
        let child = format!("{path}.{name}");
        fields.push(format!("{child}: {kind}"));
        if child == ".metadata" {
            continue;
        }
        walk(document, inner, &child, depth + 1, fields);
        walk(
            document,
            &inner["items"],
            &format!("{child}[]"),
            depth + 1,
            fields,
        );
        walk(
            document,
            &inner["additionalProperties"],
            &format!("{child}{{}}"),
            depth + 1,
            fields,
        );
    }
    if depth == 0 {
        fields.sort();
    }
}

fn follow<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let reference = schema["$ref"]
        .as_str()
        .or_else(|| schema["allOf"][0]["$ref"].as_str());
    let Some(name) = reference.and_then(|text| text.strip_prefix("#/components/schemas/")) else {
        return schema;
    };
    &document["components"]["schemas"][name]
}

pub(crate) async fn absent(talk: &mut Talk) {
    let namespaced = talk.core("nothings");
    for (index, path) in [
        "/nothing",
        "/apis/nothing.example.com",
        "/apis/kubedb.com/v2",
        "/api/v2",
        "/apis/kubedb.com/v1alpha1/nothings",
        "/api/v1/nothings",
        "/apis/kubedb.com/v1alpha1/namespaces/default/postgreses/x/scale",
        "/api/v1/secrets/x",
        namespaced.as_str(),
    ]
    .into_iter()
    .enumerate()
    {
        talk.step(&format!("no such path {index}"), Call::get(path))
            .await;
    }
    let maps = talk.core("configmaps");
    let ours = talk.kubedb("postgreses");
    for (title, call) in [
        ("PUT of a collection of ours", Call::put(&ours, &json!({}))),
        (
            "PATCH of a collection of ours",
            Call::patch(&ours, "merge", &json!({})),
        ),
        (
            "POST to a name",
            Call::post(&format!("{maps}/x"), &json!({})),
        ),
        ("PUT of a collection", Call::put(&maps, &json!({}))),
        (
            "PATCH of a collection",
            Call::patch(&maps, "merge", &json!({})),
        ),
        (
            "POST to all namespaces",
            Call::post("/api/v1/configmaps", &json!({})),
        ),
        (
            "DELETE of all namespaces",
            Call::delete("/api/v1/namespaces"),
        ),
        (
            "DELETE in all namespaces",
            Call::delete("/api/v1/configmaps"),
        ),
        ("an unknown method", Call::method("BREW", &maps)),
        (
            "POST of discovery",
            Call::post("/apis/kubedb.com", &json!({})),
        ),
        (
            "an object that is not there",
            Call::get(&format!("{maps}/none")),
        ),
        (
            "an object of ours that is not there",
            Call::get(&talk.kubedb("postgreses/none")),
        ),
        (
            "a namespace that is not there",
            Call::get("/api/v1/namespaces/none"),
        ),
        (
            "a list in a namespace that is not there",
            Call::get("/api/v1/namespaces/none/configmaps"),
        ),
    ] {
        talk.step(title, call).await;
    }
}
