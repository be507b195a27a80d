//! Patches of the three kinds, and those that are refused.

use kubedb_contract::talk::{Call, Talk};
use serde_json::json;

use crate::things::{config_map, postgres, secret, with};

pub(crate) async fn merge(talk: &mut Talk) {
    let (maps, ours) = (talk.core("configmaps"), talk.kubedb("postgreses"));
    talk.ask(&Call::post(&maps, &config_map("c"))).await;
    talk.ask(&Call::post(
        &ours,
        &with(postgres("p"), "spec.doNotPause", serde_json::json!(true)),
    ))
    .await;
    let one = format!("{maps}/c");
    let patch = json!({"data": {"a": null, "b": "2"}, "metadata": {"labels": {"x": "y"}}});
    let patched = talk.step("core", Call::patch(&one, "merge", &patch)).await;
    let same = talk
        .step(
            "nothing new",
            Call::patch(&one, "merge", &json!({"data": {"b": "2"}})),
        )
        .await;
    assert_eq!(same.version(), patched.version());
    talk.step("nothing at all", Call::patch(&one, "merge", &json!({})))
        .await;
    let patch = json!({"spec": {"replicas": 3, "doNotPause": null}});
    talk.step("ours", Call::patch(&format!("{ours}/p"), "merge", &patch))
        .await;
    talk.step(
        "another name",
        Call::patch(&one, "merge", &json!({"metadata": {"name": "d"}})),
    )
    .await;
    talk.step(
        "another namespace",
        Call::patch(
            &one,
            "merge",
            &json!({"metadata": {"namespace": "default"}}),
        ),
    )
    .await;
    talk.step_of(
        "another kind",
        Call::patch(&one, "merge", &json!({"kind": "Secret"})),
        without_words,
    )
    .await;
    talk.step(
        "an absent object",
        Call::patch(&format!("{maps}/none"), "merge", &json!({})),
    )
    .await;
    talk.step(
        "an absent object of ours",
        Call::patch(&format!("{ours}/none"), "merge", &json!({})),
    )
    .await;
    talk.step(
        "the spec away",
        Call::patch(&format!("{ours}/p"), "merge", &json!({"spec": null})),
    )
    .await;
    let patch = json!({"metadata": {"resourceVersion": "", "uid": "", "creationTimestamp": null, "generation": 77}});
    talk.step(
        "what the server writes",
        Call::patch(&format!("{ours}/p"), "merge", &patch),
    )
    .await;
}

pub(crate) async fn json(talk: &mut Talk) {
    let (maps, ours) = (talk.core("configmaps"), talk.kubedb("postgreses"));
    talk.ask(&Call::post(&maps, &config_map("c"))).await;
    talk.ask(&Call::post(&ours, &postgres("p"))).await;
    let (one, ours) = (format!("{maps}/c"), format!("{ours}/p"));
    for (title, path, patch) in [
        (
            "add",
            &one,
            json!([{"op": "add", "path": "/data/b", "value": "2"}]),
        ),
        (
            "replace, copy, move and remove",
            &one,
            json!([
            {"op": "replace", "path": "/data/a", "value": "9"}, {"op": "copy", "from": "/data/a", "path": "/data/c"},
            {"op": "move", "from": "/data/c", "path": "/data/d"}, {"op": "remove", "path": "/data/b"}]),
        ),
        (
            "a test that holds",
            &one,
            json!([{"op": "test", "path": "/data/a", "value": "9"}]),
        ),
        (
            "a test that does not",
            &one,
            json!([{"op": "test", "path": "/data/a", "value": "8"}]),
        ),
        (
            "a path that is not there",
            &one,
            json!([{"op": "remove", "path": "/data/none"}]),
        ),
        (
            "a parent that is not there",
            &one,
            json!([{"op": "add", "path": "/spec/a/b", "value": 1}]),
        ),
        (
            "an escaped path",
            &one,
            json!([{"op": "add", "path": "/metadata/annotations", "value": {"a/b": "c"}},
            {"op": "replace", "path": "/metadata/annotations/a~1b", "value": "d"}]),
        ),
        (
            "ours",
            &ours,
            json!([{"op": "replace", "path": "/spec/replicas", "value": 2}]),
        ),
        (
            "ours without what is required",
            &ours,
            json!([{"op": "remove", "path": "/spec"}]),
        ),
    ] {
        talk.step_of(title, Call::patch(path, "json", &patch), without_words)
            .await;
    }
    // Each copy doubles the object: what a body may hold, a patch may add.
    let text = json!({"op": "add", "path": "/data/a", "value": "x".repeat(200 << 10)});
    let copy =
        |index: usize| json!({"op": "copy", "from": "/data/a", "path": format!("/data/{index}")});
    let copies: Vec<serde_json::Value> = std::iter::once(text).chain((0..20).map(copy)).collect();
    talk.step_of(
        "copies that add up",
        Call::patch(&one, "json", &copies.into()),
        without_words,
    )
    .await;
    for (title, patch) in [
        (
            "an unknown operation",
            json!([{"op": "frobnicate", "path": "/a"}]),
        ),
        ("no list", json!({"op": "add"})),
    ] {
        talk.step_of(
            title,
            Call::patch(&one, "json", &patch),
            |body| json!({"code": body["code"], "reason": body["reason"]}),
        )
        .await;
    }
}

