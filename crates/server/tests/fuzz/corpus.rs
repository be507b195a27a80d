//! Requests as clients send them, and the pieces that others are made of.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_pb::api::core::v1::{ConfigMap, Namespace, Secret};
use k8s_pb::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions};
use k8s_pb::apimachinery::pkg::runtime::{TypeMeta, Unknown};
use prost::Message;
use serde_json::{Value, json};

use crate::random::Random;

/// A request before it is bytes; what is in it need not be HTTP.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Names and values, not decoded.
    pub(crate) query: Vec<(String, String)>,
    pub(crate) media: String,
    pub(crate) accept: String,
    pub(crate) body: Vec<u8>,
}

impl Sent {
    pub(crate) fn target(&self) -> String {
        let pairs: Vec<String> = self
            .query
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let mark = if pairs.is_empty() { "" } else { "?" };
        format!("{}{mark}{}", self.path, pairs.join("&"))
    }

    pub(crate) fn is_watch(&self) -> bool {
        self.query.iter().any(|(name, _)| name.contains("watch"))
    }
}

/// Few, so that requests meet the objects of others.
pub(crate) const NAMES: &[&str] = &["x", "y", "pg", "default", "held"];
const NAMESPACES: &[&str] = &["default", "default", "other", "none"];

/// Of the query parameters: names, and values that are right or nearly so.
pub(crate) const QUERIES: &[(&str, &[&str])] = &[
    ("watch", &["1", "true", "", "0", "x"]),
    (
        "timeoutSeconds",
        &["1", "0", "-1", "99999999999999999999", "x"],
    ),
    (
        "limit",
        &["1", "2", "0", "-9223372036854775809", "9223372036854775807"],
    ),
    (
        "resourceVersion",
        &[
            "0",
            "1",
            "5",
            "18446744073709551615",
            "18446744073709551616",
            "-1",
            "x",
        ],
    ),
    ("resourceVersionMatch", &["Exact", "NotOlderThan", "x"]),
    ("sendInitialEvents", &["true", "false", "x"]),
    ("allowWatchBookmarks", &["true", "x"]),
    ("dryRun", &["All", "x", ""]),
    ("fieldValidation", &["Strict", "Warn", "Ignore", "x"]),
    ("fieldManager", &["m", "%00"]),
    (
        "propagationPolicy",
        &["Foreground", "Background", "Orphan", "x"],
    ),
    ("gracePeriodSeconds", &["0", "-1", "x"]),
    ("orphanDependents", &["true", "x"]),
    ("includeObject", &["Object", "None", "Metadata", "x"]),
    ("pretty", &["true", "%zz"]),
    (
        "ignoreStoreReadErrorWithClusterBreakingPotential",
        &["true"],
    ),
    (
        "fieldSelector",
        &[
            "metadata.name%3Dx",
            "metadata.name%3Dx%5C",
            "%5C",
            "type%3DOpaque",
            "involvedObject.kind%3DPostgres",
            "status.phase%21%3DActive",
            "metadata.namespace%3D%3Ddefault%2Cmetadata.name%3Dx",
        ],
    ),
];

pub(crate) const MEDIA: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/merge-patch+json",
    "application/json-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    "application/cbor",
    "application/json;charset=utf-8",
    "",
    ";;;",
    "text/plain",
];

const ACCEPT: &[&str] = &[
    "*/*",
    "application/json",
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
    "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json",
    "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    "application/vnd.kubernetes.protobuf,application/json",
    "application/vnd.kubernetes.protobuf",
    "application/yaml",
    "application/cbor",
    ",;,;",
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
];

/// Group and version, plural, kind.
const KINDS: &[(&str, &str, &str)] = &[
    ("api/v1", "configmaps", "ConfigMap"),
    ("api/v1", "secrets", "Secret"),
    ("api/v1", "events", "Event"),
    ("apis/events.k8s.io/v1", "events", "Event"),
    ("apis/coordination.k8s.io/v1", "leases", "Lease"),
    ("apis/kubedb.com/v1alpha1", "postgreses", "Postgres"),
    ("apis/kubedb.com/v1alpha1", "snapshots", "Snapshot"),
    (
        "apis/catalog.kubedb.com/v1alpha1",
        "postgresversions",
        "PostgresVersion",
    ),
    ("api/v1", "namespaces", "Namespace"),
];

