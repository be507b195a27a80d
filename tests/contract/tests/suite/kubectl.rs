//! kubectl through both engines: what it prints.

use kubedb_contract::talk::{Call, Talk};
use serde_json::json;

use crate::things::{config_map, postgres, secret, with};

fn yaml(value: &serde_json::Value) -> String {
    serde_yaml_ng::to_string(value).unwrap()
}

async fn furnish(talk: &Talk) {
    let labelled = with(config_map("c"), "metadata.labels", json!({"app": "x"}));
    talk.ask(&Call::post(&talk.core("configmaps"), &labelled))
        .await;
    talk.ask(&Call::post(&talk.core("secrets"), &secret("s")))
        .await;
    talk.ask(&Call::post(&talk.kubedb("postgreses"), &postgres("p")))
        .await;
    let status = json!({"status": {"phase": "Running"}});
    talk.ask(&Call::patch(
        &talk.kubedb("postgreses/p/status"),
        "merge",
        &status,
    ))
    .await;
    let event = json!({"metadata": {"name": "e"}, "reason": "Starting", "message": "text", "type": "Normal", "count": 2,
        "source": {"component": "operator"}, "involvedObject": {"apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres",
        "name": "p", "namespace": talk.namespace}, "firstTimestamp": "2030-01-01T00:00:00Z",
        "lastTimestamp": "2030-01-01T00:00:00Z"});
    talk.ask(&Call::post(&talk.core("events"), &event)).await;
}

/// Lines without those of objects that kube-apiserver puts into every namespace, and without managed fields.
fn without_roots(text: &str) -> String {
    let lines = text
        .lines()
        .filter(|line| !line.contains("kube-root-ca.crt"));
    lines.collect::<Vec<_>>().join("\n")
}

pub(crate) async fn reads(talk: &mut Talk) {
    furnish(talk).await;
    for (title, arguments) in [
        ("a table", &["get", "pg"][..]),
        ("a wide table", &["get", "pg", "-o", "wide"]),
        ("YAML", &["get", "pg", "p", "-o", "yaml"]),
        ("JSON", &["get", "pg", "p", "-o", "json"]),
        ("names", &["get", "pg,secret", "-o", "name"]),
        (
            "a path",
            &[
                "get",
                "pg",
                "p",
                "-o",
                "jsonpath={.spec.storage.resources.requests.storage}",
            ],
        ),
        (
            "a template",
            &["get", "pg", "p", "-o", "go-template={{.status.phase}}"],
        ),
        (
            "own columns",
            &[
                "get",
                "pg",
                "-o",
                "custom-columns=N:.metadata.name,V:.spec.version",
            ],
        ),
        ("labels", &["get", "cm", "c", "--show-labels"]),
        ("a label's column", &["get", "cm", "c", "-L", "app"]),
        ("selected", &["get", "secret,cm", "-l", "app=x"]),
        (
            "by field",
            &["get", "secret", "--field-selector", "metadata.name=s"],
        ),
        ("kinds shown", &["get", "pg", "--show-kind", "--no-headers"]),
        ("several kinds", &["get", "secret/s", "pg/p"]),
        ("sorted", &["get", "secret", "--sort-by=.metadata.name"]),
        ("everything nothing", &["get", "snap"]),
        ("an absent object", &["get", "pg", "none"]),
        ("an absent kind", &["get", "frogs"]),
        ("events", &["get", "events"]),
        ("events by kubectl events", &["events"]),
        ("events of an object", &["events", "--for", "postgres/p"]),
        ("a secret in detail", &["describe", "secret", "s"]),
        ("a map in detail", &["describe", "cm", "c"]),
        ("ours in detail", &["describe", "pg", "p"]),
        (
            "by the full name",
            &["get", "postgreses.v1alpha1.kubedb.com", "p", "-o", "name"],
        ),
    ] {
        talk.kubectl_with(title, arguments, "", &[], without_roots);
    }
    let namespace = talk.namespace.clone();
    talk.kubectl("the namespace", &["get", "ns", &namespace], "");
    talk.kubectl(
        "the namespace in detail",
        &["describe", "ns", &namespace],
        "",
    );
    talk.kubectl_with(
        "all namespaces",
        &[
            "get",
            "pg",
            "-A",
            "--field-selector",
            &format!("metadata.namespace={namespace}"),
        ],
        "",
        &[],
        str::to_owned,
    );
    talk.kubectl_with(
        "resources",
        &["api-resources", "--no-headers", "-o", "wide"],
        "",
        &[],
        |text| {
            let mut lines: Vec<String> = text
                .lines()
                .filter(|line| {
                    [
                        "kubedb.com/",
                        "events.k8s.io/",
                        "secrets ",
                        "configmaps ",
                        "namespaces ",
                        "leases ",
                    ]
                    .iter()
                    .any(|part| line.contains(part))
                })
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect();
            lines.sort();
            lines.join("\n")
        },
    );
    talk.kubectl_with("versions", &["api-versions"], "", &[], |text| {
        let lines = text.lines().filter(|line| {
            [
                "v1",
                "kubedb.com/v1alpha1",
                "catalog.kubedb.com/v1alpha1",
                "events.k8s.io/v1",
                "coordination.k8s.io/v1",
            ]
            .contains(line)
        });
        lines.collect::<Vec<_>>().join("\n")
    });
}