/// The words of the library that patches are its own; code, reason and the rest are the contract.
fn without_words(body: &serde_json::Value) -> serde_json::Value {
    let mut body = body.clone();
    if body["kind"] == "Status" {
        body["message"] = "…".into();
        if body["details"]["causes"].is_array() {
            body["details"]["causes"] = "…".into();
        }
    }
    body
}

pub(crate) async fn strategic(talk: &mut Talk) {
    let (secrets, maps) = (talk.core("secrets"), talk.core("configmaps"));
    let mut map = config_map("c");
    map["metadata"]["finalizers"] = json!(["example.com/a", "example.com/b"]);
    let owner = |name: &str, uid: &str| json!({"apiVersion": "v1", "kind": "Secret", "name": name, "uid": uid});
    let (one, two) = (
        "00000000-0000-0000-0000-000000000001",
        "00000000-0000-0000-0000-000000000002",
    );
    map["metadata"]["ownerReferences"] = json!([owner("x", one)]);
    // An owner that is absent would be collected: the one here exists only in a dry run.
    let dry = |path: &str| format!("{path}?dryRun=All");
    talk.ask(&Call::post(&secrets, &secret("s"))).await;
    let step = Call::patch(
        &format!("{secrets}/s"),
        "strategic",
        &json!({"stringData": {"b": "new"}, "data": {"a": null}}),
    );
    talk.step("text of a Secret", step).await;
    map["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("ownerReferences");
    talk.ask(&Call::post(&maps, &map)).await;
    let path = format!("{maps}/c");
    for (title, patch) in [
        (
            "a list of texts is merged",
            json!({"metadata": {"finalizers": ["example.com/c"]}}),
        ),
        (
            "texts are taken out",
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/a"]}}),
        ),
        (
            "owners are merged by uid",
            json!({"metadata": {"ownerReferences": [owner("x", one), owner("y", two)]}}),
        ),
        (
            "a map is replaced",
            json!({"data": {"$patch": "replace", "only": "1"}}),
        ),
        ("a map is emptied", json!({"data": {"$patch": "delete"}})),
        ("a field goes", json!({"data": null})),
        (
            "keys are retained",
            json!({"data": {"$retainKeys": ["b"], "b": "2"}}),
        ),
        ("an unknown field", json!({"dta": {"a": "b"}})),
        ("a wrong type", json!({"data": {"a": 1}})),
    ] {
        let call = Call::patch(&dry(&path), "strategic", &patch);
        talk.step_of(title, call, without_words).await;
    }
    talk.step_of(
        "ours are not merged so",
        Call::patch(&talk.kubedb("postgreses/none"), "strategic", &json!({})),
        |body| json!({"code": body["code"], "reason": body["reason"]}),
    )
    .await;
}

pub(crate) async fn refused(talk: &mut Talk) {
    let (maps, ours) = (talk.core("configmaps"), talk.kubedb("postgreses"));
    talk.ask(&Call::post(&maps, &config_map("c"))).await;
    talk.ask(&Call::post(&ours, &postgres("p"))).await;
    let (one, ours) = (format!("{maps}/c"), format!("{ours}/p"));
    for (title, path, media, body) in [
        ("a type that is none", &one, "application/x", "{}"),
        ("JSON", &one, "application/json", "{}"),
        (
            "strategic for ours",
            &ours,
            "application/strategic-merge-patch+json",
            "{}",
        ),
        ("JSON for ours", &ours, "application/json", "{}"),
    ] {
        talk.step(title, Call::method("PATCH", path).bytes(media, body.into()))
            .await;
    }
    for (title, path, media, body) in [
        ("broken", &one, "application/merge-patch+json", "{"),
        ("a list", &one, "application/merge-patch+json", "[]"),
        ("empty", &one, "application/merge-patch+json", ""),
        (
            "broken for ours",
            &ours,
            "application/merge-patch+json",
            "{",
        ),
    ] {
        let call = Call::method("PATCH", path).bytes(media, body.into());
        talk.step_of(
            title,
            call,
            |body| json!({"code": body["code"], "reason": body["reason"]}),
        )
        .await;
    }
}
