//! Finalizers, owners and namespaces, through `kube::Client` in memory.

#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Secret};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use kubedb_api::Postgres;
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

async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain: {what}");
}

#[tokio::test]
async fn finalizers_hold_an_object_and_no_new_ones_come() {
    let world = world();
    let api: Api<ConfigMap> = Api::default_namespaced(world.client.clone());
    let post = PostParams::default();
    let held = map(json!({"name": "held", "finalizers": ["kubedb.com/hold"]}));
    api.create(&post, &held).await.unwrap();
    let answer = api.delete("held", &DeleteParams::default()).await.unwrap();
    assert!(answer.left().unwrap().metadata.deletion_timestamp.is_some());
    let more =
        Patch::Merge(json!({"metadata": {"finalizers": ["kubedb.com/hold", "another.org/x"]}}));
    let refused = api
        .patch("held", &PatchParams::default(), &more)
        .await
        .unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("no new finalizers can be added"),
        "{refused}"
    );
    let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    api.patch("held", &PatchParams::default(), &none)
        .await
        .unwrap();
    assert!(api.get_opt("held").await.unwrap().is_none());
}

#[tokio::test]
async fn what_nobody_owns_goes() {
    let world = world();
    let api: Api<ConfigMap> = Api::default_namespaced(world.client.clone());
    let post = PostParams::default();
    let mut owners = Vec::new();
    for name in ["a", "b"] {
        let owner = api
            .create(&post, &map(json!({ "name": name })))
            .await
            .unwrap();
        owners.push(
            json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": owner.uid()}),
        );
    }
    let one = json!({"name": "one", "ownerReferences": [owners[0]]});
    let one = api.create(&post, &map(one)).await.unwrap();
    let of_one = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "one", "uid": one.uid()});
    api.create(
        &post,
        &map(json!({"name": "chained", "ownerReferences": [of_one]})),
    )
    .await
    .unwrap();
    api.create(
        &post,
        &map(json!({"name": "both", "ownerReferences": owners})),
    )
    .await
    .unwrap();
    api.delete("a", &DeleteParams::default()).await.unwrap();
    until("dependents are gone", async || {
        api.get_opt("one").await.unwrap().is_none()
    })
    .await;
    until("their dependents too", async || {
        api.get_opt("chained").await.unwrap().is_none()
    })
    .await;
    until("a gone owner is forgotten", async || {
        api.get("both").await.unwrap().owner_references().len() == 1
    })
    .await;
}

#[tokio::test]
async fn foreground_waits_and_orphan_lets_live() {
    let world = world();
    let api: Api<ConfigMap> = Api::default_namespaced(world.client.clone());
    let post = PostParams::default();
    for (owner, child) in [("f", "f-child"), ("o", "o-child")] {
        let made = api
            .create(&post, &map(json!({ "name": owner })))
            .await
            .unwrap();
        let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": made.uid(),
            "blockOwnerDeletion": true});
        let child = json!({"name": child, "ownerReferences": [reference], "finalizers": ["kubedb.com/hold"]});
        api.create(&post, &map(child)).await.unwrap();
    }
    api.delete("f", &DeleteParams::foreground()).await.unwrap();
    until("the child is asked to go", async || {
        api.get("f-child")
            .await
            .unwrap()
            .metadata
            .deletion_timestamp
            .is_some()
    })
    .await;
    assert!(
        api.get_opt("f").await.unwrap().is_some(),
        "the owner waits for it"
    );
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    api.patch("f-child", &PatchParams::default(), &free)
        .await
        .unwrap();
    until("then the owner goes", async || {
        api.get_opt("f").await.unwrap().is_none()
    })
    .await;

    api.delete("o", &DeleteParams::orphan()).await.unwrap();
    until("the owner goes", async || {
        api.get_opt("o").await.unwrap().is_none()
    })
    .await;
    let orphan = api.get("o-child").await.unwrap();
    assert!(orphan.owner_references().is_empty() && orphan.metadata.deletion_timestamp.is_none());
}

