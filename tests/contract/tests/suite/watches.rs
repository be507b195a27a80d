//! Watches: from where, of what, in which form, and how they end.

use kubedb_contract::talk::{Call, Talk};
use serde_json::{Value, json};

use crate::things::{config_map, postgres, with};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

async fn create(talk: &Talk, path: &str, name: &str, label: &str) -> String {
    let body = with(config_map(name), "metadata.labels", json!({"l": label}));
    let made = talk.ask(&Call::post(path, &body)).await;
    assert_eq!(made.code, 201, "{}", made.body);
    made.version()
}

pub(crate) async fn from_a_version(talk: &mut Talk) {
    let maps = talk.core("configmaps");
    let first = create(talk, &maps, "a", "1").await;
    talk.normaliser.alias(
        &format!("resourceVersion={first}"),
        "resourceVersion=<first>",
    );
    create(talk, &maps, "b", "1").await;
    let one = format!("{maps}/b");
    talk.ask(&Call::patch(&one, "merge", &json!({"data": {"a": "2"}})))
        .await;
    let mut watch = talk
        .watch(Call::get(&format!(
            "{maps}?watch=1&resourceVersion={first}"
        )))
        .await;
    watch.change().await;
    watch.change().await;
    // From here on live.
    let held = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    talk.ask(&Call::patch(&one, "merge", &held)).await;
    talk.ask(&Call::patch(&one, "merge", &json!({}))).await;
    talk.ask(&Call::delete(&one)).await;
    talk.ask(&Call::patch(
        &one,
        "merge",
        &json!({"metadata": {"finalizers": null}}),
    ))
    .await;
    for _ in 0..3 {
        watch.change().await;
    }
    talk.note_watch("everything after the first", &watch);
    // A name in the path makes it a read.
    talk.step(
        "a path that names its object",
        Call::get(&format!("{maps}/a?watch=1&resourceVersion=0")),
    )
    .await;
}

pub(crate) async fn from_zero(talk: &mut Talk) {
    let ours = talk.kubedb("postgreses");
    for name in ["a", "b"] {
        talk.ask(&Call::post(&ours, &postgres(name))).await;
    }
    for (title, query) in [
        ("from 0", "&resourceVersion=0"),
        ("from nowhere", ""),
        ("without bookmarks", "&allowWatchBookmarks=false"),
    ] {
        let mut watch = talk
            .watch(Call::get(&format!("{ours}?watch=true{query}")))
            .await;
        watch.change().await;
        watch.change().await;
        talk.ask(&Call::patch(
            &format!("{ours}/a"),
            "merge",
            &json!({"metadata": {"labels": {"l": title.replace(' ', "-")}}}),
        ))
        .await;
        let change = watch.change().await;
        assert_eq!(change["type"], "MODIFIED", "{change}");
        talk.note_watch(title, &watch);
    }
    let mut watch = talk
        .watch(Call::get(&format!(
            "{ours}?watch=1&timeoutSeconds=1&resourceVersion=0"
        )))
        .await;
    watch.change().await;
    watch.change().await;
    assert_eq!(
        watch.next_or_end().await,
        None,
        "a watch ends when its time is over"
    );
}

/// What enters a selection is added to it, what leaves it is deleted from it.
pub(crate) async fn selected(talk: &mut Talk) {
    let maps = talk.core("configmaps");
    let begin = create(talk, &maps, "a", "1").await;
    talk.normaliser.alias(
        &format!("resourceVersion={begin}"),
        "resourceVersion=<begin>",
    );
    let mut by_label = talk
        .watch(Call::get(&format!(
            "{maps}?watch=1&labelSelector=l%3D1&resourceVersion={begin}"
        )))
        .await;
    let mut by_name = talk
        .watch(Call::get(&format!(
            "{maps}?watch=1&fieldSelector=metadata.name%3Da&resourceVersion={begin}"
        )))
        .await;
    create(talk, &maps, "b", "2").await;
    let label = |name: &str, value: &str| {
        Call::patch(
            &format!("{maps}/{name}"),
            "merge",
            &json!({"metadata": {"labels": {"l": value}}}),
        )
    };
    for (name, value) in [("b", "1"), ("b", "2"), ("a", "2"), ("a", "1")] {
        talk.ask(&label(name, value)).await;
    }
    talk.ask(&Call::delete(&format!("{maps}/b"))).await;
    talk.ask(&Call::delete(&format!("{maps}/a"))).await;
    for _ in 0..5 {
        by_label.change().await;
    }
    for _ in 0..3 {
        by_name.change().await;
    }
    talk.note_watch("by label", &by_label);
    talk.note_watch("by name", &by_name);
}

pub(crate) async fn tables(talk: &mut Talk) {
    let ours = talk.kubedb("postgreses");
    talk.ask(&Call::post(&ours, &postgres("a"))).await;
    let mut watch = talk
        .watch(Call::get(&format!("{ours}?watch=1")).accept(TABLE))
        .await;
    watch.change().await;
    let status = json!({"status": {"phase": "Running"}});
    talk.ask(&Call::patch(&format!("{ours}/a/status"), "merge", &status))
        .await;
    watch.change().await;
    talk.ask(&Call::delete(&format!("{ours}/a"))).await;
    watch.change().await;
    watch.blur_ages();
    talk.note_watch("rows", &watch);
    let metadata = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    talk.ask(&Call::post(&ours, &postgres("b"))).await;
    let mut watch = talk
        .watch(Call::get(&format!("{ours}?watch=1")).accept(metadata))
        .await;
    watch.change().await;
    talk.note_watch("metadata", &watch);
}

