//! kubectl against the server over TLS.

#![allow(clippy::unwrap_used)]

mod world;

use std::process::{Command, Stdio};

use world::{POSTGRES, program, world};

#[tokio::test(flavor = "multi_thread")]
async fn creates_applies_patches_and_deletes() {
    let world = world().await;
    assert_eq!(
        world.kubectl(&["create", "ns", "demo"]),
        "namespace/demo created\n"
    );
    let secret = [
        "create",
        "secret",
        "generic",
        "gcs",
        "-n",
        "demo",
        "--from-literal=A=b",
    ];
    assert_eq!(world.kubectl(&secret), "secret/gcs created\n");
    let again = world.refused(&secret, "");
    assert!(again.contains("secrets \"gcs\" already exists"), "{again}");
    world.kubectl(&[
        "create",
        "configmap",
        "c",
        "-n",
        "demo",
        "--from-literal=k=v",
    ]);
    assert_eq!(
        world.kubectl(&["get", "cm", "c", "-n", "demo", "-o", "jsonpath={.data.k}"]),
        "v"
    );

    let applied = world.kubectl_with(&["apply", "-f", "-"], POSTGRES);
    assert_eq!(applied, "postgres.kubedb.com/script-postgres created\n");
    let same = world.kubectl_with(&["apply", "-f", "-"], POSTGRES);
    assert_eq!(same, "postgres.kubedb.com/script-postgres unchanged\n");
    let changed = POSTGRES.replace("replicas: 1", "replicas: 2");
    let diff = world.run(&["diff", "-f", "-"], &changed);
    assert!(
        String::from_utf8_lossy(&diff.stdout).contains("+  replicas: 2"),
        "{diff:?}"
    );
    let configured = world.kubectl_with(&["apply", "-f", "-"], &changed);
    assert_eq!(
        configured,
        "postgres.kubedb.com/script-postgres configured\n"
    );

    let table = world.kubectl(&["get", "pg", "-n", "demo"]);
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0], ["NAME", "VERSION", "STATUS", "AGE"]);
    assert_eq!(rows[1][..2], ["script-postgres", "9.6"]);
    let described = world.kubectl(&["describe", "pg", "script-postgres", "-n", "demo"]);
    assert!(
        described
            .lines()
            .any(|line| line.split_whitespace().eq(["Replicas:", "2"])),
        "{described}"
    );

    let lock = r#"{"spec":{"doNotPause":true}}"#;
    world.kubectl(&[
        "patch",
        "pg",
        "script-postgres",
        "-n",
        "demo",
        "--type=merge",
        "-p",
        lock,
    ]);
    let refused = world.refused(&["delete", "pg", "script-postgres", "-n", "demo"], "");
    assert!(refused.contains("can't be paused"), "{refused}");
    let unlock = r#"[{"op":"remove","path":"/spec/doNotPause"}]"#;
    world.kubectl(&[
        "patch",
        "pg",
        "script-postgres",
        "-n",
        "demo",
        "--type=json",
        "-p",
        unlock,
    ]);
    let label = ["label", "secret", "gcs", "-n", "demo", "app=x"];
    assert_eq!(world.kubectl(&label), "secret/gcs labeled\n");
    let selected = world.kubectl(&["get", "secret", "-A", "-l", "app in (x)", "-o", "name"]);
    assert_eq!(selected, "secret/gcs\n");
    let deleted = world.kubectl(&["delete", "pg", "script-postgres", "-n", "demo"]);
    assert!(deleted.contains("\"script-postgres\" deleted"), "{deleted}");
    world.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_waits_and_explains() {
    let world = world().await;
    world.kubectl(&["create", "ns", "demo"]);
    world.kubectl_with(&["create", "-f", "-"], POSTGRES);
    let editor = world.folder.path().join("editor.sh");
    std::fs::write(
        &editor,
        "#!/bin/sh\nsed -i 's/replicas: 1/replicas: 3/' \"$1\"\n",
    )
    .unwrap();
    let run = Command::new(program())
        .args(["edit", "pg", "script-postgres", "-n", "demo"])
        .env("KUBECONFIG", &world.serving.kubeconfig)
        .env("HOME", world.folder.path())
        .env("KUBE_EDITOR", format!("sh {}", editor.display()))
        .output()
        .unwrap();
    assert!(run.status.success(), "{run:?}");
    let replicas = [
        "get",
        "pg",
        "script-postgres",
        "-n",
        "demo",
        "-o",
        "jsonpath={.spec.replicas}",
    ];
    assert_eq!(world.kubectl(&replicas), "3");

    let status = r#"{"status":{"phase":"Running"}}"#;
    let name = ["patch", "pg", "script-postgres", "-n", "demo"];
    world.kubectl(
        &[
            &name[..],
            &["--subresource=status", "--type=merge", "-p", status],
        ]
        .concat(),
    );
    let wait = [
        "wait",
        "pg/script-postgres",
        "-n",
        "demo",
        "--for=jsonpath={.status.phase}=Running",
        "--timeout=20s",
    ];
    assert!(world.kubectl(&wait).contains("condition met"));
    let resources = world.kubectl(&["api-resources", "-o", "name"]);
    for resource in [
        "postgreses.kubedb.com",
        "snapshots.kubedb.com",
        "postgresversions.catalog.kubedb.com",
        "secrets",
    ] {
        assert!(
            resources.lines().any(|line| line == resource),
            "{resources}"
        );
    }
    assert!(
        world
            .kubectl(&["explain", "pg.spec.backupSchedule"])
            .contains("cronExpression")
    );
    let versions = world.kubectl(&["get", "pgversion"]);
    assert!(versions.starts_with("NAME"), "{versions}");
    let strict = world.refused(
        &["create", "-f", "-"],
        &POSTGRES.replace("replicas", "replcas"),
    );
    assert!(
        strict.contains("unknown field \"spec.replcas\""),
        "{strict}"
    );
    let server_side = world.refused(&["apply", "--server-side", "-f", "-"], POSTGRES);
    assert!(
        server_side.contains("Server-side apply not available on the server"),
        "{server_side}"
    );
    let pods = world.refused(&["get", "pods"], "");
    assert!(
        pods.contains("doesn't have a resource type \"pods\""),
        "{pods}"
    );
    world.shutdown.cancel();
}

