//! Every form in which kubectl prints, also while it watches; and what it says of what is not served.

use kubedb_contract::talk::{Call, Talk};
use serde_json::json;

use super::furnish;

/// Prints of one object and of several; the forms that `reads` asks for are not asked for again.
pub(crate) async fn outputs(talk: &mut Talk) {
    furnish(talk).await;
    let folder = talk.engine.folder.path().join("outputs");
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    talk.normaliser
        .alias(&folder.display().to_string(), "<folder>");
    let path = format!(
        "jsonpath-file={}",
        file("path", "{.spec.version} {.kind}\n")
    );
    let template = format!(
        "go-template-file={}",
        file(
            "template",
            "{{range $key, $value := .data}}{{$key}};{{end}}\n"
        )
    );
    let columns = format!(
        "custom-columns-file={}",
        file("columns", "NAME VERSION\nmetadata.name spec.version\n")
    );
    for (title, arguments) in [
        (
            "a path as JSON",
            &["get", "pg", "p", "-o", "jsonpath-as-json={.spec.storage}"][..],
        ),
        (
            "a path that finds nothing",
            &["get", "pg", "p", "-o", "jsonpath={.spec.nothing}"],
        ),
        (
            "a path that is none",
            &["get", "pg", "p", "-o", "jsonpath={.spec"],
        ),
        ("a path from a file", &["get", "pg", "p", "-o", &path]),
        (
            "a template from a file",
            &["get", "secret", "s", "-o", &template],
        ),
        ("columns from a file", &["get", "pg", "-o", &columns]),
        (
            "a list of names by template",
            &[
                "get",
                "secret,pg",
                "-o",
                "go-template={{range .items}}{{.kind}}/{{.metadata.name}} {{end}}",
            ],
        ),
        ("a list in YAML", &["get", "secret", "-o", "yaml"]),
        (
            "two kinds in JSON",
            &["get", "secret/s", "pg/p", "-o", "json"],
        ),
        ("a core kind, wide", &["get", "secret", "-o", "wide"]),
        (
            "in small chunks",
            &["get", "pg,secret", "--chunk-size=1", "-o", "name"],
        ),
        ("an unknown form", &["get", "pg", "-o", "xml"]),
        (
            "as a table from the client",
            &["get", "pg", "--server-print=false"],
        ),
        (
            "the status alone",
            &["get", "pg", "p", "--subresource=status", "-o", "name"],
        ),
        (
            "without headers, sorted",
            &["get", "pg", "--no-headers", "--sort-by=.spec.version"],
        ),
        ("events in detail", &["describe", "events", "e"]),
        ("a version", &["get", "pgversion", "9.6", "-o", "yaml"]),
        ("a version in detail", &["describe", "pgversion", "9.6"]),
    ] {
        talk.kubectl(title, arguments, "");
    }
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "p-0", "leaseDurationSeconds": 15,
        "renewTime": "2030-01-01T00:00:00.000000Z", "leaseTransitions": 1}});
    let leases = format!(
        "/apis/coordination.k8s.io/v1/namespaces/{}/leases",
        talk.namespace
    );
    talk.ask(&Call::post(&leases, &lease)).await;
    talk.kubectl("a lease", &["get", "lease"], "");
    talk.kubectl("a lease in detail", &["describe", "lease", "l"], "");
    for (title, arguments) in [
        ("watched as names", &["get", "pg", "-w", "-o", "name"][..]),
        (
            "watched as YAML",
            &["get", "secret", "s", "-w", "-o", "yaml"],
        ),
        (
            "watched by path",
            &[
                "get",
                "pg",
                "-w",
                "-o",
                "jsonpath={.metadata.name}{\"\\n\"}",
            ],
        ),
        (
            "watched in own columns",
            &["get", "pg", "-w", "-o", "custom-columns=N:.metadata.name"],
        ),
        ("watched wide", &["get", "pg", "p", "-w", "-o", "wide"]),
        (
            "watched with labels",
            &["get", "secret", "-w", "--show-labels", "--show-kind"],
        ),
    ] {
        let arguments = [arguments, &["--request-timeout=1s"]].concat();
        talk.kubectl(title, &arguments, "");
    }
}

/// What a cluster has and the embedded API has not, or neither.
pub(crate) async fn absences(talk: &mut Talk) {
    furnish(talk).await;
    for (title, arguments) in [
        ("autoscale", &["autoscale", "pg", "p", "--max=3"][..]),
        ("a rollout", &["rollout", "status", "pg/p"]),
        ("logs", &["logs", "pg/p"]),
        ("an image", &["set", "image", "pg/p", "a=b"]),
        ("expose", &["expose", "pg", "p", "--port=1"]),
        (
            "a subresource that is none",
            &["get", "pg", "p", "--subresource=scale"],
        ),
        (
            "a subresource of a core kind",
            &["get", "cm", "c", "--subresource=status"],
        ),
        (
            "a version that is none",
            &["get", "postgreses.v1.kubedb.com"],
        ),
        ("a group that is none", &["get", "postgreses.example.com"]),
    ] {
        talk.kubectl(title, arguments, "");
    }
}
