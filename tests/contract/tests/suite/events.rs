//! Events under both groups, from one store.

use kubedb_contract::talk::{Call, Talk};
use serde_json::{Value, json};

pub(crate) async fn both_groups(talk: &mut Talk) {
    let core = talk.core("events");
    let new = format!(
        "/apis/events.k8s.io/v1/namespaces/{}/events",
        talk.namespace
    );
    let about = json!({"apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "name": "pg", "namespace": talk.namespace,
        "uid": "00000000-0000-0000-0000-000000000008"});
    let old_form = json!({"metadata": {"name": "old"}, "involvedObject": about, "reason": "Starting", "message": "text",
        "type": "Normal", "count": 3, "source": {"component": "operator", "host": "h"},
        "firstTimestamp": "2030-01-01T00:00:00Z", "lastTimestamp": "2030-01-01T00:00:00Z"});
    talk.step("create the old form", Call::post(&core, &old_form))
        .await;
    talk.step("read it in the new form", Call::get(&format!("{new}/old")))
        .await;
    let new_form = json!({"metadata": {"name": "new"}, "eventTime": "2030-01-01T00:00:00.000000Z",
        "reportingController": "kubedb.com/operator", "reportingInstance": "operator-0", "action": "Backup",
        "reason": "Done", "regarding": about, "note": "a note", "type": "Warning",
        "series": {"count": 2, "lastObservedTime": "2030-01-01T00:00:01.000000Z"}});
    talk.step("create the new form", Call::post(&new, &new_form))
        .await;
    talk.step("read it in the old form", Call::get(&format!("{core}/new")))
        .await;
    let mut found = Vec::new();
    for (path, selector) in [
        (&core, "involvedObject.name=pg"),
        (&core, "involvedObject.kind=Postgres,type=Warning"),
        (
            &core,
            "involvedObject.uid=00000000-0000-0000-0000-000000000008",
        ),
        (&core, "involvedObject.name=other"),
        (&core, "reason=Done"),
        (&core, "source=operator"),
        (&core, "reportingComponent=kubedb.com/operator"),
        (&new, "regarding.name=pg"),
        (&new, "reportingController=kubedb.com/operator"),
        (&new, "regarding.namespace!=default"),
        (&core, "involvedObject.nothing=x"),
    ] {
        let query = selector.replace('=', "%3D");
        let answer = talk
            .ask(&Call::get(&format!("{path}?fieldSelector={query}")))
            .await;
        let items = answer.body["items"].as_array().into_iter().flatten();
        let names: Vec<Value> = items.map(|item| item["metadata"]["name"].clone()).collect();
        found.push(json!({"selector": selector, "code": answer.code.as_u16(), "names": names}));
    }
    talk.note("selected", &found.into());
    talk.step(
        "patch the old form",
        Call::patch(&format!("{core}/old"), "strategic", &json!({"count": 4})),
    )
    .await;
    talk.step(
        "patch the new form",
        Call::patch(
            &format!("{new}/new"),
            "merge",
            &json!({"note": "another note"}),
        ),
    )
    .await;
    let mut elsewhere = old_form.clone();
    elsewhere["metadata"]["name"] = "elsewhere".into();
    elsewhere["involvedObject"]["namespace"] = "default".into();
    talk.step("about something elsewhere", Call::post(&core, &elsewhere))
        .await;
    elsewhere["involvedObject"]
        .as_object_mut()
        .unwrap()
        .remove("namespace");
    talk.step("about something nowhere", Call::post(&core, &elsewhere))
        .await;
    let bare = json!({"metadata": {"name": "bare"}, "regarding": about, "note": "x"});
    talk.step("a new form that lacks everything", Call::post(&new, &bare))
        .await;
    let timed = json!({"metadata": {"name": "timed"}, "regarding": about, "eventTime": "2030-01-01T00:00:00.000000Z",
        "type": "Normal"});
    talk.step("a new form with a time alone", Call::post(&new, &timed))
        .await;
    let mut kind = new_form.clone();
    kind["metadata"]["name"] = "kind".into();
    kind["type"] = "Loud".into();
    talk.step("a type that is none", Call::post(&new, &kind))
        .await;
    let mut long = new_form;
    long["metadata"]["name"] = "long".into();
    long["note"] = "x".repeat(1025).into();
    talk.step("a note that is too long", Call::post(&new, &long))
        .await;
    talk.step("delete in one group", Call::delete(&format!("{new}/old")))
        .await;
    talk.step("gone in the other", Call::get(&format!("{core}/old")))
        .await;
}
