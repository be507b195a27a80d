//! The same engine through kube-rs, which the operator and the agents use.

use std::collections::BTreeSet;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt as _, watcher},
};
use kubedb_api::Postgres;
use kubedb_contract::{engine::User, talk::Talk};
use serde_json::json;

use crate::things::{config_map, postgres};

pub(crate) async fn typed(talk: &mut Talk) {
    let client = talk.engine.client(User::Admin);
    let postgreses: Api<Postgres> = Api::namespaced(client.clone(), &talk.namespace);
    let wanted: Postgres = serde_json::from_value(postgres("p")).unwrap();
    let made = postgreses
        .create(&PostParams::default(), &wanted)
        .await
        .unwrap();
    assert_eq!(made.metadata.generation, Some(1));
    let error = postgreses
        .create(&PostParams::default(), &wanted)
        .await
        .unwrap_err();
    let kube::Error::Api(status) = error else {
        panic!("{error}")
    };
    assert!(status.is_already_exists());
    let patch = Patch::Merge(json!({"status": {"phase": "Running"}}));
    let patched = postgreses
        .patch_status("p", &PatchParams::default(), &patch)
        .await
        .unwrap();
    assert_eq!(patched.metadata.generation, Some(1));
    let stale = postgreses
        .replace("p", &PostParams::default(), &made)
        .await
        .unwrap_err();
    let kube::Error::Api(status) = stale else {
        panic!("{stale}")
    };
    assert!(status.is_conflict());
    let deleted = postgreses
        .delete("p", &DeleteParams::default())
        .await
        .unwrap();
    assert!(deleted.is_right(), "nothing holds it");
    assert!(postgreses.get_opt("p").await.unwrap().is_none());

    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &talk.namespace);
    for index in 0..7 {
        let map: ConfigMap = serde_json::from_value(config_map(&format!("m{index}"))).unwrap();
        maps.create(&PostParams::default(), &map).await.unwrap();
    }
    let mut seen = BTreeSet::new();
    let mut parameters = ListParams::default().limit(3);
    loop {
        let page = maps.list(&parameters).await.unwrap();
        seen.extend(page.items.iter().map(kube::ResourceExt::name_any));
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => parameters = parameters.continue_token(&token),
            _ => break,
        }
    }
    seen.remove("kube-root-ca.crt");
    assert_eq!(seen.len(), 7, "{seen:?}");
    let namespaces: Api<Namespace> = Api::all(client);
    assert_eq!(
        namespaces.get(&talk.namespace).await.unwrap().name_any(),
        talk.namespace
    );
}

/// kube's watcher in both of its ways: list then watch, and a watch that begins with a list.
pub(crate) async fn reflected(talk: &mut Talk) {
    let client = talk.engine.client(User::Admin);
    let maps: Api<ConfigMap> = Api::namespaced(client, &talk.namespace);
    for (name, config) in [
        ("listed", watcher::Config::default()),
        ("streamed", watcher::Config::default().streaming_lists()),
    ] {
        let map: ConfigMap = serde_json::from_value(config_map(&format!("{name}-before"))).unwrap();
        maps.create(&PostParams::default(), &map).await.unwrap();
        let stream = watcher(maps.clone(), config)
            .default_backoff()
            .applied_objects();
        let mut stream = std::pin::pin!(stream);
        let mut seen = BTreeSet::new();
        let mut created = false;
        let watched = tokio::time::timeout(std::time::Duration::from_secs(20), async {
            while let Some(map) = stream.try_next().await.unwrap() {
                seen.insert(map.name_any());
                if !created {
                    let map: ConfigMap =
                        serde_json::from_value(config_map(&format!("{name}-after"))).unwrap();
                    maps.create(&PostParams::default(), &map).await.unwrap();
                    created = true;
                }
                if seen.contains(&format!("{name}-after"))
                    && seen.contains(&format!("{name}-before"))
                {
                    return;
                }
            }
        });
        watched
            .await
            .unwrap_or_else(|_| panic!("{name}: the watcher saw only part of it"));
        drop(stream.next());
    }
}