#[tokio::test]
async fn a_namespace_takes_its_content_with_it() {
    let world = world();
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    let post = PostParams::default();
    namespaces
        .create(&post, &object(json!({"metadata": {"name": "demo"}})))
        .await
        .unwrap();
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), "demo");
    secrets
        .create(&post, &object(json!({"metadata": {"name": "s"}})))
        .await
        .unwrap();
    let postgreses: Api<Postgres> = Api::namespaced(world.client.clone(), "demo");
    let postgres = object(
        json!({"apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres",
        "metadata": {"name": "pg", "finalizers": ["kubedb.com"]},
        "spec": {"version": "9.6", "doNotPause": true,
            "storage": {"resources": {"requests": {"storage": "50Mi"}}}}}),
    );
    postgreses.create(&post, &postgres).await.unwrap();
    namespaces
        .delete("demo", &DeleteParams::default())
        .await
        .unwrap();
    until("the secret is gone", async || {
        secrets.get_opt("s").await.unwrap().is_none()
    })
    .await;
    until("the namespace says what holds it", async || {
        let status = serde_json::to_value(namespaces.get("demo").await.unwrap().status).unwrap();
        status["phase"] == "Terminating"
            && status["conditions"][2]["message"]
                .as_str()
                .is_some_and(|text| text.contains("can't be paused"))
    })
    .await;
    let late = secrets
        .create(&post, &object(json!({"metadata": {"name": "late"}})))
        .await
        .unwrap_err();
    assert!(
        late.to_string().contains(
            "secrets \"late\" is forbidden: unable to create new content in namespace demo because it is being terminated"
        ),
        "{late}"
    );
    let unlock = Patch::Merge(json!({"spec": {"doNotPause": null}}));
    postgreses
        .patch("pg", &PatchParams::default(), &unlock)
        .await
        .unwrap();
    until("the database is asked to go", async || {
        postgreses
            .get("pg")
            .await
            .unwrap()
            .metadata
            .deletion_timestamp
            .is_some()
    })
    .await;
    assert!(
        namespaces.get_opt("demo").await.unwrap().is_some(),
        "its finalizer holds the namespace"
    );
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    postgreses
        .patch("pg", &PatchParams::default(), &free)
        .await
        .unwrap();
    until("the namespace is gone", async || {
        namespaces.get_opt("demo").await.unwrap().is_none()
    })
    .await;
}

#[tokio::test]
async fn events_are_the_same_under_both_groups() {
    let world = world();
    let event: Event = object(
        json!({"metadata": {"name": "e"}, "reason": "Starting", "message": "Backup running",
        "type": "Normal", "involvedObject": {"kind": "Postgres", "name": "pg", "namespace": "default"}}),
    );
    let old: Api<Event> = Api::default_namespaced(world.client.clone());
    old.create(&PostParams::default(), &event).await.unwrap();
    let new: Api<k8s_openapi::api::events::v1::Event> =
        Api::default_namespaced(world.client.clone());
    let seen = new.get("e").await.unwrap();
    assert_eq!(seen.note.as_deref(), Some("Backup running"));
    assert_eq!(seen.regarding.unwrap().name.as_deref(), Some("pg"));
    let patch = Patch::Merge(json!({"message": "Backup done"}));
    old.patch("e", &PatchParams::default(), &patch)
        .await
        .unwrap();
    let seen = new.get("e").await.unwrap();
    assert_eq!(seen.note.as_deref(), Some("Backup done"));
    // In the new form, what was said stays said.
    let patch = Patch::Merge(json!({"note": "Backup undone"}));
    assert!(
        new.patch("e", &PatchParams::default(), &patch)
            .await
            .is_err()
    );
    let about = ListParams::default().fields("involvedObject.name=pg,involvedObject.kind=Postgres");
    assert_eq!(
        old.list(&about).await.unwrap().items[0].message.as_deref(),
        Some("Backup done")
    );
}

// A stricter schema of a later version must not make stored objects immortal.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_can_be_reported_on_and_deleted_whatever_it_holds() {
    let World {
        client,
        _server,
        _folder,
    } = world();
    let file = _folder.path().join("kubedb.sqlite");
    let api: Api<Postgres> = Api::default_namespaced(client.clone());
    let postgres = object(
        json!({"apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres",
        "metadata": {"name": "pg", "finalizers": ["kubedb.com"]},
        "spec": {"version": "9.6", "storage": {"resources": {"requests": {"storage": "50Mi"}}}}}),
    );
    api.create(&PostParams::default(), &postgres).await.unwrap();
    drop((api, client, _server));
    let connection = rusqlite::Connection::open(&file).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    let changed = connection
        .execute(
            "UPDATE objects SET json = json_set(json, '$.spec.replicas', 'many', '$.spec.version', '1') WHERE name = 'pg'",
            [],
        )
        .unwrap();
    assert_eq!(changed, 1);
    drop(connection);

    let server = ApiServer::open(&file).unwrap();
    let resource = kube::core::ApiResource::erase::<Postgres>(&());
    let api: Api<kube::core::DynamicObject> =
        Api::default_namespaced_with(server.client(), &resource);
    let params = PatchParams::default();
    let status = Patch::Merge(json!({"status": {"phase": "Failed"}}));
    api.patch_status("pg", &params, &status).await.unwrap();
    let worse = Patch::Merge(json!({"spec": {"replicas": "more"}}));
    assert!(api.patch("pg", &params, &worse).await.is_err());
    api.delete("pg", &DeleteParams::default()).await.unwrap();
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    api.patch("pg", &params, &free).await.unwrap();
    assert!(api.get_opt("pg").await.unwrap().is_none());
}
