//! Objects through `kube::Client`, in memory.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Status;
use kube::{Client, ResourceExt};
use kubedb_api::{Postgres, PostgresVersion, Snapshot};
use kubedb_server::ApiServer;
use serde_json::{Value, json};

struct World {
    server: ApiServer,
    client: Client,
    folder: tempfile::TempDir,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let server = ApiServer::open(&folder.path().join("kubedb.sqlite")).unwrap();
    let client = server.client();
    World {
        server,
        client,
        folder,
    }
}

fn postgres(name: &str) -> Postgres {
    serde_json::from_value(json!({
        "apiVersion": "kubedb.com/v1alpha1", "kind": "Postgres", "metadata": {"name": name},
        "spec": {"version": 9.6, "storage": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "50Mi"}}}},
    }))
    .unwrap()
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name.to_owned());
    map.data = Some(BTreeMap::from([("key".to_owned(), value.to_owned())]));
    map
}

fn refusal<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> Status {
    match result.unwrap_err() {
        kube::Error::Api(status) => {
            serde_json::from_value(serde_json::to_value(*status).unwrap()).unwrap()
        }
        other => panic!("not an answer of the API: {other:?}"),
    }
}

#[tokio::test]
async fn an_object_lives_and_dies() {
    let world = world();
    let api: Api<Postgres> = Api::default_namespaced(world.client.clone());
    let post = PostParams::default();
    let created = api.create(&post, &postgres("pg")).await.unwrap();
    assert_eq!(created.metadata.generation, Some(1));
    assert_eq!(created.spec.replicas, Some(1), "defaults are filled in");
    assert_eq!(
        created.spec.version.0,
        json!(9.6),
        "the version stays as it was sent"
    );
    assert!(created.uid().is_some() && created.metadata.creation_timestamp.is_some());

    let again = refusal(api.create(&post, &postgres("pg")).await);
    assert_eq!((again.code, again.reason.as_str()), (409, "AlreadyExists"));
    assert_eq!(again.message, "postgreses.kubedb.com \"pg\" already exists");

    let patch = Patch::Merge(json!({"spec": {"doNotPause": true}}));
    let patched = api
        .patch("pg", &PatchParams::default(), &patch)
        .await
        .unwrap();
    assert_eq!(patched.metadata.generation, Some(2));
    let same = api
        .patch("pg", &PatchParams::default(), &patch)
        .await
        .unwrap();
    assert_eq!(
        same.resource_version(),
        patched.resource_version(),
        "no change, no write"
    );

    let stale = refusal(api.replace("pg", &post, &created).await);
    assert_eq!((stale.code, stale.reason.as_str()), (409, "Conflict"));
    assert_eq!(
        stale.message,
        "Operation cannot be fulfilled on postgreses.kubedb.com \"pg\": the object has been modified; \
         please apply your changes to the latest version and try again"
    );

    let locked = refusal(api.delete("pg", &DeleteParams::default()).await);
    assert_eq!(locked.code, 403);
    assert!(
        locked.message.starts_with(
            "admission webhook \"postgres.validators.kubedb.com\" denied the request: postgres \"pg\" can't be paused."
        ),
        "{}",
        locked.message
    );
    let patch = Patch::Merge(json!({"spec": {"doNotPause": null}}));
    api.patch("pg", &PatchParams::default(), &patch)
        .await
        .unwrap();
    let other = DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some("another".to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    assert_eq!(refusal(api.delete("pg", &other).await).code, 409);
    assert!(
        api.delete("pg", &DeleteParams::default())
            .await
            .unwrap()
            .is_right()
    );
    let gone = refusal(api.get("pg").await);
    assert_eq!(
        (gone.code, gone.message.as_str()),
        (404, "postgreses.kubedb.com \"pg\" not found")
    );
}

#[tokio::test]
async fn status_and_spec_do_not_touch_each_other() {
    let world = world();
    let api: Api<Postgres> = Api::default_namespaced(world.client.clone());
    let mut sent = postgres("pg");
    sent.status = Some(serde_json::from_value(json!({"phase": "Running"})).unwrap());
    let created = api.create(&PostParams::default(), &sent).await.unwrap();
    assert!(created.status.is_none(), "a new object has no status");

    let patch = Patch::Merge(json!({
        "metadata": {"labels": {"x": "y"}}, "spec": {"replicas": 5}, "status": {"phase": "Running"},
    }));
    let patched = api
        .patch_status("pg", &PatchParams::default(), &patch)
        .await
        .unwrap();
    assert_eq!(patched.spec.replicas, Some(1));
    assert!(patched.labels().is_empty());
    assert_eq!(
        patched.metadata.generation,
        Some(1),
        "status does not count"
    );
    let main = Patch::Merge(json!({"status": {"phase": "Failed"}}));
    let main = api
        .patch("pg", &PatchParams::default(), &main)
        .await
        .unwrap();
    assert_eq!(
        serde_json::to_value(main.status.unwrap()).unwrap()["phase"],
        "Running"
    );
}

#[tokio::test]
async fn refusals_name_the_field() {
    let world = world();
    let api: Api<Postgres> = Api::default_namespaced(world.client.clone());
    let mut wrong = postgres("pg");
    wrong.spec.version.0 = json!("1.2.3");
    let refused = refusal(api.create(&PostParams::default(), &wrong).await);
    assert_eq!((refused.code, refused.reason.as_str()), (422, "Invalid"));
    assert!(
        refused.message.starts_with(
            "Postgres.kubedb.com \"pg\" is invalid: spec.version: KubeDB doesn't support Postgres version: 1.2.3"
        ),
        "{}",
        refused.message
    );
    let mut named = postgres("Not_A_Name");
    named.spec.version.0 = json!("9.6");
    assert_eq!(
        refusal(api.create(&PostParams::default(), &named).await).code,
        422
    );
    let elsewhere: Api<Postgres> = Api::namespaced(world.client.clone(), "nowhere");
    let refused = refusal(
        elsewhere
            .create(&PostParams::default(), &postgres("pg"))
            .await,
    );
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (404, "namespaces \"nowhere\" not found")
    );
    let snapshots: Api<Snapshot> = Api::default_namespaced(world.client.clone());
    let orphan: Snapshot = serde_json::from_value(json!({
        "apiVersion": "kubedb.com/v1alpha1", "kind": "Snapshot", "metadata": {"name": "s"},
        "spec": {"databaseName": "absent", "storageSecretName": "s", "gcs": {"bucket": "b"}},
    }))
    .unwrap();
    let refused = refusal(snapshots.create(&PostParams::default(), &orphan).await);
    assert_eq!(refused.code, 403);
    assert!(
        refused
            .message
            .contains("postgreses.kubedb.com \"absent\" not found"),
        "{}",
        refused.message
    );
}