pub(crate) async fn creates(talk: &mut Talk) {
    for (title, arguments) in [
        ("a namespace", &["create", "ns", "kubectl-creates-made"][..]),
        (
            "a secret",
            &[
                "create",
                "secret",
                "generic",
                "s",
                "--from-literal=A=b",
                "--from-literal=C=d",
            ],
        ),
        (
            "a secret again",
            &["create", "secret", "generic", "s", "--from-literal=A=b"],
        ),
        ("a map", &["create", "cm", "c", "--from-literal=k=v"]),
        (
            "a map, tried by the client",
            &[
                "create",
                "cm",
                "d",
                "--from-literal=k=v",
                "--dry-run=client",
                "-o",
                "yaml",
            ],
        ),
        (
            "a map, tried by the server",
            &[
                "create",
                "cm",
                "d",
                "--from-literal=k=v",
                "--dry-run=server",
                "-o",
                "yaml",
            ],
        ),
        (
            "a name that is none",
            &["create", "cm", "Upper", "--from-literal=k=v"],
        ),
        (
            "a key that is none",
            &["create", "cm", "c2", "--from-literal=k k=v"],
        ),
        (
            "into an absent namespace",
            &["create", "cm", "c", "-n", "none"],
        ),
    ] {
        talk.kubectl(title, arguments, "");
    }
    let create = &["create", "-f", "-"][..];
    talk.kubectl("ours", create, &yaml(&postgres("p")));
    talk.kubectl("ours again", create, &yaml(&postgres("p")));
    talk.kubectl(
        "ours, printed",
        &["create", "-f", "-", "-o", "yaml"],
        &yaml(&postgres("q")),
    );
    let unknown = with(postgres("r"), "spec.replcas", json!(3));
    talk.kubectl("an unknown field", create, &yaml(&unknown));
    talk.kubectl(
        "an unknown field, warned of",
        &["create", "-f", "-", "--validate=warn"],
        &yaml(&unknown),
    );
    let unknown = with(config_map("u"), "dta", json!({"a": "b"}));
    talk.kubectl("an unknown field of a core kind", create, &yaml(&unknown));
    let wrong = with(postgres("w"), "spec.replicas", json!("three"));
    talk.kubectl("a wrong type", create, &yaml(&wrong));
    talk.kubectl(
        "an unknown kind",
        create,
        "apiVersion: kubedb.com/v1alpha1\nkind: Frog\nmetadata: {name: f}\n",
    );
    let generated =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "g-"}});
    talk.kubectl_with("a generated name", create, &yaml(&generated), &[], |text| {
        text.split_once("g-")
            .map(|(kind, rest)| format!("{kind}g-<5> {}", rest[6..].trim()))
            .unwrap_or_default()
    });
    talk.kubectl(
        "replace",
        &["replace", "-f", "-"],
        &yaml(&with(postgres("p"), "spec.replicas", json!(2))),
    );
    talk.kubectl(
        "replace by force",
        &["replace", "--force", "-f", "-"],
        &yaml(&config_map("c")),
    );
    talk.kubectl(
        "replace an absent one",
        &["replace", "-f", "-"],
        &yaml(&config_map("none")),
    );
}