const ELSEWHERE: &[&str] = &[
    "/api",
    "/apis",
    "/version",
    "/healthz",
    "/livez/ping",
    "/readyz",
    "/openapi/v2",
    "/openapi/v3",
    "/openapi/v3/apis/kubedb.com/v1alpha1",
    "/openapi/v3/api/v1",
    "/apis/kubedb.com",
    "/apis/kubedb.com/v1alpha1",
    "/api/v1",
    "/",
    "/metrics",
    "/api/v1/watch/secrets",
    "/api/v1/pods",
];

/// A request that a client could send.
pub(crate) fn valid(random: &mut Random) -> Sent {
    let mut sent = Sent {
        method: "GET".to_owned(),
        path: random.pick(ELSEWHERE).to_owned(),
        query: Vec::new(),
        media: "application/json".to_owned(),
        accept: random.pick(ACCEPT).to_owned(),
        body: Vec::new(),
    };
    if random.one_in(12) {
        return sent;
    }
    let (group, plural, kind) = KINDS[random.below(KINDS.len())];
    let (name, namespace) = (random.pick(NAMES), random.pick(NAMESPACES));
    let clusters = matches!(plural, "namespaces" | "postgresversions");
    let collection = if clusters || random.one_in(10) {
        format!("/{group}/{plural}")
    } else {
        format!("/{group}/namespaces/{namespace}/{plural}")
    };
    let one = format!("{collection}/{name}");
    let part = match random.below(4) {
        0 => "/status",
        1 if plural == "namespaces" => "/finalize",
        _ => "",
    };
    let method = *random.pick(&[
        &"GET", &"LIST", &"POST", &"PUT", &"PATCH", &"PATCH", &"DELETE", &"CLEAR",
    ]);
    sent.path = match method {
        "LIST" | "POST" | "CLEAR" => collection,
        "DELETE" => one,
        _ => format!("{one}{part}"),
    };
    sent.method = match method {
        "LIST" => "GET",
        "CLEAR" => "DELETE",
        other => other,
    }
    .to_owned();
    match method {
        "POST" | "PUT" => fill(random, &mut sent, group, kind, name),
        "PATCH" => patch(random, &mut sent, group, kind, name),
        "DELETE" | "CLEAR" if random.one_in(2) => options(random, &mut sent),
        _ => {}
    }
    for _ in 0..random.below(3) {
        sent.query.push(parameter(random));
    }
    sent
}

/// A query parameter.
pub(crate) fn parameter(random: &mut Random) -> (String, String) {
    match random.below(QUERIES.len() + 4) {
        index if index < QUERIES.len() => {
            let (name, values) = QUERIES[index];
            (name.to_owned(), random.pick(values).to_owned())
        }
        index if index < QUERIES.len() + 2 => ("labelSelector".to_owned(), selector(random)),
        _ => ("continue".to_owned(), token(random)),
    }
}

/// Words of the grammar of selectors, in any order.
fn selector(random: &mut Random) -> String {
    let words = [
        "a",
        "app",
        "x/y",
        "in",
        "notin",
        "(",
        ")",
        ",",
        "!",
        "=",
        "==",
        "!=",
        "%3E",
        "%3C",
        "5",
        "-1",
        "%20",
        "",
        "99999999999999999999",
        "%00",
        "%C3%A9",
        ".",
        "_",
        "a%20in%20(b,c)",
        "!a",
        "a=b",
    ];
    (0..=random.below(9)).map(|_| random.pick(&words)).collect()
}

