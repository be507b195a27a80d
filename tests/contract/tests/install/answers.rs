//! Every wrong manifest, to a kube-apiserver with the webhook and to `kubedb server`: the same answers, or a reason why not.

use std::path::{Path, PathBuf};

use http::StatusCode;
use kube::Client;
use kubedb_cluster::tools::tools;
use kubedb_contract::engine::client_of;
use kubedb_e2e::kubedb::binary;
use kubedb_server::ApiServer;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    bad::{self, changed, lines},
    world::{World, call, run},
};

/// Every so many-th manifest goes by kubectl too.
const KUBECTL_EVERY: usize = 12;

/// Whether kube-apiserver adds this to what is wrong already: that rules in its own language were not tried, which ours has none of, and that it could
/// not read the field that `kubectl scale` would set, which ours does not serve.
fn is_remark(cause: &Value) -> bool {
    let text = |field: &str| cause[field].as_str().unwrap_or_default().to_owned();
    let untried = "some validation rules were not checked because the object was invalid";
    text("message").contains(untried) || text("field") == ".spec.replicas"
}

/// Beginnings of the lines whose answers differ, and why.
const DIFFERENCES: &[(&[&str], &str)] = &[
    (
        &[
            "metadata.labels: {\"kubedb.com/kind\": [",
            "metadata.annotations: {a: 1}",
            "metadata.finalizers: kubedb.com",
            "metadata.creationTimestamp: yesterday",
        ],
        "metadata that cannot be read is told in the words of the library that reads it: Go's there, Rust's here",
    ),
    (
        &[
            "metadata.name: Pg",
            "metadata.name: pg-",
            "metadata.name: pöstgres",
            "metadata.name: \"pg\\u",
            "metadata.name: snap.",
            "metadata.name: SNAP",
        ],
        "webhooks are asked before names are looked at, so our rule for names is told in place of Kubernetes' wider one",
    ),
    (
        &[
            "spec.storageSecretName: {name: s}",
            "spec.tolerations: {key: db}",
        ],
        "below a text or a list kube-apiserver finds an unknown field first, ours that it is neither",
    ),
];

/// `kubedb server`'s API.
struct Ours {
    client: Client,
    kubeconfig: PathBuf,
    stop: CancellationToken,
    _server: ApiServer,
}

impl Ours {
    fn start(world: &World) -> Self {
        let folder = world.folder().join("ours");
        std::fs::create_dir(&folder).unwrap();
        let stop = CancellationToken::new();
        world.runtime.block_on(async {
            let server = ApiServer::open(&folder.join("kubedb.db")).unwrap();
            let listen = "127.0.0.1:0".parse().unwrap();
            let serving = server.serve(listen, &folder, stop.clone()).await.unwrap();
            let client = client_of(&serving.kubeconfig).await.unwrap();
            Self {
                client,
                kubeconfig: serving.kubeconfig,
                stop,
                _server: server,
            }
        })
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// One manifest.
struct Case<'a> {
    plural: &'static str,
    line: &'a str,
    object: Value,
}

fn cases() -> Vec<Case<'static>> {
    let tables = [
        (
            "postgreses",
            bad::POSTGRES,
            include_str!("../../../../crates/kubedb/tests/bad/postgres.txt"),
        ),
        (
            "snapshots",
            bad::SNAPSHOT,
            include_str!("../../../../crates/kubedb/tests/bad/snapshots.txt"),
        ),
    ];
    let of = |(plural, base, table)| {
        let case = move |(number, line)| Case {
            plural,
            line,
            object: changed(base, &format!("wrong-{number}"), line),
        };
        lines(table).enumerate().map(case)
    };
    tables.into_iter().flat_map(of).collect()
}

/// An answer without what says who gave it.
fn essence(status: &Value) -> Value {
    let mut status = status.clone();
    let message = status["message"].as_str().unwrap_or_default();
    let words = message
        .split_once("\" denied the request: ")
        .map_or(message, |(_, words)| words);
    let words = words.to_owned();
    let causes = status["details"]["causes"].as_array_mut();
    let remarked = causes.is_some_and(|causes| {
        let before = causes.len();
        causes.retain(|cause| !is_remark(cause));
        causes.len() < before
    });
    // The remark is in the middle of the message; the causes say the rest of it.
    let words = if remarked { json!(null) } else { words.into() };
    json!({"code": status["code"], "reason": status["reason"], "details": status["details"], "words": words})
}

fn is_same(ours: &Value, theirs: &Value) -> bool {
    let (mut ours, theirs) = (essence(ours), essence(theirs));
    if theirs["words"].is_null() {
        ours["words"] = json!(null);
    }
    ours == theirs
}

fn differs_on_purpose(line: &str) -> bool {
    let begins = |(lines, _): &(&[&str], &str)| lines.iter().any(|begin| line.starts_with(begin));
    DIFFERENCES.iter().any(begins)
}

