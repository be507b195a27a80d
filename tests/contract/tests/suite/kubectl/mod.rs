//! kubectl through both engines: what it prints.

mod changes;
mod ends;
mod outputs;
mod reads;

pub(crate) use changes::{applies, changes, creates};
pub(crate) use ends::{deletes, waits_and_watches};
pub(crate) use outputs::{absences, outputs};
pub(crate) use reads::{explains, reads};

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
