//! What is deleted, waited for and watched.

use kubedb_contract::talk::{Call, Talk};
use serde_json::json;

use super::{furnish, without_roots, yaml};
use crate::things::{config_map, postgres, with};

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
    talk.kubectl("held", &["delete", "cm", "h", "--timeout=2s"], "");
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
            &["wait", "pg/p", "--for=condition=Never", "--timeout=2s"],
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
            &["wait", "pg/none", "--for=condition=Ready", "--timeout=2s"],
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
