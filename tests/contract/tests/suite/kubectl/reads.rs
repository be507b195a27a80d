//! What is asked for by name, by label, in detail; and what is explained.

use kubedb_contract::talk::Talk;

use super::{furnish, without_roots};

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
