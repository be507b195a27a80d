//! Wrong manifests, and the exact words that users get for each: by `kubedb create`, by `kubectl apply`, and by HTTP. The same words by every
//! way, and nothing is kept of what was refused.

#![allow(clippy::unwrap_used)]

mod bad;
mod support;

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use bad::{Table, changed, lines};
use kubedb_api::validate::{validate_postgres, validate_snapshot};
use serde_json::Value;
use support::{GUIDE, Server};

/// Every so many-th manifest goes by kubectl too, which takes as long as fifty by the others.
const KUBECTL_EVERY: usize = 12;

/// One manifest, and the answers to it.
struct Case<'a> {
    line: &'a str,
    object: Value,
    name: String,
}

fn cases<'a>(base: &str, table: &'a str) -> Vec<Case<'a>> {
    let case = |(number, line)| {
        let object = changed(base, &format!("wrong-{number}"), line);
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        Case { line, object, name }
    };
    lines(table).enumerate().map(case).collect()
}

/// All in one call of `kubedb create`, so that it is also seen that it goes on after each.
fn by_kubedb(server: &Server, cases: &[Case<'_>]) -> Vec<String> {
    let documents: Vec<String> = cases.iter().map(|case| case.object.to_string()).collect();
    let ran = server.kubedb_with(&["create", "-f", "-"], &documents.join("\n---\n"), &[]);
    assert_eq!(
        (&*ran.stdout, ran.code),
        ("validating \"STDIN\"\n", Some(1))
    );
    let begin = "Error from server (";
    let answers = ran.stderr.split(begin).skip(1);
    answers.map(|answer| format!("{begin}{answer}")).collect()
}

/// What the answer says, without what is the same in all of them.
fn essence(case: &Case<'_>, answer: &str) -> String {
    let kind = case.object["kind"].as_str().unwrap();
    let invalid = format!(
        "Error from server (Invalid): error when creating \"STDIN\": {kind}.kubedb.com \"{}\" is invalid: ",
        case.name
    );
    let rest = answer.strip_prefix(&invalid).unwrap_or(answer);
    let numbered = format!("{:?}", case.name);
    if case.name.starts_with("wrong-") {
        rest.replace(&numbered, "\"NAME\"")
    } else {
        rest.to_owned()
    }
}

fn by_kubectl(server: &Server, case: &Case<'_>) -> String {
    let mut child = Command::new("kubectl")
        .args(["apply", "-f", "-"])
        .env("KUBECONFIG", &server.kubeconfig)
        .env("HOME", server.folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl; `cargo xtask tools` installs it");
    let mut input = child.stdin.take().unwrap();
    input.write_all(case.object.to_string().as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success(), "{}", case.line);
    String::from_utf8(output.stderr).unwrap()
}

/// The library's own words for the same, as the operator asks it again.
fn by_library(object: &Value) -> Vec<String> {
    let errors = match object["kind"].as_str() {
        Some("Postgres") => validate_postgres(object, &["9.6", "9.6.24", "15"]),
        _ => validate_snapshot(object),
    };
    errors.into_iter().map(|error| error.field).collect()
}

fn every_way(plural: &str, base: &str, table: &str) -> Table {
    let server = Server::start();
    server.create(GUIDE);
    let before = server.objects();
    let cases = cases(base, table);
    let answers = by_kubedb(&server, &cases);
    let mut record = Table::default();
    for (number, case) in cases.iter().enumerate() {
        let answer = answers.get(number).map_or("no answer", String::as_str);
        let status = server.post(plural, &case.object);
        let message = status["message"].as_str().unwrap_or_default();
        assert!(
            answer.contains(message),
            "{}\n{answer}\n{message}",
            case.line
        );
        if status["reason"] == "Invalid" {
            for field in by_library(&case.object) {
                assert!(message.contains(&field), "{}\n{message}", case.line);
            }
        }
        if number % KUBECTL_EVERY == 0 {
            let told = by_kubectl(&server, case);
            let causes = status["details"]["causes"].as_array().into_iter().flatten();
            for cause in causes {
                let words = cause["message"].as_str().unwrap();
                assert!(told.contains(words), "{}\n{told}\n{words}", case.line);
            }
        }
        record.add(case.line, &essence(case, answer));
    }
    assert_eq!(answers.len(), cases.len(), "{}", record.text());
    assert_eq!(server.objects(), before, "something was kept");
    record
}

#[test]
fn every_wrong_postgres_has_its_words() {
    let table = include_str!("bad/postgres.txt");
    let record = every_way("postgreses", bad::POSTGRES, table);
    bad::keep("postgres", &record);
}

#[test]
fn what_only_pods_can_have_is_refused_with_the_reason() {
    let table = include_str!("bad/machine.txt");
    let record = every_way("postgreses", bad::POSTGRES, table);
    bad::keep("machine", &record);
}

#[test]
fn every_wrong_snapshot_has_its_words() {
    let table = include_str!("bad/snapshots.txt");
    let record = every_way("snapshots", bad::SNAPSHOT, table);
    bad::keep("snapshots", &record);
}

/// Texts that are no manifests, or not what `create` takes. Refused before a server is asked, so none runs here.
#[test]
fn every_text_that_is_no_manifest_has_its_words() {
    let home = tempfile::tempdir().unwrap();
    let mut record = Table::default();
    let texts = bad::texts();
    for (name, text) in &texts {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kubedb"))
            .args(["create", "-f", "-"])
            .env("HOME", home.path())
            .env("KUBECONFIG", home.path().join("nothing"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A text that is too long is not read to its end.
        let _ = child.stdin.take().unwrap().write_all(text);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
        assert!(!said.contains("failed to find a server"), "{name}: {said}");
        record.add(name, &said);
    }
    bad::keep("texts", &record);
}

/// Texts of the original that users know, as far as ours says them.
const KEPT: &[&str] = &[
    "Only one database can be summarized at a time.",
    "Failed to summarize resource type \"snapshots\"",
    "Summary reports not provided.",
    "You must provide two summary report to compare.",
    "object 'Version' is missing in '",
    "KubeDB doesn't support Postgres version: 8.4",
    "spec.replicas \"0\" invalid. Value must be greater than zero",
    "spec.standbyMode \"cold\" invalid",
    "spec.streamingMode \"synchronous\" invalid",
    "missing ResourceStorage request",
    "invalid ResourceStorage request",
    "no storage provider is configured",
    "object 'SecretName' is missing in '",
    "invalid cron expression",
    "object 'Agent' is missing in '",
    "invalid 'Agent' in '",
    "invalid 'Monitor.Prometheus' in '",
    "Prometheus.Port value must be between 1024 and 65535, inclusive",
    "object 'DatabaseName' is missing in '",
    "postgreses.kubedb.com \"elsewhere\" not found",
    "can't be paused. To continue delete, unset spec.doNotPause and retry",
    "At least one of the following was changed:",
    "kubedb doesn't support a resource type \"mongo\"",
    "resource type \"DormantDatabase\" doesn't support create operation",
    "no objects passed to create",
    "You must pass '--namespace=demo' to perform this operation.",
    "You must specify the type of resource to get. Valid resource types include:",
    "You must specify the type of resource to describe. Valid resource types include:",
    "Required resource not specified.",
    "output format \"jpeg\" not recognized",
    "No resources found.",
    "resource type \"snap\" doesn't support edit operation",
    "Edit cancelled, no changes made.",
    "Edit cancelled, no valid changes were saved.",
    "A copy of your changes has been stored to ",
    "error when creating \"STDIN\": ",
];

/// Those that ours has no use for, or says in another way, and why.
const REPLACED: &[(&str, &str)] = &[
    (
        "invalid storage provider is configured",
        "several storage providers are configured: s3, gcs",
    ),
    (
        "object 'StorageSecretName' is missing in '",
        "no storage provider is configured",
    ),
    (
        "'kubedb.com/kind:XDB' label is missing",
        "Snapshots of MySQL are not built: Postgres is",
    ),
    // A Snapshot that finds another one running waits for its turn; a restored database gets a Secret of its own; storage classes and
    // DormantDatabases are of platforms and kinds that are not built.
    ("one Snapshot is already running", ""),
    ("needs to be similar to older database of snapshot", ""),
    ("spec.storage.storageClassName \"standard\" not found", ""),
    (
        "postgres spec mismatches with OriginSpec in DormantDatabases",
        "",
    ),
];

#[test]
fn every_text_of_the_original_is_said_or_was_replaced() {
    let all = [
        include_str!("bad/said/postgres.snap"),
        include_str!("bad/said/snapshots.snap"),
        include_str!("bad/said/texts.snap"),
        include_str!("bad/said/flags.snap"),
        include_str!("edit.rs"),
        include_str!("offline.rs"),
        include_str!("server.rs"),
    ]
    .concat()
    .replace("\\\"", "\"");
    for text in KEPT {
        assert!(all.contains(text), "nobody says {text:?}");
    }
    for (text, instead) in REPLACED {
        assert!(!all.contains(text), "{text:?} is said again");
        assert!(
            all.contains(instead),
            "nobody says {instead:?} in place of {text:?}"
        );
    }
}