/// A continue token: as the server makes them, and with other content.
fn token(random: &mut Random) -> String {
    let revision = match random.below(4) {
        0 => json!(random.below(500)),
        1 => json!(0),
        2 => json!(-1),
        _ => json!(random.next()),
    };
    let value = json!({"revision": revision, "namespace": random.pick(NAMESPACES), "name": random.pick(NAMES)});
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// An object with everything that its kind has.
pub(crate) fn object(random: &mut Random, group: &str, kind: &str, name: &str) -> Value {
    let api_version = group.split_once('/').map_or("", |(_, version)| version);
    let mut value = json!({"apiVersion": api_version, "kind": kind, "metadata": {
        "name": name, "labels": {"app": "x", "n": "1"}, "annotations": {"a": "b"}}});
    match random.below(8) {
        0 => value["metadata"]["finalizers"] = json!(["example.com/hold"]),
        1 => {
            value["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "x",
                "uid": "00000000-0000-0000-0000-000000000001", "controller": true, "blockOwnerDeletion": true}]);
        }
        2 => {
            value["metadata"]["generateName"] = "g-".into();
            value["metadata"]["name"] = Value::Null;
        }
        3 => value["metadata"]["resourceVersion"] = random.below(300).to_string().into(),
        _ => {}
    }
    let about = json!({"apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "name": "pg", "namespace": "default"});
    let rest = match kind {
        "ConfigMap" => {
            json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": "AAE="}, "immutable": false})
        }
        "Secret" => json!({"data": {"a": "eA=="}, "stringData": {"b": "text"}, "type": "Opaque"}),
        "Event" if group.starts_with("apis") => {
            json!({"eventTime": "2030-01-01T00:00:00.000000Z", "reason": "R",
            "action": "A", "note": "text", "type": "Normal", "reportingController": "c", "reportingInstance": "i",
            "regarding": about, "series": {"count": 2, "lastObservedTime": "2030-01-01T00:00:00.000000Z"}})
        }
        "Event" => {
            json!({"reason": "R", "message": "text", "type": "Normal", "count": 1, "involvedObject": about,
            "source": {"component": "operator"}, "firstTimestamp": "2030-01-01T00:00:00Z"})
        }
        "Lease" => {
            json!({"spec": {"holderIdentity": "h", "leaseDurationSeconds": 15, "leaseTransitions": 1,
            "acquireTime": "2030-01-01T00:00:00.000000Z", "renewTime": "2030-01-01T00:00:00.000000Z"}})
        }
        "Postgres" => {
            json!({"spec": {"version": "9.6", "replicas": 2, "standbyMode": "hot", "doNotPause": false,
            "storage": {"resources": {"requests": {"storage": "50Mi"}}}, "backupSchedule": {"cronExpression": "@every 1m",
            "storageSecretName": "s", "gcs": {"bucket": "b"}}}, "status": {"phase": "Running", "instances": {"pg-0": {}}}})
        }
        "Snapshot" => {
            json!({"spec": {"databaseName": "pg", "storageSecretName": "s", "gcs": {"bucket": "b"}}})
        }
        "PostgresVersion" => json!({"spec": {"version": "9.6"}}),
        _ => json!({"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}),
    };
    for (field, content) in rest.as_object().unwrap() {
        value[field] = content.clone();
    }
    value
}

fn fill(random: &mut Random, sent: &mut Sent, group: &str, kind: &str, name: &str) {
    if matches!(kind, "Secret" | "ConfigMap" | "Namespace") && random.one_in(3) {
        sent.media = "application/vnd.kubernetes.protobuf".to_owned();
        sent.body = protobuf(kind, name);
        return;
    }
    let object = object(random, group, kind, name);
    if random.one_in(4) {
        sent.media = "application/yaml".to_owned();
        sent.body = serde_yaml_ng::to_string(&object).unwrap().into_bytes();
    } else {
        sent.body = object.to_string().into_bytes();
    }
}

fn envelope(kind: &str, content: Vec<u8>) -> Vec<u8> {
    let unknown = Unknown {
        type_meta: Some(TypeMeta {
            api_version: Some("v1".to_owned()),
            kind: Some(kind.to_owned()),
        }),
        raw: Some(content),
        ..Unknown::default()
    };
    [b"k8s\0".as_slice(), &unknown.encode_to_vec()].concat()
}

fn protobuf(kind: &str, name: &str) -> Vec<u8> {
    let metadata = Some(ObjectMeta {
        name: Some(name.to_owned()),
        labels: [("app".to_owned(), "x".to_owned())].into(),
        finalizers: vec!["example.com/hold".to_owned()],
        ..ObjectMeta::default()
    });
    let content = match kind {
        "Secret" => Secret {
            metadata,
            data: [("a".to_owned(), vec![0, 255])].into(),
            string_data: [("b".to_owned(), "text".to_owned())].into(),
            ..Secret::default()
        }
        .encode_to_vec(),
        "ConfigMap" => ConfigMap {
            metadata,
            data: [("a".to_owned(), "1".to_owned())].into(),
            ..ConfigMap::default()
        }
        .encode_to_vec(),
        _ => Namespace {
            metadata,
            ..Namespace::default()
        }
        .encode_to_vec(),
    };
    envelope(kind, content)
}

fn options(random: &mut Random, sent: &mut Sent) {
    if random.one_in(3) {
        sent.media = "application/vnd.kubernetes.protobuf".to_owned();
        let options = DeleteOptions {
            propagation_policy: Some("Background".to_owned()),
            preconditions: Some(Preconditions {
                uid: Some("00000000-0000-0000-0000-000000000001".to_owned()),
                resource_version: Some("1".to_owned()),
            }),
            ..DeleteOptions::default()
        };
        sent.body = envelope("DeleteOptions", options.encode_to_vec());
        return;
    }
    let policy = random.pick(&["Foreground", "Background", "Orphan"]);
    sent.body = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy, "gracePeriodSeconds": 0,
        "preconditions": {"resourceVersion": random.below(300).to_string()}})
    .to_string()
    .into_bytes();
}

fn patch(random: &mut Random, sent: &mut Sent, group: &str, kind: &str, name: &str) {
    let object = object(random, group, kind, name);
    let (media, body) = match random.below(4) {
        0 => ("application/merge-patch+json", object),
        1 => (
            "application/strategic-merge-patch+json",
            directed(random, object),
        ),
        2 => ("application/apply-patch+yaml", object),
        _ => ("application/json-patch+json", operations(random, &object)),
    };
    sent.media = media.to_owned();
    sent.body = body.to_string().into_bytes();
}

/// With directives of strategic merge.
fn directed(random: &mut Random, mut object: Value) -> Value {
    match random.below(6) {
        0 => object["metadata"]["labels"] = json!({"$patch": "replace", "z": "1"}),
        1 => object["data"] = json!({"$patch": "delete"}),
        2 => object["data"] = json!({"$retainKeys": ["a"], "a": "1"}),
        3 => {
            object["metadata"]["$deleteFromPrimitiveList/finalizers"] = json!(["example.com/hold"])
        }
        4 => object["metadata"]["finalizers"] = json!([{"$patch": "replace"}]),
        _ => object["metadata"]["$setElementOrder/ownerReferences"] = json!([{"uid": "1"}]),
    }
    object
}

fn operations(random: &mut Random, object: &Value) -> Value {
    let mut paths = vec![
        String::new(),
        "/spec/x/-".to_owned(),
        "/metadata/finalizers/0".to_owned(),
    ];
    pointers(object, "", &mut paths);
    let place = |random: &mut Random| paths[random.below(paths.len())].clone();
    (0..=random.below(12))
        .map(|_| {
            let op = random.pick(&["add", "remove", "replace", "move", "copy", "test"]);
            json!({"op": op, "path": place(random), "from": place(random), "value": object.pointer(&place(random))})
        })
        .collect()
}

/// Pointers to all that is in a value.
pub(crate) fn pointers(value: &Value, path: &str, found: &mut Vec<String>) {
    let mut inner = |name: &str, value: &Value| {
        let path = format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"));
        found.push(path.clone());
        pointers(value, &path, found);
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| inner(name, value)),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                inner(&index.to_string(), item);
            }
        }
        _ => {}
    }
}