const CORE: &str = r#"
apiVersion: v1
kind: Namespace
metadata:
  name: demo
---
apiVersion: v1
kind: Secret
metadata:
  name: s
  namespace: demo
stringData:
  a: "1"
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: c
  namespace: demo
data:
  a: "1"
  b: "2"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn core_kinds_are_applied_watched_and_deleted() {
    let world = world().await;
    let applied = world.kubectl_with(&["apply", "-f", "-"], CORE);
    assert_eq!(
        applied,
        "namespace/demo created\nsecret/s created\nconfigmap/c created\n"
    );
    let changed = CORE.replace("  b: \"2\"\n", "  c: \"3\"\n");
    let applied = world.kubectl_with(&["apply", "-f", "-"], &changed);
    assert!(applied.ends_with("configmap/c configured\n"), "{applied}");
    let data = world.kubectl(&["get", "cm", "c", "-n", "demo", "-o", "jsonpath={.data}"]);
    assert_eq!(data, r#"{"a":"1","c":"3"}"#);
    let default_patch = [
        "patch",
        "cm",
        "c",
        "-n",
        "demo",
        "-p",
        r#"{"data":{"d":"4"}}"#,
    ];
    assert_eq!(world.kubectl(&default_patch), "configmap/c patched\n");
    world.kubectl(&["annotate", "cm", "c", "-n", "demo", "note=x"]);
    let replaced = world.kubectl(&["get", "cm", "c", "-n", "demo", "-o", "yaml"]);
    world.kubectl_with(
        &["replace", "-f", "-"],
        &replaced.replace("d: \"4\"", "e: \"5\""),
    );
    let dry = world.kubectl_with(&["apply", "--dry-run=server", "-f", "-"], CORE);
    assert!(dry.contains("(server dry run)"), "{dry}");
    let table = world.kubectl(&["get", "secret,cm", "-n", "demo"]);
    assert!(table.contains("secret/s   Opaque   1"), "{table}");

    let event = r#"{"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "demo"},
        "reason": "Starting", "message": "Backup running", "type": "Normal", "count": 1,
        "source": {"component": "operator"}, "lastTimestamp": "2030-01-01T00:00:00Z",
        "involvedObject": {"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "namespace": "demo"}}"#;
    world.kubectl_with(&["create", "-f", "-"], event);
    let events = world.kubectl(&["get", "events", "-n", "demo"]);
    assert!(events.contains("configmap/c   Backup running"), "{events}");
    assert!(
        world
            .kubectl(&["events", "-n", "demo"])
            .contains("Backup running")
    );
    let described = world.kubectl(&["describe", "ns", "demo"]);
    assert!(described.contains("Active"), "{described}");

    let deleted = world.kubectl(&["delete", "ns", "demo", "--timeout=20s"]);
    assert!(deleted.contains("\"demo\" deleted"), "{deleted}");
    let gone = world.refused(&["get", "ns", "demo"], "");
    assert_eq!(
        gone,
        "Error from server (NotFound): namespaces \"demo\" not found\n"
    );
    world.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_watches_tables() {
    use std::io::{BufRead, BufReader};
    let world = world().await;
    world.kubectl(&["create", "ns", "demo"]);
    world.kubectl_with(&["create", "-f", "-"], POSTGRES);
    let mut child = Command::new(program())
        .args(["get", "pg", "-n", "demo", "-w", "--request-timeout=20s"])
        .env("KUBECONFIG", &world.serving.kubeconfig)
        .env("HOME", world.folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut lines = lines.map(|line| {
        line.unwrap()
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    assert_eq!(lines.next().unwrap(), ["NAME", "VERSION", "STATUS", "AGE"]);
    assert_eq!(lines.next().unwrap()[..2], ["script-postgres", "9.6"]);
    let status = r#"{"status":{"phase":"Running"}}"#;
    let patch = [
        "patch",
        "pg",
        "script-postgres",
        "-n",
        "demo",
        "--subresource=status",
        "--type=merge",
        "-p",
        status,
    ];
    world.kubectl(&patch);
    assert_eq!(
        lines.next().unwrap()[..3],
        ["script-postgres", "9.6", "Running"]
    );
    world.shutdown.cancel();
    child.kill().unwrap();
    child.wait().unwrap();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), world.serving.task).await;
    assert!(ended.is_ok(), "a watch must not hold the server back");
}
