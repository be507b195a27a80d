//! What is refused, in which words.

use kubedb_contract::talk::{Call, Talk};
use serde_json::json;

use crate::things::{config_map, dormant, postgres, secret, with};

pub(crate) async fn unknown_fields(talk: &mut Talk) {
    let (secrets, ours) = (talk.core("secrets"), talk.kubedb("dormantdatabases"));
    let core = with(
        with(secret("s"), "dta", json!({"a": "eA=="})),
        "metadata.nme",
        json!("x"),
    );
    let mut custom = with(
        with(dormant("p"), "spec.wipOut", json!(3)),
        "metadata.nme",
        json!("x"),
    );
    custom["top"] = 1.into();
    for mode in ["Strict", "Warn", "Ignore", "", "Sometimes"] {
        let query = format!("?fieldValidation={mode}&dryRun=All");
        talk.step(
            &format!("core, {mode}"),
            Call::post(&format!("{secrets}{query}"), &core),
        )
        .await;
        talk.step(
            &format!("ours, {mode}"),
            Call::post(&format!("{ours}{query}"), &custom),
        )
        .await;
    }
    talk.ask(&Call::post(&ours, &dormant("p"))).await;
    talk.ask(&Call::post(&secrets, &secret("s"))).await;
    for mode in ["Strict", "Warn"] {
        let query = format!("?fieldValidation={mode}&dryRun=All");
        let patch = json!({"spec": {"wipOut": 3}});
        talk.step(
            &format!("a patch of ours, {mode}"),
            Call::patch(&format!("{ours}/p{query}"), "merge", &patch),
        )
        .await;
        let patch = json!({"dta": {"wipOut": "3"}});
        talk.step(
            &format!("a patch of core, {mode}"),
            Call::patch(&format!("{secrets}/s{query}"), "merge", &patch),
        )
        .await;
        let patch = json!([{"op": "add", "path": "/spec/wipOut", "value": 3}]);
        talk.step(
            &format!("a JSON patch of ours, {mode}"),
            Call::patch(&format!("{ours}/p{query}"), "json", &patch),
        )
        .await;
    }
    for (title, path, body) in [
        (
            "a field twice",
            &secrets,
            r#"{"metadata":{"name":"d"},"type":"a","type":"b"}"#.to_owned(),
        ),
        (
            "a field of ours twice",
            &ours,
            dormant("d")
                .to_string()
                .replacen("\"spec\":{", "\"spec\":{\"wipeOut\":true,", 1),
        ),
    ] {
        for mode in ["Strict", "Warn"] {
            let call = Call::method("POST", &format!("{path}?fieldValidation={mode}&dryRun=All"))
                .bytes("application/json", body.clone().into_bytes());
            talk.step(&format!("{title}, {mode}"), call).await;
        }
    }
}

pub(crate) async fn wrong_types(talk: &mut Talk) {
    let (secrets, ours) = (talk.core("secrets"), talk.kubedb("postgreses"));
    for (title, field, value) in [
        ("a text for a number", "spec.replicas", json!("three")),
        (
            "a number for a text",
            "spec.databaseSecret.secretName",
            json!(3),
        ),
        ("a fraction for a whole", "spec.replicas", json!(1.5)),
        ("a whole with a point", "spec.replicas", json!(2.0)),
        (
            "a number that is too large",
            "spec.replicas",
            json!(3_000_000_000_u64),
        ),
        ("a list for an object", "spec.storage", json!([])),
        (
            "an object for a list",
            "spec.storage.accessModes",
            json!({}),
        ),
        ("a text for a truth", "spec.doNotPause", json!("yes")),
        ("a mode that is none", "spec.standbyMode", json!("Luke")),
        ("a text for the spec", "spec", json!("x")),
        ("no spec", "spec", json!(null)),
        (
            "a size as a number",
            "spec.storage.resources.requests.storage",
            json!(1000),
        ),
        ("labels that are a list", "metadata.labels", json!([])),
        (
            "a label that is a number",
            "metadata.labels",
            json!({"a": 1}),
        ),
        (
            "a time that is none",
            "metadata.creationTimestamp",
            json!("yesterday"),
        ),
    ] {
        let mut body = postgres("p");
        if field.starts_with("spec.databaseSecret") {
            body["spec"]["databaseSecret"] = json!({});
        }
        let call = Call::post(&format!("{ours}?dryRun=All"), &with(body, field, value));
        talk.step_of(&format!("ours: {title}"), call, without_go)
            .await;
    }
    for (title, field, value) in [
        ("a number for a text", "type", json!(3)),
        ("a list for a map", "data", json!([])),
        ("a number in a map", "data", json!({"a": 1})),
        ("a text for a truth", "immutable", json!("yes")),
        ("metadata that are a text", "metadata", json!("x")),
        ("a name that is a number", "metadata.name", json!(5)),
        (
            "a label that is a number",
            "metadata.labels",
            json!({"a": 1}),
        ),
    ] {
        let call = Call::post(
            &format!("{secrets}?dryRun=All"),
            &with(secret("s"), field, value),
        );
        talk.step_of(&format!("core: {title}"), call, without_go)
            .await;
    }
}