pub(crate) async fn changes(talk: &mut Talk) {
    furnish(talk).await;
    for (title, arguments) in [
        ("label", &["label", "pg", "p", "a=b"][..]),
        ("label again", &["label", "pg", "p", "a=b"]),
        ("label otherwise", &["label", "pg", "p", "a=c"]),
        ("label over", &["label", "pg", "p", "a=c", "--overwrite"]),
        ("unlabel", &["label", "pg", "p", "a-"]),
        ("a label that is none", &["label", "pg", "p", "a=b c"]),
        ("annotate", &["annotate", "secret", "s", "note=x"]),
        (
            "patch by merging",
            &[
                "patch",
                "pg",
                "p",
                "--type=merge",
                "-p",
                r#"{"spec":{"replicas":2}}"#,
            ],
        ),
        (
            "patch again",
            &[
                "patch",
                "pg",
                "p",
                "--type=merge",
                "-p",
                r#"{"spec":{"replicas":2}}"#,
            ],
        ),
        (
            "patch by operations",
            &[
                "patch",
                "pg",
                "p",
                "--type=json",
                "-p",
                r#"[{"op":"replace","path":"/spec/replicas","value":3}]"#,
            ],
        ),
        (
            "patch by default",
            &["patch", "cm", "c", "-p", r#"{"data":{"b":"2"}}"#],
        ),
        (
            "patch ours by default",
            &["patch", "pg", "p", "-p", r#"{"spec":{"replicas":4}}"#],
        ),
        (
            "patch the status",
            &[
                "patch",
                "pg",
                "p",
                "--subresource=status",
                "--type=merge",
                "-p",
                r#"{"status":{"phase":"Failed"}}"#,
            ],
        ),
        (
            "patch into a wrong type",
            &[
                "patch",
                "pg",
                "p",
                "--type=merge",
                "-p",
                r#"{"spec":{"replicas":"x"}}"#,
            ],
        ),
        (
            "patch an unknown field",
            &[
                "patch",
                "pg",
                "p",
                "--type=merge",
                "-p",
                r#"{"spec":{"replcas":1}}"#,
            ],
        ),
        (
            "patch a broken one",
            &["patch", "pg", "p", "--type=merge", "-p", "{"],
        ),
        (
            "the status in the end",
            &[
                "get",
                "pg",
                "p",
                "--subresource=status",
                "-o",
                "jsonpath={.status.phase} {.metadata.generation}",
            ],
        ),
        (
            "scale what has no scale",
            &["scale", "pg", "p", "--replicas=2"],
        ),
    ] {
        talk.kubectl(title, arguments, "");
    }
    let folder = talk.engine.folder.path().join("editors");
    std::fs::create_dir_all(&folder).unwrap();
    for (title, script, arguments) in [
        (
            "edit",
            "s/replicas: 3/replicas: 1/",
            &["edit", "pg", "p"][..],
        ),
        ("edit nothing", "s/nothing/nothing/", &["edit", "pg", "p"]),
        ("edit a map", "s/a: \"1\"/a: \"9\"/", &["edit", "cm", "c"]),
    ] {
        let editor = folder.join(format!("{}.sh", title.replace(' ', "-")));
        std::fs::write(&editor, format!("#!/bin/sh\nsed -i '{script}' \"$1\"\n")).unwrap();
        let command = format!("sh {}", editor.display());
        talk.kubectl_with(
            title,
            arguments,
            "",
            &[("KUBE_EDITOR", &command)],
            str::to_owned,
        );
    }
    talk.kubectl(
        "after the edits",
        &[
            "get",
            "pg/p",
            "cm/c",
            "-o",
            "jsonpath={.items[*]['spec.replicas','data.a']}",
        ],
        "",
    );
}

pub(crate) async fn applies(talk: &mut Talk) {
    let both = |replicas: i32, data: &str| {
        let map = with(config_map("c"), "data", json!({data: "1", "b": "2"}));
        format!(
            "{}---\n{}",
            yaml(&with(postgres("p"), "spec.replicas", json!(replicas))),
            yaml(&map)
        )
    };
    let apply = &["apply", "-f", "-"][..];
    talk.kubectl("first", apply, &both(1, "a"));
    talk.kubectl("the same", apply, &both(1, "a"));
    talk.kubectl("a difference", &["diff", "-f", "-"], &both(1, "a"));
    talk.kubectl("changed", apply, &both(2, "z"));
    talk.kubectl(
        "tried",
        &["apply", "--dry-run=server", "-f", "-"],
        &both(3, "y"),
    );
    talk.kubectl(
        "what became of the map",
        &["get", "cm", "c", "-o", "jsonpath={.data}"],
        "",
    );
    talk.kubectl(
        "what became of ours",
        &[
            "get",
            "pg",
            "p",
            "-o",
            "jsonpath={.spec.replicas} {.metadata.generation}",
        ],
        "",
    );
    talk.kubectl(
        "what was applied last",
        &["apply", "view-last-applied", "pg", "p"],
        "",
    );
    let unknown = with(postgres("u"), "spec.replcas", json!(3));
    talk.kubectl("an unknown field", apply, &yaml(&unknown));
    talk.ask(&Call::post(&talk.core("configmaps"), &config_map("made")))
        .await;
    talk.kubectl("onto what was created", apply, &yaml(&config_map("made")));
    let gone = with(postgres("p"), "spec.standbyMode", json!(null));
    talk.kubectl("without a field", apply, &yaml(&gone));
    let prune = yaml(&with(
        config_map("kept"),
        "metadata.labels",
        json!({"set": "x"}),
    ));
    talk.kubectl(
        "with pruning",
        &[
            "apply",
            "--prune",
            "-l",
            "set=x",
            "--prune-allowlist=core/v1/ConfigMap",
            "-f",
            "-",
        ],
        &prune,
    );
    let server = &["apply", "--server-side", "-f", "-"][..];
    talk.kubectl("by the server", server, &yaml(&config_map("side")));
}

pub(crate) async fn deletes(talk: &mut Talk) {
    furnish(talk).await;
    for (title, arguments) in [
        ("one", &["delete", "secret", "s"][..]),
        ("one again", &["delete", "secret", "s"]),
        (
            "one that may be absent",
            &["delete", "secret", "s", "--ignore-not-found"],
        ),
        ("tried", &["delete", "pg", "p", "--dry-run=server"]),
        ("without waiting", &["delete", "pg", "p", "--wait=false"]),
        ("by label", &["delete", "cm", "-l", "app=x"]),
        ("by label, none", &["delete", "cm", "-l", "app=y"]),
        (
            "leaving orphans",
            &["delete", "events", "e", "--cascade=orphan"],
        ),
    ] {
        talk.kubectl(title, arguments, "");
    }
    talk.ask(&Call::post(&talk.kubedb("postgreses"), &postgres("q")))
        .await;
    talk.kubectl("from a file", &["delete", "-f", "-"], &yaml(&postgres("q")));
    let held = with(
        config_map("h"),
        "metadata.finalizers",
        json!(["example.com/hold"]),
    );
    talk.ask(&Call::post(&talk.core("configmaps"), &held)).await;
    talk.kubectl("held", &["delete", "cm", "h", "--timeout=1s"], "");
    let none = json!({"metadata": {"finalizers": null}});
    talk.ask(&Call::patch(&talk.core("configmaps/h"), "merge", &none))
        .await;
    talk.kubectl("a namespace", &["create", "ns", "kubectl-deletes-made"], "");
    talk.kubectl(
        "a namespace goes",
        &["delete", "ns", "kubectl-deletes-made", "--timeout=25s"],
        "",
    );
}

pub(crate) async fn waits_and_watches(talk: &mut Talk) {
    furnish(talk).await;
    let condition = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "R", "message": "m",
        "lastTransitionTime": "2030-01-01T00:00:00Z"}]}});
    talk.ask(&Call::patch(
        &talk.kubedb("postgreses/p/status"),
        "merge",
        &condition,
    ))
    .await;
    for (title, arguments) in [
        (
            "for a phase",
            &[
                "wait",
                "pg/p",
                "--for=jsonpath={.status.phase}=Running",
                "--timeout=10s",
            ][..],
        ),
        (
            "for a condition",
            &["wait", "pg/p", "--for=condition=Ready", "--timeout=10s"],
        ),
        (
            "for what does not come",
            &["wait", "pg/p", "--for=condition=Never", "--timeout=1s"],
        ),
        (
            "for a creation",
            &["wait", "cm/c", "--for=create", "--timeout=10s"],
        ),
        (
            "for a deletion that was",
            &["wait", "cm/none", "--for=delete", "--timeout=10s"],
        ),
        (
            "for an absent object",
            &["wait", "pg/none", "--for=condition=Ready", "--timeout=1s"],
        ),
        (
            "a watch that ends",
            &["get", "pg", "-w", "--request-timeout=2s"],
        ),
        (
            "a watch of one",
            &[
                "get",
                "cm",
                "c",
                "-w",
                "--output-watch-events",
                "--request-timeout=2s",
            ],
        ),
        (
            "a watch only",
            &["get", "cm", "--watch-only", "--request-timeout=2s"],
        ),
        (
            "events as they come",
            &["events", "--watch", "--request-timeout=2s"],
        ),
    ] {
        talk.kubectl_with(title, arguments, "", &[], without_roots);
    }
}

pub(crate) async fn explains(talk: &mut Talk) {
    for (index, what) in [
        "pg",
        "pg.spec.backupSchedule",
        "snapshots.spec",
        "secret",
        "secret.data",
        "cm.metadata",
        "leases.spec",
        "events",
        "events.involvedObject",
        "ns.status.conditions",
        "postgresversion.spec",
        "pg.spec.nothing",
        "frogs",
    ]
    .into_iter()
    .enumerate()
    {
        talk.kubectl(&format!("{index}: {what}"), &["explain", what], "");
    }
    talk.kubectl(
        "all of it",
        &["explain", "snapshots.status", "--recursive"],
        "",
    );
    talk.kubectl(
        "another group",
        &["explain", "events", "--api-version=events.k8s.io/v1"],
        "",
    );
}
