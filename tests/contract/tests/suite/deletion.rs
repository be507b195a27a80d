//! Deletion: finalizers, conditions, owners, whole namespaces.

use kubedb_contract::talk::{Call, Talk};
use serde_json::{Value, json};

use crate::things::{config_map, postgres, secret, with};

pub(crate) async fn finalizers(talk: &mut Talk) {
    for path in [talk.core("configmaps"), talk.kubedb("postgreses")] {
        let ours = path.contains("kubedb");
        let kind = if ours { "ours" } else { "core" };
        let body = if ours { postgres("f") } else { config_map("f") };
        let one = format!("{path}/f");
        let held = with(
            body.clone(),
            "metadata.finalizers",
            json!(["example.com/a", "example.com/b"]),
        );
        talk.ask(&Call::post(&path, &held)).await;
        talk.step(&format!("{kind}: deleted while held"), Call::delete(&one))
            .await;
        let again = talk
            .step(&format!("{kind}: deleted again"), Call::delete(&one))
            .await;
        let more = json!({"metadata": {"finalizers": ["example.com/a", "example.com/b", "example.com/c"]}});
        talk.step(
            &format!("{kind}: held by one more"),
            Call::patch(&one, "merge", &more),
        )
        .await;
        let back =
            json!({"metadata": {"deletionTimestamp": null, "deletionGracePeriodSeconds": null}});
        talk.step(
            &format!("{kind}: back to life"),
            Call::patch(&one, "merge", &back),
        )
        .await;
        let changed = if ours {
            json!({"spec": {"replicas": 2}})
        } else {
            json!({"data": {"a": "2"}})
        };
        talk.step(
            &format!("{kind}: changed while it goes"),
            Call::patch(&one, "merge", &changed),
        )
        .await;
        talk.step(
            &format!("{kind}: created while it goes"),
            Call::post(&path, &body),
        )
        .await;
        let less = json!({"metadata": {"finalizers": ["example.com/b"]}});
        talk.step(
            &format!("{kind}: let go by one"),
            Call::patch(&one, "merge", &less),
        )
        .await;
        let none = json!({"metadata": {"finalizers": null, "resourceVersion": again.body["metadata"]["resourceVersion"]}});
        talk.step(
            &format!("{kind}: let go in the past"),
            Call::patch(&one, "merge", &none),
        )
        .await;
        let none = json!({"metadata": {"finalizers": []}});
        talk.step(
            &format!("{kind}: let go by the last"),
            Call::patch(&one, "merge", &none),
        )
        .await;
        talk.step(&format!("{kind}: gone"), Call::get(&one)).await;
        let bad = with(body, "metadata.finalizers", json!(["bare", "a b"]));
        talk.step(
            &format!("{kind}: a finalizer that is none"),
            Call::post(&path, &bad),
        )
        .await;
    }
}

pub(crate) async fn preconditions(talk: &mut Talk) {
    let path = talk.core("configmaps");
    let one = format!("{path}/c");
    let made = talk.ask(&Call::post(&path, &config_map("c"))).await;
    let options = |preconditions: Value| json!({"preconditions": preconditions});
    let other = "00000000-0000-0000-0000-000000000004";
    for (title, body) in [
        ("another uid", options(json!({"uid": other}))),
        (
            "a version that is not yet",
            options(json!({"resourceVersion": "1"})),
        ),
        (
            "an unknown policy",
            json!({"propagationPolicy": "Sideways"}),
        ),
        (
            "two policies",
            json!({"propagationPolicy": "Foreground", "orphanDependents": true}),
        ),
        (
            "a wrong kind",
            json!({"kind": "Secret", "apiVersion": "v1"}),
        ),
        ("a wrong type", json!({"gracePeriodSeconds": "soon"})),
        ("an unknown field", json!({"propagation": "Foreground"})),
        ("a negative time", json!({"gracePeriodSeconds": -1})),
    ] {
        let mut body = body;
        body["dryRun"] = json!(["All"]);
        let call = Call::delete(&one).json(&body);
        talk.step_of(title, call, |body| {
            let mut body = body.clone();
            let message = body["message"].as_str().unwrap_or_default().to_owned();
            if message.contains("ResourceVersion in record") {
                body["message"] = "…".into();
            }
            // A place in the source, and the words of Go's decoder.
            let cut = message
                .find(" in scheme")
                .or_else(|| message.starts_with("json:").then_some(0));
            if let Some(cut) = cut.or_else(|| message.starts_with("invalid type").then_some(0)) {
                body["message"] = message[..cut].into();
            }
            body
        })
        .await;
    }
    let call = Call::delete(&one).json(&options(
        json!({"uid": made.uid(), "resourceVersion": made.version()}),
    ));
    talk.step("both fit", call).await;
    talk.ask(&Call::post(&path, &config_map("c"))).await;
    talk.step(
        "a policy in the query",
        Call::delete(&format!("{one}?propagationPolicy=Foreground&dryRun=All")),
    )
    .await;
    talk.step(
        "a time in the query",
        Call::delete(&format!("{one}?gracePeriodSeconds=5")),
    )
    .await;
}