/// The words of Go's decoder name types of Go; that it failed, and code and reason, are the contract.
fn without_go(body: &serde_json::Value) -> serde_json::Value {
    let mut body = body.clone();
    // How many were given before depends on what was refused.
    if let Some(metadata) = body["metadata"].as_object_mut() {
        metadata.remove("uid");
    }
    if body["reason"] == "BadRequest" {
        let message = body["message"].as_str().unwrap_or_default().to_owned();
        let end = message.find("cannot be handled as").map_or(0, |at| at);
        body["message"] = message[..end].into();
    }
    body
}

/// Without a place in Go's source, and without the object.
fn without_places(body: &serde_json::Value) -> serde_json::Value {
    let mut body = body.clone();
    let message = body["message"].as_str().unwrap_or_default().to_owned();
    if let Some(end) = [" in scheme", " in '{"]
        .iter()
        .filter_map(|cut| message.find(cut))
        .min()
    {
        body["message"] = message[..end].into();
    }
    body
}

pub(crate) async fn names(talk: &mut Talk) {
    let (maps, ours) = (talk.core("configmaps"), talk.kubedb("postgreses"));
    let namespaces = "/api/v1/namespaces";
    let long = "x".repeat(254);
    for (index, name) in [
        "Upper",
        "under_score",
        "-dash",
        "dot.",
        "a..b",
        "with space",
        long.as_str(),
        ".",
        "%",
        "a/b",
    ]
    .into_iter()
    .enumerate()
    {
        let kinds = [
            ("core", maps.as_str(), config_map(name)),
            ("ours", &ours, postgres(name)),
            (
                "a namespace",
                namespaces,
                json!({"metadata": {"name": name}}),
            ),
        ];
        for (kind, path, body) in kinds {
            let call = Call::post(&format!("{path}?dryRun=All"), &body);
            talk.step(&format!("{kind} with the name {index}"), call)
                .await;
        }
    }
    for (title, metadata) in [
        ("a key with a space", json!({"labels": {"a b": "c"}})),
        ("a key without a name", json!({"labels": {"a.b/": "c"}})),
        ("a key with two slashes", json!({"labels": {"a/b/c": "c"}})),
        ("a prefix that is none", json!({"labels": {"A_b/c": "c"}})),
        ("an empty key", json!({"labels": {"": "c"}})),
        ("a long key", json!({"labels": {"k".repeat(64): "c"}})),
        ("a value with a space", json!({"labels": {"a": "b c"}})),
        ("a long value", json!({"labels": {"a": "v".repeat(64)}})),
        ("an annotation's key", json!({"annotations": {"a b": "c"}})),
        (
            "several",
            json!({"labels": {"a b": "c d"}, "annotations": {"e f": "g"}}),
        ),
    ] {
        let mut metadata = metadata;
        metadata["name"] = "n".into();
        for (kind, path, body) in [
            ("core", &maps, config_map("n")),
            ("ours", &ours, postgres("n")),
        ] {
            let call = Call::post(
                &format!("{path}?dryRun=All"),
                &with(body, "metadata", metadata.clone()),
            );
            talk.step(&format!("{kind}: {title}"), call).await;
        }
    }
}

pub(crate) async fn mismatches(talk: &mut Talk) {
    let (maps, ours) = (talk.core("configmaps"), talk.kubedb("postgreses"));
    talk.ask(&Call::post(&maps, &config_map("m"))).await;
    talk.ask(&Call::post(&ours, &postgres("m"))).await;
    for (kind, path, body) in [
        ("core", &maps, config_map("m")),
        ("ours", &ours, postgres("m")),
    ] {
        for (title, field, value) in [
            ("another kind", "kind", json!("Pod")),
            ("another version", "apiVersion", json!("v2")),
            ("another group", "apiVersion", json!("example.com/v1")),
            ("another namespace", "metadata.namespace", json!("default")),
            ("no kind", "kind", json!("")),
            ("no version", "apiVersion", json!("")),
        ] {
            let changed = with(
                with(body.clone(), "metadata.name", json!("new")),
                field,
                value.clone(),
            );
            let call = Call::post(&format!("{path}?dryRun=All"), &changed);
            talk.step_of(
                &format!("{kind}: create with {title}"),
                call,
                without_places,
            )
            .await;
        }
        let call = Call::put(
            &format!("{path}/m"),
            &with(body.clone(), "metadata.name", json!("other")),
        );
        talk.step(&format!("{kind}: put with another name"), call)
            .await;
        let call = Call::put(
            &format!("{path}/m"),
            &with(body.clone(), "metadata.name", json!("")),
        );
        talk.step(&format!("{kind}: put without a name"), call)
            .await;
        let call = Call::put(
            &format!("{path}/m"),
            &with(body.clone(), "metadata.namespace", json!("default")),
        );
        talk.step(&format!("{kind}: put with another namespace"), call)
            .await;
    }
}
