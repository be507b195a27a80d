//! Create, read, replace and delete, and what becomes of metadata then.

use kubedb_contract::talk::{Call, Talk};
use serde_json::{Value, json};

use crate::things::{config_map, postgres, secret, with};

pub(crate) async fn secrets(talk: &mut Talk) {
    let path = talk.core("secrets");
    let one = format!("{path}/s");
    let mut body = secret("s");
    body["metadata"]["labels"] = json!({"app": "x"});
    body["stringData"] = json!({"b": "text"});
    let made = talk.step("create", Call::post(&path, &body)).await;
    talk.step("create again", Call::post(&path, &body)).await;
    talk.step("read", Call::get(&one)).await;
    let same = talk
        .step("replace by the same", Call::put(&one, &made.body))
        .await;
    assert_eq!(same.version(), made.version());
    let changed = with(made.body.clone(), "data", json!({"c": "eQ=="}));
    talk.step("replace", Call::put(&one, &changed)).await;
    talk.step("replace what was replaced", Call::put(&one, &changed))
        .await;
    let typed = with(secret("s"), "type", json!("example.com/other"));
    talk.step("change the type", Call::put(&one, &typed)).await;
    let frozen = with(secret("s"), "immutable", json!(true));
    talk.step("freeze", Call::put(&one, &frozen)).await;
    let thawed = with(frozen.clone(), "data", json!({"z": "eg=="}));
    talk.step("change what is frozen", Call::put(&one, &thawed))
        .await;
    talk.step("thaw", Call::put(&one, &secret("s"))).await;
    let bad = with(secret("b"), "data", json!({"a": "not base64!"}));
    talk.step_of("data that is not base64", Call::post(&path, &bad), |body| {
        json!({"code": body["code"], "reason": body["reason"], "tells the value":
            body["message"].as_str().unwrap_or_default().contains("not base64!")})
    })
    .await;
    let bad = with(secret("b"), "data", json!({"a b": "eA=="}));
    talk.step("a key that is none", Call::post(&path, &bad))
        .await;
    let bad = with(secret("b"), "data", json!({"..": "eA=="}));
    talk.step("a key of dots", Call::post(&path, &bad)).await;
    let typed = with(secret("t"), "type", json!("kubernetes.io/tls"));
    talk.step("a type that wants keys", Call::post(&path, &typed))
        .await;
    let typed = with(secret("t"), "type", json!("kubernetes.io/basic-auth"));
    talk.step("a type that wants a user", Call::post(&path, &typed))
        .await;
    talk.step(
        "an absent one is not replaced",
        Call::put(&format!("{path}/none"), &secret("none")),
    )
    .await;
    talk.step("delete", Call::delete(&one)).await;
    talk.step("delete again", Call::delete(&one)).await;
}