pub(crate) async fn collections(talk: &mut Talk) {
    for path in [talk.core("configmaps"), talk.kubedb("postgreses")] {
        let ours = path.contains("kubedb");
        let kind = if ours { "ours" } else { "core" };
        for name in ["a", "b", "c"] {
            let body = if ours {
                postgres(name)
            } else {
                config_map(name)
            };
            let label = if name == "c" { "keep" } else { "drop" };
            let mut body = with(body, "metadata.labels", json!({"what": label}));
            if name == "b" {
                body["metadata"]["finalizers"] = json!(["example.com/hold"]);
            }
            talk.ask(&Call::post(&path, &body)).await;
        }
        let selected = format!("{path}?labelSelector=what%3Ddrop");
        talk.step(
            &format!("{kind}: tried"),
            Call::delete(&format!("{selected}&dryRun=All")),
        )
        .await;
        talk.step(&format!("{kind}: selected"), Call::delete(&selected))
            .await;
        talk.step_of(&format!("{kind}: what is left"), Call::get(&path), |body| {
            let items = body["items"].as_array().unwrap();
            items
                .iter()
                .map(|item| {
                    json!({"name": item["metadata"]["name"],
                "goes": !item["metadata"]["deletionTimestamp"].is_null()})
                })
                .collect()
        })
        .await;
        talk.step_of(
            &format!("{kind}: all"),
            Call::delete(&path),
            |body| json!({"kind": body["kind"]}),
        )
        .await;
    }
}

fn owner(kind: &str, name: &str, uid: &str) -> Value {
    let api_version = if kind == "Postgres" {
        "kubedb.com/v1alpha1"
    } else {
        "v1"
    };
    json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": uid})
}

/// What its owners leave behind is collected; what has one owner left is not.
pub(crate) async fn owners(talk: &mut Talk) {
    let (maps, ours) = (talk.core("configmaps"), talk.kubedb("postgreses"));
    let one = talk.ask(&Call::post(&ours, &postgres("one"))).await;
    let two = talk.ask(&Call::post(&maps, &config_map("two"))).await;
    let (one, two) = (
        owner("Postgres", "one", &one.uid()),
        owner("ConfigMap", "two", &two.uid()),
    );
    for (name, owners) in [
        ("of-one", vec![&one]),
        ("of-both", vec![&one, &two]),
        ("of-two", vec![&two]),
        ("of-none", vec![]),
    ] {
        let body = with(config_map(name), "metadata.ownerReferences", json!(owners));
        let made = talk.ask(&Call::post(&maps, &body)).await;
        assert_eq!(made.code, 201, "{}", made.body);
    }
    let nobody = owner("Secret", "ghost", "00000000-0000-0000-0000-000000000005");
    let body = with(
        config_map("of-a-ghost"),
        "metadata.ownerReferences",
        json!([nobody]),
    );
    talk.ask(&Call::post(&maps, &body)).await;
    let get = |name: &str| Call::get(&format!("{maps}/{name}"));
    talk.until(&get("of-a-ghost"), |answer| answer.code == 404)
        .await;
    talk.step("the owner goes", Call::delete(&format!("{ours}/one")))
        .await;
    talk.until(&get("of-one"), |answer| answer.code == 404)
        .await;
    talk.step_of("what is left", Call::get(&maps), |body| {
        let items = body["items"].as_array().unwrap().iter();
        items
            .map(|item| item["metadata"]["name"].clone())
            .filter(|name| name.as_str().unwrap().starts_with("of-"))
            .collect()
    })
    .await;
    let gone = |answer: &kubedb_contract::talk::Answer| {
        answer.body["metadata"]["ownerReferences"]
            .as_array()
            .map_or(0, Vec::len)
            == 1
    };
    talk.until(&get("of-both"), gone).await;
    talk.step("the other owner goes", Call::delete(&format!("{maps}/two")))
        .await;
    for name in ["of-both", "of-two"] {
        talk.until(&get(name), |answer| answer.code == 404).await;
    }
    assert_eq!(talk.ask(&get("of-none")).await.code, 200);
    for (title, field, value) in [
        ("an owner without a uid", "uid", json!("")),
        ("an owner without a kind", "kind", json!("")),
        ("an owner without a version", "apiVersion", json!("")),
        ("an owner without a name", "name", json!("")),
    ] {
        let reference = with(
            owner("Secret", "x", "00000000-0000-0000-0000-000000000006"),
            field,
            value,
        );
        let body = with(
            config_map("bad"),
            "metadata.ownerReferences",
            json!([reference]),
        );
        talk.step(title, Call::post(&maps, &body)).await;
    }
    let two = json!([
        with(
            owner("Secret", "x", "00000000-0000-0000-0000-000000000006"),
            "controller",
            json!(true)
        ),
        with(
            owner("Secret", "y", "00000000-0000-0000-0000-000000000007"),
            "controller",
            json!(true)
        )
    ]);
    let body = with(config_map("bad"), "metadata.ownerReferences", two);
    talk.step("two that control", Call::post(&maps, &body))
        .await;
}

