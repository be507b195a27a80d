//! What clients see on the wire and `kube::Client` hides: content types, discovery, limits.

#![allow(clippy::unwrap_used)]

use axum::body::Body;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use kubedb_server::ApiServer;
use serde_json::{Value, json};

struct World {
    client: kube::Client,
    _server: ApiServer,
    _folder: tempfile::TempDir,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let server = ApiServer::open(&folder.path().join("kubedb.sqlite")).unwrap();
    World {
        client: server.client(),
        _server: server,
        _folder: folder,
    }
}

struct Answer {
    code: StatusCode,
    content_type: String,
    warning: String,
    body: Value,
}

impl World {
    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(kube::client::Body::from(body.into())).unwrap();
        let response = self.client.send(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let text = |name: &str| {
            parts
                .headers
                .get(name)
                .map_or(String::new(), |value| value.to_str().unwrap().to_owned())
        };
        let bytes = Body::new(body).collect().await.unwrap().to_bytes();
        Answer {
            code: parts.status,
            content_type: text("content-type"),
            warning: text("warning"),
            body: serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into()),
        }
    }

    async fn get(&self, path: &str, accept: &str) -> Answer {
        self.send(Method::GET, path, &[("accept", accept)], "")
            .await
    }
}

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const POSTGRESES: &str = "/apis/kubedb.com/v1alpha1/namespaces/default/postgreses";

fn postgres(extra: Value) -> String {
    let mut spec =
        json!({"version": "9.6", "storage": {"resources": {"requests": {"storage": "50Mi"}}}});
    json_patch_merge(&mut spec, &extra);
    json!({"apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "metadata": {"name": "pg"}, "spec": spec}).to_string()
}

fn json_patch_merge(target: &mut Value, patch: &Value) {
    for (key, value) in patch.as_object().unwrap() {
        target[key] = value.clone();
    }
}

#[tokio::test]
async fn discovery_has_both_forms() {
    let world = world();
    let aggregated =
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let answer = world.get("/apis", aggregated).await;
    assert_eq!(
        answer.content_type,
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    let groups = answer.body["items"].as_array().unwrap();
    let ours = groups
        .iter()
        .find(|group| group["metadata"]["name"] == "kubedb.com")
        .unwrap();
    let resources = ours["versions"][0]["resources"].as_array().unwrap();
    let postgreses = resources
        .iter()
        .find(|one| one["resource"] == "postgreses")
        .unwrap();
    assert_eq!(postgreses["shortNames"], json!(["pg"]));
    assert_eq!(postgreses["subresources"][0]["subresource"], "status");
    let core = world.get("/api", aggregated).await.body;
    assert_eq!(core["items"].as_array().unwrap().len(), 1);

    assert_eq!(
        world.get("/api", "application/json").await.body["kind"],
        "APIVersions"
    );
    assert_eq!(world.get("/apis", "*/*").await.body["kind"], "APIGroupList");
    assert_eq!(
        world.get("/apis/kubedb.com", "*/*").await.body["preferredVersion"]["version"],
        "v1alpha1"
    );
    let list = world.get("/apis/kubedb.com/v1alpha1", "*/*").await.body;
    assert!(
        list["resources"]
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["name"] == "snapshots/status")
    );
    for path in [
        "/apis/nothing",
        "/apis/kubedb.com/v2",
        "/api/v2",
        "/nothing",
        "/api/v1/pods",
    ] {
        assert_eq!(world.get(path, "*/*").await.code, 404, "{path}");
    }
    let index = world.get("/openapi/v3", "*/*").await.body;
    for (_, entry) in index["paths"].as_object().unwrap() {
        let url = entry["serverRelativeURL"].as_str().unwrap();
        assert_eq!(
            world.get(url, "*/*").await.body["openapi"],
            "3.0.0",
            "{url}"
        );
    }
    for path in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(world.get(path, "*/*").await.body, json!("ok"));
    }
}

#[tokio::test]
async fn unknown_fields_are_refused_told_or_dropped() {
    let world = world();
    let body = json!({"metadata": {"name": "s"}, "dta": {"a": "eA=="}}).to_string();
    let send = async |path: &str| {
        world
            .send(
                Method::POST,
                path,
                &[("content-type", "application/json")],
                body.clone(),
            )
            .await
    };
    let strict = send(&format!("{SECRETS}?fieldValidation=Strict")).await;
    assert_eq!(strict.code, 400);
    assert_eq!(
        strict.body["message"],
        "Secret in version \"v1\" cannot be handled as a Secret: strict decoding error: unknown field \"dta\""
    );
    let told = send(&format!("{SECRETS}?dryRun=All")).await;
    assert_eq!(
        (told.code.as_u16(), told.warning.as_str()),
        (201, "299 - \"unknown field \\\"dta\\\"\"")
    );
    let dropped = send(&format!("{SECRETS}?dryRun=All&fieldValidation=Ignore")).await;
    assert_eq!((dropped.code.as_u16(), dropped.warning.as_str()), (201, ""));
    assert!(dropped.body.get("dta").is_none());
}

#[tokio::test]
async fn bodies_have_a_form_and_a_limit() {
    let world = world();
    let json_type = ("content-type", "application/json");
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(3 << 20));
    let answer = world.send(Method::POST, SECRETS, &[json_type], large).await;
    assert_eq!(
        (answer.code.as_u16(), &answer.body["reason"]),
        (413, &json!("RequestEntityTooLarge"))
    );
    let broken = world
        .send(Method::POST, SECRETS, &[json_type], "{\"kind\": ")
        .await;
    assert_eq!(
        (broken.code.as_u16(), &broken.body["kind"]),
        (400, &json!("Status"))
    );
    let deep = "[".repeat(200_000);
    assert_eq!(
        world
            .send(Method::POST, SECRETS, &[json_type], deep)
            .await
            .code,
        400
    );
    let wrong = world
        .send(
            Method::POST,
            SECRETS,
            &[json_type],
            json!({"kind": "Pod"}).to_string(),
        )
        .await;
    assert_eq!(wrong.code, 400);
    let protobuf = ("content-type", "application/vnd.kubernetes.protobuf");
    assert_eq!(
        world
            .send(Method::POST, POSTGRESES, &[protobuf], "k8s\0")
            .await
            .code,
        415
    );
    let yaml = ("content-type", "application/yaml");
    let made = world
        .send(Method::POST, SECRETS, &[yaml], "metadata: {name: y}")
        .await;
    assert_eq!(made.code, 201);
    let typed = world
        .send(
            Method::POST,
            POSTGRESES,
            &[json_type],
            postgres(json!({"replicas": "many"})),
        )
        .await;
    assert_eq!(
        (typed.code.as_u16(), &typed.body["reason"]),
        (422, &json!("Invalid"))
    );
    assert_eq!(typed.body["details"]["causes"][0]["field"], "spec.replicas");
    let put = world
        .send(Method::POST, &format!("{SECRETS}/x"), &[json_type], "{}")
        .await;
    assert_eq!(put.code, 405);
}

