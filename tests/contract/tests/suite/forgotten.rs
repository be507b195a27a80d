//! Asked for what was, after the history was forgotten: lists that go on, watches that resume. Every kind is asked, since
//! kube-apiserver remembers Events otherwise than the rest.

use kubedb_contract::talk::{Call, Talk};
use serde_json::{Value, json};

use crate::things::{config_map, postgres};

fn event(name: &str, namespace: &str) -> Value {
    json!({"metadata": {"name": name}, "reason": "Starting", "message": "text", "type": "Normal",
        "involvedObject": {"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "namespace": namespace}})
}

/// Versions in words differ from run to run.
fn without_versions(body: &Value) -> Value {
    let mut body = body.clone();
    let status = match body.get("object") {
        Some(_) => &mut body["object"],
        None => &mut body,
    };
    if let Some(text) = status["message"].as_str() {
        let blurred: Vec<String> = text
            .split(' ')
            .map(|word| match word.trim_matches(['(', ')']).parse::<u64>() {
                Ok(_) => word
                    .replace(|one: char| one.is_ascii_digit(), "")
                    .replace("()", "(<version>)"),
                Err(_) => word.to_owned(),
            })
            .map(|word| {
                if word.is_empty() {
                    "<version>".to_owned()
                } else {
                    word
                }
            })
            .collect();
        status["message"] = blurred.join(" ").into();
    }
    body
}

fn names(body: &Value) -> Value {
    let items = body["items"].as_array().into_iter().flatten();
    let names: Vec<&Value> = items.map(|item| &item["metadata"]["name"]).collect();
    json!({"names": names, "remaining": body["metadata"]["remainingItemCount"],
        "goes on": !body["metadata"]["continue"].is_null() && body["metadata"]["continue"] != ""})
}

pub(crate) async fn versions(talk: &mut Talk) {
    let collections = [
        ("maps", talk.core("configmaps")),
        ("events", talk.core("events")),
        ("ours", talk.kubedb("postgreses")),
    ];
    let namespace = talk.namespace.clone();
    let body = |kind: &str, name: &str| match kind {
        "maps" => config_map(name),
        "events" => event(name, &namespace),
        _ => postgres(name),
    };
    let mut known = Vec::new();
    for (kind, path) in &collections {
        for name in ["a", "b", "c", "d"] {
            let made = talk.ask(&Call::post(path, &body(kind, name))).await;
            assert_eq!(made.code, 201, "{}", made.body);
        }
        // The objects of kube-apiserver's own in every namespace come later in the list.
        let page = talk.ask(&Call::get(&format!("{path}?limit=2"))).await;
        let token = page.body["metadata"]["continue"]
            .as_str()
            .unwrap()
            .to_owned();
        talk.ask(&Call::delete(&format!("{path}/c"))).await;
        talk.ask(&Call::post(path, &body(kind, "e"))).await;
        talk.normaliser.alias(&token, &format!("<token of {kind}>"));
        let version = format!("resourceVersion={}", page.version());
        talk.normaliser.alias(&version, "resourceVersion=<then>");
        known.push((*kind, path.clone(), version, token));
    }
    talk.engine.forget().await.unwrap();
    for (kind, path, version, token) in known {
        // A client may find its connection gone once, and kube-apiserver fills the cache of each kind anew.
        let cached = Call::get(&format!("{path}?resourceVersion=0"));
        talk.until(&cached, |answer| answer.code == 200).await;
        let watch = Call::get(&format!("{path}?watch=1&timeoutSeconds=5&{version}"));
        talk.step_of(
            &format!("{kind}: a watch from then"),
            watch,
            without_versions,
        )
        .await;
        let exact = Call::get(&format!("{path}?resourceVersionMatch=Exact&{version}"));
        talk.step(&format!("{kind}: a list as of then"), exact)
            .await;
        let since = Call::get(&format!(
            "{path}?resourceVersionMatch=NotOlderThan&{version}"
        ));
        talk.step_of(
            &format!("{kind}: a list not older than then"),
            since,
            without_roots,
        )
        .await;
        let next = Call::get(&format!("{path}?limit=2&continue={token}"));
        let refused = talk
            .step(&format!("{kind}: a list that goes on"), next)
            .await;
        let rest = refused.body["metadata"]["continue"]
            .as_str()
            .unwrap_or_default();
        talk.normaliser.alias(rest, &format!("<rest of {kind}>"));
        let rest = Call::get(&format!("{path}?limit=1&continue={rest}"));
        let page = talk
            .step_of(&format!("{kind}: the rest as of now"), rest, names)
            .await;
        let more = page.body["metadata"]["continue"]
            .as_str()
            .unwrap_or_default();
        talk.normaliser.alias(more, "<more>");
        let more = Call::get(&format!("{path}?limit=1&continue={more}"));
        talk.step_of(&format!("{kind}: and after that"), more, names)
            .await;
    }
}

/// Names alone, without those that only kube-apiserver puts into a namespace.
fn without_roots(body: &Value) -> Value {
    let mut told = names(body);
    if let Some(names) = told["names"].as_array_mut() {
        names.retain(|name| name != "kube-root-ca.crt");
    }
    told
}