/// Foreground waits for dependents that block; orphans stay.
pub(crate) async fn propagation(talk: &mut Talk) {
    let maps = talk.core("configmaps");
    let get = |name: &str| Call::get(&format!("{maps}/{name}"));
    let parent = talk.ask(&Call::post(&maps, &config_map("front"))).await;
    let reference = with(
        owner("ConfigMap", "front", &parent.uid()),
        "blockOwnerDeletion",
        json!(true),
    );
    let mut child = with(
        config_map("front-child"),
        "metadata.ownerReferences",
        json!([reference]),
    );
    child["metadata"]["finalizers"] = json!(["example.com/hold"]);
    talk.ask(&Call::post(&maps, &child)).await;
    let front = format!("{maps}/front?propagationPolicy=Foreground");
    talk.step("in the foreground", Call::delete(&front)).await;
    talk.until(&get("front-child"), |answer| {
        answer.body["metadata"]["deletionTimestamp"].is_string()
    })
    .await;
    talk.step_of("the owner waits", get("front"), |body| {
        body["metadata"]["finalizers"].clone()
    })
    .await;
    let none = json!({"metadata": {"finalizers": null}});
    talk.ask(&Call::patch(&format!("{maps}/front-child"), "merge", &none))
        .await;
    talk.until(&get("front"), |answer| answer.code == 404).await;

    let parent = talk.ask(&Call::post(&maps, &config_map("mother"))).await;
    let reference = owner("ConfigMap", "mother", &parent.uid());
    let child = with(
        config_map("orphan"),
        "metadata.ownerReferences",
        json!([reference]),
    );
    talk.ask(&Call::post(&maps, &child)).await;
    let mother = Call::delete(&format!("{maps}/mother?propagationPolicy=Orphan"));
    talk.step("leaving orphans", mother).await;
    talk.until(&get("mother"), |answer| answer.code == 404)
        .await;
    talk.step("the orphan", get("orphan")).await;
}

pub(crate) async fn namespaces(talk: &mut Talk) {
    let all = "/api/v1/namespaces";
    let name = "deletion-of-a-namespace";
    let one = format!("{all}/{name}");
    let inside = format!("{one}/configmaps");
    let ours = format!("/apis/kubedb.com/v1alpha1/namespaces/{name}/postgreses");
    talk.ask(&Call::post(all, &json!({"metadata": {"name": name}})))
        .await;
    talk.ask(&Call::post(&ours, &postgres("p"))).await;
    talk.ask(&Call::post(&format!("{one}/secrets"), &secret("s")))
        .await;
    let held = with(
        config_map("held"),
        "metadata.finalizers",
        json!(["example.com/hold"]),
    );
    talk.ask(&Call::post(&inside, &held)).await;
    talk.step("delete", Call::delete(&one)).await;
    talk.step("create in it", Call::post(&inside, &config_map("late")))
        .await;
    talk.step("create ours in it", Call::post(&ours, &postgres("late")))
        .await;
    talk.until(&Call::get(&format!("{one}/secrets/s")), |answer| {
        answer.code == 404
    })
    .await;
    talk.until(&Call::get(&format!("{ours}/p")), |answer| {
        answer.code == 404
    })
    .await;
    let told = |answer: &kubedb_contract::talk::Answer| {
        let conditions = answer.body["status"]["conditions"].as_array();
        conditions
            .into_iter()
            .flatten()
            .any(|one| one["type"] == "NamespaceFinalizersRemaining" && one["status"] == "True")
    };
    talk.until(&Call::get(&one), told).await;
    talk.step_of("why it waits", Call::get(&one), |body| {
        let mut body = body.clone();
        if let Some(metadata) = body["metadata"].as_object_mut() {
            metadata.remove("resourceVersion");
        }
        body
    })
    .await;
    let none = json!({"metadata": {"finalizers": null}});
    talk.ask(&Call::patch(&format!("{inside}/held"), "merge", &none))
        .await;
    talk.until(&Call::get(&one), |answer| answer.code == 404)
        .await;
    talk.step("gone", Call::get(&one)).await;
}