#[tokio::test]
async fn answers_come_as_asked() {
    let world = world();
    let json_type = ("content-type", "application/json");
    world
        .send(Method::POST, POSTGRESES, &[json_type], postgres(json!({})))
        .await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let answer = world.get(POSTGRESES, table).await.body;
    assert_eq!(answer["kind"], "Table");
    assert_eq!(answer["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let whole = world
        .get(&format!("{POSTGRESES}?includeObject=Object"), table)
        .await
        .body;
    assert_eq!(whole["rows"][0]["object"]["kind"], "Postgres");
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    assert_eq!(
        world.get(POSTGRESES, partial).await.body["kind"],
        "PartialObjectMetadataList"
    );
    let protobuf = world
        .get(
            SECRETS,
            "application/vnd.kubernetes.protobuf,application/json",
        )
        .await;
    assert_eq!(
        (protobuf.content_type.as_str(), &protobuf.body["kind"]),
        ("application/json", &json!("SecretList"))
    );
    let field = world
        .get(&format!("{SECRETS}?fieldSelector=spec.x%3D1"), "*/*")
        .await;
    assert_eq!(field.code, 400);
    let token = world
        .get(&format!("{SECRETS}?continue=rubbish"), "*/*")
        .await;
    assert_eq!(token.code, 400);
}

#[tokio::test]
async fn what_no_client_could_read_is_not_stored() {
    let world = world();
    let json_type = ("content-type", "application/json");
    let lease = json!({"metadata": {"name": "l"}, "spec": {"renewTime": "yesterday"}}).to_string();
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let refused = world.send(Method::POST, leases, &[json_type], lease).await;
    assert_eq!(refused.code, 400, "{}", refused.body);
    let lease =
        json!({"metadata": {"name": "l"}, "spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}})
            .to_string();
    assert_eq!(
        world
            .send(Method::POST, leases, &[json_type], lease)
            .await
            .code,
        201
    );
    let labels = json!({"metadata": {"name": "m", "labels": {"a": 1}}}).to_string();
    let maps = "/api/v1/namespaces/default/configmaps";
    assert_eq!(
        world
            .send(Method::POST, maps, &[json_type], labels)
            .await
            .code,
        400
    );
}