/// What `kubedb create` says of each, in one call.
fn by_kubedb(kubeconfig: &Path, cases: &[Case<'_>]) -> Vec<String> {
    let documents: Vec<String> = cases.iter().map(|case| case.object.to_string()).collect();
    let ran = run(
        &binary(),
        &["create", "-f", "-"],
        kubeconfig,
        &documents.join("\n---\n"),
    );
    let begin = "Error from server (";
    let answers = ran.stderr.split(begin).skip(1);
    answers
        .map(|answer| format!("{begin}{}", answer.trim_end()))
        .collect()
}

fn by_kubectl(kubeconfig: &Path, case: &Case<'_>) -> String {
    let ran = run(
        &tools().join("kubectl"),
        &["create", "-f", "-"],
        kubeconfig,
        &case.object.to_string(),
    );
    ran.stderr
}

#[test]
fn a_wrong_manifest_has_the_same_answer_with_and_without_kubernetes() {
    let Some((world, hook)) = World::start_with_webhook() else {
        return;
    };
    let ours = Ours::start(&world);
    let guide = include_str!("../../../../crates/kubedb/tests/support/guide.yaml");
    run(&binary(), &["create", "-f", "-"], &ours.kubeconfig, guide).ok();
    let (_, database) = guide.rsplit_once("---\n").unwrap();
    run(
        &binary(),
        &["create", "-f", "-"],
        &world.kubeconfig,
        database,
    )
    .ok();

    let cases = cases();
    let (said, heard) = (
        by_kubedb(&ours.kubeconfig, &cases),
        by_kubedb(&world.kubeconfig, &cases),
    );
    assert_eq!((said.len(), heard.len()), (cases.len(), cases.len()));
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let path = format!(
            "/apis/kubedb.com/v1alpha1/namespaces/demo/{}?fieldValidation=Strict",
            case.plural
        );
        let post = |client| {
            world
                .runtime
                .block_on(call(client, "POST", &path, &case.object))
        };
        let ((_, mine), (code, theirs)) = (post(&ours.client), post(&world.client));
        assert_ne!(code, StatusCode::CREATED, "{}", case.line);
        let mut same = is_same(&mine, &theirs);
        let remarked = essence(&theirs)["words"].is_null();
        same &= remarked || said[number] == heard[number];
        if number % KUBECTL_EVERY == 0 && !remarked {
            same &= by_kubectl(&ours.kubeconfig, case) == by_kubectl(&world.kubeconfig, case);
        }
        if same == differs_on_purpose(case.line) {
            wrong.push(format!(
                "{}\n  kubedb server: {mine}\n  kube-apiserver: {theirs}\n  {}\n  {}",
                case.line, said[number], heard[number]
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    hook.end(&world);
}

/// Changes of what stays, where an object was right before.
#[test]
fn what_stays_is_refused_by_name() {
    let Some((world, hook)) = World::start_with_webhook() else {
        return;
    };
    let pg = crate::world::postgres(
        "pg",
        &json!({"version": 9.6, "storage": {"resources": {"requests": {"storage": "1Gi"}}}}),
    );
    assert_eq!(
        world.call("POST", crate::world::POSTGRESES, &pg).0,
        StatusCode::CREATED
    );
    let path = format!("{}/pg", crate::world::POSTGRESES);
    for (field, spec) in [
        ("version", json!({"version": "10"})),
        ("standbyMode", json!({"standbyMode": "hot"})),
        (
            "storage",
            json!({"storage": {"resources": {"requests": {"storage": "2Gi"}}}}),
        ),
    ] {
        let (code, answer) = world.call("PATCH", &path, &json!({"spec": spec}));
        let message = answer["message"].as_str().unwrap_or_default();
        assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
        assert!(
            message.contains("At least one of the following was changed:"),
            "{message}"
        );
        assert!(
            message.ends_with(&format!("(changed here: spec.{field})")),
            "{message}"
        );
    }
    // Leaving out what was filled in is no change; nor is the same in another spelling.
    let (_, mut same) = world.get(&path);
    same["spec"] = json!({"version": "9.6", "standbyMode": "Warm", "replicas": 2, "storage": {"resources": {"requests": {"storage": "1Gi"}}}});
    let (code, answer) = world.call("PUT", &path, &same);
    assert_eq!(code, StatusCode::OK, "{answer}");
    assert_eq!(answer["spec"]["streamingMode"], "asynchronous");
    // A way that passes the webhook by meets the rules of the definition.
    let ran = world.kubectl(&["scale", "postgres", "pg", "-n", "demo", "--replicas=0"]);
    assert!(
        ran.code == 1 && ran.stderr.contains("Value must be greater than zero"),
        "{}",
        ran.stderr
    );
    world
        .kubectl(&["scale", "postgres", "pg", "-n", "demo", "--replicas=3"])
        .ok();
    assert_eq!(world.get(&path).1["spec"]["replicas"], 3);
    hook.end(&world);
}
