//! What is made and changed.

use kubedb_contract::talk::{Call, Talk};
use serde_json::json;

use super::{furnish, yaml};
use crate::things::{config_map, postgres, with};

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