#[tokio::test]
async fn lists_come_in_pages_of_one_moment() {
    let world = world();
    let api: Api<ConfigMap> = Api::default_namespaced(world.client.clone());
    for index in 0..5 {
        let map = config_map(&format!("m{index}"), "old");
        api.create(&PostParams::default(), &map).await.unwrap();
    }
    let first = api.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!(first.items.len(), 2);
    assert_eq!(first.metadata.remaining_item_count, Some(3));
    api.delete("m2", &DeleteParams::default()).await.unwrap();
    let patch = Patch::Merge(json!({"data": {"key": "new"}}));
    api.patch("m3", &PatchParams::default(), &patch)
        .await
        .unwrap();
    api.create(&PostParams::default(), &config_map("m9", "late"))
        .await
        .unwrap();
    let token = first.metadata.continue_.unwrap();
    let rest = api
        .list(&ListParams::default().continue_token(&token))
        .await
        .unwrap();
    let seen: Vec<(String, String)> = rest
        .items
        .iter()
        .map(|map| (map.name_any(), map.data.as_ref().unwrap()["key"].clone()))
        .collect();
    let wanted = ["m2", "m3", "m4"].map(|name| (name.to_owned(), "old".to_owned()));
    assert_eq!(
        seen, wanted,
        "the second page shows the moment of the first"
    );
}

// Clients end in a task of the runtime, which must run while the file is opened again.
#[tokio::test(flavor = "multi_thread")]
async fn everything_is_there_after_reopening_and_revisions_go_on() {
    let World {
        server,
        client,
        folder,
    } = world();
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let kept = maps
        .create(&PostParams::default(), &config_map("kept", "v"))
        .await
        .unwrap();
    maps.create(&PostParams::default(), &config_map("gone", "v"))
        .await
        .unwrap();
    maps.delete("gone", &DeleteParams::default()).await.unwrap();
    let last: u64 = maps
        .list(&ListParams::default())
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap()
        .parse()
        .unwrap();
    drop((maps, client, server));

    let server = ApiServer::open(&folder.path().join("kubedb.sqlite")).unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    let again = maps.get("kept").await.unwrap();
    assert_eq!(again, kept);
    assert!(maps.get_opt("gone").await.unwrap().is_none());
    let next = maps
        .create(&PostParams::default(), &config_map("next", "v"))
        .await
        .unwrap();
    assert_eq!(
        next.resource_version().unwrap().parse::<u64>().unwrap(),
        last + 1
    );
    let versions: Api<PostgresVersion> = Api::all(server.client());
    assert_eq!(
        versions
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        kubedb_api::catalogue::built_in().len()
    );
}

#[tokio::test]
async fn one_file_has_one_server() {
    let world = world();
    let second = ApiServer::open(&world.folder.path().join("kubedb.sqlite"));
    assert!(
        second
            .unwrap_err()
            .to_string()
            .ends_with("another server uses it")
    );
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(world.folder.path().join("kubedb.sqlite"))
            .unwrap()
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    drop(world.server);
}

#[tokio::test]
async fn core_kinds_have_their_manners() {
    let world = world();
    let secrets: Api<Secret> = Api::default_namespaced(world.client.clone());
    let secret: Secret = serde_json::from_value(json!({
        "metadata": {"generateName": "s-"}, "stringData": {"password": "p"},
    }))
    .unwrap();
    let created = secrets
        .create(&PostParams::default(), &secret)
        .await
        .unwrap();
    assert!(created.name_any().starts_with("s-") && created.name_any().len() == 7);
    assert_eq!(created.data.unwrap()["password"].0, b"p");
    assert_eq!(created.type_.as_deref(), Some("Opaque"));
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    let protected = refusal(namespaces.delete("default", &DeleteParams::default()).await);
    assert_eq!(
        (protected.code, protected.message.as_str()),
        (
            403,
            "namespaces \"default\" is forbidden: this namespace may not be deleted"
        )
    );
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    secrets
        .create(
            &dry,
            &serde_json::from_value(json!({"metadata": {"name": "dry"}})).unwrap(),
        )
        .await
        .unwrap();
    assert!(secrets.get_opt("dry").await.unwrap().is_none());
    let apply = PatchParams::apply("test");
    let patch: Patch<Value> = Patch::Apply(json!({"apiVersion": "v1", "kind": "Secret"}));
    assert_eq!(refusal(secrets.patch("s", &apply, &patch).await).code, 415);
}