/// A list as a watch: what newer clients ask for first.
pub(crate) async fn initial_events(talk: &mut Talk) {
    for path in [talk.core("configmaps"), talk.kubedb("postgreses")] {
        let ours = path.contains("kubedb");
        let kind = if ours { "ours" } else { "core" };
        let body = |name: &str| {
            if ours {
                postgres(name)
            } else {
                config_map(name)
            }
        };
        talk.ask(&Call::post(&path, &body("a"))).await;
        talk.ask(&Call::post(&path, &body("b"))).await;
        let query = "watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
        let mut watch = talk.watch(Call::get(&format!("{path}?{query}"))).await;
        for _ in 0..3 {
            watch.next().await;
        }
        talk.ask(&Call::delete(&format!("{path}/a"))).await;
        watch.change().await;
        watch.blur_bookmarks();
        talk.note_watch(&format!("{kind}: a list, then changes"), &watch);
        let mut watch = talk
            .watch(Call::get(&format!("{path}?{query}&labelSelector=none")))
            .await;
        watch.next().await;
        watch.blur_bookmarks();
        talk.note_watch(&format!("{kind}: an empty list"), &watch);
        let table = Call::get(&format!("{path}?{query}")).accept(TABLE);
        let mut watch = talk.watch(table).await;
        watch.next().await;
        watch.next().await;
        watch.blur_ages();
        watch.blur_bookmarks();
        talk.note_watch(&format!("{kind}: a table"), &watch);
        for (title, query) in [
            (
                "without a match",
                "watch=1&sendInitialEvents=true&allowWatchBookmarks=true",
            ),
            (
                "exactly",
                "watch=1&sendInitialEvents=true&resourceVersionMatch=Exact&resourceVersion=5",
            ),
            (
                "a match without it",
                "watch=1&resourceVersionMatch=NotOlderThan&resourceVersion=5",
            ),
            (
                "not in a list",
                "sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
            ),
        ] {
            talk.step(
                &format!("{kind}: {title}"),
                Call::get(&format!("{path}?{query}")),
            )
            .await;
        }
        let version = talk.ask(&Call::post(&path, &body("c"))).await.version();
        talk.normaliser.alias(
            &format!("resourceVersion={version}"),
            "resourceVersion=<then>",
        );
        let query = format!(
            "watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion={version}"
        );
        talk.ask(&Call::post(&path, &body("d"))).await;
        let mut watch = talk.watch(Call::get(&format!("{path}?{query}"))).await;
        watch.change().await;
        talk.note_watch(&format!("{kind}: no list"), &watch);
    }
}

pub(crate) async fn expired(talk: &mut Talk) {
    let maps = talk.core("configmaps");
    create(talk, &maps, "a", "1").await;
    let nonsense = Call::get(&format!("{maps}?watch=1&resourceVersion=nonsense"));
    talk.step("a version that is none", nonsense).await;
    let timeout = Call::get(&format!("{maps}?watch=1&timeoutSeconds=soon"));
    talk.step("a time that is none", timeout).await;
    let selector = Call::get(&format!("{maps}?watch=1&fieldSelector=spec.x%3D1"));
    talk.step("a selector that is none", selector).await;
    talk.step(
        "an absent path",
        Call::get(&format!("{}?watch=1", talk.core("nothings"))),
    )
    .await;
}

/// Watches that may end without a bookmark, each of five seconds.
const MOST_WATCHES: usize = 12;

pub(crate) async fn bookmarks(talk: &mut Talk) {
    let maps = talk.core("configmaps");
    let version = create(talk, &maps, "a", "1").await;
    talk.normaliser.alias(
        &format!("resourceVersion={version}"),
        "resourceVersion=<then>",
    );
    // The last bookmark comes two seconds before the end. On a busy machine kube-apiserver may miss the moment, which
    // it is free to; then the next watch tells. Longer watches leave no more time: the two seconds are fixed.
    let query = format!(
        "watch=1&allowWatchBookmarks=true&timeoutSeconds=5&fieldSelector=metadata.name%3Da&resourceVersion={version}"
    );
    let mut last = Value::Null;
    for number in 0..MOST_WATCHES {
        let mut watch = talk.watch(Call::get(&format!("{maps}?{query}"))).await;
        // kube-apiserver tells a watch of a version only when it is newer than what the watch was told or spared at its
        // beginning. So something has to happen that it does not select, and no other case can be relied on for that.
        create(talk, &maps, &format!("b{number}"), "1").await;
        while let Some(event) = watch.next_or_end().await {
            last = event;
        }
        if last["type"] == "BOOKMARK" {
            break;
        }
    }
    assert_eq!(last["type"], "BOOKMARK", "{last}");
    let told: u64 = last["object"]["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(told >= version.parse().unwrap(), "{last}");
    talk.note(
        "a bookmark",
        &with(last, "object.metadata.resourceVersion", json!("<now>")),
    );
}
