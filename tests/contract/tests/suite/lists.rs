//! Lists: in pages, selected, as tables, as of a version.

use kubedb_contract::talk::{Answer, Call, Talk};
use serde_json::{Value, json};

use crate::things::{config_map, postgres, secret, with};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const METADATA: &str =
    "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json";
const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json";

fn names(body: &Value) -> Vec<String> {
    let items = body["items"].as_array().into_iter().flatten();
    items
        .map(|item| item["metadata"]["name"].as_str().unwrap_or("?").to_owned())
        .collect()
}

pub(crate) async fn pages(talk: &mut Talk) {
    let maps = talk.core("configmaps");
    for index in 0..5 {
        let mut map = config_map(&format!("m{index}"));
        map["metadata"]["labels"] = json!({"odd": (index % 2).to_string()});
        talk.ask(&Call::post(&maps, &map)).await;
    }
    let summary = |body: &Value| {
        json!({"kind": body["kind"], "apiVersion": body["apiVersion"], "names": names(body),
            "remaining": body["metadata"]["remainingItemCount"], "goes on": !body["metadata"]["continue"].is_null()})
    };
    let first = talk
        .step_of(
            "the first page",
            Call::get(&format!("{maps}?limit=2")),
            summary,
        )
        .await;
    talk.ask(&Call::post(&maps, &config_map("m05"))).await;
    talk.ask(&Call::delete(&format!("{maps}/m3"))).await;
    let token = |answer: &Answer| {
        answer.body["metadata"]["continue"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let next =
        |token: &str, rest: &str| Call::get(&format!("{maps}?limit=2&continue={token}{rest}"));
    talk.normaliser.alias(&token(&first), "<token 1>");
    let second = talk
        .step_of(
            "the second page, as of the first",
            next(&token(&first), ""),
            summary,
        )
        .await;
    assert_eq!(first.version(), second.version());
    talk.normaliser.alias(&token(&second), "<token 2>");
    talk.step_of("the last page", next(&token(&second), ""), summary)
        .await;
    talk.step_of("without pages", Call::get(&maps), summary)
        .await;
    talk.step_of(
        "selected pages",
        Call::get(&format!("{maps}?limit=1&labelSelector=odd%3D0")),
        summary,
    )
    .await;
    talk.step(
        "a token beside a version",
        next(&token(&first), "&resourceVersion=1"),
    )
    .await;
    talk.step_of("a token that is none", next("rubbish", ""), |body| {
        let message = body["message"].as_str().unwrap_or_default();
        let known = "invalid continue token: continue key is not valid";
        json!({"code": body["code"], "reason": body["reason"], "known": message.starts_with(known)})
    })
    .await;
    talk.step(
        "a limit that is none",
        Call::get(&format!("{maps}?limit=many")),
    )
    .await;
    talk.step_of(
        "a negative limit",
        Call::get(&format!("{maps}?limit=-1")),
        summary,
    )
    .await;
    talk.step_of(
        "an empty limit",
        Call::get(&format!("{maps}?limit=")),
        summary,
    )
    .await;
    talk.step("an empty list", Call::get(&talk.core("secrets")))
        .await;
    talk.step(
        "an empty list of ours",
        Call::get(&talk.kubedb("postgreses")),
    )
    .await;
}

pub(crate) async fn selectors(talk: &mut Talk) {
    let secrets = talk.core("secrets");
    for (name, labels, kind) in [
        ("a", json!({"app": "x", "n": "1"}), "Opaque"),
        ("b", json!({"app": "y", "n": "2"}), "example.com/t"),
        ("c", json!({"n": "30"}), "Opaque"),
        ("d", Value::Null, "Opaque"),
    ] {
        let body = with(
            with(secret(name), "metadata.labels", labels),
            "type",
            json!(kind),
        );
        talk.ask(&Call::post(&secrets, &body)).await;
    }
    talk.ask(&Call::post(&talk.kubedb("postgreses"), &postgres("p")))
        .await;
    let mut found = Vec::new();
    for selector in [
        "app=x",
        "app==x",
        "app!=x",
        "app",
        "!app",
        "app in (x,y)",
        "app notin (x)",
        "app in (x), n=1",
        "n>1",
        "n<3",
        "n>1,app",
        "app=",
        "",
        "app in ()",
        " app = x ",
    ] {
        let query = selector
            .replace(' ', "%20")
            .replace('=', "%3D")
            .replace('>', "%3E")
            .replace('<', "%3C");
        let answer = talk
            .ask(&Call::get(&format!("{secrets}?labelSelector={query}")))
            .await;
        found.push(json!({"selector": selector, "code": answer.code.as_u16(), "names": names(&answer.body)}));
    }
    talk.note("labels", &found.into());
    let mut found = Vec::new();
    let ours = talk.kubedb("postgreses");
    let namespace = talk.namespace.clone();
    let in_namespace = format!("metadata.namespace={namespace}");
    for (path, selector) in [
        (&secrets, "metadata.name=a"),
        (&secrets, "metadata.name!=a"),
        (&secrets, "metadata.name=a,type=Opaque"),
        (&secrets, "type!=Opaque"),
        (&secrets, in_namespace.as_str()),
        (&secrets, "metadata.name=none"),
        (&ours, "metadata.name=p"),
        (&ours, "metadata.name=q"),
        (&ours, in_namespace.as_str()),
    ] {
        let query = selector.replace('=', "%3D");
        let answer = talk
            .ask(&Call::get(&format!("{path}?fieldSelector={query}")))
            .await;
        found.push(json!({"selector": selector, "code": answer.code.as_u16(), "names": names(&answer.body)}));
    }
    talk.note("fields", &found.into());
    for (title, path, query) in [
        ("an unknown field", &secrets, "fieldSelector=spec.x%3D1"),
        (
            "an unknown field of ours",
            &ours,
            "fieldSelector=spec.replicas%3D1",
        ),
        ("no requirement", &secrets, "fieldSelector=nonsense"),
        ("a broken label", &secrets, "labelSelector=a%20b"),
        ("a broken set", &secrets, "labelSelector=a%20in%20x"),
        (
            "a label that is none",
            &secrets,
            "labelSelector=a%2Fb%2Fc%3Dd",
        ),
        ("a value that is none", &secrets, "labelSelector=a%3D-"),
        ("a number that is none", &secrets, "labelSelector=a%3Ex"),
    ] {
        // The words of the parser of labels are its own.
        talk.step_of(title, Call::get(&format!("{path}?{query}")), |body| {
            let mut body = body.clone();
            if let Some((begin, _)) = body["message"]
                .as_str()
                .unwrap_or_default()
                .split_once("requirement:")
            {
                body["message"] = begin.trim().into();
            }
            body
        })
        .await;
    }
}

/// Cells that tell an age, and words about columns, which only `kubectl explain` of the definition shows.
fn steady(body: &Value) -> Value {
    let mut body = body.clone();
    let columns = body["columnDefinitions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let ages: Vec<usize> = columns
        .iter()
        .enumerate()
        .filter(|(_, column)| {
            matches!(
                column["name"].as_str(),
                Some("Age" | "Last Seen" | "First Seen")
            )
        })
        .map(|(index, _)| index)
        .collect();
    for row in body["rows"].as_array_mut().into_iter().flatten() {
        for index in &ages {
            row["cells"][*index] = "<age>".into();
        }
    }
    body
}

pub(crate) async fn tables(talk: &mut Talk) {
    let event = json!({"metadata": {"name": "e"}, "reason": "Starting", "message": "text", "type": "Normal", "count": 2,
        "source": {"component": "operator", "host": "h"}, "involvedObject": {"kind": "Postgres", "name": "p",
        "namespace": talk.namespace, "fieldPath": "spec.x"}, "firstTimestamp": "2030-01-01T00:00:00Z",
        "lastTimestamp": "2030-01-01T00:00:00Z"});
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}});
    let snapshot = json!({"apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot", "metadata": {"name": "s",
        "labels": {"kubedb.com/kind": "Postgres", "kubedb.com/name": "p"}},
        "spec": {"databaseName": "p", "local": {"hostPath": {"path": "/b"}, "mountPath": "/b"}}});
    let leases = format!(
        "/apis/coordination.k8s.io/v1/namespaces/{}/leases",
        talk.namespace
    );
    for (kind, path, body) in [
        ("secrets", talk.core("secrets"), secret("s")),
        ("configmaps", talk.core("configmaps"), config_map("c")),
        ("events", talk.core("events"), event),
        ("leases", leases, lease),
        ("postgreses", talk.kubedb("postgreses"), postgres("p")),
        ("snapshots", talk.kubedb("snapshots"), snapshot),
    ] {
        let made = talk.ask(&Call::post(&path, &body)).await;
        assert_eq!(made.code, 201, "{}", made.body);
        talk.step_of(kind, Call::get(&path).accept(TABLE), steady)
            .await;
    }
    let ours = talk.kubedb("postgreses");
    let call = |query: &str, accept: &str| Call::get(&format!("{ours}{query}")).accept(accept);
    talk.step_of("one object", call("/p", TABLE), steady).await;
    talk.step_of(
        "whole objects",
        call("?includeObject=Object", TABLE),
        steady,
    )
    .await;
    talk.step_of("no objects", call("?includeObject=None", TABLE), steady)
        .await;
    talk.step("another word", call("?includeObject=Some", TABLE))
        .await;
    talk.step_of("an empty table", call("?labelSelector=none", TABLE), steady)
        .await;
    talk.step("metadata of one", call("/p", METADATA)).await;
    talk.step("metadata of a list", call("", METADATA_LIST))
        .await;
    talk.step_of("a table of the status", call("/p/status", TABLE), steady)
        .await;
    let namespace = format!("/api/v1/namespaces/{}", talk.namespace);
    talk.step_of("a namespace", Call::get(&namespace).accept(TABLE), steady)
        .await;
    let versions =
        "/apis/catalog.kubedb.com/v1alpha1/postgresversions?fieldSelector=metadata.name%3D9.6";
    talk.step_of("a version", Call::get(versions).accept(TABLE), steady)
        .await;
    for (title, accept) in [
        ("YAML", "application/yaml"),
        ("text", "text/plain"),
        ("anything", "*/*"),
        (
            "a table in YAML",
            "application/yaml;as=Table;v=v1;g=meta.k8s.io",
        ),
        (
            "a form that is none",
            "application/json;as=Nothing;v=v1;g=meta.k8s.io",
        ),
        (
            "a form that is none, or JSON",
            "application/json;as=Nothing;v=v1;g=meta.k8s.io,application/json",
        ),
    ] {
        let call = Call::get(&format!("{}/c", talk.core("configmaps"))).accept(accept);
        talk.step_of(title, call, |body| match body {
            Value::String(text) => {
                json!({"lines": text.lines().filter(|line| !line.contains("managed")).count() > 1})
            }
            body => body.clone(),
        })
        .await;
    }
}