pub(crate) async fn config_maps(talk: &mut Talk) {
    let path = talk.core("configmaps");
    let one = format!("{path}/c");
    let mut body = config_map("c");
    body["binaryData"] = json!({"b": "AAE="});
    talk.step("create", Call::post(&path, &body)).await;
    let twice = with(config_map("d"), "binaryData", json!({"a": "AAE="}));
    talk.step("one key in both maps", Call::post(&path, &twice))
        .await;
    let nulls = json!({"metadata": {"name": "n", "labels": null, "creationTimestamp": null}, "data": {"a": null}});
    talk.step("nulls", Call::post(&path, &nulls)).await;
    let empty = json!({"metadata": {"name": "e", "labels": {}, "annotations": {}}, "data": {}});
    talk.step("empty maps", Call::post(&path, &empty)).await;
    talk.step(
        "replace without a version",
        Call::put(&one, &config_map("c")),
    )
    .await;
    let versioned = with(config_map("v"), "metadata.resourceVersion", json!("1"));
    talk.step("create with a version", Call::post(&path, &versioned))
        .await;
    let identified = with(
        config_map("v"),
        "metadata.uid",
        json!("00000000-0000-0000-0000-000000000009"),
    );
    let made = talk.ask(&Call::post(&path, &identified)).await;
    assert_ne!(made.uid(), "00000000-0000-0000-0000-000000000009");
    let mut claimed = config_map("w");
    claimed["metadata"]["generation"] = 7.into();
    claimed["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z".into();
    claimed["metadata"]["selfLink"] = "/x".into();
    talk.step(
        "create with what the server writes",
        Call::post(&path, &claimed),
    )
    .await;
}

pub(crate) async fn namespaces(talk: &mut Talk) {
    let path = "/api/v1/namespaces";
    let name = "objects-namespaces-made";
    let body = json!({"metadata": {"name": name}});
    talk.step("create", Call::post(path, &body)).await;
    let one = format!("{path}/{name}");
    let labelled =
        json!({"metadata": {"name": name, "labels": {"a": "b"}}, "spec": {"finalizers": []}});
    talk.step("replace", Call::put(&one, &labelled)).await;
    talk.step("its status", Call::get(&format!("{one}/status")))
        .await;
    talk.step_of("the built-in ones", Call::get(path), |body| {
        let names = body["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["metadata"]["name"].clone());
        names
            .filter(|name| name == "default" || name == "kube-system")
            .collect::<Vec<Value>>()
            .into()
    })
    .await;
    talk.step(
        "the default one is kept",
        Call::delete(&format!("{path}/default")),
    )
    .await;
    talk.step(
        "into an absent one",
        Call::post("/api/v1/namespaces/none/configmaps", &config_map("c")),
    )
    .await;
    let absent = "/apis/kubedb.com/v1alpha1/namespaces/none/postgreses";
    talk.step(
        "ours into an absent one",
        Call::post(absent, &postgres("p")),
    )
    .await;
}

pub(crate) async fn custom(talk: &mut Talk) {
    let path = talk.kubedb("postgreses");
    let one = format!("{path}/p");
    let made = talk.step("create", Call::post(&path, &postgres("p"))).await;
    talk.step("create again", Call::post(&path, &postgres("p")))
        .await;
    talk.step("read", Call::get(&one)).await;
    let relabelled = with(made.body.clone(), "metadata.labels", json!({"a": "b"}));
    let relabelled = talk
        .step("only metadata changes", Call::put(&one, &relabelled))
        .await;
    let scaled = with(relabelled.body, "spec.replicas", json!(2));
    let scaled = talk
        .step("the spec changes", Call::put(&one, &scaled))
        .await;
    let status = with(scaled.body.clone(), "status", json!({"phase": "Running"}));
    talk.step(
        "a status is not taken from the main part",
        Call::put(&one, &status),
    )
    .await;
    talk.step("replace without a version", Call::put(&one, &postgres("p")))
        .await;
    talk.step(
        "an absent one is not replaced",
        Call::put(&format!("{path}/none"), &postgres("none")),
    )
    .await;
    let versioned = with(postgres("none"), "metadata.resourceVersion", json!("5"));
    talk.step(
        "an absent one with a version",
        Call::put(&format!("{path}/none"), &versioned),
    )
    .await;
    let with_status = with(postgres("s"), "status", json!({"phase": "Running"}));
    talk.step("create with a status", Call::post(&path, &with_status))
        .await;
    talk.step("delete", Call::delete(&one)).await;
    talk.step("delete again", Call::delete(&one)).await;
}

pub(crate) async fn generated_names(talk: &mut Talk) {
    let path = talk.core("configmaps");
    let body = json!({"metadata": {"generateName": "made-"}});
    let first = talk.ask(&Call::post(&path, &body)).await;
    let second = talk.ask(&Call::post(&path, &body)).await;
    let name = |answer: &Value| answer["metadata"]["name"].as_str().unwrap().to_owned();
    let (first_name, second_name) = (name(&first.body), name(&second.body));
    assert_ne!(first_name, second_name);
    assert_eq!(first_name.len(), "made-".len() + 5, "{first_name}");
    talk.normaliser.alias(&first_name, "<generated 1>");
    talk.note("a generated name", &first.body);
    let long = json!({"metadata": {"generateName": "x".repeat(70)}});
    let long = talk.ask(&Call::post(&path, &long)).await;
    assert_eq!(name(&long.body).len(), 63);
    let both = json!({"metadata": {"generateName": "made-", "name": "own"}});
    talk.step("a name beside it", Call::post(&path, &both))
        .await;
    let bad = json!({"metadata": {"generateName": "Made_"}});
    talk.step_of("one that makes no name", Call::post(&path, &bad), |body| {
        json!({"code": body["code"], "reason": body["reason"], "fields": body["details"]["causes"].as_array()
            .into_iter().flatten().map(|cause| cause["field"].clone()).collect::<Vec<_>>()})
    })
    .await;
    talk.step("neither", Call::post(&path, &json!({"metadata": {}})))
        .await;
    talk.step(
        "neither for ours",
        Call::post(
            &talk.kubedb("postgreses"),
            &with(postgres(""), "metadata", json!({})),
        ),
    )
    .await;
}

pub(crate) async fn status(talk: &mut Talk) {
    let path = talk.kubedb("postgreses");
    let part = format!("{path}/p/status");
    let made = talk.ask(&Call::post(&path, &postgres("p"))).await;
    let mut body = with(
        made.body,
        "status",
        json!({"phase": "Creating", "readyReplicas": 1}),
    );
    body["spec"]["replicas"] = 9.into();
    body["metadata"]["labels"] = json!({"a": "b"});
    let put = talk
        .step("replace the status", Call::put(&part, &body))
        .await;
    talk.step("read it", Call::get(&part)).await;
    let same = talk
        .step("replace it by the same", Call::put(&part, &put.body))
        .await;
    assert_eq!(same.version(), put.version());
    let merge = json!({"status": {"primary": "p-0"}, "spec": {"replicas": 4}});
    talk.step("merge into it", Call::patch(&part, "merge", &merge))
        .await;
    let wrong = json!({"status": {"readyReplicas": "many"}});
    talk.step("a wrong type", Call::patch(&part, "merge", &wrong))
        .await;
    let unknown = json!({"status": {"phse": "x"}});
    talk.step("an unknown field", Call::patch(&part, "merge", &unknown))
        .await;
    talk.step(
        "without one",
        Call::put(&part, &with(put.body.clone(), "status", Value::Null)),
    )
    .await;
    talk.step("delete it", Call::delete(&part)).await;
    talk.step(
        "of an absent object",
        Call::get(&format!("{path}/none/status")),
    )
    .await;
    talk.step(
        "of a kind without one",
        Call::get(&talk.core("secrets/x/status")),
    )
    .await;
}

pub(crate) async fn conflicts(talk: &mut Talk) {
    for path in [talk.core("configmaps"), talk.kubedb("postgreses")] {
        let ours = path.contains("kubedb");
        let kind = if ours { "ours" } else { "core" };
        let body = if ours { postgres("c") } else { config_map("c") };
        let one = format!("{path}/c");
        let made = talk.ask(&Call::post(&path, &body)).await;
        let first = with(made.body.clone(), "metadata.labels", json!({"by": "first"}));
        talk.ask(&Call::put(&one, &first)).await;
        let second = with(
            made.body.clone(),
            "metadata.labels",
            json!({"by": "second"}),
        );
        talk.step(&format!("{kind}: an old version"), Call::put(&one, &second))
            .await;
        let patch =
            json!({"metadata": {"resourceVersion": made.version(), "labels": {"by": "patch"}}});
        talk.step(
            &format!("{kind}: a patch of an old version"),
            Call::patch(&one, "merge", &patch),
        )
        .await;
        let other = with(
            made.body.clone(),
            "metadata.uid",
            json!("00000000-0000-0000-0000-000000000003"),
        );
        let other = with(other, "metadata.resourceVersion", json!(""));
        talk.step(&format!("{kind}: another uid"), Call::put(&one, &other))
            .await;
        let patch = json!({"metadata": {"uid": "00000000-0000-0000-0000-000000000003"}});
        talk.step(
            &format!("{kind}: a patch of another uid"),
            Call::patch(&one, "merge", &patch),
        )
        .await;
        let nonsense = with(
            made.body.clone(),
            "metadata.resourceVersion",
            json!("nonsense"),
        );
        talk.step(
            &format!("{kind}: a version that is none"),
            Call::put(&one, &nonsense),
        )
        .await;
    }
}

pub(crate) async fn dry_run(talk: &mut Talk) {
    let path = talk.core("configmaps");
    let one = format!("{path}/c");
    let ours = talk.kubedb("postgreses");
    talk.step(
        "create",
        Call::post(&format!("{path}?dryRun=All"), &config_map("c")),
    )
    .await;
    talk.step("nothing is there", Call::get(&one)).await;
    talk.step(
        "create ours",
        Call::post(&format!("{ours}?dryRun=All"), &postgres("p")),
    )
    .await;
    talk.ask(&Call::post(&path, &config_map("c"))).await;
    let patch = json!({"data": {"b": "2"}});
    talk.step(
        "patch",
        Call::patch(&format!("{one}?dryRun=All"), "merge", &patch),
    )
    .await;
    talk.step(
        "create what is there",
        Call::post(&format!("{path}?dryRun=All"), &config_map("c")),
    )
    .await;
    talk.step("delete", Call::delete(&format!("{one}?dryRun=All")))
        .await;
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"]});
    talk.step("delete by options", Call::delete(&one).json(&options))
        .await;
    talk.step("it is there still", Call::get(&one)).await;
    talk.step(
        "another word",
        Call::post(&format!("{path}?dryRun=Some"), &config_map("d")),
    )
    .await;
    talk.step(
        "another word in a patch",
        Call::patch(&format!("{one}?dryRun=Some"), "merge", &patch),
    )
    .await;
    talk.step(
        "another word in a deletion",
        Call::delete(&format!("{one}?dryRun=Some")),
    )
    .await;
}
