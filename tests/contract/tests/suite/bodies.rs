//! Bodies: what forms are read, and how large they may be.

use k8s_pb::{
    api::core::v1::{ConfigMap, Namespace, Secret},
    apimachinery::pkg::{
        apis::meta::v1::{DeleteOptions, ObjectMeta, OwnerReference, Preconditions},
        runtime::{TypeMeta, Unknown},
    },
};
use kubedb_contract::talk::{Call, Talk};
use prost::Message;
use serde_json::json;

use crate::things::{config_map, dormant, postgres, with};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

fn message(api_version: &str, kind: &str, content: &impl Message) -> Vec<u8> {
    let unknown = Unknown {
        type_meta: Some(TypeMeta {
            api_version: Some(api_version.to_owned()),
            kind: Some(kind.to_owned()),
        }),
        raw: Some(content.encode_to_vec()),
        ..Unknown::default()
    };
    [b"k8s\0".as_slice(), &unknown.encode_to_vec()].concat()
}

pub(crate) async fn forms(talk: &mut Talk) {
    let (maps, postgreses) = (talk.core("configmaps"), talk.kubedb("postgreses"));
    let text = |text: &str| text.as_bytes().to_vec();
    for (title, media, body) in [
        (
            "YAML",
            "application/yaml",
            "metadata: {name: yaml}\ndata: {a: b}\n",
        ),
        (
            "JSON with a charset",
            "application/json; charset=utf-8",
            r#"{"metadata": {"name": "j"}}"#,
        ),
        ("no type", "", r#"{"metadata": {"name": "n"}}"#),
        ("text", "text/plain", "hello"),
        ("a form", "application/x-www-form-urlencoded", "a=b"),
        ("broken JSON", "application/json", r#"{"metadata": "#),
        ("an empty body", "application/json", ""),
        ("a list", "application/json", "[]"),
        ("a number", "application/json", "1"),
        (
            "two objects",
            "application/json",
            r#"{"metadata": {"name": "j2"}}{}"#,
        ),
    ] {
        let call = Call::method("POST", &maps).bytes(media, text(body));
        talk.step_of(&format!("{title} for a core kind"), call, without_go)
            .await;
    }
    for (title, media, body) in [
        ("broken JSON", "application/json", r#"{"metadata": "#),
        ("an empty body", "application/json", ""),
        ("text", "text/plain", "hello"),
    ] {
        let call = Call::method("POST", &postgreses).bytes(media, text(body));
        talk.step_of(&format!("{title} for a kind of ours"), call, without_go)
            .await;
    }
}

/// The words of Go's JSON parser are not part of the contract; that there are some is.
fn without_go(body: &serde_json::Value) -> serde_json::Value {
    let mut body = body.clone();
    if body["kind"] == "Status"
        && let Some(message) = body["message"].as_str()
    {
        let parser = [
            "unexpected end",
            "invalid character",
            "cannot unmarshal",
            "EOF",
            "expected",
            "couldn't get",
        ];
        let cut = parser.iter().filter_map(|word| message.find(word)).min();
        body["message"] = message[..cut.unwrap_or(message.len())]
            .trim_end_matches([' ', ':'])
            .into();
    }
    body
}

fn meta(name: &str) -> Option<ObjectMeta> {
    Some(ObjectMeta {
        name: Some(name.to_owned()),
        labels: [("l".to_owned(), "v".to_owned())].into(),
        annotations: [("a".to_owned(), "w".to_owned())].into(),
        finalizers: vec!["example.com/hold".to_owned()],
        owner_references: vec![OwnerReference {
            api_version: Some("v1".to_owned()),
            kind: Some("ConfigMap".to_owned()),
            name: Some("owner".to_owned()),
            uid: Some("00000000-0000-0000-0000-000000000001".to_owned()),
            controller: Some(true),
            block_owner_deletion: None,
        }],
        ..ObjectMeta::default()
    })
}

/// What `kubectl create namespace|secret|configmap` sends.
pub(crate) async fn protobuf(talk: &mut Talk) {
    let send = |path: &str, body: Vec<u8>| {
        Call::method("POST", path)
            .bytes(PROTOBUF, body)
            .accept("application/json")
    };
    let secret = Secret {
        metadata: meta("s"),
        data: [("a".to_owned(), vec![1, 2, 255])].into(),
        string_data: [("b".to_owned(), "text".to_owned())].into(),
        r#type: Some("example.com/x".to_owned()),
        immutable: Some(true),
    };
    let path = talk.core("secrets");
    talk.step("a Secret", send(&path, message("v1", "Secret", &secret)))
        .await;
    let map = ConfigMap {
        metadata: meta("c"),
        data: [("a".to_owned(), "1".to_owned())].into(),
        binary_data: [("b".to_owned(), vec![0, 1])].into(),
        immutable: None,
    };
    let path = talk.core("configmaps");
    talk.step("a ConfigMap", send(&path, message("v1", "ConfigMap", &map)))
        .await;
    let namespace = Namespace {
        metadata: Some(ObjectMeta {
            name: Some("bodies-protobuf-made".to_owned()),
            ..ObjectMeta::default()
        }),
        ..Namespace::default()
    };
    let call = send(
        "/api/v1/namespaces?dryRun=All",
        message("v1", "Namespace", &namespace),
    );
    talk.step("a Namespace", call).await;
    let wrong = send(&path, message("v1", "Secret", &secret));
    talk.step("another kind", wrong).await;
    let options = DeleteOptions {
        preconditions: Some(Preconditions {
            uid: Some("00000000-0000-0000-0000-000000000002".to_owned()),
            resource_version: None,
        }),
        ..DeleteOptions::default()
    };
    let body = message("v1", "DeleteOptions", &options);
    let call = Call::delete(&format!("{path}/c"))
        .bytes(PROTOBUF, body)
        .accept("application/json");
    talk.step("a deletion with a condition", call).await;
    let cut = message("v1", "ConfigMap", &map);
    let call = send(&path, cut[..cut.len() - 3].to_vec());
    talk.step_of(
        "a part of a message",
        call,
        |body| json!({"reason": body["reason"], "code": body["code"]}),
    )
    .await;
    let call = send(&path, b"hello".to_vec());
    talk.step_of(
        "no message",
        call,
        |body| json!({"reason": body["reason"], "code": body["code"]}),
    )
    .await;
}

pub(crate) async fn limits(talk: &mut Talk) {
    let maps = talk.core("configmaps");
    let mut map = config_map("large");
    map["data"]["a"] = "x".repeat((1 << 20) + 1).into();
    talk.step("too much data", Call::post(&maps, &map)).await;
    map["data"]["a"] = "x".repeat(3 << 20).into();
    talk.step("too large a body", Call::post(&maps, &map)).await;
    let mut map = config_map("annotated");
    map["metadata"]["annotations"]["a"] = "x".repeat(256 << 10).into();
    talk.step("too many annotations", Call::post(&maps, &map))
        .await;
    let operations = vec![json!({"op": "test", "path": "/kind", "value": "ConfigMap"}); 10_001];
    talk.ask(&Call::post(&maps, &config_map("c"))).await;
    let call = Call::patch(&format!("{maps}/c"), "json", &operations.into());
    talk.step("too many operations", call).await;
    let mut large = postgres("large");
    large["metadata"]["annotations"]["a"] = "x".repeat(3 << 20).into();
    talk.step(
        "too large a body of ours",
        Call::post(&talk.kubedb("postgreses"), &large),
    )
    .await;
    stored(talk).await;
}

/// What a body may hold is more than what etcd stores as one object: beyond 1.5 MiB it refuses, beyond 2 MiB it is not even asked.
async fn stored(talk: &mut Talk) {
    let dormants = talk.kubedb("dormantdatabases");
    let sized = |name: &str, kibibytes: usize| {
        let text = "x".repeat(kibibytes << 10);
        with(dormant(name), "spec.origin.any", json!([text]))
    };
    let kept = talk.ask(&Call::post(&dormants, &sized("kept", 1400))).await;
    assert_eq!(kept.code, 201);
    for (title, kibibytes) in [("too large", 1600), ("far too large", 2200)] {
        let call = Call::post(&dormants, &sized("large", kibibytes));
        talk.step_of(&format!("{title} to be stored"), call, without_sizes)
            .await;
    }
    let call = Call::patch(
        &format!("{dormants}/kept"),
        "merge",
        &json!({"metadata": {"annotations": {"a": "x".repeat(200 << 10)}}}),
    );
    talk.step_of("grown too large to be stored", call, without_sizes)
        .await;
}

/// How many bytes an object takes is each engine's own.
fn without_sizes(body: &serde_json::Value) -> serde_json::Value {
    let mut body = body.clone();
    if let Some(message) = body["message"].as_str() {
        let digits = |one: char| one.is_ascii_digit();
        let cut = message.find(digits).unwrap_or(message.len());
        body["message"] = message[..cut].into();
    }
    body
}