pub(crate) async fn versions(talk: &mut Talk) {
    let maps = talk.core("configmaps");
    let first = talk.ask(&Call::post(&maps, &config_map("a"))).await;
    let second = talk.ask(&Call::post(&maps, &config_map("b"))).await;
    talk.normaliser.alias(
        &format!("resourceVersion={}", first.version()),
        "resourceVersion=<first>",
    );
    talk.normaliser.alias(
        &format!("resourceVersion={}", second.version()),
        "resourceVersion=<second>",
    );
    let summary = |body: &Value| json!({"names": names(body), "kind": body["kind"]});
    let at =
        |version: &str, how: &str| Call::get(&format!("{maps}?resourceVersion={version}{how}"));
    talk.step_of(
        "exactly as of the first",
        at(&first.version(), "&resourceVersionMatch=Exact"),
        summary,
    )
    .await;
    talk.step_of(
        "not older than the second",
        at(&second.version(), "&resourceVersionMatch=NotOlderThan"),
        summary,
    )
    .await;
    talk.step_of("of the second", at(&second.version(), ""), summary)
        .await;
    talk.step_of("of any", at("0", ""), summary).await;
    talk.step("exactly any", at("0", "&resourceVersionMatch=Exact"))
        .await;
    talk.step(
        "a match that is none",
        at(&second.version(), "&resourceVersionMatch=Nearly"),
    )
    .await;
    talk.step(
        "a match without a version",
        Call::get(&format!("{maps}?resourceVersionMatch=Exact")),
    )
    .await;
    talk.step("a version that is none", at("nonsense", ""))
        .await;
    talk.step_of(
        "one object not older",
        Call::get(&format!("{maps}/b?resourceVersion={}", second.version())),
        |body| body["metadata"]["name"].clone(),
    )
    .await;
    let future = talk.ask(&at("999999999", "")).await;
    assert_eq!(future.code, 504, "{}", future.body);
    talk.note("a version that is not yet", &json!({"retry-after": future.header("retry-after"), "reason": future.body["reason"],
        "causes": future.body["details"]["causes"], "retryAfterSeconds": future.body["details"]["retryAfterSeconds"]}));
}
