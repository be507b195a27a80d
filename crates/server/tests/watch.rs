//! Watches, through `kube::Client` in memory.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::{Client, ResourceExt};
use kubedb_server::ApiServer;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    client: Client,
    _server: ApiServer,
    _folder: tempfile::TempDir,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let server = ApiServer::open(&folder.path().join("kubedb.sqlite")).unwrap();
    World {
        client: server.client(),
        _server: server,
        _folder: folder,
    }
}

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn map(metadata: Value) -> ConfigMap {
    object(json!({ "metadata": metadata }))
}

async fn next<T: std::fmt::Debug>(
    events: &mut (impl Stream<Item = Result<WatchEvent<T>, kube::Error>> + Unpin),
) -> WatchEvent<T> {
    let event = tokio::time::timeout(PATIENCE, events.next()).await;
    event.expect("an event").expect("no end").expect("no error")
}

fn described(event: WatchEvent<ConfigMap>) -> String {
    match event {
        WatchEvent::Added(map) => format!("+{}", map.name_any()),
        WatchEvent::Modified(map) => format!("~{}", map.name_any()),
        WatchEvent::Deleted(map) => format!("-{}", map.name_any()),
        WatchEvent::Bookmark(_) => "bookmark".to_owned(),
        WatchEvent::Error(error) => format!("error {}", error.code),
    }
}

#[tokio::test]
async fn a_watch_resumes_and_follows_its_selector() {
    let world = world();
    let api: Api<ConfigMap> = Api::default_namespaced(world.client.clone());
    let post = PostParams::default();
    let start = api
        .list(&ListParams::default())
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap();
    for name in ["a", "b"] {
        api.create(&post, &map(json!({"name": name, "labels": {"app": "x"}})))
            .await
            .unwrap();
    }
    let wanted = WatchParams::default().labels("app=x").timeout(30);
    let mut resumed = Box::pin(api.watch(&wanted, &start).await.unwrap());
    let mut fresh = Box::pin(api.watch(&wanted, "0").await.unwrap());
    for events in [&mut resumed, &mut fresh] {
        assert_eq!(described(next(events).await), "+a");
        assert_eq!(described(next(events).await), "+b");
    }
    let leave = Patch::Merge(json!({"metadata": {"labels": {"app": "y"}}}));
    api.patch("a", &PatchParams::default(), &leave)
        .await
        .unwrap();
    let change = Patch::Merge(json!({"data": {"k": "v"}}));
    api.patch("a", &PatchParams::default(), &change)
        .await
        .unwrap();
    api.patch("b", &PatchParams::default(), &change)
        .await
        .unwrap();
    let back = Patch::Merge(json!({"metadata": {"labels": {"app": "x"}}}));
    api.patch("a", &PatchParams::default(), &back)
        .await
        .unwrap();
    api.delete("b", &DeleteParams::default()).await.unwrap();
    for events in [&mut resumed, &mut fresh] {
        for wanted in ["-a", "~b", "+a", "-b"] {
            assert_eq!(described(next(events).await), wanted);
        }
    }
}

#[tokio::test]
async fn a_watch_ends_in_time_with_a_bookmark() {
    let world = world();
    let api: Api<ConfigMap> = Api::default_namespaced(world.client.clone());
    let start = api
        .list(&ListParams::default())
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap();
    let secrets: Api<Secret> = Api::default_namespaced(world.client.clone());
    let elsewhere = secrets
        .create(
            &PostParams::default(),
            &object(json!({"metadata": {"name": "s"}})),
        )
        .await
        .unwrap();
    let mut events = Box::pin(
        api.watch(&WatchParams::default().timeout(1), &start)
            .await
            .unwrap(),
    );
    match next(&mut events).await {
        WatchEvent::Bookmark(bookmark) => {
            assert_eq!(
                Some(bookmark.metadata.resource_version),
                elsewhere.resource_version()
            );
        }
        other => panic!("{other:?}"),
    }
    let end = tokio::time::timeout(PATIENCE, events.next())
        .await
        .expect("an end");
    assert!(end.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn too_old_a_revision_is_gone() {
    let world = world();
    let api: Api<ConfigMap> = Api::default_namespaced(world.client.clone());
    let first = api
        .create(&PostParams::default(), &map(json!({"name": "m"})))
        .await
        .unwrap();
    let start = first.resource_version().unwrap();
    // One more than the log keeps, each as cheap as a write can be.
    let writers = (0..8).map(|writer| {
        let api = api.clone();
        async move {
            for index in 0..1260 {
                let patch = Patch::Merge(json!({"data": {"k": format!("{writer}-{index}")}}));
                api.patch("m", &PatchParams::default(), &patch)
                    .await
                    .unwrap();
            }
        }
    });
    futures::future::join_all(writers).await;
    let mut events = Box::pin(
        api.watch(&WatchParams::default().timeout(5), &start)
            .await
            .unwrap(),
    );
    match next(&mut events).await {
        WatchEvent::Error(status) => {
            assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
            assert!(
                status.message.starts_with("too old resource version"),
                "{}",
                status.message
            );
        }
        other => panic!("{other:?}"),
    }
    let far = api.watch(&WatchParams::default(), "99999999").await;
    assert!(
        far.err()
            .unwrap()
            .to_string()
            .contains("Too large resource version")
    );
}

#[tokio::test]
async fn the_watcher_of_kube_follows_objects() {
    use kube::runtime::watcher;
    let world = world();
    let api: Api<ConfigMap> = Api::default_namespaced(world.client.clone());
    api.create(&PostParams::default(), &map(json!({"name": "before"})))
        .await
        .unwrap();
    let mut events = Box::pin(watcher(api.clone(), watcher::Config::default()));
    let mut seen = Vec::new();
    for step in 0..5 {
        let event = tokio::time::timeout(PATIENCE, events.next())
            .await
            .expect("an event");
        seen.push(match event.unwrap().unwrap() {
            watcher::Event::Init => "init".to_owned(),
            watcher::Event::InitApply(map) => format!("had {}", map.name_any()),
            watcher::Event::InitDone => "done".to_owned(),
            watcher::Event::Apply(map) => format!("+{}", map.name_any()),
            watcher::Event::Delete(map) => format!("-{}", map.name_any()),
        });
        match step {
            2 => drop(
                api.create(&PostParams::default(), &map(json!({"name": "after"})))
                    .await
                    .unwrap(),
            ),
            3 => drop(
                api.delete("before", &DeleteParams::default())
                    .await
                    .unwrap(),
            ),
            _ => {}
        }
    }
    assert_eq!(seen, ["init", "had before", "done", "+after", "-before"]);
}
